"""The random stream: one seed, one counter.

Draws are Philox4x32-10 over (seed, base + the op's offset, element): they depend on the seed and on how many numbers were
drawn before, never on threads, instruction set, or whether a plan replays the draw.
"""

from __future__ import annotations

import functools
import operator

from quernel import _core, recording
from quernel.errors import ArgumentError


@functools.cache
def default_generator() -> _core.Generator:
    """The generator that ops draw from unless given another; it starts at seed 0."""
    return _core.Generator(0)


def seed(value: int) -> None:
    """Starts the default stream anew.

    Raises:
        ArgumentError: The seed is negative, no whole number, or does not fit 64 bits.

    Example:
        >>> qn.seed(7)
        >>> a = qn.ops.uniform((3,))
        >>> qn.seed(7)
        >>> bool((qn.ops.uniform((3,)) == a).numpy().all())
        True
    """
    value = _checked(value)
    recording.host_write("qn.seed()")
    default_generator().set(value, 0)


def generator(value: int) -> _core.Generator:
    """A stream of its own, which starts at a seed.

    Raises:
        ArgumentError: As of `seed`.
    """
    return _core.Generator(_checked(value))


def _checked(value: int) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise ArgumentError(f"[seed] a seed is a whole number in [0, 2**64), got {value!r}") from None
    if not 0 <= value < 2**64:
        raise ArgumentError(f"[seed] a seed lies in [0, 2**64), got {value}")
    return value
