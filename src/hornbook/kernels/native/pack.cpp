// Weights: a file's rows of blocks, or of floats, into tiles and back. What is small, rare, or the same for all instruction
// sets; the loops over tiles are in linear.inc.
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

#include "pool.h"
#include "tile.h"
#include "weight.h"

namespace {

using hb::Block;
using hb::Format;

// The fields of one row's block in the file (ggml-common.h of ggml), in the order in which they lie there.
struct Fields {
    const uint8_t* at;
    const uint8_t* take(int bytes) {
        const uint8_t* field = at;
        at += bytes;
        return field;
    }
    void half(uint16_t& out) { std::memcpy(&out, take(2), 2); }
};

// Of every `group` bytes first the lowest `bits` bits of all, then the next, ...: `bytes` of them, or'ed into q at `shift`.
HB_INLINE void spread(const uint8_t* packed, int bytes, int group, int bits, int shift, uint8_t* q) {
    const int times = 8 / bits;
    const uint8_t mask = static_cast<uint8_t>((1 << bits) - 1);
    for (int first = 0; first < bytes; first += group)
        for (int n = 0; n < times; n++, q += group)
            for (int i = 0; i < group; i++)
                q[i] = static_cast<uint8_t>(q[i] | (packed[first + i] >> (n * bits) & mask) << shift);
}

// The 6-bit scales and minima that Q4_K and Q5_K keep in 12 bytes: see _scales_and_minima in checkpoint/dequantize.py.
void scales_and_minima(const uint8_t* packed, Block& block) {
    for (int i = 0; i < 4; i++) {
        const int a = packed[i], b = packed[4 + i], c = packed[8 + i];
        block.scale[i] = static_cast<int8_t>(a & 63);
        block.scale[4 + i] = static_cast<int8_t>((c & 15) | a >> 6 << 4);
        block.minimum[i] = static_cast<uint8_t>(b & 63);
        block.minimum[4 + i] = static_cast<uint8_t>(c >> 4 | b >> 6 << 4);
    }
}

HB_INLINE void read_block(int type, const uint8_t* source, Block& block) {
    Fields fields{source};
    std::memset(block.q, 0, static_cast<size_t>(hb::format_of(type).values));
    switch (type) {
        case HB_Q4_1:
        case HB_Q4_0:
            fields.half(block.d);
            if (type == HB_Q4_1) fields.half(block.m);
            spread(fields.take(16), 16, 16, 4, 0, block.q);
            return;
        case HB_Q5_1:
        case HB_Q5_0: {
            fields.half(block.d);
            if (type == HB_Q5_1) fields.half(block.m);
            const uint32_t fifth = hb::word_at(fields.take(4));
            for (int i = 0; i < 32; i++) block.q[i] = static_cast<uint8_t>((fifth >> i & 1) << 4);
            spread(fields.take(16), 16, 16, 4, 0, block.q);
            return;
        }
        case HB_Q8_0:
            fields.half(block.d);
            std::memcpy(block.q, fields.take(32), 32);
            return;
        case HB_Q2_K: {
            const uint8_t* packed = fields.take(16);
            for (int s = 0; s < 16; s++) {
                block.scale[s] = static_cast<int8_t>(packed[s] & 15);
                block.minimum[s] = packed[s] >> 4;
            }
            spread(fields.take(64), 64, 32, 2, 0, block.q);
            fields.half(block.d);
            fields.half(block.m);
            return;
        }
        case HB_Q3_K: {
            spread(fields.take(32), 32, 32, 1, 2, block.q);
            spread(fields.take(64), 64, 32, 2, 0, block.q);
            uint8_t scales[16] = {};  // the low four bits in eight bytes, the upper two in four
            spread(fields.take(8), 8, 8, 4, 0, scales);
            spread(fields.take(4), 4, 4, 2, 4, scales);
            for (int s = 0; s < 16; s++) block.scale[s] = static_cast<int8_t>(scales[s] - 32);
            fields.half(block.d);
            return;
        }
        case HB_Q4_K:
        case HB_Q5_K:
            fields.half(block.d);
            fields.half(block.m);
            scales_and_minima(fields.take(12), block);
            if (type == HB_Q5_K) spread(fields.take(32), 32, 32, 1, 4, block.q);
            spread(fields.take(128), 128, 32, 4, 0, block.q);
            return;
        case HB_Q6_K:
            spread(fields.take(128), 128, 64, 4, 0, block.q);
            spread(fields.take(64), 64, 32, 2, 4, block.q);
            std::memcpy(block.scale, fields.take(16), 16);
            fields.half(block.d);
            return;
    }
}

// One row of a tile, whose memory is zeros before. A function for each type, so that its shifts and lengths are constants.
template <int type>
void pack_row(const uint8_t* in, int64_t cols, int row, uint8_t* out) {
    constexpr int bytes = hb::float_bytes(type);
    if constexpr (bytes != 0) {
        out += bytes * row;
        for (int64_t k = 0; k < cols; k++, in += bytes, out += bytes * HB_TILE) std::memcpy(out, in, bytes);
    } else {
        constexpr Format format = hb::format_of(type);
        Block block;
        for (int64_t k = 0; k < cols; k += format.values, in += format.file_bytes, out += format.tile_bytes()) {
            read_block(type, in, block);
            hb::put(format, block, row, out);
        }
    }
}

using PackRow = void (*)(const uint8_t* in, int64_t cols, int row, uint8_t* out);

PackRow row_packer(int type) {
    switch (type) {
#define HB_CASE(type) \
    case type: return pack_row<type>;
        HB_CASE(HB_F32) HB_CASE(HB_F16) HB_CASE(HB_BF16) HB_CASE(HB_Q4_0) HB_CASE(HB_Q4_1) HB_CASE(HB_Q5_0)
        HB_CASE(HB_Q5_1) HB_CASE(HB_Q8_0) HB_CASE(HB_Q2_K) HB_CASE(HB_Q3_K) HB_CASE(HB_Q4_K) HB_CASE(HB_Q5_K)
        HB_CASE(HB_Q6_K)
#undef HB_CASE
    }
    return nullptr;
}

// `order` says where each row comes from; those beyond the last stay zeros.
void pack_tile(const hb_weight& weight, int64_t tile, const uint8_t* source, const int32_t* order) {
    uint8_t* out = weight.data + tile * weight.tile_bytes;
    std::memset(out, 0, static_cast<size_t>(weight.tile_bytes));
    const int64_t first = tile * HB_TILE;
    const int count = static_cast<int>(weight.rows - first < HB_TILE ? weight.rows - first : HB_TILE);
    const Format format = hb::format_of(weight.type);
    const int bytes = hb::float_bytes(weight.type);
    const int64_t row_bytes = bytes ? weight.cols * bytes : weight.cols / format.values * format.file_bytes;
    const PackRow pack = row_packer(weight.type);
    for (int row = 0; row < count; row++)
        pack(source + (order ? order[first + row] : first + row) * row_bytes, weight.cols, row, out);
}

}  // namespace

