// The Python side of CRC-32C.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "bind.h"
#include "crc32c.h"

namespace py = pybind11;

namespace mi::cpu {
namespace {

Crc32c named(const std::string& isa) {
    kernels_named(isa);  // throws if this machine does not have the ISA
    return crc32c_of(isa);
}

std::uint32_t crc32c(py::object buffer, std::size_t offset, std::size_t count, const std::string& isa,
                     std::uint32_t crc) {
    const Crc32c update = named(isa);
    const Buffer from(buffer, false);
    const char* data = from.range(offset, count, "buffer");
    py::gil_scoped_release unlocked;
    return ~update(~crc, data, count);
}

// Also checks whether a piece of a floating-point dtype has a value that is not finite. This takes one pass over memory,
// because each block is checked while it is in the first-level cache.
std::pair<std::vector<std::uint32_t>, std::vector<bool>> crc32c_pieces(py::object buffer,
                                                                     const std::vector<std::size_t>& lengths,
                                                                     const std::vector<int>& dtypes,
                                                                     const std::string& isa) {
    constexpr std::size_t kBlock = 1 << 14;
    const Kernels& kernels = kernels_named(isa);
    const Crc32c update = named(isa);
    const Buffer from(buffer, false);
    if (!dtypes.empty() && dtypes.size() != lengths.size()) throw py::value_error("a dtype for each piece, or none");
    std::size_t offset = 0;
    for (std::size_t length : lengths) {
        from.range(offset, length, "buffer");
        offset += length;
    }
    for (int type : dtypes)
        if (type < kBF16 || type > kBytes) throw py::value_error("dtype codes are 0 (bf16) to 3 (bytes)");
    const char* data = from.range(0, offset, "buffer");
    std::vector<std::uint32_t> crcs;
    std::vector<bool> nonfinite;
    crcs.reserve(lengths.size()), nonfinite.reserve(lengths.size());
    py::gil_scoped_release unlocked;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        const int type = dtypes.empty() ? kBytes : dtypes[i];
        std::uint32_t state = ~0u;
        bool found = false;
        for (std::size_t left = lengths[i], n; left; data += n, left -= n) {
            n = type == kBytes ? left : std::min(left, kBlock);
            state = update(state, data, n);
            if (type != kBytes && !found) found = kernels.nonfinite(data, n, kExponents[type]);
        }
        crcs.push_back(~state), nonfinite.push_back(found);
    }
    return {crcs, nonfinite};
}

}  // namespace

void bind_crc32c(py::module_& m) {
    m.def("crc32c", &crc32c, py::arg("buffer"), py::arg("offset"), py::arg("count"), py::arg("isa"),
          py::arg("crc") = 0);
    m.def("crc32c_pieces", &crc32c_pieces, py::arg("buffer"), py::arg("lengths"), py::arg("dtypes"), py::arg("isa"));
    m.def("crc32c_combine", &crc32c_combined, py::arg("first"), py::arg("second"), py::arg("length"));
}

}  // namespace mi::cpu
