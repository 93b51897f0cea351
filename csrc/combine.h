// Several models in one: the formulas over K tensors x[0] .. x[K-1], all in float32, each operation rounded once.
//
// Affine (weighted average, weights that sum to 1). m is the last index with the largest weight:
//     r = x[m];  ascending:  r = fma(-w[k], x[m] - x[k], r) for k < m,  fma(w[k], x[k] - x[m], r) for k > m
// The difference is always the later model's minus the earlier one's: with two models, w[0] = 1 - w[1] and w[1] > -0.5,
// this is lerp(x[0], x[1], w[1]) bit for bit, the sign of zeros included.
//
// Sum (weights taken as they are):
//     r = w[0] * x[0];  then  r = fma(w[k], x[k], r)
//
// Task (Task Arithmetic, Ilharco et al. 2023; x[0] is the base):
//     t = w[1] * (x[1] - x[0]);  then  t = fma(w[k], x[k] - x[0], t);  r = fma(scale, t, x[0])
//
// Ties (Yadav et al. 2023; x[0] is the base), with t[k] = x[k] - x[0] trimmed to 0 where |t[k]| < threshold[k]:
//     s = w[1] * t[1];  then  s = fma(w[k], t[k], s)                        the elected sign is s's, and + for 0
//     over the k with w[k] * t[k] of that sign:  num = fma(w[k], t[k], num), den = den + w[k], from 0
//     r = fma(scale, num / den, x[0])     (den 0: num / 1; without normalising: num)
// Dare (Yu et al. 2024) thins instead of trimming: t[k] = u < density[k] ? (x[k] - x[0]) * (1 / density[k]) : 0 with u the
// uniform number that thinning_bits() gives for this element; what follows is Ties.
// DareLinear thins as Dare does; what follows is Task: s = w[1] * t[1];  then  s = fma(w[k], t[k], s);
//     r = fma(scale, s, x[0])
#pragma once
#include "one.h"

