"""What trainable networks share that divide a mixture among their targets and give all or some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.settings import require

_Network = TypeVar("_Network", bound="TargetMasks")


class TargetMasks(SeparationModel):
    """A network with a mask per target; it can be trained on any domain of the losses.

    A subclass takes config and stems, calls `__init__` with them, and writes `training_outputs`.

    Args:
        config: `targets`, all stems that the mixture is shared out to.
        stems: to give, some of the targets.
        otherwise: the targets where the config names none.

    Raises:
        CheckpointError: stems that are no targets.
    """

    trainable = True
    # numbers of the stems among the targets
    chosen: list[int]

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str], otherwise: Sequence[str]) -> None:
        super().__init__()
        self.targets = tuple(config.get("targets", otherwise))
        if not stems or not set(stems) <= set(self.targets):
            raise CheckpointError(f"{self._name()} gives {', '.join(self.targets)}; asked for were {tuple(stems)!r}.")
        self.chosen = [self.targets.index(stem) for stem in stems]
        self.covers_mixture = len(stems) == len(self.targets)
        self.stems = tuple(stems)

    @classmethod
    def from_config(cls: type[_Network], config: Mapping[str, Any], stems: Sequence[str]) -> _Network:
        """See `SeparationModel`."""
        return cls(config, stems)  # type: ignore[call-arg]

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]."""
        return self.training_outputs(mixture, {"waveforms"})["waveforms"]

    @classmethod
    def check(cls, *rules: tuple[bool, str]) -> None:
        """Raise a `CheckpointError` of the first rule of the settings that is broken."""
        require(cls._name(), rules)

    @classmethod
    def _name(cls) -> str:
        return cls.__module__.rpartition(".")[2]
