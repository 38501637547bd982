"""Tables of vectors, looked up by number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quernel import ops
from quernel.autograd import no_grad
from quernel.errors import ArgumentError, StateError
from quernel.nn import init
from quernel.nn.checks import positive
from quernel.nn.parameter import Parameter
from quernel.nn.sized import SizedByInput, fill
from quernel.tensor import Tensor


class Embedding(SizedByInput):
    """y = weight[x]: a vector for each whole number, such as a token's.

    The weight starts normal with variance 1, as in PyTorch.

    Args:
        num_embeddings: how many vectors there are; indices count from 0 to num_embeddings - 1. None leaves it to the
            weights that are loaded.
        embedding_dim: size of a vector.
        padding_idx: a number whose vector starts at 0 and gets no gradient; -n counts from the end.

    Shapes:
        x (...), whole numbers -> y (..., embedding_dim). weight (num_embeddings, embedding_dim).

    Example:
        >>> net = nn.Sequential(nn.Embedding(100, 8), nn.Flatten(), nn.Linear(None, 2))
        >>> net(np.array([[3, 99, 0], [1, 1, 1]])).shape
        (2, 2)
    """

    takes_integers = True
    reads_indices = True  # inputs that are known by their shape alone are int64
    _size_name = "num_embeddings"

    def __init__(
        self, num_embeddings: int | None, embedding_dim: int, padding_idx: int | None = None
    ) -> None:
        self.num_embeddings = (
            positive("embedding", "num_embeddings", num_embeddings) if num_embeddings is not None else None
        )
        self.embedding_dim = positive("embedding", "embedding_dim", embedding_dim)
        if padding_idx is not None and self.num_embeddings is not None:
            if not -self.num_embeddings <= padding_idx < self.num_embeddings:
                raise ArgumentError(
                    f"[embedding] padding_idx {padding_idx} is out of range for {self.num_embeddings} rows"
                )
            padding_idx %= self.num_embeddings
        self.padding_idx = padding_idx
        self.weight = Parameter()
        self._size(num_embeddings)

    def _build(self, rows: int) -> None:
        fill(self.weight, (rows, self.embedding_dim), self._initialize)

    def _initialize(self, weight: Tensor) -> None:
        init.normal_(weight)
        if self.padding_idx is not None:
            with no_grad():
                weight[self.padding_idx] = 0.0

    def _channels_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        return shapes["weight"][0]

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._is_sized:  # indices tell no number of rows
            raise StateError("[embedding] num_embeddings is None until weights are loaded; pass a number")
        return super()._call(args, kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Looks up."""
        return ops.embedding(x, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx}"
