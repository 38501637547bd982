"""Metrics: scikit-learn as oracle, batches against one pass, edge cases, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import losses, metrics
from quernel.errors import ArgumentError, DTypeError, ShapeError
from tests.strategies import seeds


def test_metrics_by_hand() -> None:
    output = np.array([[1.0, 3.0, 2.0], [0.0, -1.0, 5.0], [9.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    target = np.array([1, 2, 1, 1])
    assert metrics.accuracy(output, target) == 0.75
    assert metrics.accuracy(output, target, [1.0, 1.0, 2.0, 0.0]) == 0.5
    assert metrics.top_k_accuracy(output, target, k=2) == 1.0
    np.testing.assert_array_equal(metrics.confusion_matrix(output, target), [[0, 0, 0], [1, 2, 0], [0, 0, 1]])
    assert metrics.precision(output, target) == pytest.approx((0 + 1 + 1) / 3)
    assert metrics.recall(output, target) == pytest.approx((0 + 2 / 3 + 1) / 3)
    assert metrics.f1(output, target) == pytest.approx((0 + 0.8 + 1) / 3)
    a, b = np.array([1.0, 2.0, 4.0]), np.array([1.0, 0.0, 5.0])
    assert metrics.mse(a, b) == pytest.approx(5 / 3)
    assert metrics.rmse(a, b) == pytest.approx(math.sqrt(5 / 3))
    assert metrics.mae(a, b) == 1.0
    assert metrics.r2(a, b) == pytest.approx(1 - 5 / 14)
    assert metrics.perplexity(np.log([[0.5, 0.5], [0.25, 0.75]]), [0, 0]) == pytest.approx(math.sqrt(8))


def test_decisions_of_one_score_and_other_shapes() -> None:
    score, target = np.array([0.2, 0.5, 0.51, 0.9]), np.array([0, 1, 1, 1])
    assert metrics.accuracy(score, target) == 0.75  # 0.5 is not above the threshold
    assert (
        metrics.accuracy(score[:, None], target) == metrics.accuracy(score[:, None], target[:, None]) == 0.75
    )
    assert metrics.accuracy(score - 0.55, target.astype(float), threshold=0.0) == 0.5
    assert metrics.accuracy(score > 0.5, target) == 0.75
    assert metrics.accuracy([1, 1, 0, 7], [1, 1, 1, 7]) == 0.75
    onehot = np.eye(3)[[0, 2, 1]]
    assert metrics.accuracy(onehot * 5, onehot) == 1.0
    assert metrics.accuracy(onehot * 5, 0.1 + 0.7 * onehot) == 1.0
    sequences = np.zeros((2, 3, 4))
    sequences[0, :, 1] = 1
    labels = np.array([[1, 1, -100], [0, 1, -100]])
    assert metrics.accuracy(sequences, labels) == 0.75
    assert metrics.accuracy(sequences, labels, [1.0, 0.0]) == 1.0
    assert metrics.accuracy(sequences, labels, np.array([[1.0, 0, 0], [0, 3.0, 0]])) == 0.25
    assert metrics.accuracy(sequences[:, :2], labels[:, :2], ignore_index=1) == 1.0
    with pytest.raises(ArgumentError, match=r"label -100 at row 2 is out of range for 4"):
        metrics.accuracy(sequences, labels, ignore_index=3)


# ---- scikit-learn -----------------------------------------------------------------------------------------------------


def decisions(rng: np.random.Generator, classes: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels that often agree with them, weights; some classes may not occur."""
    scores = rng.standard_normal((n, classes)).astype(np.float32)
    used = rng.integers(1, classes + 1)
    true = np.where(rng.random(n) < 0.5, scores[:, :used].argmax(1), rng.integers(0, used, n))
    return scores, true, rng.uniform(0.1, 3, n)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("seed", range(12))
