"""Tracing: a model's forward as a graph, from shape rules alone.

The forward runs with tensors that have a shape and a dtype but no values; each op it calls becomes a node. It runs at
two batch sizes, and what differs between the two becomes a function of N; where training matters, a run in training
mode marks the arguments that follow it. No parameter, statistic, training flag or random state changes, except that
sizes left ``None`` are inferred as at any first use.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

import numpy as np

from quernel.errors import QuernelError, ShapeError, StateError, UnsupportedError
from quernel.graph.ir import (
    TRAINING,
    Arg,
    Dim,
    Fields,
    Graph,
    Literal,
    Node,
    Ref,
    Slice,
    Value,
    Weight,
    transform,
)
from quernel.nn.module import Module
from quernel.ops.create import tensor
from quernel.ops.op import Op, Spec, set_tracer
from quernel.ops.sparse_array import SparseArray
from quernel.tensor import Tensor

# Batch sizes of the two runs: nothing a layer is likely to have as a fixed size, and no multiples of each other.
_BATCHES = (11, 17)
_PROOF = 4  # a third, small and even: what is linear in N from 11 to 17 only by chance is not the same there
_INDICES = ("index", "indices")  # operands; lists elsewhere are sizes and the like
RECURRENT = ("lstm", "gru", "rnn")
UNPROVEN = re.compile(r"constant\d+")  # what weights are called that forward makes, or that nobody registered
_one_at_a_time = threading.RLock()  # modes belong to the modules, which threads may share


@dataclass(frozen=True)
class Input:
    """One input of a model: its shape without the batch, and its dtype."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    name: str = "input"


def trace(net: Module, inputs: Sequence[Input], *, training: bool = False) -> Graph:
    """Traces `net` called with `inputs`.

    Args:
        net: Any module. Its submodules name the nodes.
        inputs: One entry per argument of ``forward``; the batch axis comes first and is left out.
        training: Whether arguments that depend on training mode are marked :data:`~quernel.graph.ir.TRAINING`;
            otherwise the graph is that of ``net.eval()``.

    Raises:
        UnsupportedError: ``forward`` decides by values of tensors, by the batch size, or (if `training`) calls other
            ops in training than in evaluation.
        ShapeError: an op refuses these shapes.
    """
    inputs = _distinct(inputs)
    own = getattr(net, "graph", None)
    if isinstance(own, Graph):
        return _own_graph(own, inputs, training)
    with _one_at_a_time, _in_mode(net, False):
        first, second, third = (_run(net, inputs, batch) for batch in (*_BATCHES, _PROOF))
        proven = _of_all_steps(net, inputs, first)
    graph = _unify(first, second, _by_batch, "batch sizes 11 and 17")
    _unify(graph, third, _as_proved, "batch sizes 11, 17 and 4")
    if training:
        with _one_at_a_time, _in_mode(net, True):
            trained = _run(net, inputs, _BATCHES[0])
        marked = _unify(first, trained, _by_mode, "evaluation and training")
        nodes = (_merge_modes(n, m) for n, m in zip(graph.nodes, marked.nodes, strict=True))
        graph = replace(graph, nodes=tuple(nodes))
    return _named(graph, net, proven)


