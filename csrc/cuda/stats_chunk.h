// Statistics of whole tensors on the device, with the bits of cpu/stats.h: the k-th largest |x - base|, and the moments of two
// tensors.
//
// Where threads share memory, the work is divided into phases, and all threads of a block finish one before any starts the
// next (MI_PHASE). So a loop over the threads for each phase runs the same code on a CPU.
#pragma once
#include "group.h"

namespace mi::cuda {

// Adds 1 to counts[bin] if `counted`. All threads of a warp call it together. Tensors often have one value that is much more
// frequent than all others (a difference of 0). So the threads that have the same bin as the first one are added at once.
template <class Count>
MI_INLINE void count_one(Count* counts, std::uint32_t bin, bool counted) {
#if defined(__CUDA_ARCH__)
    constexpr unsigned kWarp = 0xFFFFFFFFu;
    const unsigned all = __ballot_sync(kWarp, counted);
    if (all == 0) return;
    const int first = __ffs(int(all)) - 1;
    const bool same = counted && bin == __shfl_sync(kWarp, bin, first);
    const unsigned together = __ballot_sync(kWarp, same);
    if (int(threadIdx.x % 32) == first)
        atomicAdd(counts + bin, Count(__popc(together)));
    else if (counted && !same)
        atomicAdd(counts + bin, Count(1));
#else
    if (counted) ++counts[bin];
#endif
}

// atomicAdd has no overload for std::uint64_t, which is unsigned long.
using Count64 = unsigned long long;
static_assert(sizeof(Count64) == 8);

// Rank: the magnitude of x - base is an integer of 31 bits. The first pass counts the upper 13 bits in shared memory, and the
// second one the lower 18 bits of those magnitudes that have the upper bits found, which are few, in device memory. Counts
// are whole numbers, so the result does not depend on their order.

constexpr int kUpperBins = 1 << 13, kLowerBits = 18, kLowerBins = 1 << kLowerBits;

struct Difference {
    const char *x, *base;
    std::int64_t n;
    int x_type, base_type;
};

// Device memory of a search, zeros before the first pass.
struct Search {
    Count64 upper[kUpperBins];
    Count64 lower[kLowerBins];
    Count64 above;           // magnitudes above the bin that the first pass found
    std::uint32_t high;      // that bin
    std::uint32_t magnitude;  // the result
};

constexpr int kPart = 1 << 16;  // elements that a block takes at a time

// visit(magnitude, valid) for every element of the parts that this block takes. All threads of a warp call it together.
template <class Visit>
MI_INLINE void visit_magnitudes(const Difference& d, std::int64_t block, std::int64_t blocks, Worker me, const Visit& visit) {
    MI_ROLLED
    for (std::int64_t start = block * kPart; start < d.n; start += blocks * kPart) {
        const char* x = d.x + start * item_size(d.x_type);
        const char* base = d.base + start * item_size(d.base_type);
        const int n = d.n - start < kPart ? int(d.n - start) : kPart;
        const Division division = divide(
            n, [&](int element) { return aligned_at(x, d.x_type, element) && aligned_at(base, d.base_type, element); });
        const int groups = group_count(division);
        MI_ROLLED
        for (int first = 0; first < groups; first += me.count) {
            const int i = first + me.index;
            const int at = i < groups ? group_start(division, i) : 0, size = i < groups ? group_size(division, i) : 0;
            Group p{}, q{};
            if (division.wide && size == kGroup) {
                p = load_group(x + at * item_size(d.x_type), d.x_type);
                q = load_group(base + at * item_size(d.base_type), d.base_type);
            } else if (size > 0) {
                p = load_some(x + at * item_size(d.x_type), d.x_type, size);
                q = load_some(base + at * item_size(d.base_type), d.base_type, size);
            }
            widen(p, d.x_type), widen(q, d.base_type);
            MI_UNROLL
            for (int e = 0; e < kGroup; ++e) {
                const float difference = One::sub(One::floats(p.word[e]), One::floats(q.word[e]));
                visit(One::bits(difference) & 0x7FFFFFFFu, e < size);
            }
        }
    }
}

MI_INLINE void clear_upper(std::uint32_t* shared, Worker me) {
    for (int i = me.index; i < kUpperBins; i += me.count) shared[i] = 0;
}

// A block counts fewer than 2^32 elements, because a launch has so many blocks (launch.cpp).
MI_INLINE void count_upper(const Difference& d, std::uint32_t* shared, std::int64_t block, std::int64_t blocks, Worker me) {
    visit_magnitudes(d, block, blocks, me, [&](std::uint32_t magnitude, bool valid) {
        count_one(shared, magnitude >> kLowerBits, valid);
    });
}

MI_INLINE void add_upper(Search& search, const std::uint32_t* shared, Worker me) {
    for (int i = me.index; i < kUpperBins; i += me.count)
        if (shared[i] != 0) {
#if defined(__CUDA_ARCH__)
            atomicAdd(search.upper + i, Count64(shared[i]));
#else
            search.upper[i] += shared[i];
#endif
        }
}

MI_INLINE void count_lower(const Difference& d, Search& search, std::int64_t block, std::int64_t blocks, Worker me) {
    const std::uint32_t high = search.high;
    visit_magnitudes(d, block, blocks, me, [&](std::uint32_t magnitude, bool valid) {
        count_one(search.lower, magnitude & (kLowerBins - 1), valid && magnitude >> kLowerBits == high);
    });
}

// Finding the bin of a rank, by one block: sums of kThreads segments, then of the parts of the segment that has it.
struct Found {
    Count64 sums[kThreads];
    Count64 above;  // counts above `top`
    int top;        // the bins from here downwards hold the rank
};

// Thread i sums `width` bins, the i-th such run from `top` downwards, as far as there are any.
MI_INLINE void sum_runs(const Count64* counts, Found& found, int width, Worker me) {
    for (int i = me.index; i < kThreads; i += me.count) {
        Count64 sum = 0;
        for (int k = 0; k < width; ++k) {
            const int bin = found.top - i * width - k;
            if (bin >= 0) sum += counts[bin];
        }
        found.sums[i] = sum;
    }
}

// Moves `top` to the run that holds rank k, counted from 1.
MI_INLINE void choose_run(Found& found, Count64 k, int width, Worker me) {
    if (me.index != 0) return;
    int i = 0;
    while (i < kThreads - 1 && found.above + found.sums[i] < k) found.above += found.sums[i++];
    found.top -= i * width;
}

MI_INLINE void start_search(Found& found, int bins, Count64 above, Worker me) {
    if (me.index == 0) found.above = above, found.top = bins - 1;
}

// The widths of the runs in turn, for any number of bins up to kThreads^3; the last width is 1.
template <int kBins>
struct Widths {
    static constexpr int kFirst = (kBins + kThreads - 1) / kThreads, kSecond = (kFirst + kThreads - 1) / kThreads;
};

MI_INLINE void finish_upper(Search& search, const Found& found, Worker me) {
    if (me.index == 0) search.above = found.above, search.high = std::uint32_t(found.top);
}

MI_INLINE void finish_lower(Search& search, const Found& found, Worker me) {
    if (me.index == 0) search.magnitude = search.high << kLowerBits | std::uint32_t(found.top);
}

// Moments (cpu/stats.h): blocks of 1,024 elements of a piece of 2^20; in a block, element i goes to accumulator i mod 16; the
// accumulators of a block, then of the next one, are added in order. Here a thread has one accumulator of one block, and
// after all of them are done, one thread adds those of a piece for each moment.

constexpr int kBlockElements = 1024, kWays = 16, kMoments = 8, kPieceElements = 1 << 20;
constexpr int kBlocksInPiece = kPieceElements / kBlockElements;

struct Compared {
    const char *a, *b, *base;  // base: null, or what a and b are differences from
    std::int64_t n;
    int a_type, b_type, base_type;
};

MI_INLINE double add_double(double x, double y) {
#if defined(__CUDA_ARCH__)
    return __dadd_rn(x, y);
#else
    return x + y;
#endif
}

MI_INLINE double size_of(double x) { return x < 0.0 ? -x : x; }

// Exact: x and y are float32.
MI_INLINE double product(double x, double y) {
#if defined(__CUDA_ARCH__)
    return __dmul_rn(x, y);
#else
    return x * y;
#endif
}

// parts: double [blocks of 1,024, kWays, kMoments].
MI_INLINE void accumulate_way(const Compared& c, double* parts, std::int64_t block_index, Worker me) {
    const std::int64_t accumulator = block_index * me.count + me.index;
    const std::int64_t block = accumulator / kWays, start = block * kBlockElements;
    const int way = int(accumulator % kWays);
    if (start >= c.n) return;
    const int n = c.n - start < kBlockElements ? int(c.n - start) : kBlockElements;
    const char* a = c.a + start * item_size(c.a_type);
    const char* b = c.b + start * item_size(c.b_type);
    const char* base = c.base ? c.base + start * item_size(c.base_type) : nullptr;
    double sum[kMoments] = {};
    constexpr int kAhead = 8;
    MI_ROLLED
    for (int first = way; first < n; first += kAhead * kWays) {
        float x[kAhead], y[kAhead], z[kAhead];
        MI_UNROLL
        for (int k = 0; k < kAhead; ++k) {
            const int i = first + k * kWays;
            x[k] = i < n ? load_float(a, c.a_type, i) : 0.0f;
            y[k] = i < n ? load_float(b, c.b_type, i) : 0.0f;
            z[k] = base && i < n ? load_float(base, c.base_type, i) : 0.0f;
        }
        MI_UNROLL
        for (int k = 0; k < kAhead; ++k) {
            if (first + k * kWays >= n) continue;
            if (base) x[k] = One::sub(x[k], z[k]), y[k] = One::sub(y[k], z[k]);
            const double p = x[k], q = y[k], size = size_of(add_double(q, -p));
            sum[0] = add_double(sum[0], size_of(p));
            sum[1] = add_double(sum[1], size_of(q));
            sum[2] = add_double(sum[2], size);
            sum[3] = add_double(sum[3], product(p, p));
            sum[4] = add_double(sum[4], product(q, q));
            sum[5] = add_double(sum[5], product(p, q));
            sum[6] = add_double(sum[6], p == q ? 0.0 : 1.0);
            sum[7] = size > sum[7] ? size : sum[7];
        }
    }
    MI_UNROLL
    for (int m = 0; m < kMoments; ++m) parts[accumulator * kMoments + m] = sum[m];
}

// totals: double [pieces, kMoments]. The last moment is a maximum.
MI_INLINE void add_parts(const double* parts, double* totals, std::int64_t n, std::int64_t block_index, Worker me) {
    const std::int64_t thread = block_index * me.count + me.index, piece = thread / kMoments;
    const int moment = int(thread % kMoments);
    if (piece * kPieceElements >= n) return;
    const std::int64_t left = n - piece * kPieceElements;
    const int elements = left < kPieceElements ? int(left) : kPieceElements;
    const int blocks = (elements + kBlockElements - 1) / kBlockElements;
    const double* from = parts + piece * kBlocksInPiece * kWays * kMoments + moment;
    double total = 0.0;
    constexpr int kAhead = 4;  // blocks whose accumulators are loaded before the first is added: each addition waits for the last
    MI_ROLLED
    for (int block = 0; block < blocks; block += kAhead) {
        double part[kAhead * kWays];
        MI_UNROLL
        for (int k = 0; k < kAhead * kWays; ++k)
            part[k] = block + k / kWays < blocks ? from[(std::int64_t(block) * kWays + k) * kMoments] : 0.0;
        MI_UNROLL
        for (int k = 0; k < kAhead * kWays; ++k) {
            if (block + k / kWays >= blocks) continue;
            if (moment == kMoments - 1)
                total = part[k] > total ? part[k] : total;
            else
                total = add_double(total, part[k]);
        }
    }
    totals[thread] = total;
}

}  // namespace mi::cuda
