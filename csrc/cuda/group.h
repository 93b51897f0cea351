// Eight consecutive elements of one tensor: the unit of work of a thread wherever the formats of the tensors may differ. It
// is 16 bytes of bf16 or float16 and twice 16 of float32, so a thread takes the same elements of every tensor with accesses
// as wide as each format gives.
//
// The formats are looked up at run time. All threads of a block take the same branch.
#pragma once
#include "format.h"

namespace mi::cuda {

constexpr int kGroup = 8;

// As loaded: the bytes in memory order, of which a 16-bit format fills the first four words. Widened: a float32 in each word.
struct Group {
    std::uint32_t word[kGroup];
};

MI_INLINE Group load_group(const char* p, int type) {
    const Vector* from = reinterpret_cast<const Vector*>(p);
    Group g;
    Vector v = load(from);
    MI_UNROLL
    for (int i = 0; i < 4; ++i) g.word[i] = v.word[i], g.word[i + 4] = 0;
    if (type == kF32) {
        v = load(from + 1);
        MI_UNROLL
        for (int i = 0; i < 4; ++i) g.word[i + 4] = v.word[i];
    }
    return g;
}

// The first `n` elements of a group, one by one; the others are 0.
MI_INLINE Group load_some(const char* p, int type, int n) {
    Group g;
    MI_UNROLL
    for (int i = 0; i < kGroup; ++i) g.word[i] = 0;
    if (type == kF32) {
        MI_UNROLL
        for (int i = 0; i < kGroup; ++i)
            if (i < n) g.word[i] = load(reinterpret_cast<const std::uint32_t*>(p) + i);
    } else {
        MI_UNROLL
        for (int i = 0; i < kGroup; ++i)
            if (i < n)
                g.word[i / 2] |= std::uint32_t(load(reinterpret_cast<const std::uint16_t*>(p) + i)) << (16 * (i % 2));
    }
    return g;
}

template <class Format>
MI_INLINE void widen_halves(Group& g) {
    MI_UNROLL
    for (int i = kGroup - 1; i >= 0; --i)  // from the last, because element i comes from word i / 2
        g.word[i] = One::bits(Format::widen(std::uint16_t(g.word[i / 2] >> (16 * (i % 2)))));
}

MI_INLINE void widen(Group& g, int type) {
    if (type == kBF16) widen_halves<BF16>(g);
    if (type == kF16) widen_halves<F16>(g);
}

template <class Format>
MI_INLINE Vector narrow_halves(const Group& g) {
    Vector v;
    MI_UNROLL
    for (int i = 0; i < 4; ++i) {
        const std::uint32_t low = Format::narrow(One::floats(g.word[2 * i]));
        v.word[i] = low | std::uint32_t(Format::narrow(One::floats(g.word[2 * i + 1]))) << 16;
    }
    return v;
}

// Stores the float32 of a widened group, each rounded once.
MI_INLINE void store_group(char* p, int type, const Group& g) {
    Vector* to = reinterpret_cast<Vector*>(p);
    if (type == kBF16) return store(to, narrow_halves<BF16>(g));
    if (type == kF16) return store(to, narrow_halves<F16>(g));
    MI_UNROLL
    for (int half = 0; half < 2; ++half) {
        Vector v;
        MI_UNROLL
        for (int i = 0; i < 4; ++i) v.word[i] = F32::narrow(One::floats(g.word[4 * half + i]));
        store(to + half, v);
    }
}

MI_INLINE void store_float(char* p, int type, int i, float r) {
    if (type == kBF16) return store(reinterpret_cast<std::uint16_t*>(p) + i, BF16::narrow(r));
    if (type == kF16) return store(reinterpret_cast<std::uint16_t*>(p) + i, F16::narrow(r));
    store(reinterpret_cast<std::uint32_t*>(p) + i, F32::narrow(r));
}

MI_INLINE void store_some(char* p, int type, const Group& g, int n) {
    MI_UNROLL
    for (int i = 0; i < kGroup; ++i)
        if (i < n) store_float(p, type, i, One::floats(g.word[i]));
}

MI_INLINE float load_float(const char* p, int type, int i) {
    if (type == kBF16) return BF16::widen(load(reinterpret_cast<const std::uint16_t*>(p) + i));
    if (type == kF16) return F16::widen(load(reinterpret_cast<const std::uint16_t*>(p) + i));
    return F32::widen(load(reinterpret_cast<const std::uint32_t*>(p) + i));
}

// How the elements 0 .. n - 1 of several tensors are divided into groups: `head` elements up to where all their addresses
// are multiples of 16, groups of eight, and a last group of fewer. If there is no such place, no group is loaded wide.
struct Division {
    int head, n;
    bool wide;
};

MI_INLINE int group_count(const Division& d) { return (d.head > 0) + (d.n - d.head + kGroup - 1) / kGroup; }

MI_INLINE int group_start(const Division& d, int i) {
    if (d.head == 0) return kGroup * i;
    return i == 0 ? 0 : d.head + kGroup * (i - 1);
}

MI_INLINE int group_size(const Division& d, int i) {
    if (d.head > 0 && i == 0) return d.head;
    const int left = d.n - group_start(d, i);
    return left < kGroup ? left : kGroup;
}

MI_INLINE bool aligned_at(const char* p, int type, int element) {
    return (reinterpret_cast<std::uintptr_t>(p) + std::uintptr_t(element * item_size(type))) % 16 == 0;
}

// all_aligned(element): whether all addresses of this element are multiples of 16.
template <class AllAligned>
MI_INLINE Division divide(int n, const AllAligned& all_aligned) {
    for (int head = 0; head < kGroup; ++head)
        if (all_aligned(head)) return {head < n ? head : n, n, true};
    return {0, n, false};
}

// What a kernel knows of the formats. bf16 throughout: eight elements are one vector until they are used, which leaves the
// registers for loads in flight.
struct AllBF16 {
    using Raw = Vector;
    MI_INLINE int type(int) { return kBF16; }
    MI_INLINE Raw load_all(const char* p, int) { return load(reinterpret_cast<const Vector*>(p)); }
    MI_INLINE Raw load_first(const char* p, int, int n) {
        const Group g = load_some(p, kBF16, n);
        return {{g.word[0], g.word[1], g.word[2], g.word[3]}};
    }
    MI_INLINE void ready(Raw&, int) {}
    MI_INLINE float get(const Raw& raw, int i) { return BF16::widen(std::uint16_t(raw.word[i / 2] >> (16 * (i % 2)))); }
    MI_INLINE void put(Raw& raw, int i, float r) {
        const std::uint32_t bits = BF16::narrow(r);
        raw.word[i / 2] = i % 2 ? raw.word[i / 2] | bits << 16 : bits;
    }
    MI_INLINE void store_all(char* p, int, const Raw& raw) { store(reinterpret_cast<Vector*>(p), raw); }
    MI_INLINE void store_first(char* p, int, const Raw& raw, int n) {
        MI_UNROLL
        for (int i = 0; i < kGroup; ++i)
            if (i < n) store(reinterpret_cast<std::uint16_t*>(p) + i, std::uint16_t(raw.word[i / 2] >> (16 * (i % 2))));
    }
};

// Any formats: eight elements become eight float32.
struct AnyFormats {
    using Raw = Group;
    MI_INLINE int type(int given) { return given; }
    MI_INLINE Raw load_all(const char* p, int type) { return load_group(p, type); }
    MI_INLINE Raw load_first(const char* p, int type, int n) { return load_some(p, type, n); }
    MI_INLINE void ready(Raw& raw, int type) { widen(raw, type); }
    MI_INLINE float get(const Raw& raw, int i) { return One::floats(raw.word[i]); }
    MI_INLINE void put(Raw& raw, int i, float r) { raw.word[i] = One::bits(r); }
    MI_INLINE void store_all(char* p, int type, const Raw& raw) { store_group(p, type, raw); }
    MI_INLINE void store_first(char* p, int type, const Raw& raw, int n) { store_some(p, type, raw, n); }
};

// Calls operation(x, out, start) for every group of eight elements: it computes `out` from `x`, the elements of the inputs
// from `start` on, with Formats::get and put. A thread loads eight elements of every input before it uses the first. Elements before and after the groups, and tensors whose addresses have
// no common boundary, take the same way with loads and stores of single elements.
//
// `at` and `type` are those of the output, then of the inputs. The output may be exactly an input of its own size.
template <class Formats, int kInputs, class Operation>
MI_INLINE void map_groups(char* const (&at)[kInputs + 1], const int (&type)[kInputs + 1], int n, Worker me,
                          const Operation& operation) {
    const Division division = divide(n, [&](int element) {
        bool all = true;
        MI_UNROLL
        for (int k = 0; k <= kInputs; ++k) all = all && aligned_at(at[k], type[k], element);
        return all;
    });
    MI_ROLLED
    for (int i = me.index; i < group_count(division); i += me.count) {
        const int start = group_start(division, i), size = group_size(division, i);
        const bool wide = division.wide && size == kGroup;
        typename Formats::Raw x[kInputs], out{};
        if (wide) {
            MI_UNROLL
            for (int k = 0; k < kInputs; ++k)
                x[k] = Formats::load_all(at[k + 1] + start * item_size(type[k + 1]), type[k + 1]);
        } else {
            MI_UNROLL
            for (int k = 0; k < kInputs; ++k)
                x[k] = Formats::load_first(at[k + 1] + start * item_size(type[k + 1]), type[k + 1], size);
        }
        MI_UNROLL
        for (int k = 0; k < kInputs; ++k) Formats::ready(x[k], type[k + 1]);
        operation(x, out, start);
        char* to = at[0] + start * item_size(type[0]);
        if (wide)
            Formats::store_all(to, type[0], out);
        else
            Formats::store_first(to, type[0], out, size);
    }
}

}  // namespace mi::cuda
