"""The gradient of a table whose rows were looked up, by those rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quernel import _core
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.optim import Native


class RowGradient:
    """What ``weight.grad`` is after lookups with ``sparse=True``: the rows that were looked up, and their gradients.

    PyTorch has a sparse tensor there. It shares the gradient's memory, as a dense ``grad`` does: another backward adds to
    it. Reading ``indices`` or ``values`` looks at the number of rows on the host.

    Attributes:
        shape: of the table.

    Example:
        >>> table = nn.Embedding(1000, 2, sparse=True)
        >>> table(np.array([7, 3, 7])).sum().backward()
        >>> table.weight.grad.indices.tolist(), table.weight.grad.values.tolist()
        ([7, 3], [[2.0, 2.0], [1.0, 1.0]])
        >>> table.weight.grad.to_dense().shape
        (1000, 2)
    """

    def __init__(self, rows: Native, values: Native, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._rows = rows
        self._values = values

    @property
    def dtype(self) -> str:
        """Element type of the values."""
        return self._values.dtype

    @property
    def padded(self) -> Tensor:
        """The values, and zeros up to the most rows that there may be: (m, features), sharing memory."""
        return Tensor(self._values)

    @property
    def indices(self) -> Tensor:
        """The rows that were looked up, each once, in the order of their first appearance: (n,) int64."""
        return Tensor(self._rows)[: self._count]

    @property
    def values(self) -> Tensor:
        """Their gradients: (n, features), a copy."""
        return self.padded[: self._count]

    @property
    def _count(self) -> int:
        return int((Tensor(self._rows).numpy() >= 0).sum())

    def to_dense(self) -> Tensor:
        """The gradient as a tensor of the table's shape."""
        features = self.shape[1]
        values = self.values._t.reshape((1, self._count, features))
        dense = _core.add_rows("embedding", 0, False, None, self.indices._t, values, self.shape[0])
        return Tensor(dense.reshape(self.shape))

    def __repr__(self) -> str:
        return f"RowGradient({self._count} of {self.shape[0]} rows, {self.shape[1]} features, {self.dtype})"
