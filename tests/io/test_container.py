"""The bytes of a file: every damage is refused, writes are atomic, other readers can read it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from quernel.errors import CorruptFileError
from quernel.io.container import PREFIX, decode, encode, write_atomic
from tests.strategies import arrays, shapes

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int8", "uint8", "bool"]


def sample() -> bytes:
    tensors = {
        "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "bytes": np.arange(5, dtype=np.uint8),
        "empty": np.zeros((0, 7), np.float64),
        "scalar": np.array(-3, np.int64),
        "half": np.ones(3, ml_dtypes.bfloat16),
    }
    return encode(tensors, {"format": "quernel", "note": 'quotes " and\nlines'})


@given(st.data(), st.lists(st.sampled_from(DTYPES), max_size=5))
def test_round_trip(data: st.DataObject, dtypes: list[str]) -> None:
    tensors = {f"t{i}": data.draw(arrays(data.draw(shapes()), d)) for i, d in enumerate(dtypes)}
    found, metadata = decode(encode(tensors, {"note": "ü"}), "here")
    assert metadata["note"] == "ü"
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()


def test_equal_tensors_make_equal_bytes() -> None:
    assert sample() == sample()


def test_every_flipped_bit_is_refused() -> None:
    blob = sample()
    for position in range(len(blob)):
        for bit in range(8):
            damaged = bytearray(blob)
            damaged[position] ^= 1 << bit
            with pytest.raises(CorruptFileError, match=r"here\.safetensors"):
                decode(bytes(damaged), "here.safetensors")


def test_every_truncation_and_extension_is_refused() -> None:
    blob = sample()
    for end in range(len(blob)):
        with pytest.raises(CorruptFileError, match="here"):
            decode(blob[:end], "here")
    for more in (b"\0", b" ", b"}", blob):
        with pytest.raises(CorruptFileError, match="checksum"):
            decode(blob + more, "here")


def test_digits_of_the_checksum_have_one_spelling() -> None:
    blob = sample()
    start = 8 + len(PREFIX)
    upper = blob[:start] + blob[start : start + 64].upper() + blob[start + 64 :]
    assert upper != blob
    with pytest.raises(CorruptFileError, match="checksum"):
        decode(upper, "here")


def repaired(blob: bytes) -> bytes:
    """With the checksum that fits, so that what lies behind it is reached."""
    digits = slice(8 + len(PREFIX), 8 + len(PREFIX) + 64)
    damaged = bytearray(blob)
    damaged[digits] = b"0" * 64
    damaged[digits] = hashlib.sha256(damaged).hexdigest().encode()
    return bytes(damaged)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [3, 5]),
        ("shape", [-3, -4]),
        ("shape", [2**62, 2**62]),
        ("dtype", "F16"),
        ("dtype", "Q9"),
        ("data_offsets", [0, 2**60]),
        ("data_offsets", [48, 0]),
        ("data_offsets", [8, 56]),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(key: str, value: object) -> None:
    blob = encode({"w": np.ones((3, 4), np.float32)}, {})
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    header["w"][key] = value
    text = json.dumps(header, separators=(",", ":")).encode()
    assert text.startswith(PREFIX)
    with pytest.raises(CorruptFileError, match="here"):
        decode(repaired(len(text).to_bytes(8, "little") + text + blob[8 + length :]), "here")


def test_random_damage_behind_a_good_checksum() -> None:
    """With its checksum repaired, a damaged file is either refused or still a readable file; nothing else happens."""
    blob = sample()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(blob)
        for position in rng.integers(0, len(blob), rng.integers(1, 4)):
            damaged[position] = rng.integers(0, 256)
        try:
            decode(repaired(bytes(damaged)), "here")
        except CorruptFileError:
            refused += 1
    assert 1000 < refused < 2000


def test_other_readers_read_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_atomic(path, sample())
    with safe_open(path, "np") as file:
        assert file.get_tensor("weight")[2, 3] == 11
        assert file.metadata()["format"] == "quernel"


# ---- writing --------------------------------------------------------------------------------------------------------


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_replaces_the_target_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"\[save\] there is no folder '.*none' to write 'a\.q' into"):
        write_atomic(tmp_path / "none" / "a.q", b"x")
    with pytest.raises(IsADirectoryError, match=r"\[save\] .* is a folder"):
        write_atomic(tmp_path, b"x")
    assert not list(tmp_path.iterdir())


def test_sweeps_only_what_dead_writers_left(tmp_path: Path) -> None:
    old, fresh, other = (tmp_path / name for name in (".m[1].ab.tmp", ".m[1].cd.tmp", ".m1.ef.tmp"))
    for path in (old, fresh, other):
        path.write_bytes(b"")
    hours_ago = time.time() - 7200
    for path in (old, other):
        os.utime(path, (hours_ago, hours_ago))
    write_atomic(tmp_path / "m[1]", b"1")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".m1.ef.tmp", ".m[1].cd.tmp", "m[1]"]


FULL_DISK = """
import resource, signal, sys
from quernel.io.container import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(sys.argv[1], b"n" * 100_000)
except OSError:
    print("refused")
"""


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert path.read_bytes() == b"old"


WRITER = """
import sys
import numpy as np
from quernel.io.container import encode, write_atomic
n = 0
print("ready", flush=True)
while True:
    n += 1
    write_atomic(sys.argv[1], encode({"n": np.full(50_000, n, np.int64)}, {}))
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "m"
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.05 + float(rng.uniform(0, 0.05)))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        numbers = decode(path.read_bytes(), "m")[0]["n"]
        assert (numbers == numbers[0]).all()
        seen.add(int(numbers[0]))
    assert max(seen) > 1
