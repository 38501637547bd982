"""Hooks of modules: functions of the user's that run before or after a module, or when its gradients are known.

A replayed plan runs no Python, so a jitted step that calls a module with hooks runs eagerly as long as they are there:
a hook is always called. Tracing calls them too: what they compute becomes part of the graph.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from quernel import recording
from quernel.autograd import Handle, Node, is_grad_enabled
from quernel.errors import ArgumentError, DTypeError, StateError, UnsupportedError
from quernel.ops.create import zeros
from quernel.ops.op import current_tracer
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.nn.module import Module

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
_Entry = tuple[Callable[..., Any], bool]  # a hook, and whether it is given keyword arguments


class Hooks:
    """The hooks of one module."""

    def __init__(self) -> None:
        self.before: dict[int, _Entry] = {}
        self.after: dict[int, _Entry] = {}
        self.backward: dict[int, _Entry] = {}

    def __bool__(self) -> bool:
        return bool(self.before or self.after or self.backward)

    def run(self, module: Module, /, *args: Any, **kwargs: Any) -> Any:
        """Runs ``forward`` with everything around it."""
        name = type(module).__name__
        if (current := recording.current()) is not None:
            current.abandon(f"{name} has a hook, which a replay would not call", may_succeed_later=True)
        args, kwargs = self._run_before(module, name, args, kwargs)
        gradients = joint = None
        if self.backward and is_grad_enabled() and current_tracer() is None:
            gradients = _Gradients(module, tuple(hook for hook, _ in self.backward.values()))
            args, joint = gradients.enter(args)
        result = module.forward(*args, **kwargs)
        for hook, with_kwargs in list(self.after.values()):
            extra = (kwargs,) if with_kwargs else ()
            other = _traceable(name, hook, module, args, *extra, result)
            result = result if other is None else other
        if gradients is not None and joint is not None:
            result = gradients.leave(result, joint)
        return result

    def _run_before(self, module: Module, name: str, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        for hook, with_kwargs in list(self.before.values()):
            extra = (kwargs,) if with_kwargs else ()
            other = _traceable(name, hook, module, args, *extra)
            if other is None:
                continue
            if with_kwargs:
                if not (isinstance(other, tuple) and len(other) == 2):
                    raise ArgumentError(
                        f"[hook] a forward pre-hook of {name} with keywords returns None or (args, kwargs)"
                    )
                args, kwargs = other
            else:
                args = other if isinstance(other, tuple) else (other,)
        return args, kwargs


def _traceable(name: str, hook: Callable[..., Any], *args: Any) -> Any:
    """Calls a hook; while a graph is traced, an error says what to do."""
    try:
        return hook(*args)
    except StateError as error:
        if current_tracer() is None:
            raise
        raise UnsupportedError(
            f"[graph] a hook of {name} cannot be part of a graph; take it away with handle.remove() first: {error}"
        ) from error


class _Gradients:
    """Collects the gradients of one call for the backward hooks.

    Each input and output passes through a node of its own, which notes its gradient down. All of them lead to one joint
    node, which is older and therefore visited last; it calls the hooks and hands the gradients of the inputs on.
    """

    def __init__(self, module: Module, hooks: Sequence[Callable[..., Any]]) -> None:
        self._module = module
        self._hooks = hooks
        self._inputs: list[Tensor | None] = []
        self._outputs: list[Tensor | None] = []

    def enter(self, args: Args) -> tuple[Args, Node]:
        """The inputs to go on with, and the joint node."""
        wanted = [isinstance(arg, Tensor) and bool(arg._requires_grad) for arg in args]
        self._inputs = [None] * len(args)
        targets = [(arg._node or arg) if want else None for arg, want in zip(args, wanted, strict=True)]
        joint = Node(targets, self._finish, ())
        passed = [
            Tensor(arg._t, True, Node((joint,), functools.partial(self._take_input, i), ())) if want else arg
            for i, (arg, want) in enumerate(zip(args, wanted, strict=True))
        ]
        return tuple(passed), joint

    def leave(self, result: Any, joint: Node) -> Any:
        """The outputs to go on with."""
        if isinstance(result, dict):
            return {name: self.leave(item, joint) for name, item in result.items()}
        if isinstance(result, tuple | list):
            items = [self.leave(item, joint) for item in result]
            return type(result)(*items) if hasattr(result, "_fields") else type(result)(items)
        if not isinstance(result, Tensor):
            return result
        self._outputs.append(None)
        if not result._requires_grad:
            return result
        rule = functools.partial(self._take_output, len(self._outputs) - 1)
        return Tensor(result._t, True, Node((result._node or result, joint), rule, ()))

    def _take_input(self, i: int, gradient: Tensor) -> tuple[Tensor]:
        self._inputs[i] = gradient
        return (zeros((), device=gradient.device),)  # a sign for the joint node that it is reached

    def _take_output(self, i: int, gradient: Tensor) -> tuple[Tensor, Tensor]:
        self._outputs[i] = gradient
        return gradient, zeros((), device=gradient.device)

    def _finish(self, sign: Tensor) -> Sequence[Tensor | None]:  # noqa: ARG002
        inputs, outputs = tuple(self._inputs), tuple(self._outputs)
        self._inputs, self._outputs = [None] * len(inputs), [None] * len(outputs)
        for hook in self._hooks:
            other = hook(self._module, inputs, outputs)
            if other is not None:
                inputs = self._checked(other, inputs)
        return inputs

    def _checked(self, other: Any, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        given = other if isinstance(other, tuple) else (other,)
        if len(given) != len(inputs):
            raise ArgumentError(
                f"[hook] a backward hook of {type(self._module).__name__} returned {len(given)} gradients for "
                f"{len(inputs)} inputs"
            )
        for new, old in zip(given, inputs, strict=True):
            if new is not None and (old is None or not isinstance(new, Tensor) or new.shape != old.shape):
                raise DTypeError(
                    f"[hook] a backward hook of {type(self._module).__name__} returned {new!r} for the gradient {old!r}"
                )
        return given


class Hookable:
    """Mixin of `nn.Module`: registering hooks."""

    _hooks: Hooks | None = None

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Handle:
        """Has ``hook(module, args)`` called before each ``forward``; what it returns, unless None, takes args' place.

        Args:
            hook: the function; with `with_kwargs` it is called with (module, args, kwargs), and returns such a pair.
            prepend: whether it comes before the hooks that are there.
            with_kwargs: whether it sees keyword arguments.

        Returns:
            Its handle, with ``remove()``. Inside `qn.jit`, in ``fit`` too, a step with hooks runs eagerly.
        """
        return self._register("before", hook, with_kwargs, prepend)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Handle:
        """Has ``hook(module, args, output)`` called after each ``forward``; what it returns, unless None, is the output.

        Args:
            hook: the function; with `with_kwargs` it is called with (module, args, kwargs, output).
            prepend, with_kwargs: as in `register_forward_pre_hook`.

        Example:
            >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
            >>> shapes = []
            >>> with net[0].register_forward_hook(lambda module, args, output: shapes.append(output.shape)):
            ...     _ = net(np.ones((2, 4)))
            >>> shapes
            [(2, 8)]
        """
        return self._register("after", hook, with_kwargs, prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], *, prepend: bool = False) -> Handle:
        """Has ``hook(module, grad_input, grad_output)`` called in each backward that reaches the module.

        Args:
            hook: it is given the gradients of positional inputs and of outputs, in tuples; None for those without. What
                it returns, unless None, takes the place of ``grad_input``.
            prepend: whether it comes before the hooks that are there.
        """
        return self._register("backward", hook, False, prepend)

    def _register(self, kind: str, hook: Any, with_kwargs: bool, first: bool) -> Handle:
        if not callable(hook):
            raise ArgumentError(f"[hook] a hook is a function, got {hook!r}")
        if self._hooks is None:
            self.__dict__["_hooks"] = Hooks()
        me = weakref.ref(self)  # a handle must not keep the model alive

        def changed() -> None:
            module: Any = me()
            if module is not None:
                if not module._hooks:
                    del module.__dict__["_hooks"]  # calls are as fast as before
                module._changed("hooks")

        return Handle(getattr(self._hooks, kind), (hook, with_kwargs), changed, first)
