"""Sums, means and maxima of rows of a table, and gradients by rows: kernels, ops, messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import _core, ops
from quernel.errors import ArgumentError, DTypeError, OutOfRangeError, ShapeError, StateError
from tests import reference
from tests.checks import N, T, check_contraction, check_equal, gradcheck
from tests.strategies import arrays, guarded, near, seeds

Array = np.ndarray[Any, Any]
floats = st.sampled_from(("float32", "float64"))
MODES = ("sum", "mean", "max")


def leaf(a: Array) -> qn.Tensor:
    return qn.tensor(a, requires_grad=True)


def draw_offsets(rng: np.random.Generator, bags: int, n: int, closed: bool) -> Array:
    inner = np.sort(rng.integers(0, n + 1, max(bags - 1, 0)))
    return np.concatenate([[0], inner, [n] if closed else []]).astype(np.int64)


def rows_of(w: qn.Tensor) -> ops.RowGradient:
    assert isinstance(w.grad, ops.RowGradient)
    return w.grad


def dense(w: qn.Tensor) -> Array:
    assert w.grad is not None
    return np.asarray((w.grad.to_dense() if isinstance(w.grad, ops.RowGradient) else w.grad).numpy())


# Values.


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(), bags=st.integers(0, 7), length=st.integers(0, 9), features=near(140, 1), dtype=floats,
    padding=st.booleans(), seed=seeds,
)  # fmt: skip
@settings(max_examples=25)
def test_bags(data: Any, bags: int, length: int, features: int, dtype: str, padding: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = data.draw(arrays((6, features), dtype))
    index, skip = rng.integers(0, 6, (bags, length)), 2 if padding else None
    flat, closed = index.reshape(-1), bool(seed % 2)
    offsets = draw_offsets(rng, bags, flat.size, closed) if bags else np.zeros(int(closed), np.int64)
    weights = rng.standard_normal(flat.size).astype(dtype)
    for i, at, last in ((index, None, False), (flat, offsets, closed)):
        for mode in MODES:
            y = ops.embedding_bag(i, table, at, mode, include_last_offset=last, padding_idx=skip).numpy()
            args = (at, mode, None, last, -1 if skip is None else skip)
            expected = reference.embedding_bag(i, table, *args)
            if mode == "max":
                check_equal(y, expected.astype(dtype))
            else:
                check_contraction(
                    y, expected, reference.embedding_bag(i, abs(table), *args), flat.size + 2, dtype
                )
        f = weights.reshape(i.shape)
        y = ops.embedding_bag(i, table, at, "sum", False, f, last, skip).numpy()
        args = (at, "sum", f, last, -1 if skip is None else skip)
        size = reference.embedding_bag(i, abs(table), at, "sum", abs(f), *args[3:])
        check_contraction(y, reference.embedding_bag(i, table, *args), size, flat.size + 1, dtype)


@pytest.mark.usefixtures("isa", "threads")
def test_sums_keep_the_order_of_the_lookups_and_bags_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(0)
    for bags, length, features in ((300, 40, 70), (3, 3000, 16), (2000, 1, 33), (1, 4000, 129)):
        table = (rng.standard_normal((50, features)) * 10.0 ** rng.integers(-6, 6, (50, 1))).astype("f4")
        index = rng.integers(0, 50, (bags, length))
        expected = np.zeros((bags, features), "f4")
        for j in range(length):
            expected += table[index[:, j]]
        check_equal(ops.embedding_bag(index, table, mode="sum").numpy(), expected)
        check_equal(ops.embedding_bag(index[:1], table, mode="sum").numpy(), expected[:1])
        starts = np.arange(bags) * length
        check_equal(ops.embedding_bag(index.reshape(-1), table, starts, "sum").numpy(), expected)


@pytest.mark.usefixtures("isa")
def test_every_tail_against_guard_pages() -> None:
    for features in range(1, 70):
        for end in (True, False):
            table, f = guarded((3, features), "f4", end), guarded((2, 2), "f4", end)
            i = guarded((2, 2), "i8", end)
            table[...], f[...], i[...] = (
                np.arange(3 * features).reshape(table.shape),
                [[1, 2], [3, 4]],
                [[2, 0], [1, 1]],
            )
            lookups = (T(i), None, None, 2, -1)
            check_equal(N(_core.embedding_bag(lookups, T(table), "sum", 2)[0]), table[i].sum(1))
            check_equal(N(_core.embedding_bag(lookups, T(table), "max", 2)[0]), table[i].max(1))
            g = guarded((2, features), "f4", end)
            g[...] = 1
            total = np.zeros_like(table)
            total[:] = [[1], [2], [1]]
            check_equal(N(_core.bag_sum_grad(lookups, T(g), 3)), total)
            dots = table[i].sum(2)
            check_equal(N(_core.bag_weights_grad(lookups, T(g), T(table))), dots)
            weighted = (T(i), None, T(f), 2, -1)
            check_equal(
                N(_core.embedding_bag(weighted, T(table), "sum", 2)[0]), (table[i] * f[..., None]).sum(1)
            )


@pytest.mark.usefixtures("isa")
def test_not_a_number_stays_one() -> None:
    table = np.array([[1, np.nan], [2, 3], [np.inf, -np.inf]], "f4")
    for mode in ("sum", "max"):
        y = ops.embedding_bag([[0, 1], [1, 0], [1, 1], [2, 1]], table, mode=mode).numpy()
        assert np.isnan(y[:2, 1]).all() and not np.isnan(y[2:]).any() and y[3, 0] == np.inf


# Gradients.


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_those_of_differences(mode: str) -> None:
    rng = np.random.default_rng(3)
    table = rng.permutation(5 * 7).reshape(5, 7) / 3.0  # no ties, whose maximum has a kink
    index = np.array([[0, 3, 3], [4, 2, 1], [2, 2, 2]])
    offsets = np.array([0, 2, 2, 8])
    for padding in (None, 2):
        gradcheck(lambda w: ops.embedding_bag(index, w, mode=mode, padding_idx=padding), table)  # noqa: B023
        gradcheck(
            lambda w: ops.embedding_bag(index.reshape(-1), w, offsets, mode, padding_idx=padding),  # noqa: B023
            table,
        )
        if mode == "sum":
            factors = rng.standard_normal((3, 3))
            gradcheck(
                lambda w, f: ops.embedding_bag(index, w, None, "sum", False, f, padding_idx=padding),  # noqa: B023
                table, factors,
            )  # fmt: skip
            gradcheck(
                lambda w, f: ops.embedding_bag(index.reshape(-1), w, offsets, "sum", False, f),
                table, factors.reshape(-1),
            )  # fmt: skip


@pytest.mark.usefixtures("isa", "threads")
@given(
    bags=st.integers(1, 40), length=st.integers(1, 30), rows=st.sampled_from((1, 3, 50, 5000)),
    features=st.sampled_from((1, 16, 33, 64, 150)), dtype=floats, padding=st.booleans(), weighted=st.booleans(),
    seed=seeds,
)  # fmt: skip
@settings(max_examples=15)
def test_gradients_by_rows_have_the_bits_of_dense_ones(
    bags: int, length: int, rows: int, features: int, dtype: str, padding: bool, weighted: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((rows, features)).astype(dtype)
    index = rng.integers(0, rows, (bags, length))
    g = rng.standard_normal((bags, features)).astype(dtype)
    f = rng.standard_normal((bags, length)).astype(dtype) if weighted else None
    skip = int(index[0, 0]) if padding else None
    ws = [leaf(table) for _ in range(3)]
    for w, sparse in zip(ws, (False, True, True), strict=True):
        for _ in range(1 + (w is ws[2])):  # and again after it was forgotten
            w.grad = None
            ops.embedding_bag(index, w, None, "sum", sparse, f, padding_idx=skip).backward(g)
    scale = np.ones_like(index, "f8") if f is None else f.astype("f8")
    source = (g.astype("f8")[:, None] * scale[..., None]).reshape(1, -1, features)
    args = (None, index, source, rows, -1 if skip is None else skip)
    size = reference.add_rows(None, index, abs(source), *args[3:])[0]
    check_contraction(dense(ws[0]), reference.add_rows(*args)[0], size, index.size + 1, dtype)
    check_equal(dense(ws[1]), dense(ws[0]))
    check_equal(dense(ws[2]), dense(ws[0]))
    first = list(dict.fromkeys(i for i in index.reshape(-1).tolist() if i != skip))
    assert rows_of(ws[1]).indices.tolist() == first and rows_of(ws[1]).values.shape == (len(first), features)
    if not weighted:
        flat = [leaf(table), leaf(table)]
        for w, sparse in zip(flat, (False, True), strict=True):
            ops.embedding(index, w, skip, sparse).backward(np.repeat(g[:, None], length, 1))
            check_equal(dense(w), dense(ws[0]))


@pytest.mark.usefixtures("isa", "threads")
def test_further_lookups_add_to_the_rows() -> None:
    """Within a backward and over several: first rows in front, a smaller batch after a larger one, and all rows."""
    rng = np.random.default_rng(5)
    table = rng.integers(-9, 9, (40, 20)).astype("f4")
    one, many = leaf(table), leaf(table)
    for step, sizes in enumerate([(30, 5), (4, 4), (200, 300), (1, 1), (60, 0)]):
        lists = [rng.integers(0, 40, n) for n in sizes]
        for w, sparse in ((one, False), (many, True)):
            w.grad = None
            for repeat in range(3):
                y = [ops.embedding(i, w, 7, sparse).sum() * (n + 1 + repeat) for n, i in enumerate(lists)]
                (y[0] + y[1] if step % 2 else y[1] + y[0]).backward()
        check_equal(dense(many), dense(one))
        found = rows_of(many).indices.tolist()
        assert len(set(found)) == len(found) and set(found) == set(np.concatenate(lists).tolist()) - {7}
        assert not rows_of(many).padded.numpy()[len(found) :].any()


def test_where_gradients_by_rows_become_dense() -> None:
    """A table that was computed; one with a hook, which sees a tensor."""
    w, seen = leaf(np.ones((4, 2), "f4")), []
    ops.embedding([1, 1], w * 2, sparse=True).sum().backward()
    assert isinstance(w.grad, qn.Tensor) and w.grad.tolist() == [[0, 0], [4, 4], [0, 0], [0, 0]]
    other = leaf(np.ones((4, 2), "f4"))
    handle = other.register_hook(lambda g: seen.append(g.tolist()))
    ops.embedding_bag([[1, 1]], other, mode="sum", sparse=True).sum().backward()
    assert seen == [[[0, 0], [2, 2], [0, 0], [0, 0]]] and isinstance(other.grad, qn.Tensor)
    handle.remove()
    with pytest.raises(
        StateError,
        match=r"^\[backward\] a parameter of shape \(4, 2\) gets a gradient by rows \(from a lookup with sparse=",
    ):
        ops.embedding([1], other, sparse=True).sum().backward()
    assert other.grad.tolist() == seen[0]
    other.grad = None
    ops.embedding([1], other, sparse=True).sum().backward()
    assert rows_of(other).indices.tolist() == [1] and repr(rows_of(other)).startswith(
        "RowGradient(1 of 4 rows, 2"
    )
    with pytest.raises(
        StateError, match=r"\[backward\] .* and a dense one; use sparse=False in all of its lookups"
    ):
        other.sum().backward()
    assert rows_of(other).values.tolist() == [[1, 1]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [None, 3])
def test_bags_are_pytorchs(mode: str, padding: int | None) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    table, index = rng.standard_normal((12, 19)), rng.integers(0, 12, (8, 5))
    offsets, g = np.array([0, 0, 7, 7, 20, 39, 40, 40]), rng.standard_normal((8, 19))
    factors = rng.standard_normal((8, 5)) if mode == "sum" else None
    for i, at, last in (
        (index, None, False),
        (index.reshape(-1), offsets, False),
        (index.reshape(-1), np.append(offsets, 40), True),
    ):
        f = None if factors is None else factors.reshape(i.shape)
        ours, theirs = leaf(table), torch.tensor(table, requires_grad=True)
        our_f, their_f = (None, None) if f is None else (leaf(f), torch.tensor(f, requires_grad=True))
        y = ops.embedding_bag(i, ours, at, mode, False, our_f, last, padding)
        expected = torch.nn.functional.embedding_bag(
            torch.tensor(i), theirs, None if at is None else torch.tensor(at), mode=mode, per_sample_weights=their_f,
            include_last_offset=last, padding_idx=padding,
        )  # fmt: skip
        np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-13, atol=1e-13)
        y.backward(g)
        expected.backward(torch.tensor(g))
        np.testing.assert_allclose(dense(ours), theirs.grad.numpy(), rtol=1e-13, atol=1e-13)
        if our_f is not None:
            np.testing.assert_allclose(dense(our_f), their_f.grad.numpy(), rtol=1e-13, atol=1e-13)


# Plans, sizes, errors.


@pytest.mark.parametrize("sparse", [False, True])
def test_replays_are_eager_calls_bit_for_bit(sparse: bool, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((50, 24)).astype("f4")
    eager, replayed = leaf(table), leaf(table)

    def step(w: qn.Tensor, i: Any, flat: Any, at: Any, f: Any) -> tuple[qn.Tensor, ...]:
        w.grad = None
        y = ops.embedding_bag(i, w, sparse=sparse, padding_idx=1)
        z = ops.embedding_bag(flat, w, at, "sum", sparse, f)
        ((y * y).sum() + (z * z).sum() + ops.embedding(flat, w, sparse=sparse).sum()).backward()
        return y, z

    def run(i: Any, flat: Any, at: Any, f: Any) -> tuple[qn.Tensor, ...]:
        return step(replayed, i, flat, at, f)

    jitted = qn.jit(run)
    for call in range(10):
        n = 20 if call % 3 else 31  # two signatures: the memory of rows serves both
        i, flat = rng.integers(0, 50, (n, 4)), rng.integers(0, 50, n)
        at, f = draw_offsets(rng, 6, n, False), rng.standard_normal(n).astype("f4")
        for a, b in zip(jitted(i, flat, at, f), step(eager, *map(qn.tensor, (i, flat, at, f))), strict=True):
            check_equal(a.numpy(), b.numpy())
        check_equal(dense(replayed), dense(eager))
        if sparse:
            assert rows_of(replayed).indices.tolist() == rows_of(eager).indices.tolist()
    assert len(jitted.plans()) == 2 and not caplog.records
    before = dense(replayed)
    i[0, 0] = 50
    with pytest.raises(
        OutOfRangeError, match=r"\[embedding_bag\] index 50 at position \(0, 0\) is out of range for 50 rows"
    ):
        jitted(i, flat, at, f)
    at[2] = at[3] + 1
    with pytest.raises(ArgumentError, match=r"\[embedding_bag\] offsets must begin with 0, never fall"):
        jitted(i * 0, flat, at, f)
    check_equal(dense(replayed), before)


def test_zero_sizes() -> None:
    none, w = np.zeros((0,), np.int64), leaf(np.zeros((0, 3), "f4"))
    for mode in MODES:
        assert ops.embedding_bag(np.zeros((0, 4), np.int64), qn.ones((5, 3)), mode=mode).shape == (0, 3)
        w.grad = None
        y = ops.embedding_bag(np.zeros((2, 0), np.int64), w, mode=mode, sparse=mode != "max")
        assert y.tolist() == [[0, 0, 0]] * 2
        y.sum().backward()
        assert dense(w).shape == (0, 3)
        assert ops.embedding_bag(none, qn.ones((5, 3)), [0, 0], mode).tolist() == [[0, 0, 0]] * 2
        assert ops.embedding_bag(none, qn.ones((5, 3)), none, mode).shape == (0, 3)
        assert ops.embedding_bag([1], qn.ones((5, 0)), [0], mode).shape == (1, 0)
    v = leaf(np.ones((5, 3), "f4"))
    ops.embedding(none, v, sparse=True).sum().backward()
    assert rows_of(v).indices.shape == (0,) and not dense(v).any()
    ops.embedding([4], v, sparse=True).sum().backward()
    assert rows_of(v).indices.tolist() == [4]


def test_errors_name_both_sides() -> None:
    x, i, bag = qn.ones((3, 4)), np.zeros((2, 3), np.int64), ops.embedding_bag
    flat = i.reshape(-1)
    offsets = r"\[embedding_bag\] offsets must begin with 0, never fall and stay within 6, the number of indices, which with"
    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ArgumentError, offsets + r" include_last_offset is the last of them; offset 0 is 1$", lambda: bag(flat, x, [1, 2])),
        (ArgumentError, offsets + r".*; offset 2 is 2$", lambda: bag(flat, x, [0, 3, 2])),
        (ArgumentError, offsets + r".*; offset 1 is 7$", lambda: bag(flat, x, [0, 7])),
        (ArgumentError, offsets + r".*; offset 1 is 5$", lambda: bag(flat, x, [0, 5], include_last_offset=True)),
        (OutOfRangeError, r"\[embedding_bag\] index 3 at position \(1, 0\) is out of range for 3 rows",
         lambda: bag([[0], [3]], x)),
        (OutOfRangeError, r"\[embedding_bag\] index -1 at position \(0,\)", lambda: bag([-1], x, [0])),
        (DTypeError, r"\[embedding_bag\] indices are whole numbers, got float32", lambda: bag(qn.ones((2, 2)), x)),
        (DTypeError, r"\[embedding_bag\] offsets are whole numbers, got float32", lambda: bag(flat, x, qn.zeros((2,)))),
        (ShapeError, r"\[embedding_bag\] indices have shape \(N, L\), .* got \(6,\) without offsets", lambda: bag(flat, x)),
        (ShapeError, r"\[embedding_bag\] .* one dimension each, got \(2, 3\) and \(1,\)", lambda: bag(i, x, [0])),
        (ShapeError, r"\[embedding_bag\] 0 offsets make no bag for 6 indices",
         lambda: bag(flat, x, np.zeros(0, np.int64))),
        (ArgumentError, r"\[embedding_bag\] include_last_offset is about offsets", lambda: bag(i, x, include_last_offset=True)),
        (ShapeError, r"\[embedding_bag\] weight must have shape .* got \(4,\)", lambda: bag(i, x[0])),
        (ArgumentError, r"\[embedding_bag\] mode is 'sum', 'mean' or 'max', got 'min'", lambda: bag(i, x, mode="min")),
        (ArgumentError, r"\[embedding_bag\] mode 'max' has dense gradients only", lambda: bag(i, x, mode="max", sparse=True)),
        (ArgumentError, r"\[embedding_bag\] per_sample_weights are for mode 'sum', got mode 'mean'",
         lambda: bag(i, x, per_sample_weights=qn.ones((2, 3)))),
        (ShapeError, r"\[embedding_bag\] per_sample_weights must have the shape of indices, \(2, 3\), got \(6,\)",
         lambda: bag(i, x, mode="sum", per_sample_weights=qn.ones((6,)))),
        (DTypeError, r"\[embedding_bag\] per_sample_weights is float64, weight is float32",
         lambda: bag(i, x, mode="sum", per_sample_weights=np.ones((2, 3)))),
        (ArgumentError, r"\[embedding_bag\] padding_idx 3 is out of range for 3 rows", lambda: bag(i, x, padding_idx=3)),
    ]  # fmt: skip
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()
