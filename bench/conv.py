"""fp32 convolutions beside torch (NCHW, channels last, oneDNN's blocked layout) and ONNX Runtime.

`forward` runs with the weights packed once, as a frozen model does; every contender returns its whole result, newly
allocated. Every peer gets its images in the layout it likes, and torch's blocked tensors also get their weights
reordered once. `step` is a forward and a backward with respect to
weights and, except for the first layer of a net, images; weights change every time, as they do in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import quernel as qn
from bench import peers
from bench.goals import Goal
from bench.harness import Case
from bench.nets import nchw
from quernel.jit import FrozenMemory, record_frozen

Call = Callable[[], object]


@dataclass
class Layer:
    """A square convolution of square images."""

    size: int
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    depthwise: bool = False
    batches: tuple[int, ...] = (1, 16)
    first: bool = False  # of a net: its images need no gradient

    @property
    def padding(self) -> int:
        return self.kernel // 2

    def __str__(self) -> str:
        kind = "dw " if self.depthwise else ""
        step = f"/{self.stride}" if self.stride > 1 else ""
        return (
            f"{kind}{self.size}x{self.size}x{self.inputs} {self.kernel}x{self.kernel}->{self.outputs}{step}"
        )


SMALL = (32, 256)
RESNET50 = [
    Layer(224, 3, 64, 7, 2, first=True),
    *(Layer(size, width, width, 3) for size, width in ((56, 64), (28, 128), (14, 256), (7, 512))),
    *(Layer(2 * size, width, width, 3, 2) for size, width in ((28, 128), (14, 256), (7, 512))),
    *(Layer(size, 4 * width, width, 1) for size, width in ((56, 64), (28, 128), (14, 256), (7, 512))),
    *(Layer(size, width, 4 * width, 1) for size, width in ((56, 64), (28, 128), (14, 256), (7, 512))),
    *(Layer(2 * size, width, 2 * width, 1, 2) for size, width in ((28, 256), (14, 512), (7, 1024))),
]
CIFAR = [
    *(Layer(28, 1, outputs, 5, batches=SMALL, first=True) for outputs in (6, 20, 32)),
    Layer(14, 6, 16, 5, batches=SMALL),
    *(Layer(32, 3, outputs, 3, batches=SMALL, first=True) for outputs in (16, 32)),
    *(Layer(size, width, width, 3, batches=SMALL) for size, width in ((32, 16), (16, 32), (8, 64))),
    *(Layer(2 * size, width, 2 * width, 3, 2, batches=SMALL) for size, width in ((16, 16), (8, 32))),
    *(
        Layer(size, width, width, 3, batches=(32,))
        for size, width in ((32, 64), (16, 128), (8, 256), (4, 512))
    ),
]
DEPTHWISE = [
    Layer(size, width, width, kernel, stride, depthwise=True, batches=batches)
    for size, width, kernel, stride, batches in (
        (112, 32, 3, 1, (1, 16)),
        (112, 64, 3, 2, (1, 16)),
        (56, 128, 3, 1, (1, 16)),
        (14, 512, 3, 1, (1, 16)),
        (28, 240, 5, 1, (1, 16)),
        (14, 672, 5, 2, (1, 16)),
        (32, 32, 3, 1, SMALL),
    )
]
GOALS = {
    "forward": Goal({1: 1.2, 2: 1.2}, floor=0.95),
    "step": Goal({1: 1.3, 2: 2.0}, floor=1.1),
}
QUICK = [CIFAR[0], CIFAR[6], RESNET50[2], DEPTHWISE[3]]


def cases(threads: int, quick: bool) -> Iterator[Case]:
    """Every layer forward, then forward and backward."""
    for layer in QUICK if quick else RESNET50 + CIFAR + DEPTHWISE:
        for batch in layer.batches[:1] if quick else layer.batches:
            yield forward_case(layer, batch, threads)
    for layer in QUICK if quick else RESNET50 + CIFAR + DEPTHWISE:
        for batch in layer.batches[-1:]:
            yield step_case(layer, batch)


def _operands(layer: Layer, batch: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any], float]:
    """Images, weights, options, and a forward's arithmetic."""
    rng = np.random.default_rng(0)
    per_group = 1 if layer.depthwise else layer.inputs
    x = rng.standard_normal((batch, layer.size, layer.size, layer.inputs), dtype=np.float32)
    w = rng.standard_normal(
        (layer.outputs, layer.kernel, layer.kernel, per_group), dtype=np.float32
    ) * np.float32(0.1)
    options = {
        "stride": layer.stride,
        "padding": layer.padding,
        "groups": layer.inputs if layer.depthwise else 1,
    }
    pixels = batch * (-(-layer.size // layer.stride)) ** 2
    return x, w, options, 2.0 * pixels * w.size


def forward_case(layer: Layer, batch: int, threads: int) -> Case:
    """All contenders for one layer's forward."""
    x, w, options, flops = _operands(layer, batch)
    weight, memory = qn.tensor(w), FrozenMemory()
    plan = record_frozen(
        lambda t: [qn.ops.conv2d(t, weight, **options)], [x], memory.constants, memory.arenas
    )
    contenders: dict[str, Call] = {"quernel": lambda: plan.replay([x])}
    torch = peers.find("torch")
    if torch:
        module = torch.nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, bias=False, **options).eval()
        module.weight.data = torch.from_numpy(nchw(w))
        image = torch.from_numpy(nchw(x))
        session = peers.onnx_session(module, image[:1], threads)
        if session:
            array = nchw(x)
            contenders["onnxruntime"] = lambda: session(array)
        last = torch.nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, bias=False, **options).eval()
        last.weight.data = module.weight.data.to(memory_format=torch.channels_last)
        blocked = peers.find("torch.utils.mkldnn").to_mkldnn(module)
        for name, net, t in (
            ("torch", module, image),
            ("torch nhwc", last, image.to(memory_format=torch.channels_last)),
            ("torch onednn", blocked, image.to_mkldnn()),
        ):
            contenders[name] = _inference(torch, net, t)
    outputs = flops / (2.0 * w.size) * layer.outputs
    nbytes = 4.0 * (x.size + w.size + outputs)
    wide = threads == 1 and layer.kernel == 3 and layer.inputs >= 64 and not layer.depthwise
    return Case(
        f"forward {layer} batch {batch}", contenders, flops, nbytes, "forward", peak_goal=0.8 if wide else 0.0
    )


