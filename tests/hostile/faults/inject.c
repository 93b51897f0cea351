// Preloaded into a process: lets chosen system calls on chosen paths fail, as full, dying, slow and odd disks do.
//
// By environment variables, read at the start and again by faults_arm():
//   FAULT_PATH    only paths that hold this text; unset: nothing is done at all
//   FAULT_CALL    which calls: one of the names in the macros below
//   FAULT_NTH     the n-th of them, from 1, fails ...
//   FAULT_ERRNO   ... with this errno
//   FAULT_STICKY  1: and so do all after it
//   FAULT_LACKS   calls of this name always fail with EINVAL, uncounted: the disk cannot do that
//   FAULT_SHORT   a seed: reads and writes do a random part of what they are asked for
//   FAULT_DELAY   microseconds before each call
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *the_path, *the_call, *the_lack;
static long nth, delay;
static int code, sticky, shorten;
static atomic_long seen, hit;
static atomic_uint random_state;

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

__attribute__((constructor)) void faults_arm(void) {
    the_path = getenv("FAULT_PATH"), the_call = getenv("FAULT_CALL"), the_lack = getenv("FAULT_LACKS");
    nth = number("FAULT_NTH"), code = (int)number("FAULT_ERRNO"), sticky = (int)number("FAULT_STICKY");
    delay = number("FAULT_DELAY"), shorten = getenv("FAULT_SHORT") != NULL;
    seen = hit = 0;
    random_state = (unsigned)number("FAULT_SHORT");
}

long faults_hit(void) { return hit; }

static int concerns(const char *path) { return the_path && *the_path && path && strstr(path, the_path); }

// Whether this call is to fail; errno is set then.
static int strikes(const char *call, const char *path) {
    if (!concerns(path)) return 0;
    if (delay) usleep((useconds_t)delay);
    if (the_lack && strcmp(call, the_lack) == 0) {
        errno = EINVAL;
        return 1;
    }
    if (!the_call || strcmp(call, the_call) != 0) return 0;
    long n = atomic_fetch_add(&seen, 1) + 1;
    if (n != nth && !(sticky && n > nth)) return 0;
    atomic_fetch_add(&hit, 1);
    errno = code;
    return 1;
}

static const char *path_of(int fd, char *room) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlinkat, AT_FDCWD, link, room, PATH_MAX - 1);
    room[n < 0 ? 0 : n] = 0;
    return room;
}

static const char *path_at(int folder, const char *name, char *room) {
    if (!name || name[0] == '/' || folder == AT_FDCWD) return name;
    path_of(folder, room);
    size_t n = strlen(room);
    snprintf(room + n, PATH_MAX - n, "/%s", name);
    return room;
}

static int strikes_fd(const char *call, int fd) {
    char room[PATH_MAX];
    return the_path && *the_path && strikes(call, path_of(fd, room));
}

static int strikes_at(const char *call, int folder, const char *name) {
    char room[PATH_MAX];
    return the_path && *the_path && strikes(call, path_at(folder, name, room));
}

static size_t part(int fd, size_t n) {
    char room[PATH_MAX];
    if (!shorten || n < 2 || !concerns(path_of(fd, room))) return n;
    unsigned x = atomic_fetch_add(&random_state, 0x9E3779B9u);
    x ^= x >> 16, x *= 0x85EBCA6Bu, x ^= x >> 13;
    if (x % 3 == 0) return n;
    if (x % 3 == 1 && n > 4096) return (x / 3 % (n / 4096) + 1) * 4096 < n ? (x / 3 % (n / 4096) + 1) * 4096 : n;
    return x / 3 % n + 1;
}

#define REAL(result, name, ...) ((result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

#define OPENS(name, at)                                                                            \
    int name(const char *path, int flags, ...) {                                                   \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                    \
        va_end(rest);                                                                              \
        if (flags & O_DIRECT && strikes("open-direct", path)) return -1;                           \
        if (strikes(flags & O_CREAT ? "create" : "open", path)) return -1;                         \
        return REAL(int, name, const char *, int, mode_t)(path, flags, mode);                      \
    }                                                                                              \
    int at(int folder, const char *path, int flags, ...) {                                         \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                    \
        va_end(rest);                                                                              \
        if (strikes_at(flags & O_CREAT ? "create" : "open", folder, path)) return -1;              \
        return REAL(int, at, int, const char *, int, mode_t)(folder, path, flags, mode);           \
    }
OPENS(open, openat)
OPENS(open64, openat64)

DIR *opendir(const char *path) {
    return strikes("open", path) ? NULL : REAL(DIR *, opendir, const char *)(path);
}

