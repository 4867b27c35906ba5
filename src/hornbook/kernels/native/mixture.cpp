// How a step runs a mixture of experts: each token's choice, then the tokens of each expert together, then each token's sum.
//
//   by tokens   scores -> the best k, their shares                   a token's pairs t * k ..
//   mix         pairs by expert: (e0: t1 t4) (e3: t0) (e7: t1 t4)    so that an expert's weights are read once
//               gate and up of all of them, gated, down              tiles of all experts are handed out together
//   by tokens   out = share * y, the best expert first               the same order whatever else is in the batch
//
// A row of a product is the same bits in whatever company, so it makes no difference who shares an expert with a token.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "pool.h"
#include "step.h"
#include "weight.h"

namespace hb {

int64_t Mixing::lay(const hb_model& model, int64_t tokens, uint8_t* at) {
    if (!model.mixes) return 0;
    constexpr int64_t block = sizeof(ActivationBlock);
    int64_t pairs = 0, wide = 0, wide_blocks = 0, deep = 0, deep_blocks = 0, out = 0;  // of a token, the most of any mixture
    for (const hb_op& op : model.ops) {
        if (op.kind != HB_MIX) continue;
        const int64_t top = op.i[0], cols = op.weight[0]->cols, inner = op.weight[0]->rows;
        bool bytes[3];
        for (int p = 0; p < 3; ++p) bytes[p] = wants_blocks(op.weight[p]->type);
        pairs = std::max(pairs, top);
        if (!bytes[0] || !bytes[1]) wide = std::max(wide, top * cols);
        if (bytes[0] || bytes[1]) wide_blocks = std::max(wide_blocks, top * (cols / 32));
        deep = std::max(deep, top * 2 * inner);
        if (bytes[2]) deep_blocks = std::max(deep_blocks, top * (inner / 32));
        out = std::max(out, top * op.weight[2]->rows);
    }
    int64_t taken = 0;
    const auto take = [&](auto*& array, int64_t bytes) {
        if (at && bytes) array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(at + taken);
        taken += aligned(bytes);
    };
    take(chosen, tokens * pairs * 4), take(where, tokens * pairs * 4), take(share, tokens * pairs * 4);
    take(x, tokens * wide * 4), take(x_blocks, tokens * wide_blocks * block);
    take(inner, tokens * deep * 4), take(inner_blocks, tokens * deep_blocks * block);
    take(y, tokens * out * 4);
    return taken;
}

// Of equal scores the lower expert's is the better one; one that is no number is the worst, and makes shares nan.
void Step::route(const hb_op& op, int64_t t) const {
    const int32_t count = model_.widths[op.b], top = op.i[0];
    const float* scores = row(op.b, t);
    int32_t* chosen = mixing_.chosen + t * top;
    float* share = mixing_.share + t * top;
    thread_local std::vector<int32_t> experts;
    experts.resize(count);
    std::iota(experts.begin(), experts.end(), 0);
    const auto rank = [scores](int32_t e) { return std::isnan(scores[e]) ? -INFINITY : scores[e]; };
    std::partial_sort(experts.begin(), experts.begin() + top, experts.end(), [&](int32_t a, int32_t b) {
        const float first = rank(a), second = rank(b);
        return first > second || (first == second && a < b);
    });
    std::copy_n(experts.begin(), top, chosen);
    const float most = scores[chosen[0]];
    for (int32_t k = 0; k < top; ++k) share[k] = scores[chosen[k]];
    float sum = 0;
    if (!op.i[1]) sum = kernels_.exps(scores, most, count, thread_space(count));
    const float of_chosen = kernels_.exps(share, most, top, share);
    if (op.i[1]) sum = of_chosen;
    kernels_.cap(share, 1.0f / sum, 0, top, share);
}

void Step::group(const hb_op& op) {
    const int64_t pairs = int64_t{op.i[0]} * batch_.tokens;
    std::vector<int32_t> next(static_cast<size_t>(model_.widths[op.b]) + 1, 0);  // of each expert, its next row
    for (int64_t p = 0; p < pairs; ++p) ++next[mixing_.chosen[p] + 1];
    chosen_.clear();
    for (size_t e = 0; e + 1 < next.size(); ++e) {
        if (next[e + 1]) chosen_.push_back({static_cast<int32_t>(e), next[e], next[e + 1]});
        next[e + 1] += next[e];
    }
    for (int64_t p = 0; p < pairs; ++p) mixing_.where[p] = next[mixing_.chosen[p]]++;
}

void Step::mix(const hb_op& op) {
    group(op);
    const hb_weight &gate = *op.weight[0], &up = *op.weight[1], &down = *op.weight[2];
    const int64_t top = op.i[0], pairs = top * batch_.tokens, inner_width = gate.rows;
    const Activations from = activations(op);
    const bool gate_bytes = wants_blocks(gate.type), up_bytes = wants_blocks(up.type);
    const bool bytes = gate_bytes || up_bytes, floats = !gate_bytes || !up_bytes;
    const Activations x{mixing_.x, from.cols, from.cols, bytes ? mixing_.x_blocks : nullptr};
    share_out(pairs, from.cols, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
            const int64_t t = p / top, to = mixing_.where[p], blocks = from.cols / 32;
            if (floats) std::copy_n(from.x + t * from.stride, from.cols, mixing_.x + to * from.cols);
            if (bytes) std::copy_n(from.blocks + t * blocks, blocks, x.blocks + to * blocks);
        }
    });
    expert_products(op.weight, 2, x, mixing_.inner, 2 * inner_width);

    ActivationBlock* rounded = wants_blocks(down.type) ? mixing_.inner_blocks : nullptr;
    const Activations inner{mixing_.inner, inner_width, 2 * inner_width, rounded};
    share_out(pairs, 4 * inner_width, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
            float* gated = mixing_.inner + p * inner.stride;
            kernels_.gate(gated, gated + inner_width, op.i[2], inner_width, gated);
        }
        if (rounded) kernels_.quantize(inner, begin, end);
    });
    expert_products(op.weight + 2, 1, inner, mixing_.y, down.rows);
}

