"""The cost of a call: small eager ops, a jitted one, and a small frozen net, called from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import quernel as qn
from bench import peers
from bench.goals import Goal
from bench.harness import Case
from quernel import compress, nn

SIZE = 16  # of the eager ops' matrices: what is measured is the way to the kernel
GOALS = {
    "eager": Goal(most_us=4.0),
    "jit": Goal(most_us=4.0),
    "fp32": Goal({1: 1.5, 2: 1.5}, floor=1.0, most_us=10.0),
    "int8": Goal({1: 3.0, 2: 3.0}, floor=1.2, most_us=5.0),
}
REASONS = {
    "linear with gradient": "The function and its rule, a closure, are Python's.",
    "mlp 3x256 fp32": "The kernels' time: 768 KiB of weights pass through the core once per call, more than its L2 holds.",
}

Contenders = dict[str, Callable[[], object]]


def cases(threads: int, quick: bool) -> Iterator[Case]:
    """Eager ops without and with gradients, a jitted sum, and three layers of 256 at batch 1."""
    torch = peers.find("torch")
    for gradients in (False,) if quick else (False, True):
        for name, contenders in _eager(torch, gradients).items():
            yield Case(name + (" with gradient" if gradients else ""), contenders, group="eager")
    yield Case("jitted add", _jitted(), group="jit")
    yield from _frozen(torch, threads)


def _arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIZE, SIZE), dtype=np.float32) for _ in range(2))
    return a, b, np.zeros(SIZE, np.float32)


def _eager(torch: Any, gradients: bool) -> dict[str, Contenders]:
    a, b, bias = _arrays()
    x, w, z = qn.tensor(a), qn.tensor(b, requires_grad=gradients), qn.tensor(bias)
    found: dict[str, Contenders] = {
        "matmul": {"quernel": lambda: qn.ops.matmul(x, w)},
        "add": {"quernel": lambda: qn.ops.add(x, w)},
        "relu": {"quernel": lambda: qn.ops.relu(w)},
        "linear": {"quernel": lambda: qn.ops.linear(x, w, z)},
    }
    if not gradients:
        found["matmul"]["numpy"] = lambda: a @ b
        found["add"]["numpy"] = lambda: a + b
        found["relu"]["numpy"] = lambda: np.maximum(b, 0)
    if torch:
        tx, tz = torch.from_numpy(a), torch.from_numpy(bias)
        tw = torch.from_numpy(b).clone().requires_grad_(gradients)
        found["matmul"]["torch"] = lambda: tx @ tw
        found["add"]["torch"] = lambda: tx + tw
        found["relu"]["torch"] = lambda: torch.relu(tw)
        found["linear"]["torch"] = lambda: torch.nn.functional.linear(tx, tw, tz)
    return found


def _jitted() -> Contenders:
    a, b, _ = _arrays()
    add = qn.jit(lambda x, y: x + y)
    return {"quernel": lambda: add(a, b), "numpy": lambda: a + b}


def _frozen(torch: Any, threads: int) -> Iterator[Case]:
    net = nn.Sequential(
        nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)
    ).eval()
    calibration = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32)
    x = calibration[:1]
    frozen = net.freeze(max_batch=1, input_shape=(256,))
    small = compress.quantize(net, calibration=calibration).freeze(max_batch=1)
    fp32: Contenders = {"quernel": lambda: frozen(x)}
    int8: Contenders = {"quernel": lambda: small(x)}
    if torch:
        twin = peers.torch_layers(torch, net).eval()
        example = torch.from_numpy(x)
        session = peers.onnx_session(twin, example, threads)
        session8 = peers.onnx_int8(twin, example, [calibration], threads)
        if session:
            fp32["onnxruntime"] = lambda: session(x)
        if session8:
            int8["onnxruntime"] = lambda: session8(x)

        def run() -> object:
            with torch.inference_mode():
                return twin(torch.from_numpy(x)).numpy()

        fp32["torch"] = run
    yield Case("mlp 3x256 fp32", fp32, group="fp32")
    yield Case("mlp 3x256 int8", int8, group="int8")
