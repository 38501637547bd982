"""Attention layers: PyTorch's results and gradients on the same weights, masks, traces, files and fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import losses, nn, optim
from quernel.errors import ArgumentError, DTypeError, ShapeError
from tests.checks import check_equal, gradcheck


def load_from(mine: nn.Module, other: Any) -> None:
    missing, unexpected = mine.load_state_dict({k: v.numpy() for k, v in other.state_dict().items()})
    assert not missing and not unexpected


def compare(
    mine: nn.Module, other: Any, inputs: list[np.ndarray], kwargs: dict[str, Any], first: bool
) -> None:
    """Results and gradients of inputs and parameters; `first`: of several results the first."""
    torch = pytest.importorskip("torch")
    xs = [qn.tensor(a, requires_grad=True) for a in inputs]
    ts = [torch.tensor(a, requires_grad=True) for a in inputs]
    y = mine(*xs, **kwargs)
    z = other(*ts, **{k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()})
    z = z[0] if first else z
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-9, atol=1e-11)
    g = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(g)
    z.backward(torch.tensor(g))
    theirs = dict(other.named_parameters())
    pairs = [*zip(xs, ts, strict=True), *((p, theirs[name]) for name, p in mine.named_parameters())]
    for a, t in pairs:
        assert a.grad is not None
        np.testing.assert_allclose(a.grad.numpy(), t.grad.numpy(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("sizes", [None, (6, 10)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mask", ["none", "padding", "bool", "float", "both", "heads", "float and padding"])
def test_multihead_attention_equals_torchs(sizes: Any, bias: bool, mask: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    kdim, vdim = sizes or (None, None)
    mine = nn.MultiheadAttention(8, 2, bias=bias, kdim=kdim, vdim=vdim).to("float64")
    other = torch.nn.MultiheadAttention(8, 2, bias=bias, kdim=kdim, vdim=vdim, batch_first=True).double()
    load_from(mine, other)
    inputs = [rng.standard_normal((3, t, c)) for t, c in ((5, 8), (7, kdim or 8), (7, vdim or 8))]
    padding = np.arange(7) >= np.array([[7], [4], [6]])
    later = np.arange(7) > np.arange(5)[:, None] + 1
    kwargs: dict[str, Any] = {
        "none": {},
        "padding": {"key_padding_mask": padding},
        "bool": {"attn_mask": later},
        "float": {"attn_mask": rng.standard_normal((5, 7))},
        "both": {"attn_mask": later, "key_padding_mask": padding},
        "heads": {"attn_mask": np.concatenate([np.stack([later, later[:, ::-1]])] * 3)},
        "float and padding": {"attn_mask": rng.standard_normal((5, 7)), "key_padding_mask": padding},
    }[mask]
    if mask == "float and padding":  # PyTorch warns of masks of two kinds
        y, z = (
            mine(*inputs, **kwargs),
            mine(*inputs, attn_mask=kwargs["attn_mask"] + np.where(padding, -np.inf, 0)[:, None, None]),
        )
        check_equal(y.numpy(), z.numpy())
        return
    compare(mine, other, inputs, kwargs, True)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("mask", ["none", "padding", "bool", "float", "causal"])
def test_weights_equal_torchs(average: bool, mask: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    mine = nn.MultiheadAttention(8, 2).to("float64")
    other = torch.nn.MultiheadAttention(8, 2, batch_first=True).double()
    load_from(mine, other)
    x = rng.standard_normal((3, 5, 8))
    later = np.arange(5) > np.arange(5)[:, None]
    kwargs: dict[str, Any] = {
        "none": {},
        "padding": {"key_padding_mask": np.arange(5) >= np.array([[5], [4], [2]])},
        "bool": {"attn_mask": later},
        "float": {"attn_mask": rng.standard_normal((5, 5))},
        "causal": {"attn_mask": later},
    }[mask]
    how = {"is_causal": True} if mask == "causal" else kwargs
    y, weights = mine(x, **how, need_weights=True, average_attn_weights=average)
    check_equal(y.numpy(), mine(x, **how).numpy())
    theirs = {k: torch.tensor(v) for k, v in kwargs.items()}
    z = torch.tensor(x)
    expected = other(z, z, z, **theirs, average_attn_weights=average)[1].detach().numpy()
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-9, atol=1e-12)
    whole = mine(x, x, x + 0.0, **how, need_weights=True, average_attn_weights=average)[
        1
    ]  # other projections
    np.testing.assert_allclose(whole.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_weights_of_a_query_without_keys_are_zero() -> None:
    net, x = nn.MultiheadAttention(8, 2), np.random.default_rng(0).standard_normal((2, 3, 8))
    weights = net(x, key_padding_mask=np.array([[False] * 3, [True] * 3]), need_weights=True)[1].numpy()
    assert (weights[1] == 0).all() and abs(weights[0].sum(-1) - 1).max() < 1e-6


def test_dropout_of_weights_in_training_alone() -> None:
    net, x = nn.MultiheadAttention(8, 2, 0.5), np.random.default_rng(0).standard_normal((2, 5, 8))
    qn.seed(3)
    first = net(x).numpy().copy()
    assert (net(x).numpy() != first).any()
    qn.seed(3)
    check_equal(net(x).numpy(), first)
    other = nn.MultiheadAttention(8, 2)
    other.load_state_dict(net.state_dict())
    check_equal(net.eval()(x).numpy(), other(x).numpy())
    assert "8, 2, dropout=0.5" in repr(net)


def test_a_learned_bias_of_positions_gets_its_gradient() -> None:
    net, x = nn.MultiheadAttention(8, 2).to("float64"), np.random.default_rng(0).standard_normal((3, 5, 8))
    gradcheck(lambda bias: net(x, attn_mask=bias), np.random.default_rng(1).standard_normal((1, 2, 5, 5)))


def test_inputs_that_are_one_tensor_are_projected_at_once() -> None:
    rng = np.random.default_rng(0)
    net, x = nn.MultiheadAttention(8, 2), qn.tensor(rng.standard_normal((2, 5, 8)).astype("f4"))
    other = x + 0.0
    check_equal(net(x).numpy(), net(x, x, x).numpy())
    np.testing.assert_allclose(net(x).numpy(), net(x, other, x + 0.0).numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net(x).numpy(), net(x, other).numpy(), rtol=1e-5, atol=1e-6)


def test_first_values_are_torchs() -> None:
    qn.seed(0)
    net = nn.MultiheadAttention(64, 4)
    assert net.in_proj_weight is not None and net.in_proj_bias is not None
    bound = np.sqrt(6 / (64 + 192))
    w = net.in_proj_weight.numpy()
    assert bound * 0.99 < np.abs(w).max() <= bound and abs(w.std() / (bound / np.sqrt(3)) - 1) < 0.05
    assert not net.in_proj_bias.numpy().any()
    assert net.out_proj.bias is not None and not net.out_proj.bias.numpy().any()


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("kind", ["none", "padding", "causal"])
def test_encoder_layer_equals_torchs(norm_first: bool, activation: str, kind: str) -> None:
    torch = pytest.importorskip("torch")
    args = (12, 3, 20, 0.0, activation)
    mine = nn.TransformerEncoderLayer(*args, norm_first=norm_first).to("float64")
    other = torch.nn.TransformerEncoderLayer(*args, norm_first=norm_first, batch_first=True).double()
    load_from(mine, other)
    x = np.random.default_rng(0).standard_normal((2, 6, 12))
    padding = np.arange(6) >= np.array([[6], [4]])
    causal = np.arange(6) > np.arange(6)[:, None]
    kwargs = {"none": {}, "padding": {"src_key_padding_mask": padding}, "causal": {"src_mask": causal}}[kind]
    compare(mine, other, [x], kwargs, False)
    if kind == "causal":
        y = mine(x, is_causal=True)
        check_equal(y.numpy(), mine(x, src_mask=causal).numpy())


def test_encoder_equals_torchs() -> None:
    torch = pytest.importorskip("torch")
    mine = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0), 2, nn.LayerNorm(8)).to("float64")
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    other = torch.nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(8), enable_nested_tensor=False).double()
    load_from(mine, other)
    compare(mine, other, [np.random.default_rng(0).standard_normal((2, 5, 8))], {}, False)
    first, second = mine.layers
    assert first is not second and first.linear1.weight is not second.linear1.weight


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("kind", ["none", "padding", "causal"])
def test_decoder_layer_equals_torchs(norm_first: bool, activation: str, kind: str) -> None:
    torch = pytest.importorskip("torch")
    args = (12, 3, 20, 0.0, activation)
    mine = nn.TransformerDecoderLayer(*args, norm_first=norm_first).to("float64")
    other = torch.nn.TransformerDecoderLayer(*args, norm_first=norm_first, batch_first=True).double()
    load_from(mine, other)
    rng = np.random.default_rng(0)
    x, memory = rng.standard_normal((2, 6, 12)), rng.standard_normal((2, 7, 12))
    causal = np.arange(6) > np.arange(6)[:, None]
    kwargs = {
        "none": {},
        "padding": {
            "tgt_key_padding_mask": np.arange(6) >= np.array([[6], [4]]),
            "memory_key_padding_mask": np.arange(7) >= np.array([[3], [7]]),
        },
        "causal": {"tgt_mask": causal, "memory_mask": np.arange(7) > np.arange(6)[:, None] + 2},
    }[kind]
    compare(mine, other, [x, memory], kwargs, False)
    if kind == "causal":
        y = mine(x, memory, memory_mask=kwargs["memory_mask"], tgt_is_causal=True)
        check_equal(y.numpy(), mine(x, memory, **kwargs).numpy())


def test_decoder_equals_torchs() -> None:
    torch = pytest.importorskip("torch")
    mine = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, 0.0), 2, nn.LayerNorm(8)).to("float64")
    layer = torch.nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True)
    other = torch.nn.TransformerDecoder(layer, 2, torch.nn.LayerNorm(8)).double()
    load_from(mine, other)
    rng = np.random.default_rng(0)
    compare(mine, other, [rng.standard_normal((2, 5, 8)), rng.standard_normal((2, 3, 8))], {}, False)


def test_causal_weights_are_part_of_a_plan() -> None:
    qn.seed(0)
    net = nn.MultiheadAttention(8, 2).eval()
    f = qn.jit(lambda x: net(x, need_weights=True, is_causal=True))
    x = qn.tensor(np.random.default_rng(0).standard_normal((2, 5, 8)).astype("f4"))
    for _ in range(3):
        for found, want in zip(f(x), net(x, need_weights=True, is_causal=True), strict=True):
            check_equal(found.numpy(), want.numpy())
    assert len(f.plans()) == 1


def test_a_trained_decoder_is_saved_and_loaded(tmp_path: Path) -> None:
    net = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 2)
    x, memory = np.ones((2, 5, 8), "f4"), np.ones((2, 3, 8), "f4")
    net(x, memory).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.eval().save(tmp_path / "net.safetensors")
    check_equal(qn.load(tmp_path / "net.safetensors").eval()(x, memory).numpy(), net(x, memory).numpy())


def test_dropout_follows_the_seed() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16, 0.5)
    x = np.random.default_rng(0).standard_normal((2, 5, 8)).astype("f4")
    runs = []
    for _ in range(2):
        qn.seed(3)
        runs.append(net(x).numpy().copy())
    check_equal(*runs)
    assert (net(x).numpy() != runs[0]).any()
    net.eval()
    check_equal(net(x).numpy(), net(x).numpy())


def model() -> nn.Sequential:
    return nn.Sequential(
        nn.Embedding(11, 8),
        nn.PositionalEncoding(8, max_len=16),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.1), 2),
        nn.Flatten(),
        nn.Linear(6 * 8, 3),
    )


def test_a_fit_learns() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 11, (64, 6))
    qn.seed(1)
    net = model()
    net.compile(optimizer=optim.Adam(net.parameters(), lr=1e-2), loss="cross_entropy")
    loss = net.fit(x, (x[:, 0] > 5).astype("i8") + (x[:, 3] > 5), epochs=25, batch_size=16, verbose=0)["loss"]
    assert loss[-1] < 0.3 * loss[0]


def test_steps_of_a_plan_have_the_eager_bits() -> None:
    rng = np.random.default_rng(0)
    batches = [(rng.integers(0, 11, (4, 6)), rng.integers(0, 3, 4)) for _ in range(5)]
    states = []
    for wrap in (qn.jit, lambda f: f):
        qn.seed(1)
        net = model()
        optimizer = optim.Adam(net.parameters(), lr=1e-2)

        def step(x: Any, y: Any, net: Any = net, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = losses.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        run = wrap(step)
        found = [np.asarray(run(x, y)).copy() for x, y in batches]
        states.append([*found, *(v.numpy().copy() for v in net.state_dict().values())])
    for one, two in zip(*states, strict=True):
        check_equal(one, two)


def test_traced_saved_and_frozen(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 11, (5, 6))
    net = model().eval()
    y = net(x).numpy()
    text = str(net.summary())
    assert "self_attn" in text or "MultiheadAttention" in text
    net.save(tmp_path / "net.safetensors")
    check_equal(qn.load(tmp_path / "net.safetensors")(x).numpy(), y)
    check_equal(np.asarray(net.freeze(max_batch=4)(x)), y)
    layer = nn.MultiheadAttention(8, 2, bias=False).eval()
    layer.save(tmp_path / "layer.safetensors")
    again = qn.load(tmp_path / "layer.safetensors")
    z = np.ones((1, 3, 8), "f4")
    assert type(again) is nn.MultiheadAttention and again.in_proj_bias is None
    check_equal(again(z).numpy(), layer(z).numpy())


def test_positional_encodings() -> None:
    table = nn.PositionalEncoding(6)(np.zeros((1, 9, 6), "f4")).numpy()[0]
    t, i = np.arange(9)[:, None], np.arange(3)
    np.testing.assert_allclose(table[:, ::2], np.sin(t / 10000 ** (2 * i / 6)), atol=1e-6)
    np.testing.assert_allclose(table[:, 1::2], np.cos(t / 10000 ** (2 * i / 6)), atol=1e-6)
    assert nn.PositionalEncoding(5)(np.zeros((1, 9, 5), "f4")).shape == (1, 9, 5)
    assert not nn.PositionalEncoding(6).state_dict()
    learned = nn.LearnedPositionalEncoding(6, 9)
    y = learned(np.zeros((2, 4, 6), "f4"))
    y.sum().backward()
    check_equal(y.numpy()[0], learned.weight.numpy()[:4])
    assert learned.weight.grad is not None
    check_equal(learned.weight.grad.numpy(), np.repeat([[2.0], [0.0]], [4, 5], 0).repeat(6, 1).astype("f4"))


X = np.zeros((2, 5, 8), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.MultiheadAttention(8, 3), ArgumentError, "num_heads=3 does not divide embed_dim=8"),
        (lambda: nn.MultiheadAttention(8, 2, 1.5), ArgumentError, "dropout lies between 0 and 1, got 1.5"),
        (lambda: nn.MultiheadAttention(8, 0), ArgumentError, "num_heads is a positive integer, got 0"),
        (lambda: nn.MultiheadAttention(8, 2)(X[0]), ShapeError, r"query must be \(N, T, 8\), got \(5, 8\)"),
        (lambda: nn.MultiheadAttention(8, 2, kdim=3)(X, X, X), ShapeError, r"key must be \(N, T, 3\), got"),
        (lambda: nn.MultiheadAttention(8, 2)(X, None, X), ArgumentError, "value comes without key"),
        (lambda: nn.MultiheadAttention(8, 2)(X, key_padding_mask=np.zeros((2, 5), "f4")), DTypeError,
         r"key_padding_mask is bool \(True = left out\), got float32"),
        (lambda: nn.MultiheadAttention(8, 2)(X, key_padding_mask=np.zeros((2, 4), bool)), ShapeError,
         r"key_padding_mask must be \(2, 5\), got \(2, 4\)"),
    ],
)  # fmt: skip
def test_errors(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=rf"^\[multihead_attention\] {message}"):
        call()


def test_errors_of_the_layers() -> None:
    with pytest.raises(ArgumentError, match=r"^\[transformer_decoder_layer\] activation is .* got 'tanh'"):
        nn.TransformerDecoderLayer(8, 2, activation="tanh")
    with pytest.raises(ArgumentError, match=r"^\[transformer_decoder\] num_layers is a positive integer"):
        nn.TransformerDecoder(nn.Identity(), 0)
    with pytest.raises(
        ShapeError, match=r"^\[multihead_attention\] memory must be \(N, T, 8\), got \(2, 5, 4\)"
    ):
        nn.MultiheadAttention(8, 2).decode_memory(X, X[..., :4], nn.KeyValueCache())
    with pytest.raises(
        ArgumentError, match=r"^\[transformer_encoder_layer\] activation is .* got 'geluu'.*gelu"
    ):
        nn.TransformerEncoderLayer(8, 2, activation="geluu")
    with pytest.raises(
        ShapeError, match=r"^\[positional_encoding\] x must be \(N, T, 8\) with T up to max_len=4, got"
    ):
        nn.PositionalEncoding(8, max_len=4)(X)


def test_rows_of_a_batch_are_independent() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16).eval()
    x = np.random.default_rng(0).standard_normal((6, 5, 8)).astype("f4")
    check_equal(net(x[2:4]).numpy(), net(x).numpy()[2:4])
