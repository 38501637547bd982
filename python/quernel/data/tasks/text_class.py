"""Text class: which of eight packages of Python's standard library 200 characters are from.

Windows of source text, drawn at random from the files of a package; files are split into a training and a test part
first. The library's text differs between versions of Python: compare only what ran on one.

The files of a package differ more from each other than windows of a file do: what a net has learnt by heart helps it little.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quernel import nn
from quernel.data.tasks.baselines import logistic_regression
from quernel.data.tasks.common import Split, stream
from quernel.data.tasks.experiment import Recipe, fit, fit_torch
from quernel.data.tasks.task import Task
from quernel.errors import UnsupportedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

PACKAGES = ("asyncio", "email", "http", "xml", "multiprocessing", "importlib", "logging", "urllib")
LENGTH = 200
ALPHABET = 128  # codes of ASCII; any other character is the last one
TRAIN, TEST = 16_000, 2000
BITS = 12  # of hashed n-grams, for the baseline
NET_BITS, NET_LENGTHS = 15, (2, 3, 4, 5)  # of those that the net sees
RECIPE = Recipe(optimizer="adamw", lr=3e-3, weight_decay=0.1, batch_size=64)


def files(seed: int = 0, test_share: float = 0.3) -> dict[str, tuple[list[Path], list[Path]]]:
    """Source files for training and for testing, of every package.

    Files go into the test part, in random order, as long as it stays within a share of the package's characters, so that
    one of three long files is not half of the text.
    """
    chosen = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UnsupportedError(
                f"[text_class] the standard library's package {package} has no source files here"
            )
        folder = Path(spec.submodule_search_locations[0])
        sizes = {
            path: path.stat().st_size
            for path in sorted(folder.rglob("*.py"))
            if path.stat().st_size >= LENGTH
        }
        order = stream("text_class", seed, package).permutation(len(sizes))
        paths, room = list(sizes), test_share * sum(sizes.values())
        test: list[Path] = []
        for i in order:
            if sizes[paths[i]] <= room:
                test.append(paths[i])
                room -= sizes[paths[i]]
        test = test or [min(sizes, key=lambda path: sizes[path])]
        chosen[package] = [path for path in paths if path not in test], sorted(test)
    return chosen


def load(train: int = TRAIN, test: int = TEST, seed: int = 0) -> Split:
    """Draws the windows, as many of each package.

    Returns:
        x (N, 200) int64, codes of characters, and y (N,) int64, the package; sample i is from package i % 8.
    """
    chosen = files(seed)
    arrays: list[Array] = []
    for part, count in enumerate((train, test)):
        random = stream("text_class", seed, "windows", part)
        x = np.empty((count, LENGTH), np.int64)
        for label, package in enumerate(PACKAGES):
            rows = range(label, count, len(PACKAGES))
            x[rows] = _windows(random, [_codes(path) for path in chosen[package][part]], len(rows))
        arrays += [x, np.arange(count) % len(PACKAGES)]
    return Split(*arrays)


def _codes(path: Path) -> NDArray[np.int64]:
    """A file's characters as numbers below 128."""
    text = path.read_text(encoding="utf-8")
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64)
    return np.minimum(codes, ALPHABET - 1)


def _windows(random: np.random.RandomState, texts: list[Array], count: int) -> Array:
    """Windows (count, 200), none over the end of a text, every place being as likely as any other."""
    room = np.array([max(len(text) - LENGTH + 1, 0) for text in texts])
    ends = np.cumsum(room)
    place = (random.uniform(size=count) * ends[-1]).astype(np.int64)
    which = np.searchsorted(ends, place, side="right")
    start = place - (ends - room)[which]
    return np.stack([texts[i][j : j + LENGTH] for i, j in zip(which, start, strict=True)])


# ---- the task -------------------------------------------------------------------------------------------------------


