"""Convolutions of ResNet-50 with bias and ReLU in fp32, tf32 and bf16, NHWC: cuDNN through torch, channels last, beside them.

In bf16 torch's images are bfloat16 in and out; ours are float32, rounded on the way in, as training keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import quernel as qn
from bench.conv import RESNET50, Layer
from bench.cuda.timing import rotating, torch_cuda
from bench.goals import Goal
from bench.harness import Case

GOALS = {kind: Goal({1: 1.0}) for kind in ("fp32", "tf32", "bf16")}
BATCHES = (1, 32)
FEW = (Layer(6, 3, 8, 3, 2), Layer(5, 16, 16, 1))


def cases(quick: bool) -> Iterator[Case]:
    """Every layer at each batch; what torch may round to tf32 is set for one case."""
    torch = torch_cuda()
    for kind in GOALS:
        for layer in FEW if quick else RESNET50:
            for batch in (2,) if quick else BATCHES:
                qn.runtime.allow_tf32(kind == "tf32")
                if torch:
                    torch.backends.cudnn.allow_tf32 = kind == "tf32"
                    torch.backends.cudnn.benchmark = True
                out = -(-layer.size // layer.stride)
                flops = 2.0 * batch * out**2 * layer.outputs * layer.inputs * layer.kernel**2
                yield Case(
                    f"{kind} {layer} batch {batch}", _conv(torch, layer, batch, kind), flops, group=kind
                )
    qn.runtime.allow_tf32(False)


def _conv(torch: Any, layer: Layer, batch: int, kind: str) -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(0)
    size, c, o, kernel = layer.size, layer.inputs, layer.outputs, layer.kernel
    weight = rng.standard_normal((o, kernel, kernel, c), dtype=np.float32)
    bias = np.zeros(o, np.float32)
    nbytes = 4.0 * (batch * size * size * c + weight.size)

    def images() -> np.ndarray:
        return rng.standard_normal((batch, size, size, c), dtype=np.float32)

    w, b = (qn.tensor(a, device="cuda") for a in (weight, bias))
    ours = rotating(lambda: qn.tensor(images(), device="cuda"), nbytes)
    precision = "bf16" if kind == "bf16" else None
    calls: dict[str, Callable[[], object]] = {
        "quernel": lambda: qn.ops.conv2d(
            ours(),
            w,
            b,
            stride=layer.stride,
            padding=layer.padding,
            activation="relu",
            precision=precision,
        )
    }
    if torch:
        last, dtype = torch.channels_last, torch.bfloat16 if precision else torch.float32
        tw = (
            torch.from_numpy(weight.transpose(0, 3, 1, 2).copy())
            .to("cuda", dtype)
            .contiguous(memory_format=last)
        )
        tb = torch.from_numpy(bias).to("cuda", dtype)
        theirs = rotating(lambda: torch.from_numpy(images()).to("cuda", dtype).permute(0, 3, 1, 2), nbytes)

        def apart() -> object:
            return torch.relu_(torch.nn.functional.conv2d(theirs(), tw, tb, layer.stride, layer.padding))

        def fused() -> object:
            return torch.cudnn_convolution_relu(
                theirs(), tw, tb, [layer.stride] * 2, [layer.padding] * 2, [1, 1], 1
            )

        calls |= {"torch": apart, "torch, cudnn fused": fused}
    return calls
