/* reference_model.h: a random model of any configuration, and its forward pass in double precision
 * with a door at every point of km/points.h: one token after another, as plainly as possible. */
#ifndef KM_TESTS_REFERENCE_MODEL_H
#define KM_TESTS_REFERENCE_MODEL_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_private.h"

enum { REF_WIDTH = 512, REF_TOKENS = 32, REF_LAYERS = 4 };

typedef struct random_model {
    km_model model;
    km_layer_weights layers[REF_LAYERS];
    float *block;
    int64_t used, size;
} random_model;

static inline km_config reference_config(void) {
    km_config c = {.arch = "llama",
                   .n_layers = 3,
                   .d_model = 12,
                   .n_heads = 4,
                   .n_kv_heads = 2,
                   .head_dim = 6,
                   .d_ffn = 10,
                   .vocab_size = 17,
                   .context_length = 64};
    c.norm_eps = 1e-5;
    c.gated_mlp = true;
    c.rotary_dim = c.head_dim;
    c.embed_scale = 1.0f;
    c.attn_scale = 0.4f;
    c.rope_base = c.rope_base_local = 100.0;
    c.rope_linear_scale = 1.0;
    return c;
}

/* Both norms, offsets, windows, soft caps, head norms, one KV head, tied and scaled embeddings. */
static inline km_config reference_gemma(void) {
    km_config c = reference_config();
    strcpy(c.arch, "gemma");
    c.n_kv_heads = 1;
    c.norm_offset = 1.0f;
    c.activation = KM_ACT_GELU_TANH;
    c.qk_norm = c.post_norms = c.tied_embeddings = true;
    c.embed_scale = 3.5f;
    c.attn_softcap = 1.5f;
    c.final_softcap = 4.0f;
    c.rope_pairs = KM_ROPE_HALVES;
    c.rope_base_local = 10.0;
    c.rope_linear_scale = 8.0;
    c.sliding_window = 3;
    c.windowed[0] = c.windowed[2] = 1;
    return c;
}

/* LayerNorm, learned positions, a plain MLP, every bias. */
static inline km_config reference_gpt2(void) {
    km_config c = reference_config();
    strcpy(c.arch, "gpt2");
    c.n_kv_heads = c.n_heads;
    c.norm = KM_NORM_LAYER;
    c.activation = KM_ACT_GELU_TANH;
    c.gated_mlp = false;
    c.qkv_bias = c.attn_out_bias = c.mlp_bias = true;
    c.position = KM_POSITION_LEARNED;
    return c;
}

/* Parallel residual, partial rotary embedding, exact GELU. */
static inline km_config reference_neox(void) {
    km_config c = reference_gpt2();
    strcpy(c.arch, "gptneox");
    c.activation = KM_ACT_GELU_ERF;
    c.parallel_residual = true;
    c.position = KM_POSITION_ROPE;
    c.rope_pairs = KM_ROPE_HALVES;
    c.rotary_dim = 4;
    return c;
}

static inline const float *model_floats(random_model *m, int64_t n, double mean, double spread) {
    float *p = m->block + m->used;
    for (int64_t i = 0; i < n; i++) {
        p[i] = (float)(mean + spread * km_random_normal(5, 1, (uint64_t)(m->used + i)));
    }
    m->used += (n + 15) / 16 * 16;
    if (m->used > m->size) {
        abort();
    }
    return p;
}

static inline km_matrix model_matrix(random_model *m, int64_t rows, int64_t cols, double spread) {
    return (km_matrix){model_floats(m, rows * cols, 0.0, spread), KM_F32, rows, cols};
}

static inline km_norm_weights model_norm(random_model *m, bool wanted) {
    const km_config *c = &m->model.config;
    km_norm_weights norm = {NULL, NULL};
    if (wanted) {
        norm.gain = model_floats(m, c->d_model, c->norm_offset > 0.0f ? 0.0 : 1.0, 0.3);
        norm.bias = c->norm == KM_NORM_LAYER ? model_floats(m, c->d_model, 0.0, 0.3) : NULL;
    }
    return norm;
}

