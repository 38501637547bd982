"""Runs a graph by calling its ops, so that whatever sees ops (tape, plan, tracer) sees a graph's run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quernel import recording
from quernel.arrays import array_of
from quernel.errors import DTypeError, ShapeError
from quernel.graph.ir import Dim, Graph, Node, Ref, Resolver, Value
from quernel.tensor import Tensor

Observer = Callable[[Ref, Tensor], None]


def run(
    graph: Graph,
    inputs: Sequence[Tensor],
    *,
    weights: Mapping[str, Tensor] | None = None,
    training: bool = False,
    observe: Observer | None = None,
) -> Any:
    """Runs `graph` on `inputs`, in the order of ``graph.inputs``.

    Args:
        weights: Replaces ``graph.weights``.
        training: What :data:`~quernel.graph.ir.TRAINING` stands for.
        observe: Called with every value, inputs first, as it appears.

    Returns:
        A Tensor, or tuples and dictionaries of them as ``graph.outputs`` has it.
    """
    weights = graph.weights if weights is None else weights
    batch = batch_size(graph, [x.shape for x in inputs])
    values: dict[Ref, Any] = {Ref(name): x for name, x in zip(graph.inputs, inputs, strict=True)}
    if observe is not None:
        for ref, x in list(values.items()):
            observe(ref, x)

    resolve = Resolver(values, weights, batch, training)
    record = recording.current()
    for node in graph.nodes:
        if record is not None:
            record.native.set_label(node.name)
        result = call(node, {key: resolve(arg) for key, arg in node.args.items()})
        for index, value in enumerate((result,) if node.single else result):
            values[Ref(node.name, index)] = value
            if observe is not None:
                observe(Ref(node.name, index), value)
        for ref in graph.last_reads[node.name]:
            values.pop(ref, None)
    return resolve(graph.outputs)


def call(node: Node, arguments: dict[str, Any]) -> Any:
    """Calls the op of `node`."""
    from quernel import ops

    return getattr(ops, node.op)(**arguments)


def input_array(x: Any, name: str, value: Value) -> npt.NDArray[Any]:
    """`x` as a C-contiguous array of the input's dtype and rank."""
    array = array_of("frozen", f"input '{name}'", x)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise DTypeError(f"[frozen] input '{name}' must hold numbers, got {array.dtype}")
    if array.dtype.kind == "f" and np.dtype(value.dtype).kind in "biu":
        raise DTypeError(f"[frozen] input '{name}' takes {value.dtype}, got {array.dtype}")
    if array.ndim != len(value.shape):
        without = tuple(d for d in value.shape if not isinstance(d, Dim))
        hint = "; add the batch axis: x[None]" if array.shape == without else ""
        raise ShapeError(f"[frozen] input '{name}' must have shape {value}, got {array.shape}{hint}")
    return np.ascontiguousarray(array, dtype=np.dtype(value.dtype))


def batch_size(graph: Graph, shapes: Sequence[tuple[int, ...]]) -> int:
    """N of a call with inputs of these shapes.

    Raises:
        ShapeError: a shape does not fit the graph's input, or two inputs disagree on N.
    """
    if len(shapes) != len(graph.inputs):
        raise ShapeError(
            f"[graph] expected {len(graph.inputs)} inputs ({', '.join(graph.inputs)}), got {len(shapes)}"
        )
    batch: int | None = None
    for (name, value), shape in zip(graph.inputs.items(), shapes, strict=True):
        here = _match(value, shape)
        if here is None or (batch is not None and here not in (batch, -1)):
            at = "" if batch is None or here is None else f" with N = {batch} as in the inputs before"
            raise ShapeError(f"[graph] input '{name}' must have shape {value}{at}, got {shape}")
        batch = batch if here == -1 else here
    return 1 if batch is None else batch


def _match(value: Value, shape: tuple[int, ...]) -> int | None:
    """N with which `value` has this shape, -1 if it has it with any, None if with none."""
    batch = -1
    if len(shape) != len(value.shape):
        return None
    for extent, size in zip(value.shape, shape, strict=True):
        if isinstance(extent, Dim):
            n, rest = divmod(size - extent.offset, extent.scale)
            if rest or n < 0 or batch not in (-1, n):
                return None
            batch = n
        elif extent != size:
            return None
    return batch
