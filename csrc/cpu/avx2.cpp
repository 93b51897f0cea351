// AVX2 with FMA and F16C (Haswell, Zen and later): 8 floats a register.
#if defined(__x86_64__)
#include <immintrin.h>

#include "table.h"

namespace mi::cpu {
namespace {

struct Avx2 {
    using F = __m256;
    using I = __m256i;
    static constexpr std::size_t kWidth = 8, kStreamAlign = 32;

    MI_INLINE F floats(I i) { return _mm256_castsi256_ps(i); }
    MI_INLINE I bits(F f) { return _mm256_castps_si256(f); }
    MI_INLINE I splat(std::uint32_t u) { return _mm256_set1_epi32(static_cast<int>(u)); }
    MI_INLINE F splat_float(float f) { return _mm256_set1_ps(f); }
    MI_INLINE F sub(F x, F y) { return _mm256_sub_ps(x, y); }
    MI_INLINE F fma(F x, F y, F z) { return _mm256_fmadd_ps(x, y, z); }
    MI_INLINE F plus(F x, F y) { return _mm256_add_ps(x, y); }
    MI_INLINE F mul(F x, F y) { return _mm256_mul_ps(x, y); }
    MI_INLINE F div(F x, F y) { return _mm256_div_ps(x, y); }
    MI_INLINE I add(I x, I y) { return _mm256_add_epi32(x, y); }
    MI_INLINE I and_(I x, I y) { return _mm256_and_si256(x, y); }
    MI_INLINE I or_(I x, I y) { return _mm256_or_si256(x, y); }
    MI_INLINE I xor_(I x, I y) { return _mm256_xor_si256(x, y); }
    MI_INLINE I shr16(I x) { return _mm256_srli_epi32(x, 16); }
    MI_INLINE I shl16(I x) { return _mm256_slli_epi32(x, 16); }
    MI_INLINE I if_nan(F f, I x, I y) {
        return bits(_mm256_blendv_ps(floats(y), floats(x), _mm256_cmp_ps(f, f, _CMP_UNORD_Q)));
    }
    MI_INLINE I if_greater(F u, F v, I x, I y) {
        return bits(_mm256_blendv_ps(floats(y), floats(x), _mm256_cmp_ps(u, v, _CMP_GT_OQ)));
    }

    MI_INLINE I load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
    template <bool Stream>
    MI_INLINE void store(void* p, I i) {
        if (Stream)
            _mm256_stream_si256(static_cast<__m256i*>(p), i);
        else
            _mm256_storeu_si256(static_cast<__m256i*>(p), i);
    }
    MI_INLINE F load_f16(const void* p, int index) {
        return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p) + index));
    }
    template <bool Stream>
    MI_INLINE void store_f16(void* p, F x, F y) {
        constexpr int kNearestEven = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        store<Stream>(p, _mm256_set_m128i(_mm256_cvtps_ph(y, kNearestEven), _mm256_cvtps_ph(x, kNearestEven)));
    }
    MI_INLINE void fence() { _mm_sfence(); }
};

}  // namespace

const Kernels avx2_kernels = kernels_of<Avx2>();

}  // namespace mi::cpu
#endif