int64_t hb::block_values(int type) { return float_bytes(type) ? 1 : format_of(type).values; }

int hb_can_pack(int type) { return hb::block_values(type) > 0; }

namespace {

hb_weight* pack(int type, int64_t experts, int64_t rows, int64_t cols, const void* source, const int32_t* order) {
    const int64_t values = hb::block_values(type), most = std::numeric_limits<int64_t>::max();
    const auto refuse = [](auto... message) {
        hb::fail(message...);
        return nullptr;
    };
    if (values == 0) return refuse("tensor type %d has no kernels", type);
    if (!source) return refuse("there is nothing to pack");
    if (rows <= 0 || cols <= 0 || cols > 1 << 30 || rows > most / (8 * cols) - HB_TILE)
        return refuse("a weight of %lld rows and %lld columns cannot be", (long long)rows, (long long)cols);
    if (experts <= 0 || experts > most / (8 * cols) / (rows + HB_TILE))
        return refuse("a weight of %lld experts of %lld rows cannot be", (long long)experts, (long long)rows);
    if (cols % values)
        return refuse("rows of %lld are no multiple of the %lld values of a block", (long long)cols, (long long)values);
    for (int64_t row = 0; order && row < rows; row++)
        if (order[row] < 0) return refuse("packed row %lld comes from row %d", (long long)row, order[row]);

    hb_weight* weight = new (std::nothrow) hb_weight;
    if (!weight) return refuse("there is no memory for a weight");
    weight->type = type, weight->experts = experts, weight->rows = rows, weight->cols = cols;
    weight->tiles = (rows + HB_TILE - 1) / HB_TILE;
    const int bytes = hb::float_bytes(type);
    weight->tile_bytes = bytes ? cols * HB_TILE * bytes : cols / values * hb::format_of(type).tile_bytes();
    weight->memory = hb::take(experts * weight->tiles * weight->tile_bytes);
    weight->data = weight->memory.data;
    if (!weight->data) {
        hb_free(weight);
        return refuse("there is no memory for a weight of %lld rows and %lld columns", (long long)rows, (long long)cols);
    }
    const int64_t source_bytes = rows * (bytes ? cols * bytes : cols / values * hb::format_of(type).file_bytes);
    hb::parallel_for(experts * weight->tiles, 1, [&](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; tile++) {
            const int64_t expert = tile / weight->tiles;
            const uint8_t* own = static_cast<const uint8_t*>(source) + expert * source_bytes;
            pack_tile(hb::expert_of(*weight, expert), tile % weight->tiles, own, order);
        }
    });
    return weight;
}

}  // namespace

