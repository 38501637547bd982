"""The tape.

Every op that may need a gradient ends in `attach`, which hangs a `Node` onto its output. A node holds the backward rule,
the tensors that the rule needs and, for each input, the node that made it or the leaf that wants the gradient. A node
never refers to its own output: there are no reference cycles, and dropping the loss frees the graph.

`backward` visits the nodes it can reach from newest to oldest. A node is always newer than what it was made from, so
this order is topological, needs no recursion, and is the same in every run.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Self, TypeVar

from quernel import _core, recording
from quernel.errors import ShapeError, StateError
from quernel.tensor import Tensor

P = ParamSpec("P")
R = TypeVar("R")

Gradients = Sequence["Tensor | RowsOfTable | None"]
Lookups = tuple[_core.Tensor, _core.Tensor | None, _core.Tensor | None, int, int]
Hook = Callable[[Tensor], Tensor | None]

_creation = itertools.count()


def is_grad_enabled() -> bool:
    """Whether ops on this thread note down how to compute gradients."""
    return recording.local.thread.grad_enabled


class no_grad:
    """Switches gradients off on this thread, as a context manager or a decorator.

    Example:
        >>> w = qn.tensor([1.0, 2.0], requires_grad=True)
        >>> with qn.no_grad():
        ...     y = w * 2
        >>> y.requires_grad
        False
    """

    __slots__ = ("_before",)

    def __init__(self) -> None:
        self._before: list[bool] = []  # one may be entered again within itself

    def __enter__(self) -> None:
        thread = recording.local.thread
        self._before.append(thread.grad_enabled)
        thread.grad_enabled = False

    def __exit__(self, *error: object) -> None:
        recording.local.thread.grad_enabled = self._before.pop()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, with gradients off while it runs."""

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with no_grad():
                return function(*args, **kwargs)

        return call


class Node:
    """One op on the tape."""

    __slots__ = ("backward", "hooks", "inputs", "order", "saved", "versions")

    def __init__(
        self,
        inputs: Sequence[Node | Tensor | None],
        backward: Callable[..., Gradients] | None,
        saved: Sequence[Any],
    ) -> None:
        self.inputs = inputs
        self.backward = backward
        self.saved = saved
        self.versions = [s.version if type(s) is _core.Tensor else 0 for s in saved]
        self.order = next(_creation)
        self.hooks: dict[int, Hook] | None = None  # of the tensor that the op made

    @property
    def name(self) -> str:
        """The op's name, for messages."""
        rule = self.backward
        while isinstance(rule, functools.partial):
            rule = rule.func
        return rule.__qualname__.split(".")[0].strip("_") if rule else "backward"

    def check(self) -> None:
        """Raises if the node was freed, or if a tensor it saved has changed since."""
        if self.backward is None:
            raise StateError(
                "[backward] this graph was freed by an earlier backward(); run the forward pass again, "
                "or pass retain_graph=True to the first call"
            )
        for tensor, version in zip(self.saved, self.versions, strict=True):
            if type(tensor) is _core.Tensor and tensor.version != version:
                raise StateError(
                    f"[backward] a tensor of shape {tensor.shape} that {self.name} needs was changed in place after the "
                    f"forward pass (version {tensor.version}, saved at {version}); call backward() before the write, or "
                    "write to a copy"
                )

    def release(self) -> None:
        """Drops everything the node holds."""
        self.backward, self.inputs, self.saved, self.versions = None, (), (), []


class RowsOfTable:
    """The gradient of a table under sums of its rows, not added up yet: leaves take it row by row.

    Attributes:
        lookups: index, offsets of bags, weights, length of a bag, row without a gradient: see csrc/ops/embedding_bag.h.
        g: (bags, features), the gradient of the sums.
        rows: how many the table has.
    """

    __slots__ = ("g", "lookups", "rows")

    def __init__(self, lookups: Lookups, g: _core.Tensor, rows: int) -> None:
        self.lookups = lookups
        self.g = g
        self.rows = rows

    def to_dense(self) -> Tensor:
        """The gradient as a tensor of the table's shape."""
        return Tensor(_core.bag_sum_grad(self.lookups, self.g, self.rows))

    def accumulate(self, leaf: Tensor) -> None:
        """Adds it to the leaf's gradient."""
        _core.accumulate_row_grad_(leaf._t, self.lookups, self.g)


