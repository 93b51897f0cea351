// The Python side of CRC-32C.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "bind.h"
#include "crc32c.h"

namespace py = pybind11;

namespace mi::cpu {
namespace {

Crc32c named(const std::string& isa) {
    kernels_named(isa);  // refuses what this machine does not have
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

std::vector<std::uint32_t> crc32c_pieces(py::object buffer, const std::vector<std::size_t>& lengths,
                                         const std::string& isa) {
    const Crc32c update = named(isa);
    const Buffer from(buffer, false);
    std::size_t offset = 0;
    for (std::size_t length : lengths) {
        from.range(offset, length, "buffer");
        offset += length;
    }
    const char* data = from.range(0, offset, "buffer");
    std::vector<std::uint32_t> found;
    found.reserve(lengths.size());
    py::gil_scoped_release unlocked;
    for (std::size_t length : lengths) {
        found.push_back(~update(~0u, data, length));
        data += length;
    }
    return found;
}

}  // namespace

void bind_crc32c(py::module_& m) {
    m.def("crc32c", &crc32c, py::arg("buffer"), py::arg("offset"), py::arg("count"), py::arg("isa"),
          py::arg("crc") = 0);
    m.def("crc32c_pieces", &crc32c_pieces, py::arg("buffer"), py::arg("lengths"), py::arg("isa"));
    m.def("crc32c_combine", &crc32c_combined, py::arg("first"), py::arg("second"), py::arg("length"));
}

}  // namespace mi::cpu
