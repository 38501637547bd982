"""`qn.jit`: a step as one native call.

The first call of a signature runs eagerly, so that lazy initialization is over; the second is recorded, later ones
replay the record. A signature is everything about the arguments but the numbers in them: structure, shapes, dtypes,
and the values of non-float arguments. A plan also remembers the host state that the call read (train or eval mode,
which leaves have gradients, the modules' structure, plain variables that the function refers to) and serves only
while it is unchanged. Whichever way a call runs, it happens whole or not at all, with the same bits.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

import numpy as np

from quernel import _core, recording
from quernel.autograd import is_grad_enabled, no_grad
from quernel.errors import ArgumentError, StateError
from quernel.ops.op import current_tracer
from quernel.signature import PLAIN, SEQUENCES, Call, Variable, Variables
from quernel.tensor import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_MAX_SIGNATURES = 64
_MAX_PLANS = 8  # per signature
_MAX_ATTEMPTS = 3


class _Plan:
    def __init__(self, native: _core.Plan, guards: list[recording.Guard], output: Any) -> None:
        self.native = native
        self.guards = guards
        self.output = output  # structure of the result, `_Slot`s for tensors
        self.epoch = recording.epoch()  # when the guards were last seen to hold

    def guards_hold(self) -> bool:
        now = recording.epoch()
        if self.epoch != now:
            if not all(guard.holds() for guard in self.guards):
                return False
            self.epoch = now
        return True

    def result(self, outputs: list[_core.Tensor]) -> Any:
        if type(self.output) is _Slot:
            return Tensor(outputs[0])
        return _rebuild(self.output, list(map(Tensor, outputs)))


class _Signature:
    def __init__(self, kept: Any) -> None:
        self.kept = kept  # objects whose identity is part of the key
        self.warm = False
        self.attempts = 0
        self.plans: list[_Plan] = []


class _Latest(NamedTuple):
    """The plan of the latest replay, for which the next call need not be taken apart if its arguments are alike."""

    key: Any  # of its signature
    plan: _Plan
    native: _core.Replayer
    grad_enabled: bool
    variables: list[Variable]


class _Slot:
    def __init__(self, index: int) -> None:
        self.index = index


class Jitted(Generic[P, R]):
    """A function whose repeated calls replay as one native call; see `jit`."""

    def __init__(self, fn: Callable[P, R]) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._lock = threading.RLock()
        self._signatures: OrderedDict[Any, _Signature] = OrderedDict()
        self._arenas = _core.ArenaPool()
        self._logged: set[str] = set()
        self._variables = Variables(fn)
        self._latest: _Latest | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        thread = recording.local.thread
        if thread.jitted or current_tracer() is not None:  # a part of the call around it
            return self._fn(*args, **kwargs)
        latest = self._latest
        if latest is not None and latest.grad_enabled is thread.grad_enabled and not kwargs:
            outputs = self._again(latest, args)
            if outputs is not None:
                again: R = latest.plan.result(outputs)
                return again
        call = Call()
        args_, kwargs_ = call.take(args), call.take(kwargs)
        call.key += (is_grad_enabled(), _core.default_device())
        variables = self._variables.add_to(call)
        with self._lock:
            if call.obstacle:
                self._tell(call.obstacle)
                return self._eager(args_, kwargs_)
            key = tuple(call.key)
            signature = self._signature(key, call.kept)
            for plan in signature.plans:
                if plan.guards_hold() and plan.native.valid(call.tensors):
                    try:
                        outputs = plan.native.replay(call.tensors, self._arenas)
                    except (
                        ArgumentError
                    ):  # data refused, nothing happened: `fn` may know what to do, or raises
                        return self._eager(args_, kwargs_)
                    if not kwargs:
                        self._note(key, plan, args, variables)
                    result: R = plan.result(outputs)
                    return result
            if not signature.warm or signature.attempts >= _MAX_ATTEMPTS:
                signature.warm = True
                return self._eager(args_, kwargs_)
            return self._record(signature, call, args_, kwargs_)

    def _again(self, latest: _Latest, args: tuple[Any, ...]) -> list[_core.Tensor] | None:
        """Replays the latest plan if it serves these arguments too; else the call must be taken apart."""
        for variable in latest.variables:
            if not variable.unchanged():
                return None
        plan = latest.plan
        with self._lock:
            if plan.epoch != recording.epoch() and not plan.guards_hold():
                return None
            try:
                return latest.native.run(args)
            except ArgumentError:  # data refused, nothing happened
                return None

    def _note(self, key: Any, plan: _Plan, args: tuple[Any, ...], variables: list[Variable]) -> None:
        native = _core.Replayer.make(plan.native, self._arenas, args, Tensor, recording.State)
        self._latest = None if native is None else _Latest(key, plan, native, is_grad_enabled(), variables)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """A jitted method: bound like a function, with plans of its own for each object."""
        if instance is None:
            return self
        bound = Jitted(functools.partial(self._fn, instance))
        functools.update_wrapper(bound, self._fn)
        name = getattr(self._fn, "__name__", "")
        if name and hasattr(instance, "__dict__"):
            vars(instance).setdefault(name, bound)  # found there from now on
        return bound

    def _signature(self, key: Any, kept: Any) -> _Signature:
        signature = self._signatures.get(key)
        if signature is None:
            signature = self._signatures[key] = _Signature(kept)
            if len(self._signatures) > _MAX_SIGNATURES:
                # The latest plan's calls do not come by here, so its signature looks older than it is.
                if self._latest is not None and next(iter(self._signatures)) == self._latest.key:
                    self._signatures.move_to_end(self._latest.key)
                self._signatures.popitem(last=False)
                self._tell("its signature keeps changing (an argument or a variable that it reads)")
        self._signatures.move_to_end(key)
        return signature

    def _eager(self, args: Any, kwargs: Any) -> R:
        output, natives = self._run(args, kwargs)
        result: R = _rebuild(output, [Tensor(t) for t in natives])
        return result

    def _run(self, args: Any, kwargs: Any) -> tuple[Any, list[_core.Tensor]]:
        """Calls the function; what it did is undone if it raises."""
        natives: list[_core.Tensor] = []
        thread = recording.local.thread
        thread.jitted = True
        try:
            with recording.transaction():
                return _flatten(self._fn(*args, **kwargs), natives), natives
        finally:
            thread.jitted = False

    def _record(self, signature: _Signature, call: Call, args: Any, kwargs: Any) -> R:
        signature.attempts += 1
        current = recording.Recording(_core.Recorder(call.tensors), call.states)
        recording.enter(current)
        try:
            output, natives = self._run(args, kwargs)
        finally:
            recording.enter(None)
            current.native.stop()
        plan = current.native.finish(natives)
        if plan is None:
            signature.attempts -= current.may_succeed_later
            self._tell(f"{current.native.reason} ({current.line})" if current.line else current.native.reason)
        else:
            guards = [guard for guard in current.guards.values() if guard.owner() is not None]
            live = [other for other in signature.plans if not other.native.stale()]
            signature.plans = [_Plan(plan, guards, output), *live][:_MAX_PLANS]
            signature.attempts = 0
        result: R = _rebuild(output, [Tensor(t) for t in natives])
        return result

    def _tell(self, reason: str) -> None:
        name = getattr(self._fn, "__qualname__", repr(self._fn))
        message = f"[jit] {name} runs eagerly: {reason}"
        if message not in self._logged:
            self._logged.add(message)
            import logging  # not at every start of a program

            logging.getLogger("quernel.jit").warning(message)

    def plans(self) -> list[_core.Plan]:
        """The plans recorded so far, most recently used signature last."""
        return [p.native for s in self._signatures.values() for p in s.plans]


def _flatten(value: Any, natives: list[_core.Tensor]) -> Any:
    """The structure of a result, its tensors replaced by slots and copied: nobody else holds them."""
    if isinstance(value, Tensor):
        natives.append(_core.fresh_copy(value._t))
        return _Slot(len(natives) - 1)
    if isinstance(value, SEQUENCES):
        items = [_flatten(item, natives) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {name: _flatten(item, natives) for name, item in value.items()}
    current = recording.current()
    if current is not None and not isinstance(value, PLAIN):
        current.abandon(f"it returns a {type(value).__name__}, which a replay cannot renew")
    return value


def _rebuild(structure: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(structure, _Slot):
        return tensors[structure.index]
    if isinstance(structure, SEQUENCES):
        items = [_rebuild(item, tensors) for item in structure]
        return type(structure)(*items) if hasattr(structure, "_fields") else type(structure)(items)
    if isinstance(structure, dict):
        return {name: _rebuild(item, tensors) for name, item in structure.items()}
    return structure


@overload
def jit(fn: Callable[P, R]) -> Jitted[P, R]: ...
@overload
def jit() -> Callable[[Callable[P, R]], Jitted[P, R]]: ...
def jit(fn: Callable[P, R] | None = None) -> Jitted[P, R] | Callable[[Callable[P, R]], Jitted[P, R]]:
    """Makes repeated calls of `fn` replay as one native call.

    Args:
        fn: Any function of tensors and arrays (nested in lists, tuples and dicts as you like), such as a whole
            training step. NumPy arrays and float arguments arrive in it as tensors, so that replays see their
            current numbers; so do the tensors of a `nn.KeyValueCache`, which is changed in place; other arguments are
            part of the signature.

    Returns:
        A function that gives what `fn` gives, tensors detached and freshly allocated. Eager call, recorded call and
        replay agree bit for bit. A call that raises leaves parameters, buffers, optimizers, gradients and the
        random stream as they were.

    What a replay cannot follow is done eagerly instead, and logged once with its line: looking at a tensor's numbers
    inside `fn` (`item()`, `if loss > 1:`, `numpy()`), arrays that are not arguments, results kept outside. Plain Python
    side effects (a `print`, a counter, drawing from another random generator) happen only while `fn` really runs. Of
    host state, arguments, Modules, optimizers and tensors are watched, and the plain values (numbers, strings, short
    lists and dicts of them) in variables of `fn` and of functions it calls, and in attributes of objects found there;
    what lies deeper is not.

    Example:
        >>> net = nn.Linear(4, 2)
        >>> opt = optim.SGD(net.parameters(), lr=0.1)
        >>> @qn.jit
        ... def step(x, y):
        ...     opt.zero_grad()
        ...     loss = losses.cross_entropy(net(x), y)
        ...     loss.backward()
        ...     opt.step()
        ...     return loss
        >>> x, y = np.zeros((8, 4), np.float32), np.zeros(8, np.int64)
        >>> losses_seen = [step(x, y).item() for _ in range(3)]
    """
    return Jitted if fn is None else Jitted(fn)


class FrozenMemory:
    """What the plans of one frozen model share: its packed weights and temporary memory; and the short way to them."""

    def __init__(self) -> None:
        self.constants = _core.DerivedCache()
        self.arenas = _core.ArenaPool()
        self.runner = _core.ArrayRunner(self.arenas)


class FrozenPlan:
    """An inference function for arrays of fixed shapes: one native call, any number of threads."""

    def __init__(self, native: _core.Plan, arenas: _core.ArenaPool) -> None:
        self._native = native
        self._arenas = arenas

    def replay(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Fresh arrays computed from `arrays`, which must have the recorded shapes and dtypes."""
        return _core.BatchPlan(self._native).run(arrays, self._arenas)

    @property
    def native(self) -> _core.Plan:
        """The plan itself, for what it can tell (steps, memory)."""
        return self._native


