"""What the tasks share: random streams, the cache, the linear baseline, the schedule, the torch twin, the command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import quernel as qn
from quernel import models, nn
from quernel.data import tasks
from quernel.data.tasks.__main__ import main
from quernel.data.tasks.baselines import linear_accuracy, logistic_regression
from quernel.data.tasks.common import Split, cached, stream
from quernel.data.tasks.experiment import Recipe, fit, fit_torch
from quernel.errors import UnsupportedError


def test_streams_are_frozen() -> None:
    """The draws of `RandomState` never change; neither may the seeding from names."""
    assert stream("cluttered_digits", 0, "train", 3).randint(1000, size=4).tolist() == [735, 127, 287, 348]
    assert stream("a", 1).rand() != stream("a", "1").rand()


def test_cache_keeps_and_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def make() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"x": np.arange(5)}

    monkeypatch.setenv("QUERNEL_CACHE", str(tmp_path / "deep" / "cache"))
    for _ in range(3):
        np.testing.assert_array_equal(cached("key", make)["x"], np.arange(5))
    assert len(calls) == 1
    file = tmp_path / "deep" / "cache" / "key.npz"
    assert list(file.parent.iterdir()) == [file]
    for broken in (b"", b"PK\x03\x04 truncated", file.read_bytes()[:100]):
        file.write_bytes(broken)
        np.testing.assert_array_equal(cached("key", make)["x"], np.arange(5))
    assert len(calls) == 4 and "made anew" in caplog.text

    blocked = tmp_path / "a file"
    blocked.touch()
    monkeypatch.setenv("QUERNEL_CACHE", str(blocked))
    with caplog.at_level(logging.WARNING):
        assert cached("key", make)["x"].size == 5
    assert "cannot be kept" in caplog.text
    monkeypatch.setenv("QUERNEL_CACHE", "off")
    assert cached("key", make)["x"].size == 5 and len(calls) == 6


def test_logistic_regression_minimizes_its_loss() -> None:
    random = np.random.RandomState(0)
    x = random.normal(size=(300, 6)).astype(np.float32)
    y = (x @ random.normal(size=(6, 3)) + random.normal(size=(300, 3))).argmax(1)
    weight, bias = logistic_regression(x, y, iterations=400, penalty=0.01)
    scores = (x @ weight + bias).astype(np.float64)
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    error = (share - np.eye(3)[y]) / len(x)
    assert np.abs(x.T @ error + 0.01 * weight).max() < 1e-4  # the gradient vanishes
    assert np.abs(error.sum(0)).max() < 1e-4
    data = Split(x, y, x, y)
    assert 0.6 < linear_accuracy(data) < 1


def test_schedule_rises_and_falls() -> None:
    recipe = Recipe(lr=0.4, warmup=0.25)
    rates = [recipe.rate(step / 100) for step in range(101)]
    assert max(rates) == rates[25] == 0.4
    assert rates[:26] == sorted(rates[:26]) and rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[0] == rates[100] == 0.4 * 0.01


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Torch takes as many, and its threads wait long for each other on a busy machine."""
    before = qn.runtime.num_threads()
    qn.runtime.set_num_threads(1)
    yield
    qn.runtime.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(
    "recipe", [Recipe(batch_size=50), Recipe("adamw", 0.01, batch_size=50, clip_norm=1.0)]
)
def test_fit_learns_and_repeats(recipe: Recipe) -> None:
    random = np.random.RandomState(0)
    x = random.normal(size=(400, 5)).astype(np.float32)
    y = (np.abs(x).sum(1) > 4).astype(np.int64)
    data = Split(x[:300], y[:300], x[300:], y[300:])

    def make() -> nn.Module:
        return models.mlp(None, [32], 2)

    net, scores = fit(make, data, recipe, 30, 0, 0)
    assert scores["accuracy"] > 0.8
    again, _ = fit(make, data, recipe, 30, 0, 0)
    np.testing.assert_array_equal(net.predict(x), again.predict(x))
    pytest.importorskip("torch")
    assert abs(fit_torch(make, data, recipe, 30, 0, 0)[1]["accuracy"] - scores["accuracy"]) < 0.1


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet8", (16, 16, 3)),
        ("resnet18", (64, 64, 3)),
        ("mobilenet_v2_small", (32, 32, 3)),
        ("lenet5", (28, 28, 1)),
        ("mlp", (784,)),
    ],
)
def test_torch_twin_computes_the_same(name: str, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    from quernel.data.tasks.torch_twin import torch_twin

    qn.seed(0)
    net = getattr(models, name)().eval()
    x = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32)
    with torch.no_grad():
        twin = torch_twin(net).eval()(torch.from_numpy(x)).numpy()
    ours = net.predict(x)
    np.testing.assert_allclose(ours, twin, rtol=0, atol=1e-4 * np.abs(ours).max())
    if len(shape) == 3:
        with torch.no_grad():
            flat = (
                torch_twin(net, nhwc=False).eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
            )
        np.testing.assert_allclose(flat, twin, rtol=0, atol=1e-4 * np.abs(ours).max())


