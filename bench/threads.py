"""The thread pool: what it costs to share a call out, and what happens when another program keeps a core busy.

Four questions, three of them beside OpenMP (a few lines of C++ compiled on the spot, if there is a compiler):
  hot      a call right after another, every thread taking a chunk: the time from fork to join
  parked   a call after a pause of 20 ms: what the caller loses over doing the same chunks alone
  busy     many calls while a second process spins on a core, beside the quiet median and one thread doing them alone
  ctrl-c   from the signal to the exception, inside a long call
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median, quantiles

from quernel import _core

CHUNK_NS = 20_000
SHORT_NS = 5_000

_OPENMP = r"""
#include <chrono>
#include <omp.h>
#include <unistd.h>
static double now() {
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
static void work(double ns) { for (double end = now() + ns; now() < end;) {} }
// Times `calls` parallel loops of `chunks` chunks into `out`.
extern "C" void omp_calls(int threads, int calls, int chunks, double chunk_ns, int pause_us, double* out) {
  omp_set_num_threads(threads);
  for (int i = 0; i < calls; ++i) {
    if (pause_us) usleep(pause_us);
    const double start = now();
#pragma omp parallel for schedule(dynamic, 1)
    for (int c = 0; c < chunks; ++c) if (chunk_ns > 0) work(chunk_ns);
    out[i] = now() - start;
  }
}
"""

Calls = Callable[
    [int, int, int, int], list[float]
]  # (calls, chunks, ns per chunk, pause in us) -> ns of each call


def _openmp(folder: str, threads: int) -> Calls | None:
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    source, library = Path(folder) / "omp.cpp", Path(folder) / "libomp_calls.so"
    source.write_text(_OPENMP, encoding="ascii")
    done = subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-fopenmp", str(source), "-o", str(library)], check=False
    )
    if done.returncode:
        return None
    run = ctypes.CDLL(str(library)).omp_calls

    def calls(n: int, chunks: int, chunk_ns: int, pause_us: int) -> list[float]:
        out = (ctypes.c_double * n)()
        run(threads, n, chunks, ctypes.c_double(chunk_ns), pause_us, out)
        return list(out)

    return calls


def _pool(n: int, chunks: int, chunk_ns: int, pause_us: int) -> list[float]:
    return [ns for ns, _ in _core.pool_calls(n, chunks, chunk_ns, pause_us * 1000)]


@contextmanager
def neighbour() -> Iterator[None]:
    """Another process that keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        time.sleep(0.2)
        try:
            yield
        finally:
            process.kill()


def _alone(n: int, chunks: int, chunk_ns: int, pause_us: int) -> list[float]:
    return [ns for ns, _ in _core.pool_calls(n, chunks, chunk_ns, pause_us * 1000, serial=True)]


def _hot(n: int) -> float:
    """Of our own calls, those in which every thread took a chunk count: a worker may be kept away by others."""
    hot: list[float] = []
    for _ in range(20):
        hot += _core.fork_join_ns(n // 4)
        if len(hot) >= n:
            break
        time.sleep(0.05)
    return median(hot) if hot else math.nan


def _ctrl_c(tries: int) -> float:
    """Median nanoseconds from a signal to the KeyboardInterrupt that it causes."""
    delays: list[float] = []

    def note(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, note)
    try:
        for i in range(tries):
            due = time.perf_counter() + 0.03 + 0.005 * i
            signal.setitimer(signal.ITIMER_REAL, due - time.perf_counter())
            with contextlib.suppress(KeyboardInterrupt):
                _core.pool_calls(1, 1_000_000, CHUNK_NS)
            delays.append((time.perf_counter() - due) * 1e9)
    finally:
        signal.signal(signal.SIGALRM, before)
    return median(delays)


def _figures(calls: Calls, threads: int, n: int) -> dict[str, float]:
    # Short chunks after a pause: doing them alone would take SHORT_NS each.
    parked, alone = calls(50, threads, SHORT_NS, 20_000), _alone(50, threads, SHORT_NS, 20_000)
    chunks = 8 * threads
    quiet = calls(n // 4, chunks, CHUNK_NS, 0)
    with neighbour():
        busy = calls(n, chunks, CHUNK_NS, 0)
    return {
        "parked": median(parked) - median(alone),
        "quiet median": median(quiet),
        "busy mean": mean(busy),
        "busy median": median(busy),
        "busy p99": quantiles(busy, n=100)[98],
        "busy worst": max(busy),
    }


def run(threads: int, quick: bool) -> tuple[str, dict[str, dict[str, float]]]:
    """Measures and returns a table and the figures behind it, in microseconds."""
    n = 200 if quick else 4000
    with tempfile.TemporaryDirectory() as folder:
        openmp = _openmp(folder, threads)
        if openmp is None:
            print("OpenMP left out: no compiler with -fopenmp")
        figures: dict[str, dict[str, float]] = {}
        figures["quernel"] = {
            "hot": _hot(n),
            **_figures(_pool, threads, n),
            "ctrl-c": _ctrl_c(3 if quick else 15),
        }
        if openmp:
            hot = openmp(2 * n, threads, 0, 0)[n:]
            figures["OpenMP"] = {"hot": median(hot), **_figures(openmp, threads, n)}
        figures["one thread"] = _figures(_alone, threads, n)
    figures = {name: {row: ns / 1e3 for row, ns in rows.items()} for name, rows in figures.items()}
    width = max(map(len, figures["quernel"]))
    lines = ["  ".join([f"{'us':{width}}", *(f"{name:>10}" for name in figures)])]
    for row in figures["quernel"]:
        cells = (f"{rows[row]:>10.1f}" if row in rows else f"{'-':>10}" for rows in figures.values())
        lines.append("  ".join([f"{row:{width}}", *cells]))
    return "\n".join(lines), figures
