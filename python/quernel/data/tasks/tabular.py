"""Tabular: 12,000 rows of ten numbers and a category, two classes, with values missing.

The numbers are those of scikit-learn's ``make_hastie_10_2`` (Hastie, Tibshirani and Friedman 2009, "The Elements of
Statistical Learning", example 10.2): ten independent normal columns. There the label says whether the sum of their
squares is above 9.34, its median; here every category has a threshold of its own around it. Two percent of the numbers
and of the categories are missing. A linear model sees the category, but no sum of squares.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quernel import nn
from quernel.data.tasks.baselines import linear_accuracy
from quernel.data.tasks.common import Split, stream
from quernel.data.tasks.experiment import Recipe, fit, fit_torch
from quernel.data.tasks.task import Task
from quernel.models.perceptron import mlp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

ROWS, TEST_SHARE, NUMBERS = 12_000, 0.25, 10
THRESHOLDS = (5.0, 7.3, 9.34, 11.8, 15.0)  # one per category; the label's share runs from 89 % down to 13 %
MISSING = 0.02
HIDDEN = (64, 64)
RECIPE = Recipe(optimizer="adamw", lr=5e-3, weight_decay=1e-2, batch_size=128)


def table(
    rows: int = ROWS, seed: int = 0, missing: float = MISSING
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The raw table.

    Args:
        rows: number of rows.
        seed: `RandomState(seed)` draws the numbers, as scikit-learn does.
        missing: share of the values that are missing.

    Returns:
        Numbers (rows, 10), NaN where missing; categories (rows,), -1 where missing; labels (rows,), 0 or 1.
    """
    numbers = np.random.RandomState(seed).normal(size=(rows, NUMBERS))
    random = stream("tabular", seed)
    categories = random.choice(len(THRESHOLDS), rows, p=(0.15, 0.2, 0.3, 0.2, 0.15)).astype(np.int64)
    labels = ((numbers**2).sum(1) > np.array(THRESHOLDS)[categories]).astype(np.int64)
    numbers[random.uniform(size=numbers.shape) < missing] = np.nan
    categories[random.uniform(size=rows) < missing] = -1
    return numbers.astype(np.float32), categories, labels


def load(rows: int = ROWS, seed: int = 0) -> Split:
    """The table as features.

    A missing number becomes the mean of the training rows, beside a column that tells so; a category becomes one of
    six columns of 0 and 1, the last one for a missing category.

    Returns:
        x (N, 26) float32 and y (N,) int64; the last quarter of the rows is the test part.
    """
    numbers, categories, labels = table(rows, seed)
    train = rows - int(rows * TEST_SHARE)
    gaps = np.isnan(numbers)
    filled = np.where(gaps, np.nanmean(numbers[:train], 0), numbers)
    kinds = np.eye(len(THRESHOLDS) + 1, dtype=np.float32)[categories]
    x = np.concatenate([filled, gaps, kinds], 1).astype(np.float32)
    return Split(x[:train], labels[:train], x[train:], labels[train:])


# ---- the task -------------------------------------------------------------------------------------------------------


def _describe(data: Split) -> str:
    sizes = f"{len(data.x):,} training and {len(data.x_test):,} test rows"
    return f"{sizes}, {data.x.shape[1]} features, {data.y.mean():.0%} in class 1"


def _net() -> nn.Module:
    return mlp(None, HIDDEN, 2)


def _train(data: Split, engine: str, epochs: int, seed: int, verbose: str | int) -> float:
    if engine == "sklearn":
        return _train_sklearn(data, epochs, seed)
    if engine == "torch":
        return fit_torch(_net, data, RECIPE, epochs, seed, verbose)[1]["accuracy"]
    return fit(_net, data, RECIPE, epochs, seed, verbose, engine)[1]["accuracy"]


def _train_sklearn(data: Split, epochs: int, seed: int) -> float:
    """scikit-learn's MLP of the same sizes and epochs, everything else as it is by default."""
    network: Any = importlib.import_module("sklearn.neural_network")
    chosen = network.MLPClassifier(
        HIDDEN, batch_size=RECIPE.batch_size, max_iter=epochs, n_iter_no_change=epochs, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it could go on
        chosen.fit(data.x, data.y)
    return float(chosen.score(data.x_test, data.y_test))


def _plot(data: Split, figure: Figure) -> None:
    numbers, categories, labels = table(len(data.x) + len(data.x_test))
    sums = (numbers**2).sum(1)
    for category, axes in enumerate(figure.subplots(1, len(THRESHOLDS), sharey=True)):
        for label in (0, 1):
            chosen = sums[(categories == category) & (labels == label) & ~np.isnan(sums)]
            axes.hist(chosen, bins=np.linspace(0, 30, 40), alpha=0.6, label=f"class {label}")
        axes.set_title(f"category {category}")
        axes.set_xlabel("sum of squares")
    axes.legend()


TASK = Task(
    name="tabular",
    about="a sum of squares above a category's threshold, with missing values: MLP",
    score="accuracy",
    percent=True,
    load=lambda quick: load(2000 if quick else ROWS),
    describe=_describe,
    baselines=lambda data: {"linear (logistic regression)": linear_accuracy(data)},
    net=_net,
    input_shape=(2 * NUMBERS + len(THRESHOLDS) + 1,),
    epochs=40,
    train=_train,
    peers=("torch", "sklearn"),
    plot=_plot,
)
