"""Group norm and instance norm against their definitions, their gradients, threads; beside PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import _core, ops
from quernel.errors import ArgumentError, ShapeError
from tests import reference
from tests.checks import N, T, check_contraction, check_equal, gradcheck, unit_roundoff
from tests.strategies import arrays, guarded, near

dtypes = st.sampled_from(("float32", "float64"))
EPS = 1e-5


@st.composite
def sizes(draw: st.DrawFn) -> tuple[tuple[int, int, int], int]:
    """(N, positions, C) and the number of groups. More than 128 positions need several blocks."""
    channels = draw(near(70, 1))
    groups = draw(st.sampled_from([g for g in (1, 2, 3, 4, 8, channels) if channels % g == 0]))
    return (draw(st.integers(1, 3)), draw(st.sampled_from((2, 5, 130, 300))), channels), groups


@pytest.mark.usefixtures("isa", "threads")
@settings(max_examples=10)
@given(
    data=st.data(),
    size=sizes(),
    dtype=dtypes,
    affine=st.sampled_from(("", "w", "wb")),
    offset=st.sampled_from((0.0, 100.0)),
)
def test_values_and_gradients(data: Any, size: Any, dtype: str, affine: str, offset: float) -> None:
    shape, groups = size
    u = unit_roundoff(dtype)
    x = (data.draw(arrays(shape, dtype)) + np.asarray(offset, dtype)).astype(dtype)
    g = data.draw(arrays(shape, dtype))
    w = data.draw(arrays(shape[-1:], dtype)) if "w" in affine else None
    b = data.draw(arrays(shape[-1:], dtype)) if "b" in affine else None
    native = [None if t is None else T(t) for t in (w, b)]
    mean, var = (N(t) for t in _core.group_norm_stats(T(x), groups))
    want_mean, want_var = reference.group_norm_stats(x, groups)
    count = shape[1] * shape[2] // groups
    rows = x.astype("f8").reshape(shape[0], shape[1], groups, -1)
    assert (np.abs(mean - want_mean) <= (128 + 4) * u * np.abs(rows).max((1, 3))).all()
    # Each distance from the mean carries a few roundings of the values themselves.
    slip = 8 * u * (1 + np.abs(rows).max((1, 3), keepdims=True))
    spread = np.abs(rows - want_mean[:, None, :, None])
    limit = ((spread + slip) ** 2 - spread**2).mean((1, 3)) + (128 + 8) * u * want_var
    assert var.dtype == dtype and (np.abs(var - want_var) <= limit).all()

    # What follows is measured for these very statistics.
    y = N(_core.group_norm(T(x), T(mean), T(var), *native, EPS))
    rstd = (1 / np.sqrt(var.astype("f8") + EPS))[:, None, :, None]
    factor = np.ones(shape[-1]) if w is None else np.abs(w.astype("f8"))
    scale = np.broadcast_to(rstd, rows.shape).reshape(shape)
    magnitude = (np.abs(x) + np.abs(mean).max()) * scale * factor + (0 if b is None else np.abs(b))
    assert y.dtype == dtype
    assert (np.abs(y - reference.group_norm(x, mean, var, w, b, EPS)) <= 8 * u * magnitude).all()

    dx, dweight, dbias = (N(t) for t in _core.group_norm_grad(T(x), T(g), T(mean), T(var), native[0], EPS))
    want = reference.group_norm_grad(x, g, mean, var, w, EPS)
    axes = (0, 1)
    z = (np.abs(x) + np.abs(mean).max()) * scale
    terms = shape[0] * shape[1] + 8
    check_contraction(dbias, want[2], np.abs(g.astype("f8")).sum(axes), terms, dtype)
    check_contraction(dweight, want[1], (np.abs(g) * z).sum(axes), terms, dtype)
    h, zs = (np.abs(g) * factor).reshape(rows.shape), z.reshape(rows.shape)
    size_dx = rstd * (h + h.mean((1, 3), keepdims=True) + zs * (h * zs).mean((1, 3), keepdims=True))
    assert dx.dtype == dtype
    assert (np.abs(dx - want[0]).reshape(rows.shape) <= (count + 24) * u * size_dx).all()


@pytest.mark.usefixtures("isa")
def test_every_tail_against_guard_pages() -> None:
    for n in range(1, 40):
        for end in (True, False):
            x, w = guarded((2, 3, n), "f4", end), guarded((n,), "f4", end)
            x[...], w[...] = np.arange(3)[:, None], 1
            mean, var = _core.group_norm_stats(T(x), n)
            check_equal(N(mean), np.ones((2, n), "f4"))
            y = _core.group_norm(T(x), mean, var, T(w), T(w), EPS)
            check_equal(N(_core.group_norm_grad(T(x), y, mean, var, T(w), EPS)[2]), np.full(n, 6, "f4"))


@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads_or_samples() -> None:
    rng = np.random.default_rng(4)
    x, g = (rng.standard_normal((6, 1500, 70)).astype("f4") for _ in range(2))
    before, results = _core.num_threads(), []
    try:
        for threads in (1, 2):
            _core.set_num_threads(threads)
            mean, var = _core.group_norm_stats(T(x), 7)
            y = _core.group_norm(T(x), mean, var, None, None, EPS)
            results.append(
                [
                    N(t).copy()
                    for t in (mean, var, y, *_core.group_norm_grad(T(x), T(g), mean, var, None, EPS))
                ]
            )
    finally:
        _core.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        check_equal(one, two)
    check_equal(ops.group_norm(x[2:3], 7).numpy(), results[0][2][2:3])


def test_gradients_in_float64() -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((3, 4, 2, 6)) * 2 + 1, rng.standard_normal(6), rng.standard_normal(6)
    mean, var = qn.tensor(rng.standard_normal(6)), qn.tensor(rng.uniform(0.5, 2, 6))
    gradcheck(lambda x, w, b: ops.group_norm(x, 3, w, b), x, w, b)
    gradcheck(lambda x: ops.group_norm(x, 1), x)
    gradcheck(lambda x, b: ops.group_norm(x, 2, None, b), x[:, 0, 0], b)
    gradcheck(lambda x, w, b: ops.instance_norm(x, None, None, w, b), x, w, b)
    gradcheck(lambda x, w, b: ops.instance_norm(x, mean, var, w, b, use_input_stats=False), x, w, b)


@given(st.integers(1, 3), st.sampled_from((1, 2, 3, 6)), st.booleans(), st.booleans(), st.integers(0, 99))
def test_against_torch(n: int, groups: int, affine: bool, running: bool, seed: int) -> None:
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    rng = np.random.default_rng(seed)
    x, w, b = rng.standard_normal((n, 4, 5, 6)), rng.standard_normal(6), rng.standard_normal(6)
    g = rng.standard_normal(x.shape)
    stats = [rng.standard_normal(6), rng.uniform(0.5, 2, 6)] if running else [None, None]
    ours_stats = [None if s is None else qn.tensor(s.copy()) for s in stats]
    their_stats = [None if s is None else torch.tensor(s) for s in stats]
    for kind in ("group", "instance"):
        mine = [qn.tensor(a, requires_grad=True) for a in (x, w, b)]
        other = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
        params, theirs = (mine[1:], other[1:]) if affine else ([None, None], [None, None])
        images = other[0].permute(0, 3, 1, 2)
        if kind == "group":
            y, z = ops.group_norm(mine[0], groups, *params, 1e-4), F.group_norm(images, groups, *theirs, 1e-4)
        else:
            y = ops.instance_norm(mine[0], *ours_stats, *params, momentum=0.3)
            z = F.instance_norm(images, *their_stats, *theirs, momentum=0.3)
        np.testing.assert_allclose(y.numpy(), z.detach().permute(0, 2, 3, 1).numpy(), rtol=1e-10, atol=1e-11)
        y.backward(g)
        z.backward(
            torch.tensor(g.transpose(0, 3, 1, 2).copy())
        )  # laid out as an image of one sample, torch 2.13 errs
        for a, t in zip(mine, other, strict=True):
            assert (a.grad is None) == (t.grad is None)
            if a.grad is not None:
                np.testing.assert_allclose(a.grad.numpy(), t.grad.numpy(), rtol=1e-9, atol=1e-10)
    for s, t in zip(ours_stats, their_stats, strict=True):
        if s is not None:
            np.testing.assert_allclose(s.numpy(), t.numpy(), rtol=1e-12)


def test_zero_sizes_and_nan() -> None:
    assert ops.group_norm(np.zeros((0, 4, 4, 6)), 3).shape == (0, 4, 4, 6)
    assert ops.group_norm(np.zeros((2, 4, 0)), 1).shape == (2, 4, 0)
    assert ops.instance_norm(np.zeros((0, 4, 6))).shape == (0, 4, 6)
    x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype("f4")
    x[0, 1, 0] = np.nan
    y = ops.group_norm(x, 2).numpy()
    assert np.isnan(y[0, :, :2]).all() and np.isfinite(y[0, :, 2:]).all() and np.isfinite(y[1]).all()


X = np.zeros((2, 3, 3, 6), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.group_norm(X, 4), ShapeError, r"\[group_norm\] num_groups=4 does not divide the 6 channels"),
        (lambda: ops.group_norm(X, 0), ArgumentError, r"\[group_norm\] num_groups is a positive integer"),
        (lambda: ops.group_norm(X[0, 0, 0], 1), ShapeError, r"\[group_norm\] x must have at least 2 dimensions"),
        (lambda: ops.group_norm(X[:, :0], 2), ShapeError, r"\[group_norm\] a group needs at least one value"),
        (lambda: ops.group_norm(X, 2, np.ones(5, "f4")), ShapeError, r"\[group_norm\] weight must have shape \(6,\)"),
        (lambda: ops.instance_norm(X[:, :1, :1]), ShapeError, r"\[instance_norm\] needs at least 2 values"),
        (lambda: ops.instance_norm(X, use_input_stats=False), ArgumentError, r"\[instance_norm\] use_input_stats=False needs"),
        (lambda: ops.instance_norm(X, qn.ones(6)), ArgumentError, r"\[instance_norm\] running_mean and running_var come together"),
        (lambda: ops.instance_norm(X, momentum=2), ArgumentError, r"\[instance_norm\] momentum lies between"),
    ],
)  # fmt: skip
def test_errors(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
