// How a tile lies in memory: 16 rows of a weight, interleaved so that one load brings four values of many rows.
//
//   a tile of a type of blocks = for each block of 32 or 256 columns, of all 16 rows:
//
//     d       [16]  half         the scales                                          32 bytes
//     m       [16]  half         the minima, or their scales, where the type has any 32
//     scale   [S][16]            of each sub-block (types of 256): S = 8 or 16       16 S
//     minimum [S][16]            where the type has them (Q2_K: in the upper half of scale)
//     planes  for each 32 columns:
//       low   [L][64]            the low L = 2, 4 or 8 bits of each value            64 L
//       high  [H][64]            the H = 0, 1 or 2 bits above them                   64 H
//
//   The 32 columns are 8 groups g of 4. Byte 4 r + j of a plane holds bits of row r, column 4 g + j of several groups:
//
//     L = 8   plane g: the value                     | r0: 0 1 2 3 | r1: 0 1 2 3 | ... | r15: 0 1 2 3 |   64 bytes
//     L = 4   plane g / 2: g even in bits 0-3, g odd in bits 4-7
//     L = 2   plane g / 4: bits 2 (g % 4) and the next          H = 2: the same
//     H = 1   one plane: bit g
//
//   a tile of floats = for each column, its 16 rows.
//
// Every number of the file is here, none is changed, and little is added: Q4_K grows by 3%, Q3_K by 4%, the others by none.
#pragma once
#include <cstdint>
#include <cstring>

#include "half.h"
#include "hornbook.h"
#include "inline.h"

namespace hb {
namespace {

struct Format {
    int type;
    int values;        // in a block
    int file_bytes;    // of a block in the file
    int low, high;     // bits of a value in either kind of plane
    int zero;          // what is subtracted from a value; the eight bits of Q8_0 have a sign of their own
    bool minimum;
    int scales;        // of sub-blocks, in a block
    bool nibbles;      // Q2_K: scale and minimum share a byte

