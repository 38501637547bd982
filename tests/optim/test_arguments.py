"""What optimizers refuse, and that a refusal changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

import quernel as qn
from quernel import nn, optim
from quernel.errors import ArgumentError


def parameters() -> list[qn.Tensor]:
    return [qn.tensor(np.ones(shape), requires_grad=True) for shape in [(3, 5), (5,), ()]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1])
def test_rates_that_make_no_sense_are_refused_and_change_nothing(value: float) -> None:
    ours = parameters()
    opt = optim.SGD(ours, lr=0.25)
    for name in ("lr", "momentum", "weight_decay", "dampening"):
        with pytest.raises(ValueError, match=rf"\[sgd\] {name} is a finite number of at least 0, got "):
            optim.SGD(ours, **{name: value})
        before = getattr(opt, name)
        with pytest.raises(ValueError, match=rf"\[sgd\] {name} is"):
            setattr(opt, name, value)
        with pytest.raises(ValueError, match=rf"\[sgd\] {name} is"):
            opt.param_groups[0][name] = value
        assert getattr(opt, name) == before
    with pytest.raises(ValueError, match=r"\[adam\] betas\[1\] lies in \[0, 1\)"):
        optim.Adam(ours, betas=(0.9, value))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.Adam([]), r"\[adam\] there are no parameters"),
        (lambda: optim.Adam(parameters()[0]), "wrap the tensor in a list"),
        (lambda: optim.Adam(["weight"]), "optimizes tensors, got str"),
        (lambda: optim.Adam([qn.tensor([1, 2])]), "optimizes float32 and float64 tensors, got one of int64"),
        (lambda: optim.Adam([parameters()[0] * 2]), "was computed from others"),
        (lambda: optim.Adam(parameters(), betas=(0.9,)), "betas is a pair"),
        (lambda: optim.SGD(parameters(), nesterov=True), "nesterov needs momentum > 0"),
        (lambda: optim.SGD([{"params": parameters()}, parameters()[0]]), "mixes groups and parameters"),
        (
            lambda: optim.SGD(nn.Linear(2, 2)),
            r"\[sgd\] takes parameters, got Linear; pass net.parameters\(\)",
        ),
        (lambda: optim.SGD(nn.Sequential(nn.ReLU())), r"\[sgd\] takes parameters, got Sequential"),
        (lambda: optim.SGD([{"params": nn.Linear(2, 2)}]), r"\[sgd\] takes parameters, got Linear"),
        (lambda: optim.EMA(nn.Linear(2, 2)), r"\[EMA\] takes parameters, got Linear"),
        (
            lambda: optim.clip_grad_norm_(nn.Linear(2, 2), 1.0),
            r"\[clip_grad_norm_\] takes parameters, got Linear",
        ),
        (lambda: optim.clip_grad_value_(nn.Linear(2, 2), 1.0), r"\[clip_grad_value_\] takes parameters"),
        (
            lambda: optim.SGD(parameters()).zero_grad(set_to_none=False),
            r"\[sgd\] zero_grad forgets gradients",
        ),
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_a_parameter_belongs_to_one_group() -> None:
    ours = parameters()
    with pytest.raises(ArgumentError, match=r"a parameter of shape \(3, 5\) is in two groups"):
        optim.SGD([{"params": ours[:2]}, {"params": ours[:1]}])
    with pytest.raises(ArgumentError, match=r"a parameter of shape \(3, 5\) is given twice"):
        optim.SGD([ours[0], ours[0], ours[1]])
    unsized = nn.Parameter()
    with pytest.raises(
        ArgumentError, match="a parameter whose size is inferred at first use is in two groups"
    ):
        optim.SGD([{"params": [unsized]}, {"params": [unsized]}])
