// The CUDA driver API, looked up in libcuda.so.1 at the first use. Compiling and importing this needs no CUDA header,
// runtime library or driver. The declarations follow the reference of the driver API.
#pragma once
#include <cstddef>
#include <stdexcept>
#include <string>

namespace mi::cuda {

using Result = int;
using Device = int;
using Context = struct ContextOpaque*;
using Module = struct ModuleOpaque*;
using Function = struct FunctionOpaque*;
using Stream = struct StreamOpaque*;

// what() has the call, the name of the error and its meaning: "cuLaunchKernel: CUDA_ERROR_INVALID_VALUE (invalid
// argument)".
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Driver {
    Result (*init)(unsigned flags);
    Result (*version)(int* version);
    Result (*device_count)(int* count);
    Result (*device)(Device* device, int ordinal);
    Result (*attribute)(int* value, int attribute, Device device);
    Result (*retain)(Context* context, Device device);
    Result (*release)(Device device);
    Result (*push)(Context context);
    Result (*pop)(Context* context);
    Result (*load)(Module* module, const void* image);
    Result (*unload)(Module module);
    Result (*function)(Function* function, Module module, const char* name);
    Result (*function_load)(Function function);  // since CUDA 12.4; null in older drivers
    Result (*launch)(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                     unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** parameters,
                     void** extra);
    Result (*error_name)(Result result, const char** name);
    Result (*error_string)(Result result, const char** text);

    // Throws Error, naming `call`, unless `result` is success.
    void check(Result result, const char* call) const;
};

// Loads and initialises the driver. Throws Error if there is no driver or no device; the next call tries again.
const Driver& driver();

// Makes the primary context of a device (which torch uses) current for the lifetime of this object, and then restores the
// previous context.
class Current {
    const Driver& driver_;
    bool pushed_;

public:
    Current(const Driver& driver, Context context);
    Current(const Current&) = delete;
    ~Current();
    void pop();  // like the destructor, but throws Error
};

}  // namespace mi::cuda
