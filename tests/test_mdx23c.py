"""MDX23C against the public network's outputs, and what the pipeline must know of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mdx_toys import MDX23C_CASES, mixture, seeded_state

from unmixcli.errors import CheckpointError
from unmixcli.models.mdx23c import MDX23C

REFERENCES = Path(__file__).parent / "references" / "mdx.npz"
HQ: dict[str, Any] = {
    "n_fft": 8192, "hop_length": 1024, "dim_f": 4096, "num_channels": 128, "growth": 128, "num_scales": 5,
    "scale": [2, 2], "num_subbands": 4, "num_blocks_per_scale": 2, "bottleneck_factor": 4, "norm": "InstanceNorm",
    "act": "gelu", "chunk_size": 261120,
}  # fmt: skip
DRUMS = HQ | {"n_fft": 2048, "hop_length": 512, "dim_f": 1024, "chunk_size": 130560}
SMALL = MDX23C_CASES["two_stems"]


def stems_of(config: dict[str, Any]) -> tuple[str, ...]:
    return (config["target_instrument"],) if "target_instrument" in config else tuple(config["instruments"])


def build(config: dict[str, Any], stems: tuple[str, ...] | None = None) -> MDX23C:
    model = MDX23C.from_config(config, stems or stems_of(config)).eval()
    state = seeded_state({name: tuple(value.shape) for name, value in model.state_dict().items()})
    if config["norm"] == "BatchNorm":  # the seeds follow the published names, which have a counter as well
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        shapes |= {f"{name[:-12]}num_batches_tracked": () for name in shapes if name.endswith("running_mean")}
        state = seeded_state(shapes)
    model.load_state_dict(MDX23C.convert_state(config, {"checkpoint": state}))
    return model


@pytest.mark.parametrize("case", MDX23C_CASES)
def test_the_outputs_are_the_public_network_s(case: str) -> None:
    config = MDX23C_CASES[case]
    expected = np.load(REFERENCES)[f"mdx23c_{case}"]
    found = build(config)(mixture(config["chunk_size"])).numpy()
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=3e-6)


@pytest.mark.parametrize("cached", [1, 64 * 8 * 3, 64 * 8 * 15])
@pytest.mark.parametrize("case", ["two_stems", "group_norm"])
def test_pieces_of_frames_make_the_same_output(case: str, cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmixcli.models.tfc_tdf._CACHED", cached)
    config = MDX23C_CASES[case]
    found = build(config)(mixture(config["chunk_size"])).numpy()
    np.testing.assert_allclose(found, np.load(REFERENCES)[f"mdx23c_{case}"], atol=3e-6)


def test_weights_of_the_published_shapes() -> None:
    # checkpoint -> parameters, from the sizes of the published files
    two = ["vocals", "instrumental"]
    shapes = [
        (HQ | {"instruments": two}, 111_990_272),
        (HQ | {"instruments": ["bass", "drums", "vocals", "other"]}, 111_994_368),
        (HQ | {"instruments": ["dry", "other"], "target_instrument": "dry"}, 111_988_224),
        (DRUMS | {"instruments": ["kick", "snare", "toms", "hi_hat", "ride", "crash"]}, 109_378_624),
        (DRUMS | {"instruments": ["kick", "snare", "toms", "hi_hat", "cymbals"]}, 109_376_576),
    ]
    for config, expected in shapes:
        with torch.device("meta"):
            model = MDX23C.from_config(config, stems_of(config))
        assert sum(tensor.numel() for tensor in model.parameters()) == expected
    for name in ("first_conv.weight", "encoder_blocks.4.tfc_tdf.blocks.1.tdf.5.weight", "final_conv.2.weight"):
        assert name in model.state_dict()


def test_the_d1581_shape_is_built() -> None:
    config = HQ | {"n_fft": 12288, "hop_length": 2048, "dim_f": 6144, "growth": 64, "chunk_size": 2048 * 255}
    with torch.device("meta"):
        model = MDX23C.from_config(config | {"instruments": ["vocals", "instrumental"]}, ("vocals",))
    assert model.frame_multiple == 32


def test_a_stem_alone_is_that_stem() -> None:
    config = MDX23C_CASES["six_stems"]
    sound = mixture(config["chunk_size"])
    every = build(config)(sound)
    alone = build(config, ("toms", "crash"))(sound)
    torch.testing.assert_close(alone, every[:, [2, 5]], atol=1e-6, rtol=0)


def test_what_the_pipeline_is_told() -> None:
    model = build(SMALL)
    assert (model.segment_length, model.overlap, model.edge, model.normalization) == (1920, 0.5, 0, "none")
    assert model.covers_mixture
    assert model.context(1000) == (0, 920)
    assert model.context(5000) == (0, 0)
    other = build(SMALL | {"num_overlap": 4, "normalize": True})
    assert (other.overlap, other.normalization) == (0.75, "track")
    assert not build(MDX23C_CASES["target"]).covers_mixture


def test_published_names_of_stems_are_made_ours() -> None:
    assert build(SMALL | {"instruments": ["Vocals", "Hi Hat"]}, ("hi_hat",)).stems == ("hi_hat",)


def test_counters_of_training_are_left_out() -> None:
    state = {"a.num_batches_tracked": torch.zeros(()), "a.weight": torch.zeros(1)}
    assert list(MDX23C.convert_state({}, {"checkpoint": state})) == ["a.weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 3}, "no colour in its config"),
        ({"norm": "LayerNorm"}, "norm is 'LayerNorm'"),
        ({"norm": 5}, "norm is 5"),
        ({"norm": "GroupNorm3"}, "norm is GroupNorm3, but a layer has 8 channels"),
        ({"act": "swish"}, "act is 'swish'"),
        ({"act": "elu"}, "act is 'elu'"),
        ({"scale": [2]}, r"scale is \[2\]"),
        ({"scale": [2, 0]}, "scale is"),
        ({"n_fft": 511}, "n_fft is 511"),
        ({"hop_length": 0}, "hop_length is 0"),
        ({"dim_f": 300}, "dim_f is 300"),
        ({"dim_f": 0}, "dim_f is 0"),
        ({"num_scales": 0}, "num_scales is 0"),
        ({"num_scales": 1_000_000}, "num_scales is 1000000"),
        ({"num_subbands": 0}, "num_subbands is 0"),
        ({"num_subbands": 3}, "expected a multiple"),
        ({"num_channels": 0}, "num_channels is 0"),
        ({"num_channels": "128"}, "num_channels is '128'"),
        ({"growth": 100_000}, "growth is 100000"),
        ({"num_blocks_per_scale": 0}, "num_blocks_per_scale"),
        ({"bottleneck_factor": 0}, "bottleneck_factor is 0"),
        ({"bottleneck_factor": 64}, "bottleneck_factor is 64"),
        ({"chunk_size": 100}, "chunk_size is 100"),
        ({"num_overlap": 0}, "num_overlap is 0"),
        ({"normalize": "yes"}, "normalize is 'yes'"),
        ({"sample_rate": 1}, "sample_rate is 1"),
        ({"instruments": "vocals"}, "instruments are 'vocals'"),
        ({"instruments": [1, 2]}, "an instrument 1"),
        ({"instruments": ["drums"]}, "gives drums by its config, not vocals"),
        ({"target_instrument": 3}, "an instrument 3"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        MDX23C.from_config(SMALL | changes, ("vocals", "instrumental"))


def test_every_sample_counts_in_a_longer_segment() -> None:
    # a click at the end is heard: nothing is cut off when a segment is no multiple of the grid
    model = build(SMALL)
    sound = mixture(2500)
    changed = sound.clone()
    changed[..., -1] += 1
    assert (model(changed) - model(sound))[..., -50:].abs().max() > 1e-3
