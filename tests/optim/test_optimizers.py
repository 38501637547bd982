"""Optimizers: formulas against PyTorch over many steps, and where they keep parameters."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import _core, nn, optim
from quernel.errors import ArgumentError

SHAPES = [(3, 5), (5,), (17,), (2, 3, 3, 4), ()]

Make = Callable[[Iterable[Any]], optim.Optimizer]
CASES: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1},
    "sgd_momentum": {"lr": 0.05, "momentum": 0.9},
    "sgd_everything": {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1},
    "sgd_nesterov": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    "adam": {"lr": 0.02},
    "adam_everything": {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1},
    "adamw": {"lr": 0.02},
    "adamw_decay": {"lr": 0.02, "weight_decay": 0.3},
    "nadam": {"lr": 0.02},
    "nadam_everything": {"lr": 0.02, "betas": (0.8, 0.95), "momentum_decay": 0.1, "weight_decay": 0.1},
    "adagrad": {"lr": 0.1},
    "adagrad_everything": {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.3, "weight_decay": 0.1},
    "rmsprop": {"lr": 0.01},
    "rmsprop_momentum": {"lr": 0.01, "momentum": 0.8, "alpha": 0.8},
    "rmsprop_everything": {"lr": 0.01, "momentum": 0.8, "centered": True, "weight_decay": 0.1, "eps": 1e-3},
}
CLASSES = optim.OPTIMIZERS


def parameters(seed: int = 0, dtype: str = "float64") -> list[qn.Tensor]:
    rng = np.random.default_rng(seed)
    return [qn.tensor(rng.normal(size=shape).astype(dtype), requires_grad=True) for shape in SHAPES]


def set_gradients(params: Iterable[Any], step: int, skip: Iterable[int] = ()) -> None:
    """A gradient for each parameter, the same for the same step; none for those at the positions `skip`."""
    rng = np.random.default_rng([99, step])
    skip = set(skip)
    for position, p in enumerate(params):
        g = rng.normal(size=tuple(p.shape)).astype(np.float64)
        if position in skip:
            p.grad = None
        elif isinstance(p, qn.Tensor):
            p.grad = qn.tensor(g, dtype=p.dtype)
        else:
            import torch

            p.grad = torch.from_numpy(np.array(g))


def values(params: Iterable[Any]) -> list[np.ndarray]:
    return [np.asarray(p.detach()).copy() for p in params]


def twins(seed: int = 0) -> tuple[list[qn.Tensor], list[Any]]:
    torch = pytest.importorskip("torch")
    ours = parameters(seed)
    return ours, [torch.from_numpy(value).requires_grad_() for value in values(ours)]


def check_close(ours: Iterable[Any], theirs: Iterable[Any]) -> None:
    """Float64, and some ten operations per step: 1e-12 is thousands of roundings, and far below any other formula."""
    for a, b in zip(values(ours), values(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_updates_are_pytorchs(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = twins()
    name = case.split("_", maxsplit=1)[0]
    import torch

    # Its product of momenta, which is float32 unless this says otherwise.
    monkeypatch.setattr(sys.modules["torch.optim.nadam"], "_get_scalar_dtype", lambda: torch.float64)
    opt = CLASSES[name](ours, **CASES[case])
    ref = getattr(torch.optim, CLASSES[name].__name__)(theirs, **CASES[case])
    for step in range(12):
        if step == 6:
            opt.lr = 0.01
            ref.param_groups[0]["lr"] = 0.01
        set_gradients(ours, step)
        set_gradients(theirs, step)
        opt.step()
        ref.step()
        check_close(ours, theirs)


@pytest.mark.parametrize("case", ["sgd_everything", "adam_everything"])
def test_parameters_without_a_gradient_are_skipped_and_count_their_own_steps(case: str) -> None:
    ours, theirs = twins()
    import torch

    name = case.split("_", maxsplit=1)[0]
    opt = CLASSES[name](ours, **CASES[case])
    ref = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name](theirs, **CASES[case])
    for step, skip in enumerate([[4], [4], [], [1], [0, 3], [], [0, 1, 2, 3, 4], [2], [], []]):
        set_gradients(ours, step, skip)
        set_gradients(theirs, step, skip)
        opt.step()
        ref.step()
        check_close(ours, theirs)
        opt.zero_grad()
        assert all(p.grad is None for p in ours)


@pytest.mark.parametrize("case", ["sgd_momentum", "adam"])
def test_float32_updates_follow_float64_ones(case: str) -> None:
    single, double = parameters(dtype="float32"), parameters()
    with qn.no_grad():
        for p, q in zip(single, double, strict=True):
            q[...] = p.numpy().astype(np.float64)
    name = case.split("_", maxsplit=1)[0]
    pair = CLASSES[name](single, **CASES[case]), CLASSES[name](double, **CASES[case])
    for step in range(10):
        set_gradients(single, step)
        set_gradients(double, step)
        for opt in pair:
            opt.step()
    for a, b in zip(values(single), values(double), strict=True):
        assert a.dtype == np.float32
        # Ten steps of ten roundings each, of values below 4; Adam's steps are of size lr whatever the gradient.
        assert np.abs(a - b).max() <= 10 * 10 * 2.0**-24 * 4


def test_parameters_move_into_one_arena_under_the_same_objects() -> None:
    ours = parameters()
    before = values(ours)
    frozen = qn.tensor(np.ones(3), requires_grad=True)
    view = ours[0].detach()
    opt = optim.SGD([*ours, frozen], lr=0.0)
    set_gradients(ours, 0)
    grads = values(p.grad for p in ours)
    epoch = _core.config_epoch()
    opt.step()
    assert _core.config_epoch() != epoch
    assert len({p._t.storage_id for p in ours}) == 1
    assert len({p._t.grad.storage_id for p in ours}) == 1
    assert frozen._t.storage_id != ours[0]._t.storage_id
    for p, value, grad in zip(ours, before, grads, strict=True):
        assert np.array_equal(p.numpy(), value)
        assert p.grad is not None and np.array_equal(p.grad.numpy(), grad)
    with qn.no_grad():
        ours[0][...] = 7
    assert (view.numpy() == 7).all()
    epoch = _core.config_epoch()
    set_gradients(ours, 1)
    opt.step()
    assert _core.config_epoch() == epoch
    version = ours[1]._t.version
    opt.lr = 0.1
    opt.step()
    assert ours[1]._t.version > version


def test_two_optimizers_over_the_same_parameters_work_in_place() -> None:
    ours, theirs = twins()
    import torch

    pair = [optim.SGD(ours, lr=0.1, momentum=0.9), optim.Adam(ours[1:4] + ours[:1], lr=0.01)]
    refs = [
        torch.optim.SGD(theirs, lr=0.1, momentum=0.9),
        torch.optim.Adam(theirs[1:4] + theirs[:1], lr=0.01),
    ]
    home = None
    for step in range(6):
        for opt, ref in zip(pair, refs, strict=True):
            set_gradients(ours, step)
            set_gradients(theirs, step)
            opt.step()
            ref.step()
            check_close(ours, theirs)
            home = home or ours[0]._t.storage_id
            assert {p._t.storage_id for p in ours} == {home}


def test_an_optimizer_that_is_gone_leaves_its_parameters_usable() -> None:
    ours, theirs = twins()
    import torch

    for name in ("adam", "sgd"):
        opt = CLASSES[name](ours, lr=0.1)
        ref = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name](theirs, lr=0.1)
        for step in range(3):
            set_gradients(ours, step)
            set_gradients(theirs, step)
            opt.step()
            ref.step()
        del opt
        check_close(ours, theirs)


def test_groups_have_hyper_parameters_of_their_own() -> None:
    ours, theirs = twins()
    import torch

    opt = optim.SGD([{"params": ours[:2]}, {"params": ours[2:4], "lr": 0.01, "momentum": 0.5}], lr=0.1)
    ref = torch.optim.SGD(
        [{"params": theirs[:2]}, {"params": theirs[2:4], "lr": 0.01, "momentum": 0.5}], lr=0.1
    )
    opt.add_param_group({"params": ours[4], "weight_decay": 0.3})
    ref.add_param_group({"params": theirs[4], "weight_decay": 0.3})
    for step in range(8):
        if step == 4:
            for group in (*opt.param_groups, *ref.param_groups):
                group["lr"] *= 0.5
        set_gradients(ours, step)
        set_gradients(theirs, step)
        opt.step()
        ref.step()
        check_close(ours, theirs)
    assert [group["lr"] for group in opt.param_groups] == [0.05, 0.005, 0.05]
    assert opt.lr == 0.05
    opt.lr = 1
    assert [group["lr"] for group in opt.param_groups] == [1.0, 1.0, 1.0]
    assert dict(opt.param_groups[1]) | {"params": None} == {
        "params": None,
        "lr": 1.0,
        "momentum": 0.5,
        "weight_decay": 0.0,
        "dampening": 0.0,
        "nesterov": False,
        "l1": 0.0,
    }


def test_momentum_can_be_switched_on_and_off() -> None:
    ours, theirs = twins()
    import torch

    opt, ref = optim.SGD(ours, lr=0.1, dampening=0.5), torch.optim.SGD(theirs, lr=0.1, dampening=0.5)
    for step, momentum in enumerate([0, 0, 0.9, 0.9, 0, 0.7, 0.7]):
        opt.momentum = momentum  # type: ignore[attr-defined]
        ref.param_groups[0]["momentum"] = momentum
        set_gradients(ours, step)
        set_gradients(theirs, step)
        opt.step()
        ref.step()
        check_close(ours, theirs)


@pytest.mark.parametrize("case", ["sgd_momentum", "adam_everything", "sgd"])
@pytest.mark.parametrize("late", [False, True])
def test_a_run_resumed_from_its_state_goes_on_bit_for_bit(case: str, late: bool) -> None:
    name = case.split("_", maxsplit=1)[0]
    one = parameters()
    opt = CLASSES[name](one, **CASES[case])
    for step in range(4):
        set_gradients(one, step, skip=[2] if step == 1 else [])
        opt.step()
    state = copy.deepcopy(opt.state_dict())
    two = [qn.tensor(value, requires_grad=True) for value in values(one)]
    resumed = CLASSES[name](two, lr=123.0)
    if late:  # after it has made a step of its own
        set_gradients(two, 50)
        resumed.lr = 0.0
        resumed.step()
        with qn.no_grad():
            for p, q in zip(two, one, strict=True):
                p[...] = q.detach()
    resumed.load_state_dict(state)
    assert resumed.lr == CASES[case]["lr"]
    for step in range(4, 8):
        for params, optimizer in ((one, opt), (two, resumed)):
            set_gradients(params, step)
            optimizer.step()
    for a, b in zip(values(one), values(two), strict=True):
        assert a.tobytes() == b.tobytes()
    left, right = opt.state_dict(), resumed.state_dict()
    assert left["param_groups"] == right["param_groups"]
    assert [entry["step"] for entry in left["state"].values()] == [8, 8, 7, 8, 8]


@pytest.mark.parametrize("case", ["sgd_momentum", "adam"])
def test_pytorchs_state_can_be_taken_over(case: str) -> None:
    ours, theirs = twins()
    import torch

    name = case.split("_", maxsplit=1)[0]
    ref = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name](theirs, **CASES[case])
    for step in range(3):
        set_gradients(theirs, step)
        ref.step()
    with qn.no_grad():
        for p, q in zip(ours, theirs, strict=True):
            p[...] = q.detach().numpy()
    opt = CLASSES[name](ours)
    opt.load_state_dict(ref.state_dict())
    for step in range(3, 6):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        opt.step()
        ref.step()
    check_close(ours, theirs)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    ours = parameters()
    opt = optim.Adam(ours, lr=0.5)
    set_gradients(ours, 0)
    opt.step()
    before = opt.state_dict()
    with pytest.raises(ArgumentError, match=r"groups of \[4\] parameters, the optimizer has \[5\]"):
        opt.load_state_dict(optim.Adam(parameters()[:4], lr=0.1).state_dict())
    wrong = copy.deepcopy(before)
    wrong["state"][0]["exp_avg"] = np.zeros((2, 2))
    wrong["param_groups"][0]["lr"] = 0.1
    with pytest.raises(ArgumentError, match=r"exp_avg has shape \(2, 2\), its parameter \(3, 5\)"):
        opt.load_state_dict(wrong)
    wrong = copy.deepcopy(before)
    wrong["param_groups"][0]["lr"] = math.nan
    with pytest.raises(ArgumentError, match="lr"):
        opt.load_state_dict(wrong)
    for number in (5, -1, "weight", None):
        wrong = copy.deepcopy(before)
        wrong["state"][number] = wrong["state"][0]
        with pytest.raises(ArgumentError, match=rf"names a parameter {number!r}, the optimizer's are 0 to 4"):
            opt.load_state_dict(wrong)
    after = opt.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert np.array_equal(after["state"][0]["exp_avg"], before["state"][0]["exp_avg"])


def test_layers_may_be_sized_after_the_optimizer_was_made() -> None:
    qn.seed(0)
    net = nn.Sequential(nn.Linear(None, 4), nn.Linear(None, 2))
    opt = optim.Adam(net.parameters(), lr=0.1)
    opt.step()
    x = np.ones((3, 6))
    first = net(x).square().sum()
    first.backward()
    opt.step()
    assert net(x).square().sum().item() < first.item()


def test_frozen_layers_keep_their_values_and_thaw() -> None:
    qn.seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    net[1].requires_grad_(False)
    opt = optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)

    def step() -> list[bool]:
        before = [layer.weight.numpy().copy() for layer in net]
        opt.zero_grad()
        net(np.ones((2, 3))).square().sum().backward()
        opt.step()
        return [not np.array_equal(layer.weight.numpy(), old) for layer, old in zip(net, before, strict=True)]

    assert step() == [True, False, True]
    net[1].requires_grad_(True)
    assert step() == [True, True, True]
    net[0].requires_grad_(False)
    assert step() == [False, True, True]
    assert [entry["step"] for entry in opt.state_dict()["state"].values()] == [2, 2, 2, 2, 3, 3]


def test_converting_the_model_keeps_the_optimizer_going() -> None:
    qn.seed(0)
    net = nn.Linear(3, 2)
    opt = optim.Adam(net.parameters(), lr=0.1)
    for dtype in ("float32", "float64", "float32"):
        net.to(dtype)
        opt.zero_grad()
        before = net.weight.numpy().copy()
        net(np.ones((2, 3))).square().sum().backward()
        opt.step()
        assert net.weight.dtype == dtype and not np.array_equal(net.weight.numpy(), before)
    assert [entry["step"] for entry in opt.state_dict()["state"].values()] == [3, 3]


@pytest.mark.parametrize("make", CLASSES.values())
def test_a_parameter_given_twice_is_refused(make: type[optim.Optimizer]) -> None:
    a = nn.Parameter([1.0, 2.0])
    with pytest.raises(ArgumentError, match=r"a parameter of shape \(2,\) is given twice"):
        make([a, a])
