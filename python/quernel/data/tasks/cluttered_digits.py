"""Cluttered digits: 32 x 32 colour images of one handwritten digit among parts of others, ten classes.

The sources are scikit-learn's 1797 digits of 8 x 8 pixels; 1200 of them make the training images, the other 597 the
test images. An image is composed of

1. a background: one random base colour (0.3 to 0.7 per channel) plus coloured noise, 1/f^1.6 in space, correlated 0.6
   between channels, standard deviation 0.07;
2. three distractors: digits turned by up to 1.5 rad, enlarged 1.6 to 2.8 times, centred 13 to 18 pixels from the
   middle;
3. the labelled digit: turned by up to 0.5 rad, sheared by up to 0.3, its aspect changed by exp(+-0.2), enlarged 1.7 to
   2.9 times, centred up to 3 pixels from the middle;
4. noise of every pixel, standard deviation 0.04; clipped to 0..1 and rounded to 8 bits.

The ink of a digit is the base colour plus or minus a contrast of 0.28 to 0.55, each channel up to 0.15 off, with an
opacity of 0.75 to 1. Pixels are interpolated bilinearly. A linear model is no better than chance: the sign of the
contrast is random.

ResNet-8 after 8 epochs of SGD with Nesterov's momentum 0.9, batches of 128, weight decay 5e-4 and a one-cycle rate of at
most 0.1: 87.64, 87.37 and 87.78 % (seeds 0 to 2), PyTorch's from the same weights 88.13, 87.99 and 88.21 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quernel.data.digits import load_digits
from quernel.data.tasks.baselines import linear_accuracy
from quernel.data.tasks.common import Split, cached, stream
from quernel.data.tasks.experiment import Recipe, fit, fit_torch
from quernel.data.tasks.task import Task
from quernel.models.resnet import resnet8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERSION = 1  # of the recipe; a cached set of another version is not read
SIZE = 32
CLASSES = 10
TRAIN_SOURCES = 1200
TRAIN, TEST = 20_000, 10_000
_CHUNK = 500  # images made at once; each chunk has a random stream of its own
_DISTRACTORS = 3

Array = NDArray[Any]


def sources(seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the digits that make training images, and of those that make test images."""
    order = stream("cluttered_digits", seed, "sources").permutation(len(load_digits()[0]))
    return order[:TRAIN_SOURCES], order[TRAIN_SOURCES:]


def load(train: int = TRAIN, test: int = TEST, seed: int = 0) -> Split:
    """Makes the images, or reads them from the cache (some 20 seconds, 92 MB for the default sizes).

    Args:
        train: number of training images. The first ones of a larger set are those of a smaller one.
        test: number of test images.
        seed: the images depend on it, on the recipe and on nothing else.

    Returns:
        x (N, 32, 32, 3) float32 from 0 to 1, and y (N) int64; class c has every tenth image, from the c-th on.

    Raises:
        UnsupportedError: scikit-learn, which has the digits, is not installed.
    """

    def make() -> dict[str, Array]:
        parts = zip(("train", "test"), (train, test), sources(seed), strict=True)
        return {name: synthesize(count, chosen, seed, name) for name, count, chosen in parts}

    images = cached(f"cluttered_digits-v{VERSION}-{train}-{test}-{seed}", make)
    return Split(
        *(_scaled(images["train"]), np.arange(train) % CLASSES),
        *(_scaled(images["test"]), np.arange(test) % CLASSES),
    )


def _scaled(images: Array) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = images.astype(np.float32)
    scaled /= np.float32(255)
    return scaled


