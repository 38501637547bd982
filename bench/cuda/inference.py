"""Small MLPs forward, on the device: torch eager, torch.compile and torch's CUDA graphs beside them.

All of the net is one kernel of quernel's (cuda/kernels/mlp.cu), which a plan chooses by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import quernel as qn
from bench import peers
from bench.cuda.steps import mlp
from bench.cuda.timing import captured, torch_cuda
from bench.goals import Goal
from bench.harness import Case
from bench.nets import batch

GOALS = {"width 64": Goal({1: 3.0}), "width 128": Goal({1: 2.0})}
BATCHES = (128, 512, 1024, 4096, 16384)


def cases(quick: bool) -> Iterator[Case]:
    """Four layers at each width and batch."""
    torch = torch_cuda()
    for width in (8,) if quick else (64, 128):
        for n in (4,) if quick else BATCHES:
            net = mlp(width)
            x, _ = batch((width,), n)
            calls = {"quernel": _quernel(net, x)} | (_torch(torch, net, x) if torch else {})
            flops = 2.0 * n * sum(p.size for p in net.parameters() if p.ndim == 2)
            yield Case(f"mlp {width}x4 batch {n}", calls, flops, group=f"width {width}")


def _quernel(net: Any, x: Any) -> Callable[[], object]:
    ours = qn.tensor(x, device="cuda")
    twin = mlp(x.shape[1]).to("cuda")
    twin.load_state_dict(net.state_dict())

    @qn.jit
    def run(x: Any) -> Any:
        with qn.no_grad():
            return twin(x)

    return lambda: run(ours)


def _torch(torch: Any, net: Any, x: Any) -> dict[str, Callable[[], object]]:
    twin = peers.torch_layers(torch, net).cuda()
    theirs = torch.from_numpy(x).cuda()

    def run(forward: Any) -> Callable[[], object]:
        def call() -> object:
            with torch.no_grad():
                return forward(theirs)

        return call

    torch.compiler.reset()
    return {
        "torch": run(twin),
        "torch.compile": run(torch.compile(twin)),
        "torch, CUDA graph": captured(torch, run(twin)),
    }
