// CRC-32C on each ISA: one function, from the state before n bytes to the state after them (../crc32c.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace mi::cpu {

using Crc32c = std::uint32_t (*)(std::uint32_t state, const void* data, std::size_t n);

std::uint32_t crc32c_serial(std::uint32_t state, const void* data, std::size_t n);
#if defined(__x86_64__)
std::uint32_t crc32c_sse42(std::uint32_t state, const void* data, std::size_t n);
std::uint32_t crc32c_vpclmul(std::uint32_t state, const void* data, std::size_t n);
#elif defined(__aarch64__)
std::uint32_t crc32c_arm(std::uint32_t state, const void* data, std::size_t n);
#endif

// Returns the best function for an ISA, by its name in isa.h. The instructions are a separate extension of the ISA, so
// this function checks for them, and falls back to the next best one if the processor lacks them.
Crc32c crc32c_of(const std::string& isa);

// The checksum of two consecutive messages, from their checksums. `length` is the length of the second one in bytes.
std::uint32_t crc32c_combined(std::uint32_t first, std::uint32_t second, std::uint64_t length);

}  // namespace mi::cpu
