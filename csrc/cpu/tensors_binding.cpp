// Reads the addresses, sizes and dtypes of thousands of torch tensors at once, and compares dictionaries of objects.
//
// A loop in Python over the properties of 60,000 tensors takes longer than a GPU needs to interpolate them. torch (2.10 and
// later) offers its tensors to C code through the exchange table of DLPack 1.3, which this file reads without torch's
// headers. The declarations follow dlpack.h (https://dmlc.github.io/dlpack/latest/c_api.html).
#include <pybind11/pybind11.h>

#include <algorithm>
#include <vector>

#include "bind.h"

namespace py = pybind11;

namespace mi::cpu {
namespace {

struct DLDevice {
    std::int32_t type, id;
};

struct DLDataType {
    std::uint8_t code, bits;
    std::uint16_t lanes;
};

struct DLTensor {
    void* data;
    DLDevice device;
    std::int32_t ndim;
    DLDataType dtype;
    std::int64_t *shape, *strides;
    std::uint64_t byte_offset;
};

struct ExchangeApi {
    std::uint32_t major, minor;
    ExchangeApi* previous;
    void* others[3];  // allocate, from and to Python objects
    int (*read)(void* object, DLTensor* out);
    int (*current_stream)(std::int32_t type, std::int32_t id, void** stream);
};

constexpr std::uint8_t kFloat = 2, kBFloat = 4;  // DLDataTypeCode

// Returns the table if it has the layout above, otherwise null.
const ExchangeApi* api_of(py::handle capsule) {
    if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
    const auto* api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    return api->major == 1 && api->minor >= 3 && api->read ? api : nullptr;
}

int code_of(DLDataType t) {
    if (t.lanes != 1) return -1;
    if (t.code == kBFloat && t.bits == 16) return kBF16;
    if (t.code == kFloat && t.bits == 16) return kF16;
    return t.code == kFloat && t.bits == 32 ? kF32 : -1;
}

// Returns the number of elements, or -1 if they are not contiguous in row-major order.
std::int64_t contiguous_elements(const DLTensor& t) {
    std::int64_t n = 1;
    for (int i = 0; i < t.ndim; ++i) n *= t.shape[i];
    if (n == 0 || !t.strides) return n;
    std::int64_t expected = 1;
    for (int i = t.ndim - 1; i >= 0; --i) {
        if (t.shape[i] != 1 && t.strides[i] != expected) return -1;
        expected *= t.shape[i];
    }
    return n;
}

// Reads rows of K tensors, one from each of the K lists in `columns`: table is int64 [T, K + 1], the addresses and the
// number of elements; codes is int32 [T, K], the dtypes. Returns (row, device type, device id). `row` is the first one
// with an object that is not a `kind`, a tensor that is not contiguous or has another dtype than the kernels', or tensors of
// different shapes or devices; -1 if there is none; -2 if `api` cannot be used.
py::tuple read_tensors(py::object api, py::type kind, py::list columns, py::object table, py::object codes) {
    const ExchangeApi* exchange = api_of(api);
    const std::size_t width = columns.size(), count = width ? py::len(columns[0]) : 0;
    const Buffer rows(table, true), types(codes, true);
    auto* row = reinterpret_cast<std::int64_t*>(rows.range(0, count * (width + 1) * sizeof(std::int64_t), "table"));
    auto* code = reinterpret_cast<std::int32_t*>(types.range(0, count * width * sizeof(std::int32_t), "codes"));
    std::vector<py::object> lists;  // as lists or tuples, whose items are at hand
    for (py::handle column : columns) {
        PyObject* fast = PySequence_Fast(column.ptr(), "a column is not a sequence");
        if (!fast) throw py::error_already_set();
        lists.push_back(py::reinterpret_steal<py::object>(fast));
        if (std::size_t(PySequence_Fast_GET_SIZE(fast)) != count) throw py::value_error("columns differ in length");
    }
    DLDevice device{0, 0};
    auto answer = [&](std::int64_t at) { return py::make_tuple(at, device.type, device.id); };
    if (!exchange) return answer(-2);
    std::vector<std::int64_t> shape;  // of the first tensor of a row: a view ends with the next call
    for (std::size_t i = 0; i < count; ++i, row += width + 1, code += width) {
        for (std::size_t k = 0; k < width; ++k) {
            PyObject* object = PySequence_Fast_GET_ITEM(lists[k].ptr(), Py_ssize_t(i));
            DLTensor t;
            if (!PyType_IsSubtype(Py_TYPE(object), reinterpret_cast<PyTypeObject*>(kind.ptr())))
                return answer(std::int64_t(i));
            if (exchange->read(object, &t) != 0) {  // no memory, or a layout that DLPack does not describe
                PyErr_Clear();
                return answer(std::int64_t(i));
            }
            if (i == 0 && k == 0) device = t.device;
            if (k == 0) shape.assign(t.shape, t.shape + t.ndim);
            const std::int64_t n = contiguous_elements(t);
            const bool same = t.ndim == std::int32_t(shape.size()) && std::equal(shape.begin(), shape.end(), t.shape) &&
                              t.device.type == device.type && t.device.id == device.id;
            code[k] = code_of(t.dtype);
            row[k] = reinterpret_cast<std::int64_t>(t.data) + std::int64_t(t.byte_offset);
            row[width] = n;
            if (n < 0 || code[k] < 0 || !same) return answer(std::int64_t(i));
        }
    }
    return answer(-1);
}

// Returns whether the values of all `dictionaries`, in order, are exactly the objects in `expected`.
bool same_values(py::list dictionaries, py::list expected) {
    constexpr Py_ssize_t kAhead = 16;  // the dictionaries of a large model are rarely in the caches
    const Py_ssize_t count = PyList_GET_SIZE(dictionaries.ptr());
    std::size_t k = 0;
    for (Py_ssize_t i = 0; i < count; ++i) {
        if (i + kAhead < count) __builtin_prefetch(PyList_GET_ITEM(dictionaries.ptr(), i + kAhead));
        PyObject* dictionary = PyList_GET_ITEM(dictionaries.ptr(), i);
        if (!PyDict_Check(dictionary)) throw py::type_error("not a dictionary");
        if (PyDict_Size(dictionary) == 0) continue;
        PyObject *key, *value;
        Py_ssize_t position = 0;
        while (PyDict_Next(dictionary, &position, &key, &value))
            if (k == expected.size() || value != PyList_GET_ITEM(expected.ptr(), Py_ssize_t(k++))) return false;
    }
    return k == expected.size();
}

}  // namespace

void bind_tensors(py::module_& m) {
    m.def("read_tensors", &read_tensors, py::arg("api"), py::arg("kind"), py::arg("columns"), py::arg("table"),
          py::arg("codes"));
    m.def("same_values", &same_values, py::arg("dictionaries"), py::arg("expected"));
}

}  // namespace mi::cpu
