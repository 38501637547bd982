"""Character language model: topics in one part only, and the baselines against their definitions."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from quernel.data import tasks
from quernel.data.tasks import char_lm as task
from quernel.text import CharVocabulary


def test_topics_are_in_one_part() -> None:
    train, test = task.topics()
    assert train and test and not set(train) & set(test)
    assert (train, test) == task.topics() != task.topics(seed=1)
    text = task.load()
    assert len(text.train) > 200_000 and len(text.train) > 3 * len(text.test)
    assert max(text.test.max(), text.train.max()) < len(text.vocabulary) == text.size
    assert 60 < text.size < 256
    first = task._topics()[train[0]]
    assert text.vocabulary.decode(text.train[: len(first)]) == first


def test_windows() -> None:
    text = task.load(limit=1000)
    data = text.windows(6)
    assert data.x.shape == data.y.shape == (332, 6) and len(data.x_test) == 32
    np.testing.assert_array_equal(data.x[7], text.train[21:27])
    np.testing.assert_array_equal(data.y[7], text.train[22:28])


def test_bits_of_a_net_are_those_of_its_probabilities() -> None:
    """A model that knows the frequencies alone, told the codes that come before."""
    text = task.load(limit=5000)
    counts = np.bincount(text.train, minlength=text.size) + 1.0
    seen: list[np.ndarray] = []

    def scores(codes: np.ndarray) -> np.ndarray:
        seen.append(codes)
        return np.broadcast_to(np.log(counts) + 3, (*codes.shape, text.size))

    bits = task.net_bits(scores, text)
    assert bits == pytest.approx(-np.log2((counts / counts.sum())[text.test]).mean(), rel=1e-12)
    before = np.concatenate([text.train[-task.MEMORY :], text.test[:-1]])
    np.testing.assert_array_equal(seen, before[None, None])


def witten_bell(train: list[int], history: list[int], c: int, size: int) -> float:
    """p(c | history) by its definition."""
    shorter = 1 / size if not history else witten_bell(train, history[1:], c, size)
    n = len(history)
    after = [train[i + n] for i in range(len(train) - n) if train[i : i + n] == history]
    kinds = len(set(after))
    return (Counter(after)[c] + kinds * shorter) / (len(after) + kinds) if after else shorter


@pytest.mark.parametrize("longest", [1, 2, 4])
def test_ngram_bits_are_those_of_the_definition(longest: int) -> None:
    random = np.random.RandomState(0)
    train, test = random.randint(3, size=60), random.randint(4, size=25)
    text = task.Text(CharVocabulary("abc", padding=None), train, test)
    bits = 0.0
    for i, c in enumerate(test):
        history = test[max(0, i - longest + 1) : i].tolist()
        bits -= math.log2(witten_bell(train.tolist(), history, int(c), 4))
    assert task.ngram_bits(text, longest) == pytest.approx(bits / len(test), rel=1e-12)


def test_probabilities_add_up_to_one() -> None:
    train = np.random.RandomState(1).randint(5, size=200)
    total = sum(
        2 ** -task.ngram_bits(task.Text(CharVocabulary("abcd", padding=None), train, np.array([c])), 1)
        for c in range(5)
    )
    assert total == pytest.approx(1)


def test_baselines_and_net() -> None:
    chosen = tasks.task("char_lm")
    text = task.load(limit=40_000)
    bits = chosen.baselines(text)
    assert 4 < bits["characters (Witten-Bell)"] < 5.5
    assert (
        bits["characters (Witten-Bell)"] > bits["3-grams (Witten-Bell)"] > bits["5-grams (Witten-Bell)"] > 1.5
    )
    assert 1 < bits["bz2, test part behind the training part"] < 4
    assert 1 < bits["bz2, whole text"] < 4
    small = task.load(limit=20_000)
    assert chosen.train(small, "quernel", 1, 0, 0) < bits["characters (Witten-Bell)"]
