// The chunks of csrc/cuda as plain C++: each block's threads one after the other, each block after the last. The code
// exchanges nothing between threads, so this gives a GPU's results wherever the two compute alike.
#include "../../../csrc/cuda/mixed.h"

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
