"""Training: a run that is killed and resumed, averages, schedules, checkpoints, and what a run leaves."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import training_toys as toys
from safetensors.torch import load_file
from training_toys import RATE, STEMS, Tiny, recipe

from unmixcli.errors import CheckpointError, ModelError, OptionError, UnmixError
from unmixcli.evaluation.metrics import plain_sdr
from unmixcli.models import ARCHITECTURES
from unmixcli.options import Options
from unmixcli.pipeline import separate_blocks
from unmixcli.progress import Progress
from unmixcli.registry_parse import parse_entry
from unmixcli.runner import Runner
from unmixcli.separator import ArraySource
from unmixcli.stems import plan_stems
from unmixcli.training import checkpoints
from unmixcli.training.ema import MovingAverage
from unmixcli.training.feed import Feed
from unmixcli.training.log import RunLog, draw_curves, read_rows
from unmixcli.training.loop import Trainer
from unmixcli.training.optimise import Schedule, make_optimiser
from unmixcli.training.recipe import OptimiserSection, Recipe, ScheduleSection, list_recipes, parse_recipe, read_recipe
from unmixcli.training.run import Trained, build_network, train
from unmixcli.training.validation import measure, measure_mixture

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(ARCHITECTURES, "tiny", "training_toys:Tiny")
    monkeypatch.setitem(ARCHITECTURES, "plain_tiny", "training_toys:Plain")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(RunLog, "draw", lambda self: None)  # half a second each
    yield
    torch.set_num_threads(threads)


def trained(chosen: Recipe, folder: Path, **settings: Any) -> Trained:
    return train(chosen, folder, sources=toys.sources, device="cpu", **settings)


def state_of(folder: Path) -> dict[str, Any]:
    return checkpoints.load_checkpoint(folder / checkpoints.FILE)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------- a whole run


def test_a_run_learns_and_leaves_a_model(tmp_path: Path) -> None:
    told: list[Progress] = []
    chosen = recipe(training={"steps": 60}, validation={"steps": 30})
    result = trained(chosen, tmp_path, on_progress=told.append)
    assert result.finished
    assert (result.step, result.interrupted) == (60, False)
    for stem in STEMS:
        assert result.sdr[stem] > result.mixture_sdr[stem] + 10
    entry = json.loads(result.entry.read_text())
    assert parse_entry(entry, where="test").scores[0].values["vocals"] == pytest.approx(result.sdr["vocals"], abs=1e-3)
    assert {event.stage for event in told} == {"train", "validate", "validated"}
    # the weights that are written are those that were measured
    model = Tiny(STEMS)
    model.load_state_dict(load_file(result.weights))
    again = measure(model.eval(), toys.sources(chosen, model).passages, device=torch.device("cpu"))
    assert again.by_stem == pytest.approx(dict(result.sdr))


def test_the_logs_tell_the_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trained(recipe(loss=[{"kind": "l1"}, {"kind": "kl", "weight": 0.1}, {"kind": "l1"}]), tmp_path)
    picture = draw_curves(tmp_path)
    training, validation = rows(tmp_path / "training.csv"), rows(tmp_path / "validation.csv")
    assert [row["step"] for row in training] == ["2", "4", "6", "8"]
    for row in training:
        total = float(row["l1_waveform"]) + 0.1 * float(row["kl_magnitude"]) + float(row["l1_waveform_2"])
        assert float(row["loss"]) == pytest.approx(total, rel=1e-5)
    assert [row["step"] for row in validation] == ["4", "8"]
    mean = (float(validation[0]["sdr_vocals"]) + float(validation[0]["sdr_other"])) / 2
    assert float(validation[0]["sdr"]) == pytest.approx(mean, rel=1e-5)
    assert picture is not None
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_seed_decides(tmp_path: Path) -> None:
    results = [
        load_file(trained(recipe(training={"seed": seed, "steps": 3}), tmp_path / name).weights)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert_same(results[0], results[1])
    assert not torch.equal(results[0]["layers.0.weight"], results[2]["layers.0.weight"])


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_do_not_depend_on_who_makes_them(workers: int) -> None:
    feed = Feed(toys.Items(200), batch_size=2, channels=2, workers=workers, threads=2)
    batches = feed.batches(4)
    found = [next(batches) for _ in range(2)]
    batches.close()
    expected = np.stack([toys.stems_of(index, 200) for index in range(4, 8)])
    assert torch.equal(torch.cat([batch.references for batch in found]), torch.from_numpy(expected))
    assert torch.equal(found[0].mixture, found[0].references.sum(1))
    assert found[0].known.all()


def test_processes_share_the_excerpts() -> None:
    feeds = [Feed(toys.Items(50), batch_size=2, channels=1, rank=rank, world=2) for rank in (0, 1)]
    numbers = [list(zip(range(2), feed._numbers(8), strict=False)) for feed in feeds]
    assert numbers == [[(0, [8, 9]), (1, [12, 13])], [(0, [10, 11]), (1, [14, 15])]]
    batches = feeds[0].batches(0)
    assert next(batches).references.shape == (2, 2, 1, 50)  # mono
    batches.close()


# ---------------------------------------------------------------- a stop and a kill


@pytest.mark.parametrize(
    "sections",
    [
        {
            "schedule": {"kind": "plateau", "patience": 1, "factor": 0.7},
            "model": {"config": {"dropout": 0.5}},
            "optimiser": {"learning_rate": 1.0},  # so high that the score falls now and then
            "training": {"ema": 0.5},
            "validation": {"steps": 1},
        },
        {
            "optimiser": {"kind": "lbfgs", "iterations": 3, "learning_rate": 0.5},
            "training": {"accumulate": 2},
            "schedule": {"kind": "constant"},
        },
    ],
    ids=["adamw", "lbfgs"],
)
def test_a_run_in_pieces_is_the_run_in_one(tmp_path: Path, sections: dict[str, Any]) -> None:
    chosen = recipe(**sections)
    whole = trained(chosen, tmp_path / "whole")
    first = {**sections, "training": {**sections.get("training", {}), "steps": 5}}
    trained(recipe(**first), tmp_path / "parts")
    pieces = trained(chosen, tmp_path / "parts", resume=True)
    assert (whole.step, pieces.step) == (8, 8)
    before, after = (state_of(tmp_path / name) for name in ("whole", "parts"))
    for part in ("model", "average"):
        assert_same(before[part], after[part])
    assert before["schedule"] == after["schedule"]
    if "schedule" in sections and sections["schedule"]["kind"] == "plateau":
        assert 0 < state_of(tmp_path / "parts")["schedule"]["height"] < 1
    assert torch.equal(before["random"][0]["cpu"], after["random"][0]["cpu"])


def test_measuring_changes_nothing(tmp_path: Path) -> None:
    def drawing(chosen: Recipe, model: Any) -> Any:
        found = toys.sources(chosen, model)

        def read() -> Any:
            torch.rand(3)
            return found.passages[0].read()

        return replace(found, passages=[replace(found.passages[0], read=read)])

    for name, steps in (("often", 1), ("once", 0)):
        chosen = recipe(validation={"steps": steps}, model={"config": {"dropout": 0.5}})
        train(chosen, tmp_path / name, sources=drawing, device="cpu")
    assert_same(*(state_of(tmp_path / name)["model"] for name in ("often", "once")))


# What the processes of the tests below run; 40 steps and a checkpoint every five.
LONG = {
    "training": {"steps": 40, "checkpoint_steps": 5, "log_every": 4},
    "model": {"config": {"dropout": 0.2}},
    "validation": {"steps": 20},
}


def process(code: str, *args: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start Python with the toys at hand."""
    code = f"import os, sys, torch, training_toys as toys\nfrom training_toys import recipe\n{code}"
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen([sys.executable, "-c", code, *args], env=environment)


