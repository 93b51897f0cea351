"""CRC-32C: of a buffer, of two messages in a row, and which flipped bit explains a wrong one (csrc/crc32c.h).

The initial value and the final XOR are all ones, as in RFC 3720, so that any CRC-32C program gives the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..backends import cpu

MOST_BYTES = (1 << 28) - 5  # of a message in which a flipped bit has a place of its own: 2^31 - 1 places, 32 in the CRC
_POLYNOMIAL = 0x82F63B78
_BABY = 1 << 14  # steps of one bit in `flipped_bit`; the others are of as many bits


def crc32c(data: Any, crc: int = 0) -> int:
    """The CRC-32C of a buffer, or of a message that ends with it where `crc` is that of what comes before."""
    from .. import _cpu

    return _cpu.crc32c(data, 0, memoryview(data).nbytes, cpu.isa(), crc)


def combine(first: int, second: int, length: int) -> int:
    """The CRC of two messages in a row from theirs, the second one of `length` bytes.

    It is first * x^(8 length) + second mod P: the initial values and final XORs of the three cancel.
    """
    from .. import _cpu

    return _cpu.crc32c_combine(first, second, length)


def flipped_bit(difference: int, length: int) -> tuple[int, int] | None:
    """Which single bit of a message of `length` bytes, if flipped, changes its CRC by `difference` (an XOR).

    Bit b of byte i changes it by x^(8 (length - 1 - i) + 7 - b + 32): the exponent is the discrete logarithm, found by
    baby and giant steps (Shanks 1971). Damage to many bits is taken for one of them with a probability of
    8 length / 2^32: 1 in 32 for 16 MiB.

    Returns:
        The byte and the bit, 0 the least significant; None where no single bit does it, or more than one could:
        beyond `MOST_BYTES`.
    """
    # x + 1 divides P: an odd number of flipped bits leaves an odd number of ones.
    if length > MOST_BYTES or difference.bit_count() % 2 == 0:
        return None
    giants, power = _giant_steps((8 * length + 32).bit_length()), difference
    for step in range(_BABY):
        if power in giants:
            exponent = giants[power] * _BABY - step - 32
            if 0 <= exponent < 8 * length:
                return length - 1 - exponent // 8, 7 - exponent % 8
        power = (power >> 1) ^ (_POLYNOMIAL if power & 1 else 0)
    return None


@lru_cache
def _giant_steps(width: int) -> dict[int, int]:
    """j by x^(j * _BABY) mod P, for j * _BABY up to 2^width."""
    power, steps = 1 << 31, {}
    for j in range((1 << width) // _BABY + 2):
        steps[power] = j
        power = combine(power, 0, _BABY // 8)
    return steps
