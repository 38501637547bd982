"""Pictures of metrics, with matplotlib (the extra `report`), which is imported when a picture is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from quernel.arrays import numbers_of
from quernel.errors import ArgumentError, ShapeError, UnsupportedError
from quernel.metrics.base import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NUMBERED = 30  # classes; beyond, numbers in cells cannot be read


def plot_confusion_matrix(
    matrix: Any, labels: Sequence[str] | None = None, path: str | PathLike[str] | None = None
) -> Figure:
    """Draws a confusion matrix: counts in cells, colors by the share of each true class.

    Args:
        matrix: (C, C), rows true classes, columns decisions, as from `confusion_matrix`.
        labels: names of the classes; numbers by default.
        path: where to save the picture; its ending says how (.png, .svg, .pdf).

    Returns:
        The matplotlib figure, which belongs to no window and needs no display.

    Raises:
        ShapeError: the matrix is not square.
        ArgumentError: there are not as many labels as classes.
        UnsupportedError: matplotlib is not installed.

    Example:
        >>> figure = plot_confusion_matrix([[50, 2], [3, 45]], labels=["cat", "dog"])
        >>> figure.axes[0].get_xlabel()
        'decision'
    """
    counts = numbers_of("plot_confusion_matrix", "matrix", matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ShapeError(f"[plot_confusion_matrix] expected a square matrix, got {counts.shape}")
    size = len(counts)
    names = [str(label) for label in (range(size) if labels is None else labels)]
    if len(names) != size:
        raise ArgumentError(f"[plot_confusion_matrix] {len(names)} labels for {size} classes")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            "[plot_confusion_matrix] needs matplotlib; install it with: pip install 'quernel[report]'"
        ) from error
    side = min(max(3.2, 1.8 + 0.55 * size), 14.0)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    support = counts.sum(1, keepdims=True, dtype=np.float64)
    share = np.divide(counts, support, out=np.zeros(counts.shape), where=support > 0)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.85)
    turned = max(map(len, names)) > 3
    axes.set_xticks(range(size), names, rotation=45 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(range(size), names)
    axes.set_xlabel("decision")
    axes.set_ylabel("true class")
    if size <= _MOST_NUMBERED:
        _write_counts(axes, counts, share)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _write_counts(axes: Any, counts: Array, share: Array) -> None:
    whole = counts.dtype.kind in "biu"
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column,
            row,
            f"{count:d}" if whole else f"{count:.3g}",
            ha="center",
            va="center",
            color="white" if share[row, column] > 0.6 else "black",
            fontsize=9 if len(counts) <= 15 else 7,
        )
