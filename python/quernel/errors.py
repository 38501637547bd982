"""The library's errors. Each also is the built-in class that one would expect, so ``except ValueError`` works.

A message names the op in brackets, both sides of the disagreement, and the way out:
``[conv2d] weight expects 32 input channels, x has 16 (x: (8, 28, 28, 16), NHWC)``.

========================  ===================  =======================================================
class                     also is a            raised for
========================  ===================  =======================================================
`ShapeError`              ValueError           ranks, sizes and channel counts that do not fit
`ArgumentError`           ValueError           any other bad value: labels out of range, a NaN rate, …
`OutOfRangeError`         IndexError           indices beyond the end; an `ArgumentError` too
`DTypeError`              TypeError            element types that an op does not take
`StateError`              RuntimeError         the right call at the wrong time
`UnsupportedError`        NotImplementedError  what does not exist (yet), or not on this machine
`DeviceError`             UnsupportedError     devices that cannot be used or differ, with the reason
`CorruptFileError`        ArgumentError        damaged or foreign files
========================  ===================  =======================================================
"""

from __future__ import annotations

from quernel._core import (
    ArgumentError,
    DeviceError,
    DTypeError,
    OutOfRangeError,
    QuernelError,
    ShapeError,
    StateError,
    UnsupportedError,
)


class CorruptFileError(ArgumentError):
    """A file is damaged, or is not what its name says; nothing was loaded from it."""


__all__ = [
    "ArgumentError",
    "CorruptFileError",
    "DTypeError",
    "DeviceError",
    "OutOfRangeError",
    "QuernelError",
    "ShapeError",
    "StateError",
    "UnsupportedError",
]
