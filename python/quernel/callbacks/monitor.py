"""Callbacks that watch whether a quantity improves."""

from __future__ import annotations

import logging
import math
from typing import Any

from quernel.callbacks.base import Callback, Logs
from quernel.errors import ArgumentError

_log = logging.getLogger("quernel.callbacks")

# Parts of names of quantities of which more is better.
_LARGER_IS_BETTER = ("acc", "auc", "f1", "precision", "recall", "r2")


def is_larger_better(monitor: str, mode: str, owner: str) -> bool:
    """What a mode means for a quantity.

    Raises:
        ArgumentError: there is no such mode.
    """
    if mode not in ("auto", "min", "max"):
        raise ArgumentError(f"[{owner}] mode is 'auto', 'min' or 'max', got {mode!r}")
    return mode == "max" or (mode == "auto" and any(part in monitor for part in _LARGER_IS_BETTER))


def check_monitor(callback: Callback, monitor: str) -> None:
    """Raises if a fit's logs will not have a quantity."""
    known = callback.trainer.monitors
    if monitor not in known:
        way = "; pass validation_data= or validation_split= to fit" if monitor.startswith("val_") else ""
        raise ArgumentError(
            f"[{type(callback).__name__}] monitor {monitor!r} is not among {', '.join(known)}{way}"
        )


class _Monitor(Callback):
    """A callback that watches whether a quantity improves."""

    def __init__(self, monitor: str, patience: int, min_delta: float, mode: str) -> None:
        name = type(self).__name__
        larger = is_larger_better(monitor, mode, name)
        if patience < 0 or not min_delta >= 0:
            raise ArgumentError(
                f"[{name}] patience and min_delta are at least 0, got {patience} and {min_delta}"
            )
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self._sign = -1.0 if larger else 1.0

    def on_train_begin(self) -> None:
        check_monitor(self, self.monitor)
        self.best = math.inf * self._sign
        self.wait = 0

    def _improved(self, logs: Logs) -> bool:
        """Compares with the best so far, and counts the epochs since."""
        value = logs[self.monitor]
        if self._sign * value < self._sign * self.best - self.min_delta:
            self.best = value
            self.wait = 0
            return True
        self.wait += 1
        return False


class EarlyStopping(_Monitor):
    """Stops when a quantity has not improved for some epochs.

    Args:
        monitor: a name in the history, such as "val_loss" or "loss".
        patience: epochs without improvement after which training stops.
        min_delta: the least change that is an improvement.
        mode: "min", "max", or "auto": larger is better for names with acc, auc, f1, precision, recall or r2 in them,
            smaller for all else.
        restore_best_weights: whether the model ends with the weights (and buffers) of its best epoch.
        start_from_epoch: epochs to let pass before looking, in which training warms up.

    Attributes:
        best: the best value seen.
        best_epoch: its epoch.
        stopped_epoch: the epoch after which training stopped, or None.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 0,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, patience, min_delta, mode)
        if start_from_epoch < 0:
            raise ArgumentError(f"[EarlyStopping] start_from_epoch is at least 0, got {start_from_epoch}")
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch

    def on_train_begin(self) -> None:
        super().on_train_begin()
        self.best_epoch = 0
        self.stopped_epoch: int | None = None
        self._best_state: dict[str, Any] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if epoch < self.start_from_epoch:
            return
        if self._improved(logs):
            self.best_epoch = epoch
            if self.restore_best_weights:
                self._best_state = {name: t.numpy().copy() for name, t in self.net.state_dict().items()}
        elif self.wait >= self.patience:
            self.stopped_epoch = epoch
            self.trainer.stop_training = True

    def on_train_end(self) -> None:
        if self._best_state is not None:
            self.net.load_state_dict(self._best_state)
            self._best_state = None


class ReduceLROnPlateau(_Monitor):
    """Multiplies the learning rate by `factor` when a quantity has not improved for some epochs.

    Args:
        monitor: a name in the history.
        factor: between 0 and 1.
        patience: epochs without improvement before a reduction.
        min_delta: the least change that is an improvement.
        mode: as in `EarlyStopping`.
        cooldown: epochs to wait after a reduction before counting again.
        min_lr: the learning rate is not reduced below it.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        mode: str = "auto",
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, patience, min_delta, mode)
        if not 0 < factor < 1:
            raise ArgumentError(f"[ReduceLROnPlateau] factor lies between 0 and 1, got {factor!r}")
        if not 0 <= min_lr < math.inf:
            raise ArgumentError(f"[ReduceLROnPlateau] min_lr is at least 0, got {min_lr!r}")
        self.factor = factor
        self.cooldown = cooldown
        self.min_lr = min_lr

    def on_train_begin(self) -> None:
        super().on_train_begin()
        self._resting = 0

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        improved = self._improved(logs)
        if self._resting > 0:
            self._resting -= 1
            self.wait = 0
        if improved or self.wait < max(1, self.patience):
            return
        for group in self.optimizer.param_groups:
            if group["lr"] > self.min_lr:
                group["lr"] = max(group["lr"] * self.factor, self.min_lr)
                _log.info("[ReduceLROnPlateau] epoch %d: lr is now %g", epoch, group["lr"])
        self._resting = self.cooldown
        self.wait = 0
