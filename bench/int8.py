"""int8 linear layers and convolutions, requantized to uint8, weights packed once.

Peers do the same job each in its own way: ONNX Runtime with QGemm and QLinearConv, torch's quantized linear and conv2d
(channels last), and torch._int_mm followed by scale, rounding and clamp. `quernel fp32` is our own fp32 layer.

Weights use all of -127..127. Without VNNI the usual instruction saturates then: torch and ONNX Runtime by default were
wrong in 45 % of the outputs of a 32x256x64 layer on AVX2, by up to 62. So ONNX Runtime runs with
`session.x64quantprecision`, and a peer whose outputs differ from ours by more than one is left out of the case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import quernel as qn
from bench import peers
from bench.goals import Goal
from bench.harness import Case
from quernel.jit import FrozenMemory, record_frozen

# M, K, N
LINEAR = (
    (1, 256, 256), (1, 784, 256), (1, 1024, 1024), (1, 4096, 1024), (8, 256, 256), (16, 784, 256), (16, 1024, 1024),
    (32, 100, 10), (64, 256, 128), (64, 576, 64), (100, 301, 77), (128, 784, 256), (128, 128, 512), (256, 256, 256),
    (512, 512, 512), (1024, 1024, 1024),
)  # fmt: skip
# batch, size, channels, outputs, kernel, stride, groups
CONV = (
    (1, 28, 1, 6, 5, 1, 1), (32, 28, 1, 6, 5, 1, 1), (32, 14, 6, 16, 5, 1, 1), (1, 224, 3, 64, 7, 2, 1),
    (1, 32, 3, 16, 3, 1, 1), (32, 32, 3, 16, 3, 1, 1), (1, 32, 16, 16, 3, 1, 1), (32, 32, 16, 16, 3, 1, 1),
    (1, 56, 64, 64, 3, 1, 1), (1, 56, 64, 256, 1, 1, 1), (1, 28, 128, 128, 3, 1, 1), (1, 28, 256, 512, 1, 2, 1),
    (1, 14, 256, 256, 3, 1, 1), (1, 7, 512, 512, 3, 1, 1), (1, 7, 2048, 512, 1, 1, 1), (16, 14, 256, 256, 3, 1, 1),
    (1, 112, 32, 32, 3, 1, 32), (1, 28, 192, 192, 3, 2, 192), (8, 14, 384, 384, 5, 1, 384),
)  # fmt: skip
GOALS = {
    "linear": Goal({1: 1.5, 2: 1.5}, floor=1.1),
    "conv": Goal({1: 2.0, 2: 2.0}, floor=1.0),
    "depthwise": Goal({1: 2.0, 2: 2.0}, floor=1.0),
}
REASONS = {
    "linear": "On Zen 4, 1024x1024x1024 runs at 94 % of VNNI's peak, 4 times FMA's, and torch nearly so. Without VNNI exact products take four vector instructions for 32 multiply-adds.",
    "conv": "On Zen 4 large ones run near VNNI's peak, 4 times FMA's, or by Winograd's algorithm, whose products run at half the pace: at most half the cycles, less the transformations.",
}

Call = Callable[[], object]


def cases(threads: int, quick: bool) -> Iterator[Case]:
    """Linear layers (M, K, N), then convolutions."""
    for m, k, n in LINEAR[::3] if quick else LINEAR:
        yield Case(f"linear {m}x{k}x{n}", _right(linear(m, k, n, threads)), group="linear")
    for shape in CONV[::3] if quick else CONV:
        batch, size, c, o, kernel, stride, groups = shape
        group = "depthwise" if groups > 1 else "conv"
        name = f"{group} {batch}x{size}x{size}x{c} -> {o}, {kernel}x{kernel}/{stride}"
        yield Case(name, _right(conv(*shape, threads)), group=group)


def linear(m: int, k: int, n: int, threads: int) -> dict[str, Call]:
    """One layer, all ways."""
    rng = np.random.default_rng(k)
    x = rng.integers(0, 256, (m, k), np.uint8)
    weight = rng.integers(-127, 128, (n, k), np.int8)
    bias, scale = np.zeros(n, np.int32), np.full(n, 1 / (64 * k**0.5), np.float32)
    args = [qn.tensor(a) for a in (weight, _folded(weight), scale)]
    xf, wf, bf = (qn.tensor(a.astype(np.float32)) for a in (x, weight, bias))
    calls = {
        "quernel": _frozen(x, lambda t: qn.ops.qlinear(t, *args, zero_point=128)),
        "quernel fp32": _frozen(xf.numpy(), lambda t: qn.ops.linear(t, wf, bf)),
    }
    if peers.find("onnxruntime") and peers.find("onnx"):
        attributes = {"domain": "com.microsoft", "transB": 1}
        inputs = ("x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "bias", "y_scale", "y_zero")
        calls["onnxruntime"] = _session("QGemm", inputs, x, weight, bias, scale, (m, n), attributes, threads)
    torch = peers.find("torch")
    if torch:
        calls |= _torch_linear(torch, x, weight, scale)
    return calls


def conv(
    batch: int, size: int, c: int, o: int, kernel: int, stride: int, groups: int, threads: int
) -> dict[str, Call]:
    """One convolution with padding kernel // 2, all ways."""
    rng = np.random.default_rng(c)
    x = rng.integers(0, 256, (batch, size, size, c), np.uint8)
    weight = rng.integers(-127, 128, (o, kernel, kernel, c // groups), np.int8)
    terms = kernel * kernel * c // groups
    bias, scale = np.zeros(o, np.int32), np.full(o, 1 / (64 * terms**0.5), np.float32)
    args = [qn.tensor(a) for a in (weight, _folded(weight), scale)]
    xf, wf, bf = (qn.tensor(a.astype(np.float32)) for a in (x, weight, bias))
    geometry: dict[str, Any] = {
        "stride": (stride,) * 2,
        "padding": (kernel // 2,) * 2,
        "dilation": (1, 1),
        "groups": groups,
    }
    calls = {
        "quernel": _frozen(
            x, lambda t: qn.ops.qconv2d(t, *args, zero_point=128, x_zero_point=128, **geometry)
        ),
        "quernel fp32": _frozen(xf.numpy(), lambda t: qn.ops.conv2d(t, wf, bf, **geometry)),
    }
    image, filters = (np.ascontiguousarray(a.transpose(0, 3, 1, 2)) for a in (x, weight))
    if peers.find("onnxruntime") and peers.find("onnx"):
        out = (batch, o, -(-size // stride), -(-size // stride))
        inputs = ("x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero", "bias")
        attributes = {"strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": groups}
        calls["onnxruntime"] = _session(
            "QLinearConv", inputs, image, filters, bias, scale, out, attributes, threads
        )
    torch = peers.find("torch")
    if torch:
        w = _torch_weight(torch, filters, scale)
        packed = torch.ops.quantized.conv2d_prepack(w, None, [stride] * 2, [kernel // 2] * 2, [1, 1], groups)
        xq = torch._make_per_tensor_quantized_tensor(torch.from_numpy(image), 1.0, 128)
        xq = xq.contiguous(memory_format=torch.channels_last)
        calls["torch"] = lambda: torch.ops.quantized.conv2d(xq, packed, 1.0, 128)
    return calls


def _folded(weight: np.ndarray) -> np.ndarray:
    """The bias that takes x's zero point in."""
    return -128 * weight.reshape(len(weight), -1).sum(1, dtype=np.int32)


def _right(calls: dict[str, Call]) -> dict[str, Call]:
    """Without the peers that get other results than we do; torch and we may round ties differently."""
    ours = _output(calls["quernel"](), False)

    def agrees(name: str) -> bool:
        if name.startswith("quernel"):
            return True
        theirs = _output(calls[name](), ours.ndim == 4)
        return bool((abs(ours.astype(int) - theirs.astype(int)) <= 1).all())

    return {name: call for name, call in calls.items() if agrees(name)}


def _output(result: Any, nchw: bool) -> np.ndarray:
    if isinstance(result, list):
        result = result[0]
    elif getattr(result, "is_quantized", False):
        result = result.int_repr()
    array = np.asarray(result)
    return array.transpose(0, 2, 3, 1) if nchw else array


def _torch_weight(torch: Any, weight: np.ndarray, scale: np.ndarray) -> Any:
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    return torch._make_per_channel_quantized_tensor(
        torch.from_numpy(weight), torch.from_numpy(scale).double(), zeros, 0
    )


def _torch_linear(torch: Any, x: np.ndarray, weight: np.ndarray, scale: np.ndarray) -> dict[str, Call]:
    packed = torch.ops.quantized.linear_prepack(_torch_weight(torch, weight, scale), None)
    xq = torch._make_per_tensor_quantized_tensor(torch.from_numpy(x), 1.0, 128)
    a, b, s = torch.from_numpy((x ^ 128).view(np.int8)), torch.from_numpy(weight).t(), torch.from_numpy(scale)

    def int_mm() -> object:
        with torch.inference_mode():
            return (torch._int_mm(a, b) * s).round_().add_(128).clamp_(0, 255).to(torch.uint8)

    return {"torch": lambda: torch.ops.quantized.linear(xq, packed, 1.0, 128), "torch._int_mm": int_mm}


def _session(
    op: str,
    inputs: Sequence[str],
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    scale: np.ndarray,
    out: tuple[int, ...],
    attributes: dict[str, Any],
    threads: int,
) -> Call:
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "x_scale": np.float32(1),
        "x_zero": np.uint8(128),
        "w": weight,
        "w_scale": scale,
        "w_zero": np.zeros(len(scale), np.int8),
        "bias": bias,
        "y_scale": np.float32(1),
        "y_zero": np.uint8(128),
    }
    node = helper.make_node(op, list(inputs), ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "int8",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, out)],
        [numpy_helper.from_array(np.asarray(constants[name]), name) for name in inputs if name != "x"],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=onnx.IR_VERSION_2023_5_5)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def _frozen(x: np.ndarray, layer: Callable[[qn.Tensor], qn.Tensor]) -> Call:
    memory = FrozenMemory()
    plan = record_frozen(lambda t: [layer(t)], [x], memory.constants, memory.arenas)
    return lambda: plan.replay([x])
