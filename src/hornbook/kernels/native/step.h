// One step of a model: the batch as the stages need it, and the memory that they share.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "attention.h"
#include "cache.h"
#include "kernels.h"
#include "model.h"
#include "pool.h"

namespace hb {

// The tokens of one sequence in a batch.
struct Segment {
    int32_t sequence, first, count;
};

// How one attention is divided: blocks of rows, and for few of them also by chunks, whose parts are put together later.
struct Division {
    struct Unit {
        int32_t segment, head;
        int32_t first, last;  // rows
        int32_t chunk;        // or -1: all
    };
    std::vector<Unit> units;
    bool parted = false;
    int64_t grain = 1;
    std::vector<int64_t> first_chunk, chunks;  // of each segment, where parted
    int64_t most_chunks = 0;
};

// What the mixtures of a step work on, one after the other. A pair is a token and an expert that it chose: T tokens give T * k.
// In pairs' arrays those of token t are t * k ..; `where` says at which row of the arrays by expert each stands.
struct Mixing {
    int32_t *chosen = nullptr, *where = nullptr;                   // [T * k]
    float* share = nullptr;                                        // [T * k]
    float *x = nullptr, *inner = nullptr, *y = nullptr;            // by expert: [T * k, C], [T * k, 2 I], [T * k, C]
    ActivationBlock *x_blocks = nullptr, *inner_blocks = nullptr;  // the same for weights that read these

    // Where everything lies from `at` on, which may be null; returns the bytes that it takes.
    int64_t lay(const hb_model& model, int64_t tokens, uint8_t* at);
};

// The tokens of a step that chose an expert: rows first .. first + count - 1 of the arrays by expert.
struct Chosen {
    int32_t expert, first, count;
};

class Step {
public:
    Step(hb_model& model, hb_cache* cache, const hb_batch& batch, float* out)
        : model_(model), cache_(cache), batch_(batch), out_(out), kernels_(kernels()) {}

    int run();  // as hb_step

    // Bytes of scratch for so many tokens, rows of logits and pages of attention that looks ahead.
    static int64_t bytes(const hb_model& model, int64_t tokens, int64_t rows, int64_t pages);

private:
    bool check();               // step.cpp: everything that a caller may have got wrong
    bool check_sequences();
    bool lay_out();

    int64_t rows(bool selected) const { return selected ? batch_.rows : batch_.tokens; }
    float* row(int32_t reg, int64_t t) const { return registers_[reg] + t * model_.widths[reg]; }
    Activations activations(const hb_op& op) const;

    void by_tokens(const Stage& stage);
    void piece(const Piece& piece, int64_t t, bool selected) const;
    void op(const hb_op& op, int64_t t) const;
    void adapt(const hb_op& op, int64_t t, bool selected) const;
    void linear(const Stage& stage);
    // Tiles tile .. stop-1 of weights that stand side by side, for `tokens` rows of x and of y.
    void product(const hb_weight* const* weights, const float* const* biases, int parts, int64_t tile, int64_t stop,
                 const Activations& x, int64_t tokens, float* y, int64_t stride) const;

    // attend.cpp
    BlockShape shape(const hb_op& op) const;
    AttentionRows rows_of(const hb_op& op, const Segment& segment, int32_t head) const;
    void store(const hb_op& op, int64_t t) const;
    void divide(const hb_op& op);
    void attend(const hb_op& op);
    void merge(const hb_op& op, int64_t t) const;
    float* part(const hb_op& op, const Segment& segment, int32_t head, int64_t row) const;  // the first of the row's

    // mixture.cpp
    void route(const hb_op& op, int64_t t) const;
    void mix(const hb_op& op);
    void group(const hb_op& op);
    void expert_products(const hb_weight* const* stacks, int parts, const Activations& x, float* y, int64_t stride) const;
    void combine(const hb_op& op, int64_t t) const;

    hb_model& model_;
    hb_cache* cache_;
    const hb_batch& batch_;
    float* out_;
    const Kernels& kernels_;

    std::vector<Segment> segments_;
    std::vector<int32_t> segment_of_;   // [T]
    std::vector<float*> registers_;
    std::vector<ActivationBlock*> blocks_;
    // attention that looks ahead has pages for one layer at a time, and gives them back
    uint8_t* pages_ = nullptr;
    std::vector<int32_t> page_numbers_, first_page_;  // 0, 1, 2, ...; of each segment
    float* parts_ = nullptr;
    Division division_;
    Mixing mixing_;
    std::vector<Chosen> chosen_;
    int most_rank_ = 0;
};

// Room for the parts of attention that is divided by chunks: more than that is not divided.
constexpr int64_t part_bytes = int64_t{4} << 20;

// Work below this is done before another thread would have noticed it: floats touched, bytes of weights times tokens.
constexpr int64_t small_work = 16384, small_product = 32768;

constexpr int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// body(begin, end) for all of 0 .. count-1, on more threads than this one where it is worth it; cost: floats touched in each.
template <class Body>
void share_out(int64_t count, int64_t cost, const Body& body) {
    if (count * cost < small_work) return body(0, count);
    parallel_for(count, std::max<int64_t>(1, small_work / 2 / std::max<int64_t>(cost, 1)), body);
}

// A buffer of this thread's own, which stays for the next time.
float* thread_space(int64_t floats);

}  // namespace hb
