/* synthetic_model.h: small models with random weights, built in memory, and the same forward pass
 * written again in double precision, one token after another, as plainly as possible. */
#ifndef KM_TESTS_SYNTHETIC_MODEL_H
#define KM_TESTS_SYNTHETIC_MODEL_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_private.h"

typedef struct synthetic {
    km_model model;
    float *block;
    int64_t used, size;
    km_layer_weights layers[8];
} synthetic;

static inline km_config llama_config(void) {
    km_config c = {.arch = "llama",
                   .n_layers = 3,
                   .d_model = 24,
                   .n_heads = 6,
                   .n_kv_heads = 2,
                   .head_dim = 8,
                   .d_ffn = 40,
                   .vocab_size = 61,
                   .context_length = 4096};
    c.norm_eps = 1e-5;
    c.activation = KM_ACT_SILU;
    c.gated_mlp = true;
    c.rotary_dim = c.head_dim;
    c.embed_scale = 1.0f;
    c.attn_scale = 0.35355339f;
    c.rope_pairs = KM_ROPE_INTERLEAVED;
    c.rope_base = c.rope_base_local = 10000.0;
    c.rope_linear_scale = 1.0;
    return c;
}

/* Everything the llama configuration leaves out: windows, both norms, offsets, scales. */
static inline km_config gemma_config(void) {
    km_config c = llama_config();
    strcpy(c.arch, "gemma3");
    c.n_layers = 5;
    c.d_model = 32;
    c.n_heads = 4;
    c.n_kv_heads = 1;
    c.head_dim = c.rotary_dim = 12;
    c.norm_eps = 1e-6;
    c.norm_offset = 1.0f;
    c.activation = KM_ACT_GELU_TANH;
    c.qk_norm = c.post_norms = c.tied_embeddings = true;
    c.embed_scale = 5.6568542f;
    c.attn_scale = 0.25f;
    c.rope_pairs = KM_ROPE_HALVES;
    c.rope_base = 1e6;
    c.rope_base_local = 1e4;
    c.rope_linear_scale = 8.0;
    c.sliding_window = 5;
    for (int32_t i = 0; i < c.n_layers; i++) {
        c.windowed[i] = i % 3 != 2;
    }
    return c;
}

/* Llama 3's divided frequencies, biases everywhere, norms of queries and keys. */
static inline km_config llama3_config(void) {
    km_config c = llama_config();
    c.rope_pairs = KM_ROPE_HALVES;
    c.rope_base = c.rope_base_local = 500.0;
    c.rope_factor = 8.0;
    c.rope_low_freq_factor = 1.0;
    c.rope_high_freq_factor = 4.0;
    c.rope_original_context = 64;
    c.qkv_bias = c.attn_out_bias = c.mlp_bias = c.qk_norm = true;
    return c;
}

/* Layer norms, learned positions, a plain MLP. */
static inline km_config gpt2_config(void) {
    km_config c = llama_config();
    strcpy(c.arch, "gpt2");
    c.n_kv_heads = c.n_heads = 3;
    c.context_length = 700;
    c.norm = KM_NORM_LAYER;
    c.activation = KM_ACT_GELU_TANH;
    c.gated_mlp = false;
    c.position = KM_POSITION_LEARNED;
    c.tied_embeddings = c.qkv_bias = c.attn_out_bias = c.mlp_bias = true;
    return c;
}

/* A parallel residual, a rotary embedding of a part of each head, the exact GELU. */
static inline km_config neox_config(void) {
    km_config c = gpt2_config();
    strcpy(c.arch, "gptneox");
    c.activation = KM_ACT_GELU_ERF;
    c.position = KM_POSITION_ROPE;
    c.rope_pairs = KM_ROPE_HALVES;
    c.rotary_dim = 4;
    c.parallel_residual = true;
    c.tied_embeddings = false;
    return c;
}

/* Soft caps low enough to matter. */
static inline km_config gemma2_config(void) {
    km_config c = gemma_config();
    strcpy(c.arch, "gemma2");
    c.qk_norm = false;
    c.rope_base = c.rope_base_local = 1e4;
    c.rope_linear_scale = 1.0;
    c.attn_softcap = 1.5f;
    c.final_softcap = 2.0f;
    return c;
}

enum { N_SYNTHETIC = 6 };
/* Every configuration above by number. */
static inline km_config synthetic_config(int number) {
    return number == 0   ? llama_config()
           : number == 1 ? gemma_config()
           : number == 2 ? llama3_config()
           : number == 3 ? gpt2_config()
           : number == 4 ? neox_config()
                         : gemma2_config();
}

