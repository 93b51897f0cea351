// The Python side of run_combine and of the statistics.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <iterator>
#include <new>

#include "bind.h"
#include "float_environment.h"
#include "run.h"
#include "stats.h"

namespace py = pybind11;

namespace mi::cpu {
namespace {

constexpr const char* kFormulaNames[] = {
#define MI_NAME(number, name, function, reads) #name,
    MI_FORMULAS(MI_NAME)
#undef MI_NAME
};

// The formulas as a Python IntEnum: whole numbers to JSON, pickled by name.
py::object formula_enum(const py::module_& m) {
    py::dict members;
    for (std::size_t i = 0; i < std::size(kFormulaNames); ++i) members[kFormulaNames[i]] = i;
    return py::module_::import("enum").attr("IntEnum")("Formula", members, py::arg("module") = m.attr("__name__"));
}

// Throws ValueError for a formula or numbers that no kernel can take.
void read_combine(Combine& c, const py::dict& d, int models) {
    if (models < 1 || models > kMaxModels) throw py::value_error("1 to 16 models can be combined");
    c.models = models;
    const int number = d["formula"].cast<int>();
    if (number < 0 || number >= static_cast<int>(std::size(kFormulaNames))) throw py::value_error("unknown formula");
    c.formula = static_cast<Formula>(number);
    auto read = [&](const char* name, auto* to) {
        if (!d.contains(name)) return;
        py::sequence values = d[name];
        if (static_cast<int>(py::len(values)) != models) throw py::value_error(std::string(name) + ": one for each model");
        for (int i = 0; i < models; ++i) to[i] = values[i].cast<std::decay_t<decltype(*to)>>();
    };
    read("weights", c.weight);
    read("thresholds", c.threshold);
    read("densities", c.density);
    read("keys", c.key);
    if (d.contains("scale")) c.scale = d["scale"].cast<float>();
    if (d.contains("normalize")) c.normalize = d["normalize"].cast<bool>();
    for (int i = 1; i < models; ++i)
        if (c.weight[i] >= c.weight[c.largest]) c.largest = i;
    if (models < 2 && reads(c.formula) != Reads::kModels) throw py::value_error("a base and a model are needed");
}

// The bytes of a Combine, as the device's kernels read it (cuda/combine_chunk.h). Equal formulas have equal bytes, because the
// bytes between the members are 0.
py::bytes pack_combine(const py::dict& formula, int models) {
    DefaultFloatEnvironment environment;
    alignas(Combine) char bytes[sizeof(Combine)] = {};
    read_combine(*new (bytes) Combine, formula, models);
    return py::bytes(bytes, sizeof bytes);
}

// One tuple a span: (out, out_offset, out_dtype, [(x, offset, dtype), ...], count, first, combine), see _cpu.pyi.
void combine_spans(py::sequence items, const std::string& isa, int threads) {
    DefaultFloatEnvironment environment;  // weights are rounded to float32 here
    const Kernels& kernels = kernels_named(isa);
    std::vector<Buffer> buffers;
    std::vector<CombineSpan> spans;
    for (py::handle item : items) {
        py::tuple t = py::cast<py::tuple>(item);
        py::sequence models = t[3];
        CombineSpan s{};
        const int count = static_cast<int>(py::len(models));
        s.n = element_count(t[4]);
        s.first = t[5].cast<std::size_t>();
        read_combine(s.how, t[6], count);
        s.out_type = float_type(t[2]);
        buffers.emplace_back(t[0], true);
        s.out = buffers.back().range(t[1].cast<std::size_t>(), s.n * kItemSize[s.out_type], "out");
        for (int i = 0; i < count; ++i) {
            py::tuple m = py::cast<py::tuple>(models[i]);
            s.types[i] = float_type(m[2]);
            buffers.emplace_back(m[0], false);
            s.x[i] = buffers.back().range(m[1].cast<std::size_t>(), s.n * kItemSize[s.types[i]], "model");
        }
        spans.push_back(s);
    }
    py::gil_scoped_release unlocked;
    run_combine(spans.data(), spans.size(), kernels, threads);
}

// (a, b, base or None), each (buffer, offset, dtype), held for the time of the call.
struct Stats {
    std::vector<Buffer> buffers;
    StatsSpan span{};

