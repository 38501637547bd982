"""The plots of a full run: the roofline, and the speed-up of sparse layers against the share of zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.harness import OURS, Result, Run

PIXELS, DPI = 1200, 100
BLUE, ORANGE, GREY = "#1f5fa8", "#d9822b", "#8a8f98"
MARKERS = "osD^vP*X"


def roofline(runs: Sequence[Run], path: Path) -> bool:
    """One panel per number of threads; false, and no file, if no case says what it moves.

    A case stands at its arithmetic intensity (operations per byte of its operands, each once); the roof is the FMA peak
    and the speed of copies within caches and memory, both as measured beside the cases.
    """
    drawn = [run for run in runs if any(r.flops and r.nbytes for r in run.results)]
    if not drawn:
        return False
    counts = sorted({run.threads for run in drawn})
    subjects = sorted({run.subject for run in drawn})
    fig = _figure(1.9 if len(counts) > 1 else 1.5)
    panels = fig.subplots(1, len(counts), squeeze=False)[0]
    for axes, threads in zip(panels, counts, strict=True):
        mine = [run for run in drawn if run.threads == threads]
        _roof(axes, mine, DPI * fig.get_figheight() / (PIXELS / len(counts)))
        for run in mine:
            marker = MARKERS[subjects.index(run.subject) % len(MARKERS)]
            _dots(axes, [r for r in run.results if r.flops and r.nbytes], marker)
        axes.set_title(f"{threads} thread{'s' if threads > 1 else ''}", fontsize=11)
        axes.set_xlabel("operations per byte of the operands")
    panels[0].set_ylabel("GFLOP/s")
    handles = [_handle(BLUE, "o", True, "quernel"), _handle(ORANGE, "o", False, "best peer")]
    handles += [_handle(GREY, MARKERS[i % len(MARKERS)], True, name) for i, name in enumerate(subjects)]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    _save(fig, drawn, "Roofline", path)
    return True


def _roof(axes: Any, runs: Sequence[Run], aspect: float) -> None:
    peak = max(run.peak for run in runs)
    cases = [r for run in runs for r in run.results if r.flops and r.nbytes]
    points = [r.flops / r.nbytes for r in cases]
    low, high = min(points) / 1.5, max(*points, 20.0) * 2
    bottom = min(r.flops / max(r.ours, r.seconds[r.best_peer or OURS]) for r in cases) / 1.5e9
    # Winograd's algorithm takes fewer operations than are counted, so it may pass the roof.
    top = max(peak * 2, max(r.flops / r.ours for r in cases) * 1.3e-9)
    slope = (
        math.log(high / low) / math.log(top / bottom) * aspect
    )  # of a line of constant speed, as it is seen
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(bottom, top)
    axes.hlines(peak, low, high, color="black", linewidth=1.5)
    axes.annotate(
        f"FMA peak {peak:.0f}", (high, peak), (-4, 4), textcoords="offset points", ha="right", fontsize=9
    )
    for name in runs[0].bandwidth:
        speed = max(run.bandwidth[name] for run in runs)
        knee = peak / speed
        if knee > low:
            axes.plot([low, knee], [low * speed, peak], color=GREY, linewidth=1, zorder=1)
            axes.annotate(
                f"{name}: {speed:.0f} GB/s", (low, low * speed), (4, 3), textcoords="offset points",
                rotation=math.degrees(math.atan(slope)), rotation_mode="anchor", fontsize=8, color=GREY,
            )  # fmt: skip
    axes.grid(which="major", color="#e6e8ec", linewidth=0.6)


def _dots(axes: Any, results: Sequence[Result], marker: str) -> None:
    for r in results:
        x, best = r.flops / r.nbytes, r.best_peer
        ours = r.flops / r.ours / 1e9
        if best:
            theirs = r.flops / r.seconds[best] / 1e9
            axes.plot([x, x], [ours, theirs], color="#c4c9d1", linewidth=0.8, zorder=2)
            axes.plot(x, theirs, marker, color=ORANGE, markerfacecolor="white", markersize=6, zorder=3)
        axes.plot(x, ours, marker, color=BLUE, markersize=6, zorder=4)


def sparsity(runs: Sequence[Run], path: Path) -> bool:
    """One panel per instruction set and number of threads, a line per format and batch; false without such runs.

    The cases say their share of zeros in `extra["zeros"]`; their only peer is the dense layer, so that a line crosses 1
    where dense and sparse take as long.
    """
    drawn = [run for run in runs if any("zeros" in r.extra for r in run.results)]
    if not drawn:
        return False
    isas = sorted({run.machine["isa"] for run in drawn})
    counts = sorted({run.threads for run in drawn})
    fig = _figure(1.9 if len(counts) > 1 else 1.5, rows=len(isas))
    panels = fig.subplots(len(isas), len(counts), sharex=True, sharey=True, squeeze=False)
    for run in drawn:
        axes = panels[isas.index(run.machine["isa"])][counts.index(run.threads)]
        _lines(axes, run)
    for axes in panels[-1]:
        axes.set_xlabel("share of zeros")
    for row in panels:
        row[0].set_ylabel("speed-up over dense")
    handles, labels = panels[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    _save(fig, drawn, "Sparse layers against the dense one", path)
    return True


def _lines(axes: Any, run: Run) -> None:
    lines: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for r in run.results:
        if "zeros" in r.extra and r.ratio:
            lines.setdefault((r.extra["format"], r.extra["batch"]), []).append((r.extra["zeros"], r.ratio))
    formats = sorted({name for name, _ in lines})
    batches = sorted({batch for _, batch in lines})
    colors, styles = (BLUE, ORANGE, "#3a8f5c", "#7a4fa3"), ("-", "--", ":", "-.")
    for (name, batch), points in sorted(lines.items()):
        x, y = zip(*sorted(points), strict=True)
        axes.plot(
            x, y, styles[batches.index(batch) % len(styles)], color=colors[formats.index(name) % len(colors)],
            marker="o", markersize=4, linewidth=1.6, label=f"{name}, batch {batch}",
        )  # fmt: skip
    axes.axhline(1, color="black", linewidth=1)
    axes.annotate(
        "as fast as dense", (1, 1), (-4, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="right", fontsize=8,
    )  # fmt: skip
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}x")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.grid(color="#e6e8ec", linewidth=0.6)
    axes.set_title(f"{run.machine['isa']}, {run.threads} thread{'s' if run.threads > 1 else ''}", fontsize=11)


def _figure(aspect: float, rows: int = 1) -> Any:
    from matplotlib.figure import Figure

    width = PIXELS / DPI
    return Figure(figsize=(width, width / aspect * (1 + 0.7 * (rows - 1))), dpi=DPI, layout="constrained")


def _handle(color: str, marker: str, filled: bool, label: str) -> Any:
    from matplotlib.lines import Line2D

    face = color if filled else "white"
    return Line2D([], [], color=color, marker=marker, markerfacecolor=face, linestyle="none", label=label)


def _save(fig: Any, runs: Sequence[Run], title: str, path: Path) -> None:
    cpus = ", ".join(sorted({run.machine["cpu"] for run in runs}))
    fig.suptitle(f"{title}: {cpus}", fontsize=12)
    fig.savefig(path)
