"""The base class of optimizers.

Parameters that receive their first gradient in the same step move into one arena (optim/arena.py), so that an update
is one kernel call per run of neighbours. What never had a gradient (frozen layers, layers that have not seen an input)
is left where it is. A parameter without a gradient is skipped, as if it were not there: it keeps its own step count.
A table whose gradient comes by rows stays where it is too (optim/table.py): an update touches those rows alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeVar, overload

import numpy as np

from quernel import recording
from quernel.errors import ArgumentError, DTypeError
from quernel.nn.parameter import Parameter
from quernel.ops import optim as native
from quernel.optim.arena import Arena, find
from quernel.optim.group import Check, ParamGroup, at_least_zero, refuse_module
from quernel.optim.segment import Run, Saved, Segment
from quernel.optim.table import Table
from quernel.tensor import Tensor

T = TypeVar("T")

_SHARED: dict[str, Check] = {"lr": at_least_zero, "weight_decay": at_least_zero, "l1": at_least_zero}
Params = Iterable[Tensor] | Iterable[Mapping[str, Any]]


def _is_sized(p: Tensor) -> bool:
    return not (isinstance(p, Parameter) and p.is_unsized)


def _described(p: Tensor) -> str:
    return f"of shape {p.shape}" if _is_sized(p) else "whose size is inferred at first use"


class Hyper(Generic[T]):
    """An optimizer's attribute for a hyper-parameter: reads the first group's, sets that of every group."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Hyper[T]: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type) -> T: ...
    def __get__(self, instance: Optimizer | None, owner: type) -> Hyper[T] | T:
        if instance is None:
            return self
        value: T = instance.param_groups[0][self._name]
        return value

    def __set__(self, instance: Optimizer, value: T) -> None:
        checked = instance.param_groups[0].checked(self._name, value)
        for group in instance.param_groups:
            group[self._name] = checked


