// Vectors of NEON with the dot product of armv8.2: 4 floats, or 4 rows of a tile with 4 bytes each. See simd_avx2.h for the
// names.
#pragma once
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "half.h"
#include "inline.h"

namespace hb {
namespace {

// ----------------------------------------------------------------------------------------------------------- floats
struct Mask {
    uint32x4_t v;
};

struct Floats {
    static constexpr int lanes = 4;
    float32x4_t v;

    static HB_INLINE Floats all(float x) { return {vdupq_n_f32(x)}; }
    static HB_INLINE Floats load(const float* p) { return {vld1q_f32(p)}; }
    static HB_INLINE Floats load_half(const uint16_t* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))}; }
    static HB_INLINE Floats load_bfloat(const uint16_t* p) { return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))}; }
    static HB_INLINE Floats load_int8(const int8_t* p) { return {vcvtq_f32_s32(wide(p))}; }
    static HB_INLINE Floats load_uint8(const uint8_t* p) { return {vcvtq_f32_u32(wide(p))}; }
    // The first `count` lanes, 0 .. lanes; the others are 0, and their memory is not touched.
    static HB_INLINE Floats load(const float* p, int count) {
        float some[lanes] = {};
        std::memcpy(some, p, sizeof(float) * static_cast<size_t>(count));
        return load(some);
    }

    HB_INLINE void store(float* p) const { vst1q_f32(p, v); }
    HB_INLINE void store(float* p, int count) const {
        float some[lanes];
        store(some);
        std::memcpy(p, some, sizeof(float) * static_cast<size_t>(count));
    }
    HB_INLINE void store_half(uint16_t* p) const { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
    // Rounded to the nearest, ties to even, and held to -128 .. 127.
    HB_INLINE void store_int8(int8_t* p) const {
        const int16x4_t words = vqmovn_s32(vcvtnq_s32_f32(v));
        int8_t some[8];
        vst1_s8(some, vqmovn_s16(vcombine_s16(words, words)));
        std::memcpy(p, some, lanes);
    }

    static HB_INLINE int32x4_t wide(const int8_t* p) {
        int8_t some[8] = {};
        std::memcpy(some, p, lanes);
        return vmovl_s16(vget_low_s16(vmovl_s8(vld1_s8(some))));
    }
    static HB_INLINE uint32x4_t wide(const uint8_t* p) {
        uint8_t some[8] = {};
        std::memcpy(some, p, lanes);
        return vmovl_u16(vget_low_u16(vmovl_u8(vld1_u8(some))));
    }
};

HB_INLINE Floats operator+(Floats a, Floats b) { return {vaddq_f32(a.v, b.v)}; }
HB_INLINE Floats operator-(Floats a, Floats b) { return {vsubq_f32(a.v, b.v)}; }
HB_INLINE Floats operator*(Floats a, Floats b) { return {vmulq_f32(a.v, b.v)}; }
HB_INLINE Floats operator/(Floats a, Floats b) { return {vdivq_f32(a.v, b.v)}; }
HB_INLINE Floats fma(Floats a, Floats b, Floats c) { return {vfmaq_f32(c.v, a.v, b.v)}; }  // a * b + c
HB_INLINE Mask operator<(Floats a, Floats b) { return {vcltq_f32(a.v, b.v)}; }
HB_INLINE Mask operator==(Floats a, Floats b) { return {vceqq_f32(a.v, b.v)}; }
HB_INLINE Floats select(Mask mask, Floats yes, Floats no) { return {vbslq_f32(mask.v, yes.v, no.v)}; }
HB_INLINE Floats max(Floats a, Floats b) { return select(b < a, a, b); }  // b where either is not a number
HB_INLINE Floats min(Floats a, Floats b) { return select(a < b, a, b); }  // b where either is not a number
HB_INLINE Floats sqrt(Floats a) { return {vsqrtq_f32(a.v)}; }
HB_INLINE Floats abs(Floats a) { return {vabsq_f32(a.v)}; }
HB_INLINE Floats round(Floats a) { return {vrndnq_f32(a.v)}; }  // to the nearest whole number, ties to even
HB_INLINE Floats power_of_two(Floats n) {                       // 2^n of whole numbers -126 .. 127
    return {vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.v), vdupq_n_s32(127)), 23))};
}
HB_INLINE uint32_t bits(Mask mask) {  // lane 0 lowest
    uint32_t lane[4];
    vst1q_u32(lane, mask.v);
    return (lane[0] & 1) | (lane[1] & 2) | (lane[2] & 4) | (lane[3] & 8);
}
HB_INLINE bool any(Mask mask) { return vmaxvq_u32(mask.v) != 0; }

