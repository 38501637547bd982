"""Resampling against its definition, its gradient as the adjoint, and both beside PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import _core, nn, ops
from quernel.errors import ArgumentError, DTypeError, ShapeError
from tests import reference
from tests.checks import N, T, check_contraction, check_equal
from tests.strategies import guarded, near

FLOATS = ("float32", "float64")
KERNEL_MODES = ("nearest", "nearest-exact", "linear", "linear-aligned")


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], tuple[int, int], tuple[float, float]]:
    """An image's shape, the size it gets, and scales: those of the sizes, or others near them."""
    shape = (draw(st.integers(0, 2)), draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(near(35, 0)))
    size = (draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    other = draw(st.sampled_from((1.0, 0.0, 0.93, 1.1)))
    return shape, size, (other * shape[1] / size[0], other * shape[2] / size[1])


def fill(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    x = guarded(shape, dtype, end=seed % 2 == 0)
    x[...] = np.random.default_rng(seed).integers(-9, 10, shape)
    return x


@pytest.mark.usefixtures("isa", "threads")
@settings(max_examples=12)
@example(
    case=((1, 2, 1, 2), (17, 1), (2 / 17, 1.0)), mode="linear", dtype="float32", seed=0
)  # a weight of 1/34
@given(
    case=cases(), mode=st.sampled_from(KERNEL_MODES), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99)
)
def test_values_and_gradients(case: Any, mode: str, dtype: str, seed: int) -> None:
    shape, size, scale = case
    x = fill(shape, dtype, seed)
    y = N(_core.upsample(T(x), mode, size, scale))
    want = reference.upsample(x, mode, size, scale)
    g = fill(want.shape, dtype, seed + 1)
    dx = N(_core.upsample_grad(T(g), shape, mode, size, scale))
    want_dx = reference.upsample_grad(g, shape, mode, size, scale)
    if mode.startswith("nearest"):
        check_equal(y, want.astype(dtype))
        check_equal(dx + 0, want_dx.astype(dtype) + 0)  # small integers: every order of summation is exact
        return
    # Four products; a weight is a product of two that were rounded once each.
    check_contraction(y, want, reference.upsample(np.abs(x), mode, size, scale), 8, dtype, alarm=False)
    bound = reference.upsample_grad(np.abs(g), shape, mode, size, scale)
    check_contraction(dx, want_dx, bound, size[0] * size[1] + 4, dtype, alarm=False)


@pytest.mark.usefixtures("isa")
@given(
    case=cases(), seed=st.integers(0, 99), dtype=st.sampled_from(("uint8", "int8", "int32", "int64", "bool"))
)
def test_nearest_copies_any_dtype(case: Any, seed: int, dtype: str) -> None:
    shape, size, scale = case
    x = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
    check_equal(
        N(_core.upsample(T(x), "nearest", size, scale)),
        reference.upsample(x, "nearest", size, scale).astype(dtype),
    )


TORCH_MODES = [("nearest", None), ("nearest-exact", None), ("bilinear", False), ("bilinear", True)]
factors = st.sampled_from((0.3, 0.5, 0.7, 1.0, 1.3, 2.0, 2.3, 3.0))


@given(
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(1, 13),
    factors,
    st.booleans(),
    st.sampled_from(TORCH_MODES),
)
def test_against_torch(h: int, w: int, size: int, factor: float, by_size: bool, mode: Any) -> None:
    torch = pytest.importorskip("torch")
    name, aligned = mode
    if not by_size and min(h, w) * factor < 1:
        return
    x = np.random.default_rng(h).standard_normal((2, h, w, 3))
    ours = qn.tensor(x, requires_grad=True)
    theirs = torch.tensor(x, requires_grad=True)
    how: dict[str, Any] = {"size": (size, size + 1)} if by_size else {"scale_factor": factor}
    y = ops.interpolate(ours, **how, mode=name, align_corners=aligned)
    z = torch.nn.functional.interpolate(
        theirs.permute(0, 3, 1, 2), **how, mode=name, align_corners=aligned
    ).permute(0, 2, 3, 1)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-12, atol=1e-12)
    g = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(g)
    z.backward(torch.tensor(g))
    assert ours.grad is not None
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("mode", "aligned"), [("nearest", None), ("linear", False), ("linear", True)])
def test_sequences_against_torch(mode: str, aligned: bool | None) -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 7, 5))
    for how in ({"size": 10}, {"size": 3}, {"scale_factor": 1.7}):
        want = torch.nn.functional.interpolate(
            torch.tensor(x).permute(0, 2, 1), **how, mode=mode, align_corners=aligned
        )
        y = ops.interpolate(x, **how, mode=mode, align_corners=aligned)
        np.testing.assert_allclose(y.numpy(), want.permute(0, 2, 1).numpy(), rtol=1e-12, atol=1e-12)


