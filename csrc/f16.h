// float16 in software, one element at a time, for lane types without a conversion instruction.
#pragma once
#include "lane.h"

namespace mi {

// Exact. A subnormal, mantissa * 2^-24, is normalised by hand.
MI_INLINE std::uint32_t f16_to_f32_bits(std::uint16_t h) {
    std::uint32_t sign = std::uint32_t(h & 0x8000u) << 16;
    std::uint32_t exponent = (h >> 10) & 0x1Fu;
    std::uint32_t mantissa = h & 0x3FFu;
    if (exponent == 0x1Fu) return sign | 0x7F800000u | (mantissa << 13);
    if (exponent != 0) return sign | ((exponent + 112u) << 23) | (mantissa << 13);
    if (mantissa == 0) return sign;
    exponent = 113u;
    while ((mantissa & 0x400u) == 0) {
        mantissa <<= 1;
        --exponent;
    }
    return sign | (exponent << 23) | ((mantissa & 0x3FFu) << 13);
}

// To nearest even; overflow goes to inf, subnormals are kept, every NaN becomes kNanF16.
MI_INLINE std::uint16_t f32_bits_to_f16(std::uint32_t x) {
    std::uint32_t sign = (x >> 16) & 0x8000u;
    std::uint32_t magnitude = x & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return kNanF16;
    if (magnitude >= 0x477FF000u) return std::uint16_t(sign | 0x7C00u);  // 65520 and above
    std::uint32_t kept, rest, half;
    if (magnitude >= 0x38800000u) {  // normal in float16: drop 13 bits, rebias the exponent by 112
        kept = (magnitude >> 13) - (112u << 10);
        rest = magnitude & 0x1FFFu;
        half = 0x1000u;
    } else {  // subnormal: the mantissa with its leading one, counted in units of 2^-24
        std::uint32_t shift = 126u - (magnitude >> 23);
        if (shift > 24u) return std::uint16_t(sign);  // below half of the smallest subnormal
        std::uint32_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
        kept = mantissa >> shift;
        rest = mantissa & ((1u << shift) - 1u);
        half = 1u << (shift - 1u);
    }
    kept += (rest > half || (rest == half && (kept & 1u))) ? 1u : 0u;
    return std::uint16_t(sign | kept);
}

}  // namespace mi
