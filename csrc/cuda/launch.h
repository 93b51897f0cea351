// Loads the kernels onto a device, and launches them.
#pragma once
#include <cstdint>

#include "chunk.h"
#include "driver.h"
#include "mixed.h"

namespace mi::cuda {

// Loads the kernels onto device `ordinal` and retains its primary context, both until the process ends. Does nothing if
// they are already loaded. Throws Error.
void prepare(int ordinal);

// Launches `chunks` blocks over a table in device memory, asynchronously on `stream`. The device must be prepared. This
// function loads, allocates and waits for nothing, so a stream capture can record it. Throws Error, and
// std::invalid_argument for a device that is not prepared.
void launch(int ordinal, Stream stream, const Table& table, std::int64_t chunks, Types types);

}  // namespace mi::cuda
