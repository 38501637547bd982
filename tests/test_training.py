"""compile, fit, evaluate, predict: what they compute, and that they repeat."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import quernel as qn
from quernel import callbacks, data, losses, nn, optim
from quernel.errors import ArgumentError, ShapeError

Arrays = tuple[np.ndarray, np.ndarray]


def blobs(samples: int = 90, seed: int = 0) -> Arrays:
    """Three classes of points in four dimensions that a small net can tell apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(samples) % 3
    centers = np.array([[2, 0, 0, 1], [0, 2, 0, -1], [0, 0, 2, 0]])
    return (centers[y] + 0.3 * rng.normal(size=(samples, 4))).astype(np.float32), y.astype(np.int64)


def mlp(dropout: float = 0.2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(None, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding="same"),
        nn.BatchNorm2d(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Residual(nn.Sequential(nn.Conv2d(16, 16, 3, padding="same"), nn.BatchNorm2d()), activation="relu"),
        nn.Flatten(),
        nn.Linear(None, 64),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(64, 10),
    )


def state(net: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in net.state_dict().items()}


def test_handwritten_digits_are_learned_in_seconds() -> None:
    qn.seed(0)
    x, y = data.load_digits()
    x, xv, y, yv = data.train_test_split(x, y, stratify=y, seed=1)
    net = cnn()
    net.compile(optimizer="adam", loss="cross_entropy", metrics=["accuracy"], device="auto", precision="fp32")
    history = net.fit(x, y, epochs=6, batch_size=64, validation_data=(xv, yv), verbose=0)
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert history.epoch == list(range(6)) and all(len(v) == 6 for v in history.history.values())
    assert history["loss"][-1] < 0.2 < history["loss"][0]
    assert history["val_accuracy"][-1] >= 0.96
    assert net.evaluate(xv, yv) == {
        "loss": history["val_loss"][-1],
        "accuracy": history["val_accuracy"][-1],
    }
    assert (net.predict(xv).argmax(1) == yv).mean() == pytest.approx(history["val_accuracy"][-1])


def test_a_fit_is_the_loop_one_would_write() -> None:
    x, y = blobs()
    qn.seed(3)
    net = mlp(dropout=0.5)
    net.compile(optim.SGD(net.parameters(), lr=0.1, momentum=0.9), metrics="accuracy")
    history = net.fit(x, y, batch_size=32, epochs=3, shuffle=False, verbose=0)

    qn.seed(3)
    twin = mlp(dropout=0.5)
    opt = optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(3):
        total = correct = 0.0
        for begin in range(0, len(x), 32):
            xb, yb = x[begin : begin + 32], y[begin : begin + 32]
            opt.zero_grad()
            output = twin(xb)
            loss = losses.cross_entropy(output, yb)
            loss.backward()
            opt.step()
            total += loss.item() * len(xb)
            correct += (output.detach().numpy().argmax(1) == yb).sum()
        assert history["loss"][epoch] == total / len(x)
        assert history["accuracy"][epoch] == pytest.approx(correct / len(x))
    assert state(net) == state(twin)


def test_runs_repeat_bit_for_bit_at_any_thread_count_eager_or_replayed() -> None:
    x, y = data.load_digits()
    x, y = x[:230], y[:230]

    def run(threads: int, eagerly: bool) -> tuple[dict[str, bytes], dict[str, list[float]]]:
        qn.runtime.set_num_threads(threads)
        qn.seed(11)
        net = cnn()
        net.compile("adam", metrics=["accuracy"], run_eagerly=eagerly)
        history = net.fit(x, y, epochs=2, batch_size=48, validation_split=0.2, verbose=0)
        return state(net), history.history

    before = qn.runtime.num_threads()
    try:
        first, *others = [run(*how) for how in [(1, True), (1, True), (2, True), (1, False), (2, False)]]
    finally:
        qn.runtime.set_num_threads(before)
    for other in others:
        assert other == first


def test_the_seed_argument_seeds_order_and_dropout() -> None:
    x, y = blobs()
    results = []
    for seed in (5, 5, 6):
        qn.seed(0)
        net = mlp()
        net.compile()
        net.fit(x, y, epochs=2, verbose=0, seed=seed)
        results.append(state(net))
    assert results[0] == results[1] != results[2]


def test_short_last_batches_and_odd_batch_sizes_train_every_sample() -> None:
    x, y = blobs(23)
    seen: list[int] = []

    class Count(callbacks.Callback):
        def on_batch_end(self, batch: int, logs: dict[str, float]) -> None:
            assert math.isfinite(logs["loss"])
            seen.append(batch)

    for batch_size, batches in ((23, 1), (22, 2), (5, 5), (100, 1)):
        seen.clear()
        net = mlp()
        net.compile()
        net.fit(x, y, batch_size=batch_size, epochs=1, verbose=0, callbacks=[Count()])
        assert seen == list(range(batches))


def test_modes_are_as_before_and_evaluation_changes_nothing() -> None:
    x, y = data.load_digits()
    net = cnn()
    net.compile(metrics=["accuracy"])
    net.fit(x[:64], y[:64], verbose=0)
    assert all(module.training for module in net.modules())
    net[1].eval()
    before = state(net)
    modes = [module.training for module in net.modules()]
    first = net.evaluate(x[:100], y[:100], batch_size=7)
    second = net.evaluate(x[:100], y[:100], batch_size=100)
    assert first["accuracy"] == pytest.approx(second["accuracy"])
    assert np.array_equal(net.predict(x[:100], batch_size=7), net.predict(x[:100]))
    assert net.predict(x[:0]).shape == (0, 10)
    assert state(net) == before
    assert [module.training for module in net.modules()] == modes


def test_validation_split_holds_out_the_last_samples() -> None:
    x, y = blobs(50)
    net = mlp(0.0)
    net.compile(optim.SGD(net.parameters(), lr=0.0))
    history = net.fit(x, y, validation_split=0.3, verbose=0)
    assert history["val_loss"] == [net.evaluate(x[35:], y[35:])["loss"]]
    assert history["loss"] == pytest.approx([net.evaluate(x[:35], y[:35])["loss"]], rel=1e-6)


def test_regression_with_functions_for_loss_and_metric_and_two_inputs() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            self.left, self.right = nn.Linear(None, 2), nn.Linear(None, 2)

        def forward(self, a: qn.Tensor, b: qn.Tensor) -> qn.Tensor:
            return self.left(a) + self.right(b)

    def absolute(output: qn.Tensor, target: qn.Tensor) -> qn.Tensor:
        return (output - target).abs().mean()

    def worst(output: np.ndarray, target: np.ndarray) -> float:
        return float(np.abs(output - target).max())

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(120, 3)), rng.normal(size=(120, 2))
    y = a[:, :2] - 2 * b
    qn.seed(0)
    net = Sum()
    net.compile(optim.Adam(net.parameters(), lr=0.05), loss=absolute, metrics=[worst, "mae"])
    history = net.fit((a, b), y, epochs=30, verbose=0)
    assert history["loss"] == pytest.approx(history["mae"], rel=1e-4)
    assert history["loss"][-1] < 0.1 < history["loss"][0]
    assert net.predict((a, b)).shape == (120, 2)
    net.compile("sgd", loss="mse")
    assert net.evaluate((a, b), y)["loss"] < 0.05
    with pytest.raises(ShapeError, match="the inputs have 120, 119 samples"):
        net.predict((a, b[1:]))


