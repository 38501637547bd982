"""Random ops: dropout and fills. See `quernel.random` for the stream that they draw from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quernel import _core, random
from quernel.autograd import attach
from quernel.errors import ArgumentError
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import dtype_name
from quernel.ops.elementwise import mul
from quernel.ops.op import Spec, op
from quernel.ops.shapes import check_floating, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from quernel.ops.create import TensorLike


def _dropout_rule(x: Any, p: float = 0.5, training: bool = True) -> Spec:  # noqa: ARG001
    spec = spec_of(x)
    check_floating("dropout", "x", spec.dtype)
    if not 0 <= p <= 1:
        raise ArgumentError(f"[dropout] p is a probability in [0, 1], got {p}")
    return spec


@op(shape=_dropout_rule)
def dropout(x: TensorLike, p: float = 0.5, training: bool = True) -> Tensor:
    """Zeroes each element with probability ``p`` and divides the others by ``1 - p``; returns ``x`` if not training.

    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15 (2014).

    Raises:
        ArgumentError: ``p`` is no probability.
    """
    a = as_tensor(x)
    _dropout_rule(a, p)
    if not training or p == 0:
        return a
    if p == 1:
        return mul(a, 0.0)
    y, mask = _core.dropout(a._t, p, random.default_generator())
    return attach(y, (a,), lambda g, mask: (Tensor(_core.dropout_grad(g._t, mask._t, p)),), (mask,))


def uniform(
    shape: int | Sequence[int],
    low: float = 0.0,
    high: float = 1.0,
    dtype: DTypeLike = "float32",
    generator: _core.Generator | None = None,
) -> Tensor:
    """Returns a new tensor of numbers drawn evenly from [low, high).

    Raises:
        ArgumentError: ``low`` is not below ``high``.
    """
    if not low < high:
        raise ArgumentError(f"[uniform] low must be below high, got low={low}, high={high}")
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    return Tensor(_core.uniform(sizes, low, high, dtype_name(dtype), generator or random.default_generator()))


def normal(
    shape: int | Sequence[int],
    mean: float = 0.0,
    std: float = 1.0,
    dtype: DTypeLike = "float32",
    generator: _core.Generator | None = None,
) -> Tensor:
    """Returns a new tensor of numbers drawn from a normal distribution.

    Raises:
        ArgumentError: ``std`` is negative.
    """
    if not std >= 0:
        raise ArgumentError(f"[normal] std must not be negative, got {std}")
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    return Tensor(_core.normal(sizes, mean, std, dtype_name(dtype), generator or random.default_generator()))
