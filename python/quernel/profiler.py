"""`qn.profile`: where the time of a call goes, kernel by kernel, inside plans too.

Kernels are timed in the plan that really runs, not op by op beside it: two readings of the clock around each, about 50
ns. Beside its time stands the least that this machine needs for it (the roofline: its arithmetic at the FMA peak, or its
operands at the speed with which memory of that size is copied, whichever takes longer), both measured at the first profile.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from quernel import _core, runtime
from quernel.errors import ArgumentError, StateError
from quernel.graph import Frozen
from quernel.nn.module import Module

_FLOAT64_SHARE = 0.5  # of the float32 peak: half the lanes
_INT8_SHARE = 4.0  # the same with dot products of four: levels vnni and above
_BF16_SHARE = 2.0  # and of two


@dataclass(frozen=True)
class Step:
    """One kernel of a call, or several alike if calls differ.

    Attributes:
        op: the op that ran it.
        layer: the layer's path in the model, "" where unknown (a training step, code of the user's own).
        kernel: the kernel's name.
        isa: the instruction set that it was compiled for.
        calls: how often it ran in a call.
        seconds: time in a call, the median over the calls.
        flops: arithmetic operations, a multiply-add counted as two; 0 where memory sets the pace.
        nbytes: bytes of its operands.
        roofline: the share of what the machine could do, from 0 to about 1; None if there is nothing to compare with.
    """

    op: str
    layer: str
    kernel: str
    isa: str
    calls: float
    seconds: float
    flops: float
    nbytes: int
    roofline: float | None


@dataclass(frozen=True)
class Profile:
    """What `profile` found.

    Attributes:
        name: what was profiled.
        steps: the kernels, in the order of a call.
        seconds: of a whole call, the median.
        repeats: how many calls.
        threads: threads of the pool.
        spans: of every call the kernels: (op, layer, kernel, isa, begin ns, end ns).
    """

    name: str
    steps: tuple[Step, ...]
    seconds: float
    repeats: int
    threads: int
    spans: tuple[tuple[tuple[str, str, str, str, int, int], ...], ...] = field(repr=False)

    @property
    def kernel_seconds(self) -> float:
        """The kernels' part of a call; the rest is Python, and fork and join of the threads' work."""
        return sum(step.seconds for step in self.steps)

    def table(self) -> str:
        """The steps as aligned text, microseconds per call."""
        rows = [["op", "layer", "kernel", "isa", "us", "share", "GFLOP/s", "GB/s", "roofline"]]
        for s in self.steps:
            rate = [s.flops / s.seconds / 1e9, s.nbytes / s.seconds / 1e9] if s.seconds else [0.0, 0.0]
            rows.append(
                [
                    s.op if s.calls == 1 else f"{s.op} x{s.calls:g}",
                    s.layer,
                    s.kernel,
                    s.isa,
                    f"{s.seconds * 1e6:.2f}",
                    f"{s.seconds / self.seconds:.0%}",
                    f"{rate[0]:.1f}" if s.flops else "-",
                    f"{rate[1]:.1f}",
                    "-" if s.roofline is None else f"{s.roofline:.0%}",
                ]
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(
                c.ljust(w) if i < 4 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        rest = self.seconds - self.kernel_seconds
        lines.append(
            f"{self.name}: {self.seconds * 1e6:.1f} us a call (median of {self.repeats}, {self.threads} threads), "
            f"{self.kernel_seconds * 1e6:.1f} in kernels, {rest * 1e6:.1f} around them"
        )
        return "\n".join(line.rstrip() for line in lines)

    __str__ = table

    def save_trace(self, path: str | Path) -> None:
        """Writes every call's kernels as a Chrome trace: open it in chrome://tracing or ui.perfetto.dev."""
        origin = min((call[0][4] for call in self.spans if call), default=0)
        events = [
            {
                "name": layer or op,
                "cat": op,
                "ph": "X",
                "ts": (begin - origin) / 1e3,
                "dur": (end - begin) / 1e3,
                "pid": 0,
                "tid": 0,
                "args": {"op": op, "kernel": kernel, "isa": isa, "call": i},
            }
            for i, call in enumerate(self.spans)
            for op, layer, kernel, isa, begin, end in call
        ]
        Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}), encoding="utf-8")

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws the steps as bars, the roofline's part of each filled.

        Args:
            path: file to write, such as ``profile.png``; None returns the figure.

        Raises:
            ImportError: matplotlib is missing (``pip install 'quernel[report]'``).
        """
        from matplotlib.figure import Figure

        shown = [s for s in self.steps if s.seconds >= 0.002 * self.seconds] or list(self.steps)
        fig = Figure(figsize=(8, 1.4 + 0.3 * len(shown)), layout="constrained")
        axes = fig.subplots()
        places = range(len(shown))
        spent = [s.seconds * 1e6 for s in shown]
        needed = [s.seconds * 1e6 * min(s.roofline or 0.0, 1.0) for s in shown]
        axes.barh(places, spent, color="#c8d3e0", label="spent")
        axes.barh(places, needed, color="#30588c", label="needed at the roofline")
        axes.set_yticks(places, [f"{s.layer} {s.op}".strip() for s in shown], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("microseconds a call")
        axes.set_title(
            f"{self.name}: {self.seconds * 1e6:.1f} us a call, {self.threads} threads", fontsize=10
        )
        axes.spines[["top", "right"]].set_visible(False)
        fig.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
        if path is None:
            return fig
        fig.savefig(path, dpi=150)
        return None


def profile(target: Any, *inputs: Any, repeats: int = 30, warmup: int = 5) -> Profile:
    """Times the kernels of calls of `target` with these inputs.

    Args:
        target: a model (its frozen plan is what runs), what ``freeze()`` returned, a function made by `qn.jit`, or any other
            function. A training step really trains while it is profiled.
        inputs: its arguments.
        repeats: calls that are timed.
        warmup: calls before them, in which plans are recorded.

    Returns:
        A `Profile`; print it for a table.

    Raises:
        StateError: the calls run no kernel on this thread.

    Example:
        >>> net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> result = qn.profile(net, np.ones((8, 64), np.float32), repeats=3)
        >>> [(step.op, step.layer) for step in result.steps]
        [('linear', '0'), ('linear', '2')]
    """
    counts: list[tuple[str, Any, int]] = [("repeats", repeats, 1), ("warmup", warmup, 0)]
    for what, count, least in counts:
        if not isinstance(count, int) or count < least:
            raise ArgumentError(f"[profile] {what} is a whole number of at least {least}, got {count!r}")
    if not callable(target):
        raise ArgumentError(f"[profile] expects a model or a function, got {type(target).__name__}")
    if not inputs and isinstance(target, Module | Frozen):
        raise ArgumentError(
            f"[profile] {type(target).__name__} is called with inputs: qn.profile(model, x), x a batch of them"
        )
    name = getattr(target, "__qualname__", type(target).__name__)
    call = _callable(target, inputs)
    for _ in range(max(warmup, 3)):  # the first call of a plan is eager, the second is recorded
        call()
    seconds: list[float] = []
    calls: list[list[tuple[Any, ...]]] = []
    native = _core.Profile()
    try:
        for _ in range(repeats):
            native.clear()
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
            calls.append(native.spans())
    finally:
        native.stop()
    if not any(calls):
        raise StateError(f"[profile] {name} ran no kernel on this thread")
    return Profile(
        name,
        tuple(_steps(calls)),
        median(seconds),
        repeats,
        runtime.num_threads(),
        tuple(tuple((*span[:4], *span[6:]) for span in spans) for spans in calls),
    )


def _callable(target: Any, inputs: Sequence[Any]) -> Callable[[], object]:
    if isinstance(target, Module):
        batch = max(1, len(inputs[0])) if inputs and hasattr(inputs[0], "__len__") else 1
        return functools.partial(target.freeze(max_batch=batch), *inputs)
    return functools.partial(target, *inputs)


def _steps(calls: Sequence[Sequence[tuple[Any, ...]]]) -> list[Step]:
    """One step per kernel where all calls ran the same ones, else one per kind."""
    kinds = [[span[:4] for span in spans] for spans in calls]
    if all(kind == kinds[0] for kind in kinds):
        return [
            _step(kind, list(column), 1)
            for kind, column in zip(kinds[0], zip(*calls, strict=True), strict=True)
        ]
    found: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for spans in calls:
        for span in spans:
            found.setdefault(span[:4], []).append(span)
    return [_step(kind, spans, len(spans) / len(calls)) for kind, spans in found.items()]


def _step(kind: tuple[Any, ...], spans: Sequence[tuple[Any, ...]], count: float) -> Step:
    seconds = median(end - begin for *_, begin, end in spans) / 1e9 * count
    flops, nbytes = (median(span[i] for span in spans) * count for i in (4, 5))
    op, layer, kernel, isa = kind
    least = _least_seconds(kernel, isa, flops, nbytes)
    return Step(
        op,
        layer,
        kernel,
        isa,
        count,
        seconds,
        flops,
        int(nbytes),
        least / seconds if least and seconds else None,
    )


def _least_seconds(kernel: str, isa: str, flops: float, nbytes: float) -> float | None:
    threads = runtime.num_threads()
    share: float | None = 1.0
    if kernel.endswith("_f64"):
        share = _FLOAT64_SHARE
    elif kernel.endswith("u8s8"):
        share = (
            _INT8_SHARE if isa in ("vnni", "avxvnni") else None
        )  # others have no simple relation to the FMA peak
    elif kernel.endswith("_bf16") and isa in ("bf16", "amx"):
        share = _BF16_SHARE if isa == "bf16" else None
    moving = nbytes / _bandwidth(max(0, math.ceil(math.log2(max(nbytes, 1)))), threads, isa)
    if not flops:
        return moving
    return None if share is None else max(moving, flops / (_compute_peak(threads, isa) * share))


@functools.cache
def _compute_peak(threads: int, isa: str) -> float:  # noqa: ARG001 - of the active level, which `isa` stands for
    """Operations a second of float32 multiply-adds."""
    return 1e9 * max(_core.fma_peak(threads) for _ in range(3))


@functools.cache
def _bandwidth(log2_bytes: int, threads: int, isa: str) -> float:  # noqa: ARG001
    """Bytes a second of copies within so much memory."""
    nbytes = 2 ** min(max(log2_bytes, 15), 27)
    return 1e9 * float(_core.copy_peak(nbytes, threads))
