// What training asks of an instruction set, a row at a time; train.cpp divides the rows among the threads.
#pragma once
#include <cstdint>

#include "hornbook.h"

namespace hb {

// One key head of one text, with the query heads that read it. Strides are from token to token, heads from head to head; o,
// dq, dk and dv are dense [tokens, heads, n].
struct AttendTask {
    const float *q, *k, *v, *grad;
    int64_t q_stride, q_head, k_stride, v_stride, grad_stride, grad_head;
    float *o, *lse, *dq, *dk, *dv;  // o: written forward, read backward; lse [group, tokens]
    int64_t o_stride, dk_stride;
    int64_t tokens, n, group;
    float scale;
};

struct TrainKernels {
    // out = x r weight, r = 1 / rms(x), which is returned
    float (*norm)(const float* x, const float* weight, float epsilon, int64_t n, float* out);
    // dx = what grad [n] of the output says of x; weight_grad += what it says of the weight, or null
    void (*norm_back)(const float* x, const float* weight, float r, const float* grad, int64_t n, float* dx,
                      float* weight_grad);
    // LayerNorm; kept [2]: its mean and 1 / its deviation. bias, weight_grad, bias_grad and beside, which is added
    // to dx, may be null.
    void (*centre)(const float* x, const float* weight, const float* bias, float epsilon, int64_t n, float* out, float* kept);
    void (*centre_back)(const float* x, const float* weight, const float* kept, const float* grad, int64_t n,
                        const float* beside, float* dx, float* weight_grad, float* bias_grad);
    // of act(gate) * up
    void (*gate_back)(const float* gate, const float* up, const float* grad, int activation, int64_t n, float* dgate,
                      float* dup);
    void (*turn)(const float* in, const float* cos, const float* sin, float sign, int64_t turned, bool interleaved,
                 int64_t n, float* out);
    // -log softmax(logits)[label], smoothed, plus z times the square of the log of their sum. The logits become their
    // gradient where it is asked for.
    float (*cross_entropy)(float* logits, int64_t n, int64_t label, float smoothing, float z, bool gradient);
    bool (*attend_fits)(int64_t n);                                      // heads of this width
    int64_t (*attend_floats)(int64_t tokens, int64_t n, bool back);      // room that a task needs
    void (*attend_forward)(const AttendTask& task, float* room);
    void (*attend_backward)(const AttendTask& task, float* room);
    int64_t (*product_columns)();                                        // of one panel
    // rows first .. last-1 of one panel of a product
    void (*product_panel)(const hb_product& product, int64_t panel, int64_t first, int64_t last);
    int64_t (*mlp_panels)(const hb_mlp& mlp);                             // of both matrices
    void (*mlp_pack)(const hb_mlp& mlp, int64_t panel, float* packed);   // packed [2, n, inner]
    void (*mlp_rows)(const hb_mlp& mlp, const float* packed, int64_t first, int64_t last, float* room);
};

}  // namespace hb
