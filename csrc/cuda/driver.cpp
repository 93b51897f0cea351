#include "driver.h"

#include <dlfcn.h>

#include <mutex>

namespace mi::cuda {
namespace {

void find(void* library, const char* symbol, void* into, bool required = true) {
    void* address = dlsym(library, symbol);
    if (!address && required) throw Error(std::string(symbol) + ": not in this NVIDIA driver, which is too old");
    *static_cast<void**>(into) = address;
}

Driver open() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) throw Error(std::string("no NVIDIA driver: ") + dlerror());
    Driver d;
    find(library, "cuInit", &d.init);
    find(library, "cuDriverGetVersion", &d.version);
    find(library, "cuDeviceGetCount", &d.device_count);
    find(library, "cuDeviceGet", &d.device);
    find(library, "cuDeviceGetAttribute", &d.attribute);
    find(library, "cuDevicePrimaryCtxRetain", &d.retain);
    find(library, "cuDevicePrimaryCtxRelease_v2", &d.release);
    find(library, "cuCtxPushCurrent_v2", &d.push);
    find(library, "cuCtxPopCurrent_v2", &d.pop);
    find(library, "cuModuleLoadData", &d.load);
    find(library, "cuModuleUnload", &d.unload);
    find(library, "cuModuleGetFunction", &d.function);
    find(library, "cuFuncLoad", &d.function_load, false);
    find(library, "cuLaunchKernel", &d.launch);
    find(library, "cuGetErrorName", &d.error_name);
    find(library, "cuGetErrorString", &d.error_string);
    d.check(d.init(0), "cuInit");
    return d;
}

}  // namespace

void Driver::check(Result result, const char* call) const {
    if (result == 0) return;
    const char *name = nullptr, *text = nullptr;
    error_name(result, &name);
    error_string(result, &text);
    throw Error(std::string(call) + ": " + (name ? name : "error " + std::to_string(result)) + " (" +
                (text ? text : "unknown to this driver") + ")");
}

const Driver& driver() {
    static std::mutex mutex;
    static const Driver* opened = nullptr;
    std::lock_guard<std::mutex> lock(mutex);
    if (!opened) opened = new Driver(open());  // never freed
    return *opened;
}

Current::Current(const Driver& driver, Context context) : driver_(driver), pushed_(false) {
    driver_.check(driver_.push(context), "cuCtxPushCurrent");
    pushed_ = true;
}

Current::~Current() {
    Context popped;
    if (pushed_) driver_.pop(&popped);
}

void Current::pop() {
    Context popped;
    pushed_ = false;
    driver_.check(driver_.pop(&popped), "cuCtxPopCurrent");
}

}  // namespace mi::cuda
