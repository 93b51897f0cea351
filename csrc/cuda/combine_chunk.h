// The work of a block of threads on one chunk of a tensor that is combined from K others (combine.h).
//
// As in chunk.h, the code gets the index of the thread, and threads exchange no data. So a plain loop over the threads runs it
// on a CPU. With few models, a thread takes eight elements of every tensor at a time (group.h).
#pragma once
#include "../combine.h"
#include "chunk.h"
#include "group.h"

namespace mi::cuda {

// Device memory that the caller fills (mi_kernels/backends/combine_table.py), for tensors of the same number of models.
// Addresses are aligned to their elements. The output may be exactly an input, and must not overlap anything else.
struct CombineTable {
    const std::int64_t* tensors;       // [T, models + 4]: the addresses of out and of the models, then as below
    const Combine* combines;           // [H]
    const std::int32_t* chunk_tensor;  // [C]: the tensor of a chunk
    const std::int64_t* chunk_start;   // [C]: the first element of a chunk
    std::int64_t chunk;                // elements in a chunk; the last chunk of a tensor may have fewer
    int models;
};

// A row of `tensors`. After the addresses: the number of elements; the index of the first one in its whole tensor; and the
// formats, two bits each from the lowest on (out, then the models), above them the row of `combines`.
constexpr int kTypeBits = 2, kFormulaShift = 40;
static_assert(kTypeBits * (kMaxModels + 1) <= kFormulaShift);

struct CombinePiece {
    const std::int64_t* row;
    const Combine* how;
    std::int64_t start;
    std::uint64_t first;
    std::int64_t types;
    int n;
};

MI_INLINE CombinePiece combine_piece(const CombineTable& table, std::int64_t index) {
    const int addresses = table.models + 1;
    const std::int64_t* row = table.tensors + (addresses + 3) * std::int64_t(table.chunk_tensor[index]);
    const std::int64_t start = table.chunk_start[index], left = row[addresses] - start, last = row[addresses + 2];
    return {row, table.combines + (last >> kFormulaShift), start, std::uint64_t(row[addresses + 1] + start), last,
            int(left < table.chunk ? left : table.chunk)};
}

// The format of the output is at place 0, that of model k at k + 1.
MI_INLINE int type_at(std::int64_t types, int place) { return int(types >> (kTypeBits * place)) & 3; }

MI_INLINE char* address_at(const CombinePiece& p, int place, int size) {
    return reinterpret_cast<char*>(p.row[place]) + p.start * size;
}

// The formula for eight elements, the first of them at `index` of its whole tensor. The numbers of the formula are read from
// device memory again for each group: the first-level cache has them, and registers are for loads in flight.
//
// kLargest is Combine::largest as a constant, so that no array of registers is indexed by a variable.
template <class Formats, int kModels, Formula kFormula, Reads kReads, int kLargest = 0>
MI_INLINE void combine_group(const Combine& how, const typename Formats::Raw (&x)[kModels], typename Formats::Raw& out,
                             std::uint64_t index) {
    if constexpr (kFormula == Formula::kAffine && kLargest + 1 < kModels)
        if (how.largest != kLargest)
            return combine_group<Formats, kModels, kFormula, kReads, kLargest + 1>(how, x, out, index);
    constexpr bool kThins = kReads == Reads::kThinned;
    Combine c;
    c.models = kModels, c.largest = kLargest, c.normalize = how.normalize, c.scale = how.scale;
    Thinning thin[kModels];
    MI_UNROLL
    for (int k = 0; k < kModels; ++k) {
        c.weight[k] = how.weight[k], c.threshold[k] = how.threshold[k], c.key[k] = how.key[k];
        thin[k] = kThins && k > 0 ? thinning(how.density[k]) : Thinning{};
    }
    MI_UNROLL
    for (int e = 0; e < kGroup; ++e) {
        float of[kModels];
        MI_UNROLL
        for (int k = 0; k < kModels; ++k) {
            of[k] = Formats::get(x[k], e);
            if (kThins && k > 0) of[k] = thinned(of[k], of[0], thin[k], c.key[k], index + std::uint64_t(e));
        }
        Formats::put(out, e, evaluate<One, kFormula>(c, [&](int k) { return of[k]; }));
    }
}

// A chunk of a tensor combined from kModels others.
template <class Formats, int kModels>
MI_INLINE void run_combine_chunk(const CombineTable& table, std::int64_t index, Worker me) {
    const CombinePiece p = combine_piece(table, index);
    int type[kModels + 1];  // of the output, then of the models
    char* at[kModels + 1];
    MI_UNROLL
    for (int k = 0; k <= kModels; ++k)
        type[k] = Formats::type(type_at(p.types, k)), at[k] = address_at(p, k, item_size(type[k]));
    using Raw = typename Formats::Raw;
    map_groups<Formats, kModels>(at, type, p.n, me, [&](const Raw(&x)[kModels], Raw& out, int start) {
        switch (p.how->formula) {
#define MI_GROUP(number, name, function, reads)                                                           \
    case Formula::number:                                                                                 \
        return combine_group<Formats, kModels, Formula::number, Reads::reads>(*p.how, x, out,             \
                                                                              p.first + std::uint64_t(start));
            MI_FORMULAS(MI_GROUP)
#undef MI_GROUP
        }
    });
}

// Any number of models, one element at a time.
template <Formula kFormula, Reads kReads>
MI_INLINE void combine_elements(const CombinePiece& p, Worker me) {
    const Combine& c = *p.how;
    MI_ROLLED
    for (int i = me.index; i < p.n; i += me.count) {
        auto given = [&](int k) {
            const int type = type_at(p.types, k + 1);
            return load_float(address_at(p, k + 1, item_size(type)), type, i);
        };
        float r;
        if constexpr (kReads == Reads::kThinned) {
            float t[kMaxModels];
            t[0] = given(0);
            MI_ROLLED
            for (int k = 1; k < c.models; ++k)
                t[k] = thinned(given(k), t[0], thinning(c.density[k]), c.key[k], p.first + std::uint64_t(i));
            r = evaluate<One, kFormula>(c, [&](int k) { return t[k]; });
        } else {
            r = evaluate<One, kFormula>(c, given);
        }
        const int type = type_at(p.types, 0);
        store_float(address_at(p, 0, item_size(type)), type, i, r);
    }
}

MI_INLINE void run_combine_elements(const CombineTable& table, std::int64_t index, Worker me) {
    const CombinePiece p = combine_piece(table, index);
    switch (p.how->formula) {
#define MI_ELEMENTS(number, name, function, reads) \
    case Formula::number: return combine_elements<Formula::number, Reads::reads>(p, me);
        MI_FORMULAS(MI_ELEMENTS)
#undef MI_ELEMENTS
    }
}

}  // namespace mi::cuda
