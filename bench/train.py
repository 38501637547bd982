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
SMALL = ("mlp", "lenet")


def cases(_threads: int, quick: bool) -> Iterator[Case]:
    """Each net at batch 1 to 128."""
    torch = peers.find("torch")
    for name, (make, shape) in NETS.items():
        sizes = (1, 8, 32, 128) if name in SMALL else (1, 32, 128)
        for n in (32,) if quick else sizes:
            x, y = batch(shape, n)
            contenders: dict[str, Callable[[], object]] = {"quernel": quernel_step(make(), x, y)}
            if torch:
                contenders["torch"] = _torch_step(torch, make(), x, y)
                if not quick:  # compiling takes a minute or more
                    compiled = _compiled_step(torch, make(), x, y)
                    if compiled:
                        contenders["torch.compile"] = compiled
            group = "small" if name in SMALL and n < 128 else "large"
            yield Case(f"{name} batch {n}", contenders, group=group)


def quernel_step(net: Any, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """A step of Adam on one batch."""
    optimizer = optim.Adam(net.parameters(), lr=1e-4)

    @qn.jit
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = losses.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return lambda: step(x, y)


def _torch_step(torch: Any, net: Any, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    twin = peers.torch_layers(torch, net)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-4, fused=True)
    tx, ty = torch.from_numpy(nchw(x)), torch.from_numpy(y)

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(twin(tx), ty)
        loss.backward()
        optimizer.step()
        return loss

    return step


def _compiled_step(torch: Any, net: Any, x: np.ndarray, y: np.ndarray) -> Callable[[], object] | None:
    """The same function through torch.compile, Adam's update included; None if that does not work here."""
    torch.compiler.reset()
    step: Callable[[], object] = torch.compile(_torch_step(torch, net, x, y))
    try:
        for _ in range(3):  # the first steps make the optimizer's state and its graph
            step()
    except RuntimeError as error:  # the compiler's, and what the generated code's compiler says
        print(f"torch.compile left out: {type(error).__name__}")
        return None
    return step
