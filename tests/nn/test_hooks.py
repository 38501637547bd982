"""Hooks of modules and tensors: when they are called, what they may change, that plans and graphs respect them."""

from __future__ import annotations

import copy
import gc
import logging
import weakref
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import losses, nn, ops, optim
from quernel.errors import ArgumentError, DTypeError, ShapeError, StateError, UnsupportedError

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = np.arange(6) % 3


def net_of(seed: int = 0) -> nn.Sequential:
    qn.seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def test_hooks_see_and_replace_inputs_and_outputs_in_order() -> None:
    net, calls = net_of(), []
    plain = net(X).numpy()

    def note(name: str, result: Any = None) -> Any:
        return lambda *args: (calls.append((name, len(args))), result)[1]

    net[1].register_forward_pre_hook(note("pre"))
    net[1].register_forward_hook(note("post"))
    net[1].register_forward_hook(note("first"), prepend=True)
    net[1].register_forward_hook(note("keywords"), with_kwargs=True)
    assert np.array_equal(net(X).numpy(), plain)
    assert calls == [("pre", 2), ("first", 3), ("post", 3), ("keywords", 4)]
    with net[0].register_forward_pre_hook(lambda module, args: args[0] * 2):  # noqa: ARG005
        doubled = net(X).numpy()
    assert np.array_equal(doubled, net(X * 2).numpy()) and not np.array_equal(doubled, plain)
    handle = net.register_forward_hook(lambda module, args, output: output + 1)  # noqa: ARG005
    assert np.array_equal(net(X).numpy(), plain + 1)
    handle.remove()
    handle.remove()
    assert np.array_equal(net(X).numpy(), plain)
    assert net._hooks is None and net[1]._hooks is not None


def test_pre_hooks_with_keywords_change_both() -> None:
    class Shift(nn.Module):
        def forward(self, x: qn.Tensor, by: float = 0.0) -> qn.Tensor:
            return x + by

    net = Shift()
    net.register_forward_pre_hook(lambda module, args, kwargs: (args, {"by": 2.0}), with_kwargs=True)  # noqa: ARG005
    assert np.array_equal(net(X, by=1.0).numpy(), X + 2)
    net.register_forward_pre_hook(lambda module, args, kwargs: 3, with_kwargs=True)  # noqa: ARG005
    with pytest.raises(
        ArgumentError, match=r"pre-hook of Shift with keywords returns None or \(args, kwargs\)"
    ):
        net(X)
    with pytest.raises(ArgumentError, match="a hook is a function, got 3"):
        net.register_forward_hook(3)  # type: ignore[arg-type]


def test_plans_follow_hooks_that_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    net = net_of()
    step = qn.jit(lambda x: net(x) * 1.0)
    for _ in range(3):
        plain = step(X).numpy()
    kept: list[Any] = []
    with (
        caplog.at_level(logging.WARNING, "quernel.jit"),
        net[1].register_forward_hook(lambda module, args, output: kept.append(output)),  # noqa: ARG005
    ):
        for _ in range(6):
            assert np.array_equal(step(X).numpy(), plain)
    assert len(kept) == 6  # never replayed
    assert all(np.array_equal(output.numpy(), kept[0].numpy()) for output in kept)
    assert "Tanh has a hook, which a replay would not call" in caplog.text
    handle = net[0].register_forward_hook(lambda module, args, output: output * 2)  # noqa: ARG005
    doubled = [step(X).numpy() for _ in range(4)]
    assert all(np.array_equal(y, net(X).numpy()) for y in doubled) and not np.array_equal(doubled[0], plain)
    handle.remove()
    for _ in range(3):
        assert np.array_equal(step(X).numpy(), plain)
    assert len(step.plans()) >= 1
    before = step.plans()[0]
    step(X)
    assert step.plans()[0] is before  # replayed again


