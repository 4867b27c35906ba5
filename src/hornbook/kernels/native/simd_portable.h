// Vectors in plain C++, for every other machine: 4 floats, or 4 rows of a tile with 4 bytes each. Compilers make of the small
// loops what their processor has. See simd_avx2.h for the names.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"
#include "inline.h"

namespace hb {
namespace {

// ----------------------------------------------------------------------------------------------------------- floats
struct Mask {
    bool v[4];
};

struct Floats {
    static constexpr int lanes = 4;
    float v[lanes];

    template <class Lane>
    static HB_INLINE Floats of(const Lane& lane) {  // lane: index -> float
        return {{lane(0), lane(1), lane(2), lane(3)}};
    }
    static HB_INLINE Floats all(float x) { return {{x, x, x, x}}; }
    static HB_INLINE Floats load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
    static HB_INLINE Floats load_half(const uint16_t* p) {
        return of([p](int i) { return float_of_half(p[i]); });
    }
    static HB_INLINE Floats load_bfloat(const uint16_t* p) {
        return of([p](int i) { return float_of_bfloat(p[i]); });
    }
    static HB_INLINE Floats load_int8(const int8_t* p) {
        return of([p](int i) { return static_cast<float>(p[i]); });
    }
    static HB_INLINE Floats load_uint8(const uint8_t* p) {
        return of([p](int i) { return static_cast<float>(p[i]); });
    }
    // The first `count` lanes, 0 .. lanes; the others are 0, and their memory is not touched.
    static HB_INLINE Floats load(const float* p, int count) {
        Floats some = all(0);
        std::memcpy(some.v, p, sizeof(float) * static_cast<size_t>(count));
        return some;
    }

