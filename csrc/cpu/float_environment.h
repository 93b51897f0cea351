// The floating-point environment the contract assumes, for as long as an object lives.
#pragma once
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace mi::cpu {

// The contract keeps subnormals and rounds to nearest whatever the caller's thread has set (torch can be asked to
// flush denormals, and that lives in a register of the thread).
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
