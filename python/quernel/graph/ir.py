"""The graph: a traced run of ops as named nodes, in the order they ran.

A graph is data. Passes take one and return another (graph/passes.py), `run` calls its ops one by one
(graph/interpret.py), `to_json` and `from_json` put it into a file. Extents that follow the batch size are
:class:`Dim`, arguments that follow ``net.train()`` / ``net.eval()`` are :data:`TRAINING`; everything else is fixed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import EllipsisType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quernel.tensor import Tensor


@dataclass(frozen=True, slots=True)
class Dim:
    """An extent ``scale * N + offset`` of a batch of N."""

    scale: int = 1
    offset: int = 0

    def at(self, batch: int) -> int:
        """The extent at batch size `batch`."""
        return self.scale * batch + self.offset

    def __str__(self) -> str:
        text = "N" if self.scale == 1 else f"{self.scale}N"
        return text if self.offset == 0 else f"{text}{self.offset:+d}"


class Mode(enum.Enum):
    """Argument values that depend on how the model runs."""

    TRAINING = "training"


TRAINING = Mode.TRAINING


@dataclass(frozen=True, slots=True)
class Ref:
    """Output `index` of the node (or the graph input) called `node`."""

    node: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class Weight:
    """The tensor called `name` in ``Graph.weights``."""

    name: str


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice inside an index."""

    start: Extent | None
    stop: Extent | None
    step: Extent | None


@dataclass(frozen=True, slots=True)
class Fields:
    """A dictionary in what the model returns."""

    names: tuple[str, ...]
    values: tuple[Arg, ...]


Extent = int | Dim
Literal = None | bool | int | float | str
Leaf = Literal | EllipsisType | Slice | Dim | Mode | Ref | Weight
Arg = Leaf | Fields | tuple["Arg", ...]


@dataclass(frozen=True, slots=True)
class Value:
    """Shape and dtype of a node's output; extents may be symbolic."""

    shape: tuple[Extent, ...]
    dtype: str

    def at(self, batch: int) -> tuple[int, ...]:
        """The shape at batch size `batch`."""
        return tuple(d.at(batch) if isinstance(d, Dim) else d for d in self.shape)

    def __str__(self) -> str:
        return "(" + ", ".join(str(d) for d in self.shape) + ("," if len(self.shape) == 1 else "") + ")"


@dataclass(frozen=True, slots=True)
class Node:
    """One call of the op `op` (a key of ``ops.OPS``) with `args` by parameter name.

    Attributes:
        name: Unique in its graph; the layer's path in the model where there is one (``"3"``, ``"body.conv1"``).
        layer: The class of the layer that called the op, or "".
        outputs: One :class:`Value` per output.
        single: Whether the op returns a tensor rather than a tuple of them.
    """

    name: str
    op: str
    args: Mapping[str, Arg]
    outputs: tuple[Value, ...]
    layer: str = ""
    single: bool = True

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The values it reads, in argument order."""
        return tuple(leaf for leaf in leaves(self.args.values()) if isinstance(leaf, Ref))

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights it reads, in argument order."""
        return tuple(leaf.name for leaf in leaves(self.args.values()) if isinstance(leaf, Weight))

    def with_args(self, **changes: Arg) -> Node:
        """The node with some arguments replaced."""
        return replace(self, args={**self.args, **changes})


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run.

    Attributes:
        inputs: Names and values of what the model is called with.
        outputs: A :class:`Ref`, or tuples and :class:`Fields` of them as the model returns them.
        weights: Every tensor that nodes name, parameters and others.
        buffers: Names of those weights that are no parameters.
    """

    inputs: Mapping[str, Value]
    nodes: tuple[Node, ...]
    outputs: Arg
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()

    def node(self, name: str) -> Node:
        """The node called `name`."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"no node '{name}' in the graph")

    def value(self, ref: Ref) -> Value:
        """Shape and dtype of what `ref` names."""
        if ref.node in self.inputs:
            return self.inputs[ref.node]
        return self.node(ref.node).outputs[ref.index]

    @property
    def results(self) -> tuple[Ref, ...]:
        """The outputs as a flat tuple."""
        return tuple(leaf for leaf in leaves([self.outputs]) if isinstance(leaf, Ref))

    def users(self) -> dict[Ref, list[Node]]:
        """The nodes that read each value, in order; values nobody reads are absent. Outputs do not count."""
        table: dict[Ref, list[Node]] = {}
        for node in self.nodes:
            for ref in dict.fromkeys(node.refs):
                table.setdefault(ref, []).append(node)
        return table

    @cached_property
    def last_reads(self) -> dict[str, list[Ref]]:
        """For each node, the values that nothing reads after it."""
        done = set(self.results)
        table: dict[str, list[Ref]] = {}
        for node in reversed(self.nodes):
            made = [Ref(node.name, i) for i in range(len(node.outputs))]
            ends = [ref for ref in dict.fromkeys([*node.refs, *made]) if ref not in done]
            done.update(ends)
            table[node.name] = ends
        return table

    def __str__(self) -> str:
        lines = [f"{name}: {value.dtype}{value}" for name, value in self.inputs.items()]
        for node in self.nodes:
            args = ", ".join(f"{k}={show(v)}" for k, v in node.args.items() if v is not None)
            shapes = ", ".join(f"{v.dtype}{v}" for v in node.outputs)
            lines.append(f"{node.name} = {node.op}({args}) -> {shapes}")
        return "\n".join([*lines, f"return {show(self.outputs)}"])


