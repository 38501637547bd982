"""Callbacks that write files."""

from __future__ import annotations

import csv
import logging
import math
import os
import string
from collections.abc import Sequence
from pathlib import Path

from quernel.callbacks.base import Callback, Logs
from quernel.callbacks.monitor import check_monitor, is_larger_better
from quernel.errors import ArgumentError
from quernel.io.checkpoint import model_bytes

_log = logging.getLogger("quernel.callbacks")
Pathlike = str | os.PathLike[str]


class ModelCheckpoint(Callback):
    """Saves the model after epochs, each file whole or not at all.

    Args:
        path: the file; ``{epoch}`` (from 1 on) and names in the history are filled in with `str.format`, as in
            ``"runs/{epoch:02d}-{val_loss:.3f}.safetensors"``. Missing folders are made.
        monitor: with `save_best_only`, the quantity that decides.
        save_best_only: whether to save only after an epoch that was better than all before.
        mode: as in `EarlyStopping`.
        every: save after every so many epochs.
        save_optimizer: whether the file also holds the optimizer's state and the random stream, so that training can
            go on to the same bits (`qn.io.load_optimizer`).

    Attributes:
        best: the best value seen.
        last_path: the file written last, or None.

    Example:
        >>> import tempfile
        >>> net = nn.Sequential(nn.Linear(4, 2))
        >>> net.compile("sgd")
        >>> checkpoint = callbacks.ModelCheckpoint(tempfile.mkdtemp() + "/{epoch}.safetensors", monitor="loss")
        >>> _ = net.fit(np.zeros((8, 4)), np.zeros(8, int), epochs=2, verbose=0, callbacks=[checkpoint])
        >>> checkpoint.last_path.name
        '2.safetensors'
    """

    def __init__(
        self,
        path: Pathlike,
        monitor: str = "val_loss",
        save_best_only: bool = False,
        mode: str = "auto",
        every: int = 1,
        save_optimizer: bool = False,
    ) -> None:
        if every < 1:
            raise ArgumentError(f"[ModelCheckpoint] every is at least 1, got {every}")
        self.path = os.fspath(path)
        self.monitor = monitor
        self.save_best_only = save_best_only
        self.every = every
        self.save_optimizer = save_optimizer
        self._sign = -1.0 if is_larger_better(monitor, mode, "ModelCheckpoint") else 1.0

    def on_train_begin(self) -> None:
        known = ("epoch", *self.trainer.monitors)
        for _, name, _, _ in string.Formatter().parse(self.path):
            if name is not None and name not in known:
                raise ArgumentError(
                    f"[ModelCheckpoint] the path has {{{name}}}, known are {', '.join(known)}: {self.path}"
                )
        if self.save_best_only:
            check_monitor(self, self.monitor)
        model_bytes(self.net)  # a model that cannot be saved says so now, not after an epoch
        self.best = math.inf * self._sign
        self.last_path: Path | None = None

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if (epoch + 1) % self.every:
            return
        if self.save_best_only:
            if not self._sign * logs[self.monitor] < self._sign * self.best:
                return
            self.best = logs[self.monitor]
        path = Path(self.path.format(epoch=epoch + 1, **logs))
        path.parent.mkdir(parents=True, exist_ok=True)
        self.net.save(path, optimizer=self.optimizer if self.save_optimizer else None)
        self.last_path = path
        _log.info("[ModelCheckpoint] epoch %d: saved %s", epoch + 1, path)


class CSVLogger(Callback):
    """Writes a line per epoch to a file, as training goes on: the epoch (from 0), losses, metrics, learning rate.

    Args:
        path: the file.
        append: whether to add lines to a file that exists, whose columns must be the same; otherwise it is replaced.
        separator: between the columns.
    """

    def __init__(self, path: Pathlike, append: bool = False, separator: str = ",") -> None:
        self.path = Path(path)
        self.append = append
        self.separator = separator

    def on_train_begin(self) -> None:
        names = ["epoch", *self.trainer.monitors, "lr"]
        if self.append and self.path.exists() and self.path.stat().st_size:
            with self.path.open(newline="") as file:
                have = next(csv.reader(file, delimiter=self.separator))
            if have != names:
                raise ArgumentError(
                    f"[CSVLogger] {self.path} has the columns {', '.join(have)}, this fit writes {', '.join(names)}; "
                    "choose another file, or append=False to replace it"
                )
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(names, "w")

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self._write([epoch, *logs.values(), self.optimizer.param_groups[0].peek("lr")], "a")

    def _write(self, row: Sequence[object], how: str) -> None:
        # Opened for each line: what is written is on disk, whatever becomes of the process.
        with self.path.open(how, newline="") as file:
            csv.writer(file, delimiter=self.separator).writerow(row)
