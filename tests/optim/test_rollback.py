"""A step that fails leaves optimizers, and layers that it gave their sizes, as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import nn, optim, recording
from tests.runs import state_of

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)

Make = Callable[[Any], optim.Optimizer]
MAKERS: list[Make] = [
    lambda params: optim.SGD(params, lr=0.1, momentum=0.9),
    lambda params: optim.Adam(params, lr=0.1),
]


class Refused(Exception):
    pass


def fail(*steps: Callable[[], object]) -> None:
    """Does `steps` as the beginning of a step that then fails."""

    def whole() -> None:
        with recording.transaction():
            for step in steps:
                step()
            raise Refused

    with pytest.raises(Refused):
        whole()


def make_net(first: int | None = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(first, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2))


def train(net: nn.Module, opt: optim.Optimizer, factor: float = 1.0) -> None:
    opt.zero_grad()
    (net(X * np.float32(factor)).square().sum()).backward()
    opt.step()


def everything(net: nn.Module, opt: optim.Optimizer) -> object:
    state = opt.state_dict()
    return (
        state_of(net),
        state["param_groups"],
        {
            number: {name: np.asarray(value).tobytes() for name, value in entry.items()}
            for number, entry in state["state"].items()
        },
    )


@pytest.mark.parametrize("make", MAKERS, ids=["sgd", "adam"])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_state_of_a_failed_step_is_gone(make: Make, before: int) -> None:
    def run(failures: bool) -> list[object]:
        qn.seed(1)
        net = make_net()
        opt = make(net.parameters())
        for _ in range(before):
            train(net, opt)
        if failures:
            was = everything(net, opt)
            for _ in range(2):
                fail(lambda: train(net, opt), lambda: train(net, opt, 3.0))
                assert everything(net, opt) == was
        seen = []
        for _ in range(3):
            train(net, opt)
            seen.append(everything(net, opt))
        return seen

    assert run(failures=True) == run(failures=False)


@pytest.mark.parametrize("make", MAKERS, ids=["sgd", "adam"])
def test_a_split_in_a_failed_step_is_undone(make: Make) -> None:
    """A frozen layer among updated ones: the segment falls into runs that count their steps apart."""

    def run(failure: bool) -> object:
        qn.seed(1)
        net = make_net()
        opt = make(net.parameters())
        train(net, opt)
        if failure:
            was = everything(net, opt)

            def without_the_middle() -> None:
                for p in net[2].parameters():
                    p.grad = None
                opt.step()

            fail(without_the_middle, without_the_middle)
            assert everything(net, opt) == was
        for _ in range(2):
            train(net, opt)
        return everything(net, opt)

    assert run(failure=True) == run(failure=False)


def test_a_late_group_and_a_loaded_state_are_undone() -> None:
    qn.seed(1)
    net = make_net()
    opt = optim.Adam([*net[0].parameters(), *net[2].parameters()], lr=0.1)
    other = optim.Adam([*net[0].parameters(), *net[2].parameters()], lr=0.3)
    train(net, opt)
    was = everything(net, opt)
    fail(
        lambda: opt.load_state_dict(other.state_dict()),
        lambda: opt.add_param_group({"params": net[3].parameters()}),
        lambda: train(net, opt),
    )
    assert everything(net, opt) == was
    opt.add_param_group({"params": net[3].parameters()})


def test_a_moved_segment_stays_usable() -> None:
    """Another optimizer over the same weights, and a conversion, give them other memory."""

    def run(failure: bool) -> object:
        qn.seed(1)
        net = make_net()
        opt = optim.Adam(net.parameters(), lr=0.1)
        train(net, opt)
        net.to("float64")
        if failure:
            was = everything(net, opt)
            fail(lambda: train(net, opt))
            assert everything(net, opt) == was
        train(net, opt)
        return everything(net, opt)

    assert run(failure=True) == run(failure=False)


def test_hyper_parameters_set_in_a_failed_step_are_restored_everywhere() -> None:
    def run(failure: bool) -> object:
        qn.seed(1)
        net = make_net()
        opt = optim.Adam(net.parameters(), lr=0.1)
        train(net, opt)
        if failure:
            epoch = recording.epoch()

            def change() -> None:
                opt.lr = 0.5
                opt.lr = 0.7
                opt.param_groups[0]["betas"] = (0.5, 0.5)

            fail(change)
            assert opt.lr == 0.1
            assert opt.param_groups[0]["betas"] == (0.9, 0.999)
            assert recording.epoch() >= epoch + 6  # three changes, and back
        train(net, opt)
        return everything(net, opt)

    assert run(failure=True) == run(failure=False)


def test_layers_that_a_failed_step_sized_have_no_size_again() -> None:
    images = np.linspace(-1, 1, 2 * 5 * 5 * 3, dtype=np.float32).reshape(2, 5, 5, 3)

    def run(failure: bool) -> object:
        qn.seed(1)
        net = nn.Sequential(nn.Conv2d(None, 4, 3), nn.BatchNorm2d(), nn.Flatten(), nn.Linear(None, 2))
        opt = optim.Adam(net.parameters(), lr=0.1)

        def step() -> None:
            opt.zero_grad()
            net(images).square().sum().backward()
            opt.step()

        if failure:
            fail(step)
            assert all(p.is_unsized for p in net.parameters())
            assert (net[0].in_channels, net[1].running_mean, net[3].in_features) == (None, None, None)
            assert opt.state_dict()["state"] == {}
        step()
        return everything(net, opt)

    assert run(failure=True) == run(failure=False)


def test_a_layer_made_with_its_size_keeps_it() -> None:
    made: list[nn.Linear] = []
    fail(lambda: made.append(nn.Linear(3, 2)))
    assert made[0].in_features == 3
    assert made[0](X).shape == (4, 2)


@pytest.mark.parametrize("calls_before", [0, 1, 2, 3])
def test_a_jitted_step_that_raises_leaves_no_trace(calls_before: int) -> None:
    """Run eagerly, recorded, or (as raising is another path, chosen by an argument) as a signature of its own."""

    def run(failure: bool) -> object:
        qn.seed(1)
        net = make_net(None)
        opt = optim.Adam(net.parameters(), lr=0.1)

        @qn.jit
        def step(x: qn.Tensor, refuse: bool) -> None:
            opt.zero_grad()
            net(x).square().sum().backward()
            opt.step()
            if refuse:
                opt.lr = 0.5
                raise Refused

        for _ in range(calls_before):
            step(X, False)
        if failure:
            was = None if calls_before == 0 else everything(net, opt)
            for _ in range(2):
                with pytest.raises(Refused):
                    step(X, True)
                assert was is None or everything(net, opt) == was
            assert calls_before > 0 or net[0].weight.is_unsized
        for _ in range(3):
            step(X, False)
        assert len(step.plans()) == 1
        return everything(net, opt)

    assert run(failure=True) == run(failure=False)
