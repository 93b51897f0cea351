// The kernels: one block a chunk. Compiled to a fat binary without a host side (tools/fatbin.py) and found by name,
// hence extern "C".
#include "mixed.h"

namespace {

using mi::cuda::kThreads;

// Blocks a multiprocessor shall hold at once: 48 registers a thread, which all its loads in flight just fit in. (Turing
// holds four, and its compiler ignores the wish.)
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
