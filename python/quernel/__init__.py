"""Quernel: a native engine that trains, shrinks and runs small neural networks.

``import quernel`` loads NumPy and the native module; everything else is loaded when first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from quernel import _core, ops, recording, runtime
from quernel.autograd import is_grad_enabled, no_grad
from quernel.errors import QuernelError
from quernel.jit import jit  # now: importing the module later would put it in the function's place
from quernel.ops.create import arange, as_tensor, full, ones, ones_like, tensor, zeros, zeros_like
from quernel.runtime import show_config
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel import (
        callbacks,
        compress,
        data,
        errors,
        graph,
        io,
        losses,
        metrics,
        models,
        nn,
        optim,
        quant,
        random,
        sparse,
        text,
    )
    from quernel.io import load
    from quernel.profiler import profile
    from quernel.random import seed

__version__: str = _core.__version__

try:
    _core.active_isa()  # a bad QUERNEL_ISA is reported here, not at the first op
except QuernelError as _error:
    from pathlib import Path

    # The command `quernel` is in this package: it has no place of its own where it could catch this.
    if sys.orig_argv[1:3] == ["-m", "quernel"] or Path(sys.argv[0]).stem == "quernel":
        sys.exit(f"quernel: {_error}")
    raise

_LAZY_MODULES = frozenset(
    [
        "callbacks",
        "compress",
        "data",
        "errors",
        "graph",
        "io",
        "losses",
        "metrics",
        "models",
        "nn",
        "optim",
        "quant",
        "random",
        "sparse",
        "text",
    ]
)
_LAZY_NAMES = {"load": "quernel.io", "profile": "quernel.profiler", "seed": "quernel.random"}

__all__ = [
    "QuernelError", "Tensor", "arange", "as_tensor", "callbacks", "compress", "data", "errors", "full", "graph", "io",
    "is_grad_enabled", "jit", "load", "losses", "metrics", "models", "nn", "no_grad", "ones", "ones_like", "ops", "optim",
    "profile", "quant", "random", "recording", "runtime", "seed", "show_config", "sparse", "tensor", "text", "zeros",
    "zeros_like",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(f"quernel.{name}")
    if name in _LAZY_NAMES:
        value = getattr(importlib.import_module(_LAZY_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'quernel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
