"""Training steps (forward, backward, Adam) of small nets: torch eager, torch.compile and torch's CUDA graphs beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import quernel as qn
from bench import peers
from bench.cuda.timing import captured, torch_cuda
from bench.goals import Goal
from bench.harness import Case
from bench.nets import batch, nchw
from bench.train import RATE, quernel_step, torch_step
from quernel import models, nn

GOALS = {"step": Goal({1: 2.0})}
MLPS = [(width, n) for width in (64, 128, 256) for n in (128, 1024, 16384)]


def cases(quick: bool) -> Iterator[Case]:
    """MLPs of four layers, LeNet and ResNet-8."""
    nets: list[tuple[str, Callable[[], nn.Sequential], tuple[int, ...], int]] = [
        (f"mlp {width} batch {n}", lambda width=width: mlp(width), (width,), n)
        for width, n in ([(8, 4)] if quick else MLPS)
    ]
    if not quick:
        nets += [(f"lenet batch {n}", models.lenet5, (28, 28, 1), n) for n in (32, 128)]
        nets += [(f"resnet8 batch {n}", models.resnet8, (32, 32, 3), n) for n in (32, 128)]
    torch = torch_cuda()
    for name, make, shape, n in nets:
        x, y = batch(shape, n)
        net = make().to("cuda")
        ours = (qn.tensor(a, device="cuda") for a in (x, y))
        calls: dict[str, Callable[[], object]] = {"quernel": quernel_step(net, *ours)}
        if torch:
            theirs = torch.from_numpy(nchw(x)).cuda(), torch.from_numpy(y).cuda()
            calls["torch"] = _eager(torch, make(), *theirs)
            calls["torch.compile"] = _eager(torch, make(), *theirs, compiled=True)
            calls["torch, CUDA graph"] = _graph(torch, make(), *theirs)
        yield Case(name, calls, group="step")


def mlp(width: int) -> nn.Sequential:
    """Four layers."""
    hidden = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def _eager(torch: Any, net: Any, x: Any, y: Any, compiled: bool = False) -> Callable[[], object]:
    step = torch_step(torch, peers.torch_layers(torch, net).cuda(), x, y, compiled)
    step()
    return step


def _graph(torch: Any, net: Any, x: Any, y: Any) -> Callable[[], object]:
    """The whole step as one graph."""
    twin = peers.torch_layers(torch, net).cuda()
    optimizer = torch.optim.Adam(twin.parameters(), lr=RATE, capturable=True, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(twin(x), y).backward()
        optimizer.step()

    return captured(torch, step)
