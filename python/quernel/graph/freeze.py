"""`net.freeze()`: a model as plans, for inference from any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quernel import _core
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.graph.interpret import batch_size, run
from quernel.graph.ir import Arg, Dim, Graph, Ref, Value
from quernel.graph.passes import optimize
from quernel.graph.rows import independent_rows
from quernel.jit import FrozenPlan, record_frozen
from quernel.tensor import Tensor, tensor

Array = npt.NDArray[Any]

_MAX_EXACT = 32  # plans kept for a model whose batches cannot be padded


class Frozen:
    """A model for inference alone: NumPy arrays in, fresh NumPy arrays out, one native call.

    It holds its own copy of the weights, as they were when it was made, packed once for all batch sizes. There is a
    plan per batch size 1, 2, 3, 4, 6, 8, 12, 16, …, `max_batch`, recorded when first needed; a batch is padded to the
    next of them, a larger one runs in chunks of `max_batch`. Neither changes a bit of the result. (A model that mixes
    the rows of a batch gets a plan for each batch size that it meets.) Any number of threads may call it at once, and
    it can be pickled.

    Args:
        graph: The model's graph; it is optimized here (see `quernel.graph.passes`).
        max_batch: The largest batch of one native call.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> run = net.freeze(max_batch=64, input_shape=(4,))
        >>> run(np.zeros((5, 4), np.float32)).shape
        (5, 2)
    """

    def __init__(self, graph: Graph, max_batch: int = 64) -> None:
        if not isinstance(max_batch, int) or max_batch < 1:
            raise ArgumentError(f"[freeze] max_batch must be a whole number of at least 1, got {max_batch!r}")
        graph = optimize(graph)
        self._graph = replace(graph, weights={k: tensor(w.numpy()) for k, w in graph.weights.items()})
        self._max_batch = max_batch
        self._padded = independent_rows(self._graph)
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._plans: dict[int, FrozenPlan] = {}
        self._constants = _core.DerivedCache()
        self._arenas = _core.ArenaPool()

    @property
    def graph(self) -> Graph:
        """What it runs."""
        return self._graph

    @property
    def max_batch(self) -> int:
        """The largest batch of one native call."""
        return self._max_batch

    def __call__(self, *inputs: npt.ArrayLike) -> Any:
        """The model's output for a batch of any size.

        Args:
            inputs: One array per input of the model; numbers are cast to the model's dtypes.

        Returns:
            A NumPy array, or tuples of them as the model returns them.

        Raises:
            ShapeError: a shape does not fit; the message says which one would.
            DTypeError: an array does not hold numbers.
        """
        graph = self._graph
        values = list(graph.inputs.values())
        if len(inputs) != len(values):
            raise ShapeError(f"[frozen] expected {len(values)} inputs ({', '.join(graph.inputs)}), got {len(inputs)}")
        arrays = [_as_array(x, name, value) for x, (name, value) in zip(inputs, graph.inputs.items(), strict=True)]
        batch = batch_size(graph, [a.shape for a in arrays])
        if not self._padded:
            return self._nest(self._plan(batch).replay(arrays))
        if batch <= self._max_batch:
            return self._nest(self._padded_run(arrays, batch))
        chunks = [
            self._padded_run([a[i : i + self._max_batch] for a in arrays], min(self._max_batch, batch - i))
            for i in range(0, batch, self._max_batch)
        ]
        return self._nest([np.concatenate(parts) for parts in zip(*chunks, strict=True)])

    def _padded_run(self, arrays: list[Array], batch: int) -> list[Array]:
        if batch == 0:
            return [np.empty(v.at(0), v.dtype) for v in map(self._graph.value, self._graph.results)]
        size = bucket(batch, self._max_batch)
        if size == batch:
            return self._plan(size).replay(arrays)
        padded = []
        for a in arrays:
            room = np.zeros((size, *a.shape[1:]), a.dtype)
            room[:batch] = a
            padded.append(room)
        return [y[:batch] for y in self._plan(size).replay(padded)]

    def _plan(self, size: int) -> FrozenPlan:
        plan = self._plans.get(size)
        if plan is not None and plan.native.valid():
            return plan
        with self._lock:
            plan = self._plans.get(size)
            if plan is not None and not plan.native.valid():  # another instruction set: pack anew
                self._reset()
                plan = None
            if plan is None:
                if not self._padded and len(self._plans) >= _MAX_EXACT:
                    self._plans.pop(next(iter(self._plans)))
                plan = self._record(size)
                self._plans[size] = plan
            return plan

    def _record(self, size: int) -> FrozenPlan:
        def outputs(*inputs: Tensor) -> Sequence[Tensor]:
            flat: list[Tensor] = []
            _flatten(run(self._graph, inputs), flat.append)
            return flat

        examples = [np.zeros(v.at(size), _numpy_dtype(v)) for v in self._graph.inputs.values()]
        return record_frozen(outputs, examples, self._constants, self._arenas)

    def _nest(self, flat: list[Array]) -> Any:
        """The outputs as the model returns them."""
        if isinstance(self._graph.outputs, Ref):
            return flat[0]
        results = iter(flat)

        def build(arg: Arg) -> Any:
            return tuple(build(a) for a in arg) if isinstance(arg, tuple) else next(results)

        return build(self._graph.outputs)

    def __reduce__(self) -> tuple[Any, ...]:
        from quernel.io.checkpoint import graph_bytes

        return _thaw, (graph_bytes(self._graph), self._max_batch)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name}: {value}" for name, value in self._graph.inputs.items())
        return f"Frozen({inputs}, {len(self._graph.nodes)} ops, max_batch={self._max_batch})"


def _thaw(blob: bytes, max_batch: int) -> Frozen:
    from quernel.io.checkpoint import graph_from_bytes

    return Frozen(graph_from_bytes(blob), max_batch)


def bucket(batch: int, max_batch: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, … that holds `batch`, at most `max_batch`."""
    size = 1
    while size < batch:
        if size > 1 and batch <= size + size // 2:
            size += size // 2
        else:
            size *= 2
    return min(size, max_batch)


def _as_array(x: Any, name: str, value: Value) -> Array:
    """`x` as a C-contiguous array of the input's dtype and rank."""
    array = np.asarray(x)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise DTypeError(f"[frozen] input '{name}' must hold numbers, got {array.dtype}")
    if array.ndim != len(value.shape):
        without = tuple(d for d in value.shape if not isinstance(d, Dim))
        hint = "; add the batch axis: x[None]" if array.shape == without else ""
        raise ShapeError(f"[frozen] input '{name}' must have shape {value}, got {array.shape}{hint}")
    return np.ascontiguousarray(array, dtype=_numpy_dtype(value))


def _numpy_dtype(value: Value) -> np.dtype[Any]:
    return np.dtype(value.dtype)


def _flatten(value: Any, put: Callable[[Tensor], None]) -> None:
    if isinstance(value, tuple):
        for v in value:
            _flatten(v, put)
    else:
        put(value)


