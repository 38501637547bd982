"""Ctrl-C and other signals reach Python while native work goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np
import pytest

from quernel import _core

Handler = Callable[[int, FrameType | None], object]
SECOND = 1_000_000_000
CHUNK_NS = 50_000
LONG = 60 * SECOND // CHUNK_NS  # chunks of a call that nobody would wait for


@contextmanager
def signalled(handler: Handler, after: float = 0.1) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_ctrl_c_ends_a_call(threads: int) -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), signalled(signal.default_int_handler):
        _core.pool_calls(1, LONG * threads, CHUNK_NS)
    assert time.monotonic() - start < 20  # of 60 s; how soon is for the benchmark to tell
    assert len(_core.pool_calls(3, 8, CHUNK_NS)) == 3


def test_ctrl_c_is_heard_between_short_calls(threads: int) -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), signalled(signal.default_int_handler):
        _core.pool_calls(60 * SECOND // (4 * CHUNK_NS), 4 * threads, CHUNK_NS)
    assert time.monotonic() - start < 20


def test_a_handler_may_raise_anything(threads: int) -> None:
    class Enough(Exception):
        pass

    def handler(*_: object) -> None:
        raise Enough

    with pytest.raises(Enough), signalled(handler):
        _core.pool_calls(1, LONG * threads, CHUNK_NS)


def test_a_handler_that_returns_lets_the_call_go_on(threads: int) -> None:
    seen: list[float] = []
    a = _core.from_numpy(np.ones((64, 64), np.float32))

    def handler(*_: object) -> None:  # it may use the engine itself
        seen.append(float(_core.matmul(a, a).numpy()[0, 0]))
        _core.pool_calls(1, 100, 1_000)

    with signalled(handler, after=0.05):
        ((ns, by_workers),) = _core.pool_calls(1, 8_000 * threads, CHUNK_NS)
    assert seen == [64.0]
    assert ns > 8_000 * CHUNK_NS / 2  # all of it was done
    assert by_workers <= 8_000 * threads


def test_the_pool_cannot_be_resized_from_inside_a_call() -> None:
    before = _core.num_threads()
    _core.set_num_threads(2)
    try:
        with (
            pytest.raises(RuntimeError, match="cannot be called from inside a native call"),
            signalled(lambda *_: _core.set_num_threads(3)),
        ):
            _core.pool_calls(1, LONG, CHUNK_NS)
    finally:
        _core.set_num_threads(before)


def test_what_must_not_be_stopped_is_not(threads: int) -> None:
    chunks = 6_000
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), signalled(signal.default_int_handler, after=0.02):
        _core.pool_calls(1, chunks * threads, CHUNK_NS, interruptible=False)
    assert time.monotonic() - start > chunks * CHUNK_NS / SECOND / 2  # heard, but at the end
