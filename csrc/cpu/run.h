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

// The touch kernel over one span of bytes, threaded the same way: the machine's roofline for run().
void run_touch(const Span& span, const Kernels& kernels, int threads, Stores stores);

}  // namespace mi::cpu
