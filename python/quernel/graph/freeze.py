"""`net.freeze()`: a model as plans, for inference from any number of threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from quernel.errors import ArgumentError, ShapeError, StateError
from quernel.graph.interpret import batch_size, input_array, run
from quernel.graph.ir import Arg, Fields, Graph, Ref
from quernel.graph.passes import optimize
from quernel.graph.pieces import Caches, piece_rows, row_costs
from quernel.graph.rows import independent_rows
from quernel.graph.sparse import keep_dense
from quernel.graph.stream import Stream, with_states
from quernel.graph.trace import Input, inputs_of, trace
from quernel.jit import FrozenBatch, FrozenMemory, FrozenPlan, record_frozen
from quernel.nn.module import Module
from quernel.ops.create import tensor
from quernel.ops.dtypes import FLOATING
from quernel.runtime import cache_nbytes, default_device, device, num_threads
from quernel.tensor import Tensor

Array = npt.NDArray[Any]

_MAX_BATCHES = 32  # sizes of which is remembered how they run


class Memory(NamedTuple):
    """Bytes that a frozen model holds."""

    weights: int  # its copy, from which plans for further batch sizes are recorded and which is pickled
    packed: int  # as the kernels read them, where that is another layout
    arena: int  # intermediate results of one call, at most


class Frozen:
    """A model for inference alone: NumPy arrays in, fresh NumPy arrays out, one native call.

    It holds its own copy of the weights, as they were when it was made, packed once for all batch sizes. There is a
    plan per number of rows 1, 2, 3, 4, 6, 8, 12, 16, …, `max_batch`, recorded when first needed; a batch is padded to the
    next of them, or runs in pieces, each of them on one thread (see `quernel.graph.pieces`). Neither changes a bit of
    the result. (A model that mixes the rows of a batch gets a plan for each batch size that it meets.) Any number of
    threads may call it at once, and it can be pickled.

    Args:
        source: The model's graph, which is optimized here (see `quernel.graph.passes`), or a module of its own, which is
            traced at the first call with that call's shapes.
        max_batch: The most rows that run together; larger batches run in pieces. It decides too from which
            density on a sparse weight is kept dense (`quernel.graph.sparse`).

    Example:
        >>> net = qn.nn.Sequential(qn.nn.Linear(4, 8), qn.nn.ReLU(), qn.nn.Linear(8, 2))
        >>> run = net.freeze(max_batch=64, input_shape=(4,))
        >>> run(np.zeros((5, 4), np.float32)).shape
        (5, 2)
    """

    def __init__(self, source: Graph | Module, max_batch: int = 64) -> None:
        if type(max_batch) is not int or max_batch < 1:
            raise ArgumentError(f"[freeze] max_batch must be a whole number of at least 1, got {max_batch!r}")
        self._max_batch = max_batch
        self._buckets = [1]
        while self._buckets[-1] < max_batch:
            self._buckets.append(bucket(self._buckets[-1] + 1, max_batch))
        self._lock = threading.RLock()
        self._home = default_device()  # of a model without weights
        self._graph: Graph | None = None
        self._streamed: tuple[Frozen, int] | None = None  # the same with states, and how many
        self._pending = source if isinstance(source, Module) else None
        self._reset()
        if isinstance(source, Graph):
            self._use(source)

    def _use(self, graph: Graph) -> None:
        self._home = next((w.device for w in graph.weights.values()), self._home)
        graph = optimize(keep_dense(graph, self._max_batch))
        weights = {k: tensor(w.detach().numpy(), device=self._home) for k, w in graph.weights.items()}
        graph = replace(graph, weights=weights)
        self._costs = row_costs(graph) if independent_rows(graph) else None  # None: rows are mixed
        self._reset()
        self._graph, self._pending = graph, None

    def _reset(self) -> None:
        self._plans: dict[int, FrozenPlan] = {}
        self._batches: dict[tuple[int, int], FrozenBatch] = {}  # by rows and threads
        self._memory = FrozenMemory()
        self._run_ready = self._memory.runner.run  # the short way: one array in, one out, no padding

    @property
    def graph(self) -> Graph:
        """What it runs.

        Raises:
            StateError: the shapes of its inputs are not known before the first call.
        """
        if self._graph is None:
            raise StateError(
                "[frozen] input shapes are unknown until the first call; pass input_shape= to freeze()"
            )
        return self._graph

    def _graph_for(self, inputs: Sequence[npt.ArrayLike]) -> Graph:
        with self._lock:
            if self._pending is not None:
                self._use(trace(self._pending, [_input_like(x, self._pending) for x in inputs]))
        return self.graph

    @property
    def device(self) -> str:
        """Where it runs: where the model's weights were. Arrays go in and come out all the same."""
        return self._home

    @property
    def max_batch(self) -> int:
        """The most rows that run together."""
        return self._max_batch

    @property
    def packed_nbytes(self) -> int:
        """Bytes of the weights as they are packed for the kernels, shared by all plans recorded so far."""
        return self._memory.constants.nbytes

    @property
    def arena_nbytes(self) -> int:
        """Bytes of temporary memory of one call at the largest batch size so far."""
        return self._memory.arenas.nbytes

    def memory(self, batch: int = 1) -> Memory:
        """What a call at this batch size needs, beside the arrays that go in and come out.

        Raises:
            StateError: the shapes of its inputs are not known before the first call.
        """
        weights = sum(w.numpy().nbytes for w in self.graph.weights.values())
        arena = self._batch(batch).nbytes(num_threads())
        return Memory(weights, self.packed_nbytes, arena)

    def __call__(self, *inputs: npt.ArrayLike) -> Any:
        """The model's output for a batch of any size.

        Args:
            inputs: One array per input of the model; numbers are cast to the model's dtypes.

        Returns:
            A NumPy array, or tuples and dictionaries of them as the model returns them.

        Raises:
            ShapeError: a shape does not fit; the message says which one would.
            DTypeError: an array does not hold numbers.
        """
        if len(inputs) == 1:
            y = self._run_ready(inputs[0])
            if y is not None:
                return y
        graph = self._graph or self._graph_for(inputs)
        if len(inputs) != len(graph.inputs):
            names = ", ".join(graph.inputs)
            raise ShapeError(f"[frozen] expected {len(graph.inputs)} inputs ({names}), got {len(inputs)}")
        arrays = [
            input_array(x, name, value) for x, (name, value) in zip(inputs, graph.inputs.items(), strict=True)
        ]
        batch = batch_size(graph, [a.shape for a in arrays])
        if batch == 0 and self._costs is not None:
            return self._nest([np.empty(v.at(0), v.dtype) for v in map(graph.value, graph.results)])
        served = self._batch(batch)
        try:
            return self._nest(served.run(arrays))
        except ArgumentError:
            if self._costs is None or self._piece(batch) == batch:
                raise
            return self._nest(self._again(arrays, batch))  # what was refused tells a place in a piece

    def stream(self, state: Sequence[npt.ArrayLike] | None = None) -> Stream:
        """Begins sequences that are fed in chunks of the length that the model was frozen for.

        Args:
            state: What to begin with: the `state` of another stream, None for zeros.

        Raises:
            UnsupportedError: A step's output depends on later steps (a reverse direction), on several (a mean over
                time), or on its place (an encoding of positions), or there is no recurrent layer. Of chunks of one step
                it cannot always be told whether a tensor that forward makes or slices is the same for all steps; one
                that is belongs into a buffer, whole.

        Example:
            >>> net = qn.nn.Sequential(qn.nn.GRU(4, 8, returns="outputs"), qn.nn.Linear(8, 2))
            >>> x = np.random.default_rng(0).standard_normal((1, 10, 4)).astype("f4")
            >>> stream = net.freeze(input_shape=(5, 4)).stream()
            >>> chunks = [stream(x[:, :5]), stream(x[:, 5:])]
            >>> bool((np.concatenate(chunks, 1) == net.freeze(input_shape=(10, 4))(x)).all())
            True
        """
        with self._lock:
            if self._streamed is None:
                graph, count = with_states(self.graph)
                self._streamed = Frozen(graph, self._max_batch), count
        return Stream(*self._streamed, state)

    def _again(self, arrays: list[Array], batch: int) -> list[Array]:
        """What a piece refused, in parts as large as may be, so that the message tells the row."""
        parts = []
        for first in range(0, batch, self._max_batch):
            part = [a[first : first + self._max_batch] for a in arrays]
            with self._lock:
                plan = self._record(min(self._max_batch, batch - first))
            try:
                parts.append(plan.replay(part))
            except ArgumentError as error:
                if first:
                    error.add_note(f"[frozen] rows count from row {first} of the batch on")
                raise
        return [np.concatenate(results) for results in zip(*parts, strict=True)]

    def _piece(self, batch: int) -> int:
        """Rows that run together in a batch of this size."""
        if self._costs is None:
            return batch
        if self.device != "cpu":
            return bucket(batch, self._max_batch)
        return piece_rows(
            self._costs, batch, self._buckets, num_threads(), Caches(cache_nbytes(2), cache_nbytes(3))
        )

    def _batch(self, rows: int) -> FrozenBatch:
        key = rows, num_threads()
        batch = self._batches.get(key)
        if batch is not None and not batch.stale():
            return batch
        with self._lock:
            batch = self._batches.get(key)
            if batch is not None and not batch.stale():
                return batch
            size = self._piece(rows)
            count, left = divmod(rows, size) if rows else (1, 0)
            piece = self._plan(size) if count else None
            rest = self._plan(bucket(left, self._max_batch)) if left else None
            batch = FrozenBatch(self._memory, rows, piece, count, rest)
            if len(self._batches) >= _MAX_BATCHES:
                self._batches.clear()
                self._memory.runner.clear()
            self._batches[key] = batch
            if len(self.graph.inputs) == 1 and isinstance(self.graph.outputs, Ref):
                batch.serve(key[1])
            return batch

    def _plan(self, size: int) -> FrozenPlan:
        plan = self._plans.get(size)
        if plan is not None and not plan.native.stale():
            return plan
        with self._lock:
            plan = self._plans.get(size)
            if plan is not None and plan.native.stale():  # another instruction set: pack anew
                self._reset()
                plan = None
            if plan is None:
                if self._costs is None and len(self._plans) >= _MAX_BATCHES:
                    self._plans.pop(next(iter(self._plans)))
                plan = self._record(size)
                self._plans[size] = plan
            return plan

    def _record(self, size: int) -> FrozenPlan:
        def outputs(*inputs: Tensor) -> Sequence[Tensor]:
            flat: list[Tensor] = []
            _flatten(run(self.graph, inputs), flat.append)
            return flat

        lengths = _example_lengths(self.graph)
        examples = [
            np.full(v.at(size), lengths.get(k, 0), np.dtype(v.dtype)) for k, v in self.graph.inputs.items()
        ]
        with device(self.device):
            return record_frozen(outputs, examples, self._memory.constants, self._memory.arenas)

    def _nest(self, flat: list[Array]) -> Any:
        """The outputs as the model returns them."""
        if isinstance(self.graph.outputs, Ref):
            return flat[0]
        results = iter(flat)

        def build(arg: Arg) -> Any:
            if isinstance(arg, tuple):
                return tuple(build(a) for a in arg)
            if isinstance(arg, Fields):
                return {name: build(a) for name, a in zip(arg.names, arg.values, strict=True)}
            return next(results)

        return build(self.graph.outputs)

    def __reduce__(self) -> tuple[Any, ...]:
        from quernel.io.checkpoint import graph_bytes, model_bytes

        if self._graph is None and self._pending is not None:
            return _thaw, (model_bytes(self._pending), self._max_batch)
        return _thaw, (graph_bytes(self.graph), self._max_batch)

    def __repr__(self) -> str:
        if self._graph is None:
            return f"Frozen({type(self._pending).__name__}, not called yet, max_batch={self._max_batch})"
        inputs = ", ".join(f"{name}: {value}" for name, value in self._graph.inputs.items())
        return f"Frozen({inputs}, {len(self._graph.nodes)} ops, max_batch={self._max_batch})"