static inline const float *model_bias(random_model *m, bool wanted, int64_t n) {
    return wanted ? model_floats(m, n, 0.0, 0.3) : NULL;
}

static inline void random_layer(random_model *m, km_layer_weights *w) {
    const km_config *c = &m->model.config;
    const int64_t d = c->d_model, f = c->d_ffn;
    const int64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const double gain = c->norm_offset > 0.0f ? 0.0 : 1.0;
    *w = (km_layer_weights){.attn_norm = model_norm(m, true), .ffn_norm = model_norm(m, true)};
    w->attn_post_norm = model_norm(m, c->post_norms);
    w->ffn_post_norm = model_norm(m, c->post_norms);
    w->q_norm = c->qk_norm ? model_floats(m, c->head_dim, gain, 0.3) : NULL;
    w->k_norm = c->qk_norm ? model_floats(m, c->head_dim, gain, 0.3) : NULL;
    w->wq = model_matrix(m, q, d, 0.4);
    w->wk = model_matrix(m, kv, d, 0.4);
    w->wv = model_matrix(m, kv, d, 0.4);
    w->wo = model_matrix(m, d, q, 0.3);
    if (c->gated_mlp) {
        w->w_gate = model_matrix(m, f, d, 0.4);
    }
    w->w_up = model_matrix(m, f, d, 0.4);
    w->w_down = model_matrix(m, d, f, 0.4);
    w->bq = model_bias(m, c->qkv_bias, q);
    w->bk = model_bias(m, c->qkv_bias, kv);
    w->bv = model_bias(m, c->qkv_bias, kv);
    w->bo = model_bias(m, c->attn_out_bias, d);
    w->b_gate = model_bias(m, c->mlp_bias && c->gated_mlp, f);
    w->b_up = model_bias(m, c->mlp_bias, f);
    w->b_down = model_bias(m, c->mlp_bias, d);
}

static inline void random_model_init(random_model *m, km_ctx *ctx, km_config c) {
    memset(m, 0, sizeof *m);
    m->size = 1 << 16;
    m->block = calloc((size_t)m->size, sizeof(float));
    atomic_init(&m->model.refs, 1);
    m->model.ctx = ctx;
    m->model.config = c;
    km_weights *w = &m->model.weights;
    w->layers = m->layers;
    atomic_init(&w->checked, true);
    w->embed = model_matrix(m, c.vocab_size, c.d_model, 0.5);
    w->unembed = c.tied_embeddings ? w->embed : model_matrix(m, c.vocab_size, c.d_model, 0.5);
    if (c.position == KM_POSITION_LEARNED) {
        w->positions = model_matrix(m, c.context_length, c.d_model, 0.3);
    }
    w->final_norm = model_norm(m, true);
    for (int32_t l = 0; l < c.n_layers; l++) {
        random_layer(m, &m->layers[l]);
    }
}

static inline void random_model_clear(random_model *m) {
    free(m->block);
}

/* ---- the same in double precision ---- */

/* Sees, and may change, one token's activation (heads, width) at a point. */
typedef void (*ref_door)(void *payload, km_point point, int32_t layer, int64_t node, int64_t heads,
                         int64_t width, double *row);

typedef struct ref_pass {
    const km_model *model;
    const km_tree *tree;
    ref_door door;
    void *payload;
    int32_t depth[REF_TOKENS], n_positions;
    double keys[REF_LAYERS][REF_TOKENS][REF_WIDTH], values[REF_LAYERS][REF_TOKENS][REF_WIDTH];
    double logits[REF_TOKENS][REF_WIDTH];
} ref_pass;

