// Linear interpolation, the formula of the contract:
//
//     d = b - a                                          float32, to nearest even
//     r = |w| < 0.5 ? fma(w, d, a) : fma(w - 1, d, b)    one rounding each, never contracted differently
//
// which is what torch.lerp computes in float32 (|w|: it matters only when extrapolating below -0.5).
#pragma once
#include "lane.h"

namespace mi {

// lam in the form that the arithmetic uses. The choice of the formula depends only on lam, so it is made once per call.
// w - 1 is exact in float32 for 0.5 <= w <= 2 (Sterbenz), and rounds once beyond, as in torch.
template <class L>
struct Weight {
    typename L::F coefficient;
    bool from_a;
};

template <class L>
MI_INLINE Weight<L> weight(float w) {
    const bool from_a = __builtin_fabsf(w) < 0.5f;
    return {L::splat_float(from_a ? w : w - 1.0f), from_a};
}

template <class L>
MI_INLINE typename L::F lerp(typename L::F a, typename L::F b, const Weight<L>& w) {
    typename L::F d = L::sub(b, a);
    return L::fma(w.coefficient, d, w.from_a ? a : b);
}

}  // namespace mi
