"""Clipping of gradients against PyTorch's, in arenas and out of them, eagerly and in plans."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import nn, optim
from quernel.errors import ArgumentError, StateError

SHAPES = [(3, 5), (5,), (17,), (0,), (2, 3, 3, 4), ()]


def parameters(dtype: str = "float64") -> list[qn.Tensor]:
    return [qn.tensor(np.ones(shape, dtype), requires_grad=True) for shape in SHAPES]


def set_gradients(params: list[Any], scale: float, skip: set[int]) -> None:
    rng = np.random.default_rng(5)
    for i, p in enumerate(params):
        g = scale * rng.normal(size=tuple(p.shape))
        if isinstance(p, qn.Tensor):
            p.grad = None if i in skip else qn.tensor(g, dtype=p.dtype)
        else:
            import torch

            p.grad = None if i in skip else torch.from_numpy(np.array(g))


def gradients(params: list[Any]) -> list[Any]:
    return [None if p.grad is None else np.asarray(p.grad).copy() for p in params]


@pytest.mark.parametrize("in_arena", [False, True])
@pytest.mark.parametrize("skip", [set(), {1}, {0, 4}])
@pytest.mark.parametrize("scale", [0.01, 3.0])
def test_clipping_is_pytorchs(in_arena: bool, skip: set[int], scale: float) -> None:
    torch = pytest.importorskip("torch")
    for norm_type in (1.0, 2.0, math.inf):
        ours = parameters()
        theirs = [torch.from_numpy(np.array(p.detach())).requires_grad_() for p in ours]
        if in_arena:
            set_gradients(ours, 1.0, set())
            optim.SGD(ours, lr=0.0).step()
        set_gradients(ours, scale, skip)
        set_gradients(theirs, scale, skip)
        ours_norm = optim.clip_grad_norm_(ours, 2.0, norm_type)
        filled = [p for p in theirs if p.numel()]  # PyTorch has no infinity norm of nothing
        norm = torch.nn.utils.clip_grad_norm_(filled, 2.0, norm_type)
        assert ours_norm.item() == pytest.approx(norm.item(), rel=1e-13)
        for a, b in zip(gradients(ours), gradients(theirs), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-12)
        optim.clip_grad_value_(ours, 0.25)
        torch.nn.utils.clip_grad_value_(theirs, 0.25)
        for a, b in zip(gradients(ours), gradients(theirs), strict=True):
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_clipped_step_is_the_same_in_a_plan() -> None:
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    ends = []
    for jitted in (False, True):
        qn.seed(1)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        opt = optim.Adam(net.parameters(), lr=0.1)

        def step(x: qn.Tensor, net: nn.Module = net, opt: optim.Optimizer = opt) -> qn.Tensor:
            opt.zero_grad()
            (net(x) * 100.0).square().mean().backward()
            norm = optim.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()
            return norm

        run = qn.jit(step) if jitted else step
        norms = [run(qn.tensor(x)).item() for _ in range(6)]
        ends.append([norms, [p.tolist() for p in net.parameters()]])
        assert all(math.isfinite(n) and n > 0.5 for n in norms)
    assert ends[0] == ends[1]


def test_norms_that_are_no_numbers() -> None:
    ours = parameters()
    set_gradients(ours, 1.0, set())
    ours[1].grad = qn.tensor([1.0, math.nan, 0, 0, 0], dtype="float64")
    before = gradients(ours)
    with pytest.raises(StateError, match="the norm of the gradients is nan"):
        optim.clip_grad_norm_(ours, 1.0, error_if_nonfinite=True)
    for a, b in zip(gradients(ours), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert math.isnan(optim.clip_grad_norm_(ours, 1.0).item())


def test_nothing_to_clip_and_bad_arguments() -> None:
    assert optim.clip_grad_norm_(parameters(), 1.0).item() == 0.0
    with pytest.raises(ArgumentError, match="max_norm is positive, got 0"):
        optim.clip_grad_norm_(parameters(), 0)
    with pytest.raises(ArgumentError, match=r"norm_type is 1, 2 or math\.inf, got 3"):
        optim.clip_grad_norm_(parameters(), 1.0, 3)
    with pytest.raises(ArgumentError, match="clip_value is positive, got -1"):
        optim.clip_grad_value_(parameters(), -1)
    with pytest.raises(ArgumentError, match="parameters are tensors, got str"):
        optim.clip_grad_value_(["w"], 1)  # type: ignore[list-item]
