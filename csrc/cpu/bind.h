// Shared by the binding files: buffers, dtypes, ISAs by name.
#pragma once
#include <pybind11/pybind11.h>

#include <string>

#include "kernels.h"

namespace mi::cpu {

// A contiguous Python buffer, held for the lifetime of this object.
class Buffer {
    Py_buffer view_{};

public:
    Buffer(pybind11::handle object, bool writable) {
        if (PyObject_GetBuffer(object.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
            throw pybind11::error_already_set();
    }
    Buffer(Buffer&& other) noexcept : view_(other.view_) { other.view_ = Py_buffer{}; }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { PyBuffer_Release(&view_); }

    std::size_t size() const { return static_cast<std::size_t>(view_.len); }

    char* range(std::size_t offset, std::size_t bytes, const char* name) const {
        if (offset > size() || bytes > size() - offset)
            throw pybind11::value_error(std::string(name) + ": the range ends beyond the buffer");
        return static_cast<char*>(view_.buf) + offset;
    }
};

const Kernels& kernels_named(const std::string& isa);
DType dtype_of(pybind11::handle code);
DType float_type(pybind11::handle code);  // not kBytes
std::size_t element_count(pybind11::handle count);
void bind_combine(pybind11::module_& m);
void bind_guard(pybind11::module_& m);
void bind_virtual(pybind11::module_& m);
void bind_crc32c(pybind11::module_& m);
void bind_values(pybind11::module_& m);
void bind_tensors(pybind11::module_& m);

}  // namespace mi::cpu
