#include "run.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "float_environment.h"

namespace mi::cpu {
namespace {

// Elements that a thread takes at a time: enough to make the cost of taking negligible, and few enough to balance the load.
constexpr std::size_t kTask = std::size_t(1) << 18;
// With fewer elements in total, starting threads costs more than it saves.
constexpr std::size_t kThreadingPays = std::size_t(1) << 20;
// Outputs of this many bytes in total would evict everything else from the cache, so their stores bypass it. Smaller single
// outputs do not use streaming stores, because waiting for these costs more.
constexpr std::size_t kStreamingPays = std::size_t(1) << 23, kStreamingPaysEach = std::size_t(1) << 14;

// Elements of a block that several outputs share, so that both inputs stay in the first-level cache.
constexpr std::size_t kShared = std::size_t(1) << 12;

Span part(const Span& s, std::size_t begin, std::size_t n) {
    Span p = s;
    p.out = static_cast<char*>(s.out) + begin * kItemSize[s.out_type];
    p.a = static_cast<const char*>(s.a) + begin * kItemSize[s.a_type];
    p.b = static_cast<const char*>(s.b) + begin * kItemSize[s.b_type];
    p.n = n;
    return p;
}

std::size_t written(const Span& s) { return s.n * kItemSize[s.out_type]; }

bool use_streaming(const Span& s, Stores stores, std::size_t written_in_all) {
    if (stores != Stores::kAuto) return stores == Stores::kStreaming;
    return s.out != s.a && s.out != s.b && written_in_all >= kStreamingPays && written(s) >= kStreamingPaysEach;
}

// Elements of a block for different dtypes, which are converted to float32 in the first-level cache.
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
    if (s.n == 0) return;  // pointers to empty arrays may be null
    if (s.w == 0.0f) return copy(s, k, s.a, s.a_type);
    if (s.w == 1.0f) return copy(s, k, s.b, s.b_type);
    if (s.a_type != s.out_type || s.b_type != s.out_type) return lerp_mixed(s, k);
    k.lerp[s.out_type](s.out, s.a, s.b, s.n, s.w, stream);
}

// Divides the spans into tasks, and every thread takes the next task until none is left. work(i, begin, n) handles
// elements begin to begin + n of span i.
template <class Spans, class Work>
void share(const Spans* spans, std::size_t count, int threads, const Work& work) {
    std::size_t elements = 0;
    for (std::size_t i = 0; i < count; ++i) elements += spans[i].n;
    if (threads <= 1 || elements < kThreadingPays) {
        DefaultFloatEnvironment environment;
        for (std::size_t i = 0; i < count; ++i) work(i, 0, spans[i].n);
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
            const Task& task = tasks[i];
            work(task.span, task.begin, std::min(kTask, spans[task.span].n - task.begin));
        }
    };
    std::vector<std::thread> helpers;
    try {
        for (int i = 1; i < threads; ++i) helpers.emplace_back(take);
    } catch (const std::system_error&) {
        // The system cannot start more threads, so the running ones do the work.
    }
    take();
    for (std::thread& helper : helpers) helper.join();
}

}  // namespace

void run(const Span* spans, std::size_t count, const Kernels& kernels, int threads, Stores stores) {
    std::size_t all = 0;
    for (std::size_t i = 0; i < count; ++i) all += written(spans[i]);
    share(spans, count, threads, [&](std::size_t i, std::size_t begin, std::size_t n) {
        run_span(part(spans[i], begin, n), kernels, use_streaming(spans[i], stores, all));
    });
}

void run_touch(const Span& span, const Kernels& kernels, int threads, Stores stores) {
    share(&span, 1, threads, [&](std::size_t, std::size_t begin, std::size_t n) {
        const Span piece = part(span, begin, n);
        kernels.touch(piece.out, piece.a, piece.b, piece.n, 0.0f, use_streaming(span, stores, written(span)));
    });
}

