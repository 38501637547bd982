"""``python -m quernel.data.tasks NAME``: a task's baseline and its net side by side."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quernel.data.tasks import NAMES, task
from quernel.data.tasks.task import BF16, QUERNEL, Task
from quernel.graph.summary import align


def _parser() -> argparse.ArgumentParser:
    tasks = [task(name) for name in NAMES]
    width = max(map(len, NAMES)) + 2
    parser = argparse.ArgumentParser(
        prog="python -m quernel.data.tasks",
        description="Makes a task's data, prints a baseline, and trains a net beside it.",
        epilog="tasks:\n"
        + "\n".join(f"  {t.name:{width}}{t.about} ({t.epochs} epochs)" for t in tasks)
        + "\n\nData that take long to make are kept in $QUERNEL_CACHE "
        "(default: quernel in the user's cache folder; off: nowhere).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=NAMES, metavar="TASK", help=", ".join(NAMES))
    parser.add_argument(
        "--epochs", type=_positive, help="passes over the training part (default: the task's)"
    )
    parser.add_argument(
        "--seeds", type=_positive, default=1, metavar="N", help="train N nets, seeds 0 to N - 1 (%(default)s)"
    )
    parser.add_argument(
        "--compare", action="append", default=[], metavar="LIBRARY", choices=("torch", "sklearn"),
        help="train the same net by torch or sklearn too, if it is installed and the task has it; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32",
        help="bf16: train the same net with bfloat16 products too, from the same weights",
    )  # fmt: skip
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw samples into an image file, and train nothing"
    )
    parser.add_argument("--summary", action="store_true", help="print the net's layers, and train nothing")
    parser.add_argument(
        "--quick", action="store_true", help="a few samples and one epoch, to see that it works"
    )
    parser.add_argument("--threads", type=_positive, help="of quernel and torch (default: quernel's default)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: that of the process); returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        _run(task(args.task), args)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, RuntimeError, NotImplementedError, OSError, ImportError) as error:
        print(f"{args.task}: {error}", file=sys.stderr)
        return 1
    return 0


def _run(chosen: Task, args: argparse.Namespace) -> None:
    own = list(chosen.ways)
    if args.precision == "bf16":
        if own != [QUERNEL]:
            raise ValueError(f"--precision bf16: it compares {' and '.join(own)}, all in fp32")
        own.append(BF16)
    engines = [*own, *_peers(chosen, args.compare)]
    if args.threads:
        os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)
        from quernel import runtime

        runtime.set_num_threads(args.threads)
    if args.summary:
        chosen.net().summary(chosen.input_shape)
        return
    data = chosen.load(args.quick)
    print(f"{chosen.name}: {chosen.about}\n{chosen.describe(data)}", flush=True)
    if args.plot:
        _plot(chosen, data, args.plot)
        return
    rows = [("", chosen.score, "seeds", "time")]
    for name, value in chosen.baselines(data).items():
        rows.append((name, chosen.show(value), "", ""))
        print(f"{name}: {chosen.show(value)}", flush=True)
    epochs = args.epochs or (1 if args.quick else chosen.epochs)
    scores: dict[str, list[float]] = {engine: [] for engine in engines}
    seconds = dict.fromkeys(engines, 0.0)
    for seed in range(args.seeds):
        for engine in engines:
            print(f"\n{engine}, seed {seed}", flush=True)
            start = time.perf_counter()
            scores[engine].append(chosen.train(data, engine, epochs, seed, "auto"))
            seconds[engine] += time.perf_counter() - start
            print(f"{engine}, seed {seed}: {chosen.score} {chosen.show(scores[engine][-1])}", flush=True)
    for engine, values in scores.items():
        mean = sum(values) / len(values)
        each = ", ".join(map(chosen.show, values))
        rows.append((f"net, {engine}", chosen.show(mean), each, f"{seconds[engine] / args.seeds:.0f} s"))
    print("\n" + align(rows, left=1))


def _peers(chosen: Task, wanted: Sequence[str]) -> list[str]:
    for peer in wanted:
        if peer not in chosen.peers:
            raise ValueError(f"no net for {peer}; there is {' and '.join(chosen.peers) or 'none'}")
        if importlib.util.find_spec(peer) is None:
            raise ImportError(f"--compare {peer}: it is not installed")
    return list(dict.fromkeys(wanted))


def _plot(chosen: Task, data: Any, path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("--plot needs matplotlib; install with: pip install 'quernel[report]'")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    chosen.plot(data, figure)
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
