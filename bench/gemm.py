"""fp32 products: NumPy's and torch's `a @ b` beside ours, eager and with the weights packed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

import quernel as qn
from bench import peers
from bench.goals import Goal
from bench.harness import Case
from quernel import _core
from quernel.jit import FrozenMemory, record_frozen

SHAPES = (
    [(n, n, n) for n in (16, 32, 64, 100, 128, 256, 512, 1024, 2048)]
    + [(1, 256, 256), (1, 1024, 1024), (4, 256, 784), (6, 512, 512), (16, 512, 256), (32, 784, 256)]
    + [(37, 129, 77), (128, 10, 400), (512, 17, 128), (333, 65, 3)]
    + [(4096, 64, 64), (64, 4096, 64), (64, 64, 4096), (128, 512, 2048), (2048, 128, 512)]
)
BY_COLUMNS = [(256, 784, k) for k in (1, 8, 32, 128)]
NARROW = [(1024, 1, 1024), (4096, 1, 64), (64, 1, 4096), (256, 1, 256), (256, 2, 784), (1024, 4, 256)]
NARROW += [(4096, 8, 64), (1024, 10, 256), (256, 16, 1024)]
GOALS = {
    "": Goal({1: 1.05, 2: 1.15}, floor=0.95),
    "narrow": Goal({1: 1.05, 2: 1.15}, floor=0.95),
    "columns": Goal({1: 1.05, 2: 1.15}, floor=0.95),
}


def cases(_threads: int, quick: bool) -> Iterator[Case]:
    """C[M, N] = A[M, K] B[K, N] for each (M, N, K), also of few columns; then with A by columns, as in the gradient of a weight."""
    for m, n, k in SHAPES[3:13] if quick else SHAPES:
        yield _case(m, n, k)
    for m, n, k in NARROW[:6:2] if quick else NARROW:
        yield _case(m, n, k, group="narrow")
    for m, n, k in BY_COLUMNS[2:] if quick else BY_COLUMNS:
        yield _case(m, n, k, group="columns")


def _case(m: int, n: int, k: int, group: str = "") -> Case:
    by_columns = group == "columns"
    torch = peers.find("torch")
    rng = np.random.default_rng(0)
    stored = rng.standard_normal((k, m) if by_columns else (m, k), dtype=np.float32)
    a, b = stored.T if by_columns else stored, rng.standard_normal((k, n), dtype=np.float32)
    x, w = qn.tensor(stored), qn.tensor(b)
    contenders: dict[str, Callable[[], object]] = {"numpy": lambda: a @ b}
    if by_columns:
        contenders["quernel"] = lambda: _core.matmul(x._t, w._t, True)
    else:
        contenders["quernel"] = lambda: qn.ops.matmul(x, w)
        contenders["quernel packed"] = _packed(stored, w)
    if torch:
        ta, tb = torch.from_numpy(stored), torch.from_numpy(b)
        left = ta.T if by_columns else ta
        contenders["torch"] = lambda: left @ tb
    name = f"{m}x{n}x{k} by columns" if by_columns else f"{m}x{n}x{k}"
    large = min(m, n, k) >= 512 and not by_columns
    nbytes = 4.0 * (m * k + k * n + m * n)
    return Case(name, contenders, 2.0 * m * n * k, nbytes, group, peak_goal=0.9 if large else 0.0)


def _packed(a: np.ndarray, w: qn.Tensor) -> Callable[[], object]:
    memory = FrozenMemory()
    plan = record_frozen(lambda x: [qn.ops.matmul(x, w)], [a], memory.constants, memory.arenas)
    return lambda: plan.replay([a])
