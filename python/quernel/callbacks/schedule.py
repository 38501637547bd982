"""Callbacks that change learning rate and batch size by a plan."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from quernel import optim
from quernel.callbacks.base import Callback, Logs
from quernel.callbacks.monitor import check_monitor
from quernel.errors import ArgumentError

_log = logging.getLogger("quernel.callbacks")


class LRScheduler(Callback):
    """Sets the learning rate by a schedule.

    Args:
        schedule: an object of `optim.lr_scheduler`, over the optimizer that was given to ``compile``; its ``step`` is
            called after each epoch (or batch). Or a function of the number of the epoch (or batch), from 0 on, that
            returns the learning rate of it; if it takes two arguments, the second is the rate before, as in Keras. It is
            the rate of the first parameter group; others keep the ratio to it that they have when training begins.
        per: "epoch" or "batch".
        monitor: what ``optim.lr_scheduler.ReduceLROnPlateau`` is given.

    A schedule object goes on where it is in the next fit; a function starts anew.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 2))
        >>> net.compile(optim.SGD(net.parameters(), lr=1.0))
        >>> halve = callbacks.LRScheduler(lambda epoch: 0.5**epoch)
        >>> net.fit(np.zeros((8, 4)), np.zeros(8, int), epochs=3, verbose=0, callbacks=[halve]).lr
        [1.0, 0.5, 0.25]
    """

    def __init__(self, schedule: Any, per: str = "epoch", monitor: str = "val_loss") -> None:
        if per not in ("epoch", "batch"):
            raise ArgumentError(f"[LRScheduler] per is 'epoch' or 'batch', got {per!r}")
        self._has_step = hasattr(schedule, "step")
        if not self._has_step and not callable(schedule):
            raise ArgumentError(
                f"[LRScheduler] schedule is an optim.lr_scheduler object or a function of the epoch, got {schedule!r}"
            )
        self.schedule = schedule
        self._takes_rate = not self._has_step and _arguments(schedule) == 2
        self._ratios: list[float] = []  # of the rates of parameter groups to that of the first
        self.per = per
        self.monitor = monitor

    @property
    def _watches(self) -> bool:
        return isinstance(self.schedule, optim.lr_scheduler.ReduceLROnPlateau)

    def on_train_begin(self) -> None:
        self._batches = 0
        if not self._has_step:
            rates = [float(group.peek("lr")) for group in self.optimizer.param_groups]
            if rates[0] > 0 or len(self._ratios) != len(rates):
                self._ratios = [rate / rates[0] if rates[0] > 0 else 1.0 for rate in rates]
            return
        if getattr(self.schedule, "optimizer", self.optimizer) is not self.optimizer:
            raise ArgumentError(
                "[LRScheduler] the schedule is over another optimizer than the one that trains; make both first: "
                "opt = optim.SGD(net.parameters(), lr=0.1); net.compile(opt), and the schedule over opt"
            )
        if self._watches:
            if self.per == "batch":
                raise ArgumentError("[LRScheduler] a plateau is one of epochs; use per='epoch'")
            check_monitor(self, self.monitor)

    def on_epoch_begin(self, epoch: int) -> None:
        if self.per == "epoch" and not self._has_step:
            self._set(epoch)

    def on_batch_begin(self, batch: int) -> None:  # noqa: ARG002
        if self.per == "batch" and not self._has_step:
            self._set(self._batches)
        self._batches += 1

    def on_batch_end(self, batch: int, logs: Logs) -> None:  # noqa: ARG002
        if self.per == "batch" and self._has_step:
            self.schedule.step()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:  # noqa: ARG002
        if self.per == "epoch" and self._has_step:
            if self._watches:
                self.schedule.step(logs[self.monitor])
            else:
                self.schedule.step()

    def _set(self, position: int) -> None:
        scale = self.trainer.lr_scale
        before = (self.optimizer.lr / scale,) if self._takes_rate else ()
        rate = float(self.schedule(position, *before)) * scale
        for group, ratio in zip(self.optimizer.param_groups, self._ratios, strict=True):
            group["lr"] = rate * ratio


def _arguments(function: Any) -> int:
    """How many arguments a function must be given; 1 where it does not tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


