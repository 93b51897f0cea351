// Chunks of mixed formats. They are rare, so the code handles one element at a time and looks up the formats at run time.
// All threads of a block take the same branch.
#pragma once
#include "chunk.h"

namespace mi::cuda {

struct Types {
    int out, a, b;
};

MI_INLINE float load_float(const char* p, int type, int i) {
    if (type == kBF16) return BF16::widen(load(reinterpret_cast<const std::uint16_t*>(p) + i));
    if (type == kF16) return F16::widen(load(reinterpret_cast<const std::uint16_t*>(p) + i));
    return F32::widen(load(reinterpret_cast<const std::uint32_t*>(p) + i));
}

MI_INLINE void store_float(char* p, int type, int i, float r) {
    if (type == kBF16) return store(reinterpret_cast<std::uint16_t*>(p) + i, BF16::narrow(r));
    if (type == kF16) return store(reinterpret_cast<std::uint16_t*>(p) + i, F16::narrow(r));
    store(reinterpret_cast<std::uint32_t*>(p) + i, F32::narrow(r));
}

MI_INLINE void convert(const Piece& p, const char* from, int type, int out_type, Worker me) {
    MI_ROLLED
    for (int i = me.index; i < p.n; i += me.count) store_float(p.out, out_type, i, load_float(from, type, i));
}

MI_INLINE void lerp_mixed(const Piece& p, Types types, Worker me) {
    const Weight<One> w = weight<One>(p.w);
    MI_ROLLED
    for (int i = me.index; i < p.n; i += kInFlight * me.count) {
        float x[kInFlight], y[kInFlight];
        MI_UNROLL
        for (int k = 0; k < kInFlight; ++k) {
            int at = i + k * me.count;
            x[k] = at < p.n ? load_float(p.a, types.a, at) : 0.0f;
            y[k] = at < p.n ? load_float(p.b, types.b, at) : 0.0f;
        }
        MI_UNROLL
        for (int k = 0; k < kInFlight; ++k) {
            int at = i + k * me.count;
            if (at < p.n) store_float(p.out, types.out, at, lerp<One>(x[k], y[k], w));
        }
    }
}

MI_INLINE void run_mixed_chunk(const Table& table, std::int64_t index, Types types, Worker me) {
    const Piece p = piece(table, index, item_size(types.out), item_size(types.a), item_size(types.b));
    if (p.w != p.w) return;
    if (p.w != 0.0f && p.w != 1.0f) return lerp_mixed(p, types, me);
    const char* from = p.w == 0.0f ? p.a : p.b;
    int type = p.w == 0.0f ? types.a : types.b;
    if (type != types.out) return convert(p, from, type, types.out, me);
    if (item_size(type) == 4) return copy<std::uint32_t>(p, from, me);
    copy<std::uint16_t>(p, from, me);
}

}  // namespace mi::cuda
