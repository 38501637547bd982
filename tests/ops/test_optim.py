"""Native optimizer steps: one step against the float64 formula, many against PyTorch's optimizers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import N, T, check_equal
from tests.strategies import arrays, guarded, near

dtypes = st.sampled_from(("float32", "float64"))
rates = st.sampled_from((0.0, 1e-3, 0.1, 1.0))


def writable(a: Any) -> Any:
    return _core.from_numpy(np.ascontiguousarray(a))


def counter(step: int) -> Any:
    return writable(np.array([step]))


def check_step(actual: Any, expected: Any, dtype: str, size: Any) -> None:
    """Within eight roundings of the largest term."""
    assert actual.dtype == dtype
    assert (np.abs(actual - expected) <= 8 * np.finfo(dtype).eps * size).all()


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(), size=near(), dtype=dtypes, lr=rates, momentum=st.sampled_from((0.0, 0.9)), decay=rates, l1=rates,
    dampening=st.sampled_from((0.0, 0.5)), nesterov=st.booleans(), step=st.sampled_from((1, 2, 7)),
)  # fmt: skip
def test_sgd(
    data: Any, size: int, dtype: str, lr: float, momentum: float, decay: float, l1: float, dampening: float,
    nesterov: bool, step: int,
) -> None:  # fmt: skip
    p, g, b = (data.draw(arrays((size,), dtype)) for _ in range(3))
    param, buffer = writable(p), writable(b)
    hyper = [lr, decay, l1, momentum, dampening, nesterov]
    _core.sgd_(param, T(g), [buffer] if momentum else [None], T(np.array(hyper, "f8")), counter(step))
    expected, expected_buffer = reference.sgd(p, g, b, step, *hyper)
    most = 1 + np.abs(p).astype("f8") + np.abs(g) + np.abs(b)
    check_step(N(param), expected, dtype, most)
    check_step(N(buffer), expected_buffer, dtype, most)


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(), size=near(), dtype=dtypes, lr=rates, decay=rates, l1=rates, decoupled=st.booleans(),
    step=st.sampled_from((1, 2, 1000, 10**9)),
)  # fmt: skip
def test_adam(
    data: Any, size: int, dtype: str, lr: float, decay: float, l1: float, decoupled: bool, step: int
) -> None:
    p, g, m, v = (data.draw(arrays((size,), dtype)) for _ in range(4))
    v = np.ascontiguousarray(v**2)
    param, first, second = writable(p), writable(m), writable(v)
    hyper = [lr, decay, l1, 0.9, 0.999, 1e-8, decoupled]
    _core.adam_(param, T(g), [first, second], T(np.array(hyper, "f8")), counter(step))
    new_p, new_m, new_v = reference.adam(p, g, m, v, step, *hyper)
    most = 1 + np.abs(p).astype("f8") + np.abs(g) + np.abs(m)
    check_step(N(first), new_m, dtype, most)
    check_step(N(second), new_v, dtype, most**2)
    # The update inherits the relative error of m, which its two terms may cancel, over the root of v.
    update = lr * most / (1 - 0.9**step) / (np.sqrt(new_v / (1 - 0.999**step)) + 1e-8)
    check_step(N(param), new_p, dtype, most + update)


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(), size=near(), dtype=dtypes, lr=rates, decay=rates, momentum_decay=st.sampled_from((0.0, 4e-3, 10.0)),
    step=st.sampled_from((1, 2, 3000)),
)  # fmt: skip
def test_nadam(
    data: Any, size: int, dtype: str, lr: float, decay: float, momentum_decay: float, step: int
) -> None:
    p, g, m, v = (data.draw(arrays((size,), dtype)) for _ in range(4))
    v = np.ascontiguousarray(v**2)
    param, first, second = writable(p), writable(m), writable(v)
    hyper = [lr, decay, 0.0, 0.9, 0.999, 1e-8, momentum_decay]
    _core.nadam_(param, T(g), [first, second], T(np.array(hyper)), counter(step))
    new_p, new_m, new_v = reference.nadam(p, g, m, v, step, *hyper)
    most = 1 + np.abs(p).astype("f8") + np.abs(g) + np.abs(m)
    check_step(N(first), new_m, dtype, most)
    check_step(N(second), new_v, dtype, most**2)
    check_step(N(param), new_p, dtype, most + 10 * lr * most / (np.sqrt(new_v / (1 - 0.999**step)) + 1e-8))


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(), size=near(), dtype=dtypes, lr=rates, decay=rates, l1=rates, initial=st.sampled_from((0.0, 0.5)),
    step=st.sampled_from((1, 2, 9)),
)  # fmt: skip
def test_adagrad(
    data: Any, size: int, dtype: str, lr: float, decay: float, l1: float, initial: float, step: int
) -> None:
    p, g, s = (data.draw(arrays((size,), dtype)) for _ in range(3))
    s = np.ascontiguousarray(s**2)
    param, total = writable(p), writable(s)
    hyper = [lr, decay, l1, 0.1, initial, 1e-3]
    _core.adagrad_(param, T(g), [total], T(np.array(hyper)), counter(step))
    new_p, new_s = reference.adagrad(p, g, s, step, *hyper)
    most = 1 + np.abs(p).astype("f8") + np.abs(g)
    check_step(N(total), new_s, dtype, most**2 + s)
    check_step(N(param), new_p, dtype, most + lr * most / (np.sqrt(new_s) + 1e-3))


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(), size=near(), dtype=dtypes, lr=rates, decay=rates, momentum=st.sampled_from((0.0, 0.9)),
    centered=st.booleans(),
)  # fmt: skip
def test_rmsprop(
    data: Any, size: int, dtype: str, lr: float, decay: float, momentum: float, centered: bool
) -> None:
    p, g, b, m = (data.draw(arrays((size,), dtype)) for _ in range(4))
    s = np.ascontiguousarray(1 + m**2)  # mean of squares, above the square of the mean
    param, squares, buffer, mean = (writable(a) for a in (p, s, b, m))
    hyper = [lr, decay, 0.0, 0.9, 1e-3, momentum]
    kept = [squares, buffer if momentum else None, mean if centered else None]
    _core.rmsprop_(param, T(g), kept, T(np.array(hyper)), counter(3))
    new_p, new_s, new_b, new_m = reference.rmsprop(p, g, s, b, m if centered else None, *hyper)
    most = 1 + np.abs(p).astype("f8") + np.abs(g) + np.abs(m)
    check_step(N(squares), new_s, dtype, most**2)
    if centered:
        check_step(N(mean), new_m, dtype, most)
    # The variance is a difference: its error relative to itself grows by the squares over it.
    variance = new_s - new_m**2 if centered else new_s
    update = most / np.sqrt(variance) * (1 + most**2 / variance)
    check_step(N(buffer), new_b, dtype, np.abs(b) + update)
    check_step(N(param), new_p, dtype, most + lr * (np.abs(b) + update))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), size=near(), dtype=dtypes, lr=rates, decay=rates, l1=rates)
def test_lion(data: Any, size: int, dtype: str, lr: float, decay: float, l1: float) -> None:
    p, g, m = (np.round(data.draw(arrays((size,), dtype))) for _ in range(3))  # whole numbers
    param, mean = writable(p), writable(m)
    hyper = [lr, decay, l1, 0.75, 0.5]
    _core.lion_(param, T(g), [mean], T(np.array(hyper)), counter(1))
    new_p, new_m = reference.lion(p, g, m, *hyper)
    most = 1 + np.abs(p).astype("f8") + np.abs(g) + np.abs(m)
    check_step(N(mean), new_m, dtype, most)
    direction = 0.75 * m + 0.25 * reference.penalized(p, g, 0.0, l1)
    sure = np.abs(direction) > 8 * np.finfo(dtype).eps * most  # else rounding may decide the sign
    check_step(N(param)[sure], new_p[sure], dtype, most[sure])


@pytest.mark.usefixtures("isa")
def test_a_gradient_that_is_no_number_shows_in_every_parameter() -> None:
    hyper = {"sgd_": [0, 0, 0], "adagrad_": [0, 0, 1e-8], "rmsprop_": [0.9, 1e-8, 0], "adam_": [0.9, 0.99, 1e-8, 0],
             "nadam_": [0.9, 0.99, 1e-8, 0.004], "lion_": [0.9, 0.99]}  # fmt: skip
    for name, own in hyper.items():
        param = writable(np.ones(3, "f4"))
        states = [_core.full([3], 0.0, "float32") for _ in range(2 if "adam" in name else 1)]
        update = getattr(_core, name)
        update(
            param, T(np.array([1, np.nan, 1], "f4")), states, T(np.array([0.1, 0, 0, *own], "f8")), counter(2)
        )
        assert np.isnan(N(param)).tolist() == [False, True, False], name


@pytest.mark.usefixtures("isa")
@given(data=st.data(), size=near(), dtype=dtypes, warmup=st.booleans(), step=st.sampled_from((1, 5, 1000)))
def test_moving_average(data: Any, size: int, dtype: str, warmup: bool, step: int) -> None:
    p, a = (data.draw(arrays((size,), dtype)) for _ in range(2))
    average = writable(a)
    _core.moving_average_(average, T(p), T(np.array([0.9, float(warmup)])), counter(step))
    expected = reference.moving_average(a, p, step, 0.9, warmup)
    check_step(N(average), expected, dtype, np.abs(a).astype("f8") + np.abs(p))


@pytest.mark.usefixtures("isa", "threads")
def test_threads_and_versions() -> None:
    rng = np.random.default_rng(1)
    p, g, m, v = (rng.standard_normal(300_001).astype("f4") for _ in range(4))
    hyper, step = T(np.array([0.1, 0, 0, 0.9, 0.999, 1e-8, 0.0])), counter(3)
    whole = [writable(a) for a in (p, m, np.abs(v))]
    version = whole[0].version
    _core.adam_(whole[0], T(g), whole[1:], hyper, step)
    assert whole[0].version > version
    for begin in (0, 5, 123_457):  # the same bits wherever an element lies
        part = [writable(a[begin : begin + 100]) for a in (p, m, np.abs(v))]
        _core.adam_(part[0], T(g[begin : begin + 100].copy()), part[1:], hyper, step)
        for a, b in zip(part, whole, strict=True):
            check_equal(N(a), N(b)[begin : begin + 100])


def test_hyperparameters_are_read_at_run_time() -> None:
    param, grad, hyper = writable(np.ones(3)), T(np.ones(3)), writable(np.array([0.5, 0, 0, 0, 0, 0.0]))
    _core.sgd_(param, grad, [], hyper, counter(1))
    _core.copy_into_(hyper, T(np.array([0.25, 0, 0, 0, 0, 0.0])))
    _core.sgd_(param, grad, [], hyper, counter(2))
    check_equal(N(param), np.full(3, 0.25))


@pytest.mark.usefixtures("isa")
def test_gradient_tails_against_guard_pages() -> None:
    for n in range(1, 70):
        for end in (True, False):
            g = guarded((n,), "f4", end)
            g[...] = 1
            param = writable(np.ones(n, "f4"))
            _core.sgd_(param, T(g), [], T(np.array([1.0, 0, 0, 0, 0, 0])), counter(1))
            check_equal(N(param), np.zeros(n, "f4"))


def test_errors() -> None:
    p, hyper, step = writable(np.zeros(3, "f4")), T(np.zeros(6)), counter(1)
    with pytest.raises(ValueError, match=r"\[sgd\] grad has shape \(4,\), param has \(3,\)"):
        _core.sgd_(p, T(np.zeros(4, "f4")), [], hyper, step)
    with pytest.raises(TypeError, match=r"\[sgd\] a state is float64, param is float32"):
        _core.sgd_(p, p, [T(np.zeros(3))], hyper, step)
    with pytest.raises(ValueError, match=r"\[adam\] keeps 2 to 2 arrays, got 1"):
        _core.adam_(p, p, [p], T(np.zeros(7)), step)
    with pytest.raises(ValueError, match=r"\[rmsprop\] state 0 is missing"):
        _core.rmsprop_(p, p, [None, p], hyper, step)
    with pytest.raises(TypeError, match=r"\[adam\] hyper must hold 7 float64, has 6 of float64"):
        _core.adam_(p, p, [p, p], hyper, step)
    with pytest.raises(TypeError, match=r"\[sgd\] step must be one int64, is 1 of float64"):
        _core.sgd_(p, p, [], hyper, T(np.zeros(1)))
    with pytest.raises(ValueError, match=r"\[sgd\] param must be a flat segment, has shape \(1, 3\)"):
        _core.sgd_(p.reshape([1, 3]), p.reshape([1, 3]), [], hyper, step)