void Step::expert_products(const hb_weight* const* stacks, int parts, const Activations& x, float* y, int64_t stride) const {
    int64_t tiles = 0, bytes = 0;  // of one expert
    for (int p = 0; p < parts; ++p) tiles += stacks[p]->tiles, bytes += stacks[p]->tiles * stacks[p]->tile_bytes;
    const int64_t items = tiles * static_cast<int64_t>(chosen_.size());
    const auto body = [&](int64_t begin, int64_t end) {
        while (begin < end) {  // along the tiles of one expert, then of the next
            const Chosen& own = chosen_[begin / tiles];
            const int64_t tile = begin % tiles, stop = std::min(tiles, tile + end - begin);
            hb_weight weights[2];
            const hb_weight* each[2] = {&weights[0], &weights[1]};
            const float* biases[2] = {nullptr, nullptr};
            for (int p = 0; p < parts; ++p) weights[p] = expert_of(*stacks[p], own.expert);
            Activations some = x;
            if (some.x) some.x += own.first * x.stride;
            if (some.blocks) some.blocks += own.first * (x.cols / 32);
            product(each, biases, parts, tile, stop, some, own.count, y + own.first * stride, stride);
            begin += stop - tile;
        }
    };
    const Chosen& last = chosen_.back();
    if (bytes * (last.first + last.count) < small_product) return body(0, items);
    // In more pieces than a Linear's: experts have different numbers of tokens.
    parallel_for(items, std::max<int64_t>(1, items / (12 * threads())), body);
}

void Step::combine(const hb_op& op, int64_t t) const {
    const int64_t top = op.i[0], width = model_.widths[op.out];
    float* out = row(op.out, t);
    for (int64_t k = 0; k < top; ++k) {
        const float* y = mixing_.y + mixing_.where[t * top + k] * width;
        const float share = mixing_.share[t * top + k];
        if (k == 0) kernels_.cap(y, share, 0, width, out);
        else kernels_.add_scaled(y, share, width, out);
    }
}

}  // namespace hb
