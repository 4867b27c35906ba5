// AVX-512 without the processor: the intrinsics that simd_avx512vnni.h uses, one lane at a time, after Intel's descriptions.
//
// check_native.py puts a file named immintrin.h before the compiler's that includes this one. What is missing here does not
// compile ("target specific option mismatch"): add it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>

namespace emulated {

#define EMULATED inline __attribute__((always_inline))

template <class T, class V>
struct Lanes {  // a vector as an array
    static constexpr int count = sizeof(V) / sizeof(T);
    T at[count];
    EMULATED Lanes() {}
    EMULATED explicit Lanes(V v) { std::memcpy(at, &v, sizeof v); }
    EMULATED operator V() const {
        V v;
        std::memcpy(&v, at, sizeof v);
        return v;
    }
};
template <class T>
using Ints = Lanes<T, __m512i>;
using Floats = Lanes<float, __m512>;

template <class L, class F>
EMULATED L each(F value) {  // value(lane) for every lane
    L out;
    for (int i = 0; i < L::count; ++i) out.at[i] = value(i);
    return out;
}

template <class To, class From>
EMULATED To bits_of(From v) {
    static_assert(sizeof(To) == sizeof(From), "a cast keeps the bits");
    To out;
    std::memcpy(&out, &v, sizeof out);
    return out;
}

// ------------------------------------------------------------------------------------------------- floats
EMULATED __m512 set1_ps(float x) {
    return each<Floats>([&](int) { return x; });
}
EMULATED __m512 setzero_ps() { return set1_ps(0); }
EMULATED __m512 loadu_ps(const void* p) {
    Floats out;
    std::memcpy(out.at, p, sizeof out.at);
    return out;
}
EMULATED void storeu_ps(void* p, __m512 v) { std::memcpy(p, &v, sizeof v); }
EMULATED __m512 maskz_loadu_ps(__mmask16 mask, const void* p) {
    return each<Floats>([&](int i) {
        float x = 0;
        if (mask >> i & 1) std::memcpy(&x, static_cast<const char*>(p) + 4 * i, 4);
        return x;
    });
}
EMULATED void mask_storeu_ps(void* p, __mmask16 mask, __m512 v) {
    const Floats from(v);
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) std::memcpy(static_cast<char*>(p) + 4 * i, &from.at[i], 4);
}
#define EMULATED_OF_TWO(name, expression)                                                \
    EMULATED __m512 name(__m512 first, __m512 second) {                                  \
        const Floats x(first), y(second);                                                \
        return each<Floats>([&](int i) { const float a = x.at[i], b = y.at[i]; return expression; }); \
    }
