// The serial CRC-32C, one byte at a time, which is the reference for tests of the other ISAs; and the choice of the ISA.
#include "crc32c.h"

#include "../crc32c.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace mi::cpu {

std::uint32_t crc32c_serial(std::uint32_t state, const void* data, std::size_t n) {
    static constexpr mi::crc::Table table;
    const auto* p = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < n; ++i) state = mi::crc::step(table, state, p[i]);
    return state;
}

Crc32c crc32c_of(const std::string& isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool sse42 = __builtin_cpu_supports("sse4.2");
    if (isa == "avx512" && sse42 && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("vpclmulqdq"))
        return crc32c_vpclmul;
    if (isa != "scalar" && sse42) return crc32c_sse42;
#elif defined(__aarch64__) && defined(__linux__)
    if (isa != "scalar" && (getauxval(AT_HWCAP) & HWCAP_CRC32)) return crc32c_arm;
#elif defined(__aarch64__)
    if (isa != "scalar") return crc32c_arm;  // every Apple chip has the CRC32 instructions
#endif
    return crc32c_serial;
}

std::uint32_t crc32c_combined(std::uint32_t first, std::uint32_t second, std::uint64_t length) {
    static constexpr mi::crc::Powers powers;
    // The order of x divides 2^31 - 1, so exponents can be reduced before they overflow.
    constexpr std::uint64_t order = (std::uint64_t(1) << 31) - 1;
    return mi::crc::multiply(first, mi::crc::power(powers, 8 * (length % order))) ^ second;
}

}  // namespace mi::cpu
