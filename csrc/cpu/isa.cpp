#include "isa.h"

namespace mi::cpu {

std::vector<Isa> available_isas() {
    std::vector<Isa> found;
#if defined(__x86_64__)
    // The builtin checks cpuid, and whether the operating system saves the wide registers.
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    if (avx512) found.push_back({"avx512", &avx512_kernels});
    if (avx2) found.push_back({"avx2", &avx2_kernels});
#elif defined(__aarch64__)
    found.push_back({"neon", &neon_kernels});
#endif
    found.push_back({"scalar", &scalar_kernels});
    return found;
}

}  // namespace mi::cpu
