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

// The handler may run between any two instructions of any thread, so it uses atomics and system calls and nothing else.
// A slot is free while its end is null. Memory is touched only as far as slots are used.
struct Map {
    std::atomic<char*> begin{nullptr}, end{nullptr};
    std::atomic<std::size_t> damage{kIntact};
};

static_assert(std::atomic<char*>::is_always_lock_free && std::atomic<std::size_t>::is_always_lock_free &&
                  std::atomic<std::uint64_t>::is_always_lock_free,
              "a lock in a signal handler would wait for itself");

constexpr int kMaps = 1 << 16;  // Linux gives a process 65530 maps of any kind (vm.max_map_count)
Map maps[kMaps];
std::atomic<int> used{0};  // slots from here on have never been used
std::atomic<std::uint64_t> faults{0};
int live = 0;
const std::size_t page_size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));

// macOS answers some of these faults with SIGSEGV.
#if defined(__APPLE__)
constexpr int kSignals[] = {SIGBUS, SIGSEGV};
#else
constexpr int kSignals[] = {SIGBUS};
#endif
constexpr int kSignalCount = sizeof(kSignals) / sizeof(kSignals[0]);

struct Below {
    struct sigaction action;  // who was there before us
    bool installed;           // we are in the chain, if perhaps no longer its first
};
Below below[kSignalCount];

void lower(std::atomic<std::size_t>& value, std::size_t to) {
    std::size_t now = value.load();
    while (to < now && !value.compare_exchange_weak(now, to)) {
    }
}

// Lays zeros over what cannot be read, up to the map's end: behind the first fault of a file that has become shorter
// lie only further ones, each of which would cost a signal, and perhaps one of the process's maps.
bool cover(char* at) {
    for (int i = 0, n = used.load(); i < n; ++i) {
        Map& map = maps[i];
        char* end = map.end.load();
        char* begin = map.begin.load();
        // The slot may be changing hands; with the same end before and after, begin belongs to it.
        if (!end || at < begin || at >= end || map.end.load() != end) continue;
        char* page = at - reinterpret_cast<std::uintptr_t>(at) % page_size;
        // The mark comes first: no thread can read the zeros and then not find it.
        lower(map.damage, static_cast<std::size_t>(page - begin));
        faults.fetch_add(1);
        const int flags = MAP_PRIVATE | MAP_ANON | MAP_FIXED;
        return mmap(page, static_cast<std::size_t>(end - page), PROT_READ, flags, -1, 0) == page;
    }
    return false;
}

void pass_on(int number, siginfo_t* info, void* context) {
    const bool sent = info->si_code <= 0;  // by a process, and not by a faulting instruction
    for (int i = 0; i < kSignalCount; ++i) {
        if (kSignals[i] != number) continue;
        const struct sigaction& before = below[i].action;
        if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(number, info, context);
        if (before.sa_handler == SIG_IGN && sent) return;
        if (before.sa_handler != SIG_IGN && before.sa_handler != SIG_DFL) return before.sa_handler(number);
    }
    // The system's own answer, which a handler cannot give: the instruction faults again and finds no handler.
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
        // Above a handler that stands above us we would go round in circles: it stays first, and passes on what it does
        // not know. If what was below us is first again, or no handler at all, we were taken out of the chain.
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
        if (!ours(now)) continue;  // who stands above us may still call us, and is passed on
        sigaction(kSignals[i], &below[i].action, nullptr);
        below[i].installed = false;
    }
}

int add(char* begin, std::size_t bytes) {
    int slot = 0;
    while (slot < kMaps && maps[slot].end.load()) ++slot;
    if (slot == kMaps) return -1;
    ++live;
    install();  // each time: others may have put their handlers in our place
    Map& map = maps[slot];
    map.damage.store(kIntact);
    map.begin.store(begin);
    map.end.store(begin + (bytes + page_size - 1) / page_size * page_size);  // last: it makes the slot count
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
    unguard();  // before the addresses are free for others
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
