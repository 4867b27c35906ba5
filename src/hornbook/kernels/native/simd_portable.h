// Vectors in plain C++, for every other machine: 16 floats, or all 16 rows of a tile with 4 bytes each. They are arrays, and
// compilers make of the loops what their processor has; nothing is forced inline, which would take them minutes. See
// simd_avx2.h for the names.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"
#define HB_KERNEL
#include "inline.h"

namespace hb {
namespace {

// ----------------------------------------------------------------------------------------------------------- floats
struct Mask {
    bool v[16];
};

struct Floats {
    static constexpr int lanes = 16;
    float v[lanes];

    template <class Lane>
    static Floats of(const Lane& lane) {  // lane: index -> float
        Floats floats;
        for (int i = 0; i < lanes; i++) floats.v[i] = lane(i);
        return floats;
    }
    static Floats all(float x) {
        return of([x](int) { return x; });
    }
    static Floats load(const float* p) {
        Floats floats;
        std::memcpy(floats.v, p, sizeof floats.v);
        return floats;
    }
    static Floats load_half(const uint16_t* p) {
        return of([p](int i) { return float_of_half(p[i]); });
    }
    static Floats load_bfloat(const uint16_t* p) {
        return of([p](int i) { return float_of_bfloat(p[i]); });
    }
    static Floats load_int8(const int8_t* p) {
        return of([p](int i) { return static_cast<float>(p[i]); });
    }
    static Floats load_uint8(const uint8_t* p) {
        return of([p](int i) { return static_cast<float>(p[i]); });
    }
    // The first `count` lanes, 0 .. lanes; the others are 0, and their memory is not touched.
    static Floats load(const float* p, int count) {
        Floats some = all(0);
        std::memcpy(some.v, p, sizeof(float) * static_cast<size_t>(count));
        return some;
    }

