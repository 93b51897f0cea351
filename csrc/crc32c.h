// CRC-32C, the Castagnoli polynomial (RFC 3720, appendix B.4; Castagnoli et al. 1993).
//
// Bits are reflected throughout: bit 0 of the first byte is the highest power of x, and bit 31 of a remainder is x^0. A
// state is the bare remainder. The checksum of a message is ~state after it, from the state ~0 before it.
//
// P = (x + 1)(a primitive polynomial of degree 31), so x has the order 2^31 - 1 modulo P: in up to 2^28 - 5 bytes every
// flipped bit changes the checksum by a power of x that no other one does.
#pragma once
#include <cstddef>
#include <cstdint>

#include "lane.h"

namespace mi::crc {

constexpr std::uint32_t kPolynomial = 0x82F63B78u;  // x^32 left out
constexpr std::uint32_t kOne = 0x80000000u;         // x^0

// a * x mod P
MI_INLINE constexpr std::uint32_t times_x(std::uint32_t a) { return (a >> 1) ^ (kPolynomial & (0u - (a & 1u))); }

// a * b mod P
MI_INLINE constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
    std::uint32_t product = 0;
    for (int i = 31; i >= 0; --i) {
        product ^= b & (0u - ((a >> i) & 1u));
        b = times_x(b);
    }
    return product;
}

struct Powers {
    std::uint32_t of[64];  // x^(2^k) mod P

    constexpr Powers() : of{} {
        of[0] = kOne >> 1;
        for (int k = 1; k < 64; ++k) of[k] = multiply(of[k - 1], of[k - 1]);
    }
};

// x^n mod P
MI_INLINE constexpr std::uint32_t power(const Powers& powers, std::uint64_t n) {
    std::uint32_t product = kOne;
    for (int k = 0; n; ++k, n >>= 1)
        if (n & 1) product = multiply(product, powers.of[k]);
    return product;
}

MI_INLINE constexpr std::uint32_t power(std::uint64_t n) { return power(Powers(), n); }

struct Table {
    std::uint32_t of[256];  // the state after one byte, from the state 0

    constexpr Table() : of{} {
        for (std::uint32_t byte = 0; byte < 256; ++byte) {
            of[byte] = byte;
            for (int i = 0; i < 8; ++i) of[byte] = times_x(of[byte]);
        }
    }
};

MI_INLINE std::uint32_t step(const Table& table, std::uint32_t state, std::uint8_t byte) {
    return (state >> 8) ^ table.of[(state ^ byte) & 0xFFu];
}

}  // namespace mi::crc
