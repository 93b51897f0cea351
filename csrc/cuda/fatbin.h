// The compiled kernels, embedded in this library by fatbin.cpp.
#pragma once

namespace mi::cuda {

extern "C" const unsigned char fatbin[] __attribute__((visibility("hidden")));

}  // namespace mi::cuda
