"""Arenas: many parameters in one block of memory, their gradients in another of the same layout.

The first optimizer that updates a parameter moves it here, under the unchanged Tensor object; whoever comes later (a
second optimizer over the same weights) finds it and works in place. An arena lives as long as some optimizer uses it.
Parameters begin on cache lines; the gaps between them are zeros, which every update rule keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from quernel.ops import optim as native

if TYPE_CHECKING:
    from quernel.ops.optim import Native

_LINE = 64  # bytes
_arenas: WeakValueDictionary[int, Arena] = WeakValueDictionary()  # by the storage of `params`


@dataclass(frozen=True, slots=True)
class Place:
    """Where in an arena a parameter lies: its position among the parameters, and [begin, end) in elements."""

    position: int
    begin: int
    end: int  # up to where the next parameter begins


class Arena:
    """Parameters of one dtype and device that were moved together."""

    def __init__(self, params: Sequence[Native]) -> None:
        """Moves parameters, all of which have gradients, and their gradients, in this order."""
        dtype, device = params[0].dtype, params[0].device
        line = _LINE // (params[0].nbytes // params[0].size) if params[0].size else 1
        self.places: dict[int, Place] = {}
        end = 0
        for position, param in enumerate(params):
            begin, end = end, end + -(-param.size // line) * line
            self.places[param.identity] = Place(position, begin, end)
        self.params = native.zeros(end, dtype, device)
        self.grads = native.zeros(end, dtype, device)
        for param in params:
            begin = self.places[param.identity].begin
            param.rehome(self.params, begin)
            grad = param.grad
            assert grad is not None
            grad.rehome(self.grads, begin)
        _arenas[self.params.storage_id] = self

    def holds(self, param: Native) -> bool:
        """Whether a parameter and its gradient lie here now. One by rows does not."""
        grad = param.grad
        return (
            param.identity in self.places
            and param.storage_id == self.params.storage_id
            and grad is not None
            and grad.storage_id == self.grads.storage_id
        )


def find(param: Native) -> Arena | None:
    """The arena in which a parameter and its gradient lie, if any."""
    arena = _arenas.get(param.storage_id)
    return arena if arena is not None and arena.holds(param) else None