def test_decisions_agree_with_scikit_learn(seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    classes, n = int(rng.integers(2, 8)), int(rng.integers(1, 60))
    scores, true, weights = decisions(rng, classes, n)
    guess = scores.argmax(1)
    for w in (None, weights):
        assert metrics.accuracy(scores, true, w) == pytest.approx(
            sklearn.accuracy_score(true, guess, sample_weight=w)
        )
        labels = range(classes)
        np.testing.assert_allclose(
            metrics.confusion_matrix(scores, true, w),
            sklearn.confusion_matrix(true, guess, labels=labels, sample_weight=w),
        )
        for name, oracle in (
            ("precision", "precision_score"),
            ("recall", "recall_score"),
            ("f1", "f1_score"),
        ):
            for average in ("macro", "micro", "weighted"):
                want = getattr(sklearn, oracle)(
                    true, guess, average=average, sample_weight=w, zero_division=0
                )
                got = getattr(metrics, name)(scores, true, w, average=average)
                assert got == pytest.approx(want, abs=1e-12), (name, average)
            binary, score = (true > 0).astype(int), scores[:, 0]
            want = getattr(sklearn, oracle)(binary, score > 0.1, sample_weight=w, zero_division=0)
            assert getattr(metrics, name)(score, binary, w, threshold=0.1) == pytest.approx(want)
        for k in range(1, classes):
            if classes > 2:
                want = sklearn.top_k_accuracy_score(true, scores, k=k, labels=labels, sample_weight=w)
                assert metrics.top_k_accuracy(scores, true, w, k=k) == pytest.approx(want)


@pytest.mark.parametrize("seed", range(12))
def test_roc_auc_agrees_with_scikit_learn(seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 300))
    scores = rng.standard_normal(n).round(int(rng.integers(0, 3)))  # ties
    true = rng.integers(0, 2, n)
    true[:2] = 0, 1
    weights = rng.uniform(0, 2, n)
    for w in (None, weights):
        want = pytest.approx(sklearn.roc_auc_score(true, scores, sample_weight=w), rel=1e-12)
        assert metrics.roc_auc(scores, true, w) == want
        assert metrics.roc_auc(np.stack([-scores, scores], 1) / 2, true, w) == want
    classes = int(rng.integers(3, 6))
    p = rng.dirichlet(np.ones(classes), n)
    true = np.concatenate([np.arange(classes), rng.integers(0, classes, n)])[:n] if n >= classes else None
    if true is not None:
        for w in (None, weights):
            want = sklearn.roc_auc_score(true, p, multi_class="ovr", average="macro", sample_weight=w)
            assert metrics.roc_auc(p, true, w) == pytest.approx(want, rel=1e-12)
            logits = np.log(p) + rng.standard_normal((n, 1))
            assert metrics.roc_auc(logits, true, w) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_regression_agrees_with_scikit_learn(seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    shape = ((9,), (9, 1), (9, 3))[seed % 3]
    target = rng.standard_normal(shape) + 1000
    output = target + rng.standard_normal(shape)
    for w in (None, rng.uniform(0, 2, 9)):
        for name, oracle in (
            ("mse", "mean_squared_error"),
            ("mae", "mean_absolute_error"),
            ("r2", "r2_score"),
        ):
            want = getattr(sklearn, oracle)(target, output, sample_weight=w)
            assert getattr(metrics, name)(output, target, w) == pytest.approx(want, rel=1e-9)
        want = math.sqrt(sklearn.mean_squared_error(target, output, sample_weight=w))
        assert metrics.rmse(output, target, w) == pytest.approx(want, rel=1e-12)


def test_perplexity_is_the_exponential_of_the_loss() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    x, y, w = rng.standard_normal((20, 5)), rng.integers(0, 5, 20), rng.uniform(0, 2, 20)
    want = math.exp(sklearn.log_loss(y, qn.ops.softmax(x).numpy(), labels=range(5), sample_weight=w))
    assert metrics.perplexity(x, y, w) == pytest.approx(want, rel=1e-10)
    y[:3] = -100
    assert metrics.perplexity(x, y) == pytest.approx(math.exp(losses.cross_entropy(x, y).item()), rel=1e-12)


# ---- batch by batch ---------------------------------------------------------------------------------------------------

CLASSES: dict[str, Callable[[], Any]] = {
    **metrics.METRICS,
    "top2": lambda: metrics.TopKAccuracy(2),
    "weighted f1": lambda: metrics.F1("weighted"),
    "micro recall": lambda: metrics.Recall("micro"),
    "matrix": metrics.ConfusionMatrix,
    "mean": lambda: metrics.Mean(lambda output, target: float(np.mean(output[..., 0] - target))),
}
NUMERIC = ("mse", "rmse", "mae", "r2")


@pytest.mark.parametrize("name", CLASSES)
@given(n=st.integers(1, 40), classes=st.integers(2, 6), weighted=st.booleans(), cuts=st.lists(st.integers(0, 40), max_size=4), seed=seeds)  # fmt: skip
def test_batches_equal_one_pass(
    name: str, n: int, classes: int, weighted: bool, cuts: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    output, target, weights = decisions(rng, classes, n)
    if name in NUMERIC:
        target = output + rng.standard_normal(output.shape) + 100
    elif name == "mean":
        target = target.astype(float)
    w = weights if weighted else None
    whole, parts = CLASSES[name](), CLASSES[name]()
    whole.update(output, target, w)
    parts.update(output, target, w)
    parts.reset()  # leaves nothing behind
    edges = sorted({0, n, *(c for c in cuts if c < n)})
    for a, b in pairwise(edges):
        parts.update(output[a:b], target[a:b], None if w is None else w[a:b])
    np.testing.assert_allclose(parts.compute(), whole.compute(), rtol=1e-9, atol=1e-12)
    again = parts.compute()
    np.testing.assert_array_equal(parts.compute(), again)


def test_a_weight_counts_like_copies() -> None:
    rng = np.random.default_rng(3)
    output, target, _ = decisions(rng, 4, 30)
    copies = rng.integers(0, 4, 30)
    for name, make in CLASSES.items():
        if name == "mean":  # a plain function sees no weights
            continue
        t = target if name not in NUMERIC else output * 0.9 + 1
        weighted, repeated = make(), make()
        weighted.update(output, t, copies)
        repeated.update(output.repeat(copies, 0), t.repeat(copies, 0))
        np.testing.assert_allclose(weighted.compute(), repeated.compute(), rtol=1e-12)


# ---- edges ------------------------------------------------------------------------------------------------------------


def test_no_samples_give_nan() -> None:
    for name, make in CLASSES.items():
        metric = make()
        assert np.all(np.isnan(metric.compute())) if name != "matrix" else metric.compute().shape == (0, 0)
        output = np.zeros((0, 3))
        metric.update(output, output if name in NUMERIC else np.zeros(0, int))
        assert np.all(np.isnan(metric.compute())) if name != "matrix" else not metric.compute().any()


def test_what_is_not_there_counts_zero() -> None:
    never, none = np.zeros(4), np.zeros(4, int)
    assert metrics.precision(never, [0, 0, 1, 1]) == 0.0  # nothing was decided to be positive
    assert metrics.recall(never + 1, none) == 0.0  # there are no positives
    assert metrics.f1(never, none) == 0.0
    assert metrics.precision(none, none) == metrics.f1(none, none, average="binary") == 0.0
    assert metrics.f1(none, none, average="macro") == 1.0  # over the one class that occurs
    assert metrics.accuracy(np.eye(3), [-100] * 3) != metrics.accuracy(np.eye(3), [0, 1, 2])
    assert math.isnan(metrics.accuracy(np.eye(3), [-100] * 3))


def test_one_class_has_no_roc() -> None:
    assert math.isnan(metrics.roc_auc([0.1, 0.9], [1, 1]))
    assert math.isnan(metrics.roc_auc([0.1, 0.9], [0, 0]))
    assert math.isnan(metrics.roc_auc([0.1, 0.9], [0, 1], [0.0, 1.0]))
    assert metrics.roc_auc([0.5, 0.5], [0, 1]) == 0.5
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])
    assert metrics.roc_auc(p, [0, 1, 1]) == 1.0  # the mean over the two classes that occur
    assert math.isnan(metrics.roc_auc(p, [1, 1, 1]))


