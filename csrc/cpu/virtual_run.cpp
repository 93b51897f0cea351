// Walks a piece of a virtual tensor: rows and blocks of scales, or rows and strips of the two factors.
#include "virtual_run.h"

#include <algorithm>
#include <vector>

#include "float_environment.h"
#include "virtual.h"

namespace mi::cpu {
namespace {

// Rows of W that share one packing of A's columns.
constexpr std::size_t kRows = 64;

const void* element(const void* from, DType type, std::size_t index) {
    return static_cast<const char*>(from) + index * kItemSize[type];
}

// to[o * outer_step + i * inner_step] = from[o * from_step + i], widened; `row` holds `inner` floats.
struct Packing {
    const Kernels& kernels;
    float* row;

    void operator()(float* to, std::size_t outer_step, std::size_t inner_step, const void* from, DType type,
                    std::size_t from_step, std::size_t outer, std::size_t inner) const {
        for (std::size_t o = 0; o < outer; ++o) {
            kernels.widen[type](row, element(from, type, o * from_step), inner);
            for (std::size_t i = 0; i < inner; ++i) to[o * outer_step + i * inner_step] = row[i];
        }
    }
};

}  // namespace

void run_scaled(const ScaledSpan& s, const Kernels& kernels) {
    DefaultFloatEnvironment environment;
    const std::size_t blocks = (s.columns + s.block_columns - 1) / s.block_columns;  // in a row
    for (std::size_t at = 0, m; at < s.n; at += m) {
        const std::size_t row = (s.first + at) / s.columns, column = (s.first + at) % s.columns;
        const std::size_t block = column / s.block_columns;
        m = std::min({s.n - at, (block + 1) * s.block_columns - column, s.columns - column});
        float scale;
        kernels.widen[s.scale_type](&scale, element(s.scales, s.scale_type, row / s.block_rows * blocks + block), 1);
        kernels.scaled(s.out + at, s.in + at, m, scale);
    }
}

void run_low_rank(const LowRankSpan& s, const Kernels& kernels) {
    if (s.n == 0) return;
    DefaultFloatEnvironment environment;
    if (s.w != s.out) kernels.widen[s.w_type](s.out, s.w, s.n);
    std::vector<float> left(kRows * s.rank), right((s.rank + 1) * kStrip), row(std::max({s.rank, kRows, kStrip}));
    const Packing pack{kernels, row.data()};
    const std::size_t end = s.first + s.n, rows_end = (end - 1) / s.columns + 1;
    for (std::size_t r = s.first / s.columns; r < rows_end; r += kRows) {
        const std::size_t rows = std::min(kRows, rows_end - r);
        if (s.transposed)
            pack(left.data(), 1, s.rank, element(s.a, s.a_type, r), s.a_type, s.rows, s.rank, rows);
        else
            pack(left.data(), s.rank, 1, element(s.b, s.b_type, r * s.rank), s.b_type, s.rank, rows, s.rank);
        // A single row may be partial; several rows together cover all columns.
        const std::size_t begin = rows == 1 ? std::max(s.first, r * s.columns) - r * s.columns : 0;
        const std::size_t stop = rows == 1 ? std::min(end - r * s.columns, s.columns) : s.columns;
        for (std::size_t c = begin; c < stop; c += kStrip) {
            const std::size_t width = std::min(kStrip, stop - c);
            if (s.transposed)
                pack(right.data(), 1, kStrip, element(s.b, s.b_type, c * s.rank), s.b_type, s.rank, width, s.rank);
            else
                pack(right.data(), kStrip, 1, element(s.a, s.a_type, c), s.a_type, s.columns, s.rank, width);
            for (std::size_t i = 0; i < rows; ++i) {
                const std::size_t strip = (r + i) * s.columns + c;
                const std::size_t from = std::max(strip, s.first), to = std::min(strip + width, end);
                if (from < to)
                    kernels.low_rank(s.out + (from - s.first), left.data() + i * s.rank, right.data() + (from - strip),
                                     s.rank, to - from, s.scale);
            }
        }
    }
}

}  // namespace mi::cpu
