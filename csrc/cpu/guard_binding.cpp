// The Python side of the guard over mapped files.
#include <pybind11/pybind11.h>

#include <cerrno>
#include <memory>
#include <system_error>

#include "bind.h"
#include "guard.h"

namespace py = pybind11;

namespace mi::cpu {
namespace {

// Unmapping gigabytes takes a while, so it happens without the interpreter lock; ending the guard needs the lock.
struct Unmap {
    void operator()(GuardedMap* map) const {
        map->unguard();
        py::gil_scoped_release unlocked;
        delete map;
    }
};

using Holder = std::unique_ptr<GuardedMap, Unmap>;

Holder open(int fd) {
    try {
        return Holder(new GuardedMap(fd));
    } catch (const std::system_error& error) {
        errno = error.code().value();
        PyErr_SetFromErrno(PyExc_OSError);
        throw py::error_already_set();
    }  // std::length_error is ValueError
}

py::object damage(const GuardedMap& map) {
    const std::size_t offset = map.damage();
    return offset == kIntact ? py::object(py::none()) : py::object(py::int_(offset));
}

}  // namespace

void bind_guard(py::module_& m) {
    py::class_<GuardedMap, Holder>(m, "GuardedMap", py::buffer_protocol())
        .def(py::init(&open), py::arg("fd"))
        .def_buffer([](GuardedMap& map) {
            const auto* bytes = static_cast<const std::uint8_t*>(map.begin());
            return py::buffer_info(bytes, static_cast<py::ssize_t>(map.size()));
        })
        .def("fileno", &GuardedMap::fd)
        .def_property_readonly("damage", &damage);
    m.def("guard_faults", &guard_faults);
}

}  // namespace mi::cpu