hb_weight* hb_pack(int type, int64_t rows, int64_t cols, const void* source, const int32_t* order) {
    return pack(type, 1, rows, cols, source, order);
}

hb_weight* hb_pack_experts(int type, int64_t experts, int64_t rows, int64_t cols, const void* source) {
    return pack(type, experts, rows, cols, source, nullptr);
}

void hb_free(hb_weight* weight) {
    if (!weight) return;
    hb::give_back(weight->memory);
    delete weight;
}

int64_t hb_weight_bytes(const hb_weight* weight) {
    return weight->experts * weight->tiles * weight->tile_bytes + static_cast<int64_t>(sizeof *weight);
}

int hb_unpack(const hb_weight* weight, int64_t first, int64_t rows, float* out) {
    const int64_t there = weight->experts * weight->rows;
    if (first < 0 || rows < 0 || first > there - rows)
        return hb::fail("rows %lld to %lld are not in a weight of %lld", (long long)first, (long long)(first + rows),
                        (long long)there);
    hb::parallel_for(rows, HB_TILE, [&](int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end; at++) {
            const int64_t row = first + at;
            const hb_weight own = hb::expert_of(*weight, row / weight->rows);
            hb::kernels().unpack_row(own, row % weight->rows, out + at * weight->cols);
        }
    });
    return 0;
}

void hb::quantize(const Activations& x, int64_t tokens) {
    parallel_for(tokens, 8, [&](int64_t begin, int64_t end) { kernels().quantize(x, begin, end); });
}

void hb::multiply(const hb_weight& weight, const Activations& x, int64_t tokens, const float* bias, float* y,
                  int64_t stride) {
    // Pieces small enough to share evenly, large enough that handing them out costs nothing.
    const int64_t pieces = 8 * threads(), even = (weight.tiles + pieces - 1) / pieces;
    const int64_t least = 1 + (1 << 18) / (weight.cols * HB_TILE * tokens + 1);
    parallel_for(weight.tiles, even > least ? even : least, [&](int64_t begin, int64_t end) {
        kernels().tiles(weight, begin, end, x, tokens, bias, y, stride);
    });
}

int hb_linear(const hb_weight* weight, const float* bias, const float* x, int64_t tokens, float* y) {
    if (weight->experts != 1) return hb::fail("a stack of %lld experts is no one matrix", (long long)weight->experts);
    if (tokens < 0) return hb::fail("%lld tokens", (long long)tokens);
    if (tokens == 0) return 0;
    hb::Activations activations;
    activations.x = x;
    activations.cols = activations.stride = weight->cols;
    if (hb::wants_blocks(weight->type)) {
        activations.blocks = new (std::nothrow) hb::ActivationBlock[static_cast<size_t>(tokens * (weight->cols / 32))];
        if (!activations.blocks) return hb::fail("there is no memory for the activations of %lld tokens", (long long)tokens);
        hb::quantize(activations, tokens);
    }
    hb::multiply(*weight, activations, tokens, bias, y, weight->rows);
    delete[] activations.blocks;
    return 0;
}
