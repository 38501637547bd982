"""Convolution layers: beside PyTorch's, padding modes, text, files, and what graphs make of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import compress, nn
from quernel.graph import optimize, trace
from quernel.graph.trace import Input
from tests.checks import check_equal


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


def channels_first(a: np.ndarray) -> np.ndarray:
    return np.moveaxis(a, -1, 1).copy()


CASES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}),
    ("Conv1d", (4, 6, 4), {"padding": "same", "bias": False}),
    ("Conv1d", (4, 4, 3), {"padding": 2, "padding_mode": "reflect"}),
    ("Conv1d", (4, 4, 4), {"padding": "same", "padding_mode": "circular"}),
    ("Conv2d", (4, 4, 3), {"padding": 1, "groups": 4}),
    ("Conv2d", (4, 12, 3), {"padding": "valid", "groups": 4, "stride": (2, 1)}),
    *[("Conv2d", (4, 6, (3, 2)), {"padding": (2, 1), "padding_mode": m, "stride": 2}) for m in ("zeros", "reflect", "replicate", "circular")],
    ("Conv2d", (4, 6, 3), {"padding": "same", "padding_mode": "replicate", "dilation": (1, 2)}),
    ("ConvTranspose1d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    ("ConvTranspose2d", (4, 6, (3, 4)), {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)}),
    ("ConvTranspose2d", (4, 4, 3), {"stride": 2, "groups": 4, "bias": False, "dilation": 2}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(("kind", "args", "kwargs"), CASES)
def test_torch_agrees(kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    qn.seed(0)
    ours, theirs = getattr(nn, kind)(*args, **kwargs), getattr(torch.nn, kind)(*args, **kwargs)
    bound = 1 / math.sqrt(math.prod(ours.weight.shape[1:]))  # both draw from [-bound, bound)
    assert 0.8 * bound < float(np.abs(ours.weight.numpy()).max()) <= bound * (1 + 1e-6)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            own = getattr(ours, name).numpy()
            assert own.shape == (np.moveaxis(p.numpy(), 1, -1).shape if p.ndim > 1 else tuple(p.shape))
            assert max(float(np.abs(p.numpy()).max()), float(np.abs(own).max())) <= bound * (1 + 1e-6)
            p.copy_(torch.tensor(channels_first(own) if p.ndim > 1 else own))
    x = images(2, *((9, 4) if "1d" in kind else (9, 8, 4)))
    y = np.moveaxis(theirs(torch.tensor(channels_first(x))).detach().numpy(), 1, -1)
    np.testing.assert_allclose(ours(x).numpy(), y, atol=1e-5)


def test_what_has_no_counterpart_in_torch() -> None:
    """ "same" with a stride, and "causal", with a padding mode."""
    layer = nn.Conv2d(3, 5, 4, stride=3, padding="same", padding_mode="replicate")
    x = images(2, 8, 9, 3)
    wide = np.pad(x, [(0, 0), (1, 1), (0, 1), (0, 0)], mode="edge")
    check_equal(layer(x).numpy(), qn.ops.conv2d(wide, layer.weight, layer.bias, stride=3).numpy())
    causal = nn.Conv1d(3, 5, 3, padding="causal", dilation=2, padding_mode="circular")
    s = x[:, 0]
    wide = np.pad(s, [(0, 0), (4, 0), (0, 0)], mode="wrap")
    check_equal(causal(s).numpy(), qn.ops.conv1d(wide, causal.weight, causal.bias, dilation=2).numpy())


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda: nn.Conv1d(3, 4, 5, padding="causal"), "Conv1d(3, 4, kernel_size=(5,), padding='causal')"),
        (lambda: nn.Conv2d(None, 4, 3, stride=2, padding_mode="reflect", bias=False), "Conv2d(None, 4, kernel_size=(3, 3), stride=(2, 2), bias=False, padding_mode='reflect')"),
        (lambda: nn.ConvTranspose2d(3, 4, 2, stride=2, output_padding=(0, 1)), "ConvTranspose2d(3, 4, kernel_size=(2, 2), stride=(2, 2), output_padding=(0, 1))"),
        (lambda: nn.ConvTranspose1d(4, 4, 3, groups=2, dilation=2), "ConvTranspose1d(4, 4, kernel_size=(3,), dilation=(2,), groups=2)"),
    ],
)  # fmt: skip
def test_text(layer: Any, text: str) -> None:
    assert repr(layer()) == text


def test_sizes_come_from_the_first_input() -> None:
    for layer, x, weight in (
        (nn.Conv1d(None, 6, 3, groups=2), images(1, 9, 4), (6, 3, 2)),
        (nn.ConvTranspose1d(None, 6, 3, groups=2), images(1, 9, 4), (4, 3, 3)),
        (nn.ConvTranspose2d(None, 6, (3, 2)), images(1, 3, 3, 4), (4, 3, 2, 6)),
    ):
        layer(x)
        assert layer.weight.shape == weight
        assert layer.in_channels == 4


def sequence_net() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv1d(4, 8, 3, padding="causal"), nn.BatchNorm1d(8), nn.ReLU()),
        *(nn.Conv1d(8, 8, 4, padding="same", stride=2, groups=8), nn.ReLU()),
        nn.Residual(nn.Conv1d(8, 8, 3, padding=1)),
        *(nn.ConvTranspose1d(8, 6, 4, stride=2, padding=1, groups=2), nn.BatchNorm1d(6), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(None, 3)),
    )


def image_net() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(
            nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(6),
            nn.GELU(),
        ),
        *(nn.GlobalAvgPool2d(), nn.Linear(6, 3)),
    )


NETS = {"sequence": (sequence_net, (10, 4)), "image": (image_net, (8, 8, 3))}


def make(name: str) -> tuple[nn.Sequential, np.ndarray]:
    qn.seed(0)
    builder, shape = NETS[name]
    net, x = builder(), images(16, *shape)
    net.train()
    net(x)
    for _, buffer in net.named_buffers():  # statistics that matter
        buffer[...] = buffer.numpy() * 1.5 + 0.25
    return net.eval(), x


@pytest.mark.parametrize("name", NETS)
def test_batch_norm_folds_and_activations_fuse(name: str) -> None:
    net, x = make(name)
    graph = trace(net, [Input(x.shape[1:])])
    small = optimize(graph)
    kinds = [n.op for n in small.nodes]
    assert "batch_norm" not in kinds
    assert not {"relu", "tanh", "gelu", "add"} & set(kinds)
    run = net.freeze(max_batch=8, input_shape=x.shape[1:])
    np.testing.assert_allclose(run(x), net(x).numpy(), rtol=1e-5, atol=1e-6)
    check_equal(run(x[3:4]), run(x)[3:4])


@pytest.mark.parametrize("name", NETS)
def test_files(name: str, tmp_path: Path) -> None:
    net, x = make(name)
    net.save(tmp_path / "net.safetensors")
    again = qn.load(tmp_path / "net.safetensors").eval()
    assert repr(again) == repr(net)
    check_equal(again(x).numpy(), net(x).numpy())


@pytest.mark.parametrize("name", NETS)
def test_int8(name: str) -> None:
    net, x = make(name)
    small = compress.quantize(net, calibration=x)
    kinds = [n.op for n in small.graph.nodes]
    assert kinds.count("qconv2d") == {"sequence": 3, "image": 2}[name]
    assert not {"conv1d", "conv2d"} & set(kinds)
    y, q = net(x).numpy(), small(x).numpy()
    assert np.abs(q - y).max() < 0.06 * np.abs(y).max()
    check_equal(small.freeze(max_batch=8)(x), q)


def test_int8_of_sequences_is_exact_integer_arithmetic() -> None:
    """A causal convolution of whole numbers, scaled so that quantizing loses nothing."""
    net = nn.Sequential(nn.Conv1d(1, 1, 2, padding="causal", bias=False))
    net[0].weight.detach()[...] = [[[127.0], [-127.0]]]
    x = np.arange(256, dtype="f4").reshape(1, 256, 1) - 128
    small = compress.quantize(net, calibration=x)
    assert [n.op for n in small.graph.nodes] == ["quantize", "reshape", "pad", "qconv2d", "reshape"]
    np.testing.assert_allclose(small(x).numpy(), net(x).numpy(), rtol=1e-6, atol=1e-3)


def test_multiply_adds() -> None:
    net = nn.Sequential(
        nn.Conv1d(4, 6, 3, padding="same", groups=2), nn.ConvTranspose1d(6, 8, 4, stride=2, groups=2)
    )
    assert [row.macs for row in net.summary((10, 4), show=False).rows] == [10 * 6 * 3 * 2, 10 * 6 * 4 * 4]
    net = nn.Sequential(nn.Conv2d(8, 16, 3, groups=8), nn.ConvTranspose2d(16, 4, 2, stride=2))
    rows = net.summary((10, 12, 8), show=False).rows
    assert [row.macs for row in rows] == [8 * 10 * 16 * 9, 8 * 10 * 16 * 4 * 4]
    assert [row.kind for row in rows] == ["Conv2d", "ConvTranspose2d"]
