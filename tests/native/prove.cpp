// The ISAs of this machine against its scalar code, without Python: what proves an ISA on a machine, or an emulator,
// where the package is not installed. prove.sh builds and runs it.
//
// Two machines that print the same digest gave the same bits for everything below, NaN included. On x86 the scalar
// code is compared with torch by the test suite, so an equal digest from Arm carries that over to NEON.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "../../csrc/cpu/crc32c.h"
#include "../../csrc/cpu/isa.h"
#include "../../csrc/cpu/run.h"

using namespace mi::cpu;

namespace {

// Both forms of the formula and the seam between them, a subnormal weight, extrapolation on both sides.
const float kWeights[] = {0.3f, 0.49999997f, 0.5f, 0.8f, 1e-40f, -0.3f, -0.7f, 1.7f};
const char* const kNames[] = {"bf16", "fp16", "fp32"};

// Magnitudes where rounding and special cases lie: zero, subnormals, around 1, the largest finite, inf, NaN.
const std::vector<std::uint32_t> kMagnitudes[] = {
    {0, 1, 2, 0x7F, 0x80, 0x81, 0x3F7F, 0x3F80, 0x3F81, 0x3F82, 0x4049, 0x7F7E, 0x7F7F, 0x7F80, 0x7F81, 0x7FBF, 0x7FC0,
     0x7FFF},
    {0, 1, 2, 0x3FF, 0x400, 0x401, 0x3BFF, 0x3C00, 0x3C01, 0x3C02, 0x4248, 0x7BFE, 0x7BFF, 0x7C00, 0x7C01, 0x7DFF,
     0x7E00, 0x7FFF},
    {0, 1, 2, 0x7FFFFF, 0x800000, 0x800001, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3F800002, 0x3F808000, 0x3F818000,
     0x3F801000, 0x3F803000, 0x40490FDB, 0x477FE000, 0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 0x7F7F8000,
     0x7F7FFFFE, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF}};

using Bytes = std::vector<unsigned char>;

std::uint64_t digest = 14695981039346656037ull;  // FNV-1a, of every scalar result
std::uint64_t compared = 0;

void add_to_digest(const Bytes& bytes) {
    for (unsigned char byte : bytes) digest = (digest ^ byte) * 1099511628211ull;
}

[[noreturn]] void fail(const std::string& what) {
    std::printf("FAILED: %s\n", what.c_str());
    std::exit(1);
}

std::string describe(const char* isa, int type, const char* what, float w, std::size_t n, std::size_t i) {
    char text[160];
    std::snprintf(text, sizeof text, "%s %s %s, w %.9g, n %zu: byte %zu", isa, kNames[type], what, w, n, i);
    return text;
}

void expect_same(const Bytes& want, const void* got, const std::string& what) {
    if (!want.empty() && std::memcmp(want.data(), got, want.size()) != 0) fail(what);
}

// xorshift64*: the same values on every machine.
struct Random {
    std::uint64_t state = 88172645463325252ull;
    std::uint32_t next() {
        state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
        return static_cast<std::uint32_t>((state * 2685821657736338717ull) >> 32);
    }
};

void append(Bytes& bytes, int type, std::uint32_t value) {
    const unsigned char* p = reinterpret_cast<const unsigned char*>(&value);
    bytes.insert(bytes.end(), p, p + kItemSize[type]);
}

std::vector<std::uint32_t> specials(int type) {
    std::vector<std::uint32_t> values = kMagnitudes[type];
    for (std::uint32_t m : kMagnitudes[type]) values.push_back(m | 1u << (8 * kItemSize[type] - 1));
    return values;
}

void compare_lerp(const std::vector<Isa>& isas, int type, const Bytes& a, const Bytes& b, float w) {
    std::size_t n = a.size() / kItemSize[type];
    Bytes want(a.size(), 0xA5), got(a.size());
    scalar_kernels.lerp[type](want.data(), a.data(), b.data(), n, w, false);
    add_to_digest(want);
    for (const Isa& isa : isas) {
        std::memset(got.data(), 0x5A, got.size());
        isa.kernels->lerp[type](got.data(), a.data(), b.data(), n, w, false);
        for (std::size_t i = 0; i < want.size(); ++i)
            if (want[i] != got[i]) fail(describe(isa.name, type, "lerp", w, n, i));
        compared += n;
    }
}

// Every 16-bit value of a with each of the special and `others` random values of b.
void sweep_halves(const std::vector<Isa>& isas, int type, int others) {
    Bytes a, b;
    for (std::uint32_t value = 0; value < 0x10000; ++value) append(a, type, value);
    std::vector<std::uint32_t> bs = specials(type);
    Random random;
    for (int i = 0; i < others; ++i) bs.push_back(random.next() & 0xFFFF);
    for (std::uint32_t value : bs) {
        b.clear();
        for (std::size_t i = 0; i < 0x10000; ++i) append(b, type, value);
        for (float w : kWeights) compare_lerp(isas, type, a, b, w);
    }
}

void sweep_floats(const std::vector<Isa>& isas, int others) {
    Bytes a, b;
    for (std::uint32_t x : specials(kF32))
        for (std::uint32_t y : specials(kF32)) append(a, kF32, x), append(b, kF32, y);
    Random random;
    for (int i = 0; i < others; ++i) append(a, kF32, random.next()), append(b, kF32, random.next());
    for (float w : kWeights) compare_lerp(isas, kF32, a, b, w);
}

// Widening of every value; narrowing of special and random ones, and of all that lie at, or next to, the middle
// between two bf16 or float16 values.
void sweep_conversions(const std::vector<Isa>& isas, int others) {
    for (int type = 0; type < kFloatTypes; ++type) {
        Bytes halves, floats;
        Random random;
        if (type == kF32) {
            for (int i = 0; i < others; ++i) append(halves, type, random.next());
        } else {
            for (std::uint32_t value = 0; value < 0x10000; ++value) append(halves, type, value);
        }
        std::size_t n = halves.size() / kItemSize[type];
        std::vector<float> wide(n), got(n);
        scalar_kernels.widen[type](wide.data(), halves.data(), n);
        for (const Isa& isa : isas) {
            isa.kernels->widen[type](got.data(), halves.data(), n);
            if (type == kF16) {
                // Hardware quiets a signalling NaN here, and every use makes it the canonical one.
                for (std::size_t i = 0; i < n; ++i)
                    if (wide[i] != wide[i] ? got[i] == got[i] : std::memcmp(&wide[i], &got[i], 4) != 0)
                        fail(describe(isa.name, type, "widen", 0, n, 4 * i));
            } else if (std::memcmp(wide.data(), got.data(), 4 * n) != 0) {
                fail(describe(isa.name, type, "widen", 0, n, 0));
            }
            compared += n;
        }
        for (std::uint32_t value : specials(kF32)) append(floats, kF32, value);
        for (float value : wide) {
            std::uint32_t bits;
            std::memcpy(&bits, &value, 4);
            std::uint32_t half = type == kBF16 ? 0x8000u : 0x1000u;
            for (std::uint32_t near : {bits, bits + half - 1, bits + half, bits + half + 1}) append(floats, kF32, near);
        }
        // float16's subnormals are multiples of 2^-24: their middles are odd multiples of 2^-25, not half-bit patterns.
        for (int i = 0; i < 4096; ++i) {
            float middle = static_cast<float>(i) * 0x1p-25f;
            std::uint32_t bits;
            std::memcpy(&bits, &middle, 4);
            for (std::uint32_t near : {bits - 1, bits, bits + 1}) append(floats, kF32, near);
        }
        for (int i = 0; i < others; ++i) append(floats, kF32, random.next());
        std::size_t count = floats.size() / 4;
        Bytes want(count * kItemSize[type]), narrow(want.size());
        const float* in = reinterpret_cast<const float*>(floats.data());
        scalar_kernels.narrow[type](want.data(), in, count);
        add_to_digest(want);
        for (const Isa& isa : isas) {
            isa.kernels->narrow[type](narrow.data(), in, count);
            expect_same(want, narrow.data(), describe(isa.name, type, "narrow", 0, count, 0));
            compared += count;
        }
    }
}

// Memory that ends, or begins, at a page which must not be touched: reading or writing beyond it is a crash.
class Fenced {
    unsigned char* map_;
    std::size_t page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));

