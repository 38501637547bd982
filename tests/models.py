"""Small models of every shape of graph, which the tests of graphs, quantization, files and freezing share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

import quernel as qn
from quernel import nn, ops

SHAPE = (8, 8, 3)
Array = npt.NDArray[np.float32]


def plain() -> nn.Module:
    """A chain: convolutions with BatchNorm, both poolings, dropout, linear layers."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(
            nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ),
        *(nn.Flatten(), nn.Dropout(0.4), nn.Linear(None, 16), nn.Tanh(), nn.Linear(16, 5)),
    )


def residual() -> nn.Module:
    """Two residual blocks, one with a shortcut that is a convolution, then a global pooling."""
    body = nn.Sequential(
        *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)),
    )
    wider = nn.Sequential(nn.Conv2d(8, 12, 2, padding="same"), nn.BatchNorm2d(12))
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Residual(body, activation="relu"),
        nn.Residual(wider, shortcut=nn.Conv2d(8, 12, 1), activation="gelu"),
        *(nn.GlobalAvgPool2d(), nn.Linear(12, 5)),
    )


class Branches(nn.Module):
    """A user's own class: two branches that are concatenated, a slice, a value used twice, and log-probabilities."""

    def __init__(self) -> None:
        self.left = nn.Conv2d(3, 4, 3, padding=1, groups=1)
        self.right = nn.Conv2d(3, 6, 1)
        self.norm = nn.BatchNorm2d(4)
        self.mix = nn.Conv2d(10, 8, 3, dilation=2)
        self.dropout = nn.Dropout(0.2)
        self.scale = nn.Parameter(np.full(8, 0.5, np.float32))
        self.head = nn.Linear(8, 5)

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        left, right = ops.relu(self.norm(self.left(x))), ops.sigmoid(self.right(x))
        y = ops.relu(self.mix(ops.concat([left, right], axis=-1)))
        y = ops.global_avg_pool2d(y + y * self.scale)
        y = ops.reshape(y, (x.shape[0], 2, 4))[:, ::-1]
        return ops.log_softmax(self.head(self.dropout(ops.flatten(y, 1))))


class Fused(nn.Module):
    """Ops that are called fused from the start."""

    def __init__(self) -> None:
        self.a = nn.Conv2d(3, 3, 3, padding=1)
        self.b = nn.Linear(192, 5)

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        y = ops.conv2d(x, self.a.weight, self.a.bias, padding=1, activation="silu", residual=x)
        return ops.linear(ops.flatten(y, 1), self.b.weight, self.b.bias)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "residual": residual,
    "branches": Branches,
    "fused": Fused,
}


def make(name: str, seed: int = 0) -> nn.Module:
    """The model `name`, sized, in evaluation mode, its BatchNorm statistics away from their start."""
    qn.seed(seed)
    net = MODELS[name]().eval()
    with qn.no_grad():
        net(images(1))
        rng = np.random.default_rng(seed)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                n = module.num_features
                module.running_mean[...] = rng.normal(0, 0.3, n).astype(np.float32)
                module.running_var[...] = rng.uniform(0.3, 2, n).astype(np.float32)
                module.weight[...] = rng.uniform(0.5, 1.5, n).astype(np.float32)
                module.bias[...] = rng.normal(0, 0.2, n).astype(np.float32)
    return net


def images(batch: int, seed: int = 7) -> Array:
    """A batch of images (batch, 8, 8, 3)."""
    return np.random.default_rng(seed).normal(size=(batch, *SHAPE)).astype(np.float32)


def evaluate(net: nn.Module, x: Array) -> Array:
    """The model's output, op by op, without gradients."""
    with qn.no_grad():
        y: Array = net(x).numpy()
    return y
