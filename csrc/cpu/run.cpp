#include "run.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace mi::cpu {
namespace {

// Elements a thread takes at a time: big enough that taking is free, small enough to share the last tensor fairly.
constexpr std::size_t kTask = std::size_t(1) << 18;
// Below this many elements in all, starting threads costs more than it saves.
constexpr std::size_t kThreadingPays = std::size_t(1) << 20;
// An output this large would only push everything else out of the cache: write past it.
constexpr std::size_t kStreamingPays = std::size_t(1) << 23;

// The contract keeps subnormals and rounds to nearest whatever the caller's thread has set (torch can be asked to
// flush denormals, and that lives in a register of the thread).
class DefaultFloatEnvironment {
#if defined(__x86_64__)
    unsigned saved_ = _mm_getcsr();

public:
    DefaultFloatEnvironment() { _mm_setcsr(0x1F80); }
    ~DefaultFloatEnvironment() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
    unsigned long long saved_;

public:
    DefaultFloatEnvironment() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" : : "r"(0ULL));
    }
    ~DefaultFloatEnvironment() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#endif
};

Span part(const Span& s, std::size_t begin, std::size_t n) {
    Span p = s;
    p.out = static_cast<char*>(s.out) + begin * kItemSize[s.out_type];
    p.a = static_cast<const char*>(s.a) + begin * kItemSize[s.a_type];
    p.b = static_cast<const char*>(s.b) + begin * kItemSize[s.b_type];
    p.n = n;
    return p;
}

bool use_streaming(const Span& s, Stores stores) {
    if (stores != Stores::kAuto) return stores == Stores::kStreaming;
    return s.out != s.a && s.out != s.b && s.n * kItemSize[s.out_type] >= kStreamingPays;
}

// Different dtypes: by way of float32 in blocks that stay in the first-level cache.
constexpr std::size_t kBlock = 1024;

void convert(const Span& s, const Kernels& k, const void* in, DType in_type) {
    float wide[kBlock];
    for (std::size_t i = 0; i < s.n; i += kBlock) {
        Span p = part(s, i, std::min(kBlock, s.n - i));
        const void* from = static_cast<const char*>(in) + i * kItemSize[in_type];
        k.widen[in_type](wide, from, p.n);
        k.narrow[s.out_type](p.out, wide, p.n);
    }
}

void lerp_mixed(const Span& s, const Kernels& k) {
    float a[kBlock], b[kBlock];
    for (std::size_t i = 0; i < s.n; i += kBlock) {
        Span p = part(s, i, std::min(kBlock, s.n - i));
        k.widen[s.a_type](a, p.a, p.n);
        k.widen[s.b_type](b, p.b, p.n);
        k.lerp[kF32](a, a, b, p.n, s.w, false);
        k.narrow[s.out_type](p.out, a, p.n);
    }
}

void copy(const Span& s, const Kernels& k, const void* in, DType in_type) {
    if (in_type != s.out_type) return convert(s, k, in, in_type);
    if (s.out != in) std::memcpy(s.out, in, s.n * kItemSize[in_type]);
}

void run_span(const Span& s, const Kernels& k, bool stream) {
    if (s.n == 0) return;  // the pointers of an empty array may be null
    if (s.w == 0.0f) return copy(s, k, s.a, s.a_type);
    if (s.w == 1.0f) return copy(s, k, s.b, s.b_type);
    if (s.a_type != s.out_type || s.b_type != s.out_type) return lerp_mixed(s, k);
    k.lerp[s.out_type](s.out, s.a, s.b, s.n, s.w, stream);
}

// Cuts the spans into tasks and lets every thread take the next one until none is left.
template <class Work>
void share(const Span* spans, std::size_t count, int threads, const Work& work) {
    std::size_t elements = 0;
    for (std::size_t i = 0; i < count; ++i) elements += spans[i].n;
    if (threads <= 1 || elements < kThreadingPays) {
        DefaultFloatEnvironment environment;
        for (std::size_t i = 0; i < count; ++i) work(spans[i], i);
        return;
    }
    struct Task {
        std::size_t span, begin;
    };
    std::vector<Task> tasks;
    tasks.reserve(count + elements / kTask);
    for (std::size_t i = 0; i < count; ++i)
        for (std::size_t begin = 0; begin < spans[i].n; begin += kTask) tasks.push_back({i, begin});

    std::atomic<std::size_t> next{0};
    auto take = [&] {
        DefaultFloatEnvironment environment;
        for (std::size_t i; (i = next.fetch_add(1)) < tasks.size();) {
            const Span& s = spans[tasks[i].span];
            work(part(s, tasks[i].begin, std::min(kTask, s.n - tasks[i].begin)), tasks[i].span);
        }
    };
    std::vector<std::thread> helpers;
    try {
        for (int i = 1; i < threads; ++i) helpers.emplace_back(take);
    } catch (const std::system_error&) {
        // The machine gives no more threads: those that run do the work.
    }
    take();
    for (std::thread& helper : helpers) helper.join();
}

}  // namespace

void run(const Span* spans, std::size_t count, const Kernels& kernels, int threads, Stores stores) {
    share(spans, count, threads, [&](const Span& piece, std::size_t index) {
        run_span(piece, kernels, use_streaming(spans[index], stores));
    });
}

void run_touch(const Span& span, const Kernels& kernels, int threads, Stores stores) {
    share(&span, 1, threads, [&](const Span& piece, std::size_t) {
        kernels.touch(piece.out, piece.a, piece.b, piece.n, 0.0f, use_streaming(span, stores));
    });
}

}  // namespace mi::cpu
