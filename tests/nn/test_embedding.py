"""nn.Embedding: initial values, loading, and a language-model-like net through fit, freeze, save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import nn, optim
from quernel.errors import ArgumentError, DTypeError, OutOfRangeError, StateError


def test_initial_values_and_repr() -> None:
    qn.seed(0)
    layer = nn.Embedding(400, 50, padding_idx=-1)
    values = layer.weight.numpy().astype(np.float64)
    assert not values[399].any() and layer.padding_idx == 399
    # Standard normal: mean and variance within 5 standard errors.
    n = values[:399].size
    assert abs(values[:399].mean()) < 5 / np.sqrt(n) and abs(values[:399].var() - 1) < 5 * np.sqrt(2 / n)
    assert (
        repr(layer) == "Embedding(400, 50, padding_idx=399)" and repr(nn.Embedding(3, 2)) == "Embedding(3, 2)"
    )
    assert layer(np.array([[399, 0]])).numpy()[0, 0].any() == np.False_
    with pytest.raises(ArgumentError, match=r"\[embedding\] padding_idx 3 is out of range for 3 rows"):
        nn.Embedding(3, 2, 3)
    with pytest.raises(DTypeError, match=r"\[embedding\] indices are whole numbers, got float32"):
        layer(np.zeros((2, 2), np.float32))
    with pytest.raises(StateError, match="num_embeddings is None until weights are loaded"):
        nn.Embedding(None, 2)(np.zeros(2, np.int64))


def language_model(context: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Embedding(11, 8), nn.Flatten(), nn.Linear(8 * context, 24), nn.ReLU(), nn.Linear(24, 11)
    )


def sequence(n: int = 240) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Next-token samples of a sequence in which three tokens determine the next."""
    tokens = [1, 2, 3]
    while len(tokens) < n + 3:
        tokens.append((tokens[-1] * 2 + tokens[-3]) % 11)
    stream = np.array(tokens)
    return np.stack([stream[i : i + n] for i in range(3)], 1), stream[3 : n + 3]


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_a_language_model_trains_freezes_and_is_saved(dtype: str, tmp_path: Path) -> None:
    qn.seed(1)
    x, y = sequence()
    x = x.astype(dtype)
    net = language_model()
    net.compile(optim.Adam(net.parameters(), lr=0.02), loss="cross_entropy", metrics=["accuracy"])
    history = net.fit(x, y, epochs=30, batch_size=40, verbose=0)
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    scores = net.predict(x)
    assert (scores.argmax(-1) == y).mean() > 0.9

    frozen = net.freeze(max_batch=16)
    np.testing.assert_array_equal(frozen(x), scores)
    np.testing.assert_array_equal(frozen(x[:5]), scores[:5])
    with pytest.raises(
        OutOfRangeError, match=r"\[embedding\] index 11 at position \(0, 2\) is out of range for 11"
    ):
        frozen(np.array([[0, 1, 11]], dtype))
    net.save(tmp_path / "model.safetensors")
    again = qn.load(tmp_path / "model.safetensors")
    assert isinstance(again, nn.Sequential) and repr(again) == repr(net)
    np.testing.assert_array_equal(again.predict(x), scores)


class TwoTokens(nn.Module):
    """A class of the user's, saved as its graph: one table for two inputs, and dense features beside them."""

    def __init__(self) -> None:
        self.table = nn.Embedding(5, 3)
        self.out = nn.Linear(7, 2)

    def forward(self, first: qn.Tensor, second: qn.Tensor, dense: qn.Tensor) -> qn.Tensor:
        return self.out(qn.ops.concat([self.table(first), self.table(second), dense], 1))