class Optimizer:
    """Base of all optimizers.

    A subclass names its own hyper-parameters in ``_checks`` and its states in ``_states``, in the order in which its kernel
    reads them; ``_state_names`` says which of those a group needs, all by default.

    Args:
        params: the parameters, or dictionaries of ``params`` and hyper-parameters of their own. Layers whose sizes
            are not known yet are welcome.
        defaults: hyper-parameters of groups that do not set them.
    """

    _name: ClassVar[str]
    _checks: ClassVar[dict[str, Check]]
    _states: ClassVar[tuple[str, ...]]
    _constants: ClassVar[tuple[float, ...]] = ()  # what the kernel reads after them

    lr = Hyper[float]("Learning rate, of all groups; changing it keeps recorded plans.")
    weight_decay = Hyper[float]("Weight decay, of all groups.")
    l1 = Hyper[float]("L1 penalty, of all groups.")

    def __init__(self, params: Params, **defaults: Any) -> None:
        if isinstance(params, Tensor):
            raise ArgumentError(
                f"[{self._name}] params is an iterable of parameters; wrap the tensor in a list"
            )
        refuse_module(self._name, params)
        given = list(params)
        if not given:
            raise ArgumentError(f"[{self._name}] there are no parameters to optimize")
        self.param_groups: list[ParamGroup] = []
        self._defaults = defaults
        self._version = 0  # of the layout: a plan is tied to it
        self._epoch = -1
        self._saved: dict[int, Saved] = {}  # states of unplaced parameters, by id of the Tensor
        if any(isinstance(item, Mapping) for item in given):
            for item in given:
                if not isinstance(item, Mapping):
                    raise ArgumentError(f"[{self._name}] params mixes groups and parameters")
                self.add_param_group(item)
        else:
            self.add_param_group({"params": given})

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Adds parameters, optionally with hyper-parameters of their own: ``{"params": …, "lr": …}``."""
        values = self._defaults | dict(group)
        params = values.pop("params", ())
        refuse_module(self._name, params)
        params = [params] if isinstance(params, Tensor) else list(params)
        mine = {id(p) for g in self.param_groups for p in g.params}
        unique: list[Tensor] = []
        for p in params:
            self._check_parameter(p)
            if id(p) in mine:
                raise ArgumentError(f"[{self._name}] a parameter {_described(p)} is in two groups")
            if any(p is q for q in unique):
                raise ArgumentError(f"[{self._name}] a parameter {_described(p)} is given twice")
            unique.append(p)
        self._remember_layout()
        self.param_groups.append(
            ParamGroup(self._name, unique, values, _SHARED | self._checks, self._constants)
        )
        self._layout_changed()

    def _check_parameter(self, p: Any) -> None:
        if not isinstance(p, Tensor):
            raise DTypeError(f"[{self._name}] optimizes tensors, got {type(p).__name__}")
        if p.dtype not in ("float32", "float64"):
            raise DTypeError(f"[{self._name}] optimizes float32 and float64 tensors, got one of {p.dtype}")
        if not p.is_leaf:
            raise ArgumentError(
                f"[{self._name}] a tensor of shape {p.shape} was computed from others; pass leaves"
            )

    # ---- the step ---------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        recording.guard(self, "_version", self._version)
        recording.guard(self, "_layout", self._layout)
        if self._epoch != native.config_epoch():
            self._release_moved()
        for group in self.param_groups:
            self._place(group)
            for segment in group.segments:
                for run in self._ready(segment):
                    native.advance_step(run.step)
                    self._update(group, run)
        self._epoch = native.config_epoch()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients; the next backward stores instead of adding.

        Args:
            set_to_none: always so here; there is no other way, and False is refused.

        Raises:
            ArgumentError: `set_to_none` is False.
        """
        if not set_to_none:
            raise ArgumentError(
                f"[{self._name}] zero_grad forgets gradients, it does not fill them with zeros"
            )
        native.zero_grads([p._t for group in self.param_groups for p in group.params if _is_sized(p)])

    def _update(self, group: ParamGroup, run: Run) -> None:
        needed = self._state_names(group)
        hyper = group.hyper(run.param.device)
        if run.grad is None:
            rows, values = run.params[0].row_grad
            native.ROW_UPDATES[self._name](
                run.param, values, [run.state[name] for name in needed], hyper, run.step, rows
            )
            return
        states = [run.state[name] if name in needed else None for name in self._states]
        native.UPDATES[self._name](run.param, run.grad, states, hyper, run.step)

    def _state_names(self, group: ParamGroup) -> tuple[str, ...]:  # noqa: ARG002
        """What an update of this group needs besides parameters and gradients."""
        return self._states

    def _check_kind(self, group: ParamGroup, p: Tensor) -> None:
        """Raises ArgumentError if the gradient comes by rows and there is no such update."""
        if p._t.has_row_grad and (self._name not in native.ROW_UPDATES or self._blocks_rows(group)):
            raise ArgumentError(
                f"[{self._name}] a parameter of shape {p.shape} has a gradient by rows (a lookup with sparse=True), which "
                "Adam, AdamW, SparseAdam and SGD without momentum take; use one of them, or sparse=False"
            )

    def _blocks_rows(self, group: ParamGroup) -> bool:  # noqa: ARG002
        """Whether this group's hyper-parameters allow updates of whole parameters only."""
        return False

    @property
    def _layout(self) -> tuple[tuple[str, ...], ...]:
        return tuple([self._state_names(group) for group in self.param_groups])

    def _remember_layout(self) -> None:
        """Called before a change of the layout: should the step around it fail, everything lies as it does now.

        Segments, splits and loaded states that the step made go; what older ones contain, the native side restores.
        """
        groups = list(self.param_groups)
        places = [(group, list(group.unplaced), list(group.segments)) for group in groups]
        runs = [(segment, segment.runs) for group in groups for segment in group.segments]
        saved = dict(self._saved)

        def undo() -> None:
            self.param_groups[:] = groups
            for group, unplaced, segments in places:
                group.unplaced, group.segments = unplaced, segments
            for segment, before in runs:
                segment.runs = before
            self._saved, self._epoch = saved, -1  # what has moved meanwhile stays where it is
            self._layout_changed()

        recording.on_rollback(undo)

    def _layout_changed(self) -> None:
        self._version += 1
        recording.host_write(f"the layout of {type(self).__name__}")

    def _ready(self, segment: Segment | Table) -> list[Run]:
        """The runs to update. Where only some of a run have gradients, it is split for good."""
        runs: list[Run] = []
        for run in segment.runs:
            has_grad = [param.has_grad for param in run.params]
            if isinstance(segment, Segment) and any(has_grad) and not all(has_grad):
                runs.extend(segment.split(run, has_grad))
            else:
                runs.append(run)
        if len(runs) != len(segment.runs):
            self._remember_layout()
            segment.runs = runs
            self._layout_changed()
        return [run for run in runs if run.params[0].has_grad]

    # ---- places -----------------------------------------------------------------------------------------------------

    def _place(self, group: ParamGroup) -> None:
        """Gives those with a first gradient an arena, unless they lie in one, and state."""
        names = self._state_names(group)
        for segment in group.segments:
            if not set(names) <= set(segment.names):
                self._release(group, segment)
        new = [p for p in group.unplaced if _is_sized(p) and p._t.has_grad]
        if not new:
            return
        for p in new:
            self._check_kind(group, p)
        self._remember_layout()
        group.unplaced = [p for p in group.unplaced if not any(p is q for q in new)]
        by_arena: dict[Arena, list[Tensor]] = {}
        homeless: dict[tuple[str, str], list[Tensor]] = {}
        for p in new:
            if p._t.has_row_grad:
                self._add(group, Table(p, names))
                continue
            arena = find(p._t)
            if arena is None:
                homeless.setdefault((p.dtype, p.device), []).append(p)
            else:
                by_arena.setdefault(arena, []).append(p)
        by_arena |= {Arena([p._t for p in alike]): alike for alike in homeless.values()}
        for arena, members in by_arena.items():
            self._add(group, Segment(arena, members, names))
        self._layout_changed()

    def _add(self, group: ParamGroup, segment: Segment | Table) -> None:
        """Adds a segment, with the state that its parameters had elsewhere."""
        members = segment.tensors
        segment.restore({id(p): self._saved.pop(id(p)) for p in members if id(p) in self._saved})
        group.segments.append(segment)

    def _release(self, group: ParamGroup, segment: Segment | Table) -> None:
        """Saves a segment's state; its parameters find another place at their next gradient."""
        self._remember_layout()
        self._saved |= segment.export()
        group.segments = [s for s in group.segments if s is not segment]
        group.unplaced += segment.tensors
        self._layout_changed()

    def _release_moved(self) -> None:
        for group in self.param_groups:
            for segment in group.segments:
                if segment.has_moved():
                    self._release(group, segment)

    # ---- saving -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything that a resumed run needs, arranged as PyTorch does: ``state`` and ``param_groups``.

        Parameters are numbered in the order of the groups.
        """
        saved = dict(self._saved)
        for group in self.param_groups:
            for segment in group.segments:
                saved |= segment.export()
        number = {id(p): i for i, p in enumerate(p for group in self.param_groups for p in group.params)}
        state = {number[key]: {"step": step, **arrays} for key, (step, arrays) in saved.items()}
        groups = [
            {name: group.peek(name) for name in group if name != "params"}
            | {"params": [number[id(p)] for p in group.params]}
            for group in self.param_groups
        ]
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over a state that `state_dict` returned, also one of PyTorch's optimizer of the same name.

        Raises:
            ArgumentError: groups, numbers of parameters or shapes differ. Nothing has been changed.
        """
        groups = list(state_dict["param_groups"])
        sizes, mine = [len(g["params"]) for g in groups], [len(g.params) for g in self.param_groups]
        if sizes != mine:
            raise ArgumentError(
                f"[{self._name}] the state is of groups of {sizes} parameters, the optimizer has {mine}"
            )
        params = [p for group in self.param_groups for p in group.params]
        saved: dict[int, Saved] = {}
        for key, entry in state_dict["state"].items():
            p = self._numbered(params, key)
            saved[id(p)] = self._loaded(p, entry)
        values = [
            {name: group.checked(name, g[name]) for name in group if name in g and name != "params"}
            for group, g in zip(self.param_groups, groups, strict=True)
        ]
        self._remember_layout()
        for group, new in zip(self.param_groups, values, strict=True):
            group.update(new)
            group.segments, group.unplaced = [], list(group.params)
        self._saved = saved
        self._layout_changed()

    def _numbered(self, params: list[Tensor], key: Any) -> Tensor:
        try:
            number = int(key)
        except (TypeError, ValueError):
            number = -1
        if not 0 <= number < len(params):
            raise ArgumentError(
                f"[{self._name}] the state names a parameter {key!r}, the optimizer's are 0 to {len(params) - 1}"
            )
        return params[number]

    def _loaded(self, p: Tensor, entry: Mapping[str, Any]) -> Saved:
        arrays = {
            name: np.asarray(value).copy()
            for name, value in entry.items()
            if name in self._states and value is not None
        }
        for name, array in arrays.items():
            if _is_sized(p) and array.shape != p.shape:
                raise ArgumentError(f"[{self._name}] {name} has shape {array.shape}, its parameter {p.shape}")
        return int(np.asarray(entry.get("step", 1)).item()), arrays

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.param_groups))})"