def test_r2_of_constants() -> None:
    assert metrics.r2([2.0, 2.0], [2.0, 2.0]) == 1.0
    assert metrics.r2([1.0, 2.0], [2.0, 2.0]) == 0.0
    assert math.isnan(metrics.r2([1.0], [1.0]))
    metric = metrics.R2()
    for value in (0.1, 0.1, 0.1):
        metric.update(np.array([value]), np.array([0.1]))
    assert metric.compute() == 1.0


def test_ties_of_top_k_follow_argmax() -> None:
    scores = np.zeros((3, 4))
    assert metrics.top_k_accuracy(scores, [0, 1, 2], k=1) == metrics.accuracy(scores, [0, 1, 2]) == 1 / 3
    assert metrics.top_k_accuracy(scores, [0, 1, 2], k=2) == 2 / 3
    scores[:, 3] = np.nan
    assert metrics.top_k_accuracy(scores, [3, 0, 0], k=1) == metrics.accuracy(scores, [3, 0, 0]) == 1 / 3
    assert metrics.top_k_accuracy(scores, [0, 1, 3], k=9) == 1.0


def test_an_impossible_label_has_infinite_perplexity() -> None:
    x = np.array([[0.0, -np.inf]])
    assert metrics.perplexity(x, [1]) == math.inf
    assert metrics.perplexity(np.repeat(x, 2, 0), [1, 0], [0.0, 1.0]) == 1.0


