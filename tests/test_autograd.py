"""The tape: what it keeps, what it frees, what it refuses."""

from __future__ import annotations

import gc
import operator
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

import quernel as qn
from quernel import _core, autograd, ops
from tests.checks import check_equal


def leaf(*values: float) -> qn.Tensor:
    return qn.tensor([float(v) for v in values], requires_grad=True)


def grad(t: qn.Tensor) -> list[float]:
    assert t.grad is not None
    result: list[float] = t.grad.tolist()
    return result


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Plain reference counting must free everything."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_gradients_accumulate_and_reset() -> None:
    w = leaf(1, 2)
    (w * 3.0).sum().backward()
    (w * w).sum().backward()
    assert grad(w) == [5, 7]
    w.grad = None
    assert w.grad is None
    (w * 2.0).sum().backward()
    assert grad(w) == [2, 2]
    w.grad = qn.tensor([9.0, 9.0])
    assert grad(w) == [9, 9]
    with pytest.raises(qn.errors.ShapeError, match=r"\[grad\]"):
        w.grad = qn.zeros(3)


def test_gradients_can_be_edited() -> None:
    w = leaf(1, 2)
    (w * 3.0).sum().backward()
    assert w.grad is not None
    w.grad *= 0.5
    assert grad(w) == [1.5, 1.5]
    w.grad[0] = 7
    assert grad(w) == [7, 1.5]
    w.grad = w.grad + 1.0
    assert grad(w) == [8, 2.5]
    (w * 1.0).sum().backward()
    assert grad(w) == [9, 3.5]


def test_reuse_and_diamonds() -> None:
    w = leaf(3)
    y = w * w
    z = y * y + y
    z.backward()
    assert grad(w) == [4 * 27 + 2 * 3]


def test_leaf_is_its_own_gradient() -> None:
    w = leaf(3)
    w.backward()
    assert grad(w) == [1]


def test_only_leaves_get_gradients() -> None:
    w = leaf(1, 2)
    y = w * 2.0
    y.sum().backward()
    assert y.grad is None
    assert y.requires_grad and not y.is_leaf and w.is_leaf


def test_constants_cost_nothing() -> None:
    a, b = qn.tensor([1.0]), qn.tensor([2.0])
    assert not (a * b).requires_grad
    w = leaf(1)
    (a * w).backward()
    assert a.grad is None


def test_broadcast_operands_sum_their_gradient() -> None:
    x = qn.tensor(np.ones((2, 3), np.float32), requires_grad=True)
    bias = leaf(0, 0, 0)
    scale = qn.tensor([[2.0]], requires_grad=True)
    ((x + bias) * scale).sum().backward()
    assert grad(bias) == [4, 4, 4]
    assert scale.grad is not None and scale.grad.tolist() == [[6]]
    assert x.grad is not None and x.grad.shape == (2, 3)


def test_gradient_argument() -> None:
    w = leaf(1, 2)
    with pytest.raises(
        qn.errors.ShapeError, match=r"\[backward\] a tensor of shape \(2,\) needs a gradient argument"
    ):
        (w * 2.0).backward()
    with pytest.raises(
        qn.errors.ShapeError, match=r"\[backward\] gradient has shape \(3,\), the tensor \(2,\)"
    ):
        (w * 2.0).backward(qn.ones(3))
    (w * 2.0).backward(np.array([1.0, 10.0]))
    assert grad(w) == [2, 20]


def test_nothing_to_differentiate() -> None:
    with pytest.raises(qn.errors.StateError, match="does not depend on any tensor"):
        qn.tensor(1.0).backward()


def test_second_backward_needs_retain_graph() -> None:
    w = leaf(3)
    y = w * w
    y.backward(retain_graph=True)
    y.backward()
    assert grad(w) == [12]
    with pytest.raises(qn.errors.StateError, match=r"freed by an earlier backward\(\).*retain_graph=True"):
        y.backward()
    assert grad(w) == [12]


def test_graphs_that_share_a_freed_part() -> None:
    w = leaf(3)
    shared = w * w
    (shared * 2.0).backward()
    with pytest.raises(qn.errors.StateError, match="freed"):
        (shared * 3.0).backward()
    assert grad(w) == [12]


def test_saved_tensor_changed_in_place() -> None:
    x, w = qn.tensor([1.0, 2.0]), leaf(3, 4)
    y = (x * w).sum()
    x[0] = 5
    with pytest.raises(
        qn.errors.StateError,
        match=r"\[backward\] a tensor of shape \(2,\) that mul needs was changed in place",
    ):
        y.backward()
    assert w.grad is None  # all is checked before anything is written


def test_change_through_a_view_is_seen() -> None:
    x, w = qn.zeros((2, 2)), qn.tensor(np.ones((2, 2), np.float32), requires_grad=True)
    y = (x * w).sum()
    x.reshape(4)[3] = 1
    with pytest.raises(qn.errors.StateError, match="changed in place"):
        y.backward()


