// Loads the kernels onto a device, and launches them.
#pragma once
#include <cstdint>

#include "chunk.h"
#include "combine_chunk.h"
#include "driver.h"
#include "mixed.h"
#include "stats_chunk.h"

namespace mi::cuda {

// Loads the kernels onto device `ordinal` and retains its primary context, both until the process ends. Does nothing if
// they are already loaded. Throws Error.
void prepare(int ordinal);

// Launches `chunks` blocks over a table in device memory, asynchronously on `stream`. The device must be prepared. This
// function loads, allocates and waits for nothing, so a stream capture can record it. Throws Error, and
// std::invalid_argument for a device that is not prepared.
void launch(int ordinal, Stream stream, const Table& table, std::int64_t chunks, Types types);

// The same for a table of tensors that are combined from `table.models` others. `bf16`: all of them are bf16.
void launch_combine(int ordinal, Stream stream, const CombineTable& table, std::int64_t chunks, bool bf16);

// Finds the k-th largest magnitude of a difference of at least k elements: Search::magnitude. `search` is device memory, all
// zeros.
void launch_search(int ordinal, Stream stream, const Difference& difference, Search* search, std::uint64_t k);

// Computes the moments of each piece of two tensors that are not empty: double [pieces, kMoments] in `totals`. `parts` is device
// memory for double [blocks of kBlockElements, kWays, kMoments].
void launch_moments(int ordinal, Stream stream, const Compared& compared, double* parts, double* totals);

}  // namespace mi::cuda
