"""Language models: scores for the token that follows, and text made of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from quernel import nn, ops, recording
from quernel.arrays import array_of
from quernel.autograd import no_grad
from quernel.errors import ArgumentError, StateError
from quernel.jit import jit
from quernel.nn.checks import positive
from quernel.runtime import device
from quernel.tensor import Tensor
from quernel.text.sampling import Sampler
from quernel.training.trainer import mode


class LanguageModel(nn.Module):
    """Base of the models that score, for each token of a sequence, which one follows.

    A subclass defines `step`. Its ``net.vocabulary``, if it is given one, turns prompts into tokens and tokens into text, and
    is saved with it. In a file a subclass of one's own becomes its graph, which comes back with `forward` alone, without
    `generate`.

    Shapes:
        x (N, T) whole numbers -> scores (N, T, tokens); those at t are of token t + 1 and depend on tokens 0 to t alone.
    """

    tokens: int

    @abstractmethod
    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The scores after each of the next tokens x (N, t), and the state to go on with; None begins a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores for whole sequences."""
        return self.step(x)[0]

    def generate(
        self,
        prompt: str | Sequence[int],
        length: int = 200,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """What follows a prompt: text if it is text, else the numbers of tokens.

        The state is carried from token to token, which gives the bits of computing the whole sequence each time. Tokens for
        padding and for what is unknown are never drawn.

        Args:
            prompt: text, if the model has a vocabulary, or numbers of tokens; at least one token.
            length: how many tokens to make.
            temperature, top_k, seed: see `text.Sampler`.

        Raises:
            ArgumentError: an argument is out of range, the prompt empty, or the vocabulary not of the model's size.
            StateError: the prompt is text, and the model has no vocabulary.
        """
        given, length = self._checked(prompt, length)
        with mode(self, training=False):
            codes = list(self._drawn(given, length, Sampler(temperature, top_k, seed), nullcontext))
        return self._vocabulary().decode(codes) if isinstance(prompt, str) else codes

    def stream(
        self,
        prompt: str | Sequence[int],
        length: int = 200,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> Iterator[Any]:
        """The tokens of `generate` one by one, each as soon as it is drawn."""
        given, length = self._checked(prompt, length)
        evaluating = partial(mode, self, training=False)  # not between the tokens
        codes = self._drawn(given, length, Sampler(temperature, top_k, seed), evaluating)
        if not isinstance(prompt, str):
            return codes
        tokens = self._vocabulary().tokens
        return (tokens[code] for code in codes)

    def _vocabulary(self) -> Any:
        if self.vocabulary is None:
            raise StateError(
                "[generate] the prompt is text and the model has no vocabulary: set net.vocabulary, or pass numbers of tokens"
            )
        if len(self.vocabulary) != self.tokens:
            raise ArgumentError(
                f"[generate] the model has {self.tokens} tokens, its vocabulary {len(self.vocabulary)}"
            )
        return self.vocabulary

    def _checked(self, prompt: str | Sequence[int], length: int) -> tuple[Any, int]:
        """The prompt's tokens (T,), and how many follow."""
        if self.vocabulary is not None or isinstance(prompt, str):
            vocabulary = self._vocabulary()
        given = (
            vocabulary.encode(prompt) if isinstance(prompt, str) else array_of("generate", "prompt", prompt)
        )
        if given.size == 0:
            raise ArgumentError("[generate] the prompt is empty; it has at least one token")
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise ArgumentError(
                f"[generate] prompt is a text or whole numbers (T,), got {given.dtype} {given.shape}"
            )
        if given.min() < 0 or given.max() >= self.tokens:
            raise ArgumentError(
                f"[generate] tokens are 0 to {self.tokens - 1}, the prompt has {given.min()} to {given.max()}"
            )
        if not hasattr(length, "__index__") or length < 0:
            raise ArgumentError(f"[generate] length is an integer, at least 0, got {length!r}")
        self._check_length(len(given), length)
        return given, int(length)

    def _check_length(self, prompt: int, length: int) -> None:
        """Raises if the model cannot take so many tokens."""

    def _begin(self, length: int) -> Any:  # noqa: ARG002
        """The state in which a sequence of so many tokens begins, see `step`."""
        return None

    def _drawn(
        self, given: Any, length: int, sample: Sampler, evaluating: Callable[[], AbstractContextManager[None]]
    ) -> Iterator[int]:
        never = [] if self.vocabulary is None else self.vocabulary.special
        state, x = self._begin(len(given) + length), given[None].astype(np.int64)
        first, replayed = self._followers()
        follow = first
        for _ in range(length):
            with evaluating(), no_grad(), device(self.device):
                scores, after = follow(x, state)
            state = state if after is None else after
            last = scores.numpy().astype(np.float64)
            last[never] = -np.inf
            code = sample(last)
            yield code
            x = np.array([[code]])
            follow = replayed if _of_tensors(state) else first

    def _followers(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """What gives the scores after tokens (1, t) and the state to go on with; and the same as one plan for a size of state.

        The state is None where it is the object that was given, changed in place.
        """
        if "follow" not in self._session:
            step = type(self).step  # jit looks at what a function in a variable reads: a user's own too

            def follow(x: Any, state: Any) -> tuple[Tensor, Any]:
                recording.guard_structure(self)
                scores, after = step(self, ops.as_tensor(x).to(self.device), state)
                return scores[0, -1], None if after is state else after

            self._session["follow"] = follow, jit(follow)
        found: tuple[Callable[..., Any], Callable[..., Any]] = self._session["follow"]
        return found


def _of_tensors(state: Any) -> bool:
    """Whether a plan can take a state as its argument."""
    if isinstance(state, tuple | list):
        return all(_of_tensors(item) for item in state)
    return isinstance(state, Tensor | recording.State)


class LSTMLanguageModel(LanguageModel):
    """Tokens as vectors, layers of LSTM over them, and the scores of the token that follows.

    Args:
        tokens: how many there are, ``len(vocabulary)``.
        embedding: size of a token's vector.
        hidden: size of the state of each layer.
        layers: of the LSTM.
        dropout: between layers and before the scores.

    Shapes:
        x (N, T) whole numbers -> scores (N, T, tokens). Targets of "cross_entropy" are (N, T), the tokens one later.

    Example:
        >>> from quernel import models
        >>> vocabulary = qn.text.CharVocabulary.build("to be or not to be", padding=None, unknown=None)
        >>> net = models.LSTMLanguageModel(len(vocabulary), hidden=16)
        >>> net.vocabulary = vocabulary
        >>> codes = vocabulary.encode("to be or not to be")[None]
        >>> net.compile(qn.optim.Adam(net.parameters(), 0.03), "cross_entropy")
        >>> history = net.fit(codes[:, :-1], codes[:, 1:], epochs=80, verbose=0, seed=0)
        >>> net.generate("to be or", 10, temperature=0)
        ' not to be'
    """

    def __init__(
        self, tokens: int, embedding: int = 32, hidden: int = 128, layers: int = 1, dropout: float = 0.0
    ) -> None:
        self.tokens, self.embedding, self.hidden = tokens, embedding, hidden
        self.layers, self.dropout = layers, dropout
        self.embed = nn.Embedding(positive("lstm_language_model", "tokens", tokens), embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, dropout=dropout)
        with no_grad():
            for layer in range(layers):  # to forget little at first (Jozefowicz et al. 2015)
                bias = self.lstm.get_parameter(f"bias_ih_l{layer}")
                bias[hidden : 2 * hidden] = 1.0
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, tokens)

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """See `LanguageModel`; the state is the pair (h, c) of the LSTM."""
        outputs, state = self.lstm(self.embed(x), state)
        return self.head(self.drop(outputs)), state
