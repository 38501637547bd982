"""Import time and memory in fresh processes, beside NumPy alone and the peers."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

_PROBE = """
import resource, time
t = time.perf_counter()
import {module}
print(time.perf_counter() - t, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
MODULES = ("numpy", "quernel", "onnxruntime", "torch")


def run(_threads: int, quick: bool) -> tuple[str, dict[str, dict[str, float]]]:
    """Imports each module in processes of its own, in turn; returns a table and the figures (ms, MiB)."""
    seen: dict[str, list[tuple[float, float]]] = {module: [] for module in MODULES}
    for _ in range(3 if quick else 15):
        for module in list(seen):
            probe = subprocess.run(
                [sys.executable, "-c", _PROBE.format(module=module)],
                capture_output=True,
                text=True,
                check=False,
            )
            if probe.returncode:
                print(f"{module} left out: not installed")
                del seen[module]
                continue
            seconds, memory = map(float, probe.stdout.split())
            seen[module].append((seconds, memory))
    figures = {
        module: {"ms": median(s for s, _ in laps) * 1e3, "MiB": median(m for _, m in laps)}
        for module, laps in seen.items()
    }
    base = figures["numpy"]
    lines = ["import          ms   over numpy   peak MiB   over numpy"]
    lines += [
        f"{module:12}{f['ms']:>6.0f}{f['ms'] - base['ms']:>13.0f}{f['MiB']:>11.0f}{f['MiB'] - base['MiB']:>13.0f}"
        for module, f in figures.items()
    ]
    return "\n".join(lines), figures
