// A weight as it lies in memory: what pack.cpp writes, linear.inc multiplies, and model.cpp asks about.
#pragma once
#include <cstdint>

#include "kernels.h"
#include "memory.h"

struct hb_weight {
    int type = 0;
    int64_t rows = 0, cols = 0;
    int64_t experts = 1;       // of a stack: so many matrices, of which rows, cols and tiles are each one's
    int64_t tiles = 0;         // of 16 rows; what the last one has beyond `rows` is zeros
    int64_t tile_bytes = 0;    // see tile.h
    uint8_t* data = nullptr;   // [experts, tiles, tile_bytes], at a multiple of 64, so that no vector lies across two cache lines
    hb::Taken memory;
};

namespace hb {

// Values in a block of a type's file format: 32, 256, or 1 for floats; 0 for what cannot be packed.
int64_t block_values(int type);
// Whether products with this type read Activations::blocks rather than Activations::x.
inline bool wants_blocks(int type) { return block_values(type) > 1; }

// One matrix of a stack, which stays the stack's own.
inline hb_weight expert_of(const hb_weight& stack, int64_t expert) {
    hb_weight one = stack;
    one.experts = 1, one.memory = {};
    one.data += expert * stack.tiles * stack.tile_bytes;
    return one;
}

// y[t, 0 .. rows-1] = x[t, :] W' + bias on all threads; x is quantised already where the type wants that.
void multiply(const hb_weight& weight, const Activations& x, int64_t tokens, const float* bias, float* y, int64_t stride);
// x -> x.blocks on all threads.
void quantize(const Activations& x, int64_t tokens);

}  // namespace hb