def test_saved_output_changed_in_place() -> None:
    w = leaf(1, 2)
    y = ops.tanh(w)
    z = y.sum()
    with qn.no_grad():
        y[0] = 0
    with pytest.raises(qn.errors.StateError, match="tanh needs"):
        z.backward()


def test_change_of_what_was_not_saved_is_fine() -> None:
    x, w = qn.tensor([1.0, 2.0]), leaf(3, 4)
    y = (x + w).sum()
    x[0] = 5
    y.backward()
    assert grad(w) == [1, 1]


def test_writes_that_would_lose_a_gradient() -> None:
    w = leaf(1, 2)
    y = w * 2.0
    with pytest.raises(qn.errors.StateError, match="on the tape"):
        y[0] = 1
    with pytest.raises(qn.errors.StateError, match="value needs a gradient"):
        qn.zeros(2)[...] = w
    for update in (operator.iadd, operator.isub, operator.imul, operator.itruediv):
        with pytest.raises(qn.errors.StateError, match=r"\[[-+*/]=\] a leaf that requires grad"):
            update(w, 1.0)
    assert w.tolist() == [1, 2]
    w[0] = 7  # a leaf may be overwritten; what was saved of it before is refused later
    with qn.no_grad():
        w -= 1.0
    assert w.tolist() == [6, 1] and w.is_leaf and w.requires_grad


def test_adding_up_losses_in_place() -> None:
    w = leaf(2)
    total = qn.zeros(1)
    start = total
    for _ in range(3):
        total += w * w
    total.backward()
    assert grad(w) == [12]
    assert start.tolist() == [0]


def test_no_grad_and_detach() -> None:
    w = leaf(1)
    assert qn.is_grad_enabled()
    with qn.no_grad():
        assert not qn.is_grad_enabled()
        assert not (w * 2.0).requires_grad
    assert qn.is_grad_enabled()

    @qn.no_grad()
    def frozen() -> qn.Tensor:
        return w * 2.0

    assert not frozen().requires_grad
    assert not w.detach().requires_grad
    assert np.shares_memory(w.detach().numpy(), w.numpy())


