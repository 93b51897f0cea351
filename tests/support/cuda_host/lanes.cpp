// The chunks of csrc/cuda as plain C++: each block's threads one after the other, each block after the last. Where threads
// share memory, every thread finishes a phase before any starts the next, as __syncthreads has it in stats_kernels.h. So this
// gives a GPU's results wherever the two compute alike.
#include <vector>

#include "../../../csrc/cuda/combine_chunk.h"
#include "../../../csrc/cuda/mixed.h"
#include "../../../csrc/cuda/stats_chunk.h"

using namespace mi::cuda;

namespace {

long misaligned = 0;

template <class Block>
void every_thread(std::int64_t chunks, const Block& block) {
    for (std::int64_t index = 0; index < chunks; ++index)
        for (int thread = 0; thread < kThreads; ++thread) block(index, Worker{thread, kThreads});
}

}  // namespace

// Compiled with -fsanitize=alignment, which calls this instead of failing silently as x86 does: a GPU would trap.
extern "C" void __ubsan_handle_type_mismatch_v1(void*, void*) { ++misaligned; }

// Runs one launch; returns how many accesses were not aligned to their own size.
extern "C" long run_launch(const Table* table, std::int64_t chunks, Types types) {
    misaligned = 0;
    bool same = types.a == types.out && types.b == types.out;
    every_thread(chunks, [&](std::int64_t index, Worker me) {
        if (!same) return run_mixed_chunk(*table, index, types, me);
        if (types.out == kBF16) return run_chunk<BF16>(*table, index, me);
        if (types.out == kF16) return run_chunk<F16>(*table, index, me);
        run_chunk<F32>(*table, index, me);
    });
    return misaligned;
}

// Runs one launch of a kernel for this number of models, or of the one for any number.
extern "C" long run_combine_launch(const CombineTable* table, std::int64_t chunks, int models, bool bf16) {
    misaligned = 0;
    every_thread(chunks, [&](std::int64_t index, Worker me) {
        switch (models) {
            case 2: return bf16 ? run_combine_chunk<AllBF16, 2>(*table, index, me) : run_combine_chunk<AnyFormats, 2>(*table, index, me);
            case 3: return bf16 ? run_combine_chunk<AllBF16, 3>(*table, index, me) : run_combine_chunk<AnyFormats, 3>(*table, index, me);
            case 4: return bf16 ? run_combine_chunk<AllBF16, 4>(*table, index, me) : run_combine_chunk<AnyFormats, 4>(*table, index, me);
            case 5: return bf16 ? run_combine_chunk<AllBF16, 5>(*table, index, me) : run_combine_chunk<AnyFormats, 5>(*table, index, me);
        }
        run_combine_elements(*table, index, me);
    });
    return misaligned;
}

namespace {

template <class Phase>
void phase(const Phase& work) {
    for (int thread = 0; thread < kThreads; ++thread) work(Worker{thread, kThreads});
}

template <int kBins>
void find_rank(const Count64* counts, Found& found, Count64 above, Count64 k) {
    phase([&](Worker me) { start_search(found, kBins, above, me); });
    for (int width = Widths<kBins>::kFirst;; width = width > Widths<kBins>::kSecond ? Widths<kBins>::kSecond : 1) {
        phase([&](Worker me) { sum_runs(counts, found, width, me); });
        phase([&](Worker me) { choose_run(found, k, width, me); });
        if (width == 1) break;
    }
}

}  // namespace

extern "C" long run_count_upper(const Difference* d, Search* search, std::int64_t blocks) {
    misaligned = 0;
    std::vector<std::uint32_t> bins(kUpperBins, 0xA5A5A5A5u);
    for (std::int64_t block = 0; block < blocks; ++block) {
        phase([&](Worker me) { clear_upper(bins.data(), me); });
        phase([&](Worker me) { count_upper(*d, bins.data(), block, blocks, me); });
        phase([&](Worker me) { add_upper(*search, bins.data(), me); });
    }
    return misaligned;
}

extern "C" long run_count_lower(const Difference* d, Search* search, std::int64_t blocks) {
    misaligned = 0;
    for (std::int64_t block = 0; block < blocks; ++block)
        phase([&](Worker me) { count_lower(*d, *search, block, blocks, me); });
    return misaligned;
}

extern "C" void run_find_upper(Search* search, Count64 k) {
    Found found;
    find_rank<kUpperBins>(search->upper, found, 0, k);
    phase([&](Worker me) { finish_upper(*search, found, me); });
}

extern "C" void run_find_lower(Search* search, Count64 k) {
    Found found;
    find_rank<kLowerBins>(search->lower, found, search->above, k);
    phase([&](Worker me) { finish_lower(*search, found, me); });
}

extern "C" long run_moment_parts(const Compared* c, double* parts, std::int64_t blocks) {
    misaligned = 0;
    every_thread(blocks, [&](std::int64_t index, Worker me) { accumulate_way(*c, parts, index, me); });
    return misaligned;
}

extern "C" void run_moment_totals(const double* parts, double* totals, std::int64_t n, std::int64_t blocks) {
    every_thread(blocks, [&](std::int64_t index, Worker me) { add_parts(parts, totals, n, index, me); });
}
