// Calls everything in hornbook.h on small awkward shapes, in buffers of exactly the right size, under every instruction set
// that this build and this machine have, and compares each with the portable one. For sanitizers (test_build_driver.py),
// for ThreadSanitizer and for instruction sets that have to be emulated (check_native.py):
//
//   native_driver [ISA...]   fails where a named instruction set is missing, or where any result is wrong
//   native_driver --layout   sizes and offsets of the interface's structures, for ctypes to be held to
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "hornbook.h"

namespace {

std::mt19937 random_bits;

float uniform(float low, float high) { return low + (high - low) * static_cast<float>(random_bits() >> 8) * 0x1p-24f; }

std::vector<float> floats(int64_t n, float low = -1, float high = 1) {
    std::vector<float> out(static_cast<size_t>(n));
    for (float& x : out) x = uniform(low, high);
    return out;
}

[[noreturn]] void die(const std::string& what) {
    std::fprintf(stderr, "native_driver (%s): %s\n", hb_isa(), what.c_str());
    std::exit(1);
}

void must(bool good, const std::string& what) {
    if (!good) die(what + ": " + hb_error());
}

// What an instruction set computed, and how far another's may lie from it, as a part of the largest.
struct Result {
    std::string label;
    float tolerance;
    std::vector<float> values;
};
using Results = std::vector<Result>;

struct Type {
    int number;
    const char* name;
    int block, size;
    std::vector<int> halves;  // where in a block a scale in half precision stands
};
const std::vector<Type> types = {
    {HB_F32, "F32", 1, 4, {}},        {HB_F16, "F16", 1, 2, {0}},          {HB_BF16, "BF16", 1, 2, {}},
    {HB_Q4_0, "Q4_0", 32, 18, {0}},   {HB_Q4_1, "Q4_1", 32, 20, {0, 2}},   {HB_Q5_0, "Q5_0", 32, 22, {0}},
    {HB_Q5_1, "Q5_1", 32, 24, {0, 2}}, {HB_Q8_0, "Q8_0", 32, 34, {0}},     {HB_Q2_K, "Q2_K", 256, 84, {80, 82}},
    {HB_Q3_K, "Q3_K", 256, 110, {108}}, {HB_Q4_K, "Q4_K", 256, 144, {0, 2}}, {HB_Q5_K, "Q5_K", 256, 176, {0, 2}},
    {HB_Q6_K, "Q6_K", 256, 210, {208}},
};

std::vector<uint8_t> blocks(const Type& type, int64_t count) {
    std::vector<uint8_t> out(static_cast<size_t>(count * type.size));
    for (uint8_t& byte : out) byte = static_cast<uint8_t>(random_bits());
    for (int64_t i = 0; i < count; ++i) {
        uint8_t* block = out.data() + i * type.size;
        if (type.number == HB_F32 || type.number == HB_BF16) {
            const float value = uniform(-1, 1);
            std::memcpy(block, reinterpret_cast<const char*>(&value) + 4 - type.size, static_cast<size_t>(type.size));
        }
        for (int at : type.halves) {  // 2^-9 .. 2^-6, either sign
            const uint32_t half = (random_bits() & 0x83ff) | (6 + random_bits() % 3) << 10;
            block[at] = static_cast<uint8_t>(half), block[at + 1] = static_cast<uint8_t>(half >> 8);
        }
    }
    return out;
}

struct Weight {
    std::unique_ptr<hb_weight, void (*)(hb_weight*)> packed;
    int64_t rows, cols;

