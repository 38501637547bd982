"""`net.summary()`: what a model consists of and costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quernel.errors import ArgumentError
from quernel.graph.ir import Graph, Node, Value, Weight
from quernel.graph.trace import inputs_of, trace
from quernel.nn.module import Module

_CONTRACTIONS = ("linear", "conv1d", "conv2d", "qlinear", "qconv2d")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d")


@dataclass(frozen=True, slots=True)
class Row:
    """One op of the model.

    Attributes:
        name: The node's name.
        kind: Its layer and op, such as "Conv2d" or "relu".
        output: Shape of its (first) output, N standing for the batch.
        dtype: Of that output.
        parameters: Elements of the parameters that it is the first to read.
        macs: Multiply-adds for one sample.
        nbytes: Bytes of all weights that it is the first to read, buffers included.
    """

    name: str
    kind: str
    output: str
    dtype: str
    parameters: int
    macs: int
    nbytes: int


@dataclass(frozen=True)
class Summary:
    """A table of a model's ops; ``str(summary)`` is the table.

    Attributes:
        rows: One per op, in the order in which they run.
        inputs: The model's inputs, as text.
    """

    rows: tuple[Row, ...]
    inputs: str

    @property
    def parameters(self) -> int:
        """Number of parameters (shared ones once)."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample."""
        return sum(row.macs for row in self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of parameters and buffers."""
        return sum(row.nbytes for row in self.rows)

    def __str__(self) -> str:
        cells = [("layer", "op", "output", "dtype", "parameters", "MACs", "bytes")]
        for row in self.rows:
            numbers = (f"{n:,}" if n else "" for n in (row.parameters, row.macs, row.nbytes))
            cells.append((row.name, row.kind, row.output, row.dtype, *numbers))  # type: ignore[arg-type]
        table = align(cells, left=4)
        total = f"{self.parameters:,} parameters, {self.macs:,} MACs per sample, {self.nbytes:,} bytes"
        return f"input {self.inputs}\n{table}\n{total}"

    def __repr__(self) -> str:
        return f"<Summary: {len(self.rows)} ops, {self.parameters:,} parameters, {self.macs:,} MACs, {self.nbytes:,} bytes>"


def summary(net: Module, input_shape: Any = None, show: bool = True) -> Summary:
    """See `nn.Module.summary`."""
    inputs = inputs_of(net, input_shape)
    if inputs is None:
        raise ArgumentError(
            "[summary] pass input_shape= (one sample, without the batch), or call the model once before"
        )
    result = summarize(trace(net, inputs))
    if show:
        print(result)  # noqa: T201 (for reading, as in Keras)
    return result


def summarize(graph: Graph) -> Summary:
    """The summary of `graph`."""
    counted: set[str] = set()
    rows = []
    for node in graph.nodes:
        new = [name for name in dict.fromkeys(node.weights) if name not in counted]
        counted.update(new)
        parameters = sum(graph.weights[name].size for name in new if name not in graph.buffers)
        nbytes = sum(graph.weights[name].numpy().nbytes for name in new)
        value = node.outputs[0]
        kind = node.layer if _is_layer(node) else node.op
        rows.append(Row(node.name, kind, str(value), value.dtype, parameters, macs(graph, node), nbytes))
    return Summary(tuple(rows), ", ".join(f"{name} {v} {v.dtype}" for name, v in graph.inputs.items()))


def _is_layer(node: Node) -> bool:
    """Whether the node is the work of the layer that it carries the name of: Conv2d and conv2d, ReflectionPad2d and pad."""
    layer, op = (_bare(name) for name in (node.layer, node.op))
    return layer.startswith(op) or layer.endswith(op) or (layer, op) == ("upsample", "interpolate")


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace("1d", "").replace("2d", "")


def macs(graph: Graph, node: Node) -> int:
    """Multiply-adds of `node` for one sample."""
    if node.op == "matmul":
        x = graph.value(node.refs[0]) if node.refs else None
        inner = x.at(1)[-1] if x is not None else 0
        return _elements(node.outputs[0]) * inner
    if node.op in ("sparse_linear", "qsparse_linear"):
        parts: Any = node.args["weight"]
        values, outputs = parts[0], int(parts[3][0])
        stored = graph.weights[values.name].size if isinstance(values, Weight) else 0
        return stored * _elements(node.outputs[0]) // max(1, outputs)
    if node.op in ("lstm", "gru", "rnn"):  # each step meets both weights
        both = [node.args[name] for name in ("weight_ih", "weight_hh")]
        steps = node.outputs[0].at(1)[1]
        return steps * sum(graph.weights[w.name].size for w in both if isinstance(w, Weight))
    if node.op not in (*_CONTRACTIONS, *_TRANSPOSED):
        return 0
    weight = node.args["weight"]
    shape = graph.weights[weight.name].shape if isinstance(weight, Weight) else ()
    if node.op in _TRANSPOSED:  # each input meets all weights of its channel
        x = graph.value(node.refs[0]) if node.refs else None
        return _elements(x) * math.prod(shape[1:]) if x is not None else 0
    return _elements(node.outputs[0]) * math.prod(shape[1:])


def _elements(value: Value) -> int:
    return math.prod(value.at(1))


def align(rows: Sequence[Sequence[str]], left: int) -> str:
    """Rows as text columns under a ruled head; the first `left` columns are flush left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    rule = "-" * max(len(line) for line in lines)
    return "\n".join([lines[0], rule, *lines[1:], rule])