/* n numbers mean + normal(0, deviation). */
static inline const float *random_floats(synthetic *s, int64_t n, double mean, double deviation) {
    float *p = s->block + s->used;
    for (int64_t i = 0; i < n; i++) {
        p[i] = (float)(mean + deviation * km_random_normal(11, 0, (uint64_t)(s->used + i)));
    }
    s->used += (n + 15) / 16 * 16;
    if (s->used > s->size) {
        abort();
    }
    return p;
}

static inline km_matrix random_matrix(synthetic *s, int64_t rows, int64_t cols, double deviation) {
    return (km_matrix){random_floats(s, rows * cols, 0.0, deviation), KM_F32, rows, cols};
}

static inline km_norm_weights random_norm(synthetic *s, const km_config *c, bool present) {
    const double gain = c->norm_offset > 0.0f ? 0.0 : 1.0;
    km_norm_weights norm = {NULL, NULL};
    if (present) {
        norm.gain = random_floats(s, c->d_model, gain, 0.2);
        norm.bias = c->norm == KM_NORM_LAYER ? random_floats(s, c->d_model, 0.0, 0.2) : NULL;
    }
    return norm;
}

static inline const float *random_bias(synthetic *s, int64_t n, bool present) {
    return present ? random_floats(s, n, 0.0, 0.2) : NULL;
}

static inline void random_layer(synthetic *s, const km_config *c, km_layer_weights *w) {
    const double gain = c->norm_offset > 0.0f ? 0.0 : 1.0;
    const int64_t d = c->d_model, dh = c->head_dim, q = c->n_heads * dh, kv = c->n_kv_heads * dh;
    w->attn_norm = random_norm(s, c, true);
    w->wq = random_matrix(s, q, d, 0.15);
    w->wk = random_matrix(s, kv, d, 0.15);
    w->wv = random_matrix(s, kv, d, 0.15);
    w->q_norm = c->qk_norm ? random_floats(s, dh, gain, 0.2) : NULL;
    w->k_norm = c->qk_norm ? random_floats(s, dh, gain, 0.2) : NULL;
    w->wo = random_matrix(s, d, q, 0.15);
    w->attn_post_norm = random_norm(s, c, c->post_norms);
    w->ffn_norm = random_norm(s, c, true);
    if (c->gated_mlp) {
        w->w_gate = random_matrix(s, c->d_ffn, d, 0.15);
    }
    w->w_up = random_matrix(s, c->d_ffn, d, 0.15);
    w->w_down = random_matrix(s, d, c->d_ffn, 0.15);
    w->ffn_post_norm = random_norm(s, c, c->post_norms);
    w->bq = random_bias(s, q, c->qkv_bias);
    w->bk = random_bias(s, kv, c->qkv_bias);
    w->bv = random_bias(s, kv, c->qkv_bias);
    w->bo = random_bias(s, d, c->attn_out_bias);
    w->b_gate = random_bias(s, c->d_ffn, c->mlp_bias && c->gated_mlp);
    w->b_up = random_bias(s, c->d_ffn, c->mlp_bias);
    w->b_down = random_bias(s, d, c->mlp_bias);
}

static inline void synthetic_init(synthetic *s, km_ctx *ctx, km_config c) {
    memset(s, 0, sizeof *s);
    s->size = 1 << 20;
    s->block = calloc((size_t)s->size, sizeof(float));
    atomic_init(&s->model.refs, 1000); /* references of sessions come and go; nothing frees it */
    s->model.ctx = ctx;
    s->model.config = c;
    s->model.weights.layers = s->layers;
    s->model.weights.embed = random_matrix(s, c.vocab_size, c.d_model, 0.3);
    s->model.weights.unembed =
        c.tied_embeddings ? s->model.weights.embed : random_matrix(s, c.vocab_size, c.d_model, 0.3);
    if (c.position == KM_POSITION_LEARNED) {
        s->model.weights.positions = random_matrix(s, c.context_length, c.d_model, 0.1);
    }
    s->model.weights.final_norm = random_norm(s, &c, true);
    for (int32_t l = 0; l < c.n_layers; l++) {
        random_layer(s, &c, &s->layers[l]);
    }
}

static inline void synthetic_clear(synthetic *s) {
    free(s->block);
}

/* ---- the same model in double precision ---- */

typedef struct reference {
    const km_model *model;
    const km_tree *tree;
    int32_t depth[4096];
    double *keys, *values; /* (L, n, K*Dh) */
    double *lens;          /* (L, n, V) logits after each block; the last is the output */
} reference;

static inline void ref_rms(const km_config *c, double *y, const double *x, const float *gain,
                           int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i] * x[i];
    }
    double factor = 1.0 / sqrt(sum / (double)n + c->norm_eps);
    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] * factor * ((double)gain[i] + (double)c->norm_offset);
    }
}

