"""Attention: blocks of scores and tails at guard pages, masks, gradients, splits, plans; beside PyTorch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import _core, ops
from quernel.errors import ArgumentError, DTypeError, ShapeError
from tests import reference
from tests.checks import N, T, check_equal, gradcheck, unit_roundoff
from tests.strategies import arrays, guarded, near

sizes = st.sampled_from((0, 1, 2, 5, 8, 31, 63, 64, 65, 100, 128, 129, 150))
dtypes = st.sampled_from(("float32", "float64"))
MASKS = ("none", "keys", "bool", "float", "causal", "past")


def draw_case(data: Any, depths: Any) -> tuple[list[np.ndarray], Any, dict[str, Any]]:
    """q, k and v, a mask and how the keys are kept out."""
    dtype, kind = data.draw(dtypes), data.draw(st.sampled_from(MASKS))
    n, h = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 3))
    queries, keys = data.draw(sizes), data.draw(sizes)
    depth, values = data.draw(depths), data.draw(depths)
    shapes = (n, h, queries, depth), (n, h, keys, depth), (n, h, keys, values)
    operands = [data.draw(arrays(shape, dtype)) for shape in shapes]
    mask = None
    if kind == "keys":
        mask = data.draw(arrays((n, 1, 1, keys), "bool"))
    elif kind in ("bool", "float"):
        lead = data.draw(st.sampled_from(((), (h,), (n, 1), (1, h), (n, h))))
        mask = data.draw(arrays((*lead, queries, keys), "bool" if kind == "bool" else dtype))
    past = data.draw(st.integers(1, 70)) if kind == "past" else 0
    causal = kind in ("causal", "past")
    return operands, mask, {"causal": causal, "past": past, "scale": 1 / math.sqrt(max(depth, 1))}


def run(operands: Any, mask: Any, how: dict[str, Any], heads: int = 0) -> tuple[Any, Any]:
    native = [None if t is None else T(t) for t in (*operands, mask)]
    y, lse = _core.attention(*native, heads, how["causal"], how["past"], how["scale"], True)
    return y, lse


def run_grad(operands: Any, mask: Any, how: dict[str, Any], g: Any, heads: int = 0) -> list[Any]:
    native = [None if t is None else T(t) for t in (*operands, mask)]
    y, lse = run(operands, mask, how, heads)
    args = (heads, how["causal"], how["past"], how["scale"], y, lse, T(g), True, True, True)
    return [t for t in _core.attention_grad(*native, *args) if t is not None]


def how_far(operands: list[np.ndarray], mask: Any, how: dict[str, Any]) -> tuple[Any, Any, float]:
    """The weights in float64, the roundings of a score, and of a weight, relative.

    A score is a sum of D products, each operand scaled: (D + 3) u |q||k| scale, then a mask is added and the greatest
    score (or lse, whose own error is that of a score) is taken away. e^x turns this into a relative error; a sum of
    positive numbers and its reciprocal add Tk + 12 roundings.
    """
    q, k, _ = (t.astype("f8") for t in operands)
    scores = reference.attention_scores(q, k, mask, how["causal"], how["scale"], how["past"])
    size = how["scale"] * np.abs(q) @ np.abs(k).swapaxes(-1, -2)
    if mask is not None and mask.dtype != bool:
        size = size + np.abs(mask)
    u = unit_roundoff(operands[0].dtype)
    score = (q.shape[-1] + 8) * u * size.max(initial=0)
    return reference.attention_weights(scores), score, 2 * score + (k.shape[-2] + 12) * u


@pytest.mark.usefixtures("isa")
@given(data=st.data())
def test_values(data: Any) -> None:
    operands, mask, how = draw_case(data, near(70))
    y, lse = (N(t) for t in run(operands, mask, how))
    p, score, relative = how_far(operands, mask, how)
    v = operands[2].astype("f8")
    expected = reference.attention(*operands, mask, how["causal"], how["scale"], how["past"])
    assert y.dtype == operands[0].dtype and y.shape == expected.shape
    assert (np.abs(y - expected) <= 1.1 * relative * (p @ np.abs(v)) + 1e-30).all()
    scores = reference.attention_scores(*operands[:2], mask, how["causal"], how["scale"], how["past"])
    with np.errstate(divide="ignore"):
        sums = np.log(np.exp(scores).sum(-1))
    empty = np.isneginf(sums)
    assert (lse[empty] == np.inf).all() and (y[empty] == 0).all()
    u = unit_roundoff(y.dtype)
    assert (np.abs(lse - sums)[~empty] <= score + (len(scores.T) + 12) * u * (1 + np.abs(sums[~empty]))).all()


@pytest.mark.usefixtures("isa")
@given(data=st.data())
def test_grad(data: Any) -> None:
    operands, mask, how = draw_case(data, near(40))
    g = data.draw(arrays((*operands[0].shape[:-1], operands[2].shape[-1]), operands[0].dtype))
    found = [N(t) for t in run_grad(operands, mask, how, g)]
    expected = reference.attention_grad(*operands, g, mask, how["causal"], how["scale"], how["past"])
    p, _, relative = how_far(operands, mask, how)
    q, k, v, slope = (np.abs(t.astype("f8")) for t in (*operands, g))
    # ds = p (g v^T - d): both terms by their absolute values.
    ds = how["scale"] * p * (slope @ v.swapaxes(-1, -2) + (slope * (p @ v)).sum(-1, keepdims=True))
    size = ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ slope
    terms = sum(t.shape[-1] + t.shape[-2] for t in operands) + 16
    limit = 2 * relative + terms * unit_roundoff(g.dtype)
    for grad, want, bound, operand in zip(found, expected, size, operands, strict=True):
        assert grad.dtype == operand.dtype and grad.shape == operand.shape
        assert (np.abs(grad - want) <= 1.1 * limit * bound + 1e-30).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("end", [True, False])
def test_every_tail_against_guard_pages(end: bool) -> None:
    how = {"causal": True, "past": 0, "scale": 1.0}
    for t, d in [*((t, 5) for t in range(1, 70, 3)), *((9, d) for d in range(1, 40)), (130, 33)]:
        operands = [guarded((1, 2, t, d), "f4", end) for _ in range(3)]
        g, mask = guarded((1, 2, t, d), "f4", end), guarded((t, t), "bool", end)
        for a in (*operands, g):
            a[...] = 1
        mask[...] = True
        check_equal(N(run(operands, mask, how)[0]).round(5), np.ones((1, 2, t, d), "f4"))
        dq, _, dv = (N(x) for x in run_grad(operands, mask, how, g))
        assert np.abs(dq).max() < 1e-4 and abs(dv.sum() - g.sum()) < 1e-5 * dv.size


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads_samples_or_heads(dtype: str, causal: bool) -> None:
    rng = np.random.default_rng(1)
    operands = [rng.standard_normal((3, 4, 150, 24)).astype(dtype) for _ in range(3)]
    g, mask = rng.standard_normal((3, 4, 150, 24)).astype(dtype), rng.random((3, 1, 150, 150)) > 0.2
    how = {"causal": causal, "past": 0, "scale": 0.2}
    before, results = _core.num_threads(), []
    try:
        for threads in (1, 2):
            _core.set_num_threads(threads)
            results.append(
                [N(t).copy() for t in (*run(operands, mask, how), *run_grad(operands, mask, how, g))]
            )
    finally:
        _core.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        check_equal(one, two)
    part = [t[1:2, 2:4].copy() for t in operands]
    again = [*run(part, mask[1:2], how), *run_grad(part, mask[1:2], how, g[1:2, 2:4].copy())]
    for one, two in zip(again, results[0], strict=True):
        check_equal(N(one), two[1:2, 2:4])


@pytest.mark.parametrize("cut", [1, 7, 64, 100])
@pytest.mark.usefixtures("isa")
def test_a_causal_sequence_in_chunks_has_the_bits_of_the_whole(cut: int) -> None:
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((2, 2, 150, 20)).astype("f4") for _ in range(3))
    whole = ops.scaled_dot_product_attention(q, k, v, is_causal=True).numpy()
    for first in range(0, 150, cut):
        last = min(first + cut, 150)
        part = ops.scaled_dot_product_attention(
            q[:, :, first:last], k[:, :, :last], v[:, :, :last], is_causal=True, past=first
        )
        check_equal(part.numpy(), whole[:, :, first:last])


@pytest.mark.parametrize("parts", ["qkv", "kv", "none"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.usefixtures("isa")
def test_heads_side_by_side_have_the_bits_of_heads_apart(parts: str, causal: bool) -> None:
    rng = np.random.default_rng(3)
    n, h, t, d = 2, 3, 70, 12
    rows = [rng.standard_normal((n, t, h * d)).astype("f4") for _ in range(4)]
    apart = [np.ascontiguousarray(a.reshape(n, t, h, d).transpose(0, 2, 1, 3)) for a in rows]
    join = lambda *a: np.concatenate(a, -1)
    packed = {
        "qkv": [join(*rows[:3]), None, None],
        "kv": [rows[0], join(*rows[1:3]), None],
        "none": rows[:3],
    }[parts]
    back = lambda a: np.ascontiguousarray(N(a).transpose(0, 2, 1, 3)).reshape(n, t, h * d)
    how = {"causal": causal, "past": 0, "scale": 0.3}
    check_equal(N(run(packed, None, how, h)[0]), back(run(apart[:3], None, how)[0]))
    grads = [N(a) for a in run_grad(packed, None, how, rows[3], h)]
    expected = [back(a) for a in run_grad(apart[:3], None, how, apart[3])]
    check_equal(join(*grads), join(*expected))


def test_rows_without_keys_are_zero_and_get_zero_gradients() -> None:
    rng = np.random.default_rng(4)
    q, k, v = (qn.tensor(rng.standard_normal((1, 1, 3, 4)), requires_grad=True) for _ in range(3))
    mask = np.array([[True, False, True], [False, False, False], [False, True, True]])
    for out in (mask, np.where(mask, 0.0, -np.inf)):
        y = ops.scaled_dot_product_attention(q, k, v, out)
        y.backward(np.ones(y.shape))
        assert (y.numpy()[0, 0, 1] == 0).all() and (y.numpy()[0, 0, 0] != 0).all()
        assert (
            q.grad is not None
            and (q.grad.numpy()[0, 0, 1] == 0).all()
            and (q.grad.numpy()[0, 0, 0] != 0).any()
        )
        assert all(t.grad is not None and np.isfinite(t.grad.numpy()).all() for t in (q, k, v))
    none = ops.scaled_dot_product_attention(np.ones((2, 3)), np.ones((0, 3)), np.ones((0, 5)))
    assert none.tolist() == [[0.0] * 5] * 2


def test_nan_stays_in_its_row() -> None:
    q, k = np.ones((3, 8), "f4"), np.ones((70, 8), "f4")
    q[1, 2] = np.nan
    y = ops.scaled_dot_product_attention(q, k, k).numpy()
    assert np.isnan(y[1]).all() and (y[[0, 2]] == 1).all()
    k[68, 0] = np.nan  # a key of the second block
    assert np.isnan(ops.scaled_dot_product_attention(q, k, k)).all()
    y = ops.scaled_dot_product_attention(
        np.full((3, 8), 1e19, "f4"), np.eye(70, 8, dtype="f4") * 1e19, np.ones((70, 2), "f4")
    )
    assert (y.numpy() == 1).all()  # scores up to 3e37


def test_gradients_in_float64() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(s) for s in ((2, 2, 5, 3), (2, 2, 7, 3), (2, 2, 7, 4)))
    mask = rng.random((2, 1, 5, 7)) > 0.3
    sdpa = ops.scaled_dot_product_attention
    gradcheck(sdpa, q, k, v)
    gradcheck(lambda q, k, v: sdpa(q, k, v, mask), q, k, v)
    gradcheck(lambda q, k, v: sdpa(q, k, v, rng.standard_normal((5, 7)) * 0 + 0.5, True, 0.7), q, k, v)
    gradcheck(lambda k: sdpa(q, k, v), k)
    gradcheck(lambda q, k, v: sdpa(q, k, v, is_causal=True), q[0], k[0], v[0])
    mha = ops.multi_head_attention
    gradcheck(lambda x: mha(x, num_heads=2), rng.standard_normal((2, 4, 12)))
    gradcheck(
        lambda x, y: mha(x, y, num_heads=2), rng.standard_normal((2, 4, 4)), rng.standard_normal((2, 3, 8))
    )
    gradcheck(lambda x, y: mha(x, y, y, 2), rng.standard_normal((2, 4, 4)), rng.standard_normal((2, 3, 4)))


@given(
    lead=st.lists(st.integers(1, 3), max_size=2), tq=near(70, 1), tk=near(70, 1), d=near(33, 1), dv=near(33, 1),
    kind=st.sampled_from(("none", "bool", "float", "causal")), seed=st.integers(0, 99),
)  # fmt: skip
def test_against_torch(lead: list[int], tq: int, tk: int, d: int, dv: int, kind: str, seed: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    data = [rng.standard_normal((*lead, t, c)) for t, c in ((tq, d), (tk, d), (tk, dv))]
    mask = {"bool": rng.random((tq, tk)) > 0.3, "float": rng.standard_normal((tq, tk))}.get(kind)
    if kind == "bool":
        mask[:, 0] = True
    mine = [qn.tensor(a, requires_grad=True) for a in data]
    other = [torch.tensor(a, requires_grad=True) for a in data]
    y = ops.scaled_dot_product_attention(*mine, mask, kind == "causal")
    z = torch.nn.functional.scaled_dot_product_attention(
        *other, attn_mask=None if mask is None else torch.tensor(mask), is_causal=kind == "causal"
    )
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-10, atol=1e-12)
    g = rng.standard_normal(y.shape)
    y.backward(g)
    z.backward(torch.tensor(g))
    for a, t in zip(mine, other, strict=True):
        assert a.grad is not None
        np.testing.assert_allclose(a.grad.numpy(), t.grad.numpy(), rtol=1e-9, atol=1e-11)


def test_a_plan_has_the_bits_of_the_eager_op() -> None:
    rng = np.random.default_rng(5)
    xs = [rng.standard_normal((2, 40, 36)).astype("f4") for _ in range(4)]
    w = qn.tensor(rng.standard_normal((36, 36)).astype("f4"), requires_grad=True)

    def step(x: qn.Tensor) -> tuple[qn.Tensor, qn.Tensor]:
        y = ops.multi_head_attention(ops.linear(x, w), num_heads=3, is_causal=True)
        w.grad = None
        (y * y).sum().backward()
        assert w.grad is not None
        return y, w.grad + 0.0

    plan = qn.jit(step)
    for x in xs:
        for a, b in zip(plan(qn.tensor(x)), step(qn.tensor(x)), strict=True):
            check_equal(a.numpy(), b.numpy())


Q = np.zeros((2, 3, 5, 4), np.float32)
sdpa, mha = ops.scaled_dot_product_attention, ops.multi_head_attention


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sdpa(Q[0, 0, 0], Q, Q), ShapeError, r"q, k and v have 2 to 4 dimensions .* got \(4,\), \(2, 3, 5, 4\)"),
        (lambda: sdpa(Q, Q[:, :1], Q), ShapeError, r"differ before their last two dimensions: .*repeat_interleave"),
        (lambda: sdpa(Q, Q[..., :3], Q), ShapeError, "k has 3 columns, q has 4"),
        (lambda: sdpa(Q, Q, Q[:, :, :2]), ShapeError, "v has 2 rows, k has 5"),
        (lambda: sdpa(Q, Q.astype("f8"), Q), DTypeError, "k is float64, q is float32"),
        (lambda: sdpa(Q.astype("i4"), Q, Q), DTypeError, "q must be floating"),
        (lambda: sdpa(Q, Q, Q, np.ones((5, 4), bool)), ShapeError,
         r"attn_mask of shape \(5, 4\) does not broadcast to \(N, H, Tq, Tk\) = \(2, 3, 5, 5\)"),
        (lambda: sdpa(Q, Q, Q, np.ones((5, 5), "i4")), DTypeError, r"attn_mask is bool .* or float32, as q is, got int32"),
        (lambda: sdpa(Q, Q, Q, qn.ones((5, 5)).requires_grad_()), ArgumentError, "attn_mask gets no gradient"),
        (lambda: sdpa(Q, Q, Q, scale=math.inf), ArgumentError, "scale must be finite, got inf"),
        (lambda: sdpa(Q, Q, Q, past=2), ArgumentError, "past counts the keys before .* got 2 with is_causal=False"),
    ],
)  # fmt: skip
def test_errors(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=rf"^\[scaled_dot_product_attention\].*{message}"):
        call()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mha(Q[0], num_heads=0), ArgumentError, "num_heads is a positive integer, got 0"),
        (lambda: mha(Q[0], None, Q[0]), ArgumentError, "v comes with k"),
        (lambda: mha(Q[0], num_heads=2), ShapeError, r"q must be \(N, T, columns\) .* 3 operands in its rows, got \(3, 5, 4\)"),
        (lambda: mha(Q[0], Q[0], Q[0], 3), ShapeError, "a multiple of num_heads=3 columns, got"),
        (lambda: mha(Q[0], Q[0], None, 2), ShapeError, r"k of shape \(3, 5, 4\) does not fit q"),
        (lambda: mha(Q[0], Q[0, :1], Q[0], 2), ShapeError, "k has 1 samples, q has 3"),
        (lambda: mha(Q[0], Q[0], Q[0, :, :3], 2), ShapeError, "v has 3 rows, k has 5"),
    ],
)  # fmt: skip
def test_errors_of_heads(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=rf"^\[multi_head_attention\].*{message}"):
        call()
