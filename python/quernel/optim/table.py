"""What an optimizer keeps for a table whose gradient comes by rows (`quernel.ops.RowGradient`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from quernel.ops import optim as native
from quernel.optim.segment import Run, Saved

if TYPE_CHECKING:
    from quernel.tensor import Tensor


class Table:
    """State of one parameter, of which an update touches the rows that have a gradient. The parameter stays where it is.

    Its attributes are those of `Segment`, whose place it takes; its only run has no ``grad``, and tables for states.
    """

    def __init__(self, tensor: Tensor, names: Sequence[str]) -> None:
        """All zeros, no update made."""
        self.tensors = [tensor]
        self.names = tuple(names)
        self._native = tensor._t
        self._home = self._native.storage_id
        state = {name: self._zeros() for name in names}
        self.runs = [Run((self._native,), self._native, None, state, self._counter(0))]

    def _zeros(self) -> native.Native:
        t = self._native
        return native.zeros(t.size, t.dtype, t.device).reshape(t.shape)

    def _counter(self, step: int) -> native.Native:
        return native.from_values([step], "int64", self._native.device)

    def has_moved(self) -> bool:
        """Whether the parameter has other memory than when this was made, or dense gradients."""
        t = self._native
        return self.tensors[0]._t is not t or t.storage_id != self._home or not t.has_row_grad

    def export(self) -> dict[int, Saved]:
        """A copy of the state, by the ``id`` of the Tensor."""
        (run,) = self.runs
        return {id(self.tensors[0]): (run.steps, {name: s.numpy().copy() for name, s in run.state.items()})}

    def restore(self, saved: Mapping[int, Saved]) -> None:
        """Takes over what `export` returned; where something is missing, the parameter starts anew."""
        (run,) = self.runs
        step, arrays = saved.get(id(self.tensors[0]), (0, {}))
        if all(name in arrays and arrays[name].shape == self._native.shape for name in self.names):
            for name, state in run.state.items():
                native.copy_into(state.reshape((state.size,)), arrays[name])
            self.runs = [Run(run.params, run.param, None, run.state, self._counter(step))]
