"""Schedules against PyTorch's, step by step, and what ours promise beyond."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import optim
from quernel.errors import ArgumentError
from quernel.optim import lr_scheduler

RATES = (0.5, 0.02)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lambda": ("LambdaLR", {"lr_lambda": lambda t: 1 / (1 + t)}),
    "step": ("StepLR", {"step_size": 7, "gamma": 0.3}),
    "multi_step": ("MultiStepLR", {"milestones": [3, 11, 11, 30], "gamma": 0.5}),
    "exponential": ("ExponentialLR", {"gamma": 0.9}),
    "linear": ("LinearLR", {"start_factor": 0.1, "total_iters": 9}),
    "cosine": ("CosineAnnealingLR", {"T_max": 25, "eta_min": 1e-3}),
    "triangular": ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.7, "step_size_up": 5, "cycle_momentum": False}),
    "triangular2": (
        "CyclicLR",
        {"base_lr": 0.1, "max_lr": 0.7, "step_size_up": 5, "step_size_down": 8, "mode": "triangular2", "cycle_momentum": False},
    ),
    "exp_range": (
        "CyclicLR",
        {"base_lr": 0.1, "max_lr": 0.7, "step_size_up": 5, "mode": "exp_range", "gamma": 0.95, "cycle_momentum": False},
    ),
    "one_cycle": ("OneCycleLR", {"max_lr": 0.8, "total_steps": 41, "cycle_momentum": False}),
    "one_cycle_linear": (
        "OneCycleLR",
        {"max_lr": 0.8, "epochs": 6, "steps_per_epoch": 7, "pct_start": 0.4, "anneal_strategy": "linear", "cycle_momentum": False},
    ),
}  # fmt: skip


def optimizers() -> tuple[optim.Optimizer, Any]:
    torch = pytest.importorskip("torch")
    ours = [{"params": [qn.tensor([1.0], requires_grad=True)], "lr": lr} for lr in RATES]
    theirs = [{"params": [torch.ones(1, requires_grad=True)], "lr": lr} for lr in RATES]
    return optim.SGD(ours), torch.optim.SGD(theirs)


def rates(optimizer: Any) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_rates_are_pytorchs(case: str) -> None:
    import torch

    name, options = CASES[case]
    ours, theirs = optimizers()
    own = {key: value for key, value in options.items() if key != "cycle_momentum"}
    schedule = getattr(lr_scheduler, name)(ours, **own)
    reference = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    for _ in range(40):
        np.testing.assert_allclose(rates(ours), rates(theirs), rtol=1e-11, atol=1e-15)
        assert schedule.get_last_lr() == rates(ours)
        schedule.step()
        reference.step()


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step", "ignore:The epoch parameter")
def test_a_sequence_is_pytorchs() -> None:
    import torch

    ours, theirs = optimizers()
    schedules, references = [], []
    for made, module, opt in (
        (schedules, lr_scheduler, ours),
        (references, torch.optim.lr_scheduler, theirs),
    ):
        made.append(module.LinearLR(opt, start_factor=0.25, total_iters=4))
        made.append(module.ExponentialLR(opt, 0.8))
        made.append(module.CosineAnnealingLR(opt, 10))
    schedule = lr_scheduler.SequentialLR(ours, schedules, [4, 12])
    reference = torch.optim.lr_scheduler.SequentialLR(theirs, references, [4, 12])
    for _ in range(22):
        np.testing.assert_allclose(rates(ours), rates(theirs), rtol=1e-11, atol=1e-15)
        schedule.step()
        reference.step()


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateaus_are_pytorchs(mode: str, threshold_mode: str) -> None:
    import torch

    ours, theirs = optimizers()
    options: dict[str, Any] = {
        "mode": mode, "factor": 0.5, "patience": 2, "threshold": 0.05, "threshold_mode": threshold_mode, "cooldown": 1,
        "min_lr": 1e-3,
    }  # fmt: skip
    schedule = lr_scheduler.ReduceLROnPlateau(ours, **options)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    for value in [*np.random.default_rng(3).uniform(0.5, 2, 60), math.nan, math.nan, math.nan, 0.1]:
        schedule.step(value)
        reference.step(value)
        np.testing.assert_allclose(rates(ours), rates(theirs), rtol=1e-12)


def one(lr: float = 1.0) -> optim.Optimizer:
    return optim.SGD([qn.tensor([1.0], requires_grad=True)], lr=lr)


def test_what_others_do_to_the_rate_stays() -> None:
    opt = one()
    schedule = lr_scheduler.CosineAnnealingLR(opt, 10)
    alone = [schedule.lr_at(t, 1.0) for t in range(6)]
    schedule.step()
    opt.lr *= 0.5  # such as a rollback
    for t in range(2, 6):
        schedule.step()
        assert opt.lr == pytest.approx(0.5 * alone[t], rel=1e-15)


def test_a_resumed_schedule_goes_on() -> None:
    whole, first, second = one(), one(), one()
    straight = lr_scheduler.OneCycleLR(whole, 1.0, total_steps=30)
    before = lr_scheduler.OneCycleLR(first, 1.0, total_steps=30)
    for _ in range(11):
        straight.step()
        before.step()
    after = lr_scheduler.OneCycleLR(second, 1.0, total_steps=30)
    after.load_state_dict(before.state_dict())
    assert second.lr == first.lr
    for _ in range(25):  # beyond the end the last rate stays
        straight.step()
        after.step()
        assert second.lr == whole.lr
    assert whole.lr == pytest.approx(1.0 / 25 / 1e4)


def test_plans_read_the_rate_anew() -> None:
    w = qn.tensor([1.0], requires_grad=True)
    opt = optim.SGD([w], lr=1.0)
    schedule = lr_scheduler.ExponentialLR(opt, 0.5)

    @qn.jit
    def step(g: qn.Tensor) -> qn.Tensor:
        opt.zero_grad()
        loss = (w * g).sum()
        loss.backward()
        opt.step()
        return loss

    expected = 1.0
    for t in range(6):
        step(np.ones(1, np.float32))
        expected -= 0.5**t
        assert w.item() == expected
        schedule.step()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lr_scheduler.StepLR(one(), 0), r"\[StepLR\] step_size is a positive whole number, got 0"),
        (lambda: lr_scheduler.LinearLR(one(), 0.0), r"\[LinearLR\] start_factor lies in \(0, 1\]"),
        (lambda: lr_scheduler.OneCycleLR(one(), 1.0), "give total_steps, or epochs and steps_per_epoch"),
        (lambda: lr_scheduler.CyclicLR(one(), 0.1, 1.0, mode="square"), "mode is 'triangular'"),
        (
            lambda: lr_scheduler.ExponentialLR("sgd", 0.1),
            r"\[ExponentialLR\] expects an optimizer, got 'sgd'",
        ),
        (lambda: lr_scheduler.ReduceLROnPlateau(one(), factor=1.0), r"factor lies in \(0, 1\)"),
        (lambda: lr_scheduler.SequentialLR(one(), [], []), "0 schedules need -1 milestones"),
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_a_cycle_has_steps_both_ways() -> None:
    optimizer = optim.SGD([qn.tensor([1.0], requires_grad=True)])
    with pytest.raises(ArgumentError, match="step_size_down is a positive whole number, got 0"):
        lr_scheduler.CyclicLR(optimizer, 0.1, 1.0, step_size_up=2, step_size_down=0)


def test_groups_come_before_schedules() -> None:
    opt = one()
    schedule = lr_scheduler.ExponentialLR(opt, 0.5)
    opt.add_param_group({"params": [qn.tensor([1.0], requires_grad=True)]})
    with pytest.raises(ArgumentError, match="made for 1 parameter groups, the optimizer has 2"):
        schedule.step()
