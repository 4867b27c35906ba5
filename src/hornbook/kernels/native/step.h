// One step of a model: the batch as the stages need it, and the memory that they share.
#pragma once
#include <cstdint>
#include <vector>

#include "attention.h"
#include "cache.h"
#include "kernels.h"
#include "model.h"

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

    // attend.cpp
    BlockShape shape(const hb_op& op) const;
    AttentionRows rows_of(const hb_op& op, const Segment& segment, int32_t head) const;
    void store(const hb_op& op, int64_t t) const;
    void divide(const hb_op& op);
    void attend(const hb_op& op);
    void merge(const hb_op& op, int64_t t) const;
    float* part(const hb_op& op, const Segment& segment, int32_t head, int64_t row) const;  // the first of the row's

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
    int most_rank_ = 0;
};

// Room for the parts of attention that is divided by chunks: more than that is not divided.
constexpr int64_t part_bytes = int64_t{4} << 20;

// A buffer of this thread's own, which stays for the next time.
float* thread_space(int64_t floats);

}  // namespace hb
