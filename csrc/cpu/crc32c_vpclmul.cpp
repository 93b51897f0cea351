// Carry-less multiplication, four times 128 bits at once (VPCLMULQDQ with AVX-512: Ice Lake, Zen 4 and later).
//
// Folding (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", 2009): 128 bits of a
// message may be replaced by any bits that are congruent to them modulo P, for example by an equivalent value D bits
// further on. With the two halves H and L of a lane, H * x^64 + L becomes H * (x^(D + 64) mod P) + L * (x^D mod P), which
// has 96 bits and is added to the lane D bits further on. The product of two reflected halves lacks a factor of x, so the
// exponents of the constants are smaller by 1.
#if defined(__x86_64__)
#include <immintrin.h>

#include "crc32c.h"
#include "../crc32c.h"

namespace mi::cpu {
namespace {

template <std::uint64_t Bits>
MI_INLINE __m128i fold_constants() {
    constexpr std::uint64_t high = mi::crc::power(Bits + 63), low = mi::crc::power(Bits - 1);
    // Bit 0 of a half is the degree 63, and bit 63 is the degree 0. Bit 0 of a remainder is the degree 31.
    return _mm_set_epi64x(static_cast<long long>(low << 32), static_cast<long long>(high << 32));
}

// Moves `lanes` by the distance of the constants, and adds them to `next`. Bit 0 is the highest power: the low half is H.
MI_INLINE __m512i folded(__m512i lanes, __m512i constants, __m512i next) {
    const __m512i high = _mm512_clmulepi64_epi128(lanes, constants, 0x00);
    const __m512i low = _mm512_clmulepi64_epi128(lanes, constants, 0x11);
    return _mm512_ternarylogic_epi64(high, low, next, 0x96);
}

MI_INLINE __m128i folded(__m128i lane, __m128i constants, __m128i next) {
    const __m128i high = _mm_clmulepi64_si128(lane, constants, 0x00);
    const __m128i low = _mm_clmulepi64_si128(lane, constants, 0x11);
    return _mm_xor_si128(_mm_xor_si128(high, low), next);
}

MI_INLINE __m512i everywhere(__m128i constants) { return _mm512_broadcast_i32x4(constants); }

constexpr int kRegisters = 4;  // enough to hide the multiplication's latency
constexpr std::size_t kStep = 64 * kRegisters;

}  // namespace

std::uint32_t crc32c_vpclmul(std::uint32_t state, const void* data, std::size_t n) {
    const auto* p = static_cast<const unsigned char*>(data);
    if (n >= kStep) {
        __m512i lanes[kRegisters];
        for (int i = 0; i < kRegisters; ++i) lanes[i] = _mm512_loadu_si512(p + 64 * i);
        // To start from a state, start from 0 and add the state to the first four bytes of the message.
        lanes[0] = _mm512_xor_si512(lanes[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(state))));
        const __m512i far = everywhere(fold_constants<8 * kStep>()), near = everywhere(fold_constants<512>());
        for (p += kStep, n -= kStep; n >= kStep; p += kStep, n -= kStep)
            for (int i = 0; i < kRegisters; ++i) lanes[i] = folded(lanes[i], far, _mm512_loadu_si512(p + 64 * i));
        __m512i all = lanes[0];
        for (int i = 1; i < kRegisters; ++i) all = folded(all, near, lanes[i]);
        for (; n >= 64; p += 64, n -= 64) all = folded(all, near, _mm512_loadu_si512(p));
        const __m128i beside = fold_constants<128>();
        __m128i lane = _mm512_extracti32x4_epi32(all, 0);
        lane = folded(lane, beside, _mm512_extracti32x4_epi32(all, 1));
        lane = folded(lane, beside, _mm512_extracti32x4_epi32(all, 2));
        lane = folded(lane, beside, _mm512_extracti32x4_epi32(all, 3));
        // The remaining 16 bytes are a message that is equivalent to the whole one.
        std::uint64_t word = _mm_crc32_u64(0, static_cast<std::uint64_t>(_mm_cvtsi128_si64(lane)));
        word = _mm_crc32_u64(word, static_cast<std::uint64_t>(_mm_extract_epi64(lane, 1)));
        state = static_cast<std::uint32_t>(word);
    }
    for (; n >= 8; p += 8, n -= 8) {
        long long word;
        __builtin_memcpy(&word, p, sizeof word);
        state = static_cast<std::uint32_t>(_mm_crc32_u64(state, static_cast<std::uint64_t>(word)));
    }
    for (; n; ++p, --n) state = _mm_crc32_u8(state, *p);
    return state;
}

}  // namespace mi::cpu
#endif
