"""TDC U-Net against a recorded result of the public code and against a plain NumPy version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unmixcli.checkpoint_read import read_state
from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.tdc_unet import TDCUNet
from unmixcli.segment import cut, make_grid

Values = NDArray[Any]
REFERENCE = np.load(Path(__file__).parent / "references" / "tdc_unet.npz")
CONFIG = {key.removeprefix("config/"): int(REFERENCE[key]) for key in REFERENCE.files if key.startswith("config/")}


def weights() -> dict[str, torch.Tensor]:
    names = [key for key in REFERENCE.files if key.startswith("weights/")]
    return {key.removeprefix("weights/"): torch.from_numpy(REFERENCE[key]) for key in names}


def build(config: dict[str, int], state: dict[str, torch.Tensor]) -> TDCUNet:
    model = TDCUNet.from_config(config, ["vocals"])
    model.load_state_dict(TDCUNet.convert_state(config, {"checkpoint": state}), strict=True)
    return model.eval()


def separate(model: SeparationModel, mixture: torch.Tensor) -> torch.Tensor:
    """A whole track, in segments as the pipeline cuts them."""
    grid = make_grid(
        length=model.segment_length,
        edge=model.edge,
        overlap=model.overlap,
        padding=model.edge_padding,
        fixed=model.fixed_segment,
    )
    parts = [
        model(segment.mixture)[..., segment.offset : segment.offset + segment.used]
        for segment in cut([mixture], grid)
        if segment.mixture is not None
    ]
    return torch.cat(parts, dim=-1)


def test_a_track_equals_the_public_evaluation() -> None:
    # that code pads, cuts, trims and joins as well: so do the attributes that the pipeline reads
    mixture = torch.from_numpy(REFERENCE["mixture"])[None]
    vocals = torch.from_numpy(REFERENCE["vocals"])
    assert vocals.abs().max() > 0.01
    torch.testing.assert_close(separate(build(CONFIG, weights()), mixture)[0, 0], vocals, atol=1e-7, rtol=0)


def _convolve(x: Values, weight: Values, bias: Values, stride: int = 1, padding: int = 0) -> Values:
    """x [c, f], weight [out, in, k]: sums of shifted products, one tap at a time."""
    x = np.pad(x, ((0, 0), (padding, padding)))
    length = (x.shape[1] - weight.shape[2]) // stride + 1
    taps = [weight[:, :, k] @ x[:, k : k + stride * (length - 1) + 1 : stride] for k in range(weight.shape[2])]
    return bias[:, None] + sum(taps)


def _plain_frame(state: dict[str, Values], config: dict[str, int], spectrum: Values) -> Values:
    """One frame, [2, F] complex -> [2, F] complex, layer by layer as the paper has it."""

    def norm(x: Values, name: str) -> Values:
        gain = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + 1e-5)
        return (x - state[f"{name}.running_mean"][:, None]) * gain[:, None] + state[f"{name}.bias"][:, None]

    def block(x: Values, name: str) -> Values:
        for j in range(config["layers_per_block"]):
            layer = f"{name}.H.{j}"
            y = _convolve(x, state[f"{layer}.0.weight"], state[f"{layer}.0.bias"], padding=config["kernel_f"] // 2)
            y = np.maximum(norm(y, f"{layer}.1"), 0)
            x = np.concatenate([y, x])
        return y

    def upsample(x: Values, name: str) -> Values:
        weight = state[f"{name}.conv.weight"]  # [in, out, 2]
        pairs = np.einsum("cf,cok->ofk", x, weight) + state[f"{name}.conv.bias"][:, None, None]
        return norm(pairs.reshape(pairs.shape[0], -1), f"{name}.bn")

    x = np.stack([spectrum[0].real, spectrum[0].imag, spectrum[1].real, spectrum[1].imag])
    x = _convolve(x, state["first_conv.0.weight"][..., 0], state["first_conv.0.bias"])
    x = np.maximum(norm(x, "first_conv.1"), 0)
    skips = []
    for i in range(config["num_blocks"] // 2):
        x = block(x, f"encoders.{i}")
        skips.append(x)
        down = f"downsampling.{i}"
        x = norm(_convolve(x, state[f"{down}.conv.weight"], state[f"{down}.conv.bias"], stride=2), f"{down}.bn")
    x = block(x, "mid_block")
    for i in range(config["num_blocks"] // 2):
        x = block(np.concatenate([upsample(x, f"upsampling.{i}"), skips.pop()]), f"decoders.{i}")
    x = _convolve(x, state["final_conv.0.weight"][..., 0], state["final_conv.0.bias"], padding=1)
    return x[0::2] + 1j * x[1::2]


def _plain(state: dict[str, Values], config: dict[str, int], mixture: Values) -> Values:
    """[2, T] -> [2, T], T a whole number of frames, float64."""
    n_fft, hop = config["n_fft"], config["hop"]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    total, weight = np.zeros(mixture.shape), np.full(mixture.shape[1], 1e-11)
    for start in range(0, mixture.shape[1] - n_fft + 1, hop):
        part = slice(start, start + n_fft)
        spectrum = _plain_frame(state, config, np.fft.rfft(mixture[:, part] * window))
        total[:, part] += np.fft.irfft(spectrum) * window
        weight[part] += window**2
    return total / weight


def test_equals_a_plain_numpy_version() -> None:
    state = {name: tensor.double().numpy() for name, tensor in weights().items()}
    mixture = REFERENCE["mixture"][:, : CONFIG["hop"] * 9]
    expected = _plain(state, CONFIG, mixture.astype(np.float64))[:, CONFIG["trim"] : -CONFIG["trim"]]
    found = build(CONFIG, weights())(torch.from_numpy(mixture)[None])[0, 0, :, CONFIG["trim"] : -CONFIG["trim"]]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_the_published_checkpoint_equals_a_plain_numpy_version(shared_data: Path, rng: np.random.Generator) -> None:
    state = read_state(shared_data / "checkpoints" / "cac_tdc_17_vocals_top1.pt")
    model = build({}, state)
    assert (model.segment_length, model.edge, model.segment_length - 2 * model.edge) == (66560, 5000, 56560)
    mixture = 0.1 * rng.standard_normal((2, 4096))
    config = {"n_fft": 2048, "hop": 1024, "num_blocks": 17, "layers_per_block": 5, "kernel_f": 3}
    expected = _plain({name: tensor.double().numpy() for name, tensor in state.items()}, config, mixture)
    found = model(torch.from_numpy(mixture).float()[None])[0, 0].numpy()
    assert abs(expected[:, 512:-512]).max() > 0.01
    np.testing.assert_allclose(found[:, 512:-512], expected[:, 512:-512], atol=1e-6)


def test_weights_that_do_not_fit_are_refused() -> None:
    state = weights()
    del state["mid_block.H.1.1.bias"]
    with pytest.raises(CheckpointError, match=r"lack mid_block\.H\.1\.1\.bias"):
        TDCUNet.convert_state(CONFIG, {"checkpoint": state})
    with pytest.raises(CheckpointError, match="which a TDC U-Net does not have"):
        TDCUNet.convert_state(CONFIG, {"checkpoint": weights() | {"stranger": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match="has the sizes"):
        TDCUNet.convert_state(CONFIG | {"kernel_f": 5}, {"checkpoint": weights()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_blocks": 4}, "num_blocks is 4"),
        ({"kernel_f": 2}, "kernel_f is 2"),
        ({"trim": 300}, "trim is 300"),
        ({"n_fft": "128"}, "n_fft is '128'"),
        ({"dim_t": 0}, "dim_t is 0"),
        ({"num_blocks": 17}, "too small for 8 halvings"),
        ({"bogus": 1}, "bogus"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        TDCUNet.from_config(CONFIG | changes, ["vocals"])


def test_it_gives_one_stem() -> None:
    with pytest.raises(CheckpointError, match="one stem"):
        TDCUNet.from_config(CONFIG, ["vocals", "drums"])
