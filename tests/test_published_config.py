"""Config files as trainers publish them: what they say, and what they can't do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unmixcli.errors import RegistryError
from unmixcli.published_config import canonical_stems, flatten, is_published, parse_yaml, read_yaml

MEL = """
audio:
  chunk_size: 352800
  hop_length: 441
  num_channels: 2
  sample_rate: 44100
model:
  dim: 384
  num_bands: 60
  ff_dropout: 1e-1
  multi_stft_resolutions_window_sizes: !!python/tuple
  - 4096
  - 2048
training:
  instruments: [Karaoke, other]
  target_instrument: Karaoke
  mixup_probs: !!python/tuple [0.2, 0.02]
inference:
  num_overlap: 4
"""


def test_sections_become_one_flat_mapping() -> None:
    values = parse_yaml(MEL)
    assert is_published(values)
    architecture, config, stems = flatten(values)
    assert architecture == "mel_band_roformer"
    assert stems == ["lead_vocals"]
    assert config == {
        "dim": 384,
        "num_bands": 60,
        "ff_dropout": 0.1,
        "multi_stft_resolutions_window_sizes": [4096, 2048],
        "sample_rate": 44100,
        "chunk_size": 352800,
        "num_overlap": 4,
        "instruments": ["lead_vocals", "no_lead_vocals"],
        "target_instrument": "lead_vocals",
    }


@pytest.mark.parametrize(
    ("top", "model", "architecture"),
    [
        ({}, {"freqs_per_bands": [2, 2], "dim": 8}, "bs_roformer"),
        ({}, {"num_bands": 60}, "mel_band_roformer"),
        ({}, {"num_subbands": 4}, "mdx23c"),
        ({}, {"band_SR": [0.2, 0.4, 0.4]}, "scnet"),
        ({}, {"feature_dim": 256}, "apollo"),
        ({"model_type": "mel_band_roformer"}, {"freqs_per_bands": [2]}, "mel_band_roformer"),
        ({"architecture": "bs_roformer"}, {}, "bs_roformer"),
        ({}, {"model_type": "scnet", "num_bands": 3}, "scnet"),
    ],
)
def test_the_architecture_is_said_or_told_by_a_setting(
    top: dict[str, Any], model: dict[str, Any], architecture: str
) -> None:
    values = {**top, "model": model, "training": {"instruments": ["vocals", "other"]}}
    found, config, stems = flatten(values)
    assert (found, stems) == (architecture, ["vocals", "instrumental"])
    assert "model_type" not in config
    assert "target_instrument" not in config
    assert flatten(values, "toy")[0] == "toy"


def test_mdx23c_keeps_its_own_channels_and_takes_the_spectrogram_of_audio() -> None:
    values = {
        "audio": {"n_fft": 8192, "hop_length": 1024, "dim_f": 4096, "dim_t": 256, "num_channels": 2, "min_mean_abs": 0},
        "model": {"num_channels": 128, "num_subbands": 4, "scale": [2, 2]},
        "training": {"instruments": ["Vocals", "Instrumental"], "target_instrument": None},
        "inference": {"batch_size": 1, "normalize": False},
    }
    _, config, stems = flatten(values)
    assert config == {
        "num_channels": 128, "num_subbands": 4, "scale": [2, 2], "n_fft": 8192, "hop_length": 1024, "dim_f": 4096,
        "chunk_size": 261120, "normalize": False, "instruments": ["vocals", "instrumental"],
    }  # fmt: skip
    assert stems == ["vocals", "instrumental"]
    values["audio"]["chunk_size"] = 1
    assert flatten(values)[1]["chunk_size"] == 1
    values["inference"]["chunk_size"] = 2
    assert flatten(values)[1]["chunk_size"] == 2


def test_a_section_may_be_called_like_its_network() -> None:
    values = {
        "model": "htdemucs",
        "htdemucs": {"depth": 4, "num_subbands": 1},
        "training": {"instruments": ["vocals", "other"], "samplerate": 44100, "channels": 2, "segment": 11},
        "inference": {"num_overlap": 4},
    }
    assert flatten(values) == (
        "htdemucs",
        {"depth": 4, "samplerate": 44100, "audio_channels": 2, "segment": 11, "sources": ["vocals", "instrumental"]},
        ["vocals", "instrumental"],
    )


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        (["kick", "snare", "toms", "hh", "ride", "crash"], ["kick", "snare", "toms", "hi_hat", "ride", "crash"]),
        (["drums", "bass", "other", "vocals"], ["drums", "bass", "other", "vocals"]),
        (["noreverb", "reverb"], ["dry", "reverb"]),
        (["No Reverb", "Reverb"], ["dry", "reverb"]),
        (["No Noise", "other"], ["clean", "noise"]),
        (["aspiration", "other"], ["aspiration", "no_aspiration"]),
        (["other", "vocals"], ["instrumental", "vocals"]),
        (["No Drum-Bass", "Drum-Bass"], ["no_drums_bass", "drum_bass"]),
        (["Lead Vocals", "back_vocals"], ["lead_vocals", "backing_vocals"]),
        (["similarity", "difference"], ["centre", "sides"]),
        (["Theremin!"], ["theremin"]),
    ],
)
def test_stems_have_one_name_each(published: list[str], ours: list[str]) -> None:
    assert canonical_stems(published) == ours
    assert canonical_stems(ours) == ours


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model": {"dim": 1}, "training": {"instruments": ["a"]}}, "can't be told"),
        ({"model": {"model_type": "segm_models"}, "training": {"instruments": ["a"]}}, "model_type is 'segm_models'"),
        ({"model": {"num_bands": 1}, "training": {}}, "instruments is missing"),
        ({"model": {"num_bands": 1}, "training": {"instruments": "vocals"}}, "instruments is missing"),
        ({"model": {"num_bands": 1}, "training": {"instruments": ["a"], "target_instrument": "b"}}, "none of the"),
        ({"model": {"num_bands": 1}, "training": []}, "training is list"),
        ({"model": {"num_bands": float("nan")}, "training": {"instruments": ["a"]}}, "num_bands is nan"),
        ({"model": {"num_bands": {1: 2}}, "training": {"instruments": ["a"]}}, "1 is no name"),
        ({"model": {"num_bands": b"x"}, "training": {"instruments": ["a"]}}, "num_bands is a bytes"),
    ],
)
def test_what_can_not_be_understood_is_said(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(RegistryError, match=reason):
        flatten(values)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: !!python/object/apply:os.system ['true']", "python/object"),
        ("a: !!python/name:os.system ''", "python/name"),
        ("a: !!python/tuple {b: 1}", "expected a list"),
        (BOMB, "more than 100000 values"),
        ("a: &a [*a]", "more than 100000 values"),
        ("a: &a {b: *a}", "more than 100000 values"),
        ("[" * 20000, "more than 32 deep"),
        ("a: [1", "not plain YAML"),
        ("a: 1\n---\nb: 2", "not plain YAML"),
        ("a: " + "9" * 5000, "not plain YAML"),
        ("a: b\n" * 14000, "larger than"),
        ("a: \x00", "not plain YAML"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(RegistryError, match=reason):
        read_yaml(path)


def test_harmless_values_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("\ufeffa: &x [1, 2]\nb: *x\nc: 5e-05\nd: 2020-01-01\ne: 1.0e-5\nf: e5\ng: .5\n", encoding="utf-8")
    assert read_yaml(path) == {
        "a": [1, 2], "b": [1, 2], "c": 5e-05, "d": "2020-01-01", "e": 1e-05, "f": "e5", "g": 0.5,
    }  # fmt: skip
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RegistryError, match="not plain YAML"):
        read_yaml(path)
    path.write_text("")
    assert read_yaml(path) is None
