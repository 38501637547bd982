"""A safety net for learning rates that are too high."""

from __future__ import annotations

import logging
import math
from collections import deque
from statistics import median
from typing import Any

from quernel.callbacks.base import Callback, Logs
from quernel.errors import ArgumentError

_log = logging.getLogger("quernel.callbacks")


class LRRollback(Callback):
    """Takes training back to the last good state, and lowers the learning rate, when the loss explodes.

    That is: when a loss is NaN or infinite, or when `patience` batches in a row have losses above `spike` times the
    median of the last `window` ones (a single bad batch is no divergence). Weights, buffers (BatchNorm's statistics)
    and the optimizer's state are then as they were at the last good snapshot, the learning rates are multiplied by
    `factor`, and training goes on with the next batch; the order of samples and the random stream do not go back. The
    batch does not count in the epoch's numbers. After `limit` times training stops at the last good state.

    Snapshots are made every so many batches. One is good when training went well for as long again after it: what a
    bad update has spoilt may take some batches to show.

    Args:
        spike: how many times the median, as long as that is positive; None looks for NaN and infinity only.
        window: losses that the median is of; spikes count once there are half as many.
        patience: batches above in a row.
        factor: of the learning rate; between 0 and 1.
        every: batches between snapshots. A snapshot is a copy of weights and optimizer.
        limit: rollbacks after which training stops.

    Attributes:
        rollbacks: how many there were in this fit.

    A function given to `LRScheduler` stays in charge of the learning rate: its values are multiplied by the product of
    the factors. A schedule object sets what it computes; those that multiply the current rate keep the reduction.
    """

    def __init__(
        self,
        spike: float | None = 10.0,
        window: int = 50,
        patience: int = 3,
        factor: float = 0.5,
        every: int = 100,
        limit: int = 5,
    ) -> None:
        if spike is not None and not spike > 1:
            raise ArgumentError(f"[LRRollback] spike is above 1, or None, got {spike!r}")
        if not 0 < factor < 1:
            raise ArgumentError(f"[LRRollback] factor lies between 0 and 1, got {factor!r}")
        for name, value in {"window": window, "patience": patience, "every": every, "limit": limit}.items():
            if value < 1:
                raise ArgumentError(f"[LRRollback] {name} is at least 1, got {value!r}")
        self.spike = spike
        self.window = window
        self.patience = patience
        self.factor = factor
        self.every = every
        self.limit = limit

    def on_train_begin(self) -> None:
        self.rollbacks = 0
        self._losses: deque[float] = deque(maxlen=self.window)
        self._above = self._batches = 0
        self._good = self._snapshot()
        self._candidate: _Snapshot | None = None

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        loss = logs["loss"]
        reason = self._objection(loss)
        if reason:
            self._roll_back(batch, reason)
            return
        if not self._above:
            self._losses.append(loss)
            self._batches += 1
            if self._batches >= self.every:
                if self._candidate is not None:
                    self._good = self._candidate
                self._candidate = self._snapshot()
                self._batches = 0

    def _objection(self, loss: float) -> str:
        """What is wrong with a loss; nothing: an empty text."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if self.spike is None or 2 * len(self._losses) < self.window:
            return ""
        usual = median(self._losses)
        if usual <= 0 or loss <= self.spike * usual:  # a multiple of a negative loss says nothing
            self._above = 0
            return ""
        self._above += 1
        if self._above < self.patience:
            return ""
        return f"the loss is {loss:.4g}, {loss / usual:.1f} times the median, for {self._above} batches"

    def _roll_back(self, batch: int, reason: str) -> None:
        rates = [group.peek("lr") for group in self.optimizer.param_groups]
        self.net.load_state_dict(self._good.model)
        self.optimizer.load_state_dict(self._good.optimizer)
        self._candidate = None
        self._above = self._batches = 0
        self.trainer.discard_batch = True
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * self.factor
        self.trainer.lr_scale *= self.factor
        self.rollbacks += 1
        _log.warning(
            "[LRRollback] batch %d: %s; back to the last good state, lr is now %g (rollback %d of %d)",
            batch,
            reason,
            rates[0] * self.factor,
            self.rollbacks,
            self.limit,
        )
        if self.rollbacks >= self.limit:
            _log.warning("[LRRollback] the limit of %d rollbacks is reached; training stops", self.limit)
            self.trainer.stop_training = True

    def _snapshot(self) -> _Snapshot:
        return _Snapshot(
            {name: t.numpy().copy() for name, t in self.net.state_dict().items()}, self.optimizer.state_dict()
        )


class _Snapshot:
    """Copies of everything that an update changes."""

    def __init__(self, model: dict[str, Any], optimizer: dict[str, Any]) -> None:
        self.model = model
        self.optimizer = optimizer
