"""Operands of elementwise ops: brought to one dtype, and gradients brought back to their shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quernel import _core
from quernel.autograd import attach
from quernel.errors import DTypeError
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import FLOATING, dtype_name
from quernel.ops.op import Spec, op
from quernel.ops.shapes import is_number, is_whole, result_type, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import DTypeLike

    from quernel.ops.create import TensorLike

Operand = Tensor | float
_NUMBERS = (int, float)


def promoted(x: TensorLike, other: TensorLike, floating: bool = False) -> tuple[Operand, Operand]:
    """Two operands of one dtype. A Python number stays one, unless both are."""
    if isinstance(x, Tensor):  # the usual cases first
        dtype = x._t.dtype
        if isinstance(other, Tensor):
            if dtype == other._t.dtype and not (floating and dtype not in FLOATING):
                return x, other
        elif dtype in FLOATING and isinstance(other, _NUMBERS):
            return x, float(other)
    dtype = result_type(x, other)
    if is_whole(x) and _is_long(x, dtype) and not is_number(other):
        x = as_tensor(x)
    elif is_whole(other) and _is_long(other, dtype) and not is_number(x):
        other = as_tensor(other)
    if floating and dtype not in FLOATING:
        dtype = "float32"
    if is_number(other) and not is_number(x):
        return cast(as_tensor(x), dtype), float(other)
    return (float(x) if is_number(x) else cast(as_tensor(x), dtype)), cast(as_tensor(other), dtype)


def _is_long(x: int, dtype: str) -> bool:
    """Whether an int64 op needs this number as a tensor, because a double does not hold it."""
    return dtype == "int64" and not -(2**53) <= x <= 2**53


def raw(x: Operand) -> _core.Tensor | float:
    """What kernels take for the operand."""
    return x._t if isinstance(x, Tensor) else x


def native(x: Tensor | None) -> _core.Tensor | None:
    """The native tensor of an operand that may be absent."""
    return None if x is None else x._t


def computed(
    kernel: Callable[[Any, Any], _core.Tensor], x: TensorLike, other: TensorLike
) -> tuple[_core.Tensor, Operand, Operand]:
    """What a kernel makes of two operands of one dtype, and the operands as it saw them."""
    if isinstance(x, Tensor) and isinstance(other, Tensor):
        try:
            return kernel(x._t, other._t), x, other
        except DTypeError:
            pass  # of two dtypes, mostly, which kernels do not mix
    a, b = promoted(x, other)
    return kernel(raw(a), raw(b)), a, b


def wanted(x: Operand) -> tuple[int, ...] | None:
    """The shape of the operand if it needs a gradient."""
    return x._t.shape if isinstance(x, Tensor) and x._requires_grad else None


def unbroadcast(g: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sums a gradient over the dimensions along which an operand of this shape was repeated."""
    have = g._t.shape
    if have == shape:
        return g
    lead = len(have) - len(shape)
    repeated = [i + lead for i, n in enumerate(shape) if n != have[i + lead]]
    return Tensor(_core.sum(g._t, [*range(lead), *repeated]).reshape(shape))


def _cast_rule(x: Any, dtype: DTypeLike) -> Spec:
    return Spec(spec_of(x).shape, dtype_name(dtype))


@op(shape=_cast_rule)
def cast(x: TensorLike, dtype: DTypeLike) -> Tensor:
    """Converts to another dtype; floats are cut off on their way to integers. Returns ``x`` itself if it has that dtype."""
    a = as_tensor(x)
    before, name = a._t.dtype, dtype_name(dtype)
    if before == name:
        return a
    out = _core.cast(a._t, name)
    if name not in FLOATING:
        return Tensor(out)
    return attach(out, (a,), lambda g: (cast(g, before),))
