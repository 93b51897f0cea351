// E4M3, the 8-bit float of FP8 checkpoints (OCP 8-bit Floating Point Specification 1.0; torch's float8_e4m3fn): a sign,
// four exponent bits with bias 7, three of mantissa; subnormals, no inf, and 0x7F and 0xFF are its only NaNs.
#pragma once
#include "one.h"

namespace mi {

// Exact. Shifted into a float32's place the value is too small by 2^(127 - 7), its subnormals included: a multiplication
// by that power of two mends both at once, provided that subnormals are not flushed to zero.
MI_INLINE float e4m3_to_f32(std::uint8_t x) {
    const std::uint32_t magnitude = x & 0x7Fu;
    const float value = One::mul(One::floats(magnitude << 20), 0x1p120f);
    const std::uint32_t bits = One::bits(value) | (std::uint32_t(x & 0x80u) << 24);
    return One::floats(magnitude == 0x7Fu ? kNanF32 : bits);
}

}  // namespace mi