public:
    Fenced() {
        void* map = mmap(nullptr, 3 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED) fail("mmap");
        map_ = static_cast<unsigned char*>(map);
        if (mprotect(map_, page_, PROT_NONE) != 0 || mprotect(map_ + 2 * page_, page_, PROT_NONE) != 0)
            fail("mprotect");
    }
    Fenced(const Fenced&) = delete;
    Fenced& operator=(const Fenced&) = delete;
    ~Fenced() { munmap(map_, 3 * page_); }

    unsigned char* begin() { return map_ + page_; }
    std::size_t size() const { return page_; }
    unsigned char* at(std::size_t bytes, bool at_end, std::size_t shift) {
        return at_end ? map_ + 2 * page_ - bytes - shift : begin() + shift;
    }
};

// Sizes from nothing to past two unrolled steps of the widest ISA, at every small misalignment, against both fences,
// cached and streaming, apart and in place.
void sweep_tails(const std::vector<Isa>& isas) {
    Fenced out, in_a, in_b;
    for (int type = 0; type < kFloatTypes; ++type) {
        const std::size_t item = kItemSize[type], most = 150;
        Bytes a, b, all(most * item);
        Random random;
        for (std::size_t i = 0; i < most; ++i) append(a, type, random.next()), append(b, type, random.next());
        for (float w : {0.3f, 0.8f}) {
            scalar_kernels.lerp[type](all.data(), a.data(), b.data(), most, w, false);
            for (std::size_t n = 0; n <= most; ++n) {
                const std::size_t bytes = n * item;
                const Bytes want(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(bytes));
                for (std::size_t shift : {std::size_t(0), std::size_t(1), item, 2 * item, 3 * item, std::size_t(63)})
                    for (int options = 0; options < 12; ++options) {
                        const bool at_end = options & 1, stream = options & 2;
                        const int place = options / 4;  // 0 apart, 1 into a, 2 into b
                        std::memset(out.begin(), 0xA5, out.size());
                        unsigned char* x = in_a.at(bytes, at_end, shift);
                        unsigned char* y = in_b.at(bytes, at_end, (shift * 5) % 64);
                        std::memcpy(x, a.data(), bytes);
                        std::memcpy(y, b.data(), bytes);
                        for (const Isa& isa : isas) {
                            if (place == 1) std::memcpy(x, a.data(), bytes);
                            if (place == 2) std::memcpy(y, b.data(), bytes);
                            unsigned char* o = place == 1 ? x : place == 2 ? y : out.at(bytes, at_end, (shift * 3) % 64);
                            isa.kernels->lerp[type](o, x, y, n, w, stream);
                            expect_same(want, o, describe(isa.name, type, "tail", w, n, shift));
                            compared += n;
                            if (place != 0) continue;
                            std::memset(o, 0xA5, bytes);
                            for (std::size_t i = 0; i < out.size(); ++i)
                                if (out.begin()[i] != 0xA5) fail(describe(isa.name, type, "wrote outside", w, n, i));
                        }
                    }
            }
        }
    }
}

