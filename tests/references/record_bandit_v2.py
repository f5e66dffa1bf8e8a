"""Record bandit_v2.npz: small BandIt v2 networks with seeded weights, run by the public package.

Not part of the tests. It needs `msst` 0.1.0, of which only the network's own files are imported; what these want of
other packages (two formulas of librosa, torchaudio's normalised transform, a base class) stands here:

    pip install --no-deps msst && python tests/references/record_bandit_v2.py

Weights and mixture follow from seeds (`tests/bandit_toys.py`). Stored are outputs, the bands of the published size and
the names and shapes of the tensors.
"""

import importlib
import sys
import types
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from bandit_toys import CASES, state_of  # noqa: E402
from demucs_toys import mixture  # noqa: E402


class Spectrogram(torch.nn.Module):
    """torchaudio's, of which `normalized` divides by the root of the window's energy."""

    def __init__(self, n_fft: int, hop_length: int, normalized: bool, pad_mode: str, **_: Any) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(n_fft))
        self.options = {"n_fft": n_fft, "hop_length": hop_length}
        self.pad_mode = pad_mode
        self.scale = float(self.window.square().sum().sqrt()) if normalized else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        z = torch.stft(flat, **self.options, window=self.window, pad_mode=self.pad_mode, return_complex=True)
        return z.reshape(*x.shape[:-1], *z.shape[-2:]) / self.scale


class InverseSpectrogram(Spectrogram):
    def forward(self, z: torch.Tensor, length: int) -> torch.Tensor:
        flat = z.reshape(-1, *z.shape[-2:]) * self.scale
        x = torch.istft(flat, **self.options, window=self.window, length=length)
        return x.reshape(*z.shape[:-2], -1)


def stand_in(name: str, **attributes: Any) -> None:
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(attributes)
    sys.modules[name] = module


stand_in(
    "librosa",
    hz_to_midi=lambda hz: 12 * (np.log2(np.asanyarray(hz)) - np.log2(440.0)) + 69,
    midi_to_hz=lambda notes: 440.0 * (2.0 ** ((np.asanyarray(notes) - 69.0) / 12.0)),
)
transforms = types.SimpleNamespace(Spectrogram=Spectrogram, InverseSpectrogram=InverseSpectrogram)
stand_in("torchaudio", transforms=transforms, functional=None)
stand_in("pytorch_lightning", LightningModule=torch.nn.Module)


if __name__ == "__main__":
    torch.set_num_threads(1)
    public = importlib.import_module("msst.models.bandit_v2.bandit").Bandit
    specification = importlib.import_module("msst.models.bandit_v2.utils").MusicalBandsplitSpecification
    outputs = {"version": version("msst")}
    outputs["bands"] = np.array(specification(nfft=2048, fs=48000, n_bands=64).get_band_specs())
    for case, arguments in CASES.items():
        network = public(**arguments).eval()
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict(state_of(shapes), strict=False)
        outputs[f"{case}/names"] = np.array(list(shapes))
        outputs[f"{case}/shapes"] = np.array([" ".join(map(str, shape)) for shape in shapes.values()])
        with torch.no_grad():
            outputs[case] = network(mixture()).numpy()
    np.savez_compressed(HERE / "bandit_v2.npz", **outputs)
