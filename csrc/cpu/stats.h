// Statistics of two tensors, block by block, in float64 or in whole counts.
//
// Sums have one order on every ISA: element i goes to accumulator i mod 16, and the accumulators are added in order. The
// compiler may put accumulators side by side in registers; it may not reorder a sum (no fast-math), so every machine gets
// the same bits.
#pragma once
#include "loop.h"

namespace mi::cpu {

// What moments() adds to `total`: sums of |a|, |b|, |b - a|, a^2, b^2, a b; the count of unequal elements; max |b - a|.
// b - a and the products are exact in float64 for bf16 and float16 inputs.
enum Moment : int { kAbsA, kAbsB, kAbsDifference, kSquareA, kSquareB, kProduct, kUnequal, kLargest, kMoments };

template <class L>
void moments_kernel(double* total, const float* a, const float* b, std::size_t n) {
    constexpr std::size_t kWays = 16;
    double part[kMoments][kWays] = {};
    auto add = [&](std::size_t way, float a_, float b_) {
        double x = a_, y = b_, d = y - x, size = __builtin_fabs(d);
        part[kAbsA][way] += __builtin_fabs(x);
        part[kAbsB][way] += __builtin_fabs(y);
        part[kAbsDifference][way] += size;
        part[kSquareA][way] += x * x;
        part[kSquareB][way] += y * y;
        part[kProduct][way] += x * y;
        part[kUnequal][way] += x == y ? 0.0 : 1.0;
        part[kLargest][way] = size > part[kLargest][way] ? size : part[kLargest][way];
    };
    std::size_t i = 0;
    for (; i + kWays <= n; i += kWays)
        for (std::size_t way = 0; way < kWays; ++way) add(way, a[i + way], b[i + way]);
    for (; i < n; ++i) add(i % kWays, a[i], b[i]);
    for (int m = 0; m < kLargest; ++m)
        for (std::size_t way = 0; way < kWays; ++way) total[m] += part[m][way];
    for (std::size_t way = 0; way < kWays; ++way)
        total[kLargest] = part[kLargest][way] > total[kLargest] ? part[kLargest][way] : total[kLargest];
}

// The magnitude of x - base as an integer: float32 without its sign orders as its 31 bits do. The upper 16 make the first
// histogram, the lower 15 of one of its bins the second; together they find any rank exactly.
constexpr std::uint32_t kHighBins = 1u << 16, kLowBins = 1u << 15;

template <class L>
MI_INLINE std::uint32_t difference_magnitude(float x, float base) {
    return One::bits(x - base) & 0x7FFFFFFFu;
}

// Keeps the magnitudes from `low` to `high`, and counts those above. Kept ones beyond `room` are counted, not written.
template <class L>
Selected select_kernel(std::uint32_t* found, std::size_t room, const float* x, const float* base, std::size_t n,
                       std::uint32_t low, std::uint32_t high) {
    constexpr std::size_t kPart = 256;
    const std::uint32_t width = high - low;
    std::size_t above = 0, kept = 0;
    for (std::size_t at = 0; at < n; at += kPart) {
        const std::size_t m = n - at < kPart ? n - at : kPart;
        std::uint32_t magnitude[kPart], counts = 0;  // loops the compiler can vectorise first
        for (std::size_t i = 0; i < m; ++i) magnitude[i] = difference_magnitude<L>(x[at + i], base[at + i]);
        for (std::size_t i = 0; i < m; ++i) counts += magnitude[i] > high;
        above += counts;
        if (kept + m > room) {  // never in practice: the caller gives up when there are that many
            for (std::size_t i = 0; i < m; ++i) {
                const bool within = magnitude[i] - low <= width;
                if (within && kept < room) found[kept] = magnitude[i];
                kept += within;
            }
            continue;
        }
        for (std::size_t i = 0; i < m; ++i) {  // a store each and no branch: one in forty is kept, at random
            found[kept] = magnitude[i];
            kept += magnitude[i] - low <= width;
        }
    }
    return {above, kept};
}

template <class L>
void high_histogram_kernel(std::uint64_t* counts, const float* x, const float* base, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) ++counts[difference_magnitude<L>(x[i], base[i]) >> 15];
}

template <class L>
void low_histogram_kernel(std::uint64_t* counts, const float* x, const float* base, std::size_t n, std::uint32_t high) {
    for (std::size_t i = 0; i < n; ++i) {
        std::uint32_t magnitude = difference_magnitude<L>(x[i], base[i]);
        if (magnitude >> 15 == high) ++counts[magnitude & (kLowBins - 1)];
    }
}

}  // namespace mi::cpu
