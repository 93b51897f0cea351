// The loops, written once over a lane type; each ISA file supplies its lane type and instantiates them.
//
// A step handles one pair of registers, 2 * L::kWidth elements. Each dtype chooses how it fills the pair, as long as load
// and store agree. (bf16 puts even elements into one register and odd ones into the other, which needs shifts and masks
// but no shuffles.) So nothing here may move values between lanes.
#pragma once
#include "../bf16.h"
#include "../f16.h"
#include "../lerp.h"
#include "../one.h"
#include "kernels.h"

namespace mi::cpu {

template <class L>
struct Pair {
    typename L::F x, y;
};

// Formats: element size, and memory <-> a pair of float32 registers.

template <class L>
struct BF16 {
    static constexpr std::size_t kSize = 2;
    MI_INLINE Pair<L> load(const void* p) {
        typename L::I v = L::load(p);
        return {L::floats(L::shl16(v)), L::floats(L::and_(v, L::splat(0xFFFF0000u)))};
    }
    template <bool Stream>
    MI_INLINE void store(void* p, Pair<L> r) {
        typename L::I even = L::shr16(round_to_bf16_high<L>(r.x));
        typename L::I odd = L::and_(round_to_bf16_high<L>(r.y), L::splat(0xFFFF0000u));
        L::template store<Stream>(p, L::or_(even, odd));
    }
};

template <class L>
struct F16 {
    static constexpr std::size_t kSize = 2;
    MI_INLINE Pair<L> load(const void* p) { return {L::load_f16(p, 0), L::load_f16(p, 1)}; }
    template <bool Stream>
    MI_INLINE void store(void* p, Pair<L> r) {
        L::template store_f16<Stream>(p, canonical<L>(r.x), canonical<L>(r.y));
    }
};

template <class L>
struct F32 {
    static constexpr std::size_t kSize = 4;
    MI_INLINE Pair<L> load(const void* p) {
        return {L::floats(L::load(p)), L::floats(L::load(static_cast<const char*>(p) + 4 * L::kWidth))};
    }
    template <bool Stream>
    MI_INLINE void store(void* p, Pair<L> r) {
        L::template store<Stream>(p, L::bits(canonical<L>(r.x)));
        L::template store<Stream>(static_cast<char*>(p) + 4 * L::kWidth, L::bits(canonical<L>(r.y)));
    }
};

// Steps: memory to memory, 2 * L::kWidth elements.

// FromA is Weight::from_a as a constant, because GCC does not move the choice out of the loop.
template <class L, class Format, bool FromA>
struct LerpStep {
    static constexpr std::size_t kSize = Format::kSize;
    typename L::F coefficient;
    template <bool Stream>
    inline __attribute__((always_inline)) void run(char* out, const char* a, const char* b) const {
        const Weight<L> w{coefficient, FromA};
        Pair<L> p = Format::load(a), q = Format::load(b);
        Format::template store<Stream>(out, {lerp<L>(p.x, q.x, w), lerp<L>(p.y, q.y, w)});
    }
};

template <class L>
struct TouchStep {
    static constexpr std::size_t kSize = 2;
    template <bool Stream>
    inline __attribute__((always_inline)) void run(char* out, const char* a, const char* b) const {
        L::template store<Stream>(out, L::or_(L::load(a), L::load(b)));
    }
};

// Handles fewer elements than a step, through a full-size copy on the stack, so that no access is outside the arrays.
template <class L, class Step>
MI_INLINE void partial(const Step& step, char* out, const char* a, const char* b, std::size_t elements) {
    alignas(64) char pa[2 * L::kWidth * Step::kSize] = {}, pb[sizeof pa] = {}, po[sizeof pa];
    __builtin_memcpy(pa, a, elements * Step::kSize);
    __builtin_memcpy(pb, b, elements * Step::kSize);
    step.template run<false>(po, pa, pb);
    __builtin_memcpy(out, po, elements * Step::kSize);
}

template <class L, class Step, bool Stream>
MI_INLINE void steps(const Step& step, char* out, const char* a, const char* b, std::size_t n) {
    constexpr std::size_t kElements = 2 * L::kWidth, kBytesPerStep = kElements * Step::kSize;
    // Two steps at a time are enough independent work to hide the latency of the fma behind the loads. The hardware
    // prefetchers stop at the end of each page. Prefetching one page ahead keeps the memory busy, which saves a tenth of
    // the time (measured).
    constexpr std::size_t kPage = 4096, kLine = 64;
    for (; n >= 2 * kElements; n -= 2 * kElements) {
        for (std::size_t ahead = kPage; ahead < kPage + 2 * kBytesPerStep; ahead += kLine) {
            __builtin_prefetch(a + ahead);
            __builtin_prefetch(b + ahead);
        }
        step.template run<Stream>(out, a, b);
        step.template run<Stream>(out + kBytesPerStep, a + kBytesPerStep, b + kBytesPerStep);
        out += 2 * kBytesPerStep, a += 2 * kBytesPerStep, b += 2 * kBytesPerStep;
    }
    if (n >= kElements) {
        step.template run<Stream>(out, a, b);
        out += kBytesPerStep, a += kBytesPerStep, b += kBytesPerStep, n -= kElements;
    }
    if (n) partial<L>(step, out, a, b, n);
}

template <class L, class Step>
MI_INLINE void loop(const Step& step, void* out_, const void* a_, const void* b_, std::size_t n, bool stream) {
    char* out = static_cast<char*>(out_);
    const char *a = static_cast<const char*>(a_), *b = static_cast<const char*>(b_);
    constexpr std::size_t kAlign = L::kStreamAlign;
    std::size_t skew = reinterpret_cast<std::uintptr_t>(out) % kAlign;
    if (!stream || skew % Step::kSize != 0) return steps<L, Step, false>(step, out, a, b, n);
    // Streaming stores must be aligned: one partial step advances `out` to a register boundary.
    std::size_t head = skew == 0 ? 0 : (kAlign - skew) / Step::kSize;
    if (head > n) head = n;
    if (head) partial<L>(step, out, a, b, head);
    head *= Step::kSize;
    steps<L, Step, true>(step, out + head, a + head, b + head, n - head / Step::kSize);
    L::fence();
}

template <class L, class Format>
void lerp_kernel(void* out, const void* a, const void* b, std::size_t n, float w, bool stream) {
    const Weight<L> of_w = weight<L>(w);
    if (of_w.from_a)
        loop<L>(LerpStep<L, Format, true>{of_w.coefficient}, out, a, b, n, stream);
    else
        loop<L>(LerpStep<L, Format, false>{of_w.coefficient}, out, a, b, n, stream);
}

template <class L>
void touch_kernel(void* out, const void* a, const void* b, std::size_t n, float, bool stream) {
    loop<L>(TouchStep<L>{}, out, a, b, n, stream);
}

// Conversions keep the order of elements, so bf16 (whose pair is even and odd) is converted one element at a time, and the
// compiler vectorises the loop. Only mixed dtypes use these.

template <class L, class In, class Out>
void convert_kernel(void* out_, const void* in_, std::size_t n) {
    constexpr std::size_t kElements = 2 * L::kWidth;
    char* out = static_cast<char*>(out_);
    const char* in = static_cast<const char*>(in_);
    for (; n >= kElements; n -= kElements) {
        Out::template store<false>(out, In::load(in));
        out += kElements * Out::kSize, in += kElements * In::kSize;
    }
    alignas(64) char pi[kElements * In::kSize] = {}, po[kElements * Out::kSize];
    __builtin_memcpy(pi, in, n * In::kSize);
    Out::template store<false>(po, In::load(pi));
    __builtin_memcpy(out, po, n * Out::kSize);
}

template <class L>
void widen_f16(float* out, const void* in, std::size_t n) { convert_kernel<L, F16<L>, F32<L>>(out, in, n); }
template <class L>
void narrow_f16(void* out, const float* in, std::size_t n) { convert_kernel<L, F32<L>, F16<L>>(out, in, n); }
template <class L>
void widen_f32(float* out, const void* in, std::size_t n) { __builtin_memcpy(out, in, 4 * n); }
template <class L>
void narrow_f32(void* out, const float* in, std::size_t n) { convert_kernel<L, F32<L>, F32<L>>(out, in, n); }

template <class L>
void widen_bf16(float* out, const void* in, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
        std::uint16_t half;
        __builtin_memcpy(&half, static_cast<const char*>(in) + 2 * i, 2);
        out[i] = One::floats(std::uint32_t(half) << 16);
    }
}

template <class L>
void narrow_bf16(void* out, const float* in, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
        std::uint16_t half = std::uint16_t(round_to_bf16_high<One>(in[i]) >> 16);
        __builtin_memcpy(static_cast<char*>(out) + 2 * i, &half, 2);
    }
}

}  // namespace mi::cpu
