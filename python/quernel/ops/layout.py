"""Ops that move elements: reshaping, transposing, joining.

Reshaping shares memory; everything else copies, because tensors are contiguous.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, attach, needs_grad, put_on_tape
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import promote_types
from quernel.ops.op import Spec, numpy_names, op
from quernel.ops.operands import cast, unbroadcast
from quernel.ops.shapes import normalize_axes, normalize_axis, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

Shape = tuple[int, ...]


def _full_shape(have: Shape, wanted: int | Sequence[int]) -> Shape:
    """The wanted sizes with -1 worked out."""
    sizes = [wanted] if isinstance(wanted, int) else [operator.index(n) for n in wanted]
    volume = math.prod(have)
    if sizes.count(-1) == 1:
        known = math.prod(n for n in sizes if n != -1)
        if known > 0 and volume % known == 0:
            sizes[sizes.index(-1)] = volume // known
    if any(n < 0 for n in sizes) or math.prod(sizes) != volume:
        raise ShapeError(f"[reshape] {volume} elements of shape {have} do not fit shape {wanted}")
    return tuple(sizes)


def _reshape_rule(x: Any, shape: int | Sequence[int]) -> Spec:
    spec = spec_of(x)
    return Spec(_full_shape(spec.shape, shape), spec.dtype)


@op(shape=_reshape_rule)
def reshape(x: TensorLike, shape: int | Sequence[int]) -> Tensor:
    """Returns the elements under another shape, sharing memory; one size may be -1, to be worked out.

    Example:
        >>> qn.ops.reshape(qn.zeros((2, 3, 4)), (2, -1)).shape
        (2, 12)
    """
    return _reshaped(as_tensor(x), shape)


def _reshaped(a: Tensor, shape: int | Sequence[int]) -> Tensor:
    before = a._t.shape
    out = a._t.reshape(_full_shape(before, shape))
    return attach(out, (a,), lambda g: (Tensor(g._t.reshape(before)),))


def _flat_shape(shape: Shape, start_dim: int, end_dim: int) -> Shape:
    rank = max(len(shape), 1)
    shape = shape or (1,)
    first, last = normalize_axis("flatten", start_dim, rank), normalize_axis("flatten", end_dim, rank)
    if first > last:
        raise ShapeError(f"[flatten] start_dim {start_dim} lies behind end_dim {end_dim} of shape {shape}")
    return (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


def _flatten_rule(x: Any, start_dim: int = 0, end_dim: int = -1) -> Spec:
    spec = spec_of(x)
    return Spec(_flat_shape(spec.shape, start_dim, end_dim), spec.dtype)


@op(shape=_flatten_rule)
def flatten(x: TensorLike, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Merges the dimensions from ``start_dim`` to ``end_dim`` into one, sharing memory."""
    a = as_tensor(x)
    return _reshaped(a, _flat_shape(a._t.shape, start_dim, end_dim))


def unsqueeze(x: TensorLike, dim: int) -> Tensor:
    """Puts a dimension of size 1 before dimension ``dim``, sharing memory; -1 puts it last."""
    a = as_tensor(x)
    at = normalize_axis("unsqueeze", dim, a.ndim + 1)
    return reshape(a, (*a.shape[:at], 1, *a.shape[at:]))


@numpy_names
def squeeze(x: TensorLike, dim: int | Sequence[int] | None = None) -> Tensor:
    """Takes out the dimensions of size 1, sharing memory: all, or those of the given ones that have this size."""
    a = as_tensor(x)
    dims = normalize_axes("squeeze", dim, a.ndim)
    return reshape(a, tuple(n for i, n in enumerate(a.shape) if n != 1 or i not in dims))


def _permutation(rank: int, dims: Sequence[int]) -> Shape:
    if not isinstance(dims, Sequence):
        raise ArgumentError(f"[permute] dims must name each of the {rank} dimensions once, got {dims}")
    order = tuple(normalize_axis("permute", dim, rank) for dim in dims)
    if sorted(order) != list(range(rank)):
        raise ShapeError(f"[permute] dims {tuple(dims)} must name each of the {rank} dimensions once")
    return order


def _permute_rule(x: Any, dims: Sequence[int]) -> Spec:
    spec = spec_of(x)
    return Spec(tuple(spec.shape[i] for i in _permutation(len(spec.shape), dims)), spec.dtype)


@op(shape=_permute_rule)
def permute(x: TensorLike, dims: Sequence[int]) -> Tensor:
    """Returns a copy whose dimension ``i`` is dimension ``dims[i]`` of ``x``.

    Example:
        >>> qn.ops.permute(qn.zeros((8, 3, 28, 30)), (0, 2, 3, 1)).shape
        (8, 28, 30, 3)
    """
    a = as_tensor(x)
    order = _permutation(a.ndim, dims)
    back = tuple(order.index(i) for i in range(len(order)))
    return attach(_core.transpose(a._t, order), (a,), lambda g: (Tensor(_core.transpose(g._t, back)),))


