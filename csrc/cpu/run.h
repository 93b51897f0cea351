// Runs spans of work with a table of kernels, on one or more threads.
#pragma once
#include <cstddef>

#include "kernels.h"

namespace mi::cpu {

// n elements of one tensor. w == 0 copies a and w == 1 copies b: bytes if the dtypes are equal, converted values otherwise.
// kBytes spans are always copies of bytes. out may be exactly a or b, and must not overlap anything else.
struct Span {
    void* out;
    const void* a;
    const void* b;
    std::size_t n;
    float w;
    DType out_type, a_type, b_type;
};

enum class Stores { kAuto, kCached, kStreaming };

// `threads` includes the calling thread. Threads end with the call, so none can leak or be lost by fork().
void run(const Span* spans, std::size_t count, const Kernels& kernels, int threads, Stores stores);

// Computes several outputs of one pair in one pass: `group` consecutive spans share a, b, n and dtypes, and differ in w and
// out. Each block of the inputs is read once and stays in the cache for the other outputs. The bits are those of run().
void run_groups(const Span* spans, std::size_t count, std::size_t group, const Kernels& kernels);

// n elements of K tensors that are combined into one (combine.h). out may be exactly one of the inputs.
struct CombineSpan {
    void* out;
    const void* x[kMaxModels];
    std::size_t n;
    std::size_t first;  // index of the first element in its tensor, on which Dare's random numbers depend
    DType out_type, types[kMaxModels];
    Combine how;
};

void run_combine(const CombineSpan* spans, std::size_t count, const Kernels& kernels, int threads);

// Statistics of x - base, or of x if base is null; see stats.h.
struct StatsSpan {
    const void *a, *b, *base;
    std::size_t n;
    DType a_type, b_type, base_type;
};

void run_moments(const StatsSpan& span, const Kernels& kernels, double* total);
void run_high_histogram(const StatsSpan& span, const Kernels& kernels, std::uint64_t* counts);
Selected run_select(const StatsSpan& span, const Kernels& kernels, std::uint32_t low, std::uint32_t high,
                    std::uint32_t* found, std::size_t room);
void run_low_histogram(const StatsSpan& span, const Kernels& kernels, std::uint32_t high, std::uint64_t* counts);

// Runs the touch kernel over one span with the same threads: the roofline of this machine for run().
void run_touch(const Span& span, const Kernels& kernels, int threads, Stores stores);

}  // namespace mi::cpu