    void store(float* p) const { std::memcpy(p, v, sizeof v); }
    void store(float* p, int count) const { std::memcpy(p, v, sizeof(float) * static_cast<size_t>(count)); }
    void store_half(uint16_t* p) const {
        for (int i = 0; i < lanes; i++) p[i] = half_of_float(v[i]);
    }
    // Rounded to the nearest, ties to even, and held to -128 .. 127.
    void store_int8(int8_t* p) const {
        for (int i = 0; i < lanes; i++) {
            const float held = v[i] > -128.0f ? v[i] < 127.0f ? v[i] : 127.0f : -128.0f;
            p[i] = static_cast<int8_t>(std::nearbyint(held));
        }
    }
};

#define HB_LANES(expression) Floats::of([&](int i) { return expression; })
inline Floats operator+(Floats a, Floats b) { return HB_LANES(a.v[i] + b.v[i]); }
inline Floats operator-(Floats a, Floats b) { return HB_LANES(a.v[i] - b.v[i]); }
inline Floats operator*(Floats a, Floats b) { return HB_LANES(a.v[i] * b.v[i]); }
inline Floats operator/(Floats a, Floats b) { return HB_LANES(a.v[i] / b.v[i]); }
// a * b + c, rounded twice: a processor without fused operations would take a hundred times as long for one rounding.
inline Floats fma(Floats a, Floats b, Floats c) { return HB_LANES(a.v[i] * b.v[i] + c.v[i]); }
inline Floats max(Floats a, Floats b) { return HB_LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }  // b where either is nan
inline Floats min(Floats a, Floats b) { return HB_LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }  // b where either is nan
inline Floats sqrt(Floats a) { return HB_LANES(std::sqrt(a.v[i])); }
inline Floats abs(Floats a) { return HB_LANES(std::fabs(a.v[i])); }
inline Floats round(Floats a) { return HB_LANES(std::nearbyint(a.v[i])); }  // to the nearest, ties to even
inline Floats power_of_two(Floats n) {                                      // 2^n of whole numbers -126 .. 127
    return HB_LANES(float_of_bits(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23));
}
inline Mask operator<(Floats a, Floats b) {
    Mask mask;
    for (int i = 0; i < Floats::lanes; i++) mask.v[i] = a.v[i] < b.v[i];
    return mask;
}
inline Mask operator==(Floats a, Floats b) {
    Mask mask;
    for (int i = 0; i < Floats::lanes; i++) mask.v[i] = a.v[i] == b.v[i];
    return mask;
}
inline Floats select(Mask mask, Floats yes, Floats no) { return HB_LANES(mask.v[i] ? yes.v[i] : no.v[i]); }
#undef HB_LANES
inline uint32_t bits(Mask mask) {  // lane 0 lowest
    uint32_t all = 0;
    for (int i = 0; i < Floats::lanes; i++) all |= uint32_t{mask.v[i]} << i;
    return all;
}
inline bool any(Mask mask) { return bits(mask) != 0; }

// Across the lanes, always in the same order: the upper half to the lower, until one is left.
inline float sum(Floats a) {
    for (int half = Floats::lanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    return a.v[0];
}
inline float largest(Floats a) {
    for (int half = Floats::lanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}

// ------------------------------------------------------------------------------- bytes: a tile's rows, 4 values each
struct Ints {
    int32_t v[16];

    template <class Lane>
    static Ints of(const Lane& lane) {  // lane: index -> int32_t
        Ints ints;
        for (int i = 0; i < 16; i++) ints.v[i] = lane(i);
        return ints;
    }
};
struct Bytes {
    static constexpr int rows = 16;
    uint8_t v[4 * rows];

    static Bytes load(const void* p) {
        Bytes bytes;
        std::memcpy(bytes.v, p, sizeof bytes.v);
        return bytes;
    }
    static Bytes all(uint8_t x) {
        Bytes bytes;
        std::memset(bytes.v, x, sizeof bytes.v);
        return bytes;
    }
    static Bytes four(const void* p) {  // the same four for every row
        Bytes bytes;
        for (int row = 0; row < rows; row++) std::memcpy(bytes.v + 4 * row, p, 4);
        return bytes;
    }
};
inline Bytes operator&(Bytes a, Bytes b) {
    for (int i = 0; i < 4 * Bytes::rows; i++) a.v[i] = static_cast<uint8_t>(a.v[i] & b.v[i]);
    return a;
}
inline Bytes operator|(Bytes a, Bytes b) {
    for (int i = 0; i < 4 * Bytes::rows; i++) a.v[i] = static_cast<uint8_t>(a.v[i] | b.v[i]);
    return a;
}
template <int by>
Bytes shift_right(Bytes a) {
    constexpr int left = by < 0 ? -by : 0, right = by < 0 ? 0 : by;
    for (int i = 0; i < 4 * Bytes::rows; i++) a.v[i] = static_cast<uint8_t>(a.v[i] << left >> right);
    return a;
}

constexpr int TOKENS = 1, FLOAT_TOKENS = 2;  // taken at once: few, for each is many registers

// Sums of products of weights and activations, in 32 bits, where every sum fits.
using Partial = Ints;
constexpr bool fits(int, int) { return true; }

// -by * the sum of the activations of sixteen.
template <int by, int halves>
Partial below_zero(const int16_t* sum) {
    static_assert(halves == 1, "only scales of sixteen begin below zero here");
    const int32_t all = -by * (sum[0] + sum[1]);
    return Ints::of([all](int) { return all; });
}

template <class Weight>
Ints dot(Ints sum, const Bytes& weight, const Bytes& x) {
    const int a = static_cast<int8_t>(x.v[0]), b = static_cast<int8_t>(x.v[1]);  // the same in every row
    const int c = static_cast<int8_t>(x.v[2]), d = static_cast<int8_t>(x.v[3]);
    const auto at = [&](int i) { return static_cast<int>(static_cast<Weight>(weight.v[i])); };
    for (int row = 0; row < Bytes::rows; row++)
        sum.v[row] += at(4 * row) * a + at(4 * row + 1) * b + at(4 * row + 2) * c + at(4 * row + 3) * d;
    return sum;
}
inline Partial products(Partial sum, Bytes weight, Bytes x) { return dot<uint8_t>(sum, weight, x); }
inline Partial products(Bytes weight, Bytes x) { return dot<uint8_t>({}, weight, x); }
inline Ints widen(Partial sum) { return sum; }

constexpr int signed_offset = 0;  // signed weights are multiplied as they are
inline Ints signed_products(Ints sum, Bytes weight, Bytes x) { return dot<int8_t>(sum, weight, x); }
inline Ints signed_products(Bytes weight, Bytes x) { return dot<int8_t>({}, weight, x); }

inline Ints operator+(Ints a, Ints b) {
    return Ints::of([&](int i) { return a.v[i] + b.v[i]; });
}
inline Floats to_float(Ints a) {
    return Floats::of([&](int i) { return static_cast<float>(a.v[i]); });
}

// A small whole number a row.
struct Scales {
    Ints v;
    static Scales load_int8(const int8_t* p) {
        return {Ints::of([p](int i) { return p[i]; })};
    }
    static Scales load_low_nibbles(const uint8_t* p) {
        return {Ints::of([p](int i) { return p[i] & 15; })};
    }
    static Scales load_high_nibbles(const uint8_t* p) {
        return {Ints::of([p](int i) { return p[i] >> 4; })};
    }
};
inline Ints widen(Partial sum, Scales scale) {
    return Ints::of([&](int i) { return sum.v[i] * scale.v.v[i]; });
}
inline Ints products(Scales scale, const int16_t* sum) {
    const int32_t both = sum[0] + sum[1];
    return Ints::of([&](int i) { return both * scale.v.v[i]; });
}

// Of 32 activations the sums that ActivationBlock keeps: [half][pair].
inline void sum_pairs(const int8_t* q, int16_t (&sum)[2][2]) {
    int sums[2][2] = {};
    for (int i = 0; i < 32; i++) sums[i / 16][i / 2 % 2] += q[i];
    for (int i = 0; i < 4; i++) sum[i / 2][i % 2] = static_cast<int16_t>(sums[i / 2][i % 2]);
}

// Compilers know best what to do with plain loops.
template <class Vector>
void in_order(Vector&) {}
inline void prefetch(const void*) {}

}  // namespace
}  // namespace hb