    Weight(int64_t rows, int64_t cols, const Type& type = types[0], const std::vector<int32_t>* order = nullptr)
        : packed(nullptr, hb_free), rows(rows), cols(cols) {
        const std::vector<uint8_t> source = blocks(type, rows * (cols / type.block));
        packed.reset(hb_pack(type.number, rows, cols, source.data(), order ? order->data() : nullptr));
        must(packed != nullptr, std::string("hb_pack ") + type.name);
    }
};

void products(Results& results) {
    for (const Type& type : types) {
        if (!hb_can_pack(type.number)) die(std::string("cannot pack ") + type.name);
        for (int64_t rows : {1, 16, 37}) {
            for (int64_t cols : {int64_t(type.block == 1 ? 19 : type.block), int64_t(type.block == 1 ? 64 : 3 * type.block)}) {
                const std::string label = std::string(type.name) + " " + std::to_string(rows) + " x " + std::to_string(cols);
                std::vector<int32_t> order;
                for (int64_t row = 0; row < rows; ++row) order.push_back(static_cast<int32_t>(rows - 1 - row));
                const Weight weight(rows, cols, type, rows == 37 ? &order : nullptr);
                must(hb_weight_bytes(weight.packed.get()) > 0, label);
                std::vector<float> plain(static_cast<size_t>(rows * cols));
                must(hb_unpack(weight.packed.get(), 0, rows, plain.data()) == 0, label);
                std::vector<float> last(static_cast<size_t>(cols));
                must(hb_unpack(weight.packed.get(), rows - 1, 1, last.data()) == 0, label);
                if (std::memcmp(last.data(), plain.data() + (rows - 1) * cols, last.size() * 4) != 0) die(label + ": the last row");
                results.push_back({label + " unpacked", 0, plain});
                const std::vector<float> bias = floats(rows);
                for (int64_t tokens : {1, 2, 5, 17, 40}) {
                    const std::vector<float> x = floats(tokens * cols);
                    std::vector<float> y(static_cast<size_t>(tokens * rows), NAN);
                    const float* add = tokens % 2 ? bias.data() : nullptr;
                    must(hb_linear(weight.packed.get(), add, x.data(), tokens, y.data()) == 0, label);
                    double error = 0, size = 0;
                    for (int64_t t = 0; t < tokens; ++t) {
                        for (int64_t row = 0; row < rows; ++row) {
                            double exact = add ? add[row] : 0, norm = 0;
                            const float *left = x.data() + t * cols, *right = plain.data() + row * cols;
                            for (int64_t i = 0; i < cols; ++i) {
                                const double product = double(left[i]) * right[i];
                                exact += product, norm += product * product;
                            }
                            error += std::pow(exact - y[t * rows + row], 2), size += norm;
                        }
                    }
                    // float weights: rounding only; the others: activations in 8 bits, an error of 0.4% (one deviation)
                    if (!(std::sqrt(error) <= (type.block == 1 ? 1e-5 : 2.5e-2) * std::sqrt(size)))
                        die(label + ": a product is off by " + std::to_string(std::sqrt(error / size)));
                    std::vector<float> alone(static_cast<size_t>(rows));
                    must(hb_linear(weight.packed.get(), add, x.data() + (tokens - 1) * cols, 1, alone.data()) == 0, label);
                    if (std::memcmp(alone.data(), y.data() + (tokens - 1) * rows, alone.size() * 4) != 0)
                        die(label + ": a token depends on its batch");
                    results.push_back({label + " product", 3e-5f, y});  // sums in another order
                }
            }
        }
    }
    const float zeros[64] = {};
    for (int64_t wrong_cols : {0, 31, 33}) {
        if (hb_weight* made = hb_pack(HB_Q4_0, 1, wrong_cols, zeros, nullptr)) {
            hb_free(made);
            die("packed a row that is no whole number of blocks");
        }
    }
    if (hb_can_pack(99) || hb_pack(99, 1, 32, zeros, nullptr)) die("packed a type that does not exist");
    hb_free(nullptr);
}

void same(const std::vector<float>& a, const float* b, const char* what) {
    if (std::memcmp(a.data(), b, a.size() * 4) != 0) die(what);
}

// Five experts of which three are chosen, one of every type; a sigmoid weighs what comes out, which is added to the token.
void mixtures(Results& results) {
    constexpr int32_t rows = 21, E = 5;
    for (const Type& type : types) {
        if (type.block == 256 && type.number != HB_Q2_K && type.number != HB_Q6_K) continue;
        const int32_t cols = type.block == 1 ? 24 : type.block, inner = type.block == 1 ? 19 : type.block;
        const Weight table(rows, cols), router(E, cols), sigmoid(1, cols);
        std::vector<std::unique_ptr<hb_weight, void (*)(hb_weight*)>> stacks;
        const auto stack = [&](int64_t out, int64_t in) {
            const std::vector<uint8_t> source = blocks(type, E * out * (in / type.block));
            stacks.emplace_back(hb_pack_experts(type.number, E, out, in, source.data()), hb_free);
            must(stacks.back() != nullptr, std::string("hb_pack_experts ") + type.name);
            std::vector<float> all(static_cast<size_t>(E * out * in)), last(static_cast<size_t>(in));
            must(hb_unpack(stacks.back().get(), 0, E * out, all.data()) == 0, "hb_unpack");
            must(hb_unpack(stacks.back().get(), E * out - 1, 1, last.data()) == 0, "hb_unpack");
            if (std::memcmp(last.data(), all.data() + all.size() - last.size(), last.size() * 4) != 0) die("the last expert");
            return stacks.back().get();
        };
        const hb_weight *gate = stack(inner, cols), *up = stack(inner, cols), *down = stack(cols, inner);
        enum { X, SCORES, S, Y, REGISTERS };
        const int32_t widths[REGISTERS] = {cols, E, 1, cols};
        for (int32_t renormalise : {0, 1}) {
            std::vector<hb_op> ops(6, hb_op{});
            ops[0].kind = HB_EMBED, ops[0].out = X, ops[0].weight[0] = table.packed.get(), ops[0].f[0] = 1;
            ops[1].kind = HB_LINEAR, ops[1].a = X, ops[1].out = SCORES, ops[1].weight[0] = router.packed.get();
            ops[2].kind = HB_LINEAR, ops[2].a = X, ops[2].out = S, ops[2].weight[0] = sigmoid.packed.get();
            for (hb_op* linear : {&ops[1], &ops[2]}) linear->i[0] = 1, linear->i[1] = -1;
            ops[3].kind = HB_MIX, ops[3].a = X, ops[3].b = SCORES, ops[3].out = Y;
            ops[3].i[0] = 3, ops[3].i[1] = renormalise, ops[3].i[2] = HB_SILU;
            ops[3].weight[0] = gate, ops[3].weight[1] = up, ops[3].weight[2] = down;
            ops[4].kind = HB_WEIGH, ops[4].a = Y, ops[4].b = S, ops[4].out = Y;
            ops[5].kind = HB_ADD, ops[5].a = X, ops[5].b = Y, ops[5].out = Y;
            const std::unique_ptr<hb_model, void (*)(hb_model*)> model(
                hb_model_create(ops.data(), static_cast<int32_t>(ops.size()), widths, REGISTERS), hb_model_free);
            must(model != nullptr, "hb_model_create of a mixture");
            const auto run = [&](int32_t first, int32_t count) {
                std::vector<int32_t> ids, positions, sequence(static_cast<size_t>(count), 0);
                for (int32_t t = 0; t < count; ++t) ids.push_back((first + t) % rows), positions.push_back(t);
                hb_batch batch = {};
                batch.tokens = batch.rows = count, batch.sequences = 1;
                batch.ids = ids.data(), batch.positions = positions.data(), batch.sequence = sequence.data();
                batch.lengths = &batch.tokens;
                std::vector<float> out(static_cast<size_t>(count * cols), NAN);
                must(hb_step(model.get(), nullptr, &batch, out.data()) == 0, "hb_step of a mixture");
                return out;
            };
            must(hb_set_threads(3) == 0, "hb_set_threads");
            const std::vector<float> all = run(0, 43);
            for (int32_t t : {0, 20}) same(run(t, 1), all.data() + t * cols, "a mixture depends on the batch");
            results.push_back({std::string("mixture of ") + type.name, 1e-2f, all});
        }
    }
}

// Two layers with everything else a plan may hold: grouped heads, norms of heads, rotary, a window, an adapter, a cap.
constexpr int32_t V = 50, C = 64, H = 4, K = 2, D = 16, F = 96, context = 64;
constexpr int32_t page_count = 12, max_pages = 4;

struct Model {
    std::vector<Weight> weights;
    std::vector<std::vector<float>> vectors;
    std::vector<hb_op> ops;
    std::unique_ptr<hb_model, void (*)(hb_model*)> made{nullptr, hb_model_free};