class Part(Node):
    """One of several results of an op. It hands its gradient on to the op's node, which gets one for each result."""

    __slots__ = ("count", "index")

    def __init__(self, whole: Node, index: int, count: int) -> None:
        super().__init__((whole,), whole.backward, ())
        self.index = index
        self.count = count

    def hand_on(self, g: Tensor, pending: dict[Node, Any]) -> None:
        """Puts the gradient of this result among those of the others."""
        (whole,) = self.inputs
        assert isinstance(whole, Node)
        pending.setdefault(whole, [None] * self.count)[self.index] = g


def _guard(*inputs: object) -> None:
    """Ties the plan being recorded to which of these leaves want gradients (it forgets those that do not outlive it)."""
    for x in inputs:
        if isinstance(x, Tensor) and x._node is None:
            recording.guard(x, "requires_grad", bool(x._requires_grad))


needs_grad: Callable[..., bool]
"""``needs_grad(*inputs)``: whether the result of an op on these inputs needs a gradient."""

attach: Callable[..., Tensor]
"""``attach(out, inputs, backward, saved=())`` wraps the result of an op; if an input needs a gradient, on the tape.

Args:
    out: The native result.
    inputs: The op's inputs; anything but a Tensor (a Python number, None) gets no gradient.
    backward: ``backward(g, *saved)`` returns a gradient or None for each input. It must not refer to any Tensor made
        from ``out``; what it needs of the operands goes through ``saved``.
    saved: Native tensors, whose versions are checked before they are handed, wrapped, to ``backward``; anything
        else is handed on as it is.
"""

put_on_tape: Callable[..., Tensor]
"""`attach`, for an op that has asked `needs_grad` already."""

# In C (csrc/bindings/register_tape.cpp): every eager op ends there.
needs_grad, attach, put_on_tape = _core.tape_functions(
    Tensor, Node, recording.Thread, recording.local, _creation, _guard
)


def put_all_on_tape(
    outs: Sequence[_core.Tensor],
    inputs: Sequence[object],
    backward: Callable[..., Gradients],
    saved: Sequence[Any] = (),
) -> tuple[Tensor, ...]:
    """`put_on_tape` for an op of several results: ``backward`` gets a list with a gradient or None for each of them."""
    whole = Node(_targets(inputs), backward, saved)
    return tuple([Tensor(out, True, Part(whole, i, len(outs))) for i, out in enumerate(outs)])


def _targets(inputs: Sequence[object]) -> list[Node | Tensor | None]:
    """Where the gradients of an op's inputs go."""
    return [(x._node or (x if x._requires_grad else None)) if isinstance(x, Tensor) else None for x in inputs]


def backward(root: Tensor, gradient: Tensor, retain_graph: bool = False) -> None:
    """Adds d(root)/d(leaf) x gradient to the gradient of every leaf that root was made from.

    Nothing is written if the graph was freed or a saved tensor has changed.
    """
    if gradient.shape != root.shape:
        raise ShapeError(f"[backward] gradient has shape {gradient.shape}, the tensor {root.shape}")
    if root._node is None:
        hooks = _leaf_hooks.hooks.get(id(root))
        recording.guard(_leaf_hooks, "version", _leaf_hooks.version)
        root._accumulate(gradient if hooks is None else _hooked(hooks[1], gradient))
        return
    nodes = _reachable(root._node)
    pending: dict[Node, Any] = {root._node: gradient}  # of an op's node with parts: a list
    waiting: dict[int, tuple[Tensor, Tensor]] = {}  # leaves with hooks, and the sum of their gradients so far
    recording.guard(_leaf_hooks, "version", _leaf_hooks.version)
    with no_grad():
        for node in nodes:
            g = pending.pop(node, None)
            if g is not None:
                if node.hooks is not None:
                    g = _hooked(node.hooks, g)
                if type(node) is Part:
                    node.hand_on(g, pending)
                else:
                    _step(node, g, pending, waiting)
            if not retain_graph:
                node.release()
        for key, (leaf, g) in waiting.items():
            leaf._accumulate(_hooked(_leaf_hooks.hooks[key][1], g))


