// The kernels over several models, with one block for each chunk. They are part of kernels.cu.
//
// Two to five models have kernels of their own, one for bf16 throughout, which nearly every checkpoint has, and one for any
// formats. The last kernel takes any number of models, one element at a time.
#pragma once
#include "combine_chunk.h"

// `blocks` to a multiprocessor leave a thread the registers that its loads in flight need: 65,536 / (256 * blocks).
#define MI_COMBINE(name, Formats, models, blocks)                                                             \
    extern "C" __global__ void __launch_bounds__(mi::cuda::kThreads, blocks) name(mi::cuda::CombineTable table) { \
        mi::cuda::run_combine_chunk<mi::cuda::Formats, models>(table, blockIdx.x, worker());                  \
    }

MI_COMBINE(mi_combine_bf16_2, AllBF16, 2, 4)
MI_COMBINE(mi_combine_bf16_3, AllBF16, 3, 4)
MI_COMBINE(mi_combine_bf16_4, AllBF16, 4, 3)
MI_COMBINE(mi_combine_bf16_5, AllBF16, 5, 2)
MI_COMBINE(mi_combine_mixed_2, AnyFormats, 2, 3)
MI_COMBINE(mi_combine_mixed_3, AnyFormats, 3, 3)
MI_COMBINE(mi_combine_mixed_4, AnyFormats, 4, 2)
MI_COMBINE(mi_combine_mixed_5, AnyFormats, 5, 2)

extern "C" __global__ void __launch_bounds__(mi::cuda::kThreads, 4) mi_combine_any(mi::cuda::CombineTable table) {
    mi::cuda::run_combine_elements(table, blockIdx.x, worker());
}