EMULATED_OF_TWO(add_ps, a + b)
EMULATED_OF_TWO(sub_ps, a - b)
EMULATED_OF_TWO(mul_ps, a * b)
EMULATED_OF_TWO(div_ps, a / b)
EMULATED_OF_TWO(max_ps, a > b ? a : b)
EMULATED_OF_TWO(min_ps, a < b ? a : b)
EMULATED_OF_TWO(scalef_ps, std::ldexp(a, static_cast<int>(std::floor(b))))
#undef EMULATED_OF_TWO
EMULATED __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
    const Floats x(a), y(b), z(c);
    return each<Floats>([&](int i) { return std::fma(x.at[i], y.at[i], z.at[i]); });
}
EMULATED __m512 fnmadd_ps(__m512 a, __m512 b, __m512 c) {
    const Floats x(a), y(b), z(c);
    return each<Floats>([&](int i) { return std::fma(-x.at[i], y.at[i], z.at[i]); });
}
EMULATED __m512 sqrt_ps(__m512 a) {
    const Floats x(a);
    return each<Floats>([&](int i) { return std::sqrt(x.at[i]); });
}
EMULATED __m512 abs_ps(__m512 a) {
    const Floats x(a);
    return each<Floats>([&](int i) { return std::fabs(x.at[i]); });
}
EMULATED __m512 roundscale_ps(__m512 a, int how) {  // only to the nearest whole number, ties to even: 0 or 8
    if (how & ~8) __builtin_trap();
    const Floats x(a);
    return each<Floats>([&](int i) { return std::nearbyint(x.at[i]); });
}
EMULATED __mmask16 cmp_ps_mask(__m512 a, __m512 b, int how) {
    const Floats x(a), y(b);
    unsigned mask = 0;
    for (int i = 0; i < 16; ++i) {
        const float p = x.at[i], q = y.at[i];
        bool yes = false;
        switch (how) {
            case _CMP_EQ_OQ: yes = p == q; break;
            case _CMP_LT_OQ: yes = p < q; break;
            case _CMP_LE_OQ: yes = p <= q; break;
            case _CMP_GT_OQ: yes = p > q; break;
            case _CMP_GE_OQ: yes = p >= q; break;
            case _CMP_UNORD_Q: yes = p != p || q != q; break;
            default: __builtin_trap();
        }
        mask |= static_cast<unsigned>(yes) << i;
    }
    return static_cast<__mmask16>(mask);
}
EMULATED __m512 mask_blend_ps(__mmask16 mask, __m512 no, __m512 yes) {
    const Floats x(no), y(yes);
    return each<Floats>([&](int i) { return mask >> i & 1 ? y.at[i] : x.at[i]; });
}
template <class F>
EMULATED float reduce(__m512 a, F both) {  // halves onto each other, as compilers do
    Floats x(a);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; ++i) x.at[i] = both(x.at[i], x.at[i + half]);
    return x.at[0];
}
EMULATED float reduce_add_ps(__m512 a) {
    return reduce(a, [](float x, float y) { return x + y; });
}
EMULATED float reduce_max_ps(__m512 a) {
    return reduce(a, [](float x, float y) { return x > y ? x : y; });
}
EMULATED __m256 castps512_ps256(__m512 a) { return each<Lanes<float, __m256>>([x = Floats(a)](int i) { return x.at[i]; }); }
EMULATED __m256 extractf32x8_ps(__m512 a, int half) {
    return each<Lanes<float, __m256>>([x = Floats(a), half](int i) { return x.at[8 * half + i]; });
}
EMULATED __m512 cvtph_ps(__m256i halves) {
    const Lanes<__m128i, __m256i> x(halves);
    const __m256 parts[2] = {_mm256_cvtph_ps(x.at[0]), _mm256_cvtph_ps(x.at[1])};
    return loadu_ps(parts);
}
EMULATED __m256i cvtps_ph(__m512 a, int how) {
    if (how & ~8) __builtin_trap();
    Lanes<__m128i, __m256i> out;
    for (int half : {0, 1}) out.at[half] = _mm256_cvtps_ph(extractf32x8_ps(a, half), 0);
    return out;
}

// --------------------------------------------------------------------------------------------------- ints
EMULATED __m512i loadu_si512(const void* p) {
    Ints<int32_t> out;
    std::memcpy(out.at, p, sizeof out.at);
    return out;
}
EMULATED void storeu_si512(void* p, __m512i v) { std::memcpy(p, &v, sizeof v); }
EMULATED __m512i set1_epi8(int x) {
    return each<Ints<int8_t>>([&](int) { return x; });
}
EMULATED __m512i set1_epi16(int x) {
    return each<Ints<int16_t>>([&](int) { return x; });
}
EMULATED __m512i set1_epi32(int x) {
    return each<Ints<int32_t>>([&](int) { return x; });
}
EMULATED __m512i setzero_si512() { return set1_epi32(0); }
#define EMULATED_OF_TWO(name, type, expression)                                         \
    EMULATED __m512i name(__m512i first, __m512i second) {                              \
        const Ints<type> x(first), y(second);                                           \
        return each<Ints<type>>([&](int i) { const type a = x.at[i], b = y.at[i]; return expression; }); \
    }
EMULATED_OF_TWO(add_epi32, uint32_t, a + b)
EMULATED_OF_TWO(sub_epi32, uint32_t, a - b)
EMULATED_OF_TWO(add_epi16, uint16_t, a + b)
EMULATED_OF_TWO(sub_epi16, uint16_t, a - b)
EMULATED_OF_TWO(add_epi8, uint8_t, a + b)
EMULATED_OF_TWO(sub_epi8, uint8_t, a - b)
EMULATED_OF_TWO(mullo_epi32, uint32_t, a * b)
EMULATED_OF_TWO(mullo_epi16, uint16_t, uint32_t(a) * b)
EMULATED_OF_TWO(and_si512, uint64_t, a & b)
EMULATED_OF_TWO(or_si512, uint64_t, a | b)
EMULATED_OF_TWO(xor_si512, uint64_t, a ^ b)
EMULATED_OF_TWO(andnot_si512, uint64_t, ~a & b)
#undef EMULATED_OF_TWO
#define EMULATED_SHIFT(name, type, expression)                                          \
    EMULATED __m512i name(__m512i first, unsigned by) {                                 \
        const Ints<type> x(first);                                                      \
        return each<Ints<type>>([&](int i) { const type a = x.at[i]; return expression; }); \
    }
