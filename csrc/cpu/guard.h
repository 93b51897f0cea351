// Memory maps that survive SIGBUS. If a mapped file shrinks or its disk fails, reading it raises SIGBUS, which normally
// ends the process. The guard marks the map as damaged instead, and the reader gets zeros. After reading, the reader
// must check the mark.
#pragma once
#include <cstddef>
#include <cstdint>

namespace mi::cpu {

constexpr std::size_t kIntact = ~std::size_t(0);

// A read-only map of a whole file. It is guarded exactly as long as it exists. The guard maps zero pages at the
// addresses of a map; a guard without its map would overwrite other memory that was allocated there. So one object owns
// both, and only this object can unmap the file or end the guard.
//
// A signal handler is installed while the process has at least one map. It passes other faults to the handler that was
// installed before.
//
// The caller must serialise the constructor and unguard(). The Python binding holds the interpreter lock, which is also
// held during fork, so a child process never inherits an inconsistent table. Any thread may call the other functions.
class GuardedMap {
    int fd_ = -1;
    void* begin_ = nullptr;
    std::size_t size_ = 0;
    int slot_ = -1;

public:
    // Duplicates `fd`. Throws std::system_error if a system call fails, and std::length_error if the file is empty or
    // the table of guarded maps is full.
    explicit GuardedMap(int fd);
    GuardedMap(const GuardedMap&) = delete;
    GuardedMap& operator=(const GuardedMap&) = delete;
    ~GuardedMap();  // unmaps the file; no thread may still read it

    void unguard();  // ends the guard; separate from the destructor, so that only this step needs a lock. Idempotent

    int fd() const { return fd_; }
    const void* begin() const { return begin_; }
    std::size_t size() const { return size_; }

    // The offset of the first page that could not be read, or kIntact. Everything after this offset reads as zeros.
    std::size_t damage() const;
};

// The number of faults so far in all maps of the process. If it has not changed, no map has been damaged since.
std::uint64_t guard_faults();

}  // namespace mi::cpu