RUN = """
from unmixcli.training.run import train
torch.set_num_threads(1)
toys.register()
train(toys.recipe(**eval(sys.argv[2])), sys.argv[1], sources=toys.sources, device="cpu")
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    killed = process(RUN, str(cut), repr(LONG), TOY_DELAY="0.03")
    try:
        trained(recipe(**LONG), whole)
        deadline = time.monotonic() + 60
        while not (cut / checkpoints.FILE).exists():
            assert killed.poll() is None, "ended too early"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)  # somewhere in the steps after it
    finally:
        killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert 5 <= state_of(cut)["standing"]["step"] < 40
    trained(recipe(**LONG), cut, resume=True)
    before, after = state_of(whole), state_of(cut)
    for part in ("model", "average"):
        assert_same(before[part], after[part])
    assert_same(*(load_file(folder / "tiny.safetensors") for folder in (whole, cut)))
    for name in ("training.csv", "validation.csv"):
        found = [[(row["step"], row.get("loss"), row.get("sdr")) for row in rows(folder / name)]
                 for folder in (whole, cut)]  # fmt: skip
        assert found[0] == found[1]


def test_a_signal_ends_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    def stop(event: Progress) -> None:
        if event.stage == "train" and event.done == 4:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    result = trained(recipe(), tmp_path, on_progress=stop)
    assert (result.finished, result.interrupted, result.step) == (False, True, 4)
    assert state_of(tmp_path)["standing"]["step"] == 4
    assert signal.getsignal(signal.SIGTERM) is before

    def stop_now(event: Progress) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(recipe(), tmp_path, resume=True, on_progress=stop_now)
    assert trained(recipe(), tmp_path, resume=True).step == 8


def test_a_session_ends_after_its_minutes_and_the_run_goes_on(tmp_path: Path) -> None:
    first = trained(recipe(), tmp_path, stop_after=1e-9)
    assert (first.finished, first.interrupted, first.step) == (False, False, 0)
    assert trained(recipe(), tmp_path, resume=True).step == 8


def test_minutes_end_a_run(tmp_path: Path) -> None:
    chosen = recipe(training={"steps": 0, "minutes": 0.005})
    result = trained(chosen, tmp_path)
    assert result.finished
    assert result.step > 0
    assert trained(chosen, tmp_path, resume=True).step == result.step  # they are used up
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "training.csv")]
    assert rates == sorted(rates, reverse=True)  # the cosine runs with the clock


def test_a_run_is_not_overwritten_by_chance(tmp_path: Path) -> None:
    trained(recipe(), tmp_path)
    with pytest.raises(OptionError, match="holds a run already"):
        trained(recipe(), tmp_path)
    assert trained(recipe(training={"steps": 2}), tmp_path, overwrite=True).step == 2
    assert [row["step"] for row in rows(tmp_path / "training.csv")] == ["2"]


def test_a_checkpoint_of_another_recipe_or_other_data_is_refused(tmp_path: Path) -> None:
    trained(recipe(), tmp_path)
    trained(recipe(training={"steps": 9}), tmp_path, resume=True)  # longer is no other
    with pytest.raises(CheckpointError, match=r"training\.batch_size"):
        trained(recipe(training={"batch_size": 3}), tmp_path, resume=True)
    other = toys.sources(recipe(), Tiny(STEMS))

    def elsewhere(*_: Any) -> Any:
        return type(other)(other.items, other.passages, fingerprint="others")

    with pytest.raises(CheckpointError, match="other tracks"):
        train(recipe(), tmp_path, sources=elsewhere, resume=True, device="cpu")


# ---------------------------------------------------------------- checkpoints and logs


def test_a_checkpoint_holds_any_state(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    state = {
        "numbers": {0: {"step": torch.tensor(3), "rows": [shared[:2], None, [1.5, True, "text"]]}},
        "best": -math.inf,
        "view": shared[2:],
        "random": torch.get_rng_state(),
    }
    checkpoints.save_checkpoint(tmp_path / "c", state)
    found = checkpoints.load_checkpoint(tmp_path / "c")
    assert found["numbers"][0]["rows"][2] == [1.5, True, "text"]
    assert found["numbers"][0]["rows"][1] is None
    assert torch.equal(found["numbers"][0]["rows"][0], shared[:2])
    assert torch.equal(found["view"], shared[2:])
    assert found["best"] == -math.inf
    assert torch.equal(found["random"], state["random"])


@pytest.mark.parametrize("damage", ["cut", "other", "text", "gone"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / checkpoints.FILE
    checkpoints.save_checkpoint(path, {"a": torch.zeros(100)})
    data = path.read_bytes()
    {"cut": lambda: path.write_bytes(data[:-50]), "text": lambda: path.write_text("{}"), "gone": path.unlink,
     "other": lambda: path.write_bytes(data.replace(b"unmix", b"xxxxx"))}[damage]()  # fmt: skip
    with pytest.raises(CheckpointError, match="checkpoint"):
        checkpoints.load_checkpoint(path)


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.training({"step": step, "loss": step / 3})
    log.close()
    with (tmp_path / "training.csv").open("a") as stream:
        stream.write("4,0.")  # killed while writing
    RunLog(tmp_path, 2).close()
    assert [row["step"] for row in read_rows(tmp_path / "training.csv")] == ["1", "2"]


def test_tensorboard_gets_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            written.append((Path(folder).name, math.nan, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0.0, 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    log = RunLog(tmp_path, 4)
    log.training({"step": 6, "loss": 0.5})
    log.validation({"step": 6, "sdr": 3.0, "sdr_bass": math.nan})
    log.close()
    assert [name for name, _, _ in written] == ["tensorboard", "training/loss", "validation/sdr", "closed"]
    assert written[1:3] == [("training/loss", 0.5, 6), ("validation/sdr", 3.0, 6)]
    assert written[0][2] == 5


# ---------------------------------------------------------------- optimiser, schedule, average


def test_schedules() -> None:
    constant = Schedule(ScheduleSection("constant", warmup=4))
    assert [constant.factor(step, 0.9) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = Schedule(ScheduleSection("cosine", floor=0.1))
    assert [cosine.factor(0, p) for p in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([1, 0.55, 0.1, 0.1])
    plateau = Schedule(ScheduleSection("plateau", factor=0.5, patience=2, floor=0.2))
    heights = []
    for score in (1.0, 2.0, 2.0, 1.0, math.nan, 1.5, 3.0, 2.0, 2.0):
        plateau.observe(score)
        heights.append(plateau.factor(9, 0.0))
    assert heights == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2]


def test_biases_are_not_decayed() -> None:
    optimiser = make_optimiser(Tiny(STEMS), OptimiserSection(weight_decay=0.5))
    assert [(group["weight_decay"], {p.dim() for p in group["params"]}) for group in optimiser.param_groups] == [
        (0.5, {2}),
        (0.0, {1}),
    ]


def test_the_average_follows_slowly() -> None:
    model = Tiny(STEMS)
    start = model.layers[0].bias.detach().clone()
    average = MovingAverage(model, 0.9)
    with torch.no_grad():
        model.layers[0].bias += 1
        model.norm.num_batches_tracked += 5
    average.update(model, 1)  # (1 + 1) / (10 + 1) < 0.9
    torch.testing.assert_close(average.model.layers[0].bias, start + 1 - 2 / 11)
    before = average.model.layers[0].bias.clone()
    average.update(model, 10_000)
    torch.testing.assert_close(average.model.layers[0].bias, 0.9 * before + 0.1 * model.layers[0].bias)
    assert int(average.model.norm.num_batches_tracked) == 5
    none = MovingAverage(model, 0.0)
    with torch.no_grad():
        model.layers[0].bias += 1
    none.refresh(model)
    assert torch.equal(none.model.layers[0].bias, model.layers[0].bias)


@pytest.mark.parametrize("architecture", ["tiny", "plain_tiny"])
def test_accumulated_batches_have_the_gradient_of_one_large_one(tmp_path: Path, architecture: str) -> None:
    found = []
    for size, count in ((4, 1), (2, 2)):
        chosen = recipe(model={"architecture": architecture}, training={"batch_size": size, "accumulate": count})
        torch.manual_seed(0)
        trainer, batches = begun(chosen, tmp_path)
        trainer.model.eval()  # statistics of a batch depend on its size
        loss, parts, norm = trainer._descend(next(batches) for _ in range(count))
        batches.close()
        found.append([loss, *parts, torch.tensor(norm), *(p.grad for p in trainer.model.layers.parameters())])
    for large, small in zip(*found, strict=True):
        torch.testing.assert_close(large, small)


def begun(chosen: Recipe, folder: Path) -> tuple[Trainer, Any]:
    """A trainer without a run around it, and its batches."""
    feed = Feed(toys.Items(1000), batch_size=chosen.training.batch_size, channels=2)
    model = build_network(chosen.model)
    return Trainer(chosen, model, feed, (), folder=folder, device=torch.device("cpu")), feed.batches(0)


def test_clipping_bounds_the_gradient(tmp_path: Path) -> None:
    for clip in (0.0, 1e-3):
        trainer, batches = begun(recipe(training={"clip": clip}), tmp_path)
        _, _, norm = trainer._descend(iter([next(batches)]))
        batches.close()
        used = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm().item()
        assert norm > 2e-3
        assert used == pytest.approx(clip or norm, rel=1e-3)


def test_nonsense_ends_a_run_and_spares_the_weights(tmp_path: Path) -> None:
    class Broken(toys.Items):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"stems": torch.full((2, 2, self.length), math.nan)}

    def broken(*_: Any) -> Any:
        return type(toys.sources(recipe(), Tiny(STEMS)))(Broken(500))

    with pytest.raises(ModelError, match="broke down at step 50"):
        train(recipe(training={"steps": 99}), tmp_path, sources=broken, device="cpu")


def test_half_precision_trains_and_fp16_needs_cuda(tmp_path: Path) -> None:
    result = trained(recipe(training={"precision": "bf16", "steps": 30}, validation={"steps": 0}), tmp_path)
    assert result.sdr["vocals"] > result.mixture_sdr["vocals"] + 3
    with pytest.raises(OptionError, match="needs CUDA"):
        trained(recipe(training={"precision": "fp16"}), tmp_path, overwrite=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_precisions_on_a_gpu(tmp_path: Path, precision: str) -> None:
    chosen = recipe(training={"precision": precision, "steps": 40}, data={"workers": 1}, validation={"steps": 0})
    train(replace(chosen, training=replace(chosen.training, steps=20)), tmp_path, sources=toys.sources, device="cuda")
    result = train(chosen, tmp_path, sources=toys.sources, device="cuda", resume=True)
    assert result.step == 40
    assert result.sdr["vocals"] > result.mixture_sdr["vocals"] + 3
    assert state_of(tmp_path)["standing"]["bad_steps"] == 0


# ---------------------------------------------------------------- weights to start from


def test_a_run_goes_on_from_weights(tmp_path: Path) -> None:
    first = trained(recipe(training={"steps": 60}, result={"precision": "fp16"}), tmp_path / "a")
    assert {tensor.dtype for name, tensor in load_file(first.weights).items() if "num_" not in name} == {torch.float16}
    onward = recipe(model={"init": str(first.weights)}, training={"steps": 1}, optimiser={"learning_rate": 1.0})
    second = trained(onward, tmp_path / "b")
    # one step of a much too high rate makes them worse: the weights it began with are kept
    assert second.best_step == 0
    assert second.sdr["vocals"] == pytest.approx(first.sdr["vocals"], abs=0.1)
    build_network(recipe(model={"init": str(tmp_path / "a" / checkpoints.FILE)}).model)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    first = trained(recipe(training={"steps": 1}), tmp_path)
    with pytest.raises(CheckpointError, match="do not fit"):
        build_network(recipe(model={"init": str(first.weights), "config": {"hidden": 5}}).model)
    with pytest.raises(OptionError, match="can't be trained"):
        build_network(recipe(model={"architecture": "open_unmix"}).model)
    with pytest.raises(OptionError, match="not known"):
        build_network(recipe(model={"architecture": "nothing"}).model)


# ---------------------------------------------------------------- validation


def test_the_score_is_plain_sdr_of_what_the_pipeline_gives() -> None:
    chosen = recipe()
    model = build_network(chosen.model).eval()
    passages = toys.sources(chosen, model).passages
    found = measure(model, passages, device=torch.device("cpu"))
    for passage in passages:
        mixture, references = passage.read()
        plan = plan_stems(model.stems, covers_mixture=True)
        runner = Runner(model, torch.device("cpu"))
        blocks = list(separate_blocks(ArraySource(mixture, RATE), runner, plan, Options()))
        for stem in STEMS:
            estimate = np.concatenate([block[stem] for block in blocks], axis=-1)
            expected = plain_sdr(references[stem], estimate)
            assert found.values[passage.name][stem] == pytest.approx(expected, abs=1e-6)
    assert found.score == pytest.approx(np.mean([found.of(stem) for stem in STEMS]))


def test_the_mixture_s_score_and_a_perfect_one() -> None:
    passages = toys.sources(recipe(), Tiny(STEMS)).passages
    mixture = measure_mixture(STEMS, passages)
    for passage in passages:
        stems = dict(zip(STEMS, passage.read()[1].values(), strict=True))
        error = 10 * np.log10(np.sum(stems["vocals"] ** 2) / np.sum(stems["other"] ** 2))
        assert mixture.values[passage.name]["vocals"] == pytest.approx(error, abs=0.01)


def test_silent_and_unknown_references_are_not_scored() -> None:
    from unmixcli.training.validation import Passage

    stems = toys.stems_of(0, RATE)

    def silent() -> Any:
        return stems[0], {"vocals": stems[0], "other": np.zeros_like(stems[1])}

    def unknown() -> Any:
        return stems.sum(0), {"other": stems[1]}

    found = measure_mixture(STEMS, [Passage("silent", RATE, silent), Passage("unknown", RATE, unknown)])
    assert {name: set(scores) for name, scores in found.values.items()} == {"silent": {"vocals"}, "unknown": {"other"}}
    assert math.isfinite(found.score)


def test_measuring_leaves_the_model_and_random_numbers_alone() -> None:
    chosen = recipe()
    model = build_network(chosen.model).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure(model, toys.sources(chosen, model).passages, device=torch.device("cpu"))
    assert_same(before, model.state_dict())


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trainnig": {}}, "Did you mean 'training'"),
        ({"training": {"stepps": 3}}, r"training\.stepps is not known.*'steps'"),
        ({"training": {"steps": "many"}}, "expected a whole number"),
        ({"training": {"steps": True}}, "expected a whole number"),
        ({"training": {"minutes": math.nan}}, "minutes"),
        ({"training": {"batch_size": 0}}, "batch_size is 0"),
        ({"training": {"ema": 1.0}}, "ema is 1.0"),
        ({"training": {"stem_weights": [1.0]}}, "one for each of vocals, other"),
        ({"training": {"steps": 0}}, "when to stop"),
        ({"optimiser": {"kind": "sgd"}}, "adamw or lbfgs"),
        ({"optimiser": {"kind": "lbfgs"}, "training": {"steps": 1, "clip": 1.0}}, "clip does not go"),
        ({"schedule": {"kind": "linear"}}, "constant, cosine, plateau"),
        ({"model": {"architecture": "tiny", "stems": []}}, "stems is empty"),
        ({"model": {"architecture": "tiny"}}, r"model\.stems is missing"),
        ({"loss": []}, "no loss"),
        ({"loss": [{"kind": "l1", "on": "phase"}]}, "expected waveform"),
        ({"name": "../x"}, "can't be used"),
        ({"validation": {"excerpts": 3}}, "needs seconds"),
        ({"model": 3}, "expected a table"),
    ],
)
def test_a_recipe_that_cannot_be(change: dict[str, Any], said: str) -> None:
    values = {"name": "tiny", "model": {"architecture": "tiny", "stems": list(STEMS)}, "loss": [{"kind": "l1"}]}
    training = {"steps": 1, **change.get("training", {})}
    with pytest.raises(UnmixError, match=said):
        parse_recipe({**values, **change, "training": training})


def test_a_recipe_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[model]\narchitecture = "tiny"\nstems = ["vocals", "other"]\n[data]\ntrain = ["songs"]\n'
        '[[loss]]\nkind = "l1"\n[training]\nminutes = 10\n'
    )
    found = read_recipe(path, settings=["training.batch_size=16", "model.config.hidden = 8", "result.licence=CC0-1.0"])
    assert found.name == "mine"
    assert found.training.minutes == 10.0
    assert found.training.batch_size == 16
    assert found.model.config == {"hidden": 8}
    assert found.result.licence == "CC0-1.0"
    assert found.data.train == (str(tmp_path / "songs"),)
    assert parse_recipe(found.as_json()) == found
    for settings, said in ((["steps"], "SECTION.KEY=VALUE"), (["model.stems.x=1"], "not a section")):
        with pytest.raises(OptionError, match=said):
            read_recipe(path, settings=settings)
    path.write_text("[model")
    with pytest.raises(OptionError, match="not TOML"):
        read_recipe(path)
    with pytest.raises(OptionError, match="can't be read"):
        read_recipe(tmp_path / "no.toml")


def test_the_recipes_of_the_program_can_be_built() -> None:
    recipes = list_recipes()
    assert "cc0_demo" in [known.name for known in recipes]
    for known in recipes:
        assert known.about
        model = build_network(known.model)
        assert model.stems == known.model.stems
    near = recipes[0].name[:-1]
    with pytest.raises(OptionError, match="Did you mean"):
        read_recipe(near)


# ---------------------------------------------------------------- several processes


def test_two_processes_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two with a batch of 2 make the steps of one with a batch of 4 (in evaluation mode: no batch statistics)."""

    def sections(world: int) -> dict[str, Any]:
        training = {"steps": 4, "batch_size": 2 // world, "accumulate": 2, "checkpoint_steps": 2, "clip": 1.0}
        return {"training": training, "optimiser": {"learning_rate": 1e-3}}

    # statistics that differ: those of the first process count everywhere
    frozen = "toys.Tiny.__init__.__defaults__ = (16, 0.0, 5e4)\n"
    frozen += "toys.Tiny.train = lambda self, mode=True: torch.nn.Module.train(self, False)\n"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # as torchrun would start them; the second in a process of its own, the first here
    team = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    second = process(frozen + RUN, str(tmp_path / "two"), repr(sections(2)), **team, RANK="1", LOCAL_RANK="1")
    try:
        monkeypatch.setattr(Tiny, "train", lambda self, mode=True: torch.nn.Module.train(self, False))
        trained(recipe(**sections(1)), tmp_path / "one")
        for name, value in {**team, "RANK": "0", "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        result = trained(recipe(**sections(2)), tmp_path / "two")
        assert second.wait(60) == 0
    finally:
        second.kill()
    assert result.finished
    one, two = (state_of(tmp_path / name) for name in ("one", "two"))
    assert one["standing"]["position"] == two["standing"]["position"] == 16
    assert len(two["random"]) == 2
    for name, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][name], tensor, atol=1e-5, rtol=1e-4)
    losses = [[float(row["loss"]) for row in rows(tmp_path / name / "training.csv")] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    measured = [rows(tmp_path / name / "validation.csv")[0] for name in ("one", "two")]
    assert float(measured[0]["sdr"]) == pytest.approx(float(measured[1]["sdr"]), abs=0.01)
