"""LeNet's training step in processes of its own: peak memory, and how late a step is beside a busy neighbour.

Peak memory is that of the whole process after some steps at batch 128; NumPy and the contender are all that it imports.
Delays are of steps at batch 32, one by one: the median when nothing else runs, and the 99th percentile while another
process keeps a core busy.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

Figures = dict[str, float]


def _quernel_step(x: np.ndarray, y: np.ndarray, threads: int) -> Callable[[], object]:
    from bench.train import quernel_step
    from quernel import models, runtime

    runtime.set_num_threads(threads)
    return quernel_step(models.lenet5(), x, y)


def _torch_step(x: np.ndarray, y: np.ndarray, threads: int) -> Callable[[], object]:
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-9, fused=True)
    images, labels = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(y)

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


MAKERS = {"quernel": _quernel_step, "torch": _torch_step}


def _child(contender: str, threads: int, batch: int, calls: int) -> None:
    """Prints peak memory (MiB) and the microseconds of each step but the first ones."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((batch, 28, 28, 1), dtype=np.float32), rng.integers(0, 10, batch)
    step = MAKERS[contender](x, y, threads)
    for _ in range(10):
        step()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e6)
    # Not getrusage's: it begins with what the parent had when it started this process.
    status = dict(
        line.split(":") for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    )
    print(json.dumps({"MiB": int(status["VmHWM"].split()[0]) / 1024, "us": times}))


def _run_child(contender: str, threads: int, batch: int, calls: int) -> dict[str, Any] | None:
    command = [sys.executable, "-m", "bench.step", contender, str(threads), str(batch), str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if "ModuleNotFoundError" in done.stderr:
            return None
        raise RuntimeError(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run(threads: int, quick: bool) -> tuple[str, dict[str, Figures]]:
    """Measures and returns a table and the figures behind it."""
    from bench.threads import neighbour

    calls = 500 if quick else 3000
    figures: dict[str, Figures] = {}
    for contender in MAKERS:
        large = _run_child(contender, threads, 128, 20)
        idle = _run_child(contender, threads, 32, calls)
        if large is None or idle is None:
            print(f"{contender} left out: not installed")
            continue
        with neighbour():
            busy = _run_child(contender, threads, 32, calls)
        assert busy is not None
        late, usual = quantiles(busy["us"], n=100)[98], median(idle["us"])
        figures[contender] = {
            "peak MiB": large["MiB"],
            "idle median us": usual,
            "busy median us": median(busy["us"]),
            "busy p99 us": late,
            "busy p99 over idle median": late / usual,
        }
    width = max(map(len, figures["quernel"]))
    lines = ["  ".join([" " * width, *(f"{name:>10}" for name in figures)])]
    lines += [
        "  ".join([f"{row:{width}}", *(f"{of[row]:>10.1f}" for of in figures.values())])
        for row in figures["quernel"]
    ]
    return "\n".join(lines), figures


if __name__ == "__main__":
    _child(sys.argv[1], *map(int, sys.argv[2:5]))
