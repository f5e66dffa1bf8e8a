"""The ladder down from a device that runs out of memory or gives nonsense."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toys import Halves

from unmixcli.device import available_devices, choose_device
from unmixcli.errors import DeviceError, ModelError
from unmixcli.runner import Runner
from unmixcli.segment import Segment, cut, make_grid


class Small(Halves):
    """A model on a pretended GPU that holds `room` samples in one forward pass; anything more is out of memory."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.on = "cpu"
        self.calls: list[tuple[int, int]] = []

    def to(self, device: Any, *args: Any, **kwargs: Any) -> Small:
        self.on = str(torch.device(device).type)
        return self

    def forward(self, mixture: Tensor) -> Tensor:
        if self.on != "cpu" and mixture.shape[0] * mixture.shape[-1] > self.room:
            raise torch.OutOfMemoryError("out of memory")
        self.calls.append((mixture.shape[0], mixture.shape[-1]))
        return super().forward(mixture)


class Pretending(Runner):
    """A runner whose device is only a name."""

    def _moved(self, mixture: Tensor) -> Tensor:
        return mixture

    def _measured(self, mixture: Tensor) -> tuple[tuple[int, int], Tensor]:
        return (1, 0), self._in_batches(mixture)  # no memory to speak of


def run(room: int, batch_size: int, mixture: Tensor) -> tuple[Tensor, Small, list[str]]:
    model, said = Small(room), list[str]()
    runner = Pretending(model, torch.device("cuda:0"), batch_size=batch_size, tell=said.append)
    grid = make_grid(length=model.segment_length, edge=model.edge, overlap=0)
    return torch.cat([estimate for _, estimate in runner.run(cut([mixture], grid), 1)], dim=-1), model, said


@pytest.fixture
def mixture() -> Tensor:
    return torch.randn(1, 2, 40000, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (10**9, []),
        (2 * Halves.segment_length, ["2 segment(s) at a time"]),
        (Halves.segment_length, ["2 segment(s) at a time", "1 segment(s) at a time"]),
        (3000, ["2 segment(s)", "1 segment(s)", "segments of about"]),
        (10, ["2 segment(s)", "1 segment(s)", "segments of about", "the CPU does the rest"]),
    ],
)
def test_out_of_memory_goes_down_the_ladder_and_the_result_stays(
    room: int, expected: list[str], mixture: Tensor
) -> None:
    reference, _, _ = run(10**9, 4, mixture)
    result, model, said = run(room, 4, mixture)
    torch.testing.assert_close(result, reference, atol=1e-6, rtol=0)
    for part in expected:
        assert sum(part in message for message in said) >= 1, said
    assert len(said) == len(set(said))
    assert ("the CPU" in " ".join(said)) == (model.on == "cpu")


@pytest.mark.parametrize(("free", "expected"), [(0, 1), (1000, 1), (5100, 3), (10**9, 8)])
def test_batches_on_cuda_are_as_large_as_the_free_memory_holds(free: int, expected: int) -> None:
    class Measuring(Pretending):
        def _measured(self, mixture: Tensor) -> tuple[tuple[int, int], Tensor]:
            return (1000 * len(mixture), free), self._in_batches(mixture)

    model = Small(10**9)
    mixture = torch.randn(1, 2, 40 * model.segment_length)
    grid = make_grid(length=model.segment_length, edge=model.edge, overlap=0)
    runner = Measuring(model, torch.device("cuda:0"))
    found = torch.cat([estimate for _, estimate in runner.run(cut([mixture], grid), 1)], dim=-1)
    assert [count for count, _ in model.calls[:3]] == [1, expected, expected]
    chosen = Pretending(Small(10**9), torch.device("cuda:0"), batch_size=2)
    list(chosen.run(cut([mixture], grid), 1))
    assert chosen.batch_size == 2
    one = torch.cat(
        [estimate for _, estimate in Runner(Halves(), torch.device("cpu")).run(cut([mixture], grid), 1)], -1
    )
    torch.testing.assert_close(found, one, atol=1e-6, rtol=0)


