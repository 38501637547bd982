"""Recurrent layers: forward within a running error bound, backward from what the forward kept, exact where the arithmetic
is, lengths, both directions; threads and batches bit for bit. All but the exact ones with products in bfloat16 too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import Array, N, T, check_equal, check_exact, check_ulp, unit_roundoff
from tests.strategies import arrays, guarded, near

CELLS = tuple(reference.GATES)
cells = st.sampled_from(CELLS)
precisions = st.sampled_from(
    (("float32", False), ("float64", False), ("float32", True))
)  # whether in bfloat16
BF16 = 2.0**-8  # unit roundoff
LOST = 1e-36  # what flushed denormals, of which a sum has some, may come to
ULP = 4  # of sigmoid and tanh, as simd/math.h says; libm's in float64 are better


def native(a: Any) -> Any:
    return None if a is None else T(a)


def run(
    cell: str, x: Array, weights: Any, biases: Any = (None, None), states: Any = (None, None), lengths: Any = None,
    reverse: bool = False, save: bool = False, bf16: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    return tuple(
        _core.recurrent(
            T(x),
            *map(T, weights),
            *map(native, biases),
            *map(native, states),
            native(lengths),
            cell,
            reverse,
            save,
            bf16,
        )
    )


@st.composite
def operands(draw: Any, cell: str, dtype: str, most: int = 40) -> tuple[Any, ...]:
    """x, weights, biases, states and lengths, each of the optional ones there or not."""
    n, steps, inputs, hidden = (
        draw(st.integers(1, 14)),
        draw(st.integers(1, 5)),
        draw(near(most, 1)),
        draw(near(most, 1)),
    )
    width = reference.GATES[cell] * hidden
    make = lambda *shape, scale=1.0: draw(arrays(shape, dtype, scale=scale))
    some = lambda *shape: make(*shape) if draw(st.booleans()) else None
    weights = make(width, inputs, scale=inputs**-0.5), make(width, hidden, scale=hidden**-0.5)
    biases = some(width), some(width)
    states = some(n, hidden), some(n, hidden) if cell == "lstm" else None
    lengths = None
    if draw(st.booleans()):
        lengths = guarded((n,), np.int64)
        lengths[...] = [draw(st.integers(1, steps)) for _ in range(n)]
    return make(n, steps, inputs), weights, biases, states, lengths


class Bound:
    """A running bound of the forward error: what each step's rounding adds, and how much of the error so far it keeps.

    sigmoid has slopes up to 1/4, tanh up to 1. The tenth on top covers products of two errors.
    """

    def __init__(self, cell: str, weights: Any, biases: Any, dtype: str, bf16: bool) -> None:
        self.cell, self.u = cell, unit_roundoff(dtype)
        self.rounding = BF16 * (2 + BF16) if bf16 else 0.0  # of both operands of a product
        self.w, self.r = (np.abs(w.astype("f8")) for w in weights)
        self.b, self.d = (0.0 if b is None else np.abs(b.astype("f8")) for b in biases)

    def products(self, x: Array, h: Array, e_h: Array) -> tuple[Array, Array, Array, Array]:
        """Sizes of the products of input and state, and bounds of their errors."""
        a, b = self.w @ np.abs(x) + self.b, self.r @ np.abs(h) + self.d
        slack = lambda depth: 1.1 * self.u * (depth + 2) + self.rounding
        return a, b, slack(self.w.shape[1]) * a, slack(self.r.shape[1]) * b + self.r @ e_h

    def step(
        self, x: Array, before: tuple[Array, Array], after: tuple[Array, Array], exact: tuple[Array, Array],
        errors: tuple[Array, Array],
    ) -> tuple[Array, Array]:  # fmt: skip
        """Bounds of the errors of the next h and c from those of `before`; `exact` are the two products."""
        (h, c), (h_next, c_next), (e_h, e_c), u = before, after, errors, self.u
        size_a, size_b, e_a, e_b = self.products(x, h, e_h)
        f = 2 * u * (ULP + 1)
        if self.cell == "lstm":
            pre, e = sum(exact), e_a + e_b + u * (size_a + size_b)
            i, keep, g, o = np.split(pre, 4)
            i, keep, g, o = *(reference.sigmoid(v) for v in (i, keep)), np.tanh(g), reference.sigmoid(o)
            e_i, e_f, e_g, e_o = np.split(e, 4)
            e_i, e_f, e_g, e_o = e_i / 4 + f * i, e_f / 4 + f * keep, e_g + f * np.abs(g), e_o / 4 + f * o
            new_c = (
                keep * e_c
                + np.abs(c) * e_f
                + i * e_g
                + np.abs(g) * e_i
                + 3 * u * (np.abs(keep * c) + np.abs(i * g))
            )
            t = np.abs(np.tanh(c_next))
            return 1.1 * (t * e_o + o * (new_c + f * t) + 2 * u * np.abs(h_next)), 1.1 * new_c
        if self.cell == "gru":
            (ar, az, an), (br, bz, bn) = np.split(exact[0], 3), np.split(exact[1], 3)
            (ear, eaz, ean), (ebr, ebz, ebn) = np.split(e_a, 3), np.split(e_b, 3)
            (sar, saz, san), (sbr, sbz, _) = np.split(size_a, 3), np.split(size_b, 3)
            r, z = reference.sigmoid(ar + br), reference.sigmoid(az + bz)
            e_r = (ear + ebr + u * (sar + sbr)) / 4 + f * r
            e_z = (eaz + ebz + u * (saz + sbz)) / 4 + f * z
            n = np.tanh(an + r * bn)
            e_n = ean + r * ebn + np.abs(bn) * e_r + 2 * u * (san + np.abs(r * bn)) + f * np.abs(n)
            moved = np.abs(h) + np.abs(n)
            return 1.1 * ((1 - z) * e_n + z * e_h + moved * e_z + 4 * u * moved), e_c
        e = e_a + e_b + u * (size_a + size_b)
        return 1.1 * (e + f * np.abs(h_next)), e_c


def bounds(
    cell: str,
    x: Array,
    weights: Any,
    biases: Any,
    states: Any,
    lengths: Any,
    reverse: bool,
    dtype: str,
    bf16: bool,
) -> Any:
    """Bounds of the errors of y, h_n and c_n, beside their values."""
    bound = Bound(cell, weights, biases, dtype, bf16)
    w, r = (a.astype("f8") for a in weights)
    bias = [np.zeros(len(r)) if b is None else b.astype("f8") for b in biases]
    n, steps, hidden = x.shape[0], x.shape[1], r.shape[1]
    y, e_y = np.zeros((n, steps, hidden)), np.zeros((n, steps, hidden))
    last = [np.zeros((n, hidden)) if s is None else s.astype("f8").copy() for s in states]
    e_last = [np.zeros((n, hidden)) for _ in states]
    for row in range(n):
        length = steps if lengths is None else int(lengths[row])
        for t in reference.recurrent_steps(length, reverse):
            before = last[0][row], last[1][row]
            exact = w @ x[row, t].astype("f8") + bias[0], r @ before[0] + bias[1]
            after = reference.recurrent_cell(cell, *exact, *before)
            errors = bound.step(
                x[row, t].astype("f8"), before, after, exact, (e_last[0][row], e_last[1][row])
            )
            for k in range(2):
                last[k][row], e_last[k][row] = after[k], errors[k]
            y[row, t], e_y[row, t] = after[0], errors[0]
    return (y, *last), (e_y, *e_last)


@pytest.mark.usefixtures("quant_isa")
@given(data=st.data(), cell=cells, precision=precisions, reverse=st.booleans())
def test_forward(data: Any, cell: str, precision: tuple[str, bool], reverse: bool) -> None:
    dtype, bf16 = precision
    x, weights, biases, states, lengths = data.draw(operands(cell, dtype))
    found = run(cell, x, weights, biases, states, lengths, reverse, bf16=bf16)
    (expected, limits) = bounds(cell, x, weights, biases, states, lengths, reverse, dtype, bf16)
    plain = reference.recurrent(cell, x, weights, biases, states, lengths, reverse)
    for got, want, limit, again in zip(found[:3], expected, limits, plain, strict=True):
        if got is None:
            assert cell != "lstm"
            continue
        np.testing.assert_array_equal(want, again)  # the bound is of the definition
        actual = N(got)
        assert actual.dtype == dtype and actual.shape == want.shape
        assert (np.abs(actual - want) <= limit + LOST).all(), (np.abs(actual - want) - limit).max()
    assert found[3:] == (None, None)


@pytest.mark.usefixtures("quant_isa")
def test_gates_are_good_to_the_last_digits() -> None:
    """tanh by a RNN whose state has no weight; sigmoid by a GRU whose candidate is 0 and whose state begins as 1: h = z."""
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.uniform(-86, 86, 20_000), rng.standard_normal(20_000), np.geomspace(1e-38, 86, 9_999), [0.0]]
    )
    x = np.concatenate([x, -x]).astype("f4").reshape(-1, 1, 1)
    one, zero = np.ones((1, 1), "f4"), np.zeros((1, 1), "f4")
    for values, limit in (
        (x, ULP),
        (np.array([-1e4, -100, 100, 3e38, -3e38], "f4").reshape(-1, 1, 1), None),
    ):
        wide = values.astype("f8")
        tanh = N(run("rnn_tanh", values, (one, zero))[0])
        ones = np.ones((len(values), 1), "f4")
        weights = np.array([[0], [1], [0]], "f4"), np.zeros((3, 1), "f4")
        z = N(run("gru", values, weights, (None, None), (ones, None))[0])
        for got, want in ((tanh, np.tanh(wide)), (z, reference.sigmoid(wide))):
            if limit is None:
                assert np.abs(got - want).max() < 1e-37
            else:
                check_ulp(got, want, limit)
    ends = N(run("rnn_tanh", np.array([[[np.inf]], [[-np.inf]], [[np.nan]]], "f4"), (one, zero))[0]).ravel()
    np.testing.assert_array_equal(ends, [1, -1, np.nan])


@pytest.mark.usefixtures("quant_isa")
@given(data=st.data(), precision=precisions, reverse=st.booleans())
def test_relu_of_small_integers_is_exact(data: Any, precision: tuple[str, bool], reverse: bool) -> None:
    """Forward and backward, where each state has few sources: any row, step, column or length mixed up would show.

    States stay within 247 if the integers are at most 1: bfloat16 holds whole numbers up to 256.
    """
    dtype, bf16 = precision
    largest = 1 if bf16 else 2
    n, steps, inputs, hidden = (
        data.draw(s) for s in (st.integers(1, 30), st.integers(1, 6), near(40, 1), near(70, 1))
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    fill = lambda *shape: rng.integers(-largest, largest + 1, shape).astype(dtype)
    w, r = fill(hidden, inputs), np.roll(np.eye(hidden), 1, 0).astype(dtype) * rng.choice([-1, 1], hidden)
    r = r.astype(dtype)
    x, h0, lengths = fill(n, steps, inputs), fill(n, hidden), rng.integers(1, steps + 1, n)
    bias = np.ones(hidden, dtype)
    y, h_n, _, gates, cell_t = run(
        "rnn_relu", x, (w, r), (bias, None), (h0, None), lengths, reverse, True, bf16
    )
    expected = reference.recurrent("rnn_relu", x, (w, r), (bias, None), (h0, None), lengths, reverse)
    check_exact(N(y), expected[0])
    check_exact(N(h_n), expected[1])
    assert gates is None and cell_t is None
    g_y, g_h = fill(n, steps, hidden), fill(n, hidden)
    found = _core.recurrent_grad(
        T(x),
        T(w),
        T(r),
        T(h0),
        None,
        T(lengths),
        y,
        None,
        None,
        T(g_y),
        T(g_h),
        None,
        "rnn_relu",
        reverse,
        True,
        bf16,
    )
    kept = {"y": expected[0], "h_before": before(expected[0], h0, lengths, reverse)}
    want = grads("rnn_relu", kept, x, (w, r), lengths, (g_y, g_h, None), reverse)
    for got, exact in zip(found[:-1], want[:-1], strict=True):
        check_exact(N(got), exact)
    assert found[-1] is None


def grads(
    cell: str, kept: dict[str, Any], x: Array, weights: Any, lengths: Any, g: Any, reverse: bool, sign: float = -1.0
) -> tuple[Array, ...]:  # fmt: skip
    """Gradients of x, the weights, the biases, h0 and c0 by the definition, from what the forward kept.

    With `sign` 1 the sizes of the terms they are sums of.
    """
    size = np.abs if sign > 0 else np.asarray
    kept = {key: size(np.asarray(value, "f8")) for key, value in kept.items()}
    (w, r), x, g_y = (size(v.astype("f8")) for v in weights), size(x.astype("f8")), size(g[0].astype("f8"))
    n, steps, hidden = g_y.shape
    a, b = (np.zeros((n, steps, len(r))) for _ in range(2))
    dh, dc = (np.zeros((n, hidden)) if s is None else size(s.astype("f8")).copy() for s in g[1:])
    for row in range(n):
        length = steps if lengths is None else int(lengths[row])
        for t in reference.recurrent_steps(length, reverse)[::-1]:
            here = {key: value[row, t] for key, value in kept.items()}
            a[row, t], b[row, t], past, dc[row] = reference.recurrent_cell_grad(
                cell, here, dh[row] + g_y[row, t], dc[row], sign
            )
            dh[row] = r.T @ b[row, t] + past
    outer = [np.einsum("ntg,ntj->gj", d, v) for d, v in ((a, x), (b, kept["h_before"]))]
    return a @ w, *outer, a.sum((0, 1)), b.sum((0, 1)), dh, dc


@pytest.mark.usefixtures("quant_isa")
@given(data=st.data(), cell=cells, precision=precisions, reverse=st.booleans())
def test_backward_of_what_was_kept(data: Any, cell: str, precision: tuple[str, bool], reverse: bool) -> None:
    """Given the gates, which are exactly known, each gradient is a sum of products: Higham's bound holds along each path."""
    dtype, bf16 = precision
    x, weights, biases, states, lengths = data.draw(operands(cell, dtype))
    n, steps, hidden = x.shape[0], x.shape[1], weights[1].shape[1]
    y, _, _, gates, cell_t = run(cell, x, weights, biases, states, lengths, reverse, True, bf16)
    g_y = data.draw(arrays((n, steps, hidden), dtype))
    g_h = data.draw(arrays((n, hidden), dtype)) if data.draw(st.booleans()) else None
    g_c = data.draw(arrays((n, hidden), dtype)) if cell == "lstm" else None
    found = _core.recurrent_grad(
        T(x), *map(T, weights), *map(native, states), native(lengths), y, gates, cell_t, T(g_y), native(g_h),
        native(g_c), cell, reverse, True, bf16,
    )  # fmt: skip
    live = np.arange(steps) < (np.full(n, steps) if lengths is None else lengths)[:, None]
    assert not N(found[0])[~live].any()
    kept = {"y": N(y), "h_before": before(N(y), states[0], lengths, reverse)}
    if gates is not None:
        kept |= {
            "gates": by_row(N(gates), lengths, reverse),
            "product": by_row(N(cell_t), lengths, reverse),
        }
        kept |= {"c": kept["product"], "c_before": before(kept["product"], states[1], lengths, reverse)}
    want = grads(cell, kept, x, weights, lengths, (g_y, g_h, g_c), reverse)
    sizes = grads(cell, kept, x, weights, lengths, (g_y, g_h, g_c), reverse, 1.0)
    roundings = steps * (n + len(weights[1]) + 16 + 2 * ULP) + len(weights[1])
    share = roundings * unit_roundoff(dtype) + (2 * steps * BF16 if bf16 else 0)
    for got, exact, size in zip(found, want, sizes, strict=True):
        if got is not None:
            assert N(got).dtype == dtype
            assert (np.abs(N(got) - exact) <= 1.1 * share * size + LOST).all()
    assert (found[6] is None) == (cell != "lstm")
    assert _core.recurrent_grad(
        T(x), *map(T, weights), *map(native, states), native(lengths), y, gates, cell_t, T(g_y), None, None, cell,
        reverse, False, bf16,
    )[0] is None  # fmt: skip


