"""Splitting arrays into parts and batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel.errors import ArgumentError, ShapeError

Array = NDArray[Any]


def batches(
    arrays: Sequence[Array], batch_size: int, order: NDArray[np.int64] | None = None
) -> Iterator[tuple[Array, ...]]:
    """Slices of arrays along their first axis, the last one possibly shorter.

    Args:
        arrays: arrays of one length.
        batch_size: samples of a slice.
        order: positions of the samples in the order in which to visit them; None is the order they have.

    Example:
        >>> [len(x) for (x,) in data.batches([np.arange(7)], 3)]
        [3, 3, 1]
    """
    if batch_size < 1:
        raise ArgumentError(f"[batches] batch_size is at least 1, got {batch_size}")
    length = len(arrays[0]) if order is None else len(order)
    for begin in range(0, length, batch_size):
        end = begin + batch_size
        if order is None:
            yield tuple([array[begin:end] for array in arrays])
        else:  # `take` costs a quarter of indexing with an array
            yield tuple([array.take(order[begin:end], axis=0) for array in arrays])


def train_test_split(
    *arrays: Array, test_size: float = 0.2, seed: int = 0, stratify: Array | None = None
) -> tuple[Array, ...]:
    """Splits arrays at random into training and test parts: ``x, x_test, y, y_test = train_test_split(x, y)``.

    Args:
        arrays: arrays of one length.
        test_size: share of the samples that goes into the test part; at least one sample does, and one does not.
        seed: the split depends on it alone.
        stratify: labels whose shares are to be alike in both parts.
    """
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise ShapeError(
            f"[train_test_split] arrays have lengths {[len(array) for array in arrays]}; they must agree"
        )
    (length,) = lengths
    if not 0 < test_size < 1 or length < 2:
        raise ArgumentError(
            f"[train_test_split] test_size lies between 0 and 1, of at least 2 samples; got {test_size!r} of {length}"
        )
    size = min(max(1, round(length * test_size)), length - 1)
    test = np.zeros(length, bool)
    test[_order(length, seed, stratify)[(np.arange(size) * length) // size]] = True
    return tuple(part for array in arrays for part in (array[~test], array[test]))


def k_folds(
    length: int, folds: int = 5, seed: int = 0, stratify: Array | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions of (training, test) samples, each sample being in one test part.

    Args:
        length: number of samples.
        folds: number of splits, at least 2.
        seed: the splits depend on it alone.
        stratify: labels whose shares are to be alike in all test parts.

    Example:
        >>> [len(test) for _, test in data.k_folds(10, folds=5)]
        [2, 2, 2, 2, 2]
    """
    if not 2 <= folds <= length:
        raise ArgumentError(
            f"[k_folds] folds lies between 2 and the number of samples ({length}), got {folds}"
        )
    order = _order(length, seed, stratify)
    for fold in range(folds):
        test = np.zeros(length, bool)
        test[order[fold::folds]] = True
        yield np.flatnonzero(~test), np.flatnonzero(test)


def _order(length: int, seed: int, stratify: Array | None) -> NDArray[np.int64]:
    """A random order of positions; with labels, sorted by label, so that every k-th sample is a fair share."""
    order = np.random.default_rng(seed).permutation(length)
    return order if stratify is None else order[np.argsort(stratify[order], kind="stable")]
