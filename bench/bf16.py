"""Linear layers in bfloat16: packed weights, float32 sums, bias and GELU fused, beside torch's (oneDNN)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

import quernel as qn
from bench import peers
from bench.goals import Goal
from bench.harness import Case
from quernel.jit import FrozenMemory, record_frozen

SHAPES = (
    [(n, n, n) for n in (64, 256, 512, 1024)]
    + [(1, 256, 256), (1, 1024, 1024), (6, 512, 512), (16, 1024, 1024)]
    + [(32, 784, 256), (128, 10, 400), (4096, 64, 64), (64, 4096, 64), (64, 64, 4096)]
)
GOALS = {"": Goal({1: 1.4, 2: 1.4}, floor=1.0)}
REASONS = dict.fromkeys(("4096x64x64", "64x4096x64"), "GELU takes longer than the product")


def cases(_threads: int, quick: bool) -> Iterator[Case]:
    """gelu(x[M, K] w[N, K]ᵀ + b) for each (M, N, K) of SHAPES, all tensors bfloat16; "fp32" is our float32 layer."""
    torch = peers.find("torch")
    rng = np.random.default_rng(0)
    for m, n, k in SHAPES[:6] if quick else SHAPES:
        x, w, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((m, k), (n, k), (n,)))
        contenders: dict[str, Callable[[], object]] = {
            "quernel": _packed(*(a.astype(ml_dtypes.bfloat16) for a in (x, w, b))),
            "quernel fp32": _packed(x, w, b),
        }
        if torch:
            contenders["torch"] = _torch(torch, x, w, b)
        yield Case(f"{m}x{n}x{k}", contenders)


def _packed(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    memory, weight, bias = FrozenMemory(), qn.tensor(w), qn.tensor(b)

    def layer(x: qn.Tensor) -> list[qn.Tensor]:
        return [qn.ops.linear(x, weight, bias, activation="gelu")]

    plan = record_frozen(layer, [x], memory.constants, memory.arenas)
    return lambda: plan.replay([x])


def _torch(torch: Any, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    """Eager linear and GELU in inference mode."""
    tx, tw, tb = (torch.from_numpy(a).to(torch.bfloat16) for a in (x, w, b))
    linear, gelu = torch.nn.functional.linear, torch.nn.functional.gelu

    def layer() -> object:
        with torch.inference_mode():
            return gelu(linear(tx, tw, tb))

    return layer
