"""The thread pool: what it costs to share a call out, and what happens when another program keeps a core busy.

Three questions, each beside OpenMP (a few lines of C++ compiled on the spot, if there is a compiler):
  hot      a call right after another, every thread taking a chunk: the time from fork to join
  parked   a call after a pause of 20 ms: what the caller loses over doing the same chunks alone
  busy     the slowest of many calls while a second process spins on a core, over the quiet median
"""

from __future__ import annotations

import ctypes
import multiprocessing
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

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


def _spin() -> None:
    while True:
        pass


@contextmanager
def _neighbour() -> Iterator[None]:
    """Another process that keeps a core busy."""
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        process.kill()
        process.join()


def run(threads: int, quick: bool) -> tuple[str, dict[str, dict[str, float]]]:
    """Measures and returns a table and the figures behind it, in microseconds."""
    n = 200 if quick else 2000
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        contenders: dict[str, Calls | None] = {"quernel": _pool, "OpenMP": _openmp(folder, threads)}
        for name, calls in contenders.items():
            if calls is None:
                print(f"{name} left out: no compiler with -fopenmp")
                continue
            calls(n, threads, 0, 0)
            figures[name] = _figures(name, calls, threads, n)
    rows = ["hot", "parked", "quiet median", "busy median", "busy p99", "busy worst"]
    width = max(map(len, rows))
    lines = ["  ".join([f"{'us':{width}}", *(f"{name:>10}" for name in figures)])]
    lines += ["  ".join([f"{row:{width}}", *(f"{f[row]:>10.1f}" for f in figures.values())]) for row in rows]
    return "\n".join(lines), figures


def _figures(name: str, calls: Calls, threads: int, n: int) -> dict[str, float]:
    # Of our own calls, those in which every thread took a chunk; OpenMP's all do.
    hot = _core.fork_join_ns(n) if name == "quernel" else calls(n, threads, 0, 0)
    # Short chunks after a pause: doing them alone would take SHORT_NS each.
    parked = calls(50, threads, SHORT_NS, 20_000)
    alone = [ns for ns, _ in _core.pool_calls(50, threads, SHORT_NS, 20_000_000, serial=True)]
    chunks = 8 * threads
    quiet = calls(n // 4, chunks, CHUNK_NS, 0)
    with _neighbour():
        busy = calls(n // 2, chunks, CHUNK_NS, 0)
    values = {
        "hot": median(hot),
        "parked": median(parked) - median(alone),
        "quiet median": median(quiet),
        "busy median": median(busy),
        "busy p99": quantiles(busy, n=100)[98],
        "busy worst": max(busy),
    }
    return {key: value / 1e3 for key, value in values.items()}