// The caller's thread flushes subnormals, rounds towards zero and (on Arm) uses the alternative float16: run() must
// give the same bits all the same, and leave the setting.
std::uint64_t float_setting() {
#if defined(__x86_64__)
    return _mm_getcsr() & ~0x3Fu;  // without the sticky flags
#else
    std::uint64_t value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
#endif
}

void set_float_setting(std::uint64_t value) {
#if defined(__x86_64__)
    _mm_setcsr(static_cast<unsigned>(value));
#else
    asm volatile("msr fpcr, %0" : : "r"(value));
#endif
}

void sweep_float_settings(const std::vector<Isa>& isas) {
#if defined(__x86_64__)
    constexpr std::uint64_t kHostile = 0x1F80u | 0x8000u | 0x0040u | 0x6000u;  // flush, denormals are zero, to zero
#else
    constexpr std::uint64_t kHostile = 1u << 26 | 1u << 25 | 1u << 24 | 3u << 22;  // AHP, default NaN, flush, to zero
#endif
    const std::uint64_t normal = float_setting();
    for (int type = 0; type < kFloatTypes; ++type) {
        Bytes a, b;
        for (std::uint32_t x : specials(type))
            for (std::uint32_t y : specials(type)) append(a, type, x), append(b, type, y);
        const std::size_t n = a.size() / kItemSize[type];
        for (float w : {0.3f, 0.8f}) {
            Bytes want(a.size()), got(a.size());
            scalar_kernels.lerp[type](want.data(), a.data(), b.data(), n, w, false);
            for (const Isa& isa : isas) {
                const DType t = static_cast<DType>(type);
                const Span span{got.data(), a.data(), b.data(), n, w, t, t, t};
                set_float_setting(kHostile);
                run(&span, 1, *isa.kernels, 1, Stores::kCached);
                const std::uint64_t after = float_setting();
                set_float_setting(normal);
                if (after != kHostile) fail(describe(isa.name, type, "the caller's float setting", w, n, 0));
                expect_same(want, got.data(), describe(isa.name, type, "hostile float setting", w, n, 0));
                compared += n;
            }
        }
    }
}

