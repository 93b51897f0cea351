// The Python interface: it takes buffers, counts and dtype codes, and everything else stays on the C++ side. The
// interpreter lock is released during arithmetic.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <string>
#include <vector>

#include "bind.h"
#include "float_environment.h"
#include "isa.h"
#include "run.h"

namespace py = pybind11;

namespace mi::cpu {

const Kernels& kernels_named(const std::string& name) {
    static const std::vector<Isa> isas = available_isas();
    for (const Isa& isa : isas)
        if (isa.name == name) return *isa.kernels;
    throw py::value_error("no ISA named '" + name + "' on this machine");
}

DType dtype_of(py::handle code) {
    int value = code.cast<int>();
    if (value < kBF16 || value > kBytes) throw py::value_error("dtype codes are 0 (bf16) to 3 (bytes)");
    return static_cast<DType>(value);
}

DType float_type(py::handle code) {
    DType type = dtype_of(code);
    if (type == kBytes) throw py::value_error("bytes can only be copied");
    return type;
}

std::size_t element_count(py::handle count) {
    std::size_t n = count.cast<std::size_t>();
    if (n > (std::size_t(1) << 60)) throw py::value_error("count is too large");
    return n;
}

namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors files are little-endian, and so is this code");

struct Work {
    std::vector<Buffer> buffers;  // keeps the memory below alive
    std::vector<Span> spans;
};

// One tuple for each span: (out, out_offset, a, a_offset, b, b_offset, count, weight, out_dtype, a_dtype, b_dtype), with
// offsets in bytes and the count in elements.
Work parse(py::sequence spans) {
    DefaultFloatEnvironment environment;  // a weight may be subnormal, and is rounded to float32 here
    Work work;
    std::size_t count = py::len(spans);
    work.buffers.reserve(3 * count);
    work.spans.reserve(count);
    for (py::handle item : spans) {
        py::tuple t = py::reinterpret_borrow<py::tuple>(item);
        if (!py::isinstance<py::tuple>(item) || t.size() != 11) throw py::value_error("a span is a tuple of 11");
        Span s;
        s.n = element_count(t[6]);
        s.w = t[7].cast<float>();
        s.out_type = dtype_of(t[8]), s.a_type = dtype_of(t[9]), s.b_type = dtype_of(t[10]);
        bool bytes = s.out_type == kBytes || s.a_type == kBytes || s.b_type == kBytes;
        bool same = s.out_type == s.a_type && s.out_type == s.b_type;
        if (bytes && (!same || (s.w != 0.0f && s.w != 1.0f))) throw py::value_error("bytes can only be copied");
        auto resolve = [&](int at, bool writable, DType type, const char* name) {
            work.buffers.emplace_back(t[at], writable);
            return work.buffers.back().range(t[at + 1].cast<std::size_t>(), s.n * kItemSize[type], name);
        };
        s.out = resolve(0, true, s.out_type, "out");
        s.a = resolve(2, false, s.a_type, "a");
        s.b = resolve(4, false, s.b_type, "b");
        work.spans.push_back(s);
    }
    return work;
}

void lerp_spans(py::sequence spans, const std::string& isa, int threads, Stores stores) {
    const Kernels& kernels = kernels_named(isa);
    Work work = parse(spans);
    py::gil_scoped_release unlocked;
    run(work.spans.data(), work.spans.size(), kernels, threads, stores);
}

// The same for addresses that the caller guarantees to be valid, because one object for each of tens of thousands of small
// tensors would cost more than their arithmetic. table is int64 [T, 4] of (out, a, b, count), and weights is float64 [T].
// All tensors have the same dtypes.
void lerp_addresses(py::object table, py::object weights, py::object out_type, py::object a_type, py::object b_type,
                    const std::string& isa, int threads) {
    const Kernels& kernels = kernels_named(isa);
    Buffer rows(table, false), lams(weights, false);
    const std::size_t count = lams.size() / sizeof(double);
    if (rows.size() != count * 4 * sizeof(std::int64_t)) throw py::value_error("table and weights differ in length");
    const auto* row = reinterpret_cast<const std::int64_t*>(rows.range(0, rows.size(), "table"));
    const auto* lam = reinterpret_cast<const double*>(lams.range(0, lams.size(), "weights"));
    const DType types[3] = {float_type(out_type), float_type(a_type), float_type(b_type)};
    py::gil_scoped_release unlocked;
    DefaultFloatEnvironment environment;  // weights are rounded to float32 here
    std::vector<Span> spans(count);
    for (std::size_t i = 0; i < count; ++i, row += 4)
        spans[i] = {reinterpret_cast<void*>(row[0]), reinterpret_cast<const void*>(row[1]),
                    reinterpret_cast<const void*>(row[2]), static_cast<std::size_t>(row[3]),
                    static_cast<float>(lam[i]), types[0], types[1], types[2]};
    run(spans.data(), count, kernels, threads, Stores::kAuto);
}

// The same for one pair, with addresses as numbers. Returns false, and writes nothing, if out partly overlaps an input.
bool lerp_pair(std::uintptr_t out, std::uintptr_t a, std::uintptr_t b, std::size_t count, double weight, int out_type,
               int a_type, int b_type, const std::string& isa, int threads) {
    const Kernels& kernels = kernels_named(isa);
    Span s{reinterpret_cast<void*>(out), reinterpret_cast<const void*>(a), reinterpret_cast<const void*>(b), count, 0.0f,
           float_type(py::int_(out_type)), float_type(py::int_(a_type)), float_type(py::int_(b_type))};
    auto clashes = [&](std::uintptr_t in, DType type) {
        const bool apart = in + count * kItemSize[type] <= out || out + count * kItemSize[s.out_type] <= in;
        return count != 0 && !apart && !(in == out && kItemSize[type] == kItemSize[s.out_type]);
    };
    if (clashes(a, s.a_type) || clashes(b, s.b_type)) return false;
    py::gil_scoped_release unlocked;
    DefaultFloatEnvironment environment;  // the weight is rounded to float32 here
    s.w = static_cast<float>(weight);
    run(&s, 1, kernels, threads, Stores::kAuto);
    return true;
}

void lerp_groups(py::sequence spans, std::size_t group, const std::string& isa) {
    const Kernels& kernels = kernels_named(isa);
    Work work = parse(spans);
    if (group == 0 || work.spans.size() % group != 0) throw py::value_error("group must divide the number of spans");
    for (std::size_t i = 0; i < work.spans.size(); ++i)
        if (work.spans[i].n != work.spans[i - i % group].n) throw py::value_error("a group shares one count");
    py::gil_scoped_release unlocked;
    run_groups(work.spans.data(), work.spans.size(), group, kernels);
}

// Returns the first output with a forbidden overlap, as (index of the output, name, index of the other tensor), or None.
// An output that is exactly an input (same start, same element size) is allowed.
py::object find_overlap(py::sequence spans) {
    Work work = parse(spans);
    struct Range {
        const char *begin, *end;
        std::size_t index;
        std::size_t item;
    };
    std::vector<Range> outs;
    for (std::size_t i = 0; i < work.spans.size(); ++i) {
        const Span& s = work.spans[i];
        const char* begin = static_cast<const char*>(s.out);
        if (s.n) outs.push_back({begin, begin + s.n * kItemSize[s.out_type], i, kItemSize[s.out_type]});
    }
    std::sort(outs.begin(), outs.end(), [](const Range& x, const Range& y) { return x.begin < y.begin; });
    for (std::size_t i = 1; i < outs.size(); ++i)
        if (outs[i].begin < outs[i - 1].end) return py::make_tuple(outs[i].index, "out", outs[i - 1].index);
    auto clash = [&](const void* data, std::size_t n, DType type, std::size_t index) -> const Range* {
        const char* begin = static_cast<const char*>(data);
        const char* end = begin + n * kItemSize[type];
        auto it = std::upper_bound(outs.begin(), outs.end(), begin,
                                   [](const char* x, const Range& range) { return x < range.end; });
        for (; it != outs.end() && it->begin < end; ++it) {
            bool in_place = it->index == index && it->begin == begin && it->item == kItemSize[type];
            if (!in_place) return &*it;
        }
        return nullptr;
    };
    for (std::size_t i = 0; i < work.spans.size(); ++i) {
        const Span& s = work.spans[i];
        if (s.n == 0) continue;
        if (const Range* r = clash(s.a, s.n, s.a_type, i)) return py::make_tuple(r->index, "a", i);
        if (const Range* r = clash(s.b, s.n, s.b_type, i)) return py::make_tuple(r->index, "b", i);
    }
    return py::none();
}

// Requests huge pages for new memory, so that it takes a page fault per 2 MiB instead of one per 4 KiB. Ignores errors.
void prefer_huge_pages(std::uintptr_t address, std::size_t bytes) {
#ifdef MADV_HUGEPAGE
    constexpr std::uintptr_t kPage = 4096;  // with larger pages, the kernel rejects an address inside a page
    const std::uintptr_t begin = (address + kPage - 1) / kPage * kPage, end = (address + bytes) / kPage * kPage;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)address, (void)bytes;
#endif
}

