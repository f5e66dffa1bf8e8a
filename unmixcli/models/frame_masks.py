"""Frame masks and LSTM masks: a voice's mask from the bins of one frame, and the same with a memory.

The two networks of the fifth homework of ECE 277/477 (University of Rochester), in the sizes that the public solutions
agree on. Mono at 32 kHz, Hamming window of 4096 samples, hop 2048, magnitudes over the window's sum (the "spectrum"
scaling of scipy.signal.stft), of a track whose peak is 1.

    frame    2049 -> 1000 -> 400 -> 1000 -> 2049, leaky rectifiers, a sigmoid at the end: the voice's mask
    lstm     the 400 also go through a memory of 200 units, and both together through 600 -> 800 -> 400 to the decoder

What the mask leaves is the accompaniment. With a fusion that ignores the memory and hands the 400 on, the second
network is the first: that is how training goes on from a frame network's weights (`--init`).

Checkpoints: a dictionary with `state_dict` and `minValLoss`; the memory is called mem1, lstm or grucell, the fusion
fuse1/2, fusefc1/2 or fc_fuse1/2. Not taken over: the real part in place of the magnitude, a mask that is used twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.base import Normalization
from unmixcli.models.magnitude_network import MagnitudeNetwork

State = tuple[Tensor, Tensor] | Tensor
_SIZES = (1000, 400)
_MEMORY, _FUSION = 200, 800
_CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}
_MEMORY_NAMES = ("mem1", "lstm", "grucell", "memory")
_FUSION_NAMES = ("fuse", "fusefc", "fc_fuse")


class FrameMasks(MagnitudeNetwork):
    """See the module and `MagnitudeNetwork`. No settings of its own."""

    normalization: Normalization = "level"
    own_targets = ("vocals", "accompaniment")
    defaults: ClassVar[Mapping[str, Any]] = {"n_fft": 4096, "hop": 2048, "window": "hamming", "sample_rate": 32000}
    _run_in = 0.0

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__(config, stems, seconds=30.0, run_in=self._run_in)
        two = f"targets are {', '.join(self.targets)}, expected two, the masked one first"
        self.check((len(self.targets) == 2, two))
        wide, narrow = _SIZES
        self.fc1, self.fc2 = nn.Linear(self.bins, wide), nn.Linear(wide, narrow)
        self.fc3, self.fc4 = nn.Linear(narrow, wide), nn.Linear(wide, self.bins)
        # the base class divides by the root of the window's energy, these networks want the window's sum
        self._rescale = 1 / (self.scale * self.window_sum)
        _xavier(self)

    def level(self, mixture: Tensor) -> Tensor:
        """The peak. [B, 1, T] -> [B]"""
        return mixture.abs().amax((1, 2))

    def masks(self, magnitudes: Tensor) -> Tensor:
        """See `MagnitudeNetwork`."""
        return self._decode(self._encode(magnitudes))

    def _encode(self, magnitudes: Tensor) -> Tensor:
        return F.leaky_relu(self.fc2(F.leaky_relu(self.fc1(magnitudes * self._rescale))))

    def _decode(self, h: Tensor) -> Tensor:
        mask = torch.sigmoid(self.fc4(F.leaky_relu(self.fc3(h))).float())
        return torch.stack([mask, 1 - mask], 2)


class LSTMMasks(FrameMasks):
    """See the module and `MagnitudeNetwork`. Setting: `cell`, "lstm" or "gru" (in checkpoints with `grucell`)."""

    defaults: ClassVar[Mapping[str, Any]] = {**FrameMasks.defaults, "cell": "lstm"}
    choices = {"cell": _CELLS}  # noqa: RUF012 -- ClassVar in the base
    _run_in = 8.0

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__(config, stems)
        narrow = _SIZES[1]
        self.memory = _CELLS[self.settings["cell"]](narrow, _MEMORY, batch_first=True)
        self.fuse1, self.fuse2 = nn.Linear(narrow + _MEMORY, _FUSION), nn.Linear(_FUSION, narrow)
        _xavier(self)

    def masks(self, magnitudes: Tensor) -> Tensor:
        """See `MagnitudeNetwork`."""
        return self.masks_from(magnitudes, None)[0]

    def masks_from(self, magnitudes: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Masks, and the memory's state after them, with which the next frames go on; None: an empty one."""
        h = self._encode(magnitudes)
        memory, state = self.memory(h, state)
        h = F.leaky_relu(self.fuse1(torch.cat([memory, h], 2)))
        return self._decode(F.leaky_relu(self.fuse2(h))), state

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """See `SeparationModel`. A file without memory is that of a frame network, which it then stands for."""
        state = {_own_name(name): tensor for name, tensor in super().convert_state(config, states).items()}
        if not any(name.startswith(("memory.", "fuse")) for name in state):
            return {**state, **_pass_on(cls.read(config)["cell"])}
        gates = {"lstm": 4, "gru": 3}[cls.read(config)["cell"]]
        found = state.get("memory.weight_hh_l0")
        if found is not None and found.shape[0] != gates * _MEMORY:
            other = "gru" if gates == 4 else "lstm"
            raise CheckpointError(
                f"the memory's weight_hh has {found.shape[0]} rows, expected {gates * _MEMORY} of {_MEMORY} units.",
                hint=f'cell = "{other}" in the config, if it is of the other kind.',
            )
        return state


def _own_name(name: str) -> str:
    """A published key as ours: lstm.weight_ih -> memory.weight_ih_l0, fc_fuse1.bias -> fuse1.bias."""
    head, _, rest = name.partition(".")
    if head in _MEMORY_NAMES:
        return f"memory.{rest}" if rest.endswith("_l0") else f"memory.{rest}_l0"
    if head[:-1] in _FUSION_NAMES and head[-1:] in ("1", "2"):
        return f"fuse{head[-1]}.{rest}"
    return name


def _pass_on(cell: str) -> dict[str, Tensor]:
    """Memory and fusion with which the encoder's output comes to the decoder unchanged.

    A leaky rectifier of slope 1/100 turned upside down twice is undone: with q = leaky(-h), leaky(-100 q) is leaky(z)
    where h = leaky(z). The memory itself is random, or no gradient would ever reach it.
    """
    narrow = _SIZES[1]
    memory = _CELLS[cell](narrow, _MEMORY)
    first, second = torch.zeros(_FUSION, _MEMORY + narrow), torch.zeros(narrow, _FUSION)
    first[:narrow, _MEMORY:] = -torch.eye(narrow)
    second[:, :narrow] = -100 * torch.eye(narrow)
    # units that nothing leads out of yet: fan them in, so that training can use them
    nn.init.xavier_normal_(first[narrow:])
    return {
        **{f"memory.{name}": tensor.detach() for name, tensor in memory.state_dict().items()},
        "fuse1.weight": first,
        "fuse1.bias": torch.zeros(_FUSION),
        "fuse2.weight": second,
        "fuse2.bias": torch.zeros(narrow),
    }


def _xavier(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
