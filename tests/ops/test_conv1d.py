"""conv1d, and what string paddings of conv1d and conv2d stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import ops
from quernel.errors import ArgumentError, ShapeError
from tests import reference
from tests.checks import check_equal, check_exact, gradcheck
from tests.strategies import seeds


@st.composite
def sequences(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Integers x (N, T, C), weight (O, K, C / groups) and options, of outputs with at least one step."""
    groups = draw(st.sampled_from([1, 1, 2, 24]))
    inputs, outputs = groups * draw(st.sampled_from([1, 3])), groups * draw(st.sampled_from([1, 2]))
    k, d, p = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(0, 3))
    t = draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), d * (k - 1) + 20))
    rng = np.random.default_rng(draw(seeds))
    x = rng.integers(-5, 6, (draw(st.integers(0, 3)), t, inputs)).astype("f4")
    w = rng.integers(-5, 6, (outputs, k, inputs // groups)).astype("f4")
    return x, w, {"stride": draw(st.integers(1, 3)), "padding": p, "dilation": d, "groups": groups}


def by_definition(
    x: np.ndarray, w: np.ndarray, stride: int, padding: int, dilation: int, groups: int
) -> np.ndarray:
    return reference.conv2d(
        x[:, None],
        w[:, None],
        stride=(1, stride),
        padding=(0, padding),
        dilation=(1, dilation),
        groups=groups,
    )[:, 0]


@pytest.mark.usefixtures("isa", "threads")
@given(sequences())
def test_integers_convolve_exactly(case: tuple[np.ndarray, np.ndarray, dict[str, Any]]) -> None:
    x, w, o = case
    check_exact(ops.conv1d(x, w, **o).numpy(), by_definition(x, w, **o), "float32")


@settings(max_examples=12)
@given(sequences(), st.booleans(), st.sampled_from(("gelu", "relu", None)), seeds)
def test_torch_agrees(case: Any, bias: bool, activation: str | None, seed: int) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, w, o = (case[0].astype("f8"), case[1].astype("f8"), case[2])
    rng = np.random.default_rng(seed)
    b = rng.standard_normal(len(w)) if bias else None
    ours = [None if a is None else qn.tensor(a, requires_grad=True) for a in (x, w, b)]
    theirs = [None if a is None else torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    y = ops.conv1d(*ours, **o, activation=activation)
    z = functional.conv1d(theirs[0].transpose(1, 2), theirs[1].transpose(1, 2), theirs[2], **o).transpose(
        1, 2
    )
    z = z if activation is None else getattr(functional, activation)(z)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), atol=1e-10)
    g = rng.standard_normal(y.shape)
    y.backward(g)
    z.backward(torch.tensor(g))
    for a, t in zip(ours, theirs, strict=True):
        if a is not None:
            assert a.grad is not None
            np.testing.assert_allclose(a.grad.numpy(), t.grad.numpy(), atol=1e-9)


def test_gradients() -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 9, 4)), rng.standard_normal((6, 3, 2)), rng.standard_normal(6)
    residual = rng.standard_normal((2, 5, 6))
    gradcheck(lambda x, w, b, r: ops.conv1d(x, w, b, 2, 1, 1, 2, "gelu", r), x, w, b, residual)
    gradcheck(lambda x, w: ops.conv1d(x, w, padding="causal", dilation=2, groups=2, activation="tanh"), x, w)


