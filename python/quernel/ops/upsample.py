"""Resampling of images (N, H, W, C) and sequences (N, T, C) to another size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quernel import _core
from quernel.autograd import attach
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.op import Spec, op
from quernel.ops.shapes import check_floating, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

Pair = tuple[int, int]
MODES = ("nearest", "nearest-exact", "linear", "bilinear")
_LINEAR = {"linear": 3, "bilinear": 4}  # the rank that each is for


class _Resampling(NamedTuple):
    """What the kernel is told, sequences being images of height T and width 1."""

    mode: str
    size: Pair
    scale: tuple[float, float]  # input pixels per output pixel


def _per_axis(name: str, value: Any, axes: int, kinds: tuple[type, ...]) -> list[Any]:
    values = list(value) if isinstance(value, Sequence | np.ndarray) else [value] * axes
    if len(values) != axes or not all(isinstance(v, kinds) and not isinstance(v, bool) for v in values):
        what = "whole number" if int in kinds and float not in kinds else "number"
        one = "" if axes == 1 else " or two (height, width)"
        raise ArgumentError(f"[interpolate] {name} must be one {what}{one}, got {value!r}")
    return values


def _extents(shape: tuple[int, ...], size: Any, scale_factor: Any) -> tuple[list[int], list[float]]:
    """The size of each axis, and the steps that a given scale factor asks for (0: those of the sizes)."""
    axes = len(shape)
    if (size is None) == (scale_factor is None):
        raise ArgumentError("[interpolate] give either size or scale_factor")
    if size is not None:
        sizes = [int(n) for n in _per_axis("size", size, axes, (int, np.integer))]
        steps = [0.0] * axes
    else:
        factors = _per_axis("scale_factor", scale_factor, axes, (int, float, np.integer, np.floating))
        if not all(0 < f < math.inf for f in factors):
            raise ArgumentError(f"[interpolate] scale_factor must be positive, got {scale_factor!r}")
        sizes = [math.floor(n * f) for n, f in zip(shape, factors, strict=True)]
        steps = [1.0 / f for f in factors]
    if min(sizes) < 1 or min(shape) < 1:
        raise ShapeError(
            f"[interpolate] images have at least one pixel, got {' x '.join(map(str, shape))} "
            f"to become {' x '.join(map(str, sizes))}"
        )
    return sizes, steps


def _resampling(x: Spec, size: Any, scale_factor: Any, mode: str, align_corners: bool | None) -> _Resampling:
    rank = len(x.shape)
    if rank not in (3, 4):
        raise ShapeError(
            f"[interpolate] x must have 4 dimensions (N, H, W, C), or 3 (N, T, C), got shape {x.shape}"
        )
    if mode not in MODES:
        raise ArgumentError(f"[interpolate] mode is one of {', '.join(map(repr, MODES))}, got {mode!r}")
    linear = mode in _LINEAR
    if linear:
        check_floating("interpolate", "x", x.dtype)
    if linear and _LINEAR[mode] != rank:
        fitting = "linear" if rank == 3 else "bilinear"
        raise ArgumentError(f"[interpolate] x of shape {x.shape} needs mode '{fitting}', got '{mode}'")
    if align_corners is not None and not linear:
        raise ArgumentError(f"[interpolate] align_corners is for linear modes, got it with mode '{mode}'")
    shape = x.shape[1:-1]
    sizes, steps = _extents(shape, size, scale_factor)
    scales = []
    for have, out, step in zip(shape, sizes, steps, strict=True):
        if linear and align_corners:
            scales.append((have - 1) / (out - 1) if out > 1 else 0.0)
        elif mode == "nearest" and out in (
            have,
            2 * have,
        ):  # as PyTorch does: whole pixels, whatever the factor
            scales.append(have / out)
        else:
            scales.append(step or have / out)
    if rank == 3:
        sizes, scales = [*sizes, 1], [*scales, 1.0]
    native = ("linear-aligned" if align_corners else "linear") if linear else mode
    return _Resampling(native, (sizes[0], sizes[1]), (scales[0], scales[1]))


def _rule(
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Spec:
    spec = spec_of(x)
    how = _resampling(spec, size, scale_factor, mode, align_corners)
    return Spec((spec.shape[0], *how.size[: len(spec.shape) - 2], spec.shape[-1]), spec.dtype)


@op(shape=_rule)
def interpolate(
    x: TensorLike,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """Resamples images, or sequences, to another size; pixels lie where PyTorch puts them.

    With ``s`` input pixels per output pixel (``H / size``, or ``1 / scale_factor`` where that is given), output pixel
    ``i`` is "nearest" input pixel ``floor(i * s)``; "nearest-exact" pixel ``floor((i + 1/2) * s)``; "bilinear" (of
    sequences "linear") at ``(i + 1/2) * s - 1/2``, not before the first pixel, weighting the pixels around it; with
    ``align_corners`` at ``i * (H - 1) / (size - 1)``, so that corners stay corners.

    Args:
        x: (N, H, W, C) or (N, T, C); linear modes take floats, the others any dtype.
        size: (height, width) of the output, or one number for both.
        scale_factor: Instead of ``size``: the output is ``floor(H * scale_factor)`` high.
        mode: "nearest", "nearest-exact", "bilinear" for images, "linear" for sequences.
        align_corners: For linear modes; None means False.

    Raises:
        ShapeError: Another rank, or a side without pixels.
        ArgumentError: Both or neither of ``size`` and ``scale_factor``, or a mode that does not fit.

    Example:
        >>> qn.ops.interpolate(qn.tensor([[[1.0], [2.0]]]), scale_factor=2, mode="linear").tolist()
        [[[1.0], [1.25], [1.75], [2.0]]]
    """
    a = as_tensor(x)
    how = _resampling(spec_of(a), size, scale_factor, mode, align_corners)
    shape = a._t.shape
    image = shape if len(shape) == 4 else (*shape[:2], 1, shape[2])
    y = _core.upsample(a._t.reshape(image), *how)
    out = y.shape

    def backward(g: Tensor) -> tuple[Tensor]:
        return (Tensor(_core.upsample_grad(g._t.reshape(out), image, *how).reshape(shape)),)

    return attach(y if len(shape) == 4 else y.reshape((*out[:2], out[3])), (a,), backward)
