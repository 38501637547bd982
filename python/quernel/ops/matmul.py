"""Matrix products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, needs_grad, put_on_tape
from quernel.errors import QuernelError, ShapeError, UnsupportedError
from quernel.ops.activation import activation_gradient, check_activation, needs_input, saved_for
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import HALF
from quernel.ops.op import Spec, op
from quernel.ops.operands import unbroadcast
from quernel.ops.shapes import (
    broadcast_shapes,
    check_addends,
    check_floating,
    check_precision,
    check_rank,
    check_same_dtype,
    spec_of,
)
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike


def _matmul_rule(x: Any, other: Any) -> Spec:
    a, b = spec_of(x), spec_of(other)
    if not a.shape or not b.shape:
        raise ShapeError(
            f"[matmul] both operands need dimensions, got {a.shape} and {b.shape}; use * for numbers"
        )
    check_floating("matmul", "x", a.dtype)
    check_same_dtype("matmul", "x", a.dtype, "other", b.dtype)
    inner = b.shape[-2] if len(b.shape) > 1 else b.shape[0]
    if a.shape[-1] != inner:
        raise ShapeError(
            f"[matmul] x has {a.shape[-1]} columns, other {inner} rows (x: {a.shape}, other: {b.shape})"
        )
    batch = broadcast_shapes("matmul", a.shape[:-2], b.shape[:-2])
    rows = a.shape[-2:-1] if len(a.shape) > 1 else ()
    columns = b.shape[-1:] if len(b.shape) > 1 else ()
    return Spec((*batch, *rows, *columns), a.dtype)


@op(shape=_matmul_rule, direct=True)
def matmul(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns the matrix product ``x @ other``; leading dimensions are batches and broadcast.

    A vector on the left is a row, on the right a column, and its dimension of size 1 is dropped from the result.

    Args:
        x: (..., M, K) or (K,).
        other: (..., K, N) or (K,).

    Raises:
        ShapeError: The inner sizes differ, or the batch sizes do not broadcast.
        DTypeError: The dtypes differ, or are not floating.

    Example:
        >>> qn.tensor([[1.0, 2.0]]) @ qn.tensor([[3.0], [4.0]])
        tensor([[11.]], dtype=float32)
    """
    a, b = as_tensor(x), as_tensor(other)
    ta, tb = a._t, b._t
    try:
        out = _core.matmul(ta, tb)
    except (QuernelError, TypeError):  # the latter of a parameter without a size
        _matmul_rule(a, b)  # says it in Python's names
        raise
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = ta.shape, tb.shape

    def backward(g: Tensor, ta: Tensor | None, tb: Tensor | None) -> Gradients:
        # Vectors as the matrices that they stood for.
        sma, smb = sa if len(sa) > 1 else (1, *sa), sb if len(sb) > 1 else (*sb, 1)
        gm = g._t.reshape((*broadcast_shapes("matmul", sma[:-2], smb[:-2]), sma[-2], smb[-1]))
        ga = gb = None
        if tb is not None:
            ga = unbroadcast(Tensor(_core.matmul(gm, tb._t.reshape(smb), transpose_b=True)), sma).reshape(sa)
        if ta is not None:
            gb = unbroadcast(Tensor(_core.matmul(ta._t.reshape(sma), gm, transpose_a=True)), smb).reshape(sb)
        return ga, gb

    return put_on_tape(
        out, (a, b), backward, (ta if b._requires_grad else None, tb if a._requires_grad else None)
    )


def _linear_rule(
    x: Any,
    weight: Any,
    bias: Any = None,
    activation: str | None = None,
    residual: Any = None,
    precision: str | None = None,
) -> Spec:
    check_activation("linear", activation)
    a, w = spec_of(x), spec_of(weight)
    check_rank("linear", "weight", w.shape, 2, "(out_features, in_features)")
    check_floating("linear", "x", a.dtype)
    check_same_dtype("linear", "x", a.dtype, "weight", w.dtype)
    if not a.shape or a.shape[-1] != w.shape[1]:
        raise ShapeError(
            f"[linear] weight expects {w.shape[1]} input features, x has {a.shape[-1] if a.shape else 'no dimensions'} "
            f"(x: {a.shape}, weight: {w.shape})"
        )
    shape = (*a.shape[:-1], w.shape[0])
    check_addends("linear", a.dtype, shape, bias, residual)
    check_precision("linear", precision, a.dtype, "float32 or bfloat16")
    return Spec(shape, a.dtype)