def _inference(torch: Any, module: Any, image: Any) -> Call:
    def run() -> object:
        with torch.inference_mode():
            return module(image)

    return run


def step_case(layer: Layer, batch: int) -> Case:
    """All contenders for one layer's forward and backward."""
    x, w, options, flops = _operands(layer, batch)
    images, weight = qn.tensor(x, requires_grad=not layer.first), qn.tensor(w, requires_grad=True)
    g = qn.ops.conv2d(images.detach(), weight.detach(), **options)
    weights = weight.detach()

    def step() -> None:
        weights[...] = w  # packed weights are no longer valid
        images.grad = weight.grad = None
        qn.ops.conv2d(images, weight, **options).backward(g)

    contenders: dict[str, Call] = {"quernel": step}
    torch = peers.find("torch")
    if torch:
        for name, layout in (("torch", torch.contiguous_format), ("torch nhwc", torch.channels_last)):
            contenders[name] = _torch_step(torch, x, w, options, layout, layer.first)
    name = f"step {layer} batch {batch}"
    return Case(name, contenders, (2.0 if layer.first else 3.0) * flops, group="step")


def _torch_step(
    torch: Any, x: np.ndarray, w: np.ndarray, options: dict[str, Any], layout: Any, first: bool
) -> Call:
    images = torch.from_numpy(nchw(x)).to(memory_format=layout).requires_grad_(not first)
    weight = torch.from_numpy(nchw(w)).to(memory_format=layout).requires_grad_(True)
    g = torch.randn_like(torch.nn.functional.conv2d(images, weight, **options))

    def step() -> None:
        images.grad = weight.grad = None
        torch.nn.functional.conv2d(images, weight, **options).backward(g)

    return step
