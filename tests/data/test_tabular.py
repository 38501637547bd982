"""Tabular: the generator is scikit-learn's, rows of the test part are not seen, and the net does what it should."""

from __future__ import annotations

import numpy as np
import pytest

from quernel.data import tasks
from quernel.data.tasks import tabular as task


def test_numbers_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.make_hastie_10_2(500, random_state=3)
    numbers, categories, labels = task.table(500, seed=3, missing=0)
    np.testing.assert_array_equal(numbers, x.astype(np.float32))
    middle = categories == task.THRESHOLDS.index(9.34)
    np.testing.assert_array_equal(labels[middle], (y[middle] > 0).astype(int))
    for category, threshold in enumerate(task.THRESHOLDS):
        mine = categories == category
        np.testing.assert_array_equal(labels[mine], (x[mine] ** 2).sum(1) > threshold)


def test_table_repeats_and_misses_its_share() -> None:
    numbers, categories, labels = task.table()
    for a, b in zip(task.table(), (numbers, categories, labels), strict=True):
        np.testing.assert_array_equal(a, b)
    assert abs(np.isnan(numbers).mean() - 0.02) < 0.003 and abs((categories < 0).mean() - 0.02) < 0.005
    assert abs(labels.mean() - 0.5) < 0.02
    assert not np.array_equal(task.table(seed=1)[2], labels)


def test_test_rows_leave_no_trace_in_the_training_part() -> None:
    """Other test rows, same training features: means come from the training rows alone."""
    numbers, categories, labels = task.table(400)
    data = task.load(400)
    train = len(data.x)
    assert (train, len(data.x_test)) == (300, 100)
    gaps = np.isnan(numbers[:train])
    assert gaps.any()
    means = np.nanmean(numbers[:train], 0)
    np.testing.assert_allclose(data.x[:, :10], np.where(gaps, means, numbers[:train]), atol=1e-6)
    np.testing.assert_array_equal(data.x[:, 10:20], gaps)
    known = categories[:train] >= 0
    np.testing.assert_array_equal(data.x[known, 20:].argmax(1), categories[:train][known])
    assert (data.x[:, 20:].sum(1) == 1).all() and (data.x[~known, 25] == 1).all()
    np.testing.assert_array_equal(np.concatenate([data.y, data.y_test]), labels)


def test_the_net_sees_what_a_linear_model_does_not() -> None:
    chosen = tasks.task("tabular")
    data = task.load(4000)
    ((_, linear),) = chosen.baselines(data).items()
    assert 0.6 < linear < 0.75
    assert chosen.train(data, "quernel", 15, 0, 0) > linear + 0.1
    pytest.importorskip("sklearn")
    assert chosen.train(data, "sklearn", 15, 0, 0) > linear + 0.1
