"""The step, and what a fit keeps while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from quernel import optim
from quernel.errors import StateError
from quernel.jit import jit
from quernel.nn.module import Module
from quernel.nn.norm import keeps_statistics
from quernel.ops import as_tensor
from quernel.optim import Optimizer
from quernel.runtime import device
from quernel.tensor import Tensor
from quernel.training.checks import threshold_of
from quernel.training.objective import Heads, Logs, Recipe, bind
from quernel.training.samples import Samples

Outcome = tuple[tuple[Tensor, ...], tuple[Any, ...]]  # losses; outputs that metrics look at
Step = Callable[..., Outcome]


@dataclass(frozen=True)
class Clipping:
    """What happens to gradients before each update.

    Attributes:
        norm: the largest Euclidean norm of all gradients together.
        value: the largest absolute value of any element.
    """

    norm: float | None = None
    value: float | None = None

    def apply(self, optimizer: Optimizer) -> None:
        """Clips the gradients of an optimizer's parameters."""
        if self.norm is not None:
            optim.clip_grad_norm_(_parameters(optimizer), self.norm)
        if self.value is not None:
            optim.clip_grad_value_(_parameters(optimizer), self.value)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group.params]


@dataclass(frozen=True)
class Bound:
    """The heads of a model whose outputs are known, and its steps."""

    heads: Heads
    train_step: Step
    test_step: Step


