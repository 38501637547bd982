"""One training step (forward, backward, Adam) as one native call, beside torch eager with fused Adam and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import quernel as qn
from bench import peers
from bench.goals import Goal
from bench.harness import Case
from bench.nets import NETS, batch, nchw
from quernel import losses, optim

# The best peer is torch.compile where it works.
GOALS = {"small": Goal({1: 3.0, 2: 3.0}, floor=2.0), "large": Goal({1: 1.3, 2: 1.8}, floor=1.2)}


def cases(_threads: int, quick: bool) -> Iterator[Case]:
    """Each net at batch 1, 8, 32 and 128."""
    torch = peers.find("torch")
    for name, (make, shape) in NETS.items():
        for n in (32,) if quick else (1, 8, 32, 128):
            x, y = batch(shape, n)
            contenders: dict[str, Callable[[], object]] = {"quernel": _step(make(), x, y)}
            if torch:
                contenders["torch"] = _torch_step(torch, make(), x, y, compiled=False)
                if not quick:
                    compiled = _torch_step(torch, make(), x, y, compiled=True)
                    if compiled:
                        contenders["torch.compile"] = compiled
            group = "small" if name in ("mlp", "lenet") and n < 128 else "large"
            yield Case(f"{name} batch {n}", contenders, group=group)


def _step(net: Any, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    optimizer = optim.Adam(net.parameters(), lr=1e-4)

    @qn.jit
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = losses.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return lambda: step(x, y)


def _torch_step(
    torch: Any, net: Any, x: np.ndarray, y: np.ndarray, compiled: bool
) -> Callable[[], object] | None:
    twin = peers.torch_layers(torch, net)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-4, fused=True)
    model = torch.compile(twin) if compiled else twin
    tx, ty = torch.from_numpy(nchw(x)), torch.from_numpy(y)

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(tx), ty)
        loss.backward()
        optimizer.step()
        return loss

    try:
        step()
    except Exception as error:
        if not compiled:
            raise
        print(f"torch.compile left out: {type(error).__name__}")
        return None
    return step