def _step(node: Node, g: Any, pending: dict[Node, Any], waiting: dict[int, tuple[Tensor, Tensor]]) -> None:
    assert node.backward is not None
    saved = [Tensor(s) if type(s) is _core.Tensor else s for s in node.saved]
    for target, gradient in zip(node.inputs, node.backward(g, *saved), strict=True):
        if target is None or gradient is None:
            continue
        if isinstance(gradient, RowsOfTable):
            if not isinstance(target, Node) and not _leaf_hooks.has(target):
                gradient.accumulate(target)
                continue
            gradient = gradient.to_dense()
        if isinstance(target, Node):
            other = pending.get(target)
            pending[target] = gradient if other is None else Tensor(_core.add(other._t, gradient._t))
        elif id(target) in _leaf_hooks.hooks:
            before = waiting.get(id(target))
            total = gradient if before is None else Tensor(_core.add(before[1]._t, gradient._t))
            waiting[id(target)] = target, total
        else:
            target._accumulate(gradient)


def _reachable(root: Node) -> list[Node]:
    """All nodes that root depends on, itself included, checked, newest first."""
    seen = {root}
    stack = [root]
    while stack:
        node = stack.pop()
        node.check()
        for target in node.inputs:
            if isinstance(target, Node) and target not in seen:
                seen.add(target)
                stack.append(target)
    return sorted(seen, key=lambda node: node.order, reverse=True)


# ---- hooks ----------------------------------------------------------------------------------------------------------


class Handle:
    """A registered hook; ``remove()``, or leaving a ``with`` block, takes it away."""

    def __init__(
        self, hooks: dict[int, Any], hook: Any, changed: Callable[[], None], first: bool = False
    ) -> None:
        """Puts `hook` into `hooks`, behind those that are there or before them; `changed` is told of both."""
        self._hooks = hooks
        self._key = next(_creation)
        self._changed = changed
        others = list(hooks.items()) if first else []
        for key, _ in others:
            del hooks[key]
        hooks[self._key] = hook
        hooks.update(others)
        changed()

    def remove(self) -> None:
        """Takes the hook away; again is harmless."""
        if self._hooks.pop(self._key, None) is not None:
            self._changed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


class _LeafHooks:
    """Hooks of leaves, by their identity. A plan that ran a backward is tied to `version`."""

    def __init__(self) -> None:
        self.hooks: dict[int, tuple[weakref.ref[Tensor], dict[int, Hook]]] = {}
        self.version = 0

    def of(self, leaf: Tensor) -> dict[int, Hook]:
        """The hooks of a leaf, to be added to."""
        key = id(leaf)
        if key not in self.hooks:
            self.hooks[key] = weakref.ref(leaf, lambda _: self.hooks.pop(key, None) and None), {}
        return self.hooks[key][1]

    def has(self, leaf: Tensor) -> bool:
        """Whether a leaf has hooks now."""
        entry = self.hooks.get(id(leaf))
        return entry is not None and bool(entry[1])

    def changed(self) -> None:
        """Invalidates plans."""
        self.version += 1
        recording.host_write("Tensor.register_hook")


_leaf_hooks = _LeafHooks()


def register_hook(tensor: Tensor, hook: Hook) -> Handle:
    """See `Tensor.register_hook`."""
    if not tensor._requires_grad:
        raise StateError("[register_hook] only tensors with requires_grad=True have gradients")
    node = tensor._node
    if node is None:
        return Handle(_leaf_hooks.of(tensor), hook, _leaf_hooks.changed)
    if node.hooks is None:
        node.hooks = {}
    return Handle(node.hooks, hook, lambda: None)  # a tape lives for one call: no plan can know of it


def _hooked(hooks: dict[int, Hook], gradient: Tensor) -> Tensor:
    """A gradient as hooks leave it."""
    if hooks and (current := recording.current()) is not None:
        current.abandon("a tensor has a hook, which a replay would not call", may_succeed_later=True)
    for hook in list(hooks.values()):
        result: Any = hook(gradient)
        if result is None:
            continue
        if not isinstance(result, Tensor) or result.shape != gradient.shape or result.dtype != gradient.dtype:
            raise ShapeError(
                f"[register_hook] a hook returned {result!r}, expected None or a {gradient.dtype} tensor of shape "
                f"{gradient.shape}"
            )
        gradient = result
    return gradient
