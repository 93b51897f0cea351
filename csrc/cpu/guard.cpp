#include "guard.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace mi::cpu {
namespace {

// The handler can run between any two instructions of any thread, so it only uses atomics and system calls. A slot is
// free if its end is null. The handler only touches slots that have been used, so unused pages need no memory.
struct Map {
    std::atomic<char*> begin{nullptr}, end{nullptr};
    std::atomic<std::size_t> damage{kIntact};
};

static_assert(std::atomic<char*>::is_always_lock_free && std::atomic<std::size_t>::is_always_lock_free &&
                  std::atomic<std::uint64_t>::is_always_lock_free,
              "a lock in a signal handler can deadlock");

constexpr int kMaps = 1 << 16;  // Linux allows 65530 maps of any kind in a process (vm.max_map_count)
Map maps[kMaps];
std::atomic<int> used{0};  // slots with this index or a higher one were never used
std::atomic<std::uint64_t> faults{0};
int live = 0;
const std::size_t page_size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));

// macOS raises SIGSEGV for some of these faults.
#if defined(__APPLE__)
constexpr int kSignals[] = {SIGBUS, SIGSEGV};
#else
constexpr int kSignals[] = {SIGBUS};
#endif
constexpr int kSignalCount = sizeof(kSignals) / sizeof(kSignals[0]);

struct Below {
    struct sigaction action;  // the handler that was installed before ours
    bool installed;           // our handler is in the chain, but perhaps no longer first
};
Below below[kSignalCount];

void lower(std::atomic<std::size_t>& value, std::size_t to) {
    std::size_t now = value.load();
    while (to < now && !value.compare_exchange_weak(now, to)) {
    }
}

// Maps zero pages from the unreadable page to the end of the map. If the file has become shorter, all pages after the
// first fault would fault too, and each of them would cost a signal and perhaps one of the maps of the process.
bool cover(char* at) {
    for (int i = 0, n = used.load(); i < n; ++i) {
        Map& map = maps[i];
        char* end = map.end.load();
        char* begin = map.begin.load();
        // Another thread may be reusing the slot. If end is the same before and after, begin belongs to it.
        if (!end || at < begin || at >= end || map.end.load() != end) continue;
        char* page = at - reinterpret_cast<std::uintptr_t>(at) % page_size;
        // Set the mark before mapping zeros, so that every thread that reads zeros also finds the mark.
        lower(map.damage, static_cast<std::size_t>(page - begin));
        faults.fetch_add(1);
        const int flags = MAP_PRIVATE | MAP_ANON | MAP_FIXED;
        return mmap(page, static_cast<std::size_t>(end - page), PROT_READ, flags, -1, 0) == page;
    }
    return false;
}

void pass_on(int number, siginfo_t* info, void* context) {
    const bool sent = info->si_code <= 0;  // sent by a process, not raised by a faulting instruction
    for (int i = 0; i < kSignalCount; ++i) {
        if (kSignals[i] != number) continue;
        const struct sigaction& before = below[i].action;
        if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(number, info, context);
        if (before.sa_handler == SIG_IGN && sent) return;
        if (before.sa_handler != SIG_IGN && before.sa_handler != SIG_DFL) return before.sa_handler(number);
    }
    // Restore the default action: the instruction faults again, and the system ends the process.
    struct sigaction none {};
    none.sa_handler = SIG_DFL;
    sigaction(number, &none, nullptr);
    if (sent) raise(number);
}

void handle(int number, siginfo_t* info, void* context) {
    const int saved = errno;
    if (info->si_code <= 0 || !cover(static_cast<char*>(info->si_addr))) pass_on(number, info, context);
    errno = saved;
}

bool same(const struct sigaction& x, const struct sigaction& y) {
    if ((x.sa_flags & SA_SIGINFO) != (y.sa_flags & SA_SIGINFO)) return false;
    return x.sa_flags & SA_SIGINFO ? x.sa_sigaction == y.sa_sigaction : x.sa_handler == y.sa_handler;
}

bool system_default(const struct sigaction& action) {
    return !(action.sa_flags & SA_SIGINFO) && (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN);
}

bool ours(const struct sigaction& action) { return (action.sa_flags & SA_SIGINFO) && action.sa_sigaction == handle; }

void install() {
    for (int i = 0; i < kSignalCount; ++i) {
        struct sigaction now;
        sigaction(kSignals[i], nullptr, &now);
        // If another library has installed a handler above ours, leave it first: it passes on the faults that it does
        // not handle, and installing ours above it again would create a cycle. If the handler below ours is first
        // again, or if there is none, ours was removed from the chain.
        const bool out_of_chain = system_default(now) || same(now, below[i].action);
        if (ours(now) || (below[i].installed && !out_of_chain)) continue;
        below[i] = {now, true};
        struct sigaction mine {};
        mine.sa_sigaction = handle;
        mine.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&mine.sa_mask);
        sigaction(kSignals[i], &mine, nullptr);
    }
}

void restore() {
    for (int i = 0; i < kSignalCount; ++i) {
        struct sigaction now;
        sigaction(kSignals[i], nullptr, &now);
        if (!ours(now)) continue;  // a handler above ours may still call ours, which passes the fault on
        sigaction(kSignals[i], &below[i].action, nullptr);
        below[i].installed = false;
    }
}

int add(char* begin, std::size_t bytes) {
    int slot = 0;
    while (slot < kMaps && maps[slot].end.load()) ++slot;
    if (slot == kMaps) return -1;
    ++live;
    install();  // each time: another library may have replaced our handler
    Map& map = maps[slot];
    map.damage.store(kIntact);
    map.begin.store(begin);
    map.end.store(begin + (bytes + page_size - 1) / page_size * page_size);  // last: a slot with an end is in use
    if (slot >= used.load()) used.store(slot + 1);
    return slot;
}

void remove(int slot) {
    maps[slot].end.store(nullptr);
    if (--live == 0) restore();
}

[[noreturn]] void refuse(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

}  // namespace

GuardedMap::GuardedMap(int fd) {
    struct stat status;
    if (fstat(fd, &status) != 0) refuse("fstat");
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ == 0) throw std::length_error("the file is empty");
    fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (fd_ < 0) refuse("dup");
    void* map = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd_, 0);
    if (map == MAP_FAILED) {
        const int why = errno;
        close(fd_);
        errno = why;
        refuse("mmap");
    }
    slot_ = add(static_cast<char*>(map), size_);
    if (slot_ < 0) {
        munmap(map, size_);
        close(fd_);
        throw std::length_error("too many maps");
    }
    begin_ = map;
}

GuardedMap::~GuardedMap() {
    unguard();  // before munmap, because other memory can be allocated at the addresses after it
    munmap(begin_, size_);
    close(fd_);
}

void GuardedMap::unguard() {
    if (slot_ >= 0) remove(slot_);
    slot_ = -1;
}

std::size_t GuardedMap::damage() const { return slot_ >= 0 ? maps[slot_].damage.load() : kIntact; }

std::uint64_t guard_faults() { return faults.load(); }

}  // namespace mi::cpu
