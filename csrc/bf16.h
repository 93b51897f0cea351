// bf16 is the upper half of a float32: widening is a shift, narrowing is one rounding.
#pragma once
#include "lane.h"

namespace mi {

// float32 -> bf16 to nearest even, the result in the upper 16 bits of each lane; the lower ones hold no meaning.
// Adding 0x7FFF, and one more when the last kept bit is odd, carries into the kept bits exactly when rounding must go
// up. A carry out of the mantissa lands in the exponent: that is how the largest finite values become inf, and why
// subnormals need no case of their own.
template <class L>
MI_INLINE typename L::I round_to_bf16_high(typename L::F r) {
    typename L::I x = L::bits(r);
    typename L::I odd = L::and_(L::shr16(x), L::splat(1));
    typename L::I rounded = L::add(x, L::add(odd, L::splat(0x7FFF)));
    return L::if_nan(r, L::splat(kNanF32), rounded);
}

}  // namespace mi
