"""Pooling and resampling layers beside PyTorch's, their reprs, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quernel import nn, ops
from quernel.errors import ArgumentError, ShapeError

X = np.random.default_rng(0).standard_normal((2, 9, 8, 5))

CASES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("MaxPool2d", (3, 2, 1), {"ceil_mode": True}),
    ("MaxPool2d", ((2, 3), 1), {"dilation": (2, 3), "padding": (1, 1)}),
    ("MaxPool2d", (2, 2, 1, 3), {"ceil_mode": True}),
    ("AvgPool2d", (3, 2, 1, True), {"count_include_pad": False}),
    ("AvgPool2d", ((4, 2), 3, (2, 1), True), {}),
    ("AvgPool2d", (2,), {}),
    ("AdaptiveAvgPool2d", (1,), {}),
    ("AdaptiveAvgPool2d", ((4, None),), {}),
    ("AdaptiveMaxPool2d", ((2, 3),), {}),
    ("AdaptiveMaxPool2d", ((12, 9),), {}),
    ("MaxPool1d", (3,), {"stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True}),
    ("AvgPool1d", (4, 3, 2, True, False), {}),
    ("AdaptiveAvgPool1d", (5,), {}),
    ("AdaptiveMaxPool1d", (3,), {}),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), CASES)
def test_values_and_gradients_are_torchs(name: str, args: Any, kwargs: Any) -> None:
    torch = pytest.importorskip("torch")
    import quernel as qn

    sequences = name.endswith("1d")
    x = X[0] if sequences else X
    ours, theirs = qn.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y = getattr(nn, name)(*args, **kwargs)(ours)
    layer = getattr(torch.nn, name)(*args, **kwargs)
    z = (
        layer(theirs.transpose(1, 2)).transpose(1, 2)
        if sequences
        else layer(theirs.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    )
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-12, atol=1e-13)
    g = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(g)
    z.backward(torch.tensor(g))
    assert ours.grad is not None
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-12, atol=1e-13)


def test_global_max() -> None:
    np.testing.assert_array_equal(nn.GlobalMaxPool2d()(X).numpy(), X.max((1, 2)))


def test_reprs() -> None:
    assert repr(nn.MaxPool2d(2)) == "MaxPool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))"
    assert (
        repr(nn.MaxPool1d(3, 1, ceil_mode=True))
        == "MaxPool1d(kernel_size=3, stride=1, padding=0, ceil_mode=True)"
    )
    assert repr(nn.MaxPool2d(2, dilation=2)).endswith("padding=(0, 0), dilation=(2, 2))")
    assert repr(nn.AvgPool1d(2)) == "AvgPool1d(kernel_size=2, stride=2, padding=0)"
    assert repr(nn.AdaptiveAvgPool2d((1, None))) == "AdaptiveAvgPool2d(output_size=(1, None))"
    assert repr(nn.AdaptiveMaxPool1d(4)) == "AdaptiveMaxPool1d(output_size=4)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.MaxPool1d((2, 2)), r"kernel_size is one integer, got \(2, 2\)"),
        (lambda: nn.MaxPool2d(2, dilation=0), "dilation holds integers from 1 on"),
        (lambda: nn.AdaptiveAvgPool2d(0), "output_size holds integers from 1 on"),
        (lambda: nn.AdaptiveMaxPool2d((1, 2, 3)), "one integer or a pair"),
        (lambda: nn.AdaptiveAvgPool1d(0), "output_size holds integers from 1 on"),
        (nn.Upsample, "give either size or scale_factor"),
        (lambda: nn.Upsample(2, mode="cubic"), "mode is one of 'nearest'"),
    ],
)
def test_bad_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_sequences_are_not_images() -> None:
    with pytest.raises(ShapeError, match=r"\[avg_pool1d\] x must have 3 dimensions \(N, T, C\)"):
        ops.avg_pool1d(X, 2)
