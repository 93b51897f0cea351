// Checks whether a block has a value that is not finite, in one pass with three operations per register. This is fast
// enough to check every chunk while it is in the cache.
#pragma once
#include <cstddef>

#include "../nonfinite.h"
#include "loop.h"

namespace mi::cpu {

template <class L>
bool nonfinite_kernel(const void* data, std::size_t bytes, Exponent e) {
    using I = typename L::I;
    const auto* p = static_cast<const char*>(data);
    const I mask = L::splat(e.mask), lowest = L::splat(e.lowest);
    I seen = L::splat(0);
    for (; bytes >= sizeof(I); p += sizeof(I), bytes -= sizeof(I))
        seen = L::or_(seen, nonfinite<L>(L::load(p), mask, lowest));
    std::uint32_t words[L::kWidth], any = 0;
    __builtin_memcpy(words, &seen, sizeof words);
    for (std::uint32_t word : words) any |= word;
    for (std::size_t n; bytes; p += n, bytes -= n) {
        n = bytes < sizeof any ? bytes : sizeof any;
        std::uint32_t word = 0;  // a missing half counts as finite
        __builtin_memcpy(&word, p, n);
        any |= nonfinite<One>(word, e.mask, e.lowest);
    }
    return any & (e.mask + e.lowest);
}

}  // namespace mi::cpu
