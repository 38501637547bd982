"""Latency of frozen nets, NumPy in and out, fp32 and int8, beside ONNX Runtime and torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bench import peers
from bench.goals import Goal
from bench.harness import Case
from bench.nets import NETS, batch, nchw
from quernel import compress

GOALS = {"fp32": Goal({1: 1.5, 2: 1.5}, floor=1.0), "int8": Goal({1: 3.0, 2: 3.0}, floor=1.2)}


def cases(threads: int, quick: bool) -> Iterator[Case]:
    """Each net at batch 1, 16 and 64, in fp32, then in int8."""
    torch = peers.find("torch")
    for name, (make, shape) in NETS.items():
        net = make().eval()
        calibration, _ = batch(shape, 64)
        frozen = net.freeze(max_batch=64)
        small = compress.quantize(net, calibration=calibration).freeze(max_batch=64)
        twin = peers.torch_layers(torch, net).eval() if torch else None
        example = torch.from_numpy(nchw(calibration[:1])) if torch else None
        session = peers.onnx_session(twin, example, threads) if torch else None
        session8 = peers.onnx_int8(twin, example, [nchw(calibration)], threads) if torch else None
        sizes = (1,) if quick else (1, 16, 64)
        for n in sizes:
            x = batch(shape, n)[0]
            yield Case(f"{name} fp32 batch {n}", _fp32(torch, frozen, twin, session, x), group="fp32")
        for n in sizes:
            x = batch(shape, n)[0]
            contenders: dict[str, Callable[[], object]] = {"quernel": lambda x=x, run=small: run(x)}
            if session8:
                image = nchw(x)
                contenders["onnxruntime"] = lambda x=image, run=session8: run(x)
            yield Case(f"{name} int8 batch {n}", contenders, group="int8")


def _fp32(torch: Any, frozen: Any, twin: Any, session: Any, x: Any) -> dict[str, Callable[[], object]]:
    contenders: dict[str, Callable[[], object]] = {"quernel": lambda: frozen(x)}
    image = nchw(x)
    if session:
        contenders["onnxruntime"] = lambda: session(image)
    if torch:

        def run() -> object:
            with torch.inference_mode():
                return twin(torch.from_numpy(image)).numpy()

        contenders["torch"] = run
    return contenders
