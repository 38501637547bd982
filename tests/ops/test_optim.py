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
    data=st.data(), size=near(), dtype=dtypes, lr=rates, momentum=st.sampled_from((0.0, 0.9)), decay=rates,
    dampening=st.sampled_from((0.0, 0.5)), nesterov=st.booleans(), step=st.sampled_from((1, 2, 7)),
)  # fmt: skip
def test_sgd(
    data: Any, size: int, dtype: str, lr: float, momentum: float, decay: float, dampening: float, nesterov: bool,
    step: int,
) -> None:  # fmt: skip
    p, g, b = (data.draw(arrays((size,), dtype)) for _ in range(3))
    param, buffer = writable(p), writable(b)
    hyper = T(np.array([lr, momentum, decay, dampening, float(nesterov)]))
    _core.sgd_(param, T(g), buffer if momentum else None, hyper, counter(step))
    expected, expected_buffer = reference.sgd(p, g, b, step, lr, momentum, decay, dampening, nesterov)
    most = 1 + np.abs(p).astype("f8") + np.abs(g) + np.abs(b)
    check_step(N(param), expected, dtype, most)
    check_step(N(buffer), expected_buffer, dtype, most)


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(), size=near(), dtype=dtypes, lr=rates, decay=rates, decoupled=st.booleans(),
    step=st.sampled_from((1, 2, 1000, 10**9)),
)  # fmt: skip
def test_adam(data: Any, size: int, dtype: str, lr: float, decay: float, decoupled: bool, step: int) -> None:
    p, g, m, v = (data.draw(arrays((size,), dtype)) for _ in range(4))
    v = np.ascontiguousarray(v**2)
    param, first, second = writable(p), writable(m), writable(v)
    hyper = T(np.array([lr, 0.9, 0.999, 1e-8, decay, float(decoupled)]))
    _core.adam_(param, T(g), first, second, hyper, counter(step))
    new_p, new_m, new_v = reference.adam(p, g, m, v, step, lr, 0.9, 0.999, 1e-8, decay, decoupled)
    most = 1 + np.abs(p).astype("f8") + np.abs(g) + np.abs(m)
    check_step(N(first), new_m, dtype, most)
    check_step(N(second), new_v, dtype, most**2)
    # The update inherits the relative error of m, which its two terms may cancel, over the root of v.
    update = lr * most / (1 - 0.9**step) / (np.sqrt(new_v / (1 - 0.999**step)) + 1e-8)
    check_step(N(param), new_p, dtype, most + update)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "dampening": 0.1}),
        ("SGD", {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True}),
        ("Adam", {"lr": 0.01, "weight_decay": 0.1}),
        ("AdamW", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}),
    ],
)
def test_twenty_steps_follow_pytorch(name: str, options: dict[str, Any], dtype: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal(77).astype(dtype), rng.standard_normal((20, 77)).astype(dtype)
    theirs = torch.nn.Parameter(torch.tensor(start))
    optimizer = getattr(torch.optim, name)([theirs], **options)
    ours, step = writable(start), counter(0)
    state = [_core.full([77], 0.0, dtype) for _ in range(2)]
    beta1, beta2 = options.get("betas", (0.9, 0.999))
    if name == "SGD":
        values = [options.get(k, 0) for k in ("lr", "momentum", "weight_decay", "dampening", "nesterov")]
    else:
        values = [options["lr"], beta1, beta2, 1e-8, options["weight_decay"], name == "AdamW"]
    hyper = T(np.array(values, "f8"))
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
        _core.advance_step_(step)
        if name == "SGD":
            _core.sgd_(ours, T(gradient), state[0], hyper, step)
        else:
            _core.adam_(ours, T(gradient), *state, hyper, step)
    assert N(step)[0] == 20
    np.testing.assert_allclose(N(ours), theirs.detach().numpy(), rtol=0, atol=200 * np.finfo(dtype).eps)


@pytest.mark.usefixtures("isa", "threads")
def test_threads_and_versions() -> None:
    rng = np.random.default_rng(1)
    p, g, m, v = (rng.standard_normal(300_001).astype("f4") for _ in range(4))
    hyper, step = T(np.array([0.1, 0.9, 0.999, 1e-8, 0.0, 0.0])), counter(3)
    whole = [writable(a) for a in (p, m, np.abs(v))]
    version = whole[0].version
    _core.adam_(whole[0], T(g), whole[1], whole[2], hyper, step)
    assert whole[0].version > version
    for begin in (0, 5, 123_457):  # the same bits wherever an element lies
        part = [writable(a[begin : begin + 100]) for a in (p, m, np.abs(v))]
        _core.adam_(part[0], T(g[begin : begin + 100].copy()), part[1], part[2], hyper, step)
        for a, b in zip(part, whole, strict=True):
            check_equal(N(a), N(b)[begin : begin + 100])


def test_hyperparameters_are_read_at_run_time() -> None:
    param, grad, hyper = writable(np.ones(3)), T(np.ones(3)), writable(np.array([0.5, 0, 0, 0, 0.0]))
    _core.sgd_(param, grad, None, hyper, counter(1))
    _core.copy_into_(hyper, T(np.array([0.25, 0, 0, 0, 0.0])))
    _core.sgd_(param, grad, None, hyper, counter(2))
    check_equal(N(param), np.full(3, 0.25))


@pytest.mark.usefixtures("isa")
def test_gradient_tails_against_guard_pages() -> None:
    for n in range(1, 70):
        for end in (True, False):
            g = guarded((n,), "f4", end)
            g[...] = 1
            param = writable(np.ones(n, "f4"))
            _core.sgd_(param, T(g), None, T(np.array([1.0, 0, 0, 0, 0])), counter(1))
            check_equal(N(param), np.zeros(n, "f4"))


def test_errors() -> None:
    p, hyper, step = writable(np.zeros(3, "f4")), T(np.zeros(5)), counter(1)
    with pytest.raises(ValueError, match=r"\[sgd\] grad has shape \(4,\), param has \(3,\)"):
        _core.sgd_(p, T(np.zeros(4, "f4")), None, hyper, step)
    with pytest.raises(TypeError, match=r"\[sgd\] momentum is float64, param is float32"):
        _core.sgd_(p, p, T(np.zeros(3)), hyper, step)
    with pytest.raises(TypeError, match=r"\[adam\] hyper must hold 6 float64, has 5 of float64"):
        _core.adam_(p, p, p, p, hyper, step)
    with pytest.raises(TypeError, match=r"\[sgd\] step must be one int64, is 1 of float64"):
        _core.sgd_(p, p, None, hyper, T(np.zeros(1)))
    with pytest.raises(ValueError, match=r"\[sgd\] param must be a flat segment, has shape \(1, 3\)"):
        _core.sgd_(p.reshape([1, 3]), p.reshape([1, 3]), None, hyper, step)
