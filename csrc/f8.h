// E4M3, the 8-bit float of FP8 checkpoints (OCP 8-bit Floating Point Specification 1.0; torch's float8_e4m3fn): a sign,
// four exponent bits with bias 7, three of mantissa; subnormals, no inf, and 0x7F and 0xFF are its only NaNs.
#pragma once
#include "lane.h"

namespace mi {

// Widening is exact, and takes two steps. Shifted into the position of a float32, the value is too small by a factor of
// 2^(127 - 7), including subnormals. Multiplying by this power of two corrects normal and subnormal values, provided that
// subnormals are not flushed.
MI_INLINE std::uint32_t e4m3_shifted(std::uint8_t x) {
    const std::uint32_t magnitude = x & 0x7Fu, sign = std::uint32_t(x & 0x80u) << 24;
    return magnitude == 0x7Fu ? kNanF32 : sign | (magnitude << 20);
}

template <class L>
MI_INLINE typename L::F e4m3_value(typename L::I shifted) {
    return L::mul(L::floats(shifted), L::splat_float(0x1p120f));
}

}  // namespace mi