    const hb_weight* weight(int64_t rows, int64_t cols, int type) {
        weights.emplace_back(rows, cols, types[static_cast<size_t>(type)]);
        return weights.back().packed.get();
    }
    const float* vector(std::vector<float> values) {
        vectors.push_back(std::move(values));
        return vectors.back().data();
    }
    hb_op& op(int32_t kind, int32_t a, int32_t b, int32_t out) {
        ops.push_back({});
        ops.back().kind = kind, ops.back().a = a, ops.back().b = b, ops.back().out = out;
        return ops.back();
    }
    void linear(int32_t a, int32_t out, std::vector<const hb_weight*> parts, int32_t site) {
        hb_op& linear = op(HB_LINEAR, a, 0, out);
        linear.i[0] = static_cast<int32_t>(parts.size()), linear.i[1] = site;
        for (size_t part = 0; part < parts.size(); ++part) linear.weight[part] = parts[part];
    }
    void norm(int32_t a, int32_t out, bool layer) {
        hb_op& norm = op(HB_NORM, a, 0, out);
        norm.w[0] = vector(floats(C, 0.5, 1.5));
        norm.w[1] = layer ? vector(floats(C)) : nullptr;
        norm.f[0] = 1e-5f, norm.i[0] = layer;
    }

    Model() {
        enum { X, N, QKV, A, O, GU, G, S, SN, L, LC, REGISTERS };
        const int32_t widths[REGISTERS] = {C, C, (H + 2 * K) * D, H * D, C, 2 * F, F, C, C, V, V};
        weights.reserve(64);
        hb_op& embed = op(HB_EMBED, 0, 0, X);
        embed.weight[0] = weight(V, C, 0), embed.f[0] = 2;
        std::vector<float> table;
        for (int32_t position = 0; position < context; ++position)
            for (int32_t part : {0, 1})
                for (int32_t i = 0; i < D / 2; ++i) {
                    const double angle = position / std::pow(100.0, 2.0 * i / D);
                    table.push_back(static_cast<float>(part ? std::sin(angle) : std::cos(angle)));
                }
        const float* turns = vector(table);
        for (int32_t layer : {0, 1}) {
            norm(X, N, layer == 1);
            linear(N, QKV, {weight(H * D, C, 3), weight(K * D, C, 4), weight(K * D, C, 7)}, 4 * layer);
            hb_op& heads = op(HB_HEAD_NORM, QKV, 0, QKV);
            heads.i[0] = 0, heads.i[1] = H, heads.i[2] = D, heads.f[0] = 1e-6f, heads.w[0] = vector(floats(D, 0.5, 1.5));
            for (bool keys : {false, true}) {
                hb_op& rotary = op(HB_ROTARY, QKV, 0, QKV);
                const int32_t i[6] = {keys ? H * D : 0, keys ? K : H, D, D, layer, context};
                std::memcpy(rotary.i, i, sizeof i);
                rotary.w[0] = turns;
            }
            hb_op& attend = op(HB_ATTEND, QKV, 0, A);
            const int32_t i[6] = {H, K, D, layer, layer ? 7 : 0, 1};
            std::memcpy(attend.i, i, sizeof i);
            attend.f[0] = 0.25f, attend.f[1] = layer ? 5.f : 0.f;
            attend.w[0] = layer ? vector(floats(H, 0, 0.5)) : nullptr;
            linear(A, O, {weight(C, H * D, 6)}, 4 * layer + 1);
            op(HB_ADD, X, O, X);
            norm(X, N, false);
            linear(N, GU, {weight(F, C, 5), weight(F, C, 1)}, 4 * layer + 2);
            op(HB_GATE, GU, 0, G).i[0] = layer ? HB_GELU_TANH : HB_SILU;
            linear(G, O, {weight(C, F, 2)}, 4 * layer + 3);
            op(HB_ADD, X, O, X);
        }
        op(HB_SELECT, X, 0, S);
        norm(S, SN, false);
        linear(SN, L, {weight(V, C, 7)}, -1);
        hb_op& cap = op(HB_CAP, L, 0, LC);
        cap.f[0] = 0.5f, cap.f[1] = 10;
        made.reset(hb_model_create(ops.data(), static_cast<int32_t>(ops.size()), widths, REGISTERS));
        must(made != nullptr, "hb_model_create");
        must(hb_model_bytes(made.get(), 17, 3) > 0, "hb_model_bytes");
    }
};

struct Cache {
    std::unique_ptr<hb_cache, void (*)(hb_cache*)> made;
    explicit Cache(int32_t type) : made(hb_cache_create(2, K, D, page_count, type), hb_cache_free) {
        must(made != nullptr && hb_cache_page_bytes(2, K, D, type) > 0, "hb_cache_create");
    }
};

struct Part {  // tokens first .. last-1 of a sequence
    int32_t sequence, first, last;
};

constexpr int32_t lengths[3] = {35, 1, 18};

std::vector<float> step(Model& model, hb_cache* cache, const std::vector<Part>& parts, const hb_adapter* adapter) {
    std::vector<int32_t> ids, positions, sequence, pages, ends, select, adapters;
    for (size_t s = 0; s < parts.size(); ++s) {
        const Part& part = parts[s];
        for (int32_t position = part.first; position < part.last; ++position) {
            ids.push_back((7 + 13 * part.sequence + 5 * position) % V);
            positions.push_back(position);
            sequence.push_back(static_cast<int32_t>(s));
            adapters.push_back(part.sequence == 2 ? 0 : -1);
        }
        for (int32_t page = 0; page < max_pages; ++page) pages.push_back((part.sequence * max_pages + page) * 5 % page_count);
        ends.push_back(part.last);
        select.push_back(static_cast<int32_t>(ids.size()) - 1);
    }
    hb_batch batch = {};
    batch.tokens = static_cast<int32_t>(ids.size()), batch.sequences = static_cast<int32_t>(parts.size());
    batch.max_pages = max_pages, batch.rows = static_cast<int32_t>(select.size());
    batch.ids = ids.data(), batch.positions = positions.data(), batch.sequence = sequence.data(), batch.pages = pages.data();
    batch.lengths = ends.data(), batch.select = select.data();
    if (adapter) batch.adapter = adapters.data(), batch.adapters = adapter, batch.adapter_count = 1;
    volatile int32_t flag = 0;
    batch.cancel = &flag;
    std::vector<float> out(select.size() * V, NAN);
    must(hb_step(model.made.get(), cache, &batch, out.data()) == 0, "hb_step");
    for (float value : out)
        if (!std::isfinite(value)) die("hb_step: a logit is not a number");
    flag = 1;
    std::vector<float> unwanted(out.size());
    if (hb_step(model.made.get(), cache, &batch, unwanted.data()) != 2) die("hb_step went on when it was cancelled");
    return out;
}

void steps(Results& results) {
    Model model;
    const std::vector<float> a = floats(3 * C), b = floats((H + 2 * K) * D * 3);
    const hb_adapter adapter = {0, 0, 3, 0.5f, a.data(), b.data()};
    for (int32_t type : {HB_CACHE_F32, HB_CACHE_F16, HB_CACHE_I8}) {
        for (int threads : {1, 3}) {
            must(hb_set_threads(threads) == 0 && hb_threads() == threads, "hb_set_threads");
            random_bits.seed(3);
            Cache whole(type), cut(type);
            const std::vector<float> all =
                step(model, whole.made.get(), {{0, 0, lengths[0]}, {1, 0, lengths[1]}, {2, 0, lengths[2]}}, &adapter);
            step(model, cut.made.get(), {{2, 0, 5}, {0, 0, 20}}, &adapter);
            step(model, cut.made.get(), {{0, 20, lengths[0] - 1}}, nullptr);
            const std::vector<float> rest = step(
                model, cut.made.get(), {{2, 5, lengths[2]}, {0, lengths[0] - 1, lengths[0]}, {1, 0, 1}}, &adapter);
            same({rest.begin() + V, rest.begin() + 2 * V}, all.data(), "a prompt in pieces is not the prompt");
            same({rest.begin() + 2 * V, rest.end()}, all.data() + V, "a token alone is not the token");
            same({rest.begin(), rest.begin() + V}, all.data() + 2 * V, "an adapter depends on the batch");
            if (threads == 3 && results.back().label == "step") same(all, results.back().values.data(), "threads matter");
            if (threads == 1) results.push_back({"step", type == HB_CACHE_F32 ? 2e-3f : 2e-2f, all});

            std::vector<float> page(static_cast<size_t>(2 * 2 * K * 16 * D)), copy = page;
            must(hb_cache_read(whole.made.get(), 0, page.data()) == 0, "hb_cache_read");
            must(hb_cache_copy(whole.made.get(), 0, page_count - 1) == 0, "hb_cache_copy");
            must(hb_cache_read(whole.made.get(), page_count - 1, copy.data()) == 0, "hb_cache_read");
            same(page, copy.data(), "a copied page is another");
            if (hb_cache_copy(whole.made.get(), 0, page_count) == 0 || hb_cache_read(whole.made.get(), -1, copy.data()) == 0)
                die("there are pages beyond the cache");
        }
    }
}

void samples(Results& results) {
    for (int64_t n : {1, 2, 15, 16, 17, 50, 1000}) {
        const std::vector<float> logits = floats(n, -8, 8);
        std::vector<uint32_t> allowed(static_cast<size_t>((n + 31) / 32));
        for (uint32_t& word : allowed) word = static_cast<uint32_t>(random_bits());
        allowed[0] |= 1;
        std::vector<float> found;
        for (const hb_sampling& how : {hb_sampling{0, 1, 0, 0}, {1, 1, 0, 0}, {0.7f, 0.9f, 0, 0}, {1.3f, 1, 0.05f, 5}, {1, 0.5f, 0, 3}})
            for (const uint32_t* mask : {static_cast<const uint32_t*>(nullptr), static_cast<const uint32_t*>(allowed.data())})
                for (double draw : {0.0, 0.31, 0.9999999999}) {
                    float logprob = NAN;
                    const int32_t id = hb_sample(logits.data(), n, mask, &how, draw, logits.data(), &logprob);
                    if (id < 0 || id >= n || (mask && !(mask[id / 32] >> id % 32 & 1)) || !(logprob <= 1e-5f)) die("a sample is wrong");
                    found.push_back(static_cast<float>(id)), found.push_back(logprob);
                }
        results.push_back({"samples of " + std::to_string(n), 1e-5f, found});
        std::vector<int32_t> targets = {0, static_cast<int32_t>(n - 1)}, best(2);
        std::vector<float> two = logits, logprobs(2);
        two.insert(two.end(), logits.begin(), logits.end());
        must(hb_logprobs(two.data(), 2, n, targets.data(), logprobs.data(), best.data()) == 0, "hb_logprobs");
        results.push_back({"logprobs of " + std::to_string(n), 1e-5f, logprobs});
        const std::vector<float> nothing(static_cast<size_t>(n), NAN);
        const hb_sampling greedy = {0, 1, 0, 0};
        if (hb_sample(nothing.data(), n, nullptr, &greedy, 0, nothing.data(), nullptr) != -1) die("chose among what is not a number");
    }
}

// Several threads at once, some with a model of their own, while the pool changes its size: it serves them in turn.
void together() {
    constexpr int64_t rows = 640, tokens = 9;  // enough for the pool to have pieces to hand out
    const Weight weight(rows, 256, types[3]);
    const std::vector<float> x = floats(tokens * 256);
    std::vector<float> expected(tokens * rows);
    must(hb_linear(weight.packed.get(), nullptr, x.data(), tokens, expected.data()) == 0, "hb_linear");
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 2; ++caller) {
        callers.emplace_back([&] {
            std::vector<float> y(expected.size());
            for (int turn = 0; turn < 20; ++turn) {
                must(hb_linear(weight.packed.get(), nullptr, x.data(), tokens, y.data()) == 0, "hb_linear");
                same(y, expected.data(), "callers disturb each other");
            }
        });
    }
    std::vector<std::unique_ptr<Model>> models;
    for (int caller = 0; caller < 2; ++caller) models.push_back(std::make_unique<Model>());
    for (const std::unique_ptr<Model>& model : models) {
        callers.emplace_back([&model] {
            Cache cache(HB_CACHE_F32);
            const std::vector<Part> parts = {{0, 0, lengths[0]}, {2, 0, lengths[2]}};
            const std::vector<float> first = step(*model, cache.made.get(), parts, nullptr);
            for (int turn = 0; turn < 3; ++turn)
                same(step(*model, cache.made.get(), parts, nullptr), first.data(), "models disturb each other");
        });
    }
    for (int turn = 0; turn < 10; ++turn) must(hb_set_threads(1 + turn % 4) == 0, "hb_set_threads");
    for (std::thread& caller : callers) caller.join();
    must(hb_set_threads(3) == 0, "hb_set_threads");
}

