// The work of a block of threads, one chunk of one tensor; the kernels contain nothing else.
//
// A launch works through a table of chunks of all its tensors, with one block for each chunk. So ten thousand small
// tensors cost as much as one large tensor. The code below gets the index and the number of threads, and threads exchange
// no data. So a plain loop over the threads runs the same code on a CPU.
#pragma once
#include "format.h"

namespace mi::cuda {

// Device memory that the caller fills (mi_kernels/backends/chunk_table.py). Addresses are aligned to their elements. The
// output may be exactly a or b, and must not overlap anything else.
struct Table {
    const std::int64_t* tensors;       // [T, 4]: the addresses of out, a and b, and the number of elements
    const float* weights;              // [T]; NaN skips the tensor
    const std::int32_t* chunk_tensor;  // [C]: the tensor of a chunk
    const std::int64_t* chunk_start;   // [C]: the first element of a chunk
    std::int64_t chunk;                // elements in a chunk; the last chunk of a tensor may have fewer
};

// Offsets inside a chunk fit in 32 bits. Its start needs 64 bits, because tensors may have more than 2^31 elements.
struct Piece {
    char* out;
    const char *a, *b;
    int n;
    float w;
};

MI_INLINE Piece piece(const Table& table, std::int64_t index, int out_size, int a_size, int b_size) {
    std::int32_t tensor = table.chunk_tensor[index];
    std::int64_t start = table.chunk_start[index];
    const std::int64_t* row = table.tensors + 4 * std::int64_t(tensor);
    std::int64_t left = row[3] - start;
    return {reinterpret_cast<char*>(row[0]) + start * out_size, reinterpret_cast<const char*>(row[1]) + start * a_size,
            reinterpret_cast<const char*>(row[2]) + start * b_size, int(left < table.chunk ? left : table.chunk),
            table.weights[tensor]};
}

// Operations: from the bits of one element of each input to the bits of the output. Vectors apply them to each element.

// FromA is Weight::from_a as a constant, which moves the choice out of the loop.
template <class Format, bool FromA>
struct Lerp {
    using Bits = typename Format::Bits;
    static constexpr bool kReadsB = true;
    MI_INLINE Bits apply(Bits a, Bits b, float coefficient) {
        const Weight<One> w{coefficient, FromA};
        return Format::narrow(lerp<One>(Format::widen(a), Format::widen(b), w));
    }
};

template <class Bits_>
struct Copy {
    using Bits = Bits_;
    static constexpr bool kReadsB = false;
    MI_INLINE Bits apply(Bits a, Bits, float) { return a; }
};

template <class Operation>
MI_INLINE typename Operation::Bits apply(typename Operation::Bits a, typename Operation::Bits b, float coefficient) {
    return Operation::apply(a, b, coefficient);
}

template <class Operation>
MI_INLINE Vector apply(const Vector& a, const Vector& b, float coefficient) {
    using Bits = typename Operation::Bits;
    constexpr int kBits = 8 * sizeof(Bits), kInWord = 4 / sizeof(Bits);
    Vector out;
    MI_UNROLL
    for (int i = 0; i < 4; ++i) {
        out.word[i] = 0;
        MI_UNROLL
        for (int k = 0; k < kInWord; ++k) {
            Bits x = Bits(a.word[i] >> (k * kBits)), y = Bits(b.word[i] >> (k * kBits));
            out.word[i] |= std::uint32_t(Operation::apply(x, y, coefficient)) << (k * kBits);
        }
    }
    return out;
}

// Handles `n` units (vectors or elements); neighbouring threads take neighbouring units. A thread loads four units of each
// input before it uses the first: 128 bytes in flight per thread, 160 KiB with the 1280 threads of a multiprocessor. An
// H100 needs about 20 KiB per multiprocessor to keep its memory busy (3.35 TB/s, 0.8 us latency, 132 multiprocessors).
constexpr int kInFlight = 4;

template <class Operation, class Unit>
MI_INLINE void walk(Unit* out, const Unit* a, const Unit* b, int n, float coefficient, Worker me) {
    int i = me.index;
    MI_ROLLED
    for (; i + (kInFlight - 1) * me.count < n; i += kInFlight * me.count) {
        Unit x[kInFlight], y[kInFlight];
        MI_UNROLL
        for (int k = 0; k < kInFlight; ++k) {
            x[k] = load(a + i + k * me.count);
            y[k] = Operation::kReadsB ? load(b + i + k * me.count) : x[k];
        }
        MI_UNROLL
        for (int k = 0; k < kInFlight; ++k) store(out + i + k * me.count, apply<Operation>(x[k], y[k], coefficient));
    }
    MI_ROLLED
    for (; i < n; i += me.count) {
        Unit x = load(a + i);
        Unit y = Operation::kReadsB ? load(b + i) : x;
        store(out + i, apply<Operation>(x, y, coefficient));
    }
}

// Handles single elements up to the first 16-byte boundary, then vectors, and then the remaining elements. Arrays with
// different addresses modulo 16 have no common boundary, so all their elements are handled one by one.
template <class Operation>
MI_INLINE void run(char* out_, const char* a_, const char* b_, int n, float coefficient, Worker me) {
    using Bits = typename Operation::Bits;
    constexpr int kSize = sizeof(Bits), kInVector = 16 / kSize;
    Bits* out = reinterpret_cast<Bits*>(out_);
    const Bits *a = reinterpret_cast<const Bits*>(a_), *b = reinterpret_cast<const Bits*>(b_);
    std::uintptr_t at = reinterpret_cast<std::uintptr_t>(out);
    std::uintptr_t differ = (at ^ reinterpret_cast<std::uintptr_t>(a)) | (at ^ reinterpret_cast<std::uintptr_t>(b));
    int head = differ % 16 != 0 ? n : int(-at % 16) / kSize;
    if (head > n) head = n;
    int vectors = (n - head) / kInVector, done = head + vectors * kInVector;
    walk<Operation>(out, a, b, head, coefficient, me);
    walk<Operation>(reinterpret_cast<Vector*>(out + head), reinterpret_cast<const Vector*>(a + head),
                    reinterpret_cast<const Vector*>(b + head), vectors, coefficient, me);
    walk<Operation>(out + done, a + done, b + done, n - done, coefficient, me);
}

template <class Bits>
MI_INLINE void copy(const Piece& p, const char* from, Worker me) {
    if (from != p.out) run<Copy<Bits>>(p.out, from, from, p.n, 0.0f, me);
}

// One format throughout.
template <class Format>
MI_INLINE void run_chunk(const Table& table, std::int64_t index, Worker me) {
    constexpr int kSize = sizeof(typename Format::Bits);
    const Piece p = piece(table, index, kSize, kSize, kSize);
    const Weight<One> w = weight<One>(p.w);
    if (p.w != p.w) return;
    if (p.w == 0.0f || p.w == 1.0f)
        copy<typename Format::Bits>(p, p.w == 0.0f ? p.a : p.b, me);
    else if (w.from_a)
        run<Lerp<Format, true>>(p.out, p.a, p.b, p.n, w.coefficient, me);
    else
        run<Lerp<Format, false>>(p.out, p.a, p.b, p.n, w.coefficient, me);
}

}  // namespace mi::cuda
