"""A toy model in the registry, for tests of folders and of the command line; `python cli_toys.py ARGS` is `unmix`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmixcli.models import ARCHITECTURES
from unmixcli.models.base import SeparationModel

RATE = 8000


class Toy(SeparationModel):
    """Vocals are 0.6 of the mixture, the other stem 0.3; a segment of a tenth of a second takes `TOY_DELAY` seconds."""

    sample_rate = RATE
    stems = ("vocals", "other")
    segment_length = RATE // 10
    overlap = 0.0
    has_weights = False
    built = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> Toy:
        Toy.built += 1
        model = cls()
        model.stems = tuple(stems)
        return model

    def forward(self, mixture: Tensor) -> Tensor:
        time.sleep(float(os.environ.get("TOY_DELAY", "0")))
        factors = {"vocals": 0.6, "other": 0.3}
        return torch.stack([factors[stem] * mixture for stem in self.stems], dim=1)


def register() -> None:
    """Put the models "toy" and "twin", which differ in their names only, into the user's registry."""
    ARCHITECTURES["toy"] = f"{__name__}:Toy"
    folder = Path(os.environ["UNMIX_CONFIG"]) / "models"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("toy", "twin"):
        entry = {
            "name": name,
            "architecture": "toy",
            "stems": ["vocals", "other"],
            "sample_rate": RATE,
            "channels": 2,
        }
        (folder / f"{name}.json").write_text(json.dumps(entry))


def song(path: Path, *, seconds: float = 0.5, seed: int = 0, subtype: str = "PCM_16") -> NDArray[np.float64]:
    """Write noise in stereo as an audio file."""
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * RATE), 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, subtype=subtype)
    return samples


if __name__ == "__main__":
    from unmixcli.cli import main

    register()
    main()