def test_integer_counts_stay_integers() -> None:
    assert metrics.confusion_matrix([0, 1], [0, 1]).dtype == np.int64
    assert metrics.confusion_matrix([0, 1], [0, 1], [0.5, 1.0]).dtype == np.float64
    assert metrics.confusion_matrix([0], [0], classes=3).shape == (3, 3)
    metric = metrics.ConfusionMatrix()
    metric.update(np.array([0]), np.array([0]))
    metric.update(np.array([3]), np.array([1]))
    assert metric.compute().tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0] * 4, [0] * 4]


X = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ShapeError, r"\[accuracy\] .*expected labels \(2,\), got \(3,\)", lambda: metrics.accuracy(X, [0, 1, 2])),
        (ShapeError, r"\[accuracy\] expected labels \(2,\), or a distribution.*ravel", lambda: metrics.accuracy(X, X)),
        (ShapeError, r"\[f1\] decisions have shape \(2,\), labels \(3,\)", lambda: metrics.f1([0, 1], [0, 1, 1])),
        (ShapeError, r"\[mae\] output has shape \(2,\), target \(2, 1\)", lambda: metrics.mae(X[:, 0], X[:, :1])),
        (ShapeError, r"\[accuracy\] sample_weight has shape \(3,\), expected \(2,\)", lambda: metrics.accuracy(X, [0, 1], [1, 1, 1])),
        (ShapeError, r"\[accuracy\] output is a single number", lambda: metrics.accuracy(1.0, 1)),
        (ArgumentError, r"\[mse\] sample_weight\[1\] is -1", lambda: metrics.mse(X[:, 0], X[:, 0], [1, -1])),
        (ArgumentError, r"\[recall\] label 3 at row 1 is out of range for 3 classes", lambda: metrics.recall(X, [0, 3])),
        (ArgumentError, r"\[accuracy\] label 2 at row 0 is out of range for 2", lambda: metrics.accuracy(X[:, 0], [2, 0])),
        (ArgumentError, r"\[confusion_matrix\] label 2 at row 0", lambda: metrics.confusion_matrix([0], [2], classes=2)),
        (ArgumentError, r"decisions are class numbers from 0, got -1", lambda: metrics.accuracy([-1], [0])),
        (DTypeError, r"\[accuracy\] labels are whole numbers, got 0\.5", lambda: metrics.accuracy(X, [0.5, 1.0])),
        (DTypeError, r"\[accuracy\] target holds <U1", lambda: metrics.accuracy(X, ["a", "b"])),
        (ArgumentError, r"average is one of .*got 'mean'", lambda: metrics.F1("mean")),
        (ArgumentError, r"average 'binary' is for two classes, there are 3", lambda: metrics.f1(X, [0, 1], average="binary")),
        (ArgumentError, r"k is at least 1, got 0", lambda: metrics.TopKAccuracy(0)),
        (ArgumentError, r"\[top5_accuracy\] expected scores \(N, C\)", lambda: metrics.top_k_accuracy(X[:, 0], [0, 1])),
        (ArgumentError, r"\[perplexity\] expected logits", lambda: metrics.perplexity(X[:, 0], [0, 1])),
        (ArgumentError, r"\[roc_auc\] the score at row 1 is NaN", lambda: metrics.roc_auc([0.0, np.nan], [0, 1])),
        (ArgumentError, r"unknown metric 'acc'.*accuracy", lambda: metrics.as_metric("acc")),
        (ArgumentError, r"a confusion matrix is no number", lambda: metrics.as_metric(metrics.ConfusionMatrix())),
        (ArgumentError, r"metric is a name or a function, got 3", lambda: metrics.as_metric(3)),
    ],
)  # fmt: skip
def test_metrics_refuse_what_does_not_fit(error: Any, message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message):
        call()