// CRC-32C at odd sizes and offsets, from the published value on.
void sweep_crc32c(const std::vector<Isa>& isas) {
    if (~crc32c_serial(~0u, "123456789", 9) != 0xE3069283u) fail("crc32c_serial of 123456789");
    Bytes data(50000);
    std::uint32_t noise = 1;
    for (unsigned char& byte : data) byte = (noise = noise * 1664525u + 1013904223u) >> 24;
    for (std::size_t n : {0, 1, 7, 8, 9, 63, 64, 65, 255, 256, 257, 321, 24575, 24576, 24577, 24593, 49990})
        for (std::size_t offset : {0, 1, 7}) {
            const std::uint32_t want = crc32c_serial(noise, data.data() + offset, n);
            for (const Isa& isa : isas)
                if (crc32c_of(isa.name)(noise, data.data() + offset, n) != want)
                    fail(isa.name + std::string(" crc32c, n ") + std::to_string(n) + ", offset " + std::to_string(offset));
            noise = want;
            compared += 1;
        }
    add_to_digest({static_cast<unsigned char>(noise), static_cast<unsigned char>(noise >> 8)});
}

}  // namespace

int main(int count, char** arguments) {
    const int others = count > 1 ? std::atoi(arguments[1]) : 100;  // random values of b for each 16-bit dtype
    const std::vector<Isa> isas = available_isas();
    for (const Isa& isa : isas) std::printf("%s ", isa.name);
    std::printf("\n");
    sweep_halves(isas, kBF16, others);
    sweep_halves(isas, kF16, others);
    sweep_floats(isas, 10000 * others);
    sweep_conversions(isas, 1000 * others);
    sweep_tails(isas);
    sweep_float_settings(isas);
    sweep_crc32c(isas);
    std::printf("%llu results equal, digest %016llx\n", static_cast<unsigned long long>(compared),
                static_cast<unsigned long long>(digest));
    return 0;
}
