// AVX-512 F and BW (Skylake-SP, Zen 4 and later): 16 floats a register.
// AVX512_BF16's own conversion is not used: it flushes subnormals, which the contract keeps.
#if defined(__x86_64__)
#include <immintrin.h>

#include "table.h"

namespace mi::cpu {
namespace {

struct Avx512 {
    using F = __m512;
    using I = __m512i;
    static constexpr std::size_t kWidth = 16, kStreamAlign = 64;

    MI_INLINE F floats(I i) { return _mm512_castsi512_ps(i); }
    MI_INLINE I bits(F f) { return _mm512_castps_si512(f); }
    MI_INLINE I splat(std::uint32_t u) { return _mm512_set1_epi32(static_cast<int>(u)); }
    MI_INLINE F splat_float(float f) { return _mm512_set1_ps(f); }
    MI_INLINE F sub(F x, F y) { return _mm512_sub_ps(x, y); }
    MI_INLINE F fma(F x, F y, F z) { return _mm512_fmadd_ps(x, y, z); }
    MI_INLINE F plus(F x, F y) { return _mm512_add_ps(x, y); }
    MI_INLINE F mul(F x, F y) { return _mm512_mul_ps(x, y); }
    MI_INLINE F div(F x, F y) { return _mm512_div_ps(x, y); }
    MI_INLINE I add(I x, I y) { return _mm512_add_epi32(x, y); }
    MI_INLINE I and_(I x, I y) { return _mm512_and_si512(x, y); }
    MI_INLINE I or_(I x, I y) { return _mm512_or_si512(x, y); }
    MI_INLINE I xor_(I x, I y) { return _mm512_xor_si512(x, y); }
    MI_INLINE I shr16(I x) { return _mm512_srli_epi32(x, 16); }
    MI_INLINE I shl16(I x) { return _mm512_slli_epi32(x, 16); }
    MI_INLINE I if_nan(F f, I x, I y) {
        return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q), y, x);
    }
    MI_INLINE I if_greater(F u, F v, I x, I y) {
        return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(u, v, _CMP_GT_OQ), y, x);
    }

    MI_INLINE I load(const void* p) { return _mm512_loadu_si512(p); }
    template <bool Stream>
    MI_INLINE void store(void* p, I i) {
        if (Stream)
            _mm512_stream_si512(static_cast<__m512i*>(p), i);
        else
            _mm512_storeu_si512(p, i);
    }
    MI_INLINE F load_f16(const void* p, int index) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p) + index));
    }
    template <bool Stream>
    MI_INLINE void store_f16(void* p, F x, F y) {
        constexpr int kNearestEven = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        __m512i low = _mm512_castsi256_si512(_mm512_cvtps_ph(x, kNearestEven));
        store<Stream>(p, _mm512_inserti64x4(low, _mm512_cvtps_ph(y, kNearestEven), 1));
    }
    MI_INLINE void fence() { _mm_sfence(); }
};

}  // namespace

const Kernels avx512_kernels = kernels_of<Avx512>();

}  // namespace mi::cpu
#endif
