"""Background stages: order, bounds, errors, early stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from unmixcli.streams import ordered_map, prefetch


def test_prefetch_keeps_order_and_runs_in_another_thread() -> None:
    threads = []

    def items() -> Iterator[int]:
        for number in range(100):
            threads.append(threading.current_thread())
            yield number

    assert list(prefetch(items(), depth=3)) == list(range(100))
    assert threading.current_thread() not in threads


def test_prefetch_is_never_more_than_its_depth_ahead() -> None:
    made = 0

    def items() -> Iterator[int]:
        nonlocal made
        for number in range(100):
            made = number + 1
            yield number

    for taken, _ in enumerate(prefetch(items(), depth=3), start=1):
        time.sleep(0.001)
        assert made <= taken + 3
        if taken == 30:
            break


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("three")

    got: list[int] = []
    stream = map(got.append, prefetch(items()))
    with pytest.raises(KeyError, match="three"):
        list(stream)
    assert got == [1, 2]


def test_stopping_early_closes_the_producer_and_its_thread() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            closed.set()

    stream = prefetch(items())
    assert next(stream) == 0
    stream.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "unmix-prefetch"]


@pytest.mark.parametrize("workers", [1, 4])
def test_ordered_map_keeps_order_whatever_takes_longest(workers: int) -> None:
    def work(number: int) -> int:
        time.sleep(0.01 * (number % 3 == 0))
        return number * number

    assert list(ordered_map(work, range(20), workers=workers)) == [number * number for number in range(20)]


def test_ordered_map_takes_no_more_than_its_workers_can_do() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(50):
            taken = number + 1
            yield number

    results = ordered_map(lambda number: number, items(), workers=3)
    for count, _ in enumerate(results, start=1):
        assert taken <= count + 3


@pytest.mark.parametrize("workers", [1, 3])
def test_ordered_map_raises_what_a_worker_raised(workers: int) -> None:
    def work(number: int) -> int:
        if number == 5:
            raise ZeroDivisionError("five")
        return number

    with pytest.raises(ZeroDivisionError, match="five"):
        list(ordered_map(work, range(10), workers=workers))
