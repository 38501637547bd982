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
        last = data.draw(st.sampled_from(((queries, keys), (1, keys), (queries, 1), (1, 1))))
        mask = data.draw(arrays((*lead, *last), "bool" if kind == "bool" else dtype))
    past = data.draw(st.integers(1, 70)) if kind == "past" else 0
    dropout = data.draw(st.sampled_from((0.0, 0.0, 0.3, 1.0)))
    causal = kind in ("causal", "past")
    return operands, mask, how_to(causal, 1 / math.sqrt(max(depth, 1)), past, dropout)


def how_to(causal: bool, scale: float, past: int = 0, dropout: float = 0.0) -> dict[str, Any]:
    return {"causal": causal, "past": past, "scale": scale, "dropout": dropout}


SEED, BASE = 5, 2**32 - 3  # the counter's upper half changes on the way


def run(operands: Any, mask: Any, how: dict[str, Any], heads: int = 0) -> tuple[Any, Any, Any]:
    native = [None if t is None else T(t) for t in (*operands, mask)]
    generator = _core.Generator(SEED)
    generator.set(SEED, BASE)
    args = heads, how["causal"], how["past"], how["scale"], how["dropout"], generator, True
    y, lse, drawn = _core.attention(*native, *args)
    return y, lse, drawn


def run_grad(operands: Any, mask: Any, how: dict[str, Any], g: Any, heads: int = 0) -> list[Any]:
    """Gradients of the operands, and of a mask of numbers."""
    native = [None if t is None else T(t) for t in (*operands, mask)]
    y, lse, drawn = run(operands, mask, how, heads)
    args = heads, how["causal"], how["past"], how["scale"], how["dropout"], y, lse, drawn, T(g)
    return [t for t in _core.attention_grad(*native, *args, True, True, True, True) if t is not None]


def keep_of(operands: list[np.ndarray], how: dict[str, Any]) -> Any:
    """What dropout makes of the weights."""
    if how["dropout"] == 0:
        return 1.0
    shape = *operands[0].shape[:3], operands[1].shape[2]
    return reference.attention_keep(SEED, BASE, how["dropout"], shape)


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
    y, lse, _ = (None if t is None else N(t) for t in run(operands, mask, how))
    assert y is not None and lse is not None
    p, score, relative = how_far(operands, mask, how)
    v, keep = operands[2].astype("f8"), keep_of(operands, how)
    expected = reference.attention(*operands, mask, how["causal"], how["scale"], how["past"], keep)
    assert y.dtype == operands[0].dtype and y.shape == expected.shape
    assert (np.abs(y - expected) <= 1.1 * relative * ((keep * p) @ np.abs(v)) + 1e-30).all()
    scores = reference.attention_scores(*operands[:2], mask, how["causal"], how["scale"], how["past"])
    with np.errstate(divide="ignore"):
        sums = np.log2(np.exp(scores).sum(-1))
    empty = np.isneginf(sums)
    assert (lse[empty] == np.inf).all() and (y[empty] == 0).all()
    u = unit_roundoff(y.dtype)
    assert (
        np.abs(lse - sums)[~empty] <= 1.5 * score + (len(scores.T) + 12) * u * (2 + np.abs(sums[~empty]))
    ).all()


