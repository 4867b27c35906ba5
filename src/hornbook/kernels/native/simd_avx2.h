// Vectors of AVX2, FMA and F16C: 8 floats, or 8 rows of a tile with 4 bytes each.
//
// The header of an instruction set is what the .inc files are written over; all four have the same names. Everything is of
// internal linkage: an inline function compiled for one instruction set must never be linked into another's code.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "half.h"
#include "inline.h"

namespace hb {
namespace {

// ----------------------------------------------------------------------------------------------------------- floats
struct Mask {
    __m256 v;
};

struct Floats {
    static constexpr int lanes = 8;
    __m256 v;

    static HB_INLINE Floats all(float x) { return {_mm256_set1_ps(x)}; }
    static HB_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static HB_INLINE Floats load_half(const uint16_t* p) {
        return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
    }
    static HB_INLINE Floats load_bfloat(const uint16_t* p) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
    }
    static HB_INLINE Floats load_int8(const int8_t* p) {
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
    }
    static HB_INLINE Floats load_uint8(const uint8_t* p) {
        return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
    }
    // The first `count` lanes, 0 .. lanes; the others are 0, and their memory is not touched.
    static HB_INLINE Floats load(const float* p, int count) {
        float some[lanes] = {};
        std::memcpy(some, p, sizeof(float) * static_cast<size_t>(count));
        return load(some);
    }

    HB_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
    HB_INLINE void store(float* p, int count) const {
        float some[lanes];
        store(some);
        std::memcpy(p, some, sizeof(float) * static_cast<size_t>(count));
    }
    HB_INLINE void store_half(uint16_t* p) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    // Rounded to the nearest, ties to even, and held to -128 .. 127.
    HB_INLINE void store_int8(int8_t* p) const {
        const __m256i wide = _mm256_cvtps_epi32(v);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
    }
};

HB_INLINE Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.v, b.v)}; }
HB_INLINE Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.v, b.v)}; }
HB_INLINE Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.v, b.v)}; }
HB_INLINE Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.v, b.v)}; }
HB_INLINE Floats fma(Floats a, Floats b, Floats c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }  // a * b + c
HB_INLINE Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.v, b.v)}; }  // b where either is not a number
HB_INLINE Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.v, b.v)}; }  // b where either is not a number
HB_INLINE Floats sqrt(Floats a) { return {_mm256_sqrt_ps(a.v)}; }
HB_INLINE Floats abs(Floats a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
HB_INLINE Floats round(Floats a) {  // to the nearest whole number, ties to even
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
HB_INLINE Floats power_of_two(Floats n) {  // 2^n of whole numbers -126 .. 127
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(biased, 23))};
}
HB_INLINE Mask operator<(Floats a, Floats b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
HB_INLINE Mask operator==(Floats a, Floats b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
HB_INLINE Floats select(Mask mask, Floats yes, Floats no) { return {_mm256_blendv_ps(no.v, yes.v, mask.v)}; }
HB_INLINE bool any(Mask mask) { return _mm256_movemask_ps(mask.v) != 0; }
HB_INLINE uint32_t bits(Mask mask) { return static_cast<uint32_t>(_mm256_movemask_ps(mask.v)); }  // lane 0 lowest

// Across the lanes, always in the same order.
HB_INLINE float sum(Floats a) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
HB_INLINE float largest(Floats a) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

// ------------------------------------------------------------------------------- bytes: a tile's rows, 4 values each
struct Ints {
    __m256i v;
};
struct Bytes {
    static constexpr int rows = 8;
    __m256i v;

    static HB_INLINE Bytes load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
    static HB_INLINE Bytes all(uint8_t x) { return {_mm256_set1_epi8(static_cast<char>(x))}; }
    static HB_INLINE Bytes four(const void* p) {  // the same four for every row
        int32_t word;
        std::memcpy(&word, p, sizeof word);
        return {_mm256_set1_epi32(word)};
    }
};
HB_INLINE Bytes operator&(Bytes a, Bytes b) { return {_mm256_and_si256(a.v, b.v)}; }
HB_INLINE Bytes operator|(Bytes a, Bytes b) { return {_mm256_or_si256(a.v, b.v)}; }
// Shifts may bring in bits of the neighbouring byte: mask what comes out.
template <int by>
HB_INLINE Bytes shift_right(Bytes a) {
    if constexpr (by < 0) return {_mm256_slli_epi16(a.v, -by)};
    else return {_mm256_srli_epi16(a.v, by)};
}

constexpr int TOKENS = 4, FLOAT_TOKENS = 4;  // taken at once: as many as there are registers for their sums

// Sums of products of unsigned weights and signed activations. maddubs adds two products into 16 bits, where the sum of a
// whole block fits, or does so when it is begun below zero by the products with half of the largest weight: then the sum is
// that of weights of either sign. On the way there it may wrap around, which takes nothing from the end.
struct Partial {
    __m256i v;
};
constexpr bool fits(int largest, int groups) { return 2 * groups * 127 * largest <= 32767; }

// -by * the sums of the activations of `halves` sixteens.
template <int by, int halves>
HB_INLINE Partial below_zero(const int16_t* sum) {
    __m256i all = Bytes::four(sum).v;
    if constexpr (halves == 2) all = _mm256_add_epi16(all, Bytes::four(sum + 2).v);
    return {_mm256_mullo_epi16(all, _mm256_set1_epi16(-by))};
}

HB_INLINE Partial products(Bytes weight, Bytes x) { return {_mm256_maddubs_epi16(weight.v, x.v)}; }
HB_INLINE Partial products(Partial sum, Bytes weight, Bytes x) {
    return {_mm256_add_epi16(sum.v, _mm256_maddubs_epi16(weight.v, x.v))};
}
HB_INLINE Ints widen(Partial sum) { return {_mm256_madd_epi16(sum.v, _mm256_set1_epi16(1))}; }

// Signed weights -128 .. 127: |w| * (x with the sign of w); two such products just fit into 16 bits.
constexpr int signed_offset = 0;  // what is added to signed weights to multiply them; the sums of x take it off again
HB_INLINE Ints signed_products(Bytes weight, Bytes x) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight.v), _mm256_sign_epi8(x.v, weight.v));
    return {_mm256_madd_epi16(pairs, _mm256_set1_epi16(1))};
}
HB_INLINE Ints signed_products(Ints sum, Bytes weight, Bytes x) {
    return {_mm256_add_epi32(sum.v, signed_products(weight, x).v)};
}

