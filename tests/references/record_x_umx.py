"""Record x_umx.npz: small X-UMX networks with seeded weights, run by the public package, and norbert's filter on them.

Not part of the tests. It needs `asteroid` 0.7.0 (of which only the file of the network is read) and `norbert`:

    pip install --no-deps asteroid norbert && python tests/references/record_x_umx.py

The network is written for torch before 2.0, whose Fourier transforms gave pairs of real numbers; two functions put
that back. Weights and mixture follow from seeds (`tests/x_umx_toys.py`), so only shapes and outputs are stored.
"""

import importlib
import importlib.util
import sys
import types
from importlib.metadata import version
from pathlib import Path

import norbert
import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from demucs_toys import mixture  # noqa: E402
from x_umx_toys import CASES, state_of  # noqa: E402

stft, istft = torch.stft, torch.istft


def real_stft(*arguments: object, return_complex: bool = False, **options: object) -> torch.Tensor:
    return torch.view_as_real(stft(*arguments, return_complex=True, **options))


def real_istft(spectra: torch.Tensor, **options: object) -> torch.Tensor:
    return istft(torch.view_as_complex(spectra), **options)


class BaseModel(torch.nn.Module):
    def __init__(self, sample_rate: float) -> None:
        super().__init__()


def public_class() -> type[torch.nn.Module]:
    """The network's class without the rest of its package, which wants packages of its own."""
    (folder,) = importlib.util.find_spec("asteroid").submodule_search_locations
    package = types.ModuleType("asteroid.models")
    package.__path__ = [str(Path(folder) / "models")]
    base = types.ModuleType("asteroid.models.base_models")
    base.BaseModel = BaseModel
    sys.modules |= {"asteroid": types.ModuleType("asteroid"), package.__name__: package, base.__name__: base}
    module = importlib.import_module("asteroid.models.x_umx")
    module.torch = types.SimpleNamespace(**{**vars(torch), "stft": real_stft, "istft": real_istft})
    return module.BrokenXUMX


def record(network: torch.nn.Module, heard: torch.Tensor) -> dict[str, np.ndarray]:
    """Outputs [1, S, C, T] without the filter, and with one iteration of norbert's over all frames at once."""
    spectra, waves = network(heard)  # [s, n, b, c, f], [s, b, c, t]
    magnitude, phase = network.encoder(heard)
    x = torch.polar(magnitude.permute(1, 2, 3, 0), phase)[0].permute(2, 1, 0).numpy()  # [n, f, c]
    v = spectra[:, :, 0].permute(1, 3, 2, 0).numpy()  # [n, f, c, s]
    y = norbert.wiener(v.astype(np.float64), x.astype(np.complex128), 1, use_softmask=False)
    filtered = [
        istft(torch.from_numpy(y[..., j]).permute(2, 1, 0), network.in_chan, network.n_hop, window=window.double())
        for j in range(y.shape[-1])
        for window in [torch.hann_window(network.in_chan)]
    ]
    return {
        "niter=0": waves.permute(1, 0, 2, 3).numpy(),
        "niter=1": torch.stack(filtered)[None].float().numpy(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = public_class()
    outputs = {"version": version("asteroid"), "norbert": version("norbert")}
    for case, arguments in CASES.items():
        network = made(**arguments, return_time_signals=True).eval()
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict(state_of(shapes), strict=False)
        outputs[f"{case}/names"] = np.array(sorted(shapes))
        outputs[f"{case}/shapes"] = np.array([" ".join(map(str, shapes[name])) for name in sorted(shapes)])
        with torch.no_grad():
            for options, waves in record(network, mixture(arguments.get("nb_channels", 2), 672)).items():
                outputs[f"{case}/{options}"] = waves
    np.savez_compressed(HERE / "x_umx.npz", **outputs)
