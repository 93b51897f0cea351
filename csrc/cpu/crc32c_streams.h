// CRC-32C with an instruction that takes a word. Its latency is about three cycles, and one can start in each cycle. So
// the loop works on three neighbouring stretches at once, and joins their states afterwards.
#pragma once
#include "../crc32c.h"

namespace mi::cpu {

constexpr std::size_t kStretch = 8192;  // bytes: joining then costs a few percent
constexpr std::uint32_t kPastStretch = mi::crc::power(8 * kStretch);

MI_INLINE std::uint64_t word_at(const unsigned char* p) {
    std::uint64_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return word;
}

// L::word(state, word) and L::byte(state, byte) are the instructions.
template <class L>
MI_INLINE std::uint32_t crc32c_streams(std::uint32_t state, const void* data, std::size_t n) {
    const auto* p = static_cast<const unsigned char*>(data);
    for (; n >= 3 * kStretch; p += 3 * kStretch, n -= 3 * kStretch) {
        std::uint32_t second = 0, third = 0;
        for (std::size_t i = 0; i < kStretch; i += 8) {
            state = L::word(state, word_at(p + i));
            second = L::word(second, word_at(p + kStretch + i));
            third = L::word(third, word_at(p + 2 * kStretch + i));
        }
        second ^= mi::crc::multiply(state, kPastStretch);
        state = third ^ mi::crc::multiply(second, kPastStretch);
    }
    for (; n >= 8; p += 8, n -= 8) state = L::word(state, word_at(p));
    for (; n; ++p, --n) state = L::byte(state, *p);
    return state;
}

}  // namespace mi::cpu
