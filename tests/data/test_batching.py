"""Batches and splits."""

from __future__ import annotations

import numpy as np
import pytest

from quernel import data
from quernel.errors import ArgumentError, ShapeError


def test_batches_cover_every_sample_once() -> None:
    x, y = np.arange(20).reshape(10, 2), np.arange(10)
    order = np.random.default_rng(0).permutation(10)
    parts = list(data.batches([x, y], 4, order))
    assert [len(part[1]) for part in parts] == [4, 4, 2]
    assert np.array_equal(np.concatenate([part[1] for part in parts]), order)
    assert all(np.array_equal(xb[:, 0], 2 * yb) for xb, yb in parts)
    assert list(data.batches([x[:0]], 4)) == []
    with pytest.raises(ArgumentError, match="batch_size is at least 1, got 0"):
        list(data.batches([x], 0))


@pytest.mark.parametrize("stratified", [False, True])
def test_a_split_is_a_partition_with_fair_shares(stratified: bool) -> None:
    y = np.repeat([0, 1, 2], [100, 60, 20])
    x = np.arange(180)
    x1, x2, y1, y2 = data.train_test_split(x, y, test_size=0.25, seed=3, stratify=y if stratified else None)
    assert len(x2) == 45 and np.array_equal(np.sort(np.concatenate([x1, x2])), x)
    assert np.array_equal(y[x1], y1) and np.array_equal(y[x2], y2)
    if stratified:
        assert np.abs(np.bincount(y2) - [25, 15, 5]).max() <= 1
    again = data.train_test_split(x, y, test_size=0.25, seed=3, stratify=y if stratified else None)
    assert np.array_equal(again[0], x1)
    assert not np.array_equal(data.train_test_split(x, y, test_size=0.25, seed=4)[1], x2)


def test_folds_are_partitions_with_fair_shares() -> None:
    y = np.repeat([0, 1], [70, 33])
    seen = np.zeros(103, int)
    for train, test in data.k_folds(103, folds=5, seed=1, stratify=y):
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(103))
        seen[test] += 1
        assert np.abs(np.bincount(y[test]) - np.array([70, 33]) / 5).max() <= 1
    assert (seen == 1).all()


def test_impossible_splits_are_refused() -> None:
    x = np.arange(10)
    with pytest.raises(ShapeError, match=r"lengths \[10, 9\]"):
        data.train_test_split(x, x[1:])
    for size in (0, 1, -0.5):
        with pytest.raises(ArgumentError, match="test_size lies between 0 and 1"):
            data.train_test_split(x, test_size=size)
    for folds in (1, 11):
        with pytest.raises(
            ArgumentError, match=rf"folds lies between 2 and the number of samples \(10\), got {folds}"
        ):
            list(data.k_folds(10, folds=folds))


def test_the_digits_are_scikit_learns() -> None:
    pytest.importorskip("sklearn")
    x, y = data.load_digits()
    assert x.shape == (1797, 8, 8, 1) and x.dtype == np.float32 and y.dtype == np.int64
    assert x.min() == 0 and x.max() == 1 and np.array_equal(np.unique(y), np.arange(10))
