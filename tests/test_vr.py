"""VR networks, band layouts and protocol: against the public package's recorded results, and by their properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly
from torch import Tensor
from vr_toys import BANDS, CASES, PATHS, every, magnitudes, path_wave, seeded_state, waves

from unmixcli import Separator
from unmixcli.errors import CheckpointError, OptionError
from unmixcli.models.vr import VR
from unmixcli.models.vr_bands import BandSplit, Layout, Resampling, _resampling, layouts
from unmixcli.models.vr_networks import CascadedASPP, CascadedLSTM, published_shapes
from unmixcli.user_models import add_model

RECORDED = np.load(Path(__file__).parent / "references" / "vr.npz")
FILES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "vr_files.json").read_text())
BOTH = ("instrumental", "vocals")


def one_band(bins: int) -> dict[str, Any]:
    band = {"sample_rate": 8000, "hop": 32, "n_fft": 2 * bins, "crop": [0, bins + 1]}
    return {"sample_rate": 8000, "bins": bins, "bands": [band]}


def published(config: dict[str, Any], bins: int) -> dict[str, Tensor]:
    """Seeded weights as a file holds them."""
    with torch.device("meta"):
        model = VR.from_config({"layout": one_band(bins), **config}, BOTH)
    return seeded_state(published_shapes(model.network))


def build(config: dict[str, Any], bins: int) -> VR:
    model = VR.from_config(config, tuple(config.get("instruments", BOTH))).eval()
    model.load_state_dict(VR.convert_state(config, {"weights": published(network_of(config), bins)}))
    return model


def network_of(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in ("network", "nout", "nout_lstm") if name in config}


def decibels(expected: NDArray[Any], found: NDArray[Any]) -> float:
    return float(10 * np.log10(np.sum(abs(expected) ** 2) / np.sum(abs(expected - found) ** 2)))


# ---------------------------------------------------------------- against the public package


@pytest.mark.parametrize("case", CASES)
def test_masks_are_the_public_ones(case: str) -> None:
    _, config, bins, frames = CASES[case]
    model = build({"layout": one_band(bins), **config}, bins)
    with torch.inference_mode():
        found = every(model.network(magnitudes(bins, frames)).numpy())
    assert RECORDED[case].std() > 0.05, "the recorded mask says something"
    np.testing.assert_allclose(found, RECORDED[case], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", BANDS)
def test_spectrograms_and_waves_are_the_public_ones(name: str) -> None:
    newer, rate, hop = BANDS[name]
    split = BandSplit(Layout.read(name), per_band=newer)
    assert (split.layout.sample_rate, split.hop) == (rate, hop)
    spectrum = split.analyse(waves(40 * hop))[0]
    found = every(spectrum.numpy())
    assert found.shape == RECORDED[f"{name}/spectrum"].shape
    assert decibels(RECORDED[f"{name}/spectrum"], found) > 120
    wave = every(split.synthesise(spectrum[None])[0].numpy())
    assert decibels(RECORDED[f"{name}/wave"], wave) > 100


@pytest.mark.parametrize("name", PATHS)
def test_a_track_is_separated_by_the_published_protocol(name: str, tmp_path: Path) -> None:
    separator = toy(tmp_path, PATHS[name][1])
    found = separator.separate(path_wave()[0].numpy(), sample_rate=44100).stems
    stems = every(np.stack([found[stem] for stem in separator.entry.stems]))
    # the published inverse transform knows no frames beyond the ends of the track: half a window, a little louder
    inner = slice(5 * 480 // 37, -5 * 480 // 37)
    for number in range(2):
        assert decibels(RECORDED[name][number, :, inner], stems[number, :, inner]) > 90
        assert decibels(RECORDED[name][number], stems[number]) > 20


def toy(folder: Path, config: dict[str, Any], **options: Any) -> Separator:
    """A separator with a user's model of seeded weights."""
    torch.save(published(network_of(config), 672), folder / "toy.pth")
    (folder / "toy.json").write_text(json.dumps(config))
    stems = config.get("instruments", BOTH)
    model = add_model([str(folder / "toy.pth")], name="toy", architecture="vr", config=folder / "toy.json", stems=stems)
    return Separator(model.entry.name, residual="ignore", precision="fp32", **options)


