// Checks on the values of tensors: whether they are finite, and whether they are equal. Each ISA has a fast test. The exact
// count is plain code, because it runs only if the test found a value.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "../nonfinite.h"
#include "bind.h"

namespace py = pybind11;

namespace mi::cpu {
namespace {

bool any_nonfinite(py::object buffer, std::size_t offset, py::object count, py::object dtype, const std::string& isa) {
    const Kernels& kernels = kernels_named(isa);
    const DType type = float_type(dtype);
    const std::size_t bytes = element_count(count) * kItemSize[type];
    const Buffer from(buffer, false);
    const char* data = from.range(offset, bytes, "buffer");
    py::gil_scoped_release unlocked;
    return kernels.nonfinite(data, bytes, kExponents[type]);
}

struct Found {
    std::uint64_t nan = 0, inf = 0;
};

constexpr std::size_t kPart = 4096;

// Counts the values of x[0] .. x[n - 1] that are not finite, and marks them in `flags`.
template <class Bits>
void count_part(const char* data, std::size_t n, Bits exponent, Found& found, std::uint8_t* flags) {
    constexpr Bits kMagnitude = static_cast<Bits>(~Bits(0)) >> 1;
    Bits x[kPart];
    std::memcpy(x, data, n * sizeof(Bits));
    std::uint32_t nan = 0, inf = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const Bits magnitude = x[i] & kMagnitude;
        nan += magnitude > exponent;
        inf += magnitude == exponent;
        flags[i] |= magnitude >= exponent;
    }
    found.nan += nan, found.inf += inf;
}

struct Block {
    const char* data;
    DType type;

    void count(std::size_t at, std::size_t n, Found& found, std::uint8_t* flags) const {
        const char* from = data + at * kItemSize[type];
        const std::uint32_t exponent = kExponents[type].mask;
        if (type == kF32)
            count_part<std::uint32_t>(from, n, exponent, found, flags);
        else
            count_part<std::uint16_t>(from, n, static_cast<std::uint16_t>(exponent), found, flags);
    }
};

// Returns the numbers of NaN and of infinities for each operand (buffer, offset, dtype), and the number of elements of
// `out` that are not finite although those of all operands are.
std::pair<std::vector<std::pair<std::uint64_t, std::uint64_t>>, std::uint64_t> count_nonfinite(py::tuple out,
                                                                                              py::sequence operands,
                                                                                              py::object count) {
    const std::size_t n = element_count(count);
    std::vector<Buffer> holders;
    holders.reserve(py::len(operands) + 1);
    auto block = [&](py::handle item) {
        py::tuple t = py::reinterpret_borrow<py::tuple>(item);
        if (!py::isinstance<py::tuple>(item) || t.size() != 3) throw py::value_error("an operand is a tuple of 3");
        const DType type = float_type(t[2]);
        holders.emplace_back(t[0], false);
        return Block{holders.back().range(t[1].cast<std::size_t>(), n * kItemSize[type], "operand"), type};
    };
    std::vector<Block> inputs;
    for (py::handle item : operands) inputs.push_back(block(item));
    const Block result = block(out);
    std::vector<Found> found(inputs.size());
    std::uint64_t overflowed = 0;
    {
        py::gil_scoped_release unlocked;
        for (std::size_t at = 0; at < n; at += kPart) {
            const std::size_t m = std::min(kPart, n - at);
            std::uint8_t given[kPart] = {}, made[kPart] = {};
            Found ignored;
            for (std::size_t k = 0; k < inputs.size(); ++k) inputs[k].count(at, m, found[k], given);
            result.count(at, m, ignored, made);
            for (std::size_t i = 0; i < m; ++i) overflowed += made[i] & ~given[i] & 1;
        }
    }
    std::vector<std::pair<std::uint64_t, std::uint64_t>> counts;
    for (const Found& f : found) counts.emplace_back(f.nan, f.inf);
    return {counts, overflowed};
}

bool same_bytes(py::object a, std::size_t a_offset, py::object b, std::size_t b_offset, std::size_t bytes) {
    const Buffer first(a, false), second(b, false);
    const char* x = first.range(a_offset, bytes, "a");
    const char* y = second.range(b_offset, bytes, "b");
    // The first bytes nearly always decide, and comparing them costs less than releasing the interpreter lock.
    constexpr std::size_t kProbe = 512;
    if (std::memcmp(x, y, std::min(bytes, kProbe)) != 0) return false;
    py::gil_scoped_release unlocked;
    return std::memcmp(x, y, bytes) == 0;
}

}  // namespace

void bind_values(py::module_& m) {
    m.def("any_nonfinite", &any_nonfinite, py::arg("buffer"), py::arg("offset"), py::arg("count"), py::arg("dtype"),
          py::arg("isa"));
    m.def("count_nonfinite", &count_nonfinite, py::arg("out"), py::arg("operands"), py::arg("count"));
    m.def("same_bytes", &same_bytes, py::arg("a"), py::arg("a_offset"), py::arg("b"), py::arg("b_offset"),
          py::arg("bytes"));
}

}  // namespace mi::cpu
