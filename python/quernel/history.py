"""What `fit` returns: numbers of every epoch."""

from __future__ import annotations

import csv
import os
from pathlib import Path


class History:
    """Losses and metrics by epoch.

    Attributes:
        epoch: numbers of the epochs, from 0 on.
        history: for each name (``loss``, ``accuracy``, ``val_loss``, …) one value per epoch.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def append(self, epoch: int, logs: dict[str, float]) -> None:
        """Adds an epoch."""
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> list[float]:
        return self.history[name]

    def __len__(self) -> int:
        return len(self.epoch)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes one line per epoch, after a line of names."""
        with Path(path).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *self.history])
            writer.writerows(zip(self.epoch, *self.history.values(), strict=True))

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws every quantity over the epochs, validation beside training, into an image file (needs matplotlib).

        Args:
            path: the file; its suffix says which format (.png, .svg, .pdf).
        """
        from matplotlib.figure import Figure

        names = [name for name in self.history if not name.startswith("val_")]
        figure = Figure(figsize=(4.5 * max(1, len(names)), 3.5), layout="constrained")
        for position, name in enumerate(names, start=1):
            axes = figure.add_subplot(1, len(names), position)
            for key, label in ((name, "training"), (f"val_{name}", "validation")):
                if key in self.history:
                    axes.plot([epoch + 1 for epoch in self.epoch], self.history[key], label=label)
            axes.set_xlabel("epoch")
            axes.set_ylabel(name)
            axes.grid(alpha=0.3)
            axes.legend()
        figure.savefig(os.fspath(path), dpi=150)

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.history.items() if values)
        return f"History({len(self)} epochs{': ' + last if last else ''})"
