// One hot kernel on fixed inputs, between two marks that valgrind counts from and to.
//
//     instructions                  lists "ISA KERNEL", one a line
//     instructions ISA KERNEL       runs it once over kElements elements
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "../../csrc/cpu/isa.h"
#include "../../csrc/cpu/virtual.h"

using namespace mi::cpu;

namespace {

constexpr std::size_t kElements = 65536 + 37;  // a tail too: 37 is no multiple of any step
constexpr std::size_t kModels = 3;
constexpr std::size_t kRank = 16;

// Numbers around 1 in every dtype alike: no NaN, no subnormal, the same in every run.
struct Inputs {
    std::vector<float> x[kModels];
    std::vector<std::uint16_t> bf16[kModels], f16[kModels];
    std::vector<float> out = std::vector<float>(kElements);
    std::vector<std::uint32_t> found = std::vector<std::uint32_t>(kElements);
    std::vector<std::uint64_t> counts = std::vector<std::uint64_t>(1 << 16);

    explicit Inputs(const Kernels& k) {
        std::uint64_t state = 1;
        for (std::size_t m = 0; m < kModels; ++m) {
            for (std::size_t i = 0; i < kElements; ++i) {
                state = state * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX generator
                x[m].push_back(static_cast<float>(static_cast<std::int32_t>(state >> 32)) / 2147483648.0f);
            }
            bf16[m].resize(kElements), f16[m].resize(kElements);
            k.narrow[kBF16](bf16[m].data(), x[m].data(), kElements);
            k.narrow[kF16](f16[m].data(), x[m].data(), kElements);
        }
    }
};

void combine(const Kernels& k, Inputs& in, mi::Formula formula) {
    mi::Combine how;
    how.formula = formula, how.models = kModels, how.scale = 0.7f;
    for (std::size_t m = 0; m < kModels; ++m) how.weight[m] = 1.0f, how.threshold[m] = 0.3f;
    const void* x[] = {in.bf16[0].data(), in.bf16[1].data(), in.bf16[2].data()};
    k.combine[kBF16](in.out.data(), x, kElements, how);
}

using Work = void (*)(const Kernels&, Inputs&);

const std::map<std::string, Work> works = {
    {"lerp bf16", [](const Kernels& k, Inputs& in) {
         k.lerp[kBF16](in.out.data(), in.bf16[0].data(), in.bf16[1].data(), kElements, 0.8f, false);
     }},
    {"lerp bf16 streaming", [](const Kernels& k, Inputs& in) {
         k.lerp[kBF16](in.out.data(), in.bf16[0].data(), in.bf16[1].data(), kElements, 0.8f, true);
     }},
    {"lerp float16", [](const Kernels& k, Inputs& in) {
         k.lerp[kF16](in.out.data(), in.f16[0].data(), in.f16[1].data(), kElements, 0.8f, false);
     }},
    {"lerp float32", [](const Kernels& k, Inputs& in) {
         k.lerp[kF32](in.out.data(), in.x[0].data(), in.x[1].data(), kElements, 0.8f, false);
     }},
    {"average bf16 x3", [](const Kernels& k, Inputs& in) { combine(k, in, mi::Formula::kAffine); }},
    {"task_arithmetic bf16 x3", [](const Kernels& k, Inputs& in) { combine(k, in, mi::Formula::kTask); }},
    {"ties bf16 x3", [](const Kernels& k, Inputs& in) { combine(k, in, mi::Formula::kTies); }},
    {"select", [](const Kernels& k, Inputs& in) {
         k.select(in.found.data(), kElements, in.x[0].data(), in.x[1].data(), kElements, 0x3F000000u, 0x3F100000u);
     }},
    {"histogram", [](const Kernels& k, Inputs& in) {
         k.high_histogram(in.counts.data(), in.x[0].data(), in.x[1].data(), kElements);
     }},
    {"moments", [](const Kernels& k, Inputs& in) {
         double total[8] = {};
         k.moments(total, in.x[0].data(), in.x[1].data(), kElements);
     }},
    {"fp8 scaled", [](const Kernels& k, Inputs& in) {
         k.scaled(in.out.data(), reinterpret_cast<const std::uint8_t*>(in.bf16[0].data()), kElements, 0.5f);
     }},
    {"lora rank 16", [](const Kernels& k, Inputs& in) {
         for (std::size_t at = 0; at + kStrip <= kElements; at += kStrip)
             k.low_rank(in.out.data() + at, in.x[0].data(), in.x[1].data(), kRank, kStrip, 0.5f);
     }},
};

}  // namespace

// valgrind counts while this runs, and needs a name to look for.
extern "C" __attribute__((noinline)) void counted(Work work, const Kernels& kernels, Inputs& inputs) {
    work(kernels, inputs);
}

int main(int argc, char** argv) {
    for (const Isa& isa : available_isas()) {
        if (argc == 1)
            for (const auto& [name, work] : works) std::printf("%s %s\n", isa.name, name.c_str());
        if (argc == 3 && isa.name == std::string(argv[1])) {
            Inputs inputs(*isa.kernels);
            counted(works.at(argv[2]), *isa.kernels, inputs);
            std::printf("%zu\n", kElements);
            return 0;
        }
    }
    return argc == 1 ? 0 : 1;
}
