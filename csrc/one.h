// The lane type of one float, for the scalar CPU code and for GPU threads. fma is always an explicit call, and never the
// result of a compiler's contraction.
#pragma once
#include "lane.h"

namespace mi {

struct One {
    using F = float;
    using I = std::uint32_t;

    MI_INLINE F floats(I i) {
        F f;
        __builtin_memcpy(&f, &i, sizeof f);
        return f;
    }
    MI_INLINE I bits(F f) {
        I i;
        __builtin_memcpy(&i, &f, sizeof i);
        return i;
    }
    MI_INLINE I splat(std::uint32_t u) { return u; }
    MI_INLINE F splat_float(float f) { return f; }
    MI_INLINE I add(I x, I y) { return x + y; }
    MI_INLINE I and_(I x, I y) { return x & y; }
    MI_INLINE I or_(I x, I y) { return x | y; }
    MI_INLINE I xor_(I x, I y) { return x ^ y; }
    MI_INLINE I shr16(I x) { return x >> 16; }
    MI_INLINE I shl16(I x) { return x << 16; }
    MI_INLINE I if_nan(F f, I x, I y) { return f != f ? x : y; }
    MI_INLINE I if_greater(F u, F v, I x, I y) { return u > v ? x : y; }
#if defined(__CUDA_ARCH__)
    MI_INLINE F sub(F x, F y) { return __fsub_rn(x, y); }
    MI_INLINE F fma(F x, F y, F z) { return __fmaf_rn(x, y, z); }
    MI_INLINE F plus(F x, F y) { return __fadd_rn(x, y); }
    MI_INLINE F mul(F x, F y) { return __fmul_rn(x, y); }
    MI_INLINE F div(F x, F y) { return __fdiv_rn(x, y); }
#else
    MI_INLINE F sub(F x, F y) { return x - y; }
    MI_INLINE F fma(F x, F y, F z) { return __builtin_fmaf(x, y, z); }
    MI_INLINE F plus(F x, F y) { return x + y; }
    MI_INLINE F mul(F x, F y) { return x * y; }
    MI_INLINE F div(F x, F y) { return x / y; }
#endif
};

}  // namespace mi
