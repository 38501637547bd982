"""Which parts of a graph run in int8, and which values share a scale.

An op of int8 work is one of four kinds: a *contraction* (linear, conv1d, conv2d with parameters for weights), an *addition* of two
equal shapes, a *unary* function (a table of 256 entries), or a *move*, whose result lies on its input's scale
(pooling, reshape, concat, …). Contractions always run in int8. The others do where they stand between int8 values: fed
by one, and leading to a contraction. So a model's input is quantized once, and what comes after its last contraction
is computed in float, straight from the int32 sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from quernel.graph.ir import Arg, Graph, Node, Ref, Weight
from quernel.graph.passes import drop_dead, rewire

CONTRACTIONS = ("linear", "conv1d", "conv2d")
UNARY = (
    *("relu", "tanh", "sigmoid", "gelu", "silu", "relu6", "hardswish", "hardsigmoid", "hardtanh"),
    *("leaky_relu", "elu", "selu", "celu", "softplus", "mish", "logsigmoid", "softsign", "clip"),
    *("neg", "abs", "square", "sign", "floor", "ceil", "round", "sin", "cos", "erf"),
)
CLAMPS = ("relu", "relu6")  # activations that a contraction keeps: bounds of what it stores
MOVES = (
    *("max_pool2d", "avg_pool2d", "global_max_pool2d", "global_avg_pool2d", "mean"),
    *("adaptive_max_pool2d", "adaptive_avg_pool2d", "interpolate"),
    *("reshape", "flatten", "permute", "getitem", "concat", "pad"),
)


def kind(graph: Graph, node: Node) -> str | None:
    """What int8 work `node` could be: "contraction", "addition", "unary", "move", or None."""
    values = [graph.value(ref) for ref in node.refs]
    if not values or any(v.dtype != "float32" for v in (*values, *node.outputs)) or not node.single:
        return None
    if node.op in CONTRACTIONS:
        weight = node.args["weight"]
        # A table that is no parameter, such as the cosines of a spectrogram, is there for its exact values.
        constant = isinstance(weight, Weight) and weight.name not in graph.buffers
        constant = constant and isinstance(node.args["bias"], Weight | None)
        plain = node.args["activation"] in (None, *CLAMPS) and node.args["residual"] is None
        return "contraction" if constant and plain and len(node.refs) == 1 else None
    if node.op == "add":
        return "addition" if len(node.refs) == 2 and len({v.shape for v in values}) == 1 else None
    if node.op in UNARY:
        return "unary"
    return "move" if node.op in MOVES and not node.weights and _has_int8_form(graph, node) else None


def _has_int8_form(graph: Graph, node: Node) -> bool:
    """Whether these arguments of a move leave its values on its input's scale, and there is a kernel."""
    args = node.args
    match node.op:
        case "pad":
            return args["mode"] != "constant" or args["value"] == 0
        case "mean":
            return _is_global(node)
        case "max_pool2d":
            return args["dilation"] in (1, (1, 1)) and args["ceil_mode"] is False
        case "avg_pool2d":
            return args["ceil_mode"] is False
        case "adaptive_max_pool2d" | "adaptive_avg_pool2d":
            return even_window(graph, node) is not None
        case "interpolate":
            return args["mode"] in ("nearest", "nearest-exact")
    return True


