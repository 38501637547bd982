"""Linear layers with bias and GELU in fp32, tf32, bf16 and fp16, and int8 products requantized: cuBLASLt through torch beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import quernel as qn
from bench.cuda.timing import rotating, torch_cuda
from bench.goals import Goal
from bench.harness import Case

GOALS = {
    "fp32": Goal({1: 0.9}),
    "tf32": Goal({1: 0.9}),
    "bf16": Goal({1: 1.0}, floor=0.9),
    "fp16": Goal({1: 1.0}, floor=0.9),
    "int8": Goal({1: 0.95}),
}
# M, N, K
SHAPES = (
    *((n, n, n) for n in (1024, 2048, 4096, 8192)),
    *((512, 4096, 1024), (4096, 1024, 4096), (128, 4096, 4096), (16384, 256, 256)),
)
FEW = ((64, 64, 64), (33, 48, 40))
TYPES = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}

Calls = dict[str, Callable[[], object]]


def cases(quick: bool) -> Iterator[Case]:
    """gelu(x W^T + b) for each (M, N, K), then int8 products; what torch may round to tf32 is set for one case."""
    torch = torch_cuda()
    for kind in TYPES:
        for m, n, k in FEW if quick else SHAPES:
            qn.runtime.allow_tf32(kind == "tf32")
            if torch:
                torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
            nbytes = float(_itemsize(kind) * (m * k + k * n + m * n))
            yield Case(f"{kind} {m}x{n}x{k}", _linear(torch, kind, m, n, k), 2.0 * m * n * k, nbytes, kind)
    qn.runtime.allow_tf32(False)
    for m, n, k in FEW if quick else SHAPES:
        calls = _int8(torch, m, n, k) | {"quernel bf16": _linear(None, "bf16", m, n, k)["quernel"]}
        yield Case(f"int8 {m}x{n}x{k}", calls, 2.0 * m * n * k, float(m * k + k * n + m * n), group="int8")


def _itemsize(kind: str) -> int:
    return 2 if kind in ("bf16", "fp16") else 4


def _linear(torch: Any, kind: str, m: int, n: int, k: int) -> Calls:
    rng = np.random.default_rng(0)
    weight, bias = (rng.standard_normal(shape, dtype=np.float32) for shape in ((n, k), (n,)))
    nbytes = _itemsize(kind) * (m * k + k * n)

    def ours() -> tuple[qn.Tensor, ...]:
        x = rng.standard_normal((m, k), dtype=np.float32)
        return tuple(qn.tensor(a, device="cuda").to(TYPES[kind]) for a in (x, weight, bias))

    operands = rotating(ours, nbytes)

    def run() -> object:
        x, w, b = operands()
        return qn.ops.linear(x, w, b, activation="gelu")

    calls: Calls = {"quernel": run}
    if torch:
        theirs = rotating(lambda: _to_torch(torch, ours(), TYPES[kind]), nbytes)

        def apart() -> object:
            x, w, b = theirs()
            return torch.nn.functional.gelu(torch.nn.functional.linear(x, w, b))

        def fused() -> object:  # GELU by the tanh, as cuBLASLt has it
            x, w, b = theirs()
            return torch._addmm_activation(b, x, w.t(), use_gelu=True)

        calls |= {"torch": apart, "torch, epilogue": fused}
    return calls


def _to_torch(torch: Any, tensors: tuple[qn.Tensor, ...], dtype: str) -> tuple[Any, ...]:
    arrays = (np.array(t.to("float32").cpu().numpy()) for t in tensors)
    return tuple(torch.from_numpy(a).cuda().to(getattr(torch, dtype)) for a in arrays)


def _int8(torch: Any, m: int, n: int, k: int) -> Calls:
    """uint8 times int8, to uint8 by a factor for each column; torch multiplies int8 by int8."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (n, k), np.int8)
    scale = np.full(n, 1 / (64 * k**0.5), np.float32)
    folded = (-128 * weight.astype(np.int64).sum(1)).astype(np.int32)

    def ours() -> tuple[qn.Tensor, ...]:
        x = rng.integers(0, 256, (m, k), np.uint8)
        return tuple(qn.tensor(a, device="cuda") for a in (x, weight, folded, scale))

    operands = rotating(ours, m * k + k * n)

    def run() -> object:
        x, w, b, s = operands()
        return qn.ops.qlinear(x, w, b, s, zero_point=128)

    calls: Calls = {"quernel": run}
    if torch:
        factors = torch.from_numpy(scale).cuda()

        def made() -> tuple[Any, Any]:
            x = rng.integers(-128, 128, (m, k), np.int8)
            return torch.from_numpy(x).cuda(), torch.from_numpy(weight).cuda().t()

        pairs = rotating(made, m * k + k * n)

        def requantized() -> object:
            return (torch._int_mm(*pairs()) * factors).round().add(128).clamp(0, 255).to(torch.uint8)

        calls |= {"torch, sums alone": lambda: torch._int_mm(*pairs()), "torch, requantized": requantized}
    return calls
