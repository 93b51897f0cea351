// Python passes device addresses, sizes and a stream as integers, so this file compiles without torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <climits>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "launch.h"

namespace py = pybind11;
using namespace mi::cuda;

namespace {

// The limit of the grid in x; and the largest chunk whose offsets, including the stride of the loop, fit in 32 bits.
constexpr std::int64_t kMaxChunks = INT_MAX, kMaxChunk = 1 << 29;

template <class T>
const T* address(std::uint64_t value, const char* name) {
    if (value == 0 || value % alignof(T) != 0)
        throw py::value_error(std::string(name) + ": not an address, or not a multiple of " + std::to_string(alignof(T)));
    return reinterpret_cast<const T*>(value);
}

int type(int code) {
    if (code < kBF16 || code > kF32) throw py::value_error("dtype codes are 0 (bf16) to 2 (float32)");
    return code;
}

std::int64_t count_of(std::int64_t n) {
    if (n < 1) throw py::value_error("count: at least 1 element");
    return n;
}

void check_chunks(std::int64_t chunks, std::int64_t chunk) {
    if (chunks < 0 || chunks > kMaxChunks) throw py::value_error("chunks: 0 to 2**31 - 1 in a launch");
    if (chunk < 1 || chunk > kMaxChunk) throw py::value_error("chunk: 1 to 2**29 elements");
}

void launch_table(int device, std::uint64_t stream, std::uint64_t tensors, std::uint64_t weights,
                  std::uint64_t chunk_tensor, std::uint64_t chunk_start, std::int64_t chunks, std::int64_t chunk,
                  int out_dtype, int a_dtype, int b_dtype) {
    check_chunks(chunks, chunk);
    const Types types{type(out_dtype), type(a_dtype), type(b_dtype)};
    if (chunks == 0) return;
    const Table table{address<std::int64_t>(tensors, "tensors"), address<float>(weights, "weights"),
                      address<std::int32_t>(chunk_tensor, "chunk_tensor"),
                      address<std::int64_t>(chunk_start, "chunk_start"), chunk};
    py::gil_scoped_release unlocked;
    launch(device, reinterpret_cast<Stream>(stream), table, chunks, types);
}

void combine_table(int device, std::uint64_t stream, std::uint64_t tensors, std::uint64_t combines,
                   std::uint64_t chunk_tensor, std::uint64_t chunk_start, std::int64_t chunks, std::int64_t chunk,
                   int models, bool bf16) {
    check_chunks(chunks, chunk);
    if (models < 1 || models > mi::kMaxModels) throw py::value_error("models: 1 to 16 can be combined");
    if (chunks == 0) return;
    const CombineTable table{address<std::int64_t>(tensors, "tensors"), address<mi::Combine>(combines, "combines"),
                             address<std::int32_t>(chunk_tensor, "chunk_tensor"),
                             address<std::int64_t>(chunk_start, "chunk_start"), chunk, models};
    py::gil_scoped_release unlocked;
    launch_combine(device, reinterpret_cast<Stream>(stream), table, chunks, bf16);
}

// (address, dtype) of a tensor.
using Operand = std::pair<std::uint64_t, int>;

const char* elements(const Operand& operand, const char* name) {
    return type(operand.second) == kF32 ? reinterpret_cast<const char*>(address<std::uint32_t>(operand.first, name))
                                        : reinterpret_cast<const char*>(address<std::uint16_t>(operand.first, name));
}

void kth_difference(int device, std::uint64_t stream, Operand x, Operand base, std::int64_t count, std::uint64_t k,
                    std::uint64_t search) {
    const Difference difference{elements(x, "x"), elements(base, "base"), count_of(count), x.second, base.second};
    if (k < 1 || k > std::uint64_t(count)) throw py::value_error("k: 1 to the number of elements");
    auto* memory = const_cast<Search*>(address<Search>(search, "search"));
    py::gil_scoped_release unlocked;
    launch_search(device, reinterpret_cast<Stream>(stream), difference, memory, k);
}

void moments(int device, std::uint64_t stream, Operand a, Operand b, std::optional<Operand> base, std::int64_t count,
             std::uint64_t parts, std::uint64_t totals) {
    const Compared compared{elements(a, "a"), elements(b, "b"), base ? elements(*base, "base") : nullptr, count_of(count),
                            a.second, b.second, base ? base->second : 0};
    auto* part = const_cast<double*>(address<double>(parts, "parts"));
    auto* total = const_cast<double*>(address<double>(totals, "totals"));
    py::gil_scoped_release unlocked;
    launch_moments(device, reinterpret_cast<Stream>(stream), compared, part, total);
}

int query(Result (*Driver::*call)(int*), const char* name) {
    const Driver& d = driver();
    int value = 0;
    d.check((d.*call)(&value), name);
    return value;
}

// Returns (major, minor), which decides the machine code for a device. Does not create a context, which would use memory.
py::tuple compute_capability(int ordinal) {
    constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
    const Driver& d = driver();
    Device device;
    int major = 0, minor = 0;
    d.check(d.device(&device, ordinal), "cuDeviceGet");
    d.check(d.attribute(&major, kMajor, device), "cuDeviceGetAttribute");
    d.check(d.attribute(&minor, kMinor, device), "cuDeviceGetAttribute");
    return py::make_tuple(major, minor);
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "CUDA kernels: a table of chunks interpolated to the contract's bits, in one launch.";
    m.attr("CUDA_VERSION") = MI_CUDA_VERSION;
    py::register_exception<Error>(m, "CudaError", PyExc_RuntimeError);
    m.def("driver_version", [] { return query(&Driver::version, "cuDriverGetVersion"); });
    m.def("device_count", [] { return query(&Driver::device_count, "cuDeviceGetCount"); });
    m.def("compute_capability", &compute_capability, py::arg("device"));
    m.def("prepare", &prepare, py::arg("device"), py::call_guard<py::gil_scoped_release>());
    m.def("launch", &launch_table, py::arg("device"), py::arg("stream"), py::kw_only(), py::arg("tensors"),
          py::arg("weights"), py::arg("chunk_tensor"), py::arg("chunk_start"), py::arg("chunks"), py::arg("chunk"),
          py::arg("out_dtype"), py::arg("a_dtype"), py::arg("b_dtype"));
    m.def("launch_combine", &combine_table, py::arg("device"), py::arg("stream"), py::kw_only(), py::arg("tensors"),
          py::arg("combines"), py::arg("chunk_tensor"), py::arg("chunk_start"), py::arg("chunks"), py::arg("chunk"),
          py::arg("models"), py::arg("bf16"));
    m.def("kth_difference", &kth_difference, py::arg("device"), py::arg("stream"), py::kw_only(), py::arg("x"),
          py::arg("base"), py::arg("count"), py::arg("k"), py::arg("search"));
    m.def("moments", &moments, py::arg("device"), py::arg("stream"), py::kw_only(), py::arg("a"), py::arg("b"),
          py::arg("base"), py::arg("count"), py::arg("parts"), py::arg("totals"));
    m.attr("COMBINE_SIZE") = sizeof(mi::Combine);
    m.attr("SEARCH_SIZE") = sizeof(Search);
    m.attr("SEARCH_RESULT") = offsetof(Search, magnitude);
}
