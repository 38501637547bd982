"""The nets of `train` and `infer`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from quernel import models, nn

NETS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "mlp": (models.mlp, (784,)),
    "lenet": (models.lenet5, (28, 28, 1)),
    "resnet8": (models.resnet8, (32, 32, 3)),
    "resnet18": (partial(models.resnet18, 10, stem="cifar"), (32, 32, 3)),
    "mobilenet": (models.mobilenet_v2_small, (32, 32, 3)),
}


def batch(shape: tuple[int, ...], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs and labels."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, *shape), dtype=np.float32), rng.integers(0, 10, n)


def nchw(x: np.ndarray) -> np.ndarray:
    """Images as torch and ONNX lay them out."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x
