"""flip, split, tile, roll and the like against NumPy, with gradients as exact adjoints; arange."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import ops
from quernel.errors import ArgumentError, ShapeError
from tests.checks import check_adjoint, check_equal
from tests.strategies import seeds

Array = np.ndarray[Any, Any]


def check(ours: Callable[[Any], qn.Tensor], theirs: Callable[[Array], Array], x: Array) -> None:
    """The value, and the gradient as the exact adjoint of a linear map."""
    y = np.asarray(theirs(x))
    check_equal(np.asarray(ours(x).numpy()), np.ascontiguousarray(y).reshape(y.shape))

    def adjoint(g: Array) -> Array:
        a = qn.tensor(x, requires_grad=True)
        ours(a).backward(g)
        assert a.grad is not None
        return np.asarray(a.grad.numpy())

    g = np.asarray(np.random.default_rng(1).integers(-8, 9, y.shape), "f8")
    check_adjoint(lambda v: np.asarray(ours(v).numpy()), adjoint, x, g)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.data(), seeds)
def test_numpy_agrees(shape: list[int], data: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-8, 9, shape).astype("f8")
    rank = len(shape)
    dim = data.draw(st.integers(-rank, rank - 1))
    dims = data.draw(st.lists(st.integers(0, rank - 1), unique=True))
    counts = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    shifts = [int(n) for n in rng.integers(-9, 10, len(dims))]
    check(lambda x: ops.flip(x, dims), lambda x: np.flip(x, dims), x)
    check(lambda x: ops.tile(x, counts), lambda x: np.tile(x, counts), x)
    check(lambda x: ops.repeat_interleave(x, counts[0], dim), lambda x: np.repeat(x, counts[0], dim), x)
    check(lambda x: ops.repeat_interleave(x, 2), lambda x: np.repeat(x, 2), x)
    check(lambda x: ops.roll(x, shifts, dims), lambda x: np.roll(x, shifts, dims), x)
    check(lambda x: ops.roll(x, 3), lambda x: np.roll(x, 3), x)
    if rank >= 2:
        k = data.draw(st.integers(-5, 5))
        check(lambda x: ops.tril(x, k), lambda x: np.tril(x, k), x)
        check(lambda x: ops.triu(x, k), lambda x: np.triu(x, k), x)
    check(lambda x: ops.outer(x, np.arange(3.0)), lambda x: np.outer(x, np.arange(3.0)), x.reshape(-1))


@given(st.integers(0, 9), st.integers(1, 5), st.booleans())
def test_split_and_chunk_agree_with_torch(size: int, parts: int, last: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = np.arange(2.0 * size).reshape((2, size) if last else (size, 2))
    dim = -1 if last else 0
    sections = [size // 3, size - size // 3]
    for ours, theirs in (
        (ops.split(x, parts, dim), torch.split(torch.tensor(x), parts, dim)),
        (ops.split(x, sections, dim), torch.split(torch.tensor(x), sections, dim)),
        (ops.chunk(x, parts, dim), torch.chunk(torch.tensor(x), parts, dim)),
    ):
        assert [a.shape for a in ours] == [tuple(b.shape) for b in theirs]
        assert all((a.numpy() == b.numpy()).all() for a, b in zip(ours, theirs, strict=True))
    a = qn.tensor(x, requires_grad=True)
    ops.concat([part * (i + 1) for i, part in enumerate(ops.split(a, sections, dim))], dim).sum().backward()
    assert a.grad is not None
    weights = np.repeat([1.0, 2.0], sections)
    check_equal(
        np.asarray(a.grad.numpy()), np.array(np.broadcast_to(weights if last else weights[:, None], x.shape))
    )


@given(st.integers(-20, 20), st.integers(-20, 20), st.sampled_from([-7, -1, 1, 2, 2**40]), st.floats(-3, 3))
def test_arange(start: int, end: int, step: int, fraction: float) -> None:
    check_equal(np.asarray(qn.arange(start, end, step).numpy()), np.arange(start, end, step))
    check_equal(np.asarray(qn.arange(2**60, 2**60 + 3).numpy()), np.arange(2**60, 2**60 + 3))
    if abs(fraction) > 0.1:
        for dtype in ("float64", "float32", "int32"):
            wanted = np.arange(start, end, fraction).astype(dtype)
            check_equal(np.asarray(qn.arange(start, end, fraction, dtype=dtype).numpy()), wanted)
    for dtype in ("int8", "uint8", "bool", "float32"):
        check_equal(np.asarray(qn.arange(2, dtype=dtype).numpy()), np.arange(2).astype(dtype))


def test_tensors_without_elements_and_methods() -> None:
    x = qn.tensor(np.arange(6.0).reshape(2, 3))
    assert x.flip(0).tolist() == [[3, 4, 5], [0, 1, 2]] and x.repeat(2, 1).shape == (4, 3)
    assert [part.shape for part in x.split([1, 2], 1)] == [(2, 1), (2, 2)]
    assert [part.shape for part in x.chunk(2)] == [(1, 3), (1, 3)]
    assert x.gather(1, [[0], [2]]).tolist() == [[0], [5]] and x.index_select(0, [1]).tolist() == [[3, 4, 5]]
    assert x.masked_fill(x > 3, 0.0).tolist() == [[0, 1, 2], [3, 0, 0]]
    assert (x > 4).nonzero().tolist() == [[1, 2]]
    ones = np.ones((1, 3))
    assert x.scatter_add(0, [[1, 1, 1]], ones).tolist() == [[0, 1, 2], [4, 5, 6]]


def test_errors() -> None:
    x = qn.zeros((2, 3))
    assert ops.repeat_interleave(x, np.int64(2), 1).shape == (2, 6)
    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ShapeError, r"\[split\] sizes \[1, 1\] do not add up to 3", lambda: ops.split(x, [1, 1], 1)),
        (ArgumentError, r"\[split\] the size of a part must be positive, got 0", lambda: ops.split(x, 0)),
        (ArgumentError, r"\[chunk\] the number of parts must be positive", lambda: ops.chunk(x, 0)),
        (ArgumentError, r"\[tile\] counts must not be negative", lambda: ops.tile(x, (-1,))),
        (ShapeError, r"\[repeat\] 1 counts for the 2 dimensions", lambda: ops.repeat(x, 2)),
        (ArgumentError, r"\[repeat_interleave\] repeats is one whole number", lambda: ops.repeat_interleave(x, -1)),
        (ArgumentError, r"\[arange\] start, end and step are finite, got 0, inf", lambda: qn.arange(np.inf)),
        (ArgumentError, r"\[roll\] needs a shift for each dimension", lambda: ops.roll(x, (1, 2), 0)),
        (ArgumentError, r"\[roll\] several shifts need dims", lambda: ops.roll(x, (1, 2))),
        (ShapeError, r"\[tril\] expects at least two dimensions, got shape \(3,\)", lambda: ops.tril(x[0])),
        (ShapeError, r"\[outer\] expects two vectors", lambda: ops.outer(x, x[0])),
        (ShapeError, r"\[flip\] dim 2 is out of range", lambda: ops.flip(x, 2)),
    ]  # fmt: skip
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()
