// Maps of files that may shrink, or whose disk may fail, while they are read. The SIGBUS that follows would end the
// process; here it marks the map as damaged and lets the reader go on over zeros, until it looks at the mark.
#pragma once
#include <cstddef>
#include <cstdint>

namespace mi::cpu {

constexpr std::size_t kIntact = ~std::size_t(0);

// Guards a map that begins on a page. Returns its number, or -1 where the table is full. From the first map to the last
// one a signal handler is installed; faults elsewhere go to the handler that was there before.
// Calls of guard_add and guard_remove are serialised by the caller: the binding holds the interpreter lock, which fork
// respects too, so that a child never inherits a half-changed table. The other two may be called from any thread.
int guard_add(const void* begin, std::size_t bytes);

// To be called before the map goes, with no reader left.
void guard_remove(int map);

// The offset of the first page that could not be read; everything from there on reads as zeros. kIntact without one.
std::size_t guard_damage(int map);

// How many faults were met so far, in all maps: unchanged means that no map has been damaged since.
std::uint64_t guard_faults();

}  // namespace mi::cpu
