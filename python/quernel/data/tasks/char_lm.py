"""Character language model: the next character of Python's reference manual.

The text is ``pydoc_data.topics``, about 465,000 characters in some eighty topics; every tenth topic is for testing. It
differs between versions of Python: compare only what ran on one. The score is the mean of -log2 of the probability
given to each character of the test part, in bits.

The net is trained on windows that overlap by half, each begun without memory, and tested on the test part in one piece, its
state carried through.
"""

from __future__ import annotations

import bz2
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quernel import models
from quernel.data.tasks.common import Split, stream
from quernel.data.tasks.experiment import Recipe, fit, fit_torch
from quernel.data.tasks.task import Task
from quernel.errors import UnsupportedError
from quernel.text import CharVocabulary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

WINDOW = 128  # characters of a window to train on
MEMORY = 1000  # characters before the test part that the net reads first
TEST_SHARE = 0.1
RECIPE = Recipe(optimizer="adamw", lr=6e-3, weight_decay=1e-2, batch_size=8, clip_norm=1.0)


@dataclass(frozen=True)
class Text:
    """The text as numbers.

    Attributes:
        vocabulary: the characters of the training part; any other is unknown, number 0.
        train, test: codes, topic after topic.
    """

    vocabulary: CharVocabulary
    train: NDArray[np.int64]
    test: NDArray[np.int64]

    def windows(self, length: int = WINDOW) -> Split:
        """Windows that overlap by half: x (N, length) int64, and y, the same a character later."""
        parts: list[Array] = []
        for codes in (self.train, self.test):
            pieces = np.lib.stride_tricks.sliding_window_view(codes, length + 1)[:: length // 2]
            parts += [np.ascontiguousarray(pieces[:, :-1]), np.ascontiguousarray(pieces[:, 1:])]
        return Split(*parts)

    @property
    def size(self) -> int:
        """Number of codes."""
        return len(self.vocabulary)


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
    vocabulary = CharVocabulary(sorted(set(train)), padding=None)
    if limit is not None:
        train, test = train[:limit], test[: limit // 10]
    return Text(vocabulary, vocabulary.encode(train), vocabulary.encode(test))


def _topics() -> dict[str, str]:
    try:
        texts: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise UnsupportedError("[char_lm] this Python comes without pydoc_data.topics") from error
    return texts


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


def _bz2_bits(text: Text) -> tuple[float, float]:
    """What bz2 needs per character of the whole text, and per character of the test part behind the training part."""
    both, alone = (
        len(bz2.compress(codes.astype(np.uint8).tobytes(), 9))
        for codes in (np.concatenate([text.train, text.test]), text.train)
    )
    return 8 * both / (len(text.train) + len(text.test)), 8 * (both - alone) / len(text.test)


def _baselines(text: Text) -> dict[str, float]:
    names = {1: "characters", 3: "3-grams", 5: "5-grams"}
    whole, behind = _bz2_bits(text)
    return {
        **{f"{name} (Witten-Bell)": ngram_bits(text, n) for n, name in names.items()},
        "bz2, whole text": whole,
        "bz2, test part behind the training part": behind,
    }


def _net() -> models.LSTMLanguageModel:
    return models.LSTMLanguageModel(load().size, embedding=32, hidden=320, dropout=0.3)


def net_bits(scores: Callable[[Array], Array], text: Text) -> float:
    """Bits per character of the test part, given what makes scores (1, T, size) of codes (1, T)."""
    codes = np.concatenate([text.train[-MEMORY:], text.test])
    count = len(text.test)
    given = scores(codes[None, :-1])[0, -count:].astype(np.float64)
    own = given[np.arange(count), text.test]
    top = given.max(1)
    return float((top + np.log(np.exp(given - top[:, None]).sum(1)) - own).mean() / math.log(2))


def _train(data: Text, engine: str, epochs: int, seed: int, verbose: str | int) -> float:
    windows = data.windows()
    if engine != "torch":
        net, _ = fit(_net, windows, RECIPE, epochs, seed, verbose, engine)
        return net_bits(net.predict, data)
    torch: Any = importlib.import_module("torch")
    twin, _ = fit_torch(_net, windows, RECIPE, epochs, seed, verbose)
    with torch.no_grad():
        return net_bits(lambda codes: twin.eval()(torch.from_numpy(codes)).numpy(), data)


def _plot(text: Text, figure: Figure) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    shown = text.vocabulary.decode(text.test[:1400])
    left.text(
        0, 1, shown.replace("$", r"\$"), va="top", family="monospace", fontsize=5, transform=left.transAxes
    )
    left.axis("off")
    lengths = range(1, 8)
    right.plot(lengths, [ngram_bits(text, n) for n in lengths], "o-", label="n-grams")
    right.axhline(_bz2_bits(text)[1], color="gray", label="bz2")
    right.set_xlabel("n")
    right.set_ylabel("bits per character")
    right.legend()


TASK = Task(
    name="char_lm",
    about="the next character of Python's reference manual: LSTM",
    score="bits per character",
    percent=False,
    load=lambda quick: load(limit=20_000 if quick else None),
    describe=lambda text: (
        f"{len(text.train):,} training and {len(text.test):,} test characters, {text.size} different ones"
    ),
    baselines=_baselines,
    net=_net,
    input_shape=(WINDOW,),
    epochs=8,
    train=_train,
    peers=("torch",),
    plot=_plot,
)
