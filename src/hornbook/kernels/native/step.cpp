// hb_step: the batch is checked, memory is laid out, then stage follows stage.
#include "step.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "pool.h"
#include "weight.h"

namespace hb {
namespace {

long long number(int64_t n) { return static_cast<long long>(n); }

}  // namespace

float* thread_space(int64_t floats) {
    thread_local std::vector<float> space;
    if (static_cast<int64_t>(space.size()) < floats) space.resize(static_cast<size_t>(floats));
    return space.data();
}

// ------------------------------------------------------------------------------------------------------- the batch
bool Step::check() {
    const hb_batch& b = batch_;
    if (b.tokens < 1 || b.sequences < 1 || b.rows < 0)
        return !fail("a batch of %d tokens, %d sequences and %d rows", b.tokens, b.sequences, b.rows);
    if (!b.ids || !b.positions || !b.sequence || !b.lengths || !out_) return !fail("a batch without its arrays");
    for (int32_t t = 0; t < b.tokens; ++t) {
        if (b.ids[t] < 0 || b.ids[t] >= model_.vocabulary)
            return !fail("token %d has id %d: ids are 0 .. %lld", t, b.ids[t], number(model_.vocabulary - 1));
        if (b.positions[t] < 0 || b.positions[t] >= model_.context)
            return !fail("token %d has position %d: the model has 0 .. %lld", t, b.positions[t], number(model_.context - 1));
    }
    if (model_.selects) {
        if (!b.select) return !fail("a batch without its selection");
        for (int32_t r = 0; r < b.rows; ++r)
            if (b.select[r] < 0 || b.select[r] >= b.tokens)
                return !fail("row %d is of token %d: the batch has 0 .. %d", r, b.select[r], b.tokens - 1);
    }
    for (int32_t i = 0; i < b.adapter_count; ++i) {
        const hb_adapter& one = b.adapters[i];
        if (one.rank < 1 || one.rank > 1 << 16 || !one.a || !one.b) return !fail("adapter %d has a rank of %d", one.adapter, one.rank);
        most_rank_ = std::max(most_rank_, one.rank);
    }
    return check_sequences();
}

bool Step::check_sequences() {
    const hb_batch& b = batch_;
    segment_of_.resize(b.tokens);
    for (int32_t t = 0; t < b.tokens; ++t) {
        const int32_t s = b.sequence[t];
        if (s < 0 || s >= b.sequences) return !fail("token %d is of sequence %d: the batch has 0 .. %d", t, s, b.sequences - 1);
        if (segments_.empty() || segments_.back().sequence != s) {
            if (!segments_.empty() && segments_.back().sequence > s)
                return !fail("token %d is of sequence %d, after sequence %d: they stand in order", t, s, segments_.back().sequence);
            segments_.push_back({s, t, 0});
        } else if (b.positions[t] != b.positions[t - 1] + 1) {
            return !fail("token %d has position %d after %d: they go up by one", t, b.positions[t], b.positions[t - 1]);
        }
        ++segments_.back().count;
        segment_of_[t] = static_cast<int32_t>(segments_.size()) - 1;
    }
    for (const Segment& segment : segments_) {
        const int32_t length = b.lengths[segment.sequence], last = b.positions[segment.first + segment.count - 1];
        if (model_.causal && length != last + 1)
            return !fail("sequence %d has %d tokens, but its last position is %d", segment.sequence, length, last);
        if (model_.looks_ahead && length != segment.count)
            return !fail("sequence %d has %d tokens, of which %d are in the batch: attention that looks ahead wants all of them",
                         segment.sequence, length, segment.count);
        if (!model_.causal) continue;
        if (!cache_ || !b.pages) return !fail("causal attention wants a cache and pages");
        if (static_cast<int64_t>(b.max_pages) * HB_PAGE < length)
            return !fail("sequence %d has %d tokens: %d pages of %d do not hold them", segment.sequence, length, b.max_pages, HB_PAGE);
        const int32_t* pages = b.pages + static_cast<int64_t>(segment.sequence) * b.max_pages;
        for (int32_t p = 0; p * HB_PAGE < length; ++p)
            if (pages[p] < 0 || pages[p] >= cache_->pages)
                return !fail("page %d of sequence %d is %d: the cache has 0 .. %d", p, segment.sequence, pages[p], cache_->pages - 1);
    }
    if (!model_.causal) return true;
    for (const hb_op& op : model_.ops)
        if (op.kind == HB_ATTEND && op.i[5] &&
            (op.i[3] >= cache_->layers || op.i[1] != cache_->kv_heads || op.i[2] != cache_->shape.width))
            return !fail("the model wants layer %d, %d key heads of width %d; the cache has %d layers, %d and %d", op.i[3], op.i[1],
                         op.i[2], cache_->layers, cache_->kv_heads, cache_->shape.width);
    return true;
}

// ------------------------------------------------------------------------------------------------------ the memory
namespace {

bool is_in_place(const hb_op& op) { return op.kind == HB_HEAD_NORM || op.kind == HB_ROTARY; }

int32_t answer(const hb_model& model) { return is_in_place(model.ops.back()) ? model.ops.back().a : model.ops.back().out; }

int64_t register_rows(const hb_model& model, size_t reg, int64_t tokens, int64_t rows) {
    return std::max(model.before[reg] ? tokens : 0, model.after[reg] ? rows : 0);
}

// Whether the answer's register never holds anything larger than the answer, so that it can be the caller's memory.
bool answers_directly(const hb_model& model) { return !(model.selects && model.before[answer(model)]); }

int64_t look_ahead_bytes(const hb_model& model) {  // of a page, for the largest attention that looks ahead
    int64_t most = 0;
    for (const hb_op& op : model.ops)
        if (op.kind == HB_ATTEND && !op.i[5]) most = std::max(most, op.i[1] * BlockShape{HB_CACHE_F32, op.i[2]}.bytes());
    return most;
}

bool attends(const hb_model& model) { return model.causal || model.looks_ahead; }

}  // namespace

int64_t Step::bytes(const hb_model& model, int64_t tokens, int64_t rows, int64_t pages) {
    int64_t total = 0;
    for (size_t r = 0; r < model.widths.size(); ++r) {
        const int64_t n = register_rows(model, r, tokens, rows), width = model.widths[r];
        if (static_cast<int32_t>(r) != answer(model) || !answers_directly(model)) total += aligned(n * width * 4);
        if (model.quantized[r]) total += aligned(n * (width / 32) * static_cast<int64_t>(sizeof(ActivationBlock)));
    }
    return total + aligned(look_ahead_bytes(model) * pages) + (attends(model) ? part_bytes : 0) +
           Mixing().lay(model, tokens, nullptr);
}

bool Step::lay_out() {
    int64_t pages = 0;
    if (model_.looks_ahead)
        for (const Segment& segment : segments_) {
            first_page_.push_back(static_cast<int32_t>(pages));
            pages += (segment.count + HB_PAGE - 1) / HB_PAGE;
        }
    for (int64_t p = 0; p < pages; ++p) page_numbers_.push_back(static_cast<int32_t>(p));
    const int64_t bytes = Step::bytes(model_, batch_.tokens, batch_.rows, pages);
    uint8_t* at = model_.scratch.ensure(bytes);
    if (!at) return !fail("no memory for a step of %d tokens: %lld bytes", batch_.tokens, number(bytes));
    const auto take = [&at](int64_t size) {
        uint8_t* here = at;
        at += aligned(size);
        return here;
    };
    for (size_t r = 0; r < model_.widths.size(); ++r) {
        const int64_t n = register_rows(model_, r, batch_.tokens, batch_.rows), width = model_.widths[r];
        const bool direct = static_cast<int32_t>(r) == answer(model_) && answers_directly(model_);
        registers_.push_back(direct ? out_ : reinterpret_cast<float*>(take(n * width * 4)));
        blocks_.push_back(!model_.quantized[r] ? nullptr
                                               : reinterpret_cast<ActivationBlock*>(take(
                                                     n * (width / 32) * static_cast<int64_t>(sizeof(ActivationBlock)))));
    }
    pages_ = take(look_ahead_bytes(model_) * pages);
    if (attends(model_)) parts_ = reinterpret_cast<float*>(take(part_bytes));
    mixing_.lay(model_, batch_.tokens, at);
    return true;
}

// ------------------------------------------------------------------------------------------------------ the stages
int Step::run() {
    if (!check() || !lay_out()) return 1;
    for (const Stage& stage : model_.stages) {
        if (batch_.cancel && *batch_.cancel) return 2;
        if (stage.kind == Stage::by_tokens) by_tokens(stage);
        else if (stage.kind == Stage::linear) linear(stage);
        else if (stage.kind == Stage::attend) attend(model_.ops[stage.op]);
        else mix(model_.ops[stage.op]);
    }
    if (!answers_directly(model_)) {
        const int32_t reg = answer(model_);
        std::memcpy(out_, registers_[reg], sizeof(float) * static_cast<size_t>(rows(model_.selects) * model_.widths[reg]));
    }
    return 0;
}

void Step::by_tokens(const Stage& stage) {
    share_out(rows(stage.selected), stage.cost, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t)
            for (const Piece& one : stage.pieces) piece(one, t, stage.selected);
    });
}