EMULATED_SHIFT(slli_epi32, uint32_t, by > 31 ? 0 : a << by)
EMULATED_SHIFT(srli_epi32, uint32_t, by > 31 ? 0 : a >> by)
EMULATED_SHIFT(slli_epi16, uint16_t, by > 15 ? 0 : a << by)
EMULATED_SHIFT(srli_epi16, uint16_t, by > 15 ? 0 : a >> by)
#undef EMULATED_SHIFT
EMULATED __m512i cvtepi8_epi32(__m128i bytes) {
    return each<Ints<int32_t>>([x = Lanes<int8_t, __m128i>(bytes)](int i) { return x.at[i]; });
}
EMULATED __m512i cvtepu8_epi32(__m128i bytes) {
    return each<Ints<int32_t>>([x = Lanes<uint8_t, __m128i>(bytes)](int i) { return x.at[i]; });
}
EMULATED __m512i cvtepi16_epi32(__m256i words) {
    return each<Ints<int32_t>>([x = Lanes<int16_t, __m256i>(words)](int i) { return x.at[i]; });
}
EMULATED __m512i cvtepu16_epi32(__m256i words) {
    return each<Ints<int32_t>>([x = Lanes<uint16_t, __m256i>(words)](int i) { return x.at[i]; });
}
EMULATED __m512 cvtepi32_ps(__m512i a) {
    return each<Floats>([x = Ints<int32_t>(a)](int i) { return static_cast<float>(x.at[i]); });
}
EMULATED __m512i cvtps_epi32(__m512 a) {  // what does not fit becomes the lowest
    return each<Ints<int32_t>>([x = Floats(a)](int i) {
        const float whole = std::nearbyint(x.at[i]);
        return whole >= -0x1p31f && whole < 0x1p31f ? static_cast<int32_t>(whole) : std::numeric_limits<int32_t>::min();
    });
}
EMULATED __m128i cvtsepi32_epi8(__m512i a) {
    return each<Lanes<int8_t, __m128i>>([x = Ints<int32_t>(a)](int i) {
        return x.at[i] < -128 ? -128 : x.at[i] > 127 ? 127 : x.at[i];
    });
}
EMULATED __m512i dpbusd_epi32(__m512i sum, __m512i first, __m512i second) {  // unsigned bytes times signed ones
    const Ints<uint32_t> s(sum);
    const Ints<uint8_t> x(first);
    const Ints<int8_t> y(second);
    return each<Ints<uint32_t>>([&](int i) {
        uint32_t total = s.at[i];
        for (int j = 4 * i; j < 4 * i + 4; ++j) total += static_cast<uint32_t>(x.at[j] * y.at[j]);
        return total;
    });
}
EMULATED __m512i dpwssd_epi32(__m512i sum, __m512i first, __m512i second) {
    const Ints<uint32_t> s(sum);
    const Ints<int16_t> x(first), y(second);
    return each<Ints<uint32_t>>([&](int i) {
        return s.at[i] + static_cast<uint32_t>(x.at[2 * i] * y.at[2 * i]) +
               static_cast<uint32_t>(x.at[2 * i + 1] * y.at[2 * i + 1]);
    });
}
EMULATED __m512i madd_epi16(__m512i first, __m512i second) { return dpwssd_epi32(setzero_si512(), first, second); }
EMULATED __m512i mask_blend_epi16(__mmask32 mask, __m512i no, __m512i yes) {
    const Ints<int16_t> x(no), y(yes);
    return each<Ints<int16_t>>([&](int i) { return mask >> i & 1 ? y.at[i] : x.at[i]; });
}
EMULATED __m512 castsi512_ps(__m512i a) { return bits_of<__m512>(a); }
EMULATED __m512i castps_si512(__m512 a) { return bits_of<__m512i>(a); }

}  // namespace emulated

