// The kernels of the statistics. They are part of kernels.cu.
#pragma once
#include "stats_chunk.h"

namespace {

// The bin of rank k, by one block.
template <int kBins>
__device__ __forceinline__ void find_rank(const mi::cuda::Count64* counts, mi::cuda::Found& found, mi::cuda::Count64 above,
                                          mi::cuda::Count64 k) {
    using Widths = mi::cuda::Widths<kBins>;
    mi::cuda::start_search(found, kBins, above, worker());
    for (int width = Widths::kFirst;; width = width > Widths::kSecond ? Widths::kSecond : 1) {
        __syncthreads();
        mi::cuda::sum_runs(counts, found, width, worker());
        __syncthreads();
        mi::cuda::choose_run(found, k, width, worker());
        if (width == 1) break;
    }
    __syncthreads();
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 4) mi_count_upper(mi::cuda::Difference d, mi::cuda::Search* search) {
    __shared__ std::uint32_t bins[mi::cuda::kUpperBins];
    mi::cuda::clear_upper(bins, worker());
    __syncthreads();
    mi::cuda::count_upper(d, bins, blockIdx.x, gridDim.x, worker());
    __syncthreads();
    mi::cuda::add_upper(*search, bins, worker());
}

extern "C" __global__ void __launch_bounds__(kThreads) mi_find_upper(mi::cuda::Search* search, mi::cuda::Count64 k) {
    __shared__ mi::cuda::Found found;
    find_rank<mi::cuda::kUpperBins>(search->upper, found, 0, k);
    mi::cuda::finish_upper(*search, found, worker());
}

extern "C" __global__ void __launch_bounds__(kThreads, 4) mi_count_lower(mi::cuda::Difference d, mi::cuda::Search* search) {
    mi::cuda::count_lower(d, *search, blockIdx.x, gridDim.x, worker());
}

extern "C" __global__ void __launch_bounds__(kThreads) mi_find_lower(mi::cuda::Search* search, mi::cuda::Count64 k) {
    __shared__ mi::cuda::Found found;
    find_rank<mi::cuda::kLowerBins>(search->lower, found, search->above, k);
    mi::cuda::finish_lower(*search, found, worker());
}

extern "C" __global__ void __launch_bounds__(kThreads, 3) mi_moment_parts(mi::cuda::Compared c, double* parts) {
    mi::cuda::accumulate_way(c, parts, blockIdx.x, worker());
}

extern "C" __global__ void __launch_bounds__(kThreads) mi_moment_totals(const double* parts, double* totals, std::int64_t n) {
    mi::cuda::add_parts(parts, totals, n, blockIdx.x, worker());
}
