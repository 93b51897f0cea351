// Maps of files that may shrink, or whose disk may fail, while they are read. The SIGBUS that follows would end the
// process; here it marks the map as damaged and lets the reader continue over zeros, until it looks at the mark.
#pragma once
#include <cstddef>
#include <cstdint>

namespace mi::cpu {

constexpr std::size_t kIntact = ~std::size_t(0);

// A read-only map of a whole file, guarded for exactly as long as it exists. The guard writes zeros at the addresses of
// a map. If it still listed a map that was gone, it would write them over whatever memory came to lie there: so one
// object owns both, and nothing else can unmap the file or end the guard.
//
// From the first map of the process to the last one a signal handler is installed; it passes faults elsewhere to the
// handler that was installed before.
//
// The constructor and unguard() are serialised by the caller: the binding holds the interpreter lock, which fork
// respects too, so that a child never inherits a half-changed table. The rest may be called from any thread.
class GuardedMap {
    int fd_ = -1;
    void* begin_ = nullptr;
    std::size_t size_ = 0;
    int slot_ = -1;

public:
    // Duplicates `fd`. Throws std::system_error where the system refuses, std::length_error for an empty file and where
    // the table of guarded maps is full.
    explicit GuardedMap(int fd);
    GuardedMap(const GuardedMap&) = delete;
    GuardedMap& operator=(const GuardedMap&) = delete;
    ~GuardedMap();  // unmaps; nobody may read any more

    void unguard();  // the first step of destruction, for a caller that holds a lock only for this; may be repeated

    int fd() const { return fd_; }
    const void* begin() const { return begin_; }
    std::size_t size() const { return size_; }

    // The offset of the first page that could not be read; everything from there on reads as zeros. kIntact without one.
    std::size_t damage() const;
};

// How many faults there have been so far, in all maps: unchanged means that no map has been damaged since.
std::uint64_t guard_faults();

}  // namespace mi::cpu
