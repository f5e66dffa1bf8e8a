"""Record open_unmix.npz: a small Open-Unmix with seeded weights, run by the public package.

Not part of the tests. It needs `openunmix` 1.3.0, whose import needs torchaudio:

    python tests/references/record_open_unmix.py

The runs named `float64` are made in double precision: in float32 that package adds one to every bin of the mixture
that is exactly zero (its `atan2` edits its argument), which its residual source then holds.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from openunmix.model import OpenUnmix, Separator

SHAPE = {"nfft": 128, "nhop": 32, "max_bin": 50, "hidden_size": 8, "nb_layers": 2, "wiener_win_len": 8}
TARGETS = ("vocals", "drums", "bass")
LENGTH = 690  # 22 frames: three blocks, the last one short


def network(seed: int, channels: int, unidirectional: bool) -> OpenUnmix:
    torch.manual_seed(seed)
    made = OpenUnmix(
        nb_bins=SHAPE["nfft"] // 2 + 1,
        nb_channels=channels,
        hidden_size=SHAPE["hidden_size"],
        nb_layers=SHAPE["nb_layers"],
        max_bin=SHAPE["max_bin"],
        unidirectional=unidirectional,
    )
    with torch.no_grad():
        for norm in (made.bn1, made.bn2, made.bn3):
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.3, 2)
            norm.weight.uniform_(0.3, 2)
            norm.bias.normal_(0, 0.3)
        made.input_mean.uniform_(-3, 0)
        made.input_scale.uniform_(0.05, 0.5)
        made.output_scale.uniform_(0.2, 0.6)
        made.output_mean.uniform_(-0.2, 0.5)
    return made.eval()


def run(networks: dict[str, OpenUnmix], mixture: torch.Tensor, dtype: torch.dtype, **options: object) -> np.ndarray:
    separator = Separator(
        networks,
        n_fft=SHAPE["nfft"],
        n_hop=SHAPE["nhop"],
        nb_channels=mixture.shape[1],
        wiener_win_len=SHAPE["wiener_win_len"],
        **options,
    )
    separator.freeze()
    estimates = separator.to(dtype)(mixture.to(dtype))
    separator.float()
    return estimates.float().numpy()


def main() -> None:
    generator = torch.Generator().manual_seed(1)
    mixture = 0.5 * torch.randn(2, 2, LENGTH, generator=generator)
    stored: dict[str, object] = {"version": version("openunmix"), "torch": torch.__version__, **SHAPE}
    stored |= {"mixture": mixture.numpy(), "targets": TARGETS}
    variants = {"stereo": (2, False), "mono": (1, False), "forward": (2, True)}
    for variant, (channels, unidirectional) in variants.items():
        targets = TARGETS if variant == "stereo" else TARGETS[:2]
        networks = {name: network(i, channels, unidirectional) for i, name in enumerate(targets)}
        for name, made in networks.items():
            for key, tensor in made.state_dict().items():
                stored[f"{variant}/weights/{name}/{key}"] = tensor.numpy().copy()
        one = mixture[:1, :channels]
        for niter in (0, 1, 2) if variant == "stereo" else (1,):
            stored[f"{variant}/niter={niter}"] = run(networks, one, torch.float32, niter=niter)
        if variant == "stereo":
            stored["stereo/niter=1,softmask"] = run(networks, one, torch.float32, niter=1, softmask=True)
            stored["stereo/niter=1,residual"] = run(networks, one, torch.float64, niter=1, residual=True)
    # a mixture that is mono in both channels: in float32 the public filter's determinant is rounding noise
    same = mixture[:1, :1].expand(1, 2, -1)
    networks = {name: network(i, 2, False) for i, name in enumerate(TARGETS)}
    stored["stereo/niter=1,same"] = run(networks, same, torch.float64, niter=1)
    np.savez_compressed(Path(__file__).with_name("open_unmix.npz"), **stored)


if __name__ == "__main__":
    main()
