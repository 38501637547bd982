"""Tables of vectors, looked up by number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from quernel import ops
from quernel.autograd import no_grad
from quernel.errors import StateError
from quernel.nn import init
from quernel.nn.checks import positive
from quernel.nn.parameter import Parameter
from quernel.nn.sized import SizedByInput, fill
from quernel.ops.embedding import padding_row
from quernel.ops.embedding_bag import check_mode
from quernel.tensor import Tensor


class _Table(SizedByInput):
    """What layers that look rows up in a table have in common."""

    takes_integers = True
    reads_indices = True  # inputs that are known by their shape alone are int64
    _size_name = "num_embeddings"
    _op: ClassVar[str]

    def __init__(
        self, num_embeddings: int | None, embedding_dim: int, padding_idx: int | None, sparse: bool
    ) -> None:
        self.num_embeddings = (
            positive(self._op, "num_embeddings", num_embeddings) if num_embeddings is not None else None
        )
        self.embedding_dim = positive(self._op, "embedding_dim", embedding_dim)
        if padding_idx is not None and self.num_embeddings is not None:
            padding_idx = padding_row(self._op, self.num_embeddings, padding_idx)
        self.padding_idx = padding_idx
        self.sparse = sparse
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
            raise StateError(f"[{self._op}] num_embeddings is None until weights are loaded; pass a number")
        return super()._call(args, kwargs)

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        return f"{text}, sparse=True" if self.sparse else text


class Embedding(_Table):
    """y = weight[x]: a vector for each whole number, such as a token's.

    The weight starts normal with variance 1, as in PyTorch.

    Args:
        num_embeddings: how many vectors there are; indices count from 0 to num_embeddings - 1. None leaves it to the
            weights that are loaded.
        embedding_dim: size of a vector.
        padding_idx: a number whose vector starts at 0 and gets no gradient; -n counts from the end.
        sparse: its gradient is a `RowGradient`: a training step costs what the lookups cost, not what the table does, with
            Adam, AdamW, SparseAdam or SGD without momentum, which then update those rows alone.

    Shapes:
        x (...), whole numbers -> y (..., embedding_dim). weight (num_embeddings, embedding_dim).

    Example:
        >>> net = nn.Sequential(nn.Embedding(100, 8), nn.Flatten(), nn.Linear(None, 2))
        >>> net(np.array([[3, 99, 0], [1, 1, 1]])).shape
        (2, 2)
    """

    _op = "embedding"

    def __init__(
        self,
        num_embeddings: int | None,
        embedding_dim: int,
        padding_idx: int | None = None,
        sparse: bool = False,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, sparse)

    def forward(self, x: Tensor) -> Tensor:
        """Looks up."""
        return ops.embedding(x, self.weight, self.padding_idx, self.sparse)


class EmbeddingBag(_Table):
    """The sum, mean or maximum of the vectors of each bag of whole numbers: a bag of words, in one pass.

    It equals `Embedding` followed by the reduction over the second axis, without a tensor of all the vectors. The weight
    starts normal with variance 1, as in PyTorch.

    Args:
        num_embeddings: how many vectors there are; indices count from 0 to num_embeddings - 1. None leaves it to the
            weights that are loaded.
        embedding_dim: size of a vector.
        mode: "sum", "mean" or "max".
        sparse: its gradient is a `RowGradient`: a training step costs what the lookups cost, not what the table does, with
            Adam, AdamW, SparseAdam or SGD without momentum, which then update those rows alone. Not with "max".
        include_last_offset: the last of the offsets is no bag but their end.
        padding_idx: a number that counts as absent and whose vector starts at 0; -n counts from the end.

    Shapes:
        x (N, L), whole numbers -> y (N, embedding_dim); or x (n,) and offsets (N,), where each bag begins. weight
        (num_embeddings, embedding_dim).

    Example:
        >>> net = nn.Sequential(nn.EmbeddingBag(100, 8, padding_idx=0), nn.Linear(8, 2))
        >>> net(np.array([[3, 99, 0], [1, 1, 1]])).shape
        (2, 2)
        >>> nn.EmbeddingBag(100, 8)(np.array([3, 99, 7]), np.array([0, 2])).shape
        (2, 8)
    """

    _op = "embedding_bag"

    def __init__(
        self,
        num_embeddings: int | None,
        embedding_dim: int,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> None:
        check_mode(mode, sparse)
        self.mode = mode
        self.include_last_offset = include_last_offset
        super().__init__(num_embeddings, embedding_dim, padding_idx, sparse)

    def forward(
        self, x: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """Looks up and reduces.

        Args:
            x: (N, L), or (n,) with offsets.
            offsets: (N,) where each bag begins.
            per_sample_weights: factors of the vectors of a sum, of the shape of x; numbers of any type.
        """
        if per_sample_weights is not None:
            per_sample_weights = ops.cast(per_sample_weights, self.weight.dtype)
        return ops.embedding_bag(
            x,
            self.weight,
            offsets,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        last = ", include_last_offset=True" if self.include_last_offset else ""
        return f"{super().extra_repr()}, mode={self.mode!r}{last}"
