// One element at a time, without SIMD, compiled for the oldest machine: the reference for tests of the other ISAs.
// Without an FMA instruction the compiler calls fmaf of the C library, which is exact.
#include "table.h"

namespace mi::cpu {
namespace {

struct Scalar : One {
    static constexpr std::size_t kWidth = 1, kStreamAlign = 1;  // no streaming stores

    MI_INLINE I load(const void* p) {
        I i;
        __builtin_memcpy(&i, p, sizeof i);
        return i;
    }
    template <bool>
    MI_INLINE void store(void* p, I i) {
        __builtin_memcpy(p, &i, sizeof i);
    }
    MI_INLINE F load_f16(const void* p, int index) {
        std::uint16_t h;
        __builtin_memcpy(&h, static_cast<const char*>(p) + 2 * index, sizeof h);
        return floats(f16_to_f32_bits(h));
    }
    template <bool>
    MI_INLINE void store_f16(void* p, F x, F y) {
        std::uint16_t h[2] = {f32_bits_to_f16(bits(x)), f32_bits_to_f16(bits(y))};
        __builtin_memcpy(p, h, sizeof h);
    }
    MI_INLINE void fence() {}
};

}  // namespace

const Kernels scalar_kernels = kernels_of<Scalar>();

}  // namespace mi::cpu
