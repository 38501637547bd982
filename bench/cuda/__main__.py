"""`python -m bench.cuda`: measures the CUDA engine beside torch's cuBLAS, cuDNN and CUDA graphs, all in one process.

`--page` writes what was measured to RESULTS-cuda.md, with the device's name.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path

import quernel as qn
from bench import harness, peers, tables
from bench.cuda import convolutions, inference, products, steps, timing
from bench.goals import Goal
from bench.harness import Result
from quernel import _core

SUBJECTS = {"products": products, "convolutions": convolutions, "inference": inference, "steps": steps}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what the command line `argv` (default: the process's) asks for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda", description=__doc__)
    parser.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", help=f"{', '.join(SUBJECTS)} (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds per case (default: 9)")
    parser.add_argument("--quick", action="store_true", help="a few small cases, to see that it works")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page of Markdown too")
    args = parser.parse_args(argv)
    unknown = [name for name in args.subjects if name not in SUBJECTS]
    if unknown:
        parser.error(f"unknown subject {unknown[0]!r}; there are {', '.join(SUBJECTS)}")
    if reason := qn.runtime.cuda_unavailable_reason():
        print(f"bench.cuda: {reason}", file=sys.stderr)
        return 1
    parts = [_heading(args)]
    print(parts[0] + "\n")
    rounds = 1 if args.quick else args.rounds
    parts += [_measured(name, rounds, args.quick) for name in args.subjects or SUBJECTS]
    if args.page:
        args.page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        print(f"wrote {args.page}")
    return 0


def _measured(name: str, rounds: int, quick: bool) -> str:
    """Runs a subject, prints its table, returns its part of the page."""
    subject = SUBJECTS[name]
    goals: dict[str, Goal] = subject.GOALS
    results: list[Result] = []
    for case in subject.cases(quick):
        results.append(timing.measure(case, rounds))
        print(f"{case.name}: {results[-1].ours * 1e6:,.1f} us", file=sys.stderr)
    foot = tables.footer(results, goals, 1)
    print(f"{tables.text(_rows(results))}\n\n{foot}\n", flush=True)
    help_line = (subject.__doc__ or "").split("\n", 1)[0]
    return f"## {name}\n\n{help_line}\n\n{tables.markdown(_rows(results))}\n\n```\n{foot or 'no peers'}\n```"


def _rows(results: list[Result]) -> tables.Rows:
    """The table of `bench`, with TFLOP/s in place of the share of a CPU's peak."""
    rows = tables.result_rows(results)
    place = rows[0].index("of peak")
    rows[0][place] = "TFLOP/s"
    for row, result in zip(rows[1:], results, strict=True):
        row[place] = f"{result.flops / result.ours / 1e12:,.1f}" if result.flops else "-"
    return rows


def _heading(args: argparse.Namespace) -> str:
    command = " ".join(["python -m bench.cuda", *args.subjects, f"--rounds {args.rounds}"])
    versions = ", ".join(f"{name} {version}" for name, version in peers.versions().items())
    lines = [
        "# Results on a GPU",
        "",
        "Medians of interleaved rounds in one process, operands rotated through more memory than the L2 cache has. A ratio is",
        "the time of the fastest peer over quernel's: above 1, quernel is faster. Subjects that do not stand here were not measured.",
        "",
        f"- device: {_core.cuda_device()}",
        f"- quernel {qn.__version__} ({harness.commit()}), {versions}",
        f"- `{command}{' --quick' if args.quick else ''}`, {dt.datetime.now(dt.UTC):%Y-%m-%d}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
