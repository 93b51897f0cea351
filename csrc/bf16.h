// bf16 is the upper half of a float32: widening is a shift, narrowing is one rounding.
#pragma once
#include "lane.h"

namespace mi {

// Converts float32 to bf16, to nearest even. The result is in the upper 16 bits of each lane; the lower 16 are undefined.
// Adding 0x7FFF, plus one if the last kept bit is odd, carries into the kept bits exactly when the value must be rounded
// up. A carry out of the mantissa increments the exponent. So the largest finite values become inf, and subnormals need
// no special case.
template <class L>
MI_INLINE typename L::I round_to_bf16_high(typename L::F r) {
    typename L::I x = L::bits(r);
    typename L::I odd = L::and_(L::shr16(x), L::splat(1));
    typename L::I rounded = L::add(x, L::add(odd, L::splat(0x7FFF)));
    return L::if_nan(r, L::splat(kNanF32), rounded);
}

}  // namespace mi
