// The rows of a training step, divided among the threads. Pieces are cut the same whatever the number of threads, and sums
// over rows are added piece by piece in order, so that a run that goes on elsewhere gives the same bits.
#include "train.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "pool.h"

extern "C" {

void hb_train_norm(const float* x, const float* weight, float epsilon, int64_t rows, int64_t n, float* out, float* scale) {
    const auto& k = *hb::kernels().train;
    hb::parallel_for(rows, HB_TRAIN_ROWS, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) scale[r] = k.norm(x + r * n, weight, epsilon, n, out + r * n);
    });
}

void hb_train_norm_back(const float* x, const float* weight, const float* scale, const float* grad, int64_t rows, int64_t n,
                        float* dx, float* parts) {
    const auto& k = *hb::kernels().train;
    const int64_t pieces = (rows + HB_TRAIN_ROWS - 1) / HB_TRAIN_ROWS;
    hb::parallel_for(pieces, 1, [&](int64_t first, int64_t last) {  // a thread may be given several at once
        for (int64_t piece = first; piece < last; ++piece) {
            float* part = parts ? parts + piece * n : nullptr;
            if (part) std::memset(part, 0, sizeof(float) * static_cast<size_t>(n));
            const int64_t end = std::min(rows, (piece + 1) * HB_TRAIN_ROWS);
            for (int64_t r = piece * HB_TRAIN_ROWS; r < end; ++r)
                k.norm_back(x + r * n, weight, scale[r], grad + r * n, n, dx + r * n, part);
        }
    });
}

void hb_train_centre(const float* x, const float* weight, const float* bias, float epsilon, int64_t rows, int64_t n, float* out,
                     float* kept) {
    const auto& k = *hb::kernels().train;
    hb::parallel_for(rows, HB_TRAIN_ROWS, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) k.centre(x + r * n, weight, bias, epsilon, n, out + r * n, kept + 2 * r);
    });
}

void hb_train_centre_back(const float* x, const float* weight, const float* kept, const float* grad, int64_t rows, int64_t n,
                          const float* beside, float* dx, float* parts, float* bias_parts) {
    const auto& k = *hb::kernels().train;
    const int64_t pieces = (rows + HB_TRAIN_ROWS - 1) / HB_TRAIN_ROWS;
    hb::parallel_for(pieces, 1, [&](int64_t first, int64_t last) {
        for (int64_t piece = first; piece < last; ++piece) {
            float* part = parts ? parts + piece * n : nullptr;
            float* bias_part = bias_parts ? bias_parts + piece * n : nullptr;
            for (float* one : {part, bias_part})
                if (one) std::memset(one, 0, sizeof(float) * static_cast<size_t>(n));
            const int64_t end = std::min(rows, (piece + 1) * HB_TRAIN_ROWS);
            for (int64_t r = piece * HB_TRAIN_ROWS; r < end; ++r)
                k.centre_back(x + r * n, weight, kept + 2 * r, grad + r * n, n, beside ? beside + r * n : nullptr, dx + r * n, part,
                              bias_part);
        }
    });
}

void hb_train_gate(const float* gate, const float* up, int activation, int64_t rows, int64_t n, float* out) {
    const auto& k = hb::kernels();
    hb::parallel_for(rows, HB_TRAIN_ROWS, [&](int64_t first, int64_t last) {
        k.gate(gate + first * n, up + first * n, activation, (last - first) * n, out + first * n);
    });
}

void hb_train_gate_back(const float* gate, const float* up, const float* grad, int activation, int64_t rows, int64_t n,
                        float* dgate, float* dup) {
    const auto& k = *hb::kernels().train;
    hb::parallel_for(rows, HB_TRAIN_ROWS, [&](int64_t first, int64_t last) {
        const int64_t at = first * n;
        k.gate_back(gate + at, up + at, grad + at, activation, (last - first) * n, dgate + at, dup + at);
    });
}

void hb_train_turn(const float* x, const int64_t* strides, const float* cos, const float* sin, float sign, int64_t rows,
                   int64_t tokens, int64_t heads, int64_t n, int64_t turned, int64_t shared, int interleaved, float* out) {
    const auto& k = *hb::kernels().train;
    hb::parallel_for(rows * tokens, HB_TRAIN_ROWS, [&](int64_t first, int64_t last) {
        for (int64_t place = first; place < last; ++place) {
            const int64_t row = place / tokens, token = place % tokens;
            const int64_t angle = (shared ? token : place) * (turned / 2);
            for (int64_t h = 0; h < heads; ++h)
                k.turn(x + row * strides[0] + h * strides[1] + token * strides[2], cos + angle, sin + angle, sign, turned,
                       interleaved != 0, n, out + (place * heads + h) * n);
        }
    });
}

