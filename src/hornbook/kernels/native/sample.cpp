// The next token from a row of logits, without sorting the vocabulary.
//
//   weights  exp((x - max) / temperature)                                         one pass, V; after top-k, k
//   top-k    the k-th of the largest of each 256 is a threshold that few blocks pass  V / 256, then about k
//   top-p    what has less than (1 - p) / V of the mass each cannot be kept;       V, then the candidates
//            of the others, buckets of like weight say where the mass is reached, and one bucket is sorted
//   min-p    a threshold
//   draw     the running sum of what is kept, in the order of ids, in float64
//
// Sources of the filters and their order: engine/sampling.py.
#include "sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace hb {
namespace {

// This thread's memory, kept for the next token.
struct Room {
    std::vector<float> masked, weight, values, kept, tops;
    std::vector<double> sums;
    std::vector<int32_t> ids;
};

Room& room() {
    thread_local Room mine;
    return mine;
}

// x where the bit is set, minus infinity elsewhere.
const float* masked(const float* x, int64_t n, const uint32_t* allowed, Room& room) {
    room.masked.assign(static_cast<size_t>(n), -INFINITY);
    for (int64_t at = 0; at < n; at += 32) {
        const uint32_t bits = allowed[at / 32];
        if (!bits) continue;
        for (int64_t i = at; i < std::min(at + 32, n); ++i)
            if (bits >> (i - at) & 1) room.masked[i] = x[i];
    }
    return room.masked.data();
}

int64_t best_of(const float* x, int64_t n, Room& room) {
    room.tops.resize(static_cast<size_t>((n + top_block - 1) / top_block));
    return kernels().sample->best(x, n, room.tops.data());
}

float nth_largest(std::vector<float>& values, int64_t n) {
    std::nth_element(values.begin(), values.begin() + (n - 1), values.end(), std::greater<float>());
    return values[static_cast<size_t>(n - 1)];
}

// The ids of the k largest and of those that tie with the last of them, ascending, in room.ids; how many. room.tops is that
// of x: as many blocks as k whose largest are not below the k-th of these have k logits that are not below it.
int64_t top_k(const float* x, int64_t n, int64_t k, Room& room) {
    const auto collect = kernels().sample->collect;
    const int64_t blocks = static_cast<int64_t>(room.tops.size());
    std::vector<float>& values = room.values;
    float least = -INFINITY;
    if (k <= blocks) {
        values.assign(room.tops.begin(), room.tops.end());
        least = nth_largest(values, k);
    }
    int64_t count = 0, limit = 2 * k + 4 * top_block;
    const auto prune = [&] {
        if (count <= k) return;
        values.resize(static_cast<size_t>(count));
        for (int64_t i = 0; i < count; ++i) values[i] = x[room.ids[i]];
        least = nth_largest(values, k);
        const auto end = std::remove_if(room.ids.begin(), room.ids.begin() + count, [&](int32_t id) { return x[id] < least; });
        count = end - room.ids.begin();
    };
    for (int64_t block = 0; block < blocks; ++block) {
        if (room.tops[block] < least) continue;
        const int64_t at = block * top_block;
        const int64_t found = collect(x + at, std::min(top_block, n - at), least, room.ids.data() + count);
        for (int64_t i = count; i < count + found; ++i) room.ids[i] += static_cast<int32_t>(at);
        count += found;
        if (count >= limit) {
            prune();
            limit = std::max(limit, 2 * count);  // ties may be many
        }
    }
    prune();
    return count;
}

// Weights from 1 down, 32 buckets for each halving; the last takes all below 2^-32.
constexpr int buckets = 1024;

int bucket_of(float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, sizeof bits);
    return std::min<int>(buckets - 1, static_cast<int>((0x3f800000u - bits) >> 18));
}

// Of the candidates, those whose likelier ones together have less than `mass`; at least one.
int64_t top_p(double mass, int64_t count, Room& room) {
    const std::vector<float>& weight = room.weight;
    double sums[buckets] = {};
    for (int64_t i = 0; i < count; ++i) sums[bucket_of(weight[room.ids[i]])] += weight[room.ids[i]];
    double before = 0;
    int last = 0;
    while (last < buckets - 1 && before + sums[last] < mass) before += sums[last++];
    std::vector<std::pair<float, int32_t>> edge;  // of the bucket in which the mass is reached
    for (int64_t i = 0; i < count; ++i)
        if (bucket_of(weight[room.ids[i]]) == last) edge.push_back({-weight[room.ids[i]], room.ids[i]});
    std::sort(edge.begin(), edge.end());
    size_t kept = 0;
    for (; kept < edge.size() && (before < mass || (before == 0 && kept == 0)); ++kept) before -= edge[kept].first;
    const auto end = std::remove_if(room.ids.begin(), room.ids.begin() + count, [&](int32_t id) {
        const int bucket = bucket_of(weight[id]);
        if (bucket != last) return bucket > last;
        return kept == 0 || std::make_pair(-weight[id], id) > edge[kept - 1];
    });
    return end - room.ids.begin();
}

// The first id at which the running sum exceeds the target; the last that has any weight where rounding passes them all.
template <class Id>
int64_t draw(const std::vector<float>& weight, int64_t first, int64_t last, const Id& id, double sum, double target) {
    int64_t chosen = -1;
    for (int64_t i = first; i < last; ++i) {
        const float w = weight[id(i)];
        if (!(w > 0)) continue;
        chosen = id(i);
        sum += w;
        if (sum > target) break;
    }
    return chosen;
}