Results everything() {
    random_bits.seed(20);
    Results results;
    products(results);
    steps(results);
    random_bits.seed(22);
    mixtures(results);
    random_bits.seed(21);
    samples(results);
    together();
    return results;
}

void layout() {
#define SIZE(type) std::printf("%s %zu\n", #type, sizeof(type))
#define FIELD(type, name) std::printf("%s.%s %zu\n", #type, #name, offsetof(type, name))
    SIZE(hb_op), FIELD(hb_op, out), FIELD(hb_op, i), FIELD(hb_op, f), FIELD(hb_op, weight), FIELD(hb_op, w);
    SIZE(hb_adapter), FIELD(hb_adapter, scale), FIELD(hb_adapter, a), FIELD(hb_adapter, b);
    SIZE(hb_batch), FIELD(hb_batch, rows), FIELD(hb_batch, ids), FIELD(hb_batch, select), FIELD(hb_batch, adapter);
    FIELD(hb_batch, adapters), FIELD(hb_batch, adapter_count), FIELD(hb_batch, cancel);
    SIZE(hb_sampling), FIELD(hb_sampling, top_p), FIELD(hb_sampling, min_p), FIELD(hb_sampling, top_k);
    SIZE(hb_choice), FIELD(hb_choice, raw), FIELD(hb_choice, allowed), FIELD(hb_choice, uniform), FIELD(hb_choice, how);
    FIELD(hb_choice, id), FIELD(hb_choice, logprob);
}

}  // namespace

