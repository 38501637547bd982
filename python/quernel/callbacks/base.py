"""What a callback is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quernel.errors import ArgumentError
from quernel.suggest import suggestion

if TYPE_CHECKING:
    from quernel.nn import Module
    from quernel.optim import Optimizer
    from quernel.training import Trainer

Logs = dict[str, float]


class Callback:
    """Base class; override what you need.

    Attributes:
        trainer: what is training, set before ``on_train_begin``. ``trainer.stop_training = True`` ends the fit after
            the batch or epoch; ``trainer.monitors`` names what ``logs`` of ``on_epoch_end`` will contain.

    Example:
        >>> class Print(callbacks.Callback):
        ...     def on_epoch_end(self, epoch, logs):
        ...         print(epoch, logs["loss"])
    """

    trainer: Trainer

    @property
    def net(self) -> Module:
        """The model."""
        return self.trainer.net

    @property
    def optimizer(self) -> Optimizer:
        """Its optimizer."""
        optimizer = self.trainer.optimizer
        assert optimizer is not None  # without one nothing trains
        return optimizer

    def on_train_begin(self) -> None:
        """Before the first epoch."""

    def on_train_end(self) -> None:
        """After the last epoch."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before epoch number `epoch`, the first being 0."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """After an epoch and its validation; `logs` has the epoch's loss and metrics."""

    def on_validation_begin(self) -> None:
        """After the training part of an epoch, if validation follows."""

    def on_batch_begin(self, batch: int) -> None:
        """Before a step."""

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """After a step; `logs` has its loss, and with several outputs the loss of each. Metrics come with the epoch."""


class LambdaCallback(Callback):
    """A callback made of functions.

    Args:
        functions: by the name of the method that they stand for: ``on_epoch_end=f`` has ``f(epoch, logs)`` called.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 2))
        >>> net.compile("sgd")
        >>> stop = callbacks.LambdaCallback(on_epoch_begin=lambda epoch: print("epoch", epoch))
        >>> x, y = np.zeros((8, 4)), np.zeros(8, int)
        >>> _ = net.fit(x, y, epochs=2, verbose=0, callbacks=[stop])
        epoch 0
        epoch 1
    """

    def __init__(self, **functions: Callable[..., Any]) -> None:
        known = [
            name for name, _ in inspect.getmembers(Callback, inspect.isfunction) if name.startswith("on_")
        ]
        for name, function in functions.items():
            if name not in known:
                raise ArgumentError(
                    f"[LambdaCallback] a callback has no {name!r}{suggestion(name, known)}; it has {', '.join(known)}"
                )
            if not callable(function):
                raise ArgumentError(f"[LambdaCallback] {name} is a function, got {function!r}")
            setattr(self, name, function)
