// Keys and values of all sequences, in pages of 16 tokens.
//
//   page 0                                         page 1 ...
//   | layer 0: head 0 | head 1 | .. | layer 1: head 0 | ...        each a block, see attention.h
//
// A page is one piece of memory, so that copying one is one copy. The system gives memory where it is touched, in large pages
// where it has them: what nobody has written takes none, but for the rest of its large page.
#pragma once
#include "attention.h"
#include "memory.h"

struct hb_cache {
    hb::BlockShape shape;
    int32_t layers = 0, kv_heads = 0, pages = 0;
    int64_t page_bytes = 0;
    uint8_t* data = nullptr;
    hb::Taken memory;

    uint8_t* block(int32_t page, int32_t layer, int32_t head) const {
        return data + page * page_bytes + (static_cast<int64_t>(layer) * kv_heads + head) * shape.bytes();
    }
};
