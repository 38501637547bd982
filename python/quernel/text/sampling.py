"""Choosing the next token from its scores."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np

from quernel import ops, random
from quernel.arrays import numbers_of
from quernel.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Sampler:
    """Draws tokens: token i with probability softmax(scores / temperature)_i, among the `top_k` largest scores.

    Args:
        temperature: below 1 likely tokens become likelier, above 1 less so; 0 always takes the likeliest (of several the
            first).
        top_k: how many tokens are in the draw; None: all. Of equal scores the first ones are.
        seed: starts a random stream of the sampler's own; None draws from the one that `qn.seed` starts.

    Raises:
        ArgumentError: the temperature is negative or not finite, `top_k` no whole number from 1 on, or the seed no whole number.

    Example:
        >>> sample = qn.text.Sampler(temperature=0)
        >>> sample([0.5, 2.0, 1.0])
        1
        >>> sample = qn.text.Sampler(top_k=2, seed=0)
        >>> sorted({sample([0.5, 2.0, 1.0]) for _ in range(50)})
        [1, 2]
    """

    def __init__(self, temperature: float = 1.0, top_k: int | None = None, seed: int | None = None) -> None:
        given: object = temperature
        if not isinstance(given, int | float | np.integer | np.floating) or not (0 <= given < np.inf):
            raise ArgumentError(
                f"[sampler] temperature is a number, 0 or more and finite, got {temperature!r}"
            )
        if top_k is not None and (not hasattr(top_k, "__index__") or operator.index(top_k) < 1):
            raise ArgumentError(
                f"[sampler] top_k is an integer, at least 1 (None: all tokens), got {top_k!r}"
            )
        self.temperature = float(temperature)
        self.top_k = top_k
        self._stream = random.default_generator() if seed is None else random.generator(seed)

    def __call__(self, scores: ArrayLike) -> int:
        """One token, given the scores of all (not normalized; -inf: never).

        Raises:
            ArgumentError: there is nothing to choose from, or a score is NaN or inf.
        """
        given = numbers_of("sampler", "scores", scores).astype(np.float64)
        if given.ndim != 1 or not given.size or not np.isfinite(given.max()):
            raise ArgumentError(
                f"[sampler] scores are numbers (tokens,), one of them finite and none NaN or inf, got {given.shape}"
            )
        if self.temperature == 0:
            return int(given.argmax())
        likeliest = np.argsort(-given, kind="stable")[: self.top_k]
        with np.errstate(over="ignore"):  # the differences are at most 0: exp of them is 0 at worst
            share = np.exp((given[likeliest] - given[likeliest[0]]) / self.temperature).cumsum()
        drawn = ops.uniform((1,), dtype="float64", generator=self._stream).item() * share[-1]
        return int(likeliest[min(int(share.searchsorted(drawn, side="right")), len(share) - 1)])
