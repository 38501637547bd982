"""A fully connected layer with a sparse weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from quernel import ops
from quernel.autograd import no_grad
from quernel.errors import ArgumentError, ShapeError
from quernel.nn import init
from quernel.nn.checks import in_unit_interval, positive
from quernel.nn.linear import Linear
from quernel.nn.parameter import Parameter
from quernel.nn.sized import SizedByInput, fill
from quernel.ops.sparse_array import BLOCK_ROWS, CSR, BlockSparse, SparseArray, constant_int32
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

Block = Sequence[int] | None


class SparseLinear(SizedByInput):
    """y = x·weightᵀ + bias with a sparse weight, over the last axis: `Linear` with most of its weights missing.

    Which weights there are is fixed; their values are a parameter and train like any other. Made directly, the layer
    keeps places drawn at random (uniform in ±1/sqrt(inputs per output)); `from_dense` takes them from a trained layer.

    Args:
        in_features: size of the last axis of x; None takes it from the first input.
        out_features: size of the last axis of y.
        bias: whether to add one.
        density: the share of the weights to have, from 0 to 1.
        block: (16, 1): weights stand in blocks of 16 outputs by 1 input, faster than dense at any density below 0.8;
            (16, 4): 4 inputs, as int8 needs it; None: anywhere, faster than dense below 0.4 if 16 rows come at once.

    Shapes:
        x (..., in_features), values (blocks, 16, 1 or 4) or (entries,), bias (out_features) -> y (..., out_features).

    Example:
        >>> layer = nn.SparseLinear(64, 32, density=0.25)
        >>> layer(np.ones((2, 64), np.float32)).shape
        (2, 32)
        >>> layer.weight
        BlockSparse((32, 64), blocks of (16, 1), 512 values, density 0.25, dtype=float32, requires_grad=True)
    """

    _size_name = "in_features"

    def __init__(
        self,
        in_features: int | None,
        out_features: int,
        bias: bool = True,
        density: float = 0.1,
        block: Block = (BLOCK_ROWS, 1),
    ) -> None:
        self.in_features = (
            positive("sparse_linear", "in_features", in_features) if in_features is not None else None
        )
        self.out_features = positive("sparse_linear", "out_features", out_features)
        self.density = in_unit_interval("sparse_linear", "density", density)
        self.block = _block(block)
        self.values = Parameter()
        self.bias = Parameter() if bias else None
        self.register_buffer("indices", None)
        self.register_buffer("indptr", None)
        self._size(in_features)

    @classmethod
    def from_dense(
        cls,
        linear: Linear,
        density: float | None = None,
        mask: Any = None,
        block: Block = (BLOCK_ROWS, 1),
    ) -> Self:
        """The layer that keeps some of a dense layer's weights, and its bias.

        Args:
            linear: The dense layer; it stays as it is.
            density: The share of blocks to keep: those of largest norm, of equal ones the first.
            mask: Instead of `density`: (out_features, in_features), true (or not 0) where a weight is to stay. A block
                with any such weight is kept whole, its other weights as zeros that may train.
            block: See the class.

        Raises:
            ArgumentError: not one of `density` and `mask` is given.
            ShapeError: `mask` has another shape than the weight.

        Example:
            >>> sparse = nn.SparseLinear.from_dense(nn.Linear(64, 32), density=0.25)
            >>> sparse
            SparseLinear(64, 32, density=0.25, block=(16, 1))
        """
        if (density is None) == (mask is None):
            raise ArgumentError("[sparse_linear] from_dense takes density= or mask=, one of the two")
        weight = linear.weight.detach().numpy()
        outputs, inputs = weight.shape
        size = _block(block)
        if mask is None:
            share = in_unit_interval("sparse_linear", "density", density)
            keep = keep_largest(_norms(weight, size), share)
        else:
            chosen = np.asarray(mask.detach() if isinstance(mask, Tensor) else mask) != 0
            if chosen.shape != weight.shape:
                raise ShapeError(
                    f"[sparse_linear] the weight is {weight.shape}, the mask {chosen.shape}; they must be equal"
                )
            weight = np.where(chosen, weight, 0)
            keep = _norms(chosen.astype(np.float64), size) > 0
        layer = cls(None, outputs, linear.bias is not None, float(keep.mean()) if keep.size else 0.0, size)
        with no_grad():
            layer.values.become(linear.weight.dtype, "cpu")
            if layer.bias is not None and linear.bias is not None:
                layer.bias.become(linear.bias.dtype, "cpu")
            layer._fill(inputs, keep)
            layer.values[...] = _blocks(weight, size)[keep] if size else weight[keep]
            if layer.bias is not None and linear.bias is not None:
                layer.bias[...] = linear.bias.detach()
        layer.train(linear.training)
        return layer

    def to_dense(self) -> Linear:
        """The dense layer of the same weights, the missing ones zeros."""
        weight = self.weight.to_dense()
        linear = Linear(None, self.out_features, self.bias is not None)
        parameters = [linear.weight] if linear.bias is None else [linear.weight, linear.bias]
        with no_grad():
            for parameter in parameters:
                parameter.become(weight.dtype, "cpu")
            linear._fill(weight.shape[1])
            linear.weight[...] = weight
            if linear.bias is not None and self.bias is not None:
                linear.bias[...] = self.bias.detach()
        linear.train(self.training)
        return linear

    @property
    def weight(self) -> SparseArray:
        """The weight, (out_features, in_features); its values are the layer's parameter itself."""
        kept: SparseArray | None = self._session.get("weight")
        if kept is not None and kept.values is self.values and kept.indices is self.indices:
            return kept
        _ = self.values.shape  # an unsized layer has no weight, and says so
        for name in ("indices", "indptr"):
            now = self.__dict__[name]
            constant = constant_int32(name, now)  # a copy of a layer has tensors that could be written to
            if constant is not now:
                setattr(self, name, constant)
        kind = CSR if self.block is None else BlockSparse
        shape = (self.out_features, self.in_features or 0)
        weight = self._session["weight"] = kind(
            self.values, self._places("indices"), self._places("indptr"), shape
        )
        return weight

    def _places(self, name: str) -> Tensor:
        tensor: Tensor = self.__dict__[name]
        return tensor

    def _fill(self, channels: int, keep: NDArray[Any] | None = None) -> None:
        self.__dict__["_keep"] = keep
        try:
            super()._fill(channels)
        finally:
            del self.__dict__["_keep"]

    def _build(self, channels: int) -> None:
        keep: NDArray[Any] | None = self.__dict__["_keep"]
        if keep is None:
            rows, columns = _grid(self.out_features, channels, self.block)
            keep = keep_largest(ops.uniform((rows, columns)).numpy(), self.density)
        bound = 1 / math.sqrt(max(1.0, channels * self.density))
        count = int(keep.sum())
        shape = (count, *self.block) if self.block else (count,)
        fill(self.values, shape, lambda v: init.uniform_(v, -bound, bound))
        fill(self.bias, (self.out_features,), lambda b: init.uniform_(b, -bound, bound))
        self.indices = constant_int32("indices", np.nonzero(keep)[1])
        self.indptr = constant_int32("indptr", np.concatenate([[0], np.cumsum(keep.sum(1))]))

    def _channels_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:  # noqa: ARG002
        raise KeyError("in_features")  # no parameter has it

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.sparse_linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        places = f"density={self.density:.3g}, block={self.block}"
        bias = ", bias=False" if self.bias is None else ""
        return f"{self.in_features}, {self.out_features}{bias}, {places}"


