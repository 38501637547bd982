"""Vocabularies: text as whole numbers and back, by characters or by words.

Numbers count the padding token first, then the unknown one, then the others; a vocabulary without one of these begins with the
next. ``net.vocabulary = vocabulary`` gives it to a model, and the model's file carries it.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from quernel.arrays import array_of
from quernel.errors import ArgumentError, OutOfRangeError
from quernel.ops.shapes import whole_number
from quernel.suggest import suggestion

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

PADDING, UNKNOWN = "<pad>", "<unk>"


class Vocabulary:
    """What `CharVocabulary` and `WordVocabulary` share.

    Args:
        tokens: those that a text is made of, each once.
        padding: the token that fills up the shorter rows of a batch; None: there is none, and rows must be as long.
        unknown: the token for all that are not listed; None: they are errors.

    Attributes:
        tokens: all, in the order of their numbers, the special ones included.
        separator: what lies between tokens in a text.
    """

    separator: ClassVar[str]

    def __init__(
        self, tokens: Iterable[str], *, padding: str | None = PADDING, unknown: str | None = UNKNOWN
    ) -> None:
        special = [token for token in (padding, unknown) if token is not None]
        self.padding, self.unknown = padding, unknown
        given: Any = tokens
        if not isinstance(given, Iterable):
            raise ArgumentError(f"[vocabulary] tokens are a list of texts, got {type(given).__name__}")
        self.tokens = (*special, *given)
        given = self.tokens
        wrong = [token for token in given if not isinstance(token, str) or not token]
        if wrong:
            raise ArgumentError(f"[vocabulary] tokens are texts of at least one character, got {wrong[0]!r}")
        self._numbers = {token: i for i, token in enumerate(self.tokens)}
        if len(self._numbers) < len(self.tokens):
            twice = next(token for token, n in Counter(self.tokens).items() if n > 1)
            raise ArgumentError(f"[vocabulary] the token {twice!r} is there twice")
        for token in self.tokens[len(special) :]:
            self._check_token(token)

    @abstractmethod
    def split(self, text: str) -> Sequence[str]:
        """The tokens of a text."""

    def _check_token(self, token: str) -> None:
        """Raises if no text could hold the token."""

    def _options(self) -> dict[str, Any]:
        """Further arguments of the constructor."""
        return {}

    @classmethod
    def build(
        cls,
        texts: str | Iterable[str],
        *,
        max_size: int | None = None,
        min_frequency: int = 1,
        padding: str | None = PADDING,
        unknown: str | None = UNKNOWN,
        **options: Any,
    ) -> Self:
        """The vocabulary of one text or several: its tokens by falling frequency, equally frequent ones by code point.

        Args:
            texts: to count in.
            max_size: how many tokens there are at most, the special ones included; None: as many as there are.
            min_frequency: tokens that are seen less often are left out.
            padding, unknown: see the class.
            options: further arguments of the class.

        Raises:
            ArgumentError: `max_size` leaves no room, or `min_frequency` is below 1.
        """
        empty = cls((), padding=padding, unknown=unknown, **options)
        if max_size is not None and whole_number("vocabulary", "max_size", max_size) <= len(empty):
            raise ArgumentError(
                f"[vocabulary] max_size {max_size} leaves no room beside {len(empty)} special tokens"
            )
        min_frequency = whole_number("vocabulary", "min_frequency", min_frequency, 1)
        counts: Counter[str] = Counter()
        for text in [texts] if isinstance(texts, str) else _texts("build", texts):
            counts.update(empty.split(text))
        kept = [t for t, n in counts.items() if n >= min_frequency and t not in empty]
        kept.sort(key=lambda token: (-counts[token], token))
        room = None if max_size is None else max_size - len(empty)
        return cls(kept[:room], padding=padding, unknown=unknown, **options)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self.tokens)

    def __getitem__(self, token: str) -> int:
        """The number of a token."""
        return int(self.encode_tokens([token])[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.tokens)

    @property
    def special(self) -> list[int]:
        """The numbers of the padding and the unknown token, as far as there are."""
        return [self._numbers[token] for token in (self.padding, self.unknown) if token is not None]

    def encode(self, text: str) -> NDArray[np.int64]:
        """The numbers of a text's tokens, (T,).

        Raises:
            ArgumentError: a token is not in the vocabulary, which has none for those unknown.
        """
        if not isinstance(text, str):
            raise ArgumentError(f"[encode] expects a text, got {type(text).__name__}")
        return self._codes(self.split(text))

    def encode_tokens(self, tokens: Sequence[str]) -> NDArray[np.int64]:
        """The numbers of tokens, (T,)."""
        return self._codes(list(_texts("encode_tokens", tokens)))

    def _codes(self, tokens: Sequence[str]) -> NDArray[np.int64]:
        other = -1 if self.unknown is None else self._numbers[self.unknown]
        codes = np.fromiter((self._numbers.get(t, other) for t in tokens), np.int64, len(tokens))
        if other < 0 and (codes < 0).any():
            at = int((codes < 0).argmax())
            raise ArgumentError(
                f"[encode] {tokens[at]!r} (number {at} of {len(tokens)}) is not in the vocabulary, which has no unknown token"
            )
        return codes

    def encode_batch(
        self, texts: Iterable[str], length: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Texts as the rows of one array.

        Args:
            texts: N of them.
            length: tokens of a row; longer texts lose their end. None: as many as the longest text has.

        Returns:
            (N, T), filled up with the padding token, and the rows' own lengths, (N,).
        """
        if isinstance(texts, str):
            raise ArgumentError("[encode_batch] expects several texts, got one; put it into a list")
        if length is not None:
            length = whole_number("encode_batch", "length", length, 1)
        rows = [self.encode(text)[:length] for text in _texts("encode_batch", texts)]
        lengths = np.array([len(row) for row in rows], np.int64)
        steps = length or int(lengths.max(initial=0))
        if self.padding is None and (lengths < steps).any():
            short = int((lengths < steps).argmax())
            raise ArgumentError(
                f"[encode_batch] text {short} has {lengths[short]} of {steps} tokens, and the vocabulary no padding token"
            )
        x = np.full((len(rows), steps), 0 if self.padding is None else self._numbers[self.padding])
        for i, row in enumerate(rows):
            x[i, : len(row)] = row
        return x, lengths

    def decode(self, codes: ArrayLike) -> str:
        """The text of numbers (T,), without padding.

        Raises:
            OutOfRangeError: a number is that of no token.
        """
        numbers = array_of("decode", "codes", codes)
        if numbers.size == 0:
            return ""
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise ArgumentError(f"[decode] expects whole numbers (T,), got {numbers.dtype} {numbers.shape}")
        if numbers.min() < 0 or numbers.max() >= len(self):
            raise OutOfRangeError(
                f"[decode] numbers are 0 to {len(self) - 1}, got {numbers.min()} to {numbers.max()}"
            )
        tokens = (self.tokens[i] for i in numbers)
        return self.separator.join(token for token in tokens if token != self.padding)

    def to_dict(self) -> dict[str, Any]:
        """The vocabulary as JSON values, which `Vocabulary.from_dict` reads."""
        return {
            "type": type(self).__name__,
            "tokens": list(self.tokens[len(self.special) :]),
            "padding": self.padding,
            "unknown": self.unknown,
            **self._options(),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary that `to_dict` wrote.

        Raises:
            ArgumentError: the data are of none.
        """
        if not isinstance(data, Mapping):
            raise ArgumentError(f"[vocabulary] the description is a dictionary, got {type(data).__name__}")
        arguments = dict(data)
        name = arguments.pop("type", None)
        if not isinstance(name, str) or name not in KINDS:
            raise ArgumentError(f"[vocabulary] unknown type {name!r}{suggestion(str(name), KINDS)}")
        try:
            return KINDS[name](arguments.pop("tokens"), **arguments)
        except (KeyError, TypeError) as error:
            raise ArgumentError(f"[vocabulary] the description is incomplete ({error})") from None

    def __repr__(self) -> str:
        special = "".join(
            f", {token} {self._numbers[token]}" for token in (self.padding, self.unknown) if token
        )
        return f"{type(self).__name__}({len(self)} tokens{special})"


class CharVocabulary(Vocabulary):
    """Characters; every character of a text is a token.

    Args:
        tokens, padding, unknown: see `Vocabulary`.

    Raises:
        ArgumentError: a token is no single character.

    Example:
        >>> vocabulary = qn.text.CharVocabulary.build("banana")
        >>> vocabulary.tokens
        ('<pad>', '<unk>', 'a', 'n', 'b')
        >>> vocabulary.encode("nab!").tolist()
        [3, 2, 4, 1]
        >>> codes, lengths = vocabulary.encode_batch(["ban", "a"])
        >>> codes.tolist(), lengths.tolist()
        ([[4, 2, 3], [2, 0, 0]], [3, 1])
        >>> vocabulary.decode(codes[1])
        'a'
    """

    separator = ""

    def split(self, text: str) -> Sequence[str]:
        """The characters."""
        return text

    def _check_token(self, token: str) -> None:
        if len(token) != 1:
            raise ArgumentError(
                f"[vocabulary] the tokens of a CharVocabulary are single characters, got {token!r}"
            )


class WordVocabulary(Vocabulary):
    """Words, and signs of punctuation one by one; `decode` puts spaces between all.

    Args:
        tokens, padding, unknown: see `Vocabulary`.
        lower: whether capitals are read as small letters.

    Raises:
        ArgumentError: a token is none that `split` makes of a text.

    Example:
        >>> vocabulary = qn.text.WordVocabulary.build(["Time flies.", "Fruit flies like a banana."], max_size=5)
        >>> vocabulary.tokens
        ('<pad>', '<unk>', '.', 'flies', 'a')
        >>> vocabulary.decode(vocabulary.encode("A crow flies."))
        'a <unk> flies .'
    """

    separator = " "

    def __init__(
        self,
        tokens: Iterable[str],
        *,
        padding: str | None = PADDING,
        unknown: str | None = UNKNOWN,
        lower: bool = True,
    ) -> None:
        self.lower = bool(lower)
        super().__init__(tokens, padding=padding, unknown=unknown)

    def split(self, text: str) -> Sequence[str]:
        """The words and signs."""
        return re.findall(r"\w+|[^\w\s]", text.lower() if self.lower else text)

    def _check_token(self, token: str) -> None:
        if self.split(token) == [token]:
            return
        if self.lower and self.split(token) == [token.lower()]:
            raise ArgumentError(
                f"[vocabulary] capitals are read as small letters, so that no text has the token {token!r}; pass lower=False, "
                f"or write {token.lower()!r}"
            )
        raise ArgumentError(
            "[vocabulary] the tokens of a WordVocabulary are single words or signs as its split makes them (lower=False "
            f"keeps capitals), got {token!r}"
        )

    def _options(self) -> dict[str, Any]:
        return {"lower": self.lower}


def _texts(name: str, given: Any) -> Iterator[str]:
    """Those handed over, each looked at when it is its turn."""
    if not isinstance(given, Iterable):
        raise ArgumentError(f"[{name}] expects texts, got {type(given).__name__}")
    for text in given:
        if not isinstance(text, str):
            raise ArgumentError(f"[{name}] expects texts, one of them is {text!r}")
        yield text


# What `Vocabulary.from_dict` makes.
KINDS: dict[str, type[Vocabulary]] = {"CharVocabulary": CharVocabulary, "WordVocabulary": WordVocabulary}
