// The floating-point environment that the contract requires, set for the lifetime of an object.
#pragma once
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace mi::cpu {

// The contract keeps subnormals and rounds to nearest, whatever the caller's thread has set. (torch.set_flush_denormal
// changes a register of the thread.)
class DefaultFloatEnvironment {
#if defined(__x86_64__)
    unsigned saved_ = _mm_getcsr();

public:
    DefaultFloatEnvironment() { _mm_setcsr(0x1F80); }
    ~DefaultFloatEnvironment() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
    unsigned long long saved_;

public:
    DefaultFloatEnvironment() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" : : "r"(0ULL));
    }
    ~DefaultFloatEnvironment() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#endif
};

}  // namespace mi::cpu
