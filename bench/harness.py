"""Measuring side by side.

Every subject is a list of cases; a case has one callable per contender. Contenders take turns in short blocks, so that a
change of the machine's speed meets all of them; a block repeats a short call until it lasts about 20 milliseconds.
Rounds in which other programs used the CPU are dropped. What counts is the median over the rounds that are left, the
ratio of the best peer's time to quernel's (above 1: quernel is faster), and, for cases that know their arithmetic,
quernel's share of the FMA peak that this machine showed in the same run.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

import quernel as qn
from quernel import _core

BLOCK_SECONDS = 2e-2
SETTLE_STEP, SETTLE_MOST = 2.5e-2, 0.5  # seconds; threads of peers spin on after their last call
FULL_SPEED = 1.25  # how much slower than ever seen the arithmetic before a block may be,
SPEED_TRIES = 8  # and how often it is tried
OTHERS_SHARE = 0.05  # of the machine's time in a round, above which it is dropped
OURS = "quernel"
WORKING_SETS = {
    "16 KiB": 2**14,
    "256 KiB": 2**18,
    "4 MiB": 2**22,
    "128 MiB": 2**27,
}  # of a thread: caches, memory


@dataclass
class Case:
    """One line of a table."""

    name: str
    contenders: dict[str, Callable[[], object]]
    flops: float = 0.0  # per call, of fp32; 0 where a share of the peak means nothing
    nbytes: float = 0.0  # operands, each once; with it the case is a dot in the roofline
    group: str = ""  # of cases that share a goal
    extra: dict[str, Any] = field(default_factory=dict)
    peak_goal: float = 0.0  # share of the FMA peak that this one ought to reach


@dataclass
class Result:
    """Median seconds per call of each contender."""

    name: str
    seconds: dict[str, float]
    peak_share: float | None = None
    rounds: int = 0
    flops: float = 0.0
    nbytes: float = 0.0
    group: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    peak_goal: float = 0.0

    @property
    def ours(self) -> float:
        """Seconds of quernel."""
        return self.seconds[OURS]

    @property
    def best_peer(self) -> str | None:
        """The fastest contender that is not quernel."""
        peers = [name for name in self.seconds if not name.startswith(OURS)]
        return min(peers, key=self.seconds.__getitem__) if peers else None

    @property
    def ratio(self) -> float | None:
        """Time of the best peer over quernel's."""
        best = self.best_peer
        return self.seconds[best] / self.ours if best else None

    @property
    def ratio_at_peak(self) -> float | None:
        """What `ratio` would be at the FMA peak; None where quernel is beyond it, with less arithmetic than counted."""
        if not self.ratio or not self.peak_share or self.peak_share > 1:
            return None
        return self.ratio / self.peak_share


