"""Padding: a tensor with a border around it.

The border of every mode but the constant one repeats elements of the tensor, one dimension after the other, so that the
corners repeat what the dimensions before have put there, as in NumPy. It is a few strided copies of its own size, and
its gradient adds them back in the opposite order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from quernel import _core
from quernel.autograd import attach
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.op import Spec, op
from quernel.ops.shapes import spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

PadMode = Literal["constant", "reflect", "replicate", "circular"]
MODES: tuple[PadMode, ...] = ("constant", "reflect", "replicate", "circular")
_NUMPY_NAMES: dict[str, PadMode] = {"edge": "replicate", "wrap": "circular"}


class _Border(NamedTuple):
    """`size` elements along an axis, from `start` on, that repeat those at `source`, `source + step`, …"""

    axis: int
    start: int
    size: int
    source: int
    step: int


def _mode(mode: object) -> PadMode:
    for known in MODES:
        if mode == known:
            return known
    if isinstance(mode, str) and mode in _NUMPY_NAMES:
        return _NUMPY_NAMES[mode]
    hint = "" if isinstance(mode, str) else f"; for a number write value={mode}"
    raise ArgumentError(f"[pad] mode is one of {', '.join(map(repr, MODES))}, got {mode!r}{hint}")


def _rule(x: Any, padding: Sequence[Sequence[int]], mode: str = "constant", value: float = 0.0) -> Spec:  # noqa: ARG001
    spec = spec_of(x)
    given: Any = padding
    if not (np.iterable(given) and all(map(np.iterable, given))):
        raise ArgumentError(
            f"[pad] padding is a list of (before, after), one for each dimension, as in NumPy, got {padding}; "
            f"PyTorch's (1, 2), which pads the last one, is {[(0, 0)] * (len(spec.shape) - 1) + [(1, 2)]} here"
        )
    if [len(p) for p in padding] != [2] * len(spec.shape) or any(min(p) < 0 for p in padding):
        raise ArgumentError(
            f"[pad] padding must give (before, after) >= 0 for each of the dimensions of {spec.shape}, got {padding}"
        )
    _check_source(spec.shape, padding, _mode(mode))
    return Spec(tuple(n + lo + hi for n, (lo, hi) in zip(spec.shape, padding, strict=True)), spec.dtype)


def _check_source(shape: tuple[int, ...], padding: Sequence[Sequence[int]], mode: PadMode) -> None:
    """Raises where the border would need more elements than there are."""
    if mode == "constant":
        return
    for axis, (n, widths) in enumerate(zip(shape, padding, strict=True)):
        widest = max(widths)
        if widest and not n:
            raise ShapeError(
                f"[pad] mode '{mode}' repeats elements, but dimension {axis} of {shape} is empty; use mode='constant'"
            )
        most = {"reflect": n - 1, "circular": n, "replicate": widest}[mode]
        if widest and widest > most:
            raise ShapeError(
                f"[pad] mode '{mode}' pads at most {most} elements in dimension {axis} of size {n}, got "
                f"{tuple(widths)} (x: {shape}); pad less, or use mode='replicate'"
            )


def _borders(shape: Sequence[int], widths: Sequence[tuple[int, int]], mode: PadMode) -> Iterator[_Border]:
    """The borders in the order in which they are filled. Positions count in the padded tensor."""
    for axis, (n, (lo, hi)) in enumerate(zip(shape, widths, strict=True)):
        first, end = lo, lo + n  # where x is
        before, after, step = {
            "reflect": (first + lo, end - 2, -1),
            "replicate": (first, end - 1, 0),
            "circular": (end - lo, first, 1),
        }[mode]
        if lo:
            yield _Border(axis, 0, lo, before, step)
        if hi:
            yield _Border(axis, end, hi, after, step)


def _part(
    shape: Sequence[int], axis: int, start: int, step: int, size: int
) -> tuple[list[int], list[int], list[int]]:
    """Starts, steps and sizes of the part of a tensor with these elements along an axis and all along the others."""
    starts, steps, sizes = [0] * len(shape), [1] * len(shape), list(shape)
    starts[axis], steps[axis], sizes[axis] = start, step, size
    return starts, steps, sizes


def _repeat_borders(y: _core.Tensor, borders: Sequence[_Border]) -> None:
    for b in borders:
        taken = _core.slice(y, *_part(y.shape, b.axis, b.source, b.step, b.size))
        _core.assign_slice_(y, *_part(y.shape, b.axis, b.start, 1, b.size), taken)


def _add_borders_back(g: _core.Tensor, borders: Sequence[_Border]) -> None:
    """The adjoint of `_repeat_borders`, but that the borders keep their values: nobody reads them any more."""
    for b in reversed(borders):
        if b.step < 0:  # in the order of the elements they are added to
            share = _core.slice(g, *_part(g.shape, b.axis, b.start + b.size - 1, -1, b.size))
            place = _part(g.shape, b.axis, b.source - b.size + 1, 1, b.size)
        else:
            share = _core.slice(g, *_part(g.shape, b.axis, b.start, 1, b.size))
            place = _part(g.shape, b.axis, b.source, 1, b.size if b.step else 1)
            if not b.step:
                share = _core.sum(share, [b.axis]).reshape(place[2])
        _core.assign_slice_(g, *place, _core.add(_core.slice(g, *place), share))


@op(shape=_rule)
def pad(
    x: TensorLike, padding: Sequence[Sequence[int]], mode: str = "constant", value: float = 0.0
) -> Tensor:
    """Surrounds ``x`` with a constant, or with elements of its own.

    Args:
        x: Any tensor.
        padding: (before, after) for each dimension, as in NumPy.
        mode: What the border holds, for a row ``a b c d`` padded by 2: "constant" the `value`; "reflect"
            ``c b | a b c d | c b``, the mirror image without the edge; "replicate" (NumPy's "edge")
            ``a a | a b c d | d d``; "circular" (NumPy's "wrap") ``c d | a b c d | a b``.
        value: What mode "constant" pads with.

    Raises:
        ArgumentError: ``padding`` does not fit the dimensions, or an unknown mode.
        ShapeError: "reflect" wider than the dimension less one, "circular" wider than the dimension, or a border of
            elements around nothing.

    Example:
        >>> qn.ops.pad(qn.ones((1, 2)), [(0, 0), (1, 2)])
        tensor([[0., 1., 1., 0., 0.]], dtype=float32)
        >>> qn.ops.pad(qn.tensor([1, 2, 3]), [(2, 1)], mode="reflect").tolist()
        [3, 2, 1, 2, 3, 2]
    """
    a = as_tensor(x)
    _rule(a, padding, mode, value)
    widths = [(int(lo), int(hi)) for lo, hi in padding]
    before = a._t.shape
    starts, steps = [lo for lo, _ in widths], [1] * len(widths)
    kind = _mode(mode)
    out = _core.pad(a._t, widths, value)
    if kind == "constant":
        return attach(out, (a,), lambda g: (Tensor(_core.slice(g._t, starts, steps, before)),))
    borders = list(_borders(before, widths, kind))
    _repeat_borders(out, borders)

    def backward(g: Tensor) -> tuple[Tensor]:
        total = _core.copy(g._t)
        _add_borders_back(total, borders)
        return (Tensor(_core.slice(total, starts, steps, before)),)

    return attach(out, (a,), backward)
