// Values that are not finite: NaN and infinity have every bit of the exponent set, in bf16, float16 and float32 alike.
//
// With `mask` for those bits and `lowest` for the lowest of them, (x & mask) + lowest carries into the sign bit for exactly
// these values, and never beyond it. So one 32-bit word can test two 16-bit values side by side.
#pragma once
#include <cstdint>

#include "lane.h"

namespace mi {

struct Exponent {
    std::uint32_t mask, lowest;
};

// By DType (cpu/kernels.h): bf16, float16, float32. A word has two values of the first two.
constexpr Exponent kExponents[] = {{0x7F807F80u, 0x00800080u}, {0x7C007C00u, 0x04000400u}, {0x7F800000u, 0x00800000u}};

// Sets the sign bit of each value in x that is not finite. The other bits are undefined.
template <class L>
MI_INLINE typename L::I nonfinite(typename L::I x, typename L::I mask, typename L::I lowest) {
    return L::add(L::and_(x, mask), lowest);
}

}  // namespace mi
