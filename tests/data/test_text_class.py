"""Text class: files in one part only, windows that lie in a file, n-grams against their definition."""

from __future__ import annotations

import numpy as np
import pytest

from quernel.data import tasks
from quernel.data.tasks import text_class as task


def test_files_are_in_one_part() -> None:
    chosen = task.files()
    assert tuple(chosen) == task.PACKAGES
    assert chosen == task.files() and chosen != task.files(seed=1)
    for train, test in chosen.values():
        assert train and test and not set(train) & set(test)
        sizes = [sum(path.stat().st_size for path in part) for part in (train, test)]
        assert sizes[1] <= 0.3 * sum(sizes) + 1000


def test_windows_lie_in_files_of_their_package_and_part() -> None:
    data, chosen = task.load(80, 40), task.files()
    again = task.load(80, 40)
    np.testing.assert_array_equal(data.x, again.x)
    assert data.x.shape == (80, 200) and data.x.max() < task.ALPHABET
    assert set(np.bincount(data.y)) == {10} and set(np.bincount(data.y_test)) == {5}
    for part, (x, y) in enumerate(((data.x, data.y), (data.x_test, data.y_test))):
        texts = [["".join(map(chr, task._codes(path))) for path in chosen[p][part]] for p in task.PACKAGES]
        for row, label in zip(x, y, strict=True):
            assert any("".join(map(chr, row)) in text for text in texts[label])


def test_every_place_is_drawn() -> None:
    texts = [np.arange(n) + 1000 * i for i, n in enumerate((200, 150, 203))]
    drawn = task._windows(np.random.RandomState(0), texts, 400)
    first, counts = np.unique(drawn[:, 0], return_counts=True)
    assert first.tolist() == [0, 2000, 2001, 2002, 2003] and counts.min() > 50
    assert (np.diff(drawn, axis=1) == 1).all()


def test_ngrams_count() -> None:
    x = np.zeros((2, task.LENGTH), np.int64)
    x[1, ::2] = 1
    counts = task.ngrams(x, 2) ** 2
    np.testing.assert_allclose(np.sort(counts[0])[-3:], [0, 199, 200], rtol=1e-6)
    np.testing.assert_allclose(np.sort(counts[1])[-5:], [0, 99, 100, 100, 100], rtol=1e-6)
    assert task.ngrams(x, 3).shape == (2, 1 << task.BITS)


def test_net_and_baselines_beat_chance() -> None:
    chosen = tasks.task("text_class")
    data = task.load(800, 400)
    letters, grams = chosen.baselines(data).values()
    assert 0.2 < letters < grams < 0.9
    assert chosen.train(data, "quernel", 8, 0, 0) > 0.2
    assert chosen.net().summary(chosen.input_shape, show=False).parameters > 100_000


@pytest.mark.parametrize("name", tasks.NAMES)
def test_every_task_is_whole(name: str) -> None:
    chosen = tasks.task(name)
    assert chosen.name == name and chosen.epochs > 0 and chosen.score and chosen.about
    assert chosen.show(0.5) == ("50.00%" if chosen.percent else "0.500")
