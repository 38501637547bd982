"""`python -m bench SUBJECT`: measures quernel beside the peers that are installed and prints a table.

`all` runs every subject, each at 1 and at 2 threads in processes of its own, and writes RESULTS.md and the plots; what
has been measured already is not measured again. `report` writes them from what is there.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from pathlib import Path

from bench.subjects import Subject, discover


def _arguments(subjects: dict[str, Subject]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="subjects:\n" + "\n".join(f"  {s.name:10}{s.help}" for s in subjects.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*subjects, "all", "report"]
    parser.add_argument("subject", choices=names, metavar="SUBJECT", help=", ".join(names))
    parser.add_argument(
        "--threads", type=int, default=0, help="of quernel and every peer (default: quernel's default)"
    )
    parser.add_argument("--rounds", type=int, help="undisturbed rounds per case (default: 15, of `all` 5)")
    parser.add_argument("--quick", action="store_true", help="a few cases and rounds, to see that it works")
    parser.add_argument(
        "--json",
        metavar="PATH",
        type=Path,
        help="write all figures there too (`all`, `report`: the folder of all, default build/bench)",
    )
    return parser.parse_args()


def main() -> int:
    """Runs one subject, or all."""
    subjects = discover()
    args = _arguments(subjects)
    if args.subject in ("all", "report"):
        from bench import report

        folder = args.json or Path("build/bench")
        complete = args.subject == "report" or report.measure_all(
            subjects, folder, args.rounds or 5, args.quick
        )
        # A quick look is no result to keep.
        report.write(subjects, folder, folder if args.quick else Path(__file__).parent)
        return 0 if complete else 1
    # OpenBLAS's threads spin for a tenth of a second after each call, which everybody else would have to wait for; 2 ms
    # are enough between the calls of a block.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "22")
    if args.threads:  # before any BLAS starts its threads
        os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)
    _run(subjects[args.subject], args)
    return 0


def _command(args: argparse.Namespace, threads: int) -> str:
    """What repeats this run."""
    isa = os.environ.get("QUERNEL_ISA")
    parts = [f"QUERNEL_ISA={isa}"] if isa else []
    parts += ["python -m bench", args.subject, f"--threads {threads}"]
    parts += [f"--rounds {args.rounds}"] if args.rounds else []
    return " ".join([*parts, *(["--quick"] if args.quick else [])])


def _run(subject: Subject, args: argparse.Namespace) -> None:
    from bench import harness, peers, tables
    from quernel import runtime

    threads = args.threads or runtime.num_threads()
    runtime.set_num_threads(threads)
    peers.set_threads(threads)
    run = harness.Run(
        subject.name,
        harness.machine(threads),
        peers.versions(),
        _command(args, threads),
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
    )
    if subject.has_cases:
        run.peak, run.bandwidth = harness.fma_peak(threads), harness.bandwidths(threads)
        print(f"{subject.name}: {run.machine}, FMA peak {run.peak:.0f} GFLOP/s\n")
        for case in subject.load().cases(threads, args.quick):
            if sys.stderr.isatty():
                print(f"\r{case.name:40}", end="", file=sys.stderr)
            run.results.append(
                harness.measure(case, 3 if args.quick else args.rounds or 15, threads, run.peak)
            )
        print(tables.text(tables.result_rows(run.results)))
        print("\n" + tables.footer(run.results, subject.goals(), threads))
    else:
        run.text, run.figures = subject.load().run(threads, args.quick)
        print(run.text)
    if args.json:
        run.save(args.json)


if __name__ == "__main__":
    sys.exit(main())
