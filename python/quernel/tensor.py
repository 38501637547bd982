"""The tensor: a native array with an optional place on the tape.

Tensors are C-contiguous. `reshape` shares memory; transposing, slicing and broadcasting copy. Arithmetic broadcasts as in
NumPy and promotes dtypes as in PyTorch: a Python number never widens a tensor of its own kind. Images are (N, H, W, C).

Longer than 400 lines, because Python wants all of a class's operators inside the class; each is one call of an op.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quernel import _core, ops, recording
from quernel.errors import DTypeError, ShapeError, StateError
from quernel.ops.op import numpy_names

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from quernel.autograd import Handle, Node
    from quernel.ops.create import TensorLike
    from quernel.ops.op import Spec
    from quernel.ops.row_gradient import RowGradient

Number = bool | int | float

_ABSENT: Any = None
_DEFAULT_STREAM = 1  # of CUDA, as array protocols name it


class Tensor:
    """An n-dimensional array that can take part in automatic differentiation.

    Make one with `qn.tensor`. Operators work element by element, comparisons included; as a dict key a tensor stands
    for itself, not for its values.

    Example:
        >>> w = qn.tensor([1.0, 2.0], requires_grad=True)
        >>> (w * w).sum().backward()
        >>> w.grad
        tensor([2., 4.], dtype=float32)
    """

    __slots__ = ("__weakref__", "_node", "_requires_grad", "_spec", "_t")

    __array_priority__ = 1000  # `array + tensor` is ours

    def __init__(
        self, native: _core.Tensor, requires_grad: bool | None = None, node: Node | None = None
    ) -> None:
        """Wraps a native tensor. `qn.tensor` makes one from data."""
        self._t = native
        self._requires_grad = requires_grad  # None: nobody has asked so far
        self._node = node  # the op that made this tensor, if a gradient may have to flow back through it
        self._spec: Spec | None = None

    @classmethod
    def traced(cls, spec: Spec) -> Tensor:
        """Returns a stand-in of which only shape and dtype are known, for tracing graphs."""
        self = cls.__new__(cls)
        self._t = _ABSENT
        self._requires_grad = None
        self._node = None
        self._spec = spec
        return self

    # What it is.

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        return self._t.shape if self._spec is None else self._spec.shape

    @property
    def dtype(self) -> str:
        """NumPy's name of the element type: "float32", "float64", "float16", "bfloat16", "int8", … ."""
        return self._t.dtype if self._spec is None else self._spec.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for s in self.shape:
            n *= s
        return n

    def numel(self) -> int:
        """Number of elements; `size` under PyTorch's name."""
        return self.size

    @property
    def device(self) -> str:
        """Where the elements live: "cpu" or "cuda"."""
        return "cpu" if self._spec is not None else self._t.device

    @property
    def is_traced(self) -> bool:
        """Whether this is a stand-in without values (see `quernel.graph`)."""
        return self._spec is not None

    @property
    def is_leaf(self) -> bool:
        """Whether no op on the tape made this tensor."""
        return self._node is None

    @property
    def requires_grad(self) -> bool:
        """Whether `backward` computes a gradient for this tensor."""
        if self._node is None and self._requires_grad is not None:
            recording.guard(self, "requires_grad", self._requires_grad)
        return bool(self._requires_grad)

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self._node is not None and not value:
            raise StateError("[requires_grad] this tensor was computed from others; use detach()")
        if value and self.dtype not in ops.FLOATING:
            raise DTypeError(
                f"[requires_grad] only floating tensors have gradients, this one is {self.dtype}"
            )
        if bool(value) != bool(self._requires_grad):
            self._requires_grad = bool(value)
            recording.host_write(
                "Tensor.requires_grad"
            )  # last: guards looked at from now on see the new value

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Sets `requires_grad` and returns the tensor."""
        self.requires_grad = requires_grad
        return self

    # Gradients.

    @property
    def grad(self) -> Tensor | RowGradient | None:
        """What `backward` has accumulated into this leaf, or None. It is shared memory: the next backward adds to it.

        Of a table whose rows were looked up with ``sparse=True`` it is a `RowGradient`.
        """
        if self._spec is not None or not self._t.has_grad:
            return None
        if self._t.has_row_grad:
            return ops.RowGradient(*self._t.row_grad, self.shape)
        gradient = self._t.grad
        return None if gradient is None else Tensor(gradient)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if not isinstance(value, Tensor | None):
            raise DTypeError(
                f"[grad] a gradient is a Tensor or None, got {type(value).__name__}; use qn.tensor()"
            )
        if value is not None and (value.shape != self.shape or value.dtype != self.dtype):
            raise ShapeError(
                f"[grad] a {self.dtype} tensor of shape {self.shape} got a {value.dtype} gradient of {value.shape}"
            )
        _core.zero_grads_([self._t])
        if value is not None:
            _core.accumulate_grad_(self._t, value._t)

    def backward(self, gradient: TensorLike | None = None, retain_graph: bool = False) -> None:
        """Adds the gradient of this tensor with respect to every leaf to the leaf's `grad`.

        Args:
            gradient: Weights of this tensor's elements, of its shape; may be left out for a tensor of one element.
            retain_graph: Keep the graph for another backward through it.

        Raises:
            StateError: Nothing here needs a gradient, the graph was freed, or a tensor that it needs has changed.
            ShapeError: `gradient` is missing or has another shape.
        """
        from quernel import autograd

        if not self._requires_grad:
            raise StateError("[backward] this tensor does not depend on any tensor with requires_grad=True")
        if gradient is None:
            if self.size != 1:
                raise ShapeError(
                    f"[backward] a tensor of shape {self.shape} needs a gradient argument; only one element may go without"
                )
            weights = Tensor(_core.full(self.shape, 1.0, self.dtype, self.device))
        else:
            weights = ops.as_tensor(gradient).astype(self.dtype)
        autograd.backward(self, weights, retain_graph)

    def detach(self) -> Tensor:
        """Returns a tensor that shares memory with this one and has no history."""
        if self._spec is not None:
            return self
        return Tensor(self._t)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Handle:
        """Has ``hook(gradient)`` called in each backward, once the gradient of this tensor is complete.

        Args:
            hook: May return another gradient, which takes its place. It must not change the one it gets in place.

        Returns:
            Its handle, with ``remove()``. Inside `qn.jit` a step with hooks runs eagerly.

        Raises:
            StateError: The tensor does not require a gradient.

        Example:
            >>> import quernel as qn
            >>> w = qn.tensor([1.0, 2.0], requires_grad=True)
            >>> handle = w.register_hook(lambda g: g * 10)
            >>> (w * w).sum().backward()
            >>> w.grad
            tensor([20., 40.], dtype=float32)
        """
        from quernel import autograd

        return autograd.register_hook(self, hook)

    def _accumulate(self, gradient: Tensor) -> None:
        _core.accumulate_grad_(self._t, gradient._t)

    # Values on the host. While a plan is recorded, each of these abandons the recording.

    def _host(self, what: str) -> _core.Tensor:
        if self._spec is not None:
            raise StateError(
                f"[{what}] a traced tensor has a shape and a dtype but no values; branch on shapes only"
            )
        recording.host_read(what)
        return self._t

    def numpy(self) -> NDArray[Any]:
        """Returns a read-only view of the elements, on the CPU without a copy; write with ``x[...] = value``.

        The view stays valid, but an optimizer moves its parameters at its first step: take the view anew afterwards.
        """
        array: NDArray[Any] = self._host("Tensor.numpy()").numpy()
        return array

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        array: NDArray[Any] = self._host("np.asarray(tensor)").numpy()
        if dtype is not None and array.dtype != np.dtype(dtype):
            if copy is False:
                raise ValueError(f"[np.asarray] {self.dtype} to {np.dtype(dtype)} needs a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(
        self, *, stream: Any = None, max_version: tuple[int, int] | None = None, **options: Any
    ) -> Any:
        """Exports without a copy to consumers that understand read-only data (DLPack 1.0), else a copy.

        On CUDA what `stream` does next comes after what made the elements (None: the default stream; -1: nobody waits). A
        consumer on another stream than the default one must be done with the memory before letting it go.

        Raises:
            BufferError: The elements are elsewhere than asked for, or only a copy would do and none is allowed.
        """
        native = self._host("Tensor.__dlpack__()")
        versioned = max_version is not None and max_version >= (1, 0)
        place, wanted, copy = self.__dlpack_device__(), options.get("dl_device"), options.get("copy")
        if wanted not in (None, place, (1, 0)):
            raise BufferError(f"[__dlpack__] the tensor lies on {self.device!r}, which is no device {wanted}")
        elsewhere = wanted is not None and wanted != place
        if copy is False and (elsewhere or not versioned):
            raise BufferError(
                "[__dlpack__] a copy is needed, to another device or for a consumer that may write"
            )
        if self.device == "cuda" and not elsewhere:
            native = native if versioned and not copy else _core.copy(native)
            return _core.to_dlpack(native, versioned, None if stream == -1 else stream or _DEFAULT_STREAM)
        array: NDArray[Any] = native.numpy()
        if not versioned:
            return array.copy().__dlpack__()
        if elsewhere:  # the array is a copy already
            return array.__dlpack__(max_version=max_version)
        return array.__dlpack__(stream=stream, max_version=max_version, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0) if self.device == "cpu" else (2, 0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The memory of a tensor on CUDA, read-only, for CuPy and Numba (version 3); torch takes ``torch.from_dlpack(t)``."""
        if self.device != "cuda" or self.dtype == "bfloat16":
            reason = "lies on the CPU" if self.device == "cpu" else "is bfloat16, which the protocol lacks"
            raise AttributeError(f"[__cuda_array_interface__] the tensor {reason}")
        native = self._host("Tensor.__cuda_array_interface__")
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (_core.cuda_pointer(native), True),
            "strides": None,
            "stream": _core.cuda_stream() or None,
            "version": 3,
        }

    def to(self, device_or_dtype: str) -> Tensor:
        """Returns this tensor on another device (``"cpu"``, ``"cuda"``, ``"auto"``), or of another dtype.

        Gradients flow back. A tensor that is there already, or has that dtype, is returned as it is.

        Raises:
            DeviceError: The device cannot be used, with the reason.
        """
        if device_or_dtype in ("cpu", "auto") or device_or_dtype.startswith("cuda"):
            return ops.to_device(self, device_or_dtype)
        return self if device_or_dtype == self.dtype else ops.cast(self, device_or_dtype)

    def cpu(self) -> Tensor:
        """Returns this tensor on the CPU."""
        return ops.to_device(self, "cpu")

    def cuda(self) -> Tensor:
        """Returns this tensor on the CUDA device."""
        return ops.to_device(self, "cuda")

    def item(self) -> Number:
        """Returns the value of a tensor of one element as a Python number."""
        value = self._host("Tensor.item()")
        if self.size != 1:
            raise ShapeError(
                f"[item] only a tensor of one element has an item, this one has shape {self.shape}"
            )
        number: Number = value.numpy().item()
        return number

    def tolist(self) -> Any:
        """Returns the elements as nested lists of Python numbers."""
        return self._host("Tensor.tolist()").numpy().tolist()

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"the truth value of a tensor of shape {self.shape} is ambiguous; use .numpy().any() or .all()"
            )
        return bool(self.item())

    def __float__(self) -> builtins.float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype in ops.FLOATING:
            raise DTypeError(f"[index] a {self.dtype} tensor is no index")
        return int(self.item())

    def __format__(self, spec: str) -> str:
        """A tensor of one element takes the formats of its number: ``f"{loss:.3f}"``."""
        return format(self.item(), spec) if spec and self.size == 1 else super().__format__(spec)

    def __repr__(self) -> str:
        extra = f", dtype={self.dtype}" + (", requires_grad=True" if self._requires_grad else "")
        if self._spec is not None:
            return f"tensor(<traced>, shape={self.shape}{extra})"
        body = np.array2string(self._host("repr(tensor)").numpy(), separator=", ", prefix="tensor(")
        return f"tensor({body}{extra})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), np.array(self), self._node is None and self._requires_grad)

    # Writing.

    def __setitem__(self, index: Any, value: TensorLike) -> None:
        ops.assign_(self, index, value)

    def _store(self, result: Tensor) -> Tensor:
        """Ends an in-place operator: overwrites this tensor, unless that would break a gradient."""
        if result._requires_grad or result._spec is not None:
            return result
        ops.assign_(self, ..., result)
        return self

    def _check_in_place(self, operator: str) -> Tensor:
        from quernel.autograd import is_grad_enabled

        if self._requires_grad and self._node is None and is_grad_enabled():
            raise StateError(
                f"[{operator}] a leaf that requires grad cannot be updated in place; do it under qn.no_grad(), "
                "or write x = x + …"
            )
        return self

    # Arithmetic.

    def __add__(self, other: TensorLike) -> Tensor:
        return ops.add(self, other)

    def __radd__(self, other: TensorLike) -> Tensor:
        return ops.add(other, self)

    def __iadd__(self, other: TensorLike) -> Tensor:  # noqa: PYI034 - see _store
        return self._store(ops.add(self._check_in_place("+="), other))

    def __sub__(self, other: TensorLike) -> Tensor:
        return ops.sub(self, other)

    def __rsub__(self, other: TensorLike) -> Tensor:
        return ops.sub(other, self)

    def __isub__(self, other: TensorLike) -> Tensor:  # noqa: PYI034 - see _store
        return self._store(ops.sub(self._check_in_place("-="), other))

    def __mul__(self, other: TensorLike) -> Tensor:
        return ops.mul(self, other)

    def __rmul__(self, other: TensorLike) -> Tensor:
        return ops.mul(other, self)

    def __imul__(self, other: TensorLike) -> Tensor:  # noqa: PYI034 - see _store
        return self._store(ops.mul(self._check_in_place("*="), other))

    def __truediv__(self, other: TensorLike) -> Tensor:
        return ops.div(self, other)

    def __rtruediv__(self, other: TensorLike) -> Tensor:
        return ops.div(other, self)

    def __itruediv__(self, other: TensorLike) -> Tensor:  # noqa: PYI034 - see _store
        return self._store(ops.div(self._check_in_place("/="), other))

    def __floordiv__(self, other: TensorLike) -> Tensor:
        return ops.floor_divide(self, other)

    def __rfloordiv__(self, other: TensorLike) -> Tensor:
        return ops.floor_divide(other, self)

    def __mod__(self, other: TensorLike) -> Tensor:
        return ops.remainder(self, other)

    def __rmod__(self, other: TensorLike) -> Tensor:
        return ops.remainder(other, self)

    def __pow__(self, exponent: TensorLike) -> Tensor:
        return ops.pow(self, exponent)

    def __rpow__(self, base: TensorLike) -> Tensor:
        return ops.pow(base, self)

    def __matmul__(self, other: TensorLike) -> Tensor:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: TensorLike) -> Tensor:
        return ops.matmul(other, self)

    def __neg__(self) -> Tensor:
        return ops.neg(self)

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return ops.abs(self)

    # Logic, of masks: NumPy's and PyTorch's operators on integers work bit by bit, which no op does.

    def __invert__(self) -> Tensor:
        return ops.logical_not(_masks("~", self)[0])

    def __and__(self, other: TensorLike) -> Tensor:
        return ops.logical_and(*_masks("&", self, other))

    def __or__(self, other: TensorLike) -> Tensor:
        return ops.logical_or(*_masks("|", self, other))

    def __xor__(self, other: TensorLike) -> Tensor:
        return ops.logical_xor(*_masks("^", self, other))

    def __rand__(self, other: TensorLike) -> Tensor:
        return ops.logical_and(*_masks("&", other, self))

    def __ror__(self, other: TensorLike) -> Tensor:
        return ops.logical_or(*_masks("|", other, self))

    def __rxor__(self, other: TensorLike) -> Tensor:
        return ops.logical_xor(*_masks("^", other, self))

    # Comparisons, element by element.

    def __eq__(self, other: Any) -> Any:  # noqa: PYI032 - anything an op takes
        return NotImplemented if other is None or isinstance(other, str) else ops.eq(self, other)

    def __ne__(self, other: Any) -> Any:  # noqa: PYI032 - anything an op takes
        return NotImplemented if other is None or isinstance(other, str) else ops.ne(self, other)

    def __lt__(self, other: TensorLike) -> Tensor:
        return ops.lt(self, other)

    def __le__(self, other: TensorLike) -> Tensor:
        return ops.le(self, other)

    def __gt__(self, other: TensorLike) -> Tensor:
        return ops.gt(self, other)

    def __ge__(self, other: TensorLike) -> Tensor:
        return ops.ge(self, other)

    __hash__ = object.__hash__

    # Shape.

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without dimensions has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Tensor:
        return ops.getitem(self, index)

    def reshape(self, *shape: int | Sequence[int]) -> Tensor:
        """See `ops.reshape`; takes the sizes one by one or as one tuple."""
        return ops.reshape(self, _one_tuple(shape))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """See `ops.flatten`."""
        return ops.flatten(self, start_dim, end_dim)

    @numpy_names
    def squeeze(self, dim: int | Sequence[int] | None = None) -> Tensor:
        """See `ops.squeeze`."""
        return ops.squeeze(self, dim)

    @numpy_names
    def unsqueeze(self, dim: int) -> Tensor:
        """See `ops.unsqueeze`."""
        return ops.unsqueeze(self, dim)

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        """See `ops.transpose`: swaps two dimensions."""
        return ops.transpose(self, dim0, dim1)

    def permute(self, *dims: int | Sequence[int]) -> Tensor:
        """See `ops.permute`; takes the dimensions one by one or as one tuple."""
        return ops.permute(self, _one_tuple(dims))

    def flip(self, *dims: int | Sequence[int]) -> Tensor:
        """See `ops.flip`."""
        return ops.flip(self, _one_tuple(dims))

    def repeat(self, *repeats: int | Sequence[int]) -> Tensor:
        """See `ops.repeat`."""
        return ops.repeat(self, _one_tuple(repeats))

    @numpy_names
    def split(self, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
        """See `ops.split`."""
        return ops.split(self, split_size_or_sections, dim)

    @numpy_names
    def chunk(self, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
        """See `ops.chunk`."""
        return ops.chunk(self, chunks, dim)

    # By index.

    def gather(self, dim: int, index: TensorLike) -> Tensor:
        """See `ops.gather`."""
        return ops.gather(self, dim, index)

    def scatter_add(self, dim: int, index: TensorLike, src: TensorLike) -> Tensor:
        """See `ops.scatter_add`."""
        return ops.scatter_add(self, dim, index, src)

    def index_select(self, dim: int, index: TensorLike) -> Tensor:
        """See `ops.index_select`."""
        return ops.index_select(self, dim, index)

    def index_add(self, dim: int, index: TensorLike, source: TensorLike, alpha: builtins.float = 1) -> Tensor:
        """See `ops.index_add`."""
        return ops.index_add(self, dim, index, source, alpha)

    def masked_fill(self, mask: TensorLike, value: TensorLike) -> Tensor:
        """See `ops.masked_fill`."""
        return ops.masked_fill(self, mask, value)

    def nonzero(self, as_tuple: bool = False) -> Tensor | tuple[Tensor, ...]:
        """See `ops.nonzero`."""
        return ops.nonzero(self, as_tuple)

    @property
    def T(self) -> Tensor:
        """The tensor with its dimensions reversed."""
        return ops.permute(self, tuple(reversed(range(self.ndim))))

    def float(self) -> Tensor:
        """The tensor as float32."""
        return ops.cast(self, "float32")

    def astype(self, dtype: DTypeLike) -> Tensor:
        """See `ops.cast`."""
        return ops.cast(self, dtype)

    def clone(self) -> Tensor:
        """See `ops.clone`."""
        return ops.clone(self)

    # Reductions and functions.

    @numpy_names
    def sum(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """See `ops.sum`."""
        return ops.sum(self, dim, keepdim)

    @numpy_names
    def mean(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """See `ops.mean`."""
        return ops.mean(self, dim, keepdim)

    @numpy_names
    def max(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """See `ops.max`."""
        return ops.max(self, dim, keepdim)

    @numpy_names
    def min(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """See `ops.min`."""
        return ops.min(self, dim, keepdim)

    @numpy_names
    def prod(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """See `ops.prod`."""
        return ops.prod(self, dim, keepdim)

    @numpy_names
    def any(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """See `ops.any`."""
        return ops.any(self, dim, keepdim)

    @numpy_names
    def all(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """See `ops.all`."""
        return ops.all(self, dim, keepdim)

    @numpy_names
    def logsumexp(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """See `ops.logsumexp`."""
        return ops.logsumexp(self, dim, keepdim)

    @numpy_names
    def var(
        self, dim: int | Sequence[int] | None = None, correction: builtins.float = 1, keepdim: bool = False
    ) -> Tensor:
        """See `ops.var`."""
        return ops.var(self, dim, correction, keepdim)

    @numpy_names
    def std(
        self, dim: int | Sequence[int] | None = None, correction: builtins.float = 1, keepdim: bool = False
    ) -> Tensor:
        """See `ops.std`."""
        return ops.std(self, dim, correction, keepdim)

    @numpy_names
    def norm(
        self, p: builtins.float = 2, dim: int | Sequence[int] | None = None, keepdim: bool = False
    ) -> Tensor:
        """See `ops.norm`."""
        return ops.norm(self, p, dim, keepdim)

    @numpy_names
    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """See `ops.argmax`."""
        return ops.argmax(self, dim, keepdim)

    @numpy_names
    def argmin(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """See `ops.argmin`."""
        return ops.argmin(self, dim, keepdim)

    @numpy_names
    def cumsum(self, dim: int) -> Tensor:
        """See `ops.cumsum`."""
        return ops.cumsum(self, dim)

    @numpy_names
    def topk(self, k: int, dim: int = -1, largest: bool = True) -> tuple[Tensor, Tensor]:
        """See `ops.topk`."""
        return ops.topk(self, k, dim, largest)

    @numpy_names
    def sort(self, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
        """See `ops.sort`."""
        return ops.sort(self, dim, descending)

    @numpy_names
    def argsort(self, dim: int = -1, descending: bool = False) -> Tensor:
        """See `ops.argsort`."""
        return ops.argsort(self, dim, descending)

    def clip(self, min: TensorLike | None = None, max: TensorLike | None = None) -> Tensor:
        """See `ops.clip`."""
        return ops.clip(self, min, max)

    def exp(self) -> Tensor:
        """See `ops.exp`."""
        return ops.exp(self)

    def log(self) -> Tensor:
        """See `ops.log`."""
        return ops.log(self)

    def sqrt(self) -> Tensor:
        """See `ops.sqrt`."""
        return ops.sqrt(self)

    def square(self) -> Tensor:
        """See `ops.square`."""
        return ops.square(self)

    def tanh(self) -> Tensor:
        """See `ops.tanh`."""
        return ops.tanh(self)

    def sigmoid(self) -> Tensor:
        """See `ops.sigmoid`."""
        return ops.sigmoid(self)

    def relu(self) -> Tensor:
        """See `ops.relu`."""
        return ops.relu(self)

    def abs(self) -> Tensor:
        """See `ops.abs`."""
        return ops.abs(self)

    def gelu(self) -> Tensor:
        """See `ops.gelu`."""
        return ops.gelu(self)

    def silu(self) -> Tensor:
        """See `ops.silu`."""
        return ops.silu(self)

    def expm1(self) -> Tensor:
        """See `ops.expm1`."""
        return ops.expm1(self)

    def log1p(self) -> Tensor:
        """See `ops.log1p`."""
        return ops.log1p(self)

    def sin(self) -> Tensor:
        """See `ops.sin`."""
        return ops.sin(self)

    def cos(self) -> Tensor:
        """See `ops.cos`."""
        return ops.cos(self)

    def erf(self) -> Tensor:
        """See `ops.erf`."""
        return ops.erf(self)

    def rsqrt(self) -> Tensor:
        """See `ops.rsqrt`."""
        return ops.rsqrt(self)

    def reciprocal(self) -> Tensor:
        """See `ops.reciprocal`."""
        return ops.reciprocal(self)

    def floor(self) -> Tensor:
        """See `ops.floor`."""
        return ops.floor(self)

    def ceil(self) -> Tensor:
        """See `ops.ceil`."""
        return ops.ceil(self)

    def round(self) -> Tensor:
        """See `ops.round`."""
        return ops.round(self)

    def sign(self) -> Tensor:
        """See `ops.sign`."""
        return ops.sign(self)

    def isnan(self) -> Tensor:
        """See `ops.isnan`."""
        return ops.isnan(self)

    def isinf(self) -> Tensor:
        """See `ops.isinf`."""
        return ops.isinf(self)

    def isfinite(self) -> Tensor:
        """See `ops.isfinite`."""
        return ops.isfinite(self)

    def floor_divide(self, other: TensorLike) -> Tensor:
        """See `ops.floor_divide`."""
        return ops.floor_divide(self, other)

    def remainder(self, other: TensorLike) -> Tensor:
        """See `ops.remainder`."""
        return ops.remainder(self, other)

    def pow(self, exponent: TensorLike) -> Tensor:
        """See `ops.pow`."""
        return ops.pow(self, exponent)

    def matmul(self, other: TensorLike) -> Tensor:
        """See `ops.matmul`."""
        return ops.matmul(self, other)

    @numpy_names
    def softmax(self, dim: int = -1) -> Tensor:
        """See `ops.softmax`."""
        return ops.softmax(self, dim)

    @numpy_names
    def log_softmax(self, dim: int = -1) -> Tensor:
        """See `ops.log_softmax`."""
        return ops.log_softmax(self, dim)


def _one_tuple(values: tuple[int | Sequence[int], ...]) -> tuple[int, ...]:
    if len(values) == 1 and not isinstance(values[0], int):
        return tuple(values[0])
    return values  # type: ignore[return-value]


def _masks(operator: str, *operands: Any) -> tuple[Tensor, ...]:
    """The operands of a logical operator, all of them bool."""
    masks = tuple(ops.as_tensor(operand) for operand in operands)
    for mask in masks:
        if mask.dtype != "bool":
            raise DTypeError(
                f"[{operator}] is for bool tensors, got {mask.dtype}; compare first, as in (x > 0) {operator} (x < 1), or use "
                "ops.logical_and, logical_or, logical_xor and logical_not"
            )
    return masks


def _restore(cls: type[Tensor], array: NDArray[Any], requires_grad: bool | None) -> Tensor:
    return cls(_core.from_numpy(array, True), requires_grad)