def _own_graph(graph: Graph, inputs: Sequence[Input], training: bool) -> Graph:
    """The graph of a module that is one, which serves the shapes that it was traced with."""
    asked, have = [tuple(i.shape) for i in inputs], [_sample(v) for v in graph.inputs.values()]
    if asked != have:
        raise ShapeError(
            f"[graph] the model was made for inputs of shape {have}, not {asked} (without the batch)"
        )
    if training:
        return graph

    def evaluated(arg: Arg) -> Arg:
        return False if arg is TRAINING else arg

    nodes = (replace(n, args={k: transform(v, evaluated) for k, v in n.args.items()}) for n in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


def _sample(value: Value) -> tuple[int, ...]:
    return tuple(d for d in value.shape if isinstance(d, int))


class _Tracer:
    """Notes ops down as nodes. Weights are named by a running number until the trace is over."""

    def __init__(self, net: Module) -> None:
        self.nodes: list[Node] = []
        self.weights: dict[str, Tensor] = {}
        self._parts = {id(module): (path, type(module).__name__) for path, module in net.named_modules()}
        self._scopes = [("", "")]  # path and class of the modules whose forward runs
        self._refs: dict[int, Arg] = {}
        self._alive: list[Any] = []  # ids in _refs stay theirs
        self._names: set[str] = set()

    def add_input(self, name: str, spec: Spec) -> Tensor:
        self._names.add(name)
        return self._stand_in(spec, Ref(name))

    def call(self, op: Op, arguments: dict[str, Any]) -> Any:
        """Receives an op's call (quernel.ops.op.Tracer)."""
        arguments = {
            key: tensor(value) if key in _INDICES and isinstance(value, list) else _as_tensors(value)
            for key, value in arguments.items()
        }
        args = {key: self.as_arg(value, op.name, key) for key, value in arguments.items()}
        specs = op.specs(arguments)
        single = isinstance(specs, Spec)
        made = (specs,) if isinstance(specs, Spec) else specs
        path, layer = self._scopes[-1]
        name = self._unique(path or op.name)
        values = tuple(Value(tuple(s.shape), s.dtype) for s in made)
        self.nodes.append(Node(name, op.name, args, values, layer, single))
        results = tuple(self._stand_in(s, Ref(name, i)) for i, s in enumerate(made))
        return results[0] if single else results

    @contextmanager
    def scope(self, part: object) -> Iterator[None]:
        """Names the nodes made inside after a module (quernel.ops.op.Tracer); one made in forward has no name."""
        self._scopes.append(self._parts.get(id(part), self._scopes[-1]))
        try:
            yield
        finally:
            self._scopes.pop()

    def as_arg(self, value: Any, op: str, key: str) -> Arg:
        """What stands for `value` in the graph."""
        if isinstance(value, Tensor):
            if id(value) not in self._refs:
                if value.is_traced:
                    raise StateError(f"[{op}] argument '{key}' comes from another trace")
                name = f"#{len(self.weights)}"
                self.weights[name] = value
                self._keep(value, Weight(name))
            return self._refs[id(value)]
        if isinstance(value, list | tuple):
            return tuple(self.as_arg(v, op, key) for v in value)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, slice):
            bounds = (self.as_arg(v, op, key) for v in (value.start, value.stop, value.step))
            return Slice(*bounds)  # type: ignore[arg-type]
        if isinstance(value, Literal | EllipsisType):
            return value
        raise UnsupportedError(
            f"[{op}] a graph cannot hold the argument '{key}' of type {type(value).__name__}"
        )

    def _stand_in(self, spec: Spec, ref: Ref) -> Tensor:
        value = Tensor.traced(spec)
        self._keep(value, ref)
        return value

    def _keep(self, value: Tensor, arg: Arg) -> None:
        self._refs[id(value)] = arg
        self._alive.append(value)

    def _unique(self, name: str) -> str:
        candidates = itertools.chain([name], (f"{name}:{count}" for count in itertools.count(1)))
        unused = next(c for c in candidates if c not in self._names)
        self._names.add(unused)
        return unused


def _as_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim > 0:
        return tensor(value)
    if isinstance(value, list | tuple):
        return type(value)(_as_tensors(v) for v in value)
    return value.parts if isinstance(value, SparseArray) else value


def _run(net: Module, inputs: Sequence[Input], batch: int) -> Graph:
    tracer = _Tracer(net)
    arguments = [tracer.add_input(i.name, Spec((batch, *i.shape), i.dtype)) for i in inputs]
    before = set_tracer(tracer)
    try:
        result = net(*arguments)
    except QuernelError as error:  # the user knows of no batch of 11
        error.args = (str(error).replace(f"({batch}, ", "(N, ").replace(f"({batch},)", "(N,)"),)
        raise
    finally:
        set_tracer(before)
    outputs = _outputs(tracer, result)
    values = {i.name: Value((batch, *i.shape), i.dtype) for i in inputs}
    return Graph(values, tuple(tracer.nodes), outputs, tracer.weights)


def _outputs(tracer: _Tracer, result: Any) -> Arg:
    if isinstance(result, list | tuple):
        return tuple(_outputs(tracer, r) for r in result)
    if isinstance(result, dict) and all(isinstance(name, str) for name in result):
        return Fields(tuple(result), tuple(_outputs(tracer, r) for r in result.values()))
    if isinstance(result, Tensor):
        arg = tracer.as_arg(result, "graph", "output")
        if isinstance(arg, Ref):
            return arg
    raise UnsupportedError(
        "[graph] forward must return tensors computed from its inputs, or tuples and dictionaries (by strings) of them; "
        f"got {type(result).__name__}"
    )


