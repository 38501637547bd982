"""What a task is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from quernel.nn import Module

QUERNEL = "quernel"
BF16 = "quernel bf16"  # the same with precision="bf16"


class Train(Protocol):
    """Trains the task's net and returns its score on the test part."""

    def __call__(self, data: Any, engine: str, epochs: int, seed: int, verbose: str | int) -> float:
        """Trains.

        Args:
            data: what `Task.load` returned.
            engine: one of the task's ways ("quernel" where there is but one), "quernel bf16", or one of its peers.
            epochs: passes over the training part.
            seed: of weights, order and dropout.
            verbose: as in ``fit``.
        """


@dataclass(frozen=True)
class Task:
    """A workload that can tell a good net from a bad one.

    Attributes:
        name: what it is called on the command line.
        about: one line on what is to be learnt from what.
        score: what is measured on the test part, such as "accuracy".
        percent: whether the score is a share, shown in percent.
        load: makes the data; its argument says whether a few samples are enough.
        describe: the data's sizes in words.
        baselines: scores of methods that are no nets, by name.
        net: makes the net.
        input_shape: one sample of it.
        epochs: as many as the published figures took.
        train: see `Train`.
        peers: other libraries that `train` knows, if they are installed.
        plot: draws samples into a figure.
        ways: what quernel trains side by side; `Train` gets each as its engine.
    """

    name: str
    about: str
    score: str
    percent: bool
    load: Callable[[bool], Any]
    describe: Callable[[Any], str]
    baselines: Callable[[Any], dict[str, float]]
    net: Callable[[], Module]
    input_shape: tuple[int, ...]
    epochs: int
    train: Train
    peers: Sequence[str]
    plot: Callable[[Any, Figure], None]
    ways: Sequence[str] = (QUERNEL,)

    def show(self, value: float) -> str:
        """A score as text."""
        return f"{value:.2%}" if self.percent else f"{value:.3f}"
