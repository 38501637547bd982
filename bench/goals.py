"""What a subject's cases ought to reach, and which of them do not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.harness import Result


@dataclass(frozen=True)
class Goal:
    """Of one group of cases (`Case.group`, "" if a subject has only one).

    Attributes:
        target: ratio to the best peer that the geometric mean ought to reach, by the number of threads.
        floor: ratio that every single case ought to reach.
        most_us: microseconds that no case ought to exceed.
    """

    target: Mapping[int, float] | None = None
    floor: float | None = None
    most_us: float | None = None


@dataclass(frozen=True)
class Miss:
    """A case that falls short of its goal."""

    case: str
    group: str
    got: str
    wanted: str
    severe: bool  # below the floor, and not only below what the mean of its group ought to be
    ratio_at_peak: float | None = None  # to the same peer, if quernel reached the FMA peak


@dataclass(frozen=True)
class Summary:
    """A group's cases in a line."""

    group: str
    cases: int
    geomean: float | None
    target: float | None
    worst: Result | None
    floor: float | None
    below: int  # cases below the floor


def geomean(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def groups(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by group, in the order of their first ones."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.group, []).append(result)
    return found


def summaries(results: Sequence[Result], goals: Mapping[str, Goal], threads: int) -> list[Summary]:
    """One line per group that has peers."""
    lines = []
    for group, members in groups(results).items():
        goal = goals.get(group, Goal())
        ratios = {r.name: r.ratio for r in members if r.ratio}
        if not ratios:
            continue
        worst = min((r for r in members if r.ratio), key=lambda r: ratios[r.name])
        below = sum(ratio < goal.floor for ratio in ratios.values()) if goal.floor else 0
        target = (goal.target or {}).get(threads)
        mean = geomean(list(ratios.values()))
        lines.append(Summary(group, len(ratios), mean, target, worst, goal.floor, below))
    return lines


def misses(results: Sequence[Result], goals: Mapping[str, Goal], threads: int) -> list[Miss]:
    """Every case that falls short, the severe ones first."""
    found = [miss for r in results for miss in _misses_of(r, goals.get(r.group, Goal()), threads)]
    return sorted(found, key=lambda miss: not miss.severe)


def _misses_of(r: Result, goal: Goal, threads: int) -> Iterator[Miss]:
    target = (goal.target or {}).get(threads)
    floor = goal.floor if r.ratio and goal.floor and r.ratio < goal.floor else None
    if r.ratio and (floor or (target and r.ratio < target)):
        wanted = f"floor {floor:.2f}x" if floor else f"target {target:.2f}x"
        got = f"{r.ratio:.2f}x {r.best_peer}"
        yield Miss(r.name, r.group, got, wanted, floor is not None, r.ratio_at_peak)
    if r.peak_share and r.peak_share < r.peak_goal:
        yield Miss(r.name, r.group, f"{r.peak_share:.0%} of peak", f"{r.peak_goal:.0%} of peak", True)
    if goal.most_us and r.ours * 1e6 > goal.most_us:
        yield Miss(r.name, r.group, f"{r.ours * 1e6:.1f} us", f"at most {goal.most_us:g} us", True)