def test_every_published_file_has_the_size_of_its_network() -> None:
    """Tensors are 4 bytes a value, and 8 for the count beside each normalisation; the rest is names."""
    sizes: dict[str, int] = {}
    for name, facts in FILES.items():
        config = facts["config"]
        key = f"{network_of(config)} {Layout.read(config['layout']).bins}"
        if key not in sizes:
            with torch.device("meta"):
                model = VR.from_config(config, tuple(config["instruments"]))
            shapes = published_shapes(model.network)
            values = sum(int(np.prod(shape)) for shape in shapes.values())
            sizes[key] = 4 * values + 8 * sum(shape.endswith("running_var") for shape in shapes)
        assert 80_000 < facts["size"] - sizes[key] < 300_000, name
    assert len(FILES) == 29


# ---------------------------------------------------------------- the track's level and the segments


def test_the_level_of_the_track_counts(tmp_path: Path) -> None:
    separator = toy(tmp_path, PATHS["path"][1])
    wave = path_wave()[0].numpy()
    found = separator.separate(wave, sample_rate=44100).stems
    model = separator.runner.model
    padded = torch.nn.functional.pad(torch.from_numpy(wave)[None], (model.edge, model.edge))
    with torch.inference_mode():
        level = model.level(padded)
        expected = (model(padded / level) * level)[0, :, :, model.edge : -model.edge]
    np.testing.assert_allclose(np.stack([found[stem] for stem in BOTH]), expected.numpy(), atol=1e-6)
    louder = separator.separate(16 * wave, sample_rate=44100).stems
    np.testing.assert_allclose(louder["vocals"], 16 * found["vocals"], atol=1e-5)
    # alone, the quiet half would be heard louder than in its track
    half = wave[:, : wave.shape[1] // 2]
    alone = separator.separate(half, sample_rate=44100).stems["vocals"]
    assert decibels(found["vocals"][:, : half.shape[1] - 20000], alone[:, :-20000]) < 40


def test_the_network_hears_nothing_beyond_the_ends_of_a_track() -> None:
    model = build(PATHS["path"][1], 672)
    edge, frames = model.edge // model.hop, 30
    wave = 0.1 + waves((2 * edge + frames) * model.hop)
    ones = torch.ones(1, 2, 673, 2 * edge + frames + 1)
    assert model._heard(ones.clone(), wave).all(), "the middle of a track"
    wave[..., : model.edge] = 0
    heard = model._heard(ones.clone(), wave)
    assert not heard[..., :edge].any()
    assert heard[..., edge:].all()
    wave[..., -model.edge :] = 0
    heard = model._heard(ones.clone(), wave)
    assert not heard[..., edge + frames + 1 :].any()
    assert heard[..., edge : edge + frames + 1].all()


def test_silence_stays_silence(tmp_path: Path) -> None:
    separator = toy(tmp_path, PATHS["path"][1])
    found = separator.separate(np.zeros((2, 30000), np.float32), sample_rate=44100).stems
    assert all(not samples.any() for samples in found.values())


def test_segments_meet_without_a_seam(tmp_path: Path) -> None:
    config = PATHS["path_plain"][1]
    whole = toy(tmp_path, config)
    wave = waves(480 * 500)[0].numpy()
    expected = whole.separate(wave, sample_rate=44100).stems["vocals"]
    model = whole.runner.model
    assert isinstance(model, VR)
    used = 4 * model.step  # frames: four windows in a segment
    stride = used * model.hop

    def cut(fade: int) -> NDArray[np.float32]:
        length = (2 * model.edge + (used + fade) * model.hop) / 44100
        separator = Separator("toy", residual="ignore", precision="fp32", segment=length, overlap=fade / (used + fade))
        return separator.separate(wave, sample_rate=44100).stems["vocals"]

    found, abrupt = cut(4), cut(0)
    place = np.arange(wave.shape[1])
    # the frames that reach over a meeting point, and those that are shared after it
    near = (place % stride > stride - 5 * model.hop) | ((place % stride < 9 * model.hop) & (place > stride // 2))
    assert near.any()
    assert not near.all()
    assert decibels(expected[:, ~near], found[:, ~near]) > 90
    assert decibels(expected[:, near], found[:, near]) > 20
    # where one segment takes over, less jumps than without shared frames (the mixture is noise: something always does)
    jumps = [
        abs(np.diff(signal, axis=1)[:, stride - 1 :: stride]).max() for signal in (found - expected, abrupt - expected)
    ]
    assert jumps[0] < 0.6 * jumps[1]


def test_both_stems_are_what_the_bands_hold_of_the_mixture() -> None:
    config = PATHS["path_plain"][1]
    model = build(config, 672)
    wave = waves(480 * 320) / 50
    with torch.inference_mode():
        total = model(wave).sum(1)
        expected = model.bands.synthesise(model.bands.analyse(wave))
    torch.testing.assert_close(total, expected[..., : wave.shape[-1]], atol=2e-5, rtol=0)
    # what lies below 16 kHz comes through the bands
    assert decibels(wave[0, :, 5000:-5000].numpy(), total[0, :, 5000:-5000].numpy()) > 25


def test_one_stem_is_the_same_alone() -> None:
    config = PATHS["path"][1]
    both = build(config, 672)
    wave = waves(480 * 240) / 50
    for number, stem in enumerate(BOTH):
        alone = VR.from_config(config, (stem,)).eval()
        alone.load_state_dict(both.state_dict())
        assert not alone.covers_mixture
        with torch.inference_mode():
            torch.testing.assert_close(alone(wave)[:, 0], both(wave)[:, number])


def test_a_stream_is_refused(tmp_path: Path) -> None:
    separator = toy(tmp_path, PATHS["path"][1])
    with pytest.raises(OptionError, match="whole track"):
        next(separator.stream([np.zeros((2, 10), np.float32)], sample_rate=44100, channels=2))


# ---------------------------------------------------------------- bands


@pytest.mark.parametrize(("before", "after"), [(44100, 22050), (44100, 14700), (48000, 6000), (14700, 44100), (6, 32)])
def test_polyphase_resampling_is_scipys(before: int, after: int, rng: np.random.Generator) -> None:
    for length in (1, 2, 97, 1000):
        signal = rng.standard_normal((2, length))
        common = np.gcd(before, after)
        expected = resample_poly(signal, after // common, before // common, axis=-1)
        found = _resampling(before, after, "polyphase")(torch.from_numpy(signal).float())
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_equal_rates_change_nothing(rng: np.random.Generator) -> None:
    signal = torch.from_numpy(rng.standard_normal((1, 2, 50))).float()
    assert torch.equal(_resampling(8000, 8000, "sinc")(signal), signal)


@pytest.mark.parametrize(("before", "after"), [(32000, 6000), (22050, 44100)])
def test_sinc_keeps_what_lies_low_and_drops_what_lies_high(before: int, after: int) -> None:
    lowest = min(before, after)
    resample = _resampling(before, after, "sinc")
    assert isinstance(resample, Resampling)
    t = torch.arange(8000, dtype=torch.float64) / before
    low = resample(torch.sin(2 * torch.pi * 0.3 * lowest * t).float())
    there = torch.arange(low.shape[-1], dtype=torch.float64) / after
    inner = slice(200, -200)
    torch.testing.assert_close(
        low[inner], torch.sin(2 * torch.pi * 0.3 * lowest * there).float()[inner], atol=1e-4, rtol=0
    )
    if before > after:
        assert resample(torch.sin(2 * torch.pi * 0.52 * lowest * t).float())[inner].abs().max() < 1e-4


def test_an_excerpt_has_the_frames_of_the_whole() -> None:
    """Segments that begin on a hop see the track's own frames, at their ends apart by the reach of the filters."""
    for name in layouts():
        split = BandSplit(Layout.read(name), per_band=True)
        wave = waves(70 * split.hop)
        whole, part = split.analyse(wave), split.analyse(wave[..., 20 * split.hop : 60 * split.hop])
        inner = slice(split.reach, 41 - split.reach)
        torch.testing.assert_close(part[..., inner], whole[..., 20:61][..., inner], atol=2e-4, rtol=1e-4)
        there = split.synthesise(whole)[..., 20 * split.hop : 60 * split.hop]
        here = split.synthesise(whole[..., 20:61])
        inner = slice(split.reach * split.hop, -split.reach * split.hop)
        torch.testing.assert_close(here[..., inner], there[..., inner], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layout": "4band_v9"}, "no layout '4band_v9'"),
        ({"layout": None}, "expected a name or a mapping"),
        ({"layout": one_band(64) | {"bands": []}}, "at least one band"),
        ({"layout": one_band(64) | {"colour": 1}}, "colour"),
        ({"layout": one_band(64) | {"bins": 40}}, "65 bins together, more than 41"),
        ({"layout": one_band(64) | {"bins": 72}}, "bins are 72, expected a multiple of 32"),
        ({"layout": one_band(64) | {"channels": "surround"}}, "'surround'"),
        ({"layout": one_band(64) | {"sample_rate": 9000}}, "8000 Hz, expected 9000 Hz"),
        ({"layout": one_band(64) | {"pre_filter": [5]}}, r"\[5\] is no pair"),
        ({"network": 4711}, "4711"),
        ({"network": 31191, "nout": 8}, "expected either"),
        ({"nout": 10}, "nout is 10, expected a multiple of 4"),
        ({"window": 130}, "window is 130, expected a multiple of 16 above 128"),
        ({"window": 128}, "above 128"),
        ({"aggression": 500}, "aggression is 500"),
        ({"instruments": ["vocals", "vocals"]}, "expected two names"),
        ({"instruments": ["piano", "rest"]}, "stems are piano, rest"),
        ({"pitch": 1}, "no pitch in its config"),
    ],
)
def test_a_wrong_config_is_named(change: dict[str, Any], words: str) -> None:
    config = {"layout": one_band(64), "nout": 8, **change}
    if "network" in change and "nout" not in change:
        del config["nout"]
    with pytest.raises(CheckpointError, match=words):
        VR.from_config(config, BOTH)


def test_weights_of_another_network_are_refused() -> None:
    config = {"layout": one_band(64), "nout": 8, "nout_lstm": 8}
    state = published(network_of(config), 64)
    with pytest.raises(CheckpointError, match=r"stg1_low_band_net\.0\.enc1\.conv\.0\.weight has the shape"):
        VR.convert_state(config | {"nout": 16}, {"weights": state})
    with pytest.raises(CheckpointError, match="is missing"):
        VR.convert_state({"layout": one_band(64), "network": 31191}, {"weights": state})
    with pytest.raises(CheckpointError, match=r"hold head\.weight"):
        VR.convert_state(config, {"weights": state | {"head.weight": torch.zeros(1)}})
    extra = {
        "aux_out.weight": torch.zeros(2, 6, 1, 1),
        "stg1_high_band_net.enc1.conv.1.num_batches_tracked": torch.tensor(3),
    }
    assert (
        VR.convert_state(config, {"weights": state | extra}).keys() == VR.from_config(config, BOTH).state_dict().keys()
    )


def test_networks_by_the_published_words() -> None:
    layout = one_band(64)
    with torch.device("meta"):
        old = VR.from_config({"layout": layout, "network": 537227}, BOTH)
        new = VR.from_config({"layout": layout, "network": 218409}, BOTH)
        same = VR.from_config({"layout": layout, "nout": 64}, BOTH)
    assert isinstance(old.network, CascadedASPP)
    assert isinstance(new.network, CascadedLSTM)
    assert (old.offset, new.offset) == (128, 64)
    assert published_shapes(new.network) == published_shapes(same.network)
