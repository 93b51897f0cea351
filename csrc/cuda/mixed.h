// Chunks of mixed formats, in groups of eight elements (group.h).
#pragma once
#include "chunk.h"
#include "group.h"

namespace mi::cuda {

struct Types {
    int out, a, b;
};

MI_INLINE void convert(const Piece& p, const char* from, int type, int out_type, Worker me) {
    char* const at[] = {p.out, const_cast<char*>(from)};
    const int types[] = {out_type, type};
    map_groups<AnyFormats, 1>(at, types, p.n, me, [](const Group(&x)[1], Group& out, int) { out = x[0]; });
}

MI_INLINE void lerp_mixed(const Piece& p, Types types, Worker me) {
    const Weight<One> w = weight<One>(p.w);
    char* const at[] = {p.out, const_cast<char*>(p.a), const_cast<char*>(p.b)};
    const int all[] = {types.out, types.a, types.b};
    map_groups<AnyFormats, 2>(at, all, p.n, me, [&](const Group(&x)[2], Group& out, int) {
        MI_UNROLL
        for (int i = 0; i < kGroup; ++i)
            out.word[i] = One::bits(lerp<One>(One::floats(x[0].word[i]), One::floats(x[1].word[i]), w));
    });
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