class BatchSizeScheduler(Callback):
    """Lets the batch grow, as an alternative to letting the learning rate decay (Smith et al., arXiv 1711.00489).

    The noise of gradient descent goes with learning rate / batch size: where a schedule would divide the rate by
    `factor`, the batch is made `factor` times as large, which takes fewer updates. From `max_batch_size` on, the
    learning rate is divided after all.

    Args:
        schedule: a function of the epoch, or a dictionary from epochs to the batch size from then on. Or None:
        factor, every: the batch size that ``fit`` was given is multiplied by `factor` after every so many epochs.
        max_batch_size: the largest batch. What is missing, the learning rate is divided by. None: no limit; a batch
            larger than the data holds all samples, and the learning rate stays.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 2))
        >>> net.compile(optim.SGD(net.parameters(), lr=0.8))
        >>> sizes = []
        >>> grow = callbacks.BatchSizeScheduler(factor=2, every=1, max_batch_size=16)
        >>> see = callbacks.LambdaCallback(on_epoch_begin=lambda epoch: sizes.append(grow.trainer.batch_size))
        >>> x, y = np.zeros((64, 4)), np.zeros(64, int)
        >>> net.fit(x, y, epochs=4, batch_size=8, verbose=0, callbacks=[grow, see]).lr
        [0.8, 0.8, 0.4, 0.2]
        >>> sizes
        [8, 16, 16, 16]
    """

    def __init__(
        self,
        schedule: Mapping[int, int] | Callable[[int], int] | None = None,
        *,
        factor: float = 2.0,
        every: int = 10,
        max_batch_size: int | None = None,
    ) -> None:
        if not factor >= 1 or every < 1:
            raise ArgumentError(
                f"[BatchSizeScheduler] factor and every are at least 1, got {factor} and {every}"
            )
        if max_batch_size is not None and max_batch_size < 1:
            raise ArgumentError(f"[BatchSizeScheduler] max_batch_size is at least 1, got {max_batch_size}")
        self.schedule = schedule
        self.factor = factor
        self.every = every
        self.max_batch_size = max_batch_size

    def on_train_begin(self) -> None:
        if not self.trainer.takes_batch_sizes:
            raise ArgumentError("[BatchSizeScheduler] x is a loader, which makes its own batches")
        if self.trainer.batch_size is None:
            raise ArgumentError(
                "[BatchSizeScheduler] batch_size=None takes all samples, there is nothing to grow"
            )
        self._first = self.trainer.batch_size
        self._divisor = 1.0  # of the learning rate, so far

    def on_epoch_begin(self, epoch: int) -> None:
        wanted = self._wanted(epoch)
        size = wanted if self.max_batch_size is None else min(wanted, self.max_batch_size)
        divisor = wanted / size
        if size != self.trainer.batch_size or divisor != self._divisor:
            for group in self.optimizer.param_groups:
                group["lr"] = group.peek("lr") * self._divisor / divisor
            self.trainer.batch_size, self._divisor = size, divisor
            _log.info("[BatchSizeScheduler] epoch %d: batches of %d", epoch + 1, size)

    def _wanted(self, epoch: int) -> int:
        if self.schedule is None:
            return max(1, round(self._first * self.factor ** (epoch // self.every)))
        if callable(self.schedule):
            size = self.schedule(epoch)
        else:
            begun = [start for start in self.schedule if start <= epoch]
            size = self.schedule[max(begun)] if begun else self._first
        if isinstance(size, bool) or not hasattr(size, "__index__") or int(size) < 1:
            raise ArgumentError(
                f"[BatchSizeScheduler] the batch size of epoch {epoch} is {size!r}, expected a positive integer"
            )
        return int(size)
