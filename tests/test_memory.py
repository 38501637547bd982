"""Memory: nothing leaks, absurd sizes are refused before anything is allocated, and running out of memory is survived."""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import quernel as qn
from quernel import _core, losses, nn, optim

PAGE = resource.getpagesize()


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def make_step(jit: bool) -> Callable[[], None]:
    """One training step of a small network, everything it touches included."""
    qn.seed(0)
    net = nn.Sequential(nn.Linear(20, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 5))
    optimizer = optim.Adam(net.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 20)).astype(np.float32)
    y = rng.integers(0, 5, 16)

    def step(x: np.ndarray, y: np.ndarray) -> qn.Tensor:
        loss = losses.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    run = qn.jit(step) if jit else step
    return lambda: run(x, y).item()


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_training_leaks_nothing(jit: bool) -> None:
    """2,000 steps after warm-up: no storage more, and less than 1 KB of memory a step."""
    step = make_step(jit)
    for _ in range(300):
        step()
    gc.collect()
    storages, memory = _core.live_storages(), resident()
    for _ in range(2000):
        step()
    gc.collect()
    assert _core.live_storages() == storages
    assert resident() - memory < 2000 * 1024


def test_everything_goes_with_the_model() -> None:
    gc.collect()
    before = _core.live_storages()
    for jit in (False, True):
        step = make_step(jit)
        for _ in range(5):
            step()
        del step
    gc.collect()
    assert _core.live_storages() <= before + 1  # the global generator's state


def test_errors_leak_nothing() -> None:
    x = qn.tensor(np.ones((4, 3), np.float32), requires_grad=True)
    w = qn.tensor(np.ones((5, 4), np.float32), requires_grad=True)
    gc.collect()
    before = _core.live_storages()
    for _ in range(200):
        with pytest.raises(ValueError, match="linear"):
            qn.ops.linear(x * 2, w)
        with pytest.raises(ValueError, match="label"):
            losses.cross_entropy(x * 2, np.array([0, 1, 2, 3]))
    gc.collect()
    assert _core.live_storages() == before


HUGE = (2**31, 2**31, 8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: _core.empty(HUGE, "float32"),
        lambda: _core.empty((2**62,), "float64"),
        lambda: _core.empty((2**62, 0, 2**62), "float32"),
        lambda: _core.empty((-1,), "float32"),
        lambda: qn.zeros(HUGE),
        lambda: qn.ops.broadcast_to(qn.tensor(1.0), HUGE),
        lambda: qn.ops.pad(qn.zeros((1, 1)), [(2**61, 2**61), (0, 0)]),
        lambda: qn.ops.conv2d(qn.zeros((1, 1, 1, 1)), qn.zeros((1, 1, 1, 1)), padding=2**33),
        lambda: qn.ops.matmul(qn.zeros((2**31, 0)), qn.zeros((0, 2**31))),
        lambda: qn.zeros((2, 3)).reshape((2**62, 4)),
    ],
    ids=[
        "empty",
        "one dim",
        "zero size",
        "negative",
        "zeros",
        "broadcast",
        "pad",
        "conv",
        "matmul",
        "reshape",
    ],
)
def test_absurd_sizes_are_refused(make: Callable[[], object]) -> None:
    before = resident()
    with pytest.raises((ValueError, MemoryError)):
        make()
    assert resident() - before < 2**26


CHILD = """
import resource, numpy as np
import quernel as qn
x = qn.tensor(np.ones((64, 64), np.float32))
first = qn.ops.matmul(x, x).numpy().copy()
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
refused = 0
for make in (lambda: qn.zeros((2**28,)), lambda: qn.ops.broadcast_to(x, (2**15, 64, 64)), lambda: qn.ops.pad(x, [(0, 2**24), (0, 0)])):
    try:
        make()
    except MemoryError:
        refused += 1
assert refused == 3, refused
kept = []
try:
    while True:
        kept.append(qn.ops.matmul(x, x) + 1)
except MemoryError:
    pass
del kept
assert np.array_equal(qn.ops.matmul(x, x).numpy(), first)
print('survived')
"""


def test_running_out_of_memory_is_survived() -> None:
    """In a child with 256 MB to spare: MemoryError, and the engine works on."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=dict(os.environ),
    )
    assert done.stdout.strip() == "survived", done.stderr[-2000:]


def test_guarded_allocations_give_the_same_bits() -> None:
    """QUERNEL_DEBUG_ALLOC=guard puts every buffer against an unreadable page and fills it with NaN: nothing is read or written
    past an end, nothing is read before it was written."""
    code = (
        "import json; from tests.test_memory import make_step\n"
        "steps = [make_step(jit) for jit in (False, True)]\n"
        "print(json.dumps([[step() for _ in range(4)] for step in steps]))"
    )
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    outputs = []
    for mode in ("", "guard"):
        env = {**os.environ, "QUERNEL_DEBUG_ALLOC": mode, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env
        )
        assert done.returncode == 0, done.stderr[-2000:]
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert all(math.isfinite(loss) for row in json.loads(outputs[0]) for loss in row)
