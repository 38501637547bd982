"""Layer norm and RMS norm: rows far from zero, tails at guard pages, gradients, threads, plans; beside PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import _core, ops
from quernel.errors import ArgumentError, DTypeError, ShapeError
from tests import reference
from tests.checks import N, T, check_contraction, check_equal, gradcheck, unit_roundoff
from tests.strategies import arrays, guarded, near

dtypes = st.sampled_from(("float32", "float64"))
affines = st.sampled_from(("", "w", "b", "wb"))
EPS = 1e-5


def run(x: np.ndarray, w: Any, b: Any, rms: bool) -> tuple[Any, Any, Any]:
    native = [None if t is None else T(t) for t in (w, b)]
    result: tuple[Any, Any, Any] = _core.layer_norm(T(x), x.shape[-1], *native, EPS, rms)
    return result


def conditions(x: np.ndarray, rms: bool) -> tuple[Any, Any, Any]:
    """Rows in float64, how far a normalized value may be off in roundings, and the reciprocal deviations.

    Centering loses digits where the mean is large beside the deviation: each x - mean is wrong by some roundings of the
    largest |x|.
    """
    rows = x.astype("f8")
    centered = rows if rms else rows - rows.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt((centered**2).mean(-1, keepdims=True) + EPS)
    slip = (np.abs(rows).max(-1, keepdims=True, initial=0) + np.abs(centered)) * rstd
    return centered * rstd, slip, rstd


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(), rows=st.integers(0, 5), cols=near(193, 1), dtype=dtypes, affine=affines, rms=st.booleans(),
    offset=st.sampled_from((0.0, 100.0, -1e3)),
)  # fmt: skip
def test_values(data: Any, rows: int, cols: int, dtype: str, affine: str, rms: bool, offset: float) -> None:
    x = (data.draw(arrays((rows, cols), dtype)) + np.asarray(offset, dtype)).astype(dtype)
    w = data.draw(arrays((cols,), dtype)) if "w" in affine else None
    b = data.draw(arrays((cols,), dtype)) if "b" in affine else None
    y = N(run(x, w, b, rms)[0])
    expected = reference.layer_norm(x, cols, w, b, EPS, rms)
    z, slip, _ = conditions(x, rms)
    size = slip * (1 if w is None else np.abs(w)) * (1 + np.abs(z)) + (0 if b is None else np.abs(b))
    assert y.dtype == dtype and (np.abs(y - expected) <= (cols / 4 + 12) * unit_roundoff(dtype) * size).all()


@pytest.mark.usefixtures("isa")
def test_rows_far_from_zero_keep_their_digits() -> None:
    rng = np.random.default_rng(0)
    x = (1000 + rng.integers(-4, 5, (50, 777))).astype("f4")  # squares need more than 24 bits
    y, mean, rstd = (N(t) for t in run(x, None, None, False))
    wide = x.astype("f8")
    np.testing.assert_allclose(mean, wide.mean(1), rtol=2e-7)
    np.testing.assert_allclose(rstd, 1 / np.sqrt(wide.var(1) + EPS), rtol=1e-5)
    np.testing.assert_allclose(y, reference.layer_norm(x, 777, None, None, EPS), atol=1e-4)


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(),
    rows=st.integers(0, 70),
    cols=near(130, 1),
    dtype=dtypes,
    affine=st.booleans(),
    rms=st.booleans(),
)
def test_grad(data: Any, rows: int, cols: int, dtype: str, affine: bool, rms: bool) -> None:
    x, g = data.draw(arrays((rows, cols), dtype)), data.draw(arrays((rows, cols), dtype))
    w = data.draw(arrays((cols,), dtype)) if affine else None
    _, mean, rstd = run(x, w, None, rms)
    native = None if w is None else T(w)
    grads = _core.layer_norm_grad(T(x), T(g), cols, native, mean, rstd, rms, True, True)
    dx, dweight, dbias = (N(t) for t in grads)
    expected = reference.layer_norm_grad(x, g, cols, w, EPS, rms)
    z, slip, rstds = conditions(x, rms)
    upstream = np.abs(g.astype("f8"))
    check_contraction(dbias, expected[2], upstream.sum(0), rows, dtype)
    near_z = np.abs(z) + slip * (1 + np.abs(z)) * (cols / 4 + 12) / (rows + cols + 16)
    check_contraction(
        dweight, expected[1], (upstream * (slip + near_z)).sum(0), rows + cols + 16, dtype, alarm=False
    )
    h = upstream * (1 if w is None else np.abs(w.astype("f8")))
    size = (
        rstds
        * (1 + slip)
        * (
            h
            + h.mean(-1, keepdims=True)
            + (np.abs(z) + slip) * (h * (np.abs(z) + slip)).mean(-1, keepdims=True)
        )
    )
    assert dx.dtype == dtype
    assert (np.abs(dx - expected[0]) <= (cols + 24) * unit_roundoff(dtype) * size).all()
    unwanted = _core.layer_norm_grad(T(x), T(g), cols, native, mean, rstd, rms, False, False)
    check_equal(N(unwanted[0]), dx)
    assert unwanted[1] is None and unwanted[2] is None


@pytest.mark.usefixtures("isa")
def test_every_tail_against_guard_pages() -> None:
    for n in range(1, 70):
        for end in (True, False):
            x, g, w = guarded((3, n), "f4", end), guarded((3, n), "f4", end), guarded((n,), "f4", end)
            x[...], g[...], w[...] = np.arange(n), 1, 2
            y, mean, rstd = run(x, w, w, False)
            check_equal(N(mean), np.full(3, (n - 1) / 2, "f4"))
            assert np.isfinite(N(y)).all()
            grads = _core.layer_norm_grad(T(x), T(g), n, T(w), mean, rstd, False, True, True)
            check_equal(N(grads[2]), np.full(n, 3, "f4"))


@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads_or_rows() -> None:
    rng = np.random.default_rng(4)
    x, g = (rng.standard_normal((4_000, 300)).astype("f4") for _ in range(2))
    w = rng.standard_normal(300).astype("f4")
    before, results = _core.num_threads(), []
    try:
        for threads in (1, 2):
            _core.set_num_threads(threads)
            y, mean, rstd = run(x, w, w, False)
            grads = _core.layer_norm_grad(T(x), T(g), 300, T(w), mean, rstd, False, True, True)
            results.append([N(t).copy() for t in (y, mean, rstd, *grads)])
    finally:
        _core.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        check_equal(one, two)
    check_equal(N(run(x[17:19].copy(), w, w, False)[0]), results[0][0][17:19])


def test_gradients_in_float64() -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((4, 3, 5)) * 2 + 1, rng.standard_normal((3, 5)), rng.standard_normal((3, 5))
    gradcheck(lambda x, w, b: ops.layer_norm(x, (3, 5), w, b), x, w, b)
    gradcheck(lambda x, b: ops.layer_norm(x, 5, None, b, 1e-2), x, b[0])
    gradcheck(lambda x: ops.layer_norm(x, 5), x)
    gradcheck(lambda x, w: ops.rms_norm(x, (3, 5), w), x, w)
    gradcheck(lambda x: ops.rms_norm(x, 5, eps=1e-3), x)


@given(st.lists(st.integers(1, 5), max_size=2), near(40, 2), st.integers(1, 3), affines, st.integers(0, 99))
def test_against_torch(lead: list[int], last: int, inner: int, affine: str, seed: int) -> None:
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    rng = np.random.default_rng(seed)
    shape = (inner, last)
    x, w, b = (rng.standard_normal(s) for s in ((*lead, *shape), shape, shape))
    for rms in (False, True):
        mine = [qn.tensor(a, requires_grad=True) for a in (x, w, b)]
        other = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
        pick = lambda t: (t[1] if "w" in affine else None, t[2] if "b" in affine else None)
        if rms:
            y, z = ops.rms_norm(mine[0], shape, pick(mine)[0]), F.rms_norm(other[0], shape, pick(other)[0])
        else:
            y, z = ops.layer_norm(mine[0], shape, *pick(mine)), F.layer_norm(other[0], shape, *pick(other))
        np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-10, atol=1e-11)
        g = rng.standard_normal(x.shape)
        y.backward(g)
        z.backward(torch.tensor(g))
        for a, t in zip(mine, other, strict=True):
            assert (a.grad is None) == (t.grad is None)
            if a.grad is not None:
                np.testing.assert_allclose(a.grad.numpy(), t.grad.numpy(), rtol=1e-8, atol=1e-10)


def test_nan_stays_in_its_row_and_sizes_may_be_zero() -> None:
    x = np.ones((3, 20), np.float32)
    x[1, 3], x[2, 4] = np.nan, np.inf
    y = ops.layer_norm(x, 20).numpy()
    assert (y[0] == 0).all() and np.isnan(y[1]).all() and np.isnan(y[2]).any()
    assert ops.layer_norm(np.zeros((0, 4)), 4).shape == (0, 4)
    assert ops.layer_norm(np.zeros((3, 0)), 0).shape == (3, 0)
    w = qn.tensor(np.ones(4), requires_grad=True)
    ops.layer_norm(np.zeros((0, 4)), 4, w, w).sum().backward()
    assert w.grad is not None and w.grad.tolist() == [0] * 4


X = np.zeros((3, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.layer_norm(X, 3), ShapeError, r"normalized_shape \(3,\) must be the last dimensions .* \(3, 4\)"),
        (lambda: ops.layer_norm(X, (2, 3, 4)), ShapeError, "must be the last dimensions"),
        (lambda: ops.layer_norm(X, ()), ArgumentError, "one or several sizes"),
        (lambda: ops.layer_norm(X, 4, np.ones(3, "f4")), ShapeError, r"weight must have shape \(4,\), got \(3,\)"),
        (lambda: ops.layer_norm(X, 4, None, np.ones(4)), DTypeError, "bias is float64, x is float32"),
        (lambda: ops.layer_norm(X, 4, eps=0), ArgumentError, "eps must be positive"),
        (lambda: ops.layer_norm(X.astype("i4"), 4), DTypeError, "x must be floating"),
    ],
)  # fmt: skip
def test_errors(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=rf"^\[layer_norm\].*{message}"):
        call()
