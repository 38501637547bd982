"""Memory on the device shared with other libraries: by __cuda_array_interface__ in and out, by DLPack out."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import _core, nn
from quernel.ops.op import NotTensorLike
from tests.checks import check_equal
from tests.conftest import DEVICE

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA; python -m tests.gpu runs this")

X = np.arange(12, dtype=np.float32).reshape(3, 4)


class Foreign:
    """An array of another library: another object with the interface of a tensor's memory, changed in places."""

    def __init__(self, tensor: qn.Tensor, **changes: Any) -> None:
        self.__cuda_array_interface__ = {**tensor.__cuda_array_interface__, **changes}
        self.tensor = tensor  # keeps the memory

    def __array__(self) -> None:
        raise TypeError("implicit conversion to a NumPy array is not allowed")


def pointer(x: Any) -> int:
    return int(x.__cuda_array_interface__["data"][0])


def test_arrays_on_the_device_are_shared() -> None:
    there = qn.tensor(X)
    interface = there.__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["strides"]) == ((3, 4), "<f4", None)
    shared = qn.as_tensor(Foreign(there))
    assert (shared.device, shared.shape, pointer(shared)) == ("cuda", (3, 4), pointer(there))
    del there
    gc.collect()
    check_equal(shared.numpy(), X)
    check_equal(qn.ops.add(Foreign(shared), 1).numpy(), X + 1)
    check_equal(nn.Linear(4, 2).to("cuda")(Foreign(shared)).shape, (3, 2))
    check_equal(qn.as_tensor(Foreign(shared), dtype="int32").numpy(), X.astype(np.int32))


def test_the_memory_is_held_as_long_as_it_is_used() -> None:
    gc.collect()
    before = _core.live_storages()
    foreign = Foreign(qn.tensor(X))
    shared = qn.as_tensor(foreign)
    del foreign
    gc.collect()
    assert _core.live_storages() == before + 2
    check_equal(shared.numpy(), X)
    del shared
    gc.collect()
    assert _core.live_storages() == before


def test_qn_tensor_copies_and_shared_memory_is_not_written() -> None:
    there = qn.tensor(X)
    copy = qn.tensor(Foreign(there))
    assert pointer(copy) != pointer(there)
    copy[0] = 7.0
    check_equal(there.numpy(), X)
    check_equal(qn.tensor(Foreign(there), device="cpu").numpy(), X)
    with pytest.raises(qn.errors.QuernelError, match="read-only"):
        qn.as_tensor(Foreign(there))[0] = 1.0


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "uint8", "int32", "int64", "bool"])
def test_every_dtype_but_bfloat16(dtype: str) -> None:
    there = qn.tensor(X.astype(dtype))
    check_equal(qn.as_tensor(Foreign(there)).numpy(), X.astype(dtype))
    assert not hasattr(qn.tensor(X, dtype="bfloat16"), "__cuda_array_interface__")
    assert not hasattr(qn.tensor(X, device="cpu"), "__cuda_array_interface__")


def test_strides() -> None:
    there = qn.tensor(X)
    for changes in (
        {"strides": (16, 4)},
        {"shape": (1, 12), "strides": (4, 4)},
        {"shape": (0, 5), "strides": (0, 0)},
    ):
        shape = changes.get("shape", (3, 4))
        assert qn.as_tensor(Foreign(there, **changes)).shape == shape
    with pytest.raises(NotTensorLike, match=r"array of strides \(4, 16\); pass a C-contiguous copy"):
        qn.as_tensor(Foreign(there, shape=(4, 3), strides=(4, 16)))
    with pytest.raises(NotTensorLike, match="cannot hold complex64 on CUDA"):
        qn.as_tensor(Foreign(there, typestr="<c8"))


class _DlTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", _DlTensor),
    ]  # fmt: skip


def _contents(capsule: Any, name: bytes) -> int:
    read = ctypes.pythonapi.PyCapsule_GetPointer
    read.restype, read.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(read(capsule, name))


def test_dlpack_tells_where_the_memory_is() -> None:
    there = qn.tensor(X)
    assert there.__dlpack_device__() == (2, 0)
    gc.collect()
    before = _core.live_storages()
    capsule = there.__dlpack__(max_version=(1, 0), stream=2)
    managed = _Versioned.from_address(_contents(capsule, b"dltensor_versioned"))
    t = managed.tensor
    assert (managed.major, managed.flags, t.data, t.device_type, t.ndim) == (1, 1, pointer(there), 2, 2)
    assert (t.code, t.bits, t.lanes, t.shape[:2], t.strides[:2]) == (2, 32, 1, [3, 4], [4, 1])
    storage_held = there.reshape(-1)  # another tensor of the same storage
    del there, managed, t
    gc.collect()
    check_equal(storage_held.numpy(), X.ravel())
    del storage_held
    gc.collect()
    assert _core.live_storages() == before  # the capsule keeps it
    del capsule
    gc.collect()
    assert _core.live_storages() == before - 1


@pytest.mark.parametrize(("dtype", "code"), [("bfloat16", 4), ("float16", 2)])
def test_dlpack_before_1_0_and_to_the_cpu_are_copies(dtype: str, code: int) -> None:
    there = qn.tensor(X, dtype=dtype)
    capsule = there.__dlpack__()
    t = _DlTensor.from_address(_contents(capsule, b"dltensor"))
    assert (t.code, t.bits) == (code, 16) and t.data != _core.cuda_pointer(there._t)
    host = np.from_dlpack(qn.tensor(X), device="cpu")
    check_equal(host, X)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_dlpack_refuses_what_it_cannot_do(device: str) -> None:
    there = qn.tensor(X, device=device)
    with pytest.raises(BufferError, match=rf"the tensor lies on '{device}', which is no device \(2, 1\)"):
        there.__dlpack__(max_version=(1, 0), dl_device=(2, 1))
    with pytest.raises(BufferError, match="a copy is needed"):
        there.__dlpack__(copy=False)
    if device == "cuda":
        with pytest.raises(BufferError, match="a copy is needed"):
            there.__dlpack__(max_version=(1, 0), dl_device=(1, 0), copy=False)
    assert there.__dlpack__(max_version=(1, 0), copy=False) is not None


def test_torch_takes_and_gives() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    there = qn.tensor(X)
    taken = torch.from_dlpack(there)
    assert taken.data_ptr() == pointer(there)
    given = qn.as_tensor(torch.ones(3, 4, device="cuda", requires_grad=True) * 2)
    check_equal((given + there).numpy(), X + 2)


def test_cupy_takes_and_gives() -> None:
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("CuPy sees no GPU")
    there = qn.tensor(X)
    taken = cupy.asarray(there)
    assert taken.data.ptr == pointer(there)
    check_equal(cupy.asnumpy(taken), X)
    with cupy.cuda.Stream():
        given = qn.as_tensor(cupy.arange(12, dtype="float32").reshape(3, 4) * 3)
    check_equal((given + there).numpy(), X * 4)
