// The kernels of one lane type, as the table that kernels.h declares.
#pragma once
#include "combine_loop.h"
#include "loop.h"
#include "nonfinite.h"
#include "stats.h"
#include "virtual.h"

namespace mi::cpu {

template <class L>
constexpr Kernels kernels_of() {
    Kernels k{};
    k.lerp[kBF16] = lerp_kernel<L, BF16<L>>;
    k.lerp[kF16] = lerp_kernel<L, F16<L>>;
    k.lerp[kF32] = lerp_kernel<L, F32<L>>;
    k.touch = touch_kernel<L>;
    k.widen[kBF16] = widen_bf16<L>;
    k.widen[kF16] = widen_f16<L>;
    k.widen[kF32] = widen_f32<L>;
    k.narrow[kBF16] = narrow_bf16<L>;
    k.narrow[kF16] = narrow_f16<L>;
    k.narrow[kF32] = narrow_f32<L>;
    k.combine[kBF16] = combine_kernel<L, BF16<L>>;
    k.combine[kF16] = combine_kernel<L, F16<L>>;
    k.combine[kF32] = combine_kernel<L, F32<L>>;
    k.thin = thin_kernel<L>;
    k.scaled = scaled_kernel<L>;
    k.low_rank = low_rank_kernel<L>;
    k.nonfinite = nonfinite_kernel<L>;
    k.moments = moments_kernel<L>;
    k.high_histogram = high_histogram_kernel<L>;
    k.select = select_kernel<L>;
    k.low_histogram = low_histogram_kernel<L>;
    return k;
}

}  // namespace mi::cpu