static inline void ref_norm(const km_config *c, double *y, const double *x,
                            const km_norm_weights *w) {
    const int64_t n = c->d_model;
    if (c->norm == KM_NORM_RMS) {
        ref_rms(c, y, x, w->gain, n);
        return;
    }
    double mean = 0.0, variance = 0.0;
    for (int64_t i = 0; i < n; i++) {
        mean += x[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        variance += (x[i] - mean) * (x[i] - mean) / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        y[i] =
            (x[i] - mean) / sqrt(variance + c->norm_eps) * (double)w->gain[i] + (double)w->bias[i];
    }
}

static inline void ref_product(double *y, const km_matrix *w, const float *bias, const double *x) {
    const float *matrix = w->data;
    for (int64_t i = 0; i < w->rows; i++) {
        y[i] = bias == NULL ? 0.0 : (double)bias[i];
        for (int64_t j = 0; j < w->cols; j++) {
            y[i] += (double)matrix[i * w->cols + j] * x[j];
        }
    }
}

/* What Llama 3 divides a frequency by, written as its paper's code has it, with wavelengths. */
static inline double ref_llama3(const km_config *c, double frequency) {
    const double wavelength = 2.0 * acos(-1.0) / frequency, context = c->rope_original_context;
    if (c->rope_factor <= 0.0 || wavelength < context / c->rope_high_freq_factor) {
        return frequency;
    }
    if (wavelength > context / c->rope_low_freq_factor) {
        return frequency / c->rope_factor;
    }
    double smooth = (context / wavelength - c->rope_low_freq_factor) /
                    (c->rope_high_freq_factor - c->rope_low_freq_factor);
    return (1.0 - smooth) * frequency / c->rope_factor + smooth * frequency;
}

static inline void ref_turn(const reference *r, double *head, bool windowed, int32_t position) {
    const km_config *c = &r->model->config;
    const float *factors = r->model->weights.rope_factors;
    const int32_t half = c->rotary_dim / 2;
    for (int32_t i = 0; i < half; i++) {
        double frequency =
            1.0 / pow(windowed ? c->rope_base_local : c->rope_base, 2.0 * i / c->rotary_dim);
        if (!windowed) {
            frequency = factors != NULL ? frequency / (double)factors[i]
                                        : ref_llama3(c, frequency) / c->rope_linear_scale;
        }
        double angle = position * frequency;
        double *a = c->rope_pairs == KM_ROPE_HALVES ? head + i : head + 2 * i;
        double *b = c->rope_pairs == KM_ROPE_HALVES ? head + i + half : head + 2 * i + 1;
        double x = *a, y = *b;
        *a = x * cos(angle) - y * sin(angle);
        *b = x * sin(angle) + y * cos(angle);
    }
}

static inline void ref_heads(const reference *r, double *row, int32_t n_heads, const float *gain,
                             bool windowed, int32_t position) {
    const km_config *c = &r->model->config;
    for (int32_t h = 0; h < n_heads; h++) {
        double *head = row + h * c->head_dim;
        if (gain != NULL) {
            ref_rms(c, head, head, gain, c->head_dim);
        }
        if (c->position == KM_POSITION_ROPE) {
            ref_turn(r, head, windowed, position);
        }
    }
}

static inline double ref_cap(double x, float cap) {
    return cap > 0.0f ? (double)cap * tanh(x / (double)cap) : x;
}

/* Attention of one head of one token: walk up the parents. */
static inline void ref_attend(const reference *r, int32_t layer, bool windowed, int64_t node,
                              const double *q, int32_t kv_head, double *out) {
    const km_config *c = &r->model->config;
    const int64_t kv = c->n_kv_heads * c->head_dim, n = r->tree->n;
    double total = 0.0;
    memset(out, 0, (size_t)c->head_dim * sizeof *out);
    for (int64_t a = node; a >= 0; a = r->tree->parent[a]) {
        if (windowed && r->depth[node] - r->depth[a] >= c->sliding_window) {
            break;
        }
        const int64_t at = (layer * n + a) * kv + kv_head * c->head_dim;
        double score = 0.0;
        for (int32_t i = 0; i < c->head_dim; i++) {
            score += q[i] * r->keys[at + i];
        }
        double weight = exp(ref_cap(score * (double)c->attn_scale, c->attn_softcap));
        total += weight;
        for (int32_t i = 0; i < c->head_dim; i++) {
            out[i] += weight * r->values[at + i];
        }
    }
    for (int32_t i = 0; i < c->head_dim; i++) {
        out[i] /= total;
    }
}

static inline double ref_activation(const km_config *c, double x) {
    if (c->activation == KM_ACT_SILU) {
        return x / (1.0 + exp(-x));
    }
    if (c->activation == KM_ACT_GELU_ERF) {
        return 0.5 * x * (1.0 + erf(x * sqrt(0.5)));
    }
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

static inline void ref_add(const km_config *c, double *x, double *branch,
                           const km_norm_weights *norm) {
    if (norm->gain != NULL) {
        ref_norm(c, branch, branch, norm);
    }
    for (int32_t i = 0; i < c->d_model; i++) {
        x[i] += branch[i];
    }
}

static inline void ref_mlp(const km_config *c, const km_layer_weights *w, double *out,
                           const double *x) {
    double h[64], hidden[64], up[64];
    ref_norm(c, h, x, &w->ffn_norm);
    ref_product(up, &w->w_up, w->b_up, h);
    if (c->gated_mlp) {
        ref_product(hidden, &w->w_gate, w->b_gate, h);
    }
    for (int32_t i = 0; i < c->d_ffn; i++) {
        hidden[i] = c->gated_mlp ? ref_activation(c, hidden[i]) * up[i] : ref_activation(c, up[i]);
    }
    ref_product(out, &w->w_down, w->b_down, hidden);
}

static inline void ref_layer(reference *r, int32_t l, int64_t node, double *x) {
    const km_config *c = &r->model->config;
    const km_layer_weights *w = &r->model->weights.layers[l];
    const bool windowed = c->sliding_window > 0 && c->windowed[l];
    const int64_t kv = c->n_kv_heads * c->head_dim;
    double h[64], queries[64], mixed[64], mlp[64];
    double *keys = r->keys + (l * r->tree->n + node) * kv;
    ref_norm(c, h, x, &w->attn_norm);
    ref_product(queries, &w->wq, w->bq, h);
    ref_product(keys, &w->wk, w->bk, h);
    ref_product(r->values + (l * r->tree->n + node) * kv, &w->wv, w->bv, h);
    ref_heads(r, queries, c->n_heads, w->q_norm, windowed, r->depth[node]);
    ref_heads(r, keys, c->n_kv_heads, w->k_norm, windowed, r->depth[node]);
    for (int32_t head = 0; head < c->n_heads; head++) {
        ref_attend(r, l, windowed, node, queries + head * c->head_dim,
                   head / (c->n_heads / c->n_kv_heads), mixed + head * c->head_dim);
    }
    ref_product(h, &w->wo, w->bo, mixed);
    if (c->parallel_residual) {
        ref_mlp(c, w, mlp, x);
    }
    ref_add(c, x, h, &w->attn_post_norm);
    if (!c->parallel_residual) {
        ref_mlp(c, w, mlp, x);
    }
    ref_add(c, x, mlp, &w->ffn_post_norm);
}

static inline void ref_embed(const reference *r, int64_t node, double *x) {
    const km_config *c = &r->model->config;
    const float *embed = r->model->weights.embed.data,
                *positions = r->model->weights.positions.data;
    for (int32_t i = 0; i < c->d_model; i++) {
        x[i] = (double)embed[r->tree->ids[node] * c->d_model + i] * (double)c->embed_scale;
        if (c->position == KM_POSITION_LEARNED) {
            x[i] += (double)positions[r->depth[node] * c->d_model + i];
        }
    }
}

static inline void reference_run(reference *r, const km_model *model, const km_tree *tree) {
    const km_config *c = &model->config;
    const size_t cells = (size_t)c->n_layers * (size_t)tree->n;
    r->model = model;
    r->tree = tree;
    r->keys = calloc(cells * (size_t)(c->n_kv_heads * c->head_dim), sizeof(double));
    r->values = calloc(cells * (size_t)(c->n_kv_heads * c->head_dim), sizeof(double));
    r->lens = calloc(cells * (size_t)c->vocab_size, sizeof(double));
    for (int64_t node = 0; node < tree->n; node++) {
        double x[64], h[64];
        r->depth[node] = tree->parent[node] < 0 ? 0 : r->depth[tree->parent[node]] + 1;
        ref_embed(r, node, x);
        for (int32_t l = 0; l < c->n_layers; l++) {
            double *logits = r->lens + ((int64_t)l * tree->n + node) * c->vocab_size;
            ref_layer(r, l, node, x);
            ref_norm(c, h, x, &model->weights.final_norm);
            ref_product(logits, &model->weights.unembed, NULL, h);
            for (int32_t i = 0; i < c->vocab_size; i++) {
                logits[i] = ref_cap(logits[i], c->final_softcap);
            }
        }
    }
}

static inline void reference_clear(reference *r) {
    free(r->keys);
    free(r->values);
    free(r->lens);
}

#endif
