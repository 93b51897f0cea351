// The Python side of the guard over mapped files.
#include <pybind11/pybind11.h>
#include <unistd.h>

#include "bind.h"
#include "guard.h"

namespace py = pybind11;

namespace mi::cpu {
namespace {

int add(py::object map) {
    const Buffer buffer(map, false);
    const char* begin = buffer.range(0, buffer.size(), "map");
    if (reinterpret_cast<std::uintptr_t>(begin) % static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE)) != 0)
        throw py::value_error("a map begins on a page");
    const int number = guard_add(begin, buffer.size());
    if (number < 0) throw py::value_error("too many maps");
    return number;
}

py::object damage(int map) {
    const std::size_t offset = guard_damage(map);
    return offset == kIntact ? py::object(py::none()) : py::object(py::int_(offset));
}

}  // namespace

void bind_guard(py::module_& m) {
    m.def("guard_add", &add, py::arg("map"));
    m.def("guard_remove", &guard_remove, py::arg("number"));
    m.def("guard_damage", &damage, py::arg("number"));
    m.def("guard_faults", &guard_faults);
}

}  // namespace mi::cpu
