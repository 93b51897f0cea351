// Virtual tensors are not stored in a file: their float32 values are computed from stored tensors, one run of elements at a
// time. virtual_run.cpp finds the runs.
//
// Scaled (FP8 with a scale for each block): value = e4m3 * scale, rounded once.
//
// Low rank (LoRA, Hu et al. 2021; W + scale * B A):
//     delta = 0;  then for k = 0 .. rank - 1  delta = fma(B[i][k], A[k][j], delta);  value = fma(scale, delta, W[i][j])
#pragma once
#include "../f8.h"
#include "loop.h"

namespace mi::cpu {

template <class L>
void scaled_kernel(float* out, const std::uint8_t* in, std::size_t n, float scale) {
    constexpr std::size_t kElements = 128;  // the usual block: long enough that no load waits for its store
    const typename L::F factor = L::splat_float(scale);
    alignas(64) std::uint32_t shifted[kElements];
    // No lane type widens bytes, but the compiler vectorises this loop of fixed length.
    auto run = [&](float* to, const std::uint8_t* from) {
        for (std::size_t i = 0; i < kElements; ++i) shifted[i] = e4m3_shifted(from[i]);
        for (std::size_t i = 0; i < kElements; i += L::kWidth) {
            const typename L::F value = e4m3_value<L>(L::load(shifted + i));
            L::template store<false>(to + i, L::bits(canonical<L>(L::mul(value, factor))));
        }
    };
    for (; n >= kElements; n -= kElements, out += kElements, in += kElements) run(out, in);
    if (n == 0) return;
    std::uint8_t bytes[kElements] = {};
    float values[kElements];
    __builtin_memcpy(bytes, in, n);
    run(values, bytes);
    __builtin_memcpy(out, values, n * sizeof(float));
}

// Columns of A that are packed together: for the usual ranks, rank * kStrip floats stay in the first-level cache.
constexpr std::size_t kStrip = 128;

// w[0 .. n) += low rank, in place, n <= kStrip: part of one row. `left` is that row's `rank` numbers,
// right[k * kStrip + j] the column's; up to kStrip - 1 floats behind the last one are read, and not used.
template <class L>
void low_rank_kernel(float* w, const float* left, const float* right, std::size_t rank, std::size_t n, float scale) {
    // Eight independent chains hide the latency of the fma, and leave registers for the operands.
    constexpr std::size_t kChains = 8, kStep = kChains * L::kWidth;
    static_assert(kStrip % kStep == 0, "a strip is a whole number of steps");
    const typename L::F of_delta = L::splat_float(scale);
    for (std::size_t j = 0; j < n; j += kStep) {
        typename L::F delta[kChains];
        for (std::size_t c = 0; c < kChains; ++c) delta[c] = L::splat_float(0.0f);
        for (std::size_t k = 0; k < rank; ++k) {
            const typename L::F b = L::splat_float(left[k]);
            const float* a = right + k * kStrip + j;
            for (std::size_t c = 0; c < kChains; ++c)
                delta[c] = L::fma(b, L::floats(L::load(a + c * L::kWidth)), delta[c]);
        }
        alignas(64) float rest[kStep];
        const bool whole = n - j >= kStep;
        float* to = whole ? w + j : rest;
        if (!whole) __builtin_memcpy(rest, w + j, (n - j) * sizeof(float));
        for (std::size_t c = 0; c < kChains; ++c) {
            const typename L::F value = L::fma(of_delta, delta[c], L::floats(L::load(to + c * L::kWidth)));
            L::template store<false>(to + c * L::kWidth, L::bits(canonical<L>(value)));
        }
        if (!whole) __builtin_memcpy(w + j, rest, (n - j) * sizeof(float));
    }
}

}  // namespace mi::cpu