#define READDIRS(name, entry)                                                                      \
    struct entry *name(DIR *folder) {                                                              \
        return strikes_fd("readdir", dirfd(folder)) ? NULL : REAL(struct entry *, name, DIR *)(folder); \
    }
READDIRS(readdir, dirent)
READDIRS(readdir64, dirent64)

ssize_t read(int fd, void *to, size_t n) {
    return strikes_fd("read", fd) ? -1 : REAL(ssize_t, read, int, void *, size_t)(fd, to, part(fd, n));
}

ssize_t write(int fd, const void *from, size_t n) {
    return strikes_fd("write", fd) ? -1 : REAL(ssize_t, write, int, const void *, size_t)(fd, from, part(fd, n));
}

#define PREADS(name)                                                                               \
    ssize_t name(int fd, void *to, size_t n, off_t at) {                                           \
        return strikes_fd("read", fd) ? -1 : REAL(ssize_t, name, int, void *, size_t, off_t)(fd, to, part(fd, n), at); \
    }
PREADS(pread)
PREADS(pread64)

#define PWRITES(name)                                                                              \
    ssize_t name(int fd, const void *from, size_t n, off_t at) {                                   \
        if (fcntl(fd, F_GETFL) & O_DIRECT && strikes_fd("pwrite-direct", fd)) return -1;           \
        if (strikes_fd("pwrite", fd)) return -1;                                                   \
        return REAL(ssize_t, name, int, const void *, size_t, off_t)(fd, from, part(fd, n), at);   \
    }
PWRITES(pwrite)
PWRITES(pwrite64)

int fsync(int fd) { return strikes_fd("fsync", fd) ? -1 : REAL(int, fsync, int)(fd); }
int fdatasync(int fd) { return strikes_fd("fsync", fd) ? -1 : REAL(int, fdatasync, int)(fd); }
int flock(int fd, int how) { return strikes_fd("flock", fd) ? -1 : REAL(int, flock, int, int)(fd, how); }

int close(int fd) {
    int failed = strikes_fd("close", fd);  // a close that fails has closed all the same
    int result = REAL(int, close, int)(fd);
    if (failed) errno = code;
    return failed ? -1 : result;
}

#define TRUNCATES(name) \
    int name(int fd, off_t size) { return strikes_fd("ftruncate", fd) ? -1 : REAL(int, name, int, off_t)(fd, size); }
TRUNCATES(ftruncate)
TRUNCATES(ftruncate64)

#define ALLOCATES(name)                                                                            \
    int name(int fd, int mode, off_t at, off_t size) {                                             \
        return strikes_fd("fallocate", fd) ? -1 : REAL(int, name, int, int, off_t, off_t)(fd, mode, at, size); \
    }
ALLOCATES(fallocate)
ALLOCATES(fallocate64)

#define MAPS(name)                                                                                 \
    void *name(void *at, size_t n, int allowed, int flags, int fd, off_t from) {                   \
        if (fd >= 0 && strikes_fd("mmap", fd)) return MAP_FAILED;                                  \
        return REAL(void *, name, void *, size_t, int, int, int, off_t)(at, n, allowed, flags, fd, from); \
    }
MAPS(mmap)
MAPS(mmap64)

int mkdir(const char *path, mode_t mode) {
    return strikes("mkdir", path) ? -1 : REAL(int, mkdir, const char *, mode_t)(path, mode);
}

int rename(const char *from, const char *to) {
    return strikes("rename", from) ? -1 : REAL(int, rename, const char *, const char *)(from, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    if (strikes_at("exchange", a, from)) return -1;
    return REAL(int, renameat2, int, const char *, int, const char *, unsigned)(a, from, b, to, flags);
}

int unlink(const char *path) { return strikes("unlink", path) ? -1 : REAL(int, unlink, const char *)(path); }
int rmdir(const char *path) { return strikes("unlink", path) ? -1 : REAL(int, rmdir, const char *)(path); }

int unlinkat(int folder, const char *path, int flags) {
    return strikes_at("unlink", folder, path) ? -1 : REAL(int, unlinkat, int, const char *, int)(folder, path, flags);
}

#define STATS(name, entry)                                                                         \
    int name(const char *path, struct entry *to) {                                                 \
        return strikes("stat", path) ? -1 : REAL(int, name, const char *, struct entry *)(path, to); \
    }
STATS(stat, stat)
STATS(stat64, stat64)
STATS(lstat, stat)
STATS(lstat64, stat64)
STATS(statvfs, statvfs)
STATS(statvfs64, statvfs64)

#define FSTATS(name, entry)                                                                        \
    int name(int fd, struct entry *to) {                                                           \
        return strikes_fd("stat", fd) ? -1 : REAL(int, name, int, struct entry *)(fd, to);         \
    }
FSTATS(fstat, stat)
FSTATS(fstat64, stat64)