class FrozenBatch:
    """Plans that together serve one batch size of a model.

    Args:
        memory: Of the model.
        rows: The batch size.
        piece: For its number of rows; each run of it on one thread if it runs several times.
        count: How often it runs.
        rest: For the rows left over, for that many or more, but fewer than twice `rows`; None where there are none.
    """

    def __init__(
        self, memory: FrozenMemory, rows: int, piece: FrozenPlan | None, count: int, rest: FrozenPlan | None
    ) -> None:
        self._memory = memory
        self._native = _core.BatchPlan(
            piece.native if piece else None, count, rest.native if rest else None, rows
        )

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Fresh arrays computed from `arrays`, which must have `rows` rows of the recorded shapes and dtypes."""
        return self._native.run(arrays, self._memory.arenas)

    def nbytes(self, threads: int) -> int:
        """Bytes of temporary memory of a run, at most, where so many threads work on it."""
        return self._native.nbytes(threads)

    def stale(self) -> bool:
        """Whether the kernels are no longer the right ones."""
        return self._native.stale()

    def serve(self, threads: int) -> None:
        """From now on the model's short way takes batches of this size here while the pool has so many threads."""
        self._memory.runner.add(self._native, threads)


def record_frozen(
    fn: Callable[..., Sequence[Tensor]],
    inputs: Sequence[np.ndarray],
    constants: _core.DerivedCache,
    arenas: _core.ArenaPool,
) -> FrozenPlan:
    """Records `fn(*tensors)` without gradients, everything but its inputs constant.

    Args:
        fn: Takes one tensor per input and returns tensors.
        inputs: Arrays of the shapes and dtypes to be served.
        constants: Where packed weights are kept; pass the same one for all batch sizes of a model.
        arenas: Temporary memory; likewise.

    Raises:
        StateError: `fn` cannot be recorded, with the reason.
    """
    arguments = [_core.from_numpy(array, copy=False) for array in inputs]
    current = recording.Recording(_core.Recorder(arguments, constants))
    recording.enter(current)
    try:
        with no_grad():
            outputs = [_core.fresh_copy(t._t) for t in fn(*[Tensor(a) for a in arguments])]
    finally:
        recording.enter(None)
        current.native.stop()
    plan = current.native.finish(outputs)
    if plan is None:
        raise StateError(f"[freeze] cannot be recorded: {current.native.reason} {current.line}".rstrip())
    return FrozenPlan(plan, arenas)
