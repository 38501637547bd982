"""Transfer: what a net learnt from plain digits, put to use on a few cluttered ones.

The source task has 6,000 plain images: one of the 1,200 training digits of `cluttered_digits`, turned, sheared and enlarged as
there, its ink on one even colour; no distractors, no noise. The target task is `cluttered_digits` itself with its first 500
training images, and 2,000 test images, whose digits are in no training image of either task. Three ways, all of them ResNet-8 with
the same steps on the 500 images:

1. from scratch;
2. frozen: the body of the net trained on plain digits, its parameters frozen (``requires_grad_(False)``), and a new head;
3. fine-tuned: that body and a new head, both trained, the body at a fifth of the head's rate (parameter groups).

``python -m quernel.data.tasks transfer --seeds 3``, 20 epochs: 10.55, 10.90 and 11.15 % from scratch, 32.70, 31.90 and 31.45 % with the
frozen body, 41.60, 38.45 and 38.10 % fine-tuned; the net of plain digits as it is, seed 0: 23.30 %.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import quernel as qn
from quernel import nn
from quernel.data.digits import load_digits
from quernel.data.tasks import cluttered_digits as cluttered
from quernel.data.tasks.baselines import linear_accuracy
from quernel.data.tasks.common import Split, cached, stream
from quernel.data.tasks.experiment import Recipe
from quernel.data.tasks.task import Task
from quernel.models.resnet import resnet8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

VERSION = 1  # of the recipe of plain digits
PLAIN, FEW, TEST = 6000, 500, 2000
SOURCE_EPOCHS = 4
SCRATCH, FROZEN, TUNED = WAYS = ("from scratch", "frozen body, new head", "fine-tuned")
BODY_RATE = 0.2  # of the head's

SOURCE_RECIPE = Recipe(optimizer="sgd", lr=0.1, weight_decay=5e-4, batch_size=64)
RECIPE = Recipe(optimizer="sgd", lr=0.05, weight_decay=5e-4, batch_size=64)


@dataclass(frozen=True)
class Digits:
    """Images of both tasks.

    Attributes:
        x, y: the plain ones, (N, 32, 32, 3) float32 from 0 to 1, and (N,) int64.
        target: the cluttered ones.
        bodies: the state of the net trained on plain digits, by seed, once it is.
    """

    x: Array
    y: Array
    target: Split
    bodies: dict[int, dict[str, Array]] = field(default_factory=dict)


def load(plain: int = PLAIN, few: int = FEW, test: int = TEST, seed: int = 0) -> Digits:
    """Makes the images, or reads them from the cache."""
    made = cached(f"plain_digits-v{VERSION}-{plain}-{seed}", lambda: {"x": plain_digits(plain, seed)})
    x: Array = made["x"].astype(np.float32) / np.float32(255)
    return Digits(x, np.arange(plain) % cluttered.CLASSES, cluttered.load(few, test, seed))


def plain_digits(count: int, seed: int) -> NDArray[np.uint8]:
    """Images (count, 32, 32, 3) of the training digits on one even colour; image i shows an i % 10."""
    digits, labels = load_digits()
    chosen = cluttered.sources(seed)[0]
    random = stream("transfer", seed, "plain")
    glyphs = np.pad(digits[chosen, :, :, 0], ((0, 0), (1, 1), (1, 1)))
    by_class = [np.flatnonzero(labels[chosen] == c) for c in range(cluttered.CLASSES)]
    base = random.uniform(0.3, 0.7, (count, 1, 1, 3))
    image = np.broadcast_to(base, (count, cluttered.SIZE, cluttered.SIZE, 3))
    image = cluttered.with_labelled_digit(random, image, base, glyphs, by_class)
    levels: NDArray[np.uint8] = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return levels


# ---- the task -------------------------------------------------------------------------------------------------------


def source_net(data: Digits, seed: int, verbose: str | int) -> nn.Sequential:
    """A net that has learnt the plain digits; trained once for each seed."""
    qn.seed(seed)
    net = resnet8()
    if seed not in data.bodies:
        optimizer, arguments = SOURCE_RECIPE.arguments(net, len(data.x), SOURCE_EPOCHS)
        net.compile(optimizer, loss="cross_entropy", metrics=["accuracy"])
        net.fit(data.x, data.y, verbose=verbose, **arguments)
        data.bodies[seed] = {name: t.numpy().copy() for name, t in net.state_dict().items()}
    net.load_state_dict(data.bodies[seed])
    return net


def prepared(data: Digits, way: str, seed: int, verbose: str | int = 0) -> tuple[nn.Sequential, list[Any]]:
    """A net before it sees cluttered digits, and its groups of parameters, the head's first."""
    if way == SCRATCH:
        qn.seed(seed)
        net = resnet8()
        return net, [{"params": net.parameters()}]
    net = source_net(data, seed, verbose)
    qn.seed(seed)
    body, head = net[:-1], nn.Linear(None, cluttered.CLASSES)
    net[-1] = head
    if way == FROZEN:
        body.requires_grad_(False)
        return net, [{"params": head.parameters()}]
    return net, [
        {"params": head.parameters()},
        {"params": body.parameters(), "lr": RECIPE.lr * BODY_RATE},
    ]


def _train(data: Digits, engine: str, epochs: int, seed: int, verbose: str | int) -> float:
    net, groups = prepared(data, engine, seed, verbose)
    target = data.target
    optimizer, arguments = RECIPE.arguments(net, len(target.x), epochs, groups)
    net.compile(optimizer, loss="cross_entropy", metrics=["accuracy"])
    net.fit(target.x, target.y, verbose=verbose, **arguments)
    return net.evaluate(target.x_test, target.y_test)["accuracy"]


def _baselines(data: Digits) -> dict[str, float]:
    target = data.target
    net = source_net(data, 0, 0)
    net.compile(metrics=["accuracy"])
    return {
        "linear (logistic regression)": linear_accuracy(target),
        "the net of plain digits as it is (seed 0)": net.evaluate(target.x_test, target.y_test)["accuracy"],
    }


def _describe(data: Digits) -> str:
    target = data.target
    return (
        f"{len(data.x):,} plain digits, {len(target.x):,} cluttered ones, {len(target.x_test):,} test images"
    )


def _plot(data: Digits, figure: Figure) -> None:
    for i, axes in enumerate(figure.subplots(4, 10).flat):
        axes.imshow(data.x[i] if i < 20 else data.target.x[i])
        axes.axis("off")


TASK = Task(
    name="transfer",
    about="a few cluttered digits after many plain ones: ResNet-8, its head replaced",
    score="accuracy",
    percent=True,
    load=lambda quick: load(300, 100, 200) if quick else load(),
    describe=_describe,
    baselines=_baselines,
    net=resnet8,
    input_shape=(cluttered.SIZE, cluttered.SIZE, 3),
    epochs=20,
    train=_train,
    peers=(),
    plot=_plot,
    ways=WAYS,
)
