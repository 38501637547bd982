"""The ops: one documented function each, with its gradient and its shape rule.

Names and arguments are PyTorch's functional ones; images are (N, H, W, C) and convolution weights (O, KH, KW, I / groups).
Every function takes tensors, NumPy arrays, nested lists and whatever offers ``__array__`` or ``__dlpack__``.
"""

from __future__ import annotations

from quernel.ops.dtypes import DTYPES, FLOATING, promote_types  # isort: skip - before what needs Tensor
from quernel.ops.create import as_tensor
from quernel.ops.elementwise import (
    add,
    cast,
    clip,
    clone,
    div,
    eq,
    ge,
    gt,
    le,
    logical_and,
    logical_not,
    logical_or,
    lt,
    maximum,
    minimum,
    mul,
    ne,
    pow,
    sub,
    where,
)
from quernel.ops.op import OPS, Op, Spec, current_tracer, op, set_tracer
from quernel.ops.unary import abs, exp, gelu, log, neg, relu, sigmoid, silu, sqrt, square, tanh
