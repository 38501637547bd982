"""Import time and memory in fresh processes, beside NumPy alone and the peers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from statistics import median

# Not getrusage(): its peak counts what the process was forked from.
_PROBE = """
import time
t = time.perf_counter()
import {module}
t = time.perf_counter() - t
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(t, int(status["VmHWM"].split()[0]) / 1024)
"""
MODULES = ("numpy", "quernel", "onnxruntime", "torch")


def run(_threads: int, quick: bool) -> tuple[str, dict[str, dict[str, float]]]:
    """Imports each module in processes of its own, in turn; returns a table and the figures (ms, MiB)."""
    seen: dict[str, list[tuple[float, float]]] = {module: [] for module in MODULES}
    with tempfile.TemporaryDirectory() as folder:
        # With bytecode at hand, as after an installation; a checkout may have none.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for lap in range(-1, 3 if quick else 15):  # the first one writes the bytecode
            for module in list(seen):
                probe = subprocess.run(
                    [sys.executable, "-c", _PROBE.format(module=module)],
                    capture_output=True,
                    text=True,
                    check=False,
                    env=environment,
                )
                if probe.returncode:
                    print(f"{module} left out: not installed")
                    del seen[module]
                elif lap >= 0:
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
