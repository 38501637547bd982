"""The pool from Python: workers help, results do not depend on them, and many callers may come at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from quernel import _core
from quernel.errors import ArgumentError

CHUNK_NS = 20_000


def native(shape: tuple[int, ...], seed: int) -> _core.Tensor:
    return _core.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def test_workers_take_chunks(threads: int) -> None:
    # A worker that other programs keep from running need not help, so this waits for one that does.
    deadline = time.monotonic() + 30
    helped = 0
    while not helped and time.monotonic() < deadline:
        helped = sum(chunks for _, chunks in _core.pool_calls(50, 64, CHUNK_NS))
        if threads == 1:
            break
    assert (helped > 0) == (threads > 1)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_bits_do_not_depend_on_threads(count: int) -> None:
    a, b = native((300, 257), 0), native((257, 191), 1)
    x = native((1_000_003,), 2)
    before = _core.num_threads()
    try:
        _core.set_num_threads(1)
        product, exponentials = _core.matmul(a, b).numpy(), _core.exp(x).numpy()
        _core.set_num_threads(count)
        assert _core.num_threads() == count
        for _ in range(5):
            np.testing.assert_array_equal(_core.matmul(a, b).numpy(), product)
            np.testing.assert_array_equal(_core.exp(x).numpy(), exponentials)
    finally:
        _core.set_num_threads(before)


@pytest.mark.parametrize("count", [0, -1])
def test_refuses_a_pool_of_nobody(count: int) -> None:
    before = _core.num_threads()
    with pytest.raises(ValueError, match=rf"\[set_num_threads\] at least one thread must work, got {count}"):
        _core.set_num_threads(count)
    assert _core.num_threads() == before
    assert issubclass(ArgumentError, ValueError)


def test_many_callers_at_once(threads: int) -> None:
    inputs = [native((120, 130), seed) for seed in range(8)]
    weight = native((130, 140), 99)
    expected = [_core.matmul(x, weight).numpy() for x in inputs]
    right: list[int] = []

    def work(index: int) -> None:
        products = (_core.matmul(inputs[index], weight).numpy() for _ in range(100))
        right.append(sum(np.array_equal(product, expected[index]) for product in products))

    callers = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for caller in callers:
        caller.start()
    for count in (3, 1, threads) * 5:  # the pool may change its size meanwhile
        _core.set_num_threads(count)
    for caller in callers:
        caller.join(timeout=120)
        assert not caller.is_alive()
    assert right == [100] * len(inputs)


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(0)", "import os; os._exit(0)"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "working"])
def test_the_interpreter_ends_at_once(ending: str, busy: bool) -> None:
    script = "\n".join(
        [
            "import threading, time",
            "from quernel import _core",
            "_core.set_num_threads(3)",
            "_core.pool_calls(20, 64, 20_000)",
            "work = lambda: _core.pool_calls(10**6, 64, 20_000)",
            "threading.Thread(target=work, daemon=True).start(); time.sleep(0.05)" if busy else "",
            ending,
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], timeout=30, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
