// What choosing a token needs of an instruction set: passes over a row of n logits.
#pragma once
#include <cstdint>

namespace hb {

constexpr int64_t sum_block = 256;  // of weights, whose sum is kept: a draw finds its block first
constexpr int64_t top_block = 256;  // of logits, whose largest is kept: top-k reads few of them again

struct SampleKernels {
    // The lowest index of the largest; -1 where one is not a number, or the largest is not finite.
    // tops [n / top_block, rounded up]: the largest of each block.
    int64_t (*best)(const float* x, int64_t n, float* tops);
    // Sum of exp(x - maximum).
    double (*sum_exp)(const float* x, int64_t n, float maximum);
    // weight = exp((x - maximum) / temperature); sums [n / sum_block, rounded up] of blocks.
    void (*weigh)(const float* x, int64_t n, float maximum, float temperature, float* weight, double* sums);
    // Indices of all x >= least, ascending; how many. ids has room for n and 16 more.
    int64_t (*collect)(const float* x, int64_t n, float least, int32_t* ids);
};

}  // namespace hb
