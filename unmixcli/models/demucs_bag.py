"""Several networks of the Demucs family averaged stem by stem, as their published bags are.

Checked against `demucs.apply.BagOfModels` of the public package: htdemucs_ft (one network per stem), mdx_extra (four
for every stem) and mdx (two on the waveform and two hybrid ones, each for some stems). Only networks that a wanted
stem listens to are loaded and run.

Members may want different context for the same part of the track. The bag asks for the most that any of them wants,
and hands to each what it wants.

Members of a bag have one sample rate, one segment and one overlap, so that averaging segments is averaging tracks. It
differs from the published command with random shifts only: there each member draws its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unmixcli.errors import CheckpointError
from unmixcli.models import PACKAGE_CLASSES, architecture_class
from unmixcli.models.base import SeparationModel

MEMBERS = ("htdemucs", "hdemucs", "demucs")


class DemucsBag(SeparationModel):
    """See the module.

    Args:
        members: file part -> its network, which gives some of `stems`.
        weights: file part -> stem -> weight, > 0 for every stem of that network.
        stems: the outputs.
    """

    def __init__(
        self,
        members: Mapping[str, SeparationModel],
        weights: Mapping[str, Mapping[str, float]],
        stems: Sequence[str],
    ) -> None:
        super().__init__()
        # a name of its own for each part: a dictionary of modules can't have one called "keys"
        self.networks = nn.ModuleDict({_key(part): member for part, member in members.items()})
        self.stems = tuple(stems)
        first = next(iter(members.values()))
        used = first.segment_length - 2 * first.edge
        for member in members.values():
            facts = (member.sample_rate, member.channels, member.overlap, member.segment_length - 2 * member.edge)
            if facts != (first.sample_rate, first.channels, first.overlap, used):
                raise CheckpointError("the networks of a bag differ in sample rate, channels, overlap or segment.")
        self.sample_rate, self.channels, self.overlap = first.sample_rate, first.channels, first.overlap
        self.normalization, self.cpu_workers = first.normalization, first.cpu_workers
        self.fixed_segment = any(member.fixed_segment for member in members.values())
        self._alike = all(_protocol(member) == _protocol(first) for member in members.values())
        self.edge, self.edge_padding = (
            (first.edge, first.edge_padding) if self._alike else (self._reach(members), "zero")
        )
        self.segment_length = used + 2 * self.edge
        # [member][stem of the bag]: its output there and the weight it has, which sum to one over members
        self._shares: list[list[tuple[int, int, float]]] = []
        for part, member in members.items():
            shares = []
            for number, stem in enumerate(member.stems):
                total = sum(weights[other].get(stem, 0.0) for other in members)
                shares.append((number, self.stems.index(stem), weights[part][stem] / total))
            self._shares.append(shares)

    @staticmethod
    def _reach(members: Mapping[str, SeparationModel]) -> int:
        return max(max(member.context(1)) for member in members.values())

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> DemucsBag:
        """See `SeparationModel`. Keys: `members`, file part -> {"architecture", "config"}; `weights`, file part ->
        {stem: weight} (default: each network counts the same for every stem); `segment`, seconds, for all members."""
        members = _members(config)
        weights = _weights(config, members, stems)
        networks = {}
        for part, (architecture, settings) in members.items():
            heard = [stem for stem in stems if weights[part].get(stem, 0.0) > 0]
            if heard:
                networks[part] = architecture_class(architecture).from_config(settings, heard)
        return cls(networks, weights, stems)

    @classmethod
    def complete_config(cls, config: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The members' arguments as their packages hold them, with the entry's own laid over them."""
        stated = config.get("members", {})
        members = dict(stated) if isinstance(stated, Mapping) else {}
        for part, values in settings.items():
            member = members.get(part, {})
            architecture = member.get("architecture") or PACKAGE_CLASSES.get(str(values.get("class")))
            if architecture not in MEMBERS:
                raise CheckpointError(
                    f"{part} holds {values.get('class') or 'no class'}, expected a network of {', '.join(MEMBERS)}.",
                    hint='say which it is in the config: "members": {"PART": {"architecture": …, "config": {…}}}.',
                )
            own = architecture_class(architecture).complete_config(member.get("config", {}), {part: values})
            members[part] = {"architecture": architecture, "config": own}
        return {**config, "members": members}

    @classmethod
    def parts_needed(cls, config: Mapping[str, Any], parts: Sequence[str], stems: Sequence[str]) -> tuple[str, ...]:
        """The members that a wanted stem listens to."""
        weights = _weights(config, parts, stems)
        return tuple(part for part in parts if any(weights[part].get(stem, 0.0) > 0 for stem in stems))

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The published tensors of every member, named after its file part."""
        members = _members(config)
        return {
            f"networks.{_key(part)}.{name}": tensor
            for part, state in states.items()
            for name, tensor in architecture_class(members[part][0])
            .convert_state(members[part][1], {part: state})
            .items()
        }

    def context(self, used: int) -> tuple[int, int]:
        """See `SeparationModel`: what all members want, or the same on both sides for each of them to cut from."""
        return self._first.context(used) if self._alike else (self.edge, self.edge)

    @property
    def _first(self) -> SeparationModel:
        first: SeparationModel = next(iter(self.networks.values()))  # type: ignore[assignment]
        return first

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]."""
        length = mixture.shape[-1]
        used = length - 2 * self.edge
        whole = self._alike or used <= 0  # every member hears all of it
        result = mixture.new_zeros(len(mixture), len(self.stems), self.channels, length)
        for member, shares in zip(self.networks.values(), self._shares, strict=True):
            assert isinstance(member, SeparationModel)
            if whole:
                estimate, target = member(mixture), result
            else:
                before, after = member.context(used)
                heard = mixture[..., self.edge - before : length - self.edge + after]
                estimate = member(heard)[..., before : before + used]
                target = result[..., self.edge : self.edge + used]
            for own, number, share in shares:
                target[:, number] += share * estimate[:, own]
        return result