def hashed(x: Array, n: int, bits: int) -> NDArray[np.int32]:
    """The runs of n characters of windows (N, 200) as numbers of so many bits, (N, 201 - n)."""
    code = np.full((len(x), LENGTH - n + 1), n, np.uint64)
    for offset in range(n):
        code = code * np.uint64(ALPHABET) + x[:, offset : LENGTH - n + 1 + offset].astype(np.uint64)
    spread = code * np.uint64(11400714819323198485)  # by the golden ratio (Knuth)
    return (spread >> np.uint64(64 - bits)).astype(np.int32)


def ngrams(x: Array, longest: int) -> NDArray[np.float32]:
    """Square roots of the counts of a window's n-grams of 1 to `longest` characters, hashed into 4096 columns."""
    counts = np.zeros((len(x), 1 << BITS), np.float32)
    rows = np.arange(len(x))[:, None]
    for n in range(1, longest + 1):
        np.add.at(counts, (rows, hashed(x, n, BITS)), 1)
    return np.sqrt(counts)


def _accuracy(data: Split, longest: int) -> float:
    """Of logistic regression on n-grams; the rarer one is, the more it counts (tf-idf), but for single characters."""
    x, x_test = ngrams(data.x, longest), ngrams(data.x_test, longest)
    known = (x > 0).sum(0)
    used = known > 0
    scale = np.log(len(x) / (1 + known[used])) / 3 if longest > 1 else np.ones(used.sum())
    x, x_test = (part[:, used] * scale.astype(np.float32) for part in (x, x_test))
    weight, bias = logistic_regression(x, data.y, 400 if longest == 1 else 100, penalty=1e-3)
    return float(((x_test @ weight + bias).argmax(1) == data.y_test).mean())


def _baselines(data: Split) -> dict[str, float]:
    return {
        "characters (logistic regression)": _accuracy(data, 1),
        "1-3-grams (logistic regression)": _accuracy(data, 3),
    }


def _describe(data: Split) -> str:
    sizes = f"{len(data.x):,} training and {len(data.x_test):,} test windows"
    return f"{sizes} of {LENGTH} characters, {len(PACKAGES)} packages"


def _net() -> nn.Module:
    """The mean of the vectors of a window's n-grams (Joulin et al., arXiv 1607.01759), most of them left out in training."""
    table = nn.Embedding(1 << NET_BITS, 32)
    nn.init.normal_(table.weight, 0.0, 0.1)
    return nn.Sequential(
        *(table, nn.Dropout(0.8), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        *(nn.LayerNorm(32), nn.Dropout(0.5), nn.Linear(32, len(PACKAGES))),
    )


def _train(data: Split, engine: str, epochs: int, seed: int, verbose: str | int) -> float:
    x, x_test = (
        np.concatenate([hashed(part, n, NET_BITS) for n in NET_LENGTHS], 1) for part in (data.x, data.x_test)
    )
    seen = Split(x, data.y, x_test, data.y_test)
    if engine == "torch":
        return fit_torch(_net, seen, RECIPE, epochs, seed, verbose)[1]["accuracy"]
    return fit(_net, seen, RECIPE, epochs, seed, verbose, engine)[1]["accuracy"]


def _plot(data: Split, figure: Figure) -> None:
    for i, axes in enumerate(figure.subplots(2, 4).flat):
        text = "".join(map(chr, data.x[i]))
        lines = [line[:44] for line in text.replace("$", r"\$").split("\n")[:12]]
        axes.text(0, 1, "\n".join(lines), va="top", family="monospace", fontsize=5, transform=axes.transAxes)
        axes.set_title(PACKAGES[data.y[i]], fontsize=8)
        axes.axis("off")


TASK = Task(
    name="text_class",
    about="which package of the standard library 200 characters are from: bag of n-grams",
    score="accuracy",
    percent=True,
    load=lambda quick: load(800, 400) if quick else load(),
    describe=lambda data: (
        f"{len(data.x):,} training and {len(data.x_test):,} test windows of {LENGTH} characters, {len(PACKAGES)} packages"
    ),
    baselines=_baselines,
    net=_net,
    input_shape=(sum(LENGTH - n + 1 for n in NET_LENGTHS),),
    epochs=5,
    train=_train,
    peers=("torch",),
    plot=_plot,
)