@contextmanager
def _in_mode(net: Module, training: bool) -> Iterator[None]:
    before = [(m, m.training) for m in net.modules()]
    net.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            if module.training != mode:
                module.training = mode


def _distinct(inputs: Sequence[Input]) -> list[Input]:
    if len(inputs) < 2:
        return list(inputs)
    return [replace(i, name=f"input{k}") if i.name == "input" else i for k, i in enumerate(inputs)]


# ---- two runs into one graph ----------------------------------------------------------------------------------------


class _Mismatch(Exception):
    pass


def _by_batch(a: Arg, b: Arg) -> Arg:
    if type(a) is int and type(b) is int:
        scale, rest = divmod(b - a, _BATCHES[1] - _BATCHES[0])
        if rest == 0 and scale > 0:
            return Dim(scale, a - scale * _BATCHES[0])
    raise _Mismatch


def _as_proved(a: Arg, b: Arg) -> Arg:
    if isinstance(a, Dim) and b == a.at(_PROOF):
        return a
    raise _Mismatch


def _by_mode(a: Arg, b: Arg) -> Arg:
    if a is False and b is True:
        return TRAINING
    raise _Mismatch


def _unify(one: Graph, two: Graph, differ: Callable[[Arg, Arg], Arg], runs: str) -> Graph:
    """The graph of which both runs are instances; `differ` says what two unequal leaves become."""

    def both(a: Arg, b: Arg) -> Arg:
        if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
            return tuple(both(x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, Fields) and isinstance(b, Fields) and a.names == b.names:
            return Fields(a.names, tuple(both(x, y) for x, y in zip(a.values, b.values, strict=True)))
        if isinstance(a, Slice) and isinstance(b, Slice):
            return Slice(both(a.start, b.start), both(a.stop, b.stop), both(a.step, b.step))  # type: ignore[arg-type]
        if isinstance(a, Weight) and isinstance(b, Weight):
            if one.weights[a.name] is two.weights[b.name] or _same_constant(
                one.weights[a.name], two.weights[b.name]
            ):
                return a
            raise _Mismatch("a tensor that forward makes is not the same in both")
        if type(a) is type(b) and (a == b or repr(a) == repr(b)):  # nan equals nan here
            return a
        return differ(a, b)

    def value(a: Value, b: Value) -> Value:
        shape = both(a.shape, b.shape)
        assert isinstance(shape, tuple)
        if a.dtype != b.dtype:
            raise _Mismatch
        return Value(shape, a.dtype)  # type: ignore[arg-type]

    nodes = []
    try:
        for a, b in zip(one.nodes, two.nodes, strict=False):
            where = f"at {a.name} ({a.op}) and {b.name} ({b.op})"
            if (a.name, a.op, len(a.outputs)) != (b.name, b.op, len(b.outputs)):
                raise _Mismatch
            args = {key: both(a.args[key], b.args[key]) for key in a.args}
            values = tuple(value(x, y) for x, y in zip(a.outputs, b.outputs, strict=True))
            nodes.append(replace(a, args=args, outputs=values))
        where = f"after {nodes[-1].name}" if nodes else "at its start"
        if len(one.nodes) != len(two.nodes):
            raise _Mismatch
        inputs = {name: value(v, two.inputs[name]) for name, v in one.inputs.items()}
        return Graph(inputs, tuple(nodes), both(one.outputs, two.outputs), one.weights)
    except _Mismatch as mismatch:
        why = f" ({mismatch})" if mismatch.args else ""
        raise UnsupportedError(
            f"[graph] forward takes different paths with {runs}: they part {where}{why}. A graph needs one path for all; "
            "keep what differs outside the model, or choose by a fixed attribute"
        ) from None


def _same_constant(a: Tensor, b: Tensor) -> bool:
    """Whether both runs made the same constant in forward, which is no parameter of the model."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and bool(np.array_equal(a.numpy(), b.numpy(), equal_nan=True))
    )


def _merge_modes(node: Node, marked: Node) -> Node:
    args = {k: TRAINING if marked.args[k] is TRAINING else v for k, v in node.args.items()}
    return replace(node, args=args)


def _of_all_steps(net: Module, inputs: Sequence[Input], graph: Graph) -> set[str]:
    """The constants of a recurrent model that are no rows of a longer table, though there is one step (graph/stream.py).

    They are those that a run with two steps reads in the same places.
    """
    registered = {id(value) for value in (*net.parameters(), *(b for _, b in net.named_buffers()))}
    made = {name for name, value in graph.weights.items() if id(value) not in registered}
    one_step = any(i.shape[:1] == (1,) for i in inputs)
    if not made or not one_step or all(node.op not in RECURRENT for node in graph.nodes):
        return set()
    longer = [replace(i, shape=(2, *i.shape[1:])) if i.shape[:1] == (1,) else i for i in inputs]
    try:
        other = _run(net, longer, _BATCHES[0])
    except Exception:  # noqa: BLE001 - a forward for one step alone may refuse two as it likes; then nothing is known
        return set()
    if [(n.name, n.op) for n in graph.nodes] != [(n.name, n.op) for n in other.nodes]:
        return set()
    for a, b in zip(graph.nodes, other.nodes, strict=True):
        pairs = zip(a.weights, b.weights, strict=False)
        same = {m for m, o in pairs if _same_constant(graph.weights[m], other.weights[o])}
        made -= set(a.weights) - same
    return made


def _named(graph: Graph, net: Module, proven: set[str]) -> Graph:
    """Names weights as the model does, and lists them in its order, with those that no op reads.

    Constants that ``forward`` made become buffers; the names of `proven` ones say that they are the same for all steps.
    """
    parameters = {name: p for name, p in net.named_parameters() if not p.is_unsized}
    state: dict[str, Tensor] = {**parameters, **dict(net.named_buffers())}
    names = {id(value): name for name, value in reversed(state.items())}
    table = {}
    for key, value in graph.weights.items():
        constant = f"constant{key[1:]}_of_all_steps" if key in proven else f"constant{key[1:]}"
        table[key] = names.get(id(value), constant)
    weights = {**state, **{table[key]: value for key, value in graph.weights.items()}}
    nodes = tuple(replace(n, args={k: _rename(v, table) for k, v in n.args.items()}) for n in graph.nodes)
    return replace(graph, nodes=nodes, weights=weights, buffers=frozenset(weights.keys() - parameters.keys()))


def _rename(arg: Arg, table: dict[str, str]) -> Arg:
    if isinstance(arg, tuple):
        return tuple(_rename(a, table) for a in arg)
    return Weight(table[arg.name]) if isinstance(arg, Weight) else arg


def inputs_of(net: Module, input_shape: Any = None) -> list[Input] | None:
    """What `net` is called with: as `input_shape` says, as its graph says, or as its first call was.

    Args:
        net: Any module.
        input_shape: The shape of one sample, or a list of such shapes for several inputs; None asks the module.

    Returns:
        One entry per input; None if nobody knows.

    Raises:
        ShapeError: `input_shape` is no shape.
    """
    if input_shape is not None:
        indices = any(getattr(module, "reads_indices", False) for module in net.modules())
        dtype = "int64" if indices else net.dtype or "float32"
        return [Input(shape, dtype) for shape in _input_shapes(input_shape)]
    graph = getattr(net, "graph", None)
    if isinstance(graph, Graph):
        return [Input(_sample(v), v.dtype, name) for name, v in graph.inputs.items()]
    seen = net.__dict__.get("_first_inputs")
    return None if seen is None else [Input(tuple(shape[1:]), dtype) for shape, dtype in seen]


def _input_shapes(input_shape: Any) -> list[tuple[int, ...]]:
    if isinstance(input_shape, int):
        return [(input_shape,)]
    shape = tuple(input_shape)
    shapes = [shape] if all(isinstance(d, int) for d in shape) else [tuple(s) for s in shape]
    if any(not isinstance(d, int) or d < 1 for s in shapes for d in s):
        raise ShapeError(
            f"[graph] input_shape must be sizes without the batch, such as (28, 28, 1), or a list of such for several "
            f"inputs; got {input_shape!r}"
        )
    return shapes
