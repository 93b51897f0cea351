// The loop over K inputs. A pair of registers is itself a lane type here, so that a formula is applied to both at once.
#pragma once
#include "../combine.h"
#include "loop.h"

namespace mi::cpu {

template <class L>
struct Two {
    using F = Pair<L>;
    struct I {
        typename L::I x, y;
    };
    MI_INLINE F floats(I i) { return {L::floats(i.x), L::floats(i.y)}; }
    MI_INLINE I bits(F f) { return {L::bits(f.x), L::bits(f.y)}; }
    MI_INLINE I splat(std::uint32_t u) { return {L::splat(u), L::splat(u)}; }
    MI_INLINE F splat_float(float f) { return {L::splat_float(f), L::splat_float(f)}; }
    MI_INLINE F sub(F a, F b) { return {L::sub(a.x, b.x), L::sub(a.y, b.y)}; }
    MI_INLINE F fma(F a, F b, F c) { return {L::fma(a.x, b.x, c.x), L::fma(a.y, b.y, c.y)}; }
    MI_INLINE F plus(F a, F b) { return {L::plus(a.x, b.x), L::plus(a.y, b.y)}; }
    MI_INLINE F mul(F a, F b) { return {L::mul(a.x, b.x), L::mul(a.y, b.y)}; }
    MI_INLINE F div(F a, F b) { return {L::div(a.x, b.x), L::div(a.y, b.y)}; }
    MI_INLINE I and_(I a, I b) { return {L::and_(a.x, b.x), L::and_(a.y, b.y)}; }
    MI_INLINE I xor_(I a, I b) { return {L::xor_(a.x, b.x), L::xor_(a.y, b.y)}; }
    MI_INLINE I if_nan(F f, I a, I b) { return {L::if_nan(f.x, a.x, b.x), L::if_nan(f.y, a.y, b.y)}; }
    MI_INLINE I if_greater(F u, F v, I a, I b) {
        return {L::if_greater(u.x, v.x, a.x, b.x), L::if_greater(u.y, v.y, a.y, b.y)};
    }
};

template <class L, class Format, Formula kFormula>
void combine_loop(void* out_, const void* const* x, std::size_t n, const Combine& c) {
    constexpr std::size_t kElements = 2 * L::kWidth, kBytesPerStep = kElements * Format::kSize;
    char* out = static_cast<char*>(out_);
    std::size_t at = 0;
    auto input = [&](int k) { return Format::load(static_cast<const char*>(x[k]) + at); };
    for (; n >= kElements; n -= kElements, at += kBytesPerStep)
        Format::template store<false>(out + at, evaluate<Two<L>, kFormula>(c, input));
    if (n == 0) return;
    alignas(64) char tail[kMaxModels][kBytesPerStep] = {}, result[kBytesPerStep];
    for (int k = 0; k < c.models; ++k)
        __builtin_memcpy(tail[k], static_cast<const char*>(x[k]) + at, n * Format::kSize);
    auto rest = [&](int k) { return Format::load(tail[k]); };
    Format::template store<false>(result, evaluate<Two<L>, kFormula>(c, rest));
    __builtin_memcpy(out + at, result, n * Format::kSize);
}

template <class L, class Format>
void combine_kernel(void* out, const void* const* x, std::size_t n, const Combine& c) {
    switch (c.formula) {
#define MI_LOOP(number, name, function, reads) \
    case Formula::number: return combine_loop<L, Format, Formula::number>(out, x, n, c);
        MI_FORMULAS(MI_LOOP)
#undef MI_LOOP
    }
}

template <class L>
void thin_kernel(float* t, const float* x, const float* base, std::size_t n, std::uint64_t key, float density,
                 std::uint64_t first) {
    const Thinning thin = thinning(density);
    for (std::size_t i = 0; i < n; ++i) t[i] = thinned(x[i], base[i], thin, key, first + i);
}

}  // namespace mi::cpu
