"""Padding against NumPy's, bit for bit, and its gradient as the exact adjoint; the layers; beside PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import nn, ops
from quernel.errors import ArgumentError, ShapeError
from tests.checks import check_adjoint, check_equal
from tests.strategies import arrays, shapes

MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, tuple[int, ...], list[tuple[int, int]]]:
    """A mode, a shape, and widths that the mode allows for it."""
    mode = draw(st.sampled_from(list(MODES)))
    shape = draw(shapes(min_rank=1, max_rank=4, most=35, least=0 if mode == "constant" else 1, volume=3000))
    widths = []
    for n in shape:
        most = {"reflect": n - 1, "circular": n}.get(mode, 5)
        widths.append(tuple(draw(st.integers(0, min(most, 5))) for _ in range(2)))
    return mode, shape, widths  # type: ignore[return-value]


@pytest.mark.usefixtures("isa", "threads")
@settings(max_examples=12)
@given(data=st.data(), case=cases(), dtype=st.sampled_from(("float32", "float64", "uint8", "int64", "bool")))
def test_values_are_numpys(data: Any, case: Any, dtype: str) -> None:
    mode, shape, widths = case
    x = data.draw(arrays(shape, dtype, specials=None))
    options = {"constant_values": 1} if mode == "constant" else {}
    expected = np.pad(x, widths, MODES[mode], **options)
    check_equal(ops.pad(x, widths, mode, 1.0).numpy(), expected)
    check_equal(ops.pad(x, widths, MODES[mode], 1.0).numpy(), expected)


@pytest.mark.usefixtures("isa")
@given(case=cases(), dtype=st.sampled_from(("float32", "float64")), seed=st.integers(0, 99))
def test_gradient_is_the_adjoint(case: Any, dtype: str, seed: int) -> None:
    mode, shape, widths = case
    rng = np.random.default_rng(seed)
    x = rng.integers(-8, 9, shape).astype(dtype)
    y = rng.integers(-8, 9, np.pad(x, widths).shape).astype(dtype)

    def adjoint(v: Any) -> Any:
        t = qn.tensor(x, requires_grad=True)
        ops.pad(t, widths, mode).backward(v)
        assert t.grad is not None
        return t.grad.numpy()

    check_adjoint(lambda a: ops.pad(a, widths, mode).numpy(), adjoint, x, y)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_no_rows_are_padded_along_the_others(mode: str) -> None:
    x = qn.tensor(np.ones((0, 5), np.float32), requires_grad=True)
    y = ops.pad(x, [(0, 0), (2, 1)], mode)
    y.sum().backward()
    assert y.shape == (0, 8) and x.grad.shape == (0, 5)


def test_widest_borders() -> None:
    x = np.arange(5.0)
    for mode, width in (("reflect", 4), ("circular", 5), ("replicate", 9)):
        check_equal(ops.pad(x, [(width, width)], mode).numpy(), np.pad(x, width, MODES[mode]))  # type: ignore[call-overload]
    grad = qn.tensor(x, requires_grad=True)
    ops.pad(grad, [(4, 4)], "reflect").sum().backward()
    assert grad.grad is not None and grad.grad.tolist() == [2, 3, 3, 3, 2]


@pytest.mark.parametrize("mode", MODES)
def test_in_a_plan(mode: str) -> None:
    """Forward and backward replay with other values."""
    w = qn.tensor(np.ones((2, 5, 4, 3), np.float32), requires_grad=True)

    @qn.jit
    def step(x: qn.Tensor) -> qn.Tensor:
        y = ops.pad(x * w, [(0, 0), (2, 1), (0, 3), (0, 0)], mode)
        w.grad = None
        (y * y).sum().backward()
        return y

    for seed in range(4):
        x = np.random.default_rng(seed).standard_normal((2, 5, 4, 3), dtype=np.float32)
        y = step(x)
        check_equal(y.numpy(), np.pad(x, [(0, 0), (2, 1), (0, 3), (0, 0)], MODES[mode]))  # type: ignore[call-overload]
        with_tape = qn.tensor(x, requires_grad=True)
        z = ops.pad(with_tape, [(0, 0), (2, 1), (0, 3), (0, 0)], mode)
        (z * z).sum().backward()
        assert w.grad is not None and with_tape.grad is not None
        check_equal(w.grad.numpy(), with_tape.grad.numpy() * x)


@pytest.mark.parametrize(
    ("shape", "widths", "mode", "error", "message"),
    [
        ((3, 4), [(0, 0), (4, 0)], "reflect", ShapeError, r"at most 3 elements in dimension 1 of size 4, got \(4, 0\)"),
        ((3, 4), [(0, 4), (0, 0)], "circular", ShapeError, "at most 3 elements in dimension 0 of size 3"),
        ((0, 4), [(1, 0), (0, 0)], "replicate", ShapeError, r"dimension 0 of \(0, 4\) is empty; use mode='constant'"),
        ((3, 4), [(0, 0), (1, 0)], "mirror", ArgumentError, "mode is one of 'constant', 'reflect', .* got 'mirror'"),
        ((3, 4), [(0, 0), (1, 0)], 5.0, ArgumentError, "got 5.0; for a number write value=5.0"),
        ((3, 4), [(0, 0), (1, -1)], "reflect", ArgumentError, r"\(before, after\) >= 0"),
    ],
)  # fmt: skip
def test_errors(shape: Any, widths: Any, mode: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=rf"^\[pad\].*{message}"):
        ops.pad(np.zeros(shape), widths, mode)


# ---- layers ---------------------------------------------------------------------------------------------------------

LAYERS = ("ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad", "ConstantPad")


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("padding", [2, (1, 0, 3, 2)])
def test_layers_agree_with_torch(name: str, padding: Any) -> None:
    torch = pytest.importorskip("torch")
    extra = (1.5,) if name == "ConstantPad" else ()
    x = np.random.default_rng(0).standard_normal((2, 6, 5, 3))
    layer = getattr(nn, f"{name}2d")(padding, *extra)
    want = getattr(torch.nn, f"{name}2d")(padding, *extra)(torch.tensor(x).permute(0, 3, 1, 2))
    check_equal(layer(x.astype("f4")).numpy(), want.permute(0, 2, 3, 1).numpy().astype("f4"))
    flat = padding if isinstance(padding, int) else padding[:2]
    want = getattr(torch.nn, f"{name}1d")(flat, *extra)(torch.tensor(x[0]).permute(0, 2, 1))
    sequences = getattr(nn, f"{name}1d")(flat, *extra)
    check_equal(sequences(x[0].astype("f4")).numpy(), want.permute(0, 2, 1).numpy().astype("f4"))


def test_layers_say_what_they_are() -> None:
    assert repr(nn.ZeroPad2d(1)) == "ZeroPad2d((1, 1, 1, 1))"
    assert repr(nn.ConstantPad1d((1, 2), 3)) == "ConstantPad1d(padding=(1, 2), value=3.0)"
    assert nn.ConstantPad2d(1, 2).value == 2.0
    with pytest.raises(ArgumentError, match=r"one integer or 4 \(left, right, top, bottom\), got \(1, 2\)"):
        nn.ReflectionPad2d((1, 2))
    with pytest.raises(ArgumentError, match="holds integers from 0 on, got -1"):
        nn.ZeroPad1d(-1)
    net = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3))
    assert net(np.zeros((1, 5, 5, 3))).shape == (1, 5, 5, 4)
    assert "ReflectionPad2d" in str(net.summary((5, 5, 3), show=False))
