// What one instruction set must bring: a table of functions, of which dispatch.cpp picks one for the machine.
//
//   isa_avx2.cpp = #define HB_ISA avx2, simd_avx2.h, linear.inc, elementwise.inc, attention.inc, sample.inc, and the table
//
// simd_*.h give vectors of floats and the product of four bytes; the .inc files are written once over them, so that an
// instruction set is one header. Everything here works on one thread; who calls it divides the work.
#pragma once
#include <cstdint>

#include "hornbook.h"

namespace hb {

// 32 activations as integer types multiply them: x = scale * q to the nearest. One record keeps together what one block of a
// weight's products wants. A value that is not finite makes scale and total nan, so that it cannot go unseen.
struct ActivationBlock {
    int8_t q[32];       // -127 .. 127
    int16_t sum[2][2];  // [half, pair]: in each 16, of the values 4 g, 4 g + 1 and of the values 4 g + 2, 4 g + 3
    float scale;
    float total;      // scale * the sum of all 32
};

// The rows of x [tokens, cols] as a weight's products want them: float types read x itself, the others `blocks`.
struct Activations {
    const float* x = nullptr;
    int64_t cols = 0, stride = 0;       // of x, in floats
    ActivationBlock* blocks = nullptr;  // [tokens, cols / 32], filled by quantize; null for float types
};

struct Kernels {
    const char* name;
    // linear.inc
    void (*quantize)(const Activations& x, int64_t first, int64_t last);  // tokens first .. last-1: x -> blocks
    // y[t, 16*tile ..] for tiles first .. last-1 and all tokens; bias is of the whole weight, or null
    void (*tiles)(const hb_weight& weight, int64_t first, int64_t last, const Activations& x, int64_t tokens,
                  const float* bias, float* y, int64_t stride);
    void (*unpack_row)(const hb_weight& weight, int64_t row, float* out);
    // elementwise.inc: one row each
    void (*norm)(const float* x, const float* weight, const float* bias, float epsilon, bool layer, int64_t n, float* out);
    void (*add)(const float* a, const float* b, int64_t n, float* out);
    void (*gate)(const float* gate, const float* up, int activation, int64_t n, float* out);
    void (*act)(const float* x, int activation, int64_t n, float* out);
    void (*rotate)(float* head, const float* cos, const float* sin, int64_t turned, bool interleaved);
    void (*cap)(const float* x, float scale, float cap, int64_t n, float* out);
    float (*exps)(const float* x, float shift, int64_t n, float* out);        // out = exp(x - shift); returns its sum
    void (*add_scaled)(const float* x, float scale, int64_t n, float* y);     // y += scale * x
    // y += scale * (x A') B': A [rank, in], B [out, rank], inner [rank] is room for x A'
    void (*adapt)(const float* x, int64_t in, const float* a, const float* b, int64_t rank, float scale, int64_t out, float* y,
                  float* inner);
    // attention.inc, sample.inc, train.inc: see there
    const struct AttentionKernels* attention;
    const struct SampleKernels* sample;
    const struct TrainKernels* train;
};

const Kernels& kernels();               // the table in use
const Kernels* avx512vnni_kernels();    // null where this build or this machine has it not
const Kernels* avx2_kernels();
const Kernels* neon_kernels();
const Kernels* portable_kernels();

int fail(const char* format, ...);      // sets hb_error(); returns 1

}  // namespace hb
