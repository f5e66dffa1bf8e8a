"""Run one stage of a stream in a thread of its own, with a bounded queue between it and the next."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# A waiting thread looks this often whether it should give up. Seconds.
_POLL = 0.1


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()


def prefetch(items: Iterable[T], *, depth: int = 4) -> Generator[T, None, None]:
    """Produce `items` in a background thread, at most `depth` ahead of the consumer.

    The producer starts on an item only when fewer than `depth` wait, so with a depth of 1 there are never more than
    two: the one the consumer works on, and the next one that is made or waits meanwhile.

    An exception in the producer is raised here, after the items before it. When the consumer stops early (closes the
    generator, or is interrupted) the producer is stopped at its next item, its generator is closed in its own thread,
    and this call returns after that.
    """
    line: queue.SimpleQueue[object] = queue.SimpleQueue()
    room = threading.Semaphore(depth)
    stop = threading.Event()

    def may_go_on() -> bool:
        while not stop.is_set():
            if room.acquire(timeout=_POLL):
                return not stop.is_set()
        return False

    def produce() -> None:
        iterator = iter(items)
        try:
            while may_go_on():
                line.put(next(iterator))
        except StopIteration:
            line.put(_END)
        except BaseException as error:
            line.put(_Failure(error))
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=produce, name="unmix-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = line.get()
            if item is _END:
                return
            if isinstance(item, _Failure):
                raise item.error
            room.release()
            yield item  # type: ignore[misc]
            del item  # nothing is held while the next one is awaited
    finally:
        stop.set()
        thread.join()


def prefetch_if(wanted: bool, items: Iterable[T], *, depth: int = 4) -> Generator[T, None, None]:
    """`prefetch`, or the items as they are, in the consumer's thread."""
    return prefetch(items, depth=depth) if wanted else (item for item in items)


def ordered_map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int,
    prepare: Callable[[], None] = lambda: None,
) -> Iterator[R]:
    """`map` over a stream with `workers` threads: results in order, at most `workers` items under way.

    One more waits in line, so that no worker does while the caller looks at a result. With more than one worker,
    `prepare` is called once in each of their threads.
    """
    if workers <= 1:
        for item in items:
            yield function(item)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="unmix-worker", initializer=prepare) as pool:
        under_way: list[Future[R]] = []
        try:
            for item in items:
                under_way.append(pool.submit(function, item))
                if len(under_way) > workers:
                    yield under_way.pop(0).result()
            while under_way:
                yield under_way.pop(0).result()
        finally:
            for future in under_way:
                future.cancel()