    Stats(const py::tuple& a, const py::tuple& b, const py::object& base, const py::object& count) {
        buffers.reserve(3);
        span.n = element_count(count);
        auto read = [&](const py::tuple& t, DType* type, const char* name) {
            *type = float_type(t[2]);
            buffers.emplace_back(t[0], false);
            return buffers.back().range(t[1].cast<std::size_t>(), span.n * kItemSize[*type], name);
        };
        span.a = read(a, &span.a_type, "a");
        span.b = read(b, &span.b_type, "b");
        if (!base.is_none()) span.base = read(base, &span.base_type, "base");
    }
};

std::vector<double> moments(py::tuple a, py::tuple b, py::object base, py::object count, const std::string& isa) {
    const Kernels& kernels = kernels_named(isa);
    Stats stats(a, b, base, count);
    std::vector<double> total(kMoments);
    py::gil_scoped_release unlocked;
    run_moments(stats.span, kernels, total.data());
    return total;
}

// Adds to `counts`, uint64: 65,536 bins of the upper bits of |x - base|, or with `high` 32,768 bins of the lower ones.
void histogram(py::tuple x, py::tuple base, py::object count, py::object counts, py::object high, const std::string& isa) {
    const Kernels& kernels = kernels_named(isa);
    Stats stats(x, base, py::none(), count);
    Buffer holder(counts, true);
    const std::size_t bins = high.is_none() ? kHighBins : kLowBins;
    auto* bin = reinterpret_cast<std::uint64_t*>(holder.range(0, bins * sizeof(std::uint64_t), "counts"));
    const std::uint32_t at = high.is_none() ? 0 : high.cast<std::uint32_t>();
    const bool first = high.is_none();
    py::gil_scoped_release unlocked;
    if (first)
        run_high_histogram(stats.span, kernels, bin);
    else
        run_low_histogram(stats.span, kernels, at, bin);
}

// Magnitudes |x - base| from `low` to `high` (as the 31 bits of a float32) go to `found`, uint32, from element `at` on.
// Returns (how many lie above, how many lie within); more may lie within than there is room for.
std::pair<std::size_t, std::size_t> select(py::tuple x, py::tuple base, py::object count, std::uint32_t low,
                                           std::uint32_t high, py::object found, std::size_t at, const std::string& isa) {
    const Kernels& kernels = kernels_named(isa);
    Stats stats(x, base, py::none(), count);
    Buffer holder(found, true);
    const std::size_t room = holder.size() / sizeof(std::uint32_t);
    if (at > room) throw py::value_error("at lies beyond found");
    auto* to = reinterpret_cast<std::uint32_t*>(holder.range(0, room * sizeof(std::uint32_t), "found")) + at;
    py::gil_scoped_release unlocked;
    Selected s = run_select(stats.span, kernels, low, high, to, room - at);
    return {s.above, s.kept};
}

}  // namespace

void bind_combine(py::module_& m) {
    m.attr("Formula") = formula_enum(m);
    m.def("combine_spans", &combine_spans, py::arg("spans"), py::arg("isa"), py::arg("threads") = 1);
    m.def("pack_combine", &pack_combine, py::arg("combine"), py::arg("models"));
    m.def("moments", &moments, py::arg("a"), py::arg("b"), py::arg("base"), py::arg("count"), py::arg("isa"));
    m.def("select", &select, py::arg("x"), py::arg("base"), py::arg("count"), py::arg("low"), py::arg("high"),
          py::arg("found"), py::arg("at"), py::arg("isa"));
    m.def("histogram", &histogram, py::arg("x"), py::arg("base"), py::arg("count"), py::arg("counts"), py::arg("high"),
          py::arg("isa"));
}

}  // namespace mi::cpu
