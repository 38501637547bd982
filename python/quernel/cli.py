"""The command ``quernel``; each subcommand is the function of the same name in the API."""

from __future__ import annotations

import argparse
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from quernel.graph.trace import Input
    from quernel.nn.module import Module

_NPZ = "data file: .npz with arrays x (samples first) and y (labels)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: that of the process); returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print("\nquernel: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, RuntimeError, NotImplementedError, OSError, ImportError) as error:
        print(f"quernel {args.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quernel",
        description="Train, quantize and run small neural networks.",
        epilog="'quernel demo' shows everything at once in under a minute.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(run=run)
        return sub

    info = command(
        "info",
        _info,
        "show what the engine uses on this machine (instruction sets, threads, CUDA), or a model's memory",
    )
    info.add_argument("model", type=Path, nargs="?", help="model file: show what it needs when frozen")
    info.add_argument(
        "--input-shape", type=_shape, help="one sample, such as 28,28,1 (if the file does not tell)"
    )
    info.add_argument("--kernels", action="store_true", help="also list which level serves each kernel")

    demo = command(
        "demo", _demo, "train a CNN on handwritten digits, quantize it to int8, and compare the two"
    )
    demo.add_argument(
        "--out", type=Path, default=Path("quernel-demo"), help="folder for models and plot (%(default)s)"
    )
    demo.add_argument("--epochs", type=_positive, default=None, help="passes over the training images (12)")
    demo.add_argument("--seed", type=int, default=0, help="of shuffling, weights and dropout (%(default)s)")

    summary = command("summary", _summary, "show a model's layers, shapes, parameters and cost")
    summary.add_argument("model", type=Path, help="model file")
    summary.add_argument(
        "--input-shape", type=_shape, help="one sample, such as 28,28,1 (if the file does not tell)"
    )

    profile = command(
        "profile", _profile, "time a model's kernels inside its plan, beside what the machine can do"
    )
    profile.add_argument("model", type=Path, help="model file")
    profile.add_argument(
        "--input-shape", type=_shape, help="one sample, such as 28,28,1 (if the file does not tell)"
    )
    profile.add_argument("--batch-size", type=_positive, default=1, help="samples per call (%(default)s)")
    profile.add_argument("--repeats", type=_positive, default=100, help="calls that are timed (%(default)s)")
    profile.add_argument("--threads", type=_positive, help="of the engine (all that it may use)")
    profile.add_argument("--trace", type=Path, help="write a Chrome trace (.json) for ui.perfetto.dev")
    profile.add_argument("--plot", type=Path, help="draw the table into an image file (needs matplotlib)")

    _add_training(command)

    predict = command("predict", _predict, "run a saved model on inputs and save its outputs")
    predict.add_argument("model", type=Path, help="model file")
    predict.add_argument("inputs", type=Path, help="inputs: .npy, or .npz with an array x")
    predict.add_argument("--out", type=Path, required=True, help=".npy file for the outputs")

    compress = command("compress", _compress, "quantize a saved model to int8")
    compress.add_argument("model", type=Path, help="model file")
    compress.add_argument("calibration", type=Path, help="sample inputs: .npy, or .npz with an array x")
    compress.add_argument("--out", type=Path, required=True, help="file for the int8 model")
    return parser


def _add_training(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that know a loss."""
    train = command("train", _train, "train a saved model on a data file")
    train.add_argument("model", type=Path, help="model file to start from")
    train.add_argument("data", type=Path, help=_NPZ)
    train.add_argument("--out", type=Path, required=True, help="file for the trained model")
    train.add_argument("--epochs", type=_positive, default=10, help="passes over the data (%(default)s)")
    train.add_argument("--batch-size", type=_positive, default=64, help="samples per step (%(default)s)")
    train.add_argument(
        "--optimizer", default="adam", help="sgd, adam, adamw, nadam, rmsprop, adagrad or lion (%(default)s)"
    )
    train.add_argument(
        "--loss",
        default="cross_entropy",
        help="mse, bce_with_logits or another name in quernel.losses.LOSSES (%(default)s)",
    )
    train.add_argument(
        "--validation-split", type=float, default=0.0, help="share of the data held back (%(default)s)"
    )
    train.add_argument("--seed", type=int, default=0, help="of shuffling and dropout (%(default)s)")

    evaluate = command("eval", _eval, "print loss and accuracy of a saved model on a data file")
    evaluate.add_argument("model", type=Path, help="model file")
    evaluate.add_argument("data", type=Path, help=_NPZ)
    evaluate.add_argument(
        "--loss",
        default="cross_entropy",
        help="mse, bce_with_logits or another name in quernel.losses.LOSSES (%(default)s)",
    )


def _positive(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


# ---- commands -------------------------------------------------------------------------------------------------------


def _info(args: argparse.Namespace) -> None:
    import importlib.metadata

    import quernel as qn

    if args.model is not None:
        _model_info(args.model, args.input_shape)
        return
    qn.show_config()
    versions = []
    for name in ("numpy", "safetensors", "ml_dtypes", "tqdm", "matplotlib", "scikit-learn"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    print(f"{'python:':<9}{sys.version.split()[0]}, {', '.join(versions)}")
    coverage = qn.runtime.kernel_coverage()
    levels = sorted(set(coverage.values()))
    counts = ", ".join(f"{sum(v == level for v in coverage.values())} at {level}" for level in levels)
    print(f"{'kernels:':<9}{len(coverage)} ({counts})")
    if args.kernels:
        width = max(map(len, coverage))
        for kernel, level in coverage.items():
            print(f"  {kernel:<{width}}  {level}")


def _model_info(path: Path, input_shape: tuple[int, ...] | None) -> None:
    net = _load(path)
    _sample_inputs(net, path, input_shape)  # says how to tell the shape
    frozen = net.freeze(max_batch=64, input_shape=input_shape)
    memory = {batch: frozen.memory(batch) for batch in (1, 16, 64)}
    rows = {
        "parameters": f"{net.summary(input_shape, show=False).parameters:,}",
        "weights": _kib(memory[1].weights),
        "packed": _kib(frozen.packed_nbytes) + " (for the kernels, shared by all batch sizes)",
        **{f"batch {n}": _kib(m.arena) + " of intermediate results" for n, m in memory.items()},
    }
    if net.vocabulary is not None:
        rows["vocabulary"] = repr(net.vocabulary)
    for name, text in rows.items():
        print(f"{name + ':':<12}{text}")


def _kib(nbytes: int) -> str:
    return f"{nbytes / 1024:,.1f} KiB"


def _sample_inputs(net: Module, path: Path, input_shape: tuple[int, ...] | None) -> Sequence[Input]:
    from quernel.graph.trace import inputs_of

    inputs = inputs_of(net, input_shape)
    if inputs is None:
        raise ValueError(f"{path}: does not tell the shape of a sample; pass --input-shape, such as 28,28,1")
    return inputs


def _demo(args: argparse.Namespace) -> None:
    _require("sklearn", "matplotlib", extra="demo")
    from quernel import demo

    start = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    digits = demo.split(seed=args.seed)
    print(f"digits: {len(digits.x)} images of 8 x 8 pixels to train on, {len(digits.x_test)} to test on\n")
    demo.build().summary(input_shape=(8, 8, 1))
    print()
    net, history = demo.train(digits, args.epochs or demo.EPOCHS, args.seed, verbose="auto")
    variants = demo.compare(net, demo.quantize(net, digits), digits, args.out)
    print("\n" + demo.table(variants))
    history.plot(args.out / "training.png")
    written = ", ".join(sorted(path.name for path in args.out.iterdir()))
    print(f"\nwrote to {args.out}: {written}\n{time.perf_counter() - start:.0f} s in total")


def _summary(args: argparse.Namespace) -> None:
    _load(args.model).summary(input_shape=args.input_shape)


def _profile(args: argparse.Namespace) -> None:
    import quernel as qn

    for out in (args.trace, args.plot):
        if out is not None:
            _check_folder(out)
    if args.plot is not None:
        _require("matplotlib", extra="report")
    if args.threads is not None:
        qn.runtime.set_num_threads(args.threads)
    net = _load(args.model)
    inputs = _sample_inputs(net, args.model, args.input_shape)
    rng = np.random.default_rng(0)
    samples = [
        rng.standard_normal((args.batch_size, *i.shape)).astype(i.dtype)
        if np.dtype(i.dtype).kind == "f"
        else np.zeros((args.batch_size, *i.shape), i.dtype)
        for i in inputs
    ]
    result = qn.profile(net, *samples, repeats=args.repeats)
    print(result)
    if args.trace is not None:
        result.save_trace(args.trace)
        print(f"wrote {args.trace}")
    if args.plot is not None:
        result.plot(args.plot)
        print(f"wrote {args.plot}")


def _train(args: argparse.Namespace) -> None:
    import quernel as qn

    _check_folder(args.out)
    qn.seed(args.seed)
    net, (x, y) = _load(args.model), _samples(args.data)
    metrics = ["accuracy"] if args.loss == "cross_entropy" else []
    net.compile(optimizer=args.optimizer, loss=args.loss, metrics=metrics)
    split = args.validation_split
    net.fit(x, y, epochs=args.epochs, batch_size=args.batch_size, validation_split=split, verbose="auto")
    net.save(args.out)
    print(f"wrote {args.out}")


def _eval(args: argparse.Namespace) -> None:
    net, (x, y) = _load(args.model), _samples(args.data)
    net.compile(loss=args.loss, metrics=["accuracy"] if args.loss == "cross_entropy" else [])
    for name, value in net.evaluate(x, y).items():
        print(f"{name}: {value:.6g}")


def _predict(args: argparse.Namespace) -> None:
    _check_folder(args.out)
    outputs = _load(args.model).predict(_inputs(args.inputs))
    np.save(args.out, outputs)
    print(f"wrote {args.out}: {outputs.dtype} {outputs.shape}")


def _compress(args: argparse.Namespace) -> None:
    from quernel import compress

    _check_folder(args.out)
    small = compress.quantize(_load(args.model), calibration=_inputs(args.calibration))
    small.save(args.out)
    before, after = args.model.stat().st_size, args.out.stat().st_size
    print(f"wrote {args.out}: {after / 1024:.1f} KiB (from {before / 1024:.1f} KiB)")


# ---- files ----------------------------------------------------------------------------------------------------------


def _load(path: Path) -> Module:
    from quernel.io.checkpoint import load

    return load(path)


def _check_folder(out: Path) -> None:
    """Refuses, before any work is done, a result that could not be written."""
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no folder {out.parent}")


def _read(path: Path) -> Any:
    """The array or the archive of arrays in a file."""
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: is no .npy or .npz file of numbers ({error})") from None


def _arrays(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    archive = _read(path)
    if isinstance(archive, np.ndarray):
        raise TypeError(f"{path}: holds a single array; needed is an .npz file with {' and '.join(names)}")
    with archive as file:
        missing = [name for name in names if name not in file]
        if missing:
            raise ValueError(
                f"{path}: has no array {' and '.join(missing)} (it has {', '.join(file.files) or 'none'})"
            )
        return [file[name] for name in names]


def _samples(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    x, y = _arrays(path, ("x", "y"))
    return x, y


def _inputs(path: Path) -> npt.NDArray[Any]:
    file = _read(path)
    if isinstance(file, np.ndarray):
        return file
    file.close()
    return _arrays(path, ("x",))[0]


def _require(*modules: str, extra: str) -> None:
    import importlib.util

    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"needs {' and '.join(missing)}; install with: pip install 'quernel[{extra}]'")


if __name__ == "__main__":
    sys.exit(main())
