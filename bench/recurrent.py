"""Recurrent nets: two layers of 64 over 100 steps, forward and one training step, beside torch and ONNX Runtime.

"quernel bf16" is the same net with products in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import peers
from bench.goals import Goal
from bench.harness import Case
from bench.train import RATE, quernel_step
from quernel import nn

GOALS = {"forward": Goal({1: 2.0, 2: 2.0}, floor=1.0), "step": Goal({1: 3.0, 2: 3.0}, floor=1.5)}
STEPS, FEATURES, HIDDEN, LAYERS, CLASSES = 100, 64, 64, 2, 10


def cases(threads: int, quick: bool) -> Iterator[Case]:
    """LSTM and GRU at batch 1, 16 and 64."""
    torch = peers.find("torch")
    for kind, gates in (("LSTM", 4), ("GRU", 3)):
        for n in (1,) if quick else (1, 16, 64):
            rng = np.random.default_rng(n)
            x, y = rng.standard_normal((n, STEPS, FEATURES)).astype("f4"), rng.integers(0, CLASSES, n)
            net, head = (
                getattr(nn, kind)(FEATURES, HIDDEN, LAYERS, returns="last"),
                nn.Linear(HIDDEN, CLASSES),
            )
            whole, rounded = nn.Sequential(net, head), _rounded(kind)
            flops = 2.0 * n * STEPS * LAYERS * gates * HIDDEN * (FEATURES + HIDDEN)
            twin = _twin(torch, kind, net, head) if torch else None
            name = f"{kind} {LAYERS}x{HIDDEN}, {STEPS} steps, batch {n}"
            forward = _forward(torch, whole, rounded, twin, x, threads)
            yield Case(f"{name}, forward", forward, flops=flops, group="forward")
            steps: dict[str, Callable[[], object]] = {
                "quernel": quernel_step(whole, x, y),
                "quernel bf16": quernel_step(rounded, x, y),
            }
            if twin:
                steps["torch"] = _torch_step(torch, twin, x, y)
            yield Case(f"{name}, step", steps, flops=3 * flops, group="step")


def _rounded(kind: str) -> nn.Sequential:
    layers = getattr(nn, kind)(FEATURES, HIDDEN, LAYERS, returns="last", precision="bf16")
    return nn.Sequential(layers, nn.Linear(HIDDEN, CLASSES, precision="bf16"))


def _twin(torch: Any, kind: str, net: Any, head: Any) -> Any:
    """The same net in torch, weights included; the last layer's last state goes into the head."""

    class Twin(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = getattr(torch.nn, kind)(FEATURES, HIDDEN, LAYERS, batch_first=True)
            self.head = torch.nn.Linear(HIDDEN, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.head(self.net(x)[0][:, -1])

    twin = Twin()
    for theirs, ours in ((twin.net, net), (twin.head, head)):
        theirs.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in ours.state_dict().items()})
    return twin


def _forward(
    torch: Any, net: Any, rounded: Any, twin: Any, x: np.ndarray, threads: int
) -> dict[str, Callable[[], object]]:
    frozen, in_bf16 = (n.freeze(max_batch=64, input_shape=x.shape[1:]) for n in (net, rounded))
    contenders: dict[str, Callable[[], object]] = {
        "quernel": lambda: frozen(x),
        "quernel bf16": lambda: in_bf16(x),
    }
    if twin:
        tx = torch.from_numpy(x)
        session = peers.onnx_session(twin.eval(), tx[:1], threads)
        if session:
            contenders["onnxruntime"] = lambda: session(x)

        def run() -> object:
            with torch.inference_mode():
                return twin(tx).numpy()

        contenders["torch"] = run
    return contenders


def _torch_step(torch: Any, twin: Any, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    optimizer = torch.optim.Adam(twin.parameters(), lr=RATE, fused=True)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)

    def step() -> object:
        twin.train()
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(twin(tx), ty)
        loss.backward()
        optimizer.step()
        return loss

    return step
