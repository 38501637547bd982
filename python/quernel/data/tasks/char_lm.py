"""Character language model: the next character of Python's reference manual.

The text is ``pydoc_data.topics``, about 465,000 characters in some eighty topics; every tenth topic is for testing. It
differs between versions of Python: compare only what ran on one. The score is the mean of -log2 of the probability
given to each character of the test part, in bits.
"""

from __future__ import annotations

import bz2
import importlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quernel import nn
from quernel.data.tasks.common import Split, stream
from quernel.data.tasks.experiment import Recipe, fit, fit_torch
from quernel.data.tasks.task import Task
from quernel.errors import UnsupportedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

CONTEXT = 16  # characters that the net sees
TEST_SHARE = 0.1
RECIPE = Recipe(optimizer="adamw", lr=3e-3, weight_decay=1e-2, batch_size=256)


@dataclass(frozen=True)
class Text:
    """The text as numbers.

    Attributes:
        alphabet: its characters; the code of one is its place, that of any other is one more than the last.
        train, test: codes, topic after topic.
    """

    alphabet: str
    train: NDArray[np.int64]
    test: NDArray[np.int64]

    def windows(self, context: int = CONTEXT) -> Split:
        """Every character with the `context` ones before it: x (N, context) int64, y (N,) int64."""
        parts: list[Array] = []
        for codes in (self.train, self.test):
            seen = np.lib.stride_tricks.sliding_window_view(codes[:-1], context)
            parts += [np.ascontiguousarray(seen), codes[context:]]
        return Split(*parts)

    @property
    def size(self) -> int:
        """Number of codes."""
        return len(self.alphabet) + 1


def topics(seed: int = 0) -> tuple[list[str], list[str]]:
    """Names of the topics for training and for testing.

    Raises:
        UnsupportedError: this Python comes without ``pydoc_data``.
    """
    names = sorted(_topics())
    order = stream("char_lm", seed).permutation(len(names))
    test = {names[i] for i in order[: max(1, round(TEST_SHARE * len(names)))]}
    return [name for name in names if name not in test], sorted(test)


def load(seed: int = 0, limit: int | None = None) -> Text:
    """The text; `limit` keeps so many characters of the training part, and a tenth of it of the test part."""
    texts = _topics()
    train, test = ("".join(texts[name] for name in names) for names in topics(seed))
    alphabet = "".join(sorted(set(train)))
    if limit is not None:
        train, test = train[:limit], test[: limit // 10]
    return Text(alphabet, _codes(train, alphabet), _codes(test, alphabet))


def _topics() -> dict[str, str]:
    try:
        texts: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise UnsupportedError("[char_lm] this Python comes without pydoc_data.topics") from error
    return texts


def _codes(text: str, alphabet: str) -> NDArray[np.int64]:
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    known = np.frombuffer(alphabet.encode("utf-32-le"), np.uint32)
    codes = np.searchsorted(known, points)
    return np.where(np.isin(points, known), codes, len(known)).astype(np.int64)


# ---- the task -------------------------------------------------------------------------------------------------------


def ngram_bits(text: Text, longest: int) -> float:
    """Bits per character of a model of up to `longest` characters, each length interpolated with the next shorter one.

    p(c | h) = (count(h c) + T(h) · p(c | h')) / (count(h) + T(h)), h' being h without its first character and T(h) the
    number of different characters seen after h (Witten and Bell 1991); below all, every character is as likely.
    """
    train, test, size = text.train, text.test, text.size
    chance = np.full(len(test), 1 / size)
    for order in range(longest):
        after, after_test = (_grams(codes, order + 1, size) for codes in (train, test))
        before, before_test = after // size, after_test // size
        pairs, pair_counts = np.unique(after, return_counts=True)
        contexts, context_counts = np.unique(before, return_counts=True)
        kinds = np.bincount(np.searchsorted(contexts, pairs // size), minlength=len(contexts))
        count = _lookup(pairs, pair_counts, after_test)
        total, different = (_lookup(contexts, table, before_test) for table in (context_counts, kinds))
        mixed = (count + different * chance[order:]) / np.maximum(total + different, 1)
        chance[order:] = np.where(total > 0, mixed, chance[order:])
    return float(-np.log2(chance).mean())


def _grams(codes: Array, n: int, size: int) -> Array:
    """Every run of n codes as one number, the first one being the most significant."""
    if size**n >= 2**63:
        raise OverflowError(f"runs of {n} of {size} codes do not fit 64 bits")
    grams = np.zeros(len(codes) - n + 1, np.int64)
    for offset in range(n):
        grams = grams * size + codes[offset : len(codes) - n + 1 + offset]
    return grams


def _lookup(keys: Array, values: Array, wanted: Array) -> Array:
    """The value of each wanted key; 0 for keys that are not there."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: Array = np.where(keys[at] == wanted, values[at], 0)
    return found


def _bz2_bits(text: Text) -> float:
    """What bz2 needs for the test part, per character, when it has seen the training part."""
    both, alone = (
        len(bz2.compress(codes.astype(np.uint8).tobytes(), 9))
        for codes in (np.concatenate([text.train, text.test]), text.train)
    )
    return 8 * (both - alone) / len(text.test)


def _baselines(text: Text) -> dict[str, float]:
    names = {1: "characters", 3: "3-grams", 5: "5-grams"}
    return {
        **{f"{name} (Witten-Bell)": ngram_bits(text, n) for n, name in names.items()},
        "bz2 after the training part": _bz2_bits(text),
    }


def _net() -> nn.Module:
    size = load().size
    return nn.Sequential(
        *(nn.Embedding(size, 24), nn.Flatten(), nn.Dropout(0.1)),
        *(nn.Linear(CONTEXT * 24, 512), nn.ReLU(), nn.Dropout(0.4), nn.Linear(512, size)),
    )


def _train(data: Text, engine: str, epochs: int, seed: int, verbose: str | int) -> float:
    windows = data.windows()
    if engine == "torch":
        return fit_torch(_net, windows, RECIPE, epochs, seed, verbose)["loss"] / math.log(2)
    return fit(_net, windows, RECIPE, epochs, seed, verbose, engine)[1]["loss"] / math.log(2)


def _plot(text: Text, figure: Figure) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    shown = "".join((text.alphabet + "?")[code] for code in text.test[:1400])
    left.text(
        0, 1, shown.replace("$", r"\$"), va="top", family="monospace", fontsize=5, transform=left.transAxes
    )
    left.axis("off")
    lengths = range(1, 8)
    right.plot(lengths, [ngram_bits(text, n) for n in lengths], "o-", label="n-grams")
    right.axhline(_bz2_bits(text), color="gray", label="bz2")
    right.set_xlabel("n")
    right.set_ylabel("bits per character")
    right.legend()


TASK = Task(
    name="char_lm",
    about=f"the next character of Python's reference manual: MLP over the last {CONTEXT}",
    score="bits per character",
    percent=False,
    load=lambda quick: load(limit=20_000 if quick else None),
    describe=lambda text: (
        f"{len(text.train):,} training and {len(text.test):,} test characters, {text.size} different ones"
    ),
    baselines=_baselines,
    net=_net,
    input_shape=(CONTEXT,),
    epochs=4,
    train=_train,
    peers=("torch",),
    plot=_plot,
)
