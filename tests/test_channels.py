"""Channel groups: every channel once, pairs by place, and a way back that changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from unmixcli.audio.channels import DEFAULT_LAYOUTS, LAYOUTS, channel_groups, describe_groups, from_model, to_model
from unmixcli.errors import InputError


@pytest.mark.parametrize(
    ("channels", "layout", "expected"),
    [
        (1, None, ((0,),)),
        (2, None, ((0, 1),)),
        (2, "stereo", ((0, 1),)),
        (3, None, ((0, 1), (2,))),
        (6, None, ((0, 1), (2,), (3,), (4, 5))),
        (6, "5.1(side)", ((0, 1), (2,), (3,), (4, 5))),
        (6, "6.0", ((0, 1), (2,), (3,), (4, 5))),
        (7, "6.1", ((0, 1), (2,), (3,), (4,), (5, 6))),
        (8, "7.1", ((0, 1), (2,), (3,), (4, 5), (6, 7))),
        (6, "unheard of", ((0, 1), (2,), (3,), (4, 5))),
        (6, "7.1", ((0, 1), (2,), (3,), (4, 5))),
        (9, None, ((0, 1), (2, 3), (4, 5), (6, 7), (8,))),
    ],
)
def test_groups(channels, layout, expected):
    assert channel_groups(channels, layout) == expected


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("model_channels", [1, 2])
def test_every_channel_is_in_one_group_and_comes_back(layout, model_channels, rng):
    channels = len(LAYOUTS[layout])
    groups = channel_groups(channels, layout, model_channels=model_channels)
    assert sorted(index for group in groups for index in group) == list(range(channels))
    block = rng.standard_normal((channels, 100)).astype(np.float32)
    batch = to_model(block, groups, model_channels)
    assert batch.shape == (len(groups), model_channels, 100)
    np.testing.assert_array_equal(from_model(batch, groups), block)


def test_several_stems_come_back_at_once(rng):
    groups = channel_groups(6, "5.1")
    estimates = rng.standard_normal((len(groups), 3, 2, 50)).astype(np.float32)
    result = from_model(estimates, groups, 6)
    assert result.shape == (3, 6, 50)
    np.testing.assert_array_equal(result[1, 4:6], estimates[3, 1])
    np.testing.assert_allclose(result[2, 2], estimates[1, 2].mean(axis=0), atol=1e-7)


def test_defaults_have_the_right_count():
    assert all(len(LAYOUTS[name]) == channels for channels, name in DEFAULT_LAYOUTS.items())


def test_no_channels_and_wide_groups_are_errors():
    with pytest.raises(InputError, match="0 channels"):
        channel_groups(0)
    with pytest.raises(ValueError, match="does not fit"):
        to_model(np.zeros((2, 4), np.float32), ((0, 1),), 1)


def test_what_is_done_is_said():
    assert describe_groups(channel_groups(2), 2) is None
    said = describe_groups(channel_groups(6, "5.1"), 6, "5.1")
    assert said is not None
    assert "front left + front right" in said
    assert "subwoofer" in said
    assert "nothing is mixed down" in said
    assert "9" in str(describe_groups(channel_groups(9), 9))
