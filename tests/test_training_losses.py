"""Every loss in `fit`: what it wants of targets, weights, plans, thresholds of metrics."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import losses, nn, ops
from quernel.errors import ArgumentError, DTypeError, ShapeError
from tests.test_training import state

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 5)).astype(np.float32)
CLASS = np.arange(24) % 3
SOFT = rng.dirichlet([2, 2, 2], 24).astype(np.float32)
BITS = (rng.uniform(size=(24, 3)) > 0.5).astype(np.int64)
W = rng.uniform(0.5, 2, 24)


class Probabilities(nn.Module):
    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return ops.sigmoid(x)


class LogProbabilities(nn.Module):
    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return ops.log_softmax(x)


CASES: list[tuple[Any, Any, type[nn.Module]]] = [
    ("cross_entropy", CLASS, nn.Identity),
    ("cross_entropy", SOFT, nn.Identity),
    (partial(losses.cross_entropy, label_smoothing=0.1), CLASS, nn.Identity),
    ("nll", CLASS, LogProbabilities),
    ("bce", BITS, Probabilities),
    ("bce_with_logits", BITS, nn.Identity),
    ("bce_with_logits", SOFT, nn.Identity),
    ("mse", SOFT, nn.Identity),
    ("mae", SOFT, nn.Identity),
    ("huber", SOFT, nn.Identity),
    ("focal", CLASS, nn.Identity),
    ("focal", BITS, nn.Identity),
    ("kl_div", SOFT, LogProbabilities),
    (nn.CrossEntropyLoss(label_smoothing=0.1), CLASS, nn.Identity),
    (nn.BCEWithLogitsLoss(), BITS, nn.Identity),
    (nn.KLDivLoss("batchmean"), SOFT, LogProbabilities),
    (nn.SmoothL1Loss("sum"), SOFT, nn.Identity),
]


def net_of(head: type[nn.Module], outputs: int = 3) -> nn.Sequential:
    qn.seed(0)
    return nn.Sequential(nn.Linear(5, outputs), head())


@pytest.mark.parametrize(("loss", "y", "head"), CASES)
def test_losses_train_with_and_without_weights(loss: Any, y: np.ndarray, head: type[nn.Module]) -> None:
    results = []
    for eagerly in (True, False):
        net = net_of(head)
        net.compile("adam", loss=loss, run_eagerly=eagerly)
        plain = net.test_on_batch(X, y)["loss"]
        assert net.test_on_batch(X, y, sample_weight=np.ones(24))["loss"] == pytest.approx(plain, rel=1e-5)
        # The samples of weight 2 count twice: as many samples, so half of that is a mean over both copies.
        twice = net.test_on_batch(X, y, sample_weight=np.full(24, 2.0))["loss"]
        assert twice == pytest.approx(2 * plain, rel=1e-5)
        weights = {"sample_weight": W} if y.ndim > 1 else {"class_weight": {0: 2.0, 1: 0.5}}
        history = net.fit(X, y, epochs=12, batch_size=9, seed=0, verbose=0, **weights)
        assert history["loss"][-1] < history["loss"][0]
        results.append((state(net), history.history))
    assert results[0] == results[1]


def test_binary_targets_have_one_column_or_none() -> None:
    y = (X[:, 0] > 0).astype(np.float64)
    for shape, head in (((24, 1), nn.Identity), ((24,), nn.Flatten)):
        net = nn.Sequential(nn.Linear(5, 1), head())
        if head is nn.Flatten:

            class Squeeze(nn.Module):
                def forward(self, x: qn.Tensor) -> qn.Tensor:
                    return x.squeeze(1)

            net[1] = Squeeze()
        net.compile(qn.optim.Adam(net.parameters(), lr=0.1), loss="bce_with_logits", metrics=["accuracy"])
        history = net.fit(X, y.reshape(shape), epochs=40, class_weight={1: 1.5}, verbose=0)
        logits = net.predict(X).ravel()
        assert net.evaluate(X, y.reshape(shape))["accuracy"] == ((logits > 0) == y).mean() > 0.9
        assert history["accuracy"][-1] > 0.9


def test_labels_of_every_step_of_a_sequence() -> None:
    x, y = rng.normal(size=(12, 7, 5)), rng.integers(0, 4, (12, 7))
    y[:, -1] = -100  # padding
    net = nn.Linear(5, 4)
    net.compile("adam")
    assert net.fit(x, y, epochs=2, sample_weight=W[:12], verbose=0)["loss"][1] > 0
    wrong = y.copy()
    wrong[3, 2] = 4
    with pytest.raises(
        ArgumentError, match=r"label 4 of sample 3, position \(2,\), is out of range: the model has 4"
    ):
        net.fit(x, wrong, verbose=0)
    with pytest.raises(ShapeError, match=r"cross_entropy wants labels \(N, 7\), y has shape \(12, 3\); use"):
        net.fit(x, y[:, :3], verbose=0)
    with pytest.raises(ShapeError, match=r"y has shape \(84,\)|x has 12 samples, y has 84"):
        net.fit(x, y.reshape(-1), verbose=0)
    net.compile("adam", loss=partial(losses.cross_entropy, ignore_index=-1))
    with pytest.raises(ArgumentError, match="label -100 of sample 0"):
        net.fit(x, y, verbose=0)
    net.fit(x, np.where(y < 0, -1, y), verbose=0)


@pytest.mark.parametrize(
    ("loss", "y", "error", "message"),
    [
        ("nll", SOFT, DTypeError, r"\[fit\] nll wants whole class numbers, y holds float32; use y\.argmax"),
        (
            "cross_entropy",
            BITS,
            ShapeError,
            r"\[fit\] cross_entropy wants labels \(N,\), y has shape \(24, 3\)",
        ),
        (
            "cross_entropy",
            SOFT * np.where(np.arange(24) < 9, 1, -1)[:, None],
            ArgumentError,
            r"probabilities from 0 to 1; y is -0\.\d+ at \(9, 0\)",
        ),
        ("cross_entropy", CLASS - 1, ArgumentError, r"\[fit\] label -1 of sample 0 is out of range"),
        ("focal", CLASS + 1, ArgumentError, r"\[fit\] label 3 of sample 2 is out of range"),
        (
            "bce",
            SOFT * 2,
            ArgumentError,
            r"\[fit\] binary_cross_entropy wants probabilities from 0 to 1; y is 1\.\d+ at",
        ),
        ("bce_with_logits", -BITS, ArgumentError, r"with_logits wants probabilities from 0 to 1; y is -1 at"),
        ("mae", CLASS, ShapeError, r"\[mae\] the model's output is \(N, 3\), y has shape \(24,\)$"),
        (
            "huber",
            SOFT[:, :1],
            ShapeError,
            r"\[huber\] the model's output is \(N, 3\), y has shape \(24, 1\)$",
        ),
    ],
)
def test_targets_that_a_loss_cannot_use(loss: str, y: Any, error: type[Exception], message: str) -> None:
    net = nn.Sequential(nn.Linear(None, 3))
    net.compile("sgd", loss=loss)
    with pytest.raises(error, match=message):
        net.fit(X, y, verbose=0)
    assert net[0].weight.is_unsized


class Steps(nn.Module):
    """Returns what CTC wants: logarithms of probabilities, and how many of the steps count."""

    takes_integers = True

    def __init__(self) -> None:
        self.lstm, self.head = nn.LSTM(None, 8, returns="outputs"), nn.Linear(8, 4)

    def forward(self, x: qn.Tensor, lengths: qn.Tensor) -> tuple[qn.Tensor, qn.Tensor]:
        return ops.log_softmax(self.head(self.lstm(x, lengths=lengths))), lengths


@pytest.mark.parametrize("loss", ["ctc", nn.CTCLoss(), partial(losses.ctc, zero_infinity=True)])
@pytest.mark.parametrize("eagerly", [False, True])
def test_ctc_of_a_model_that_returns_lengths(loss: Any, eagerly: bool) -> None:
    rng = np.random.default_rng(0)
    x, lengths = rng.standard_normal((24, 7, 5)).astype(np.float32), rng.integers(4, 8, 24)
    y = np.where(np.arange(2) < rng.integers(1, 3, 24)[:, None], rng.integers(1, 4, (24, 2)), -1)
    qn.seed(0)
    net = Steps()
    net.compile("adam", loss=loss, run_eagerly=eagerly)
    first = net.evaluate((x, lengths), y)["loss"]
    log_probs, kept = net.predict((x, lengths))
    np.testing.assert_array_equal(kept, lengths)
    want = ops.ctc_loss(log_probs, y, lengths).item()
    np.testing.assert_allclose(first, want, rtol=1e-6)
    assert abs(want - ops.ctc_loss(log_probs, y).item()) > 1e-3  # lengths matter
    history = net.fit((x, lengths), y, sample_weight=np.ones(24), epochs=8, batch_size=8, verbose=0).history
    assert list(history) == ["loss"] and history["loss"][-1] < history["loss"][0]
    net.fit((x, lengths), y, epochs=2, batch_size=8, verbose=0, validation_data=((x, lengths), y))
    assert net.evaluate((x, lengths), y)["loss"] < first


def test_ctc_names_what_is_no_pair() -> None:
    log_probs = np.zeros((1, 3, 2), np.float32)
    with pytest.raises(ArgumentError, match=r"\[ctc\] output is log_probs, or a pair .*, got 3 items$"):
        losses.ctc((log_probs, [3], [1]), [[1]])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="got 2 items and input_lengths beside them"):
        losses.ctc((log_probs, [3]), [[1]], input_lengths=[3])
