"""A full run: every subject in processes of its own, then RESULTS.md and the plots from their JSON files.

The files lie in one folder, `SUBJECT-THREADS[-ISA].json`, beside a `.log` each. A subject that fails leaves its log
alone, does not stop the others, and is tried again by the next run; one that has its file is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import plots, tables
from bench.goals import Miss, misses, summaries
from bench.harness import Run
from bench.subjects import Subject

TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Job:
    """One process of a full run."""

    subject: str
    threads: int
    isa: str = ""  # "" the CPU's best

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.subject}-{self.threads}" + (f"-{self.isa}" if self.isa else "")


def jobs(subjects: Mapping[str, Subject], threads: Sequence[int], isas: Sequence[str]) -> list[Job]:
    """What a full run consists of: subjects without cases judge the threads for themselves and run once."""
    return [
        Job(subject.name, count, isa)
        for subject in subjects.values()
        for count in (threads if subject.has_cases else threads[-1:])
        for isa in (isas if subject.every_isa else [""])
    ]


def measure_all(subjects: Mapping[str, Subject], folder: Path, rounds: int, quick: bool) -> bool:
    """Runs what has no file yet; true if everything has one then."""
    from quernel import runtime

    folder.mkdir(parents=True, exist_ok=True)
    isas = [isa for isa in runtime.supported_isas() if isa != "scalar"]
    threads = [1, 2] if (os.cpu_count() or 1) > 1 else [1]
    todo = [job for job in jobs(subjects, threads, isas) if not _file(folder, job).exists()]
    for i, job in enumerate(todo):
        print(f"[{i + 1}/{len(todo)}] {job.name} ", end="", flush=True)
        start = time.perf_counter()
        error = _measure(folder, job, rounds, quick)
        print(f"{time.perf_counter() - start:.0f} s" + (f": {error}" if error else ""), flush=True)
    return all(_file(folder, job).exists() for job in todo)


def _file(folder: Path, job: Job) -> Path:
    return folder / f"{job.name}.json"


def _measure(folder: Path, job: Job, rounds: int, quick: bool) -> str:
    """Runs a job; returns what went wrong, or nothing."""
    command = [sys.executable, "-m", "bench", job.subject, "--threads", str(job.threads)]
    command += ["--rounds", str(rounds), "--json", str(_file(folder, job)), *(["--quick"] if quick else [])]
    environment = {**os.environ, **({"QUERNEL_ISA": job.isa} if job.isa else {})}
    log = folder / f"{job.name}.log"
    with log.open("w", encoding="utf-8") as out:
        try:
            done = subprocess.run(
                command, stdout=out, stderr=out, env=environment, timeout=TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return f"not done after {TIMEOUT_SECONDS} s, see {log}"
    return f"failed, see {log}" if done.returncode else ""


def write(subjects: Mapping[str, Subject], folder: Path, target: Path) -> None:
    """Writes RESULTS.md, roofline.png and sparsity.png to `target` from the files in `folder`."""
    runs = [Run.load(path) for path in sorted(folder.glob("*.json"))]
    pictures = []
    if plots.roofline(runs, target / "roofline.png"):
        pictures.append(
            "![Roofline: every fp32 product and convolution at its arithmetic intensity](roofline.png)"
        )
    if plots.sparsity(runs, target / "sparsity.png"):
        pictures.append(
            "![Speed-up of sparse layers over dense ones against the share of zeros](sparsity.png)"
        )
    (target / "RESULTS.md").write_text(results_page(subjects, runs, pictures), encoding="utf-8")
    print(f"wrote {target / 'RESULTS.md'}" + "".join(f", {p.rsplit('(', 1)[1][:-1]}" for p in pictures))


def results_page(subjects: Mapping[str, Subject], runs: Sequence[Run], pictures: Sequence[str] = ()) -> str:
    """RESULTS.md."""
    parts = [_heading(runs), "## Summary", _summary(subjects, runs)]
    missing = [name for name in subjects if name not in {run.subject for run in runs}]
    if missing:
        parts.append(f"Not measured: {', '.join(missing)}.")
    parts += _incomplete(subjects, runs)
    parts += ["## Misses", _misses(subjects, runs)]
    if pictures:
        parts += ["## Plots", *pictures]
    for subject in subjects.values():
        mine = [run for run in runs if run.subject == subject.name]
        if mine:
            parts += [f"## {subject.name}", subject.help, *(_section(run) for run in mine)]
    return "\n\n".join(parts) + "\n"


def _heading(runs: Sequence[Run]) -> str:
    lines = ["# Results", ""]
    lines += [
        "Written by `python -m bench all`, or `report`, from the runs named below; do not edit. Times are medians of interleaved rounds. Rounds in",
        "which other programs ran are dropped; where 0 are left, these count. A ratio is the time of the fastest peer over",
        "quernel's: above 1, quernel is faster.",
        "",
    ]
    for cpu in sorted({run.machine["cpu"] for run in runs}):
        lines.append(
            f"- CPU: {cpu}, instruction set {_all(run.machine['isa'] for run in runs if run.machine['cpu'] == cpu)}"
        )
    versions = [f"{name} {version}" for run in runs for name, version in run.peers.items()]
    lines.append(f"- versions: quernel {_all(run.machine['quernel'] for run in runs)}, {_all(versions)}, "
                 f"Python {_all(run.machine['python'] for run in runs)}")  # fmt: skip
    for threads in sorted({run.threads for run in runs if run.peak}):
        peaks = sorted(run.peak for run in runs if run.peak and run.threads == threads)
        lines.append(
            f"- FMA peak on {_threads(threads)}: {peaks[0]:.0f} to {peaks[-1]:.0f} GFLOP/s, a figure for every run"
        )
    lines.append(f"- measured on {_all(run.date for run in runs)}")
    return "\n".join(lines)


def _all(values: object) -> str:
    return ", ".join(dict.fromkeys(values))  # type: ignore[call-overload]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _incomplete(subjects: Mapping[str, Subject], runs: Sequence[Run]) -> list[str]:
    """What a reader might think measured, and is not."""
    sentences = []
    for threads in sorted({run.threads for run in runs}):
        done = {run.subject for run in runs if run.threads == threads}
        others = {run.subject for run in runs} - done
        missing = [name for name in subjects if name in others and subjects[name].has_cases]
        if missing:
            sentences.append(f"Not measured on {_threads(threads)}: {', '.join(missing)}.")
    quick = dict.fromkeys(run.subject for run in runs if "--quick" in run.command.split())
    if quick:
        sentences.append(f"Only a few cases of: {', '.join(quick)}.")
    return sentences


def _summary(subjects: Mapping[str, Subject], runs: Sequence[Run]) -> str:
    rows = [["subject", "threads", "cases", "geomean", "target", "worst", "floor", "below it"]]
    for run in _judged(subjects, runs):
        for s in summaries(run.results, subjects[run.subject].goals(), run.threads):
            worst = f"{s.worst.ratio:.2f}x {s.worst.name}" if s.worst and s.worst.ratio else "-"
            rows.append([
                f"{run.subject} {s.group}".strip(), str(run.threads), str(s.cases), f"{s.geomean:.2f}x",
                f"{s.target:.2f}x" if s.target else "-", worst, f"{s.floor:.2f}x" if s.floor else "-",
                str(s.below) if s.floor else "-",
            ])  # fmt: skip
    return tables.markdown(rows)


def _judged(subjects: Mapping[str, Subject], runs: Sequence[Run]) -> list[Run]:
    """Those with goals to compare with; sweeps over instruction sets are for the plot."""
    return [
        run for run in runs if run.results and run.subject in subjects and not subjects[run.subject].every_isa
    ]


def _misses(subjects: Mapping[str, Subject], runs: Sequence[Run]) -> str:
    rows = [["subject", "case", "threads", "measured", "wanted", "at peak", "why"]]
    for run in _judged(subjects, runs):
        subject = subjects[run.subject]
        for miss in misses(run.results, subject.goals(), run.threads):
            why = _reason(subject.reasons(), miss)
            at_peak = f"{miss.ratio_at_peak:.2f}x" if miss.ratio_at_peak else ""
            rows.append([run.subject, miss.case, str(run.threads), miss.got, miss.wanted, at_peak, why])
    if len(rows) == 1:
        return "None."
    return (
        "Cases below the floor of their group, or below the target that its geometric mean ought to reach. "
        "Beside it, where the arithmetic is known, the ratio that quernel would reach at the machine's FMA peak: no direct "
        "algorithm is beyond that. A reason stands where somebody has found one.\n\n" + tables.markdown(rows)
    )


def _reason(reasons: Mapping[str, str], miss: Miss) -> str:
    return reasons.get(miss.case, reasons.get(miss.group, "") if miss.group else "")


def _section(run: Run) -> str:
    isa = f", {run.machine['isa']}"
    lines = [f"### {run.subject}, {_threads(run.threads)}{isa}", "", f"`{run.command}`", ""]
    lines.append(tables.markdown(tables.result_rows(run.results)) if run.results else f"```\n{run.text}\n```")
    return "\n".join(lines)