def keras_same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's rule: ceil(size / stride) results, and the odd cell behind."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    *[st.tuples(st.integers(1, 4), st.integers(1, 4))] * 2,
    seeds,
)
def test_same_is_that_of_keras(size: Any, kernel: Any, stride: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dilation = (1, 1) if max(stride) > 1 else (1, 2)  # Keras refuses the rest
    x = rng.integers(-5, 6, (2, *size, 3)).astype("f4")
    w = rng.integers(-5, 6, (4, *kernel, 3)).astype("f4")
    pads = [keras_same(*axis) for axis in zip(size, kernel, stride, dilation, strict=True)]
    wide = np.pad(x, [(0, 0), *pads, (0, 0)])
    y = ops.conv2d(x, w, stride=stride, padding="same", dilation=dilation).numpy()
    check_exact(y, reference.conv2d(wide, w, stride=stride, dilation=dilation), "float32")
    assert y.shape[1:3] == tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
    gradients = []
    for image, padding in ((x, "same"), (wide, "valid")):
        a, b = qn.tensor(image, requires_grad=True), qn.tensor(w, requires_grad=True)
        (ops.conv2d(a, b, stride=stride, padding=padding, dilation=dilation) * y).sum().backward()
        assert a.grad is not None
        assert b.grad is not None
        gradients.append((a.grad.numpy(), b.grad.numpy()))
    (top, _), (left, _) = pads
    inner = gradients[1][0][:, top : top + size[0], left : left + size[1]]
    check_exact(gradients[0][0], inner, "float32")
    check_exact(gradients[0][1], gradients[1][1], "float32")


def test_causal_sees_nothing_of_what_comes() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 12, 3)).astype("f4"), rng.standard_normal((5, 4, 3)).astype("f4")
    y = ops.conv1d(x, w, padding="causal", dilation=2).numpy()
    assert y.shape == (1, 12, 5)
    later = x.copy()
    later[:, 7:] = np.nan
    check_equal(ops.conv1d(later, w, padding="causal", dilation=2).numpy()[:, :7], y[:, :7])
    check_equal(ops.conv1d(x, w, padding="causal", dilation=2, stride=3).numpy(), y[:, ::3])


def test_a_plan_replays_it() -> None:
    w = qn.tensor(np.random.default_rng(0).standard_normal((6, 3, 4)).astype("f4"), requires_grad=True)

    def step(x: Any) -> Any:
        y = ops.relu(ops.conv1d(x, w, padding="same"))
        w.grad = None
        (y * y).sum().backward()
        return y, w.grad

    plan = qn.jit(step)
    for seed in range(4):
        x = np.random.default_rng(seed).standard_normal((2, 9, 4)).astype("f4")
        for ours, theirs in zip(plan(x), step(x), strict=True):
            check_equal(ours.numpy(), theirs.numpy())


X, W = np.zeros((2, 9, 4), "f4"), np.zeros((6, 3, 4), "f4")


@pytest.mark.parametrize(
    ("error", "change", "message"),
    [
        (ShapeError, {"x": X[0]}, r"x must have 3 dimensions \(N, T, C\), got shape \(9, 4\)"),
        (ShapeError, {"weight": W[0]}, r"weight must have 3 dimensions \(O, K, I / groups\)"),
        (ShapeError, {"x": X[..., :3]}, r"weight expects 4 input channels, x has 3 \(x: \(2, 9, 3\), NTC\)"),
        (ShapeError, {"x": X[:, :2]}, r"the kernel spans 3, the padded sequence is only 2"),
        (ArgumentError, {"groups": 4}, r"groups must divide the 6 output channels, got 4"),
        (ArgumentError, {"stride": (1, 1)}, r"stride must be one whole number, got \(1, 1\)"),
        (ArgumentError, {"stride": 0}, r"stride must be at least 1, got"),
        (
            ArgumentError,
            {"padding": "full"},
            r"padding must be a size, 'same', 'valid' or 'causal', got 'full'",
        ),
        (ShapeError, {"bias": np.zeros(4, "f4")}, r"bias must have shape \(6,\)"),
    ],
)
def test_what_does_not_fit_is_named(error: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(error, match=r"\[conv1d\] " + message):
        ops.conv1d(**{"x": X, "weight": W, **change})


def test_images_have_no_causal_padding() -> None:
    with pytest.raises(
        ArgumentError, match=r"\[conv2d\] padding must be a size, 'same' or 'valid', got 'causal'"
    ):
        ops.conv2d(np.zeros((1, 5, 5, 1), "f4"), np.zeros((1, 3, 3, 1), "f4"), padding="causal")


def test_zero_sizes() -> None:
    assert ops.conv1d(X[:0], W).shape == (0, 7, 6)
    check_equal(ops.conv1d(X[..., :0], W[..., :0], np.ones(6, "f4")).numpy(), np.ones((2, 7, 6), "f4"))
