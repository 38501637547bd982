"""The sparse ops as Python sees them: gradients, plans, graphs, freezing, PyTorch beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import nn, ops, sparse
from quernel.graph.trace import Input, trace
from tests.checks import Array, check_contraction, check_equal, gradcheck
from tests.strategies import seeds

FORMATS: dict[str, Callable[..., sparse.SparseArray]] = {
    "csr": sparse.csr,
    "block": sparse.block,
    "block4": lambda a, **kw: sparse.block(a, (16, 4), **kw),
}
every_format = pytest.mark.parametrize("form", FORMATS)


def random(rows: int, cols: int, density: float = 0.3, seed: int = 0, dtype: str = "f4") -> Array:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((rows, cols)) < density, rng.standard_normal((rows, cols)), 0).astype(dtype)


def dense_of(values: qn.Tensor, like: sparse.SparseArray) -> Array:
    return like.with_values(values).to_dense().numpy()


@every_format
@pytest.mark.parametrize("activation", [None, "relu", "gelu", "silu", "tanh", "sigmoid"])
def test_linear_gradients(form: str, activation: str | None) -> None:
    rng = np.random.default_rng(1)
    weight = FORMATS[form](random(21, 10, dtype="f8"))
    x, b, r = rng.standard_normal((2, 3, 10)), rng.standard_normal(21), rng.standard_normal((2, 3, 21))
    gradcheck(
        lambda x, v, b, r: ops.sparse_linear(x, weight.with_values(v), b, r, activation),
        x, weight.values.numpy(), b, r,
    )  # fmt: skip


@every_format
def test_spmm_gradients(form: str) -> None:
    a = FORMATS[form](random(21, 10, dtype="f8"))
    b = np.random.default_rng(1).standard_normal((10, 7))
    gradcheck(lambda v, b: ops.spmm(a.with_values(v), b), a.values.numpy(), b)
    gradcheck(lambda v, b: ops.spmm(a.with_values(v), b), a.values.numpy(), b[:, 0].copy())


@every_format
def test_gradients_are_those_of_the_dense_layer_at_the_places(form: str) -> None:
    weight = FORMATS[form](random(40, 33), requires_grad=True)
    full = qn.tensor(weight.to_dense().numpy(), requires_grad=True)
    x, y = (qn.tensor(random(9, 33, 1.0, 5), requires_grad=True) for _ in range(2))
    g = random(9, 40, 1.0, 6)
    ops.sparse_linear(x, weight, activation="relu").backward(g)
    ops.linear(y, full, activation="relu").backward(g)
    at = dense_of(qn.ones(weight.values.shape), weight)
    assert weight.values.grad is not None and full.grad is not None
    size = np.abs(g).T @ np.abs(x.detach().numpy())
    check_contraction(
        dense_of(weight.values.grad, weight), (full.grad.numpy() * at).astype("f8"), size * 2, 20
    )
    check_contraction(
        x.grad.numpy(), y.grad.numpy().astype("f8"), 2 * np.abs(g) @ np.abs(full.detach().numpy()), 80
    )


@every_format
def test_a_plan_replays_to_the_bit(form: str) -> None:
    """Forward, backward and update as one call, with a chain that the plan fuses."""

    def run(wrap: Callable[..., Any]) -> list[bytes]:
        weight = FORMATS[form](random(40, 33), requires_grad=True)
        bias = qn.zeros(40, requires_grad=True)

        def step(x: Any) -> Any:
            weight.values.grad = bias.grad = None
            y = ops.relu(ops.sparse_linear(x, weight) + bias)
            loss = (ops.spmm(weight, ops.transpose(x, 0, 1)) * ops.transpose(y, 0, 1)).sum()
            loss.backward()
            with qn.no_grad():
                weight.values[...] = weight.values - 1e-3 * weight.values.grad
                bias[...] = bias - 1e-3 * bias.grad
            return loss

        wrapped = wrap(step)
        losses = [wrapped(random(6, 33, 1.0, i)).numpy().tobytes() for i in range(5)]
        if isinstance(wrapped, qn.jit(abs).__class__):
            assert len(wrapped.plans()) == 1
        return [*losses, weight.values.detach().numpy().tobytes(), bias.detach().numpy().tobytes()]

    assert run(lambda f: f) == run(qn.jit)


@every_format
@pytest.mark.usefixtures("isa")
def test_frozen_and_traced(form: str) -> None:
    """A module that calls the ops itself: traced, fused, frozen at several batches, the same bits; loads as a graph."""

    class Net(nn.Module):
        def __init__(self) -> None:
            dense = random(40, 33, 0.9)
            dense[:, np.random.default_rng(0).random(33) < 0.7] = 0
            self.values = nn.Parameter(FORMATS[form](dense).values)
            self.weight = FORMATS[form](dense).with_values(self.values)
            self.bias = nn.Parameter(random(1, 40, 1.0)[0])

        def forward(self, x: qn.Tensor) -> qn.Tensor:
            y = ops.sparse_linear(x, self.weight, self.bias)
            return ops.relu(y + ops.concat([x, x[:, :7]], dim=1))

    net = Net().eval()
    run = net.freeze(max_batch=16, input_shape=(33,))
    assert [n.op for n in run.graph.nodes] == ["getitem", "concat", "sparse_linear"]
    for batch in (1, 2, 5, 20):
        x = random(batch, 33, 1.0, batch)
        with qn.no_grad():
            check_equal(run(x), net(x).numpy())


@every_format
def test_a_frozen_plan_checks_places_once_and_packs_once(form: str) -> None:
    net = nn.Sequential(
        nn.SparseLinear(64, 48, density=0.2, block={"csr": None, "block": (16, 1), "block4": (16, 4)}[form])
    )
    run = net.freeze(max_batch=16, input_shape=(64,))
    x = random(1, 64, 1.0)
    run(x)
    assert [plan.native.steps for plan in run._plans.values()] == [["sparse_linear"]]


@pytest.mark.parametrize(
    ("block", "max_batch", "limit"),
    [
        ((16, 1), 1, 0.85),
        ((16, 4), 64, 0.85),
        (None, 64, 0.35),
        (None, 8, 0.2),
        (None, 2, 0.05),
        (None, 1, 0.15),
    ],
)
def test_dense_from_break_even_on(block: tuple[int, int] | None, max_batch: int, limit: float) -> None:
    """One rule decides for all batches; what becomes dense gives the same bits."""
    for share, expected in ((limit - 0.02, "sparse_linear"), (limit + 0.02, "linear")):
        net = nn.Sequential(nn.SparseLinear(64, 256, density=share, block=block), nn.GELU()).eval()
        run = net.freeze(max_batch=max_batch, input_shape=(64,))
        assert [n.op for n in run.graph.nodes] == [expected]
        assert run.graph.nodes[0].args["activation"] == "gelu"
        x = random(5, 64, 1.0)
        check_equal(run(x), net(x).detach().numpy())


def test_parts_stand_for_a_matrix_and_are_checked() -> None:
    x = random(2, 3, 1.0)
    a = sparse.csr(random(5, 3, 0.5))
    check_equal(ops.sparse_linear(x, a.parts).numpy(), ops.sparse_linear(x, a).numpy())
    bad = (a.values, qn.tensor(np.full(a.nnz, 7, "i4")), a.indptr, a.shape)
    with pytest.raises(
        ValueError, match=r"\[sparse_linear\] index 7 in row \d is out of range for 3 columns"
    ):
        ops.sparse_linear(x, bad)
    indices = qn.tensor(a.indices.numpy().copy())
    parts = (a.values, indices, a.indptr, a.shape)
    step = qn.jit(lambda x: ops.sparse_linear(x, parts))
    for _ in range(3):
        check_equal(step(x).numpy(), ops.sparse_linear(x, a).numpy())
    assert len(step.plans()) == 1
    indices[...] = 1000
    with pytest.raises(ValueError, match="index 1000 in row"):
        step(x)


def test_errors_name_both_sides() -> None:
    a, x = sparse.csr(random(5, 3)), random(2, 4, 1.0)
    with pytest.raises(ValueError, match=r"\[sparse_linear\] weight expects 3 input features, x has 4"):
        ops.sparse_linear(x, a)
    with pytest.raises(TypeError, match=r"\[sparse_linear\] weight is float32, x is float64"):
        ops.sparse_linear(x[:, :3].astype("f8"), a)
    with pytest.raises(
        TypeError, match=r"\[sparse_linear\] expects a sparse matrix, got ndarray; .*sparse.csr"
    ):
        ops.sparse_linear(x, np.ones((5, 4), "f4"))
    with pytest.raises(ValueError, match=r"unknown activation 'selu'"):
        ops.sparse_linear(x[:, :3], a, activation="selu")
    with pytest.raises(ValueError, match=r"\[sparse_linear\] bias must have shape \(5,\), got \(4,\)"):
        ops.sparse_linear(x[:, :3], a, np.zeros(4, "f4"))
    with pytest.raises(
        ValueError, match=r"\[spmm\] a has 3 columns, b must be \(3, n\) or \(3,\), got \(2, 4\)"
    ):
        ops.spmm(a, x)
    with pytest.raises(TypeError, match=r"\[spmm\] a must be floating, got int8"):
        ops.spmm(sparse.csr(np.ones((2, 2), "i1")), np.ones((2, 2), "i1"))
    eight = sparse.block(np.ones((2, 4), "i1"), (16, 4))
    with pytest.raises(TypeError, match=r"\[qsparse_linear\] x must be uint8, got float32"):
        ops.qsparse_linear(qn.tensor(x), eight, np.zeros(2, "i4"), np.ones(2, "f4"))


def test_an_int8_net_is_traced_and_frozen() -> None:
    weight = sparse.block((random(20, 33, 0.3) * 60).astype("i1"), (16, 4))

    class Net(nn.Module):
        takes_integers = True

        def __init__(self) -> None:
            self.register_buffer("bias", qn.tensor(np.arange(20, dtype="i4")))
            self.register_buffer("scale", qn.full(20, 0.01))

        def forward(self, x: qn.Tensor) -> qn.Tensor:
            return ops.qsparse_linear(x, weight, self.bias, self.scale, 3, 3)

    net = Net()
    graph = trace(net, [Input((33,), "uint8")])
    assert graph.nodes[0].outputs[0].dtype == "uint8"
    x = np.random.default_rng(0).integers(0, 256, (5, 33), np.uint8)
    check_equal(qn.graph.freeze.Frozen(graph)(x), net(x).numpy())


@every_format
@settings(max_examples=8)
@given(seed=seeds, rows=st.integers(1, 40), cols=st.integers(1, 40), n=st.integers(1, 20))
def test_against_torch(form: str, seed: int, rows: int, cols: int, n: int) -> None:
    torch = pytest.importorskip("torch")
    dense = random(rows, cols, 0.3, seed)
    theirs = torch.tensor(dense).to_sparse_coo().requires_grad_()
    ours = FORMATS[form](dense, requires_grad=True)
    b = random(cols, n, 1.0, seed + 1)
    tb, qb = torch.tensor(b, requires_grad=True), qn.tensor(b, requires_grad=True)
    y, z = ops.spmm(ours, qb), torch.sparse.mm(theirs, tb)
    g = random(rows, n, 1.0, seed + 2)
    y.backward(g)
    z.backward(torch.tensor(g))
    check_contraction(y.detach().numpy(), z.detach().numpy().astype("f8"), 2 * abs(dense) @ abs(b), 2 * cols)
    check_contraction(qb.grad.numpy(), tb.grad.numpy().astype("f8"), 2 * abs(dense).T @ abs(g), 2 * rows)
    stored = dense != 0
    got = dense_of(ours.values.grad, ours) * stored
    want = theirs.grad.to_dense().numpy().astype("f8") * stored
    check_contraction(got.astype("f4"), want, 2 * abs(g) @ abs(b).T, 2 * n)
