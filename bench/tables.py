"""Results as text and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.goals import Goal, misses, summaries
from bench.harness import Result

Rows = list[list[str]]


def result_rows(results: Sequence[Result]) -> Rows:
    """Times in microseconds, ratios and shares; the first row is the heading."""
    names: list[str] = []
    for result in results:
        names.extend(name for name in result.seconds if name not in names)
    rows = [["case", *[f"{name} us" for name in names], "best peer", "ratio", "of peak", "rounds"]]
    for r in results:
        times = [f"{r.seconds[name] * 1e6:,.1f}" if name in r.seconds else "-" for name in names]
        ratio = f"{r.ratio:.2f}x" if r.ratio else "-"
        share = f"{r.peak_share:.0%}" if r.peak_share else "-"
        rows.append([r.name, *times, r.best_peer or "-", ratio, share, str(r.rounds)])
    return rows


def footer(results: Sequence[Result], goals: Mapping[str, Goal], threads: int) -> str:
    """Of each group the mean ratio and the worst case, then the cases that miss their goals, by name."""
    lines = []
    for s in summaries(results, goals, threads):
        wanted = f" (target {s.target:.2f}x)" if s.target else ""
        text = f"{s.group or 'all'}: geomean {s.geomean:.2f}x{wanted} of {s.cases}"
        if s.worst and s.worst.ratio:
            text += f", worst {s.worst.ratio:.2f}x {s.worst.name}"
        if s.floor:
            text += f", {s.below} below the floor of {s.floor:.2f}x"
        lines.append(text)
    lines += [f"  {m.case}: {m.got}, {m.wanted}" for m in misses(results, goals, threads) if m.severe]
    return "\n".join(lines)


def text(rows: Rows) -> str:
    """Aligned columns, the first to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in rows]  # fmt: skip
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(rows: Rows) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
