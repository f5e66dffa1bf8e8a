"""Record roformer.npz: small RoFormers with seeded weights, run by the public packages.

Not part of the tests. It needs `audio-separator` 0.47.1 and `msst` 0.1.0, of which only the networks' own files are
imported, and what these need:

    pip install --no-deps audio-separator msst rotary-embedding-torch beartype einops librosa
    python tests/references/record_roformer.py

Weights and mixture follow from seeds (`tests/roformer_toys.py`), so only the outputs are stored. What
`audio-separator` reads from a config but does not use is recorded with `msst`.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parents[1]))
from roformer_toys import CASES, mixture, state_of  # noqa: E402

CLASSES = {"bs_roformer": "BSRoformer", "mel_band_roformer": "MelBandRoformer"}
PLACES = {"audio-separator": "audio_separator.separator.uvr_lib_v5.roformer", "msst": "msst.models.bs_roformer"}


def record(case: str) -> np.ndarray:
    """The public network's output, [1, S, C, T']: T' is a whole number of hops in `audio-separator`."""
    architecture, arguments, package = CASES[case]
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    if package == "msst" and architecture == "mel_band_roformer":
        arguments = {**arguments, "zero_dc": False, "match_input_audio_length": True}
    network = getattr(import_module(f"{PLACES[package]}.{architecture}"), CLASSES[architecture])(**arguments).eval()
    network.load_state_dict(state_of({key: tuple(value.shape) for key, value in network.state_dict().items()}))
    with torch.no_grad():
        output = network(mixture(2 if arguments["stereo"] else 1)).numpy()
    return output if output.ndim == 4 else output[:, None]


if __name__ == "__main__":
    torch.set_num_threads(1)
    outputs = {case: record(case) for case in CASES}
    versions = [f"{package} {version(package)}" for package in PLACES]
    np.savez_compressed(HERE / "roformer.npz", version=", ".join(versions), **outputs)
