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

# Five times torch eager, which is the best peer of small nets where torch.compile takes longer.
GOALS = {"small": Goal({1: 5.0, 2: 5.0}, floor=2.0), "large": Goal({1: 1.3, 2: 1.8}, floor=1.2)}
SMALL = ("mlp", "lenet")
# So small that thousands of steps on one batch leave the loss where it is: as it vanished, gradients would become
# subnormal, and Adam takes twice as long on those.
RATE = 1e-9


def cases(_threads: int, quick: bool) -> Iterator[Case]:
    """Each net at batch 1 to 128."""
    torch = peers.find("torch")
    for name, (make, shape) in NETS.items():
        sizes = (1, 8, 32, 128) if name in SMALL else (1, 32, 128)
        for n in sizes[:1] if quick else sizes:
            x, y = batch(shape, n)
            contenders: dict[str, Callable[[], object]] = {"quernel": quernel_step(make(), x, y)}
            for compiled in (False,) if quick else (False, True):  # compiling takes a minute or more
                theirs = _torch_step(torch, make(), x, y, compiled) if torch else None
                if theirs:
                    contenders["torch.compile" if compiled else "torch"] = theirs
            group = "small" if name in SMALL and n < 128 else "large"
            yield Case(f"{name} batch {n}", contenders, group=group)


def quernel_step(net: Any, x: Any, y: Any) -> Callable[[], object]:
    """A step of Adam on one batch."""
    step = quernel_steps(net)
    return lambda: step(x, y)


def quernel_steps(net: Any) -> Callable[[Any, Any], object]:
    """Steps of Adam on the batches that they are given."""
    optimizer = optim.Adam(net.parameters(), lr=RATE)

    @qn.jit
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = losses.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def _torch_step(
    torch: Any, net: Any, x: np.ndarray, y: np.ndarray, compiled: bool
) -> Callable[[], object] | None:
    """The same in torch. Compiled are forward, loss and backward; Adam is one fused kernel already.

    torch.compile of the whole function breaks its graph at `backward` and at the optimizer: 1.6 times slower than this
    for the MLP at batch 8.
    """
    tensors = torch.from_numpy(nchw(x)), torch.from_numpy(y)
    step = torch_step(torch, peers.torch_layers(torch, net), *tensors, compiled)
    try:
        step()
    except RuntimeError as error:  # the compiler's, also for what the C++ compiler says
        if not compiled:
            raise
        print(f"torch.compile left out: {type(error).__name__}")
        return None
    return step


def torch_step(torch: Any, twin: Any, x: Any, y: Any, compiled: bool = False) -> Callable[[], object]:
    """A step of fused Adam on one batch, wherever the net and the batch lie."""
    optimizer = torch.optim.Adam(twin.parameters(), lr=RATE, fused=True)

    def loss_of(x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(twin(x), y)

    if compiled:
        torch.compiler.reset()
        loss_of = torch.compile(loss_of)

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        return loss

    return step
