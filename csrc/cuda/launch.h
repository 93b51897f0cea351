// Loads the kernels onto a device, and launches them.
#pragma once
#include <cstdint>

#include "chunk.h"
#include "driver.h"
#include "mixed.h"

namespace mi::cuda {

// Loads the kernels onto device `ordinal` and holds its primary context, both for the life of the process. Does
// nothing the second time. Throws Error.
void prepare(int ordinal);

// One launch of `chunks` blocks over a table in the device's memory, ordered by `stream`, asynchronous. The device must
// have been prepared: nothing is loaded, allocated or waited for here, so a stream capture can record it. Throws Error,
// and std::invalid_argument for an unprepared device.
void launch(int ordinal, Stream stream, const Table& table, std::int64_t chunks, Types types);

}  // namespace mi::cuda
