"""Tables with gradients by rows: lazy updates against PyTorch's, clipping, plans, fit, checkpoints, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import losses, nn, ops, optim
from quernel.errors import ArgumentError
from tests.checks import check_equal

Array = np.ndarray[Any, Any]
ROWS, FEATURES = 30, 20


def table(dtype: str = "float64") -> qn.Tensor:
    values = np.random.default_rng(0).standard_normal((ROWS, FEATURES)).astype(dtype)
    return qn.tensor(values, requires_grad=True)


def look_up(w: Any, step: int, embedding: Any, times: int = 1) -> None:
    """A backward through lookups that differ from step to step."""
    rng = np.random.default_rng([7, step])
    for _ in range(times):
        index, factors = rng.integers(0, ROWS, 3 + 5 * step % 11), rng.standard_normal((1, FEATURES))
        y = embedding(index, w)
        (y * y * like(y, factors)).sum().backward()


def like(y: Any, factors: Array) -> Any:
    if isinstance(y, qn.Tensor):
        return qn.tensor(factors.astype(y.dtype))
    import torch

    return torch.tensor(factors, dtype=y.dtype)


def ours(index: Array, w: qn.Tensor) -> qn.Tensor:
    return ops.embedding(index, w, sparse=True)


@pytest.mark.parametrize("name", ["SparseAdam", "SGD"])
def test_updates_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    w = table()
    v = torch.tensor(w.numpy(), requires_grad=True)
    options: dict[str, Any] = (
        {"lr": 0.05} if name == "SGD" else {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-3}
    )
    opt, ref = getattr(optim, name)([w], **options), getattr(torch.optim, name)([v], **options)
    for step in range(12):
        if step == 6:
            opt.lr = 0.02
            ref.param_groups[0]["lr"] = 0.02
        opt.zero_grad()
        ref.zero_grad()
        look_up(w, step, ours)
        look_up(v, step, lambda i, t: torch.nn.functional.embedding(torch.tensor(i), t, sparse=True))
        opt.step()
        ref.step()
        # Float64, and some ten operations per step: 1e-12 is thousands of roundings, and far below any other formula.
        np.testing.assert_allclose(w.numpy(), v.detach().numpy(), rtol=1e-12, atol=1e-13)
    if name == "SparseAdam":  # and its state serves ours
        u = qn.tensor(w.numpy(), requires_grad=True)
        other = optim.SparseAdam([u])
        other.load_state_dict(ref.state_dict())
        for x, o in ((w, opt), (u, other)):
            o.zero_grad()
            look_up(x, 99, ours)
            o.step()
        np.testing.assert_allclose(u.numpy(), w.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("name", "options"), [
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}), ("Adam", {"lr": 0.01}), ("AdamW", {"lr": 0.01, "weight_decay": 0.2}),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.usefixtures("isa", "threads")
def test_rows_with_a_gradient_get_the_bits_of_a_dense_step(
    name: str, options: dict[str, Any], dtype: str
) -> None:
    """Rows without one keep theirs, in the table as in the state."""
    dense, lazy = table(dtype), table(dtype)
    opts = [getattr(optim, name)([w], **options) for w in (dense, lazy)]
    everything = np.arange(ROWS)
    for step in range(4):
        for w, opt, sparse in zip((dense, lazy), opts, (False, True), strict=True):
            opt.zero_grad()
            y = ops.embedding(np.concatenate([everything, [step, step]]), w, sparse=sparse)
            (y * y).sum().backward()
            opt.step()
        check_equal(lazy.numpy(), dense.numpy())
    before = lazy.numpy().copy()
    state = opts[1].state_dict()["state"][0]
    opts[1].zero_grad()
    ops.embedding_bag([[3, 8, 3]], lazy, mode="sum", sparse=True).sum().backward()
    opts[1].step()
    after = opts[1].state_dict()["state"][0]
    assert after["step"] == 5
    changed = [(lazy.numpy() != before), *(after[k] != state[k] for k in state if k != "step")]
    for where in changed:
        assert np.flatnonzero(where.any(1)).tolist() == [3, 8]


@pytest.mark.parametrize("name", ["sgd", "adam", "sparse_adam"])
def test_replays_are_eager_steps_bit_for_bit(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """With clipping and two lookups; batches of two sizes, and an accumulated gradient."""
    weights, ends = [table("float32"), table("float32")], []
    for w, jitted in zip(weights, (False, True), strict=True):
        opt = optim.OPTIMIZERS[name]([w], lr=0.1)

        def accumulate(i: Any, w: qn.Tensor = w) -> None:
            (ops.embedding(i, w, sparse=True) * 3).sum().backward()

        def step(i: Any, j: Any, w: qn.Tensor = w, opt: optim.Optimizer = opt) -> qn.Tensor:
            y = ops.embedding_bag(i, w, mode="sum", sparse=True)
            loss = (y * y).sum() + ops.embedding(j, w, sparse=True).sum()
            loss.backward()
            optim.clip_grad_norm_([w], 1.0)
            opt.step()
            opt.zero_grad()
            return loss

        rng, seen = np.random.default_rng(1), []
        first, second = (qn.jit(accumulate), qn.jit(step)) if jitted else (accumulate, step)
        for call in range(12):
            n = 6 if call % 4 == 3 else 9
            if call % 2:
                first(qn.tensor(rng.integers(0, ROWS, 5)))
            seen.append(
                second(qn.tensor(rng.integers(0, ROWS, (n, 3))), qn.tensor(rng.integers(0, ROWS, n))).item()
            )
        if jitted:
            assert len(second.plans()) == 3 and len(first.plans()) == 1
        ends.append((np.array(seen), w.numpy(), *opt.state_dict()["state"][0].values()))
    for a, b in zip(*ends, strict=True):
        check_equal(np.asarray(a), np.asarray(b))
    assert not caplog.records


def test_clipping_sees_each_row_once() -> None:
    w = table()
    ops.embedding([4, 2, 4], w, sparse=True).sum().backward()
    expected = np.sqrt(FEATURES * (2**2 + 1))
    assert optim.clip_grad_norm_([w], 1.0).item() == pytest.approx(expected)
    assert isinstance(w.grad, ops.RowGradient)
    np.testing.assert_allclose(w.grad.values.numpy()[:, 0], np.array([2, 1]) / (expected + 1e-6))
    optim.clip_grad_value_([w], 0.05)
    assert (w.grad.values.numpy() == 0.05).all() and w.grad.indices.tolist() == [4, 2]


class Tagger(nn.Module):
    """A sparse table and dense layers."""

    takes_integers = True

    def __init__(self, sparse: bool) -> None:
        self.bag = nn.EmbeddingBag(200, 8, mode="mean", sparse=sparse, padding_idx=0)
        self.head = nn.Linear(8, 3)

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return self.head(self.bag(x))


def samples(n: int = 100) -> tuple[Array, Array]:
    """The class of a sample is that of most of its words."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    return np.where(rng.random((n, 9)) < 0.7, rng.integers(0, 66, (n, 9)) * 3 + 1 + y[:, None], 0), y


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_net_of_sparse_and_dense_parameters_trains_by_name(
    optimizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also with the shorter last batch; the padding row and words that never came keep their vectors."""
    qn.seed(0)
    net = Tagger(sparse=True)
    before = net.bag.weight.numpy().copy()
    x, y = samples()
    net.compile(optimizer, "cross_entropy", metrics=["accuracy"], device="cpu")
    losses_seen = net.fit(x, y, epochs=20, batch_size=32, verbose=0)["loss"]
    assert losses_seen[-1] < losses_seen[0] and not caplog.records
    moved = np.flatnonzero((net.bag.weight.numpy() != before).any(1))
    assert moved.tolist() == np.setdiff1d(x, [0]).tolist()


def test_training_resumes_from_a_file(tmp_path: Path) -> None:
    x, y = samples()

    def fit(net: nn.Module, opt: optim.Optimizer, epochs: int) -> None:
        net.compile(opt, "cross_entropy")
        net.fit(x, y, epochs=epochs, batch_size=32, shuffle=False, verbose=0)

    def fresh() -> nn.Sequential:
        qn.seed(0)
        return nn.Sequential(nn.EmbeddingBag(200, 8, sparse=True), nn.Linear(8, 3))

    whole = fresh()
    fit(whole, optim.Adam(whole.parameters(), lr=0.02), 4)
    half = fresh()
    opt = optim.Adam(half.parameters(), lr=0.02)
    fit(half, opt, 2)
    half.save(tmp_path / "half.safetensors", optimizer=opt)
    again = qn.load(tmp_path / "half.safetensors")
    assert repr(again) == repr(half) and "sparse=True" in repr(again)
    resumed = optim.Adam(again.parameters())
    qn.io.load_optimizer(tmp_path / "half.safetensors", resumed)
    fit(again, resumed, 2)
    for a, b in zip(again.parameters(), whole.parameters(), strict=True):
        check_equal(a.numpy(), b.numpy())


def test_the_kind_of_gradient_may_change_between_steps() -> None:
    """Also more than once, beside a parameter of the same arena; state and count of steps stay; plans look again."""
    (w, other), (v, another) = ((table(), table()) for _ in range(2))
    opt, ref = optim.Adam([w, other], lr=0.1), optim.Adam([v, another], lr=0.1)

    @qn.jit
    def step(i: Any) -> None:
        opt.zero_grad()
        (ops.embedding(i, w, sparse=True).sum() + (other * other).sum()).backward()
        opt.step()

    i = np.arange(ROWS)
    for kinds in ("d", "r", "r", "r", "d", "d", "r", "rd", "r", "dr", "d"):
        for kind in kinds[:-1]:  # and forgotten
            w.grad = None
            (ops.embedding(i, w, sparse=True) if kind == "r" else w).sum().backward()
        if kinds[-1] == "r":
            step(i)
        else:
            opt.zero_grad()
            (w.sum() + (other * other).sum()).backward()
            opt.step()
        ref.zero_grad()
        (v.sum() + (another * another).sum()).backward()
        ref.step()
        check_equal(w.numpy(), v.numpy())
        check_equal(other.numpy(), another.numpy())
    check_equal(opt.state_dict()["state"][0]["exp_avg"], ref.state_dict()["state"][0]["exp_avg"])


def test_a_step_that_fails_leaves_the_rows_as_they_were() -> None:
    """Also where the memory of the rows had to grow."""
    w = table()
    ops.embedding([5, 6], w, sparse=True).sum().backward()

    @qn.jit
    def step(i: Any) -> None:
        ops.embedding(i, w, sparse=True).sum().backward()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        step(np.array([1, 5, 2, 3]))
    assert isinstance(w.grad, ops.RowGradient)
    assert w.grad.indices.tolist() == [5, 6] and (w.grad.values.numpy() == 1).all()


def test_a_step_that_fails_undoes_rows_added_in_place_before_the_memory_grew() -> None:
    w = table()
    ops.embedding(np.arange(10), w, sparse=True).sum().backward()
    w.grad = None
    ops.embedding([5, 6], w, sparse=True).sum().backward()

    @qn.jit
    def step(i: Any, j: Any) -> None:
        ops.embedding(i, w, sparse=True).sum().backward()
        ops.embedding(j, w, sparse=True).sum().backward()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        step(np.array([5]), np.arange(20))
    assert isinstance(w.grad, ops.RowGradient)
    assert w.grad.indices.tolist() == [5, 6] and (w.grad.values.numpy() == 1).all()


@pytest.mark.parametrize("sparse", [False, True])
def test_a_step_that_fails_brings_back_a_gradient_of_the_other_kind(sparse: bool) -> None:
    w = table()
    (ops.embedding([5, 6], w, sparse=not sparse) * 3).sum().backward()
    before = w.grad.to_dense().numpy().copy() if sparse is False else w.grad.numpy().copy()

    @qn.jit
    def step(i: Any) -> None:
        w.grad = None
        ops.embedding(i, w, sparse=sparse).sum().backward()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        step(np.array([1, 5]))
    assert isinstance(w.grad, ops.RowGradient) is not sparse
    check_equal((w.grad if sparse else w.grad.to_dense()).numpy(), before)


def test_rows_that_accumulate_have_the_bits_of_a_dense_gradient() -> None:
    g = qn.tensor(np.random.default_rng(0).standard_normal((5, 20), dtype=np.float32))
    dense, rows = table("float32"), table("float32")
    for _ in range(3):
        for w, sparse in ((dense, False), (rows, True)):
            (ops.embedding([1, 1, 1, 2, 2], w, sparse=sparse) * g).sum().backward()
    check_equal(rows.grad.to_dense().numpy(), dense.grad.numpy())


@pytest.mark.parametrize("kind", ["Lion", "Adagrad", "RMSprop", "NAdam", "momentum"])
def test_optimizers_of_whole_parameters_refuse_rows(kind: str) -> None:
    w = table()
    opt = optim.SGD([w], momentum=0.9) if kind == "momentum" else getattr(optim, kind)([w])
    ops.embedding([1], w, sparse=True).sum().backward()
    before = w.numpy().copy()
    with pytest.raises(
        ArgumentError,
        match=r"\] a parameter of shape \(30, 20\) has a gradient by rows \(a lookup with sparse=True\), which Adam, AdamW, "
        r"SparseAdam and SGD without momentum take; use one of them, or sparse=False$",
    ):
        opt.step()
    check_equal(w.numpy(), before)


def test_momentum_that_is_switched_on_is_refused_and_dense_gradients_by_sparse_adam() -> None:
    w = table()
    opt = optim.SGD([w], lr=0.1)
    ops.embedding([1], w, sparse=True).sum().backward()
    opt.step()
    opt.momentum = 0.9
    with pytest.raises(
        ArgumentError, match=r"^\[sgd\] a parameter of shape \(30, 20\) has a gradient by rows"
    ):
        opt.step()
    w.grad = None
    w.sum().backward()
    with pytest.raises(
        ArgumentError,
        match=r"^\[sparse_adam\] a parameter .* has a dense gradient; .* Adam, which takes both",
    ):
        optim.SparseAdam([w]).step()


@pytest.mark.usefixtures("isa")
def test_steps_repeat_at_any_number_of_threads() -> None:
    before, ends = qn.runtime.num_threads(), []
    try:
        for threads in (1, 2, 3):
            qn.runtime.set_num_threads(threads)
            qn.seed(3)
            net = nn.Sequential(nn.EmbeddingBag(5000, 64, sparse=True), nn.Linear(64, 4))
            opt = optim.Adam(net.parameters(), lr=0.1)
            rng = np.random.default_rng(0)
            for _ in range(3):
                opt.zero_grad()
                losses.cross_entropy(
                    net(rng.integers(0, 5000, (128, 20))), rng.integers(0, 4, 128)
                ).backward()
                opt.step()
            ends.append([p.numpy().copy() for p in net.parameters()])
    finally:
        qn.runtime.set_num_threads(before)
    for other in ends[1:]:
        for a, b in zip(ends[0], other, strict=True):
            check_equal(a, b)
