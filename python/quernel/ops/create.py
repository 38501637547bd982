"""Making tensors: from data, filled with a constant, and from whatever an op is handed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np

from quernel import _core, recording
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.ops.dtypes import DTYPES, FLOATING, HALF, dtype_name, scalar_dtype
from quernel.ops.op import NotTensorLike
from quernel.runtime import check_device
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    TensorLike = Tensor | ArrayLike


def tensor(
    data: TensorLike, dtype: DTypeLike | None = None, requires_grad: bool = False, device: str | None = None
) -> Tensor:
    """Copies data into a new tensor.

    Args:
        data: Numbers, nested lists, NumPy arrays, tensors, anything with ``__array__`` or ``__dlpack__``, arrays on
            CUDA (CuPy, torch, …).
        dtype: The new tensor's dtype; by default that of the data, float32 for Python floats.
        requires_grad: Whether `Tensor.backward` computes a gradient for it.
        device: "cpu", "cuda" or "auto"; by default that of a tensor given, else `quernel.runtime.default_device`.

    Raises:
        DTypeError: A dtype that tensors do not have (complex, strings, …), or a gradient for integers.
        DeviceError: The device cannot be used.

    Example:
        >>> qn.tensor([[1, 2], [3, 4]], dtype="float32").shape
        (2, 2)
    """
    place = None if device is None else check_device(device)
    native = data.detach()._host("qn.tensor(tensor)") if isinstance(data, Tensor) else from_cuda(data)
    if native is None:
        array = _array(data, dtype)
        recording.host_read("array constant")
        native = _core.from_numpy(array, True, place)
    elif dtype is not None and dtype_name(dtype) != native.dtype:
        native = _core.cast(native, dtype_name(dtype))
    else:
        native = _core.copy(native)
    if place is not None and native.device != place:
        native = _core.to_device(native, place)
    if requires_grad and native.dtype not in FLOATING:
        raise DTypeError(
            f"[tensor] only floating tensors have gradients, this one is {native.dtype}; pass dtype='float32'"
        )
    return Tensor(native, requires_grad or None)


def as_tensor(data: TensorLike, dtype: DTypeLike | None = None) -> Tensor:
    """Returns tensors unchanged and wraps anything else, sharing its memory where the layout allows.

    A NumPy array that is shared this way must not be written to while a gradient may still be computed from it.

    Example:
        >>> a = np.zeros((2, 3), np.float32)
        >>> np.shares_memory(qn.as_tensor(a).numpy(), a)
        True
    """
    if isinstance(data, Tensor):
        if dtype is None or data.dtype == dtype_name(dtype):
            return data
        from quernel import ops

        return ops.cast(data, dtype)
    if type(data) is float or (
        isinstance(data, int) and abs(data) < 2**53
    ):  # numbers may well be part of a plan
        return Tensor(_core.full((), data, scalar_dtype(data) if dtype is None else dtype_name(dtype)))
    if type(data) is int and dtype is None and -(2**63) <= data < 2**63:
        return Tensor(_long(data))
    recording.host_read("array constant")
    if type(data) is np.ndarray and dtype is None:
        try:
            return Tensor(_core.from_numpy(data, False))
        except DTypeError:
            pass  # below, with what to do about it
    if (shared := from_cuda(data)) is not None:
        return Tensor(shared if dtype is None else _core.cast(shared, dtype_name(dtype)))
    return Tensor(_core.from_numpy(_array(data, dtype), False))


def from_cuda(data: Any) -> _core.Tensor | None:
    """A tensor in the memory of another library's array on CUDA, or None if this is no such array."""
    if isinstance(data, np.ndarray):
        return None
    owner = data.detach() if hasattr(data, "detach") else data  # torch refuses where a gradient is wanted
    interface = getattr(owner, "__cuda_array_interface__", None)
    if interface is None:
        return None
    recording.host_read("array constant")
    check_device("cuda")
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    if dtype.name not in DTYPES or not dtype.isnative or interface.get("mask") is not None:
        raise NotTensorLike(
            f"tensors cannot hold {dtype} on CUDA; convert to one of {', '.join(DTYPES)} first"
        )
    default = None if interface["version"] >= 3 else 1  # before that it was the default stream
    strides, dense = interface.get("strides"), dtype.itemsize
    for n, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if n > 1 and stride != dense and 0 not in shape:
            raise NotTensorLike(
                f"tensors cannot share an array of strides {strides}; pass a C-contiguous copy of it"
            )
        dense *= n
    return _core.from_cuda(interface["data"][0], shape, dtype.name, interface.get("stream", default), owner)


def _long(value: int) -> _core.Tensor:
    """An int64 that a double, which is how numbers reach kernels, may not hold: made of halves that it does."""
    high = _core.mul(_core.full((), value >> 32, "int64"), 2.0**32)
    return _core.add(high, float(value & 0xFFFFFFFF))