def test_float64_models_train_in_float64() -> None:
    x, y = blobs()
    net = mlp().to("float64")
    with pytest.raises(
        ArgumentError, match=r"parameters are float64, precision 'fp32' wants float32; call net\.to"
    ):
        net.compile()
    net.compile(precision="fp64")
    net.fit(x, y, verbose=0)
    assert net.predict(x).dtype == np.float64


def test_train_on_batch_makes_one_step() -> None:
    x, y = blobs()
    qn.seed(0)
    net = mlp(0.0)
    net.compile("sgd", metrics=["accuracy"])
    logs = [net.train_on_batch(x, y) for _ in range(20)]
    assert set(logs[0]) == {"loss", "accuracy"} and logs[-1]["loss"] < logs[0]["loss"]


def test_labels_may_be_any_integers_and_lists() -> None:
    x, y = blobs()
    results = []
    for labels in (y, y.astype(np.uint8), y.tolist()):
        qn.seed(0)
        net = mlp()
        net.compile()
        net.fit(x.tolist() if labels is not y else x, labels, verbose=0)
        results.append(state(net))
    assert results[0] == results[1] == results[2]


def test_history_is_written_as_a_table_and_a_picture(tmp_path: Path) -> None:
    x, y = blobs()
    net = mlp()
    net.compile(metrics=["accuracy"])
    history = net.fit(x, y, epochs=2, validation_split=0.2, verbose=0)
    history.to_csv(tmp_path / "history.csv")
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,accuracy,val_loss,val_accuracy,lr" and len(lines) == 3
    assert [float(v) for v in lines[2].split(",")] == [
        1.0,
        *(values[-1] for values in history.history.values()),
        0.001,
    ]
    assert repr(history).startswith("History(2 epochs: loss=")
    pytest.importorskip("matplotlib")
    history.plot(tmp_path / "history.png")
    assert (tmp_path / "history.png").read_bytes()[:4] == b"\x89PNG"


def test_verbosity(capfd: pytest.CaptureFixture[str]) -> None:
    x, y = blobs()
    net = mlp()
    net.compile(metrics=["accuracy"])

    def printed(verbose: str | int) -> str:
        net.fit(x, y, epochs=2, verbose=verbose)
        out, err = capfd.readouterr()
        assert not out
        return err

    assert printed(0) == ""
    lines = printed("auto").splitlines()  # standard error is no terminal here
    assert len(lines) == 2 and lines[0].startswith("epoch 1/2 ") and "accuracy 0." in lines[1]
    bar = printed(1)
    assert "%|" in bar and "epoch 2/2" in bar and "accuracy 0." in bar
    with pytest.raises(ArgumentError, match="verbose is 0, 1, 2 or 'auto', got 3"):
        net.fit(x, y, verbose=3)


def test_a_step_is_one_native_call() -> None:
    x, y = blobs(96)
    net = mlp()
    net.compile()
    net.fit(x, y, epochs=2, batch_size=32, verbose=0)
    step = net._session["trainer"].train_step
    assert len(step.plans()) == 1
    before = net._session["trainer"].optimizer
    before.lr = 0.5
    net.eval().train()
    net.fit(x, y, epochs=1, batch_size=32, verbose=0)
    assert len(step.plans()) == 1


def test_an_interrupted_fit_can_go_on() -> None:
    class Stop(callbacks.Callback):
        def on_batch_end(self, batch: int, logs: dict[str, float]) -> None:  # noqa: ARG002
            if batch == 1:
                raise KeyboardInterrupt

    x, y = blobs()
    net = mlp()
    net.compile(metrics=["accuracy"])
    with pytest.raises(KeyboardInterrupt):
        net.fit(x, y, batch_size=16, verbose=1, callbacks=[Stop()])
    assert all(module.training for module in net.modules())
    assert len(net.fit(x, y, epochs=2, verbose=0)) == 2
