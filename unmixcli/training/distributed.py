"""Several processes that train one model (torchrun): who this one is, and how they agree.

Nothing here is needed by a run of one process, and every function then does nothing.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Others wait while one decodes and measures whole songs.
_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Team:
    """The processes of a run.

    Attributes:
        rank: of this one, 0 is the one that writes and speaks.
        world: how many there are.
        local_rank: among those of this machine: the number of its GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """This process writes files and messages."""
        return self.rank == 0

    def broadcast(self, values: Sequence[float], device: torch.device) -> list[float]:
        """The first process's numbers, in all."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64, device=device)
        dist.broadcast(shared, 0)
        return [float(value) for value in shared]

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Make tensors the first process's, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes."""
        if self.world == 1:
            return value
        shared = value.detach().clone()
        dist.all_reduce(shared)
        return shared / self.world

    def gather(self, value: Any) -> list[Any]:
        """What every process has, in all of them, by rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found


@contextmanager
def join_team(*, cuda: bool) -> Iterator[Team]:
    """The team that torchrun's variables describe; alone without them.

    Args:
        cuda: talk through the GPUs (NCCL), not through the CPU (gloo).
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Team()
        return
    team = Team(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_RANK", "0")))
    if cuda:
        torch.cuda.set_device(team.local_rank)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_TIMEOUT)
    try:
        yield team
        dist.barrier()  # nobody leaves while another still listens
    finally:
        # What still holds the group (DDP, in cycles that only the collector sees) must go first: its threads outlive
        # the interpreter otherwise, and end it with an abort.
        gc.collect()
        dist.destroy_process_group()
