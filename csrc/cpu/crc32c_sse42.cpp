// The crc32 instruction of SSE4.2.
#if defined(__x86_64__)
#include <nmmintrin.h>

#include "crc32c.h"
#include "crc32c_streams.h"

namespace mi::cpu {
namespace {

struct Sse42 {
    MI_INLINE std::uint32_t word(std::uint32_t state, std::uint64_t w) {
        return static_cast<std::uint32_t>(_mm_crc32_u64(state, w));
    }
    MI_INLINE std::uint32_t byte(std::uint32_t state, std::uint8_t b) { return _mm_crc32_u8(state, b); }
};

}  // namespace

std::uint32_t crc32c_sse42(std::uint32_t state, const void* data, std::size_t n) {
    return crc32c_streams<Sse42>(state, data, n);
}

}  // namespace mi::cpu
#endif
