"""save and load: what comes back is the model that went in, whatever kind it is, or one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import quernel as qn
from quernel import compress, losses, nn, optim
from quernel.errors import ArgumentError, CorruptFileError, UnsupportedError
from quernel.graph import GraphModule
from quernel.io.checkpoint import model_bytes, model_from_bytes
from quernel.io.container import decode, encode
from tests.models import MODELS, SHAPE, Branches, evaluate, images, make


def round_trip(net: nn.Module) -> nn.Module:
    return model_from_bytes(model_bytes(net), "here")


@pytest.mark.parametrize("name", MODELS)
def test_the_same_outputs_and_state(name: str, tmp_path: Path) -> None:
    net = make(name)
    net.save(tmp_path / "m.safetensors")
    loaded = qn.load(tmp_path / "m.safetensors")
    x = images(5)
    np.testing.assert_array_equal(evaluate(loaded, x), evaluate(net, x))
    assert type(loaded) is (nn.Sequential if isinstance(net, nn.Sequential) else GraphModule)
    assert {k: v.numpy().tobytes() for k, v in loaded.state_dict().items()} == {
        k: v.numpy().tobytes() for k, v in net.state_dict().items()
    }
    assert model_bytes(loaded) == model_bytes(net)


@pytest.mark.parametrize("name", MODELS)
def test_quantized_models(name: str, tmp_path: Path) -> None:
    model = compress.quantize(make(name), calibration=images(32))
    model.save(tmp_path / "q.safetensors")
    loaded = qn.load(tmp_path / "q.safetensors")
    assert isinstance(loaded, compress.QuantizedModel)
    x = images(5)
    np.testing.assert_array_equal(evaluate(loaded, x), evaluate(model, x))
    np.testing.assert_array_equal(loaded.freeze()(x), model.freeze()(x))
    assert not loaded.training


def trained(net: nn.Module, steps: int = 4) -> list[float]:
    """Losses of a few steps with dropout and BatchNorm, from seed 5."""
    qn.seed(5)
    net.train()
    opt = optim.Adam(net.parameters(), lr=1e-2)
    seen = []
    for step in range(steps):
        opt.zero_grad()
        loss = losses.cross_entropy(net(images(8, seed=step)), np.arange(8) % 5)
        loss.backward()
        opt.step()
        seen.append(loss.item())
    return seen


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_trains_to_the_same_bits(name: str) -> None:
    net = make(name)
    loaded = round_trip(net)
    assert trained(loaded) == trained(net)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[key].numpy(), value.numpy(), err_msg=key)
    assert evaluate(loaded.eval(), images(3)).tobytes() == evaluate(net.eval(), images(3)).tobytes()


def test_modes_and_frozen_parameters() -> None:
    net = make("plain").train()
    net[1].eval()
    net[0].requires_grad_(False)
    loaded = round_trip(net)
    assert [m.training for m in loaded.modules()] == [m.training for m in net.modules()]
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in net.parameters()]
    custom = make("branches").train()
    custom.left.requires_grad_(False)
    again = round_trip(custom)
    assert again.training
    frozen = {name for name, p in again.named_parameters() if not p.requires_grad}
    assert frozen == {"left.weight", "left.bias"}


def test_loading_leaves_the_random_stream_alone() -> None:
    blob = model_bytes(make("plain"))
    qn.seed(1)
    expected = qn.ops.uniform((3,)).numpy()
    qn.seed(1)
    model_from_bytes(blob, "here")
    np.testing.assert_array_equal(qn.ops.uniform((3,)).numpy(), expected)


def test_shared_layers_stay_shared() -> None:
    layer, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = layer.weight
    net = nn.Sequential(layer, nn.Tanh(), layer, other)
    loaded = round_trip(net)
    assert loaded[0] is loaded[2]
    assert loaded[3].weight is loaded[0].weight
    assert len(list(loaded.parameters())) == 3
    tensors, _ = decode(model_bytes(net), "here")
    assert set(tensors) == {"0.weight", "0.bias", "3.bias"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtypes(dtype: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(4)).to(dtype)
    loaded = round_trip(net)
    assert {k: v.dtype for k, v in loaded.state_dict().items()} == {
        k: v.dtype for k, v in net.state_dict().items()
    }
    np.testing.assert_array_equal(loaded[0].weight.numpy(), net[0].weight.numpy())


def test_a_model_without_sizes_yet() -> None:
    net = nn.Sequential(
        nn.Conv2d(None, 4, 3, padding=1, bias=False), nn.BatchNorm2d(), nn.Flatten(), nn.Linear(None, 2)
    )
    loaded = round_trip(net)
    assert loaded[0].in_channels is None
    assert loaded(np.ones((1, 3, 3, 2))).shape == (1, 2)


def test_a_class_of_ones_own_needs_a_shape_once(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="pass input_shape="):
        Branches().save(tmp_path / "m")
    assert not list(tmp_path.iterdir())
    net = Branches()
    net.save(tmp_path / "m", input_shape=SHAPE)
    assert evaluate(qn.load(tmp_path / "m").eval(), images(2)).shape == (2, 5)


def test_a_loaded_model_knows_its_input() -> None:
    net = make("plain")
    assert round_trip(net).summary(show=False).macs == net.summary(show=False).macs
    assert round_trip(net).freeze()(images(2)).shape == (2, 5)


def test_a_loaded_graph_can_be_saved_summarized_and_quantized_again() -> None:
    net = make("branches")
    loaded = round_trip(net)
    again = round_trip(loaded)
    x = images(4)
    np.testing.assert_array_equal(evaluate(again, x), evaluate(net, x))
    assert again.summary(show=False).parameters == net.summary(show=False).parameters
    a, b = (compress.quantize(m, calibration=images(32)) for m in (net, again))
    np.testing.assert_array_equal(evaluate(a, x), evaluate(b, x))


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    make("plain").save(path)
    blob = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(blob), 50):
        damaged = bytearray(blob)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=r"m\.safetensors"):
            qn.load(path)
    tiny = model_bytes(nn.Sequential(nn.Linear(2, 1)))
    for position in range(len(tiny)):
        flipped = tiny[:position] + bytes([tiny[position] ^ 1 << position % 8]) + tiny[position + 1 :]
        for damaged in (flipped, tiny[:position]):
            with pytest.raises(CorruptFileError, match="here"):
                model_from_bytes(bytes(damaged), "here")
    path.write_bytes(blob[:-1])
    with pytest.raises(CorruptFileError, match="checksum"):
        qn.load(path)
    path.write_bytes(b"")
    with pytest.raises(CorruptFileError, match="0 bytes are too few"):
        qn.load(path)
    path.write_bytes(b"x" * 5000)
    with pytest.raises(CorruptFileError, match="does not begin as"):
        qn.load(path)
    with pytest.raises(FileNotFoundError):
        qn.load(tmp_path / "none")


def test_a_newer_format_is_named() -> None:
    blob = encode({}, {"format": "quernel", "format_version": "2", "architecture": "{}"})
    with pytest.raises(UnsupportedError, match="format 2 is newer"):
        model_from_bytes(blob, "here")


def mutants(value: object, rng: np.random.Generator) -> object:
    """A copy of JSON values in which one was replaced, removed or added."""
    odd = [
        0,
        -1,
        2**31,
        2**62,
        1.5,
        "x",
        None,
        True,
        [],
        {},
        [[[]]],
        {"ref": "0"},
        {"dim": [0, 0]},
        "conv2d",
        float("nan"),
    ]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        copy = dict(value)
        key = list(copy)[rng.integers(len(copy))]
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = mutants(copy[key], rng)
        return copy
    if isinstance(value, list) and value and rng.random() < 0.9:
        items = list(value)
        i = int(rng.integers(len(items)))
        if rng.random() < 0.1:
            items.insert(i, items.pop(int(rng.integers(len(items)))))
        else:
            items[i] = mutants(items[i], rng)
        return items
    return odd[rng.integers(len(odd))]


@pytest.mark.parametrize("name", ["plain", "residual", "branches", "quantized"])
def test_a_description_that_makes_no_sense_is_refused(name: str) -> None:
    """With a good checksum: either a clear error, or a model that runs; never a crash or a hang."""
    net = make("plain" if name == "quantized" else name)
    if name == "quantized":
        net = compress.quantize(net, calibration=images(8))
    tensors, metadata = decode(model_bytes(net), "here")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        record = mutants(json.loads(metadata["architecture"]), rng)
        if rng.random() < 0.2 and tensors:
            key = list(tensors)[rng.integers(len(tensors))]
            changed = {**tensors, key: np.zeros((3, 1), rng.choice(["float32", "int8", "int64"]))}
        else:
            changed = tensors
        blob = encode(
            changed, {**metadata, "architecture": json.dumps(record)} | {"checksum": "sha256:" + "0" * 64}
        )
        try:
            loaded = model_from_bytes(blob, "here")
            evaluate(loaded.eval(), images(2))
        except (ValueError, TypeError, RuntimeError, NotImplementedError):
            refused += 1  # CorruptFileError, or it loaded and then refuses these inputs
    assert refused > 50
