"""Native batch normalization: statistics far from zero, both gradients, tails, bits independent of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import N, T, check_contraction, check_equal, unit_roundoff
from tests.strategies import arrays, guarded, near

dtypes = st.sampled_from(("float32", "float64"))
EPS = 1e-5


@st.composite
def batches(draw: st.DrawFn, dtype: str, least: int = 1) -> Any:
    shape = (
        draw(st.integers(1, 3)),
        draw(st.integers(least, 60)),
        draw(st.integers(1, 3)),
        draw(near(130, 1)),
    )
    return draw(arrays(shape, dtype))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=dtypes, offset=st.sampled_from((0.0, 100.0, -1e4)))
def test_stats(data: Any, dtype: str, offset: float) -> None:
    x = (data.draw(batches(dtype)) + np.asarray(offset, dtype)).astype(dtype)
    mean, var = (N(t) for t in _core.batch_norm_stats(T(x)))
    expected_mean, expected_var = reference.batch_norm_stats(x)
    rows = x.reshape(-1, x.shape[-1]).astype("f8")
    check_contraction(mean, expected_mean, np.abs(rows).mean(0), len(rows) + 2, dtype)
    # Each distance from the mean carries a few roundings of the values themselves.
    slip = 8 * unit_roundoff(dtype) * (1 + np.abs(rows).max(0))
    spread = np.abs(rows - expected_mean)
    limit = ((spread + slip) ** 2 - spread**2).mean(0) + (len(rows) + 4) * unit_roundoff(dtype) * expected_var
    assert var.dtype == dtype and (np.abs(var - expected_var) <= limit).all()


@pytest.mark.usefixtures("isa")
def test_stats_far_from_zero_keep_their_digits() -> None:
    rng = np.random.default_rng(0)
    x = (1000 + rng.integers(-4, 5, (5000, 20))).astype("f4")  # squares need more than 24 bits
    mean, var = (N(t) for t in _core.batch_norm_stats(T(x)))
    np.testing.assert_allclose(mean, x.astype("f8").mean(0), rtol=2e-7)
    np.testing.assert_allclose(var, x.astype("f8").var(0), rtol=1e-5)


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=dtypes, affine=st.sampled_from(("", "w", "b", "wb")))
def test_apply(data: Any, dtype: str, affine: str) -> None:
    x = data.draw(batches(dtype))
    c = x.shape[-1:]
    mean, var = data.draw(arrays(c, dtype)), np.abs(data.draw(arrays(c, dtype)))
    w = data.draw(arrays(c, dtype)) if "w" in affine else None
    b = data.draw(arrays(c, dtype)) if "b" in affine else None
    y = N(
        _core.batch_norm(T(x), T(mean), T(var), None if w is None else T(w), None if b is None else T(b), EPS)
    )
    expected = reference.batch_norm(x, mean, var, w, b, EPS)
    scale = (1 if w is None else np.abs(w)) / np.sqrt(var.astype("f8") + EPS)
    size = (np.abs(x) + np.abs(mean)) * scale + (0 if b is None else np.abs(b))
    assert y.dtype == dtype and (np.abs(y - expected) <= 8 * unit_roundoff(dtype) * size).all()


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(), dtype=dtypes, momentum=st.sampled_from((0.0, 0.1, 1.0)), rows=st.sampled_from((1, 2, 100))
)
def test_update(data: Any, dtype: str, momentum: float, rows: int) -> None:
    mean, var, old_mean, old_var = (np.abs(data.draw(arrays((9,), dtype))) for _ in range(4))
    running_mean, running_var = _core.from_numpy(old_mean), _core.from_numpy(old_var)
    _core.batch_norm_update_(T(mean), T(var), running_mean, running_var, momentum, rows)
    unbias = rows / (rows - 1) if rows > 1 else 1.0
    size = 1 + mean + var + old_mean + old_var
    for actual, expected in (
        (running_mean, reference.batch_norm_update(mean, old_mean, momentum)),
        (running_var, reference.batch_norm_update(var, old_var, momentum, unbias)),
    ):
        assert N(actual).dtype == dtype
        assert (np.abs(N(actual) - expected) <= 8 * unit_roundoff(dtype) * size).all()


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=dtypes, affine=st.booleans())
def test_grad(data: Any, dtype: str, affine: bool) -> None:
    x = data.draw(batches(dtype, least=2))
    g = data.draw(arrays(x.shape, dtype))
    w = data.draw(arrays(x.shape[-1:], dtype)) if affine else None
    mean, var = (N(t) for t in _core.batch_norm_stats(T(x)))
    dx, dweight, dbias = (
        N(t) for t in _core.batch_norm_grad(T(x), T(g), T(mean), T(var), None if w is None else T(w), EPS)
    )
    expected = reference.batch_norm_grad(x, g, mean, var, w, EPS)
    inverse = 1 / np.sqrt(var.astype("f8") + EPS)
    rows, grads = x.reshape(-1, x.shape[-1]).astype("f8"), np.abs(g.reshape(-1, x.shape[-1])).astype("f8")
    normal = (np.abs(rows) + np.abs(mean)) * inverse
    n = len(rows)
    check_contraction(dbias, expected[2], grads.sum(0), n, dtype)
    check_contraction(dweight, expected[1], (grads * normal).sum(0), n + 8, dtype)
    scale = inverse * (1 if w is None else np.abs(w))
    size = scale * (grads + grads.mean(0) + normal * (grads * normal).mean(0))
    assert dx.dtype == dtype
    assert (np.abs(dx - expected[0]).reshape(rows.shape) <= (n + 12) * unit_roundoff(dtype) * size).all()


def test_training_step_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    x, g, w, b = (rng.standard_normal(s) for s in ((4, 5, 6, 7), (4, 5, 6, 7), 7, 7))
    nchw = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    weight, bias = torch.tensor(w, requires_grad=True), torch.tensor(b, requires_grad=True)
    running_mean, running_var = torch.zeros(7, dtype=torch.float64), torch.ones(7, dtype=torch.float64)
    y = torch.nn.functional.batch_norm(nchw, running_mean, running_var, weight, bias, True, 0.1, EPS)
    y.backward(torch.tensor(g.transpose(0, 3, 1, 2).copy()))
    mean, var = _core.batch_norm_stats(T(x))
    ours_mean, ours_var = _core.full([7], 0.0, "float64"), _core.full([7], 1.0, "float64")
    _core.batch_norm_update_(mean, var, ours_mean, ours_var, 0.1, x.size // 7)
    dx, dweight, dbias = _core.batch_norm_grad(T(x), T(g), mean, var, T(w), EPS)
    for ours, theirs in (
        (_core.batch_norm(T(x), mean, var, T(w), T(b), EPS), y.detach().permute(0, 2, 3, 1)),
        (ours_mean, running_mean), (ours_var, running_var), (dweight, weight.grad), (dbias, bias.grad),
        (dx, nchw.grad.permute(0, 2, 3, 1)),
    ):  # fmt: skip
        np.testing.assert_allclose(N(ours), theirs.numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads() -> None:
    rng = np.random.default_rng(4)
    x, g = (rng.standard_normal((40_000, 70)).astype("f4") for _ in range(2))
    before, results = _core.num_threads(), []
    try:
        for threads in (1, 2):
            _core.set_num_threads(threads)
            mean, var = _core.batch_norm_stats(T(x))
            outputs = [mean, var, _core.batch_norm(T(x), mean, var, None, None, EPS)]
            outputs += _core.batch_norm_grad(T(x), T(g), mean, var, None, EPS)
            results.append(b"".join(N(t).tobytes() for t in outputs))
    finally:
        _core.set_num_threads(before)
    assert results[0] == results[1]


@pytest.mark.usefixtures("isa")
def test_every_tail_against_guard_pages() -> None:
    for n in range(1, 70):
        for end in (True, False):
            x, g, w = guarded((3, n), "f4", end), guarded((3, n), "f4", end), guarded((n,), "f4", end)
            x[...], g[...], w[...] = np.arange(3)[:, None], 1, 1
            mean, var = _core.batch_norm_stats(T(x))
            check_equal(N(mean), np.ones(n, "f4"))
            _core.batch_norm(T(x), mean, var, T(w), T(w), EPS)
            check_equal(N(_core.batch_norm_grad(T(x), T(g), T(w), T(w), T(w), EPS)[2]), np.full(n, 3, "f4"))


def test_zero_sizes_and_errors() -> None:
    empty = T(np.zeros((3, 0), "f4"))
    mean, var = _core.batch_norm_stats(empty)
    assert mean.shape == (0,) == var.shape
    with pytest.raises(
        ValueError, match=r"\[batch_norm\] expects at least one value per channel \(x: \(0, 3\)\)"
    ):
        _core.batch_norm_stats(T(np.zeros((0, 3), "f4")))
    x, c = T(np.zeros((4, 3), "f4")), T(np.zeros(3, "f4"))
    none = T(np.zeros((0, 3), "f4"))
    assert _core.batch_norm(none, c, c, None, None, EPS).shape == (0, 3)
    with pytest.raises(ValueError, match=r"\[batch_norm\] weight must have shape \(3,\), has \(2,\)"):
        _core.batch_norm(x, c, c, T(np.zeros(2, "f4")), None, EPS)
    with pytest.raises(TypeError, match=r"\[batch_norm\] mean is float64, x is float32"):
        _core.batch_norm(x, T(np.zeros(3)), c, None, None, EPS)
    with pytest.raises(TypeError, match=r"\[batch_norm\] x must be float32 or float64, is int32"):
        _core.batch_norm_stats(T(np.zeros((4, 3), "i4")))
    with pytest.raises(ValueError, match=r"\[batch_norm\] x must have at least 2 dimensions"):
        _core.batch_norm_stats(c)
