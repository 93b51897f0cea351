// The kernels, with one block for each chunk. They are compiled to a fat binary without host code (tools/fatbin.py) and
// looked up by name, so they are extern "C".
#include "mixed.h"

namespace {

using mi::cuda::kThreads;

// The number of blocks per multiprocessor. It leaves 48 registers for each thread, just enough for its loads in flight.
// (Turing runs only four blocks, and its compiler ignores the limit.)
constexpr int kBlocks = 5;

__device__ __forceinline__ mi::cuda::Worker worker() { return {int(threadIdx.x), kThreads}; }

}  // namespace

#define MI_KERNEL(name, Format)                                                                   \
    extern "C" __global__ void __launch_bounds__(kThreads, kBlocks) name(mi::cuda::Table table) { \
        mi::cuda::run_chunk<mi::cuda::Format>(table, blockIdx.x, worker());                       \
    }

MI_KERNEL(mi_lerp_bf16, BF16)
MI_KERNEL(mi_lerp_f16, F16)
MI_KERNEL(mi_lerp_f32, F32)

extern "C" __global__ void __launch_bounds__(kThreads, kBlocks)
    mi_lerp_mixed(mi::cuda::Table table, mi::cuda::Types types) {
    mi::cuda::run_mixed_chunk(table, blockIdx.x, types, worker());
}

#include "combine_kernels.h"
#include "stats_kernels.h"
