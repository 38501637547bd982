"""Models of the zoo in files: what loads is the class that was saved, with whatever was replaced in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import quernel as qn
from quernel import models, nn
from quernel.graph import GraphModule
from quernel.io.checkpoint import model_bytes, model_from_bytes
from quernel.io.container import decode, encode

TOKENS = np.random.default_rng(0).integers(0, 9, (3, 7))
FRAMES = np.random.default_rng(1).standard_normal((3, 7, 4), dtype=np.float32)
CASES: dict[str, tuple[Callable[[], nn.Module], np.ndarray]] = {
    "AcousticModel": (lambda: models.AcousticModel(3, 4, hidden=5, layers=1, dropout=0.1), FRAMES),
    "LSTMClassifier": (lambda: models.LSTMClassifier(9, 3, 4, 5, dropout=0.1), TOKENS),
    "LSTMLanguageModel": (lambda: models.LSTMLanguageModel(9, 4, 6, layers=2, dropout=0.1), TOKENS),
    "TransformerClassifier": (lambda: models.TransformerClassifier(9, 3, 8, 2, max_len=20), TOKENS),
    "TransformerLanguageModel": (lambda: models.TransformerLanguageModel(9, 8, 2, max_len=20), TOKENS),
}


def test_every_class_of_the_zoo_is_here() -> None:
    classes = {name for name in models.__all__ if isinstance(getattr(models, name), type)}
    assert set(CASES) == classes - {"LanguageModel"}  # which is their base


@pytest.mark.parametrize("name", CASES)
def test_a_fresh_process_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    make, x = CASES[name]
    net = make()
    assert type(net).__name__ == name
    net.save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", x)
    program = (
        "import numpy as np, quernel as qn; net = qn.load('net.safetensors'); print(type(net).__name__, net.training); "
        "np.save('y.npy', net.predict(np.load('x.npy')))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == f"{name} True\n"
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), net.predict(x))


@pytest.mark.parametrize("name", CASES)
def test_files_of_the_same_model_are_the_same(name: str) -> None:
    make, x = CASES[name]
    net = make()
    net(x)
    blob = model_bytes(net)
    again = model_from_bytes(blob, "here")
    assert model_bytes(again) == blob
    assert repr(again) == repr(net)
    longer = np.concatenate([x, x], 1)  # no length is fixed
    np.testing.assert_array_equal(again.predict(longer), net.predict(longer))


def test_a_front_end_goes_along() -> None:
    net = models.AcousticModel(3, hidden=5, layers=1, front=nn.LogMelSpectrogram(8000, 64, n_mels=4))
    waves = np.random.default_rng(2).standard_normal((2, 500), dtype=np.float32)
    want = net.predict(waves)
    again = model_from_bytes(model_bytes(net), "here")
    assert isinstance(again, models.AcousticModel) and repr(again) == repr(net)
    np.testing.assert_array_equal(again.predict(waves), want)


def test_a_replaced_head_comes_back() -> None:
    net = models.LSTMLanguageModel(9, 4, 6)
    net.head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 9))
    again = model_from_bytes(model_bytes(net), "here")
    assert isinstance(again, models.LSTMLanguageModel) and repr(again) == repr(net)
    np.testing.assert_array_equal(again.predict(TOKENS), net.predict(TOKENS))


class Doubled(nn.Module):
    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return x + x


def test_a_model_with_a_class_of_ones_own_inside_is_a_graph() -> None:
    net = models.LSTMLanguageModel(9, 4, 6)
    net.drop = Doubled()
    net(TOKENS)
    again = model_from_bytes(model_bytes(net), "here")
    assert type(again) is GraphModule
    np.testing.assert_array_equal(again.predict(TOKENS), net.predict(TOKENS))

    class LSTMLanguageModel(models.LSTMLanguageModel):  # the name alone does not make it the zoo's
        pass

    other = LSTMLanguageModel(9, 4, 6)
    other(TOKENS)
    assert type(model_from_bytes(model_bytes(other), "here")) is GraphModule


def test_containers_and_transformers_come_back() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.3, "gelu", norm_first=True, bias=False)
    encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8))
    x = np.random.default_rng(0).standard_normal((2, 5, 8), dtype=np.float32)
    for net in (nn.Sequential(layer), encoder, nn.TransformerEncoder(layer, 1)):
        again = model_from_bytes(model_bytes(net), "here")
        assert type(again) is type(net) and repr(again) == repr(net)
        np.testing.assert_array_equal(again.predict(x), net.predict(x))
    decoder = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(8, 2, 16, 0.1, norm_first=True), 2, nn.LayerNorm(8)
    )
    again = model_from_bytes(model_bytes(decoder), "here")
    assert type(again) is nn.TransformerDecoder and repr(again) == repr(decoder)
    np.testing.assert_array_equal(again.predict((x[:, :3], x)), decoder.predict((x[:, :3], x)))
    table = nn.ModuleDict({"b": nn.ModuleList([nn.ReLU(), nn.Linear(2, 2)]), "a": nn.Tanh()})
    assert repr(model_from_bytes(model_bytes(table), "here")) == repr(table)


def test_files_that_say_nothing_of_modules_inside_load() -> None:
    """As those of earlier versions, where a layer's arguments said all, and there were fewer of them."""
    sequences = np.random.default_rng(0).standard_normal((2, 5, 8), dtype=np.float32)
    attention = {"embed_dim": 8, "num_heads": 2, "bias": True, "kdim": 8, "vdim": 8}
    table = {"num_embeddings": 9, "embedding_dim": 4, "padding_idx": None}
    for net, x, layer in (
        (nn.MultiheadAttention(8, 2), sequences, {"type": "MultiheadAttention", "args": attention}),
        (nn.Embedding(9, 4), TOKENS, {"type": "Embedding", "args": table}),
        (
            nn.EmbeddingBag(9, 4, "sum"),
            TOKENS,
            {"type": "EmbeddingBag", "args": table | {"mode": "sum", "include_last_offset": False}},
        ),
        (
            nn.Linear(8, 2),
            sequences,
            {"type": "Linear", "args": {"in_features": 8, "out_features": 2, "bias": True}},
        ),
    ):
        whole = nn.Sequential(net)
        tensors, metadata = decode(model_bytes(whole), "here")
        record = json.loads(metadata["architecture"])
        record["root"] = {"type": "Sequential", "children": {"0": layer}}
        del record["vocabularies"]
        old = {key: value for key, value in metadata.items() if key != "checksum"}
        again = model_from_bytes(encode(tensors, old | {"architecture": json.dumps(record)}), "here")
        assert repr(again) == repr(whole)
        np.testing.assert_array_equal(again.predict(x), whole.predict(x))


