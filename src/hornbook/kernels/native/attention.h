// What attention works on: a page's block, and rows of queries that share a key head.
//
//   block = one page of one layer and key head, 16 tokens
//
//     keys      [D ][16]     a token a lane: scores of 16 keys grow together over d, without sums across lanes
//     values    [16][D'] D' = D rounded up to 16; what is beyond D is 0
//     scales    int8 only: float [16] of the keys, float [16] of the values
//
//   row = one query head of one token; the G heads that read one key head are neighbours: row = token * G + head
//
//   keys of a sequence   |0 ........ 255|256 ....... 511|512 ...        chunks of 256, counted from the first token
//   for each chunk       scores -> m = max, p = exp(score - m), l = sum p, o = sum p v         a Part, from nothing else
//   then, in their order (M, L, O) <- both scaled to the larger maximum, and added              (arXiv 2112.05682, section 2)
//
// So a row's result depends on its query and on the keys that it sees, and on nothing else: not on the rows beside it, not
// on how chunks are shared among threads.
#pragma once
#include <cstdint>

#include "hornbook.h"

namespace hb {

constexpr int chunk_pages = 16, chunk_keys = chunk_pages * HB_PAGE;
constexpr int score_stride = chunk_keys + 16;  // from row to row: a power of two would drive rows out of the cache
constexpr int most_rows = 96;  // of one call: enough to make a chunk's way from memory worth it

struct BlockShape {
    int type = HB_CACHE_F32;  // hb_cache_type
    int width = 0;            // D

    int padded() const { return (width + 15) / 16 * 16; }
    int64_t element() const { return type == HB_CACHE_F32 ? 4 : type == HB_CACHE_F16 ? 2 : 1; }
    int64_t values_at() const { return (width * HB_PAGE * element() + 63) / 64 * 64; }
    int64_t scales_at() const { return values_at() + padded() * HB_PAGE * element(); }
    int64_t bytes() const { return scales_at() + (type == HB_CACHE_I8 ? 2 * HB_PAGE * 4 : 0); }
};

struct AttentionRows {
    BlockShape block;
    const uint8_t* base = nullptr;   // of page 0's block of this layer and key head
    int64_t page_bytes = 0;
    const int32_t* pages = nullptr;  // of the sequence
    const float* q = nullptr;        // of the first token's first head in the group
    int64_t stride = 0;              // floats from a token's query to the next one's
    int heads = 1;                   // G
    int64_t position = 0;            // of the first token; the others follow by one
    int64_t length = 0;              // of the sequence: bounds what a query sees where it may look ahead
    int64_t window = 0;              // 0: everything
    bool causal = true;
    float scale = 1, softcap = 0;
    const float* slopes = nullptr;   // of the group's heads, or null

    int64_t at(int64_t row) const { return position + row / heads; }
    int64_t first_key(int64_t row) const { return window > 0 && at(row) >= window ? at(row) - window + 1 : 0; }
    int64_t last_key(int64_t row) const {  // one beyond
        if (causal) return at(row) + 1;
        return window > 0 && at(row) + window < length ? at(row) + window : length;
    }
};

// A Part is of one row and chunk: its maximum, its sum, 1 (0: the row sees nothing of the chunk), and from 16 on o [D'].
inline int64_t part_floats(const BlockShape& block) { return 16 + block.padded(); }
// What a thread needs beside it while it attends.
inline int64_t attention_floats(const BlockShape& block) {
    return 16 + most_rows * (3 * static_cast<int64_t>(block.padded()) + score_stride) + (2 * block.padded() + chunk_keys) * HB_PAGE;
}

struct AttentionKernels {
    // Keys and values [D] of one token into its block.
    void (*store)(const BlockShape& block, uint8_t* at, int slot, const float* key, const float* value);
    // Rows first .. last-1 (at most most_rows) over all they see: the row's head to out + token * out_stride + head * D.
    void (*attend)(const AttentionRows& rows, int64_t first, int64_t last, float* out, int64_t out_stride, float* space);
    // The same rows over one chunk: a Part each, at parts + (row - first) * part_stride.
    void (*part)(const AttentionRows& rows, int64_t first, int64_t last, int64_t chunk, float* parts, int64_t part_stride,
                 float* space);
    // A row's Parts, one after another, to out [D].
    void (*merge)(const BlockShape& block, const float* parts, int64_t count, float* out, float* space);
};

}  // namespace hb