int64_t draw_from_all(int64_t n, double uniform, const Room& room) {
    double total = 0;
    for (double sum : room.sums) total += sum;
    const double target = uniform * total;
    double before = 0;
    size_t block = 0, heaviest = 0;  // the last block with any weight
    for (size_t b = 0; b < room.sums.size(); ++b)
        if (room.sums[b] > 0) heaviest = b;
    while (block < heaviest && before + room.sums[block] <= target) before += room.sums[block++];
    const int64_t first = static_cast<int64_t>(block) * sum_block;
    return draw(room.weight, first, std::min(first + sum_block, n), [](int64_t i) { return i; }, before, target);
}

// The weights of room.ids alone, each where it has its place; -> their sum.
double weigh_some(const float* x, int64_t count, float maximum, float temperature, Room& room) {
    room.values.resize(static_cast<size_t>(count));
    room.kept.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) room.values[i] = x[room.ids[i]];
    kernels().sample->weigh(room.values.data(), count, maximum, temperature, room.kept.data(), room.sums.data());
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += room.weight[room.ids[i]] = room.kept[i];
    return total;
}

int64_t choose(const float* x, int64_t n, const hb_sampling& how, double uniform, int64_t best, Room& room) {
    const SampleKernels& passes = *kernels().sample;
    room.weight.resize(static_cast<size_t>(n));
    room.sums.resize(static_cast<size_t>((n + sum_block - 1) / sum_block));
    const bool some = how.top_k > 0 && how.top_k < n, mass = how.top_p < 1;
    room.ids.resize(static_cast<size_t>(n) + 16);
    double total = 0;
    int64_t count;
    if (some) {
        count = top_k(x, n, how.top_k, room);
        total = weigh_some(x, count, x[best], how.temperature, room);
    } else {
        passes.weigh(x, n, x[best], how.temperature, room.weight.data(), room.sums.data());
        if (!mass && !(how.min_p > 0)) return draw_from_all(n, uniform, room);
        for (double sum : room.sums) total += sum;
        // A little less than what can be kept, so that rounding excludes nothing.
        const double least = std::max(mass ? 0.999 * (1 - how.top_p) * total / static_cast<double>(n) : 0.0,
                                      mass ? 0.0 : static_cast<double>(how.min_p));
        count = passes.collect(room.weight.data(), n, static_cast<float>(least), room.ids.data());
    }
    if (mass) count = top_p(how.top_p * total, count, room);
    const auto end = std::remove_if(room.ids.begin(), room.ids.begin() + count,
                                    [&](int32_t id) { return room.weight[id] < how.min_p; });
    count = end - room.ids.begin();
    total = 0;
    for (int64_t i = 0; i < count; ++i) total += room.weight[room.ids[i]];
    return draw(room.weight, 0, count, [&](int64_t i) { return room.ids[i]; }, 0, uniform * total);
}

float logprob_of(const float* x, int64_t n, int64_t id, int64_t best) {
    if (best < 0) return NAN;
    return static_cast<float>(static_cast<double>(x[id]) - x[best] - std::log(kernels().sample->sum_exp(x, n, x[best])));
}

}  // namespace
}  // namespace hb

int32_t hb_sample(const float* logits, int64_t n, const uint32_t* allowed, const hb_sampling* how, double uniform,
                  const float* raw, float* logprob) {
    if (!logits || !how || n < 1 || n > INT32_MAX) return hb::fail("a choice among %lld logits", static_cast<long long>(n)), -1;
    try {
        hb::Room& room = hb::room();
        const float* x = allowed ? hb::masked(logits, n, allowed, room) : logits;
        const int64_t best = hb::best_of(x, n, room);
        if (best < 0) return hb::fail("of %lld logits none that is allowed is the largest finite number", static_cast<long long>(n)), -1;
        const int64_t id = how->temperature > 0 ? hb::choose(x, n, *how, uniform, best, room) : best;
        if (raw && logprob) *logprob = hb::logprob_of(raw, n, id, raw == x ? best : hb::best_of(raw, n, room));
        return static_cast<int32_t>(id);
    } catch (const std::bad_alloc&) {
        return hb::fail("no memory to choose among %lld logits", static_cast<long long>(n)), -1;
    }
}

void hb_sample_rows(hb_choice* choices, int64_t rows, int64_t n) {
    hb::parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
        for (hb_choice* c = choices + begin; c < choices + end; ++c)
            c->id = hb_sample(c->logits, n, c->allowed, &c->how, c->uniform, c->raw, &c->logprob);
    });
}

int hb_logprobs(const float* logits, int64_t rows, int64_t n, const int32_t* targets, float* logprob, int32_t* best) {
    if (!logits || !targets || !logprob || rows < 0 || n < 1)
        return hb::fail("%lld rows of %lld logits", static_cast<long long>(rows), static_cast<long long>(n));
    for (int64_t r = 0; r < rows; ++r)
        if (targets[r] < 0 || targets[r] >= n)
            return hb::fail("row %lld asks for token %d of %lld", static_cast<long long>(r), targets[r], static_cast<long long>(n));
    try {
        hb::parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
            for (; begin < end; ++begin) {
                const float* x = logits + begin * n;
                const int64_t its_best = hb::best_of(x, n, hb::room());
                logprob[begin] = hb::logprob_of(x, n, targets[begin], its_best);
                if (best) best[begin] = its_best == targets[begin];
            }
        });
    } catch (const std::bad_alloc&) {
        return hb::fail("no memory to judge %lld rows", static_cast<long long>(rows));
    }
    return 0;
}
