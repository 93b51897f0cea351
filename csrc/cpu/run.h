// Runs spans of work with a table of kernels, on one or several threads.
#pragma once
#include <cstddef>

#include "kernels.h"

namespace mi::cpu {

// n elements of one tensor. w == 0 and w == 1 copy a's or b's bytes (converting only when the dtypes differ); kBytes
// spans are always such copies. out may be exactly a or b, and otherwise overlaps nothing.
struct Span {
    void* out;
    const void* a;
    const void* b;
    std::size_t n;
    float w;
    DType out_type, a_type, b_type;
};

enum class Stores { kAuto, kCached, kStreaming };

// `threads` counts the caller's. Threads live for one call: nothing to leak, nothing for fork() to lose.
void run(const Span* spans, std::size_t count, const Kernels& kernels, int threads, Stores stores);

// Output `w[0]`, `w[1]`, ... of one pair in one pass: `group` consecutive spans share a, b, n and dtypes. Each block of the
// inputs is read once and stays in cache for the other outputs; every output has the bits of its own run().
void run_groups(const Span* spans, std::size_t count, std::size_t group, const Kernels& kernels);

// n elements of K tensors made one (combine.h). out may be exactly one of the inputs.
struct CombineSpan {
    void* out;
    const void* x[kMaxModels];
    std::size_t n;
    std::size_t first;  // where these elements stand in their tensor: Dare's random numbers depend on it
    DType out_type, types[kMaxModels];
    Combine how;
};

void run_combine(const CombineSpan* spans, std::size_t count, const Kernels& kernels, int threads);

// What is counted of x - base (or of x itself where base is null), see stats.h.
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

// The touch kernel over one span of bytes, threaded the same way: the machine's roofline for run().
void run_touch(const Span& span, const Kernels& kernels, int threads, Stores stores);

}  // namespace mi::cpu
