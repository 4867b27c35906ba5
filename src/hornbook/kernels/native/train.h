// What training asks of an instruction set, a row at a time; train.cpp divides the rows among the threads.
#pragma once
#include <cstdint>

namespace hb {

struct TrainKernels {
    // out = x r weight, r = 1 / rms(x), which is returned
    float (*norm)(const float* x, const float* weight, float epsilon, int64_t n, float* out);
    // dx = what grad [n] of the output says of x; weight_grad += what it says of the weight, or null
    void (*norm_back)(const float* x, const float* weight, float r, const float* grad, int64_t n, float* dx,
                      float* weight_grad);
    // of act(gate) * up
    void (*gate_back)(const float* gate, const float* up, const float* grad, int activation, int64_t n, float* dgate,
                      float* dup);
    void (*turn)(const float* in, const float* cos, const float* sin, float sign, int64_t turned, bool interleaved,
                 int64_t n, float* out);
    // -log softmax(logits)[label], smoothed, plus z times the square of the log of their sum. The logits become their
    // gradient where it is asked for.
    float (*cross_entropy)(float* logits, int64_t n, int64_t label, float smoothing, float z, bool gradient);
};

}  // namespace hb
