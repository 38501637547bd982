"""Language models: text made with carried state is that of recomputation, files carry vocabularies, bad prompts are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import models, nn, text
from quernel.errors import ArgumentError, ShapeError, StateError
from quernel.models import LanguageModel
from quernel.text import Sampler

SONG = "the cat sat on the mat, and the rat sat on the cat."
MAKE: dict[str, Callable[[int], LanguageModel]] = {
    "lstm": lambda tokens: models.LSTMLanguageModel(tokens, 8, 32, layers=2, dropout=0.2),
    "transformer": lambda tokens: models.TransformerLanguageModel(
        tokens, 16, 2, layers=2, max_len=64, dropout=0.1
    ),
}


def made(kind: str, **names: Any) -> LanguageModel:
    """A net with weights so large that its choices are far from even."""
    qn.seed(0)
    vocabulary = text.CharVocabulary.build(SONG, **names)
    net = MAKE[kind](len(vocabulary))
    with qn.no_grad():
        for parameter in net.parameters():
            parameter[...] = parameter * 3.0
    net.vocabulary = vocabulary
    return net


def by_recomputation(net: LanguageModel, prompt: str, length: int, **options: Any) -> str:
    """Text whose every character is drawn from the scores of all before it, computed anew."""
    vocabulary = net.vocabulary
    assert vocabulary is not None
    sample = Sampler(**options)
    codes = vocabulary.encode(prompt).tolist()
    for _ in range(length):
        scores = net.predict(np.array([codes]))[0, -1].astype(np.float64)
        scores[vocabulary.special] = -np.inf
        codes.append(sample(scores))
    return vocabulary.decode(codes[len(prompt) :])


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"seed": 5}, {"temperature": 0.7, "top_k": 3, "seed": 1}]
)
def test_a_carried_state_makes_the_text_of_recomputation(kind: str, options: dict[str, Any]) -> None:
    net = made(kind)
    for prompt in ("t", "the cat"):
        found = net.generate(prompt, 25, **options)
        assert found == by_recomputation(net, prompt, 25, **options)
        assert "".join(net.stream(prompt, 25, **options)) == found
        assert len(found) == 25 and net.training
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("kind", MAKE)
def test_steps_give_the_bits_of_the_whole(kind: str) -> None:
    net = made(kind).eval()
    x = np.random.default_rng(0).integers(0, net.tokens, (3, 20))
    whole = net(x).numpy()
    state, parts = None, []
    for begin, end in ((0, 1), (1, 8), (8, 9), (9, 20)):
        scores, state = net.step(qn.tensor(x[:, begin:end]), state)
        parts.append(scores.numpy())
    np.testing.assert_array_equal(np.concatenate(parts, 1), whole)


@pytest.mark.parametrize("kind", MAKE)
def test_after_the_prompt_one_plan_makes_the_tokens(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = made(kind)
    ran, step = np.zeros(1, int), type(net).step

    def counted(self: Any, x: Any, state: Any = None) -> Any:
        ran[0] += 1
        return step(self, x, state)

    monkeypatch.setattr(type(net), "step", counted)
    first = net.generate("the", 30, seed=0)
    assert ran[0] == 3  # the prompt, once more eagerly, once to record
    two = zip(net.stream("the", 30, seed=0), net.stream("cat", 30, seed=1), strict=True)
    texts = ["".join(characters) for characters in zip(*two, strict=True)]  # of two streams that take turns
    assert ran[0] == 5 and texts == [first, net.generate("cat", 30, seed=1)]
    with qn.no_grad():
        net.head.bias[...] = -net.head.bias - 1.0  # weights that change in place are those of the next text
    assert net.generate("the", 30, seed=0) == by_recomputation(net, "the", 30, seed=0)
    net.head = nn.Linear(net.head.weight.shape[1], net.tokens)
    assert net.generate("the", 30, seed=0) == by_recomputation(net, "the", 30, seed=0)


class Counting(LanguageModel):
    """Scores from how often each token came, in a state that is of no tensors."""

    tokens = 4

    def __init__(self) -> None:
        self.weight = nn.Parameter(np.eye(4, dtype=np.float32))

    def step(self, x: qn.Tensor, state: Any = None) -> tuple[qn.Tensor, Any]:
        counts = dict(state or {})
        for code in x.numpy().ravel():
            counts[int(code)] = counts.get(int(code), 0) + 1
        row = np.array([[[counts.get(i, 0) for i in range(4)]]], np.float32)
        return -qn.tensor(row) @ self.weight, counts


def test_a_state_of_ones_own_goes_from_token_to_token() -> None:
    assert Counting().generate([0, 1], 6, temperature=0) == [2, 3, 0, 1, 2, 3]


def test_a_frozen_net_streams_the_bits_of_the_whole() -> None:
    net = made("lstm").eval()
    x = np.random.default_rng(0).integers(0, net.tokens, (3, 20))
    stream = net.freeze(input_shape=(5,)).stream()
    parts = [stream(x[:, begin : begin + 5]) for begin in range(0, 20, 5)]
    np.testing.assert_array_equal(np.concatenate(parts, 1), net(x).numpy())


@pytest.mark.parametrize("kind", MAKE)
def test_it_learns_a_song_by_heart(kind: str) -> None:
    qn.seed(0)
    song = SONG[:30]
    vocabulary = text.CharVocabulary.build(song)
    net = MAKE[kind](len(vocabulary))
    net.vocabulary = vocabulary
    codes = np.tile(vocabulary.encode(song), (8, 1))
    net.compile(qn.optim.Adam(net.parameters(), 0.01), "cross_entropy", ["accuracy"])
    net.fit(codes[:, :-1], codes[:, 1:], epochs=150, batch_size=8, verbose=0)
    assert net.evaluate(codes[:, :-1], codes[:, 1:])["accuracy"] > 0.95
    assert net.generate(song[:6], 24, temperature=0) == song[6:]


def test_seeds_repeat_and_differ() -> None:
    net = made("lstm")
    assert net.generate("a", 30, seed=1) == net.generate("a", 30, seed=1) != net.generate("a", 30, seed=2)
    qn.seed(9)
    first = net.generate("a", 30)
    assert first != net.generate("a", 30)
    qn.seed(9)
    assert first == net.generate("a", 30)


def test_tokens_without_a_vocabulary() -> None:
    net = made("lstm")
    expected = net.generate("the", 9, seed=3)
    assert net.vocabulary is not None
    codes = net.vocabulary.encode("the")
    assert net.vocabulary.decode(net.generate(codes, 9, seed=3)) == expected
    assert list(net.stream(codes.tolist(), 9, seed=3)) == net.generate(codes, 9, seed=3)
    net.vocabulary = None
    assert len(net.generate([1], 4)) == 4 and net.generate([1], 0) == []


def test_special_tokens_are_never_drawn() -> None:
    net = made("lstm")
    assert net.vocabulary is not None
    with qn.no_grad():
        net.head.bias[:2] = 1e3
    assert not set(net.generate(net.vocabulary.encode("the"), 50, temperature=5.0, seed=0)) & {0, 1}
    assert len(net.generate("tßx", 3, seed=0)) == 3  # the unknown token stands for what is not there


def test_words() -> None:
    vocabulary = text.WordVocabulary.build(SONG)
    qn.seed(0)
    net = models.LSTMLanguageModel(len(vocabulary), 8, 8)
    net.vocabulary = vocabulary
    words = list(net.stream("the cat", 6, seed=0))
    assert len(words) == 6 and set(words) <= set(vocabulary.tokens)
    assert net.generate("the cat", 6, seed=0) == " ".join(words)


@pytest.mark.parametrize("kind", MAKE)
def test_a_file_carries_model_and_vocabulary_to_another_process(kind: str, tmp_path: Path) -> None:
    net = made(kind)
    file = tmp_path / "net.safetensors"
    net.save(file)
    again = qn.load(file)
    assert type(again) is type(net) and again.vocabulary == net.vocabulary
    program = f"import quernel as qn; print(qn.load({str(file)!r}).generate('the ', 40, seed=7))"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == net.generate("the ", 40, seed=7) + "\n"


def test_any_model_carries_a_vocabulary(tmp_path: Path) -> None:
    vocabulary = text.WordVocabulary.build("one two three", lower=False)
    net = nn.Sequential(nn.Embedding(len(vocabulary), 4), nn.Flatten(), nn.Linear(8, 2))
    net.vocabulary = vocabulary
    x = np.array([[1, 2], [3, 4]])
    net(x)
    small = qn.compress.quantize(net, calibration=x)
    for model in (net, small):
        model.save(tmp_path / "net.safetensors")
        assert qn.load(tmp_path / "net.safetensors").vocabulary == vocabulary
    net.vocabulary = None
    net.save(tmp_path / "net.safetensors")
    assert qn.load(tmp_path / "net.safetensors").vocabulary is None


def test_modules_inside_keep_their_vocabularies(tmp_path: Path) -> None:
    net, file = nn.Sequential(made("lstm")), tmp_path / "net.safetensors"
    net.save(file)
    again = qn.load(file)
    assert again.vocabulary is None and again[0].vocabulary == net[0].vocabulary
    assert again[0].generate("the", 5, seed=0) == net[0].generate("the", 5, seed=0)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        self.inner = made("lstm")

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        y: qn.Tensor = self.inner(x)
        return y


def test_vocabularies_that_no_file_holds_are_refused(tmp_path: Path) -> None:
    class Own(text.CharVocabulary):
        pass

    net, file = made("lstm"), tmp_path / "net.safetensors"
    for wrong in (Own("abc"), ["a"]):
        net.vocabulary = wrong
        for model, name in ((net, "vocabulary"), (nn.Sequential(net), "0.vocabulary")):
            with pytest.raises(
                ArgumentError,
                match=rf"\[save\] {name} is a {type(wrong).__name__}, which no file holds; it is one of CharVocabulary, Word",
            ):
                model.save(file)
    graph = Wrapped()
    graph(np.zeros((1, 3), np.int64))
    with pytest.raises(
        ArgumentError, match=r"no module to hold inner.vocabulary: set net.vocabulary = net.inner"
    ):
        graph.save(file)
    assert not file.exists()
    graph.vocabulary = graph.inner.vocabulary
    graph.save(file)
    assert qn.load(file).vocabulary == graph.inner.vocabulary


def test_a_transformer_has_as_many_positions_as_it_has() -> None:
    net = made("transformer")
    assert len(net.generate("the cat", 57, seed=0)) == 57
    with pytest.raises(
        ArgumentError, match="a prompt of 7 tokens and 58 more are above the model's max_len=64"
    ):
        net.generate("the cat", 58)
    with pytest.raises(
        ShapeError, match=r"\[transformer_language_model\] sequences have at most max_len=64 tokens, got 65"
    ):
        net(np.zeros((1, 65), np.int64))
    _, state = net.step(qn.zeros((1, 60), dtype="int64"))
    with pytest.raises(ShapeError, match=r"at most max_len=64 tokens, got 66 \(x: \(1, 6\)\)"):
        net.step(qn.zeros((1, 6), dtype="int64"), state)


def test_prompts_are_refused() -> None:
    net = made("lstm", unknown=None)
    refused: list[tuple[Any, dict[str, Any], str]] = [
        ("", {}, r"\[generate\] the prompt is empty; it has at least one token"),
        ([], {}, "the prompt is empty"),
        ("the ß", {}, r"\[encode\] 'ß' \(number 4 of 5\) is not in the vocabulary"),
        ([0, net.tokens], {}, f"tokens are 0 to {net.tokens - 1}, the prompt has 0 to {net.tokens}"),
        ([-1], {}, "the prompt has -1 to -1"),
        ([[0]], {}, r"prompt is a text or whole numbers \(T,\), got int64 \(1, 1\)"),
        ([0.5], {}, r"got float64 \(1,\)"),
        ("the", {"length": -1}, "length is an integer, at least 0, got -1"),
        ("the", {"length": 2.5}, "length is an integer, at least 0, got 2.5"),
        ("the", {"length": "9"}, "length is an integer, at least 0, got '9'"),
        ("the", {"temperature": -1.0}, "temperature is a number, 0 or more"),
        ("the", {"top_k": 0}, "top_k is an integer, at least 1"),
    ]
    for prompt, options, message in refused:
        for method in (net.generate, net.stream):
            with pytest.raises(ArgumentError, match=message):
                method(prompt, **options)
    net.vocabulary = text.CharVocabulary("ab")
    with pytest.raises(ArgumentError, match=f"the model has {net.tokens} tokens, its vocabulary 4"):
        net.generate("a")
    with pytest.raises(ArgumentError, match=f"the model has {net.tokens} tokens, its vocabulary 4"):
        net.generate([2])
    net.vocabulary = None
    with pytest.raises(StateError, match="the prompt is text and the model has no vocabulary: set"):
        net.generate("a")
