"""Record what the public package `bytesep` 0.1.1 gives, with narrow networks.

    python tests/references/record_bytesep.py         # writes bytesep.npz beside this file
    python tests/references/record_bytesep.py --full  # compares networks of the published width, prints the difference

Needs `bytesep` 0.1.1 and `torchlibrosa` 0.1.0 (`pip install --no-deps`). Weights are drawn from a seed by name, so that
the tests can draw them again. The package fetches its filters from the network, so files of its format stand in for
them: a rough cosine-modulated design.
"""

from __future__ import annotations

import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import savemat

sys.path.insert(0, str(Path(__file__).parents[1]))
from bytesep_toys import draw

NARROW = {8: 8, 32: 4, 64: 6, 128: 5, 256: 7, 384: 8}
LENGTH = 9003


def filters() -> tuple[np.ndarray, np.ndarray]:
    """Analysis [4, 64] and synthesis [4, 64]."""
    n, k = np.arange(64), np.arange(4)[:, None]
    prototype = np.kaiser(64, 9) * np.sinc((n - 31.5) / 8 * 1.03) / 8
    phase = (2 * k + 1) * np.pi / 8 * (n - 31.5)
    turn = (-1) ** k * np.pi / 4
    return 2 * prototype * np.cos(phase + turn), 2 * prototype * np.cos(phase - turn)


def package(home: Path) -> dict[str, Any]:
    sys.modules["pytorch_lightning"] = types.SimpleNamespace(LightningModule=object)  # type: ignore[assignment]
    Path.home = classmethod(lambda cls: home)  # type: ignore[method-assign,assignment]
    folder = home / "bytesep_data" / "filters"
    folder.mkdir(parents=True)
    analysis, synthesis = filters()
    savemat(folder / "f_4_64.mat", {"f": analysis * 4})
    savemat(folder / "h_4_64.mat", {"h": synthesis})
    import bytesep.models.mobilenet_subbandtime as mobile
    import bytesep.models.resunet_subbandtime as res

    return {"ResUNet143_Subbandtime": res, "MobileNet_Subbandtime": mobile}


def narrow_down(block: Any) -> None:
    """Make a class of the package build itself with fewer channels than it is asked for."""
    original = block.__init__

    def init(self: Any, in_channels: int, out_channels: int, *others: Any, **named: Any) -> None:
        original(self, NARROW[in_channels], NARROW[out_channels], *others, **named)

    block.__init__ = init


def build(module: Any, name: str, narrow: bool) -> torch.nn.Module:
    if narrow:
        for block in [key for key in vars(module) if "EncoderBlock" in key or "DecoderBlock" in key]:
            narrow_down(getattr(module, block))
    model: torch.nn.Module = getattr(module, name)(input_channels=2, output_channels=2, target_sources_num=1)
    if narrow:
        model.after_conv2 = torch.nn.Conv2d(NARROW[32], 32, 1)
        if name.startswith("MobileNet"):  # two blocks that stand alone
            model.after_conv_block1 = module.MobileNetConvBlock(NARROW[32], NARROW[32], (3, 3), "leaky_relu", 0.01)
            model.conv_block7 = module.MobileNetConvBlock(NARROW[64], NARROW[64], (3, 3), "leaky_relu", 0.01)
    return model.eval()


def randomised(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    state = model.state_dict()
    for name in sorted(state):
        if state[name].dtype == torch.float32 and not name.startswith(("stft.", "istft.", "pqmf.")):
            state[name] = torch.from_numpy(draw(name, tuple(state[name].shape), rng)).float()
    model.load_state_dict(state)
    return state


def music(length: int) -> torch.Tensor:
    rng = np.random.default_rng(5)
    t = np.arange(length) / 44100
    left = 0.2 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * 7000 * t) + 0.1 * rng.standard_normal(length)
    stereo = np.stack([left, 0.5 * left + 0.05 * rng.standard_normal(length)])
    return torch.from_numpy(np.round(stereo * 32768) / 32768).float()


def main() -> None:
    full = sys.argv[1:2] == ["--full"]
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as home:
        for seed, (name, module) in enumerate(package(Path(home)).items()):
            model = build(module, name, narrow=not full)
            state = randomised(model.eval(), seed)
            mixture = music(10 * 44100 if full else LENGTH)
            with torch.inference_mode():
                padded = torch.nn.functional.pad(mixture, (0, -mixture.shape[-1] % 4))
                estimate = model({"waveform": padded[None]})["waveform"][0, :, : mixture.shape[-1]]
            if full:
                compare(name, state, mixture, estimate)
                continue
            shapes = {key: list(value.shape) for key, value in state.items() if value.dtype == torch.float32}
            kept = {key: shape for key, shape in shapes.items() if not key.startswith(("stft.", "istft.", "pqmf."))}
            arrays[f"{name}/shapes"] = np.array(json.dumps(kept))
            arrays[f"{name}/mixture"] = (mixture * 32768).numpy().astype(np.int16)
            arrays[f"{name}/estimate"] = estimate.numpy()
            for part in ("ana", "syn"):
                arrays[f"{part}_filter"] = state[f"pqmf.{part}_conv_filter.weight"].numpy()
    if arrays:
        np.savez_compressed(Path(__file__).with_name("bytesep.npz"), **arrays)


def compare(name: str, state: dict[str, torch.Tensor], mixture: torch.Tensor, expected: torch.Tensor) -> None:
    from unmixcli.models.bytesep import ByteSep

    ours = ByteSep.from_config({"model_type": name, "targets": ["vocals"]}, ["vocals"]).eval()
    ours.load_state_dict(ByteSep.convert_state({"model_type": name, "targets": ["vocals"]}, {"checkpoint": state}))
    difference = (ours(mixture[None])[0, 0] - expected).abs().max()
    counted = [t.numel() for n, t in state.items() if not n.startswith(("stft.", "istft."))]
    largest = float(expected.abs().max())
    sys.stdout.write(f"{name}: {sum(counted)} numbers, largest difference {difference:.2e} of {largest:.2f}\n")


if __name__ == "__main__":
    main()
