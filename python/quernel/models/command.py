"""The command line that all files of the zoo share."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import quernel as qn
from quernel.data.batching import train_test_split
from quernel.errors import ArgumentError
from quernel.nn.module import Module

Shape = tuple[int, ...]
Make = Callable[[argparse.Namespace, Shape, int], Module]
Option = tuple[Callable[[str], Any], Any, str]


def integers(text: str) -> tuple[int, ...]:
    """Whole numbers above 0 with commas between them."""
    values = tuple(int(part) for part in text.split(","))
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return values


def _positive(text: str) -> int:
    return integers(text)[0]


def run(
    prog: str,
    about: str | None,
    make: Make,
    input_shape: Shape,
    classes: int = 10,
    options: Mapping[str, Option] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Prints a net's summary, and trains, times and saves it if asked to; returns the exit status.

    Args:
        prog: how the command is called.
        about: what the net is; the first line goes into the help.
        make: the net of the parsed options, for images of a shape (H, W, C) and a number of classes.
        input_shape: what the net is shown for, unless options or data say otherwise.
        classes: likewise.
        options: the net's own options: how to read one, its default, its help.
        argv: the command line (default: that of the process).
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=(about or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, (read, default, text) in (options or {}).items():
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        parser.add_argument(name, type=read, default=default, help=f"{text} (default: {shown})")
    shape = ",".join(map(str, input_shape))
    parser.add_argument(
        "--input-shape", type=integers, default=None, help=f"height,width,channels (default: {shape})"
    )
    parser.add_argument("--classes", type=_positive, default=None, help=f"outputs (default: {classes})")
    parser.add_argument(
        "--train",
        choices=("digits", "cluttered_digits"),
        help="train on these images, then test (needs scikit-learn)",
    )
    parser.add_argument(
        "--epochs", type=_positive, default=10, help="passes over the training images (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the net to a .safetensors file")
    parser.add_argument(
        "--benchmark", action="store_true", help="time a forward pass of the frozen net, batches of 1 and 16"
    )
    args = parser.parse_args(argv)
    try:
        _run(args, make, args.input_shape or input_shape, args.classes or classes)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, RuntimeError, NotImplementedError, OSError, ImportError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace, make: Make, shape: Shape, classes: int) -> None:
    if len(shape) != 3:
        raise ArgumentError(f"--input-shape is height,width,channels, got {','.join(map(str, shape))}")
    if args.save and not args.save.parent.is_dir():
        raise FileNotFoundError(f"--save {args.save}: there is no folder {args.save.parent}")
    if args.train:
        net, shape = _trained(args, make, shape)
    else:
        qn.seed(args.seed)
        net = make(args, shape, classes)
        net.summary(input_shape=shape)
    if args.benchmark:
        _benchmark(net, shape)
    if args.save:
        net.save(args.save, input_shape=shape)
        print(f"wrote {args.save}")


def _trained(args: argparse.Namespace, make: Make, shape: Shape) -> tuple[Module, Shape]:
    """The net for the images that were asked for, trained."""
    from quernel.data.tasks.common import Split
    from quernel.data.tasks.experiment import Recipe, fit

    if args.train == "digits":
        from quernel.data.digits import load_digits

        x, y = load_digits()
        x, x_test, y, y_test = train_test_split(_enlarged(x, shape), y, stratify=y)
        data, recipe = Split(x, y, x_test, y_test), Recipe(lr=0.05, batch_size=32)
    else:
        from quernel.data.tasks import cluttered_digits

        data, recipe = cluttered_digits.load(), cluttered_digits.RECIPE
    images = data.x.shape[1:]
    make(args, images, 10).summary(input_shape=images)
    net, scores = fit(lambda: make(args, images, 10), data, recipe, args.epochs, args.seed, "auto")
    print(f"{args.train}: test accuracy {scores['accuracy']:.2%} ({len(data.y_test)} images)")
    return net, images


def _enlarged(x: Any, shape: Shape) -> Any:
    """Digits (N, 8, 8, 1), every pixel repeated and the border filled with 0, as images of a shape."""
    height, width, channels = shape
    zoom = min(height, width) // 8
    if zoom < 1:
        raise ArgumentError(f"digits have 8 x 8 pixels, --input-shape has {height} x {width}")
    x = x.repeat(zoom, axis=1).repeat(zoom, axis=2).repeat(channels, axis=3)
    rows, columns = height - 8 * zoom, width - 8 * zoom
    return np.pad(x, ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)))


def _benchmark(net: Module, shape: Shape) -> None:
    frozen = net.eval().freeze(max_batch=16, input_shape=shape)
    for batch in (1, 16):
        x = np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)
        frozen(x)
        times: list[float] = []
        while len(times) < 5 or (sum(times) < 1 and len(times) < 1000):
            start = time.perf_counter()
            frozen(x)
            times.append(time.perf_counter() - start)
        median = float(np.median(times))
        rate = f"{median * 1e3:.3f} ms a call, {batch / median:,.0f} images a second"
        print(f"batch {batch}: {rate} (median of {len(times)}, {qn.runtime.num_threads()} threads)")