def test_no_smaller_segments_for_a_model_of_fixed_length(mixture: Tensor) -> None:
    model = Small(3000)
    model.fixed_segment = True
    said: list[str] = []
    runner = Pretending(model, torch.device("cuda:0"), batch_size=1, tell=said.append)
    runner(mixture[..., :5000])
    assert len(said) == 1
    assert "the CPU does the rest" in said[0]


def test_out_of_memory_on_the_cpu_is_raised(mixture: Tensor) -> None:
    class Full(Halves):
        def forward(self, mixture: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Runner(Full(), torch.device("cpu"))(mixture)


class NaNOn(Small):
    """Gives NaN on the pretended GPU."""

    def forward(self, mixture: Tensor) -> Tensor:
        return super().forward(mixture) * (float("nan") if self.on != "cpu" else 1.0)

    def __deepcopy__(self, memo: dict[int, Any]) -> NaNOn:
        return NaNOn(self.room)


def test_nan_from_a_device_is_computed_again_on_the_cpu(mixture: Tensor) -> None:
    said: list[str] = []
    runner = Pretending(NaNOn(10**9), torch.device("cuda:0"), tell=said.append)
    assert torch.equal(runner(mixture), Halves()(mixture))
    runner(mixture)
    assert said == ["cuda:0 gave values that are not numbers; the CPU computes such parts."]


def test_overflow_in_fp16_is_computed_again_in_fp32() -> None:
    class Product(Halves):
        def forward(self, mixture: Tensor) -> Tensor:
            huge = torch.full((2, 2), 300.0)
            return super().forward(mixture) + 0 * (huge @ huge).sum()  # 180000 is infinite in fp16

    said: list[str] = []
    mixture = torch.randn(1, 2, 3000)
    runner = Runner(Product(), torch.device("cpu"), precision="fp16", tell=said.append)
    torch.testing.assert_close(runner(mixture), Halves()(mixture))
    assert len(said) == 1
    assert "fp32" in said[0]


def test_nan_everywhere_is_an_error() -> None:
    class Broken(Halves):
        def forward(self, mixture: Tensor) -> Tensor:
            return super().forward(mixture) * float("nan")

    with pytest.raises(ModelError, match="not numbers"):
        Runner(Broken(), torch.device("cpu"))(torch.randn(1, 2, 1000))


def test_a_wrong_shape_is_an_error() -> None:
    class Short(Halves):
        def forward(self, mixture: Tensor) -> Tensor:
            return super().forward(mixture)[..., :-1]

    with pytest.raises(ModelError, match="expected"):
        Runner(Short(), torch.device("cpu"))(torch.randn(1, 2, 1000))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_hold_only_neighbours_of_one_length(batch_size: int, mixture: Tensor) -> None:
    model = Small(10**9)
    grid = make_grid(length=model.segment_length, edge=model.edge, overlap=0)
    runner = Runner(model, torch.device("cpu"), batch_size=batch_size)
    results = list(runner.run(cut([mixture], grid), 1))
    assert [segment.start for segment, _ in results] == list(range(0, 40000, 4500))
    assert max(batch for batch, _ in model.calls) == batch_size
    assert sum(estimate.shape[-1] for _, estimate in results) == 40000


def test_segments_side_by_side_on_the_cpu_come_in_order(mixture: Tensor) -> None:
    class Parallel(Halves):
        cpu_workers = True

    grid = make_grid(length=5000, edge=250, overlap=0)
    one = [estimate for _, estimate in Runner(Halves(), torch.device("cpu")).run(cut([mixture], grid), 1)]
    many = [estimate for _, estimate in Runner(Parallel(), torch.device("cpu")).run(cut([mixture], grid), 1)]
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


def test_skipped_segments_give_silence_of_the_right_shape() -> None:
    runner = Runner(Halves(), torch.device("cpu"))
    ((_, estimate),) = runner.run([Segment(0, 70, 0, None)], 3)
    assert estimate.shape == (3, 2, 2, 70)
    assert not estimate.any()


def test_devices_are_named_and_missing_ones_refused() -> None:
    assert available_devices()[0] == "cpu"
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(DeviceError, match="cuda:99"):
        choose_device("cuda:99")
