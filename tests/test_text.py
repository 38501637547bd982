"""Decoding of alignments: against all of them one by one, with and without a language model."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest

import quernel as qn
from quernel import text
from quernel.errors import ArgumentError, ShapeError
from tests.reference import spelled


def random_log_probs(seed: int, *shape: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def every_labelling(row: np.ndarray, blank: int = 0) -> dict[tuple[int, ...], float]:
    """The probability of all that can be spelled."""
    total: dict[tuple[int, ...], float] = defaultdict(float)
    for alignment in itertools.product(range(row.shape[1]), repeat=len(row)):
        total[spelled(alignment, blank)] += math.exp(row[np.arange(len(row)), alignment].sum())
    return total


@pytest.mark.parametrize("blank", [0, 2])
def test_greedy_decoding_takes_the_likeliest_alignment(blank: int) -> None:
    x, lengths = random_log_probs(0, 50, 9, 4), np.random.default_rng(1).integers(0, 10, 50)
    for row, n, found in zip(x, lengths, text.ctc_greedy(x, lengths, blank), strict=True):
        assert tuple(found) == spelled(row[:n].argmax(1).tolist(), blank)
    assert text.ctc_greedy(qn.tensor(x[:3]), blank=blank) == text.ctc_greedy(x[:3], blank=blank)


@pytest.mark.parametrize("blank", [0, 2])
def test_a_wide_beam_finds_all_labellings_in_order(blank: int) -> None:
    for row in random_log_probs(2, 6, 5, 3):
        exact = every_labelling(row, blank)
        found = text.ctc_beam_search(row[None], blank=blank, beam_width=1000)[0]
        assert len(found) == len(exact)
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        for labels, score in found:
            assert math.isclose(math.exp(score), exact[tuple(labels)], rel_tol=1e-9)


def test_a_language_model_and_a_bonus_shift_the_scores() -> None:
    def model(prefix: tuple[int, ...], label: int) -> float:
        return math.log(0.9 if label == (1 if len(prefix) % 2 else 2) else 0.1)

    row = random_log_probs(3, 5, 3)
    exact = {
        labels: math.log(p) + sum(0.7 * model(labels[:i], c) + 0.3 for i, c in enumerate(labels))
        for labels, p in every_labelling(row).items()
    }
    best = sorted(exact, key=lambda labels: -exact[labels])
    found = text.ctc_beam_search(row[None], beam_width=1000, language_model=model, weight=0.7, bonus=0.3)[0]
    assert [tuple(h.labels) for h in found] == best
    np.testing.assert_allclose([h.score for h in found], [exact[labels] for labels in best], rtol=1e-9)


def test_a_narrow_beam_is_at_least_as_good_as_greedy_decoding() -> None:
    x = random_log_probs(4, 20, 6, 4)
    better = 0
    for row, greedy, beam in zip(x, text.ctc_greedy(x), text.ctc_beam_search(x, beam_width=8), strict=True):
        exact = every_labelling(row)
        assert len(beam) <= 8
        assert exact[tuple(beam[0].labels)] >= exact[tuple(greedy)] * (1 - 1e-9)
        better += tuple(beam[0].labels) != tuple(greedy)
    assert better > 3


def test_sure_frames_and_no_frames() -> None:
    with np.errstate(divide="ignore"):
        sure = np.log(np.eye(3)[[1, 1, 0, 1, 2, 0]])[None]
    assert text.ctc_greedy(sure) == [[1, 1, 2]]
    assert text.ctc_beam_search(sure)[0] == [([1, 1, 2], 0.0)]
    assert text.ctc_greedy(sure, [0]) == [[]] and text.ctc_beam_search(sure, [0])[0] == [([], 0.0)]
    assert text.ctc_greedy(sure[:0]) == [] == text.ctc_beam_search(sure[:0])


def test_edit_distance() -> None:
    for found, wanted, count in [
        ("", "", 0),
        ("abc", "", 3),
        ("", "ab", 2),
        ("kitten", "sitting", 3),
        ("ab", "ba", 2),
    ]:
        assert text.edit_distance(found, wanted) == count
    assert text.edit_distance([1, 2, 3], [1, 3]) == 1


def test_refusals() -> None:
    x = random_log_probs(5, 2, 4, 3)
    for arguments, error, message in [
        ((x[0],), ShapeError, r"\[ctc_greedy\] log_probs is \(N, T, classes\), got \(4, 3\)"),
        ((x, [4]), ShapeError, r"lengths has shape \(1,\), expected \(N,\) = \(2,\)"),
        ((x, [4, 5]), ArgumentError, "lengths are 0 to 4, the number of steps, got"),
        ((x, None, 3), ArgumentError, "blank is one of the 3 classes, 0 to 2, got 3"),
    ]:
        with pytest.raises(error, match=message):
            text.ctc_greedy(*arguments)
    x[1, 2, 0] = np.nan
    for decode in (text.ctc_greedy, text.ctc_beam_search):
        with pytest.raises(ArgumentError, match="log_probs has NaN in row 1"):
            decode(x)
    with pytest.raises(ArgumentError, match="beam_width is at least 1, got 0"):
        text.ctc_beam_search(x, beam_width=0)
