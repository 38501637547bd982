"""Native losses: accuracy against float64, targets that are refused, tails, bits independent of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import Array, N, T, check_equal, smallest, unit_roundoff
from tests.strategies import arrays, guarded, lay_out, near, seeds

dtypes = st.sampled_from(("float32", "float64"))

PROBABILITY_TARGETS = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "sigmoid_focal_loss",
    "kl_div",
)


def operands(kind: str, shape: tuple[int, ...], dtype: str, seed: int) -> tuple[Array, Array]:
    """An output and a target that the loss takes: hard and soft targets, saturated outputs, zeros."""
    rng = np.random.default_rng(seed)
    x, t = rng.standard_normal(shape) * 4, rng.standard_normal(shape)
    if kind in PROBABILITY_TARGETS:
        t = np.where(rng.random(shape) < 0.6, rng.integers(0, 2, shape), rng.random(shape))
    if kind == "binary_cross_entropy":
        x = np.where(rng.random(shape) < 0.2, rng.integers(0, 2, shape), rng.random(shape))
    if kind.startswith("kl_div"):
        x = -np.abs(x)
    if kind in ("binary_cross_entropy_with_logits", "sigmoid_focal_loss"):
        x = np.where(rng.random(shape) < 0.2, x * 10, x)
    return x.astype(dtype), t.astype(dtype)


def constants(kind: str, seed: int) -> tuple[float, ...]:
    choices: dict[str, list[tuple[float, ...]]] = {
        "huber_loss": [(0.5,), (1.0,), (2.0,)],
        "smooth_l1_loss": [(0.5,), (1.0,), (2.0,)],
        "sigmoid_focal_loss": [(0.0,), (1.0, 0.25), (2.0, 0.25), (0.5, 0.0), (3.5, 1.0)],
        "focal_loss": [(0.0,), (1.0,), (2.0,), (0.5,), (3.5,)],
    }
    listed = choices.get(kind, [()])
    return listed[seed % len(listed)]


def check_relative(actual: Array, expected: Array, size: Array, dtype: str, roundings: Any) -> None:
    """Within some roundings of the sum of the absolute terms."""
    assert actual.dtype == dtype and actual.shape == expected.shape
    limit = roundings * unit_roundoff(dtype) * size + 8 * smallest(dtype)
    error = np.abs(actual - expected)
    assert (error <= limit).all(), float((error / limit).max())


def roundings(kind: str, x: Array, gamma: float) -> Any:
    """A dozen roundings, and two functions of at most 4 ulp each; a power multiplies those of the logarithm."""
    least = 30.0
    if kind == "sigmoid_focal_loss":
        return least + 10 * gamma * (1 + np.abs(x))
    if kind == "focal_loss":
        return least + 10 * gamma * (1 + np.abs(np.log(np.maximum(x, 1e-30))))
    return least


def magnitude(kind: str, x: Array, t: Array, value: Array) -> Array:
    """The absolute terms, where they cancel."""
    if kind == "kl_div":
        return np.abs(reference.kl(0 * x, t)) + np.abs(t * x)
    if kind == "kl_div_log":
        return np.exp(t) * (np.abs(t) + np.abs(x))
    return np.abs(value)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", reference.PAIRS)
@given(n=near(200), dtype=dtypes, layout=st.sampled_from(("C", "guard_end", "guard_start")), seed=seeds)
def test_losses_and_slopes(kind: str, n: int, dtype: str, layout: str, seed: int) -> None:
    x, t = (lay_out(a, layout) for a in operands(kind, (n,), dtype, seed))
    numbers = constants(kind, seed)
    loss, slope = (f(x.astype("f8"), t.astype("f8"), *numbers) for f in reference.PAIRS[kind])
    allowed = roundings(kind, x.astype("f8"), numbers[0] if numbers else 0.0)
    y = N(_core.loss(kind, T(x), T(t), None, *numbers))
    check_relative(y, loss, magnitude(kind, x.astype("f8"), t.astype("f8"), loss), dtype, allowed)
    g = lay_out(np.random.default_rng(seed).standard_normal(n).astype(dtype), layout)
    dx = N(_core.loss_grad(kind, T(x), T(t), None, T(g), *numbers, scale=0.5) if numbers else
           _core.loss_grad(kind, T(x), T(t), None, T(g), scale=0.5))  # fmt: skip
    want = slope * g * 0.5
    size = np.abs(want)
    if kind in ("binary_cross_entropy_with_logits", "sigmoid_focal_loss"):  # a soft target's two terms
        parts = [reference.PAIRS[kind][1](x.astype("f8"), np.full(n, end), *numbers) for end in (0.0, 1.0)]
        size = (np.abs((1 - t) * parts[0]) + np.abs(t * parts[1])) * np.abs(g) * 0.5
    check_relative(dx, want, size, dtype, allowed)
    one = T(np.asarray(0.75, dtype))
    whole = N(_core.loss_grad(kind, T(x), T(t), None, one, *numbers, scale=2.0) if numbers else
              _core.loss_grad(kind, T(x), T(t), None, one, scale=2.0))  # fmt: skip
    same = N(_core.loss_grad(kind, T(x), T(t), None, T(np.full(n, 1.5, dtype)), *numbers))
    check_equal(whole, same)


@pytest.mark.usefixtures("isa")
@given(n=near(200), dtype=dtypes, seed=seeds)
def test_focal_factor_of_a_cross_entropy(n: int, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ce = (rng.standard_exponential(n) * 10.0 ** rng.integers(-6, 2, n)).astype(dtype)
    ce[rng.random(n) < 0.1] = 0
    (gamma,) = constants("focal_loss", seed)
    allowed = roundings("focal_loss", ce.astype("f8"), gamma)
    want = reference.focal(ce.astype("f8"), gamma)
    check_relative(N(_core.loss("focal_loss", T(ce), None, None, gamma)), want, want, dtype, allowed)
    g = T(np.ones(n, dtype))
    slope = reference.focal_slope(ce.astype("f8"), gamma)
    check_relative(
        N(_core.loss_grad("focal_loss", T(ce), None, None, g, gamma)), slope, slope, dtype, allowed
    )


@pytest.mark.usefixtures("isa")
@given(n=near(100), dtype=dtypes, seed=seeds)
def test_weights_of_positive_targets(n: int, dtype: str, seed: int) -> None:
    kind = "binary_cross_entropy_with_logits"
    x, t = operands(kind, (n,), dtype, seed)
    w = np.random.default_rng(seed).uniform(0, 5, n).astype(dtype)
    wide = [a.astype("f8") for a in (x, t, w)]
    want = reference.bce_logits(*wide)
    check_relative(N(_core.loss(kind, T(x), T(t), T(w))), want, want, dtype, 30)
    slope = reference.bce_logits_slope(*wide)
    size = (1 - wide[1]) * reference.sigmoid(wide[0]) + wide[1] * wide[2] * reference.sigmoid(-wide[0])
    check_relative(N(_core.loss_grad(kind, T(x), T(t), T(w), T(np.ones(n, dtype)))), slope, size, dtype, 30)


@pytest.mark.usefixtures("isa")
def test_extremes() -> None:
    inf, big = np.inf, 1e30
    x, t = np.array([big, -big, 100, -100, np.nan], "f4"), np.array([1, 0, 0, 1, 1], "f4")
    for kind, numbers in (("binary_cross_entropy_with_logits", ()), ("sigmoid_focal_loss", (2.0,))):
        y = N(_core.loss(kind, T(x), T(t), None, *numbers))
        np.testing.assert_array_equal(y, np.array([0, 0, 100, 100, np.nan], "f4"))
        dx = N(_core.loss_grad(kind, T(x), T(t), None, T(np.ones(5, "f4")), *numbers))
        np.testing.assert_array_equal(np.abs(dx), np.array([0, 0, 1, 1, np.nan], "f4"))
    p = np.array([0, 1, 0, 1, np.nan], "f4")
    y = N(_core.loss("binary_cross_entropy", T(p), T(np.array([0, 1, 1, 0, 1], "f4")), None))
    np.testing.assert_array_equal(y, np.array([0, 0, 100, 100, np.nan], "f4"))
    x = np.array([-inf, -inf, 0], "f4")
    y = N(_core.loss("kl_div", T(x), T(np.array([0, 0.5, 0], "f4")), None))
    np.testing.assert_array_equal(y, np.array([0, inf, 0], "f4"))
    y = N(_core.loss("kl_div_log", T(x), T(np.array([-inf, -1, -inf], "f4")), None))
    np.testing.assert_array_equal(y, np.array([0, inf, 0], "f4"))
    for kind, want in (("mse_loss", inf), ("l1_loss", inf), ("huber_loss", inf)):
        d = np.array([inf, np.nan, -inf], "f4")
        y = N(_core.loss(kind, T(d), T(np.zeros(3, "f4")), None, 1.0))
        np.testing.assert_array_equal(y, np.array([want, np.nan, want], "f4"))


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize(("bad", "at"), [(-0.25, 3), (1.5, 9_999), (2.0, 19_999), (np.nan, 0)])
def test_targets_that_are_no_probabilities_are_refused(bad: float, at: int) -> None:
    x, t = np.full(20_000, 0.5, "f4"), np.zeros(20_000, "f4")
    t[at] = bad
    t[at + 1 :] = 7
    for kind in PROBABILITY_TARGETS:
        with pytest.raises(ValueError, match=rf"\[{kind}\] {bad:g} at position {at} is not in \[0, 1\]"):
            _core.loss(kind, T(x), T(t), None)
    rows = t.reshape(100, 200)
    with pytest.raises(ValueError, match=rf"\[cross_entropy\] {bad:g} at position {at} is not in"):
        _core.cross_entropy(T(rows), T(rows))


def test_outputs_that_are_no_probabilities_are_refused_but_nan_goes_on() -> None:
    t = T(np.zeros(2, "f4"))
    with pytest.raises(ValueError, match=r"\[binary_cross_entropy\] 1\.5 at position 1 is not in"):
        _core.loss("binary_cross_entropy", T(np.array([np.nan, 1.5], "f4")), t, None)
    y = N(_core.loss("binary_cross_entropy", T(np.array([np.nan, 0.5], "f4")), t, None))
    assert np.isnan(y[0]) and y[1] == np.float32(np.log(2))


@pytest.mark.usefixtures("isa", "threads")
def test_bits_do_not_depend_on_threads_or_position() -> None:
    n = 50_000
    for kind in reference.PAIRS:
        x, t = operands(kind, (n,), "float32", 5)
        a = constants(kind, 3)
        whole = N(_core.loss(kind, T(x), T(t), None, *a))
        for cut in (1, 4095, 12_345):
            part = N(_core.loss(kind, T(x[cut:].copy()), T(t[cut:].copy()), None, *a))
            check_equal(part, whole[cut:])


@pytest.mark.usefixtures("isa")
def test_every_tail_against_guard_pages() -> None:
    for n in range(1, 40):
        for end in (True, False):
            x, t, g = (guarded((n,), "f4", end) for _ in range(3))
            x[...], t[...], g[...] = 0.25, 0.5, 1
            for kind in reference.PAIRS:
                _core.loss(kind, T(x), T(t), None, 1.0)
                _core.loss_grad(kind, T(x), T(t), None, T(g), 1.0)


# ---- cross-entropy --------------------------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, Array, Array | None, float, str]:
    """Logits, labels or distributions, class weights, smoothing, dtype."""
    rows, columns, dtype = draw(st.integers(0, 5)), draw(near(130, 1)), draw(dtypes)
    rng = np.random.default_rng(draw(seeds))
    x = draw(arrays((rows, columns), dtype, scale=5))
    if draw(st.booleans()):
        target = rng.integers(0, columns, rows)
        target[rng.random(rows) < 0.2] = reference.IGNORED
    else:
        target = rng.dirichlet(np.full(columns, 0.3), rows).astype(dtype).reshape(rows, columns)
    weight = rng.uniform(0, 3, columns).astype(dtype) if draw(st.booleans()) else None
    return x, target, weight, draw(st.sampled_from((0.0, 0.1, 1.0))), dtype


def native(weight: Array | None) -> Any:
    return None if weight is None else T(weight)


@pytest.mark.usefixtures("isa")
@given(case=cases(), number=st.booleans())
def test_cross_entropy_in_full(case: Any, number: bool) -> None:
    x, target, weight, smoothing, dtype = case
    rows, columns = x.shape
    spread = 1 + np.abs(x.astype("f8")).max(-1, initial=0) + np.log(columns)
    q = reference.mixture(x.shape, target, weight, smoothing)
    size = spread * np.abs(q).sum(-1)
    y = N(_core.cross_entropy(T(x), T(target), native(weight), smoothing))
    check_relative(y, reference.cross_entropy(x, target, weight, smoothing), size, dtype, 2 * columns + 20)
    g = np.full(rows, 0.5, dtype) if number else np.linspace(-1, 1, rows).astype(dtype)
    given_g = T(np.asarray(0.5, dtype)) if number else T(g)
    dx = N(_core.cross_entropy_grad(T(x), T(target), given_g, None, native(weight), smoothing))
    want = reference.cross_entropy_grad(x, target, g, weight, smoothing)
    size = np.abs(g.astype("f8"))[:, None] * (
        spread[:, None] * q.sum(-1, keepdims=True) * reference.softmax(x) + q
    )
    check_relative(dx, want, size, dtype, 2 * columns + 20)


@pytest.mark.usefixtures("isa")
@given(rows=near(130), columns=st.integers(1, 9), dtype=dtypes, weighted=st.booleans(), seed=seeds)
def test_mean_of_a_cross_entropy(rows: int, columns: int, dtype: str, weighted: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses, labels = rng.uniform(0, 9, rows).astype(dtype), rng.integers(0, columns, rows)
    ignored = rng.random(rows) < 0.3
    labels[ignored], losses[ignored] = -100, 0
    weight = rng.uniform(0.1, 2, columns).astype(dtype) if weighted else None
    mean, divisor = (N(t) for t in _core.cross_entropy_mean(T(losses), T(labels), columns, native(weight)))
    counts = np.where(ignored, 0, 1.0 if weight is None else weight[np.maximum(labels, 0)]).sum(dtype="f8")
    check_relative(divisor, np.asarray(counts), np.asarray(counts), dtype, 2)
    if counts:
        want = np.asarray(losses.sum(dtype="f8") / counts)
        check_relative(mean, want, want, dtype, 2 + 2 * unit_roundoff("f8") / unit_roundoff(dtype) * rows)
    else:
        assert np.isnan(mean)


@pytest.mark.usefixtures("isa")
@given(rows=st.integers(0, 5), columns=near(70, 1), dtype=dtypes, seed=seeds)
def test_logarithms_of_probabilities(rows: int, columns: int, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((rows, columns)).astype(dtype), rng.integers(0, columns, rows)
    labels[rng.random(rows) < 0.2] = -100
    weight = rng.uniform(0, 3, columns).astype(dtype)
    q = reference.mixture(x.shape, labels, weight).astype(dtype)
    options = {"weight": T(weight), "normalized": True}
    check_equal(N(_core.cross_entropy(T(x), T(labels), **options)), -(q * x).sum(-1) + 0)
    g = rng.standard_normal(rows).astype(dtype)
    dx = N(_core.cross_entropy_grad(T(x), T(labels), T(g), **options))
    check_equal(dx + 0, -(q * g[:, None]) + 0)


@pytest.mark.usefixtures("isa")
def test_a_class_that_cannot_be_costs_nothing_where_it_does_not_count() -> None:
    x = np.array([[0, 0, -np.inf]], "f4")
    sure = T(np.array([[0.5, 0.5, 0]], "f4"))
    check_equal(N(_core.cross_entropy(T(x), sure)), np.array([np.log(2)], "f4"))
    check_equal(N(_core.cross_entropy_grad(T(x), sure, T(np.ones(1, "f4")))), np.zeros((1, 3), "f4"))
    assert N(_core.cross_entropy(T(x), T(np.zeros(1, "i8")), None, 0.1))[0] == np.inf
    weight = T(np.array([1, 1, 0], "f4"))
    y = N(_core.cross_entropy(T(x), T(np.zeros(1, "i8")), weight, 0.1))
    np.testing.assert_allclose(y, [(0.9 + 0.2 / 3) * np.log(2)], rtol=1e-6)


def test_errors_name_both_sides() -> None:
    x = T(np.zeros((3, 4), "f4"))
    ones = T(np.zeros(3, "f4"))
    for match, call in (
        (r"\[mse_loss\] target has shape \(3,\), x \(3, 4\)", lambda: _core.loss("mse_loss", x, ones, None)),
        (r"no loss named typo", lambda: _core.loss("typo", x, x, None)),
        (r"weight expects shape \(4,\), is \(3,\)", lambda: _core.cross_entropy(x, x, ones)),
        (r"g has shape \(3,\), x \(3, 4\)", lambda: _core.loss_grad("l1_loss", x, x, None, ones)),
        (
            r"go with labels, without smoothing",
            lambda: _core.cross_entropy(x, T(np.zeros(3, "i8")), None, 0.1, -100, True),
        ),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match=r"\[kl_div\] target is float64, x is float32"):
        _core.loss("kl_div", x, T(np.zeros((3, 4))), None)
    with pytest.raises(RuntimeError, match=r"\[mse_loss\] a target is missing"):
        _core.loss("mse_loss", x, None, None)
