"""What makes a function an op.

An op is one eager function; ``@op`` puts it beside its shape rule in the registry ``OPS`` and lets a tracer see its
calls. While this thread traces a graph, calling an op computes nothing: the tracer is given the op and its arguments,
asks the shape rule what comes out, and notes a node down. A graph runs by calling the ops it is made of.

Dimensions are named as in PyTorch, ``dim`` and ``keepdim``; NumPy's ``axis`` and ``keepdims`` are taken for them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, NoReturn, ParamSpec, Protocol, TypeVar

from quernel import _core
from quernel.errors import ArgumentError, DTypeError

P = ParamSpec("P")
R = TypeVar("R")


class Spec(NamedTuple):
    """Shape and dtype of a tensor whose values nobody needs."""

    shape: tuple[int, ...]
    dtype: str


Specs = Spec | tuple[Spec, ...]


class Op:
    """A registered op: its name, its eager function and its shape rule."""

    __slots__ = ("_parameters", "function", "name", "rule")

    def __init__(self, name: str, function: Callable[..., Any], rule: Callable[..., Specs]) -> None:
        self.name = name
        self.function = function
        self.rule = rule
        self._parameters: inspect.Signature | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the op eagerly."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments by name, in the order of the signature, defaults filled in."""
        if self._parameters is None:
            self._parameters = inspect.signature(self.function)
        bound = self._parameters.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    def specs(self, arguments: dict[str, Any]) -> Specs:
        """What the op would return for these arguments; raises the op's own errors where it would refuse them."""
        return self.rule(**arguments)


class Tracer(Protocol):
    """Receives the calls of ops while a graph is traced."""

    def call(self, op: Op, arguments: dict[str, Any]) -> Any:
        """Notes the call down and returns what stands for its results."""
        ...

    def scope(self, part: object) -> AbstractContextManager[None]:
        """Entered while a part of the model (a module) runs: the calls inside are its own."""
        ...


OPS: dict[str, Op] = {}

_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}


def numpy_names(function: Callable[P, R]) -> Callable[P, R]:
    """Lets a function that takes PyTorch's ``dim`` and ``keepdim`` be called with NumPy's ``axis`` and ``keepdims``."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for theirs, ours in _NUMPY_NAMES.items() if kwargs else ():
            if theirs in kwargs:
                if ours in kwargs:
                    raise ArgumentError(f"[{function.__name__}] {theirs} is another name of {ours}; give one")
                kwargs[ours] = kwargs.pop(theirs)
        return function(*args, **kwargs)

    return call


class NotTensorLike(DTypeError):
    """An operand that no tensor can be made of. The op it was handed to puts its name before the reason."""

    def __init__(self, reason: str, name: str = "tensor") -> None:
        super().__init__(f"[{name}] {reason}")
        self.reason = reason


current_tracer: Callable[[], Tracer | None] = _core.current_tracer
set_tracer: Callable[[Tracer | None], Tracer | None] = _core.set_tracer


def op(
    shape: Callable[..., Specs], name: str = "", direct: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Registers a function as an op.

    Args:
        name: The op's name in graphs; by default that of the function. ``quernel.ops`` has a function of this name.
        direct: Whether the native function of the op's name computes the same of tensors alone, or refuses. Such calls do
            not come by the op's function if no gradient is wanted (csrc/bindings/direct.h).
        shape: The shape rule. It takes the function's own arguments, of which it looks at shapes and dtypes only, and
            returns the `Spec` of the result (a tuple of them for several results), or raises the op's error.
    """

    def register(function: Callable[P, R]) -> Callable[P, R]:
        known_as = name or function.__name__
        entry = OPS[known_as] = Op(known_as, function, shape)

        def traced(tracer: Tracer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return tracer.call(entry, entry.bind(args, kwargs))

        def refused(error: NotTensorLike) -> NoReturn:
            raise DTypeError(f"[{entry.name}] {error.reason}") from None

        call = _core.op_call(function, traced, refused, NotTensorLike, entry.name if direct else "")
        functools.update_wrapper(call, function)
        return numpy_names(call) if "dim" in function.__annotations__ else call

    return register