def keep_largest(scores: NDArray[Any], density: float) -> NDArray[Any]:
    """True at the `density` share of largest scores; of equal ones at the first."""
    count = round(density * scores.size)
    keep = np.zeros(scores.size, bool)
    keep[np.argsort(-scores.reshape(-1), kind="stable")[:count]] = True
    return keep.reshape(scores.shape)


def _block(block: Block) -> tuple[int, int] | None:
    if block is None:
        return None
    size = tuple(block)
    if size not in ((BLOCK_ROWS, 1), (BLOCK_ROWS, 4)):
        raise ArgumentError(f"[sparse_linear] block is (16, 1), (16, 4) or None, got {block!r}")
    return int(size[0]), int(size[1])


def _grid(outputs: int, inputs: int, block: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of blocks."""
    height, width = block or (1, 1)
    return -(-outputs // height), -(-inputs // width)


def _blocks(weight: NDArray[Any], block: tuple[int, int]) -> NDArray[Any]:
    """(rows of blocks, columns of blocks, 16, depth), zeros past the weight's edges."""
    (height, width), (rows, columns) = block, _grid(weight.shape[0], weight.shape[1], block)
    padded = np.zeros((rows * height, columns * width), weight.dtype)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    return padded.reshape(rows, height, columns, width).transpose(0, 2, 1, 3)


def _norms(weight: NDArray[Any], block: tuple[int, int] | None) -> NDArray[Any]:
    """Squared norm of each block (each weight without blocks)."""
    squares = weight.astype(np.float64) ** 2
    return squares if block is None else _blocks(squares, block).sum((2, 3))