def test_fit_calls_hooks_in_every_step_to_the_same_bits() -> None:
    states, counts = [], []
    for hooked in (False, True):
        net = net_of()
        count: list[float] = []
        net.compile("adam")
        if hooked:
            net[2].register_forward_hook(lambda module, args, output: count.append(output.numpy().max()))  # noqa: ARG005, B023
        net.fit(X, Y, batch_size=2, epochs=4, seed=1, verbose=0)
        states.append({name: value.numpy().tobytes() for name, value in net.state_dict().items()})
        counts.append(len(count))
    assert states[0] == states[1] and counts == [
        0,
        13,
    ]  # twelve steps, and the sample that is looked at first


def test_graphs_contain_what_hooks_compute_and_refuse_what_reads() -> None:
    net = net_of()
    net[1].register_forward_hook(lambda module, args, output: ops.relu(output))  # noqa: ARG005
    run = net.freeze(input_shape=(4,))
    assert np.array_equal(run(X), net(X).numpy()) and (net(X).numpy() != net_of()(X).numpy()).any()
    handle = net[0].register_forward_hook(lambda module, args, output: print(output.numpy()))  # noqa: ARG005, T201
    with pytest.raises(
        UnsupportedError, match=r"a hook of Linear cannot be part of a graph; take it away with"
    ):
        net.freeze(input_shape=(4,))
    handle.remove()
    net.freeze(input_shape=(4,))


def test_copies_have_the_hooks_and_handles_keep_nothing_alive() -> None:
    net = net_of()
    handle = net.register_forward_hook(lambda module, args, output: output * 0)  # noqa: ARG005
    twin = copy.deepcopy(net)
    handle.remove()
    assert net(X).numpy().any() and not twin(X).numpy().any()
    alive = weakref.ref(net)
    del net
    gc.collect()
    assert alive() is None
    handle.remove()


# ---- gradients ------------------------------------------------------------------------------------------------------


def test_backward_hooks_see_and_replace_the_gradients_of_a_module() -> None:
    net, plain = net_of(), net_of()
    seen: list[Any] = []
    net[1].register_full_backward_hook(lambda module, gi, go: seen.append((module, gi, go)))
    x = qn.tensor(X, requires_grad=True)
    y = net(x)
    (y * y).sum().backward()
    h = plain[0](qn.tensor(X)).detach().requires_grad_()
    t = plain[1](h).detach().requires_grad_()
    out = plain[2](t)
    (out * out).sum().backward()
    ((module, grad_input, grad_output),) = seen
    assert module is net[1] and len(grad_input) == len(grad_output) == 1
    assert np.array_equal(grad_output[0].numpy(), t.grad.numpy())
    expected = t.grad.numpy() * (1 - np.tanh(h.detach().numpy()) ** 2)
    assert np.allclose(grad_input[0].numpy(), expected, atol=1e-6)

    net[1].register_full_backward_hook(lambda module, gi, go: (gi[0] * 0,))  # noqa: ARG005
    net.zero_grad()
    x.grad = None
    net(x).sum().backward()
    assert not x.grad.numpy().any() and not net[0].weight.grad.numpy().any()
    assert net[2].weight.grad.numpy().any() and len(seen) == 2


def test_backward_hooks_of_several_inputs_and_outputs_run_once() -> None:
    class Both(nn.Module):
        def forward(self, a: qn.Tensor, b: qn.Tensor) -> Any:
            return {"sum": a + b, "product": a * b, "unused": a - b}

    net, seen = Both(), []
    net.register_full_backward_hook(lambda module, gi, go: seen.append((gi, go)))  # noqa: ARG005
    a, b = qn.tensor([2.0], requires_grad=True), qn.tensor([3.0], requires_grad=True)
    out = net(a, b)
    loss = (out["sum"] * 10 + out["product"]).sum()
    for _ in range(2):
        loss.backward(retain_graph=True)
    assert len(seen) == 2
    for grad_input, grad_output in seen:
        assert [g.item() for g in grad_input] == [13.0, 12.0]
        assert [None if g is None else g.item() for g in grad_output] == [10.0, 1.0, None]
    assert a.grad.item() == 26.0 and b.grad.item() == 24.0
    # An input without a gradient, and a module in the middle of nothing
    net(qn.tensor([1.0]), b)["sum"].sum().backward()
    assert seen[-1][0][0] is None and seen[-1][0][1].item() == 1.0
    with qn.no_grad():
        net(a, b)
    assert len(seen) == 3


