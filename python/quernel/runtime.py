"""What runs where: instruction sets, threads, devices."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from quernel import _core
from quernel.errors import ArgumentError, DeviceError


def compiled_isas() -> list[str]:
    """Levels that this build contains, lowest first; the CPU may lack some of them."""
    return _core.compiled_isas()


def supported_isas() -> list[str]:
    """Levels that this build contains and this CPU can run, lowest first."""
    return _core.supported_isas()


def active_isa() -> str:
    """The level whose kernels run: the highest supported one, unless QUERNEL_ISA or `isa` chose a lower one."""
    return _core.active_isa()


@contextmanager
def isa(name: str) -> Iterator[None]:
    """Runs a block at another level, in all threads; plans recorded at one level are not replayed at another.

    Raises:
        ArgumentError: There is no such level, or this CPU lacks it.

    Example:
        >>> with qn.runtime.isa("scalar"):
        ...     qn.runtime.active_isa()
        'scalar'
    """
    before = _core.active_isa()
    _core.set_isa(name)
    try:
        yield
    finally:
        _core.set_isa(before)


def kernel_coverage() -> dict[str, str]:
    """Which level's code serves each kernel now: a kernel that a level lacks is served by the next lower one."""
    return dict(_core.kernel_coverage())


def num_threads() -> int:
    """Threads that work on a call, the caller included."""
    return _core.num_threads()


def set_num_threads(n: int) -> None:
    """Sets how many threads work on a call. Results do not depend on it, bit for bit.

    Raises:
        ArgumentError: `n` is below 1.
    """
    if n < 1:
        raise ArgumentError(f"[set_num_threads] at least one thread must work, got {n}")
    _core.set_num_threads(n)


@functools.cache
def cache_nbytes(level: int) -> int:
    """Bytes of a core's cache of this level, 2 or 3, as Linux tells; elsewhere a usual size."""
    from pathlib import Path

    try:
        text = Path(f"/sys/devices/system/cpu/cpu0/cache/index{level}/size").read_text(encoding="ascii")
        return int(text.strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 1 << 20 if level == 2 else 16 << 20


def cuda_unavailable_reason() -> str:
    """Why ``device="cuda"`` cannot be used here; "" if it can. The first call loads the CUDA library."""
    global _cuda_reason
    if _cuda_reason is None:
        try:
            _core.load_cuda(_cuda_library())
            _cuda_reason = ""
        except DeviceError as error:
            _cuda_reason = str(error).removeprefix("[cuda] ")
    return _cuda_reason


def is_cuda_available() -> bool:
    """Whether ``device="cuda"`` can be used. Never raises; `cuda_unavailable_reason` says why not."""
    return not cuda_unavailable_reason()


_cuda_reason: str | None = None  # nobody has asked so far


def _cuda_library() -> str:
    """Where the CUDA library lies: QUERNEL_CUDA_LIBRARY, or in the package quernel_cuda13."""
    import importlib.util
    import os
    from pathlib import Path

    if path := os.environ.get("QUERNEL_CUDA_LIBRARY"):
        return path
    spec = importlib.util.find_spec("quernel_cuda13")
    if spec is None or not spec.submodule_search_locations:
        raise DeviceError("[cuda] the CUDA engine is not installed; pip install 'quernel[cuda13]'")
    return str(Path(next(iter(spec.submodule_search_locations))) / "libquernel_cuda.so")


def check_device(device: str) -> str:
    """Returns the device to use, "cpu" or "cuda"; "auto" takes the best there is, and logs why it is not CUDA.

    Raises:
        DeviceError: The device is unknown or cannot be used, with the reason.
    """
    if device == "cpu":
        return device
    if device not in ("auto", "cuda", "cuda:0"):
        raise DeviceError(f"[device] unknown device {device!r}; there are 'cpu', 'cuda' and 'auto'")
    reason = cuda_unavailable_reason()
    if not reason:
        return "cuda"
    if device != "auto":
        raise DeviceError(f"[device] {device!r} cannot be used: {reason}; pass device='cpu' or 'auto'")
    import logging  # not at every start of a program

    logging.getLogger("quernel.runtime").info("[device] 'auto' is the CPU: %s", reason)
    return "cpu"


def default_device() -> str:
    """Where this thread makes tensors that come from no other tensor: "cpu", unless inside `device`."""
    return _core.default_device()


@contextmanager
def device(name: str) -> Iterator[None]:
    """Makes new tensors of this thread on a device: those from data, `zeros`, random numbers, new layers.

    Args:
        name: "cpu", "cuda" or "auto".

    Raises:
        DeviceError: The device is unknown or cannot be used, with the reason.

    Example:
        >>> with qn.runtime.device("auto"):
        ...     x = qn.zeros((2, 3))
    """
    before = _core.default_device()
    _core.set_default_device(check_device(name))
    try:
        yield
    finally:
        _core.set_default_device(before)


def synchronize() -> None:
    """Waits until everything launched on the CUDA device is done; for timing. Without CUDA there is nothing to wait for."""
    _core.cuda_synchronize()


def allow_tf32(allowed: bool | None = None) -> bool:
    """Whether CUDA may round the operands of float32 products and convolutions to tf32, from the next call on.

    tf32 keeps 10 of the 23 bits of a mantissa; sums stay in float32. GPUs from sm_80 on multiply it on tensor cores. Not
    allowed unless this says so: float32 is float32. It concerns conv2d, and linear layers and matmul where the second
    operand is packed or lies by rows of a multiple of 4, which sizes decide; and the gradients of their inputs; in all
    threads. The CPU, the gradients of weights, other products and older GPUs go on in float32.

    Args:
        allowed: The new setting; None leaves it.

    Returns:
        The setting.

    Example:
        >>> qn.runtime.allow_tf32()
        False
    """
    if allowed is not None:
        _core.allow_tf32(allowed)
    return _core.tf32_allowed()


def cuda_kernels() -> dict[str, bool]:
    """Which kernels the CUDA engine has; an op without its kernel raises `DeviceError` there.

    Raises:
        DeviceError: CUDA cannot be used.
    """
    check_device("cuda")
    return dict(_core.cuda_kernels())


def config() -> dict[str, str]:
    """Returns what `show_config` prints, by name."""
    threads, reason = _core.default_thread_count()
    absent = [name for name in compiled_isas() if name not in supported_isas()]
    levels = f"supported: {', '.join(supported_isas())}"
    if absent:
        levels += f"; compiled, but not for this CPU: {', '.join(absent)}"
    return {
        "quernel": _core.__version__,
        "cpu": f"{_core.cpu_model()} ({_core.cpu_features()})",
        "isa": f"{active_isa()} ({levels})",
        "threads": f"{num_threads()} (default {threads}: {reason})",
        "cuda": _cuda_summary(),
    }


def _cuda_summary() -> str:
    if reason := cuda_unavailable_reason():
        return f"no: {reason}"
    missing = [name for name, there in cuda_kernels().items() if not there]
    return _core.cuda_device() + (f"; no kernels for {', '.join(missing)}" if missing else "")


def show_config() -> None:
    """Prints version, CPU, instruction set, threads, and whether CUDA can be used, with the reason."""
    for name, value in config().items():
        sys.stdout.write(f"{name + ':':<9}{value}\n")
