"""Sparse layers beside the dense one from few zeros to many, per format: where they break even.

The rule in `quernel.graph.sparse` is read from it. A full run takes every instruction set, for the plot.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.harness import Case
from bench.sparse import contenders

SIZE = 1024
BATCHES = (1, 4, 16, 64)
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
FORMATS = {"csr": None, "16x1": (16, 1)}
EVERY_ISA = True


def cases(_threads: int, quick: bool) -> Iterator[Case]:
    """Each format at each batch and density."""
    for name, block in FORMATS.items():
        for batch in BATCHES:
            for density in DENSITIES[::3] if quick else DENSITIES:
                extra = {"format": name, "batch": batch, "zeros": round(1 - density, 4)}
                calls = contenders(SIZE, batch, block, density, sweep=True)
                yield Case(f"{name} batch {batch} {1 - density:.0%} zeros", calls, extra=extra)