class Trainer:
    """A compiled model.

    Attributes:
        net, optimizer: what trains, and how.
        recipe: the losses and metrics that were asked for.
        clipping: what is done to gradients.
        trains_all: whether the optimizer was made of all parameters, rather than of some that the user chose.
        monitors: names that the logs of an epoch will contain, once training has begun.
        batch_size: samples of a batch; None: all. A callback may change it before an epoch.
        takes_batch_sizes: whether that has an effect; a loader makes its own batches.
        lr_scale: a factor that callbacks which set the learning rate multiply it by; `callbacks.LRRollback` lowers it.
        stop_training: set it to end a fit after the current batch or, between epochs, before the next.
        discard_batch: set it in ``on_batch_end`` to keep that batch out of the epoch's numbers.
    """

    def __init__(
        self,
        net: Module,
        optimizer: Optimizer | None,
        recipe: Recipe,
        clipping: Clipping,
        run_eagerly: bool,
        trains_all: bool,
    ) -> None:
        self.net = net
        self.optimizer = optimizer
        self.recipe = recipe
        self.clipping = clipping
        self.trains_all = trains_all
        self.monitors: tuple[str, ...] = ()
        self.batch_size: int | None = 32
        self.takes_batch_sizes = True
        self.lr_scale = 1.0
        self.stop_training = False
        self.discard_batch = False
        self.seen: Any = None  # what was checked last, so that it need not be again
        self.trains: tuple[int, ...] | None = None  # the structure that the optimizer was last seen to fit
        self._run_eagerly = run_eagerly
        self._known: dict[tuple[str, ...] | None, Bound] = {}
        self._bound: Bound | None = None

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def bind(self, names: tuple[str, ...] | None) -> Heads:
        """Chooses the heads and steps for a model with these outputs; None: one, or a loss that takes all of them."""
        if names not in self._known:
            heads = bind(self.recipe, names, threshold_of)
            steps = _steps(self.net, self.optimizer, heads, self.clipping, self._run_eagerly)
            self._known[names] = Bound(heads, *steps)
        self._bound = self._known[names]
        return self._bound.heads

    @property
    def bound(self) -> Bound:
        """Heads and steps, once the outputs are known."""
        if self._bound is None:
            raise StateError("[trainer] the outputs are not known before the first data are")
        return self._bound

    @property
    def heads(self) -> Heads:
        """A loss and metrics for each output."""
        return self.bound.heads

    @property
    def train_step(self) -> Step:
        """Forward, losses, backward and update."""
        return self.bound.train_step

    # ---- steps ------------------------------------------------------------------------------------------------------

    def place(self, samples: Samples) -> tuple[Any, ...]:
        """What a step is given of a batch: on CUDA copies, on the CPU the arrays themselves."""
        arguments: Any = (*samples.arguments, samples.targets, samples.weights)
        if self.net.device != "cpu":
            with device(self.net.device):
                arguments = _as_tensors(arguments)
        placed: tuple[Any, ...] = arguments
        return placed

    def train(
        self,
        group: Sequence[Samples],
        first: tuple[Any, ...] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[Logs, list[tuple[Any, ...]]]:
        """One update, from the gradients of one or more batches; its losses, and what metrics look at.

        Args:
            group: the batches.
            first: what `place` made of the first one, if it is there already.
            meanwhile: what the host does before it waits for the losses.
        """
        shares = [len(batch) / sum(map(len, group)) for batch in group]
        outcomes = []
        for i, batch in enumerate(group):
            how: tuple[Any, ...] = ()
            if len(group) > 1:
                how = np.array(shares[i], self.net.dtype or "float32"), i == 0, i == len(group) - 1
            arguments = first if first and i == 0 else self.place(batch)
            with device(self.net.device):  # where the arrays of the batch go
                outcomes.append(self.train_step(*arguments, *how))
        if meanwhile:
            meanwhile()
        logs = dict.fromkeys(self.heads.loss_names, 0.0)
        for share, (values, _) in zip(shares, outcomes, strict=True):
            for name, value in zip(logs, values, strict=True):
                logs[name] += float(value.item()) * share  # a share of 1 changes no bit
        return logs, [measured for _, measured in outcomes]

    def test(self, batches: Iterable[Samples]) -> Logs:
        """Losses and metrics over batches, without an update."""
        mean, heads = Mean(), self.heads
        heads.reset()
        for batch in batches:
            with device(self.net.device):
                values, measured = self.bound.test_step(*batch.arguments, batch.targets, batch.weights)
            losses = {name: float(value.item()) for name, value in zip(heads.loss_names, values, strict=True)}
            mean.add(len(batch), losses)
            heads.update(measured, batch.targets, batch.weights)
        return mean.value() | heads.compute()


class Mean:
    """Means of numbers over samples."""

    def __init__(self) -> None:
        self._sums: Logs = {}
        self._size = 0

    def add(self, size: int, logs: Logs) -> None:
        """Takes in the means over `size` samples."""
        self._size += size
        for name, value in logs.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * size

    def value(self) -> Logs:
        """The means over all samples."""
        return {name: total / self._size for name, total in self._sums.items()}


@contextmanager
def mode(net: Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode for a while; every module then gets back its own.

    Norms whose parameters are frozen stay in evaluation mode: the statistics of a body that is not to change are part of it.
    """
    wanted = [(module, training and not keeps_statistics(module)) for module in net.modules()]
    changed = [(module, goal) for module, goal in wanted if module.__dict__["_training"] != goal]
    for module, goal in changed:
        module.training = goal
    try:
        yield
    finally:
        for module, goal in changed:
            module.training = not goal


def _steps(
    net: Module, optimizer: Optimizer | None, heads: Heads, clipping: Clipping, run_eagerly: bool
) -> tuple[Step, Step]:
    """The training step and the evaluation step."""
    losses = heads.functions  # a variable of the steps: `qn.jit` follows the functions in it

    def train_step(
        inputs: tuple[Tensor, ...],
        named: dict[str, Tensor],
        targets: tuple[Tensor | None, ...],
        weights: tuple[Tensor | None, ...],
        scale: Tensor | None = None,  # with what follows for accumulated gradients only: arguments cost time
        is_first: bool = True,
        is_last: bool = True,
    ) -> Outcome:
        assert optimizer is not None  # `trainer_of` has made sure
        if is_first:
            optimizer.zero_grad()
        output = net(*inputs, **named)
        values = heads.values(losses, output, targets, weights)
        values[0].backward(scale)
        if is_last:
            clipping.apply(optimizer)
            optimizer.step()
        return values, heads.measured(output)

    def test_step(
        inputs: tuple[Tensor, ...],
        named: dict[str, Tensor],
        targets: tuple[Tensor | None, ...],
        weights: tuple[Tensor | None, ...],
    ) -> Outcome:
        output = net(*inputs, **named)
        return heads.values(losses, output, targets, weights), heads.measured(output)

    train_step.__qualname__, test_step.__qualname__ = (
        f"{type(net).__name__}.{verb}" for verb in ("fit", "evaluate")
    )
    if not run_eagerly:
        return jit(train_step), jit(test_step)
    return _eagerly(train_step), _eagerly(test_step)


def _eagerly(step: Step) -> Step:
    def call(*arguments: Any) -> Outcome:
        return step(*[_as_tensors(argument) for argument in arguments])

    return call


def _as_tensors(value: Any) -> Any:
    """What `qn.jit` makes of an argument: tensors for its arrays."""
    if isinstance(value, np.ndarray):
        return as_tensor(value)
    if isinstance(value, tuple):
        return tuple([_as_tensors(item) for item in value])
    return {name: _as_tensors(item) for name, item in value.items()} if isinstance(value, dict) else value


def trainer_of(net: Module, verb: str) -> Trainer:
    """What `compile` made."""
    trainer: Trainer | None = net._session.get("trainer")
    if trainer is None:
        raise StateError(f"[{verb}] call net.compile(optimizer=..., loss=...) first")
    if verb not in ("evaluate", "test_on_batch"):
        _check_optimizer(verb, trainer)
    return trainer


def _check_optimizer(verb: str, trainer: Trainer) -> None:
    """Raises if the optimizer is not for what is to be trained."""
    net = trainer.net
    parameters = list(net.parameters())
    if not any(p.requires_grad for p in parameters) and (parameters or trainer.optimizer is None):
        frozen = ": all are frozen, let some be trained with requires_grad_(True)" if parameters else ""
        raise StateError(
            f"[{verb}] the model has no parameters to train{frozen}; an int8 model is for inference"
        )
    if trainer.optimizer is None:
        raise StateError(f"[{verb}] all parameters were frozen when the model was compiled; compile it again")
    if trainer.trains == net._structure:
        return
    known = {id(p) for p in _parameters(trainer.optimizer)}
    new = [name for name, p in net.named_parameters() if p.requires_grad and id(p) not in known]
    if new and (trainer.trains_all or known - set(map(id, parameters))):
        raise StateError(
            f"[{verb}] {', '.join(new)} would not be trained: the optimizer is of the layers that were there before; call "
            "net.compile again, with an optimizer of the parameters as they are now"
        )
    trainer.trains = net._structure
