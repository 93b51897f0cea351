// Which ISAs this machine can run, best first. The scalar one is always last.
#pragma once
#include <vector>

#include "kernels.h"

namespace mi::cpu {

struct Isa {
    const char* name;
    const Kernels* kernels;
};

std::vector<Isa> available_isas();

}  // namespace mi::cpu