def even_window(graph: Graph, node: Node) -> tuple[int, int] | None:
    """The window of which an adaptive pooling is the tiling, if all of its windows have one size."""
    window = []
    for size, out in zip(graph.value(node.refs[0]).shape[1:3], node.outputs[0].shape[1:3], strict=True):
        if not isinstance(size, int) or not isinstance(out, int) or size % out:
            return None
        window.append(size // out)
    return window[0], window[1]


def _is_global(node: Node) -> bool:
    """Whether a mean is that of `global_avg_pool2d`."""
    axis = node.args["dim"]
    behind = isinstance(axis, tuple) and sorted(a % 4 for a in axis if isinstance(a, int)) == [1, 2]
    return behind and len(node.outputs[0].shape) == 2


@dataclass
class Regions:
    """The part of a graph that runs in int8.

    Attributes:
        kinds: The kind of each node that does, by name.
        stored: The values that nodes hand on as uint8.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    stored: set[Ref] = field(default_factory=set)


def find(graph: Graph) -> Regions:
    """Chooses what runs in int8, as the module's head says."""
    kinds = {node.name: found for node in graph.nodes if (found := kind(graph, node))}
    users = graph.users()
    leads: set[Ref] = set()
    for node in reversed(graph.nodes):
        ref = Ref(node.name)
        readers = [n for n in users.get(ref, []) if n.name in kinds]
        if any(kinds[n.name] == "contraction" or Ref(n.name) in leads for n in readers):
            leads.add(ref)
    chosen = Regions()
    for node in graph.nodes:
        ref = Ref(node.name)
        fed = any(r in chosen.stored for r in node.refs)
        if node.name in kinds and (kinds[node.name] == "contraction" or (fed and ref in leads)):
            chosen.kinds[node.name] = kinds[node.name]
            if ref in leads:
                chosen.stored.add(ref)
    return chosen


@dataclass(frozen=True)
class Clamp:
    """Bounds that an int8 node puts on what it stores: `ref` had them in the float graph."""

    ref: Ref
    lo: float
    hi: float


def bounds(op: str, args: Mapping[str, Arg]) -> tuple[float, float] | None:
    """The range to which an op limits its input, if that is all it does."""
    match op:
        case "relu":
            return 0.0, math.inf
        case "relu6":
            return 0.0, 6.0
        case "hardtanh":
            lo, hi = args["min_val"], args["max_val"]
        case "clip":
            lo, hi = (
                (-math.inf if args["min"] is None else args["min"]),
                (math.inf if args["max"] is None else args["max"]),
            )
        case _:
            return None
    return (lo, hi) if isinstance(lo, int | float) and isinstance(hi, int | float) and lo <= hi else None


def absorb_clamps(graph: Graph, regions: Regions) -> tuple[Graph, dict[str, Clamp]]:
    """Drops each int8 relu, relu6, hardtanh or clip that is the only reader of an int8 sum, which clamps anyhow.

    Returns:
        The graph, and for each such addition or contraction the clamp whose range it now has.
    """
    users = graph.users()
    moved: dict[Ref, Ref] = {}
    clamped: dict[str, Clamp] = {}
    for name, found in regions.kinds.items():
        readers = users.get(Ref(name), [])
        if found not in ("addition", "contraction") or len(readers) != 1 or Ref(name) in graph.results:
            continue
        if graph.node(name).args.get("activation") is not None or Ref(name) not in regions.stored:
            continue
        reader = readers[0]
        limits = bounds(reader.op, reader.args)
        if limits and regions.kinds.get(reader.name) == "unary":
            clamped[name] = Clamp(Ref(reader.name), *limits)
            moved[Ref(reader.name)] = Ref(name)
    return drop_dead(rewire(graph, graph.nodes, moved)), clamped


class Groups:
    """Values that must lie on one scale: disjoint sets, merged by moves."""

    def __init__(self, graph: Graph, regions: Regions) -> None:
        self._parent: dict[Ref, Ref] = {}
        for node in graph.nodes:
            if regions.kinds.get(node.name) == "move":
                self._merge([Ref(node.name), *node.refs])

    def root(self, ref: Ref) -> Ref:
        """The value that stands for the set of `ref`."""
        while ref in self._parent:
            ref = self._parent[ref]
        return ref

    def _merge(self, refs: Iterable[Ref]) -> None:
        first, *rest = (self.root(ref) for ref in refs)
        for ref in rest:
            if self.root(ref) != self.root(first):
                self._parent[self.root(ref)] = self.root(first)
