"""X-UMX against the public package's recorded results, and its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demucs_toys import mixture
from torch import Tensor
from x_umx_toys import CASES, SOURCES, state_of

from unmixcli.checkpoint import load_model
from unmixcli.errors import CheckpointError
from unmixcli.models.x_umx import XUMX
from unmixcli.user_models import add_model

REFERENCE = np.load(Path(__file__).parent / "references" / "x_umx.npz")
LENGTH = 672  # 22 frames: what the public package gives back is whole hops long


def published(case: str) -> dict[str, Tensor]:
    names, shapes = REFERENCE[f"{case}/names"], REFERENCE[f"{case}/shapes"]
    listed = {str(name): tuple(map(int, str(shape).split())) for name, shape in zip(names, shapes, strict=True)}
    windows = {name: torch.hann_window(shape[0]) for name, shape in listed.items() if "window" in name}
    counts = {name: torch.tensor(1) for name, shape in listed.items() if not shape}
    return {**state_of(listed), **windows, **counts}


def build(case: str, stems: list[str] | None = None, **changes: Any) -> XUMX:
    config = {**CASES[case], **changes}
    model = XUMX.from_config(config, stems or CASES[case]["sources"])
    assert isinstance(model, XUMX)
    model.load_state_dict(XUMX.convert_state(config, {"checkpoint": published(case)}), strict=True)
    return model.eval()


def heard(case: str, length: int = LENGTH) -> Tensor:
    return mixture(CASES[case].get("nb_channels", 2), length)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_public_package(case: str) -> None:
    expected = torch.from_numpy(REFERENCE[f"{case}/niter=0"])
    assert expected.std() > 0.05
    torch.testing.assert_close(build(case, niter=0)(heard(case)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_the_filter_is_norberts_where_all_frames_are_one_block(case: str) -> None:
    expected = torch.from_numpy(REFERENCE[f"{case}/niter=1"])
    found = build(case)(heard(case))
    # the regularisation is Open-Unmix's: norbert's constants are those of float64
    assert 10 * torch.log10(expected.square().sum() / (expected - found).square().sum()) > 60
    plain = torch.from_numpy(REFERENCE[f"{case}/niter=0"])
    assert (plain - found).abs().max() > 0.05, "the filter did nothing"


@pytest.mark.parametrize("niter", [0, 1])
def test_a_stem_is_the_same_whatever_else_is_asked(niter: int) -> None:
    together = build("stereo", niter=niter)(heard("stereo"))
    alone = build("stereo", ["vocals"], niter=niter)(heard("stereo"))
    assert torch.equal(alone[:, 0], together[:, SOURCES.index("vocals")])


def test_a_file_as_published_becomes_a_model(tmp_path: Path) -> None:
    arguments = {"sample_rate": 44100, "spec_power": 1, "bidirectional": True, "input_mean": None, "input_scale": None}
    package = {
        "model_name": "XUMX",
        "state_dict": published("stereo"),
        "model_args": {**CASES["stereo"], **arguments, "nb_channels": 2, "return_time_signals": False},
        "infos": {"software_versions": {"torch_version": "1.8.1"}},
    }
    path = tmp_path / "xumx.pth"
    torch.save(package, path)
    entry = add_model([str(path)], name="mine").entry
    assert (entry.architecture, entry.stems) == ("x_umx", tuple(SOURCES))
    torch.testing.assert_close(load_model(entry)(heard("stereo")), build("stereo")(heard("stereo")), atol=0, rtol=0)


def test_published_size() -> None:
    with torch.device("meta"):
        model = XUMX.from_config({"max_bin": 1487, "sources": SOURCES}, SOURCES)
    # of Open-Unmix with the same numbers, 8 893 348 for each, the normalisations folded
    folded = 4 * (8_893_348 - 2 * 1487 - 2 * 2049 - 512 - 512 - 2 * 2049)
    assert sum(parameter.numel() for parameter in model.parameters()) == folded
    assert model.segment_length > 2 * model.edge == 2 * 300 * 1024


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bogus": 1}, "x_umx has no bogus"),
        ({"sources": "vocals"}, "sources are 'vocals'"),
        ({"sources": ["bass"], "niter": 0}, "no stem drums, vocals, other; they give bass"),
        ({"window_length": 64}, "window_length is not in_chan"),
        ({"in_chan": "128"}, "in_chan is '128'"),
        ({"bidirectional": 1}, "bidirectional is 1"),
        ({"spec_power": 2}, "spec_power is 2"),
        ({"max_bin": 99}, "max_bin is 99"),
        ({"niter": -1}, "niter is -1"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        XUMX.from_config({**CASES["stereo"], **changes}, SOURCES)


def test_the_filter_needs_two_sources() -> None:
    with pytest.raises(CheckpointError, match="two sources"):
        XUMX.from_config({"sources": ["vocals"]}, ["vocals"])
    XUMX.from_config({"sources": ["vocals"], "residual": True}, ["vocals", "residual"])


def test_weights_that_do_not_fit_are_refused() -> None:
    state = published("stereo")
    del state["layer_dec.drums.dec.1.bias"]
    with pytest.raises(CheckpointError, match=r"drums: bn2\.bias is missing"):
        XUMX.convert_state(CASES["stereo"], {"checkpoint": state})
    for name in ("layer_enc.piano.enc.0.weight", "mean_scale.input_mean_piano", "mean_scale.odd", "stranger"):
        with pytest.raises(CheckpointError, match=name):
            XUMX.convert_state(CASES["stereo"], {"checkpoint": {**published("stereo"), name: torch.zeros(1)}})
    strange = {**published("stereo"), "layer_enc.drums.odd": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"drums hold layer_enc\.drums\.odd"):
        XUMX.convert_state(CASES["stereo"], {"checkpoint": strange})
