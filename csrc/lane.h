// The interface of a lane type, and the constants that every backend shares.
//
// The formulas (lerp.h) and the conversions (bf16.h, f16.h) name no instruction set. A lane type L supplies the
// primitive operations (one float on the scalar CPU and on a GPU, a register of floats with SIMD), and the templates
// say in which order they happen:
//
//     L::F               float32 lanes                 L::I               the same lanes as uint32 bits
//     L::sub(x, y)       x - y, rounded once           L::fma(x, y, z)    x * y + z, rounded once
//     L::bits(f)         reinterpret as integers       L::floats(i)       and back
//     L::splat(u)        u in every lane               L::splat_float(f)  f in every lane
//     L::mul, L::div, L::plus  float, rounded once     L::add, L::and_, L::xor_  integer
//     L::shr16(i)        logical shift right by 16     L::if_nan(f, x, y) per lane: f is NaN ? x : y
//     L::if_greater(u, v, x, y)                        per lane: u > v ? x : y (y when either is NaN)
//
// Everything is a template on L or always inlined, because each ISA is compiled with its own flags. The linker merges the
// copies of an ordinary inline function, so a machine without AVX-512 could run AVX-512 code.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define MI_INLINE static __host__ __device__ __forceinline__
#else
#define MI_INLINE static inline __attribute__((always_inline))
#endif

namespace mi {

// Every NaN result is this one, whatever NaN caused it: hardware differs in which payload it keeps, and the contract
// requires equal bits everywhere.
constexpr std::uint32_t kNanF32 = 0x7FC00000u;
constexpr std::uint16_t kNanF16 = 0x7E00u;

// For a result that stays float32: it is already rounded, and only a NaN is replaced by the canonical one.
template <class L>
MI_INLINE typename L::F canonical(typename L::F r) {
    return L::floats(L::if_nan(r, L::splat(kNanF32), L::bits(r)));
}

}  // namespace mi
