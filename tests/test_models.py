"""The zoo: published parameter counts, training, saving, quantizing, and the commands."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import quernel as qn
from quernel import models, nn

# name: net, shape of a sample, parameters, multiply-adds (in millions; None where nobody has published them)
COUNTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, float | None]] = {
    # Keras' "simple MNIST MLP" scheme: (784 + 1)·256 + (256 + 1)·128 + (128 + 1)·10
    "mlp": (models.mlp, (784,), 235_146, None),
    # The textbook LeNet-5, e.g. the tables of "Dive into Deep Learning" 7.6 with 28 x 28 images
    "lenet5": (models.lenet5, (28, 28, 1), 61_706, None),
    "lenet5 tanh": (lambda: models.lenet5(variant="tanh"), (28, 28, 1), 61_706, None),
    # 6n + 2 with n = 1 (He et al. 2016, 4.2): 3·3·(3·16 + 2·16² + 16·32 + 32² + 32·64 + 64²) + 16·32 + 32·64 + BatchNorm + 650
    "resnet8": (models.resnet8, (32, 32, 3), 77_850, 12.5),
    # He et al. 2016, table 6: 0.27 M; with the shortcuts of the paper (A) others count 269,722 (Idelbayev, "Proper
    # ResNet implementation for CIFAR10"), with BatchNorm in 1x1 shortcuts (B) 272,474; 41 M multiply-adds
    "resnet20 A": (lambda: models.resnet20(shortcut="identity"), (32, 32, 3), 269_722, 40.55),
    "resnet20": (models.resnet20, (32, 32, 3), 272_282, 40.81),
    "resnet20 B": (lambda: models.resnet20(shortcut="projection_bn"), (32, 32, 3), 272_474, 40.81),
    # He et al. 2016, table 6: 0.85 M and 1.7 M; Idelbayev: 853,018 and 1,727,962
    "resnet56 A": (lambda: models.resnet_cifar(56, shortcut="identity"), (32, 32, 3), 853_018, 125.5),
    "resnet110 A": (lambda: models.resnet_cifar(110, shortcut="identity"), (32, 32, 3), 1_727_962, 252.9),
    # torchvision's documentation of resnet18: num_params 11689512, GFLOPS 1.81
    "resnet18": (models.resnet18, (224, 224, 3), 11_689_512, 1814.1),
    # torchvision's documentation of mobilenet_v2: num_params 3504872, GFLOPS 0.3 (the paper's table 4: 3.4 M, 300 M)
    "mobilenet_v2": (models.mobilenet_v2, (224, 224, 3), 3_504_872, 300.8),
    # timm's results table: mobilenetv2_050 1.97 M, mobilenetv2_140 6.11 M
    "mobilenet_v2 0.5": (lambda: models.mobilenet_v2(width=0.5), (224, 224, 3), 1_968_680, None),
    "mobilenet_v2 1.4": (lambda: models.mobilenet_v2(width=1.4), (224, 224, 3), 6_108_776, None),
    # ImageNet's less 990 classes of 1280 weights and a bias
    "mobilenet_v2 cifar": (
        lambda: models.mobilenet_v2(10, stem="cifar"),
        (32, 32, 3),
        3_504_872 - 990 * 1281,
        None,
    ),
    # "pytorch-cifar" (Liu): ResNet18 with 3x3 stem, 11,173,962 parameters, 0.56 G
    "resnet18 cifar": (lambda: models.resnet18(10, stem="cifar"), (32, 32, 3), 11_173_962, 555.4),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(name: str) -> None:
    make, shape, parameters, millions = COUNTS[name]
    summary = make().summary(input_shape=shape, show=False)
    assert summary.parameters == parameters
    if millions is not None:
        assert summary.macs / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: models.mlp(12, [64], 10), (12,)),
        (models.lenet5, (28, 28, 1)),
        (models.resnet8, (8, 8, 3)),
        (lambda: models.resnet_cifar(8, shortcut="identity"), (8, 8, 3)),
        (lambda: models.mobilenet_v2(10, width=0.25, stem="cifar", dropout=0), (16, 16, 3)),
        (lambda: models.resnet18(10, width=4), (32, 32, 3)),
        (lambda: models.resnet18(10, width=4, stem="cifar"), (8, 8, 3)),
    ],
    ids=["mlp", "lenet5", "resnet8", "resnet8 A", "mobilenet_v2", "resnet18", "resnet18 cifar"],
)
def test_nets_train_save_freeze_and_quantize(
    make: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    """Twelve samples are learnt by heart; file, plan and int8 give the same answers."""
    qn.seed(0)
    net = make()
    x = np.random.default_rng(0).standard_normal((12, *shape), dtype=np.float32)
    y = np.arange(12) % 10
    net.compile(optimizer=qn.optim.Adam(net.parameters(), 3e-3), loss="cross_entropy", metrics=["accuracy"])
    net.fit(x, y, epochs=120, batch_size=12, verbose=0)
    assert net.evaluate(x, y)["accuracy"] > 0.9
    scores = net.predict(x)
    net.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(qn.load(tmp_path / "net.safetensors").predict(x), scores)
    np.testing.assert_allclose(net.freeze(max_batch=12)(x), scores, rtol=0, atol=1e-4 * np.abs(scores).max())
    small = qn.compress.quantize(net, calibration=x)
    assert (small.predict(x).argmax(1) == y).mean() > 0.8


def test_a_shortcut_without_parameters_takes_pixels_and_adds_zeros() -> None:
    from quernel.models.resnet import Subsample

    x = np.random.default_rng(0).standard_normal((2, 5, 6, 3), dtype=np.float32)
    y = Subsample(3, 8, 2)(qn.tensor(x)).numpy()
    assert y.shape == (2, 3, 3, 8)
    np.testing.assert_array_equal(y[..., 2:5], x[:, ::2, ::2])
    assert not y[..., :2].any() and not y[..., 5:].any()


def test_bad_arguments() -> None:
    for make, message in (
        (lambda: models.resnet_cifar(9), "6n \\+ 2"),
        (lambda: models.resnet_cifar(2), "6n \\+ 2"),
        (lambda: models.resnet_cifar(8, shortcut="none"), "shortcut is one of"),  # type: ignore[arg-type]
        (lambda: models.resnet18(stem="mnist"), "'imagenet' or 'cifar'"),  # type: ignore[arg-type]
        (lambda: models.mobilenet_v2(stem="mnist"), "'imagenet' or 'cifar'"),  # type: ignore[arg-type]
        (lambda: models.mobilenet_v2(width=0), "width is positive"),
        (lambda: models.lenet5(variant="gelu"), "'relu' or 'tanh'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(AttributeError, match="vgg"):
        _ = models.vgg  # type: ignore[attr-defined]


FILES = ("perceptron", "lenet", "mobilenet", "resnet")


@pytest.mark.parametrize("name", FILES)
def test_commands_help_and_print_the_summary(name: str) -> None:
    for arguments, expected in ((["--help"], "--benchmark"), ([], "parameters")):
        result = subprocess.run(
            [sys.executable, "-W", "error", "-m", f"quernel.models.{name}", *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0 and expected in result.stdout and not result.stderr, result


def test_command_trains_times_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from quernel.models.command import run

    file = tmp_path / "net.safetensors"

    def command(*arguments: str) -> int:
        def make(_args: object, _shape: tuple[int, ...], classes: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), *models.mlp(None, [32], classes))

        return run("python -m x", "About.", make, (8, 8, 1), argv=arguments)

    assert command("--train", "digits", "--epochs", "4", "--save", str(file), "--benchmark") == 0
    text = capsys.readouterr().out
    assert float(text.split("test accuracy ")[1].split("%")[0]) > 90
    assert "batch 16" in text
    assert qn.load(file).predict(np.zeros((1, 8, 8, 1), np.float32)).shape == (1, 10)
    assert command("--save", str(tmp_path / "none" / "net.safetensors")) == 1
    assert command("--input-shape", "4,4,1", "--train", "digits") == 1
    assert command("--input-shape", "4,4") == 1
    error = capsys.readouterr().err
    assert "there is no folder" in error and "8 x 8 pixels" in error and "height,width,channels" in error


def test_names_lead_to_their_files() -> None:
    for name in models.__all__:
        made = getattr(models, name)
        assert made is getattr(importlib.import_module(made.__module__), name)
