// A libcuda.so.1 for tests: "device" memory is the process's own, and a launch runs its chunks before it returns. It
// notes every call, and fails the one it is told to.
#include <cstring>
#include <string>

#include "lanes.cpp"

namespace {

constexpr int kInvalidValue = 1, kNoDevice = 100, kNotFound = 500;

std::string calls;
std::string failing;
int failure = 0;
int capability = 90;
bool idle = false;  // launches do nothing
int contexts[2];  // of two devices; only their addresses matter
void* stack[8] = {};
int depth = 0;

int note(const char* call, const std::string& with = "") {
    calls += std::string(call) + "(" + with + ") ";
    return failing == call ? failure : 0;
}

std::string context_name(void* context) {
    return context ? std::to_string(static_cast<int*>(context) - contexts) : "none";
}

const char* const kNames[] = {"mi_lerp_bf16",       "mi_lerp_f16",        "mi_lerp_f32",        "mi_lerp_mixed",
                              "mi_combine_bf16_2",  "mi_combine_bf16_3",  "mi_combine_bf16_4",  "mi_combine_bf16_5",
                              "mi_combine_mixed_2", "mi_combine_mixed_3", "mi_combine_mixed_4", "mi_combine_mixed_5",
                              "mi_combine_any",     "mi_count_upper",     "mi_find_upper",      "mi_count_lower",
                              "mi_find_lower",      "mi_moment_parts",    "mi_moment_totals"};

// Runs a kernel by its name, as the driver passes its parameters; returns how many accesses were misaligned.
long run(const std::string& name, std::int64_t blocks, void** parameters) {
    auto parameter = [&](int i, auto* type) { return *static_cast<decltype(type)>(parameters[i]); };
    constexpr Search** kSearch = nullptr;
    constexpr Count64* kCount = nullptr;
    constexpr double** kDoubles = nullptr;
    constexpr std::int64_t* kNumber = nullptr;
    if (name.rfind("mi_lerp_", 0) == 0) {
        int kind = 0;
        while (kNames[kind] != name) ++kind;
        const Types types = kind < 3 ? Types{kind, kind, kind} : *static_cast<const Types*>(parameters[1]);
        return run_launch(static_cast<const Table*>(parameters[0]), blocks, types);
    }
    if (name.rfind("mi_combine_", 0) == 0) {
        const int models = name == "mi_combine_any" ? 0 : name.back() - '0';
        return run_combine_launch(static_cast<const CombineTable*>(parameters[0]), blocks, models,
                                  name.find("bf16") != std::string::npos);
    }
    if (name == "mi_count_upper")
        return run_count_upper(static_cast<const Difference*>(parameters[0]), parameter(1, kSearch), blocks);
    if (name == "mi_count_lower")
        return run_count_lower(static_cast<const Difference*>(parameters[0]), parameter(1, kSearch), blocks);
    if (name == "mi_find_upper") return run_find_upper(parameter(0, kSearch), parameter(1, kCount)), 0;
    if (name == "mi_find_lower") return run_find_lower(parameter(0, kSearch), parameter(1, kCount)), 0;
    if (name == "mi_moment_parts")
        return run_moment_parts(static_cast<const Compared*>(parameters[0]), parameter(1, kDoubles), blocks);
    return run_moment_totals(parameter(0, kDoubles), parameter(1, kDoubles), parameter(2, kNumber), blocks), 0;
}

}  // namespace

extern "C" {

const char* fake_calls() { return calls.c_str(); }
void fake_forget() { calls.clear(); }
void fake_fail(const char* call, int result) { failing = call, failure = result; }
void fake_capability(int value) { capability = value; }
int fake_depth() { return depth; }
void fake_idle() { idle = true; }

int cuInit(unsigned) { return note("cuInit"); }
int cuDriverGetVersion(int* version) { return *version = 12080, note("cuDriverGetVersion"); }
int cuDeviceGetCount(int* count) { return *count = 2, note("cuDeviceGetCount"); }
int cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal > 1) return note("cuDeviceGet"), 101;
    return *device = ordinal, note("cuDeviceGet", std::to_string(ordinal));
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
    return *value = attribute == 75 ? capability / 10 : capability % 10, note("cuDeviceGetAttribute");
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
    return *context = contexts + device, note("cuDevicePrimaryCtxRetain", std::to_string(device));
}
int cuDevicePrimaryCtxRelease_v2(int device) { return note("cuDevicePrimaryCtxRelease", std::to_string(device)); }
int cuCtxPushCurrent_v2(void* context) {
    int result = note("cuCtxPushCurrent", context_name(context));
    if (result == 0) stack[depth++] = context;
    return result;
}
int cuCtxPopCurrent_v2(void** context) {
    *context = stack[--depth];
    return note("cuCtxPopCurrent", context_name(*context));
}
int cuModuleLoadData(void** module, const void* image) {
    // A fat binary starts with this number.
    bool fat = *static_cast<const unsigned*>(image) == 0xBA55ED50u;
    *module = contexts;
    return note("cuModuleLoadData", fat ? "fat" : "other");
}
int cuModuleUnload(void*) { return note("cuModuleUnload"); }
int cuModuleGetFunction(void** function, void*, const char* name) {
    for (const char* const& known : kNames)
        if (!std::strcmp(known, name)) return *function = const_cast<char*>(known), note("cuModuleGetFunction", name);
    return kNotFound;
}
#ifndef NO_FUNC_LOAD
int cuFuncLoad(void*) { return note("cuFuncLoad"); }
#endif
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, void* stream, void** parameters, void** extra) {
    const char* name = static_cast<const char*>(function);
    bool plain = y == 1 && z == 1 && threads == unsigned(kThreads) && ty == 1 && tz == 1 && !shared && !extra;
    int result = note("cuLaunchKernel", std::string(name) + " x" + std::to_string(x) + " in " +
                                            context_name(depth ? stack[depth - 1] : nullptr) + " stream " +
                                            std::to_string(reinterpret_cast<std::uintptr_t>(stream)));
    if (result || !plain) return result ? result : kInvalidValue;
    if (idle) return calls.clear(), 0;
    return run(name, x, parameters) ? 716 : 0;  // misaligned, as a GPU says
}
int cuGetErrorName(int result, const char** name) {
    *name = result == kInvalidValue ? "CUDA_ERROR_INVALID_VALUE" : result == kNoDevice ? "CUDA_ERROR_NO_DEVICE"
            : result == 101         ? "CUDA_ERROR_INVALID_DEVICE"
            : result == 716         ? "CUDA_ERROR_MISALIGNED_ADDRESS"
                                    : nullptr;
    return *name ? 0 : kInvalidValue;
}
int cuGetErrorString(int result, const char** text) {
    *text = result == kInvalidValue ? "invalid argument" : result == 101 ? "invalid device ordinal" : nullptr;
    return *text ? 0 : kInvalidValue;
}

}  // extern "C"
