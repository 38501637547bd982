"""Vocabularies, sampling, and decoding of alignments: against all of them one by one, with and without a language model."""

from __future__ import annotations

import itertools
import json
import math
import pickle
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import text
from quernel.errors import ArgumentError, OutOfRangeError, ShapeError
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
    with pytest.raises(ArgumentError, match="beam_width is a whole number, at least 1, got 0"):
        text.ctc_beam_search(x, beam_width=0)


# ---- vocabularies ---------------------------------------------------------------------------------------------------


@given(st.text(min_size=1), st.text(), st.booleans())
def test_characters_come_back(seen: str, other: str, special: bool) -> None:
    names = {} if special else {"padding": None, "unknown": None}
    vocabulary = text.CharVocabulary.build(seen, **names)
    assert len(vocabulary) == len(set(seen)) + 2 * special
    assert vocabulary.decode(vocabulary.encode(seen)) == seen
    if special:
        assert vocabulary.decode(vocabulary.encode(other)) == "".join(
            c if c in seen else "<unk>" for c in other
        )
    for again in (
        text.Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))),
        pickle.loads(pickle.dumps(vocabulary)),
    ):
        assert again == vocabulary and type(again) is text.CharVocabulary and hash(again) == hash(vocabulary)


@given(st.text(), st.booleans())
def test_words_come_back(seen: str, lower: bool) -> None:
    vocabulary = text.WordVocabulary.build(seen, lower=lower, unknown=None)
    assert list(map(vocabulary.tokens.__getitem__, vocabulary.encode(seen))) == vocabulary.split(seen)
    assert text.Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary


def test_frequent_tokens_come_first_and_stay() -> None:
    texts = ["b a b c", "a b d"]
    build = text.WordVocabulary.build
    assert build(texts).tokens == ("<pad>", "<unk>", "b", "a", "c", "d")
    assert build(texts, max_size=4).tokens == ("<pad>", "<unk>", "b", "a")
    assert build(texts, min_frequency=2).tokens == ("<pad>", "<unk>", "b", "a")
    assert build(texts, padding=None, min_frequency=3).tokens == ("<unk>", "b")
    assert build(texts, padding="_", unknown=None, max_size=2).tokens == ("_", "b")
    assert text.CharVocabulary.build("").tokens == ("<pad>", "<unk>")


def test_words() -> None:
    vocabulary = text.WordVocabulary.build("Don't stop, DON'T")
    assert vocabulary.tokens[2:] == ("'", "don", "t", ",", "stop")
    assert vocabulary.decode(vocabulary.encode("stop DON")) == "stop don"
    cased = text.WordVocabulary.build("Don't stop, DON'T", lower=False)
    assert "DON" in cased and "don" not in cased and cased["DON"] != cased["Don"]
    again = text.Vocabulary.from_dict(cased.to_dict())
    assert again == cased != vocabulary and again.encode("don").tolist() == [1]
    assert list(vocabulary) == list(vocabulary.tokens) and vocabulary["never"] == 1
    assert repr(vocabulary) == "WordVocabulary(7 tokens, <pad> 0, <unk> 1)"


def test_batches_are_filled_up() -> None:
    vocabulary = text.CharVocabulary("abc")
    x, lengths = vocabulary.encode_batch(["ab", "", "cab"])
    np.testing.assert_array_equal(x, [[2, 3, 0], [0, 0, 0], [4, 2, 3]])
    np.testing.assert_array_equal(lengths, [2, 0, 3])
    assert x.dtype == lengths.dtype == np.int64
    x, lengths = vocabulary.encode_batch(["abcabc", "b"], length=4)
    np.testing.assert_array_equal(x, [[2, 3, 4, 2], [3, 0, 0, 0]])
    np.testing.assert_array_equal(lengths, [4, 1])
    assert [vocabulary.decode(row) for row in x] == ["abca", "b"]
    x, lengths = vocabulary.encode_batch([])
    assert x.shape == (0, 0) and lengths.shape == (0,)
    bare = text.CharVocabulary("abc", padding=None)
    assert bare.encode_batch(["ab", "ca"])[0].shape == (2, 2)
    with pytest.raises(ArgumentError, match="text 1 has 1 of 2 tokens, and the vocabulary no padding token"):
        bare.encode_batch(["ab", "c"])