def transpose(x: TensorLike, dim0: int, dim1: int) -> Tensor:
    """Returns a copy with two dimensions swapped, as in PyTorch; `permute` reorders them all.

    Example:
        >>> qn.ops.transpose(qn.zeros((2, 3, 4)), 0, -1).shape
        (4, 3, 2)
    """
    a = as_tensor(x)
    rank = max(a.ndim, 1)
    if isinstance(dim0, Sequence) or isinstance(dim1, Sequence):
        raise ArgumentError(
            f"[transpose] swaps two dimensions, got {dim0!r} and {dim1!r}; use permute() for more"
        )
    order = list(range(rank))
    i, j = normalize_axis("transpose", dim0, rank), normalize_axis("transpose", dim1, rank)
    order[i], order[j] = order[j], order[i]
    return permute(a, tuple(order[: a.ndim]))


def _concat_rule(tensors: Sequence[Any], dim: int = 0) -> Spec:
    if not tensors:
        raise ArgumentError("[concat] there is nothing to join")
    specs = [spec_of(t) for t in tensors]
    first = specs[0].shape
    at = normalize_axis("concat", dim, len(first))
    dtype = specs[0].dtype
    for i, spec in enumerate(specs):
        if len(spec.shape) != len(first) or any(
            m != n for k, (m, n) in enumerate(zip(spec.shape, first, strict=True)) if k != at
        ):
            raise ShapeError(
                f"[concat] tensor {i} has shape {spec.shape}, the first {first}; only dim {at} may differ"
            )
        dtype = promote_types(dtype, spec.dtype)
    if not first:
        raise ShapeError("[concat] tensors without dimensions cannot be joined; reshape them to (1,)")
    return Spec((*first[:at], sum(s.shape[at] for s in specs), *first[at + 1 :]), dtype)


@op(shape=_concat_rule)
def concat(tensors: Sequence[TensorLike], dim: int = 0) -> Tensor:
    """Joins tensors along an existing dimension; their other sizes must agree."""
    inputs = [as_tensor(t) for t in tensors]
    spec = _concat_rule(inputs, dim)
    inputs = [cast(t, spec.dtype) for t in inputs]
    at = normalize_axis("concat", dim, len(spec.shape))
    out = _core.concat([t._t for t in inputs], at)
    if not needs_grad(*inputs):
        return Tensor(out)
    shapes = [t._t.shape for t in inputs]
    wanted = [bool(t._requires_grad) for t in inputs]

    def backward(g: Tensor) -> Gradients:
        gradients: list[Tensor | None] = []
        begin = 0
        for shape, want in zip(shapes, wanted, strict=True):
            starts = [begin if k == at else 0 for k in range(len(shape))]
            part = Tensor(_core.slice(g._t, starts, [1] * len(shape), shape)) if want else None
            gradients.append(part)
            begin += shape[at]
        return gradients

    return put_on_tape(out, inputs, backward)


@numpy_names
def stack(tensors: Sequence[TensorLike], dim: int = 0) -> Tensor:
    """Joins tensors of one shape along a new dimension ``dim``.

    Example:
        >>> qn.ops.stack([qn.tensor([1, 2]), qn.tensor([3, 4])], dim=1).tolist()
        [[1, 3], [2, 4]]
    """
    inputs = [as_tensor(t) for t in tensors]
    for i, t in enumerate(inputs):
        if t.shape != inputs[0].shape:
            raise ShapeError(f"[stack] tensor {i} has shape {t.shape}, the first {inputs[0].shape}")
    return concat(
        [unsqueeze(t, dim) for t in inputs], inputs[0].ndim + 1 + dim if inputs and dim < 0 else dim
    )


def _broadcast_rule(x: Any, shape: Sequence[int]) -> Spec:
    spec = spec_of(x)
    wanted = tuple(operator.index(n) for n in shape)
    lead = len(wanted) - len(spec.shape)
    if lead < 0 or any(m not in (1, n) for m, n in zip(spec.shape, wanted[lead:], strict=True)):
        raise ShapeError(f"[broadcast_to] shape {spec.shape} does not broadcast to {wanted}")
    return Spec(wanted, spec.dtype)


@op(shape=_broadcast_rule)
def broadcast_to(x: TensorLike, shape: Sequence[int]) -> Tensor:
    """Repeats ``x`` along dimensions of size 1 and new leading ones until it has this shape."""
    a = as_tensor(x)
    wanted = _broadcast_rule(a, shape).shape
    before = a._t.shape
    return attach(_core.broadcast_to(a._t, wanted), (a,), lambda g: (unbroadcast(g, before),))
