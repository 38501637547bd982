"""What runs where: instruction sets, threads, devices."""

from __future__ import annotations

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


def cuda_unavailable_reason() -> str:
    """Why ``device="cuda"`` cannot be used here."""
    return "this version of quernel has no CUDA kernels"


def check_device(device: str) -> str:
    """Returns the device to use; "auto" takes the best there is.

    Raises:
        DeviceError: The device is unknown or cannot be used, with the reason.
    """
    if device in ("cpu", "auto"):
        return "cpu"
    if device == "cuda" or device.startswith("cuda:"):
        raise DeviceError(
            f"[device] {device!r} cannot be used: {cuda_unavailable_reason()}; pass device='cpu' or 'auto'"
        )
    raise DeviceError(f"[device] unknown device {device!r}; there are 'cpu' and 'auto'")


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
        "cuda": f"no: {cuda_unavailable_reason()}",
    }


def show_config() -> None:
    """Prints version, CPU, instruction set, threads, and whether CUDA can be used, with the reason."""
    for name, value in config().items():
        sys.stdout.write(f"{name + ':':<9}{value}\n")
