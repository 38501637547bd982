"""Cluttered digits: the same images for the same seed, sources of one part only, classes of one size, a task for no linear model."""

from __future__ import annotations

import numpy as np
import pytest

from quernel.data import load_digits, tasks
from quernel.data.tasks import cluttered_digits as task


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERNEL_CACHE", "off")
    monkeypatch.setattr(task, "_CHUNK", 100)  # less to make, and nothing else is different


def test_images_repeat_and_begin_alike() -> None:
    data, (chosen, _) = task.load(60, 40), task.sources()
    longer = task.synthesize(160, chosen, 0, "train").astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(data.x, longer[:60])
    assert not np.array_equal(longer[:60], longer[100:])  # the second chunk has its own stream
    assert not np.array_equal(data.x[:10], task.synthesize(10, chosen, 1, "train") / np.float32(255))
    assert data.x.shape == (60, 32, 32, 3) and data.x.dtype == np.float32 and data.y.dtype == np.int64
    assert data.x.min() >= 0 and data.x.max() <= 1


@pytest.mark.parametrize("seed", [0, 1])
def test_no_source_is_in_both_parts(seed: int) -> None:
    train, test = task.sources(seed)
    assert len(train) == 1200 and len(test) == 597
    assert sorted([*train, *test]) == list(range(1797))
    labels = load_digits()[1]
    assert set(labels[train]) == set(labels[test]) == set(range(10))


def test_images_depend_on_the_sources_of_their_part_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    digits, labels = load_digits()
    train, test = task.sources()
    before = [task.synthesize(20, chosen, 0, "train") for chosen in (train, test)]
    digits[test] = 1 - digits[test]
    monkeypatch.setattr(task, "load_digits", lambda: (digits, labels))
    np.testing.assert_array_equal(task.synthesize(20, train, 0, "train"), before[0])
    changed = (task.synthesize(20, test, 0, "train") != before[1]).any((1, 2, 3))
    assert changed.all()


def test_the_labelled_digit_is_in_the_middle() -> None:
    """The share of pixels that its ink covers, told from an image with a blank in its place."""
    digits, labels = load_digits()
    glyphs = np.pad(digits[:, :, :, 0], ((0, 0), (1, 1), (1, 1)))
    eye = np.tile(np.eye(2), (len(glyphs), 1, 1))
    drawn = task._drawn(glyphs, eye / 2.3, np.zeros((len(glyphs), 2)))
    zero = drawn[labels == 0].mean(0)
    assert zero[15:17, 15:17].max() < 0.3 * zero.max()  # the hole of the 0
    rows, columns = np.mgrid[:32, :32] - 15.5
    assert abs((zero * rows).sum() / zero.sum()) < 1 and abs((zero * columns).sum() / zero.sum()) < 1
    moved = task._drawn(glyphs, eye / 2.3, np.full((len(glyphs), 2), [3.0, -4.0]))
    np.testing.assert_allclose(moved[:, 3:, :-4], drawn[:, :-3, 4:], atol=1e-12)


def test_glyphs_are_interpolated_exactly_at_their_pixels() -> None:
    glyph = np.random.RandomState(0).rand(3, 10, 10)
    drawn = task._drawn(
        glyph, np.tile(np.eye(2), (3, 1, 1)), np.zeros((3, 2))
    )  # whole pixels on whole pixels
    np.testing.assert_allclose(drawn[:, 12:20, 12:20], glyph[:, 1:9, 1:9], atol=1e-12)


def test_noise_is_coloured() -> None:
    noise = task._coloured_noise(np.random.RandomState(0), 500)
    assert abs(noise.std() - 0.07) < 0.002
    channels = noise.reshape(-1, 3)
    assert np.abs(np.corrcoef(channels.T)[np.triu_indices(3, 1)] - 0.6).max() < 0.03
    power = (np.abs(np.fft.fft2(noise[..., 0])) ** 2).mean(0)[0]
    slope = np.polyfit(np.log(np.arange(1, 16)), np.log(power[1:16]), 1)[0]
    assert abs(slope + 1.6) < 0.15


def test_classes_have_one_size_and_no_linear_model_solves_it() -> None:
    data = task._load(True)
    assert set(np.bincount(data.y)) == {100} and set(np.bincount(data.y_test)) == {50}
    ((_, accuracy),) = tasks.task("cluttered_digits").baselines(data).items()
    assert 0.05 < accuracy < 0.2
