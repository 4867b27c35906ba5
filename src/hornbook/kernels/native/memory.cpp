#include "memory.h"

#include <mutex>
#include <new>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <pthread.h>
#include <sys/mman.h>
#endif

// AddressSanitizer sees no borders within what the system gave in one piece: it is told where each weight ends.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#endif

namespace hb {

struct Chunk {
    uint8_t* base;
    int64_t size, used = 0, takers = 0;
};

namespace {

constexpr int64_t large_page = 2 << 20, shared_size = 32 << 20, line = 64;

std::mutex one_at_a_time;
Chunk* shared = nullptr;  // from which small ones are taken

int64_t up_to(int64_t bytes, int64_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

// Zeroed, committed as it is touched, at a multiple of a large page.
uint8_t* map(int64_t size) {
#if defined(_WIN32)
    return static_cast<uint8_t*>(VirtualAlloc(nullptr, static_cast<size_t>(size), MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE));
#else
    const size_t wide = static_cast<size_t>(size + large_page);
    void* found = mmap(nullptr, wide, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) return nullptr;
    uint8_t* at = static_cast<uint8_t*>(found);
    const int64_t before = (large_page - static_cast<int64_t>(reinterpret_cast<uintptr_t>(at) % large_page)) % large_page;
    if (before) munmap(at, static_cast<size_t>(before));
    if (before < large_page) munmap(at + before + size, static_cast<size_t>(large_page - before));
#if defined(MADV_HUGEPAGE)
    madvise(at + before, static_cast<size_t>(size), MADV_HUGEPAGE);  // a wish: without it the memory is only slower
#endif
    return at + before;
#endif
}

void unmap(uint8_t* base, int64_t size) {
    ASAN_UNPOISON_MEMORY_REGION(base, static_cast<size_t>(size));
#if defined(_WIN32)
    (void)size;
    VirtualFree(base, 0, MEM_RELEASE);
#else
    munmap(base, static_cast<size_t>(size));
#endif
}

void end(Chunk* chunk) {
    unmap(chunk->base, chunk->size);
    delete chunk;
}

Chunk* new_chunk(int64_t size) {
    uint8_t* base = map(size);
    if (!base) return nullptr;
    Chunk* chunk = new (std::nothrow) Chunk{base, size};
    if (!chunk) unmap(base, size);
    else ASAN_POISON_MEMORY_REGION(base, static_cast<size_t>(size));
    return chunk;
}

#if !defined(_WIN32)
// A fork waits until nobody is at the books, so that the child finds them whole and open.
struct Hooks {
    Hooks() {
        pthread_atfork([] { one_at_a_time.lock(); }, [] { one_at_a_time.unlock(); }, [] { one_at_a_time.unlock(); });
    }
} hooks;
#endif

}  // namespace

Taken take(int64_t wanted) {
#if defined(__SANITIZE_ADDRESS__)
    const int64_t bytes = up_to(wanted, line) + line;  // so that what is read past the end is no other weight
#else
    const int64_t bytes = up_to(wanted, line);
#endif
    std::lock_guard<std::mutex> guard(one_at_a_time);
    const bool alone = bytes > shared_size / 2;
    if (!alone && shared && shared->size - shared->used < bytes) {
        if (shared->takers == 0) end(shared);
        shared = nullptr;
    }
    if (!alone && !shared && !(shared = new_chunk(shared_size))) return {};
    Chunk* chunk = alone ? new_chunk(up_to(bytes, large_page)) : shared;
    if (!chunk) return {};
    uint8_t* data = chunk->base + chunk->used;
    chunk->used += bytes;
    chunk->takers++;
    ASAN_UNPOISON_MEMORY_REGION(data, static_cast<size_t>(wanted));
    return {data, chunk};
}

void give_back(const Taken& taken) {
    if (!taken.chunk) return;
    std::lock_guard<std::mutex> guard(one_at_a_time);
    if (--taken.chunk->takers > 0) return;
    if (taken.chunk == shared) shared = nullptr;
    end(taken.chunk);
}

}  // namespace hb
