"""Normalization layers: training and evaluation beside PyTorch's, inferred sizes, files, reprs, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import nn
from quernel.errors import ArgumentError, ShapeError
from tests.checks import check_equal

RNG = np.random.default_rng(0)
IMAGES, SEQUENCES, ROWS = (RNG.standard_normal(s) * 2 + 1 for s in ((4, 5, 3, 6), (4, 7, 6), (9, 6)))

CASES: list[tuple[str, tuple[Any, ...], dict[str, Any], np.ndarray]] = [
    ("BatchNorm1d", (6,), {}, ROWS),
    ("BatchNorm1d", (6, 1e-3, 0.3), {}, SEQUENCES),
    ("BatchNorm1d", (6,), {"momentum": None}, ROWS),
    ("BatchNorm2d", (6,), {"momentum": None, "affine": False}, IMAGES),
    ("BatchNorm1d", (6,), {"track_running_stats": False}, ROWS),
    ("InstanceNorm1d", (6,), {"affine": True}, SEQUENCES),
    ("InstanceNorm2d", (6,), {}, IMAGES),
    ("InstanceNorm2d", (6,), {"affine": True, "track_running_stats": True, "momentum": 0.4}, IMAGES),
    ("GroupNorm", (3, 6), {}, IMAGES),
    ("GroupNorm", (2, 6, 1e-3, False), {}, SEQUENCES),
    ("LayerNorm", (6,), {}, ROWS),
    ("LayerNorm", ((3, 6),), {"eps": 1e-3, "bias": False}, IMAGES),
    ("LayerNorm", (6,), {"elementwise_affine": False}, SEQUENCES),
    ("RMSNorm", ((7, 6),), {}, SEQUENCES),
    ("RMSNorm", (6,), {"eps": 1e-2}, ROWS),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "x"), CASES)
def test_training_and_evaluation_are_torchs(name: str, args: Any, kwargs: Any, x: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    ours = getattr(nn, name)(*args, **kwargs).to("float64")
    theirs = getattr(torch.nn, name)(*args, **kwargs).double()
    for key, value in ours.named_parameters():
        drawn = np.random.default_rng(len(key)).standard_normal(value.shape)
        with qn.no_grad():
            value[...] = drawn
        getattr(theirs, key).data = torch.tensor(drawn)
    channels_last = name not in ("LayerNorm", "RMSNorm") and x.ndim > 2
    to = (0, x.ndim - 1, *range(1, x.ndim - 1)) if channels_last else tuple(range(x.ndim))
    back = tuple(np.argsort(to))
    for step in range(3):
        batch = x + step
        a = qn.tensor(batch, requires_grad=True)
        b = torch.tensor(np.ascontiguousarray(batch.transpose(to)), requires_grad=True)
        y, z = ours(a), theirs(b)
        np.testing.assert_allclose(y.numpy(), z.detach().permute(back).numpy(), rtol=1e-9, atol=1e-10)
        g = np.random.default_rng(step).standard_normal(x.shape)
        y.backward(g)
        z.backward(torch.tensor(np.ascontiguousarray(g.transpose(to))))
        assert a.grad is not None
        np.testing.assert_allclose(a.grad.numpy(), b.grad.permute(back).numpy(), rtol=1e-8, atol=1e-9)
    for key, value in ours.named_parameters():
        assert value.grad is not None
        np.testing.assert_allclose(
            value.grad.numpy(), getattr(theirs, key).grad.numpy(), rtol=1e-9, atol=1e-9
        )
    for key, buffer in ours.named_buffers():
        np.testing.assert_allclose(
            buffer.numpy().reshape(-1), getattr(theirs, key).numpy().reshape(-1), rtol=1e-12
        )
    ours.eval(), theirs.eval()
    want = theirs(torch.tensor(np.ascontiguousarray(x.transpose(to)))).detach().permute(back).numpy()
    np.testing.assert_allclose(ours(x).detach().numpy(), want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.BatchNorm1d, ROWS), (nn.InstanceNorm2d, IMAGES), (lambda: nn.GroupNorm(2), IMAGES), (nn.LayerNorm, ROWS),
        (nn.RMSNorm, SEQUENCES),
    ],
)  # fmt: skip
def test_sizes_are_inferred(layer: Any, x: np.ndarray) -> None:
    one = layer()
    assert one(x).shape == x.shape
    assert "6" in repr(one) and "None" not in repr(one)
    failing = layer()
    with pytest.raises(ValueError, match=r"dimensions|normalized_shape|takes"):
        failing(np.zeros(()) if isinstance(failing, nn.LayerNorm | nn.RMSNorm) else np.zeros(2))
    assert failing(x).shape == x.shape  # a refused input leaves no size behind


def test_plans_train_norms_as_eager_code_does() -> None:
    """Running statistics, the count of batches and gradients, over several replays."""

    def make() -> nn.Module:
        qn.seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, momentum=None), nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
            nn.GroupNorm(3, 6), nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 5), nn.BatchNorm1d(5), nn.RMSNorm(5),
        )  # fmt: skip

    eager, planned = make(), make()

    def step(net: nn.Module, x: qn.Tensor) -> qn.Tensor:
        for p in net.parameters():
            p.grad = None
        loss = (net(x) ** 2).sum()
        loss.backward()
        return loss

    recorded = qn.jit(lambda x: step(planned, x))
    for seed in range(4):
        x = qn.tensor(np.random.default_rng(seed).standard_normal((4, 4, 4, 3), dtype=np.float32))
        check_equal(recorded(x).numpy(), step(eager, x).numpy())
        for p, q in zip(planned.parameters(), eager.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            check_equal(p.grad.numpy(), q.grad.numpy())
        for key, value in eager.state_dict().items():
            check_equal(planned.state_dict()[key].numpy(), value.numpy())
    assert eager[1].num_batches_tracked.tolist() == [4]  # type: ignore[index]


def test_files_hold_them(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.ReflectionPad2d(1), nn.ConstantPad2d((1, 0, 0, 1), 2), nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, momentum=None),
        nn.InstanceNorm2d(6, affine=True), nn.GroupNorm(2), nn.MaxPool2d(2, ceil_mode=True),
        nn.Upsample(scale_factor=2.0, mode="bilinear"), nn.AdaptiveAvgPool2d((2, None)), nn.LayerNorm((10, 6)),
        nn.RMSNorm(6, elementwise_affine=False), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.LayerNorm(bias=False),
        nn.Linear(None, 4), nn.BatchNorm1d(4),
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype("f4")
    net(x)
    net.eval()
    net.save(tmp_path / "net.safetensors")
    again = qn.load(tmp_path / "net.safetensors")
    assert repr(again) == repr(net)
    check_equal(again.predict(x), net.predict(x))


def test_reprs() -> None:
    assert repr(nn.BatchNorm1d(3, momentum=None)) == "BatchNorm1d(3, momentum=None)"
    assert repr(nn.BatchNorm2d(3, affine=False)) == "BatchNorm2d(3, affine=False)"
    assert repr(nn.InstanceNorm2d(3)) == "InstanceNorm2d(3)"
    assert (
        repr(nn.InstanceNorm1d(3, affine=True, track_running_stats=True))
        == "InstanceNorm1d(3, affine=True, track_running_stats=True)"
    )
    assert repr(nn.GroupNorm(2, 4, affine=False)) == "GroupNorm(2, 4, affine=False)"
    assert repr(nn.LayerNorm((3, 4), eps=1e-3, bias=False)) == "LayerNorm((3, 4), eps=0.001, bias=False)"
    assert repr(nn.RMSNorm(4, elementwise_affine=False)) == "RMSNorm((4,), elementwise_affine=False)"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.GroupNorm(4, 6), ArgumentError, "num_groups=4 does not divide the 6 channels"),
        (lambda: nn.LayerNorm(()), ArgumentError, "normalized_shape has at least one size"),
        (lambda: nn.LayerNorm((3, 0)), ArgumentError, "normalized_shape is a positive integer, got 0"),
        (lambda: nn.RMSNorm(3, eps=0), ArgumentError, "eps is positive"),
        (lambda: nn.InstanceNorm2d(3, momentum=None), ArgumentError, "momentum lies between 0 and 1"),
        (lambda: nn.BatchNorm1d(6)(IMAGES), ShapeError, r"takes \(N, C\) or \(N, T, C\).*BatchNorm2d"),
        (lambda: nn.InstanceNorm1d(6)(IMAGES), ShapeError, r"takes sequences \(N, T, C\)"),
        (lambda: qn.ops.batch_norm(ROWS, qn.zeros(6, "float64"), qn.ones(6, "float64"), training=True, momentum=None),
         ArgumentError, "needs batches= to count them"),
    ],
)  # fmt: skip
def test_refusals(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
