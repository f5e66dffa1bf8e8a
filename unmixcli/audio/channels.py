"""More channels than a model takes: which channels go through it together.

Separation models know mono and stereo. A file with more channels is cut into groups that share a sound stage: the
front pair, the side pair and the back pair each run as stereo, the centre, the subwoofer and anything unpaired run
alone. Groups are the batch axis of the model, so that nothing is mixed down and every channel comes back in its place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unmixcli.errors import InputError

ChannelGroups = tuple[tuple[int, ...], ...]
Samples = NDArray[np.float32]

# Order of the speakers in memory, as in WAV files (and FLAC, and everything FFmpeg decodes): ascending bits of the
# WAVEFORMATEXTENSIBLE channel mask. L front left, R right, C centre, LFE subwoofer, b back, s side, t top.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "mono": ("C",),
    "stereo": ("L", "R"),
    "2.1": ("L", "R", "LFE"),
    "3.0": ("L", "R", "C"),
    "3.0(back)": ("L", "R", "Cb"),
    "3.1": ("L", "R", "C", "LFE"),
    "4.0": ("L", "R", "C", "Cb"),
    "quad": ("L", "R", "Lb", "Rb"),
    "quad(side)": ("L", "R", "Ls", "Rs"),
    "4.1": ("L", "R", "C", "LFE", "Cb"),
    "5.0": ("L", "R", "C", "Lb", "Rb"),
    "5.0(side)": ("L", "R", "C", "Ls", "Rs"),
    "5.1": ("L", "R", "C", "LFE", "Lb", "Rb"),
    "5.1(side)": ("L", "R", "C", "LFE", "Ls", "Rs"),
    "6.0": ("L", "R", "C", "Cb", "Ls", "Rs"),
    "6.1": ("L", "R", "C", "LFE", "Cb", "Ls", "Rs"),
    "6.1(back)": ("L", "R", "C", "LFE", "Lb", "Rb", "Cb"),
    "7.0": ("L", "R", "C", "Lb", "Rb", "Ls", "Rs"),
    "7.1": ("L", "R", "C", "LFE", "Lb", "Rb", "Ls", "Rs"),
    "7.1(wide)": ("L", "R", "C", "LFE", "Lb", "Rb", "Lc", "Rc"),
    "5.1.2": ("L", "R", "C", "LFE", "Lb", "Rb", "Ltf", "Rtf"),
    "5.1.4": ("L", "R", "C", "LFE", "Lb", "Rb", "Ltf", "Rtf", "Ltb", "Rtb"),
    "7.1.4": ("L", "R", "C", "LFE", "Lb", "Rb", "Ls", "Rs", "Ltf", "Rtf", "Ltb", "Rtb"),
}

# What a bare channel count means, where a file names no layout.
DEFAULT_LAYOUTS: dict[int, str] = {
    1: "mono",
    2: "stereo",
    3: "3.0",
    4: "quad",
    5: "5.0",
    6: "5.1",
    7: "6.1",
    8: "7.1",
    10: "5.1.4",
    12: "7.1.4",
}

# Vorbis and Opus keep channels in their own order (Vorbis I specification 4.3.9, RFC 7845 5.1.1.2) and libsndfile
# gives them so; index i holds where the i-th channel in WAV order is found.
VORBIS_ORDER: dict[int, tuple[tuple[int, ...], str]] = {
    3: ((0, 2, 1), "3.0"),
    4: ((0, 1, 2, 3), "quad"),
    5: ((0, 2, 1, 3, 4), "5.0"),
    6: ((0, 2, 1, 5, 3, 4), "5.1"),
    7: ((0, 2, 1, 6, 5, 3, 4), "6.1"),
    8: ((0, 2, 1, 7, 5, 6, 3, 4), "7.1"),
}

_SPOKEN = {
    "L": "front left",
    "R": "front right",
    "C": "centre",
    "LFE": "subwoofer",
    "Cb": "back centre",
    "Lb": "back left",
    "Rb": "back right",
    "Ls": "side left",
    "Rs": "side right",
    "Lc": "front left of centre",
    "Rc": "front right of centre",
    "Ltf": "top front left",
    "Rtf": "top front right",
    "Ltb": "top back left",
    "Rtb": "top back right",
}


def speakers(channels: int, layout: str | None = None) -> tuple[str, ...] | None:
    """Speaker names of each channel, or None where neither the layout nor the count says."""
    if layout is not None:
        named = LAYOUTS.get(layout)
        if named is not None and len(named) == channels:
            return named
    default = DEFAULT_LAYOUTS.get(channels)
    return LAYOUTS[default] if default is not None else None


def channel_groups(channels: int, layout: str | None = None, *, model_channels: int = 2) -> ChannelGroups:
    """Which channels go through the model together.

    Args:
        channels: C of the file, 1 or more.
        layout: its name as in `AudioInfo.channel_layout` ("5.1", "7.1(wide)" …), or None.
        model_channels: channels of the model; with 1 every channel is a group of its own.

    Returns:
        Tuples of channel indices, every channel in exactly one; pairs are (left, right). Channels whose speakers
        are not known are paired in order: (0, 1), (2, 3), …

    Raises:
        InputError: fewer than one channel.
    """
    if channels < 1:
        raise InputError(f"{channels} channels, expected 1 or more.", hint="The file's header is damaged.")
    if model_channels == 1:
        return tuple((channel,) for channel in range(channels))
    names = speakers(channels, layout)
    if names is None:
        return tuple(tuple(range(first, min(first + 2, channels))) for first in range(0, channels, 2))
    position = {name: index for index, name in enumerate(names)}
    groups: list[tuple[int, ...]] = []
    for index, name in enumerate(names):
        if name.startswith("L") and name != "LFE":
            partner = position.get("R" + name[1:])
            groups.append((index,) if partner is None else (index, partner))
        elif not name.startswith("R") or "L" + name[1:] not in position:
            groups.append((index,))
    return tuple(groups)


def to_model(block: Samples, groups: ChannelGroups, model_channels: int) -> Samples:
    """Channels of a file as a batch for a model.

    Args:
        block: [C, T].
        groups: of `channel_groups`.
        model_channels: channels each group gets; a group of one is copied to all of them.

    Returns:
        [G, model_channels, T], float32, a copy.

    Raises:
        ValueError: a group has more channels than the model.
    """
    batch = np.empty((len(groups), model_channels, block.shape[1]), np.float32)
    for row, group in zip(batch, groups, strict=True):
        if len(group) == 1:
            row[:] = block[group[0]]
        elif len(group) == model_channels:
            row[:] = block[list(group)]
        else:
            raise ValueError(f"a group of {len(group)} channels does not fit a model with {model_channels}")
    return batch


def from_model(estimates: Samples, groups: ChannelGroups, channels: int | None = None) -> Samples:
    """The way back from `to_model`.

    Args:
        estimates: [G, model_channels, T] or, for several stems at once, [G, S, model_channels, T].
        groups: the same as on the way in.
        channels: C; None: the highest index in `groups` plus one.

    Returns:
        [C, T], or [S, C, T]. A group of one channel is the mean of the model's channels.
    """
    total = max(max(group) for group in groups) + 1 if channels is None else channels
    result = np.zeros((*estimates.shape[1:-2], total, estimates.shape[-1]), np.float32)
    for estimate, group in zip(estimates, groups, strict=True):
        if len(group) == 1:
            # The mean of equal channels is not always exact in float32, the channel itself is.
            first = estimate[..., 0, :]
            same = estimate.shape[-2] == 1 or bool((estimate == estimate[..., :1, :]).all())
            result[..., group[0], :] = first if same else estimate.mean(axis=-2, dtype=np.float64)
        else:
            result[..., list(group), :] = estimate
    return result


def describe_groups(groups: ChannelGroups, channels: int, layout: str | None = None) -> str | None:
    """One sentence that says what is done with more than two channels; None for mono and stereo."""
    if channels <= 2:
        return None
    names = speakers(channels, layout)

    def say(group: Sequence[int]) -> str:
        if names is None:
            return "+".join(str(index + 1) for index in group)
        return " + ".join(_SPOKEN[names[index]] for index in group)

    pairs = [say(group) for group in groups if len(group) == 2]
    singles = [say(group) for group in groups if len(group) == 1]
    parts = []
    if pairs:
        parts.append(f"{'pairs' if len(pairs) > 1 else 'the pair'} {', '.join(pairs)} as stereo")
    if singles:
        parts.append(f"{', '.join(singles)} on {'their' if len(singles) > 1 else 'its'} own")
    kind = f" ({layout})" if layout else ""
    return f"{channels} channels{kind}: separated as {' and '.join(parts)}; nothing is mixed down."