def _key(part: str) -> str:
    return f"of_{part}"


def _protocol(member: SeparationModel) -> tuple[Any, ...]:
    """What decides the context of a member's segments."""
    return type(member), member.segment_length, member.edge, member.edge_padding


def _members(config: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Part -> architecture and settings of each member, the bag's segment among them.

    Raises:
        CheckpointError: not a list of networks of this family.
    """
    if unknown := set(config) - {"members", "weights", "segment"}:
        raise CheckpointError(f"demucs_bag has no {', '.join(sorted(unknown))} in its config.")
    members = config.get("members")
    if not isinstance(members, Mapping) or not members:
        raise CheckpointError("demucs_bag's members are missing from its config.")
    read = {}
    for part, member in members.items():
        architecture = member.get("architecture") if isinstance(member, Mapping) else None
        settings = member.get("config", {}) if isinstance(member, Mapping) else None
        if architecture not in MEMBERS or not isinstance(settings, Mapping):
            raise CheckpointError(f"demucs_bag's member {part} is {member!r}, expected one of {', '.join(MEMBERS)}.")
        # a bag may not make HTDemucs work on another length than it was trained on
        segment = {"segment": config["segment"]} if "segment" in config and architecture != "htdemucs" else {}
        read[str(part)] = (architecture, {**settings, **segment})
    return read


def _weights(config: Mapping[str, Any], parts: Collection[str], stems: Sequence[str]) -> dict[str, dict[str, float]]:
    """Part -> stem -> weight.

    Raises:
        CheckpointError: something else than numbers >= 0, or a stem that no member counts for.
    """
    stated = config.get("weights")
    if stated is None:
        return {part: dict.fromkeys(stems, 1.0) for part in parts}
    if not isinstance(stated, Mapping) or set(stated) != set(parts):
        raise CheckpointError(f"demucs_bag's weights are {stated!r}, expected some for each of {', '.join(parts)}.")
    weights = {}
    for part, row in stated.items():
        values: list[Any] = list(row.values()) if isinstance(row, Mapping) else [None]
        if not all(type(value) in (int, float) and 0 <= value <= 1e6 for value in values):
            raise CheckpointError(f"demucs_bag's weights of {part} are {row!r}, expected a number >= 0 for a stem.")
        weights[part] = {stem: float(value) for stem, value in row.items()}
    if missing := [stem for stem in stems if not any(row.get(stem, 0.0) > 0 for row in weights.values())]:
        raise CheckpointError(f"no member of this bag counts for {', '.join(missing)}.")
    return weights
