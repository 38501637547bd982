"""Products of a sparse and a dense matrix.

A sparse matrix is a `quernel.sparse.CSR` or `quernel.sparse.BlockSparse`; the backward pass computes the gradient of
its values, at their places only. Each output is one chain of additions over the values of its row, in the order of the
columns: the dense product's, without the terms that are zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, attach, needs_grad, put_on_tape
from quernel.errors import DTypeError, ShapeError
from quernel.ops.activation import activation_gradient, check_activation, needs_input, saved_for
from quernel.ops.create import as_tensor
from quernel.ops.op import Spec, op
from quernel.ops.shapes import check_addends, check_floating, check_same_dtype, spec_of
from quernel.ops.sparse_array import SparseArray, as_sparse
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

Sparse = SparseArray | tuple[Any, ...]


def _spec_of(name: str, a: Any) -> Spec:
    """Shape and dtype of a sparse operand, which may be its parts."""
    if isinstance(a, SparseArray):
        return Spec(a.shape, a.dtype)
    if isinstance(a, tuple) and len(a) == 4:
        rows, columns = a[3]
        return Spec((rows, columns), spec_of(a[0]).dtype)
    return Spec(as_sparse(name, a).shape, "")  # raises


def _spmm_rule(a: Any, b: Any) -> Spec:
    sparse, dense = _spec_of("spmm", a), spec_of(b)
    check_floating("spmm", "a", sparse.dtype)
    check_same_dtype("spmm", "a", sparse.dtype, "b", dense.dtype)
    if len(dense.shape) not in (1, 2) or dense.shape[0] != sparse.shape[1]:
        raise ShapeError(
            f"[spmm] a has {sparse.shape[1]} columns, b must be ({sparse.shape[1]}, n) or ({sparse.shape[1]},), "
            f"got {dense.shape}"
        )
    return Spec((sparse.shape[0], *dense.shape[1:]), dense.dtype)


@op(shape=_spmm_rule)
def spmm(a: Sparse, b: TensorLike) -> Tensor:
    """Returns the matrix product ``a @ b`` of a sparse ``a`` and a dense ``b``.

    Args:
        a: (M, K), a `quernel.sparse.CSR` or `quernel.sparse.BlockSparse`.
        b: (K, N) or (K,).

    Returns:
        (M, N) or (M,), dense.

    Raises:
        ShapeError: The inner sizes differ.
        DTypeError: The dtypes differ, or are not floating.

    Example:
        >>> from quernel import sparse
        >>> qn.ops.spmm(sparse.csr([[0.0, 2.0], [0.0, 0.0]]), qn.tensor([[1.0], [3.0]]))
        tensor([[6.],
                [0.]], dtype=float32)
    """
    matrix, dense = as_sparse("spmm", a), as_tensor(b)
    shape = _spmm_rule(matrix, dense).shape
    values, tb = matrix.values, dense._t
    if len(shape) == 1:
        tb = tb.reshape((tb.size, 1))
    places = (matrix.indices._t, matrix.indptr._t, matrix.shape)
    y = _core.spmm(values._t, *places, tb).reshape(shape)
    columns, like, b_shape = (shape[0], tb.shape[1]), values._t, dense._t.shape

    def backward(g: Tensor, v: Tensor | None, b: Tensor | None) -> Gradients:
        gm = g._t.reshape(columns)
        dv = db = None
        if b is not None:
            dv = Tensor(_core.sparse_grad(like, *places, gm, b._t, False))
        if v is not None:
            indices, indptr, source = matrix.transposed()
            back = _core.spmm(v._t, indices, indptr, matrix.shape[::-1], gm, source)
            db = Tensor(back.reshape(b_shape))
        return dv, db

    saved = (values._t if dense._requires_grad else None, tb if values._requires_grad else None)
    return attach(y, (values, dense), backward, saved)


def _linear_rule(
    x: Any, weight: Any, bias: Any = None, residual: Any = None, activation: str | None = None
) -> Spec:
    check_activation("sparse_linear", activation)
    a, w = spec_of(x), _spec_of("sparse_linear", weight)
    check_floating("sparse_linear", "x", a.dtype)
    check_same_dtype("sparse_linear", "x", a.dtype, "weight", w.dtype)
    shape = _output_shape("sparse_linear", a.shape, w.shape)
    check_addends("sparse_linear", a.dtype, shape, bias, residual)
    return Spec(shape, a.dtype)


def _output_shape(name: str, x: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...]:
    if not x or x[-1] != weight[1]:
        raise ShapeError(
            f"[{name}] weight expects {weight[1]} input features, x has {x[-1] if x else 'no dimensions'} "
            f"(x: {x}, weight: {weight})"
        )
    return (*x[:-1], weight[0])


@op(shape=_linear_rule)
def sparse_linear(
    x: TensorLike,
    weight: Sparse,
    bias: TensorLike | None = None,
    residual: TensorLike | None = None,
    activation: str | None = None,
) -> Tensor:
    """Returns ``activation(x @ weight.T + bias + residual)`` for a sparse ``weight``, as `linear` does for a dense one.

    Args:
        x: (..., in_features).
        weight: (out_features, in_features), a `quernel.sparse.BlockSparse` (fastest) or `quernel.sparse.CSR`.
        bias: (out_features,).
        residual: Of the output's shape, (..., out_features).
        activation: "relu", "relu6", "hardswish", "gelu", "silu", "tanh", "sigmoid" or None. Fused or
            applied afterwards, the bits are the same.

    Raises:
        ShapeError: Feature counts or shapes do not fit.
        DTypeError: The dtypes differ, or are not floating; or ``weight`` is not sparse.

    Example:
        >>> from quernel import sparse
        >>> weight = sparse.csr([[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]])
        >>> qn.ops.sparse_linear(qn.tensor([[1.0, 2.0, 3.0]]), weight, qn.tensor([0.0, -5.0]), activation="relu")
        tensor([[3., 0.]], dtype=float32)
    """
    a, w = as_tensor(x), as_sparse("sparse_linear", weight)
    b = None if bias is None else as_tensor(bias)
    r = None if residual is None else as_tensor(residual)
    shape = _linear_rule(a, w, b, r, activation).shape
    values, ta, places = w.values, a._t, (w.indices._t, w.indptr._t, w.shape)
    rows = math.prod(shape[:-1])
    flat = ta.reshape((rows, w.shape[1]))
    taped = needs_grad(a, values, b, r)
    y, pre = _core.sparse_linear(
        flat,
        values._t,
        *places,
        None,
        None if b is None else b._t,
        None if r is None else r._t.reshape((rows, shape[-1])),
        activation or "none",
        taped and needs_input(activation),
    )
    out = y.reshape(shape)
    if not taped:
        return Tensor(out)
    want_a, want_v, want_b, want_r = (t is not None and bool(t._requires_grad) for t in (a, values, b, r))
    x_shape, y_shape, like = ta.shape, y.shape, values._t

    def backward(g: Tensor, flat: Tensor | None, v: Tensor | None, z: Tensor | None) -> Gradients:
        gz = activation_gradient(activation, z, g._t.reshape(y_shape))
        dx = dv = None
        if v is not None:
            indices, indptr, source = w.transposed()
            back, _ = _core.sparse_linear(gz, v._t, indices, indptr, w.shape[::-1], source)
            dx = Tensor(back.reshape(x_shape))
        if flat is not None:
            dv = Tensor(_core.sparse_grad(like, *places, gz, flat._t, True))
        return (
            dx,
            dv,
            Tensor(_core.sum(gz, [0])) if want_b else None,
            Tensor(gz.reshape(shape)) if want_r else None,
        )

    saved = (flat if want_v else None, values._t if want_a else None, saved_for(activation, y, pre))
    return put_on_tape(out, (a, values, b, r), backward, saved)


def _qsparse_rule(x: Any, weight: Any, *, out_float: bool, **_: object) -> Spec:
    a, w = spec_of(x), _spec_of("qsparse_linear", weight)
    if w.dtype != "int8":
        raise DTypeError(f"[qsparse_linear] weight must be int8, got {w.dtype}")
    return Spec(_output_shape("qsparse_linear", a.shape, w.shape), "float32" if out_float else "uint8")


@op(shape=_qsparse_rule)
def qsparse_linear(
    x: Tensor,
    weight: Sparse,
    bias: Tensor,
    scale: Tensor,
    zero_point: int = 0,
    lo: int = 0,
    hi: int = 255,
    out_float: bool = False,
) -> Tensor:
    """y = requantize(x · weightᵀ + bias) for a sparse int8 weight; `qlinear` has the formula.

    Args:
        x: uint8 (..., I).
        weight: int8 (O, I), a `quernel.sparse.BlockSparse` of (16, 4).
        bias: int32 (O), the zero point of x folded in: ``- zero_point · sum`` over the stored values.
        scale: float32 (O).
        zero_point: Of y.
        lo: Least value of y.
        hi: Largest value of y.
        out_float: Return float32 ``float(acc + bias) · scale`` instead.

    Returns:
        uint8 or float32 (..., O), the same at every instruction set.
    """
    w = as_sparse("qsparse_linear", weight)
    matrix = (w.values._t, w.indices._t, w.indptr._t, w.shape)
    tb, ts = as_tensor(bias)._t, as_tensor(scale)._t
    return Tensor(_core.qsparse_linear(as_tensor(x)._t, *matrix, tb, ts, zero_point, lo, hi, out_float))
