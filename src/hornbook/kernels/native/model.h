// A plan made ready: its ops in stages, between which all threads meet.
//
//   ops     Norm  Linear  HeadNorm Turn Attend  Linear  Add Norm  Linear  Gate  Linear  Add ...
//   stages  [Norm quantise] [Linear] [HeadNorm Turn store] [Attend] [quantise] [Linear] [Add Norm quantise] [Linear] ...
//            by tokens       by tiles by tokens             by keys
//
// What concerns one token alone and stands together is one stage, whichever ops they are; some of its work is not in the plan
// but follows from it: quantising what a Linear reads, storing keys and values, putting together the parts of an attention,
// adding adapters, choosing experts and adding up what they gave. One token's share of it is so small that the calling thread does it without waking another.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "hornbook.h"

namespace hb {

// Work on one token, in a stage by tokens: an op of the plan, or what follows from one.
enum class Task { op, quantize, store, merge, adapt, route, combine };

struct Piece {
    Task task;
    int32_t op;  // its number in the plan; of quantize: the Linear's or the mixture's
};

struct Stage {
    enum Kind { by_tokens, linear, attend, mix } kind;
    bool selected;              // rows are those of Select
    std::vector<Piece> pieces;  // by_tokens
    int32_t op = -1;            // linear, attend, mix
    int64_t cost = 0;           // by_tokens: floats touched for a token, about
};

// Memory of a step: grown where a larger step comes, never shrunk.
class Scratch {
public:
    uint8_t* ensure(int64_t bytes);  // at a multiple of 64; null where there is none; what was in it is gone

private:
    struct Free {
        void operator()(uint8_t* at) const;
    };
    std::unique_ptr<uint8_t, Free> data_;
    int64_t size_ = 0;
};

}  // namespace hb

struct hb_model {
    std::vector<hb_op> ops;
    std::vector<int32_t> widths;         // of the registers
    std::vector<hb::Stage> stages;
    std::vector<uint8_t> before, after;  // whether the register is written before Select, from it on
    std::vector<uint8_t> quantized;      // whether a Linear multiplies its bytes
    bool selects = false, causal = false, looks_ahead = false, mixes = false;
    int64_t context = INT64_MAX;         // positions that the tables have
    int64_t vocabulary = INT32_MAX;      // ids that the embeddings have
    std::mutex one_step;
    hb::Scratch scratch;
};
