// The Python side of virtual tensors.
#include <pybind11/pybind11.h>

#include "bind.h"
#include "float_environment.h"
#include "virtual_run.h"

namespace py = pybind11;

namespace mi::cpu {
namespace {

struct Matrix {
    std::size_t rows, columns;

    Matrix(const py::tuple& shape, std::size_t first, std::size_t n)
        : rows(shape[0].cast<std::size_t>()), columns(shape[1].cast<std::size_t>()) {
        element_count(py::int_(first));
        // Products are compared by division: they may not fit.
        if (n && (columns == 0 || (first + n - 1) / columns >= rows))
            throw py::value_error("the elements end beyond the matrix");
    }
};

// rows * columns, where they may come from a file and not fit.
std::size_t product(std::size_t rows, std::size_t columns) {
    std::size_t result = 0;
    if (__builtin_mul_overflow(rows, columns, &result)) throw py::value_error("the matrix is too large");
    return result;
}

// How many blocks of `size` cover `extent`; no sum that could overflow.
std::size_t blocks_in(std::size_t extent, std::size_t size) { return extent / size + (extent % size != 0); }

// A tensor of float elements, (buffer, offset, dtype).
struct Operand {
    Buffer buffer;
    std::size_t offset;
    DType type;

    explicit Operand(const py::tuple& t)
        : buffer(t[0], false), offset(t[1].cast<std::size_t>()), type(float_type(t[2])) {}

    const void* elements(std::size_t count, const char* name) const {
        return buffer.range(offset, product(count, kItemSize[type]), name);
    }
};

void scaled(py::object out, py::tuple weight, py::tuple scales, py::tuple shape, py::tuple block, std::size_t first,
            py::object count, const std::string& isa) {
    const Kernels& kernels = kernels_named(isa);
    ScaledSpan s{};
    s.n = element_count(count);
    s.first = first;
    const Matrix matrix(shape, first, s.n);
    s.columns = matrix.columns;
    s.block_rows = block[0].cast<std::size_t>(), s.block_columns = block[1].cast<std::size_t>();
    if (s.block_rows == 0 || s.block_columns == 0) throw py::value_error("a block has rows and columns");
    const Buffer to(out, true), from(weight[0], false);
    const Operand factors(scales);
    s.out = reinterpret_cast<float*>(to.range(0, s.n * sizeof(float), "out"));
    s.in = reinterpret_cast<const std::uint8_t*>(from.range(weight[1].cast<std::size_t>(), s.n, "weight"));
    const std::size_t blocks =
        product(blocks_in(matrix.rows, s.block_rows), blocks_in(matrix.columns, s.block_columns));
    s.scales = factors.elements(blocks, "scales");
    s.scale_type = factors.type;
    py::gil_scoped_release unlocked;
    run_scaled(s, kernels);
}

void low_rank(py::object out, py::tuple w, py::tuple a, py::tuple b, py::tuple shape, py::object rank, bool transposed,
              double scale, std::size_t first, py::object count, const std::string& isa) {
    const Kernels& kernels = kernels_named(isa);
    LowRankSpan s{};
    s.n = element_count(count);
    s.rank = element_count(rank);
    s.first = first;
    const Matrix matrix(shape, first, s.n);
    s.rows = matrix.rows, s.columns = matrix.columns;
    s.transposed = transposed;
    {
        DefaultFloatEnvironment environment;
        s.scale = static_cast<float>(scale);
    }
    const Buffer to(out, true);
    const Operand base(w), of_a(a), of_b(b);
    s.out = reinterpret_cast<float*>(to.range(0, s.n * sizeof(float), "out"));
    s.w = base.elements(s.n, "w"), s.w_type = base.type;
    s.a = of_a.elements(product(s.rank, transposed ? s.rows : s.columns), "a"), s.a_type = of_a.type;
    s.b = of_b.elements(product(s.rank, transposed ? s.columns : s.rows), "b"), s.b_type = of_b.type;
    py::gil_scoped_release unlocked;
    run_low_rank(s, kernels);
}

}  // namespace

void bind_virtual(py::module_& m) {
    m.def("scaled", &scaled, py::arg("out"), py::arg("weight"), py::arg("scales"), py::arg("shape"), py::arg("block"),
          py::arg("first"), py::arg("count"), py::arg("isa"));
    m.def("low_rank", &low_rank, py::arg("out"), py::arg("w"), py::arg("a"), py::arg("b"), py::arg("shape"),
          py::arg("rank"), py::arg("transposed"), py::arg("scale"), py::arg("first"), py::arg("count"), py::arg("isa"));
}

}  // namespace mi::cpu
