"""How `fit` shows that it is getting on."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from quernel.errors import ArgumentError


def progress(verbose: str | int, epochs: int) -> Progress:
    """The display that `verbose` asks for: 0 none, 1 a bar, 2 lines, "auto" a bar on a terminal and lines elsewhere."""
    if verbose == "auto":
        verbose = 1 if _has_width() else 2
    if verbose not in (0, 1, 2):
        raise ArgumentError(f"[fit] verbose is 0, 1, 2 or 'auto', got {verbose!r}")
    return (Progress, Bar, Lines)[int(verbose)](epochs)


class Progress:
    """Shows nothing."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def begin_epoch(self, epoch: int, samples: int | None) -> None:
        """An epoch of `samples` samples begins; None: nobody knows how many."""

    def advance(self, samples: int, loss: float) -> None:
        """A batch is done."""

    def end_epoch(self, epoch: int, logs: dict[str, float]) -> None:
        """An epoch and its validation are done."""

    def close(self) -> None:
        """Training is over, or was interrupted."""


class Lines(Progress):
    """One line per epoch, on standard error."""

    def begin_epoch(self, epoch: int, samples: int | None) -> None:  # noqa: ARG002
        self._start = time.perf_counter()

    def end_epoch(self, epoch: int, logs: dict[str, float]) -> None:
        seconds = time.perf_counter() - self._start
        sys.stderr.write(f"epoch {epoch + 1}/{self.epochs}  {seconds:.1f}s  {_text(logs)}\n")
        sys.stderr.flush()


class Bar(Lines):
    """A bar while an epoch lasts, on standard error; then its line, which a bar in a narrow terminal would cut off."""

    _bar: Any = None

    def begin_epoch(self, epoch: int, samples: int | None) -> None:
        from tqdm import tqdm

        super().begin_epoch(epoch, samples)
        self._bar = tqdm(
            total=samples, desc=f"epoch {epoch + 1}/{self.epochs}", unit="sample", unit_scale=True
        )

    def advance(self, samples: int, loss: float) -> None:
        if self._bar.update(samples):  # true when it was redrawn
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)

    def end_epoch(self, epoch: int, logs: dict[str, float]) -> None:
        self._bar.leave = False
        self.close()
        super().end_epoch(epoch, logs)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _has_width() -> bool:
    """Whether standard error is a terminal that a bar fits into; those of containers and CI may have 0 columns."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False


def _text(logs: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
