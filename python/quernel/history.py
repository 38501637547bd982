"""What `fit` returns: numbers of every epoch."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3  # panels side by side


class History:
    """Losses and metrics by epoch.

    Attributes:
        epoch: numbers of the epochs, from 0 on.
        history: for each name (``loss``, ``accuracy``, ``val_loss``, …) one value per epoch.
        lr: the learning rate (of the first parameter group) at the end of each epoch.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}
        self.lr: list[float] = []

    def append(self, epoch: int, logs: dict[str, float], lr: float) -> None:
        """Adds an epoch."""
        self.epoch.append(epoch)
        self.lr.append(lr)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> list[float]:
        return self.history[name]

    def __len__(self) -> int:
        return len(self.epoch)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes one line per epoch, after a line of names; the learning rate is the last column, ``lr``."""
        with Path(path).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *self.history, "lr"])
            writer.writerows(zip(self.epoch, *self.history.values(), self.lr, strict=True))

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws every quantity over the epochs, validation beside training, and the learning rate (needs matplotlib).

        Args:
            path: an image file; its suffix says which format (.png, .svg, .pdf). None writes none.

        Returns:
            The figure, which notebooks show.
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        names = [name for name in self.history if not name.startswith("val_")]
        panels = [*names, "learning rate"] if len(set(self.lr)) > 1 else names
        columns = 2 if len(panels) == 4 else min(_COLUMNS, max(1, len(panels)))
        rows = max(1, -(-len(panels) // columns))
        figure = Figure(figsize=(4.5 * columns, 3.2 * rows), layout="constrained")
        for position, name in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, columns, position)
            if name == "learning rate":
                self._draw_line(axes, self.lr, name)
            else:
                self._draw_line(axes, self.history[name], "training")
                if f"val_{name}" in self.history:
                    self._draw_line(axes, self.history[f"val_{name}"], "validation")
                    axes.legend()
            axes.set_xlabel("epoch")
            axes.set_ylabel(name)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
        if path is not None:
            figure.savefig(os.fspath(path), dpi=150)
        return figure

    def _draw_line(self, axes: Any, values: list[float], label: str) -> None:
        few = len(values) <= 40  # so many that markers would hide the line
        axes.plot(
            [epoch + 1 for epoch in self.epoch], values, "o-" if few else "-", markersize=3, label=label
        )

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.history.items() if values)
        return f"History({len(self)} epochs{': ' + last if last else ''})"