def _busy_seconds() -> float:
    """CPU time that the whole machine has spent working since it started."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    idle = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields)) - idle) / os.sysconf("SC_CLK_TCK")


@functools.cache
def _best_arithmetic(threads: int) -> float:
    return min(_arithmetic(threads) for _ in range(10))


def _arithmetic(threads: int) -> float:
    """Seconds of the same multiply-adds in registers on all threads."""
    start = time.perf_counter()
    _core.fma_peak(threads)
    return time.perf_counter() - start


def _settle(threads: int) -> None:
    """Waits until all threads have a whole core each.

    Threads that spin on for the contender before take one away: this process must have been idle (the system counts the
    time of threads that are running in ticks of 10 ms). A virtual machine that was idle may find its CPUs on one core,
    at half the speed, for some time: the arithmetic must be at its best.
    """
    for _ in range(int(SETTLE_MOST / SETTLE_STEP)):
        busy, start = time.process_time(), time.perf_counter()
        time.sleep(SETTLE_STEP)
        if time.process_time() - busy < 0.1 * (time.perf_counter() - start):
            break
    for _ in range(SPEED_TRIES):
        if _arithmetic(threads) < FULL_SPEED * _best_arithmetic(threads):
            return


def _block(call: Callable[[], object], repeats: int, threads: int) -> float:
    if threads > 1:
        _settle(threads)
    if repeats > 1:
        call()  # wakes the threads, which a long call does not notice
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _repeats(call: Callable[[], object], threads: int) -> int:
    """How often a call fits into a block; warms it up on the way."""
    call()
    if _block(call, 1, threads) > BLOCK_SECONDS:
        return 1
    call()
    return max(1, min(20_000, int(BLOCK_SECONDS / max(_block(call, 5, threads), 1e-7))))


def measure(case: Case, rounds: int, threads: int, peak_gflops: float) -> Result:
    """Runs the contenders of a case in turn.

    Args:
        case: What to run.
        rounds: How many rounds; twice as many are tried if others use the machine.
        threads: Of quernel's pool, for judging how busy others are.
        peak_gflops: Of this machine on as many threads, or 0.
    """
    repeats = {name: _repeats(call, threads) for name, call in case.contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in case.contenders}
    kept: list[dict[str, float]] = []
    disturbed: list[dict[str, float]] = []
    names = list(case.contenders)
    while len(kept) < rounds and len(kept) + len(disturbed) < 2 * rounds:
        names = names[1:] + names[:1]
        busy, own, start = _busy_seconds(), time.process_time(), time.perf_counter()
        lap = {name: _block(case.contenders[name], repeats[name], threads) for name in names}
        wall = time.perf_counter() - start
        others = _busy_seconds() - busy - (time.process_time() - own)
        # The system counts in ticks of 10 ms: shorter disturbances cannot be told from rounding.
        (disturbed if others > OTHERS_SHARE * wall * (os.cpu_count() or 1) + 0.02 else kept).append(lap)
    for lap in kept or disturbed:
        for name, seconds in lap.items():
            times[name].append(seconds)
    medians = {name: median(values) for name, values in times.items()}
    share = case.flops / medians[OURS] / 1e9 / peak_gflops if case.flops and peak_gflops else None
    extra = {**case.extra, "dropped": len(disturbed)}
    return Result(
        case.name, medians, share, len(kept), case.flops, case.nbytes, case.group, extra, case.peak_goal
    )


def fma_peak(threads: int) -> float:
    """GFLOP/s of fp32 multiply-adds on this machine now: the best of a few short runs."""
    return max(_core.fma_peak(threads) for _ in range(5))


def bandwidths(threads: int) -> dict[str, float]:
    """Gigabytes a second of copies within memory of several sizes, each thread in its own."""
    return {name: _core.copy_peak(nbytes * threads, threads) for name, nbytes in WORKING_SETS.items()}


@functools.cache
def commit() -> str:
    """What was measured, or nothing outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def machine(threads: int) -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpu": _core.cpu_model(),
        "isa": _core.active_isa(),
        "threads": threads,
        "python": platform.python_version(),
        "quernel": qn.__version__,
        "commit": commit(),
    }


@dataclass
class Run:
    """One run of one subject, as its JSON file holds it: of `cases` results, of `run` a text and figures."""

    subject: str
    machine: dict[str, Any]
    peers: dict[str, str]
    command: str
    date: str
    peak: float = 0.0  # GFLOP/s
    bandwidth: dict[str, float] = field(default_factory=dict)  # GB/s
    results: list[Result] = field(default_factory=list)
    text: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """Of quernel and every peer."""
        return int(self.machine["threads"])

    def save(self, path: Path) -> None:
        """Writes all figures; the file is there whole or not at all."""
        data = {
            **vars(self),
            "results": [{**vars(r), "ratio": r.ratio, "best_peer": r.best_peer} for r in self.results],
        }
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Run:
        """Reads what `save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name for f in fields(Result)}
        data["results"] = [Result(**{k: v for k, v in r.items() if k in known}) for r in data["results"]]
        return cls(**data)