def test_no_grad_survives_exceptions_and_holds_for_one_thread() -> None:
    with pytest.raises(ZeroDivisionError), qn.no_grad():
        raise ZeroDivisionError
    assert qn.is_grad_enabled()
    seen = []
    with qn.no_grad():
        thread = threading.Thread(target=lambda: seen.append(qn.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_requires_grad_rules() -> None:
    with pytest.raises(qn.errors.DTypeError, match="only floating tensors have gradients"):
        qn.tensor([1, 2], requires_grad=True)
    with pytest.raises(qn.errors.DTypeError, match="only floating tensors have gradients"):
        qn.tensor([1, 2]).requires_grad_()
    w = leaf(1)
    with pytest.raises(qn.errors.StateError, match=r"use detach\(\)"):
        (w * 2.0).requires_grad = False
    assert not w.requires_grad_(False).requires_grad
    assert not (w * 2.0).requires_grad


def test_deep_graph() -> None:
    w = leaf(1)
    y = w
    for _ in range(20_000):
        y = y + 1.0
    y.backward()
    assert grad(w) == [1]


@pytest.mark.usefixtures("no_collector")
def test_deep_graph_that_is_dropped() -> None:
    before = _core.live_storages()
    w = leaf(1)
    y = w
    for _ in range(20_000):
        y = y * 1.5
    del y, w
    assert _core.live_storages() == before


@pytest.mark.usefixtures("no_collector")
def test_no_reference_cycles() -> None:
    before = _core.live_storages()
    w = leaf(1, 2)
    outputs = [f(w) for f in (ops.relu, ops.tanh, ops.sigmoid, ops.exp, ops.sqrt, ops.gelu, ops.softmax)]
    outputs += [w * w, w / w, w**2.0, ops.maximum(w, 0.0), w[::-1], w.max(), ops.concat([w, w])]
    watched = [weakref.ref(t) for t in (*outputs, w)]
    del outputs, w
    assert all(ref() is None for ref in watched)
    assert _core.live_storages() == before


@pytest.mark.usefixtures("no_collector")
def test_backward_frees_the_graph() -> None:
    w = qn.tensor(np.ones((4, 4), np.float32), requires_grad=True)
    w.sum().backward()  # allocates the gradient
    before = _core.live_storages()
    loss = ops.tanh(w * w).sum()
    assert _core.live_storages() > before + 1
    loss.backward()
    assert _core.live_storages() == before + 1  # the loss itself
    del loss
    assert _core.live_storages() == before


def test_intermediate_tensors_are_released_early() -> None:
    w = leaf(1, 2)
    hidden = w + 1.0
    alive = weakref.ref(hidden)
    y = hidden + 1.0
    del hidden
    assert alive() is None  # add needs nothing of its operands
    y.sum().backward()
    assert grad(w) == [1, 1]


def test_the_order_of_accumulation_is_fixed() -> None:
    rng = np.random.default_rng(0)
    data = rng.standard_normal((16, 8)).astype(np.float32)

    def run() -> np.ndarray:
        w = qn.tensor(data, requires_grad=True)
        y = w
        for i in range(1, 6):
            y = y * 0.3 + ops.tanh(w * float(i)) + w
        (y * y).sum().backward()
        assert w.grad is not None
        return w.grad.numpy().copy()

    first = run()
    for _ in range(3):
        check_equal(run(), first)


def test_a_failing_rule_leaves_the_mode_as_it_was() -> None:
    w = leaf(1)

    def backward(_: qn.Tensor) -> tuple[qn.Tensor]:
        raise RuntimeError("broken rule")

    y = qn.autograd.attach(_core.copy(w._t), (w,), backward)
    with pytest.raises(RuntimeError, match="broken rule"):
        y.backward()
    assert qn.is_grad_enabled()


def test_leaf_frozen_after_the_forward_pass() -> None:
    w, v = leaf(2), leaf(3)
    y = w * v
    w.requires_grad = False
    y.backward()
    assert grad(v) == [2]


def two_results(w: qn.Tensor, seen: list[list[bool]]) -> tuple[qn.Tensor, qn.Tensor]:
    """w and 2 w, as one op."""

    def backward(g: list[qn.Tensor | None]) -> tuple[qn.Tensor]:
        seen.append([part is not None for part in g])
        one, two = (np.zeros(w.shape) if part is None else part.numpy() for part in g)
        return (qn.tensor((one + 2 * two).astype(np.float32)),)

    a, b = qn.autograd.put_all_on_tape([_core.copy(w._t), (w.detach() * 2)._t], (w,), backward)
    return a, b


def test_an_op_of_several_results_gets_their_gradients_at_once() -> None:
    seen: list[list[bool]] = []
    w = leaf(1, 2)
    a, b = two_results(w, seen)
    (a * a + b + b).sum().backward()
    assert grad(w) == [2 + 4, 4 + 4] and seen == [[True, True]]
    for k, expected in enumerate(([1, 1], [2, 2])):
        w.grad = None
        two_results(w, seen)[k].sum().backward()
        assert grad(w) == expected and seen[-1] == [k == 0, k == 1]


def test_several_results_have_hooks_and_share_a_graph() -> None:
    seen: list[list[bool]] = []
    w = leaf(1, 2)
    a, b = two_results(w, seen)
    b.register_hook(lambda g: g * 10)
    a.sum().backward(retain_graph=True)
    b.sum().backward()
    assert grad(w) == [21, 21] and seen == [[True, False], [False, True]]
    with pytest.raises(qn.errors.StateError, match="this graph was freed by an earlier backward"):
        a.sum().backward()


def test_the_tape_refuses_calls_that_are_none() -> None:
    """`attach` and `put_on_tape` are C: wrong arguments are exceptions there too."""
    x = qn.tensor([1.0, 2.0], requires_grad=True)
    for call in (autograd.attach, autograd.put_on_tape):
        with pytest.raises(TypeError, match=r"takes 3 or 4 arguments, got 2"):
            call(x._t, (x,))
        with pytest.raises(TypeError, match="inputs are a sequence"):
            call(x._t, 3, lambda g: (g,))
        with pytest.raises(TypeError):
            call(x._t, (x,), lambda g: (g,), 3)
        for inputs in ((x, None, 2.0), [x, None, 2.0]):
            y = call(x._t, inputs, lambda g, saved, two: (g * saved * two, None, None), [x.detach()._t, 2.0])
            assert y._node.inputs == [x, None, None] and y._node.versions == [0, 0] and y.requires_grad
            x.grad = None
            y.backward(np.ones(2, np.float32))
            assert x.grad is not None and x.grad.tolist() == [2.0, 4.0]
    assert not autograd.attach(x._t, (None, 1.0), lambda g: (g, g)).requires_grad
    assert autograd.needs_grad(1, x) and not autograd.needs_grad() and not autograd.needs_grad(x.detach())


def test_no_grad_nests_and_decorates() -> None:
    @qn.no_grad()
    def enabled(depth: int) -> list[bool]:
        """Says so."""
        return [autograd.is_grad_enabled(), *(enabled(depth - 1) if depth else [])]

    assert enabled.__doc__ == "Says so." and enabled(2) == [False] * 3 and autograd.is_grad_enabled()
    with qn.no_grad():
        with qn.no_grad():
            assert not autograd.is_grad_enabled()
        assert not autograd.is_grad_enabled()
    with pytest.raises(KeyError), qn.no_grad():
        raise KeyError
    off = qn.no_grad()
    with off, off:  # one and the same
        assert not autograd.is_grad_enabled()
    assert autograd.is_grad_enabled()
