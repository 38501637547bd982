"""`Module.fit`."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from quernel import random
from quernel.autograd import no_grad
from quernel.errors import ArgumentError
from quernel.history import History
from quernel.nn.module import Module
from quernel.progress import Progress, progress
from quernel.training.checked import unchanged_on_error
from quernel.training.objective import Logs
from quernel.training.samples import Samples, is_array
from quernel.training.sources import Arrays, Loader, Source, is_loader, source
from quernel.training.trainer import Mean, Trainer, mode, trainer_of

if TYPE_CHECKING:
    from quernel.callbacks import Callback

EVALUATION_BATCH = 256
_PLACE = re.compile(r"\b(row|position) \(?\d")  # what a message says of one of the samples


@dataclass
class _Run:
    """A fit in progress."""

    trainer: Trainer
    training: Source
    validation: Source | None
    shuffle: bool
    accumulation: int
    callbacks: Sequence[Callback]
    display: Progress


def fit(
    net: Module,
    x: Any,
    y: Any,
    *,
    batch_size: int | None,
    epochs: int,
    validation_data: Any,
    validation_split: float,
    class_weight: Any,
    sample_weight: Any,
    shuffle: bool,
    gradient_accumulation: int,
    callbacks: Iterable[Callback],
    verbose: str | int,
    seed: int | None,
) -> History:
    """See `Module.fit`."""
    trainer = trainer_of(net, "fit")
    counts = {"epochs": epochs, "gradient_accumulation": gradient_accumulation}
    for name, value in (counts if batch_size is None else {"batch_size": batch_size} | counts).items():
        if not _is_count(value):
            raise ArgumentError(f"[fit] {name} is a positive integer, got {value!r}")
    if not 0 <= validation_split < 1:
        raise ArgumentError(f"[fit] validation_split lies in [0, 1), got {validation_split!r}")
    callbacks = _callbacks(callbacks)
    display = progress(verbose, epochs)
    with unchanged_on_error(net):
        if seed is not None:
            random.seed(seed)
        training = _training(trainer, x, y, epochs, validation_split, sample_weight, class_weight)
        training, validation = _validation(trainer, training, epochs, validation_data, validation_split)
        trainer.stop_training, trainer.batch_size, trainer.lr_scale = False, batch_size, 1.0
        trainer.takes_batch_sizes = isinstance(training, Arrays)
        names = trainer.heads.log_names
        trainer.monitors = names + tuple(f"val_{name}" for name in names if validation)
        for callback in callbacks:
            callback.trainer = trainer
        for callback in callbacks:
            callback.on_train_begin()
    run = _Run(trainer, training, validation, shuffle, gradient_accumulation, callbacks, display)
    try:
        return _epochs(run, epochs)
    finally:
        display.close()


def _training(
    trainer: Trainer,
    x: Any,
    y: Any,
    epochs: int,
    validation_split: float,
    sample_weight: Any,
    class_weight: Any,
) -> Source:
    if is_loader(x, y) and validation_split:
        raise ArgumentError(
            "[fit] validation_split holds out samples of arrays; x is a loader: pass validation_data="
        )
    training = source("fit", trainer, x, y, sample_weight, class_weight)
    if isinstance(training, Loader) and training.is_exhaustible and epochs > 1:
        raise ArgumentError(
            f"[fit] x is an iterator, which is empty after one epoch of {epochs}; pass an iterable that can be iterated "
            "anew, such as a list or an object with __iter__"
        )
    return training


def _validation(
    trainer: Trainer, training: Source, epochs: int, validation_data: Any, validation_split: float
) -> tuple[Source, Source | None]:
    """What to train on, and what to validate on."""
    if validation_data is None:
        if not validation_split:
            return training, None
        assert isinstance(training, Arrays)
        first, last = training.samples.split(validation_split)
        if last is None:
            raise ArgumentError(
                f"[fit] validation_split={validation_split} of {len(first)} samples is none; hold out more"
            )
        return Arrays(first), Arrays(last)
    data = validation_data
    if isinstance(data, tuple | list) and 2 <= len(data) <= 3 and not _are_batches(data):
        parts = tuple(data)
    elif is_loader(data, None):
        parts = (data, None)
    else:
        raise ArgumentError(
            "[fit] validation_data is (x, y), (x, y, sample_weight) or an iterable of such batches, got "
            f"{type(data).__name__}" + (f" of {len(data)}" if isinstance(data, tuple | list) else "")
        )
    validation = source("fit: validation_data", trainer, *parts)
    if isinstance(validation, Loader) and validation.is_exhaustible and epochs > 1:
        raise ArgumentError(
            f"[fit] validation_data is an iterator, which is empty after one epoch of {epochs}; pass an iterable that "
            "can be iterated anew"
        )
    return training, validation


def _are_batches(data: Any) -> bool:
    """Whether a short list holds batches, rather than being (x, y) itself."""
    return isinstance(data, list) and all(
        isinstance(item, tuple) and len(item) in (2, 3) and is_array(item[-1]) for item in data
    )


def _callbacks(given: Any) -> list[Callback]:
    from quernel.callbacks import Callback

    if isinstance(given, Callback):
        raise ArgumentError(
            f"[fit] callbacks is a list of callbacks; write callbacks=[{type(given).__name__}(...)]"
        )
    listed = list(given)
    for callback in listed:
        if not isinstance(callback, Callback):
            raise ArgumentError(f"[fit] callbacks are instances of callbacks.Callback, got {callback!r}")
    return listed


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value > 0)


def _epochs(run: _Run, epochs: int) -> History:
    history, trainer = History(), run.trainer
    for epoch in range(epochs):
        for callback in run.callbacks:
            callback.on_epoch_begin(epoch)
        run.display.begin_epoch(epoch, run.training.size)
        logs = _epoch(run)
        if run.validation:
            logs |= _validate(run, run.validation)
        assert trainer.optimizer is not None
        history.append(epoch, logs, trainer.optimizer.param_groups[0].peek("lr"))
        run.display.end_epoch(epoch, logs)
        for callback in run.callbacks:
            callback.on_epoch_end(epoch, logs)
        if trainer.stop_training:
            break
    for callback in run.callbacks:
        callback.on_train_end()
    return history


def _epoch(run: _Run) -> Logs:
    trainer, mean = run.trainer, Mean()
    heads = trainer.heads
    heads.reset()
    with mode(trainer.net, training=True):
        groups = _Groups(run)
        for number, (group, first) in enumerate(groups):
            for callback in run.callbacks:
                callback.on_batch_begin(number)
            try:
                logs, outputs = trainer.train(group, first, groups.look_ahead)
            except ArgumentError as error:
                if _PLACE.search(str(error)):
                    shuffled = run.shuffle and trainer.takes_batch_sizes
                    order = ", which are shuffled (shuffle=False keeps their order)" if shuffled else ""
                    error.add_note(f"[fit] rows count within batch {number} of the epoch, from 0 on{order}")
                raise
            size = sum(map(len, group))
            trainer.discard_batch = False
            for callback in run.callbacks:
                callback.on_batch_end(number, logs)
            if not trainer.discard_batch:
                mean.add(size, logs)
                for batch, measured in zip(group, outputs, strict=True):
                    heads.update(measured, batch.targets, batch.weights)
            run.display.advance(size, logs["loss"])
            if trainer.stop_training:
                break
    return (mean.value() or dict.fromkeys(heads.loss_names, math.nan)) | heads.compute()


class _Groups:
    """Batches of an epoch, in groups whose gradients make one update; of each what was placed of its first batch.

    On CUDA the next group's first batch is copied there while the step before it runs. Not a loader's, which is asked for a
    batch when that is wanted: it may draw random numbers, in an order that is the CPU's.
    """

    def __init__(self, run: _Run) -> None:
        self._trainer = run.trainer
        self._size = run.accumulation
        self._batches = run.training.batches(run.trainer.batch_size, run.shuffle)
        self._looks_ahead = run.trainer.net.device != "cpu" and isinstance(run.training, Arrays)
        self._next: tuple[list[Samples], tuple[Any, ...]] | None = None
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[tuple[list[Samples], tuple[Any, ...]]]:
        return self

    def __next__(self) -> tuple[list[Samples], tuple[Any, ...]]:
        if self._error:
            raise self._error
        taken, self._next = self._next or self._take(), None
        if taken is None:
            raise StopIteration
        return taken

    def _take(self) -> tuple[list[Samples], tuple[Any, ...]] | None:
        group = list(itertools.islice(self._batches, self._size))
        return (group, self._trainer.place(group[0])) if group else None

    def look_ahead(self) -> None:
        """Takes the next group now, if that is of use; what fails is raised when its turn comes."""
        if not self._looks_ahead:
            return
        try:
            self._next = self._take()
        except Exception as error:  # noqa: BLE001 - not of the batch that is being trained on
            self._error = error


def _validate(run: _Run, validation: Source) -> Logs:
    for callback in run.callbacks:
        callback.on_validation_begin()
    with mode(run.trainer.net, training=False), no_grad():
        logs = run.trainer.test(validation.batches(EVALUATION_BATCH, False))
    return {f"val_{name}": value for name, value in logs.items()}
