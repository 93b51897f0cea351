// How a GPU thread reads and writes bf16, float16 and float32: as single elements, and 16 bytes at once.
//
// Everything here also compiles as plain C++ and gives the same bits, so that tests can run it without a GPU.
#pragma once
#include "../bf16.h"
#include "../f16.h"
#include "../lerp.h"
#include "../one.h"

#if defined(__CUDACC__)
#define MI_UNROLL _Pragma("unroll")
#define MI_ROLLED _Pragma("unroll 1")
#else
#define MI_UNROLL
#define MI_ROLLED
#endif

namespace mi::cuda {

constexpr int kThreads = 256;  // of a block

struct Worker {
    int index, count;  // this thread, among those of the block
};

enum Type : int { kBF16 = 0, kF16 = 1, kF32 = 2 };

MI_INLINE int item_size(int type) { return type == kF32 ? 4 : 2; }

// 16 bytes, the most that a thread can move with one instruction. Words hold elements in memory order.
struct alignas(16) Vector {
    std::uint32_t word[4];
};

// Every byte is read once and written once, so on the device loads and stores are marked evict-first (.cs). They never use
// the read-only path (.nc), because the output may be one of the inputs.
MI_INLINE Vector load(const Vector* p) {
#if defined(__CUDA_ARCH__)
    uint4 v = __ldcs(reinterpret_cast<const uint4*>(p));
    return {{v.x, v.y, v.z, v.w}};
#else
    return *p;
#endif
}

MI_INLINE void store(Vector* p, const Vector& v) {
#if defined(__CUDA_ARCH__)
    __stcs(reinterpret_cast<uint4*>(p), make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]));
#else
    *p = v;
#endif
}

template <class Bits>
MI_INLINE Bits load(const Bits* p) {
#if defined(__CUDA_ARCH__)
    return __ldcs(p);
#else
    return *p;
#endif
}

template <class Bits>
MI_INLINE void store(Bits* p, Bits bits) {
#if defined(__CUDA_ARCH__)
    __stcs(p, bits);
#else
    *p = bits;
#endif
}

// A format defines its bits in memory, and the conversions to float32 and back (one rounding, canonical NaN).

struct BF16 {
    using Bits = std::uint16_t;
    MI_INLINE float widen(Bits bits) { return One::floats(std::uint32_t(bits) << 16); }
    MI_INLINE Bits narrow(float r) { return Bits(round_to_bf16_high<One>(r) >> 16); }
};

// The device has instructions to convert float16: to nearest even, with subnormals, overflow to inf (PTX ISA, cvt). Only
// its NaN, 0x7FFF, differs from the contract's.
struct F16 {
    using Bits = std::uint16_t;
    MI_INLINE float widen(Bits bits) {
#if defined(__CUDA_ARCH__)
        float f;
        asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(bits));
        return f;
#else
        return One::floats(f16_to_f32_bits(bits));
#endif
    }
    MI_INLINE Bits narrow(float r) {
#if defined(__CUDA_ARCH__)
        Bits bits;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(r));
        return r != r ? kNanF16 : bits;
#else
        return f32_bits_to_f16(One::bits(r));
#endif
    }
};

struct F32 {
    using Bits = std::uint32_t;
    MI_INLINE float widen(Bits bits) { return One::floats(bits); }
    MI_INLINE Bits narrow(float r) { return One::bits(canonical<One>(r)); }
};

}  // namespace mi::cuda
