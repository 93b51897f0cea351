// Pieces of virtual tensors (virtual.h): elements `first` to `first + n` of a row-major matrix, as float32.
#pragma once
#include <cstddef>

#include "kernels.h"

namespace mi::cpu {

struct ScaledSpan {
    float* out;
    const std::uint8_t* in;  // element `first`
    const void* scales;      // row-major, one for each block_rows x block_columns
    DType scale_type;
    std::size_t columns, block_rows, block_columns;
    std::size_t first, n;
};

void run_scaled(const ScaledSpan& span, const Kernels& kernels);

struct LowRankSpan {
    float* out;
    const void* w;  // element `first`; may be `out`
    const void *a, *b;
    DType w_type, a_type, b_type;
    // W is rows x columns. B is rows x rank and A is rank x columns; where W is stored transposed (`transposed`), B is
    // columns x rank and A is rank x rows.
    std::size_t rows, columns, rank;
    bool transposed;
    float scale;
    std::size_t first, n;
};

void run_low_rank(const LowRankSpan& span, const Kernels& kernels);

}  // namespace mi::cpu
