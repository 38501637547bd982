"""Making models smaller: so far `quantize`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quernel.errors import ArgumentError, ShapeError, UnsupportedError
from quernel.graph.passes import drop_dead, fold_batch_norm, for_inference, fuse_activation, separate
from quernel.graph.trace import Input, inputs_of, trace
from quernel.nn.module import Module
from quernel.quant.convert import convert
from quernel.quant.model import QuantizedModel
from quernel.quant.observers import calibrate
from quernel.quant.regions import CLAMPS
from quernel.tensor import Tensor

_log = logging.getLogger("quernel.compress")


def quantize(net: Module, calibration: Any, *, batch_size: int = 64) -> QuantizedModel:
    """An int8 copy of `net`, which stays as it is (post-training static quantization).

    BatchNorm is folded, relu and relu6 are fused; weights become int8 with one scale per output channel, ``max|w| / 127``;
    activations become uint8 with the scale and zero point that cover their range over `calibration`. From the first
    contraction to the last, values stay uint8.

    Args:
        net: A float32 model. Its forward must be traceable (see `quernel.graph`).
        calibration: Inputs as the model will see them, a few hundred samples; a tuple of arrays for several inputs.
        batch_size: Samples per calibration run.

    Returns:
        The int8 model, compiled with the loss and metrics of `net` if it is compiled.

    Raises:
        ArgumentError: `calibration` is empty or holds what is not finite.
        ShapeError: it does not fit the model.
        UnsupportedError: the model has nothing to quantize, or cannot be traced.

    Example:
        >>> net = qn.nn.Sequential(qn.nn.Linear(4, 8), qn.nn.ReLU(), qn.nn.Linear(8, 2))
        >>> q = qn.compress.quantize(net, calibration=np.zeros((16, 4), np.float32))
        >>> q(np.zeros((3, 4), np.float32)).shape
        (3, 2)
    """
    if isinstance(net, QuantizedModel):
        raise UnsupportedError("[quantize] the model is quantized already")
    data = _samples(calibration)
    expected = inputs_of(net) or [Input(tuple(d.shape[1:]), net.dtype or "float32") for d in data]
    if len(expected) != len(data):
        raise ArgumentError(f"[quantize] the model has {len(expected)} inputs, calibration {len(data)}")
    inputs = [Input(tuple(d.shape[1:]), e.dtype, e.name) for d, e in zip(data, expected, strict=True)]
    graph = separate(for_inference(trace(net, inputs)), kept=CLAMPS)
    graph = drop_dead(fuse_activation(fold_batch_norm(graph), CLAMPS))
    data = [np.asarray(d, e.dtype) for d, e in zip(data, expected, strict=True)]
    quantized = QuantizedModel(convert(graph, calibrate(graph, data, batch_size)))
    if not quantized.int8_ops:
        raise UnsupportedError(
            "[quantize] found no float32 linear or conv2d with constant weights to quantize"
        )
    quantized.vocabulary = net.vocabulary
    trainer = net._session.get("trainer")
    if trainer is not None:
        quantized.compile(**trainer.recipe.arguments)
    _log.info("[quantize] %d of %d ops run in int8", len(quantized.int8_ops), len(quantized.graph.nodes))
    return quantized


def _samples(calibration: Any) -> list[npt.NDArray[Any]]:
    several = isinstance(calibration, tuple)
    arrays: Sequence[Any] = calibration if several else (calibration,)
    data = [a.numpy() if isinstance(a, Tensor) else np.asarray(a) for a in arrays]
    if any(d.ndim < 1 for d in data):
        raise ShapeError("[quantize] calibration must be samples stacked along their first axis")
    samples = {len(d) for d in data}
    if len(samples) != 1 or 0 in samples:
        lengths = ", ".join(str(len(d)) for d in data) or "none"
        raise ArgumentError(f"[quantize] calibration needs samples, as many for every input; got {lengths}")
    return data


__all__ = ["QuantizedModel", "quantize"]
