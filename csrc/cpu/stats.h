// Statistics of two tensors, block by block, in float64 or as integer counts.
//
// Sums have the same order on every ISA: element i goes to accumulator i mod 16, and the accumulators are added in order.
// The compiler may put accumulators side by side into registers, but it may not reorder a sum (no fast-math). So every
// machine computes the same bits.
#pragma once
#include "loop.h"

namespace mi::cpu {

// moments() adds to `total`: sums of |a|, |b|, |b - a|, a^2, b^2, a b; the count of unequal elements; max |b - a|. In
// float64 the products are exact for all three dtypes. b - a is exact for float16, and otherwise rounded once.
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

// The magnitude of x - base as an integer: without its sign, a float32 has the same order as its 31 bits. The first
// histogram counts the upper 16 bits, and the second one the lower 15 bits within one bin. Together they find any rank
// exactly.
constexpr std::uint32_t kHighBins = 1u << 16, kLowBins = 1u << 15;

template <class L>
MI_INLINE std::uint32_t difference_magnitude(float x, float base) {
    return One::bits(x - base) & 0x7FFFFFFFu;
}

// Writes the magnitudes from `low` to `high`, and counts those above `high`. Those beyond `room` are only counted.
template <class L>
Selected select_kernel(std::uint32_t* found, std::size_t room, const float* x, const float* base, std::size_t n,
                       std::uint32_t low, std::uint32_t high) {
    constexpr std::size_t kPart = 256;
    const std::uint32_t width = high - low;
    std::size_t above = 0, kept = 0;
    for (std::size_t at = 0; at < n; at += kPart) {
        const std::size_t m = n - at < kPart ? n - at : kPart;
        std::uint32_t magnitude[kPart], counts = 0;  // first the loops that the compiler can vectorise
        for (std::size_t i = 0; i < m; ++i) magnitude[i] = difference_magnitude<L>(x[at + i], base[at + i]);
        for (std::size_t i = 0; i < m; ++i) counts += magnitude[i] > high;
        above += counts;
        if (kept + m > room) {  // rare: the caller gives up if there are so many
            for (std::size_t i = 0; i < m; ++i) {
                const bool within = magnitude[i] - low <= width;
                if (within && kept < room) found[kept] = magnitude[i];
                kept += within;
            }
            continue;
        }
        for (std::size_t i = 0; i < m; ++i) {  // a store without a branch, because about one in forty is kept, at random
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
