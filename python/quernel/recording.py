"""What host code tells a recording.

`qn.jit` records the kernels of a call and replays them later without any Python. That is sound only if nothing that
steered the call has changed since, so host code that touches such state says so here:

- `guard`: it read a value that steers computation (`training`, `requires_grad`, a module's structure);
- `host_write`: it changes such a value;
- `host_read`: it looks at numbers inside a tensor, which a replay could not follow.

While nothing records, these calls cost a thread-local look-up.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from quernel import _core

_PACKAGE = __file__.removesuffix("recording.py")  # without pathlib, which takes milliseconds to import


class Guard:
    """`owner.name` had `value` when it was read."""

    __slots__ = ("name", "owner", "value")

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        # A temporary tensor must not be kept alive; without owner there is nothing to guard.
        self.owner: weakref.ref[Any] = weakref.ref(owner)
        self.name = name
        self.value = value

    def holds(self) -> bool:
        """Whether it still has."""
        owner = self.owner()
        return owner is None or getattr(owner, self.name) == self.value


class State:
    """Base of objects made of tensors that a function changes in place, such as a cache of keys and values.

    As an argument of a jitted function such an object stands for its tensors: one plan serves all that are of these shapes.
    What its methods decide by host state is theirs to guard.

    Attributes:
        parts: the tensors. Another tuple, such as one of larger tensors, is another state.
    """

    parts: tuple[Any, ...] = ()


class Recording:
    """A recording in progress on this thread."""

    def __init__(self, native: _core.Recorder, states: Sequence[State] = ()) -> None:
        self.native = native
        self.states = states  # arguments of the call
        self.guards: dict[tuple[int, str], Guard] = {}
        self.line = ""  # the user's line that made it impossible
        self.may_succeed_later = False  # the reason may go away, so that this attempt does not count

    def abandon(self, reason: str, may_succeed_later: bool = False) -> None:
        """Gives up recording; the call goes on eagerly."""
        if not self.line:
            self.line = _caller()
            self.may_succeed_later = may_succeed_later
        self.native.abandon(reason)


class Thread:
    """What a thread has open, and whether its ops note down how to compute gradients."""

    __slots__ = ("current", "grad_enabled", "jitted", "transaction", "undo")

    def __init__(self) -> None:
        self.grad_enabled = True
        self.jitted = False  # inside the function of a jitted call
        self.current: Recording | None = None
        self.transaction = _core.Transaction()  # opened and closed over and over: making one takes longer
        self.undo: list[Callable[[], None]] | None = None  # while a step may still be rolled back


class _Local(threading.local):
    def __init__(self) -> None:
        self.thread = Thread()  # found once, its attributes cost next to nothing


local = _Local()
_changes = itertools.count(1)
_epoch = 0


def current() -> Recording | None:
    """The recording of this thread, or None."""
    return local.thread.current


def enter(recording: Recording | None) -> None:
    """Makes `recording` this thread's current one (`None`: no more)."""
    local.thread.current = recording


def epoch() -> int:
    """Changes whenever `host_write` was called, so that unchanged guards need not be looked at."""
    return _epoch


def guard(owner: Any, name: str, value: Any) -> None:
    """Notes that `owner.name` was read and steered the call."""
    recording = local.thread.current
    if recording is not None:
        key = (id(owner), name)
        noted = recording.guards.get(key)
        if noted is None or noted.owner() is None:  # a dead owner's id may have gone to this one
            recording.guards[key] = Guard(owner, name, value)


def guard_structure(module: Any) -> None:
    """Notes that a method of a module runs, whose modules and attributes steer it, here and below."""
    if local.thread.current is not None:
        guard(module, "_structure", module._structure)


def host_read(what: str) -> None:
    """Notes that the numbers in a tensor are looked at on the host."""
    recording = local.thread.current
    if recording is not None:
        recording.abandon(f"{what} reads values on the host")


def host_write(what: str) -> None:
    """Notes a change of state that guards may refer to, once it is made."""
    global _epoch
    _epoch = next(_changes)
    recording = local.thread.current
    if recording is not None:
        recording.abandon(f"{what} changes host state")


def on_rollback(undo: Callable[[], None]) -> None:
    """Has `undo` called if the transaction that this is part of (a jitted step, a call of a model) fails.

    The native transaction restores the contents of tensors that existed before; this is for host state (an optimizer's
    new segment, an attribute). Outside a transaction nothing is ever rolled back, and `undo` is forgotten.
    """
    if local.thread.undo is not None:
        local.thread.undo.append(undo)


def in_transaction() -> bool:
    """Whether a transaction is open on this thread."""
    return local.thread.undo is not None


class transaction:
    """Everything inside happens whole, or is undone when an exception leaves it.

    Inside an open transaction another one does nothing: only what leaves the outermost one is undone.
    """

    __slots__ = ("_thread",)

    _thread: Thread | None  # None inside another one

    def __enter__(self) -> None:
        thread = local.thread
        self._thread = thread if thread.undo is None else None
        if self._thread is not None:
            thread.transaction.open()
            thread.undo = []

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        thread = self._thread
        if thread is None:
            return
        try:
            if kind is not None:
                thread.transaction.rollback()
                for undo in reversed(thread.undo or ()):
                    undo()
        finally:
            thread.undo = None
            thread.transaction.close()


def is_ours(filename: str) -> bool:
    """Whether a source file belongs to this package."""
    return filename.startswith(_PACKAGE)


def _caller() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
