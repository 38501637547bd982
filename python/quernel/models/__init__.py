"""A zoo of small nets. Those for images are a file to read and a command each: ``python -m quernel.models.resnet --help``;
the others are trained by the tasks of `quernel.data.tasks`.

Images are (N, H, W, C). Nets for images are made of `Sequential` and `Residual`, so that they are saved, traced, quantized and
frozen like any other.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quernel.models.acoustic import AcousticModel
    from quernel.models.classifier import LSTMClassifier
    from quernel.models.language import LanguageModel, LSTMLanguageModel
    from quernel.models.lenet import lenet5
    from quernel.models.mobilenet import mobilenet_v2, mobilenet_v2_small
    from quernel.models.perceptron import mlp
    from quernel.models.resnet import resnet8, resnet18, resnet20, resnet_cifar
    from quernel.models.transformer import TransformerClassifier, TransformerLanguageModel

# Loaded when first used, so that `python -m quernel.models.resnet` does not find itself loaded already.
_HOMES = {
    "AcousticModel": "acoustic",
    "LSTMClassifier": "classifier",
    "LSTMLanguageModel": "language",
    "LanguageModel": "language",
    "TransformerClassifier": "transformer",
    "TransformerLanguageModel": "transformer",
    "lenet5": "lenet",
    "mlp": "perceptron",
    "mobilenet_v2": "mobilenet",
    "mobilenet_v2_small": "mobilenet",
    "resnet18": "resnet",
    "resnet20": "resnet",
    "resnet8": "resnet",
    "resnet_cifar": "resnet",
}

__all__ = [
    "AcousticModel",
    "LSTMClassifier",
    "LSTMLanguageModel",
    "LanguageModel",
    "TransformerClassifier",
    "TransformerLanguageModel",
    "lenet5",
    "mlp",
    "mobilenet_v2",
    "mobilenet_v2_small",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet_cifar",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"quernel.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'quernel.models' has no attribute {name!r}")
