"""Layers: values against PyTorch, initial values, arguments that are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

import quernel as qn
from quernel import nn
from quernel.errors import ArgumentError, ShapeError


def test_initial_values_follow_pytorchs_defaults_and_repeat() -> None:
    def draw() -> tuple[nn.Linear, nn.Conv2d]:
        qn.seed(5)
        return nn.Linear(400, 300), nn.Conv2d(8, 64, (3, 5), groups=2)

    first, second = draw(), draw()
    for layer, twin, fan in zip(first, second, (400, 4 * 15), strict=True):
        bound = 1 / math.sqrt(fan)
        for parameter, again in zip(layer.parameters(), twin.parameters(), strict=True):
            values = parameter.numpy()
            assert np.array_equal(values, again.numpy())
            assert np.abs(values).max() <= bound and np.abs(values).max() > 0.9 * bound
        # A uniform sample's mean and variance, within 5 standard errors.
        values = layer.weight.numpy().astype(np.float64)
        n, variance = values.size, bound**2 / 3
        assert abs(values.mean()) < 5 * math.sqrt(variance / n)
        assert abs(values.var() / variance - 1) < 5 * math.sqrt(0.8 / n)
    norm = nn.BatchNorm2d(3)
    assert [t.numpy().tolist() for t in norm.state_dict().values()] == [[1] * 3, [0] * 3, [0] * 3, [1] * 3]


@pytest.mark.parametrize(
    ("fill", "low", "high", "variance"),
    [
        (lambda w: nn.init.uniform_(w, -1, 3), -1, 3, 16 / 12),
        (lambda w: nn.init.normal_(w, 1.0, 2.0), -math.inf, math.inf, 4),
        (lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"), -math.inf, math.inf, 2 / 300),
        (
            lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
            -math.inf,
            math.inf,
            2 / 720,
        ),
        (nn.init.xavier_uniform_, -math.inf, math.inf, 2 / 1020),
        (nn.init.xavier_normal_, -math.inf, math.inf, 2 / 1020),
        (nn.init.ones_, 1, 1, 0),
    ],
)
def test_initializers_have_the_stated_variance(fill, low, high, variance) -> None:  # type: ignore[no-untyped-def]
    qn.seed(3)
    weight = nn.Parameter(np.zeros((60, 3, 4, 25), np.float32))
    fill(weight)
    values = weight.numpy().astype(np.float64)
    assert low <= values.min() and values.max() <= high
    assert abs(values.var() - variance) <= 5 * variance * math.sqrt(2 / values.size)


def test_initializers_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ShapeError, match=r"at least 2 dimensions, the tensor is \(3,\)"):
        nn.init.kaiming_uniform_(nn.Parameter(np.zeros(3)))
    with pytest.raises(ArgumentError, match="unknown nonlinearity 'rely'"):
        nn.init.kaiming_uniform_(nn.Parameter(np.zeros((3, 3))), nonlinearity="rely")
    with pytest.raises(ArgumentError, match="'fan_in' or 'fan_out'"):
        nn.init.kaiming_normal_(nn.Parameter(np.zeros((3, 3))), mode="fan")


def test_a_network_gives_pytorchs_outputs_gradients_and_statistics() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    net = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.BatchNorm2d(6, eps=1e-3, momentum=0.2),
        nn.SiLU(),
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        nn.Residual(nn.Conv2d(6, 6, 3, padding="same", dilation=2, bias=False), activation="tanh"),
        nn.Flatten(),
        nn.Linear(96, 7),
    ).to("float64")
    body = torch.nn.Conv2d(6, 6, 3, padding="same", dilation=2, bias=False)
    parts = [
        torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        torch.nn.BatchNorm2d(6, eps=1e-3, momentum=0.2),
        torch.nn.SiLU(),
        torch.nn.MaxPool2d(3, stride=1, padding=1),
        torch.nn.AvgPool2d(2, padding=1, count_include_pad=False),
    ]
    trunk = torch.nn.Sequential(*parts).double()
    body, head = body.double(), torch.nn.Linear(96, 7).double()
    for ours, theirs in ((net[0], parts[0]), (net[1], parts[1]), (net[5].body, body), (net[7], head)):
        for name, parameter in theirs.state_dict().items():
            if parameter.ndim:
                value = parameter.numpy()
                with qn.no_grad():
                    getattr(ours, name)[...] = value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
    x = rng.normal(size=(5, 11, 11, 4))
    weights = rng.normal(size=(5, 7))

    xt = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    mid = trunk(xt)
    out = head(torch.tanh(body(mid) + mid).permute(0, 2, 3, 1).flatten(1))
    (out * torch.from_numpy(weights)).sum().backward()
    xq = qn.tensor(x, requires_grad=True)
    y = net(xq)
    (y * weights).sum().backward()

    def close(a: object, b: object) -> None:
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-9, atol=1e-11)

    close(y.detach(), out.detach())
    close(xq.grad, xt.grad.permute(0, 2, 3, 1))
    close(net[0].weight.grad, parts[0].weight.grad.permute(0, 2, 3, 1))
    close(net[1].weight.grad, parts[1].weight.grad)
    close(net[5].body.weight.grad, body.weight.grad.permute(0, 2, 3, 1))
    close(net[7].weight.grad, head.weight.grad)
    close(net[1].running_mean, parts[1].running_mean)
    close(net[1].running_var, parts[1].running_var)
    net.eval(), trunk.eval()
    mid = trunk(xt)
    close(net(x).detach(), head(torch.tanh(body(mid) + mid).permute(0, 2, 3, 1).flatten(1)).detach())


def test_dropout_keeps_the_mean_in_training_and_everything_in_evaluation() -> None:
    qn.seed(1)
    layer = nn.Dropout(0.25)
    x = np.ones((200, 500), np.float32)
    y = layer(x).numpy()
    kept = y != 0
    assert np.allclose(y[kept], 1 / 0.75)
    assert abs(kept.mean() - 0.75) < 5 * math.sqrt(0.25 * 0.75 / x.size)
    assert not np.array_equal(layer(x).numpy(), y)
    assert np.array_equal(layer.eval()(x).numpy(), x)


def test_batch_norm_without_running_statistics_uses_those_of_the_batch() -> None:
    layer = nn.BatchNorm2d(2, affine=False, track_running_stats=False).eval()
    assert not layer.state_dict()
    y = layer(np.random.default_rng(0).normal(3, 2, (4, 3, 3, 2))).numpy()
    assert np.abs(y.mean(axis=(0, 1, 2))).max() < 1e-6


def test_global_pooling_and_activations_are_layers() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    assert np.allclose(nn.GlobalAvgPool2d()(x).numpy(), x.mean(axis=(1, 2)), atol=1e-6)
    assert np.array_equal(nn.Identity()(x).numpy(), x)
    assert np.allclose(nn.Softmax()(x).numpy().sum(-1), 1, atol=1e-6)
    for dim in (-1, 1):
        layer = nn.LogSoftmax(dim)
        assert repr(layer) == f"LogSoftmax(dim={dim})"
        assert np.array_equal(layer(x).numpy(), qn.ops.log_softmax(x, dim).numpy())
    for layer, op in (
        (nn.ReLU, "relu"),
        (nn.GELU, "gelu"),
        (nn.SiLU, "silu"),
        (nn.Tanh, "tanh"),
        (nn.Sigmoid, "sigmoid"),
        *((nn.ReLU6, "relu6"), (nn.Hardswish, "hardswish"), (nn.Hardsigmoid, "hardsigmoid")),
        *((nn.Hardtanh, "hardtanh"), (nn.LeakyReLU, "leaky_relu"), (nn.ELU, "elu"), (nn.SELU, "selu")),
        *((nn.CELU, "celu"), (nn.Softplus, "softplus"), (nn.Mish, "mish"), (nn.LogSigmoid, "logsigmoid")),
        (nn.Softsign, "softsign"),
    ):
        assert np.array_equal(layer()(x).numpy(), getattr(qn.ops, op)(x).numpy())


def test_a_residual_block_explains_shapes_that_do_not_add() -> None:
    block = nn.Residual(nn.Conv2d(3, 8, 3))
    with pytest.raises(
        ShapeError, match=r"body gives \(1, 3, 3, 8\), the shortcut \(1, 5, 5, 3\); pass shortcut="
    ):
        block(np.ones((1, 5, 5, 3)))
    assert nn.Residual(nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3))(np.ones((1, 5, 5, 3))).shape == (1, 3, 3, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(0, 3), "in_features is a positive integer, got 0"),
        (lambda: nn.Linear(3, 2.5), "out_features is a positive integer, got 2.5"),  # type: ignore[arg-type]
        (lambda: nn.Conv2d(4, 6, 3, groups=4), "groups=4 does not divide out_channels=6"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "groups=2 does not divide the 3 input channels"),
        (lambda: nn.Conv2d(1, 1, (3, 3, 3)), "one integer or a pair"),
        (lambda: nn.Conv2d(1, 1, 3, stride=0), r"stride holds integers from 1 on, got 0"),
        (
            lambda: nn.Conv2d(1, 1, 3, padding="full"),
            "an integer, a pair or one of 'same', 'valid', got 'full'",
        ),  # type: ignore[arg-type]
        (
            lambda: nn.Conv2d(1, 1, 3, padding="causal"),
            "an integer, a pair or one of 'same', 'valid', got 'causal'",
        ),
        (
            lambda: nn.Conv1d(1, 1, 3, padding="full"),
            "an integer or one of 'same', 'valid', 'causal', got 'full'",
        ),  # type: ignore[arg-type]
        (lambda: nn.Conv1d(1, 1, (3, 3)), "kernel_size is one integer, got"),
        (lambda: nn.Conv2d(1, 1, 3, padding_mode="mirror"), "padding_mode is one of 'zeros', 'reflect'"),  # type: ignore[arg-type]
        (lambda: nn.Dropout(1.5), "p lies between 0 and 1, got 1.5"),
        (lambda: nn.Dropout(math.nan), "p lies between 0 and 1, got nan"),
        (lambda: nn.BatchNorm2d(3, eps=0), "eps is positive"),
        (lambda: nn.MaxPool2d(-1), "kernel_size holds integers from 1 on"),
        (lambda: nn.Residual(nn.ReLU(), activation="rleu"), "unknown activation 'rleu'; did you mean 'relu'"),
    ],
)
def test_bad_arguments_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
