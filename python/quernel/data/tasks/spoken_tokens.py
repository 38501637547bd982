"""Spoken tokens: three to six words of synthetic speech, to be written down without knowing where each begins.

Ten words of two or three of nine phonemes (see `speech`), by a new speaker in every utterance: pitch 90 to 240 Hz,
vocal tract 0.85 to 1.18 as long, rate 0.75 to 1.3, coloured noise from 5 dB below the speech to 5 dB above it. The
front end gives about 68 frames of 32 log-mel bands. The targets are those of connectionist temporal classification
(Graves et al. 2006): words from 1 on, 0 being the blank.

The sources are speakers: each speaks one utterance, from a random stream of its own. The baseline labels single frames,
for which it needs to know where the words are; runs of a label are then collapsed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import quernel as qn
from quernel.data.tasks import transcription
from quernel.data.tasks.baselines import logistic_regression
from quernel.data.tasks.common import cached, stream
from quernel.data.tasks.speech import BANDS, HOP, PHONEMES, WINDOW, front_end, speak
from quernel.data.tasks.task import Task
from quernel.models.acoustic import AcousticModel
from quernel.text import ctc_collapse, edit_distance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

VERSION = 2  # of the recipe
TRAIN, TEST = 4000, 400
WORDS = ("si", "fa", "nu", "eso", "afi", "ona", "ris", "ufe", "an", "isu")
FEWEST, MOST = 3, 6  # words of an utterance
CONTEXT = 7  # frames on each side that the classifier of single frames sees
FRAMES = 20_000  # that it is trained on


@dataclass(frozen=True)
class Utterances:
    """Utterances, filled up to one length.

    Attributes:
        x: (N, T, 32) float32, log-mel frames; 0 after the last.
        frames: (N,) int64, how many frames each has.
        y: (N, 6) int64, words from 1 on; 0 after the last.
        words: (N,) int64, how many words each has.
        aligned: (N, T) int64, the word that sounds in a frame, 0 in pauses; no part of the task, but of its baselines.
    """

    x: Array
    frames: Array
    y: Array
    words: Array
    aligned: Array


@dataclass(frozen=True)
class Speech:
    """Utterances to train on and to test on."""

    train: Utterances
    test: Utterances


def load(train: int = TRAIN, test: int = TEST, seed: int = 0) -> Speech:
    """Makes the utterances, or reads them from the cache (some 15 seconds, 50 MB for the default sizes)."""

    def make() -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        for part, count in (("train", train), ("test", test)):
            made = [utterance(stream("spoken_tokens", seed, part, i)) for i in range(count)]
            arrays |= {f"{part}.{name}": array for name, array in _stacked(made).items()}
        return arrays

    arrays = cached(f"spoken_tokens-v{VERSION}-{train}-{test}-{seed}", make)
    parts = [
        Utterances(**{name.split(".")[1]: array for name, array in arrays.items() if name.startswith(part)})
        for part in ("train.", "test.")
    ]
    return Speech(*parts)


_front_end = functools.cache(front_end)  # its tables are made once, when the first frames are


def utterance(random: np.random.RandomState) -> tuple[NDArray[np.float32], Array, Array]:
    """One utterance: frames (T, 32), its words from 1 on, and the word of every frame, 0 in pauses."""
    words = random.randint(len(WORDS), size=random.randint(FEWEST, MOST + 1))
    names = list(PHONEMES)
    wave, owner = speak(random, [[names.index(p) for p in WORDS[w]] for w in words])
    frames = _front_end()(wave[None]).numpy()[0]
    middles = owner[np.arange(len(frames)) * HOP + WINDOW // 2]
    return frames, words + 1, np.concatenate([[0], words + 1])[middles]


def _stacked(made: list[tuple[Array, Array, Array]]) -> dict[str, Array]:
    longest = max((len(frames) for frames, _, _ in made), default=0)
    x = np.zeros((len(made), longest, BANDS), np.float32)
    y, aligned = np.zeros((len(made), MOST), np.int64), np.zeros((len(made), longest), np.int64)
    for i, (frames, words, owner) in enumerate(made):
        x[i, : len(frames)], y[i, : len(words)], aligned[i, : len(frames)] = frames, words, owner
    counts = {"frames": [len(frames) for frames, _, _ in made], "words": [len(words) for _, words, _ in made]}
    return {"x": x, "y": y, "aligned": aligned, **{k: np.array(v, np.int64) for k, v in counts.items()}}


# ---- the task -------------------------------------------------------------------------------------------------------


def word_errors(heard: Sequence[list[int]], part: Utterances) -> float:
    """Errors per word: insertions, deletions and replacements."""
    wanted = [y[:n].tolist() for y, n in zip(part.y, part.words, strict=True)]
    return sum(map(edit_distance, heard, wanted)) / int(part.words.sum())


def token_error(part: Utterances, label: Callable[[Array], Array], shortest: int = 4) -> float:
    """Errors per word when `label` names the word of every frame, given the frames with their neighbours."""
    pairs = zip(part.x, part.frames, strict=True)
    return word_errors(
        [ctc_collapse(label(_with_neighbours(x[:n])), shortest=shortest) for x, n in pairs], part
    )


def _with_neighbours(frames: Array) -> Array:
    """Frames (T, 32) -> (T, 15·32), each with seven on both sides."""
    padded = np.pad(frames, ((CONTEXT, CONTEXT), (0, 0)))
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * CONTEXT + 1, axis=0)
    return around.reshape(len(frames), -1) / np.float32(4)


def _frames(part: Utterances, limit: int) -> tuple[Array, Array]:
    """Single frames with their neighbours, and their words."""
    x: list[Array] = []
    y: list[Array] = []
    for i in range(len(part.x)):
        if sum(map(len, y)) >= limit:
            break
        count = int(part.frames[i])
        x.append(_with_neighbours(part.x[i, :count]))
        y.append(part.aligned[i, :count])
    return np.concatenate(x)[:limit], np.concatenate(y)[:limit]


def _baseline(data: Speech) -> dict[str, float]:
    weight, bias = logistic_regression(*_frames(data.train, FRAMES))
    error = token_error(data.test, lambda x: (x @ weight + bias).argmax(1))
    return {"frame by frame (logistic regression)": error}


def _net() -> AcousticModel:
    return AcousticModel(len(WORDS), BANDS)


def _train(data: Speech, engine: str, epochs: int, seed: int, verbose: str | int) -> float:
    qn.seed(seed)
    net = _net()
    if engine == "torch":
        return word_errors(transcription.train_torch(net, data, epochs, seed, verbose), data.test)
    return word_errors(transcription.train(net, data, epochs, verbose, engine), data.test)


def _plot(data: Speech, figure: Figure) -> None:
    for i, axes in enumerate(figure.subplots(4, 1)):
        count, words = data.train.frames[i], data.train.words[i]
        axes.imshow(data.train.x[i, :count].T, aspect="auto", origin="lower")
        axes.step(range(count), data.train.aligned[i, :count] * 3, color="white", where="mid", linewidth=0.8)
        axes.set_title(" ".join(WORDS[w - 1] for w in data.train.y[i, :words]), fontsize=9)
        axes.set_ylabel("band")
    axes.set_xlabel("frame")


def _describe(data: Speech) -> str:
    sizes = f"{len(data.train.x):,} training and {len(data.test.x):,} test utterances"
    return f"{sizes}, {data.train.frames.mean():.0f} frames on average, {len(WORDS)} words"


TASK = Task(
    name="spoken_tokens",
    about="the words of a synthetic utterance: bidirectional LSTM with CTC",
    score="token error",
    percent=True,
    load=lambda quick: load(200, 50) if quick else load(),
    describe=_describe,
    baselines=_baseline,
    net=_net,
    input_shape=(68, BANDS),
    epochs=10,
    train=_train,
    peers=("torch",),
    plot=_plot,
)