static inline void dbl_norm(const km_config *c, double *y, const double *x, km_norm_weights norm,
                            int64_t n) {
    double mean = 0.0, squares = 0.0;
    for (int64_t i = 0; c->norm == KM_NORM_LAYER && i < n; i++) {
        mean += x[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        squares += (x[i] - mean) * (x[i] - mean);
    }
    const double factor = 1.0 / sqrt(squares / (double)n + c->norm_eps);
    for (int64_t i = 0; i < n; i++) {
        y[i] = (x[i] - mean) * factor * ((double)norm.gain[i] + (double)c->norm_offset) +
               (norm.bias == NULL ? 0.0 : (double)norm.bias[i]);
    }
}

static inline void dbl_product(double *y, const km_matrix *w, const double *x, const float *bias,
                               int64_t first, int64_t count) {
    const float *data = w->data;
    for (int64_t i = 0; i < count; i++) {
        y[i] = bias == NULL ? 0.0 : (double)bias[first + i];
        for (int64_t j = 0; j < w->cols; j++) {
            y[i] += (double)data[(first + i) * w->cols + j] * x[j];
        }
    }
}

static inline void see(const ref_pass *r, km_point point, int32_t layer, int64_t node,
                       int64_t heads, int64_t width, double *row) {
    if (r->door != NULL) {
        r->door(r->payload, point, layer, node, heads, width, row);
    }
}

/* Head norm and rotary turn of one head. */
static inline void dbl_turn(const ref_pass *r, double *head, const float *gain, int32_t layer,
                            int64_t node) {
    const km_config *c = &r->model->config;
    const int32_t half = c->rotary_dim / 2;
    if (gain != NULL) {
        dbl_norm(c, head, head, (km_norm_weights){gain, NULL}, c->head_dim);
    }
    for (int32_t i = 0; c->position == KM_POSITION_ROPE && i < half; i++) {
        const bool windowed = c->sliding_window > 0 && c->windowed[layer];
        const double base = windowed ? c->rope_base_local : c->rope_base;
        const double scale = windowed ? 1.0 : c->rope_linear_scale;
        const double angle = r->depth[node] / scale / pow(base, 2.0 * i / c->rotary_dim);
        double *a = c->rope_pairs == KM_ROPE_HALVES ? head + i : head + 2 * i;
        double *b = c->rope_pairs == KM_ROPE_HALVES ? head + i + half : head + 2 * i + 1;
        const double x = *a, y = *b;
        *a = x * cos(angle) - y * sin(angle);
        *b = x * sin(angle) + y * cos(angle);
    }
}

/* Every head reads its own copy of the stream; then the projection, seen at `point`. */
static inline void dbl_project(const ref_pass *r, double *out, const double *x, km_point input,
                               km_point point, const km_matrix *w, const float *bias, int32_t layer,
                               int64_t node, int64_t heads) {
    const km_config *c = &r->model->config;
    double inputs[REF_WIDTH], h[REF_WIDTH];
    for (int64_t head = 0; head < heads; head++) {
        memcpy(inputs + head * c->d_model, x, (size_t)c->d_model * sizeof *x);
    }
    see(r, input, layer, node, heads, c->d_model, inputs);
    for (int64_t head = 0; head < heads; head++) {
        dbl_norm(c, h, inputs + head * c->d_model, r->model->weights.layers[layer].attn_norm,
                 c->d_model);
        dbl_product(out + head * c->head_dim, w, h, bias, head * c->head_dim, c->head_dim);
    }
    see(r, point, layer, node, heads, c->head_dim, out);
}

static inline void dbl_softmax(double *p, const double *s, int64_t n) {
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) {
        total += exp(s[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        p[i] = exp(s[i]) / total;
    }
}

/* z (H, Dh) from queries (H, Dh), walking up the parents. */
static inline void dbl_attend(const ref_pass *r, double *z, const double *q, int32_t layer,
                              int64_t node) {
    const km_config *c = &r->model->config;
    const int64_t p = r->n_positions, width = c->head_dim, group = c->n_heads / c->n_kv_heads;
    double scores[REF_WIDTH], pattern[REF_WIDTH];
    const int64_t window = c->sliding_window > 0 && c->windowed[layer] ? c->sliding_window : p;
    for (int64_t i = 0; i < c->n_heads * p; i++) {
        scores[i] = -INFINITY;
    }
    for (int64_t h = 0; h < c->n_heads; h++) {
        for (int64_t a = node; a >= 0 && r->depth[node] - r->depth[a] < window;
             a = r->tree->parent[a]) {
            double s = 0.0;
            for (int64_t i = 0; i < width; i++) {
                s += q[h * width + i] * r->keys[layer][a][h / group * width + i];
            }
            s *= (double)c->attn_scale;
            const double cap = (double)c->attn_softcap;
            scores[h * p + r->depth[a]] = cap > 0.0 ? cap * tanh(s / cap) : s;
        }
    }
    see(r, KM_POINT_ATTN_SCORES, layer, node, c->n_heads, p, scores);
    for (int64_t h = 0; h < c->n_heads; h++) {
        dbl_softmax(pattern + h * p, scores + h * p, p);
    }
    see(r, KM_POINT_ATTN_PATTERN, layer, node, c->n_heads, p, pattern);
    memset(z, 0, (size_t)(c->n_heads * width) * sizeof *z);
    for (int64_t h = 0; h < c->n_heads; h++) {
        for (int64_t a = node; a >= 0 && r->depth[node] - r->depth[a] < window;
             a = r->tree->parent[a]) {
            for (int64_t i = 0; i < width; i++) {
                z[h * width + i] +=
                    pattern[h * p + r->depth[a]] * r->values[layer][a][h / group * width + i];
            }
        }
    }
    see(r, KM_POINT_ATTN_HEAD_OUT, layer, node, c->n_heads, width, z);
}

/* What attention adds, from the stream x. */
static inline void dbl_attention(ref_pass *r, double *out, const double *x, int32_t l,
                                 int64_t node) {
    const km_config *c = &r->model->config;
    const km_layer_weights *w = &r->model->weights.layers[l];
    double q[REF_WIDTH], z[REF_WIDTH];
    double *k = r->keys[l][node], *v = r->values[l][node];
    dbl_project(r, q, x, KM_POINT_Q_INPUT, KM_POINT_Q, &w->wq, w->bq, l, node, c->n_heads);
    dbl_project(r, k, x, KM_POINT_K_INPUT, KM_POINT_K, &w->wk, w->bk, l, node, c->n_kv_heads);
    dbl_project(r, v, x, KM_POINT_V_INPUT, KM_POINT_V, &w->wv, w->bv, l, node, c->n_kv_heads);
    for (int32_t h = 0; h < c->n_heads; h++) {
        dbl_turn(r, q + h * c->head_dim, w->q_norm, l, node);
    }
    for (int32_t h = 0; h < c->n_kv_heads; h++) {
        dbl_turn(r, k + h * c->head_dim, w->k_norm, l, node);
    }
    dbl_attend(r, z, q, l, node);
    dbl_product(out, &w->wo, z, w->bo, 0, c->d_model);
    if (c->post_norms) {
        dbl_norm(c, out, out, w->attn_post_norm, c->d_model);
    }
    see(r, KM_POINT_ATTN_OUT, l, node, 1, c->d_model, out);
}

static inline double dbl_activation(const km_config *c, double x) {
    if (c->activation == KM_ACT_SILU) {
        return x / (1.0 + exp(-x));
    }
    if (c->activation == KM_ACT_GELU_ERF) {
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    }
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

static inline void dbl_mlp(const ref_pass *r, double *out, const double *x, int32_t l,
                           int64_t node) {
    const km_config *c = &r->model->config;
    const km_layer_weights *w = &r->model->weights.layers[l];
    double in[REF_WIDTH], h[REF_WIDTH], pre[REF_WIDTH], up[REF_WIDTH];
    memcpy(in, x, (size_t)c->d_model * sizeof *x);
    see(r, KM_POINT_MLP_INPUT, l, node, 1, c->d_model, in);
    dbl_norm(c, h, in, w->ffn_norm, c->d_model);
    dbl_product(pre, c->gated_mlp ? &w->w_gate : &w->w_up, h, c->gated_mlp ? w->b_gate : w->b_up, 0,
                c->d_ffn);
    dbl_product(up, &w->w_up, h, w->b_up, 0, c->d_ffn);
    see(r, KM_POINT_MLP_PRE, l, node, 1, c->d_ffn, pre);
    for (int32_t i = 0; i < c->d_ffn; i++) {
        pre[i] = dbl_activation(c, pre[i]) * (c->gated_mlp ? up[i] : 1.0);
    }
    see(r, KM_POINT_MLP_HIDDEN, l, node, 1, c->d_ffn, pre);
    dbl_product(out, &w->w_down, pre, w->b_down, 0, c->d_model);
    if (c->post_norms) {
        dbl_norm(c, out, out, w->ffn_post_norm, c->d_model);
    }
    see(r, KM_POINT_MLP_OUT, l, node, 1, c->d_model, out);
}

static inline void dbl_add(double *x, const double *more, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        x[i] += more[i];
    }
}

static inline void dbl_layer(ref_pass *r, double *x, int32_t l, int64_t node) {
    const km_config *c = &r->model->config;
    double attn[REF_WIDTH], mlp[REF_WIDTH];
    see(r, KM_POINT_RESID_PRE, l, node, 1, c->d_model, x);
    dbl_attention(r, attn, x, l, node);
    if (c->parallel_residual) {
        dbl_mlp(r, mlp, x, l, node);
        dbl_add(x, attn, c->d_model);
    } else {
        dbl_add(x, attn, c->d_model);
        see(r, KM_POINT_RESID_MID, l, node, 1, c->d_model, x);
        dbl_mlp(r, mlp, x, l, node);
    }
    dbl_add(x, mlp, c->d_model);
    see(r, KM_POINT_RESID_POST, l, node, 1, c->d_model, x);
}

static inline void dbl_output(ref_pass *r, const double *x, int64_t node) {
    const km_config *c = &r->model->config;
    double h[REF_WIDTH];
    dbl_norm(c, h, x, r->model->weights.final_norm, c->d_model);
    see(r, KM_POINT_FINAL_NORM, 0, node, 1, c->d_model, h);
    dbl_product(r->logits[node], &r->model->weights.unembed, h, NULL, 0, c->vocab_size);
    const double cap = (double)c->final_softcap;
    for (int32_t v = 0; cap > 0.0 && v < c->vocab_size; v++) {
        r->logits[node][v] = cap * tanh(r->logits[node][v] / cap);
    }
    see(r, KM_POINT_LOGITS, 0, node, 1, c->vocab_size, r->logits[node]);
}

static inline void dbl_embed(const ref_pass *r, double *x, int64_t node) {
    const km_config *c = &r->model->config;
    const float *embed = r->model->weights.embed.data,
                *positions = r->model->weights.positions.data;
    for (int32_t i = 0; i < c->d_model; i++) {
        x[i] = (double)embed[r->tree->ids[node] * c->d_model + i] * (double)c->embed_scale;
    }
    see(r, KM_POINT_EMBED, 0, node, 1, c->d_model, x);
    for (int32_t i = 0; positions != NULL && i < c->d_model; i++) {
        x[i] += (double)positions[r->depth[node] * c->d_model + i];
    }
}

/* Fills r->logits; model, tree, door and payload are set. */
static inline void ref_run(ref_pass *r) {
    r->n_positions = 0;
    for (int64_t i = 0; i < r->tree->n; i++) {
        const int64_t parent = r->tree->parent[i];
        r->depth[i] = parent < 0 ? 0 : r->depth[parent] + 1;
        r->n_positions = r->depth[i] >= r->n_positions ? r->depth[i] + 1 : r->n_positions;
    }
    for (int64_t node = 0; node < r->tree->n; node++) {
        double x[REF_WIDTH];
        dbl_embed(r, x, node);
        for (int32_t l = 0; l < r->model->config.n_layers; l++) {
            dbl_layer(r, x, l, node);
        }
        dbl_output(r, x, node);
    }
}

#endif
