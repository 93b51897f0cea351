// NEON, which every 64-bit Arm has: 4 floats a register.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "table.h"

namespace mi::cpu {
namespace {

struct Neon {
    using F = float32x4_t;
    using I = uint32x4_t;
    static constexpr std::size_t kWidth = 4, kStreamAlign = 1;  // no streaming stores: STNP is not faster here

    MI_INLINE F floats(I i) { return vreinterpretq_f32_u32(i); }
    MI_INLINE I bits(F f) { return vreinterpretq_u32_f32(f); }
    MI_INLINE I splat(std::uint32_t u) { return vdupq_n_u32(u); }
    MI_INLINE F splat_float(float f) { return vdupq_n_f32(f); }
    MI_INLINE F sub(F x, F y) { return vsubq_f32(x, y); }
    MI_INLINE F fma(F x, F y, F z) { return vfmaq_f32(z, x, y); }
    MI_INLINE F plus(F x, F y) { return vaddq_f32(x, y); }
    MI_INLINE F mul(F x, F y) { return vmulq_f32(x, y); }
    MI_INLINE F div(F x, F y) { return vdivq_f32(x, y); }
    MI_INLINE I add(I x, I y) { return vaddq_u32(x, y); }
    MI_INLINE I and_(I x, I y) { return vandq_u32(x, y); }
    MI_INLINE I or_(I x, I y) { return vorrq_u32(x, y); }
    MI_INLINE I xor_(I x, I y) { return veorq_u32(x, y); }
    MI_INLINE I shr16(I x) { return vshrq_n_u32(x, 16); }
    MI_INLINE I shl16(I x) { return vshlq_n_u32(x, 16); }
    MI_INLINE I if_nan(F f, I x, I y) { return vbslq_u32(vceqq_f32(f, f), y, x); }
    MI_INLINE I if_greater(F u, F v, I x, I y) { return vbslq_u32(vcgtq_f32(u, v), x, y); }

    MI_INLINE I load(const void* p) { return vreinterpretq_u32_u8(vld1q_u8(static_cast<const std::uint8_t*>(p))); }
    template <bool>
    MI_INLINE void store(void* p, I i) {
        vst1q_u8(static_cast<std::uint8_t*>(p), vreinterpretq_u8_u32(i));
    }
    MI_INLINE F load_f16(const void* p, int index) {
        return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(static_cast<const std::uint8_t*>(p) + 8 * index)));
    }
    template <bool>
    MI_INLINE void store_f16(void* p, F x, F y) {
        float16x8_t both = vcombine_f16(vcvt_f16_f32(x), vcvt_f16_f32(y));
        vst1q_u8(static_cast<std::uint8_t*>(p), vreinterpretq_u8_f16(both));
    }
    MI_INLINE void fence() {}
};

}  // namespace

const Kernels neon_kernels = kernels_of<Neon>();

}  // namespace mi::cpu
#endif
