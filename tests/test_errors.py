"""Errors name the op, both sides and the way out, are the built-in classes one expects, and leave no trace."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import errors, ops

X = np.ones((2, 8, 8, 4), np.float32)
V = np.ones((3, 4), np.float32)
S, D, A, U = errors.ShapeError, errors.DTypeError, errors.ArgumentError, errors.UnsupportedError


def ones(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.ones(shape, dtype)


CASES: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "add: shapes": (S, r"\[add\].*\(2,\).*\(3,\)", lambda: ops.add(ones(2), ones(3))),
    "where: shapes": (S, r"\[where\].*\(2,\).*\(3,\)", lambda: ops.where(ones(2, dtype="bool"), ones(3), 0.0)),
    "where: dtype": (D, r"\[where\] condition must be bool, got float32", lambda: ops.where(ones(2), 1.0, ones(2))),
    "pow: negative": (A, r"\[pow\] an integer tensor.*exponent -2", lambda: qn.tensor([1, 2]) ** -2),
    "cast: dtype": (D, r"\[dtype\] tensors cannot hold complex64; use one of bool", lambda: ops.cast(ones(2), "complex64")),
    "matmul: inner": (S, r"\[matmul\] x has 4 columns, other 3 rows", lambda: ops.matmul(V, V)),
    "matmul: batch": (S, r"\[matmul\].*do not broadcast", lambda: ops.matmul(ones(2, 3, 4), ones(3, 4, 3))),
    "matmul: number": (S, r"\[matmul\].*use \* for numbers", lambda: ops.matmul(V, 2.0)),
    "matmul: dtypes": (D, r"\[matmul\] other is float64, x is float32", lambda: ops.matmul(V, ones(4, 2, dtype="f8"))),
    "matmul: integers": (D, r"\[matmul\] x must be floating, got int64", lambda: qn.tensor([[1]]) @ qn.tensor([[1]])),
    "linear: features": (S, r"\[linear\] weight expects 5 input features, x has 4", lambda: ops.linear(V, ones(2, 5))),
    "linear: rank": (S, r"\[linear\] weight must have 2 dimensions", lambda: ops.linear(V, ones(4))),
    "linear: bias": (S, r"\[linear\] bias must have shape \(2,\), got \(3,\)", lambda: ops.linear(V, ones(2, 4), ones(3))),
    "linear: residual": (
        S, r"\[linear\] residual must have the output's shape \(3, 2\), got \(2,\)",
        lambda: ops.linear(V, ones(2, 4), residual=ones(2)),
    ),
    "linear: activation": (A, r"\[linear\] unknown activation 'swish'; there are relu", lambda: ops.linear(V, ones(2, 4), activation="swish")),
    "conv2d: rank": (S, r"\[conv2d\] x must have 4 dimensions \(N, H, W, C\), got shape \(3, 4\)", lambda: ops.conv2d(V, ones(2, 3, 3, 4))),
    "conv2d: channels": (
        S, r"\[conv2d\] weight expects 32 input channels, x has 4 \(x: \(2, 8, 8, 4\), NHWC\)",
        lambda: ops.conv2d(X, ones(2, 3, 3, 32)),
    ),
    "conv2d: dtype": (D, r"\[conv2d\] weight is float64, x is float32", lambda: ops.conv2d(X, ones(2, 3, 3, 4, dtype="f8"))),
    "conv2d: groups": (A, r"\[conv2d\] groups must divide the 3 output channels, got 2", lambda: ops.conv2d(X, ones(3, 3, 3, 2), groups=2)),
    "conv2d: stride": (A, r"\[conv2d\] stride must be at least 1, got 0", lambda: ops.conv2d(X, ones(2, 3, 3, 4), stride=0)),
    "conv2d: padding": (A, r"\[conv2d\] padding must be at least 0", lambda: ops.conv2d(X, ones(2, 3, 3, 4), padding=(0, -1))),
    "conv2d: fraction": (A, r"\[conv2d\] stride must be one whole number or two .*, got 1.5", lambda: ops.conv2d(X, ones(2, 3, 3, 4), stride=1.5)),
    "conv2d: stride word": (A, r"\[conv2d\] stride must be one whole number or two .*, got '1'", lambda: ops.conv2d(X, ones(2, 3, 3, 4), stride="1")),
    "conv2d: huge": (A, r"\[conv2d\] padding must be at most 2147483647, got 1099511627776", lambda: ops.conv2d(X, ones(2, 3, 3, 4), padding=2**40)),
    "max_pool2d: fraction": (A, r"\[max_pool2d\] kernel_size must be one whole number", lambda: ops.max_pool2d(X, 2.5)),
    "conv2d: word": (A, r"\[conv2d\] padding must be a size, 'same' or 'valid'", lambda: ops.conv2d(X, ones(2, 3, 3, 4), padding="full")),
    "conv2d: pair": (A, r"\[conv2d\] dilation must be one whole number or two", lambda: ops.conv2d(X, ones(2, 3, 3, 4), dilation=(1, 2, 3))),
    "conv2d: size": (S, r"\[conv2d\] the kernel spans 9 x 3, the padded image is only 8 x 8", lambda: ops.conv2d(X, ones(2, 9, 3, 4))),
    "conv2d: bias": (S, r"\[conv2d\] bias must have shape \(2,\)", lambda: ops.conv2d(X, ones(2, 3, 3, 4), ones(4))),
    "max_pool2d: rank": (S, r"\[max_pool2d\] x must have 4 dimensions", lambda: ops.max_pool2d(V, 2)),
    "max_pool2d: window": (S, r"\[max_pool2d\] kernel_size \(9, 9\) exceeds", lambda: ops.max_pool2d(X, 9)),
    "avg_pool2d: padding": (A, r"\[avg_pool2d\] padding must be at most half", lambda: ops.avg_pool2d(X, 2, padding=2)),
    "adaptive: size": (A, r"\[adaptive_avg_pool2d\] output_size must be at least 1", lambda: ops.adaptive_avg_pool2d(X, 0)),
    "adaptive: sizes": (A, r"\[adaptive_max_pool2d\] output_size must be one", lambda: ops.adaptive_max_pool2d(X, (1, 2, 3))),
    "adaptive: empty": (S, r"\[adaptive_max_pool2d\] an image without pixels", lambda: ops.adaptive_max_pool2d(ones(1, 0, 3, 2), 1)),
    "max_pool1d: rank": (S, r"\[max_pool1d\] x must have 3 dimensions \(N, T, C\)", lambda: ops.max_pool1d(X, 2)),
    "avg_pool1d: pair": (A, r"\[avg_pool1d\] kernel_size must be one whole number", lambda: ops.avg_pool1d(X[0], (2, 2))),
    "max_pool2d: dilation": (S, r"\[max_pool2d\] kernel_size \(5, 5\) \(dilated \(9, 9\)\) exceeds", lambda: ops.max_pool2d(X, 5, dilation=2)),
    "sum: axis": (S, r"\[sum\] dim 2 is out of range", lambda: ops.sum(V, 2)),
    "sum: twice": (S, r"\[sum\] a dim is named twice", lambda: ops.sum(V, (0, -2))),
    "mean: integers": (D, r"\[mean\] x must be floating, got int64; cast", lambda: qn.tensor([1]).mean()),
    "max: nothing": (S, r"\[max\] there is no max of no elements", lambda: qn.zeros((0, 3)).max(0)),
    "softmax: axis": (S, r"\[softmax\] dim 2 is out of range", lambda: ops.softmax(V, 2)),
    "reshape": (S, r"\[reshape\] 12 elements of shape \(3, 4\) do not fit shape \(5, -1\)", lambda: ops.reshape(V, (5, -1))),
    "flatten": (S, r"\[flatten\] start_dim 1 lies behind end_dim 0", lambda: ops.flatten(V, 1, 0)),
    "permute": (S, r"\[permute\] dims \(0, 0\) must name each", lambda: ops.permute(V, (0, 0))),
    "permute: number": (A, r"\[permute\] dims must name each of the 2", lambda: ops.permute(V, 1)),  # type: ignore[arg-type]
    "transpose": (S, r"\[transpose\] dim 2 is out of range", lambda: ops.transpose(V, 0, 2)),
    "transpose: tuple": (A, r"\[transpose\] swaps two dimensions.*permute", lambda: ops.transpose(V, (0, 1), 0)),  # type: ignore[arg-type]
    "dim and axis": (A, r"\[sum\] axis is another name of dim", lambda: ops.sum(V, dim=0, axis=0)),  # type: ignore[call-arg]
    "stack": (S, r"\[stack\] tensor 1 has shape \(4,\), the first \(3, 4\)", lambda: ops.stack([V, ones(4)])),
    "pad: flat": (A, r"\[pad\] padding is a list of .*\[\(0, 0\), \(1, 2\)\] here", lambda: ops.pad(V, (1, 1))),  # type: ignore[arg-type]
    "concat: shapes": (S, r"\[concat\] tensor 1 has shape \(2, 3\), the first \(3, 4\)", lambda: ops.concat([V, ones(2, 3)])),
    "concat: none": (A, r"\[concat\] there is nothing to join", lambda: ops.concat([])),
    "pad": (A, r"\[pad\] padding must give", lambda: ops.pad(V, [(1, 1)])),
    "broadcast_to": (S, r"\[broadcast_to\] shape \(3, 4\) does not broadcast to \(3, 5\)", lambda: ops.broadcast_to(V, (3, 5))),
    "dropout": (A, r"\[dropout\] p is a probability", lambda: ops.dropout(V, 1.5)),
    "dropout: nan": (A, r"\[dropout\] p is a probability", lambda: ops.dropout(V, math.nan)),
    "batch_norm: channels": (S, r"\[batch_norm\] weight must have shape \(4,\), got \(3,\)", lambda: ops.batch_norm(V, None, None, ones(3))),
    "batch_norm: rows": (A, r"\[batch_norm\] training needs at least 2 values per channel", lambda: ops.batch_norm(V[:1], None, None, training=True)),
    "batch_norm: eps": (A, r"\[batch_norm\] eps must be positive", lambda: ops.batch_norm(V, None, None, eps=math.nan)),
    "cross_entropy: range": (A, r"\[cross_entropy\].*(4|range)", lambda: ops.cross_entropy(V, [0, 4, 1])),
    "cross_entropy: negative": (A, r"\[cross_entropy\].*(-1|range)", lambda: ops.cross_entropy(V, [0, -1, 1])),
    "cross_entropy: dtype": (D, r"\[cross_entropy\] labels are class numbers", lambda: ops.cross_entropy(V, [0.0, 1.0, 2.0])),
    "cross_entropy: shape": (S, r"\[cross_entropy\] logits .* need labels of shape \(3,\), got \(2,\)", lambda: ops.cross_entropy(V, [0, 1])),
    "cross_entropy: empty": (A, r"\[cross_entropy\] an empty batch", lambda: ops.cross_entropy(V[:0], np.zeros(0, np.int64))),
    "cross_entropy: word": (A, r"\[cross_entropy\] reduction must be", lambda: ops.cross_entropy(V, [0, 1, 2], "avg")),
    "mse_loss: shapes": (S, r"\[mse_loss\] target has shape \(3,\), x \(3, 1\)", lambda: ops.mse_loss(ones(3, 1), ones(3))),
    "mse_loss: empty": (A, r"\[mse_loss\] an empty batch", lambda: ops.mse_loss(ones(0, 1), ones(0, 1))),
    "device: cuda": (errors.DeviceError, r"\[device\] 'cuda' cannot be used: .*device='cpu'", lambda: qn.tensor([1.0], device="cuda")),
    "device: unknown": (errors.DeviceError, r"\[device\] unknown device 'tpu'", lambda: qn.tensor([1.0], device="tpu")),
    "seed": (A, r"\[seed\]", lambda: qn.seed(-1)),
    "seed: fraction": (A, r"\[seed\] a seed is a whole number .*, got 1.5", lambda: qn.seed(1.5)),  # type: ignore[arg-type]
    "add: None": (D, r"\[add\] tensors cannot hold NoneType objects; pass", lambda: qn.tensor([1.0]) + None),
    "add: ragged": (S, r"\[tensor\] nested lists must agree in length", lambda: ops.add(V, [[1], [1, 2]])),
    "add: objects": (D, r"\[add\] tensors cannot hold Python objects in lists", lambda: ops.add(V, [None, 1])),
    "sum: fraction": (A, r"\[sum\] a dim is a whole number, got 1.5", lambda: ops.sum(V, 1.5)),
    "softmax: None": (A, r"\[softmax\] a dim is a whole number, got None", lambda: ops.softmax(V, None)),
    "pad: ragged": (A, r"\[pad\] padding must give", lambda: ops.pad(V, [(1,), (0, 1)])),
    "pad: number": (A, r"\[pad\] padding is a list of", lambda: ops.pad(V, 1)),
    "mul: text": (D, r"\[mul\] tensors cannot hold <U1", lambda: "a" * qn.tensor([1.0])),
    "concat: None": (D, r"\[concat\] tensors cannot hold NoneType objects", lambda: ops.concat([None])),
    "tensor: None": (D, r"\[tensor\] tensors cannot hold NoneType objects", lambda: qn.tensor(None)),
    "memory": (MemoryError, r"\[allocate\] there is no memory for \d{15} bytes", lambda: qn.zeros((2**23, 2**23))),
    "uniform": (A, r"\[uniform\] low must be below high", lambda: ops.uniform(3, 1, 1)),
    "threads": (A, r"\[set_num_threads\] at least one thread", lambda: qn.runtime.set_num_threads(0)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_message_and_class(name: str) -> None:
    kind, message, call = CASES[name]
    with pytest.raises(kind, match=message):
        call()
    assert (X == 1).all() and (V == 1).all()


def test_classes_are_the_expected_builtins() -> None:
    bases = {
        errors.ShapeError: ValueError,
        errors.ArgumentError: ValueError,
        errors.CorruptFileError: ValueError,
        errors.DTypeError: TypeError,
        errors.StateError: RuntimeError,
        errors.UnsupportedError: NotImplementedError,
        errors.DeviceError: NotImplementedError,
    }
    for kind, builtin in bases.items():
        assert issubclass(kind, builtin) and issubclass(kind, qn.QuernelError)


def test_a_bad_label_leaves_gradients_alone() -> None:
    w = qn.tensor(V, requires_grad=True)
    ops.cross_entropy(w, [0, 1, 2]).backward()
    assert w.grad is not None
    before = w.grad.numpy().copy()
    with pytest.raises(errors.ArgumentError):
        ops.cross_entropy(w * 2.0, [0, 1, 99]).backward()
    np.testing.assert_array_equal(w.grad.numpy(), before)


def test_batch_norm_leaves_its_statistics_alone() -> None:
    mean, var = qn.zeros(4), qn.ones(4)
    with pytest.raises(errors.ShapeError):
        ops.batch_norm(V, mean, var, ones(3), training=True)
    assert mean.tolist() == [0] * 4 and var.tolist() == [1] * 4


def test_isa_names() -> None:
    with pytest.raises(ValueError, match="sse9"), qn.runtime.isa("sse9"):
        pass
    before = qn.runtime.active_isa()
    with qn.runtime.isa("scalar"):
        assert qn.runtime.active_isa() == "scalar"
        assert set(qn.runtime.kernel_coverage().values()) == {"scalar"}
    assert qn.runtime.active_isa() == before
    assert set(qn.runtime.supported_isas()) <= set(qn.runtime.compiled_isas())


@pytest.mark.parametrize("value", ["sse9", "AVX2 "])
def test_bad_environment_is_reported_at_import(value: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import quernel"],
        capture_output=True,
        text=True,
        env=_environment(QUERNEL_ISA=value),
        check=False,
    )
    assert run.returncode != 0
    assert "ArgumentError" in run.stderr and value in run.stderr and "scalar" in run.stderr


def test_environment_chooses_the_level() -> None:
    code = "import quernel as qn; print(qn.runtime.active_isa()); qn.show_config()"
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=_environment(QUERNEL_ISA="scalar"),
        check=True,
    ).stdout
    assert out.splitlines()[0] == "scalar"
    assert [line.split(":")[0] for line in out.splitlines()[1:]] == [
        "quernel",
        "cpu",
        "isa",
        "threads",
        "cuda",
    ]


def test_import_loads_little() -> None:
    code = "import numpy, sys; a = set(sys.modules); import quernel; print(*sorted({m.split('.')[0] for m in set(sys.modules) - a}))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=_environment(), check=True
    ).stdout
    assert {"ml_dtypes", "safetensors", "tqdm", "unittest", "asyncio", "torch"}.isdisjoint(out.split())


def _environment(**more: str) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **more}


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'cuda_is_great'"):
        _ = qn.cuda_is_great
    assert "losses" in dir(qn)
