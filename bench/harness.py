"""Measuring side by side.

Every subject is a list of cases; a case has one callable per contender. Contenders take turns in short blocks, so that a
change of the machine's speed meets all of them; a block repeats a short call until it lasts about 20 milliseconds.
Rounds in which other programs used the CPU are dropped. What is printed is the median over the rounds that are left,
the ratio of the best peer's time to quernel's (above 1: quernel is faster), and, for cases that know their arithmetic,
quernel's share of the FMA peak that this machine showed in the same run.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import quernel as qn
from quernel import _core

BLOCK_SECONDS = 2e-2
SETTLE_SECONDS = 4e-2  # before each block: OpenMP's and OpenBLAS's threads spin on after their last call
OTHERS_SHARE = 0.05  # of the machine's time in a round, above which it is dropped
OURS = "quernel"


@dataclass
class Case:
    """One line of a table."""

    name: str
    contenders: dict[str, Callable[[], object]]
    flops: float = 0.0  # per call; 0 where a share of the peak means nothing


@dataclass
class Result:
    """Median seconds per call of each contender."""

    name: str
    seconds: dict[str, float]
    peak_share: float | None = None
    rounds: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def best_peer(self) -> str | None:
        """The fastest contender that is not quernel."""
        peers = [name for name in self.seconds if not name.startswith(OURS)]
        return min(peers, key=self.seconds.__getitem__) if peers else None

    @property
    def ratio(self) -> float | None:
        """Time of the best peer over quernel's."""
        best = self.best_peer
        return self.seconds[best] / self.seconds[OURS] if best else None


def _busy_seconds() -> float:
    """CPU time that the whole machine has spent working since it started."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    idle = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields)) - idle) / os.sysconf("SC_CLK_TCK")


def _block(call: Callable[[], object], repeats: int) -> float:
    time.sleep(SETTLE_SECONDS)
    call()  # wakes the threads
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _repeats(call: Callable[[], object]) -> int:
    """How often a call fits into a block; warms it up on the way."""
    for _ in range(3):
        call()
    return max(1, min(20_000, int(BLOCK_SECONDS / max(_block(call, 5), 1e-7))))


def measure(case: Case, rounds: int, threads: int, peak_gflops: float) -> Result:
    """Runs the contenders of a case in turn.

    Args:
        case: What to run.
        rounds: How many rounds; twice as many are tried if others use the machine.
        threads: Of quernel's pool, for judging how busy others are.
        peak_gflops: Of this machine on as many threads, or 0.
    """
    repeats = {name: _repeats(call) for name, call in case.contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in case.contenders}
    kept: list[dict[str, float]] = []
    disturbed: list[dict[str, float]] = []
    names = list(case.contenders)
    while len(kept) < rounds and len(kept) + len(disturbed) < 2 * rounds:
        names = names[1:] + names[:1]
        busy, own, start = _busy_seconds(), time.process_time(), time.perf_counter()
        lap = {name: _block(case.contenders[name], repeats[name]) for name in names}
        wall = time.perf_counter() - start
        others = _busy_seconds() - busy - (time.process_time() - own)
        # The system counts in ticks of 10 ms: shorter disturbances cannot be told from rounding.
        (disturbed if others > OTHERS_SHARE * wall * (os.cpu_count() or 1) + 0.02 else kept).append(lap)
    for lap in kept or disturbed:
        for name, seconds in lap.items():
            times[name].append(seconds)
    medians = {name: median(values) for name, values in times.items()}
    share = case.flops / medians[OURS] / 1e9 / peak_gflops if case.flops and peak_gflops else None
    return Result(case.name, medians, share, len(kept), {"threads": threads, "dropped": len(disturbed)})


def fma_peak(threads: int) -> float:
    """GFLOP/s of fp32 multiply-adds on this machine now: the best of a few short runs."""
    return max(_core.fma_peak(threads) for _ in range(5))


def _format_time(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f}"


def table(results: Sequence[Result]) -> str:
    """Times in microseconds, as aligned text."""
    names: list[str] = []
    for result in results:
        names.extend(name for name in result.seconds if name not in names)
    rows = [["case", *[f"{name} us" for name in names], "best peer", "ratio", "of peak", "rounds"]]
    for r in results:
        times = [_format_time(r.seconds[name]) if name in r.seconds else "-" for name in names]
        ratio = f"{r.ratio:.2f}x" if r.ratio else "-"
        share = f"{r.peak_share:.0%}" if r.peak_share else "-"
        rows.append([r.name, *times, r.best_peer or "-", ratio, share, str(r.rounds)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in rows]  # fmt: skip
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def machine(threads: int) -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpu": _core.cpu_model(),
        "isa": _core.active_isa(),
        "threads": threads,
        "python": platform.python_version(),
        "quernel": qn.__version__,
    }


def write_json(path: str, subject: str, threads: int, results: Sequence[Result]) -> None:
    """Writes all figures of a run."""
    data = {
        "subject": subject,
        "machine": machine(threads),
        "results": [{**vars(r), "ratio": r.ratio, "best_peer": r.best_peer} for r in results],
    }
    Path(path).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
