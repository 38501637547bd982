"""Reading and adding rows and elements by index: native kernels, ops with their gradients, messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import _core, nn, ops
from quernel.errors import ArgumentError, DTypeError, OutOfRangeError, ShapeError
from quernel.graph.rows import independent_rows
from tests import reference
from tests.checks import N, T, check_adjoint, check_contraction, check_equal
from tests.strategies import arrays, guarded, near, seeds

Array = np.ndarray[Any, Any]
DTYPES = ("float32", "float64", "int8", "uint8", "int32", "int64", "bool")
numbers = st.sampled_from(("float32", "float64", "int8", "int32", "int64"))
A = ("index_select", 1, True)  # who asks, along which axis, and that negative indices wrap


def indices(seed: int, shape: Any, rows: int, wrap: bool = True) -> Array:
    return np.random.default_rng(seed).integers(-rows if wrap else 0, rows, shape)


# Kernels.


@pytest.mark.usefixtures("isa")
@given(
    st.data(),
    st.integers(0, 3),
    st.integers(1, 9),
    st.integers(0, 20),
    near(70),
    st.sampled_from(DTYPES),
    seeds,
)
@settings(max_examples=20)
def test_take_and_put_rows(
    data: Any, outer: int, rows: int, n: int, inner: int, dtype: str, seed: int
) -> None:
    x = data.draw(arrays((outer, rows, inner), dtype, specials=None))
    index = indices(seed, n, rows)
    taken = reference.take_rows(x, index)
    check_equal(N(_core.take_rows(*A, T(x), T(index))), taken)
    value = data.draw(arrays((outer, n, inner), dtype, specials=None))
    dst, expected = _core.from_numpy(x), x.copy()
    for j, row in enumerate(index):  # the last of equal indices stays
        expected[:, row] = value[:, j]
    _core.put_rows_(*A, dst, T(index), T(value))
    check_equal(N(dst), expected)


@pytest.mark.usefixtures("isa")
@given(st.data(), st.integers(0, 3), st.integers(1, 9), st.integers(0, 20), near(70), numbers, seeds)
@settings(max_examples=20)
def test_add_rows(data: Any, outer: int, rows: int, n: int, inner: int, dtype: str, seed: int) -> None:
    src = data.draw(arrays((outer, n, inner), dtype))
    base = data.draw(arrays((outer, rows, inner), dtype))
    index = indices(seed, n, rows, wrap=False)
    for onto, skip in ((None, -1), (base, -1), (None, int(index[0]) if n else -1)):
        y = N(_core.add_rows(*A, None if onto is None else T(onto), T(index), T(src), rows, skip))
        check_sum(y, lambda s, b: reference.add_rows(b, index, s, rows, skip), src, onto, n + 1, dtype)  # noqa: B023


@pytest.mark.usefixtures("isa")
@given(st.data(), st.integers(0, 3), st.integers(1, 9), st.integers(0, 9), near(70), numbers, seeds)
@settings(max_examples=20)
def test_gather_and_scatter_add(
    data: Any, outer: int, rows: int, n: int, inner: int, dtype: str, seed: int
) -> None:
    index = indices(seed, (outer, n, inner), rows)
    x = data.draw(arrays((outer, rows, inner), dtype, specials=None))
    check_equal(N(_core.gather(*A, T(x), T(index), n)), reference.gather(x, index % rows))
    src = data.draw(arrays((outer, n, inner), dtype))
    for onto in (None, data.draw(arrays((outer, rows, inner), dtype))):
        y = N(_core.scatter_add(*A, None if onto is None else T(onto), T(index), T(src), rows))
        check_sum(y, lambda s, b: reference.scatter_add(b, index, s, rows), src, onto, n + 1, dtype)


def check_sum(
    y: Array, define: Callable[[Array, Array | None], Array], src: Array, base: Array | None, terms: int,
    dtype: str,
) -> None:  # fmt: skip
    """Integers wrap; floats are within the bound of their sums."""
    if np.dtype(dtype).kind == "i":
        check_equal(y, define(src, base).astype(dtype))
    else:
        size = define(np.abs(src), None if base is None else np.abs(base))
        check_contraction(y, define(src, base), size, terms, dtype)


@pytest.mark.usefixtures("isa", "threads")
def test_additions_keep_the_order_of_the_source() -> None:
    """Bit for bit a sequential loop, whatever the threads and the blocks of rows."""
    rng = np.random.default_rng(0)
    for rows, n, inner in ((40, 3000, 70), (3, 2000, 16), (5000, 300, 33), (1, 4000, 1)):
        index = rng.integers(0, rows, n)
        src = (rng.standard_normal((1, n, inner)) * 10.0 ** rng.integers(-6, 6, (1, n, 1))).astype("f4")
        expected = np.zeros((1, rows, inner), "f4")
        np.add.at(expected[0], index, src[0])
        check_equal(N(_core.add_rows(*A, None, T(index), T(src), rows)), expected)
        columns = np.broadcast_to(index[None, :, None], src.shape).copy()
        check_equal(N(_core.scatter_add(*A, None, T(columns), T(src), rows)), expected)
        taken = N(_core.take_rows(*A, T(expected), T(index)))
        check_equal(taken, expected[:, index])
        check_equal(N(_core.gather(*A, T(expected), T(columns), n)), expected[:, index])


@pytest.mark.usefixtures("isa")
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("n", "inner"), [(700, 3), (20, 600), (300, 260)])
def test_many_rows_and_wide_ones(n: int, inner: int) -> None:
    """More of either than threads of a block work at."""
    rng = np.random.default_rng(n)
    index = rng.integers(0, 7, n)
    x, src = rng.standard_normal((1, 8, inner)), rng.standard_normal((1, n, inner))
    dst, put, total = _core.from_numpy(x), x.copy(), x.copy()
    for j, row in enumerate(index):
        put[0, row] = src[0, j]
        total[0, row] += src[0, j]
    _core.put_rows_(*A, dst, T(index), T(src))
    check_equal(N(dst), put)
    check_equal(N(_core.add_rows(*A, T(x), T(index), T(src), 8, -1)), total)


def test_every_tail_against_guard_pages() -> None:
    for inner in range(1, 40):
        for end in (True, False):
            x, g = guarded((1, 3, inner), "f4", end), guarded((1, 2, inner), "f4", end)
            i, each = guarded((2,), "i8", end), guarded((1, 2, inner), "i8", end)
            x[...], g[...], i[...] = np.arange(3 * inner).reshape(x.shape), 1, [2, -3]
            each[...] = i[None, :, None]
            check_equal(N(_core.take_rows(*A, T(x), T(i))), x[:, i])
            check_equal(N(_core.gather(*A, T(x), T(each), 2)), x[:, i])
            added = x.copy()
            added[:, i] += 1
            check_equal(N(_core.add_rows(*A, T(x), T(i), T(g), 3)), added)
            check_equal(N(_core.scatter_add(*A, T(x), T(each), T(g), 3)), added)
            dst, added[:, i] = _core.from_numpy(x), g
            _core.put_rows_(*A, dst, T(i), T(g))
            check_equal(N(dst), added)


def test_nan_and_infinity_stay_where_they_are() -> None:
    src = np.array([[[np.nan], [np.inf], [1.0], [-np.inf]]], "f4")
    y = N(_core.add_rows(*A, None, T(np.array([0, 1, 2, 3])), T(src), 5))[0, :, 0]
    check_equal(y, np.array([np.nan, np.inf, 1, -np.inf, 0], "f4"))


@pytest.mark.usefixtures("isa", "threads")
def test_a_bad_index_is_named_and_nothing_is_written() -> None:
    table, i = qn.zeros((10, 4)), np.zeros((5000, 2), np.int64)
    i[3, 1], i[4999, 0] = 12, -1
    with pytest.raises(
        OutOfRangeError, match=r"^\[embedding\] index 12 at position \(3, 1\) is out of range for 10 rows$"
    ):
        ops.embedding(i, table)
    with pytest.raises(
        IndexError, match=r"\[getitem\] index 12 at position \(3, 1\) is out of range for axis 0 of size 10"
    ):
        table[i]
    i[3, 1], before = 11, table._t.version
    with pytest.raises(ValueError, match=r"\[setitem\] index 11 at position \(3, 1\) .* axis 0 of size 10"):
        table[i] = 1.0
    assert not table.numpy().any() and table._t.version == before


def test_where_negative_indices_are_refused() -> None:
    x = qn.tensor(np.arange(12.0).reshape(3, 4))
    refused: list[Callable[[], Any]] = [
        lambda: ops.embedding([-1], x),
        lambda: ops.index_select(x, 0, [0, -1]),
        lambda: ops.index_add(x, 0, [-1], x[:1]),
        lambda: ops.gather(x, 1, [[0], [-1], [0]]),
        lambda: ops.scatter_add(x, 1, [[-1]], x[:1, :1]),
        lambda: ops.one_hot([-1], 3),
    ]
    for call in refused:
        with pytest.raises(OutOfRangeError, match="index -1 at position"):
            call()
    assert ops.take_along_dim(x, [[-1], [0], [-4]], 1).tolist() == [[3], [4], [8]]
    with pytest.raises(
        OutOfRangeError, match=r"\[take_along_dim\] index -5 at position \(2, 0\) .* axis 1 of size 4"
    ):
        ops.take_along_dim(x, [[-1], [0], [-5]], 1)
    with pytest.raises(
        OutOfRangeError, match=r"\[one_hot\] index 3 at position \(0,\) is out of range for 3 classes"
    ):
        ops.one_hot([3], 3)


# Ops.


def leaf(a: Array) -> qn.Tensor:
    return qn.tensor(a, requires_grad=True)


def gradient(fn: Callable[[qn.Tensor], qn.Tensor], x: Array, g: Array) -> Array:
    a = leaf(x)
    fn(a).backward(g)
    assert a.grad is not None
    return np.asarray(a.grad.numpy())


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data(), seeds)
@settings(max_examples=20)
def test_gradients_are_exact_adjoints(shape: list[int], data: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = rng.integers(-8, 9, shape).astype("f8")
    i = rng.integers(0, shape[dim], 5)
    small = [data.draw(st.integers(1, n)) for n in shape]
    small[dim] = 3
    each = rng.integers(0, shape[dim], small)
    index_shape = list(shape)
    index_shape[dim] = 5
    along = rng.integers(
        -shape[dim], shape[dim], [2 if n == dim % len(shape) else 1 for n in range(len(shape))]
    )
    for read in (
        lambda a: ops.index_select(a, dim, i),
        lambda a: ops.gather(a, dim, each),
        lambda a: ops.take_along_dim(a, along, dim),
    ):
        g = rng.integers(-8, 9, read(x).shape).astype("f8")
        check_adjoint(lambda v: np.asarray(read(v).numpy()), lambda v: gradient(read, x, v), x, g)  # noqa: B023
    source = rng.integers(-8, 9, index_shape).astype("f8")
    zeros, g = np.zeros(shape), rng.integers(-8, 9, shape).astype("f8")
    for fn, s in (
        (lambda a: ops.index_add(zeros, dim, i, a, alpha=2), source),
        (
            lambda a: ops.scatter_add(zeros, dim, each, a),
            rng.integers(-8, 9, [n + 1 for n in small]).astype("f8"),
        ),
        (lambda a: ops.scatter_add(a, dim, each, np.zeros(small)), x),
        (lambda a: ops.index_add(a, dim, i, np.zeros(index_shape)), x),
    ):
        check_adjoint(lambda v: np.asarray(fn(v).numpy()), lambda v: gradient(fn, s, v), s, g)  # noqa: B023


def test_padding_gets_no_gradient_and_indices_of_any_integer_dtype() -> None:
    w = leaf(np.arange(12.0).reshape(4, 3))
    for dtype in ("int8", "uint8", "int32", "int64"):
        y = ops.embedding(np.array([[0, 3], [3, 1]], dtype), w, padding_idx=-1)
        assert y.shape == (2, 2, 3)
        check_equal(y.numpy(), w.numpy()[[[0, 3], [3, 1]]])
    y.sum().backward()
    assert w.grad is not None and w.grad.tolist() == [[1] * 3, [1] * 3, [0] * 3, [0] * 3]


def test_zero_sizes() -> None:
    x = qn.zeros((0, 3))
    none = np.zeros((0,), np.int64)
    assert ops.embedding(none, x).shape == (0, 3)
    assert ops.index_select(x, 1, none).shape == (0, 0)
    assert ops.index_add(qn.ones((2, 3)), 0, none, x).tolist() == [[1] * 3] * 2
    assert ops.gather(qn.zeros((2, 0)), 1, np.zeros((2, 0), np.int64)).shape == (2, 0)
    assert ops.scatter_add(qn.ones((2,)), 0, none, qn.zeros((0,))).tolist() == [1, 1]
    assert ops.one_hot(none, 3).shape == (0, 3)
    assert ops.one_hot(np.zeros((2, 0), np.int64), 0).shape == (2, 0, 0)
    with pytest.raises(OutOfRangeError, match="for 0 rows"):
        ops.embedding([0], x)


def test_replays_follow_their_index_arguments(caplog: pytest.LogCaptureFixture) -> None:
    w = leaf(np.arange(20.0, dtype="f4").reshape(5, 4))

    @qn.jit
    def step(i: Any, each: Any, src: Any) -> tuple[qn.Tensor, ...]:
        y = ops.embedding(i, w)
        z = ops.scatter_add(w * 2, 1, each, src)
        hot = ops.one_hot(i, 5)
        w.grad = None
        (y.sum() + (z * z).sum()).backward()
        assert w.grad is not None
        return y, z, hot, ops.tril(z), qn.arange(3), w.grad

    rng = np.random.default_rng(0)
    for dtype in ("int64", "int32"):
        for _ in range(4):
            i, each = rng.integers(0, 5, (2, 3)).astype(dtype), rng.integers(0, 4, (5, 2)).astype(dtype)
            src = rng.standard_normal((5, 2)).astype("f4")
            y, z, hot, low, count, grad = step(i, each, src)
            check_equal(y.numpy(), w.numpy()[i])
            check_equal(hot.numpy(), np.eye(5, dtype=np.int64)[i])
            check_equal(low.numpy(), np.tril(z.numpy()))
            assert count.tolist() == [0, 1, 2]
            expected = 4 * z.numpy() + np.bincount(i.reshape(-1), minlength=5)[:, None]
            np.testing.assert_allclose(grad.numpy(), expected, rtol=1e-5)
    assert len(step.plans()) == 2 and not caplog.records
    with pytest.raises(OutOfRangeError, match=r"index 5 at position \(0, 0\)"):
        step(np.full((2, 3), 5), each, src)


class Chosen(nn.Module):
    """Index ops that keep the rows of a batch apart, and (if `mixed`) one that reads a weight row by row."""

    takes_integers = True

    def __init__(self, mixed: bool) -> None:
        self.table = nn.Embedding(5, 6)
        self.rows = nn.Parameter(np.arange(120.0).reshape(20, 6)) if mixed else None

    def forward(self, i: qn.Tensor) -> qn.Tensor:
        y = self.table(i[:, 0])
        z = ops.gather(y, 1, i) + ops.take_along_dim(y, i - 5, 1) + ops.index_select(y, 1, [0, 3, 3])
        if self.rows is not None:
            z = z + ops.gather(self.rows, 1, i)
        return z * ops.cast(ops.one_hot(i, 5), "float32").sum(-1)


@pytest.mark.parametrize("mixed", [False, True])
def test_frozen_batches_are_padded_only_where_rows_stay_apart(mixed: bool) -> None:
    qn.seed(0)
    net = Chosen(mixed).eval()
    i = np.random.default_rng(0).integers(0, 5, (11, 3))
    expected = np.asarray(net(i).numpy())
    frozen = net.freeze(max_batch=4)
    check_equal(frozen(i), expected)
    assert independent_rows(frozen.graph) is not mixed


def test_errors_name_both_sides() -> None:
    x, i = qn.zeros((3, 4)), np.zeros((3, 4), np.int64)
    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (DTypeError, r"\[embedding\] indices are whole numbers, got float32", lambda: ops.embedding([0.5], x)),
        (ShapeError, r"\[embedding\] weight must have shape .* got \(4,\)", lambda: ops.embedding([0], x[0])),
        (ArgumentError, r"\[embedding\] padding_idx 3 is out of range for 3 rows", lambda: ops.embedding([0], x, 3)),
        (ShapeError, r"\[index_select\] .* exactly one, got \(3, 4\) and \(3, 4\)", lambda: ops.index_select(x, 0, i)),
        (ShapeError, r"\[index_add\] source must have shape \(2, 4\), got \(3, 4\)", lambda: ops.index_add(x, 0, [0, 1], x)),
        (DTypeError, r"\[index_add\] source is float64, x is float32", lambda: ops.index_add(x, 0, [0], np.zeros((1, 4)))),
        (ShapeError, r"\[gather\] index must have the rank of x", lambda: ops.gather(x, 1, [0])),
        (ShapeError, r"\[gather\] .* every dimension but 1.* \(4, 1\)", lambda: ops.gather(x, 1, np.zeros((4, 1), int))),
        (ShapeError, r"\[scatter_add\] .* src.*at most its size", lambda: ops.scatter_add(x, 1, i, qn.zeros((3, 3)))),
        (DTypeError, r"\[scatter_add\] cannot add bool", lambda: ops.scatter_add(x > 0, 1, i, x > 0)),
        (ShapeError, r"\[take_along_dim\] .* same dimensions, got \(3, 4\) and \(1,\)", lambda: ops.take_along_dim(x, [0], 1)),
        (ArgumentError, r"\[one_hot\] no indices tell no number", lambda: ops.one_hot(np.zeros(0, np.int64))),
        (ArgumentError, r"\[one_hot\] num_classes is a whole number, got -2", lambda: ops.one_hot([0], -2)),
    ]  # fmt: skip
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()
    assert ops.one_hot([2, 0]).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_torch_agrees() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(5)
    for _ in range(25):
        shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 4)))
        dim = int(rng.integers(-len(shape), len(shape)))
        small = np.array([rng.integers(1, n + 1) for n in shape])
        small[dim] = rng.integers(1, 7)
        each, i = rng.integers(0, shape[dim], small), rng.integers(0, shape[dim], 4)
        table, lookups = rng.standard_normal((6, 3)), rng.integers(0, 6, (2, 5))
        x, src = rng.standard_normal(shape), rng.standard_normal(small)
        rows = np.array(shape)
        rows[dim] = 4
        source = rng.standard_normal(rows)
        pairs: list[tuple[Any, Any, list[Array]]] = [
            (lambda x: ops.gather(x, dim, each), lambda x: torch.gather(x, dim, torch.tensor(each)), [x]),  # noqa: B023
            (lambda x, s: ops.scatter_add(x, dim, each, s), lambda x, s: x.scatter_add(dim, torch.tensor(each), s), [x, src]),  # noqa: B023
            (lambda x: ops.index_select(x, dim, i), lambda x: x.index_select(dim, torch.tensor(i)), [x]),  # noqa: B023
            (lambda x, s: ops.index_add(x, dim, i, s, alpha=0.5), lambda x, s: x.index_add(dim, torch.tensor(i), s, alpha=0.5), [x, source]),  # noqa: B023
            (lambda w: ops.embedding(lookups, w, 2), lambda w: torch.nn.functional.embedding(torch.tensor(lookups), w, 2), [table]),  # noqa: B023
        ]  # fmt: skip
        for ours, theirs, inputs in pairs:
            mine, other = [leaf(a) for a in inputs], [torch.tensor(a, requires_grad=True) for a in inputs]
            y, z = ours(*mine), theirs(*other)
            np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-14, atol=1e-14)
            g = rng.standard_normal(y.shape)
            y.backward(g)
            z.backward(torch.tensor(g))
            for a, b in zip(mine, other, strict=True):
                assert a.grad is not None
                np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-14, atol=1e-14)
    assert (
        ops.one_hot(lookups, 7).numpy() == torch.nn.functional.one_hot(torch.tensor(lookups), 7).numpy()
    ).all()
