"""Linear layers with sparse weights or inputs: y = x Wᵀ, weights frozen, beside the dense layer and CSR of SciPy and torch.

quernel runs what `freeze` would make of the layer, which below break-even is the dense one. `dense` is that with packed
weights. SciPy and torch get x in the layout they like best, transposed outside the timing. `sparsity` sweeps over
densities. In the last cases the weights are dense and the inputs are single rows of activations, 80 % of them zeros;
there `dense` is the same plan, given rows without zeros.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator

import numpy as np

import quernel as qn
from bench import peers
from bench.goals import Goal
from bench.harness import Case
from quernel import sparse
from quernel.graph.sparse import break_even
from quernel.jit import FrozenMemory, record_frozen

SIZES = (256, 512, 1024, 2048)
BATCHES = (1, 16, 64)
KINDS = {"csr 90 %": (None, 0.1), "16x1 80 %": ((16, 1), 0.2)}
INPUTS = "x 80 % zeros"
GOALS = {
    "csr 90 %": Goal({1: 2.0, 2: 2.0}, floor=1.0),
    "16x1 80 %": Goal({1: 2.5, 2: 2.5}, floor=1.0),
    INPUTS: Goal({1: 1.3, 2: 1.3}, floor=1.0),
}

Call = Callable[[], object]


def cases(_threads: int, quick: bool) -> Iterator[Case]:
    """Each kind at each size and batch; then inputs with zeros."""
    for kind, (block, density) in KINDS.items():
        for size in SIZES[:2] if quick else SIZES:
            for batch in BATCHES:
                flops = 2.0 * batch * size * size * density
                calls = contenders(size, batch, block, density)
                yield Case(f"{kind} {size} batch {batch}", calls, flops, group=kind)
    for size in SIZES[:2] if quick else SIZES:
        yield Case(f"{INPUTS} {size} batch 1", _activations(size, 0.8), group=INPUTS)


def contenders(
    size: int, batch: int, block: tuple[int, int] | None, density: float, sweep: bool = False
) -> dict[str, Call]:
    """One layer, all ways; in a sweep sparse at any density, and beside the dense one alone."""
    rng = np.random.default_rng(size)
    x = rng.standard_normal((batch, size), dtype=np.float32)
    height = 1 if block is None else 16
    mask = np.repeat(rng.random((size // height, size)) < density, height, 0)
    dense = np.where(mask, rng.standard_normal((size, size), dtype=np.float32), np.float32(0))
    weight = sparse.csr(dense) if block is None else sparse.block(dense, block)
    full = qn.tensor(dense)
    dense_call = _frozen(x, lambda t: qn.ops.linear(t, full))
    kept_dense = not sweep and weight.density >= break_even(weight, batch)
    sparse_call = _frozen(x, lambda t: qn.ops.sparse_linear(t, weight))
    calls: dict[str, Call] = {"quernel": dense_call if kept_dense else sparse_call, "dense": dense_call}
    if not sweep:
        turned = np.ascontiguousarray(x.T)
        if peers.find("scipy"):
            theirs = sparse.csr(dense).to_scipy()
            calls["scipy csr"] = lambda: theirs @ turned
        _add_torch(calls, x, turned, dense)
    return calls


def _activations(size: int, share: float) -> dict[str, Call]:
    """Sixteen rows take turns, lest the CPU's predictors know one by heart."""
    rng = np.random.default_rng(size)
    rows = rng.standard_normal((16, 1, size), dtype=np.float32)
    holed = np.where(rng.random(rows.shape) < share, np.float32(0), rows)
    weight = rng.standard_normal((size, size), dtype=np.float32)
    w = qn.tensor(weight)
    run = _plan(rows[0], lambda t: qn.ops.linear(t, w))

    def in_turn(call: Callable[[np.ndarray], object], inputs: np.ndarray) -> Call:
        turn = itertools.cycle(inputs)
        return lambda: call(next(turn))

    calls = {"quernel": in_turn(run, holed), "dense": in_turn(run, rows)}
    calls["numpy"] = in_turn(lambda x: x @ weight.T, holed)
    torch = peers.find("torch")
    if torch:
        tw = torch.from_numpy(weight)
        linear = torch.inference_mode()(lambda x: torch.nn.functional.linear(torch.from_numpy(x), tw))
        calls["torch dense"] = in_turn(linear, holed)
    return calls


def _add_torch(calls: dict[str, Call], x: np.ndarray, turned: np.ndarray, dense: np.ndarray) -> None:
    torch = peers.find("torch")
    if not torch:
        return
    a, w, t = torch.from_numpy(x), torch.from_numpy(dense), torch.from_numpy(turned)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Sparse CSR tensor support is in beta state"
        s = w.to_sparse_csr()

    def torch_dense() -> object:
        with torch.inference_mode():
            return torch.nn.functional.linear(a, w)

    def torch_csr() -> object:
        with torch.inference_mode():
            return s @ t

    calls["torch dense"], calls["torch csr"] = torch_dense, torch_csr


def _frozen(x: np.ndarray, layer: Callable[[qn.Tensor], qn.Tensor]) -> Call:
    run = _plan(x, layer)
    return lambda: run(x)


def _plan(x: np.ndarray, layer: Callable[[qn.Tensor], qn.Tensor]) -> Callable[[np.ndarray], object]:
    memory = FrozenMemory()
    plan = record_frozen(lambda t: [layer(t)], [x], memory.constants, memory.arenas)
    return lambda x: plan.replay([x])
