"""BS-RoFormer and Mel-Band RoFormer against the public packages' recorded results, and what their configs mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from roformer_toys import CASES, STEMS, build, mixture, published_shapes, state_of

from unmixcli.checkpoint import load_model
from unmixcli.errors import CheckpointError
from unmixcli.models import architecture_class, roformer
from unmixcli.models.band_roformer import BandRoformer
from unmixcli.models.mel_band_roformer import mel_edges
from unmixcli.user_models import add_model

REFERENCE = np.load(Path(__file__).parent / "references" / "roformer.npz")
_FOUR = {"num_stems": 4, "instruments": STEMS}
# a published geometry and its parameters, as counted from the sizes of the published files
PUBLISHED: list[tuple[str, dict[str, Any], int]] = [
    ("bs_roformer", {"dim": 512, "depth": 12}, 159_758_796),
    ("bs_roformer", {"dim": 384, "depth": 12}, 98_195_532),
    ("bs_roformer", {"dim": 384, "depth": 8, "num_stems": 2, "instruments": STEMS[:2]}, 131_688_212),
    ("bs_roformer", {"dim": 256, "depth": 12}, 51_050_188),
    ("mel_band_roformer", {"dim": 384, "depth": 6, "mask_estimator_depth": 2}, 228_203_172),
    ("mel_band_roformer", {"dim": 384, "depth": 6, "mask_estimator_depth": 3}, 369_853_092),
    ("mel_band_roformer", {"dim": 384, "depth": 12, "mask_estimator_depth": 3}, 393_520_260),
    (
        "mel_band_roformer",
        {"dim": 384, "depth": 6, "mask_estimator_depth": 2, "num_stems": 2, "instruments": STEMS[:2]},
        429_668_476,
    ),
    ("mel_band_roformer", {"dim": 256, "depth": 4, "mask_estimator_depth": 2, "mlp_expansion_factor": 1}, 22_435_332),
]


@pytest.mark.parametrize("case", CASES)
def test_equals_the_public_package(case: str) -> None:
    expected = torch.from_numpy(REFERENCE[case])
    assert expected.square().mean() > 0.003
    found = build(case)(mixture(expected.shape[2]))[..., : expected.shape[-1]]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("architecture", "config", "count"), PUBLISHED)
def test_parameters_are_as_many_as_in_the_published_files(
    architecture: str, config: dict[str, Any], count: int
) -> None:
    config = {"stereo": True, "time_transformer_depth": 1, "freq_transformer_depth": 1, **config}
    with torch.device("meta"):
        model = architecture_class(architecture).from_config(config, config.get("instruments", ["vocals"]))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_mel_bands_are_the_published_ones() -> None:
    model = architecture_class("mel_band_roformer").from_config({"dim": 4, "depth": 1, "dim_head": 2}, ["vocals"])
    assert isinstance(model, BandRoformer)
    # fmt: off
    widths = [7] + [6] * 14 + [7] * 3 + [9] * 3 + [10] * 2 + [11] + [13] * 3 + [
        15, 16, 17, 19, 20, 20, 22, 24, 26, 28, 29, 31, 33, 36, 39, 41, 44, 47, 50, 54, 57, 61, 66, 71, 76, 80, 86, 93,
        99, 105, 113, 122, 130,
    ]
    # fmt: on
    assert [end - first for first, end in model.bands] == widths
    assert model.bands[:3] == ((0, 7), (4, 10), (7, 13))
    assert model.bands[-3:] == ((782, 895), (836, 958), (895, 1025))


@pytest.mark.parametrize(("bands", "rate"), [(60, 44100), (40, 22050), (9, 1600), (128, 96000)])
def test_mel_edges_are_those_of_librosa(bands: int, rate: int) -> None:
    librosa = pytest.importorskip("librosa")
    expected = librosa.mel_frequencies(bands + 2, fmin=0, fmax=rate / 2)
    np.testing.assert_allclose(mel_edges(bands, rate), expected, rtol=1e-12)


def test_a_stem_alone_is_the_same() -> None:
    together = build("bs_four_stems")(mixture())
    alone = build("bs_four_stems", ["bass", "vocals"])(mixture())
    torch.testing.assert_close(alone[:, 0], together[:, 2], atol=1e-6, rtol=0)
    torch.testing.assert_close(alone[:, 1], together[:, 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", ["bs_four_stems", "bs_linear", "mel_skip"])
def test_the_size_of_blocks_changes_nothing(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(case)
    heard = mixture(model.channels)
    whole = model(heard)
    monkeypatch.setattr(roformer, "_ROWS_CPU", 50)
    torch.testing.assert_close(model(heard), whole, atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", ["bs", "mel_skip"])
def test_items_of_a_batch_are_the_same_bit_for_bit(case: str) -> None:
    model = build(case)
    heard = torch.cat((mixture(), mixture().flip(-1)))
    assert torch.equal(model(heard)[1:], model(heard[1:]))


@pytest.mark.parametrize("case", ["bs_linear", "mel"])
def test_silence_stays_silence(case: str) -> None:
    model = build(case)
    for name, parameter in model.named_parameters():
        if "gate" not in name and name.endswith("bias"):
            parameter.zero_()
    assert torch.equal(model(torch.zeros(1, model.channels, 1500)), torch.zeros(1, 1, model.channels, 1500))


@pytest.mark.parametrize("changes", [{"zero_dc": False}, {"skip_connection": False}])
def test_what_only_some_checkpoints_have_is_heard(changes: dict[str, Any]) -> None:
    difference = build("bs_skip", **changes)(mixture()) - torch.from_numpy(REFERENCE["bs_skip"])
    assert difference.abs().max() > 1e-3


def test_tanh_is_tanh() -> None:
    x = torch.linspace(-30, 30, 4001)
    torch.testing.assert_close(roformer.tanh(x.clone()), x.tanh(), atol=3e-7, rtol=0)
    assert torch.equal(roformer.tanh(x.double()), x.double().tanh())


def test_long_and_short_sequences_attend_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model, heard = build("bs"), mixture()
    short = model(heard)
    monkeypatch.setattr(roformer, "_LONG", 1)
    torch.testing.assert_close(model(heard), short, atol=2e-6, rtol=0)


@pytest.mark.parametrize("heads", [1, 3])
def test_rotation_in_real_numbers_is_the_complex_one(heads: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 7, heads, 8, generator=generator)
    angles = 10 * torch.randn(7, 4, generator=generator)
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * turns).flatten(-2)
    in_place = x.clone()
    roformer.rotate(in_place, turns)
    torch.testing.assert_close(in_place, expected, atol=1e-5, rtol=0)
    odd = torch.zeros(2, 7, heads * 8 + 1)  # rows of an odd length can't be seen as complex numbers
    odd[..., :-1] = x.flatten(2)
    roformer.rotate(odd[..., :-1].unflatten(-1, (heads, 8)), turns)
    torch.testing.assert_close(odd[..., :-1], expected.flatten(2), atol=1e-5, rtol=0)
    assert not odd[..., -1].any()


def test_a_published_file_becomes_a_model(tmp_path: Path) -> None:
    """With prefixes, buffers of older versions and half precision, beside the YAML that came with it."""
    architecture, config, _ = CASES["mel_two_stems"]
    state = state_of(published_shapes(build("mel_two_stems")))
    half = {f"module.{name}": tensor.half() for name, tensor in state.items()}
    half |= {"module.freq_indices": torch.arange(9), "module.num_bands_per_freq": torch.ones(9, dtype=torch.int64)}
    path = tmp_path / "weights.ckpt"
    torch.save({"model_state_dict": half}, path)
    names = "\n".join(f"  {name}: {str(value).lower()}" for name, value in config.items() if name != "sample_rate")
    (tmp_path / "config.yaml").write_text(
        f"audio:\n  chunk_size: 4000\n  sample_rate: 48000\nmodel:\n{names}\n  flash_attn: true\n"
        "  multi_stft_resolutions_window_sizes: !!python/tuple\n  - 4096\n"
        "training:\n  instruments:\n  - Vocals\n  - Drums\n  target_instrument: null\n"
        "inference:\n  num_overlap: 4\n  normalize: true\n"
    )
    entry = add_model([str(path)], name="mine", config=tmp_path / "config.yaml").entry
    assert (entry.architecture, entry.stems, entry.sample_rate) == (architecture, ("vocals", "drums"), 48000)
    model = load_model(entry)
    assert (model.segment_length, model.overlap, model.normalization) == (4000, 0.75, "track")
    rounded = build("mel_two_stems")
    converted = roformer.convert_state({name: tensor.half() for name, tensor in state.items()})
    rounded.load_state_dict(converted)
    assert torch.equal(load_model(entry)(mixture()), rounded(mixture()))


def test_weights_without_gates_are_refused() -> None:
    state = state_of(published_shapes(build("bs")))
    del state["layers.1.0.layers.0.0.to_gates.weight"]
    with pytest.raises(CheckpointError, match=r"layers\.1\.0\.layers\.0\.0\.to_gates"):
        architecture_class("bs_roformer").convert_state(CASES["bs"][1], {"checkpoint": state})


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("bs", {"dim": 0}, "dim is 0"),
        ("bs", {"depth": True}, "depth is True"),
        ("bs", {"dim_head": 7}, "dim_head is 7"),
        ("bs", {"stft_hop_length": 400}, "stft_hop_length is 400"),
        ("bs", {"stft_win_length": 1024}, "stft_win_length is 1024"),
        ("bs", {"stft_n_fft": 513}, "stft_n_fft is 513"),
        ("bs", {"freqs_per_bands": [100, 100]}, "200 bins, expected 257"),
        ("bs", {"freqs_per_bands": [2, "x"]}, "expected numbers of bins"),
        ("bs", {"num_bands": 60}, "has no num_bands"),
        ("bs", {"use_pope": True}, "has no use_pope"),
        ("bs", {"num_overlap": 0.5}, "num_overlap is 0.5"),
        ("bs", {"num_stems": 2}, "num_stems is 2, but its outputs are vocals"),
        ("bs", {"instruments": ["drums"]}, "these weights have no stem vocals"),
        ("bs", {"instruments": "drums"}, "expected a list of names"),
        ("mel", {"freqs_per_bands": [257]}, "has no freqs_per_bands"),
        ("mel", {"num_bands": 200}, "leave bands empty"),
        ("mel", {"num_bands": 1000}, "num_bands is 1000"),
        ("mel", {"mask_estimator_depth": 99}, "mask_estimator_depth is 99"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(case: str, changes: dict[str, Any], message: str) -> None:
    architecture, config, _ = CASES[case]
    config = {**config, "instruments": ["vocals"], **changes}
    with pytest.raises(CheckpointError, match=message):
        architecture_class(architecture).from_config(config, ["vocals"])


def test_a_target_is_the_only_stem() -> None:
    config = {**CASES["bs"][1], "instruments": ["Vocals", "Other"], "target_instrument": "Vocals"}
    model = architecture_class("bs_roformer").from_config(config, ["vocals"])
    assert not model.covers_mixture
    config = {**config, "target_instrument": None, "num_stems": 2}
    model = architecture_class("bs_roformer").from_config(config, ["vocals", "other"])
    assert model.covers_mixture
