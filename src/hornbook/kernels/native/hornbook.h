// The C interface of Hornbook's kernels: what Python's ctypes sees, and nothing else.
//
//   source bytes (GGUF blocks, or floats) --hb_pack--> hb_weight       rows of 16 interleaved, nothing requantised
//   ops that name weights and registers --hb_model_create--> hb_model  a flat plan, see engine/plan.py
//   hb_model + hb_cache + hb_batch --hb_step--> logits                 one call a step, whatever is in the batch
//
// Shapes: T tokens of a batch, S sequences, R rows of logits, V vocabulary, H query heads, K key heads, D head width.
// All registers are float32 [T, width], row-major. No function throws; what fails returns null or a code other than 0
// and leaves its reason in hb_error(). Every result of a token is the same bits whatever else is in the batch, however
// it is cut into steps, and with any number of threads: no reduction crosses tokens, threads or tiles.
#pragma once
#include <stdint.h>

#if defined(_WIN32)
#define HB_API __declspec(dllexport)
#else
#define HB_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define HB_ABI 5        // goes up with any change to this file; the loader refuses another
#define HB_PAGE 16      // tokens in a page of the cache
#define HB_TILE 16      // rows of a weight that are interleaved

// ------------------------------------------------------------------------------------------------ library, threads
HB_API int hb_abi(void);
HB_API const char* hb_error(void);             // of this thread's last failure
HB_API const char* hb_isa(void);               // "avx512vnni" | "avx2" | "neon" | "portable": what is in use
HB_API int hb_set_isa(const char* name);       // for tests; 0 where this machine has it
HB_API int hb_set_threads(int count);          // of the one pool, the caller included; 0: as many as physical cores
HB_API int hb_threads(void);

// --------------------------------------------------------------------------------------------------------- weights
// The numbers are ggml's, so that a file's types need no table.
enum hb_type {
    HB_F32 = 0, HB_F16 = 1, HB_Q4_0 = 2, HB_Q4_1 = 3, HB_Q5_0 = 6, HB_Q5_1 = 7, HB_Q8_0 = 8,
    HB_Q2_K = 10, HB_Q3_K = 11, HB_Q4_K = 12, HB_Q5_K = 13, HB_Q6_K = 14, HB_BF16 = 30,
};
typedef struct hb_weight hb_weight;

HB_API int hb_can_pack(int type);
// source: rows of `cols` values each, in the type's blocks, packed densely. order: NULL, or for each of the `rows` packed
// rows the row of the source that goes there (how heads are re-paired and parts of fused tensors taken, without loss).
HB_API hb_weight* hb_pack(int type, int64_t rows, int64_t cols, const void* source, const int32_t* order);
// A stack of as many matrices of one shape, [experts, rows, cols] in the source: each in tiles of its own. For HB_MIX only;
// hb_unpack counts its rows on from expert to expert.
HB_API hb_weight* hb_pack_experts(int type, int64_t experts, int64_t rows, int64_t cols, const void* source);
HB_API void hb_free(hb_weight* weight);
HB_API int64_t hb_weight_bytes(const hb_weight* weight);
HB_API int hb_unpack(const hb_weight* weight, int64_t first, int64_t rows, float* out);  // [rows, cols], dequantised
// y[t, :] = x[t, :] W' + bias; bias may be NULL.
HB_API int hb_linear(const hb_weight* weight, const float* bias, const float* x, int64_t tokens, float* y);

// ------------------------------------------------------------------------------------------------------------ plan
enum hb_kind {
    HB_EMBED = 1,    // out = weight[0][id] * f[0] (+ w[0][position + i[0]]: a float table [positions, width], i[1] rows)
    HB_NORM,         // out = norm(a) * w[0] + w[1]; f[0] epsilon; i[0] 0: RMSNorm, 1: LayerNorm; w[1] may be NULL
    HB_ADD,          // out = a + b
    HB_LINEAR,       // out = [a W0', a W1', ...] + [w[0] ..]; i[0] parts (1..3), i[1] the site of adapters or -1
    HB_GATE,         // out = act(a[:, :F]) * a[:, F:]; i[0] activation
    HB_ACT,          // out = act(a); i[0] activation
    HB_HEAD_NORM,    // a[:, i0 : i0 + i1*i2] in place: RMSNorm of i[1] groups of width i[2]; w[0] [i2], f[0] epsilon
    HB_ROTARY,       // a[:, i0 : i0 + i1*i2] in place: i[1] heads of width i[2], the first i[3] dimensions turn;
                     //   i[4] 1: interleaved; w[0] float table [positions, i3], cosines then sines, i[5] rows
    HB_ATTEND,       // out [T, H*D] = attention of a = [q | k | v], [T, (H + 2K) * D]; i: H, K, D, cache layer, window (0:
                     //   everything), causal; f: scale, softcap (0: none); w[0] NULL or ALiBi slopes [H]
    HB_SELECT,       // out [R, :] = a[rows of the batch, :]; what follows has R rows
    HB_CAP,          // out = f[1] > 0 ? f[1] * tanh(a * f[0] / f[1]) : a * f[0]
    HB_MIX,          // out = sum over the i[0] experts with the highest scores b [T, E], the best first, of share * expert(a):
                     //   shares are softmax of b, over those chosen where i[1] is 1, over all where it is 0; i[2] activation;
                     //   weight: gate and up [E, I, width of a], down [E, width of out, I], each from hb_pack_experts
    HB_WEIGH,        // out = a * sigmoid(b), b [T, 1]
};
enum hb_activation { HB_SILU = 0, HB_GELU = 1, HB_GELU_TANH = 2, HB_RELU = 3 };