int main(int count, char** words) {
    if (count == 2 && std::strcmp(words[1], "--layout") == 0) return layout(), 0;
    must(hb_set_isa("portable") == 0, "hb_set_isa");
    const Results plain = everything();
    std::printf("portable: %zu results\n", plain.size());
    for (const char* name : {"avx2", "avx512vnni", "neon"}) {
        bool wanted = false;
        for (int word = 1; word < count; ++word) wanted |= std::strcmp(words[word], name) == 0;
        if (hb_set_isa(name) != 0) {
            if (wanted) die(std::string("no ") + name + " here");
            continue;
        }
        const Results results = everything();
        if (results.size() != plain.size()) die("another number of results");
        double worst = 0;
        for (size_t i = 0; i < plain.size(); ++i) {
            const Result &one = results[i], &other = plain[i];
            float most = 0, far = 0;
            for (size_t j = 0; j < other.values.size(); ++j) {
                most = std::fmax(most, std::fabs(other.values[j]));
                far = std::fmax(far, std::fabs(one.values[j] - other.values[j]));
            }
            if (!(far <= other.tolerance * most)) die(other.label + " differs from portable by " + std::to_string(far / most));
            if (most > 0) worst = std::fmax(worst, far / most);
        }
        std::printf("%s: %zu results, the same as portable within %.1e of the largest\n", name, results.size(), worst);
    }
    return 0;
}