def test_models_made_with_numbers_of_numpy_are_saved() -> None:
    net = models.LSTMLanguageModel(np.int64(9), np.int32(4), hidden=np.int64(6), dropout=np.float64(0.5))
    again = model_from_bytes(model_bytes(net), "here")
    assert type(again) is models.LSTMLanguageModel and repr(again) == repr(net)
    np.testing.assert_array_equal(again.predict(TOKENS), net.predict(TOKENS))


@pytest.mark.parametrize("name", CASES)
def test_loading_draws_nothing(name: str) -> None:
    blob = model_bytes(CASES[name][0]())
    qn.seed(5)
    expected = qn.ops.uniform((3,)).tolist()
    qn.seed(5)
    model_from_bytes(blob, "here")
    assert qn.ops.uniform((3,)).tolist() == expected


def test_encodings_of_positions_come_back() -> None:
    for layer in (nn.PositionalEncoding(4, 0.5, 20), nn.LearnedPositionalEncoding(4, 20)):
        net = nn.Sequential(nn.Embedding(9, 4), layer)
        again = model_from_bytes(model_bytes(net), "here")
        assert type(again) is nn.Sequential and repr(again) == repr(net)
        np.testing.assert_array_equal(again.predict(TOKENS), net.predict(TOKENS))
        if isinstance(layer, nn.PositionalEncoding):
            assert again[1].dropout == layer.dropout == 0.5
