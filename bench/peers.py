"""The peers, each optional: what is not installed is left out and named."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np


def find(name: str) -> ModuleType | None:
    """The module, or None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def set_threads(threads: int) -> None:
    """Gives every peer in this process as many threads as quernel."""
    torch, limits = find("torch"), find("threadpoolctl")
    if torch:
        torch.set_num_threads(threads)
    if limits:
        limits.threadpool_limits(threads, user_api="blas")


def torch_layers(torch: Any, net: Any) -> Any:
    """The torch counterpart of a quernel Sequential, weights included (images stay NCHW there)."""
    from quernel import nn

    def convert(layer: Any) -> Any:
        if isinstance(layer, nn.Linear):
            twin = torch.nn.Linear(layer.in_features, layer.out_features)
            weight = np.array(layer.weight)
        elif isinstance(layer, nn.Conv2d):
            twin = torch.nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding
            )
            weight = np.array(layer.weight).transpose(0, 3, 1, 2).copy()
        elif isinstance(layer, nn.MaxPool2d):
            return torch.nn.MaxPool2d(2)
        else:
            return {"ReLU": torch.nn.ReLU, "Flatten": torch.nn.Flatten}[type(layer).__name__]()
        with torch.no_grad():
            twin.weight.copy_(torch.from_numpy(weight))
            twin.bias.copy_(torch.from_numpy(np.array(layer.bias)))
        return twin

    return torch.nn.Sequential(*[convert(layer) for layer in net])


def onnx_session(model: Any, example: Any, threads: int) -> Callable[[np.ndarray], Any] | None:
    """An ONNX Runtime session of a torch model, with a free batch size; None without onnxruntime."""
    ort, torch = find("onnxruntime"), find("torch")
    if ort is None or torch is None or find("onnx") is None:
        return None
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (example,), buffer, input_names=["x"], dynamic_axes={"x": {0: "n"}}, dynamo=False
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})


def onnx_int8(
    model: Any, example: Any, calibration: list[np.ndarray], threads: int
) -> Callable[[np.ndarray], Any] | None:
    """The same, statically quantized by ONNX Runtime's own tool (u8 activations, s8 weights per channel)."""
    ort, torch = find("onnxruntime"), find("torch")
    if ort is None or torch is None or find("onnx") is None:
        return None
    import tempfile
    from pathlib import Path

    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            x = next(self.rest, None)
            return None if x is None else {"x": x}

    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source, target = str(Path(folder) / "a.onnx"), str(Path(folder) / "b.onnx")
        torch.onnx.export(
            model, (example,), source, input_names=["x"], dynamic_axes={"x": {0: "n"}}, dynamo=False
        )
        q.quantize_static(
            source, target, Reader(), per_channel=True,
            activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
        )  # fmt: skip
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(Path(target).read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})
