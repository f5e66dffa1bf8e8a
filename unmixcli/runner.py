"""Run a model on segments, and keep going when the device runs out of memory or gives nonsense.

The ladder, on an out-of-memory error: a smaller batch, then smaller segments (where the model allows it), then the CPU
for the rest. A result that isn't finite is computed again in fp32, then on the CPU, then it is an error. Each step
down is told once, in one sentence; what was already done is kept.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from unmixcli.device import cpu_count
from unmixcli.errors import ModelError
from unmixcli.models.base import SeparationModel
from unmixcli.options import Precision
from unmixcli.segment import Segment
from unmixcli.streams import ordered_map

# Of a CUDA device's free memory, what a batch may take by the measure of the first segment; and the most segments that
# one gains from.
_SHARE = 0.6
_LARGEST_BATCH = 8

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Runner:
    """A model on a device.

    Args:
        model: in evaluation mode; it is moved to `device`.
        device: where to compute.
        precision: "auto" and "fp32" are float32; "fp16" and "bf16" are autocast.
        batch_size: segments per forward pass, 0 for the model's own number, or on CUDA as many as the free memory
            holds by what the first one took.
        tell: called with one sentence whenever the plan changes.
    """

    def __init__(
        self,
        model: SeparationModel,
        device: torch.device,
        *,
        precision: Precision = "auto",
        batch_size: int = 0,
        tell: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.model = model.to(device)
        self.device = device
        self.dtype = _DTYPES.get(precision)
        self.batch_size = batch_size or max(1, model.max_batch)
        self.tell = tell
        self._measures = batch_size == 0 and device.type == "cuda"  # the first forward pass, to size batches by it
        self._split = 0  # how often a segment is halved
        self._cpu_model: SeparationModel | None = None
        self._said: set[str] = set()

    def run(self, segments: Iterable[Segment], groups: int) -> Iterator[tuple[Segment, Tensor]]:
        """Estimates of each segment's used part, [G, S, C, used] float32 on the CPU, in order.

        Args:
            segments: mixtures [G, C, L]; one that comes without its mixture gives an estimate of zeros.
            groups: G.

        The segments come back without their mixtures.
        """

        def work(batch: list[Segment]) -> list[Tensor]:
            return self._run_batch(batch, groups)

        def keep(batches: Iterator[list[Segment]]) -> Iterator[list[Segment]]:
            for batch in batches:
                waiting.extend(replace(segment, mixture=None) for segment in batch)
                yield batch

        waiting: deque[Segment] = deque()
        workers = cpu_count() if self.device.type == "cpu" and self.model.cpu_workers else 1
        for estimates in ordered_map(work, keep(self._batches(segments)), workers=workers, prepare=_one_thread):
            while estimates:  # taken out: what is handed over is not held here as well
                yield waiting.popleft(), estimates.pop(0)

    def _batches(self, segments: Iterable[Segment]) -> Iterator[list[Segment]]:
        """Neighbours of the same length together, at most `batch_size` of them."""
        batch: list[Segment] = []
        for segment in segments:
            if batch and not _alike(batch[0], segment):
                yield batch
                batch = []
            batch.append(segment)
            if len(batch) >= self.batch_size:  # at once: the next segment is not even cut before it is needed
                yield batch
                batch = []
        if batch:
            yield batch

    def _run_batch(self, batch: list[Segment], groups: int) -> list[Tensor]:
        mixtures = [segment.mixture for segment in batch if segment.mixture is not None]
        if not mixtures:
            nothing = torch.zeros(groups, len(self.model.stems), self.model.channels, 1)
            return [nothing.expand(-1, -1, -1, segment.used) for segment in batch]
        estimates = self(_joined(mixtures)).split(groups)
        # Copies of the used parts: what waits in line must not hold its edges as well.
        return [
            estimate[..., segment.offset : segment.offset + segment.used].contiguous()
            for segment, estimate in zip(batch, estimates, strict=True)
        ]

    def __call__(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, L] -> estimates [B, S, C, L], float32 on the CPU, finite.

        Raises:
            ModelError: no device gave a finite result, or the shape is wrong.
        """
        estimates = self._on_device(mixture)
        expected = (mixture.shape[0], len(self.model.stems), *mixture.shape[1:])
        if tuple(estimates.shape) != expected:
            raise ModelError(f"the model gave the shape {tuple(estimates.shape)}, expected {expected}.")
        if _finite(estimates):
            return estimates
        return self._again(mixture)

    def _again(self, mixture: Tensor) -> Tensor:
        """Compute once more where a result was NaN or infinite: in fp32, then on the CPU."""
        if self.dtype is not None:
            self._say(f"{self.device} gave values that are not numbers in {self.dtype}; fp32 is used for such parts.")
            estimates = self._forward(self.model, self._moved(mixture), None).cpu()
            if _finite(estimates):
                return estimates
        if self.device.type != "cpu":
            self._say(f"{self.device} gave values that are not numbers; the CPU computes such parts.")
            estimates = self._forward(self._on_cpu(), mixture, None)
            if _finite(estimates):
                return estimates
        raise ModelError(
            "the model gave values that are not numbers (NaN or infinity).",
            hint="`unmix models verify` checks the weights, `unmix doctor` the devices.",
        )

    def _on_device(self, mixture: Tensor) -> Tensor:
        while True:
            try:
                return self._in_batches(mixture)
            except torch.OutOfMemoryError:
                if self.device.type == "cpu":
                    raise
                self._step_down(mixture)

    def _in_batches(self, mixture: Tensor) -> Tensor:
        if self._measures:
            self._measures = False
            (taken, free), estimates = self._measured(mixture)
            self.batch_size = max(1, min(_LARGEST_BATCH, int(_SHARE * free / max(1, taken)) * len(mixture)))
            return estimates
        return _joined([self._in_pieces(part, self._split) for part in mixture.split(self.batch_size)])

    def _measured(self, mixture: Tensor) -> tuple[tuple[int, int], Tensor]:
        """Bytes that a forward pass took and that are free after it, and its estimates."""
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        estimates = self._in_batches(mixture)
        taken = torch.cuda.max_memory_allocated(self.device) - before
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return (taken, torch.cuda.mem_get_info(self.device)[0] + kept), estimates

    def _in_pieces(self, mixture: Tensor, splits: int) -> Tensor:
        """Halve the segment `splits` times, each half with the model's edge as context."""
        middle = self._middle(mixture.shape[-1])
        if splits == 0 or middle is None:
            return self._forward(self.model, self._moved(mixture), self.dtype).cpu()
        edge = self.model.edge
        first = self._in_pieces(mixture[..., : middle + edge], splits - 1)[..., :middle]
        second = self._in_pieces(mixture[..., middle - edge :], splits - 1)[..., edge:]
        return torch.cat((first, second), dim=-1)

    def _middle(self, length: int) -> int | None:
        """Where a segment can be cut in two, or None if the model does not allow it."""
        multiple, edge = self.model.segment_multiple, self.model.edge
        middle = (length // 2) // multiple * multiple
        if self.model.fixed_segment or middle - edge <= 0 or middle + edge >= length:
            return None
        return middle

    def _step_down(self, mixture: Tensor) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()
        batch, length = mixture.shape[0], mixture.shape[-1]
        if min(self.batch_size, batch) > 1:
            self.batch_size = min(self.batch_size, batch) // 2
            self._say(f"{self.device} ran out of memory; going on with {self.batch_size} segment(s) at a time.")
        elif self._middle(length >> self._split) is not None and self._split < 6:
            self._split += 1
            seconds = (length >> self._split) / self.model.sample_rate
            self._say(f"{self.device} ran out of memory; going on with segments of about {seconds:.1f} s.")
        else:
            self._say(f"{self.device} ran out of memory even for one small segment; the CPU does the rest.")
            self.device, self.dtype, self._split = torch.device("cpu"), None, 0
            self.model = self.model.to(self.device)

    def _forward(self, model: SeparationModel, mixture: Tensor, dtype: torch.dtype | None) -> Tensor:
        device = mixture.device.type
        casting = torch.autocast(device, dtype=dtype) if dtype is not None else contextlib.nullcontext()
        with torch.inference_mode(), casting:
            estimates: Tensor = model(mixture)
            return estimates.float()

    def _moved(self, mixture: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return mixture.to(self.device)
        return mixture.pin_memory().to(self.device, non_blocking=True)  # copied while earlier work still runs

    def _on_cpu(self) -> SeparationModel:
        if self._cpu_model is None:
            self._cpu_model = copy.deepcopy(self.model).to("cpu")
        return self._cpu_model

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self.tell(message)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _finite(estimates: Tensor) -> bool:
    # One pass and no copy in the usual case: NaN and infinity survive a sum. A sum may overflow by itself.
    return math.isfinite(float(estimates.sum())) or bool(torch.isfinite(estimates).all())


def _one_thread() -> None:
    """Workers that run side by side share the cores: one intra-op thread each."""
    torch.set_num_threads(1)


def _alike(first: Segment, second: Segment) -> bool:
    if first.mixture is None or second.mixture is None:
        return first.mixture is None and second.mixture is None
    return first.mixture.shape == second.mixture.shape
