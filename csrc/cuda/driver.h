// The CUDA driver API, looked up in libcuda.so.1 when first used. Nothing of CUDA is needed to compile or to import
// this: no header, no runtime library, no driver. The declarations follow the driver API's reference.
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

// what(): the call, the error's name and its meaning, "cuLaunchKernel: CUDA_ERROR_INVALID_VALUE (invalid argument)".
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
    Result (*function_load)(Function function);  // since CUDA 12.4; null before
    Result (*launch)(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                     unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** parameters,
                     void** extra);
    Result (*error_name)(Result result, const char** name);
    Result (*error_string)(Result result, const char** text);

    // Throws Error, naming `call`, unless `result` is success.
    void check(Result result, const char* call) const;
};

// Loads and initialises the driver. Throws Error when there is none, or no device; asks again the next time.
const Driver& driver();

// The device's primary context (the one torch uses) made current for this object's life; then what was before.
class Current {
    const Driver& driver_;
    bool pushed_;

public:
    Current(const Driver& driver, Context context);
    Current(const Current&) = delete;
    ~Current();
    void pop();  // as the destructor, with the error if there is one
};

}  // namespace mi::cuda
