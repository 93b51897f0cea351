// Values that are not finite: NaN and infinity have every bit of the exponent set, in bf16, float16 and float32 alike.
//
// With `exponent` the mask of those bits and `lowest` the lowest of them, (x & exponent) + lowest carries into the sign bit
// for exactly these values, and never beyond it: so two 16-bit values are tested side by side in one 32-bit word.
#pragma once
#include <cstdint>

#include "lane.h"

namespace mi {

struct Exponent {
    std::uint32_t mask, lowest;
};

// By DType (cpu/kernels.h): bf16, float16, float32; the first two twice in a word.
constexpr Exponent kExponents[] = {{0x7F807F80u, 0x00800080u}, {0x7C007C00u, 0x04000400u}, {0x7F800000u, 0x00800000u}};

// The sign bits of the values in each word of x that are not finite; other bits hold anything.
template <class L>
MI_INLINE typename L::I nonfinite(typename L::I x, typename L::I mask, typename L::I lowest) {
    return L::add(L::and_(x, mask), lowest);
}

}  // namespace mi
