"""Weights of samples and classes, accumulated and clipped gradients, whole-set batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import losses, metrics, nn, optim
from quernel.errors import ArgumentError, ShapeError
from tests.test_training import blobs, mlp, state

X, Y = blobs(60)
W = np.random.default_rng(1).uniform(0.1, 3, 60)


def twins(count: int = 2) -> list[nn.Sequential]:
    """Nets with the same weights."""
    nets = []
    for _ in range(count):
        qn.seed(0)
        nets.append(mlp(0.0))
        nets[-1](X)
    return nets


def test_weights_multiply_the_losses_of_samples() -> None:
    net, twin = twins()
    net.compile(optim.SGD(net.parameters(), lr=0.1))
    history = net.fit(X, Y, sample_weight=W, batch_size=25, shuffle=False, verbose=0)
    opt = optim.SGD(twin.parameters(), lr=0.1)
    total = 0.0
    for begin in range(0, 60, 25):
        part = slice(begin, begin + 25)
        opt.zero_grad()
        each = losses.cross_entropy(twin(X[part]), Y[part], reduction="none")
        loss = (each * W[part].astype(np.float32)).mean()
        loss.backward()
        opt.step()
        total += loss.item() * len(Y[part])
    assert state(net) == state(twin) and history["loss"] == [total / 60]


@pytest.mark.parametrize("eagerly", [False, True])
def test_class_weights_are_the_weights_of_their_samples(eagerly: bool) -> None:
    results = []
    table = {0: 2.0, 2: 0.5}
    for options in (
        {"class_weight": table},
        {"class_weight": [2.0, 1.0, 0.5]},
        {"sample_weight": np.array([2.0, 1.0, 0.5])[Y]},
        {"class_weight": {2: 0.25}, "sample_weight": np.array([2.0, 1.0, 2.0])[Y]},
    ):
        (net,) = twins(1)
        net.compile(optim.SGD(net.parameters(), lr=0.1), run_eagerly=eagerly)
        history = net.fit(X, Y, epochs=2, batch_size=16, seed=3, verbose=0, **options)
        results.append((state(net), history.history))
    assert all(result == results[0] for result in results)


def test_eager_and_replayed_weights_agree_and_weights_reach_every_verb() -> None:
    results = []
    for eagerly in (False, True):
        (net,) = twins(1)
        net.compile(
            "adam",
            metrics=["accuracy"],
            weighted_metrics=[metrics.Accuracy(name="weighted")],
            run_eagerly=eagerly,
        )
        history = net.fit(
            X,
            Y,
            sample_weight=W,
            batch_size=16,
            epochs=3,
            seed=1,
            verbose=0,
            validation_data=(X, Y, W),
            gradient_accumulation=2,
        )
        logs = net.evaluate(X, Y, sample_weight=W)
        assert logs == {name: history[f"val_{name}"][-1] for name in ("loss", "accuracy", "weighted")}
        assert net.test_on_batch(X, Y, sample_weight=W) == pytest.approx(logs)
        right = net.predict(X).argmax(1) == Y
        assert logs["weighted"] == pytest.approx((W * right).sum() / W.sum(), rel=1e-6)
        results.append((state(net), history.history, net.train_on_batch(X, Y, class_weight={0: 3.0})))
    assert results[0] == results[1]


def test_zero_weights_leave_samples_out() -> None:
    net, twin = twins()
    for model in (net, twin):
        model.compile(optim.SGD(model.parameters(), lr=0.1))
    weight = np.where(np.arange(60) < 30, 2.0, 0.0)
    net.fit(X, Y, sample_weight=weight, batch_size=60, shuffle=False, verbose=0)
    twin.fit(X[:30], Y[:30], batch_size=30, shuffle=False, verbose=0)
    for name, value in net.state_dict().items():
        assert np.allclose(value.numpy(), twin.state_dict()[name].numpy(), atol=1e-6)


def test_validation_split_splits_weights_too() -> None:
    (net,) = twins(1)
    net.compile(optim.SGD(net.parameters(), lr=0.0))
    history = net.fit(X, Y, sample_weight=W, validation_split=0.25, verbose=0)
    assert history["val_loss"] == [net.evaluate(X[45:], Y[45:], sample_weight=W[45:])["loss"]]


def test_modules_and_regression_losses_take_weights() -> None:
    y = X[:, :3] * 2
    results = []
    for loss in ("mse", losses.mse, nn.MSELoss()):
        (net,) = twins(1)
        net.compile("sgd", loss=loss)
        results.append(net.fit(X, y, sample_weight=W, seed=0, verbose=0).history)
    assert results[0] == results[1] == results[2]
    (net,) = twins(1)
    net.compile("sgd", loss="mse")
    expected = (np.square(net.predict(X) - y).mean(1) * W).mean()
    assert net.evaluate(X, y, sample_weight=W, batch_size=None)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_weight": W[1:]}, r"sample_weight has shape \(59,\), expected one number a sample: \(60,\)"),
        ({"sample_weight": np.where(Y, W, -1)}, r"sample_weight is -1\.0 at row 0; weights are finite"),
        ({"sample_weight": np.where(Y == 1, np.nan, W)}, r"sample_weight is nan at row 1"),
        (
            {"class_weight": {3: 1.0}},
            r"class_weight has a weight for class 3, the model has 3 classes, 0 to 2",
        ),
        ({"class_weight": {"1": 1.0}}, r"class_weight has a weight for class '1'"),
        ({"class_weight": {1: -1.0}}, r"class_weight of class 1 is -1\.0"),
        (
            {"class_weight": [1.0, 2.0]},
            r"class_weight is a dictionary, or an array with one weight for each of 3",
        ),
    ],
)
def test_weights_that_cannot_be(options: dict[str, Any], message: str) -> None:
    net = mlp()
    net.compile()
    with pytest.raises((ArgumentError, ShapeError), match=message):
        net.fit(X, Y, verbose=0, **options)
    assert net[0].weight.is_unsized


def test_losses_must_be_had_for_each_sample() -> None:
    def mine(output: qn.Tensor, target: qn.Tensor) -> qn.Tensor:
        return losses.cross_entropy(output, target)

    def wrong(output: qn.Tensor, target: qn.Tensor, reduction: str = "mean") -> qn.Tensor:  # noqa: ARG001
        return losses.cross_entropy(output, target)

    net = mlp()
    net.compile(loss=mine)
    with pytest.raises(
        ArgumentError, match="need the loss of each sample, which mine does not give; let it take"
    ):
        net.fit(X, Y, sample_weight=W, verbose=0)
    net.compile(loss=wrong)
    with pytest.raises(ShapeError, match=r"with reduction='none' wrong gives \(\), expected a loss for each"):
        net.fit(X, Y, sample_weight=W, verbose=0)
    net.compile(loss=lambda output, target: losses.cross_entropy(output, target, "none"))
    with pytest.raises(ShapeError, match=r"loss is a tensor of shape \(1,\); a loss returns one number"):
        net.fit(X, Y, verbose=0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
def test_weights_keep_the_reduction_of_a_loss(reduction: str) -> None:
    class Squares(nn.Module):
        """A loss with a state of its own."""

        reduction = "mean"

        def forward(self, output: qn.Tensor, target: qn.Tensor) -> qn.Tensor:
            each = (output - target).square()
            if self.reduction == "none":
                return each
            return each.sum() / {"mean": each.size, "sum": 1, "batchmean": len(each)}[self.reduction]

    def weighted(output: qn.Tensor, target: qn.Tensor, sample_weight: qn.Tensor | None = None) -> qn.Tensor:
        each = (output - target).square().mean(1)
        return (each if sample_weight is None else each * sample_weight).mean()

    y = X[:, :3] * 2
    (net,) = twins(1)
    loss = Squares()
    loss.reduction = reduction
    results = []
    for given in (loss, weighted):
        net.compile("sgd", loss=given)
        plain, ones = net.test_on_batch(X, y), net.test_on_batch(X, y, sample_weight=np.ones(60))
        assert plain == pytest.approx(ones, rel=1e-6)
        results.append(net.test_on_batch(X, y, sample_weight=W)["loss"])
    assert results[0] == pytest.approx(
        results[1] * {"mean": 1, "sum": 180, "batchmean": 3}[reduction], rel=1e-5
    )


def test_variables_of_a_loss_may_change_during_training() -> None:
    factor = 1.0

    def scaled(output: qn.Tensor, target: qn.Tensor) -> qn.Tensor:
        return losses.cross_entropy(output, target) * factor

    (net,) = twins(1)
    net.compile("sgd", loss=scaled)
    first = [net.test_on_batch(X, Y)["loss"] for _ in range(3)]
    factor = 4.0
    assert [net.test_on_batch(X, Y)["loss"] for _ in range(3)] == pytest.approx([4 * loss for loss in first])


@pytest.mark.parametrize("eagerly", [False, True])
def test_accumulated_gradients_are_those_of_the_large_batch(eagerly: bool) -> None:
    net, twin = twins()
    updates: list[int] = []
    net.compile(optim.SGD(net.parameters(), lr=0.1), run_eagerly=eagerly)
    twin.compile(optim.SGD(twin.parameters(), lr=0.1))
    count = qn.callbacks.LambdaCallback(on_batch_end=lambda batch, logs: updates.append(batch))  # noqa: ARG005
    # 60 samples in batches of 8: groups of 24, 24 and 12 = 8 + 4
    options: dict[str, Any] = {"epochs": 2, "shuffle": False, "verbose": 0}
    history = net.fit(X, Y, batch_size=8, gradient_accumulation=3, callbacks=[count], **options)
    expected = twin.fit(X, Y, batch_size=24, **options)
    assert updates == [0, 1, 2, 0, 1, 2]
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    for name, value in net.state_dict().items():
        assert np.allclose(value.numpy(), twin.state_dict()[name].numpy(), atol=1e-6)


def test_accumulation_eager_and_replayed_agree() -> None:
    results = []
    for eagerly in (False, True):
        (net,) = twins(1)
        net.compile("adam", run_eagerly=eagerly)
        net.fit(X, Y, batch_size=7, gradient_accumulation=3, epochs=4, seed=2, verbose=0)
        results.append(state(net))
    assert results[0] == results[1]


def test_without_a_batch_size_all_samples_make_one_step() -> None:
    net, twin = twins()
    for model in (net, twin):
        model.compile(optim.SGD(model.parameters(), lr=0.5))
    a = net.fit(X, Y, batch_size=None, epochs=20, shuffle=False, verbose=0)
    b = twin.fit(X, Y, batch_size=60, epochs=20, shuffle=False, verbose=0)
    assert a.history == b.history and state(net) == state(twin)
    assert np.all(np.diff(a["loss"]) < 0)  # gradient descent on a smooth loss


@pytest.mark.parametrize("eagerly", [False, True])
def test_gradients_are_clipped_before_the_update(eagerly: bool) -> None:
    net, twin = twins()
    net.compile(optim.SGD(net.parameters(), lr=1.0), clip_norm=0.05, clip_value=0.01, run_eagerly=eagerly)
    for _ in range(3):
        net.train_on_batch(X, Y)
    opt = optim.SGD(twin.parameters(), lr=1.0)
    for _ in range(3):
        opt.zero_grad()
        losses.cross_entropy(twin(X), Y).backward()
        optim.clip_grad_norm_(twin.parameters(), 0.05)
        optim.clip_grad_value_(twin.parameters(), 0.01)
        opt.step()
    assert state(net) == state(twin)
    for name in ("clip_norm", "clip_value"):
        with pytest.raises(ArgumentError, match=f"{name} is a positive number or None, got 0"):
            net.compile("sgd", **{name: 0})


def test_targets_of_cross_entropy_may_be_distributions_sequences_and_ignored() -> None:
    x, labels = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32), np.arange(12) % 3
    soft = 0.1 / 3 + 0.9 * np.eye(3, dtype=np.float32)[labels]
    histories = []
    for target, loss in ((soft, "cross_entropy"), (labels, nn.CrossEntropyLoss(label_smoothing=0.1))):
        qn.seed(0)
        net = nn.Sequential(nn.Linear(4, 3))
        net.compile("sgd", loss, metrics=["accuracy"])
        histories.append(net.fit(x, target, epochs=2, verbose=0, seed=1))
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-5)
    assert histories[0]["accuracy"] == histories[1]["accuracy"]
    net = nn.Sequential(nn.Linear(4, 3))
    net.compile("sgd", "cross_entropy", metrics=["accuracy", "perplexity"])
    some = np.where(labels == 2, -100, labels)
    seen = net.evaluate(np.stack([x, x], 1), np.stack([labels, some], 1))
    both, kept = np.concatenate([x, x[labels < 2]]), np.concatenate([labels, labels[labels < 2]])
    assert seen["accuracy"] == (net.predict(both).argmax(1) == kept).mean()
    alone = net.evaluate(both, kept)
    np.testing.assert_allclose(
        [seen["loss"], seen["perplexity"]], [alone["loss"], alone["perplexity"]], rtol=1e-5
    )


@pytest.mark.parametrize("loss", ["bce_with_logits", nn.BCEWithLogitsLoss()])
def test_binary_losses_in_fit(loss: Any) -> None:
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    y = (x[:, :1] > 0.3).astype(np.int64)
    net = nn.Sequential(nn.Linear(4, 1))
    net.compile(optim.Adam(net.parameters(), lr=0.1), loss, metrics=["accuracy", "roc_auc"])
    net.fit(x, y, epochs=60, verbose=0, seed=0)
    seen = net.evaluate(x, y)
    assert seen["accuracy"] == ((net.predict(x) > 0) == y).mean() > 0.9  # logits: the threshold is 0
    assert seen["roc_auc"] == pytest.approx(metrics.roc_auc(net.predict(x), y))
    with pytest.raises(ArgumentError, match=r"wants probabilities from 0 to 1; y is 2 at \(5, 0\)"):
        net.fit(x, np.where(np.arange(64)[:, None] == 5, 2, y))
    with pytest.raises(ShapeError, match=r"output is \(N, 1\), y has shape \(64,\); use y\.reshape"):
        net.fit(x, y[:, 0])
