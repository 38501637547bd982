"""The ops: one documented function each, with its gradient and its shape rule.

Names and arguments are PyTorch's functional ones; images are (N, H, W, C) and convolution weights (O, KH, KW, I / groups).
Every function takes tensors, NumPy arrays, nested lists and whatever offers ``__array__`` or ``__dlpack__``.
"""

from __future__ import annotations

from quernel.ops.dtypes import DTYPES, FLOATING, promote_types  # isort: skip - tensor.py needs them
from quernel.ops.activation import (
    ACTIVATIONS,
    celu,
    elu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    logsigmoid,
    mish,
    relu6,
    selu,
    softplus,
    softsign,
)
from quernel.ops.attention import append_rows_, multi_head_attention, scaled_dot_product_attention
from quernel.ops.compare import (
    eq,
    ge,
    gt,
    isfinite,
    isinf,
    isnan,
    le,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    lt,
    ne,
)
from quernel.ops.conv import conv1d, conv2d
from quernel.ops.conv_transpose import conv_transpose1d, conv_transpose2d
from quernel.ops.create import as_tensor
from quernel.ops.ctc import ctc_loss
from quernel.ops.einsum import einsum, tensordot
from quernel.ops.elementwise import (
    add,
    clip,
    clone,
    div,
    floor_divide,
    maximum,
    minimum,
    mul,
    pow,
    prelu,
    remainder,
    sub,
    to_device,
    where,
)
from quernel.ops.embedding import (
    embedding,
    gather,
    index_add,
    index_select,
    one_hot,
    scatter_add,
    take_along_dim,
)
from quernel.ops.embedding_bag import embedding_bag
from quernel.ops.group_norm import group_norm, instance_norm
from quernel.ops.indexing import assign_, getitem, masked_fill, masked_select, nonzero
from quernel.ops.layer_norm import layer_norm, rms_norm
from quernel.ops.layout import (
    broadcast_to,
    concat,
    flatten,
    permute,
    reshape,
    squeeze,
    stack,
    transpose,
    unsqueeze,
)
from quernel.ops.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    sigmoid_focal_loss,
    smooth_l1_loss,
)
from quernel.ops.matmul import linear, matmul
from quernel.ops.norm import batch_norm
from quernel.ops.op import OPS, Op, Spec, Tracer, current_tracer, op, set_tracer
from quernel.ops.operands import cast
from quernel.ops.pad import pad
from quernel.ops.pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    avg_pool1d,
    avg_pool2d,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool1d,
    max_pool2d,
)
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
from quernel.ops.rearrange import (
    chunk,
    flip,
    outer,
    repeat,
    repeat_interleave,
    roll,
    split,
    tile,
    tril,
    triu,
)
from quernel.ops.recurrent import checked_lengths, gru, lstm, rnn, sequence_mask
from quernel.ops.reduce import (
    all,
    any,
    cumsum,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    std,
    sum,
    var,
)
from quernel.ops.reduce_order import argmax, argmin, argsort, sort, topk
from quernel.ops.row_gradient import RowGradient
from quernel.ops.softmax import cross_entropy, focal_loss, log_softmax, nll_loss, softmax
from quernel.ops.sparse import qsparse_linear, sparse_linear, spmm
from quernel.ops.unary import (
    abs,
    ceil,
    cos,
    erf,
    exp,
    expm1,
    floor,
    gelu,
    log,
    log1p,
    neg,
    reciprocal,
    relu,
    round,
    rsqrt,
    sigmoid,
    sign,
    silu,
    sin,
    sqrt,
    square,
    tanh,
)
from quernel.ops.upsample import interpolate

__all__ = [  # noqa: RUF022 - by file
    "ACTIVATIONS", "celu", "elu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "relu6",
    "selu", "softplus", "softsign",
    "append_rows_", "multi_head_attention", "scaled_dot_product_attention",
    "eq", "ge", "gt", "isfinite", "isinf", "isnan", "le", "logical_and", "logical_not", "logical_or", "logical_xor",
    "lt", "ne",
    "conv1d", "conv2d",
    "conv_transpose1d", "conv_transpose2d",
    "as_tensor",
    "ctc_loss",
    "DTYPES", "FLOATING", "promote_types",
    "einsum", "tensordot",
    "add", "clip", "clone", "div", "floor_divide", "maximum", "minimum", "mul", "pow", "prelu", "remainder", "sub",
    "where",
    "embedding", "gather", "index_add", "index_select", "one_hot", "scatter_add", "take_along_dim",
    "embedding_bag",
    "assign_", "getitem", "masked_fill", "masked_select", "nonzero",
    "broadcast_to", "concat", "flatten", "permute", "reshape", "squeeze", "stack", "transpose", "unsqueeze",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "huber_loss", "kl_div", "l1_loss", "mse_loss",
    "sigmoid_focal_loss", "smooth_l1_loss",
    "linear", "matmul",
    "batch_norm",
    "group_norm", "instance_norm", "layer_norm", "rms_norm",
    "interpolate",
    "OPS", "Op", "Spec", "Tracer", "current_tracer", "op", "set_tracer",
    "cast",
    "pad",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "avg_pool1d",
    "avg_pool2d", "global_avg_pool2d", "global_max_pool2d", "max_pool1d", "max_pool2d",
    "dequantize", "qadd", "qavg_pool2d", "qconv2d", "qlinear", "qlookup", "qmax_pool2d", "qmean_hw",
    "quantize",
    "dropout", "normal", "uniform",
    "chunk", "flip", "outer", "repeat", "repeat_interleave", "roll", "split", "tile", "to_device", "tril", "triu",
    "checked_lengths", "gru", "lstm", "rnn", "sequence_mask",
    "all", "any", "cumsum", "logsumexp", "max", "mean", "min", "norm", "prod", "std", "sum", "var",
    "argmax", "argmin", "argsort", "sort", "topk",
    "RowGradient",
    "cross_entropy", "focal_loss", "log_softmax", "nll_loss", "softmax",
    "qsparse_linear", "sparse_linear", "spmm",
    "abs", "ceil", "cos", "erf", "exp", "expm1", "floor", "gelu", "log", "log1p", "neg", "reciprocal", "relu", "round",
    "rsqrt", "sigmoid", "sign", "silu", "sin", "sqrt", "square", "tanh",
]  # fmt: skip
