"""fp32 linear layers with bias and GELU, weights packed once: NumPy, torch and ONNX Runtime beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import peers
from bench.gemm import SHAPES
from bench.goals import Goal
from bench.harness import Case
from quernel import nn

GOALS = {"": Goal({1: 1.2, 2: 1.4}, floor=0.98)}


def cases(threads: int, quick: bool) -> Iterator[Case]:
    """gelu(x W^T + b) for each (batch, out, in) of the shapes of `gemm`."""
    torch = peers.find("torch")
    for m, n, k in SHAPES[3:13] if quick else SHAPES:
        x = np.random.default_rng(0).standard_normal((m, k), dtype=np.float32)
        net = nn.Sequential(nn.Linear(k, n), nn.GELU()).eval()
        frozen = net.freeze(max_batch=m)
        contenders: dict[str, Callable[[], object]] = {"quernel": lambda x=x, run=frozen: run(x)}
        weight, bias = (np.asarray(p) for p in net.parameters())
        contenders["numpy"] = lambda x=x, w=weight.T, b=bias: _gelu(x @ w + b)
        if torch:
            contenders |= _torch(torch, x, weight, bias, threads)
        yield Case(f"{m}x{n}x{k}", contenders, 2.0 * m * n * k, 4.0 * (m * k + k * n + m * n))


def _gelu(z: np.ndarray) -> np.ndarray:
    """By the tanh, for NumPy has no erf."""
    return 0.5 * z * (1 + np.tanh(0.7978845608 * (z + 0.044715 * z * z * z)))


def _torch(
    torch: Any, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, threads: int
) -> dict[str, Callable[[], object]]:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy())
    model = torch.nn.Sequential(layer, torch.nn.GELU()).eval()
    t = torch.from_numpy(x)

    def infer() -> object:
        with torch.inference_mode():
            return model(t)

    contenders: dict[str, Callable[[], object]] = {"torch": infer}
    session = peers.onnx_session(model, t, threads)
    if session:
        contenders["onnxruntime"] = lambda: session(x)
    return contenders