HB_INLINE Ints operator+(Ints a, Ints b) { return {_mm256_add_epi32(a.v, b.v)}; }
HB_INLINE Floats to_float(Ints a) { return {_mm256_cvtepi32_ps(a.v)}; }

// A small whole number a row, twice over in 16 bits: madd then multiplies and widens at once.
struct Scales {
    __m256i v;
    static HB_INLINE Scales twice(__m256i wide) {
        return {_mm256_or_si256(_mm256_slli_epi32(wide, 16), _mm256_and_si256(wide, _mm256_set1_epi32(0xffff)))};
    }
    static HB_INLINE Scales load_int8(const int8_t* p) {
        return twice(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static HB_INLINE Scales load_low_nibbles(const uint8_t* p) {
        const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
        return twice(_mm256_and_si256(wide, _mm256_set1_epi32(15)));
    }
    static HB_INLINE Scales load_high_nibbles(const uint8_t* p) {
        return twice(_mm256_srli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))), 4));
    }
};
HB_INLINE Ints widen(Partial sum, Scales scale) { return {_mm256_madd_epi16(sum.v, scale.v)}; }
HB_INLINE Ints products(Scales scale, const int16_t* sum) { return {_mm256_madd_epi16(scale.v, Bytes::four(sum).v)}; }

// Of 32 activations the sums that ActivationBlock keeps: [half][pair].
HB_INLINE void sum_pairs(const int8_t* q, int16_t (&sum)[2][2]) {
    const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), all);  // of each four first one, then the other pair
    pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0x4e));
    pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0xb1));
    const int32_t halves[2] = {_mm_cvtsi128_si32(_mm256_castsi256_si128(pairs)),
                               _mm_cvtsi128_si32(_mm256_extracti128_si256(pairs, 1))};
    std::memcpy(sum, halves, sizeof sum);
}

// Holds the compiler to the order as written: left alone it puts off the additions until more sums wait than there are
// registers.
template <class Vector>
HB_INLINE void in_order(Vector& sum) {
#if !defined(_MSC_VER)
    asm volatile("" : "+x"(sum.v));
#endif
}
HB_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace
}  // namespace hb