#undef _mm512_abs_ps
#define _mm512_abs_ps emulated::abs_ps
#undef _mm512_add_epi16
#define _mm512_add_epi16 emulated::add_epi16
#undef _mm512_add_epi32
#define _mm512_add_epi32 emulated::add_epi32
#undef _mm512_add_epi8
#define _mm512_add_epi8 emulated::add_epi8
#undef _mm512_add_ps
#define _mm512_add_ps emulated::add_ps
#undef _mm512_and_si512
#define _mm512_and_si512 emulated::and_si512
#undef _mm512_andnot_si512
#define _mm512_andnot_si512 emulated::andnot_si512
#undef _mm512_castps512_ps256
#define _mm512_castps512_ps256 emulated::castps512_ps256
#undef _mm512_castps_si512
#define _mm512_castps_si512 emulated::castps_si512
#undef _mm512_castsi512_ps
#define _mm512_castsi512_ps emulated::castsi512_ps
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask emulated::cmp_ps_mask
#undef _mm512_cvtepi16_epi32
#define _mm512_cvtepi16_epi32 emulated::cvtepi16_epi32
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32 emulated::cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32 emulated::cvtepu8_epi32
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps emulated::cvtph_ps
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32 emulated::cvtps_epi32
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph emulated::cvtps_ph
#undef _mm512_cvtsepi32_epi8
#define _mm512_cvtsepi32_epi8 emulated::cvtsepi32_epi8
#undef _mm512_div_ps
#define _mm512_div_ps emulated::div_ps
#undef _mm512_dpbusd_epi32
#define _mm512_dpbusd_epi32 emulated::dpbusd_epi32
#undef _mm512_dpwssd_epi32
#define _mm512_dpwssd_epi32 emulated::dpwssd_epi32
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps emulated::extractf32x8_ps
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps emulated::fmadd_ps
#undef _mm512_fnmadd_ps
#define _mm512_fnmadd_ps emulated::fnmadd_ps
#undef _mm512_loadu_ps
#define _mm512_loadu_ps emulated::loadu_ps
#undef _mm512_loadu_si512
#define _mm512_loadu_si512 emulated::loadu_si512
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 emulated::madd_epi16
#undef _mm512_mask_blend_epi16
#define _mm512_mask_blend_epi16 emulated::mask_blend_epi16
#undef _mm512_mask_blend_ps
#define _mm512_mask_blend_ps emulated::mask_blend_ps
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps emulated::mask_storeu_ps
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps emulated::maskz_loadu_ps
#undef _mm512_max_ps
#define _mm512_max_ps emulated::max_ps
#undef _mm512_min_ps
#define _mm512_min_ps emulated::min_ps
#undef _mm512_mul_ps
#define _mm512_mul_ps emulated::mul_ps
#undef _mm512_mullo_epi16
#define _mm512_mullo_epi16 emulated::mullo_epi16
#undef _mm512_mullo_epi32
#define _mm512_mullo_epi32 emulated::mullo_epi32
#undef _mm512_or_si512
#define _mm512_or_si512 emulated::or_si512
#undef _mm512_reduce_add_ps
#define _mm512_reduce_add_ps emulated::reduce_add_ps
#undef _mm512_reduce_max_ps
#define _mm512_reduce_max_ps emulated::reduce_max_ps
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps emulated::roundscale_ps
#undef _mm512_scalef_ps
#define _mm512_scalef_ps emulated::scalef_ps
#undef _mm512_set1_epi16
#define _mm512_set1_epi16 emulated::set1_epi16
#undef _mm512_set1_epi32
#define _mm512_set1_epi32 emulated::set1_epi32
#undef _mm512_set1_epi8
#define _mm512_set1_epi8 emulated::set1_epi8
#undef _mm512_set1_ps
#define _mm512_set1_ps emulated::set1_ps
#undef _mm512_setzero_ps
#define _mm512_setzero_ps emulated::setzero_ps
#undef _mm512_setzero_si512
#define _mm512_setzero_si512 emulated::setzero_si512
#undef _mm512_slli_epi16
#define _mm512_slli_epi16 emulated::slli_epi16
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 emulated::slli_epi32
#undef _mm512_sqrt_ps
#define _mm512_sqrt_ps emulated::sqrt_ps
#undef _mm512_srli_epi16
#define _mm512_srli_epi16 emulated::srli_epi16
#undef _mm512_srli_epi32
#define _mm512_srli_epi32 emulated::srli_epi32
#undef _mm512_storeu_ps
#define _mm512_storeu_ps emulated::storeu_ps
#undef _mm512_storeu_si512
#define _mm512_storeu_si512 emulated::storeu_si512
#undef _mm512_sub_epi16
#define _mm512_sub_epi16 emulated::sub_epi16
#undef _mm512_sub_epi32
#define _mm512_sub_epi32 emulated::sub_epi32
#undef _mm512_sub_epi8
#define _mm512_sub_epi8 emulated::sub_epi8
#undef _mm512_sub_ps
#define _mm512_sub_ps emulated::sub_ps
#undef _mm512_xor_si512
#define _mm512_xor_si512 emulated::xor_si512

// asm volatile("" : "+v"(vector)) keeps a compiler from moving code; there is no register here for it to name.
#define asm
#define volatile(...)
