"""What an optimizer keeps for parameters of one arena, and the runs in which it updates them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from quernel.ops import optim as native
from quernel.optim.arena import Arena

if TYPE_CHECKING:
    from quernel.ops.optim import Native
    from quernel.tensor import Tensor

Saved = tuple[int, dict[str, NDArray[Any]]]  # number of updates, state by name


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbours in an arena that have had the same updates: one kernel call updates them all.

    Attributes:
        params: the parameters.
        param, grad, state: flat views of everything from the first to the last of them; the state by name. `grad` is None
            for a table whose gradient comes by rows.
        step: the number of updates so far (int64, one element).
    """

    params: tuple[Native, ...]
    param: Native
    grad: Native | None
    state: dict[str, Native]
    step: Native

    @property
    def steps(self) -> int:
        """The number of updates so far."""
        return int(self.step.numpy()[0])


class Segment:
    """State of some parameters of an arena, laid out as the arena is.

    Attributes:
        tensors: the parameters.
        names: what the state consists of, such as ``("exp_avg", "exp_avg_sq")``.
        runs: all parameters in the order of the arena, as few runs as their histories allow.
    """

    def __init__(self, arena: Arena, tensors: Sequence[Tensor], names: Sequence[str]) -> None:
        """All zeros, no update made."""
        self.arena = arena
        self.names = tuple(names)
        self.tensors = sorted(tensors, key=lambda p: arena.places[p._t.identity].position)
        self._natives = [p._t for p in self.tensors]
        places = [arena.places[t.identity] for t in self._natives]
        self.begin, size = places[0].begin, places[-1].end - places[0].begin
        self.state = [native.zeros(size, arena.params.dtype, arena.params.device) for _ in names]
        gaps = [place.position - i for i, place in enumerate(places)]  # constant among neighbours
        parts = groupby(zip(gaps, self._natives, strict=True), lambda pair: pair[0])
        self.runs = [self._run([t for _, t in part], 0) for _, part in parts]

    def _run(self, params: Sequence[Native], step: int) -> Run:
        places = self.arena.places
        begin, end = places[params[0].identity].begin, places[params[-1].identity].end
        return Run(
            tuple(params),
            native.view(self.arena.params, begin, end - begin),
            native.view(self.arena.grads, begin, end - begin),
            {
                name: native.view(state, begin - self.begin, end - begin)
                for name, state in zip(self.names, self.state, strict=True)
            },
            native.from_values([step], "int64", self.arena.params.device),
        )

    def split(self, run: Run, has_grad: Sequence[bool]) -> list[Run]:
        """Runs of those with a gradient and of those without, which from now on count their updates apart."""
        parts = groupby(zip(has_grad, run.params, strict=True), lambda pair: pair[0])
        return [self._run([t for _, t in part], run.steps) for _, part in parts]

    def has_moved(self) -> bool:
        """Whether some parameter or its gradient has other memory than when this was made."""
        pairs = zip(self.tensors, self._natives, strict=True)
        return any(p._t is not t or not self.arena.holds(t) for p, t in pairs)

    def _views(self, t: Native) -> dict[str, Native]:
        begin = self.arena.places[t.identity].begin - self.begin
        return {name: native.view(s, begin, t.size) for name, s in zip(self.names, self.state, strict=True)}

    def export(self) -> dict[int, Saved]:
        """Copies of the state, by the ``id`` of the Tensor."""
        steps = {t.identity: run.steps for run in self.runs for t in run.params}
        return {
            id(p): (
                steps[t.identity],
                {name: v.numpy().reshape(t.shape).copy() for name, v in self._views(t).items()},
            )
            for p, t in zip(self.tensors, self._natives, strict=True)
        }

    def restore(self, saved: Mapping[int, Saved]) -> None:
        """Takes over what `export` returned; where something is missing, the parameter starts anew."""
        steps: dict[int, int] = {}
        for p, t in zip(self.tensors, self._natives, strict=True):
            step, arrays = saved.get(id(p), (0, {}))
            if not all(name in arrays and arrays[name].shape == t.shape for name in self.names):
                continue
            steps[t.identity] = step
            for name, view in self._views(t).items():
                native.copy_into(view, arrays[name])
        runs: list[Run] = []
        for run in self.runs:
            counts = [steps.get(t.identity, 0) for t in run.params]
            for count, part in groupby(zip(counts, run.params, strict=True), lambda pair: pair[0]):
                runs.append(self._run([t for _, t in part], count))
        self.runs = runs
