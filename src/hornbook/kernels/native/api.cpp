// What belongs to no kernel: the version of the interface, errors, the instruction set in use, a product by itself.
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <new>

#include "kernels.h"
#include "weight.h"

namespace {
thread_local char message[512] = "";
}

namespace hb {

int fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return 1;
}

}  // namespace hb

int hb_abi(void) { return HB_ABI; }

const char* hb_error(void) { return message; }

const char* hb_isa(void) { return hb::kernels().name; }

int hb_linear(const hb_weight* weight, const float* bias, const float* x, int64_t tokens, float* y) {
    if (!weight || !x || !y || tokens < 0) return hb::fail("hb_linear: a pointer is null, or %lld tokens", (long long)tokens);
    hb::Activations activations;
    activations.x = x;
    activations.cols = activations.stride = weight->cols;
    std::unique_ptr<hb::ActivationBlock[]> blocks;
    if (hb::wants_blocks(weight->type)) {
        const int64_t count = tokens * (weight->cols / 32);
        blocks.reset(new (std::nothrow) hb::ActivationBlock[static_cast<size_t>(count)]);
        if (!blocks) return hb::fail("no memory for %lld tokens of %lld values", (long long)tokens, (long long)weight->cols);
        activations.blocks = blocks.get();
        hb::quantize(activations, tokens);
    }
    hb::multiply(*weight, activations, tokens, bias, y, weight->rows);
    return 0;
}
