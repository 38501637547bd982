"""The ops: one documented function each, with its gradient and its shape rule.

Names and arguments are PyTorch's functional ones; images are (N, H, W, C) and convolution weights (O, KH, KW, I / groups).
Every function takes tensors, NumPy arrays, nested lists and whatever offers ``__array__`` or ``__dlpack__``.
"""

from __future__ import annotations

from quernel.ops.dtypes import DTYPES, FLOATING, promote_types  # isort: skip - tensor.py needs them
from quernel.ops.activation import ACTIVATIONS
from quernel.ops.compare import eq, ge, gt, le, logical_and, logical_not, logical_or, lt, ne
from quernel.ops.conv import conv2d
from quernel.ops.create import as_tensor
from quernel.ops.elementwise import add, clip, clone, div, maximum, minimum, mul, pow, sub, where
from quernel.ops.layout import (
    assign_,
    broadcast_to,
    concat,
    flatten,
    getitem,
    pad,
    permute,
    reshape,
    squeeze,
    stack,
    transpose,
    unsqueeze,
)
from quernel.ops.matmul import linear, matmul
from quernel.ops.norm import batch_norm
from quernel.ops.op import OPS, Op, Spec, Tracer, current_tracer, op, set_tracer
from quernel.ops.operands import cast
from quernel.ops.pool import adaptive_avg_pool2d, avg_pool2d, global_avg_pool2d, max_pool2d
from quernel.ops.quant import (
    dequantize,
    qadd,
    qavg_pool2d,
    qconv2d,
    qlinear,
    qlookup,
    qmax_pool2d,
    qmean_hw,
    quantize,
)
from quernel.ops.random import dropout, normal, uniform
from quernel.ops.reduce import max, mean, min, mse_loss, sum
from quernel.ops.softmax import cross_entropy, log_softmax, softmax
from quernel.ops.unary import abs, exp, gelu, log, neg, relu, sigmoid, silu, sqrt, square, tanh

__all__ = [
    "ACTIVATIONS", "DTYPES", "FLOATING", "OPS", "Op", "Spec", "Tracer", "abs", "adaptive_avg_pool2d", "add", "as_tensor",
    "assign_", "avg_pool2d", "batch_norm", "broadcast_to", "cast", "clip", "clone", "concat", "conv2d", "cross_entropy",
    "current_tracer", "dequantize", "div", "dropout", "eq", "exp", "flatten", "ge", "gelu", "getitem", "global_avg_pool2d", "gt", "le",
    "linear", "log", "log_softmax", "logical_and", "logical_not", "logical_or", "lt", "matmul", "max", "max_pool2d",
    "maximum", "mean", "min", "minimum", "mse_loss", "mul", "ne", "neg", "normal", "op", "pad", "permute", "pow",
    "promote_types", "qadd", "qavg_pool2d", "qconv2d", "qlinear", "qlookup", "qmax_pool2d", "qmean_hw", "quantize", "relu", "reshape", "set_tracer", "sigmoid", "silu", "softmax", "sqrt", "square", "squeeze", "stack", "sub", "sum",
    "tanh", "transpose", "uniform", "unsqueeze", "where",
]  # fmt: skip