def test_what_users_give_becomes_a_metric() -> None:
    for name in metrics.METRICS:
        assert metrics.as_metric(name).name == name
        function = {"top5_accuracy": metrics.top_k_accuracy}.get(name) or getattr(metrics, name)
        assert type(metrics.as_metric(function)) is type(metrics.as_metric(name))
    assert isinstance(metrics.as_metric(metrics.ROCAUC), metrics.ROCAUC)
    kept = metrics.F1("micro", name="mine")
    assert metrics.as_metric(kept) is kept and repr(kept) == "F1(average='micro')"
    for own in ("accuracy", metrics.accuracy, metrics.Accuracy):
        assert metrics.as_metric(own, threshold=0.0).threshold == 0.0  # type: ignore[attr-defined]
    assert metrics.as_metric(kept, threshold=0.0).threshold == 0.5  # type: ignore[attr-defined]
    assert metrics.as_metric("mae", threshold=0.0).name == "mae"

    def spread(output: Any, target: Any) -> float:
        return float((output - target).max())

    mean = metrics.as_metric(spread)
    assert isinstance(mean, metrics.Mean) and mean.name == "spread" and repr(mean) == "Mean(spread)"


def test_tensors_are_taken_too() -> None:
    x = qn.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    assert metrics.accuracy(x, qn.tensor([1, 1])) == 0.5


def test_plot_of_a_confusion_matrix(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    matrix = np.array([[50, 2, 0], [3, 40, 7], [0, 0, 0]])
    for name, given_labels in (("a.png", None), ("b.png", ["cat", "dog", "bird"])):
        figure = metrics.plot_confusion_matrix(matrix, given_labels, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5_000
        texts = [t.get_text() for t in figure.axes[0].texts]
        assert texts[:2] == ["50", "2"] and len(texts) == 9
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["cat", "dog", "bird"]
    with pytest.raises(ShapeError, match=r"\[plot_confusion_matrix\] expected a square matrix, got \(2, 3\)"):
        metrics.plot_confusion_matrix(matrix[:2])
    with pytest.raises(ArgumentError, match=r"2 labels for 3 classes"):
        metrics.plot_confusion_matrix(matrix, ["a", "b"])


def test_a_class_number_beyond_every_table_is_refused() -> None:
    for metric in (metrics.F1(), metrics.ConfusionMatrix()):
        with pytest.raises(ArgumentError, match="class number 200000 would need a table of 200001² counts"):
            metric.update(np.array([1, 200_000]), np.array([1, 0]))
