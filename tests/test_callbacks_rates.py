"""Callbacks that change learning rates, batch sizes and weights while training runs."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import callbacks, losses, nn, optim
from quernel.errors import ArgumentError
from tests.test_training import blobs, mlp, state

X, Y = blobs(64)


def net_of(lr: float = 1.0) -> tuple[nn.Sequential, optim.SGD]:
    qn.seed(0)
    net = mlp(0.0)
    opt = optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.compile(opt)
    return net, opt


def rates_of(
    callback: callbacks.Callback, net: nn.Sequential, opt: optim.Optimizer, per: str = "epoch", **options: Any
) -> list[float]:
    """The learning rate in each epoch or batch."""
    rates: list[float] = []
    spy = callbacks.LambdaCallback(**{f"on_{per}_end": lambda *_: rates.append(opt.lr)})
    net.fit(X, Y, verbose=0, callbacks=[spy, callback], **{"epochs": 4, "batch_size": 32} | options)
    return rates


def test_schedules_step_after_epochs_or_batches() -> None:
    for per, count in (("epoch", 4), ("batch", 8)):
        net, opt = net_of()
        schedule = optim.lr_scheduler.ExponentialLR(opt, 0.5)
        assert rates_of(callbacks.LRScheduler(schedule, per=per), net, opt, per) == [
            0.5**i for i in range(count)
        ]
        assert schedule.last_epoch == count


def test_functions_are_given_the_epoch_or_the_batch() -> None:
    net, opt = net_of()
    assert rates_of(callbacks.LRScheduler(lambda epoch: 1 / (1 + epoch)), net, opt) == [
        1,
        1 / 2,
        1 / 3,
        1 / 4,
    ]
    schedule = callbacks.LRScheduler(float, per="batch")
    assert rates_of(schedule, net, opt, "batch") == [0, 1, 2, 3, 4, 5, 6, 7]
    assert rates_of(schedule, net, opt, "batch", epochs=1) == [0, 1]  # a function starts anew


def test_functions_of_two_arguments_are_given_the_rate_before() -> None:
    net, opt = net_of()
    assert rates_of(callbacks.LRScheduler(lambda epoch, lr: lr / 2 if epoch else lr), net, opt) == [
        1,
        0.5,
        0.25,
        0.125,
    ]
    net, opt = net_of()
    schedule = callbacks.LRScheduler(lambda _, lr: lr / 2, per="batch")
    halve = callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch: _halve(schedule, opt) if epoch == 1 else None
    )
    rates: list[float] = []
    spy = callbacks.LambdaCallback(on_batch_end=lambda *_: rates.append(opt.lr))
    net.fit(X, Y, verbose=0, epochs=2, batch_size=32, callbacks=[halve, schedule, spy])
    assert rates == [1 / 2, 1 / 4, 1 / 16, 1 / 32]  # what LRRollback took off stays off, and counts once


def _halve(schedule: callbacks.Callback, opt: optim.Optimizer) -> None:
    """What `LRRollback` does to the rates."""
    opt.lr *= 0.5
    schedule.trainer.lr_scale *= 0.5


def test_a_plateau_schedule_is_given_its_quantity() -> None:
    net, opt = net_of(0.5)
    schedule = optim.lr_scheduler.ReduceLROnPlateau(
        opt, factor=0.1, patience=0, threshold=10.0, threshold_mode="abs"
    )
    callback = callbacks.LRScheduler(schedule, monitor="val_loss")
    rates = rates_of(callback, net, opt, validation_split=0.5)
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.005])
    with pytest.raises(ArgumentError, match="'val_loss' is not among loss"):
        rates_of(callback, net, opt)
    with pytest.raises(ArgumentError, match="a plateau is one of epochs"):
        rates_of(callbacks.LRScheduler(schedule, per="batch"), net, opt)


def test_schedules_must_be_over_the_optimizer_that_trains() -> None:
    net, opt = net_of()
    other = optim.SGD(net.parameters(), lr=0.1)
    schedule = optim.lr_scheduler.StepLR(other, 2)
    before = state(net) if net[0].is_sized else None
    with pytest.raises(
        ArgumentError, match="the schedule is over another optimizer than the one that trains"
    ):
        rates_of(callbacks.LRScheduler(schedule), net, opt)
    assert before is None and net[0].weight.is_unsized  # a refusal changes nothing
    with pytest.raises(ArgumentError, match="per is 'epoch' or 'batch', got 'step'"):
        callbacks.LRScheduler(schedule, per="step")
    with pytest.raises(ArgumentError, match=r"schedule is an optim\.lr_scheduler object or a function"):
        callbacks.LRScheduler(0.1)


# ---- batch sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sizes", "rates"),
    [
        (lambda: callbacks.BatchSizeScheduler(factor=2, every=2), [8, 8, 16, 16, 32], [1.0] * 5),
        (lambda: callbacks.BatchSizeScheduler(factor=2, every=1, max_batch_size=16), [8, 16, 16, 16, 16],
         [1, 1, 0.5, 0.25, 0.125]),
        (lambda: callbacks.BatchSizeScheduler({1: 12, 3: 64}), [8, 12, 12, 64, 64], [1.0] * 5),
        (lambda: callbacks.BatchSizeScheduler(lambda epoch: 4 + epoch), [4, 5, 6, 7, 8], [1.0] * 5),
    ],
)  # fmt: skip
def test_batches_grow(make: Any, sizes: list[int], rates: list[float]) -> None:
    net, opt = net_of()
    counts: list[int] = []
    seen = callbacks.LambdaCallback(on_batch_end=lambda batch, logs: counts.append(batch))  # noqa: ARG005
    grow = make()
    history = net.fit(X, Y, batch_size=8, epochs=5, verbose=0, callbacks=[grow, seen])
    assert history.lr == rates
    expected = [batch for size in sizes for batch in range(math.ceil(64 / size))]
    assert counts == expected and opt.lr == rates[-1]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            lambda: callbacks.BatchSizeScheduler(factor=0.5),
            {},
            "factor and every are at least 1, got 0.5 and 10",
        ),
        (lambda: callbacks.BatchSizeScheduler(max_batch_size=0), {}, "max_batch_size is at least 1, got 0"),
        (callbacks.BatchSizeScheduler, {"batch_size": None}, "batch_size=None takes all samples"),
        (
            lambda: callbacks.BatchSizeScheduler(lambda epoch: 2.5 + epoch),
            {},
            "batch size of epoch 0 is 2.5, expected",
        ),
    ],
)
def test_batch_sizes_that_cannot_be(make: Any, options: dict[str, Any], message: str) -> None:
    net, _ = net_of()
    with pytest.raises(ArgumentError, match=message):
        net.fit(X, Y, verbose=0, callbacks=[make()], **options)


# ---- rollback -------------------------------------------------------------------------------------------------------


class Sabotage(callbacks.Callback):
    """Spoils the weights before some batches, as a step that diverged would."""

    def __init__(self, at: dict[int, float]) -> None:
        self.at = at

    def on_train_begin(self) -> None:
        self.batch = 0

    def on_batch_begin(self, batch: int) -> None:  # noqa: ARG002
        if self.batch in self.at:
            with qn.no_grad():
                self.net[-1].weight[...] = self.net[-1].weight * self.at[self.batch]
        self.batch += 1


def conv_net() -> tuple[nn.Sequential, optim.Adam]:
    qn.seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Flatten(), nn.Linear(8, 3))
    opt = optim.Adam(net.parameters(), lr=0.01)
    net.compile(opt, metrics=["accuracy"])
    return net, opt


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_undone(value: float, caplog: pytest.LogCaptureFixture) -> None:
    net, _ = conv_net()
    rollback = callbacks.LRRollback(every=2)
    with caplog.at_level(logging.WARNING, "quernel.callbacks"):
        history = net.fit(
            X, Y, batch_size=8, epochs=3, verbose=0, callbacks=[Sabotage({11: value}), rollback]
        )
    assert rollback.rollbacks == 1 and history.lr == [0.01, 0.005, 0.005]
    assert all(np.isfinite(v.numpy()).all() for v in net.state_dict().values())
    assert np.isfinite(history["loss"]).all() and np.isfinite(history["accuracy"]).all()
    assert "[LRRollback] batch 3: the loss is nan" in caplog.text and "rollback 1 of 5" in caplog.text
    assert history["loss"][2] < history["loss"][0]


def test_the_state_is_that_of_the_last_good_snapshot() -> None:
    net, opt = conv_net()
    snapshots: list[dict[str, bytes]] = []
    optimizers: list[Any] = []

    def note(batch: int, logs: dict[str, float]) -> None:  # noqa: ARG001
        snapshots.append(state(net))
        optimizers.append(opt.state_dict())

    # Snapshots after batches 3, 6 and 9; the one of 6 is good when batch 9 is; batch 10 fails.
    net.fit(
        *(X, Y),
        batch_size=4,
        verbose=0,
        shuffle=False,
        callbacks=[
            Sabotage({10: math.nan}),
            callbacks.LRRollback(every=3, limit=1, spike=None),
            callbacks.LambdaCallback(on_batch_end=note),
        ],
    )
    assert len(snapshots) == 11  # the limit ended training
    assert snapshots[-1] == snapshots[5]
    for name, values in optimizers[5]["state"].items():
        after = optimizers[-1]["state"][name]
        assert values["step"] == after["step"] == 6
        assert all(np.array_equal(values[key], after[key]) for key in ("exp_avg", "exp_avg_sq"))
    assert opt.lr == 0.005


def test_spikes_count_when_they_last() -> None:
    for at, expected in [({20: 1e4}, 1), ({20: 1e4, 21: 1e-4}, 0)]:
        net, opt = conv_net()
        opt.lr = 1e-5
        rollback = callbacks.LRRollback(every=5, patience=3, window=16, spike=20.0)
        net.fit(X, Y, batch_size=8, epochs=5, verbose=0, callbacks=[Sabotage(at), rollback])
        assert rollback.rollbacks == expected
        assert net.evaluate(X, Y)["loss"] < 5


def test_a_loss_below_zero_is_no_spike() -> None:
    qn.seed(0)
    net = nn.Sequential(nn.Linear(4, 1))
    net.compile(optim.SGD(net.parameters(), lr=1e-3), loss=lambda x, t: (x - t).square().mean() - 100.0)
    rollback = callbacks.LRRollback(window=4)
    net.fit(X, X[:, :1], batch_size=8, epochs=3, verbose=0, callbacks=[rollback])
    assert rollback.rollbacks == 0


def test_a_rate_that_is_too_high_is_halved_until_training_works() -> None:
    y = X[:, :1] * 2 + 1
    final = []
    for with_rollback in (False, True):
        qn.seed(0)
        net = nn.Sequential(nn.Linear(4, 1))
        net.compile(optim.SGD(net.parameters(), lr=8.0), loss="mse")
        rollback = callbacks.LRRollback(every=10, window=10, limit=20)
        history = net.fit(
            X, y, batch_size=16, epochs=60, verbose=0, callbacks=[rollback] if with_rollback else []
        )
        final.append(history["loss"][-1])
    assert not final[0] < 1 and final[1] < 1e-2 and 1 <= rollback.rollbacks < 20


def test_rollbacks_lower_what_a_function_schedules() -> None:
    net, _ = conv_net()
    schedule = callbacks.LRScheduler(lambda epoch: 0.1 / (1 + epoch))
    steps = [Sabotage({1: math.nan}), callbacks.LRRollback(), schedule]
    assert net.fit(X, Y, epochs=3, verbose=0, callbacks=steps).lr == pytest.approx([0.05, 0.025, 0.05 / 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spike": 1.0}, "spike is above 1, or None, got 1.0"),
        ({"factor": 1.0}, "factor lies between 0 and 1, got 1.0"),
        ({"limit": 0}, "limit is at least 1, got 0"),
    ],
)
def test_rollbacks_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        callbacks.LRRollback(**options)


# ---- averages -------------------------------------------------------------------------------------------------------


def test_averages_are_validated_saved_and_kept_while_training_goes_on() -> None:
    qn.seed(0)
    net, twin = mlp(0.0), mlp(0.0)
    net(X), twin(X)
    twin.load_state_dict(net.state_dict())
    net.compile(optim.SGD(net.parameters(), lr=0.5))
    at_end: list[dict[str, bytes]] = []
    ema = callbacks.EMA(decay=0.9)
    spy = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: at_end.append(state(net)))  # noqa: ARG005
    history = net.fit(
        X, Y, batch_size=16, epochs=3, shuffle=False, validation_data=(X, Y), callbacks=[spy, ema], verbose=0
    )

    opt, average = optim.SGD(twin.parameters(), lr=0.5), optim.EMA(twin.parameters(), 0.9)
    for epoch in range(3):
        for begin in range(0, 64, 16):
            opt.zero_grad()
            losses.cross_entropy(twin(X[begin : begin + 16]), Y[begin : begin + 16]).backward()
            opt.step()
            average.update()
        with average.applied():
            assert at_end[epoch] == state(twin)
            assert history["val_loss"][epoch] == pytest.approx(
                losses.cross_entropy(twin(X), Y).item(), rel=1e-5
            )
    average.copy_to()
    assert state(net) == state(twin)
    with pytest.raises(ArgumentError, match=r"decay lies in \[0, 1\), got 1"):
        callbacks.EMA(decay=1.0)


def test_averages_survive_a_rollback() -> None:
    net, _ = conv_net()
    net.fit(
        X,
        Y,
        batch_size=8,
        epochs=2,
        verbose=0,
        callbacks=[callbacks.EMA(0.9), Sabotage({9: math.nan}), callbacks.LRRollback()],
    )
    assert all(np.isfinite(v.numpy()).all() for v in net.state_dict().values())


def test_the_best_averages_come_back() -> None:
    net, _ = net_of(2.0)
    stop = callbacks.EarlyStopping(patience=50, restore_best_weights=True)
    history = net.fit(
        X, Y, batch_size=16, epochs=6, verbose=0, validation_data=(X, Y), callbacks=[stop, callbacks.EMA(0.8)]
    )
    assert net.evaluate(X, Y)["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-6)