void touch(py::object out, py::object a, py::object b, const std::string& isa, int threads, Stores stores) {
    const Kernels& kernels = kernels_named(isa);
    Buffer holders[3] = {{out, true}, {a, false}, {b, false}};
    std::size_t bytes = holders[0].size();
    Span s{holders[0].range(0, bytes, "out"), holders[1].range(0, bytes, "a"), holders[2].range(0, bytes, "b"),
           bytes / 2, 0.0f, kBF16, kBF16, kBF16};
    py::gil_scoped_release unlocked;
    run_touch(s, kernels, threads, stores);
}

}  // namespace
}  // namespace mi::cpu

PYBIND11_MODULE(_cpu, m) {
    using namespace mi::cpu;
    m.doc() = "CPU kernels: spans of bf16, float16 and float32 interpolated to the contract's bits.";
    py::enum_<Stores>(m, "Stores")
        .value("AUTO", Stores::kAuto)
        .value("CACHED", Stores::kCached)
        .value("STREAMING", Stores::kStreaming);
    m.def("isas", [] {
        std::vector<std::string> names;
        for (const Isa& isa : available_isas()) names.emplace_back(isa.name);
        return names;
    });
    m.def("lerp_spans", &lerp_spans, py::arg("spans"), py::arg("isa"), py::arg("threads") = 1,
          py::arg("stores") = Stores::kAuto);
    m.def("lerp_addresses", &lerp_addresses, py::arg("table"), py::arg("weights"), py::arg("out_dtype"),
          py::arg("a_dtype"), py::arg("b_dtype"), py::arg("isa"), py::arg("threads") = 1);
    m.def("lerp_pair", &lerp_pair, py::arg("out"), py::arg("a"), py::arg("b"), py::arg("count"), py::arg("weight"),
          py::arg("out_dtype"), py::arg("a_dtype"), py::arg("b_dtype"), py::arg("isa"), py::arg("threads") = 1);
    m.def("lerp_groups", &lerp_groups, py::arg("spans"), py::arg("group"), py::arg("isa"));
    m.def("find_overlap", &find_overlap, py::arg("spans"));
    m.def("prefer_huge_pages", &prefer_huge_pages, py::arg("address"), py::arg("bytes"));
    m.def("touch", &touch, py::arg("out"), py::arg("a"), py::arg("b"), py::arg("isa"), py::arg("threads") = 1,
          py::arg("stores") = Stores::kAuto);
    bind_combine(m);
    bind_guard(m);
    bind_virtual(m);
    bind_crc32c(m);
    bind_values(m);
    bind_tensors(m);
}
