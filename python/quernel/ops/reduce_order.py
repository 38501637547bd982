"""What depends on the order of elements: the place of an extreme, the k largest, sorting.

NaN counts as larger than all other numbers, as in PyTorch; `argmin` finds it too. Of equal elements the first comes first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import attach
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.layout import permute
from quernel.ops.op import Spec, numpy_names, op
from quernel.ops.shapes import normalize_axis, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from quernel.ops.create import TensorLike

Shape = tuple[int, ...]


def _place_rule(name: str) -> Callable[..., Spec]:
    def rule(x: Any, dim: int | None = None, keepdim: bool = False) -> Spec:
        shape = spec_of(x).shape
        if dim is None:
            axes = set(range(len(shape)))
        else:
            axes = {normalize_axis(name, dim, max(len(shape), 1))} if shape else set()
        if 0 in [shape[i] for i in axes]:
            raise ShapeError(
                f"[{name}] there is no place of an extreme among no elements (x: {shape}, dim: {dim})"
            )
        kept = [1 if i in axes else n for i, n in enumerate(shape) if keepdim or i not in axes]
        return Spec(tuple(kept), "int64")

    return rule


def _place(name: str, x: TensorLike, dim: int | None, keepdim: bool) -> Tensor:
    a = as_tensor(x)
    spec = _place_rule(name)(a, dim, keepdim)
    flat = a._t.reshape((a.size,)) if dim is None else a._t
    at = 0 if dim is None else normalize_axis(name, dim, max(a.ndim, 1))
    return Tensor(_core.arg_reduce(flat, at, name == "argmin").reshape(spec.shape))


@op(shape=_place_rule("argmax"))
def argmax(x: TensorLike, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Returns where the largest element lies along a dimension (int64): the first of equals, or the first NaN.

    Args:
        x: Any tensor.
        dim: The dimension, or None for the place in the flattened tensor.
        keepdim: Whether the reduced dimensions stay, with size 1.

    Raises:
        ShapeError: There are no elements to choose from.

    Example:
        >>> qn.ops.argmax(qn.tensor([[1.0, 5.0, 5.0], [2.0, 0.0, 1.0]]), dim=1)
        tensor([1, 0], dtype=int64)
    """
    return _place("argmax", x, dim, keepdim)


@op(shape=_place_rule("argmin"))
def argmin(x: TensorLike, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Returns where the smallest element lies along a dimension; otherwise as `argmax`."""
    return _place("argmin", x, dim, keepdim)


def _cut(name: str, shape: Shape, k: int | None, dim: int) -> tuple[int, Shape]:
    """The dimension, and the shape with k elements along it (None: all)."""
    at = normalize_axis(name, dim, max(len(shape), 1))
    length = shape[at] if shape else 1
    k = length if k is None else k
    if not hasattr(k, "__index__") or not 0 <= k <= length:
        raise ArgumentError(
            f"[{name}] k is a whole number in [0, {length}], the size of dim {dim} of {shape}; got {k!r}"
        )
    return at, (*shape[:at], k, *shape[at + 1 :]) if shape else ()


def _ranked(name: str, x: TensorLike, k: int | None, dim: int, largest: bool) -> tuple[Tensor, Tensor]:
    a = as_tensor(x)
    shape = a._t.shape
    at, out = _cut(name, shape, k, dim)
    if not shape:
        return a, Tensor(_core.full((), 0.0, "int64", a._t.device))
    swap = list(range(len(shape)))
    swap[at], swap[-1] = swap[-1], swap[at]
    last = at == len(shape) - 1
    rows = a if last else permute(a, swap)
    cols = shape[at]
    values, indices = _core.topk(rows._t, out[at], largest)

    def backward(g: Tensor, indices: Tensor) -> tuple[Tensor]:
        return (Tensor(_core.topk_grad(g._t, indices._t, cols)),)

    result = attach(values, (rows,), backward, (indices,))
    return (result, Tensor(indices)) if last else (permute(result, swap), permute(Tensor(indices), swap))


def _topk_rule(x: Any, k: int, dim: int = -1, largest: bool = True) -> tuple[Spec, Spec]:  # noqa: ARG001
    spec = spec_of(x)
    shape = _cut("topk", spec.shape, k, dim)[1]
    return Spec(shape, spec.dtype), Spec(shape, "int64")


@op(shape=_topk_rule)
def topk(x: TensorLike, k: int, dim: int = -1, largest: bool = True) -> tuple[Tensor, Tensor]:
    """Returns the k largest (or smallest) elements along a dimension, in order, and their places.

    Args:
        x: Any tensor.
        k: How many.
        dim: The dimension.
        largest: Whether the largest or the smallest.

    Returns:
        Values, through which gradients flow, and indices (int64), both with ``k`` elements along ``dim``.

    Raises:
        ArgumentError: ``k`` exceeds the size of the dimension.

    Example:
        >>> values, indices = qn.ops.topk(qn.tensor([1.0, 9.0, 4.0]), 2)
        >>> values.tolist(), indices.tolist()
        ([9.0, 4.0], [1, 2])
    """
    return _ranked("topk", x, k, dim, largest)


def _sort_rule(x: Any, dim: int = -1, descending: bool = False) -> tuple[Spec, Spec]:  # noqa: ARG001
    spec = spec_of(x)
    _cut("sort", spec.shape, None, dim)
    return spec, Spec(spec.shape, "int64")


@op(shape=_sort_rule)
def sort(x: TensorLike, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """Returns the elements in order along a dimension, and their places (int64). Equal elements keep their order.

    Example:
        >>> values, indices = qn.ops.sort(qn.tensor([3, 1, 2]))
        >>> values.tolist(), indices.tolist()
        ([1, 2, 3], [1, 2, 0])
    """
    return _ranked("sort", x, None, dim, descending)


@numpy_names
def argsort(x: TensorLike, dim: int = -1, descending: bool = False) -> Tensor:
    """Returns the places (int64) of the elements in order: the second result of `sort`."""
    return sort(x, dim, descending)[1]