Activations Step::activations(const hb_op& op) const {
    return {registers_[op.a], model_.widths[op.a], model_.widths[op.a], blocks_[op.a]};
}

void Step::piece(const Piece& piece, int64_t t, bool selected) const {
    const hb_op& its = model_.ops[piece.op];
    switch (piece.task) {
        case Task::op: return op(its, t);
        case Task::quantize: return kernels_.quantize(activations(its), t, t + 1);
        case Task::store: return store(its, t);
        case Task::merge: return merge(its, t);
        case Task::adapt: return adapt(its, t, selected);
        case Task::route: return route(its, t);
        case Task::combine: return combine(its, t);
    }
}

void Step::op(const hb_op& op, int64_t t) const {
    const int64_t width = model_.widths[is_in_place(op) ? op.a : op.out];
    const float* a = op.kind == HB_EMBED ? nullptr : row(op.a, op.kind == HB_SELECT ? batch_.select[t] : t);
    float* out = is_in_place(op) ? row(op.a, t) + op.i[0] : row(op.out, t);
    switch (op.kind) {
        case HB_EMBED:
            kernels_.unpack_row(*op.weight[0], batch_.ids[t], out);
            if (op.f[0] != 1.0f) kernels_.cap(out, op.f[0], 0, width, out);
            if (op.w[0]) kernels_.add(out, op.w[0] + (batch_.positions[t] + op.i[0]) * width, width, out);
            return;
        case HB_NORM: return kernels_.norm(a, op.w[0], op.w[1], op.f[0], op.i[0] != 0, width, out);
        case HB_ADD: return kernels_.add(a, row(op.b, t), width, out);
        case HB_GATE: return kernels_.gate(a, a + width, op.i[0], width, out);
        case HB_ACT: return kernels_.act(a, op.i[0], width, out);
        case HB_HEAD_NORM:
            for (int32_t g = 0; g < op.i[1]; ++g, out += op.i[2])
                kernels_.norm(out, op.w[0], nullptr, op.f[0], false, op.i[2], out);
            return;
        case HB_ROTARY: {  // attention, and so rotation, is before Select: t is the token
            const float* table = op.w[0] + static_cast<int64_t>(batch_.positions[t]) * op.i[3];
            for (int32_t h = 0; h < op.i[1]; ++h, out += op.i[2])
                kernels_.rotate(out, table, table + op.i[3] / 2, op.i[3], op.i[4] != 0);
            return;
        }
        case HB_SELECT: std::memcpy(out, a, sizeof(float) * static_cast<size_t>(width)); return;
        case HB_CAP: return kernels_.cap(a, op.f[0], op.f[1], width, out);
        case HB_WEIGH: {
            float e = -*row(op.b, t);
            kernels_.exps(&e, 0, 1, &e);
            return kernels_.cap(a, 1.0f / (1.0f + e), 0, width, out);
        }
    }
}

