"""`python -m bench SUBJECT`: measures quernel beside the peers that are installed and prints a table."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

SUBJECTS = {
    "gemm": "fp32 matrix products, from 16^3 to 1024^3, single rows, tall, wide",
    "train": "a training step of four nets of the zoo, batch 1 to 128, with Adam",
    "infer": "latency of frozen nets, fp32 and int8, batch 1, 16, 64",
    "sparse": "linear layers with sparse weights, 256 to 2048, batch 1, 16, 64, and where dense ones break even",
    "threads": "the thread pool beside OpenMP: hot, parked, with a busy neighbour",
    "import": "import time and memory in fresh processes",
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="subjects:\n" + "\n".join(f"  {name:9}{text}" for name, text in SUBJECTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subject", choices=SUBJECTS, metavar="SUBJECT", help=", ".join(SUBJECTS))
    parser.add_argument(
        "--threads", type=int, default=0, help="of quernel and every peer (default: quernel's default)"
    )
    parser.add_argument("--rounds", type=int, default=15, help="undisturbed rounds per case (default: 15)")
    parser.add_argument("--quick", action="store_true", help="a few cases and rounds, to see that it works")
    parser.add_argument("--json", metavar="FILE", help="write all figures there too")
    return parser.parse_args()


def main() -> int:
    """Runs one subject."""
    args = _arguments()
    if args.threads:  # before any BLAS starts its threads
        os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)
    if args.subject == "import":
        text, figures = importlib.import_module("bench.imports").run(args.quick)
    else:
        from bench import harness, peers
        from quernel import runtime

        threads = args.threads or runtime.num_threads()
        runtime.set_num_threads(threads)
        peers.set_threads(threads)
        if args.subject == "threads":
            text, figures = importlib.import_module("bench.threads").run(threads, args.quick)
        else:
            peak = harness.fma_peak(threads)
            print(f"{args.subject}: {harness.machine(threads)}, FMA peak {peak:.0f} GFLOP/s\n")
            results = []
            for case in importlib.import_module(f"bench.{args.subject}").cases(threads, args.quick):
                if sys.stderr.isatty():
                    print(f"\r{case.name:40}", end="", file=sys.stderr)
                results.append(harness.measure(case, 3 if args.quick else args.rounds, threads, peak))
            print(harness.table(results))
            if args.json:
                harness.write_json(args.json, args.subject, threads, results)
            return 0
    print(text)
    if args.json:
        Path(args.json).write_text(json.dumps({"subject": args.subject, "results": figures}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
