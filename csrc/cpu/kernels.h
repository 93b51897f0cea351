// The kernels of one ISA, as a table of plain functions. Pointers need no alignment; counts are elements.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../combine.h"
#include "../nonfinite.h"

namespace mi::cpu {

enum DType : int { kBF16 = 0, kF16 = 1, kF32 = 2, kBytes = 3 };  // kBytes: copied, never computed with

inline constexpr std::size_t kItemSize[] = {2, 2, 4, 1};
inline constexpr int kFloatTypes = 3;

// The result of select() for a block: the number of magnitudes above `high`, and the number kept from `low` to `high`.
struct Selected {
    std::size_t above, kept;
};

struct Kernels {
    // out = lerp(a, b, w), all of one dtype, indexed by DType. out may equal a or b. `stream` bypasses the cache; use it
    // only if out is not an input and is not read soon.
    void (*lerp[kFloatTypes])(void* out, const void* a, const void* b, std::size_t n, float w, bool stream);
    // The lerp loop over bf16 without its arithmetic (two reads, an OR, one write): the roofline of this ISA.
    void (*touch)(void* out, const void* a, const void* b, std::size_t n, float w, bool stream);
    // Conversions between dtypes, through float32.
    void (*widen[kFloatTypes])(float* out, const void* in, std::size_t n);
    void (*narrow[kFloatTypes])(void* out, const float* in, std::size_t n);
    // Combines x[0] .. x[c.models - 1], all of one dtype (combine.h). out may equal any of them.
    void (*combine[kFloatTypes])(void* out, const void* const* x, std::size_t n, const Combine& c);
    // Dare's task vector: t = kept(first + i) ? (x - base) * (1 / density) : 0.
    void (*thin)(float* t, const float* x, const float* base, std::size_t n, std::uint64_t key, float density,
                 std::uint64_t first);
    // Runs of virtual tensors (virtual.h): out = e4m3 * scale; w += scale * (left . right), at most kStrip elements.
    void (*scaled)(float* out, const std::uint8_t* in, std::size_t n, float scale);
    void (*low_rank)(float* w, const float* left, const float* right, std::size_t rank, std::size_t n, float scale);
    // Returns whether any value in these bytes is not finite (nonfinite.h).
    bool (*nonfinite)(const void* data, std::size_t bytes, Exponent e);
    // Statistics of two blocks (stats.h).
    void (*moments)(double* total, const float* a, const float* b, std::size_t n);
    void (*high_histogram)(std::uint64_t* counts, const float* x, const float* base, std::size_t n);
    Selected (*select)(std::uint32_t* found, std::size_t room, const float* x, const float* base, std::size_t n,
                       std::uint32_t low, std::uint32_t high);
    void (*low_histogram)(std::uint64_t* counts, const float* x, const float* base, std::size_t n, std::uint32_t high);
};

extern const Kernels scalar_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_kernels;
#endif

}  // namespace mi::cpu
