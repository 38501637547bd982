"""What belongs to the signature of a jitted call: its arguments, and the variables that the function reads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from quernel import _core, recording
from quernel.tensor import Tensor

PLAIN = (int, float, complex, str, bool, bytes, type(None))
SEQUENCES = (list, tuple)
_MAX_ITEMS = 64  # of a list or dict that belongs to a signature by value


class Call:
    """Takes a call's arguments apart: a hashable key, the native tensors, and what the function is to be given."""

    def __init__(self) -> None:
        self.key: list[Any] = []
        self.tensors: list[_core.Tensor] = []
        self.states: list[recording.State] = []  # whose parts are among the tensors
        self.kept: list[Any] = []  # what the key refers to by identity
        self.obstacle = ""  # why no plan can serve this call

    def take(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._take_tensor(value)
        if isinstance(value, np.ndarray):  # borrowed: kernels read the caller's memory
            return self._argument("t", _core.from_numpy(value, copy=False))
        if type(value) is float or isinstance(value, np.floating):
            return self._argument("f", _core.from_numpy(np.array(value, np.float64), copy=True))
        if isinstance(value, SEQUENCES):
            self.key.append((type(value), len(value)))
            items = [self.take(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, dict):
            self.key.append((dict, *value))
            return {name: self.take(item) for name, item in value.items()}
        if isinstance(value, recording.State):
            self._take_state(value)
            return value
        self.key.append(self.constant(value))
        return value

    def _take_tensor(self, value: Tensor) -> Tensor:
        if value.is_traced or not value.requires_grad:
            # An alias, so that the same tensor reached through a closure is not taken for the argument.
            return self._argument("t", value._t.alias())
        if value.is_leaf:  # such as a parameter: part of the state, not an argument
            self.key.append(id(value))
            self.kept.append(value)
        else:
            self.obstacle = "an argument has a history; detach() it, gradients do not flow into a jitted call"
        return value

    def _take_state(self, state: recording.State) -> None:
        """The state's own tensors, no aliases: what changes them in place changes the state."""
        self.key.append((type(state), len(state.parts)))
        self.states.append(state)
        for part in state.parts:
            self._argument("t", part._t)

    def _argument(self, kind: str, native: _core.Tensor) -> Tensor:
        self.key.append((kind, native.dtype, native.shape, native.device))
        self.tensors.append(native)
        return Tensor(native)

    def constant(self, value: Any) -> Any:
        """What stands for a value in the key: the value and its type if it is plain, else its identity."""
        kind = type(value)
        if kind is float:
            return (kind, value.hex())  # tells -0.0 from 0.0
        if kind in PLAIN:
            return (kind, value)
        if kind in (tuple, list) and len(value) <= _MAX_ITEMS:
            return (kind, *[self.constant(item) for item in value])
        if kind is dict and len(value) <= _MAX_ITEMS:
            return (kind, *[(self.constant(name), self.constant(item)) for name, item in value.items()])
        self.kept.append(value)
        if not _is_users(value):
            return id(value)
        plain = {name: item for name, item in vars(value).items() if type(item) in PLAIN}
        return (id(value), *[(name, self.constant(item)) for name, item in plain.items()])


class Variable(NamedTuple):
    """A variable as a call found it."""

    read: Callable[[], Any]
    value: Any
    constant: Any  # what stands for the value in the key; None if that is just its identity

    def unchanged(self) -> bool:
        """Whether the very object is still there, and no plain value in it has changed."""
        value = self.read()
        return value is self.value and (self.constant is None or Call().constant(value) == self.constant)


class Variables:
    """Variables that a function reads from its closure, its defaults and its module.

    Plain ones (numbers, strings, short lists and dicts of them) belong to the signature by value, others by identity; of
    objects of the user's classes the plain attributes too, also where a Module holds such an object. Functions of the
    user's are followed. Modules, classes and functions of other packages are taken not to change.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._bound: list[Any] = []  # what partial and methods pass on, watched like variables
        while isinstance(fn, functools.partial):
            self._bound.extend(fn.args)
            fn = fn.func
        if isinstance(fn, MethodType):
            self._bound.append(fn.__self__)
        self._fn = getattr(fn, "__func__", fn)
        self._read: list[Callable[[], Any]] | None = (
            None  # looked for at the first call, when names are bound
        )

    def add_to(self, call: Call) -> list[Variable]:
        """Adds them to the call's key; returns what was found."""
        if self._read is None:
            self._read = []
            for value in self._bound:
                self._watch(functools.partial(_same, value), value, set())
            self._follow(self._fn, set())
        found = []
        for read in self._read:
            value = read()
            constant = call.constant(value)
            call.key.append(constant)
            found.append(Variable(read, value, None if _stays(value) else constant))
        return found

    def _follow(self, fn: Any, seen: set[int]) -> None:
        if not isinstance(fn, FunctionType) or id(fn) in seen:
            return
        if fn is not self._fn and recording.is_ours(
            fn.__code__.co_filename
        ):  # steps of `fit` run what is the user's
            return
        seen.add(id(fn))
        names = [name for name in _global_names(fn.__code__) if name in fn.__globals__]
        reads = [functools.partial(_cell_value, cell) for cell in fn.__closure__ or ()]
        reads += [functools.partial(fn.__globals__.get, name) for name in names]
        if fn.__defaults__:
            reads.append(functools.partial(getattr, fn, "__defaults__"))
        for read in reads:
            self._watch(read, read(), seen)

    def _watch(self, read: Callable[[], Any], value: Any, seen: set[int]) -> None:
        """Has `read`, which gives `value` now, looked at in every call."""
        if isinstance(value, FunctionType) or hasattr(value, "__wrapped__"):
            self._follow(getattr(value, "__wrapped__", value), seen)
        elif not isinstance(value, ModuleType | type | BuiltinFunctionType):
            self._reads().append(read)
            for item in value if type(value) in SEQUENCES else (value,):  # one level of a tuple or list
                self._look_into(item, seen)

    def _look_into(self, value: Any, seen: set[int]) -> None:
        """Follows a function, and what a module calls and holds."""
        if isinstance(value, FunctionType):
            self._follow(value, seen)
            return
        for module in getattr(value, "modules", tuple)():
            self._follow(type(module).forward, seen)
            held = [name for name, item in vars(module).items() if _is_users(item)]
            self._reads().extend(functools.partial(vars(module).get, name) for name in held)

    def _reads(self) -> list[Callable[[], Any]]:
        assert self._read is not None
        return self._read


def _stays(value: Any) -> bool:
    """Whether an object means the same as long as it is the same."""
    return not (type(value) in (tuple, list, dict) or _is_users(value))


def _is_users(value: Any) -> bool:
    """Whether an object is of a class of the user's that nothing else watches (modules watch themselves)."""
    ours = type(value).__module__.partition(".")[0] in ("quernel", "numpy", "builtins")
    return not ours and hasattr(value, "__dict__") and not hasattr(value, "named_parameters")


def _same(value: Any) -> Any:
    return value


def _cell_value(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _global_names(code: CodeType) -> list[str]:
    """Names that a function, or one defined inside it, may look up in its module."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(_global_names(constant))
    return sorted(names)
