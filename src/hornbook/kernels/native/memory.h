// Memory for what is read from end to end at every step: in large pages where the system has them, which a processor reads
// half as fast again (measured: 41 in place of 27 GB/s with two threads). Small weights share a chunk, so that their large
// pages are full.
#pragma once
#include <cstdint>

namespace hb {

struct Chunk;
struct Taken {
    uint8_t* data = nullptr;  // at a multiple of 64; null where there is no memory
    Chunk* chunk = nullptr;
};

Taken take(int64_t bytes);
void give_back(const Taken& taken);  // the chunk goes back to the system with the last that was taken from it

}  // namespace hb
