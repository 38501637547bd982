"""``quernel demo``: trains a CNN on scikit-learn's handwritten digits, quantizes it to int8 and compares the two.

1797 images of 8 x 8 pixels; one fold of five is held back for the test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import quernel as qn
from quernel import compress, data, nn
from quernel.graph.summary import align
from quernel.history import History
from quernel.nn.module import Module
from quernel.quant.model import QuantizedModel

FOLDS = 5
EPOCHS = 12
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Split:
    """One fold of the digits: x (N, 8, 8, 1) float32 in [0, 1], y (N) int64."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array


@dataclass(frozen=True)
class Variant:
    """One line of the demo's table; latencies are medians in seconds."""

    name: str
    accuracy: float
    nbytes: int
    latency: Mapping[int, float]


def split(fold: int = 0, seed: int = 0) -> Split:
    """Shuffles the digits by `seed` and holds fold `fold` of five back."""
    x, y = data.load_digits()
    train, test = list(data.k_folds(len(x), FOLDS, seed, stratify=y))[fold]
    return Split(x[train], y[train], x[test], y[test])


def build() -> nn.Sequential:
    """The demo's network: three convolutions with BatchNorm, two poolings, one linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding="same"), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding="same"), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding="same"), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 10)),
    )


def train(
    digits: Split, epochs: int = EPOCHS, seed: int = 0, verbose: str | int = 0
) -> tuple[Module, History]:
    """Trains the network on `digits`; returns it with its history."""
    qn.seed(seed)
    net = build()
    net.compile(
        optimizer=qn.optim.Adam(net.parameters(), lr=2e-3), loss="cross_entropy", metrics=["accuracy"]
    )
    validation = (digits.x_test, digits.y_test)
    history = net.fit(
        digits.x, digits.y, epochs=epochs, batch_size=64, validation_data=validation, verbose=verbose
    )
    return net, history


def quantize(net: Module, digits: Split) -> QuantizedModel:
    """The int8 network, calibrated on training images."""
    return compress.quantize(net, calibration=digits.x[:512])


def accuracy(run: Callable[[Array], Array], digits: Split) -> float:
    """Share of the test images that `run` (images to class scores) gets right."""
    return float(np.mean(run(digits.x_test).argmax(-1) == digits.y_test))


def compare(net: Module, quantized: QuantizedModel, digits: Split, out: Path) -> list[Variant]:
    """Saves both networks to `out` and measures the three ways of running them."""
    files = {"fp32": out / "digits-fp32.safetensors", "int8": out / "digits-int8.safetensors"}
    net.save(files["fp32"])
    quantized.save(files["int8"])
    net.eval()

    def eager(x: Array) -> Array:
        with qn.no_grad():
            scores: Array = net(x).numpy()
        return scores

    runs: dict[str, Callable[[Array], Array]] = {
        "fp32 eager": eager,
        "fp32 plan": net.freeze(max_batch=64),
        "int8 plan": quantized.freeze(max_batch=64),
    }
    latency = measure(runs, digits.x_test, batches=(1, 64))
    sizes = {kind: path.stat().st_size for kind, path in files.items()}
    return [
        Variant(name, accuracy(run, digits), sizes[name[:4]], latency[name]) for name, run in runs.items()
    ]


def measure(
    runs: Mapping[str, Callable[[Array], Array]], x: Array, batches: Sequence[int], rounds: int = 100
) -> dict[str, dict[int, float]]:
    """Median seconds of each run at each batch size; the runs take turns, so that all see the same machine."""
    seconds: dict[str, dict[int, list[float]]] = {name: {b: [] for b in batches} for name in runs}
    for batch in batches:
        sample = np.ascontiguousarray(x[:batch])
        for run in runs.values():
            run(sample)
        for _ in range(rounds):
            for name, run in runs.items():
                repeats = max(1, 32 // batch)
                start = time.perf_counter()
                for _ in range(repeats):
                    run(sample)
                seconds[name][batch].append((time.perf_counter() - start) / repeats)
    return {
        name: {b: float(np.median(times)) for b, times in table.items()} for name, table in seconds.items()
    }


def table(variants: Sequence[Variant]) -> str:
    """The variants as text."""
    rows = [("variant", "test accuracy", "file size", "batch 1", "batch 64")]
    for v in variants:
        times = (f"{v.latency[b] * 1e6:,.0f} us" for b in (1, 64))
        rows.append((v.name, f"{v.accuracy:.2%}", f"{v.nbytes / 1024:,.1f} KiB", *times))  # type: ignore[arg-type]
    return align(rows, left=1)
