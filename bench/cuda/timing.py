"""Measuring side by side on a GPU.

A block is a row of calls between two waits for the device, so that what counts is the device's time, or the time of
launching where that is longer. Contenders take turns as in `bench.harness`. Operands come in as many copies as do not
fit into the L2 cache together, and calls go from one to the next: weights and activations of a real net are not there
either.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import quernel as qn
from bench import peers
from bench.harness import Case, Result

BLOCK_SECONDS = 2e-2
L2_BYTES = 128 * 2**20  # twice that of any GPU so far
MOST_COPIES = 64
WARM_UP = 3  # calls before a capture, as torch asks for


def torch_cuda() -> Any:
    """torch, if it can use the GPU."""
    torch = peers.find("torch")
    return torch if torch and torch.cuda.is_available() else None


def rotating(make: Callable[[], Any], nbytes: float) -> Callable[[], Any]:
    """A function that returns one of several results of `make`, of so many bytes each, in turn."""
    copies = max(1, min(MOST_COPIES, int(L2_BYTES / max(nbytes, 1.0)) + 1))
    return itertools.cycle([make() for _ in range(copies)]).__next__


def captured(torch: Any, call: Callable[[], object]) -> Callable[[], object]:
    """What torch does in `call` as one CUDA graph, captured as its documentation says."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    replay: Callable[[], object] = graph.replay
    return replay


def synchronize() -> None:
    """Waits until everything launched is done, ours and torch's."""
    qn.runtime.synchronize()
    if torch := torch_cuda():
        torch.cuda.synchronize()


def _block(call: Callable[[], object], repeats: int) -> float:
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize()
    return (time.perf_counter() - start) / repeats


def _repeats(call: Callable[[], object]) -> int:
    """How often a call fits into a block; warms it up on the way, past the capture of graphs."""
    _block(call, 4)
    return max(1, min(20_000, int(BLOCK_SECONDS / max(_block(call, 3), 1e-7))))


def measure(case: Case, rounds: int) -> Result:
    """Runs the contenders of a case in turn; medians of all rounds."""
    repeats = {name: _repeats(call) for name, call in case.contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in repeats}
    names = list(repeats)
    for _ in range(rounds):
        names = names[1:] + names[:1]
        for name in names:
            times[name].append(_block(case.contenders[name], repeats[name]))
    seconds = {name: median(values) for name, values in times.items()}
    spread = {name: (max(values) - min(values)) / seconds[name] for name, values in times.items()}
    extra = {**case.extra, "spread": spread}
    return Result(case.name, seconds, None, rounds, case.flops, case.nbytes, case.group, extra)
