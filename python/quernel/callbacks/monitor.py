"""Callbacks that watch whether a quantity improves."""

from __future__ import annotations

import logging
import math
from typing import Any

from quernel import optim
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


def _check_patience(owner: str, patience: int, min_delta: float) -> None:
    if patience < 0 or not min_delta >= 0:
        raise ArgumentError(
            f"[{owner}] patience and min_delta are at least 0, got {patience} and {min_delta}"
        )


class EarlyStopping(Callback):
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
        larger = is_larger_better(monitor, mode, "EarlyStopping")
        _check_patience("EarlyStopping", patience, min_delta)
        if start_from_epoch < 0:
            raise ArgumentError(f"[EarlyStopping] start_from_epoch is at least 0, got {start_from_epoch}")
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self._sign = -1.0 if larger else 1.0
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch

    def on_train_begin(self) -> None:
        check_monitor(self, self.monitor)
        self.best = math.inf * self._sign
        self.wait = 0
        self.best_epoch = 0
        self.stopped_epoch: int | None = None
        self._best_state: dict[str, Any] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if epoch < self.start_from_epoch:
            return
        value = logs[self.monitor]
        if self._sign * value < self._sign * self.best - self.min_delta:
            self.best, self.wait = value, 0
            self.best_epoch = epoch
            if self.restore_best_weights:
                self._best_state = {name: t.numpy().copy() for name, t in self.net.state_dict().items()}
            return
        self.wait += 1
        if self.wait >= self.patience:
            self.stopped_epoch = epoch
            self.trainer.stop_training = True

    def on_train_end(self) -> None:
        if self._best_state is not None:
            self.net.load_state_dict(self._best_state)
            self._best_state = None


class ReduceLROnPlateau(Callback):
    """Multiplies the learning rate by `factor` when a quantity has not improved for some epochs.

    `optim.lr_scheduler.ReduceLROnPlateau` under Keras' arguments.

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
        _check_patience("ReduceLROnPlateau", patience, min_delta)
        if not 0 < factor < 1:
            raise ArgumentError(f"[ReduceLROnPlateau] factor lies between 0 and 1, got {factor!r}")
        if not 0 <= min_lr < math.inf:
            raise ArgumentError(f"[ReduceLROnPlateau] min_lr is at least 0, got {min_lr!r}")
        self.monitor = monitor
        self._options: dict[str, Any] = {
            "mode": "max" if is_larger_better(monitor, mode, "ReduceLROnPlateau") else "min",
            "factor": factor,
            "patience": max(1, patience) - 1,  # PyTorch counts the epochs that are let pass
            "threshold": min_delta,
            "threshold_mode": "abs",
            "cooldown": cooldown,
            "min_lr": min_lr,
            "eps": 0.0,
        }

    def on_train_begin(self) -> None:
        check_monitor(self, self.monitor)
        self._schedule = optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, **self._options)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        before = self._schedule.get_last_lr()
        self._schedule.step(logs[self.monitor])
        for old, new in zip(before, self._schedule.get_last_lr(), strict=True):
            if new < old:
                _log.info("[ReduceLROnPlateau] epoch %d: lr is now %g", epoch, new)
