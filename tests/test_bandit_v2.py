"""BandIt v2 against the public package's recorded results, its bands, and what a config may say."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bandit_toys import CASES, STEMS, state_of
from demucs_toys import mixture
from torch import Tensor

from unmixcli.checkpoint import load_model
from unmixcli.errors import CheckpointError
from unmixcli.models.bandit_v2 import BandItV2, musical_bands
from unmixcli.user_models import add_model

REFERENCE = np.load(Path(__file__).parent / "references" / "bandit_v2.npz")


def published(case: str) -> dict[str, Tensor]:
    """A checkpoint's tensors: those of the layers, some of them twice, and computed ones."""
    names, shapes = REFERENCE[f"{case}/names"], REFERENCE[f"{case}/shapes"]
    listed = {str(name): tuple(map(int, str(shape).split())) for name, shape in zip(names, shapes, strict=True)}
    return {**{name: torch.zeros(shape) for name, shape in listed.items()}, **state_of(listed)}


def build(case: str, stems: list[str] | None = None, **changes: Any) -> BandItV2:
    config = {**CASES[case], "chunk_size": 2500, **changes}
    model = BandItV2.from_config(config, stems or config.get("instruments", config["stems"]))
    model.load_state_dict(BandItV2.convert_state(config, {"checkpoint": published(case)}), strict=True)
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_equals_the_public_package(case: str) -> None:
    expected = torch.from_numpy(REFERENCE[case])
    assert expected.std() > 0.1
    model = build(case)
    # two channels, which the public network takes apart itself
    found = torch.cat([model(channel) for channel in mixture().split(1, 1)], 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_stem_alone_is_the_same() -> None:
    heard = mixture(1)
    torch.testing.assert_close(build("gru", ["music"])(heard)[:, 0], build("gru")(heard)[:, 1], atol=1e-6, rtol=0)


def test_bands_are_the_published_ones() -> None:
    assert musical_bands(2048, 64) == [tuple(band) for band in REFERENCE["bands"].tolist()]
    for count in (2, 5, 30):
        bands = musical_bands(512, count)
        assert bands[0][0] == 0
        assert bands[-1][1] == 257
        assert all(first[1] >= second[0] for first, second in pairwise(bands))


def test_what_the_pipeline_must_know_follows_from_the_config() -> None:
    config = {"n_sqm_modules": 8, "rnn_type": "GRU", "stems": STEMS, "instruments": ["speech", "music", "effects"]}
    with torch.device("meta"):
        model = BandItV2.from_config(config | {"num_overlap": 4}, ["speech", "effects"])
    assert (model.sample_rate, model.channels, model.segment_length, model.overlap) == (48000, 1, 384000, 0.75)
    assert sum(parameter.numel() for parameter in model.parameters()) == 37_022_688
    assert model.context(380000) == (0, 4000)
    assert build("gru", normalize=True).normalization == "track"


def test_stems_have_our_names() -> None:
    model = build("gru", ["effects"], instruments=["speech", "music", "effects"])
    heard = mixture(1)
    torch.testing.assert_close(model(heard)[:, 0], build("gru")(heard)[:, 2], atol=1e-6, rtol=0)
    with pytest.raises(CheckpointError, match="no stem drums; they give speech, music, sfx"):
        build("gru", ["drums"])


def test_a_file_as_published_becomes_a_model(tmp_path: Path) -> None:
    weights = tmp_path / "bandit.ckpt"
    torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in published("gru").items()}}, weights)
    values = {
        "cls": "Bandit",
        "audio": {"chunk_size": 2500, "num_channels": 2, "sample_rate": 48000, "min_mean_abs": 0.0},
        "kwargs": {**CASES["gru"], "hidden_activation_kwargs": None, "power": None, "window_fn": "hann_window"},
        "training": {"instruments": STEMS, "target_instrument": None},
        "inference": {"batch_size": 8, "dim_t": 256, "num_overlap": 4},
    }
    weights.with_suffix(".yaml").write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    entry = add_model([str(weights)], name="mine").entry
    assert (entry.architecture, entry.stems, entry.channels) == ("bandit_v2", ("speech", "music", "effects"), 1)
    model = load_model(entry)
    assert (model.sample_rate, model.overlap) == (48000, 0.75)
    heard = mixture(1)
    torch.testing.assert_close(model(heard), build("gru")(heard), atol=0, rtol=0)


@pytest.mark.parametrize("length", [1, 128, 129, 300])
def test_every_length(length: int) -> None:
    estimates = build("gru")(mixture(1, length))
    assert estimates.shape == (1, 3, 1, length)
    assert torch.isfinite(estimates).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bogus": 1}, "bandit_v2 has no bogus"),
        ({"in_channels": 2}, "only 1 is supported"),
        ({"band_type": "mel"}, "only 'musical' is supported"),
        ({"pad_mode": "constant"}, "only 'reflect' is supported"),
        ({"rnn_type": "RNN"}, "rnn_type is 'RNN'"),
        ({"n_bands": 1}, "n_bands is 1"),
        ({"n_fft": 255}, "n_fft is 255"),
        ({"win_length": 128}, "win_length is 128"),
        ({"hop_length": 60}, "hop_length is 60"),
        ({"num_overlap": 0}, "num_overlap is 0"),
        ({"emb_dim": True}, "emb_dim is True"),
        ({"stems": "speech"}, "stems are 'speech'"),
        ({"stems": ["a", "a"]}, "expected a list of names"),
        ({"instruments": ["a"]}, "not the same number"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        BandItV2.from_config({**CASES["gru"], **changes}, STEMS)