typedef struct {
    int32_t kind, a, b, out;          // registers
    int32_t i[8];
    float f[4];
    const hb_weight* weight[3];
    const float* w[3];                // small float vectors and tables; they outlive the model
} hb_op;

typedef struct hb_model hb_model;
// widths: of the registers. The last op's `out` is what a step returns. Ops and widths are copied, weights are not.
HB_API hb_model* hb_model_create(const hb_op* ops, int32_t count, const int32_t* widths, int32_t registers);
HB_API void hb_model_free(hb_model* model);
HB_API int64_t hb_model_bytes(const hb_model* model, int32_t tokens, int32_t rows);  // scratch that such a step needs

// ----------------------------------------------------------------------------------------------------------- cache
// Of each page, layer and key head: keys [D, 16] (one token a lane), values [16, D]; int8 with a float scale a token.
typedef struct hb_cache hb_cache;
enum hb_cache_type { HB_CACHE_F32 = 0, HB_CACHE_F16 = 1, HB_CACHE_I8 = 2 };
HB_API hb_cache* hb_cache_create(int32_t layers, int32_t kv_heads, int32_t head_width, int32_t pages, int32_t type);
HB_API void hb_cache_free(hb_cache* cache);
HB_API int64_t hb_cache_page_bytes(int32_t layers, int32_t kv_heads, int32_t head_width, int32_t type);
HB_API int hb_cache_copy(hb_cache* cache, int32_t from, int32_t to);
// Contents of a page for tests and for moving it: [layers, 2, kv_heads, 16, D] float32, keys then values.
HB_API int hb_cache_read(const hb_cache* cache, int32_t page, float* out);

// ------------------------------------------------------------------------------------------------------------ step
typedef struct {                      // a low-rank change of one linear site: y += scale * (x A') B'
    int32_t adapter, site, rank;
    float scale;
    const float *a, *b;               // [rank, in], [out, rank]
} hb_adapter;

typedef struct {
    int32_t tokens, sequences, max_pages, rows;
    const int32_t *ids, *positions, *sequence;  // [T]; tokens of one sequence stand together, positions ascending
    const int32_t *pages;                       // [S, max_pages]: where each sequence's tokens 0..15, 16..31, ... lie
    const int32_t *lengths;                     // [S]: tokens that the sequence has after this step
    const int32_t *select;                      // [R]: the tokens whose logits are wanted
    const int32_t *adapter;                     // [T], or NULL; -1: none
    const hb_adapter *adapters; int32_t adapter_count;
    const volatile int32_t *cancel;             // NULL, or a flag: where it is not 0 the step ends early with code 2
} hb_batch;

// Appends the batch's tokens to their sequences in the cache and writes the last op's rows to `out`. Without a causal
// ATTEND `cache` may be NULL: each sequence is then whole in the batch, and its tokens see each other.
HB_API int hb_step(hb_model* model, hb_cache* cache, const hb_batch* batch, float* out);

// -------------------------------------------------------------------------------------------------------- sampling
typedef struct {
    float temperature, top_p, min_p;  // temperature 0: the best
    int32_t top_k;                    // 0: off
} hb_sampling;
// The next token from logits [n]; allowed: NULL or n bits, 32 a word. Ties go to the lowest id. uniform in [0, 1).
// logprob: of the token under softmax of `raw` [n] (the model's own distribution; may be the same array), or NULL.
// Returns the id, or -1 where no logit that is allowed is a finite number. The order of the filters is that of
// engine/sampling.py: temperature, top-k, top-p, min-p; the draw inverts the cumulative sum in the order of ids.
HB_API int32_t hb_sample(const float* logits, int64_t n, const uint32_t* allowed, const hb_sampling* how, double uniform,
                         const float* raw, float* logprob);
// The same for several rows side by side.
typedef struct {
    const float *logits, *raw;        // raw: NULL where no logprob is wanted
    const uint32_t* allowed;
    double uniform;
    hb_sampling how;
    int32_t id;                       // what was chosen, or -1
    float logprob;
} hb_choice;
HB_API void hb_sample_rows(hb_choice* choices, int64_t rows, int64_t n);
// For R rows of logits [R, n]: the natural logarithm of softmax at targets[r], and whether it is the best.
HB_API int hb_logprobs(const float* logits, int64_t rows, int64_t n, const int32_t* targets, float* logprob, int32_t* best);

