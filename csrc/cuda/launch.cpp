#include "launch.h"

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

#include "fatbin.h"

namespace mi::cuda {
namespace {

// Indexed by Type; the last kernel handles mixed types.
constexpr const char* kNames[] = {"mi_lerp_bf16", "mi_lerp_f16", "mi_lerp_f32", "mi_lerp_mixed"};
constexpr int kMixed = 3;

struct Loaded {
    Context context;
    Function functions[kMixed + 1];
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
        for (int i = 0; i <= kMixed; ++i) {
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

void launch(int ordinal, Stream stream, const Table& table, std::int64_t chunks, Types types) {
    if (chunks == 0) return;
    const Driver& d = driver();
    Loaded device;
    {
        std::lock_guard<std::mutex> lock(mutex);
        auto found = loaded().find(ordinal);
        if (found == loaded().end())
            throw std::invalid_argument("device " + std::to_string(ordinal) + " is not prepared: call prepare first");
        device = found->second;
    }
    bool same = types.a == types.out && types.b == types.out;
    // The kernels for one format take only the table. The driver does not read more parameters than a kernel has.
    void* parameters[] = {const_cast<Table*>(&table), &types};
    Current current(d, device.context);
    d.check(d.launch(device.functions[same ? types.out : kMixed], unsigned(chunks), 1, 1, kThreads, 1, 1, 0, stream,
                     parameters, nullptr),
            "cuLaunchKernel");
    current.pop();
}

}  // namespace mi::cuda
