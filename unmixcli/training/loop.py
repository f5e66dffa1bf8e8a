"""The loop: batch, loss, step, average, and now and then a measurement and a checkpoint.

A step is a function of the checkpoint before it and of the excerpts' numbers: what is random comes from the seed, and a
run that was killed ends with the weights it would have had (bit for bit on a CPU; with `minutes` as the only limit the
clock decides where the run ends). Whatever depends on the clock is decided by the first process for all.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unmixcli.errors import CheckpointError, ModelError, OptionError
from unmixcli.models.base import SeparationModel
from unmixcli.progress import Progress, ProgressCallback, ignore_progress
from unmixcli.training import checkpoints
from unmixcli.training.distributed import Team
from unmixcli.training.ema import MovingAverage
from unmixcli.training.feed import Batch, Feed
from unmixcli.training.log import RunLog
from unmixcli.training.losses import Objective
from unmixcli.training.optimise import Schedule, make_optimiser
from unmixcli.training.recipe import Recipe
from unmixcli.training.validation import Measured, Passage, measure

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Steps in a row without a usable gradient; a scaler needs about ten to find its height.
_BAD_STEPS = 50


@dataclass
class Standing:
    """Where a run is.

    Attributes:
        step: updates made.
        position: excerpts used, by all processes.
        minutes: of all sessions.
        best_score: mean validation SDR of the best weights, dB.
        best_step: when that was; -1: never measured.
        best_values: stem -> SDR at that time.
        measured_step: the last measurement's step; -1: none.
        measured_minutes: and its time.
        bad_steps: without a usable gradient, in a row.
    """

    step: int = 0
    position: int = 0
    minutes: float = 0.0
    best_score: float = -math.inf
    best_step: int = -1
    best_values: dict[str, float] | None = None
    measured_step: int = -1
    measured_minutes: float = 0.0
    bad_steps: int = 0


class _Pass(nn.Module):
    """Model and loss as one module, so that torch's DDP sees the forward pass it must listen to."""

    def __init__(self, model: SeparationModel, objective: Objective, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.dtype = dtype

    def forward(self, mixture: Tensor, references: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        casting = torch.autocast(mixture.device.type, dtype=self.dtype) if self.dtype else nullcontext()
        self.model.hint(references)
        with casting:
            outputs = self.model.training_outputs(mixture, self.objective.wanted)
        # losses square, divide and take logarithms: half precision is for the network only
        outputs = {name: value if value.is_complex() else value.float() for name, value in outputs.items()}
        total, parts = self.objective(outputs, references, known, self.model, mixture)
        own = self.model.own_loss()
        return total if own is None else total + own, parts


class Trainer:
    """A run.

    Args:
        recipe: what to do.
        model: freshly built, in its initial state.
        feed: where batches come from.
        passages: to measure on; empty: nothing is measured.
        folder: of the run; it exists.
        device: where to compute.
        team: the processes that train together.
        fingerprint: of the data, kept in the checkpoint.
        on_progress: told of steps, measurements and warnings (of the first process).
    """

    def __init__(
        self,
        recipe: Recipe,
        model: SeparationModel,
        feed: Feed,
        passages: Sequence[Passage],
        *,
        folder: Path,
        device: torch.device,
        team: Team | None = None,
        fingerprint: str = "",
        on_progress: ProgressCallback = ignore_progress,
    ) -> None:
        section = recipe.training
        if section.precision == "fp16" and device.type != "cuda":
            raise OptionError(f"precision fp16 needs CUDA, this is {device.type}.", hint="fp32, or bf16.")
        self.recipe, self.feed, self.passages = recipe, feed, passages
        self.folder, self.device, self.team = folder, device, team or Team()
        self.fingerprint, self.on_progress = fingerprint, on_progress
        self.model = model.to(device).train()
        self.average = MovingAverage(self.model, section.ema)
        self.objective = Objective(recipe.loss, section.stem_weights)
        self.optimiser = make_optimiser(self.model, recipe.optimiser)
        self.schedule = Schedule(recipe.schedule)
        self.scaler = torch.amp.GradScaler("cuda", enabled=section.precision == "fp16")
        self.standing = Standing()
        self.stop_requested = False
        self.resumed = False
        self._sums = torch.zeros(len(recipe.loss) + 3, dtype=torch.float64)  # loss, summands, norm, steps
        self._pass: nn.Module = _Pass(self.model, self.objective, _DTYPES.get(section.precision))
        if self.team.world > 1:
            ids = [device.index or 0] if device.type == "cuda" else None
            self._pass = nn.parallel.DistributedDataParallel(self._pass, device_ids=ids)
        self._log: RunLog | None = None
        self._began = self._saved = self._logged = time.monotonic()
        self._minutes_before = 0.0

    # ------------------------------------------------------------ the run

    @property
    def finished(self) -> bool:
        """Steps or minutes are used up."""
        section, now = self.recipe.training, self.standing
        return bool(section.steps and now.step >= section.steps) or bool(
            section.minutes and now.minutes >= section.minutes
        )

    def run(self, *, stop_after: float = math.inf) -> bool:
        """Train until the recipe's limit.

        Args:
            stop_after: minutes of this session after which a checkpoint is written and the run waits to be resumed.

        Returns:
            True if the run is finished, False if it stopped early (`stop_after`, `stop_requested`).

        Raises:
            ModelError: losses or gradients that stay useless.
            UnmixError: data that can't be read, files that can't be written.
        """
        self._began = self._saved = self._logged = time.monotonic()
        self._minutes_before = self.standing.minutes
        if self.team.leads:
            self._log = RunLog(self.folder, self.standing.step if self.resumed else -1)
        before = torch.get_float32_matmul_precision()
        if self.recipe.training.precision == "tf32":
            torch.set_float32_matmul_precision("high")
        try:
            with closing(self.feed.batches(self.standing.position)) as batches:
                return self._loop(batches, stop_after)
        finally:
            torch.set_float32_matmul_precision(before)
            if self._log is not None:
                self._log.draw()
                self._log.close()

    def _loop(self, batches: Generator[Batch, None, None], stop_after: float) -> bool:
        if self.recipe.model.init and not self.resumed and self.passages:
            self._measure()  # a start from good weights must not be replaced by worse ones
        while True:
            done, measure_now, save_now, progress, minutes = self.team.broadcast(self._due(stop_after), self.device)
            self.standing.minutes = minutes
            if measure_now:
                self._measure()
            if save_now:
                self.save()
            if done:
                return self.finished
            self._step(batches, progress)

    def _due(self, stop_after: float) -> tuple[bool, bool, bool, float, float]:
        """What to do before the next step: stop, measure, save; and how much of the run is over, and its minutes."""
        section, validation, now = self.recipe.training, self.recipe.validation, self.standing
        session = (time.monotonic() - self._began) / 60
        now.minutes = self._minutes_before + session
        finished = self.finished
        stop = finished or self.stop_requested or session >= stop_after
        waited = now.minutes - now.measured_minutes
        measure_now = now.measured_step != now.step and bool(self.passages) and (
            finished
            or (now.step > 0 and bool(validation.steps) and now.step % validation.steps == 0)
            or bool(validation.minutes and waited >= validation.minutes)
        )  # fmt: skip
        by_step = now.step > 0 and bool(section.checkpoint_steps) and now.step % section.checkpoint_steps == 0
        by_clock = time.monotonic() - self._saved >= 60 * section.checkpoint_minutes
        save_now = stop or measure_now or by_step or by_clock
        progress = now.step / section.steps if section.steps else now.minutes / section.minutes
        return stop, measure_now, save_now, progress, now.minutes

    # ------------------------------------------------------------ a step

    def _step(self, batches: Iterator[Batch], progress: float) -> None:
        factor = self.schedule.factor(self.standing.step, progress)
        rate = float(self.recipe.optimiser.learning_rate or 0.0) * factor
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        count = self.recipe.training.accumulate
        update = self._line_search if self.recipe.optimiser.kind == "lbfgs" else self._descend
        loss, parts, norm = update(self._moved(next(batches)) for _ in range(count))
        self.standing.step += 1
        self.standing.position += count * self.feed.batch_size * self.feed.world
        if math.isfinite(norm):
            self.standing.bad_steps = 0
            self.average.update(self.model, self.standing.step)
            one = torch.tensor([1.0], dtype=torch.float64)
            self._sums += torch.cat([loss[None].cpu().double(), parts.cpu().double(), one * norm, one])
        else:
            self._count_bad_step()
        if self.standing.step % self.recipe.training.log_every == 0:
            self._write_log(rate)

    def _descend(self, batches: Iterator[Batch]) -> tuple[Tensor, Tensor, float]:
        """One AdamW update: loss and summands (means of the batches) and the gradient's norm before clipping."""
        section = self.recipe.training
        self.optimiser.zero_grad(set_to_none=True)
        loss, parts = torch.zeros((), device=self.device), torch.zeros(len(self.recipe.loss), device=self.device)
        for number, batch in enumerate(batches):
            with self._talking(number == section.accumulate - 1):
                value, summands = self._pass(*batch)
                self.scaler.scale(value / section.accumulate).backward()
            loss, parts = loss + value.detach() / section.accumulate, parts + summands / section.accumulate
        self.scaler.unscale_(self.optimiser)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), section.clip or math.inf))
        if math.isfinite(norm) or self.scaler.is_enabled():  # the scaler leaves a useless step out by itself
            self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss, parts, norm

    def _line_search(self, batches: Iterator[Batch]) -> tuple[Tensor, Tensor, float]:
        """One L-BFGS step, which evaluates the same batches several times."""
        kept = list(batches)
        first: list[Tensor] = []

        def closure() -> Tensor:
            self.optimiser.zero_grad(set_to_none=True)
            total = torch.zeros((), device=self.device)
            parts = torch.zeros(len(self.recipe.loss), device=self.device)
            for number, batch in enumerate(kept):
                with self._talking(number == len(kept) - 1):
                    value, summands = self._pass(*batch)
                    (value / len(kept)).backward()
                total, parts = total + value.detach() / len(kept), parts + summands / len(kept)
            if not first:
                norms = [p.grad.norm() for p in self.model.parameters() if p.grad is not None]
                first.extend([total, parts, torch.stack(norms).norm()])
            return self.team.mean(total)  # every process must walk the same line

        self.optimiser.step(closure)  # type: ignore[arg-type]
        loss, parts, norm = first
        return loss, parts, float(norm) if math.isfinite(float(loss)) else math.nan

    def _talking(self, last: bool) -> AbstractContextManager[None]:
        """DDP adds the processes' gradients up in the last pass of a step only."""
        ddp = self._pass
        if last or not isinstance(ddp, nn.parallel.DistributedDataParallel):
            return nullcontext()
        quiet: AbstractContextManager[None] = ddp.no_sync()
        return quiet

    def _moved(self, batch: Batch) -> Batch:
        return Batch(*(part.to(self.device, non_blocking=True) for part in batch))

    def _count_bad_step(self) -> None:
        self.standing.bad_steps += 1
        if self.standing.bad_steps >= _BAD_STEPS or (not self.scaler.is_enabled() and self._broken()):
            raise ModelError(
                f"training broke down at step {self.standing.step}: loss or gradient is not a number.",
                hint="a lower learning_rate, a clip of 1 to 5, a longer warmup, or precision bf16 or fp32.",
            )

    def _broken(self) -> bool:
        return not all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters())

    # ------------------------------------------------------------ telling

    def _write_log(self, rate: float) -> None:
        shared = self._sums.clone().to(self.device if self.device.type == "cuda" else "cpu")
        sums = self.team.mean(shared).cpu()
        self._sums.zero_()
        count = float(sums[-1]) or math.nan
        now, elapsed = time.monotonic(), self.standing.minutes
        steps = self.recipe.training.log_every
        audio = steps * self.recipe.training.accumulate * self.feed.batch_size * self.feed.world
        speed = audio * self.recipe.data.seconds / max(now - self._logged, 1e-9)
        self._logged = now
        if self._log is None:
            return
        loss, *parts, norm = (float(value) / count for value in sums[:-1])
        self._log.training(
            {
                "step": self.standing.step,
                "minutes": elapsed,
                "excerpts": self.standing.position,
                "learning_rate": rate,
                "loss": loss,
                **dict(zip(_unique(self.objective.titles), parts, strict=True)),
                "gradient_norm": norm,
                "audio_per_second": speed,
            }
        )
        total = self.recipe.training.steps or None
        message = f"loss {loss:.5g}, {speed:.1f} s of audio a second, {elapsed:.1f} min"
        self._tell(Progress("train", self.recipe.name, self.standing.step, total, "steps", message))

    def _measure(self) -> None:
        """Measure the average's weights; keep them if they are the best so far."""
        began = time.monotonic()
        state = checkpoints.random_state(self.device)
        self.average.refresh(self.model)
        self.team.align(self.average.model.buffers())  # each has seen the statistics of other batches
        own = self.passages[self.team.rank :: self.team.world]
        told = self.on_progress if self.team.leads else ignore_progress
        found = measure(self.average.model, own, device=self.device, subject=self.recipe.name, on_progress=told)
        shares = self.team.gather(dict(found.values))
        measured = Measured(found.stems, {name: scores for share in shares for name, scores in share.items()})
        checkpoints.set_random_state(state, self.device)
        now = self.standing
        now.measured_step, now.measured_minutes = now.step, now.minutes
        self.schedule.observe(measured.score)
        better = measured.score > now.best_score or not math.isfinite(now.best_score)
        if better:
            now.best_score, now.best_step, now.best_values = measured.score, now.step, measured.by_stem
            self._keep()
        if self._log is not None:
            columns = {f"sdr_{stem}": value for stem, value in measured.by_stem.items()}
            self._log.validation({"step": now.step, "minutes": now.minutes, "sdr": measured.score, **columns})
            self._log.draw()
        self._logged += time.monotonic() - began  # not part of the speed of training
        values = ", ".join(f"{stem} {value:.2f}" for stem, value in measured.by_stem.items() if math.isfinite(value))
        message = f"validation SDR {measured.score:.2f} dB ({values}){', the best so far' if better else ''}"
        self._tell(Progress("validated", self.recipe.name, now.step, None, "steps", message))

    def _keep(self) -> None:
        """Write the average's weights as the run's result so far."""
        if self.team.leads:
            from unmixcli.training.export import write_result

            write_result(self.folder, self.recipe, self.average.model, self.standing, len(self.passages))

    def _tell(self, event: Progress) -> None:
        if self.team.leads:
            self.on_progress(event)

    # ------------------------------------------------------------ checkpoints

    def save(self) -> None:
        """Write a checkpoint (every process must call this)."""
        states = self.team.gather(checkpoints.random_state(self.device))
        self._saved = time.monotonic()
        if not self.passages:
            self.average.refresh(self.model)
            self._keep()
        if not self.team.leads:
            return
        checkpoints.save_checkpoint(
            self.folder / checkpoints.FILE,
            {
                "recipe": self.recipe.as_json(),
                "fingerprint": self.fingerprint,
                "standing": asdict(self.standing),
                "model": self.model.state_dict(),
                "average": self.average.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state(),
                "scaler": self.scaler.state_dict(),
                "sums": self._sums,
                "random": states,
            },
        )

    def resume(self) -> None:
        """Go on from the folder's checkpoint.

        Raises:
            CheckpointError: there is none, or it is of another recipe or other data.
        """
        path = self.folder / checkpoints.FILE
        state = checkpoints.load_checkpoint(path)
        if changed := _changed(state["recipe"], self.recipe.as_json()):
            raise CheckpointError(
                f"{path} is of a recipe with another {', '.join(changed)}.",
                hint="use the recipe it was begun with, or start a new run from its weights with --init.",
            )
        if state["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"{path} was trained on other tracks than those given now.",
                hint="give the same data, or start a new run from its weights with --init.",
            )
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.standing = Standing(**state["standing"])
        self._sums = state["sums"]
        self.resumed = True
        if len(state["random"]) == self.team.world:
            with contextlib.suppress(RuntimeError):  # of another kind of device: the seed's own numbers do
                checkpoints.set_random_state(state["random"][self.team.rank], self.device)


# What may change between two sessions of a run: when it stops and what is told, not what is computed.
_FREE: dict[str, frozenset[str]] = {
    "about": frozenset(),
    "training": frozenset({"steps", "minutes", "log_every", "checkpoint_minutes", "checkpoint_steps"}),
    "data": frozenset({"train", "validation", "layout", "workers", "threads"}),
    "validation": frozenset({"steps", "minutes", "seconds", "excerpts"}),
    "result": frozenset({"name", "title", "precision", "licence", "training_data", "notes"}),
}


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Keys of two recipes that differ and may not."""
    found = []
    for section, values in new.items():
        before = old.get(section)
        if section == "about" or before == values:
            continue
        if not isinstance(values, dict) or not isinstance(before, dict):
            found.append(section)
            continue
        free = _FREE.get(section, frozenset())
        found += [f"{section}.{key}" for key in values if key not in free and before.get(key) != values[key]]
    return found


def _unique(names: Sequence[str]) -> list[str]:
    """Names with a number where one comes twice."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result