    constexpr int minima_at() const { return (minimum ? 64 : 32) + HB_TILE * scales; }
    constexpr int planes_at() const { return minima_at() + (minimum && !nibbles ? HB_TILE * scales : 0); }
    constexpr int scales_at() const { return minimum ? 64 : 32; }
    constexpr int plane_bytes() const { return 64 * (low + high); }  // of 32 columns
    constexpr int tile_bytes() const { return planes_at() + values / 32 * plane_bytes(); }
};

constexpr Format FORMATS[] = {
    {HB_Q4_0, 32, 18, 4, 0, 8, false, 0, false},    {HB_Q4_1, 32, 20, 4, 0, 0, true, 0, false},
    {HB_Q5_0, 32, 22, 4, 1, 16, false, 0, false},   {HB_Q5_1, 32, 24, 4, 1, 0, true, 0, false},
    {HB_Q8_0, 32, 34, 8, 0, 0, false, 0, false},    {HB_Q2_K, 256, 84, 2, 0, 0, true, 16, true},
    {HB_Q3_K, 256, 110, 2, 1, 4, false, 16, false}, {HB_Q4_K, 256, 144, 4, 0, 0, true, 8, false},
    {HB_Q5_K, 256, 176, 4, 1, 0, true, 8, false},   {HB_Q6_K, 256, 210, 4, 2, 32, false, 16, false},
};

// The format of a type of blocks; for others one with no values.
constexpr Format format_of(int type) {
    for (const Format& format : FORMATS)
        if (format.type == type) return format;
    return {type, 0, 0, 0, 0, 0, false, 0, false};
}

constexpr int float_bytes(int type) {
    return type == HB_F32 ? 4 : type == HB_F16 || type == HB_BF16 ? 2 : 0;
}

// One row's part of a block, every number by itself.
struct Block {
    uint16_t d = 0, m = 0;   // half precision
    int8_t scale[16] = {};
    uint8_t minimum[16] = {};
    uint8_t q[256] = {};     // before `zero` is subtracted
};

// ------------------------------------------------------------------------------------------------- blocks <-> a tile
inline uint32_t word_at(const uint8_t* p) {
    uint32_t word;
    std::memcpy(&word, p, 4);
    return word;
}

// Four values at a time as one word: q[4 g .. 4 g + 3] -> bits [shift, shift + bits) of the four bytes at plane + 4 row.
HB_INLINE void put_bits(uint8_t* plane, int row, uint32_t four, int shift) {
    const uint32_t word = word_at(plane + 4 * row) | four << shift;
    std::memcpy(plane + 4 * row, &word, 4);
}

inline uint32_t get_bits(const uint8_t* plane, int row, int shift, int bits) {
    return word_at(plane + 4 * row) >> shift & 0x01010101u * ((1u << bits) - 1);
}

// The tile's memory is zeros before. Inline, so that with a constant format it is a few operations on words.
HB_INLINE void put(const Format& format, const Block& block, int row, uint8_t* tile) {
    std::memcpy(tile + 2 * row, &block.d, 2);
    if (format.minimum) std::memcpy(tile + 32 + 2 * row, &block.m, 2);
    for (int s = 0; s < format.scales; s++) {
        uint8_t* scale = tile + format.scales_at() + HB_TILE * s + row;
        if (format.nibbles) {
            *scale = static_cast<uint8_t>(block.scale[s] | block.minimum[s] << 4);
        } else {
            *scale = static_cast<uint8_t>(block.scale[s]);
            if (format.minimum) tile[format.minima_at() + HB_TILE * s + row] = block.minimum[s];
        }
    }
    const int a_plane = 8 / format.low;  // groups that share a plane
    const uint32_t low_bits = 0x01010101u * ((1u << format.low) - 1);
    for (int b = 0; b < format.values / 32; b++) {
        uint8_t* low = tile + format.planes_at() + b * format.plane_bytes();
        uint8_t* high = low + 64 * format.low;
        HB_UNROLL for (int g = 0; g < 8; g++) {
            const uint32_t four = word_at(block.q + 32 * b + 4 * g);
            put_bits(low + 64 * (g / a_plane), row, four & low_bits, g % a_plane * format.low);
            if (format.high == 1) put_bits(high, row, four >> format.low & 0x01010101u, g);
            if (format.high == 2) put_bits(high + 64 * (g / 4), row, four >> format.low & 0x03030303u, 2 * (g % 4));
        }
    }
}

inline void get(const Format& format, const uint8_t* tile, int row, Block& block) {
    std::memcpy(&block.d, tile + 2 * row, 2);
    if (format.minimum) std::memcpy(&block.m, tile + 32 + 2 * row, 2);
    for (int s = 0; s < format.scales; s++) {
        const uint8_t scale = tile[format.scales_at() + HB_TILE * s + row];
        block.scale[s] = static_cast<int8_t>(format.nibbles ? scale & 15 : scale);
        if (format.nibbles) block.minimum[s] = scale >> 4;
        else if (format.minimum) block.minimum[s] = tile[format.minima_at() + HB_TILE * s + row];
    }
    const int a_plane = 8 / format.low;
    for (int b = 0; b < format.values / 32; b++) {
        const uint8_t* low = tile + format.planes_at() + b * format.plane_bytes();
        const uint8_t* high = low + 64 * format.low;
        for (int g = 0; g < 8; g++) {
            uint32_t four = get_bits(low + 64 * (g / a_plane), row, g % a_plane * format.low, format.low);
            if (format.high == 1) four |= get_bits(high, row, g, 1) << format.low;
            if (format.high == 2) four |= get_bits(high + 64 * (g / 4), row, 2 * (g % 4), 2) << format.low;
            std::memcpy(block.q + 32 * b + 4 * g, &four, 4);
        }
    }
}

// The block's values, by the float operations of checkpoint/dequantize.py in their order: the same bits.
inline void values_of(const Format& format, const Block& block, float* out) {
    const float d = float_of_half(block.d), m = float_of_half(block.m);
    if (format.scales == 0) {
        for (int i = 0; i < format.values; i++) {
            const int q = format.low == 8 ? static_cast<int8_t>(block.q[i]) : block.q[i] - format.zero;
            const float x = static_cast<float>(q) * d;
            out[i] = format.minimum ? x + m : x;
        }
        return;
    }
    const int width = format.values / format.scales;
    for (int s = 0; s < format.scales; s++) {
        const float scale = d * static_cast<float>(block.scale[s]);
        const float minimum = m * static_cast<float>(block.minimum[s]);
        for (int i = s * width; i < (s + 1) * width; i++) {
            const float x = static_cast<float>(block.q[i] - format.zero) * scale;
            out[i] = format.minimum ? x - minimum : x;
        }
    }
}

}  // namespace
}  // namespace hb