// -------------------------------------------------------------------------------------------------------- training
// Forward and backward of what stands between the matrices, float32, rows of n numbers. The same bits with any number of
// threads. Pieces of HB_TRAIN_ROWS rows have a sum of their own where a gradient is summed over rows.
#define HB_TRAIN_ROWS 64
// RMSNorm: out = x scale weight; scale [rows] = 1 / rms(x)
HB_API void hb_train_norm(const float* x, const float* weight, float epsilon, int64_t rows, int64_t n, float* out, float* scale);
// LayerNorm; kept [rows, 2]: the mean and 1 / the deviation. bias: or NULL
HB_API void hb_train_centre(const float* x, const float* weight, const float* bias, float epsilon, int64_t rows, int64_t n,
                            float* out, float* kept);
// parts: as below; bias_parts too; beside [rows, n]: added to dx, or NULL
HB_API void hb_train_centre_back(const float* x, const float* weight, const float* kept, const float* grad, int64_t rows,
                                 int64_t n, const float* beside, float* dx, float* parts, float* bias_parts);
// parts: NULL, or the weight's gradient in pieces [ceil(rows / HB_TRAIN_ROWS), n]
HB_API void hb_train_norm_back(const float* x, const float* weight, const float* scale, const float* grad, int64_t rows,
                               int64_t n, float* dx, float* parts);
// out = act(gate) * up; activation: as HB_GATE's
HB_API void hb_train_gate(const float* gate, const float* up, int activation, int64_t rows, int64_t n, float* out);
HB_API void hb_train_gate_back(const float* gate, const float* up, const float* grad, int activation, int64_t rows, int64_t n,
                               float* dgate, float* dup);
// x [rows, heads, tokens, n] by its strides in floats (of rows, heads, tokens), turned into out [rows, tokens, heads, n], dense.
// cos, sin [rows or 1 (shared), tokens, turned / 2]; sign 1, or -1 for the inverse
HB_API void hb_train_turn(const float* x, const int64_t* strides, const float* cos, const float* sin, float sign, int64_t rows,
                          int64_t tokens, int64_t heads, int64_t n, int64_t turned, int64_t shared, int interleaved, float* out);
// losses [rows] of labels [rows]; with gradient != 0 the logits become their gradients
HB_API void hb_train_cross_entropy(float* logits, const int64_t* labels, int64_t rows, int64_t n, float smoothing, float z,
                                   int gradient, float* losses);
// Causal attention of `rows` texts of as many tokens: q and grad [rows, heads, tokens, n], k and v [rows, key_heads, tokens, n] by
// their strides in floats (of rows, heads, tokens); o and dq [rows, tokens, heads, n], dk and dv [rows, tokens, key_heads, n],
// dense; lse [rows, heads, tokens]. Forward writes o and lse, backward reads them and writes dq, dk, dv.
typedef struct {
    const float *q, *k, *v, *grad;
    int64_t q_strides[3], k_strides[3], v_strides[3], grad_strides[3];
    float *o, *lse, *dq, *dk, *dv;
    int64_t rows, heads, key_heads, tokens, n;
    float scale;
} hb_attention;
HB_API int hb_train_attend_fits(int64_t n);  // whether heads of this width are served
HB_API int hb_train_attend(const hb_attention* attention, int back);
// c [m, n] = the sum of up to three products a b, a (i, k) at i * a_down + k * a_along, b (k, j) at k * b_down + j * b_along, where
// b_down or b_along is 1; plus bias [n] or NULL, plus beside [m, n] or NULL. activation: of b's elements, or -1. sums [m]: of each row of the first a, where
// a_down is 1, or NULL. n is a multiple of hb_train_product_columns.
typedef struct {
    const float *a, *b;
    int64_t depth, a_down, a_along, b_down, b_along;
} hb_term;
typedef struct {
    hb_term terms[3];
    int64_t count, m, n, activation;
    const float *bias, *beside;
    float *c, *sums;
} hb_product;
HB_API int64_t hb_train_product_columns(void);
HB_API int hb_train_products(const hb_product* products, int64_t count);  // side by side; none reads another's
// Forward: h = x up' + up_bias, y = act(h) down' + down_bias + beside; x, y, beside [rows, n], h [rows, inner], up [inner, n], down [n, inner].
// Backward, where dy is not NULL: dh = (dy down) act'(h), dx = dh up or NULL. Biases and beside may be NULL.
typedef struct {
    const float *x, *up, *up_bias, *down, *down_bias, *beside, *dy;
    float *h, *y, *dh, *dx;
    int64_t rows, n, inner, activation;
} hb_mlp;
HB_API int hb_train_mlp(const hb_mlp* mlp);

#ifdef __cplusplus
}
#endif
