#include "cache.h"

#include <cstring>
#include <initializer_list>
#include <new>

#include "half.h"
#include "kernels.h"

namespace {

constexpr int64_t most_bytes = int64_t{1} << 46;

bool possible(int32_t layers, int32_t kv_heads, int32_t head_width, int32_t type) {
    return layers > 0 && layers <= 4096 && kv_heads > 0 && kv_heads <= 4096 && head_width > 0 && head_width <= 4096 &&
           type >= HB_CACHE_F32 && type <= HB_CACHE_I8;
}

float element(const hb::BlockShape& shape, const uint8_t* at, int64_t i) {
    if (shape.type == HB_CACHE_F32) return reinterpret_cast<const float*>(at)[i];
    if (shape.type == HB_CACHE_F16) return hb::float_of_half(reinterpret_cast<const uint16_t*>(at)[i]);
    return reinterpret_cast<const int8_t*>(at)[i];
}

}  // namespace

int64_t hb_cache_page_bytes(int32_t layers, int32_t kv_heads, int32_t head_width, int32_t type) {
    if (!possible(layers, kv_heads, head_width, type)) return 0;
    return static_cast<int64_t>(layers) * kv_heads * hb::BlockShape{type, head_width}.bytes();
}

hb_cache* hb_cache_create(int32_t layers, int32_t kv_heads, int32_t head_width, int32_t pages, int32_t type) {
    const int64_t page_bytes = hb_cache_page_bytes(layers, kv_heads, head_width, type);
    if (page_bytes == 0 || pages < 1 || pages > most_bytes / page_bytes) {
        hb::fail("no cache of %d layers, %d heads of width %d, %d pages and type %d", layers, kv_heads, head_width, pages, type);
        return nullptr;
    }
    hb_cache* cache = new (std::nothrow) hb_cache;
    if (cache) cache->memory = hb::take(page_bytes * pages);
    if (!cache || !cache->memory.data) {
        delete cache;
        hb::fail("no memory for a cache of %d pages of %lld bytes", pages, static_cast<long long>(page_bytes));
        return nullptr;
    }
    cache->shape = hb::BlockShape{type, head_width};
    cache->layers = layers, cache->kv_heads = kv_heads, cache->pages = pages;
    cache->page_bytes = page_bytes, cache->data = cache->memory.data;
    return cache;
}

void hb_cache_free(hb_cache* cache) {
    if (!cache) return;
    hb::give_back(cache->memory);
    delete cache;
}

int hb_cache_copy(hb_cache* cache, int32_t from, int32_t to) {
    for (int32_t page : {from, to})
        if (page < 0 || page >= cache->pages) return hb::fail("page %d of a cache of %d pages", page, cache->pages);
    if (from == to) return 0;
    std::memcpy(cache->block(to, 0, 0), cache->block(from, 0, 0), static_cast<size_t>(cache->page_bytes));
    return 0;
}

int hb_cache_read(const hb_cache* cache, int32_t page, float* out) {
    if (page < 0 || page >= cache->pages) return hb::fail("page %d of a cache of %d pages", page, cache->pages);
    const hb::BlockShape& shape = cache->shape;
    for (int32_t layer = 0; layer < cache->layers; ++layer) {
        for (int kind = 0; kind < 2; ++kind) {
            for (int32_t head = 0; head < cache->kv_heads; ++head) {
                const uint8_t* block = cache->block(page, layer, head);
                const float* scales = reinterpret_cast<const float*>(block + shape.scales_at()) + kind * HB_PAGE;
                for (int slot = 0; slot < HB_PAGE; ++slot) {
                    for (int d = 0; d < shape.width; ++d) {
                        const float x = kind == 0 ? element(shape, block, d * HB_PAGE + slot)
                                                  : element(shape, block + shape.values_at(), slot * shape.padded() + d);
                        *out++ = shape.type == HB_CACHE_I8 ? x * scales[slot] : x;
                    }
                }
            }
        }
    }
    return 0;
}