def freeze(net: Module, max_batch: int = 64, input_shape: Any = None) -> Frozen:
    """See `nn.Module.freeze`."""
    inputs = inputs_of(net, input_shape)
    if inputs is None:
        return Frozen(copy.deepcopy(net), max_batch)
    return Frozen(trace(net, inputs), max_batch)


def _thaw(blob: bytes, max_batch: int) -> Frozen:
    from quernel.io.checkpoint import from_bytes

    return Frozen(from_bytes(blob, "pickled model"), max_batch)


def bucket(batch: int, max_batch: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, … that holds `batch`, at most `max_batch`."""
    size = 1
    while size < batch:
        if size > 1 and batch <= size + size // 2:
            size += size // 2
        else:
            size *= 2
    return min(size, max_batch)


def _input_like(x: npt.ArrayLike, net: Module) -> Input:
    array = np.asarray(x)
    if array.ndim == 0:
        raise ShapeError("[frozen] the input must have a batch axis, got a single number")
    dtype = net._input_dtype()
    if array.dtype.kind == "f":
        return Input(array.shape[1:], dtype or "float32")
    if dtype is None or array.dtype.kind not in "iu" or net._has_integers():
        dtype = array.dtype.name
    return Input(array.shape[1:], dtype)


def _example_lengths(graph: Graph) -> dict[str, int]:
    """Values for the inputs of which lengths are made: zeros are values that every op takes but for those.

    An input that is an op's lengths is 1, or the most that it may be if the op says so. One that they are computed from is
    the longest extent of the inputs.
    """
    direct: dict[str, int] = {}
    for node in graph.nodes:
        if isinstance(ref := node.args.get("lengths"), Ref):
            most = node.args.get("most")
            direct[ref.node] = max(direct.get(ref.node, 1), most if isinstance(most, int) else 1)
    leads = set(direct)
    for node in reversed(graph.nodes):
        if node.name in leads:
            leads.update(ref.node for ref in node.refs)
    extents = [d for v in graph.inputs.values() for d in v.shape[1:] if isinstance(d, int)]
    whole = [k for k, v in graph.inputs.items() if k in leads and v.dtype not in FLOATING]
    return {k: direct.get(k, max(extents, default=1)) for k in whole}


def _flatten(value: Any, put: Callable[[Tensor], None]) -> None:
    if isinstance(value, tuple | dict):
        for v in value.values() if isinstance(value, dict) else value:
            _flatten(v, put)
    else:
        put(value)
