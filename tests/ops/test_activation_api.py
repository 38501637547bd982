"""Activations as layers, inside plans and graphs, fused and not; reductions inside plans; what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import nn, ops
from quernel.errors import ArgumentError, DTypeError, ShapeError

LAYERS: list[tuple[Any, str]] = [
    (nn.ReLU6(), "ReLU6()"),
    (nn.Hardswish(), "Hardswish()"),
    (nn.Hardsigmoid(), "Hardsigmoid()"),
    (nn.Hardtanh(-2, 2), "Hardtanh(min_val=-2, max_val=2)"),
    (nn.LeakyReLU(0.2), "LeakyReLU(negative_slope=0.2)"),
    (nn.ELU(0.5), "ELU(alpha=0.5)"),
    (nn.SELU(), "SELU()"),
    (nn.CELU(), "CELU(alpha=1.0)"),
    (nn.Softplus(2), "Softplus(beta=2, threshold=20.0)"),
    (nn.Mish(), "Mish()"),
    (nn.LogSigmoid(), "LogSigmoid()"),
    (nn.Softsign(), "Softsign()"),
    (nn.PReLU(5), "PReLU(num_parameters=5)"),
]
NAMES = [type(layer).__name__ for layer, _ in LAYERS]


def normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 3


@pytest.mark.parametrize(("layer", "text"), LAYERS, ids=NAMES)
def test_layers(layer: nn.Module, text: str, tmp_path: Any) -> None:
    """One layer eagerly, in a plan, as a graph, from a file, and with gradients: the same bits each time."""
    assert repr(layer) == text
    x = normal(4, 5)
    y = layer(x).numpy()
    jitted = qn.jit(layer)
    for _ in range(3):
        np.testing.assert_array_equal(jitted(x).numpy(), y)
    net = nn.Sequential(nn.Linear(5, 5), layer)
    path = tmp_path / "net.safetensors"
    net.save(path)
    expected = net(x).numpy()
    np.testing.assert_array_equal(qn.load(path)(x).numpy(), expected)
    np.testing.assert_array_equal(net.freeze(max_batch=8)(x), expected)
    t = qn.tensor(x, requires_grad=True)
    layer(t).sum().backward()
    assert t.grad is not None and np.isfinite(t.grad.numpy()).all()


@pytest.mark.parametrize("name", ["relu6", "hardswish"])
@pytest.mark.parametrize("isa", qn.runtime.supported_isas())
def test_fused_activations_are_the_separate_ones(name: str, isa: str) -> None:
    x, w, b, r = normal(9, 33), normal(17, 33), normal(17), normal(9, 17)
    image, kernel = normal(2, 6, 5, 3), normal(8, 3, 3, 3)
    activation = getattr(ops, name)
    with qn.runtime.isa(isa):
        for dtype in ("float32", "float64"):
            a, v, c, d = (qn.tensor(t.astype(dtype), requires_grad=True) for t in (x, w, b, r))
            fused, separate = ops.linear(a, v, c, name, d), activation(ops.linear(a, v, c, None, d))
            np.testing.assert_array_equal(fused.numpy(), separate.numpy())
            gradients = []
            for y in (fused, separate):
                a.grad = v.grad = None
                (y * y).sum().backward()
                assert a.grad is not None and v.grad is not None
                gradients.append((a.grad.numpy().copy(), v.grad.numpy().copy()))
            for one, two in zip(*gradients, strict=True):
                np.testing.assert_array_equal(one, two)
        y = ops.conv2d(image, kernel, padding=1, activation=name)
        np.testing.assert_array_equal(y.numpy(), activation(ops.conv2d(image, kernel, padding=1)).numpy())


@pytest.mark.parametrize("name", ["relu6", "hardswish"])
def test_plans_and_graphs_fuse_them(name: str) -> None:
    def compute(x: Any, w: Any) -> Any:
        return getattr(ops, name)(x @ w)

    f = qn.jit(compute)
    x, w = normal(5, 70), normal(70, 33)
    results = [f(x, w).numpy().tobytes() for _ in range(3)]
    assert results[0] == results[1] == results[2]
    assert [step for step in f.plans()[0].steps if step != "pack"] == ["matmul"]
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.activation.activation(name))
    graph = qn.graph.optimize(qn.graph.trace(net.eval(), [qn.graph.Input((6, 6, 3))]))
    assert [(node.op, node.args["activation"]) for node in graph.nodes] == [("conv2d", name)]


def test_names() -> None:
    for name, layer in nn.activation.ACTIVATIONS.items():
        assert type(nn.activation.activation(name)) is layer
    assert {"leaky_relu", "elu", "selu", "relu6", "hardswish", "mish", "softplus", "prelu"} <= set(
        nn.activation.ACTIVATIONS
    )


def test_prelu_learns_its_slope() -> None:
    layer = nn.PReLU(num_parameters=3, init=0.1)
    x = np.array([[-1.0, 2.0, -3.0], [1.0, -2.0, -1.0]], np.float32)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [-1, -2, -4]


def test_reductions_and_orders_in_plans_and_graphs() -> None:
    def compute(x: Any) -> Any:
        values, places = x.topk(3)
        high = x.var(1) + x.std(1) + x.norm(2, 1) + x.logsumexp(1) + x.prod(1)
        return values, places, high, x.argmax(1), x.cumsum(1), x.sort(descending=True)[0], x.isfinite().all(1)

    x = normal(6, 7)
    eager = [t.numpy() for t in compute(qn.tensor(x))]
    f = qn.jit(compute)
    for _ in range(3):
        for a, b in zip(f(x), eager, strict=True):
            np.testing.assert_array_equal(a.numpy(), b)
    assert len(f.plans()) == 1

    class Net(nn.Module):
        def forward(self, x: qn.Tensor) -> Any:
            return compute(x)

    graph = qn.graph.trace(Net(), [qn.graph.Input((7,))])
    for a, b in zip(qn.graph.run(graph, [qn.tensor(x)]), eager, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)
    for a, b in zip(Net().freeze(input_shape=(7,), max_batch=4)(x), eager, strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_inside_a_plan() -> None:
    """Forward, backward and optimizer with the new ops: a plan gives the eager bits."""
    x = normal(5, 9)

    def train(wrap: Any) -> Any:
        qn.seed(0)
        w = qn.tensor(normal(9, 9) * 0.1, requires_grad=True)
        slopes = nn.PReLU(9)
        opt = qn.optim.SGD([w, slopes.weight], lr=0.05)

        def step(x: Any) -> Any:
            y = slopes(ops.leaky_relu(x @ w, 0.1))
            y = ops.mish(y) + ops.elu(y) + ops.hardswish(y) + ops.softplus(y)
            loss = y.topk(2)[0].sum() + y.var() + y.logsumexp(1).sum() + y.cumsum(0).norm()
            opt.zero_grad()
            loss.backward()
            opt.step()
            return loss

        run = wrap(step)
        losses = [run(x).item() for _ in range(5)]
        return losses, w.numpy().copy(), run

    losses, weights, _ = train(lambda f: f)
    again, same, jitted = train(qn.jit)
    assert losses == again and losses[-1] != losses[0]
    np.testing.assert_array_equal(weights, same)
    assert len(jitted.plans()) == 1


def test_accuracy_of_the_variance_far_from_zero() -> None:
    x = np.random.default_rng(0).standard_normal(10_000).astype(np.float32) + np.float32(4096)
    exact = x.astype(np.float64).var(ddof=1)
    # Each deviation is off by the mean's rounding, which cancels to first order, and by its own: 1e-4 of 1 here.
    assert abs(ops.var(x).item() - exact) < 1e-5 * exact


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.hardtanh([1.0], 1.0, 1.0),
            ArgumentError,
            r"\[hardtanh\] min_val must be less than max_val",
        ),
        (lambda: ops.celu([1.0], 0.0), ArgumentError, r"\[celu\] alpha must not be 0"),
        (lambda: ops.softplus([1.0], beta=0.0), ArgumentError, r"\[softplus\] beta must not be 0"),
        (lambda: ops.var([1, 2]), DTypeError, r"\[var\] x must be floating, got int64"),
        (lambda: ops.logsumexp([1, 2]), DTypeError, r"\[logsumexp\] x must be floating"),
        (lambda: ops.norm([1.0], 3), ArgumentError, r"\[norm\] p must be 1, 2 or inf, got 3"),
        (lambda: ops.norm([1.0], 2, 1), ShapeError, r"\[norm\] dim 1 is out of range"),
        (lambda: ops.argmax(np.zeros((2, 0)), 1), ShapeError, r"\[argmax\] there is no place of an extreme"),
        (lambda: ops.argmax(np.zeros((2, 3)), 2), ShapeError, r"\[argmax\] dim 2 is out of range"),
        (
            lambda: ops.topk(np.zeros((2, 3)), 4),
            ArgumentError,
            r"\[topk\] k is a whole number in \[0, 3\], .*got 4",
        ),
        (
            lambda: ops.topk(np.zeros((2, 3)), 1.5),
            ArgumentError,
            r"\[topk\] k is a whole number in .*got 1.5",
        ),
        (lambda: ops.cumsum(np.zeros(3), 1), ShapeError, r"\[cumsum\] dim 1 is out of range"),
        (lambda: ops.remainder([True], [True]), DTypeError, r"\[remainder\] is not defined for bool"),
        (
            lambda: ops.linear([[1.0]], [[1.0]], activation="mish"),
            ArgumentError,
            r"\[linear\] unknown activation 'mish'",
        ),
        (lambda: nn.PReLU(0), ArgumentError, r"\[prelu\] num_parameters is a positive integer, got 0"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_scalars() -> None:
    x = qn.tensor(-2.0)
    assert ops.argmax(x).item() == 0 and ops.argmax(x, 0, keepdim=True).shape == ()
    assert [t.item() for t in ops.topk(x, 1)] == [-2, 0] and ops.cumsum(x, 0).item() == -2
    assert ops.norm(x).item() == 2 and ops.prod(x).item() == -2 and math.isnan(ops.var(x).item())
