"""Transfer: heads that are replaced, layers that are left out of training, rates of their own, states with another head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import callbacks, losses, nn, optim
from quernel.errors import ShapeError, StateError
from tests.test_training import state

X = np.random.default_rng(0).standard_normal((40, 6, 6, 2)).astype(np.float32) + np.float32(3)
Y = np.arange(40) % 3


def net_of(classes: int = 3) -> nn.Sequential:
    qn.seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2)),
        nn.Linear(64, classes),
    )


def changed(net: nn.Module, before: dict[str, Any]) -> set[str]:
    after = state(net)
    return {name for name in after if after[name] != before[name]}


@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_what_is_frozen_keeps_every_bit(optimizer: str, eagerly: bool) -> None:
    net = net_of()
    net[:-1].requires_grad_(False)
    before = state(net)
    net.compile(optimizer, run_eagerly=eagerly)
    net.fit(X, Y, epochs=2, batch_size=16, verbose=0)
    assert changed(net, before) == {"5.weight", "5.bias"}
    assert net.training and net[1].training  # modes are back


def test_frozen_norms_use_their_statistics_in_fit_alone() -> None:
    """A frozen body and head are the same function in training as in evaluation, but for dropout."""
    net = net_of()
    net[4] = nn.Identity()
    net.compile("sgd", metrics=["accuracy"])
    net.fit(X, Y, epochs=2, verbose=0)
    net.requires_grad_(False)
    net[5].requires_grad_(True)
    net.compile(optim.SGD(net.parameters(), lr=0.0))
    before = state(net)
    assert net.fit(X, Y, batch_size=40, verbose=0, shuffle=False)["loss"] == [
        net.evaluate(X, Y, batch_size=40)["loss"]
    ]
    assert not changed(net, before)
    net.train()
    net(X)  # by hand it is as in PyTorch
    assert changed(net, before) == {"1.running_mean", "1.running_var"}
    free = nn.Sequential(nn.BatchNorm2d(2, affine=False), nn.Flatten(), nn.Linear(72, 3))
    free.compile("sgd")
    before = state(free)
    free.fit(X, Y, verbose=0)
    assert "0.running_mean" in changed(free, before)  # it has nothing that could be frozen


def test_frozen_layers_have_no_backward_pass() -> None:
    net = net_of()
    net[:-1].requires_grad_(False)
    net.eval()
    y = net[:-1](qn.tensor(X))
    assert not y.requires_grad and y._node is None
    losses.cross_entropy(net[-1](y), Y).backward()
    assert all(p.grad is None for p in net[:-1].parameters()) and net[-1].weight.grad is not None


def test_a_frozen_layer_in_the_middle_hands_gradients_on() -> None:
    net = net_of()
    net[1].requires_grad_(False)
    net[5].requires_grad_(False)
    before = state(net)
    net.compile("sgd")
    net.fit(X, Y, verbose=0)
    assert changed(net, before) == {"0.weight", "0.bias"}


@pytest.mark.parametrize("eagerly", [False, True])
def test_freezing_and_unfreezing_between_fits(eagerly: bool) -> None:
    """Adam's moments of what rests are kept; steps count for each parameter by itself."""
    net = net_of()
    net.compile("adam", run_eagerly=eagerly)
    for frozen, moving in [
        ((), {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "5.weight", "5.bias"}),
        ((0, 1), {"5.weight", "5.bias"}),
        ((0, 5), {"1.weight", "1.bias", "1.running_mean", "1.running_var"}),
        ((), {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "5.weight", "5.bias"}),
    ]:  # fmt: skip
        net.requires_grad_(True)
        for layer in frozen:
            net[layer].requires_grad_(False)
        before = state(net)
        net.fit(X, Y, batch_size=20, verbose=0)
        assert changed(net, before) == moving


def test_a_jitted_step_by_hand_follows() -> None:
    net = net_of()
    optimizer = optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)

    @qn.jit
    def step(x: qn.Tensor, y: qn.Tensor) -> qn.Tensor:
        optimizer.zero_grad()
        loss = losses.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(3):
        step(X, Y)
    net[0].requires_grad_(False)
    net[1].requires_grad_(False).eval()
    before = state(net)
    for _ in range(3):
        step(X, Y)
    assert changed(net, before) == {"5.weight", "5.bias"}  # no decay of what is frozen either