// Across the lanes, always in the same order.
HB_INLINE float sum(Floats a) {
    const float32x2_t two = vadd_f32(vget_low_f32(a.v), vget_high_f32(a.v));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
HB_INLINE float largest(Floats a) { return vmaxvq_f32(a.v); }

// ------------------------------------------------------------------------------- bytes: a tile's rows, 4 values each
struct Ints {
    int32x4_t v;
};
struct Bytes {
    static constexpr int rows = 4;
    uint8x16_t v;

    static HB_INLINE Bytes load(const void* p) { return {vld1q_u8(static_cast<const uint8_t*>(p))}; }
    static HB_INLINE Bytes all(uint8_t x) { return {vdupq_n_u8(x)}; }
    static HB_INLINE Bytes four(const void* p) {  // the same four for every row
        uint32_t word;
        std::memcpy(&word, p, sizeof word);
        return {vreinterpretq_u8_u32(vdupq_n_u32(word))};
    }
};
HB_INLINE Bytes operator&(Bytes a, Bytes b) { return {vandq_u8(a.v, b.v)}; }
HB_INLINE Bytes operator|(Bytes a, Bytes b) { return {vorrq_u8(a.v, b.v)}; }
template <int by>
HB_INLINE Bytes shift_right(Bytes a) {
    if constexpr (by < 0) return {vshlq_n_u8(a.v, -by)};
    else if constexpr (by > 0) return {vshrq_n_u8(a.v, by)};
    else return a;
}

constexpr int TOKENS = 4, FLOAT_TOKENS = 4;  // taken at once: as many as there are registers for their sums

// Sums of products of weights and activations: dot adds four products to 32 bits, where every sum fits. Unsigned weights
// have seven bits at most, and so are signed ones too.
using Partial = Ints;
constexpr bool fits(int, int) { return true; }

// -by * the sum of the activations of sixteen.
template <int by, int halves>
HB_INLINE Partial below_zero(const int16_t* sum) {
    static_assert(halves == 1, "only scales of sixteen begin below zero here");
    return {vdupq_n_s32(-by * (sum[0] + sum[1]))};
}

HB_INLINE Partial products(Partial sum, Bytes weight, Bytes x) {
    return {vdotq_s32(sum.v, vreinterpretq_s8_u8(weight.v), vreinterpretq_s8_u8(x.v))};
}
HB_INLINE Partial products(Bytes weight, Bytes x) { return products({vdupq_n_s32(0)}, weight, x); }
HB_INLINE Ints widen(Partial sum) { return sum; }

constexpr int signed_offset = 0;  // signed weights are multiplied as they are
HB_INLINE Ints signed_products(Ints sum, Bytes weight, Bytes x) { return products(sum, weight, x); }
HB_INLINE Ints signed_products(Bytes weight, Bytes x) { return products(weight, x); }

HB_INLINE Ints operator+(Ints a, Ints b) { return {vaddq_s32(a.v, b.v)}; }
HB_INLINE Floats to_float(Ints a) { return {vcvtq_f32_s32(a.v)}; }

// A small whole number a row.
struct Scales {
    int32x4_t v;
    static HB_INLINE Scales load_int8(const int8_t* p) { return {Floats::wide(p)}; }
    static HB_INLINE Scales load_low_nibbles(const uint8_t* p) {
        return {vreinterpretq_s32_u32(vandq_u32(Floats::wide(p), vdupq_n_u32(15)))};
    }
    static HB_INLINE Scales load_high_nibbles(const uint8_t* p) {
        return {vreinterpretq_s32_u32(vshrq_n_u32(Floats::wide(p), 4))};
    }
};
HB_INLINE Ints widen(Partial sum, Scales scale) { return {vmulq_s32(sum.v, scale.v)}; }
HB_INLINE Ints products(Scales scale, const int16_t* sum) { return {vmulq_n_s32(scale.v, sum[0] + sum[1])}; }

// Of 32 activations the sums that ActivationBlock keeps: [half][pair].
HB_INLINE void sum_pairs(const int8_t* q, int16_t (&sum)[2][2]) {
    for (int half = 0; half < 2; half++) {
        const int16x8_t pairs = vpaddlq_s8(vld1q_s8(q + 16 * half));  // of each four first one, then the other pair
        const int16x4_t four = vadd_s16(vget_low_s16(pairs), vget_high_s16(pairs));
        sum[half][0] = static_cast<int16_t>(vget_lane_s16(four, 0) + vget_lane_s16(four, 2));
        sum[half][1] = static_cast<int16_t>(vget_lane_s16(four, 1) + vget_lane_s16(four, 3));
    }
}

// Only x86 with its few registers needs holding to the order as written.
template <class Vector>
HB_INLINE void in_order(Vector&) {}
HB_INLINE void prefetch(const void* p) {
#if defined(_MSC_VER)
    __prefetch(p);
#else
    __builtin_prefetch(p);
#endif
}

}  // namespace
}  // namespace hb