def test_in_a_plan_and_as_a_layer() -> None:
    layer = nn.Upsample(scale_factor=(2, 1.5), mode="bilinear")
    assert repr(layer) == "Upsample(scale_factor=(2, 1.5), mode='bilinear')"
    assert (
        repr(nn.Upsample(3, align_corners=True, mode="linear"))
        == "Upsample(size=3, mode='linear', align_corners=True)"
    )
    w = qn.tensor(np.ones((2, 4, 6, 3), np.float32), requires_grad=True)

    @qn.jit
    def step(x: qn.Tensor) -> qn.Tensor:
        y = layer(x * w)
        w.grad = None
        (y * y).sum().backward()
        return y

    for seed in range(4):
        x = np.random.default_rng(seed).standard_normal((2, 4, 6, 3), dtype=np.float32)
        y = step(x)
        eager = qn.tensor(x, requires_grad=True)
        z = layer(eager)
        (z * z).sum().backward()
        check_equal(y.numpy(), z.detach().numpy())
        assert w.grad is not None and eager.grad is not None
        check_equal(w.grad.numpy(), eager.grad.numpy() * x)


def test_specials_arrive() -> None:
    x = np.zeros((1, 2, 2, 1), np.float32)
    x[0, 0, 0, 0] = np.nan
    y = ops.interpolate(x, scale_factor=2, mode="bilinear").numpy()[0, :, :, 0]
    assert np.isnan(y[:3, :3]).all() and (y[3] == 0).all() and (y[:, 3] == 0).all()
    x[0, 0, 0, 0] = np.inf
    assert np.isinf(ops.interpolate(x, scale_factor=2).numpy()[0, :2, :2, 0]).all()


X = np.zeros((1, 4, 4, 2), np.float32)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((X,), ArgumentError, "give either size or scale_factor"),
        ((X, 3, 2.0), ArgumentError, "give either size or scale_factor"),
        ((X[0, 0], 3), ShapeError, r"must have 4 dimensions \(N, H, W, C\), or 3"),
        ((X, (3, 3, 3)), ArgumentError, r"one whole number or two \(height, width\), got \(3, 3, 3\)"),
        ((X, 2.5), ArgumentError, "size must be one whole number .* got 2.5"),
        ((X, None, -1), ArgumentError, "scale_factor must be positive, got -1"),
        ((X, None, 0.1), ShapeError, "at least one pixel, got 4 x 4 to become 0 x 0"),
        ((X, 0), ShapeError, "at least one pixel, got 4 x 4 to become 0 x 0"),
        ((X, 3, None, "bicubic"), ArgumentError, "mode is one of 'nearest', .* got 'bicubic'"),
        ((X, 3, None, "linear"), ArgumentError, r"needs mode 'bilinear', got 'linear'"),
        ((X, 3, None, "nearest", False), ArgumentError, "align_corners is for linear modes"),
        ((X.astype("i4"), 3, None, "bilinear"), DTypeError, "x must be floating, got int32"),
    ],
)  # fmt: skip
def test_errors(args: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=rf"^\[interpolate\].*{message}"):
        ops.interpolate(*args)
