"""How tests compare numbers. No magic tolerances: each limit is a theorem, or a measured constant with its reason.

A contraction (GEMM, conv, int8, reductions and their gradients) gets three checks:

A. `check_exact` on small integers: every order of summation is exact there, so equality is demanded. Sees 98 % and more of
   the elements that lost or doubled one product.
B. `|C - C64| <= gamma_n |A||B|` with `gamma_n = nu / (1 - nu)`: Higham's bound for any order of summation. Never raises a
   false alarm; blind to one lost product at large K.
C. `|C - C64| <= 6 sqrt(K) u |A||B|`: an alarm. Correct code peaks at 0.98 sqrt(K) u; operands rounded to bf16 exceed it.

Elementwise functions are measured in ulp of the float64 answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def T(a: npt.ArrayLike) -> Any:
    """A native tensor that borrows the C-contiguous array."""
    from quernel import _core

    return _core.from_numpy(np.asarray(a), copy=False)


def N(t: Any) -> Array:
    """The NumPy view of a native tensor."""
    return np.asarray(t.numpy())


def unit_roundoff(dtype: npt.DTypeLike) -> float:
    return float(np.finfo(np.dtype(dtype)).eps) / 2


def smallest(dtype: npt.DTypeLike) -> float:
    return float(np.finfo(np.dtype(dtype)).smallest_subnormal)


def check_same_type(actual: Array, expected: Array, dtype: npt.DTypeLike) -> None:
    assert actual.dtype == np.dtype(dtype), f"dtype {actual.dtype}, expected {np.dtype(dtype)}"
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"


def check_equal(actual: npt.ArrayLike, expected: npt.ArrayLike) -> None:
    """Bit for bit: dtype, shape and every byte, so that -0.0 differs from 0.0 and a NaN equals itself."""
    a, e = np.ascontiguousarray(actual), np.ascontiguousarray(expected)
    check_same_type(a, e, e.dtype)
    if a.tobytes() != e.tobytes():
        bad = np.argwhere(
            a.reshape(-1).view((np.void, a.itemsize)) != e.reshape(-1).view((np.void, e.itemsize))
        )[:, 0]
        i = int(bad[0])
        raise AssertionError(
            f"{bad.size} of {a.size} elements differ, first at {np.unravel_index(i, a.shape)}: "
            f"{a.flat[i]!r}, expected {e.flat[i]!r}"
        )


def check_exact(actual: npt.ArrayLike, expected: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> None:
    """Check A: values equal, though computed in another dtype. Distrusts expectations that are nearly all zeros."""
    a, e = np.asarray(actual), np.asarray(expected)
    check_same_type(a, e, dtype or a.dtype)
    wrong = a.astype(e.dtype) != e
    if wrong.any():
        i = tuple(int(n) for n in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{wrong.sum()} of {a.size} elements differ, first at {i}: {a[i]!r}, expected {e[i]!r}"
        )


def check_contraction(
    actual: npt.ArrayLike,
    expected: npt.ArrayLike,
    magnitude: npt.ArrayLike,
    terms: int,
    dtype: npt.DTypeLike = np.float32,
    alarm: bool = True,
) -> None:
    """Checks B and C, and that infinities and NaN arrive.

    Args:
        actual: the result under test, of `dtype`.
        expected: the float64 answer for the inputs as rounded to `dtype`.
        magnitude: the same contraction of absolute values, |A||B| (+ |bias| + |residual|).
        terms: K plus the number of further addends (bias, residual).
        dtype: of the result.
        alarm: whether check C applies (not after an operation that is no plain sum).
    """
    a, e, size = np.asarray(actual), np.asarray(expected, np.float64), np.asarray(magnitude, np.float64)
    check_same_type(a, e, dtype)
    u, tiny, n = unit_roundoff(dtype), smallest(dtype), terms + 1
    with np.errstate(over="ignore", invalid="ignore"):
        plain = size < float(np.finfo(np.dtype(dtype)).max)
        assert np.isfinite(a[plain]).all(), "a finite contraction gave NaN or infinity"
        lost = ~np.isfinite(e) & np.isfinite(a)
        assert not lost.any(), f"NaN or infinity lost at {np.argwhere(lost)[0]}"
        error = np.abs(a.astype(np.float64)[plain] - e[plain])
        limits = {"bound": n * u / (1 - n * u) * size[plain]}
        if alarm:
            limits["alarm"] = 6 * math.sqrt(n) * u * size[plain]
    for name, limit in limits.items():
        excess = error > limit + n * tiny
        if excess.any():
            worst = int(np.argmax(error - limit))
            raise AssertionError(
                f"{name}: error {error[worst]:.3e} exceeds {limit[worst]:.3e} ({terms} terms, "
                f"{excess.sum()} of {a.size} elements): {a[plain][worst]!r}, expected {e[plain][worst]!r}"
            )


def ulp_error(actual: npt.ArrayLike, expected: npt.ArrayLike) -> Array:
    """|actual - expected| in units of the last place that actual's dtype has at `expected` (float64, unrounded).

    Equal infinities and two NaN count 0, a NaN or infinity on one side counts infinity; a result that overflowed is
    measured as if the format went on.
    """
    a, e = np.asarray(actual), np.asarray(expected, np.float64)
    info = np.finfo(a.dtype)
    wide = a.astype(np.float64)
    exponent = np.clip(np.frexp(e)[1] - 1, info.minexp, None)
    ulp = np.ldexp(1.0, exponent - info.nmant)
    with np.errstate(over="ignore", invalid="ignore"):
        if a.dtype != np.float64:  # the rounding of `expected` itself may be infinite
            over = np.isinf(wide) & np.isfinite(e)
            limit = 2.0 ** float(info.maxexp)
            wide, e = (
                np.where(over, np.copysign(limit, wide), wide),
                np.where(over, np.clip(e, -limit, limit), e),
            )
        error = np.abs(wide - e) / ulp
        same = (np.isnan(wide) & np.isnan(e)) | (wide == e)
        return np.where(same, 0.0, np.where(np.isfinite(wide) & np.isfinite(e), error, np.inf))


def check_ulp(
    actual: npt.ArrayLike, expected: npt.ArrayLike, limit: float, dtype: npt.DTypeLike = np.float32
) -> None:
    """Every element within `limit` ulp of the float64 answer."""
    a, e = np.asarray(actual), np.asarray(expected, np.float64)
    check_same_type(a, e, dtype)
    error = ulp_error(a, e)
    if not (error <= limit).all():
        i = np.unravel_index(int(np.argmax(error)), a.shape)
        raise AssertionError(f"{error[i]:.2f} ulp (limit {limit}) at {i}: {a[i]!r}, expected {e[i]!r}")


def check_adjoint(
    forward: Callable[[Array], Array], adjoint: Callable[[Array], Array], x: Array, y: Array
) -> None:
    """<A x, y> == <x, A^T y> exactly: x and y hold integers so small that all sums are exact in float64."""
    left = float(np.vdot(np.asarray(forward(x), np.float64), np.asarray(y, np.float64)))
    right = float(np.vdot(np.asarray(x, np.float64), np.asarray(adjoint(y), np.float64)))
    assert left == right, f"<Ax, y> = {left!r}, <x, A^T y> = {right!r}"


def gradcheck(
    fn: Callable[..., Any], *inputs: Array, directions: int = 3, eps: float = 1e-6, rtol: float = 1e-5
) -> None:
    """Reverse-mode gradients of `fn` (quernel tensors in and out) against float64 central differences.

    `fn` is projected on random weights, and each input's gradient on random directions: the derivative along a direction is
    one number, (f(x + eps v) - f(x - eps v)) / 2 eps. Its truncation error is O(eps^2 f''') and its rounding error
    O(u |f| / eps), about 1e-10 of |f|; `rtol` is relative to the sum of absolute terms. Keep inputs off kinks.
    """
    import quernel as qn

    rng = np.random.default_rng(0)
    tensors = [qn.tensor(np.asarray(a, np.float64), requires_grad=True) for a in inputs]
    out = fn(*tensors)
    weights = np.asarray(rng.standard_normal(out.shape))
    (out * qn.tensor(weights)).sum().backward()

    def project(arrays: list[Array]) -> tuple[float, float]:
        value = np.asarray(fn(*[qn.tensor(a) for a in arrays]).numpy())
        return float((value * weights).sum()), float(np.abs(value * weights).sum())

    for which, array in enumerate(inputs):
        grad = tensors[which].grad
        assert grad is not None, f"input {which} got no gradient"
        grad = np.asarray(grad.numpy())
        assert grad.shape == array.shape and grad.dtype == np.float64
        for _ in range(directions):
            v = np.asarray(rng.standard_normal(array.shape))
            ends = []
            for sign in (eps, -eps):
                moved = [np.asarray(a, np.float64) for a in inputs]
                moved[which] = moved[which] + sign * v
                ends.append(project(moved))
            numeric = (ends[0][0] - ends[1][0]) / (2 * eps)
            analytic = float((grad * v).sum())
            scale = float(np.abs(grad * v).sum()) + ends[0][1]
            assert abs(numeric - analytic) <= rtol * scale + 1e-12, (
                f"input {which}: numeric {numeric!r}, analytic {analytic!r}, scale {scale:.3e}"
            )
