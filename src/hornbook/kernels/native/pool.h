// One pool of threads for the whole process: it spins briefly after work, then sleeps, and starts anew after a fork.
#pragma once
#include <cstdint>

namespace hb {

int threads();             // the caller included
void set_threads(int count);  // 0: as many as physical cores
// Calls body(context, begin, end) for pieces of 0 .. items-1 on all threads and returns when all are done. Pieces are `grain`
// items long and handed out as threads get free. Nested calls run on the caller's thread. Throws bad_alloc where a body does.
void parallel(int64_t items, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context);

template <class Body>
void parallel_for(int64_t items, int64_t grain, const Body& body) {
    parallel(
        items, grain, [](void* context, int64_t begin, int64_t end) { (*static_cast<const Body*>(context))(begin, end); },
        const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace hb
