"""fp32 products: NumPy's and torch's `a @ b` beside ours, eager and with the weights packed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

import quernel as qn
from bench import peers
from bench.goals import Goal
from bench.harness import Case
from quernel.jit import FrozenMemory, record_frozen

SHAPES = (
    [(n, n, n) for n in (16, 32, 64, 128, 256, 512, 1024)]
    + [(1, 256, 256), (1, 1024, 1024), (6, 512, 512), (32, 784, 256), (128, 10, 400)]
    + [(4096, 64, 64), (64, 4096, 64), (64, 64, 4096)]
)
GOALS = {"": Goal({1: 1.05, 2: 1.15}, floor=0.95)}


def cases(_threads: int, quick: bool) -> Iterator[Case]:
    """C[M, N] = A[M, K] B[K, N] for each (M, N, K) of SHAPES."""
    torch = peers.find("torch")
    rng = np.random.default_rng(0)
    for m, n, k in SHAPES[:6] if quick else SHAPES:
        a, b = rng.standard_normal((m, k), dtype=np.float32), rng.standard_normal((k, n), dtype=np.float32)
        x, w = qn.tensor(a), qn.tensor(b)
        contenders: dict[str, Callable[[], object]] = {
            "quernel": lambda x=x, w=w: qn.ops.matmul(x, w),
            "quernel packed": _packed(a, w),
            "numpy": lambda a=a, b=b: a @ b,
        }
        if torch:
            ta, tb = torch.from_numpy(a), torch.from_numpy(b)
            contenders["torch"] = lambda ta=ta, tb=tb: ta @ tb
        yield Case(f"{m}x{n}x{k}", contenders, 2.0 * m * n * k, 4.0 * (m * k + k * n + m * n))


def _packed(a: np.ndarray, w: qn.Tensor) -> Callable[[], object]:
    memory = FrozenMemory()
    plan = record_frozen(lambda x: [qn.ops.matmul(x, w)], [a], memory.constants, memory.arenas)
    return lambda: plan.replay([a])