def leaves(args: Iterable[Arg]) -> Iterator[Arg]:
    """Every argument that holds no others, in order."""
    for arg in args:
        if isinstance(arg, tuple):
            yield from leaves(arg)
        elif isinstance(arg, Fields):
            yield from leaves(arg.values)
        else:
            yield arg


def transform(arg: Arg, fn: Callable[[Arg], Arg]) -> Arg:
    """`arg` with `fn` applied to each of its leaves."""
    if isinstance(arg, tuple):
        return tuple(transform(a, fn) for a in arg)
    if isinstance(arg, Fields):
        return Fields(arg.names, tuple(transform(a, fn) for a in arg.values))
    return fn(arg)


def show(arg: Arg) -> str:
    """`arg` as one would write it."""
    match arg:
        case tuple():
            return "(" + ", ".join(show(a) for a in arg) + ")"
        case Fields():
            return (
                "{" + ", ".join(f"{n}: {show(a)}" for n, a in zip(arg.names, arg.values, strict=True)) + "}"
            )
        case Ref():
            return arg.node if arg.index == 0 else f"{arg.node}[{arg.index}]"
        case Weight():
            return f"@{arg.name}"
        case Dim():
            return str(arg)
        case Mode():
            return f"<{arg.value}>"
        case Slice():
            return ":".join("" if part is None else str(part) for part in (arg.start, arg.stop, arg.step))
        case EllipsisType():
            return "..."
    return repr(arg)


class Resolver:
    """Turns arguments into what an op is called with.

    Args:
        values: What each :class:`Ref` stands for; may change while the resolver is in use.
        weights: What each :class:`Weight` stands for.
        batch: N.
        training: What :data:`TRAINING` stands for.
    """

    def __init__(
        self, values: Mapping[Ref, Tensor], weights: Mapping[str, Tensor], batch: int, training: bool = False
    ) -> None:
        self._values, self._weights, self._batch, self._training = values, weights, batch, training

    def __call__(self, arg: Arg) -> Any:
        match arg:
            case Ref():
                return self._values[arg]
            case Weight():
                return self._weights[arg.name]
            case tuple():
                return tuple(self(a) for a in arg)
            case Fields():
                return {name: self(a) for name, a in zip(arg.names, arg.values, strict=True)}
            case Dim():
                return arg.at(self._batch)
            case Mode():
                return self._training
            case Slice():
                return slice(self(arg.start), self(arg.stop), self(arg.step))
        return arg
