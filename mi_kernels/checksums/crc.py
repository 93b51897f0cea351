"""CRC-32C: computes it, joins two of them, and finds the flipped bit that explains a wrong one (csrc/crc32c.h).

As in RFC 3720, the initial value and the final XOR are all ones, so every CRC-32C program gives the same result.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from ..backends import cpu

# The longest message in which every bit has its own CRC difference: 2^31 - 1 bits, 32 of them in the CRC.
MOST_BYTES = (1 << 28) - 5
_POLYNOMIAL = 0x82F63B78
_BABY = 1 << 14  # number of baby steps in `flipped_bit`, and bits in a giant step


class FlippedBit(NamedTuple):
    """A bit of a message: the number of its byte, and of the bit in it, where 0 is the least significant."""

    byte: int
    bit: int


def crc32c(data: Any, crc: int = 0) -> int:
    """Returns the CRC-32C of the buffer `data`. `crc` is the CRC of the bytes before it, if there are any."""
    from .. import _cpu

    return _cpu.crc32c(data, 0, memoryview(data).nbytes, cpu.isa(), crc)


def combine(first: int, second: int, length: int) -> int:
    """Returns the CRC of two joined messages from the CRCs `first` and `second`. `length`: bytes of the second message.

    The result is first * x^(8 length) + second mod P: the initial values and final XORs of the three CRCs cancel.
    """
    from .. import _cpu

    return _cpu.crc32c_combine(first, second, length)


def flipped_bit(difference: int, length: int) -> FlippedBit | None:
    """Finds the single bit of a message of `length` bytes that changes its CRC by `difference` (an XOR) if flipped.

    Flipping bit b of byte i changes the CRC by x^(8 (length - 1 - i) + 7 - b + 32). The exponent is a discrete
    logarithm, found by baby steps and giant steps (Shanks 1971). Damage to many bits looks like a single flipped bit
    with probability 8 length / 2^32, which is 1 in 32 for 16 MiB.

    Returns:
        None if no single bit explains the difference, or if the message is longer than `MOST_BYTES`, so that several
        bits could.
    """
    # x + 1 divides P: an odd number of flipped bits leaves an odd number of ones.
    if length > MOST_BYTES or difference.bit_count() % 2 == 0:
        return None
    giants, power = _giant_steps((8 * length + 32).bit_length()), difference
    for step in range(_BABY):
        if power in giants:
            exponent = giants[power] * _BABY - step - 32
            if 0 <= exponent < 8 * length:
                return FlippedBit(length - 1 - exponent // 8, 7 - exponent % 8)
        power = (power >> 1) ^ (_POLYNOMIAL if power & 1 else 0)
    return None


@lru_cache
def _giant_steps(width: int) -> dict[int, int]:
    """Returns a table from x^(j * _BABY) mod P to j, for j * _BABY up to 2^width."""
    power, steps = 1 << 31, {}
    for j in range((1 << width) // _BABY + 2):
        steps[power] = j
        power = combine(power, 0, _BABY // 8)
    return steps
