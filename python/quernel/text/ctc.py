"""Decoding of what a net with `ops.ctc_loss` gives: which labels a sequence spells.

An alignment is a label or blank for each step; it spells what is left when repeats are merged and blanks removed. The greedy
decoder takes the likeliest alignment, the beam search looks for the likeliest labels, whose probability is that of all their
alignments together.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quernel.arrays import numbers_of
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.shapes import is_number, whole_number

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

LanguageModel = Callable[[tuple[int, ...], int], float]


class Hypothesis(NamedTuple):
    """Labels and the logarithm of their probability, language model included."""

    labels: list[int]
    score: float


def ctc_collapse(alignment: ArrayLike, blank: int = 0, shortest: int = 1) -> list[int]:
    """Returns what an alignment spells: runs of a label count once, blanks and runs below `shortest` steps not at all.

    Args:
        alignment: (T,), the class of each step.
        blank: the class of the blank.
        shortest: how many steps a label has at least.

    Raises:
        ArgumentError: The alignment has another shape, or a class below 0.
        DTypeError: Its classes are no whole numbers.

    Example:
        >>> qn.text.ctc_collapse([0, 3, 3, 0, 3, 7, 7, 0])
        [3, 3, 7]
    """
    classes = numbers_of("ctc_collapse", "alignment", alignment, whole=True)
    shortest = whole_number("ctc_collapse", "shortest", shortest)
    if classes.ndim != 1 or (classes.size and classes.min() < 0):
        raise ArgumentError(
            f"[ctc_collapse] alignment is (T,) classes from 0 on, got {classes.shape}"
            + (f" with {classes.min()}" if classes.size else "")
        )
    starts = np.flatnonzero(np.diff(classes, prepend=-1))
    lengths = np.diff(starts, append=len(classes))
    runs = zip(classes[starts], lengths, strict=True)
    return [int(label) for label, n in runs if label != blank and n >= shortest]


def ctc_greedy(log_probs: ArrayLike, lengths: ArrayLike | None = None, blank: int = 0) -> list[list[int]]:
    """Returns the labels of the likeliest alignment of each row.

    Args:
        log_probs: (N, T, classes), logarithms of probabilities, or any scores of that order.
        lengths: (N,), the steps of each row; None: all.
        blank: the class of the blank.

    Raises:
        ShapeError: ``log_probs`` or ``lengths`` have another shape.
        ArgumentError: A length is out of range, a number NaN, or there is no such class.
        DTypeError: ``log_probs`` are no numbers, or ``lengths`` no whole ones.

    Example:
        >>> scores = np.eye(3)[[1, 1, 0, 1, 2, 2]]      # 1 1 - 1 2 2
        >>> qn.text.ctc_greedy(scores[None])
        [[1, 1, 2]]
    """
    scores, steps = _checked("ctc_greedy", log_probs, lengths, blank)
    return [ctc_collapse(row[:n].argmax(1), blank) for row, n in zip(scores, steps, strict=True)]


def ctc_beam_search(
    log_probs: ArrayLike,
    lengths: ArrayLike | None = None,
    blank: int = 0,
    beam_width: int = 16,
    *,
    language_model: LanguageModel | None = None,
    weight: float = 1.0,
    bonus: float = 0.0,
) -> list[list[Hypothesis]]:
    """Returns the likeliest labels of each row, the best first, by prefix beam search (Hannun et al., arXiv 1408.2873).

    The score of labels is ``log P(labels | row) + weight * log P(labels) + bonus * len(labels)``; the last two are those of the
    language model.

    Args:
        log_probs: (N, T, classes), logarithms of probabilities, as from `ops.log_softmax`.
        lengths: (N,), the steps of each row; None: all.
        blank: the class of the blank.
        beam_width: how many prefixes are kept after each step.
        language_model: ``f(prefix, label)``, the logarithm of the probability that the label follows the prefix.
        weight: a factor for the language model; at 0 it is not asked.
        bonus: what each label is worth, to make up for the language model's liking of short texts.

    Returns:
        For each row at most `beam_width` hypotheses.

    Raises:
        ShapeError: ``log_probs`` or ``lengths`` have another shape.
        ArgumentError: A length or `beam_width` is out of range, a number NaN or inf, what the language model gives no logarithm of a
            probability, or there is no such class.
        DTypeError: ``log_probs`` are no numbers, or ``lengths`` no whole ones.

    Example:
        >>> log_probs = np.log([[[0.4, 0.35, 0.25], [0.4, 0.35, 0.25]]])    # greedily nothing, 0.16; but "1" has 0.4
        >>> best = qn.text.ctc_beam_search(log_probs)[0][0]
        >>> best.labels, round(float(np.exp(best.score)), 4)
        ([1], 0.4025)
    """
    beam_width = whole_number("ctc_beam_search", "beam_width", beam_width, 1)
    rows, steps = _checked("ctc_beam_search", log_probs, lengths, blank)
    if (above := np.isposinf(rows).any((1, 2))).any():
        raise ArgumentError(f"[ctc_beam_search] log_probs has inf in row {int(above.argmax())}")
    if language_model is not None and not callable(language_model):
        raise ArgumentError(
            f"[ctc_beam_search] language_model is a function f(prefix, label), got {type(language_model).__name__}"
        )
    for name, value in (("weight", weight), ("bonus", bonus)):
        if not is_number(value) or not np.isfinite(value):
            raise ArgumentError(f"[ctc_beam_search] {name} is a finite number, got {value!r}")

    def prior(prefix: tuple[int, ...], label: int) -> float:
        if language_model is None or weight == 0:
            return bonus
        return bonus + weight * _log_probability(language_model(prefix, label), prefix, label)

    return [_search(row[:n], blank, beam_width, prior) for row, n in zip(rows, steps, strict=True)]


def _search(row: NDArray[np.float64], blank: int, beam_width: int, prior: LanguageModel) -> list[Hypothesis]:
    """Prefixes are kept with two logarithms: of alignments that end in a blank, and of those that end in the last label."""
    # What falls out of the beam comes back at the next step.
    prior = functools.lru_cache(maxsize=1 << 16)(prior)
    beam: dict[tuple[int, ...], list[float]] = {(): [0.0, -np.inf]}
    ratings: dict[tuple[int, ...], float] = {(): 0.0}
    for emitted in row:
        after: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [-np.inf, -np.inf])
        likely = [int(c) for c in np.flatnonzero(emitted > -np.inf) if c != blank]
        for labels, (ends_blank, ends_label) in beam.items():
            total = np.logaddexp(ends_blank, ends_label)
            same = after[labels]
            same[0] = np.logaddexp(same[0], total + emitted[blank])
            if labels:
                same[1] = np.logaddexp(same[1], ends_label + emitted[labels[-1]])
            for c in likely:
                longer = after[(*labels, c)]
                begun = ends_blank if labels and labels[-1] == c else total  # a repeat needs a blank between
                longer[1] = np.logaddexp(longer[1], begun + emitted[c])
                ratings.setdefault((*labels, c), ratings[labels] + prior(labels, c))
        scores = {labels: _score(p, ratings[labels]) for labels, p in after.items() if max(p) > -np.inf}
        best = sorted(scores, key=lambda labels: (-scores[labels], labels))[:beam_width]
        beam = {labels: after[labels] for labels in best}
        ratings = {labels: ratings[labels] for labels in best}
    return [Hypothesis(list(labels), _score(p, ratings[labels])) for labels, p in beam.items()]


def _log_probability(given: Any, prefix: tuple[int, ...], label: int) -> float:
    """What a language model has said, if it can be the logarithm of a probability."""
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = np.nan
    if not value < np.inf:
        raise ArgumentError(
            f"[ctc_beam_search] language_model gives the logarithm of a probability, got {given!r} for label {label} after {prefix}"
        )
    return value


def _score(ends: list[float], rating: float) -> float:
    return float(np.logaddexp(ends[0], ends[1])) + rating


def edit_distance(found: Sequence[Any], wanted: Sequence[Any]) -> int:
    """Returns the least number of insertions, deletions and replacements between two sequences (Levenshtein 1966).

    Args:
        found: texts, lists or arrays; what they hold is compared with !=.
        wanted: Likewise.

    Raises:
        ArgumentError: One of them is no sequence.

    Example:
        >>> qn.text.edit_distance("kitten", "sitting")
        3
    """
    ours, theirs = _items(found), _items(wanted)
    row = list(range(len(theirs) + 1))
    for i, item in enumerate(ours, start=1):
        above, row[0] = row[0], i
        for j, other in enumerate(theirs, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (item != other))
    return row[-1]


def _items(sequence: Any) -> list[Any]:
    values = sequence.tolist() if hasattr(sequence, "tolist") else sequence
    try:
        return list(values)
    except TypeError:
        raise ArgumentError(f"[edit_distance] expects two sequences, got {sequence!r}") from None


def _checked(
    name: str, log_probs: ArrayLike, lengths: ArrayLike | None, blank: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    scores = numbers_of(name, "log_probs", log_probs).astype(np.float64)
    if scores.ndim != 3:
        raise ShapeError(f"[{name}] log_probs is (N, T, classes), got {scores.shape}")
    n, steps, classes = scores.shape
    if not 0 <= whole_number(name, "blank", blank, None) < classes:
        raise ArgumentError(
            f"[{name}] blank is one of the {classes} classes, 0 to {classes - 1}, got {blank}"
        )
    counts = np.full(n, steps) if lengths is None else numbers_of(name, "lengths", lengths, whole=True)
    if counts.shape != (n,):
        raise ShapeError(f"[{name}] lengths has shape {counts.shape}, expected (N,) = ({n},)")
    if np.isnan(scores).any():
        raise ArgumentError(f"[{name}] log_probs has NaN in row {int(np.isnan(scores).any((1, 2)).argmax())}")
    if n and not (counts.min() >= 0 and counts.max() <= steps):
        raise ArgumentError(f"[{name}] lengths are 0 to {steps}, the number of steps, got {counts.tolist()}")
    return scores, counts.astype(np.int64)