def full(
    shape: int | Sequence[int],
    fill_value: bool | float,
    dtype: DTypeLike = "float32",
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """Returns a new tensor with all elements equal to ``fill_value``, by default on `quernel.runtime.default_device`.

    Example:
        >>> qn.full((2,), 0.5)
        tensor([0.5, 0.5], dtype=float32)
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if isinstance(dtype, int):  # the second of several sizes, as PyTorch's zeros(2, 3) takes them
        raise DTypeError(f"[full] dtype is {dtype!r}; a shape is one argument, such as (2, 3)")
    if not isinstance(fill_value, SupportsFloat):
        raise DTypeError(f"[full] fill_value is a number, got {fill_value!r}")
    place = None if device is None else check_device(device)
    return Tensor(_core.full(sizes, fill_value, dtype_name(dtype), place), requires_grad or None)


def zeros(
    shape: int | Sequence[int],
    dtype: DTypeLike = "float32",
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """Returns a new tensor of zeros."""
    return full(shape, 0, dtype, requires_grad, device)


def ones(
    shape: int | Sequence[int],
    dtype: DTypeLike = "float32",
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """Returns a new tensor of ones."""
    return full(shape, 1, dtype, requires_grad, device)


def zeros_like(x: Tensor) -> Tensor:
    """Returns zeros of x's shape and dtype, on its device."""
    return full(x.shape, 0, x.dtype, device=x.device)


def arange(
    start: float,
    end: float | None = None,
    step: float = 1,
    dtype: DTypeLike | None = None,
    device: str | None = None,
) -> Tensor:
    """Returns ``start, start + step, …`` up to, but without, ``end``; with one number, ``0, 1, …`` up to that.

    Whole numbers give int64, others float32, unless ``dtype`` says otherwise.

    Example:
        >>> qn.arange(1, 7, 2)
        tensor([1, 3, 5], dtype=int64)
    """
    start, end = (0, start) if end is None else (start, end)
    if step == 0:
        raise ArgumentError("[arange] the step must not be 0")
    if not all(map(math.isfinite, (start, end, step))):
        raise ArgumentError(f"[arange] start, end and step are finite, got {start}, {end} and {step}")
    whole = all(isinstance(n, int | np.integer) for n in (start, end, step))
    name = ("int64" if whole else "float32") if dtype is None else dtype_name(dtype)
    if name in HALF:
        return tensor(np.arange(start, end, step), name, device=device)
    place = None if device is None else check_device(device)
    if whole:
        made = _core.iota(
            "int64", len(range(int(start), int(end), int(step))), 0.0, 0.0, int(start), int(step), place
        )
    else:
        count = max(0, math.ceil((end - start) / step))
        made = _core.iota("float64", count, start, (start + step) - start, 0, 0, place)  # as NumPy rounds it
    return Tensor(made if made.dtype == name else _core.cast(made, name))


def ones_like(x: Tensor) -> Tensor:
    """Returns ones of x's shape and dtype, on its device."""
    return full(x.shape, 1, x.dtype, device=x.device)


def _array(data: Any, dtype: DTypeLike | None) -> NDArray[Any]:
    """The data as a C-contiguous array of native byte order and of a dtype that tensors have."""
    if isinstance(data, np.ndarray | np.generic):
        array = np.asarray(data)
    elif hasattr(data, "__array__"):
        # A torch tensor that requires grad refuses __array__; its values are what is wanted here.
        array = np.asarray(data.detach() if hasattr(data, "detach") else data)
    elif hasattr(data, "__dlpack__"):
        array = np.from_dlpack(data)
    else:
        try:
            array = np.asarray(data)
        except ValueError as error:
            raise ShapeError(f"[tensor] nested lists must agree in length: {error}") from None
        if array.dtype == object:
            what = data if isinstance(data, int) else f"{type(data).__name__} objects"
            what = "Python objects in lists" if array.ndim else what
            raise NotTensorLike(f"tensors cannot hold {what}; pass numbers, arrays or tensors")
        if dtype is None and array.dtype == np.float64:
            dtype = "float32"
    name = array.dtype.name if dtype is None else dtype_name(dtype)
    if name not in DTYPES or (array.dtype.kind in "OSUV" and name != "bfloat16"):
        raise NotTensorLike(f"tensors cannot hold {array.dtype}; convert to one of {', '.join(DTYPES)} first")
    if array.dtype.name != name or not array.dtype.isnative:
        array = array.astype(_numpy_dtype(name))
    return np.ascontiguousarray(array) if array.ndim else array


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        from ml_dtypes import bfloat16

        bf16: np.dtype[Any] = np.dtype(bfloat16)
        return bf16
    return np.dtype(name)