void hb_train_cross_entropy(float* logits, const int64_t* labels, int64_t rows, int64_t n, float smoothing, float z,
                            int gradient, float* losses) {
    const auto& k = *hb::kernels().train;
    hb::parallel_for(rows, 4, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r)
            losses[r] = k.cross_entropy(logits + r * n, n, labels[r], smoothing, z, gradient != 0);
    });
}

int hb_train_attend_fits(int64_t n) { return hb::kernels().train->attend_fits(n); }

int hb_train_attend(const hb_attention* a, int back) {
    const auto& k = *hb::kernels().train;
    const int64_t group = a->heads / a->key_heads, n = a->n, T = a->tokens;
    const int64_t floats = k.attend_floats(T, n, back != 0);
    try {
        hb::parallel_for(a->rows * a->key_heads, 1, [&](int64_t first, int64_t last) {
            const std::unique_ptr<float[]> room(new float[static_cast<size_t>(floats)]);
            for (int64_t task = first; task < last; ++task) {
                const int64_t b = task / a->key_heads, h = task % a->key_heads;
                const auto at = [b](auto* x, const int64_t* s, int64_t head) { return x ? x + b * s[0] + head * s[1] : nullptr; };
                const int64_t wide = a->heads * n, narrow = a->key_heads * n;
                const auto dense = [&](float* x, int64_t width, int64_t head) {
                    return x ? x + b * T * width + head * n : nullptr;
                };
                const hb::AttendTask one = {
                    at(a->q, a->q_strides, h * group), at(a->k, a->k_strides, h), at(a->v, a->v_strides, h),
                    at(a->grad, a->grad_strides, h * group),
                    a->q_strides[2], a->q_strides[1], a->k_strides[2], a->v_strides[2], a->grad_strides[2], a->grad_strides[1],
                    dense(a->o, wide, h * group), a->lse + (b * a->heads + h * group) * T, dense(a->dq, wide, h * group),
                    dense(a->dk, narrow, h), dense(a->dv, narrow, h), wide, narrow, T, n, group, a->scale};
                (back ? k.attend_backward : k.attend_forward)(one, room.get());
            }
        });
    } catch (const std::bad_alloc&) {
        return hb::fail("there is no memory for the scores of %lld tokens", static_cast<long long>(T));
    }
    return 0;
}

int64_t hb_train_product_columns(void) { return hb::kernels().train->product_columns(); }

int hb_train_products(const hb_product* products, int64_t count) {
    const auto& k = *hb::kernels().train;
    constexpr int64_t block = 384;  // rows of a task
    const int64_t wide = k.product_columns();
    try {
        std::vector<int64_t> ends;
        for (int64_t p = 0; p < count; ++p)
            ends.push_back((ends.empty() ? 0 : ends.back()) + products[p].n / wide * ((products[p].m + block - 1) / block));
        hb::parallel_for(ends.empty() ? 0 : ends.back(), 1, [&](int64_t first, int64_t last) {
            for (int64_t task = first; task < last; ++task) {
                const int64_t p = std::upper_bound(ends.begin(), ends.end(), task) - ends.begin();
                const hb_product& one = products[p];
                const int64_t own = task - (p ? ends[p - 1] : 0), panels = one.n / wide, row = own / panels * block;
                k.product_panel(one, own % panels, row, std::min(one.m, row + block));
            }
        });
    } catch (const std::bad_alloc&) {
        return hb::fail("there is no memory for a list of %lld products", static_cast<long long>(count));
    }
    return 0;
}

int hb_train_mlp(const hb_mlp* mlp) {
    const auto& k = *hb::kernels().train;
    constexpr int64_t block = 96;  // rows of a task
    try {
        const std::unique_ptr<float[]> packed(new float[static_cast<size_t>(2 * mlp->n * mlp->inner)]);
        hb::parallel_for(k.mlp_panels(*mlp), 2, [&](int64_t first, int64_t last) {
            for (int64_t panel = first; panel < last; ++panel) k.mlp_pack(*mlp, panel, packed.get());
        });
        hb::parallel_for((mlp->rows + block - 1) / block, 1, [&](int64_t first, int64_t last) {
            const std::unique_ptr<float[]> room(new float[mlp->dy ? 1 : static_cast<size_t>(block * mlp->inner)]);
            for (int64_t task = first; task < last; ++task)
                k.mlp_rows(*mlp, packed.get(), task * block, std::min(mlp->rows, (task + 1) * block), room.get());
        });
    } catch (const std::bad_alloc&) {
        return hb::fail("there is no memory for the packed matrices of %lld and %lld dimensions", static_cast<long long>(mlp->n),
                        static_cast<long long>(mlp->inner));
    }
    return 0;
}

}  // extern "C"
