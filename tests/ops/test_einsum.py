"""einsum and tensordot against NumPy and PyTorch on random equations; gradients; messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import nn, ops
from quernel.errors import ArgumentError, DTypeError, ShapeError
from tests.checks import check_equal, check_exact, gradcheck
from tests.strategies import seeds

Array = np.ndarray[Any, Any]


@st.composite
def equations(draw: st.DrawFn, most: int = 3, dots: bool = True) -> tuple[str, list[tuple[int, ...]]]:
    """An equation and the shapes of its operands: repeated labels, ellipses, sizes of 1, implicit and explicit results."""
    sizes = {label: draw(st.integers(1, 4)) for label in "abcdE"}
    terms, shapes = [], []
    extra = draw(st.lists(st.integers(1, 3), max_size=2)) if dots and draw(st.booleans()) else None
    for _ in range(draw(st.integers(1, most))):
        labels = draw(st.lists(st.sampled_from("abcdE"), max_size=3))
        shape = [sizes[label] for label in labels]
        term = "".join(labels)
        if extra is not None and draw(st.booleans()):
            at = draw(st.integers(0, len(labels)))
            own = [n if draw(st.booleans()) else 1 for n in extra][draw(st.integers(0, len(extra))) :]
            shape[at:at], term = own, term[:at] + "..." + term[at:]
        terms.append(term)
        shapes.append(tuple(shape))
    left = ",".join(terms)
    if draw(st.booleans()):
        return left, shapes
    known = sorted(set("".join(terms)) - {"."})
    kept = draw(st.permutations(known))[: draw(st.integers(0, len(known)))] if known else []
    return f"{left}->{'...' if '.' in left else ''}{''.join(kept)}", shapes


@given(equations(), seeds)
@settings(max_examples=200)
def test_numpy_agrees_exactly_on_small_integers(case: tuple[str, list[tuple[int, ...]]], seed: int) -> None:
    equation, shapes = case
    rng = np.random.default_rng(seed)
    operands = [np.asarray(rng.integers(-4, 5, s), "f8") for s in shapes]
    y = ops.einsum(equation, *operands)
    check_exact(np.asarray(y.numpy()), np.asarray(np.einsum(equation, *operands)), "f8")


@given(equations(most=4, dots=False), seeds)
@settings(max_examples=60)
def test_torch_agrees_with_gradients(case: tuple[str, list[tuple[int, ...]]], seed: int) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    equation, shapes = case
    rng = np.random.default_rng(seed)
    operands = [np.asarray(rng.standard_normal(s)) for s in shapes]
    mine = [qn.tensor(a, requires_grad=True) for a in operands]
    other = [torch.tensor(a, requires_grad=True) for a in operands]
    y, z = ops.einsum(equation, *mine), torch.einsum(equation, *other)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-11, atol=1e-11)
    g = np.asarray(rng.standard_normal(y.shape))
    y.backward(g)
    z.backward(torch.tensor(g))
    for a, b in zip(mine, other, strict=True):
        assert a.grad is not None
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("...ij,...jk->...ik", [(2, 3, 4), (4, 2)]),
        ("ii->i", [(3, 3)]),
        ("bqhd,bkhd->bhqk", [(2, 3, 2, 4), (2, 5, 2, 4)]),
        ("i,j,k->kji", [(2,), (3,), (4,)]),
        ("ab,bc,cd->", [(2, 3), (3, 2), (2, 4)]),
        ("iij,j->i", [(2, 2, 3), (1,)]),
    ],
)
def test_gradients_against_differences(equation: str, shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    gradcheck(lambda *t: ops.einsum(equation, *t), *[rng.standard_normal(s) for s in shapes])


def test_sizes_of_one_broadcast() -> None:
    rng = np.random.default_rng(0)
    for equation, shapes in [
        ("ij,ij->ij", [(1, 3), (2, 3)]),
        ("ij,jk->ik", [(2, 1), (3, 4)]),
        ("i,i->", [(1,), (5,)]),
    ]:
        a = [rng.integers(-3, 4, s).astype("f8") for s in shapes]
        check_exact(np.asarray(ops.einsum(equation, *a).numpy()), np.asarray(np.einsum(equation, *a)), "f8")


def test_dtypes() -> None:
    i = np.arange(6).reshape(2, 3)
    for equation in ("ij->ji", "ij->i", "ij->"):
        check_equal(
            np.asarray(ops.einsum(equation, i).numpy()),
            np.ascontiguousarray(np.einsum(equation, i)).reshape(np.einsum(equation, i).shape),
        )
    check_equal(np.asarray(ops.einsum("i,j->ij", i[0], i[1]).numpy()), np.outer(i[0], i[1]))
    assert ops.einsum("ij->i", i.astype("i1")).dtype == "int8"
    assert ops.einsum("ij,j", i, np.ones(3, "f4")).dtype == "float32"
    with pytest.raises(DTypeError, match=r"\[einsum\] 'ij,j->i': .* need floating operands, got int64"):
        ops.einsum("ij,j->i", i, i[0])


def test_zero_sizes() -> None:
    for equation, shapes in [
        ("ij,jk->ik", [(2, 0), (0, 3)]),
        ("ij->j", [(0, 3)]),
        ("bi,bi->b", [(0, 3), (0, 3)]),
        ("ii", [(0, 0)]),
    ]:
        a = [np.zeros(s, "f4") for s in shapes]
        check_exact(np.asarray(ops.einsum(equation, *a).numpy()), np.asarray(np.einsum(equation, *a)), "f4")


ERRORS: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (ArgumentError, r"'i;j->i': cannot read 'i;j'", lambda: ops.einsum("i;j->i", np.ones((2, 2)))),
    (ArgumentError, r"'\.\.i': cannot read", lambda: ops.einsum("..i", np.ones(2))),
    (ArgumentError, "'ij,j->i' has 2 terms for 1 operands", lambda: ops.einsum("ij,j->i", np.ones((2, 2)))),
    (ArgumentError, "'ij->k': no operand has the result's 'k'", lambda: ops.einsum("ij->k", np.ones((2, 2)))),
    (ArgumentError, "'ij->ii': the result has 'i' twice", lambda: ops.einsum("ij->ii", np.ones((2, 2)))),
    (ShapeError, "'ij->i': term 'ij' does not fit operand 0, which has 3", lambda: ops.einsum("ij->i", np.ones((2, 2, 2)))),
    (ShapeError, r"'ij,jk': 'j' has size 3 in operand 0 and 4 in operand 1 \(shapes \(2, 3\), \(4, 5\)\)", lambda: ops.einsum("ij,jk", np.ones((2, 3)), np.ones((4, 5)))),
    (ShapeError, "'ii': 'i' has size 2 in operand 0 and 3 in operand 0", lambda: ops.einsum("ii", np.ones((2, 3)))),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "call"), ERRORS, ids=[m for _, m, _ in ERRORS])
def test_errors_name_the_equation(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=r"\[einsum\] " + message):
        call()


def test_tensordot() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-4, 5, (2, 3, 4)).astype("f8"), rng.integers(-4, 5, (4, 3, 2)).astype("f8")
    for dims in (0, 1, ([1, 2], [1, 0]), ([-1], [0]), ([0, 1, 2], [2, 1, 0])):
        check_exact(np.asarray(ops.tensordot(a, b, dims).numpy()), np.asarray(np.tensordot(a, b, dims)), "f8")
    with pytest.raises(ArgumentError, match=r"\[tensordot\] a dimension appears twice in dims"):
        ops.tensordot(a, a, ([0, 0], [0, 1]))
    with pytest.raises(ShapeError, match=r"\[tensordot\] dimensions \[1, 2\] of \(2, 3, 4\) do not fit"):
        ops.tensordot(a, b)


def test_in_a_plan_and_in_a_graph() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            self.project = nn.Linear(4, 8)

        def forward(self, x: qn.Tensor) -> qn.Tensor:
            q, k = ops.split(self.project(x), 4, -1)
            return ops.einsum("bqk,bkd->bqd", ops.softmax(ops.einsum("bqd,bkd->bqk", q, k)), x)

    net = Attend().eval()
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype("f4")
    expected = np.asarray(net(x).numpy())
    check_equal(net.freeze(max_batch=4)(x), expected)
    step = qn.jit(net)
    for _ in range(3):
        check_equal(np.asarray(step(x).numpy()), expected)
    assert len(step.plans()) == 1
