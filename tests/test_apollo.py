"""Apollo against the public package's recorded results, its segments, and what a model that restores writes."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from apollo_toys import CASES, LENGTHS, mixture, state_of
from numpy.typing import NDArray
from torch import Tensor

import unmixcli
from unmixcli import Separator
from unmixcli.chain import set_up
from unmixcli.checkpoint import load_model
from unmixcli.errors import CheckpointError, OptionError
from unmixcli.models.apollo import Apollo
from unmixcli.options import Options
from unmixcli.pipeline import model_grid
from unmixcli.registry import load_registry
from unmixcli.segment import cut, overlap_add
from unmixcli.user_models import add_model

REFERENCE = np.load(Path(__file__).parent / "references" / "apollo.npz")


@functools.cache
def seeded(case: str) -> dict[str, Tensor]:
    """See `published`; not to be edited."""
    names, shapes = REFERENCE[f"{case}/names"], REFERENCE[f"{case}/shapes"]
    listed = {str(name): tuple(map(int, str(shape).split())) for name, shape in zip(names, shapes, strict=True)}
    return {**{name: torch.zeros(shape) for name, shape in listed.items()}, **state_of(listed)}


def published(case: str) -> dict[str, Tensor]:
    """A checkpoint's tensors, tables of rotations included."""
    return dict(seeded(case))


def build(case: str, state: dict[str, Tensor] | None = None, **changes: Any) -> Apollo:
    config = {**CASES[case], **changes}
    model = Apollo.from_config(config, ["restored"])
    model.load_state_dict(Apollo.convert_state(config, {"checkpoint": state or published(case)}), strict=True)
    return model.eval()


