"""The peers, each optional: what is not installed is left out and named."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
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


def versions() -> dict[str, str]:
    """Of every peer that is installed."""
    found = {}
    for name in ("numpy", "scipy", "torch", "onnxruntime"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def set_threads(threads: int) -> None:
    """Gives every peer in this process as many threads as quernel."""
    torch, limits = find("torch"), find("threadpoolctl")
    if torch:
        torch.set_num_threads(threads)
    if limits:
        limits.threadpool_limits(threads, user_api="blas")


def torch_layers(_torch: Any, net: Any) -> Any:
    """The torch counterpart of a quernel net, weights included; it takes images as torch does, (N, C, H, W)."""
    from quernel.data.tasks.torch_twin import torch_twin

    return torch_twin(net, nhwc=False)


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
    ort.set_default_logger_severity(3)  # errors alone
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
