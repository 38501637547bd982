"""The int8 ops refuse wrong operands by name, saying both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quernel import _core
from tests.checks import Array, T

X, W = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((4, 3, 3, 3), np.int8)
BIAS, SCALE = np.zeros(4, np.int32), np.ones(4, np.float32)


def conv(x: Array = X, weight: Array = W, bias: Array = BIAS, scale: Array = SCALE, **changes: Any) -> Any:
    args = {"zero_point": 0, "lo": 0, "hi": 255, "x_zero_point": 0} | changes
    return _core.qconv2d(T(x), T(weight), T(bias), T(scale), **args)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: conv(x=X.astype(np.int8)), TypeError, "[qconv2d] x must be uint8, got int8"),
        (lambda: conv(weight=W.astype(np.uint8)), TypeError, "[qconv2d] weight must be int8, got uint8"),
        (lambda: conv(bias=BIAS.astype(np.float32)), TypeError, "[qconv2d] bias must be int32, got float32"),
        (lambda: conv(scale=SCALE.astype(np.float64)), TypeError, "[qconv2d] scale must be float32, got float64"),
        (lambda: conv(scale=SCALE[:1]), ValueError, "[qconv2d] scale must have one entry per output channel, (4,), got (1,)"),
        (lambda: conv(bias=np.zeros(5, np.int32)), ValueError, "[qconv2d] bias must have one entry per output channel"),
        (lambda: conv(weight=W[..., :2].copy()), ValueError, "[qconv2d] weight expects 2 input channels, x has 3"),
        (lambda: conv(x=X[0]), ValueError, "[qconv2d] x must be (N, H, W, C), got (8, 8, 3)"),
        (lambda: conv(zero_point=256), ValueError, "[qconv2d] zero_point must lie in 0..255, got 256"),
        (lambda: conv(x_zero_point=-1), ValueError, "[qconv2d] x_zero_point must lie in 0..255, got -1"),
        (lambda: conv(lo=9, hi=8), ValueError, "[qconv2d] the output range needs 0 <= lo <= hi <= 255, got lo 9, hi 8"),
        (lambda: conv(groups=0), ValueError, "[qconv2d] groups must be at least 1, got 0"),
        (lambda: conv(groups=3, weight=W[..., :1].copy()), ValueError, "[qconv2d] groups 3 does not divide the 4 output"),
        (lambda: conv(stride=(0, 1)), ValueError, "[qconv2d] stride must be at least 1, got 0"),
        (lambda: conv(padding=(0, -1)), ValueError, "[qconv2d] padding must not be negative, got -1"),
        (lambda: conv(dilation=(5, 1)), ValueError, "[qconv2d] a kernel that reaches over 11 rows does not fit into 8"),
        (lambda: _core.qlinear(T(X), T(W[0, 0]), T(BIAS[:3]), T(SCALE[:3]), 0, 0, 256), ValueError, "got lo 0, hi 256"),
        (lambda: _core.qlinear(T(X), T(W), T(BIAS), T(SCALE), 0, 0, 255), ValueError, "[qlinear] weight must be (out, in)"),
        (lambda: _core.qlinear(T(X[..., :2].copy()), T(W[0, 0]), T(BIAS[:3]), T(SCALE[:3]), 0, 0, 255), ValueError,
         "[qlinear] weight expects 3 input features, x has 2 (x: (2, 8, 8, 2), weight: (3, 3))"),
        (lambda: _core.quantize(T(X), 1.0, 0), TypeError, "[quantize] x must be float32, got uint8"),
        (lambda: _core.quantize(T(SCALE), 0.0, 0), ValueError, "[quantize] scale must be positive and finite, got 0"),
        (lambda: _core.quantize(T(SCALE), float("nan"), 0), ValueError, "[quantize] scale must be positive and finite"),
        (lambda: _core.dequantize(T(SCALE), 1.0, 0), TypeError, "[dequantize] x must be uint8, got float32"),
        (lambda: _core.dequantize(T(X), 1.0, 300), ValueError, "[dequantize] zero_point must lie in 0..255, got 300"),
        (lambda: _core.qadd(T(X), 1.0, 0, T(X[:1]), 1.0, 0, 1.0, 0, 0, 255), ValueError,
         "[qadd] shapes must agree, got (2, 8, 8, 3) and (1, 8, 8, 3)"),
        (lambda: _core.qadd(T(X), 1.0, 0, T(X), -1.0, 0, 1.0, 0, 0, 255), ValueError, "[qadd] b_scale must be positive"),
        (lambda: _core.qlookup(T(X), T(X[0, 0, 0])), ValueError, "[qlookup] table must have 256 entries, (256,), got (3,)"),
        (lambda: _core.qmax_pool2d(T(X), (2, 2), (2, 2), (2, 0)), ValueError,
         "[qmax_pool2d] padding (2, 0) must be at most half the kernel (2, 2)"),
        (lambda: _core.qavg_pool2d(T(X), (2, 2), (2, 2), (0, 0), 256), ValueError, "[qavg_pool2d] zero_point must lie in"),
        (lambda: _core.qavg_pool2d(T(X), (0, 2), (2, 2)), ValueError, "[qavg_pool2d] kernel size must be at least 1, got 0"),
        (lambda: _core.qmean_hw(T(X[:, :0])), ValueError, "[qmean_hw] an image without pixels has no mean"),
    ],
)  # fmt: skip
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