    HB_INLINE void store(float* p) const { std::memcpy(p, v, sizeof v); }
    HB_INLINE void store(float* p, int count) const { std::memcpy(p, v, sizeof(float) * static_cast<size_t>(count)); }
    HB_INLINE void store_half(uint16_t* p) const {
        for (int i = 0; i < lanes; i++) p[i] = half_of_float(v[i]);
    }
    // Rounded to the nearest, ties to even, and held to -128 .. 127.
    HB_INLINE void store_int8(int8_t* p) const {
        for (int i = 0; i < lanes; i++) {
            const float held = v[i] > -128.0f ? v[i] < 127.0f ? v[i] : 127.0f : -128.0f;
            p[i] = static_cast<int8_t>(std::nearbyint(held));
        }
    }
};

#define HB_LANES(expression) Floats::of([&](int i) { return expression; })
HB_INLINE Floats operator+(Floats a, Floats b) { return HB_LANES(a.v[i] + b.v[i]); }
HB_INLINE Floats operator-(Floats a, Floats b) { return HB_LANES(a.v[i] - b.v[i]); }
HB_INLINE Floats operator*(Floats a, Floats b) { return HB_LANES(a.v[i] * b.v[i]); }
HB_INLINE Floats operator/(Floats a, Floats b) { return HB_LANES(a.v[i] / b.v[i]); }
// a * b + c, rounded twice: a processor without fused operations would take a hundred times as long for one rounding.
HB_INLINE Floats fma(Floats a, Floats b, Floats c) { return HB_LANES(a.v[i] * b.v[i] + c.v[i]); }
HB_INLINE Floats max(Floats a, Floats b) { return HB_LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }  // b where either is nan
HB_INLINE Floats min(Floats a, Floats b) { return HB_LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }  // b where either is nan
HB_INLINE Floats sqrt(Floats a) { return HB_LANES(std::sqrt(a.v[i])); }
HB_INLINE Floats abs(Floats a) { return HB_LANES(std::fabs(a.v[i])); }
HB_INLINE Floats round(Floats a) { return HB_LANES(std::nearbyint(a.v[i])); }  // to the nearest, ties to even
HB_INLINE Floats power_of_two(Floats n) {                                      // 2^n of whole numbers -126 .. 127
    return HB_LANES(float_of_bits(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23));
}
HB_INLINE Mask operator<(Floats a, Floats b) {
    return {{a.v[0] < b.v[0], a.v[1] < b.v[1], a.v[2] < b.v[2], a.v[3] < b.v[3]}};
}
HB_INLINE Mask operator==(Floats a, Floats b) {
    return {{a.v[0] == b.v[0], a.v[1] == b.v[1], a.v[2] == b.v[2], a.v[3] == b.v[3]}};
}
HB_INLINE Floats select(Mask mask, Floats yes, Floats no) { return HB_LANES(mask.v[i] ? yes.v[i] : no.v[i]); }
#undef HB_LANES
HB_INLINE uint32_t bits(Mask mask) {  // lane 0 lowest
    return uint32_t{mask.v[0]} | uint32_t{mask.v[1]} << 1 | uint32_t{mask.v[2]} << 2 | uint32_t{mask.v[3]} << 3;
}
HB_INLINE bool any(Mask mask) { return bits(mask) != 0; }

// Across the lanes, always in the same order.
HB_INLINE float sum(Floats a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
HB_INLINE float largest(Floats a) {
    const float one = a.v[0] > a.v[2] ? a.v[0] : a.v[2], other = a.v[1] > a.v[3] ? a.v[1] : a.v[3];
    return one > other ? one : other;
}

// ------------------------------------------------------------------------------- bytes: a tile's rows, 4 values each
struct Ints {
    int32_t v[4];
};
struct Bytes {
    static constexpr int rows = 4;
    uint8_t v[4 * rows];

    static HB_INLINE Bytes load(const void* p) {
        Bytes bytes;
        std::memcpy(bytes.v, p, sizeof bytes.v);
        return bytes;
    }
    static HB_INLINE Bytes all(uint8_t x) {
        Bytes bytes;
        std::memset(bytes.v, x, sizeof bytes.v);
        return bytes;
    }
    static HB_INLINE Bytes four(const void* p) {  // the same four for every row
        Bytes bytes;
        for (int row = 0; row < rows; row++) std::memcpy(bytes.v + 4 * row, p, 4);
        return bytes;
    }
};
HB_INLINE Bytes operator&(Bytes a, Bytes b) {
    for (int i = 0; i < 16; i++) a.v[i] = static_cast<uint8_t>(a.v[i] & b.v[i]);
    return a;
}
HB_INLINE Bytes operator|(Bytes a, Bytes b) {
    for (int i = 0; i < 16; i++) a.v[i] = static_cast<uint8_t>(a.v[i] | b.v[i]);
    return a;
}
template <int by>
HB_INLINE Bytes shift_right(Bytes a) {
    for (int i = 0; i < 16; i++) a.v[i] = static_cast<uint8_t>(by < 0 ? a.v[i] << (by < 0 ? -by : 0) : a.v[i] >> (by < 0 ? 0 : by));
    return a;
}

constexpr int TOKENS = 4, FLOAT_TOKENS = 4;  // taken at once

// Sums of products of weights and activations, in 32 bits, where every sum fits.
using Partial = Ints;
constexpr bool fits(int, int) { return true; }

// -by * the sum of the activations of sixteen.
template <int by, int halves>
HB_INLINE Partial below_zero(const int16_t* sum) {
    static_assert(halves == 1, "only scales of sixteen begin below zero here");
    const int32_t all = -by * (sum[0] + sum[1]);
    return {{all, all, all, all}};
}

template <class Weight>
HB_INLINE Ints dot(Ints sum, Bytes weight, Bytes x) {
    for (int row = 0; row < Bytes::rows; row++)
        for (int i = 4 * row; i < 4 * row + 4; i++)
            sum.v[row] += static_cast<Weight>(weight.v[i]) * static_cast<int8_t>(x.v[i]);
    return sum;
}
HB_INLINE Partial products(Partial sum, Bytes weight, Bytes x) { return dot<uint8_t>(sum, weight, x); }
HB_INLINE Partial products(Bytes weight, Bytes x) { return dot<uint8_t>({}, weight, x); }
HB_INLINE Ints widen(Partial sum) { return sum; }

constexpr int signed_offset = 0;  // signed weights are multiplied as they are
HB_INLINE Ints signed_products(Ints sum, Bytes weight, Bytes x) { return dot<int8_t>(sum, weight, x); }
HB_INLINE Ints signed_products(Bytes weight, Bytes x) { return dot<int8_t>({}, weight, x); }

HB_INLINE Ints operator+(Ints a, Ints b) { return {{a.v[0] + b.v[0], a.v[1] + b.v[1], a.v[2] + b.v[2], a.v[3] + b.v[3]}}; }
HB_INLINE Ints operator-(Ints a, Ints b) { return {{a.v[0] - b.v[0], a.v[1] - b.v[1], a.v[2] - b.v[2], a.v[3] - b.v[3]}}; }
HB_INLINE Ints operator*(Ints a, Ints b) { return {{a.v[0] * b.v[0], a.v[1] * b.v[1], a.v[2] * b.v[2], a.v[3] * b.v[3]}}; }
HB_INLINE Floats to_float(Ints a) {
    return Floats::of([&](int i) { return static_cast<float>(a.v[i]); });
}

// A small whole number a row.
struct Scales {
    Ints v;
    static HB_INLINE Scales load_int8(const int8_t* p) { return {{{p[0], p[1], p[2], p[3]}}}; }
    static HB_INLINE Scales load_low_nibbles(const uint8_t* p) { return {{{p[0] & 15, p[1] & 15, p[2] & 15, p[3] & 15}}}; }
    static HB_INLINE Scales load_high_nibbles(const uint8_t* p) { return {{{p[0] >> 4, p[1] >> 4, p[2] >> 4, p[3] >> 4}}}; }
};
HB_INLINE Ints widen(Partial sum, Scales scale) { return sum * scale.v; }
HB_INLINE Ints products(Scales scale, const int16_t* sum) {
    const int32_t both = sum[0] + sum[1];
    return Ints{{both, both, both, both}} * scale.v;
}

// Compilers know best what to do with plain loops.
template <class Vector>
HB_INLINE void in_order(Vector&) {}
HB_INLINE void prefetch(const void*) {}

}  // namespace
}  // namespace hb