@op(shape=_linear_rule, direct=True)
def linear(
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    activation: str | None = None,
    residual: TensorLike | None = None,
    precision: str | None = None,
) -> Tensor:
    """Returns ``activation(x @ weight.T + bias + residual)``, all in one pass over the output.

    Args:
        x: (..., in_features).
        weight: (out_features, in_features).
        bias: (out_features,).
        activation: "relu", "relu6", "hardswish", "gelu", "silu", "tanh", "sigmoid" or None. Fused or
            applied afterwards, the bits are the same.
        residual: Of the output's shape, (..., out_features).
        precision: "bf16" rounds the operands of this product, and of the two of its backward pass, to bfloat16; sums,
            results and gradients stay float32. None multiplies in the dtype of the operands. Operands that are
            bfloat16 or float16 themselves are multiplied likewise, with sums in float32; their result is rounded to
            their dtype, wherever separate ops would round it. They have no gradients.

    Raises:
        ShapeError: Feature counts or shapes do not fit.
        DTypeError: The dtypes differ, or are not floating, or not those that `precision` takes.
        UnsupportedError: A bfloat16 or float16 tensor wants a gradient.

    Example:
        >>> qn.ops.linear(qn.ones((1, 3)), qn.ones((2, 3)), qn.tensor([0.0, -5.0]), activation="relu")
        tensor([[3., 0.]], dtype=float32)
    """
    a, w = as_tensor(x), as_tensor(weight)
    b = None if bias is None else as_tensor(bias)
    r = None if residual is None else as_tensor(residual)
    ta, tw = a._t, w._t
    tb, tr = None if b is None else b._t, None if r is None else r._t
    taped = needs_grad(a, w, b, r)
    in_bf16 = precision == "bf16" or ta.dtype == "bfloat16"
    if precision is not None:
        check_precision("linear", precision, a.dtype, "float32 or bfloat16")
    if taped and ta.dtype in HALF:
        raise UnsupportedError(
            f"[linear] {ta.dtype} tensors have no gradients; train float32 ones with precision='bf16'"
        )
    multiply = _core.linear_f16 if ta.dtype == "float16" else _core.linear_bf16 if in_bf16 else _core.linear
    try:
        y, pre = multiply(ta, tw, tb, tr, activation or "none", taped and needs_input(activation))
    except (QuernelError, TypeError):  # the latter of an activation that is no text
        _linear_rule(a, w, b, activation, r, precision)  # says it in Python's names
        raise
    if not taped:
        return Tensor(y)
    want_a, want_w, want_b, want_r = (t is not None and bool(t._requires_grad) for t in (a, w, b, r))
    x_shape, shape = ta.shape, y.shape
    product = _core.matmul_bf16 if in_bf16 else _core.matmul

    def backward(g: Tensor, x: Tensor | None, w: Tensor | None, z: Tensor | None) -> Gradients:
        gz = activation_gradient(activation, z, g._t)
        rows = gz.reshape((math.prod(shape[:-1]), shape[-1]))
        return (
            None if w is None else Tensor(product(rows, w._t).reshape(x_shape)),
            None if x is None else Tensor(_grad_weight(in_bf16, rows, x._t)),
            Tensor(_core.sum(rows, [0])) if want_b else None,
            Tensor(gz) if want_r else None,
        )

    saved = (ta if want_w else None, tw if want_a else None, saved_for(activation, y, pre))
    return put_on_tape(y, (a, w, b, r), backward, saved)


def _grad_weight(in_bf16: bool, rows: _core.Tensor, x: _core.Tensor) -> _core.Tensor:
    x = x.reshape((rows.shape[0], x.shape[-1]))
    return _core.matmul_bf16(rows, x, transpose_a=True) if in_bf16 else _core.linear_grad_weight(rows, x)