def test_several_inputs_through_a_saved_graph(tmp_path: Path) -> None:
    qn.seed(2)
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    dense = rng.standard_normal((40, 1)).astype("f4")
    y = (first + second) % 2
    net = TwoTokens()
    net.compile(optimizer="adam", loss="cross_entropy")
    net.fit((first, second, dense), y, epochs=2, batch_size=16, verbose=0)
    expected = net.predict((first, second, dense))
    net.save(tmp_path / "two.safetensors")
    again = qn.load(tmp_path / "two.safetensors")
    np.testing.assert_array_equal(again.predict((first, second, dense)), expected)
    again.compile(optimizer="adam", loss="cross_entropy")
    again.fit((first, second, dense), y, epochs=1, batch_size=16, verbose=0)


def test_summary_before_any_call() -> None:
    text = str(language_model().summary(input_shape=(3,), show=False))
    assert "Embedding" in text and "88" in text


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_are_embeddings_that_are_reduced(mode: str, tmp_path: Path) -> None:
    """And freeze, row by row, and are saved."""
    qn.seed(0)
    net = nn.Sequential(nn.EmbeddingBag(20, 6, mode, padding_idx=-1), nn.Linear(6, 2)).eval()
    bag = net[0]
    assert repr(bag) == f"EmbeddingBag(20, 6, padding_idx=19, mode={mode!r})"
    x = np.random.default_rng(0).integers(0, 19, (11, 4))
    table = bag.weight.numpy()
    np.testing.assert_allclose(bag(x).numpy(), getattr(table[x], mode)(1), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(bag(np.append(x, x * 0 + 19, 1)).numpy(), bag(x).numpy())
    np.testing.assert_array_equal(bag(x.reshape(-1), np.arange(11) * 4).numpy(), bag(x).numpy())
    expected = net(x).numpy()
    frozen = net.freeze(max_batch=4)
    np.testing.assert_array_equal(frozen(x), expected)
    net.save(tmp_path / "model.safetensors")
    again = qn.load(tmp_path / "model.safetensors")
    assert repr(again) == repr(net)
    np.testing.assert_array_equal(again.eval()(x).numpy(), expected)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32", "float64"])
@pytest.mark.parametrize("of_the_table", ["float32", "float64"])
def test_factors_of_a_bag_are_numbers_of_any_type(dtype: str, of_the_table: str) -> None:
    bag = nn.EmbeddingBag(9, 3, "sum").to(of_the_table)
    x, factors = np.array([[1, 8], [0, 1]]), np.array([[2, 3], [1, 0]])
    want = (bag.weight.numpy()[x] * factors[..., None]).sum(1)
    for given in (factors.astype(dtype), qn.tensor(factors.astype(dtype))):
        found = bag(x, None, given)
        assert found.dtype == of_the_table
        np.testing.assert_allclose(found.numpy(), want, rtol=1e-6, atol=1e-6)


def test_a_bag_says_what_it_is_given_wrongly() -> None:
    closed = nn.EmbeddingBag(5, 2, "sum", include_last_offset=True, sparse=True)
    assert repr(closed) == "EmbeddingBag(5, 2, sparse=True, mode='sum', include_last_offset=True)"
    assert closed(np.array([1, 2, 3]), np.array([0, 3]), np.ones(3, np.float32)).shape == (1, 2)
    with pytest.raises(ArgumentError, match=r"\[embedding_bag\] mode is 'sum', 'mean' or 'max', got 'add'"):
        nn.EmbeddingBag(5, 2, "add")
    with pytest.raises(ArgumentError, match=r"\[embedding_bag\] mode 'max' has dense gradients only"):
        nn.EmbeddingBag(5, 2, "max", sparse=True)
    with pytest.raises(ArgumentError, match=r"\[embedding_bag\] padding_idx 5 is out of range for 5 rows"):
        nn.EmbeddingBag(5, 2, padding_idx=5)
    with pytest.raises(
        StateError, match=r"\[embedding_bag\] num_embeddings is None until weights are loaded"
    ):
        nn.EmbeddingBag(None, 2)(np.zeros((1, 2), np.int64))
