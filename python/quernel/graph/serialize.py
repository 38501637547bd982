"""Graphs as JSON, and the checks that a graph from a file must pass before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from types import EllipsisType
from typing import Any

from quernel.errors import ArgumentError
from quernel.graph.ir import (
    Arg,
    Dim,
    Fields,
    Graph,
    Literal,
    Mode,
    Node,
    Ref,
    Resolver,
    Slice,
    Value,
    Weight,
    leaves,
)
from quernel.ops.op import OPS, Spec
from quernel.tensor import Tensor

_CHECKED_BATCHES = (1, 7)
# What a shape rule may trip over if a file hands it nonsense.
_RULE_ERRORS = (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError)


def to_json(graph: Graph) -> dict[str, Any]:
    """`graph` as plain JSON values, without the numbers in its weights."""
    return {
        "inputs": {name: _value(v) for name, v in graph.inputs.items()},
        "nodes": [_node(node) for node in graph.nodes],
        "outputs": _arg(graph.outputs),
        "weights": list(graph.weights),
        "buffers": sorted(graph.buffers),
    }


def from_json(data: Any, weights: Mapping[str, Tensor]) -> Graph:
    """The graph that :func:`to_json` described, with `weights` by name.

    Raises:
        ArgumentError: the description contradicts itself, its weights, or an op's shape rule.
    """
    try:
        inputs = {str(name): _read_value(v) for name, v in data["inputs"].items()}
        nodes = tuple(_read_node(n) for n in data["nodes"])
        outputs = _read_arg(data["outputs"])
        names = [str(name) for name in data["weights"]]
        buffers = frozenset(str(name) for name in data["buffers"])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArgumentError(
            f"[graph] the description is incomplete ({type(error).__name__}: {error})"
        ) from None
    if sorted(names) != sorted(weights):
        raise ArgumentError(f"[graph] its weights are {sorted(names)}, the tensors {sorted(weights)}")
    graph = Graph(inputs, nodes, outputs, {name: weights[name] for name in names}, buffers & weights.keys())
    check(graph)
    return graph


def check(graph: Graph) -> None:
    """Checks names, order, ops and every shape; computes nothing.

    Raises:
        ArgumentError: something does not fit; the message names the node.
    """
    known = {Ref(name) for name in graph.inputs}
    for node in graph.nodes:
        _require(node.op in OPS, node, f"unknown op '{node.op}'")
        _require(Ref(node.name) not in known, node, "its name is used twice")
        for ref in node.refs:
            _require(ref in known, node, f"reads '{ref.node}', which does not exist before it")
        _require(
            bool(node.outputs) and (len(node.outputs) == 1 or not node.single), node, "has no fitting outputs"
        )
        known.update(Ref(node.name, i) for i in range(len(node.outputs)))
    results = list(leaves([graph.outputs]))
    if not results or not all(isinstance(r, Ref) and r in known for r in results):
        raise ArgumentError("[graph] the outputs are not values of the graph")
    for batch in _CHECKED_BATCHES:
        _check_shapes(graph, batch)


def _require(condition: bool, node: Node, message: str) -> None:
    if not condition:
        raise ArgumentError(f"[graph] node '{node.name}': {message}")


def _check_shapes(graph: Graph, batch: int) -> None:
    values = {Ref(name): Tensor.traced(Spec(v.at(batch), v.dtype)) for name, v in graph.inputs.items()}

    stand_in = Resolver(values, graph.weights, batch)
    for node in graph.nodes:
        try:
            specs = OPS[node.op].specs({key: stand_in(arg) for key, arg in node.args.items()})
        except _RULE_ERRORS as error:
            raise ArgumentError(f"[graph] node '{node.name}': {error}") from None
        made = (specs,) if isinstance(specs, Spec) else specs
        expected = tuple(Spec(v.at(batch), v.dtype) for v in node.outputs)
        _require(tuple(made) == expected, node, f"says that it makes {expected}, its op makes {tuple(made)}")
        for index, spec in enumerate(made):
            values[Ref(node.name, index)] = Tensor.traced(spec)
        for ref in graph.last_reads[node.name]:
            values.pop(ref, None)


# ---- JSON -----------------------------------------------------------------------------------------------------------


def _node(node: Node) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": node.name,
        "op": node.op,
        "args": {k: _arg(v) for k, v in node.args.items()},
    }
    record["outputs"] = [_value(v) for v in node.outputs]
    if node.layer:
        record["layer"] = node.layer
    if not node.single:
        record["single"] = False
    return record


def _read_node(data: Any) -> Node:
    args = {str(k): _read_arg(v) for k, v in data["args"].items()}
    outputs = tuple(_read_value(v) for v in data["outputs"])
    layer, single = str(data.get("layer", "")), data.get("single", True) is True
    return Node(str(data["name"]), str(data["op"]), args, outputs, layer, single)


def _value(value: Value) -> dict[str, Any]:
    return {"shape": [_arg(d) for d in value.shape], "dtype": value.dtype}


def _read_value(data: Any) -> Value:
    shape = tuple(_read_arg(d) for d in data["shape"])
    for extent in shape:
        if type(extent) is not int and not isinstance(extent, Dim):
            raise TypeError(f"{extent!r} is no extent")
        if type(extent) is int and extent < 0:
            raise ArgumentError(f"[graph] an extent of {extent}")
    return Value(shape, str(data["dtype"]))  # type: ignore[arg-type]


def _arg(arg: Arg) -> Any:
    match arg:
        case tuple():
            return [_arg(a) for a in arg]
        case Fields():
            return {"fields": dict(zip(arg.names, map(_arg, arg.values), strict=True))}
        case Ref():
            return {"ref": arg.node} if arg.index == 0 else {"ref": arg.node, "index": arg.index}
        case Weight():
            return {"weight": arg.name}
        case Dim():
            return {"dim": [arg.scale, arg.offset]}
        case Mode():
            return {"mode": arg.value}
        case Slice():
            return {"slice": [_arg(arg.start), _arg(arg.stop), _arg(arg.step)]}
        case EllipsisType():
            return {"ellipsis": True}
    return arg


def _read_arg(data: Any) -> Arg:
    match data:
        case list():
            return tuple(_read_arg(d) for d in data)
        case {"ref": str() as node}:
            index = data.get("index", 0)
            if type(index) is not int:
                raise TypeError(f"{index!r} is no index")
            return Ref(node, index)
        case {"fields": dict() as fields}:
            return Fields(tuple(map(str, fields)), tuple(_read_arg(d) for d in fields.values()))
        case {"weight": str() as name}:
            return Weight(name)
        case {"dim": [int() as scale, int() as offset]} if scale > 0:
            return Dim(scale, offset)
        case {"mode": "training"}:
            return Mode.TRAINING
        case {"ellipsis": True}:
            return Ellipsis
        case {"slice": [start, stop, step]}:
            return Slice(*(_read_bound(part) for part in (start, stop, step)))
    if not isinstance(data, Literal):
        raise TypeError(f"{data!r} is no argument")
    return data


def _read_bound(data: Any) -> int | Dim | None:
    bound = _read_arg(data)
    if bound is None or type(bound) is int or isinstance(bound, Dim):
        return bound
    raise TypeError(f"{data!r} is no bound of a slice")
