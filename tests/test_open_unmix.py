"""Open-Unmix against the public package's recorded results, and the filter against its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmixcli.errors import CheckpointError
from unmixcli.models.open_unmix import OpenUnmix
from unmixcli.models.wiener import EPSILON, wiener
from unmixcli.segment import cut, make_grid

REFERENCE = np.load(Path(__file__).parent / "references" / "open_unmix.npz")
TARGETS = [str(name) for name in REFERENCE["targets"]]
NUMBERS = ("nfft", "nhop", "max_bin", "hidden_size", "nb_layers", "wiener_win_len")


def small_config(variant: str = "stereo", **changes: Any) -> dict[str, Any]:
    """The recorded network's config."""
    config: dict[str, Any] = {name: int(REFERENCE[name]) for name in NUMBERS}
    config |= {"nb_output_bins": config["nfft"] // 2 + 1, "nb_channels": 1 if variant == "mono" else 2}
    config |= {"unidirectional": variant == "forward", "targets": TARGETS if variant == "stereo" else TARGETS[:2]}
    return config | changes


def published_states(variant: str = "stereo") -> dict[str, dict[str, torch.Tensor]]:
    states: dict[str, dict[str, torch.Tensor]] = {}
    for key in REFERENCE.files:
        parts = key.split("/")
        if parts[:2] == [variant, "weights"]:
            states.setdefault(parts[2], {})[parts[3]] = torch.from_numpy(REFERENCE[key])
    return states


def build(config: dict[str, Any], stems: list[str], variant: str = "stereo") -> OpenUnmix:
    states = published_states(variant)
    needed = OpenUnmix.parts_needed(config, list(states), stems)
    model = OpenUnmix.from_config(config, stems)
    model.load_state_dict(OpenUnmix.convert_state(config, {part: states[part] for part in needed}), strict=True)
    return model.eval()


def decibels(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Signal-to-distortion ratio of `found`."""
    return float(10 * torch.log10(expected.abs().square().sum() / (expected - found).abs().square().sum()))


@pytest.mark.parametrize("run", [key for key in REFERENCE.files if "/niter=" in key])
def test_equals_the_public_package(run: str) -> None:
    variant, options = run.split("/")
    words = options.split(",")
    config = small_config(variant, niter=int(words[0].removeprefix("niter=")))
    config |= {word: True for word in ("softmask", "residual") if word in words}
    model = build(config, [*config["targets"], *(["residual"] if "residual" in words else [])], variant)
    mixture = torch.from_numpy(REFERENCE["mixture"][:1, : config["nb_channels"]])
    if "same" in words:
        mixture = mixture[:, :1].repeat(1, 2, 1)
    expected = torch.from_numpy(REFERENCE[run])
    assert expected.abs().max() > 0.1
    # rounding; where both channels are the same the mixture's covariance is almost singular. The promise is 1e-4
    torch.testing.assert_close(model(mixture), expected, atol=5e-5 if "same" in words else 2e-6, rtol=0)


@pytest.mark.parametrize(("niter", "parts"), [(0, ["drums"]), (1, TARGETS)])
def test_loads_only_what_a_stem_needs(niter: int, parts: list[str]) -> None:
    assert OpenUnmix.parts_needed(small_config(niter=niter), TARGETS, ["drums"]) == tuple(parts)


@pytest.mark.parametrize("niter", [0, 1])
def test_a_stem_is_the_same_whatever_else_is_asked(niter: int) -> None:
    config = small_config(niter=niter)
    mixture = torch.from_numpy(REFERENCE["mixture"])
    together, alone = build(config, TARGETS)(mixture), build(config, ["drums"])(mixture)
    assert torch.equal(alone[:, 0], together[:, TARGETS.index("drums")])


def test_a_loud_block_is_scaled_as_published(rng: np.random.Generator) -> None:
    # magnitudes of real spectra reach the hundreds, where the published filter scales down: a plain float64 version
    x = torch.from_numpy(300 * (rng.standard_normal((2, 40, 9)) + 1j * rng.standard_normal((2, 40, 9))))
    masks = torch.from_numpy(rng.random((3, 2, 40, 9)))
    scale = max(1.0, float(x.abs().max()) / 10)
    for iterations in (1, 3):
        y = masks * x / scale
        for _ in range(iterations):
            v = (y.abs() ** 2).mean(1)
            r = torch.einsum("jatf,jbtf->jfab", y, y.conj()) / (EPSILON + v.sum(1))[..., None, None]
            c = torch.einsum("jtf,jfab->tfab", v.to(r.dtype), r) + EPSILON**0.5 * torch.eye(2)
            y = torch.einsum("jtf,jfab,tfbc,ctf->jatf", v.to(r.dtype), r, torch.linalg.inv(c), x / scale)
        found = torch.stack(list(wiener(x.to(torch.complex64), masks.float(), iterations)))
        torch.testing.assert_close(found, (y * scale).to(torch.complex64), atol=2e-2 * 1e-2, rtol=2e-5)


def test_nearly_mono_music_keeps_its_stereo_image(rng: np.random.Generator) -> None:
    # one source in both channels alike: C is singular but for the floor, and the first estimates are the answer
    x = torch.from_numpy(rng.standard_normal((1, 50, 7)) + 1j * rng.standard_normal((1, 50, 7))).to(torch.complex64)
    x = 200 * x.expand(2, -1, -1).contiguous()
    masks = torch.tensor([0.3, 0.7]).view(2, 1, 1, 1).expand(2, 2, 50, 7).contiguous()
    y = torch.stack(list(wiener(x, masks, 1)))
    share = torch.tensor([0.09, 0.49]) / 0.58  # of the powers
    # the textbook inverse with its determinant is at 24 dB here
    assert decibels(share.view(2, 1, 1, 1) * x, y) > 100


@pytest.mark.parametrize("length", [1, 63, 64, 65, 500])
def test_every_length(length: int) -> None:
    model = build(small_config(niter=1), TARGETS)
    mixture = torch.from_numpy(REFERENCE["mixture"])[..., :length]
    estimates = model(mixture)
    assert estimates.shape == (2, 3, 2, length)
    assert torch.isfinite(estimates).all()


def test_segments_keep_the_block_grid() -> None:
    # without the network's memory (its LSTM cut off), segments must give the whole track's result
    config = small_config(niter=1)
    model = build(config, TARGETS)
    block = config["nhop"] * config["wiener_win_len"]
    assert model.edge % block == 0
    assert model.segment_multiple == block
    assert (model.segment_length - 2 * model.edge) % block == 0
    for network in model.networks.values():
        for parameter in network.lstm.parameters():  # type: ignore[union-attr]
            parameter.data.zero_()
    rng = np.random.default_rng(5)
    mixture = torch.from_numpy(rng.standard_normal((1, 2, 7 * block + 77)).astype(np.float32))
    whole = model(mixture)
    grid = make_grid(length=4 * block, edge=block, overlap=model.overlap, multiple=block, padding=model.edge_padding)
    joined = torch.cat(
        [
            model(segment.mixture)[..., segment.offset : segment.offset + segment.used]
            for segment in cut([mixture], grid)
            if segment.mixture is not None
        ],
        dim=-1,
    )
    # the outermost frames of a segment see mirrored samples, which the context block's filter takes into its sums;
    # its result reaches half a window beyond the join
    near = torch.zeros(mixture.shape[-1], dtype=torch.bool)
    for join in range(2 * block, mixture.shape[-1], 2 * block):
        near[join - config["nfft"] // 2 : join + config["nfft"] // 2] = True
    torch.testing.assert_close(joined[..., ~near], whole[..., ~near], atol=2e-6, rtol=0)
    assert decibels(whole[..., near], joined[..., near]) > 25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 7}, "hidden_size is odd"),
        ({"hidden_size": "8"}, "hidden_size is '8'"),
        ({"nb_channels": 3}, "nb_channels is 3"),
        ({"nhop": 30}, "nhop is 30"),
        ({"niter": -1}, "niter is -1"),
        ({"niter": True}, "niter is True"),
        ({"wiener_win_len": None}, "wiener_win_len is None"),
        ({"max_bin": 99}, "max_bin is 99"),
        ({"bogus": 1}, "bogus"),
        ({"targets": ["vocals"]}, "no target drums"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        OpenUnmix.from_config(small_config(**changes), ["vocals", "drums"])


def test_the_filter_needs_two_sources() -> None:
    with pytest.raises(CheckpointError, match="two sources") as caught:
        OpenUnmix.from_config(small_config(targets=["vocals"]), ["vocals"])
    assert "niter" in str(caught.value.hint)
    OpenUnmix.from_config(small_config(targets=["vocals"], residual=True), ["vocals", "residual"])


def test_weights_that_do_not_fit_are_refused() -> None:
    config, states = small_config(), published_states()
    del states["drums"]["bn2.bias"]
    with pytest.raises(CheckpointError, match=r"drums: bn2\.bias is missing"):
        OpenUnmix.convert_state(config, states)
    with pytest.raises(CheckpointError, match=r"fc1\.weight has the shape"):
        OpenUnmix.convert_state(config | {"max_bin": 40}, published_states())
    states = published_states()
    states["bass"]["stranger"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="stranger"):
        OpenUnmix.convert_state(config, states)
    # old files carry these
    states = published_states()
    states["bass"] |= {
        "sample_rate": torch.tensor(44100.0),
        "stft.window": torch.zeros(4),
        "transform.0.window": torch.zeros(4),
    }
    assert OpenUnmix.convert_state(config, states)
