"""`run.stream()`: a frozen recurrent model fed chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from quernel.errors import ArgumentError, ShapeError, UnsupportedError
from quernel.graph.interpret import input_array
from quernel.graph.ir import Dim, Graph, Node, Ref, Value, Weight, leaves
from quernel.graph.rows import ELEMENTWISE

if TYPE_CHECKING:
    from quernel.graph.freeze import Frozen

Array = npt.NDArray[Any]

_STATES = {"lstm": ("h0", "c0"), "gru": ("h0",), "rnn": ("h0",)}
_BY_STEP = {"linear", "embedding", "one_hot", "dropout"}  # what a step becomes depends on it alone
_OF_THE_WHOLE = ELEMENTWISE | {"reshape", "unsqueeze"}  # what they make of a weight is no part of it
_BY_LAST_AXIS = {"softmax", "log_softmax", "concat"}


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
    inputs, nodes, last = dict(graph.inputs), [], []
    timed = {Ref(name) for name, value in graph.inputs.items() if len(value.shape) > 1}
    for node in graph.nodes:
        names = _STATES.get(node.op)
        if names is None:
            nodes.append(node)
            if timed & set(node.refs):
                _check_step(node)
                _check_places(graph, node, timed)
                timed.add(Ref(node.name))
            continue
        if node.args["reverse"] or node.args["lengths"] is not None:
            raise UnsupportedError(
                f"[stream] {node.name} walks from the end of its sequences, or through sequences of several lengths"
            )
        if node.args["h0"] is not None:
            raise UnsupportedError(
                f"[stream] {node.name} has an initial state of its own; leave it to the stream"
            )
        state = {key: f"{node.name}.{key}" for key in names}
        nodes.append(node.with_args(**{key: Ref(name) for key, name in state.items()}))
        shape = (Dim(), node.outputs[1].shape[1])
        inputs.update({name: Value(shape, node.outputs[1].dtype) for name in state.values()})
        last += [Ref(node.name, 1 + k) for k in range(len(names))]
        timed.add(Ref(node.name))
    if not last:
        raise UnsupportedError("[stream] the model has no recurrent layer; call the frozen model itself")
    streamed = replace(graph, inputs=inputs, nodes=tuple(nodes), outputs=(graph.outputs, tuple(last)))
    return streamed, len(last)


def _check_step(node: Node) -> None:
    """Refuses ops that see several steps at once."""
    if node.op in _BY_STEP or node.op in ELEMENTWISE:
        return
    rank = len(node.outputs[0].shape)
    if node.op in _BY_LAST_AXIS and node.args["dim"] in (-1, rank - 1):
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
    if rank < 3 or (node.op not in ELEMENTWISE and node.op != "concat"):
        return
    one_step = node.outputs[0].shape[1] == 1
    for leaf in leaves(node.args.values()):
        if leaf in timed or not isinstance(leaf, Ref | Weight):
            continue
        shape = graph.value(leaf).shape if isinstance(leaf, Ref) else graph.weights[leaf.name].shape
        if len(shape) >= rank - 1 and (shape[1 - rank] != 1 or (one_step and _may_be_a_part(graph, leaf))):
            raise UnsupportedError(
                f"[stream] {node.name} ({node.op}) has an operand {Value(shape, '')} that tells the steps of a chunk apart, as encodings "
                "of positions do; every chunk would begin with the first of them"
            )


def _may_be_a_part(graph: Graph, leaf: Ref | Weight) -> bool:
    """Whether an index or a number of steps may have had a part in it; arrays that forward makes may have any size."""
    if isinstance(leaf, Weight):
        return leaf.name.startswith("constant")
    if leaf.node in graph.inputs:
        return False
    node = graph.node(leaf.node)
    behind = [part for part in leaves(node.args.values()) if isinstance(part, Ref | Weight)]
    return node.op not in _OF_THE_WHOLE or any(_may_be_a_part(graph, part) for part in behind)
