"""Metrics and losses on values that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

import quernel as qn
from quernel import losses, metrics
from quernel.errors import ArgumentError, DTypeError, ShapeError


def test_metrics_by_hand() -> None:
    output = np.array([[1.0, 3.0, 2.0], [0.0, -1.0, 5.0], [9.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    assert metrics.accuracy(output, np.array([1, 2, 1, 1])) == 0.75
    a, b = np.array([1.0, 2.0, 4.0]), np.array([1.0, 0.0, 5.0])
    assert metrics.mse(a, b) == pytest.approx(5 / 3)
    assert metrics.mae(a, b) == 1.0
    with pytest.raises(ShapeError, match=r"\[accuracy\] expected labels \(4,\)"):
        metrics.accuracy(output, np.zeros((4, 3)))
    with pytest.raises(ShapeError, match=r"\[mae\] output has shape \(3,\), target \(3, 1\)"):
        metrics.mae(a, b[:, None])


def test_losses_by_hand_and_their_gradients() -> None:
    logits = qn.tensor([[0.0, 0.0], [math.log(3), 0.0]], dtype="float64", requires_grad=True)
    loss = losses.cross_entropy(logits, np.array([0, 0]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2, rel=1e-14)
    loss.backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), [[-0.25, 0.25], [-0.125, 0.125]], rtol=1e-14)
    assert losses.cross_entropy(logits.detach(), np.array([0, 0]), reduction="none").shape == (2,)
    x = qn.tensor([1.0, 4.0], requires_grad=True)
    losses.mse(x, np.array([0.0, 2.0], np.float32)).backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 2.0]


def test_losses_refuse_what_does_not_fit() -> None:
    logits = np.zeros((2, 3), np.float32)
    with pytest.raises(DTypeError, match="whole numbers, got float"):
        losses.cross_entropy(logits, np.zeros(2))
    with pytest.raises(ShapeError):
        losses.cross_entropy(logits, np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="cross_entropy"):
        losses.cross_entropy(logits, np.array([0, 3]))
    with pytest.raises(ShapeError, match="mse"):
        losses.mse(logits, logits[0])
    with pytest.raises(ArgumentError, match="reduction"):
        losses.mse(logits, logits, reduction="average")