def test_groups_with_rates_of_their_own_and_their_schedules() -> None:
    """A group at a tenth of the rate moves a tenth as far, whichever schedule sets the rates."""
    schedules: list[Any] = [
        lambda opt: callbacks.LRScheduler(optim.lr_scheduler.StepLR(opt, 1, gamma=0.5)),
        lambda _: callbacks.LRScheduler(lambda epoch: 0.2 * 0.5**epoch),
        lambda _: callbacks.LRScheduler(lambda batch: 0.2 * 0.5 ** (batch // 2), per="batch"),
        lambda _: callbacks.LRScheduler(lambda epoch, rate: rate * (0.5 if epoch else 1)),
    ]
    ends = []
    for make in schedules:
        net = net_of()
        net[4] = nn.Identity()
        optimizer = optim.SGD(
            [{"params": net[-1].parameters()}, {"params": net[:-1].parameters(), "lr": 0.02}], lr=0.2
        )
        net.compile(optimizer)
        history = net.fit(
            X, Y, epochs=3, batch_size=20, verbose=0, shuffle=False, callbacks=[make(optimizer)]
        )
        assert history.lr == [0.2, 0.1, 0.05]
        head, body = (group["lr"] for group in optimizer.param_groups)
        np.testing.assert_allclose(body, head / 10)
        ends.append(state(net))
    for other in ends[1:]:
        for name, value in ends[0].items():
            np.testing.assert_allclose(
                np.frombuffer(other[name], np.float32), np.frombuffer(value, np.float32), rtol=1e-5
            )


def test_a_schedule_that_ends_at_zero_keeps_the_ratio_in_the_next_fit() -> None:
    net = net_of()
    optimizer = optim.SGD(
        [{"params": net[-1].parameters()}, {"params": net[0].parameters(), "lr": 0.1}], lr=0.4
    )
    net.compile(optimizer)
    fall = callbacks.LRScheduler(lambda epoch: 0.4 * (1 - epoch))
    for _ in range(2):
        net.fit(X, Y, epochs=2, verbose=0, callbacks=[fall])
        assert [group["lr"] for group in optimizer.param_groups] == [0, 0]
    net.fit(X, Y, epochs=1, verbose=0, callbacks=[fall])
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.1]


def test_a_head_that_is_replaced_needs_a_new_optimizer() -> None:
    net = net_of(5)
    net.compile("adam")
    net.fit(X, Y, verbose=0)
    net[-1] = nn.Linear(None, 3)
    before = state(net[:-1])
    for verb in ("fit", "train_on_batch"):
        with pytest.raises(
            StateError, match=rf"\[{verb}\] 5\.weight, 5\.bias would not be trained: .*net\.compile again"
        ):
            getattr(net, verb)(X, Y)
    assert not changed(net[:-1], before)
    net.evaluate(X, Y)
    net.compile("adam")
    before = state(net)
    net.fit(X, Y, verbose=0)
    assert {"5.weight", "5.bias", "0.weight"} <= changed(net, before)


@pytest.mark.parametrize("verb", ["fit", "train_on_batch"])
def test_a_layer_that_is_appended_needs_a_new_optimizer(verb: str) -> None:
    net = net_of(5)
    net.compile("adam")
    net.append(nn.Linear(5, 3))
    before = state(net)
    with pytest.raises(
        StateError, match=rf"\[{verb}\] 6\.weight, 6\.bias would not be trained: .*net\.compile again"
    ):
        getattr(net, verb)(X, Y)
    assert not changed(net, before)
    net.compile(optim.SGD(net[-1].parameters(), lr=0.1))
    getattr(net, verb)(X, Y)
    assert {"6.weight", "6.bias"} <= changed(net, before)


def test_an_optimizer_of_some_parameters_is_no_mistake() -> None:
    net = net_of()
    net.compile(optim.SGD(net[-1].parameters(), lr=0.1))
    before = state(net)
    net.fit(X, Y, verbose=0)
    assert changed(net, before) == {"5.weight", "5.bias", "1.running_mean", "1.running_var"}


def test_nothing_to_train() -> None:
    net = net_of().requires_grad_(False)
    net.compile("adam")
    with pytest.raises(
        StateError,
        match=r"\[fit\] the model has no parameters to train: all are frozen, .*requires_grad_\(True\)",
    ):
        net.fit(X, Y, verbose=0)
    net.evaluate(X, Y)
    net.requires_grad_(True)
    with pytest.raises(StateError, match=r"were frozen when the model was compiled; compile it again"):
        net.fit(X, Y, verbose=0)
    net = net_of()
    net.compile("adam")
    net.requires_grad_(False)
    with pytest.raises(
        StateError,
        match=r"\[fit\] the model has no parameters to train: all are frozen, .*requires_grad_\(True\)",
    ):
        net.fit(X, Y, verbose=0)


def test_a_state_with_another_head() -> None:
    """Shapes that differ are never skipped in silence; names that are left out are told."""
    source, net = net_of(5), net_of(3)
    with qn.no_grad():
        source[0].bias[...] = 7.0
    given = source.state_dict()
    before = state(net)
    for strict in (True, False):
        with pytest.raises(
            ShapeError,
            match=r"5\.weight has shape \(3, 64\), the state \(5, 64\); 5\.bias has shape \(3,\), the state \(5,\); to keep .*"
            r"strict=False",
        ):
            net.load_state_dict(given, strict=strict)
        assert not changed(net, before)
    body = {name: value for name, value in given.items() if not name.startswith("5.")}
    assert net.load_state_dict(body | {"old.weight": X}, strict=False) == (
        ["5.weight", "5.bias"],
        ["old.weight"],
    )
    assert (net[0].bias.numpy() == 7).all() and changed(net, before) == {"0.bias"}
    net[:-1].load_state_dict(body)  # or to the body by itself