def by_row(kept: Array, lengths: Any, reverse: bool) -> Array:
    """What the forward kept, step by step, as (N, T, …); 0 behind a row's length."""
    rows = np.zeros_like(kept.swapaxes(0, 1))
    for row, values in enumerate(rows):
        order = reference.recurrent_steps(len(kept) if lengths is None else int(lengths[row]), reverse)
        values[order] = kept[: len(order), row]
    return rows


def before(values: Array, first: Any, lengths: Any, reverse: bool) -> Array:
    """The state that each step began with."""
    shifted = np.zeros_like(values)
    for row in range(len(values)):
        order = reference.recurrent_steps(values.shape[1] if lengths is None else int(lengths[row]), reverse)
        if first is not None:
            shifted[row, order[0]] = first[row]
        shifted[row, order[1:]] = values[row, order[:-1]]
    return shifted


@pytest.mark.usefixtures("quant_isa")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("n", [37, 110])  # of which few walk together, and many
@pytest.mark.parametrize("bf16", [False, True])
def test_bits_do_not_depend_on_threads_or_batch(cell: str, n: int, bf16: bool) -> None:
    rng = np.random.default_rng(1)
    steps, inputs, hidden = 9, 20, 67
    rows = reference.GATES[cell] * hidden
    draw = lambda *s: rng.standard_normal(s).astype("f4")
    x, w, r, b = draw(n, steps, inputs), draw(rows, inputs), draw(rows, hidden) * 0.2, draw(rows)
    h0, c0, g_y, g_h = (
        draw(n, hidden),
        draw(n, hidden) if cell == "lstm" else None,
        draw(n, steps, hidden),
        draw(n, hidden),
    )
    lengths = rng.integers(1, steps + 1, n)

    def both(rows: slice) -> list[Array]:
        cut = lambda a: None if a is None else a[rows].copy()
        found = run(cell, cut(x), (w, r), (b, b), (cut(h0), cut(c0)), cut(lengths), True, True, bf16)
        gradients = _core.recurrent_grad(
            T(cut(x)), T(w), T(r), T(cut(h0)), native(cut(c0)), T(cut(lengths)), found[0], *found[3:], T(cut(g_y)),
            T(cut(g_h)), None, cell, True, True, bf16,
        )  # fmt: skip
        of_rows = (*found[:3], gradients[0], *gradients[5:])
        return [N(t).copy() for t in of_rows if t is not None] + [N(t).copy() for t in gradients[1:5]]

    before, results = _core.num_threads(), []
    try:
        for threads in (1, 2):
            _core.set_num_threads(threads)
            results.append(both(slice(None)))
    finally:
        _core.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        check_equal(one, two)
    for part in (slice(0, 1), slice(5, 7), slice(20, 36)):
        # The last four are sums over rows.
        for all_rows, some in zip(results[0][:-4], both(part)[:-4], strict=True):
            check_equal(some, all_rows[part])