def write(folder: Path, case: str, container: str, **settings: Any) -> Path:
    """Weights as one of the publishers packs them, with the YAML of MSST beside them."""
    weights = folder / f"{container}.ckpt"
    state = published(case)
    content: dict[str, Any] = {
        "authors": {
            "model_name": "Apollo",
            "state_dict": state,
            "model_args": {"n_sample_rate": 2},
            "infos": {"software_versions": {"torch_version": torch.__version__}},
        },
        "lightning": {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        "training": {"epoch": 3, "model_state_dict": state},
        "plain": state,
    }
    torch.save(content[container], weights)
    values = {
        "audio": {"chunk_size": 132300, "num_channels": 2, "sample_rate": CASES[case]["sr"], "min_mean_abs": 0.0},
        "model": {**CASES[case], **settings},
        "training": {"instruments": ["restored", "addition"], "target_instrument": "restored", "batch_size": 2},
        "inference": {"batch_size": 1, "num_overlap": 4},
    }
    weights.with_suffix(".yaml").write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return weights


@pytest.fixture
def toy(tmp_path: Path) -> str:
    """A name in the user's registry."""
    return add_model([str(write(tmp_path, "one", "plain"))], name="toy").entry.name


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("case", CASES)
def test_equals_the_public_package(case: str) -> None:
    expected = torch.from_numpy(REFERENCE[case])
    assert expected.std() > 0.03
    model = build(case)
    # two channels, which the public network takes apart itself
    found = torch.cat([model(channel)[:, 0] for channel in mixture(2, LENGTHS[case]).split(1, 1)], 1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("width", "chunk", "parameters"), [(256, 132300, 16_539_308), (384, 882000, 36_604_076)])
def test_published_sizes(width: int, chunk: int, parameters: int) -> None:
    with torch.device("meta"):
        model = Apollo.from_config({"feature_dim": width, "chunk_size": chunk, "num_overlap": 4}, ["restored"])
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert (model.sample_rate, model.channels, model.stems, model.overlap) == (44100, 1, ("restored",), 0)
    assert model.edge == 55 * 441  # 6 layers of 3 convolutions that reach 3 frames, and a frame's own half
    # short published segments are made longer
    assert model.segment_length == max(chunk, 18 * model.edge)
    assert model.normalization == "none"
    assert build("one", normalize=True).normalization == "track"


@pytest.mark.parametrize("length", [1, 79, 80, 159, 160, 161, 239, 1000, 4001])
def test_every_length(length: int) -> None:
    estimates = build("one")(mixture(1, length))
    assert estimates.shape == (1, 1, 1, length)
    assert torch.isfinite(estimates).all()
    assert estimates.abs().max() < 0.5  # the public code's last samples reach 21 at 239


def test_silence_stays_finite() -> None:
    assert torch.isfinite(build("one")(torch.zeros(1, 1, 3001))).all()


@pytest.mark.parametrize("total", [9001, 1600])
def test_segments_give_what_the_whole_gives(total: int) -> None:
    model = build("one")
    assert (model.edge, model.segment_length) == (800, 132240)
    track = mixture(1, total)
    whole = model(track)[0]

    def streamed(**changes: Any) -> Tensor:
        grid = replace(model_grid(model, Options(segment=(2 * model.edge + 430) / model.sample_rate)), **changes)
        pieces = ((piece.start, model(piece.mixture)[0][..., piece.offset :][..., : piece.used]) for piece in
                  cut(track.split(777, -1), grid))  # fmt: skip
        return torch.cat(list(overlap_add(pieces, grid)), -1)

    torch.testing.assert_close(streamed(), whole, atol=1e-6, rtol=0)
    if total > 2000:  # half the context is too little
        assert (streamed(edge=400, length=1200) - whole).abs().max() > 1e-5


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("container", ["authors", "lightning", "training", "plain"])
def test_a_file_as_published_becomes_a_model(tmp_path: Path, container: str) -> None:
    entry = add_model([str(write(tmp_path, "one", container))], name="mine").entry
    assert (entry.architecture, entry.stems, entry.channels) == ("apollo", ("restored",), 1)
    heard = mixture(1)
    torch.testing.assert_close(load_model(entry)(heard), build("one")(heard), atol=0, rtol=0)


def test_the_authors_package_is_known_without_a_config(tmp_path: Path) -> None:
    weights = write(tmp_path, "one", "authors")
    weights.with_suffix(".yaml").unlink()
    with pytest.raises(CheckpointError, match="fit"):  # known, and not of the published size
        add_model([str(weights)], name="mine")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="do not fit"):
        add_model([str(write(tmp_path, "one", "plain", feature_dim=32))], name="mine")
    for missing in ("BN.7.1.weight", "output.79.0.weight", "net.0.seq_net.blocks.1.conv.4.bias"):
        state = published("one")
        del state[missing]
        with pytest.raises((CheckpointError, RuntimeError)):
            build("one", state)
    with pytest.raises(CheckpointError, match=r"BN\.N\.1\.bias"):
        build("one", {**published("one"), "BN.3.1.bias": torch.zeros(3)})
    with pytest.raises(RuntimeError, match="bogus"):
        build("one", {**published("one"), "bogus": torch.zeros(3)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bogus": 1}, "apollo has no bogus"),
        ({"sr": 0}, "sr is 0"),
        ({"sr": 44100, "win": 10}, "441 samples"),
        ({"win": 19}, "152 samples"),
        ({"win": 1_000_000}, "8000000 samples"),
        ({"feature_dim": 24}, "feature_dim is 24"),
        ({"feature_dim": 1_000_000}, "feature_dim is 1000000"),
        ({"feature_dim": True}, "feature_dim is True"),
        ({"layer": 0}, "layer is 0"),
        ({"layer": 65}, "layer is 65"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"num_overlap": 0}, "num_overlap is 0"),
        ({"instruments": "restored"}, "instruments are 'restored'"),
        ({"instruments": ["restored", "addition"]}, "none of restored, addition is its target"),
        ({"instruments": ["a", "b"], "target_instrument": "c"}, "its target 'c'"),
        ({"instruments": ["a", "b"], "target_instrument": "b"}, "no stem restored; they give b"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Apollo.from_config({**CASES["one"], **changes}, ["restored"])


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize("channels", [1, 2])
def test_the_restored_file_is_the_networks_output_and_all_there_is(
    toy: str, tmp_path: Path, channels: int, music: NDArray[np.float32]
) -> None:
    sound = music[:channels, :20001]
    soundfile.write(tmp_path / "song.wav", sound.T, 8000, subtype="FLOAT")
    result = unmixcli.separate(tmp_path / "song.wav", tmp_path / "out", model=toy)
    assert list(result.files) == ["restored"]
    restored, _ = soundfile.read(result.files["restored"], dtype="float32", always_2d=True)
    expected = build("one")(torch.from_numpy(sound)[:, None])[:, 0, 0]
    assert restored.shape == (20001, channels)
    torch.testing.assert_close(torch.from_numpy(restored.T.copy()), expected, atol=1e-6, rtol=0)


def test_what_was_changed_is_there_for_those_who_ask(toy: str, music: NDArray[np.float32]) -> None:
    sound = music[:, :4000]
    stems = Separator(toy, stems=("restored", "rest")).separate(sound, sample_rate=8000).stems
    np.testing.assert_allclose(stems["rest"], sound - stems["restored"], atol=1e-6)


def test_nothing_undoes_a_restoration(toy: str) -> None:
    with pytest.raises(OptionError, match="postfilter is 'wiener', but toy restores"):
        set_up(Options(model=toy, postfilter="wiener"))
    with pytest.raises(OptionError, match="toy restores what it hears and the others separate it") as refused:
        set_up(Options(model=f"unmix_small+{toy}"))
    assert refused.value.hint is not None
    assert f"{toy}/restored/unmix_small" in refused.value.hint


def test_in_a_chain_nothing_is_left_over(toy: str) -> None:
    four = ("vocals", "drums", "bass", "other")
    assert set(set_up(Options(model=f"{toy}/restored/unmix_small")).plan.names) == set(four)
    after = set_up(Options(model=f"unmix_small/vocals/{toy}")).plan.names
    assert set(after) == {"drums", "bass", "other", "restored"}


def test_restored_has_a_preset() -> None:
    preset = load_registry().preset(("restored",), "balanced")
    assert preset is not None
    assert preset.model == "apollo_lq_mp3"
