"""`run.stream()`: a frozen recurrent model fed chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from quernel.errors import ArgumentError, ShapeError, UnsupportedError
from quernel.graph.interpret import input_array
from quernel.graph.ir import Arg, Dim, Graph, Node, Ref, Slice, Value, Weight, leaves
from quernel.graph.passes import separate
from quernel.graph.rows import ELEMENTWISE
from quernel.graph.trace import RECURRENT, UNPROVEN

if TYPE_CHECKING:
    from quernel.graph.freeze import Frozen

Array = npt.NDArray[Any]

_STATES = {name: ("h0", "c0") if name == "lstm" else ("h0",) for name in RECURRENT}
_BY_STEP = {"linear", "embedding", "one_hot", "dropout"}  # what a step becomes depends on it alone
_BY_LAST_AXIS = {"softmax", "log_softmax", "concat"}
# What these make of a weight is no part of it but by an index, which is an operand.
_OF_THE_WHOLE = ELEMENTWISE | {
    "reshape", "flatten", "permute", "broadcast_to", "concat", "softmax", "log_softmax", "layer_norm", "rms_norm", "sum", "mean",
    "max", "min", "linear", "matmul", "embedding", "index_select", "gather", "take_along_dim",
}  # fmt: skip


class Stream:
    """Sequences that arrive in chunks: the state after one is the state before the next.

    Any number of chunks gives the bits that the whole sequence gives. The length of a chunk is that of the frozen model's
    input.

    Attributes:
        state: What the next chunk begins with, an array (N, hidden) for each h and c; None: zeros. `Frozen.stream` takes
            it, in another process too.
    """

    def __init__(self, run: Frozen, count: int, state: Sequence[npt.ArrayLike] | None) -> None:
        declared = list(run.graph.inputs.items())
        self._run, self._inputs, self._states = run, declared[:-count], declared[-count:]
        self.state = None if state is None else self._checked(state)

    def _checked(self, state: Sequence[npt.ArrayLike]) -> tuple[Array, ...]:
        wanted = len(self._states)
        if not hasattr(state, "__len__"):
            raise ArgumentError(
                f"[stream] state is a sequence of {wanted} arrays, got {type(state).__name__}"
            )
        if len(state) != wanted:
            raise ShapeError(f"[stream] the model has {wanted} states, got {len(state)}")
        return tuple(input_array(s, *declared) for s, declared in zip(state, self._states, strict=True))

    def __call__(self, *inputs: npt.ArrayLike) -> Any:
        """The outputs of the next chunk.

        Raises:
            ShapeError: it has another number of rows than those before, or another shape than the frozen model takes.
        """
        if len(inputs) != len(self._inputs):
            names = ", ".join(name for name, _ in self._inputs)
            raise ShapeError(f"[stream] expected {len(self._inputs)} inputs ({names}), got {len(inputs)}")
        arrays = [input_array(x, *declared) for x, declared in zip(inputs, self._inputs, strict=True)]
        rows = len(arrays[0])
        state = self.state or tuple(np.zeros(v.at(rows), v.dtype) for _, v in self._states)
        if any(len(s) != rows for s in state):
            raise ShapeError(
                f"[stream] the chunk has {rows} rows, the state {len(state[0])}; another batch is another stream"
            )
        outputs, self.state = self._run(*arrays, *state)
        return outputs


def with_states(graph: Graph) -> tuple[Graph, int]:
    """`graph` with the initial states of its recurrent ops as further inputs, and the last ones beside its output.

    Returns:
        The graph, and how many states it has.

    Raises:
        UnsupportedError: there is no recurrent op, or what a step becomes depends on later ones, or on several.
    """
    _check(separate(graph))  # what fusion hides is an operand as well
    inputs, nodes, last = dict(graph.inputs), [], []
    for node in graph.nodes:
        names = _STATES.get(node.op)
        if names is None:
            nodes.append(node)
            continue
        state = {key: f"{node.name}.{key}" for key in names}
        nodes.append(node.with_args(**{key: Ref(name) for key, name in state.items()}))
        shape = (Dim(), node.outputs[1].shape[1])
        inputs.update({name: Value(shape, node.outputs[1].dtype) for name in state.values()})
        last += [Ref(node.name, 1 + k) for k in range(len(names))]
    streamed = replace(graph, inputs=inputs, nodes=tuple(nodes), outputs=(graph.outputs, tuple(last)))
    return streamed, len(last)


def _check(graph: Graph) -> None:
    """Refuses what chunks would make other numbers of than the whole sequence does."""
    steps = {node.outputs[0].shape[1] for node in graph.nodes if node.op in _STATES}
    if not steps:
        raise UnsupportedError("[stream] the model has no recurrent layer; call the frozen model itself")
    shapes = {Ref(name): value.shape for name, value in graph.inputs.items()}
    fed = {ref for ref, shape in shapes.items() if len(shape) > 1}
    # Those of which axis 1 is time; (N, D) may also be what is known of each row.
    timed = {ref for ref in fed if len(shapes[ref]) > 2 or shapes[ref][1] in steps}
    late: set[Ref] = set()  # made of last states
    for node in graph.nodes:
        made = [Ref(node.name, i) for i in range(len(node.outputs))]
        if node.op in _STATES:
            _check_recurrent(node, timed)
            timed.add(made[0])
            fed.add(made[0])
            late.update(made[1:])
            continue
        if fed & set(node.refs):
            _check_step(graph, node, timed)
            fed.update(made)
        if timed & set(node.refs):
            if late & set(node.refs):
                raise UnsupportedError(
                    f"[stream] {node.name} ({node.op}) gives the steps what only the last of them leaves"
                )
            _check_places(graph, node, timed)
            timed.update(made)
        elif late & set(node.refs):
            late.update(made)


def _check_recurrent(node: Node, timed: set[Ref]) -> None:
    if node.args["reverse"] or node.args["lengths"] is not None:
        raise UnsupportedError(
            f"[stream] {node.name} walks from the end of its sequences, or through sequences of several lengths"
        )
    if node.args["h0"] is not None:
        raise UnsupportedError(
            f"[stream] {node.name} has an initial state of its own; leave it to the stream"
        )
    if node.args["x"] not in timed:
        raise UnsupportedError(f"[stream] {node.name} walks through steps that are none of the inputs'")


def _check_step(graph: Graph, node: Node, timed: set[Ref]) -> None:
    """Refuses ops that see several steps at once."""
    rank = len(node.outputs[0].shape)
    ranks = {len(graph.value(ref).shape) for ref in timed & set(node.refs)}
    time_is_last = rank == 2 and bool(ranks)
    if node.op in ELEMENTWISE and ranks <= {rank}:
        return
    if node.op in _BY_STEP and not (node.op == "linear" and time_is_last):
        return
    if node.op in _BY_LAST_AXIS and node.args["dim"] in (-1, rank - 1) and not time_is_last:
        return
    shape = node.args.get("normalized_shape")
    if (
        node.op in ("layer_norm", "rms_norm")
        and len(shape if isinstance(shape, tuple) else (shape,)) == rank - 2
    ):
        return
    raise UnsupportedError(f"[stream] {node.name} ({node.op}) may look at several steps at once")


def _check_places(graph: Graph, node: Node, timed: set[Ref]) -> None:
    """Refuses operands that differ from step to step, such as encodings of positions: each chunk would count anew.

    Of chunks of one step a shape does not tell: there it counts whether it may be a row of a longer table.
    """
    rank = len(node.outputs[0].shape)
    if node.op not in ELEMENTWISE and node.op != "concat":
        return
    one_step = node.outputs[0].shape[1] == 1
    for leaf in leaves(node.args.values()):
        if leaf in timed or not isinstance(leaf, Ref | Weight):
            continue
        shape = graph.value(leaf).shape if isinstance(leaf, Ref) else graph.weights[leaf.name].shape
        if len(shape) < rank - 1:
            continue
        if shape[1 - rank] != 1:
            raise UnsupportedError(
                f"[stream] {node.name} ({node.op}) has an operand {Value(shape, '')} that tells the steps of a chunk apart, as encodings "
                "of positions do; every chunk would begin with the first of them"
            )
        if one_step and _may_be_a_part(graph, leaf):
            raise UnsupportedError(
                f"[stream] {node.name} ({node.op}) has an operand {Value(shape, '')} that may tell the steps of a sequence apart, as a row "
                "of a table of positions does. If it is the same for all steps, register it as a buffer, or drop its leading axes"
            )


def _may_be_a_part(graph: Graph, leaf: Ref | Weight) -> bool:
    """Whether an index or a number of steps may have had a part in it."""
    if isinstance(leaf, Weight):
        return UNPROVEN.fullmatch(leaf.name) is not None
    if leaf.node in graph.inputs:
        return False
    node = graph.node(leaf.node)
    whole = node.op in _OF_THE_WHOLE or (node.op == "getitem" and _takes_all(node.args["index"]))
    behind = [part for part in leaves(node.args.values()) if isinstance(part, Ref | Weight)]
    return not whole or any(_may_be_a_part(graph, part) for part in behind)


def _takes_all(index: Arg) -> bool:
    """Whether an index adds axes, and no more."""
    items = index if isinstance(index, tuple) else (index,)
    return all(item is None or item is Ellipsis or item == Slice(None, None, None) for item in items)