def test_vocabularies_refuse() -> None:
    bare = text.CharVocabulary("abc", unknown=None)
    refused: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
        (
            bare.encode,
            ("abßc",),
            {},
            r"\[encode\] 'ß' \(number 2 of 4\) is not in the vocabulary, which has no",
        ),
        (bare.encode, (["a"],), {}, "expects a text, got list"),
        (bare.encode_batch, ("abc",), {}, "expects several texts, got one; put it into a list"),
        (bare.encode_batch, (["a"], 0), {}, "length is a whole number, at least 1, got 0"),
        (bare.decode, ([0, 4],), {}, "numbers are 0 to 3, got 0 to 4"),
        (bare.decode, ([[0, 1]],), {}, r"expects whole numbers \(T,\), got int64 \(1, 2\)"),
        (bare.decode, ([0.5],), {}, "got float64"),
        (text.CharVocabulary, (["a", "bc"],), {}, "are single characters, got 'bc'"),
        (
            text.WordVocabulary,
            (["Hello"],),
            {},
            "no text has the token 'Hello'; pass lower=False, or write 'hello'",
        ),
        (text.WordVocabulary, (["New York"],), {}, r"single words or signs .*lower=False.*, got 'New York'"),
        (text.WordVocabulary, (["New York"],), {"lower": False}, "single words or signs .*, got 'New York'"),
        (text.WordVocabulary, (["!?"],), {}, "got '!\\?'"),
        (text.CharVocabulary, ("aba",), {}, "the token 'a' is there twice"),
        (text.WordVocabulary, (["<pad>"],), {}, "the token '<pad>' is there twice"),
        (text.WordVocabulary, (["a", ""],), {}, "at least one character, got ''"),
        (text.CharVocabulary, ([1],), {}, "at least one character, got 1"),
        (text.CharVocabulary.build, ("abc",), {"max_size": 2}, "max_size 2 leaves no room beside 2"),
        (
            text.CharVocabulary.build,
            ("abc",),
            {"min_frequency": 0},
            "min_frequency is a whole number, at least 1, got 0",
        ),
        (text.Vocabulary.from_dict, ({"type": "CharVocabulari"},), {}, "did you mean 'CharVocabulary'"),
        (text.Vocabulary.from_dict, ({"type": "CharVocabulary"},), {}, "the description is incomplete"),
    ]
    for call, arguments, named, message in refused:
        with pytest.raises(ArgumentError, match=message):
            call(*arguments, **named)
    with pytest.raises(OutOfRangeError):
        bare.decode([-1])


# ---- sampling -------------------------------------------------------------------------------------------------------


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    scores, count = np.array([1.0, -np.inf, 0.3, 2.0, 0.3]), 4000
    for temperature, top_k in ((1.0, None), (0.5, None), (2.0, 3), (1.0, 1)):
        sample = text.Sampler(temperature, top_k, seed=1)
        seen = np.bincount([sample(scores) for _ in range(count)], minlength=5) / count
        share = np.exp(scores / temperature)
        kept = np.argsort(-scores, kind="stable")[:top_k]
        expected = np.where(np.isin(np.arange(5), kept), share, 0)
        expected /= expected.sum()
        assert np.abs(seen - expected).max() < 4 * math.sqrt(0.25 / count)
        assert not seen[expected == 0].any()


def test_a_cold_sampler_takes_the_first_of_the_best() -> None:
    assert text.Sampler(0)([0.0, 3.0, 1.0, 3.0]) == 1
    assert {text.Sampler(1e-300, seed=s)([0.0, 3.0, 1.0]) for s in range(20)} == {1}
    assert text.Sampler(top_k=1, seed=0)([2.0, 3.0, 3.0]) == 1
    assert text.Sampler(top_k=99, seed=0)([-np.inf, 3.0]) == 1


def test_seeds_repeat() -> None:
    scores = np.zeros(1000)
    drawn = []
    for start in (
        lambda: text.Sampler(seed=3),
        lambda: text.Sampler(seed=3),
        lambda: text.Sampler(seed=4),
        lambda: (qn.seed(3), text.Sampler())[1],
        text.Sampler,
    ):
        sample = start()
        drawn.append([sample(scores) for _ in range(5)])
    assert drawn[0] == drawn[1] == drawn[3]
    assert drawn[0] != drawn[2] and drawn[0] != drawn[4]


def test_samplers_refuse() -> None:
    for named, message in (
        ({"temperature": -0.1}, r"\[sampler\] temperature is a number, 0 or more and finite, got -0.1"),
        ({"temperature": math.nan}, "got nan"),
        ({"temperature": math.inf}, "got inf"),
        ({"temperature": "1"}, r"\[sampler\] temperature is a number, .*, got '1'"),
        ({"temperature": None}, "got None"),
        ({"top_k": 0}, r"\[sampler\] top_k is an integer, at least 1 \(None: all tokens\), got 0"),
        ({"top_k": 2.5}, r"\[sampler\] top_k is an integer, at least 1 \(None: all tokens\), got 2.5"),
        ({"seed": -1}, "a seed lies in"),
        ({"seed": 0.5}, "a seed is a whole number"),
    ):
        with pytest.raises(ArgumentError, match=message):
            text.Sampler(**named)
    sample = text.Sampler()
    for scores in ([], [[1.0]], [1.0, math.nan], [-math.inf, -math.inf], [0.0, math.inf]):
        with pytest.raises(ArgumentError, match=r"\[sampler\] scores are numbers"):
            sample(scores)
