"""Where batches come from: arrays, or an iterable of the user's."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel import ops
from quernel.errors import ArgumentError, QuernelError
from quernel.training.checked import checked_samples
from quernel.training.samples import Samples, is_array
from quernel.training.trainer import Trainer


class Source:
    """Batches of an epoch."""

    size: int | None = None  # samples of an epoch, if known

    def batches(self, batch_size: int | None, shuffle: bool) -> Iterator[Samples]:
        """An epoch's batches."""
        raise NotImplementedError


class Arrays(Source):
    """Samples in memory."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.size = len(samples)

    def batches(self, batch_size: int | None, shuffle: bool) -> Iterator[Samples]:
        """Parts of `batch_size` samples, in a new random order if `shuffle`."""
        return self.samples.batches(batch_size, _order(len(self.samples)) if shuffle else None)


def _order(length: int) -> NDArray[np.int64]:
    """A random order from the library's own stream."""
    keys: NDArray[Any] = ops.uniform((length,), dtype="float64").numpy()
    return np.argsort(keys, kind="stable")


class Loader(Source):
    """Batches (x, y) or (x, y, sample_weight) that an iterable gives; it says their sizes and their order.

    The first one is taken, and checked, at once.
    """

    def __init__(self, verb: str, trainer: Trainer, loader: Iterable[Any], class_weight: Any = None) -> None:
        self._verb = verb
        self._trainer = trainer
        self._loader = loader
        self._class_weight = class_weight
        self.is_exhaustible = iter(loader) is loader  # an iterator, which has one epoch in it
        self._started = iter(loader)
        try:
            first = next(self._started)
        except StopIteration:
            raise ArgumentError(f"[{verb}] the loader is empty: it gives no batch") from None
        self._first: Samples | None = self._checked(0, first)

    def batches(self, batch_size: int | None, shuffle: bool) -> Iterator[Samples]:  # noqa: ARG002
        """The loader's batches, checked one by one."""
        if self._first is not None:
            first, self._first = self._first, None
            rest = itertools.chain([first], map(self._checked, itertools.count(1), self._started))
        else:
            rest = itertools.chain(map(self._checked, itertools.count(), self._loader))
        count = size = 0
        for samples in rest:
            count += 1
            size += len(samples)
            yield samples
        if count == 0:
            raise ArgumentError(
                f"[{self._verb}] the loader is empty: it gives no batch any more; pass an iterable that can be iterated "
                "anew in each epoch, such as a list or an object with __iter__"
            )
        self.size = size

    def _checked(self, number: int, item: Any) -> Samples:
        if not isinstance(item, tuple | list) or not 2 <= len(item) <= 3:
            what = f"{len(item)} items" if isinstance(item, tuple | list) else type(item).__name__
            raise ArgumentError(
                f"[{self._verb}] batch {number} of the loader is {what}, expected (x, y) or (x, y, sample_weight)"
            )
        try:
            x, y, weight = item if len(item) == 3 else (*item, None)
            return checked_samples(self._verb, self._trainer, x, y, weight, self._class_weight)
        except QuernelError as error:  # says which batch
            start = f"[{self._verb}]"
            text = str(error)
            if text.startswith(start):
                error.args = (f"{start} batch {number} of the loader:{text.removeprefix(start)}",)
            raise


def is_loader(x: Any, y: Any) -> bool:
    """Whether `x` is an iterable of batches rather than arrays."""
    if y is not None or is_array(x) or isinstance(x, Mapping | tuple | str) or not isinstance(x, Iterable):
        return False
    return not isinstance(x, list) or not x or isinstance(x[0], tuple)


def source(
    verb: str, trainer: Trainer, x: Any, y: Any, sample_weight: Any = None, class_weight: Any = None
) -> Source:
    """Checked batches of what the user gave.

    Raises:
        ArgumentError, ShapeError, DTypeError: it does not fit the model.
    """
    if not is_loader(x, y):
        return Arrays(checked_samples(verb, trainer, x, y, sample_weight, class_weight))
    if sample_weight is not None:
        raise ArgumentError(
            f"[{verb}] x is a loader; let it give the weights of its samples, as (x, y, sample_weight)"
        )
    return Loader(verb, trainer, x, class_weight)