def synthesize(count: int, chosen: NDArray[np.int64], seed: int, part: str) -> NDArray[np.uint8]:
    """`count` images (count, 32, 32, 3) of the digits at the positions `chosen`; image i shows an i % 10."""
    digits, labels = load_digits()
    glyphs = np.pad(digits[chosen, :, :, 0], ((0, 0), (1, 1), (1, 1)))  # so that interpolation fades out
    by_class = [np.flatnonzero(labels[chosen] == c) for c in range(CLASSES)]
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for begin in range(0, count, _CHUNK):
        random = stream("cluttered_digits", seed, part, begin // _CHUNK)
        made = _chunk(random, glyphs, by_class)
        images[begin : begin + _CHUNK] = made[: count - begin]
    return images


def _chunk(random: np.random.RandomState, glyphs: Array, by_class: list[Array]) -> NDArray[np.uint8]:
    n = _CHUNK
    base = random.uniform(0.3, 0.7, (n, 1, 1, 3))
    image = base + _coloured_noise(random, n)
    for _ in range(_DISTRACTORS):
        angle, direction = random.uniform(-1.5, 1.5, n), random.uniform(0, 2 * np.pi, n)
        zoom, distance = random.uniform(1.6, 2.8, n), random.uniform(13, 18, n)
        centre = distance[:, None] * np.stack([np.sin(direction), np.cos(direction)], 1)
        which = random.randint(len(glyphs), size=n)
        image = _inked(random, image, base, _drawn(glyphs[which], _matrices(angle, zoom), centre))
    image = with_labelled_digit(random, image, base, glyphs, by_class)
    image += random.normal(0, 0.04, image.shape)
    levels: NDArray[np.uint8] = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return levels


def with_labelled_digit(
    random: np.random.RandomState, image: Array, base: Array, glyphs: Array, by_class: list[Array]
) -> Array:
    """The images (n, 32, 32, 3) with a digit near the middle, image i with an i % 10; n is a multiple of 10."""
    n = len(image)
    angle, shear = random.uniform(-0.5, 0.5, n), random.uniform(-0.3, 0.3, n)
    aspect, zoom = np.exp(random.uniform(-0.2, 0.2, n)), random.uniform(1.7, 2.9, n)
    centre = random.uniform(-3, 3, (n, 2))
    draws = random.uniform(0, 1, n)
    which = np.array(
        [own[int(u * len(own))] for u, own in zip(draws, by_class * (n // CLASSES), strict=True)]
    )
    return _inked(random, image, base, _drawn(glyphs[which], _matrices(angle, zoom, shear, aspect), centre))


def _coloured_noise(random: np.random.RandomState, n: int) -> Array:
    """Noise (n, 32, 32, 3) whose power falls with 1/f^1.6, standard deviation 0.07, channels correlated 0.6."""
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None, :])
    frequency[0, 0] = np.inf  # no constant part: that is the base colour
    white = random.normal(size=(n, 4, SIZE, SIZE))
    noise = np.fft.irfft2(np.fft.rfft2(white) * frequency**-0.8, s=(SIZE, SIZE))
    noise /= noise.std()
    mixed = np.sqrt(0.6) * noise[:, 3:] + np.sqrt(0.4) * noise[:, :3]
    coloured: Array = 0.07 * mixed.transpose(0, 2, 3, 1)
    return coloured


def _matrices(angle: Array, zoom: Array, shear: Array | float = 0.0, aspect: Array | float = 1.0) -> Array:
    """Matrices (n, 2, 2) that take (row, column) in the image to (row, column) in the glyph."""
    cos, sin = np.cos(angle), np.sin(angle)
    high, wide = zoom * np.sqrt(aspect), zoom / np.sqrt(aspect)
    rows = [(cos / high, -sin / high), (sin / wide - shear * cos / high, cos / wide + shear * sin / high)]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def _drawn(glyphs: Array, matrices: Array, centre: Array) -> Array:
    """Glyphs (n, 10, 10) seen through the matrices, their middles at `centre` from the image's: (n, 32, 32)."""
    n, side = len(glyphs), glyphs.shape[1]
    middle = (SIZE - 1) / 2
    grid = np.arange(SIZE) - middle
    rows = grid[None, :, None] - centre[:, 0, None, None]
    columns = grid[None, None, :] - centre[:, 1, None, None]
    m = matrices[:, :, :, None, None]
    row = np.clip(m[:, 0, 0] * rows + m[:, 0, 1] * columns + (side - 1) / 2, 0, side - 1)
    column = np.clip(m[:, 1, 0] * rows + m[:, 1, 1] * columns + (side - 1) / 2, 0, side - 1)
    top, left = (np.minimum(v.astype(np.int64), side - 2) for v in (row, column))
    down, right = row - top, column - left
    flat, at = glyphs.reshape(-1), (np.arange(n) * side * side)[:, None, None] + top * side + left
    upper = flat[at] * (1 - right) + flat[at + 1] * right
    lower = flat[at + side] * (1 - right) + flat[at + side + 1] * right
    drawn: Array = upper * (1 - down) + lower * down
    return drawn


def _inked(random: np.random.RandomState, image: Array, base: Array, shape: Array) -> Array:
    """The image with one more digit, whose ink differs from the base colour."""
    n = len(image)
    sign = np.where(random.uniform(size=(n, 1, 1, 1)) < 0.5, -1.0, 1.0)
    contrast = sign * random.uniform(0.28, 0.55, (n, 1, 1, 1)) + random.uniform(-0.15, 0.15, (n, 1, 1, 3))
    cover = shape[..., None] * random.uniform(0.75, 1, (n, 1, 1, 1))
    blended: Array = image + cover * (np.clip(base + contrast, 0, 1) - image)
    return blended


# ---- the task -------------------------------------------------------------------------------------------------------

RECIPE = Recipe(optimizer="sgd", lr=0.1, weight_decay=5e-4, batch_size=128)


def _load(quick: bool) -> Split:
    return load(1000, 500) if quick else load()


def _describe(data: Split) -> str:
    return f"{len(data.x):,} training and {len(data.x_test):,} test images, 32 x 32 x 3, {CLASSES} classes"


def _train(data: Split, engine: str, epochs: int, seed: int, verbose: str | int) -> float:
    if engine == "torch":
        return fit_torch(resnet8, data, RECIPE, epochs, seed, verbose)[1]["accuracy"]
    return fit(resnet8, data, RECIPE, epochs, seed, verbose, engine)[1]["accuracy"]


def _plot(data: Split, figure: Figure) -> None:
    for i, axes in enumerate(figure.subplots(4, 10).flat):
        axes.imshow(data.x[i])
        axes.set_title(str(data.y[i]), fontsize=8, pad=2)
        axes.axis("off")


TASK = Task(
    name="cluttered_digits",
    about="one handwritten digit among parts of others, on coloured noise: ResNet-8",
    score="accuracy",
    percent=True,
    load=_load,
    describe=_describe,
    baselines=lambda data: {"linear (logistic regression)": linear_accuracy(data)},
    net=resnet8,
    input_shape=(SIZE, SIZE, 3),
    epochs=8,
    train=_train,
    peers=("torch",),
    plot=_plot,
)
