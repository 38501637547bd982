"""Character language model: topics in one part only, and the baselines against their definitions."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from quernel.data import tasks
from quernel.data.tasks import char_lm as task


def test_topics_are_in_one_part() -> None:
    train, test = task.topics()
    assert train and test and not set(train) & set(test)
    assert (train, test) == task.topics() != task.topics(seed=1)
    text = task.load()
    assert len(text.train) > 200_000 and len(text.train) > 3 * len(text.test)
    assert max(text.test.max(), text.train.max()) <= len(text.alphabet) == text.size - 1
    assert 60 < text.size < 256
    first = task._topics()[train[0]]
    assert "".join(text.alphabet[code] for code in text.train[: len(first)]) == first


def test_unknown_characters_share_one_code() -> None:
    np.testing.assert_array_equal(task._codes("abzß", "abc"), [0, 1, 3, 3])


def test_windows() -> None:
    text = task.load(limit=1000)
    data = text.windows(5)
    assert data.x.shape == (995, 5) and data.y.shape == (995,) and len(data.x_test) == 95
    np.testing.assert_array_equal(data.x[7], text.train[7:12])
    assert data.y[7] == text.train[12] and data.y[-1] == text.train[-1]


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
    text = task.Text("abc", train, test)
    bits = 0.0
    for i, c in enumerate(test):
        history = test[max(0, i - longest + 1) : i].tolist()
        bits -= math.log2(witten_bell(train.tolist(), history, int(c), 4))
    assert task.ngram_bits(text, longest) == pytest.approx(bits / len(test), rel=1e-12)


def test_probabilities_add_up_to_one() -> None:
    train = np.random.RandomState(1).randint(5, size=200)
    total = sum(2 ** -task.ngram_bits(task.Text("abcd", train, np.array([c])), 1) for c in range(5))
    assert total == pytest.approx(1)


def test_baselines_and_net() -> None:
    chosen = tasks.task("char_lm")
    text = task.load(limit=40_000)
    bits = chosen.baselines(text)
    assert 4 < bits["characters (Witten-Bell)"] < 5.5
    assert (
        bits["characters (Witten-Bell)"] > bits["3-grams (Witten-Bell)"] > bits["5-grams (Witten-Bell)"] > 1.5
    )
    assert 1 < bits["bz2 after the training part"] < 4
    net = chosen.train(text, "quernel", 1, 0, 0)
    assert net < bits["characters (Witten-Bell)"]
