// Vectors of AVX-512 with VNNI: 16 floats, or all 16 rows of a tile with 4 bytes each. See simd_avx2.h for the names.
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
    __mmask16 v;
};

struct Floats {
    static constexpr int lanes = 16;
    __m512 v;

    static HB_INLINE Floats all(float x) { return {_mm512_set1_ps(x)}; }
    static HB_INLINE Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static HB_INLINE Floats load_half(const uint16_t* p) {
        return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
    }
    static HB_INLINE Floats load_bfloat(const uint16_t* p) {
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
        return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
    }
    static HB_INLINE Floats load_int8(const int8_t* p) {
        return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
    }
    static HB_INLINE Floats load_uint8(const uint8_t* p) {
        return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
    }
    // The first `count` lanes, 0 .. lanes; the others are 0, and their memory is not touched.
    static HB_INLINE Floats load(const float* p, int count) { return {_mm512_maskz_loadu_ps(first(count), p)}; }

    HB_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
    HB_INLINE void store(float* p, int count) const { _mm512_mask_storeu_ps(p, first(count), v); }
    HB_INLINE void store_half(uint16_t* p) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    // Rounded to the nearest, ties to even, and held to -128 .. 127.
    HB_INLINE void store_int8(int8_t* p) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
    }

    static HB_INLINE __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1); }
};

HB_INLINE Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
HB_INLINE Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
HB_INLINE Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
HB_INLINE Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
HB_INLINE Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }  // a * b + c
HB_INLINE Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }  // b where either is not a number
HB_INLINE Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }  // b where either is not a number
HB_INLINE Floats sqrt(Floats a) { return {_mm512_sqrt_ps(a.v)}; }
HB_INLINE Floats abs(Floats a) { return {_mm512_abs_ps(a.v)}; }
HB_INLINE Floats round(Floats a) {  // to the nearest whole number, ties to even
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
HB_INLINE Floats power_of_two(Floats n) {  // 2^n of whole numbers -126 .. 127
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}
HB_INLINE Mask operator<(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
HB_INLINE Mask operator==(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
HB_INLINE Floats select(Mask mask, Floats yes, Floats no) { return {_mm512_mask_blend_ps(mask.v, no.v, yes.v)}; }
HB_INLINE bool any(Mask mask) { return mask.v != 0; }
HB_INLINE uint32_t bits(Mask mask) { return mask.v; }  // lane 0 lowest

// Across the lanes, always in the same order.
HB_INLINE float sum(Floats a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
HB_INLINE float largest(Floats a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

// ------------------------------------------------------------------------------- bytes: a tile's rows, 4 values each
struct Ints {
    __m512i v;
};
struct Bytes {
    static constexpr int rows = 16;
    __m512i v;

    static HB_INLINE Bytes load(const void* p) { return {_mm512_loadu_si512(p)}; }
    static HB_INLINE Bytes all(uint8_t x) { return {_mm512_set1_epi8(static_cast<char>(x))}; }
    static HB_INLINE Bytes four(const void* p) {  // the same four for every row
        int32_t word;
        std::memcpy(&word, p, sizeof word);
        return {_mm512_set1_epi32(word)};
    }
};
HB_INLINE Bytes operator&(Bytes a, Bytes b) { return {_mm512_and_si512(a.v, b.v)}; }
HB_INLINE Bytes operator|(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }
// Shifts may bring in bits of the neighbouring byte: mask what comes out.
template <int by>
HB_INLINE Bytes shift_right(Bytes a) {
    if constexpr (by < 0) return {_mm512_slli_epi16(a.v, -by)};
    else return {_mm512_srli_epi16(a.v, by)};
}

constexpr int TOKENS = 8, FLOAT_TOKENS = 8;  // taken at once: enough sums to keep both multipliers busy

// Sums of products of unsigned weights and signed activations: dpbusd adds four products to 32 bits, where every sum fits.
using Partial = Ints;
constexpr bool fits(int, int) { return true; }

// -by * the sum of the activations of sixteen.
template <int by, int halves>
HB_INLINE Partial below_zero(const int16_t* sum) {
    static_assert(halves == 1, "only scales of sixteen begin below zero here");
    return {_mm512_dpwssd_epi32(_mm512_setzero_si512(), Bytes::four(sum).v, _mm512_set1_epi16(-by))};
}

HB_INLINE Partial products(Partial sum, Bytes weight, Bytes x) { return {_mm512_dpbusd_epi32(sum.v, weight.v, x.v)}; }
HB_INLINE Partial products(Bytes weight, Bytes x) { return products({_mm512_setzero_si512()}, weight, x); }
HB_INLINE Ints widen(Partial sum) { return sum; }

// Signed weights -128 .. 127 are multiplied as 0 .. 255.
constexpr int signed_offset = 128;  // what is added to signed weights to multiply them; the sums of x take it off again
HB_INLINE Ints signed_products(Ints sum, Bytes weight, Bytes x) {
    return products(sum, Bytes{_mm512_xor_si512(weight.v, _mm512_set1_epi8(-128))}, x);
}
HB_INLINE Ints signed_products(Bytes weight, Bytes x) { return signed_products({_mm512_setzero_si512()}, weight, x); }

HB_INLINE Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
HB_INLINE Floats to_float(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }

// A small whole number a row.
struct Scales {
    __m512i v;
    static HB_INLINE Scales load_int8(const int8_t* p) {
        return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
    }
    static HB_INLINE Scales load_low_nibbles(const uint8_t* p) {
        const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return {_mm512_cvtepu8_epi32(_mm_and_si128(packed, _mm_set1_epi8(15)))};
    }
    static HB_INLINE Scales load_high_nibbles(const uint8_t* p) {
        return {_mm512_srli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 4)};
    }
};
HB_INLINE Ints widen(Partial sum, Scales scale) { return {_mm512_mullo_epi32(sum.v, scale.v)}; }
HB_INLINE Ints products(Scales scale, const int16_t* sum) {
    return {_mm512_mullo_epi32(scale.v, _mm512_set1_epi32(sum[0] + sum[1]))};
}

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

// Holds the compiler to the order as written: left alone it puts off additions until more wait than there are registers.
template <class Vector>
HB_INLINE void in_order(Vector& sum) {
#if !defined(_MSC_VER)
    asm volatile("" : "+v"(sum.v));
#endif
}
HB_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace
}  // namespace hb
