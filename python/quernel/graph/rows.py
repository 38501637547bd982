"""Whether each row of a batch is computed by itself, so that a batch may be padded or cut into chunks."""

from __future__ import annotations

from quernel.graph.ir import Arg, Dim, Graph, Node, Ref, Slice, Value, leaves

_N = Dim()

# Ops whose output row r depends on row r of their inputs, whatever their other arguments are; images and rows of
# features have the batch in front and work along other axes.
_BY_ROW = {
    *("embedding", "one_hot", "linear", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"),
    *("max_pool2d", "avg_pool2d", "global_avg_pool2d", "dropout"),
    *("global_max_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate", "group_norm"),
    *("qlinear", "qconv2d", "qmax_pool2d", "qavg_pool2d", "qmean_hw"),
    *("quantize", "dequantize", "qlookup", "qadd"),
    *("sparse_linear", "qsparse_linear"),
}
ELEMENTWISE = {
    *("add", "sub", "mul", "div", "pow", "maximum", "minimum", "where", "clip", "cast", "clone"),
    *("floor_divide", "remainder", "logical_xor", "isnan", "isinf", "isfinite"),
    *("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not"),
    *("neg", "abs", "sign", "square", "floor", "ceil", "round", "sqrt", "rsqrt", "reciprocal"),
    *("exp", "expm1", "log", "log1p", "sin", "cos", "erf"),
    *("tanh", "sigmoid", "relu", "gelu", "silu", "relu6", "hardswish", "hardsigmoid", "hardtanh"),
    *("leaky_relu", "elu", "selu", "celu", "softplus", "mish", "logsigmoid", "softsign"),
}
_ALONG_AXIS = {
    *("sum", "mean", "max", "min", "prod", "var", "std", "any", "all", "logsumexp", "norm"),
    *("cumsum", "argmax", "argmin", "topk", "sort", "index_select", "softmax", "log_softmax", "concat"),
}


def independent_rows(graph: Graph) -> bool:
    """Whether every output is (N, …) and its row r depends on row r of the inputs alone, for all this can see.

    Ops that it does not know count as mixing rows.
    """
    values = {Ref(name): value for name, value in graph.inputs.items()}
    for node in graph.nodes:
        values.update({Ref(node.name, i): value for i, value in enumerate(node.outputs)})
    if not all(_leads_with_batch(values[ref]) for ref in (*map(Ref, graph.inputs), *graph.results)):
        return False
    return all(_keeps_rows(graph, node, [values[ref] for ref in node.refs]) for node in graph.nodes)


def _leads_with_batch(value: Value) -> bool:
    return bool(value.shape) and value.shape[0] == _N and not any(isinstance(d, Dim) for d in value.shape[1:])


def _fixed(value: Value) -> bool:
    return not any(isinstance(d, Dim) for d in value.shape)


def _keeps_rows(graph: Graph, node: Node, reads: list[Value]) -> bool:
    if all(_fixed(v) for v in reads):  # made of weights alone
        return all(_fixed(v) for v in node.outputs) and node.args.get("training") is not True
    if not all(_leads_with_batch(v) for v in node.outputs):
        return False
    if _uses_batch_size(node):
        return False
    rank = len(node.outputs[0].shape)
    operands = (*reads, *_weights(graph, node))
    if node.op in ELEMENTWISE:
        return all(_aligned(v, rank) for v in operands)
    if node.op == "matmul":
        return _rows_times(*operands) if len(operands) == 2 else False
    if not all(_leads_with_batch(v) for v in reads):
        return False
    match node.op:
        case "scaled_dot_product_attention":
            return rank == 4 and not node.weights
        case "embedding_bag":
            return node.args["offsets"] is None
        case "multi_head_attention":
            return not node.weights
        case "batch_norm":
            return node.args["training"] is False and node.args["running_mean"] is not None
        case "layer_norm" | "rms_norm":
            shape = node.args["normalized_shape"]
            return len(shape if isinstance(shape, tuple) else (shape,)) < rank
        case "lstm" | "gru" | "rnn":
            return node.args["lengths"] is None  # that of a row of padding would be refused
        case "instance_norm":
            return node.args["use_input_stats"] is False or node.args["running_mean"] is None
        case "reshape" | "flatten":
            return True  # row-major: (N, …) to (N, …) keeps each row's elements together
        case "permute":
            dims = node.args["dims"]
            return isinstance(dims, tuple) and dims[:1] == (0,)
        case "getitem":
            return _takes_all_rows(node.args["index"], len(reads[0].shape))
        case "gather" | "take_along_dim":  # a weight's rows would lie beside those of the batch
            return not node.weights and _axes_behind_batch(node, len(reads[0].shape))
        case "pad":
            widths = node.args["padding"]
            return isinstance(widths, tuple) and widths[0] == (0, 0)
    if node.op in _ALONG_AXIS:
        return _axes_behind_batch(node, len(reads[0].shape))
    return node.op in _BY_ROW and rank >= 2


def _uses_batch_size(node: Node) -> bool:
    """Whether N is a number that the op computes with: of a padded batch it would be another one."""
    if node.op in ("reshape", "flatten"):  # there it is the extent that the result has anyway
        return False
    items = list(leaves(node.args.values()))
    bounds = [
        bound for item in items if isinstance(item, Slice) for bound in (item.start, item.stop, item.step)
    ]
    return any(isinstance(item, Dim) for item in (*items, *bounds))


def _rows_times(x: Value, other: Value) -> bool:
    if not _leads_with_batch(x):
        return False
    if _fixed(other):
        return len(x.shape) >= 2 and len(other.shape) <= 2
    return _leads_with_batch(other) and len(x.shape) == len(other.shape) >= 3


def _takes_all_rows(index: Arg, rank: int) -> bool:
    items = index if isinstance(index, tuple) else (index,)
    if items[0] is Ellipsis:
        return sum(item is not None for item in items[1:]) < rank
    return items[0] == Slice(None, None, None)


def _weights(graph: Graph, node: Node) -> list[Value]:
    return [Value(graph.weights[name].shape, graph.weights[name].dtype) for name in node.weights]


def _aligned(value: Value, rank: int) -> bool:
    """Whether broadcasting puts the batch axis of `value` on that of the result, or repeats one row for all."""
    if _fixed(value):
        return len(value.shape) < rank or value.shape[0] == 1
    return len(value.shape) == rank and _leads_with_batch(value)


def _axes_behind_batch(node: Node, rank: int) -> bool:
    axis = node.args["dim"]
    axes = axis if isinstance(axis, tuple) else (axis,)
    return all(isinstance(a, int) and a % rank != 0 for a in axes)
