#include "launch.h"

#include <initializer_list>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

#include "fatbin.h"

namespace mi::cuda {
namespace {

// The kernels of kernels.cu. The first three are indexed by Type, and those for 2 to 5 models follow each other.
enum Kernel : int {
    kLerp = 0,
    kLerpMixed = 3,
    kCombineBF16,
    kCombineMixed = kCombineBF16 + 4,
    kCombineAny = kCombineMixed + 4,
    kCountUpper,
    kFindUpper,
    kCountLower,
    kFindLower,
    kMomentParts,
    kMomentTotals,
    kKernels
};

constexpr const char* kNames[] = {
    "mi_lerp_bf16",       "mi_lerp_f16",        "mi_lerp_f32",        "mi_lerp_mixed",      "mi_combine_bf16_2",
    "mi_combine_bf16_3",  "mi_combine_bf16_4",  "mi_combine_bf16_5",  "mi_combine_mixed_2", "mi_combine_mixed_3",
    "mi_combine_mixed_4", "mi_combine_mixed_5", "mi_combine_any",     "mi_count_upper",     "mi_find_upper",
    "mi_count_lower",     "mi_find_lower",      "mi_moment_parts",    "mi_moment_totals",
};
static_assert(sizeof kNames / sizeof *kNames == kKernels);

constexpr int kFewestModels = 2, kMostModels = 5;  // that have kernels of their own

// Blocks of a search, each of which adds its counts to those of the whole tensor: several for each multiprocessor, and few
// enough that counting takes longer than adding. With 2^31 elements a block would still count fewer than 2^32.
constexpr std::int64_t kMostCounters = 1024;

struct Loaded {
    Context context;
    Function functions[kKernels];
};

std::mutex mutex;
std::map<int, Loaded>& loaded() {
    static auto* devices = new std::map<int, Loaded>;  // never destroyed, because the driver may be unloaded before
    return *devices;
}

void load_functions(const Driver& d, Loaded& device) {
    Current current(d, device.context);
    Module module;
    d.check(d.load(&module, fatbin), "cuModuleLoadData");
    try {
        for (int i = 0; i < kKernels; ++i) {
            d.check(d.function(&device.functions[i], module, kNames[i]), "cuModuleGetFunction");
            // The driver loads code at its first launch, which may wait for the device and is not allowed in a capture.
            if (d.function_load) d.check(d.function_load(device.functions[i]), "cuFuncLoad");
        }
    } catch (...) {
        d.unload(module);
        throw;
    }
    current.pop();
}

}  // namespace

void prepare(int ordinal) {
    const Driver& d = driver();
    std::lock_guard<std::mutex> lock(mutex);
    if (loaded().count(ordinal)) return;
    Device handle;
    Loaded device{};
    d.check(d.device(&handle, ordinal), "cuDeviceGet");
    d.check(d.retain(&device.context, handle), "cuDevicePrimaryCtxRetain");
    try {
        load_functions(d, device);
    } catch (...) {
        d.release(handle);
        throw;
    }
    loaded()[ordinal] = device;
}

namespace {

Loaded prepared(int ordinal) {
    std::lock_guard<std::mutex> lock(mutex);
    auto found = loaded().find(ordinal);
    if (found == loaded().end())
        throw std::invalid_argument("device " + std::to_string(ordinal) + " is not prepared: call prepare first");
    return found->second;
}

// Launches kernels one after the other on one stream of a device.
class Launcher {
    const Driver& driver_;
    Loaded device_;
    Stream stream_;
    Current current_;

public:
    Launcher(int ordinal, Stream stream)
        : driver_(driver()), device_(prepared(ordinal)), stream_(stream), current_(driver_, device_.context) {}

    // The driver does not read more parameters than a kernel has.
    void run(int kernel, std::int64_t blocks, std::initializer_list<const void*> parameters) {
        void* addresses[4] = {};
        std::size_t count = 0;
        for (const void* parameter : parameters) addresses[count++] = const_cast<void*>(parameter);
        driver_.check(driver_.launch(device_.functions[kernel], unsigned(blocks), 1, 1, kThreads, 1, 1, 0, stream_, addresses,
                                     nullptr),
                      "cuLaunchKernel");
    }
    void finish() { current_.pop(); }
};

std::int64_t divided(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

}  // namespace

void launch(int ordinal, Stream stream, const Table& table, std::int64_t chunks, Types types) {
    if (chunks == 0) return;
    const bool same = types.a == types.out && types.b == types.out;
    Launcher launcher(ordinal, stream);
    launcher.run(same ? kLerp + types.out : int(kLerpMixed), chunks, {&table, &types});
    launcher.finish();
}

void launch_combine(int ordinal, Stream stream, const CombineTable& table, std::int64_t chunks, bool bf16) {
    if (chunks == 0) return;
    int kernel = kCombineAny;
    if (table.models >= kFewestModels && table.models <= kMostModels)
        kernel = (bf16 ? kCombineBF16 : kCombineMixed) + table.models - kFewestModels;
    Launcher launcher(ordinal, stream);
    launcher.run(kernel, chunks, {&table});
    launcher.finish();
}

void launch_search(int ordinal, Stream stream, const Difference& difference, Search* search, std::uint64_t k) {
    const std::int64_t parts = divided(difference.n, kPart), blocks = parts < kMostCounters ? parts : kMostCounters;
    Launcher launcher(ordinal, stream);
    launcher.run(kCountUpper, blocks, {&difference, &search});
    launcher.run(kFindUpper, 1, {&search, &k});
    launcher.run(kCountLower, blocks, {&difference, &search});
    launcher.run(kFindLower, 1, {&search, &k});
    launcher.finish();
}

void launch_moments(int ordinal, Stream stream, const Compared& compared, double* parts, double* totals) {
    const std::int64_t accumulators = divided(compared.n, kBlockElements) * kWays;
    const std::int64_t sums = divided(compared.n, kPieceElements) * kMoments;
    Launcher launcher(ordinal, stream);
    launcher.run(kMomentParts, divided(accumulators, kThreads), {&compared, &parts});
    launcher.run(kMomentTotals, divided(sums, kThreads), {&parts, &totals, &compared.n});
    launcher.finish();
}

}  // namespace mi::cuda