void Step::adapt(const hb_op& op, int64_t t, bool selected) const {
    if (!batch_.adapter) return;
    const int32_t token = selected ? batch_.select[t] : static_cast<int32_t>(t), wanted = batch_.adapter[token];
    if (wanted < 0) return;
    for (int32_t i = 0; i < batch_.adapter_count; ++i) {
        const hb_adapter& one = batch_.adapters[i];
        if (one.adapter == wanted && one.site == op.i[1])
            kernels_.adapt(row(op.a, t), model_.widths[op.a], one.a, one.b, one.rank, one.scale, model_.widths[op.out],
                           row(op.out, t), thread_space(most_rank_));
    }
}

void Step::product(const hb_weight* const* weights, const float* const* biases, int parts, int64_t tile, int64_t stop,
                   const Activations& x, int64_t tokens, float* y, int64_t stride) const {
    for (int p = 0; p < parts && tile < stop; ++p) {
        const hb_weight& weight = *weights[p];
        const int64_t end = std::min(stop, weight.tiles);
        if (tile < end) kernels_.tiles(weight, tile, end, x, tokens, biases[p], y, stride);
        tile = std::max<int64_t>(tile - weight.tiles, 0), stop -= weight.tiles;
        y += weight.rows;
    }
}

// Tiles of all parts are handed out together; where they are few and the tokens many, the tokens are divided too.
void Step::linear(const Stage& stage) {
    const hb_op& op = model_.ops[stage.op];
    const Activations x = activations(op);
    const int64_t tokens = rows(stage.selected), stride = model_.widths[op.out];
    int64_t tiles = 0, bytes = 0;
    for (int p = 0; p < op.i[0]; ++p) {
        tiles += op.weight[p]->tiles;
        bytes += op.weight[p]->tiles * op.weight[p]->tile_bytes;
    }
    const int64_t shares = 6 * threads();
    const int64_t blocks = std::max<int64_t>(1, std::min(shares / tiles, tokens / 32)), block = (tokens + blocks - 1) / blocks;

    const auto some_tokens = [&](int64_t tile, int64_t stop, int64_t token, int64_t count) {
        Activations some = x;
        some.x += token * x.stride;
        if (some.blocks) some.blocks += token * (x.cols / 32);
        product(op.weight, op.w, op.i[0], tile, stop, some, count, row(op.out, token), stride);
    };
    const auto body = [&](int64_t begin, int64_t end) {
        while (begin < end) {  // along the tiles of one block of tokens, then of the next
            const int64_t token = begin / tiles * block, tile = begin % tiles;
            const int64_t stop = std::min(tiles, tile + end - begin);
            if (token < tokens) some_tokens(tile, stop, token, std::min(block, tokens - token));
            begin += stop - tile;
        }
    };
    const int64_t items = tiles * blocks;
    if (bytes * tokens < small_product) return body(0, items);
    parallel_for(items, std::max<int64_t>(1, items / shares), body);
}

}  // namespace hb

// ------------------------------------------------------------------------------------------------- the C interface
int64_t hb_model_bytes(const hb_model* model, int32_t tokens, int32_t rows) {
    const int64_t t = std::max(tokens, 1), r = std::max(rows, 0);
    // Attention that looks ahead wants a page for each 16 tokens and one more for each text, of which each asks for a row.
    return hb::Step::bytes(*model, t, r, model->looks_ahead ? t / HB_PAGE + std::clamp<int64_t>(r, 1, t) : 0);
}

int hb_step(hb_model* model, hb_cache* cache, const hb_batch* batch, float* out) {
    if (!model || !batch) return hb::fail("a step without a model or a batch");
    std::lock_guard<std::mutex> turn(model->one_step);
    try {
        return hb::Step(*model, cache, *batch, out).run();
    } catch (const std::bad_alloc&) {
        return hb::fail("no memory for a step of %d tokens", batch->tokens);
    }
}