def test_torch_twin_of_flattened_images() -> None:
    torch = pytest.importorskip("torch")
    from quernel.data.tasks.torch_twin import torch_twin

    qn.seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(90, 7)).eval()
    x = np.random.default_rng(0).standard_normal((2, 6, 5, 3), dtype=np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(torch_twin(net)(torch.from_numpy(x)).numpy(), net.predict(x), atol=1e-5)


@pytest.mark.parametrize(
    "net",
    [
        models.LSTMLanguageModel(11, 4, 6, layers=2, dropout=0.2),
        models.LSTMClassifier(11, 3, 4, 6, layers=2),
        models.TransformerLanguageModel(11, 16, 2, max_len=20),
        models.TransformerClassifier(11, 3, 16, 2, max_len=20),
        nn.Sequential(
            nn.Embedding(11, 4, 0), nn.GRU(4, 5, 2, bidirectional=True, returns="last"), nn.LayerNorm(10)
        ),
        nn.Sequential(nn.Embedding(11, 4), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)),
        nn.Sequential(nn.Embedding(11, 4), nn.LSTM(4, 5, dropout=0.5, returns="last"), nn.Linear(5, 3)),
    ],
    ids=[
        "LSTMLanguageModel",
        "LSTMClassifier",
        "TransformerLanguageModel",
        "TransformerClassifier",
        "GRU",
        "mean",
        "LSTM",
    ],
)
def test_torch_twin_of_sequences(net: nn.Module) -> None:
    torch = pytest.importorskip("torch")
    from quernel.data.tasks.torch_twin import torch_twin

    x = np.random.default_rng(0).integers(0, 11, (3, 17))
    with torch.no_grad():
        twin = torch_twin(net).eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(net.predict(x), twin, rtol=0, atol=2e-6 * max(1, np.abs(twin).max()))


def test_torch_twin_names_what_it_does_not_know() -> None:
    pytest.importorskip("torch")
    from quernel.data.tasks.torch_twin import torch_twin

    with pytest.raises(UnsupportedError, match="ModuleList"):
        torch_twin(nn.Sequential(nn.ModuleList()))


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERNEL_CACHE", str(tmp_path))
    assert main(["cluttered_digits", "--summary"]) == 0
    assert "77,850 parameters" in capsys.readouterr().out
    pytest.importorskip("matplotlib")
    assert main(["cluttered_digits", "--quick", "--plot", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert main(["cluttered_digits", "--quick", "--compare", "sklearn"]) == 1
    assert "no net for sklearn" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in tasks.NAMES)


def test_unknown_task() -> None:
    with pytest.raises(ValueError, match="did you mean 'cluttered_digits'"):
        tasks.task("clutered_digits")


def test_a_net_in_bfloat16_is_trained_beside_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tabular", "--quick", "--precision", "bf16"]) == 0
    table = capsys.readouterr().out.rsplit("\n\n", 1)[1]
    assert "net, quernel bf16" in table and "net, quernel " in table