void run_groups(const Span* spans, std::size_t count, std::size_t group, const Kernels& kernels) {
    DefaultFloatEnvironment environment;
    for (const Span* s = spans; s < spans + count; s += group)
        for (std::size_t begin = 0; begin < s->n; begin += kShared)
            for (std::size_t i = 0; i < group; ++i)
                run_span(part(s[i], begin, std::min(kShared, s->n - begin)), kernels, false);
}

namespace {

void combine_part(const CombineSpan& s, const Kernels& k, std::size_t begin, std::size_t n) {
    const int models = s.how.models;
    const void* x[kMaxModels];
    const bool thinned = reads(s.how.formula) == Reads::kThinned;
    bool same = !thinned;
    for (int i = 0; i < models; ++i) {
        x[i] = static_cast<const char*>(s.x[i]) + begin * kItemSize[s.types[i]];
        same = same && s.types[i] == s.out_type;
    }
    char* out = static_cast<char*>(s.out) + begin * kItemSize[s.out_type];
    if (same) return k.combine[s.out_type](out, x, n, s.how);
    float wide[kMaxModels][kBlock], result[kBlock];
    for (std::size_t at = 0; at < n; at += kBlock) {
        const std::size_t m = std::min(kBlock, n - at);
        const void* block[kMaxModels];
        for (int i = 0; i < models; ++i) {
            k.widen[s.types[i]](wide[i], static_cast<const char*>(x[i]) + at * kItemSize[s.types[i]], m);
            if (thinned && i > 0)
                k.thin(wide[i], wide[i], wide[0], m, s.how.key[i], s.how.density[i], s.first + begin + at);
            block[i] = wide[i];
        }
        k.combine[kF32](result, block, m, s.how);
        k.narrow[s.out_type](out + at * kItemSize[s.out_type], result, m);
    }
}

// Calls work(a, b, n) with blocks of a - base and b - base in float32 (of a and b where base is null).
template <class Work>
void blocks(const StatsSpan& s, const Kernels& k, const Work& work) {
    DefaultFloatEnvironment environment;
    float a[kBlock], b[kBlock], base[kBlock];
    auto widen = [&](float* to, const void* from, DType type, std::size_t at, std::size_t n) {
        k.widen[type](to, static_cast<const char*>(from) + at * kItemSize[type], n);
    };
    for (std::size_t at = 0; at < s.n; at += kBlock) {
        const std::size_t n = std::min(kBlock, s.n - at);
        widen(a, s.a, s.a_type, at, n);
        widen(b, s.b, s.b_type, at, n);
        if (s.base != nullptr) {
            widen(base, s.base, s.base_type, at, n);
            for (std::size_t i = 0; i < n; ++i) a[i] -= base[i], b[i] -= base[i];
        }
        work(a, b, n);
    }
}

}  // namespace

void run_combine(const CombineSpan* spans, std::size_t count, const Kernels& kernels, int threads) {
    share(spans, count, threads, [&](std::size_t i, std::size_t begin, std::size_t n) {
        combine_part(spans[i], kernels, begin, n);
    });
}

void run_moments(const StatsSpan& span, const Kernels& k, double* total) {
    blocks(span, k, [&](const float* a, const float* b, std::size_t n) { k.moments(total, a, b, n); });
}

void run_high_histogram(const StatsSpan& span, const Kernels& k, std::uint64_t* counts) {
    blocks(span, k, [&](const float* a, const float* b, std::size_t n) { k.high_histogram(counts, a, b, n); });
}

Selected run_select(const StatsSpan& span, const Kernels& k, std::uint32_t low, std::uint32_t high, std::uint32_t* found,
                    std::size_t room) {
    Selected total{0, 0};
    blocks(span, k, [&](const float* a, const float* b, std::size_t n) {
        const std::size_t used = total.kept < room ? total.kept : room;
        Selected s = k.select(found + used, room - used, a, b, n, low, high);
        total.above += s.above;
        total.kept += s.kept;
    });
    return total;
}

void run_low_histogram(const StatsSpan& span, const Kernels& k, std::uint32_t high, std::uint64_t* counts) {
    blocks(span, k, [&](const float* a, const float* b, std::size_t n) { k.low_histogram(counts, a, b, n, high); });
}

}  // namespace mi::cpu
