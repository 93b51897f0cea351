// The CRC32 instructions of Armv8.
#if defined(__aarch64__)
#include <arm_acle.h>

#include "crc32c.h"
#include "crc32c_streams.h"

namespace mi::cpu {
namespace {

struct Arm {
    MI_INLINE std::uint32_t word(std::uint32_t state, std::uint64_t w) { return __crc32cd(state, w); }
    MI_INLINE std::uint32_t byte(std::uint32_t state, std::uint8_t b) { return __crc32cb(state, b); }
};

}  // namespace

std::uint32_t crc32c_arm(std::uint32_t state, const void* data, std::size_t n) {
    return crc32c_streams<Arm>(state, data, n);
}

}  // namespace mi::cpu
#endif
