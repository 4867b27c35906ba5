// Half precision and bfloat16 as float, one number at a time. Everything is of internal linkage: a function that was compiled
// for one instruction set must not stand in for another's.
#pragma once
#include <cstdint>
#include <cstring>

namespace hb {
namespace {

inline float float_of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_of_bfloat(uint16_t value) { return float_of_bits(static_cast<uint32_t>(value) << 16); }

inline float float_of_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, rest = half & 0x7fffu;
    if (rest >= 0x7c00) return float_of_bits(sign | 0x7f800000u | (rest & 0x3ff) << 13);  // infinite, or not a number
    if (rest < 0x0400) {  // below the smallest normal half: the mantissa counts steps of 2^-24
        const float value = static_cast<float>(rest) * 0x1p-24f;
        return float_of_bits(sign | bits_of_float(value));
    }
    return float_of_bits(sign | ((rest << 13) + (112u << 23)));
}

// To the nearest, ties to even, as processors do it.
inline uint16_t half_of_float(float value) {
    const uint32_t bits = bits_of_float(value), rest = bits & 0x7fffffffu;
    const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
    if (rest > 0x7f800000u) return sign | 0x7e00 | static_cast<uint16_t>(rest >> 13 & 0x3ff);
    if (rest >= 0x477ff000u) return sign | 0x7c00;  // rounds to 65,520 or more
    if (rest < 0x38800000u) {  // adding 0.5 leaves steps of 2^-24, and the sum rounds as it must
        const uint32_t steps = bits_of_float(float_of_bits(rest) + 0.5f) - 0x3f000000u;
        return sign | static_cast<uint16_t>(steps);
    }
    return sign | static_cast<uint16_t>((rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13);
}

}  // namespace
}  // namespace hb