namespace mi {

constexpr int kMaxModels = 16;

// What a formula's x(k) gives: the models; the base, then the models; the base, then thinned task vectors.
enum class Reads { kModels, kBase, kThinned };

// Every formula: its number here, its name in Python (mi_kernels._cpu.Formula), its function below, what it reads. The
// numbers count from 0. All loops, dispatch and checks follow from this list.
#define MI_FORMULAS(FORMULA)                  \
    FORMULA(kAffine, AFFINE, affine, kModels) \
    FORMULA(kSum, SUM, sum, kModels)          \
    FORMULA(kTask, TASK, task, kBase)         \
    FORMULA(kTies, TIES, ties, kBase)         \
    FORMULA(kDare, DARE, dare, kThinned)      \
    FORMULA(kDareLinear, DARE_LINEAR, dare_linear, kThinned)

enum class Formula : int {
#define MI_NUMBER(number, name, function, reads) number,
    MI_FORMULAS(MI_NUMBER)
#undef MI_NUMBER
};

MI_INLINE constexpr Reads reads(Formula formula) {
    switch (formula) {
#define MI_READS(number, name, function, what) \
    case Formula::number: return Reads::what;
        MI_FORMULAS(MI_READS)
#undef MI_READS
    }
    return Reads::kModels;
}

struct Combine {
    Formula formula = Formula::kAffine;
    int models = 0;
    int largest = 0;        // Affine: m
    bool normalize = true;  // Ties, Dare: divide by den
    float scale = 1.0f;     // all over task vectors
    float weight[kMaxModels] = {};
    float threshold[kMaxModels] = {};    // Ties
    float density[kMaxModels] = {};      // where thinned
    std::uint64_t key[kMaxModels] = {};  // where thinned: one random stream for each tensor of each model
};

// 24 uniform bits for element `index` of the stream `key`: splitmix64 (Steele, Lea and Flood 2014) used as a counter-based
// generator, so that an element's fate depends on nothing but its place.
MI_INLINE std::uint32_t thinning_bits(std::uint64_t key, std::uint64_t index) {
    std::uint64_t z = key + (index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return std::uint32_t((z ^ (z >> 31)) >> 40);
}

// The two numbers that follow from a density; both sides of the comparison are multiplied by 2^24, which is exact.
struct Thinning {
    float kept, rescale;
};

MI_INLINE Thinning thinning(float density) { return {One::mul(density, 16777216.0f), One::div(1.0f, density)}; }

// Dare's task vector of one element: kept and divided by the density, or dropped.
MI_INLINE float thinned(float x, float base, const Thinning& t, std::uint64_t key, std::uint64_t index) {
    const float d = One::mul(One::sub(x, base), t.rescale);
    return static_cast<float>(thinning_bits(key, index)) < t.kept ? d : 0.0f;
}

// x(k) gives the lanes of model k.
template <class L, class X>
MI_INLINE typename L::F affine(const Combine& c, const X& x) {
    const typename L::F largest = x(c.largest);
    typename L::F r = largest;
    for (int k = 0; k < c.largest; ++k) r = L::fma(L::splat_float(-c.weight[k]), L::sub(largest, x(k)), r);
    for (int k = c.largest + 1; k < c.models; ++k) r = L::fma(L::splat_float(c.weight[k]), L::sub(x(k), largest), r);
    return r;
}

template <class L, class X>
MI_INLINE typename L::F sum(const Combine& c, const X& x) {
    typename L::F r = L::mul(L::splat_float(c.weight[0]), x(0));
    for (int k = 1; k < c.models; ++k) r = L::fma(L::splat_float(c.weight[k]), x(k), r);
    return r;
}

template <class L, class X>
MI_INLINE typename L::F task(const Combine& c, const X& x) {
    const typename L::F base = x(0);
    typename L::F t = L::mul(L::splat_float(c.weight[1]), L::sub(x(1), base));
    for (int k = 2; k < c.models; ++k) t = L::fma(L::splat_float(c.weight[k]), L::sub(x(k), base), t);
    return L::fma(L::splat_float(c.scale), t, base);
}

// t(k): the task vector of model k, trimmed or thinned already.
template <class L, class T>
MI_INLINE typename L::F elect(const Combine& c, typename L::F base, const T& t) {
    using F = typename L::F;
    using I = typename L::I;
    const F zero = L::splat_float(0.0f);
    F s = L::mul(L::splat_float(c.weight[1]), t(1));
    for (int k = 2; k < c.models; ++k) s = L::fma(L::splat_float(c.weight[k]), t(k), s);
    const I flip = L::if_greater(zero, s, L::splat(0x80000000u), L::splat(0));
    F num = zero, den = zero;
    for (int k = 1; k < c.models; ++k) {
        const F w = L::splat_float(c.weight[k]), v = t(k);
        const F towards = L::floats(L::xor_(L::bits(L::mul(w, v)), flip));
        const I added = L::bits(L::fma(w, v, num));
        // NaN has no sign to agree with, and must not vanish: it is added all the same.
        num = L::floats(L::if_nan(v, added, L::if_greater(towards, zero, added, L::bits(num))));
        den = L::floats(L::if_greater(towards, zero, L::bits(L::plus(den, w)), L::bits(den)));
    }
    if (c.normalize) {
        const F size = L::floats(L::and_(L::bits(den), L::splat(0x7FFFFFFFu)));
        num = L::div(num, L::floats(L::if_greater(size, zero, L::bits(den), L::bits(L::splat_float(1.0f)))));
    }
    return L::fma(L::splat_float(c.scale), num, base);
}

template <class L, class X>
MI_INLINE typename L::F ties(const Combine& c, const X& x) {
    const typename L::F base = x(0);
    auto trimmed = [&](int k) {
        const typename L::F d = L::sub(x(k), base);
        const typename L::F size = L::floats(L::and_(L::bits(d), L::splat(0x7FFFFFFFu)));
        return L::floats(L::if_greater(L::splat_float(c.threshold[k]), size, L::splat(0), L::bits(d)));
    };
    typename L::F t[kMaxModels];
    t[1] = trimmed(1);
    for (int k = 2; k < c.models; ++k) t[k] = trimmed(k);
    return elect<L>(c, base, [&](int k) { return t[k]; });
}

// x(0) is the base, x(k) the thinned task vectors.
template <class L, class X>
MI_INLINE typename L::F dare(const Combine& c, const X& x) {
    return elect<L>(c, x(0), x);
}

template <class L, class X>
MI_INLINE typename L::F dare_linear(const Combine& c, const X& x) {
    typename L::F s = L::mul(L::splat_float(c.weight[1]), x(1));
    for (int k = 2; k < c.models; ++k) s = L::fma(L::splat_float(c.weight[k]), x(k), s);
    return L::fma(L::splat_float(c.scale), s, x(0));
}

// The formula of this number.
template <class L, Formula kFormula, class X>
MI_INLINE typename L::F evaluate(const Combine& c, const X& x) {
#define MI_EVALUATE(number, name, function, reads) \
    if constexpr (kFormula == Formula::number) return function<L>(c, x);
    MI_FORMULAS(MI_EVALUATE)
#undef MI_EVALUATE
}

}  // namespace mi