def summed_to(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of what was broadcast from `shape`."""
    padded = (1,) * (x.ndim - len(shape)) + shape
    axes = tuple(i for i, (a, b) in enumerate(zip(padded, x.shape, strict=True)) if a != b)
    return x.sum(axes, keepdims=True).reshape(shape)


@pytest.mark.usefixtures("isa")
@given(data=st.data())
def test_grad(data: Any) -> None:
    operands, mask, how = draw_case(data, near(40))
    g = data.draw(arrays((*operands[0].shape[:-1], operands[2].shape[-1]), operands[0].dtype))
    found, keep = [N(t) for t in run_grad(operands, mask, how, g)], keep_of(operands, how)
    expected = reference.attention_grad(*operands, g, mask, how["causal"], how["scale"], how["past"], keep)
    p, _, relative = how_far(operands, mask, how)
    q, k, v, slope = (np.abs(t.astype("f8")) for t in (*operands, g))
    # ds = p (m (g v^T) - d): both terms by their absolute values.
    ds = p * (keep * (slope @ v.swapaxes(-1, -2)) + (slope * ((keep * p) @ v)).sum(-1, keepdims=True))
    size = [
        how["scale"] * ds @ k,
        how["scale"] * ds.swapaxes(-1, -2) @ q,
        (keep * p).swapaxes(-1, -2) @ slope,
    ]
    terms = sum(t.shape[-1] + t.shape[-2] for t in operands) + 16
    limit = 2 * relative + terms * unit_roundoff(g.dtype)
    wanted, of = [*expected[:3]], [*operands]
    if mask is not None and mask.dtype != bool:
        wanted.append(summed_to(expected[3], mask.shape))
        size.append(summed_to(ds, mask.shape) * (1 + ds.size * unit_roundoff(g.dtype) / limit))
        of.append(mask)
    for grad, want, bound, operand in zip(found, wanted, size, of, strict=True):
        assert grad.dtype == operand.dtype and grad.shape == operand.shape
        assert (np.abs(grad - want) <= 1.1 * limit * bound + 1e-30).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("kind", ["bool", "f4"])
def test_every_tail_against_guard_pages(end: bool, kind: str) -> None:
    how = how_to(True, 1.0)
    for t, d in [*((t, 5) for t in range(1, 70, 3)), *((9, d) for d in range(1, 40)), (130, 33)]:
        operands = [guarded((1, 2, t, d), "f4", end) for _ in range(3)]
        g, mask = guarded((1, 2, t, d), "f4", end), guarded((t, t), kind, end)
        for a in (*operands, g, mask):
            a[...] = 1
        check_equal(N(run(operands, mask, how)[0]).round(5), np.ones((1, 2, t, d), "f4"))
        dq, _, dv, *_ = (N(x) for x in run_grad(operands, mask, how, g))
        assert np.abs(dq).max() < 1e-4 and abs(dv.sum() - g.sum()) < 1e-5 * dv.size


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads_samples_or_heads(dtype: str, causal: bool) -> None:
    rng = np.random.default_rng(1)
    operands = [rng.standard_normal((3, 4, 150, 24)).astype(dtype) for _ in range(3)]
    g, mask = rng.standard_normal((3, 4, 150, 24)).astype(dtype), rng.random((3, 1, 150, 150)) > 0.2
    bias = rng.standard_normal((4, 150, 150)).astype(dtype)
    how, dropping = how_to(causal, 0.2), how_to(causal, 0.2, dropout=0.3)
    before, results = _core.num_threads(), []
    try:
        for threads in (1, 2, 4):
            _core.set_num_threads(threads)
            # One head on several threads takes two passes over blocks in place of one over heads.
            part = [t[1:2, 2:3].copy() for t in (*operands, g)]
            again = [*run(part[:3], mask[1:2], how)[:2], *run_grad(part[:3], mask[1:2], how, part[3])]
            whole = [*run(operands, mask, how)[:2], *run_grad(operands, mask, how, g)]
            others = run_grad(part[:3], mask[1:2], dropping, part[3]), run_grad(operands, bias, dropping, g)
            for one, two in zip(again, whole, strict=True):
                check_equal(N(one), N(two)[1:2, 2:3])
            results.append([N(t).copy() for t in (*whole, *others[0], *others[1])])
    finally:
        _core.set_num_threads(before)
    for result in results[1:]:
        for one, two in zip(result, results[0], strict=True):
            check_equal(one, two)


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
    how = how_to(causal, 0.3)
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
    gradcheck(lambda q, k, v: sdpa(q, k, v, np.full((5, 7), 0.5), is_causal=True, scale=0.7), q, k, v)
    for shape in ((5, 7), (2, 1, 5, 7), (2, 1, 7), (1, 2, 5, 1), (1, 1)):
        gradcheck(lambda q, bias: sdpa(q, k, v, bias), q, rng.standard_normal(shape))
    gradcheck(lambda bias: sdpa(q[0], k[0], v[0], bias), rng.standard_normal((2, 5, 1)))

    def drop(q: qn.Tensor, k: qn.Tensor, v: qn.Tensor, bias: qn.Tensor) -> qn.Tensor:
        qn.seed(3)
        return sdpa(q, k, v, bias, 0.4)

    gradcheck(drop, q, k, v, rng.standard_normal((2, 5, 7)))
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
    y = ops.scaled_dot_product_attention(*mine, mask, is_causal=kind == "causal")
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


def test_dropout_has_the_draws_of_ops_dropout() -> None:
    """A whole number of blocks in a row, so that rows need no padding."""
    rng = np.random.default_rng(6)
    q, k = rng.standard_normal((2, 3, 70, 8)), rng.standard_normal((2, 3, 72, 8))
    weights = ops.softmax(ops.matmul(q, k.transpose(0, 1, 3, 2)) * 8**-0.5)
    qn.seed(7)
    dropped = ops.dropout(weights, 0.3)
    qn.seed(7)
    y = sdpa(q, k, np.broadcast_to(np.eye(72), (2, 3, 72, 72)).copy(), dropout_p=0.3)
    np.testing.assert_allclose(y.numpy(), dropped.numpy(), rtol=1e-12, atol=1e-15)
    qn.seed(7)
    ops.dropout(np.ones(2 * 3 * 70 * 72), 0.3)
    after = qn.random.default_generator().base
    qn.seed(7)
    sdpa(q, k, k, dropout_p=0.3)
    assert qn.random.default_generator().base == after


def test_the_gradient_draws_what_the_result_drew() -> None:
    """Whatever is drawn, or seeded, in between."""
    rng = np.random.default_rng(6)
    x, v = rng.standard_normal((1, 1, 40, 4)), qn.tensor(np.zeros((1, 1, 40, 40)), requires_grad=True)
    qn.seed(7)
    y = sdpa(x, x, v, dropout_p=0.5)
    qn.seed(8)
    ops.dropout(np.ones(1000), 0.5)
    y.backward(np.eye(40).reshape(1, 1, 40, 40))
    qn.seed(7)
    weights = sdpa(x, x, np.eye(40).reshape(1, 1, 40, 40), dropout_p=0.5)
    assert v.grad is not None
    np.testing.assert_allclose(v.grad.numpy(), weights.numpy().swapaxes(2, 3), rtol=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_a_plan_has_the_bits_of_the_eager_op(p: float) -> None:
    rng = np.random.default_rng(5)
    xs = [rng.standard_normal((2, 40, 36)).astype("f4")] * 4  # the same, so that only the draws differ
    w = qn.tensor(rng.standard_normal((36, 36)).astype("f4"), requires_grad=True)
    bias = qn.tensor(rng.standard_normal((3, 40, 40)).astype("f4"), requires_grad=True)

    def step(x: qn.Tensor) -> tuple[qn.Tensor, qn.Tensor, qn.Tensor]:
        y = ops.multi_head_attention(ops.linear(x, w), None, None, 3, bias, p, is_causal=True)
        w.grad = bias.grad = None
        (y * y).sum().backward()
        assert w.grad is not None and bias.grad is not None
        return y, w.grad + 0.0, bias.grad + 0.0

    runs = []
    for run in (qn.jit(step), step):
        qn.seed(1)
        runs.append([[np.array(a) for a in run(qn.tensor(x))] for x in xs])
    for one, two in zip(*runs, strict=True):
        for a, b in zip(one, two, strict=True):
            check_equal(a, b)
    assert len({found[0].tobytes() for found in runs[0]}) == (4 if p else 1)


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
        (lambda: sdpa(Q, Q, Q, None, 1.5), ArgumentError, r"dropout_p is a probability in \[0, 1\], got 1.5"),
        (lambda: sdpa(Q, Q, Q, None, True), ArgumentError, r"dropout_p is a probability in \[0, 1\], got True"),
        (lambda: sdpa(Q, Q, Q, scale=math.inf), ArgumentError, "scale must be finite, got inf"),
        (lambda: sdpa(Q, Q, Q, is_causal=True, past=qn.tensor([1, 2])), ArgumentError,
         r"past is one int64 beside a causal mask, got int64 \(2,\) with is_causal=True"),
        (lambda: sdpa(Q, Q, Q, past=qn.tensor([1])), ArgumentError, r"past is one int64 .* with is_causal=False"),
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


def test_a_mask_shared_by_queries_sums_those_that_exist() -> None:
    """A masked key that is infinite makes no gradient, however many queries there are."""
    rng = np.random.default_rng(0)
    for queries in (5, 64):
        q, v = (qn.tensor(rng.standard_normal((1, 1, n, 8), dtype=np.float32)) for n in (queries, 6))
        key = rng.standard_normal((1, 1, 6, 8), dtype=np.float32)
        key[:, :, 3] = -np.inf
        bias = np.zeros((1, 1, 1, 6), np.float32)
        bias[..., 3] = -np.inf
        mask = qn.tensor(bias, requires_grad=True)
        q = ops.abs(q)  # so that their products with the infinite key are -inf, not NaN
        ops.scaled_dot_product_attention(q, qn.tensor(key), v, mask).sum().backward()
        assert np.isfinite(mask.grad.numpy()).all()
        assert mask.grad.numpy()[..., 3] == 0
