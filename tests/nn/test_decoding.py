"""Generation by caches: a sequence decoded in pieces has the bits of the whole."""

from __future__ import annotations

import numpy as np
import pytest

import quernel as qn
from quernel import nn, ops
from quernel.errors import ArgumentError, ShapeError
from tests.checks import check_equal


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("pieces", [(1,) * 10, (7, 3), (70, 1, 1, 64)])
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_decoded_sequence_has_the_bits_of_the_whole(
    norm_first: bool, pieces: tuple[int, ...], precision: str | None
) -> None:
    qn.seed(0)
    layer = nn.TransformerDecoderLayer(24, 3, 40, norm_first=norm_first)
    net, cache = nn.TransformerDecoder(layer, 2, nn.LayerNorm(24)).eval(), nn.DecoderCache()
    for module in net.modules():
        if isinstance(module, nn.MultiheadAttention | nn.Linear):
            module.precision = precision
    rng = np.random.default_rng(0)
    x, memory = (rng.standard_normal((2, t, 24)).astype("f4") for t in (sum(pieces), 11))
    padding = np.arange(11) >= np.array([[11], [6]])
    whole = net(x, memory, memory_key_padding_mask=padding, tgt_is_causal=True).numpy()
    parts = np.split(x, np.cumsum(pieces)[:-1], 1)
    check_equal(
        np.concatenate([net.decode(part, memory, cache, padding).numpy() for part in parts], 1), whole
    )
    assert len(cache) == sum(pieces)
    with pytest.raises(
        ShapeError, match=r"^\[multihead_attention\] the cache holds \(2, 11\) rows of another memory"
    ):
        net.decode(x[:, :1], memory[:, :5], cache)
    with pytest.raises(ArgumentError, match=r"cache is of 2 layers, the decoder has 3; begin a new one$"):
        nn.TransformerDecoder(layer, 3).decode(x[:, :1], memory, cache)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_layer_decodes_the_bits_of_the_whole(norm_first: bool, activation: str) -> None:
    qn.seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, norm_first=norm_first).eval()
    x, cache = np.random.default_rng(0).standard_normal((2, 6, 8)).astype("f4"), nn.KeyValueCache()
    y = np.concatenate([layer.decode(x[:, t : t + 1], cache).numpy() for t in range(6)], 1)
    check_equal(y, layer(x, is_causal=True).numpy())


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("way", ["closure", "argument"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_jitted_decode_replays_until_its_cache_is_full(
    way: str, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    qn.seed(0)
    net, cache = nn.TransformerEncoderLayer(8, 2, 16).eval(), nn.KeyValueCache()
    ran = np.zeros(1, int)  # an array: plain variables belong to the signature

    def decode(x: qn.Tensor, cache: nn.KeyValueCache = cache) -> qn.Tensor:
        ran[0] += 1
        return net.decode(x, cache)

    jitted = qn.jit(decode)
    step = jitted if way == "closure" else lambda x: jitted(x, cache)
    x = np.random.default_rng(0).standard_normal((batch, 150, 8)).astype("f4")
    y = np.concatenate([step(x[:, t : t + 1].copy()).numpy() for t in range(150)], 1)
    check_equal(y, net(x, is_causal=True).numpy())
    assert len(cache) == 150 and cache.parts[0].shape == (batch, 256, 16)
    assert ran[0] <= 30  # up to three times for each size
    cache.truncate(100)
    before = ran[0]
    y = np.concatenate([step(x[:, t : t + 1].copy()).numpy() for t in range(100, 150)], 1)
    check_equal(y, net(x, is_causal=True).numpy()[:, 100:])
    assert ran[0] == before and len(cache) == 150
    assert all("grows" in r.message or "takes memory" in r.message for r in caplog.records)


def test_caches_that_are_arguments_share_plans() -> None:
    qn.seed(0)
    net = nn.MultiheadAttention(8, 2).eval()
    step = qn.jit(net.decode)
    x = np.random.default_rng(0).standard_normal((3, 1, 40, 8)).astype("f4")
    caches = [nn.KeyValueCache(64) for _ in x]
    parts: list[list[np.ndarray]] = [[] for _ in x]
    for t in range(40):
        for sequence, cache, part in zip(x, caches, parts, strict=True):  # in turns
            part.append(step(sequence[:, t : t + 1].copy(), cache).numpy())
    for sequence, cache, part in zip(x, caches, parts, strict=True):
        check_equal(np.concatenate(part, 1), net(sequence, is_causal=True).numpy())
        assert len(cache) == 40
    assert len(step.plans()) == 1
    version = caches[0].parts[0]._t.version
    step(x[0][:, :1].copy(), caches[0])
    assert caches[0].parts[0]._t.version > version  # also where a replay has written


def test_a_changed_layer_is_recorded_anew() -> None:
    qn.seed(0)
    net, cache = nn.MultiheadAttention(8, 2).eval(), nn.KeyValueCache(16)
    step = qn.jit(net.decode)
    x = np.random.default_rng(0).standard_normal((1, 1, 8)).astype("f4")
    for _ in range(4):
        step(x, cache)
    net.out_proj = nn.Linear(8, 8)
    other = nn.KeyValueCache()
    for _ in range(4):
        net.decode(x, other)
    check_equal(step(x, cache).numpy(), net.decode(x, other).numpy())


def test_a_jitted_decoder_reads_its_memory_once() -> None:
    qn.seed(0)
    net, cache = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 2).eval(), nn.DecoderCache()
    rng = np.random.default_rng(0)
    x, memory = (rng.standard_normal((2, t, 8)).astype("f4") for t in (20, 7))
    step = qn.jit(lambda x, memory: net.decode(x, memory, cache))
    y = np.concatenate([step(x[:, t : t + 1].copy(), memory).numpy() for t in range(20)], 1)
    check_equal(y, net(x, memory, tgt_is_causal=True).numpy())
    assert step.plans()


def test_a_failed_call_takes_back_its_positions() -> None:
    qn.seed(0)
    net, cache = nn.MultiheadAttention(8, 2).eval(), nn.KeyValueCache()
    x = np.ones((1, 3, 8), np.float32)

    @qn.jit
    def step(x: qn.Tensor) -> None:
        net.decode(x, cache)
        raise RuntimeError

    for held in (0, 3):
        with pytest.raises(RuntimeError):
            step(x)
        assert len(cache) == held
        net.decode(x, cache)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("pieces", [(1,) * 10, (7, 3), (70, 1, 1, 64)])
def test_a_sequence_decoded_in_pieces_has_the_bits_of_the_whole(pieces: tuple[int, ...]) -> None:
    qn.seed(0)
    net, cache = nn.MultiheadAttention(24, 3), nn.KeyValueCache()
    x = np.random.default_rng(0).standard_normal((2, sum(pieces), 24)).astype("f4")
    parts = np.split(x, np.cumsum(pieces)[:-1], 1)
    y = np.concatenate([net.decode(part, cache).numpy() for part in parts], 1)
    check_equal(y, net(x, is_causal=True).numpy())
    assert len(cache) == sum(pieces) and cache.rows is not None and cache.rows.shape == (2, sum(pieces), 48)
    with pytest.raises(ShapeError, match=r"^\[multihead_attention\] the cache holds 2 sequences, got 1"):
        net.decode(x[:1], cache)
    with pytest.raises(
        ArgumentError, match=r"^\[multihead_attention\] decode needs kdim and vdim of embed_dim=24"
    ):
        nn.MultiheadAttention(24, 3, kdim=5).decode(x, nn.KeyValueCache())


def test_a_cache_grows_by_doubling() -> None:
    cache = nn.KeyValueCache()
    rows = [qn.tensor(np.full((1, 1, 2), float(i))) for i in range(70)]
    capacities = [cache.append(row).shape[1] for row in rows]
    assert sorted(set(capacities)) == [1, 2, 4, 8, 16, 32, 64, 128] and cache.rows is not None
    check_equal(cache.rows.numpy(), np.arange(70.0).repeat(2).reshape(1, 70, 2))
    cache.truncate(3)
    for wide in (1, 3):
        with pytest.raises(
            ShapeError, match=rf"the cache holds rows of 2 columns, got {wide}; begin a new one$"
        ):
            cache.append(qn.zeros((1, 1, wide)))
    cache.append(rows[9])
    check_equal(cache.rows.numpy()[0, :, 0], np.array([0.0, 1.0, 2.0, 9.0]))
    with pytest.raises(
        ArgumentError, match=r"^\[multihead_attention\] the cache holds 4 positions, got length=5"
    ):
        cache.truncate(5)


def test_a_number_of_keys_before_that_changes_is_refused() -> None:
    """A tensor says how many; its gradient would be that of another result."""
    past = qn.tensor([2])
    q, k = (qn.tensor(np.ones((1, 2, t, 4)), requires_grad=True) for t in (3, 5))
    y = ops.scaled_dot_product_attention(q, k, k, is_causal=True, past=past)
    check_equal(y.numpy(), ops.scaled_dot_product_attention(q, k, k, is_causal=True, past=2).numpy())
    past[...] = 1
    with pytest.raises(qn.errors.StateError, match="changed in place"):
        y.sum().backward()


def test_a_bias_learns_beside_queries_that_come_with_keys() -> None:
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 3, 24)), rng.standard_normal((2, 5, 16))
    gradients = []
    for queries in (q, q[..., :8]):
        bias = qn.tensor(rng.standard_normal((3, 5)) * 0, requires_grad=True)
        ops.square(ops.multi_head_attention(queries, k, num_heads=2, attn_mask=bias)).sum().backward()
        assert bias.grad is not None
        gradients.append(bias.grad.numpy())
    check_equal(*gradients)