def test_a_first_layer_has_no_gradient_of_its_input() -> None:
    net, seen = net_of(), []
    net[0].register_full_backward_hook(lambda module, gi, go: seen.append((gi, go)))  # noqa: ARG005
    losses.cross_entropy(net(X), Y).backward()
    ((grad_input, grad_output),) = seen
    assert grad_input == (None,) and grad_output[0].shape == (6, 8)
    assert np.allclose(net[0].bias.grad.numpy(), grad_output[0].numpy().sum(0), atol=1e-6)
    net[0].register_full_backward_hook(lambda module, gi, go: (go[0],))  # noqa: ARG005
    with pytest.raises(DTypeError, match="a backward hook of Linear returned"):
        net(X).sum().backward()
    net[2].register_full_backward_hook(lambda module, gi, go: (None, None))  # noqa: ARG005
    with pytest.raises(ArgumentError, match="returned 2 gradients for 1 inputs"):
        net(X).sum().backward()


def test_a_graph_with_backward_hooks_goes_without_the_collector() -> None:
    net = net_of()
    net[1].register_full_backward_hook(lambda module, gi, go: None)  # noqa: ARG005
    gc.collect()
    gc.disable()
    try:
        y = net(X)
        alive = weakref.ref(y)
        node = y._node
        del y
        assert alive() is None and node is not None
    finally:
        gc.enable()


def test_tensor_hooks_see_the_whole_gradient_once() -> None:
    x = qn.tensor([1.0, 2.0], requires_grad=True)
    seen: list[list[float]] = []
    x.register_hook(lambda g: seen.append(g.tolist()))
    handle = x.register_hook(lambda g: g * 10)
    y = x * 3
    y.register_hook(lambda g: seen.append(["y", *g.tolist()]))
    (y * y + x).sum().backward()  # dy = 2y, dx = 3 dy + 1
    assert seen == [["y", 6.0, 12.0], [19.0, 37.0]]
    assert x.grad.tolist() == [190.0, 370.0]
    handle.remove()
    x.grad = None
    x.backward(np.ones(2))
    assert x.grad.tolist() == [1.0, 1.0] and seen[-1] == [1.0, 1.0]
    with pytest.raises(StateError, match="only tensors with requires_grad=True have gradients"):
        qn.tensor([1.0]).register_hook(lambda g: g)
    x.register_hook(lambda g: g.sum())
    with pytest.raises(
        ShapeError, match=r"a hook returned .*expected None or a float32 tensor of shape \(2,\)"
    ):
        (x * 2).sum().backward()


def test_plans_follow_hooks_of_parameters() -> None:
    net = net_of()
    opt = optim.SGD(net.parameters(), lr=0.1)

    @qn.jit
    def step() -> None:
        opt.zero_grad()
        losses.cross_entropy(net(qn.tensor(X)), qn.tensor(Y)).backward()
        opt.step()

    def bias() -> np.ndarray:
        return net[2].bias.numpy().copy()

    for _ in range(4):
        step()
    with net[2].bias.register_hook(lambda g: g * 0):
        before = bias()
        for _ in range(4):
            step()
            assert np.array_equal(bias(), before)
    step()
    assert not np.array_equal(bias(), before)


def test_hooks_of_a_dead_leaf_do_not_reach_another() -> None:
    for _ in range(50):
        x = qn.tensor([1.0], requires_grad=True)
        (x * 2).sum().backward()
        assert x.grad.item() == 2.0
        x.register_hook(lambda g: g * 100)
        del x
