"""Moving averages of weights."""

from __future__ import annotations

import numpy as np
import pytest

import quernel as qn
from quernel import nn, optim
from quernel.errors import ArgumentError


@pytest.mark.parametrize("jitted", [False, True])
def test_averages_follow_pytorchs(jitted: bool) -> None:
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    qn.seed(0)
    net = nn.Linear(3, 2)
    theirs = torch.nn.Linear(3, 2)
    with torch.no_grad():
        for ours, other in zip(net.parameters(), theirs.parameters(), strict=True):
            other.copy_(torch.from_numpy(np.array(ours.detach())))
    reference = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    reference.update_parameters(theirs)  # theirs starts with the first update, ours with the present values
    ema = optim.EMA(net.parameters(), decay=0.75)
    opt = optim.SGD(net.parameters(), lr=0.1)
    other_opt = torch.optim.SGD(theirs.parameters(), lr=0.1)
    x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)

    def step(x: qn.Tensor) -> None:
        opt.zero_grad()
        net(x).square().mean().backward()
        opt.step()
        ema.update()

    run = qn.jit(step) if jitted else step
    for _ in range(6):
        run(qn.tensor(x))
        other_opt.zero_grad()
        theirs(torch.from_numpy(x)).square().mean().backward()
        other_opt.step()
        reference.update_parameters(theirs)
    for ours, other in zip(ema.averages(), reference.module.parameters(), strict=True):
        np.testing.assert_allclose(np.asarray(ours), other.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_applied_swaps_and_restores() -> None:
    w = qn.tensor([2.0, 4.0], requires_grad=True)
    ema = optim.EMA([w], decay=0.5)
    with qn.no_grad():
        w[...] = 0.0
    ema.update()
    with pytest.raises(ZeroDivisionError), ema.applied():
        assert w.tolist() == [1.0, 2.0] and 1 / 0
    assert w.tolist() == [0.0, 0.0]
    ema.copy_to()
    assert w.tolist() == [1.0, 2.0]


def test_warm_up_uses_smaller_decays_first() -> None:
    w = qn.tensor([0.0], dtype="float64")
    ema = optim.EMA([w], decay=0.9, warmup=True)
    expected = 0.0
    w[...] = 1.0
    for t in range(1, 120):
        ema.update()
        decay = min(0.9, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay)
        (average,) = ema.averages()
        assert average is not None
        assert average.item() == pytest.approx(expected, rel=1e-12)


def test_the_decay_can_be_changed_without_a_new_plan() -> None:
    w = qn.tensor([0.0])
    ema = optim.EMA([w], decay=0.5)
    step = qn.jit(ema.update)
    w[...] = 4.0
    for decay, expected in ((0.5, 2.0), (0.5, 3.0), (0.5, 3.5), (0.0, 4.0)):
        ema.decay = decay
        step()
        (average,) = ema.averages()
        assert average is not None and average.item() == expected
    assert len(step.plans()) == 1
    with pytest.raises(ArgumentError, match=r"decay lies in \[0, 1\), got 1"):
        ema.decay = 1.0


def test_layers_join_when_they_have_sizes() -> None:
    net = nn.Sequential(nn.Linear(None, 2), nn.Linear(2, 1))
    ema = optim.EMA(net.parameters())
    assert [a is None for a in ema.averages()] == [True, True, False, False]
    net(np.ones((1, 3), np.float32))
    ema.update()
    assert all(a is not None for a in ema.averages())


def test_state_goes_round_and_bad_state_is_refused() -> None:
    w = qn.tensor([1.0, 2.0])
    one, two = optim.EMA([w], decay=0.5), optim.EMA([qn.tensor([0.0, 0.0])], decay=0.5)
    w[...] = 3.0
    one.update()
    two.load_state_dict(one.state_dict())
    assert two.state_dict()["step"] == 1
    assert [a.tolist() for a in two.averages() if a is not None] == [[2.0, 2.5]]
    with pytest.raises(ArgumentError, match=r"average 0 has shape \(3,\), its parameter \(2,\)"):
        two.load_state_dict({"step": 1, "averages": {0: np.zeros(3)}})
    with pytest.raises(ArgumentError, match=r"decay lies in \[0, 1\), got 1"):
        optim.EMA([w], decay=1)
    with pytest.raises(ArgumentError, match="averages float32 and float64 tensors"):
        optim.EMA([qn.tensor([1])])
