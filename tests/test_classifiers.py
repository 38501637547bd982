"""Classifiers of sequences: what fills a row up has no part, they learn, and bad arguments are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import quernel as qn
from quernel import models, nn
from quernel.errors import ArgumentError, ShapeError

MAKE: dict[str, Callable[[], nn.Module]] = {
    **{
        f"lstm, {pooling}": lambda pooling=pooling: models.LSTMClassifier(
            9, 3, 8, 8, layers=2, pooling=pooling, dropout=0.1
        )
        for pooling in ("max", "mean", "last")
    },
    "lstm, forward": lambda: models.LSTMClassifier(9, 3, 8, 8, bidirectional=False),
    "transformer": lambda: models.TransformerClassifier(9, 3, 16, 2, max_len=12, dropout=0.1),
}


@pytest.mark.parametrize("name", MAKE)
def test_what_fills_up_has_no_part(name: str) -> None:
    qn.seed(0)
    net, random = MAKE[name]().eval(), np.random.default_rng(0)
    x, lengths = random.integers(0, 9, (6, 12)), np.array([12, 1, 5, 11, 2, 7])
    scores = net(x, lengths).numpy()
    other = np.where(np.arange(12) < lengths[:, None], x, random.integers(0, 9, x.shape))
    np.testing.assert_array_equal(net(other, lengths).numpy(), scores)
    for row, n, expected in zip(x, lengths, scores, strict=True):
        np.testing.assert_allclose(net(row[None, :n]).numpy()[0], expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(net(x, np.full(6, 12)).numpy(), net(x).numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", MAKE)
def test_they_learn_where_lengths_matter(name: str) -> None:
    """The class is the first token; behind the end there are others, which mean nothing."""
    qn.seed(0)
    random = np.random.default_rng(0)
    lengths = random.integers(1, 5, 240)
    y = random.integers(0, 3, 240)
    x = np.where(np.arange(8) < lengths[:, None], y[:, None], random.integers(0, 3, (240, 8)))
    net = MAKE[name]()
    net.compile(qn.optim.Adam(net.parameters(), 5e-3), "cross_entropy", ["accuracy"])
    net.fit((x[:200], lengths[:200]), y[:200], epochs=15, batch_size=20, verbose=0)
    assert net.evaluate((x[200:], lengths[200:]), y[200:])["accuracy"] > 0.95


def test_refusals() -> None:
    with pytest.raises(
        ArgumentError, match=r"\[lstm_classifier\] pooling is one of 'max', 'mean', 'last', got 'min'"
    ):
        models.LSTMClassifier(9, 3, pooling="min")
    for make, message in (
        (lambda: models.LSTMClassifier(0, 3), "tokens is a positive integer, got 0"),
        (lambda: models.LSTMLanguageModel(0), "tokens is a positive integer, got 0"),
        (lambda: models.TransformerClassifier(9, 3, max_len=0), "max_len is a positive integer, got 0"),
        (lambda: models.TransformerLanguageModel(9, layers=0), "layers is a positive integer, got 0"),
        (lambda: models.TransformerLanguageModel(9, 10, 4), "num_heads=4 does not divide embed_dim=10"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make()
    x, net = np.arange(8).reshape(2, 4), models.LSTMClassifier(9, 3)
    other = models.TransformerClassifier(9, 3, 16, 2, max_len=4)
    for each in (net, other):
        with pytest.raises(ShapeError, match=r"lengths is \(3,\), expected one per row, \(2,\)"):
            each(x, np.array([1, 2, 3]))
        with pytest.raises(IndexError, match="9"):
            each(x + 9)
    with pytest.raises(ShapeError, match="sequences have at most max_len=4 tokens, got 5"):
        other(np.zeros((2, 5), np.int64))


@pytest.mark.parametrize("name", MAKE)
def test_lengths_out_of_range_are_refused_however_the_net_runs(name: str) -> None:
    net, x, y = MAKE[name](), np.arange(8).reshape(2, 4), np.array([0, 2])
    net.compile("adam")
    good = np.array([4, 1])
    net.fit((x, good), y, verbose=0)
    frozen = net.freeze()
    np.testing.assert_allclose(frozen(x, good), net.predict((x, good)), rtol=0, atol=2e-6)
    ways: list[Callable[[np.ndarray], object]] = [
        lambda lengths: net(x, lengths),
        lambda lengths: net.predict((x, lengths)),
        lambda lengths: net.fit((x, lengths), y, shuffle=False, verbose=0),
        lambda lengths: net.evaluate((x, lengths), y),
        lambda lengths: frozen(x, lengths),
    ]
    for way in ways:
        for lengths in ([4, 5], [1, 0], [2, -1]):
            with pytest.raises(
                ArgumentError,
                match=f"length {lengths[1]} of row 1 is out of range, expected 1 to 4, the number of time steps",
            ):
                way(np.array(lengths))
