"""Bytes of a model file: safetensors whose header begins with a checksum over the whole file.

A file is ``<8-byte header length><JSON header><tensor data>``, which every safetensors reader opens. Quernel's header
always starts with the same bytes, :data:`PREFIX`, followed by the SHA-256 of the whole file taken with those 64 hex
digits replaced by zeros. So each byte is covered: one inside the digits makes them differ from the sum, any other
changes the sum, and a shorter or longer file has another sum. Nothing else of a file is looked at before the sum
agrees; then the safetensors library checks the header (sizes, offsets, overlaps) before anything is allocated.

The header is written here because the library orders metadata at random: equal models make equal bytes this way, and
the checksum has a fixed place.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quernel.errors import CorruptFileError, UnsupportedError

FORMAT_VERSION = 1
PREFIX = b'{"__metadata__":{"checksum":"sha256:'
_DIGITS = slice(8 + len(PREFIX), 8 + len(PREFIX) + 64)
_STALE_SECONDS = 3600

_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_NAMES = {v: k for k, v in _DTYPES.items()}


def encode(tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file holding `tensors` and `metadata` (strings; not ``checksum``)."""
    arrays = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)  # keeps every tensor aligned
    header: dict[str, Any] = {"__metadata__": {"checksum": "sha256:" + "0" * 64, **metadata}}
    offset = 0
    for name, array in arrays:
        end = offset + array.nbytes
        dtype = _DTYPES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    blob = bytearray(len(text).to_bytes(8, "little") + text)
    for _, array in arrays:
        blob += np.ascontiguousarray(array).tobytes()
    blob[_DIGITS] = hashlib.sha256(blob).hexdigest().encode("ascii")
    return bytes(blob)


def decode(blob: bytes, source: str) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Tensors and metadata of `blob`, which came from `source` (named in errors).

    Raises:
        CorruptFileError: any byte differs from what was written, or the header contradicts itself.
    """
    _verify(blob, source)
    import safetensors

    try:
        entries: Any = safetensors.deserialize(blob)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise CorruptFileError(f"[load] {source}: the header is not valid ({error})") from None
    length = int.from_bytes(blob[:8], "little")
    metadata: dict[str, str] = json.loads(blob[8 : 8 + length])["__metadata__"]
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _NAMES:
            raise CorruptFileError(f"[load] {source}: tensor '{name}' has the unknown dtype {entry['dtype']}")
        array = np.frombuffer(entry["data"], _numpy_dtype(_NAMES[entry["dtype"]]))
        tensors[name] = array.reshape(entry["shape"])
    return tensors, metadata


def write(arrays: Mapping[str, npt.NDArray[Any]], record: Mapping[str, Any]) -> bytes:
    """The bytes of a file holding `arrays` and the JSON values `record`, which describe them."""
    text = json.dumps(record, separators=(",", ":"))
    return encode(arrays, {"format": "quernel", "format_version": str(FORMAT_VERSION), "architecture": text})


def read(blob: bytes, source: str) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """What :func:`write` was given.

    Raises:
        CorruptFileError: see :func:`decode`; or nothing describes the tensors.
        UnsupportedError: a newer version wrote it.
    """
    arrays, metadata = decode(blob, source)
    try:
        version = int(metadata["format_version"])
        record = json.loads(metadata["architecture"])
    except (KeyError, ValueError, RecursionError) as error:
        raise CorruptFileError(f"[load] {source}: holds no architecture ({error})") from None
    if version > FORMAT_VERSION:
        raise UnsupportedError(
            f"[load] {source}: format {version} is newer than this version's {FORMAT_VERSION}; update quernel"
        )
    if not isinstance(record, dict):
        raise CorruptFileError(f"[load] {source}: holds no architecture")
    return arrays, record


def _verify(blob: bytes, source: str) -> None:
    if len(blob) < _DIGITS.stop:
        raise CorruptFileError(
            f"[load] {source}: {len(blob)} bytes are too few for a Quernel model; is it cut short?"
        )
    if blob[8 : _DIGITS.start] != PREFIX:
        raise CorruptFileError(
            f"[load] {source}: does not begin as a Quernel model does (damaged, or another format)"
        )
    digest = hashlib.sha256(blob[: _DIGITS.start])
    digest.update(b"0" * 64)
    digest.update(memoryview(blob)[_DIGITS.stop :])
    if blob[_DIGITS] != digest.hexdigest().encode("ascii"):
        raise CorruptFileError(
            f"[load] {source}: its checksum does not fit its {len(blob)} bytes (damaged or cut short); "
            "restore it from a copy"
        )


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    return np.dtype(name)


def write_atomic(path: str | os.PathLike[str], blob: bytes) -> None:
    """Replaces `path` by `blob`, whole or not at all: whatever happens, the old or the new file is there.

    Written beside the target, flushed to disk, then renamed over it. Permissions follow the umask. Temporary files
    that killed writers left behind are removed once they are an hour old.
    """
    target = Path(os.path.realpath(path))  # a symbolic link stays, its target is replaced
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"[save] there is no folder {str(target.parent)!r} to write {target.name!r} into"
        )
    if target.is_dir():
        raise IsADirectoryError(f"[save] {str(target)!r} is a folder; name a file in it")
    _sweep(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # other systems cannot open a folder, and need not
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(target: Path) -> None:
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        try:
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                left.unlink()
        except OSError:  # another writer swept it, or it is not ours
            continue
