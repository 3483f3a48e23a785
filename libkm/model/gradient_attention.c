/* gradient_attention.c: attention of one layer again, and its derivative.
 *
 * Work item: one query head over all tokens, so that a head's share of the derivatives of keys and
 * values is added up by one worker in rising order of tokens; the shares of the heads of one KV
 * head are then added in rising order. A token's ancestors are walked along its path from the root,
 * which lasts from one token to the next while each is the child of the one before.
 */
#include <math.h>
#include <string.h>

#include "model/gradient_private.h"

typedef struct head_work {
    const km__back *back;
    int32_t layer;
    bool backward;
    const km_attention_kernels *kernels;
    bool sees_scores, sees_pattern; /* a gradient or a patch concerns them */
    /* What patches made of scores and patterns, (T, H, P) each, or NULL. */
    const float *kept_scores, *kept_pattern;
} head_work;

/* One query head, and of one token the positions low .. low+n-1 it sees. */
typedef struct head_state {
    const head_work *work;
    const km__back *back;
    int32_t head;
    int64_t kv_offset; /* of the KV head within a row of keys and values */
    int64_t q_stride, kv_stride;
    int64_t window;
    int64_t node, low, n;
    int64_t *path;                     /* (P) ancestors, roots first */
    float *scores, *raw, *pattern, *d; /* (P) each; raw: the softmax before patches */
} head_state;

static void extend_path(head_state *h, int64_t node) {
    const int64_t *parent = h->back->request->forward.tree.parent;
    const bool follows = node > 0 && parent[node] == node - 1;
    for (int64_t a = node, at = h->back->depth[node]; a >= 0; a = parent[a], at--) {
        h->path[at] = a;
        if (follows) {
            break;
        }
    }
    h->node = node;
    h->n = h->back->depth[node] + 1;
    h->low = h->n > h->window ? h->n - h->window : 0;
    h->n -= h->low;
}

static const float *query_of(const head_state *h) {
    return h->back->s.qr + h->node * h->q_stride +
           (int64_t)h->head * h->back->model->config.head_dim;
}

/* Where key and value of position low + j are. */
static int64_t key_at(const head_state *h, int64_t j) {
    return h->path[h->low + j] * h->kv_stride + h->kv_offset;
}

/* Positions from low + j on whose tokens are neighbours in memory. */
static int64_t run_at(const head_state *h, int64_t j) {
    const int64_t *path = h->path + h->low + j;
    int64_t count = 1;
    while (j + count < h->n && path[count] == path[0] + count) {
        count++;
    }
    return count;
}

/* out (n) = scale * row . rows of keys or values. */
static void dot_rows(const head_state *h, float *out, const float *row, const float *rows,
                     float scale) {
    const int64_t width = h->back->model->config.head_dim;
    for (int64_t j = 0, count; j < h->n; j += count) {
        count = run_at(h, j);
        h->work->kernels->scores(out + j, h->n, row, 1, rows + key_at(h, j), h->kv_stride, count,
                                 width, scale);
    }
}

/* out (Dh) = the sum of rows of keys or values, weighted. */
static void sum_rows(const head_state *h, float *out, const float *weights, const float *rows) {
    const int64_t width = h->back->model->config.head_dim;
    memset(out, 0, (size_t)width * sizeof *out);
    for (int64_t j = 0, count; j < h->n; j += count) {
        count = run_at(h, j);
        h->work->kernels->mix(out, weights + j, h->n, 1, rows + key_at(h, j), h->kv_stride, count,
                              width);
    }
}

/* Row of a (T, H, P) array at the first position seen. */
static const float *row_of(const head_state *h, const float *values) {
    const int64_t row = h->node * h->back->model->config.n_heads + h->head;
    return values + row * h->back->n_positions + h->low;
}

static void find_pattern(const head_state *h) {
    const km_config *config = &h->back->model->config;
    const size_t bytes = (size_t)h->n * sizeof(float);
    dot_rows(h, h->scores, query_of(h), h->back->s.kr, config->attn_scale);
    for (int64_t j = 0; config->attn_softcap > 0.0f && j < h->n; j++) {
        h->scores[j] = config->attn_softcap * tanhf(h->scores[j] / config->attn_softcap);
    }
    const float *scores = h->work->kept_scores;
    memcpy(h->raw, scores != NULL ? row_of(h, scores) : h->scores, bytes);
    h->back->kernels->softmax(h->raw, h->n);
    const float *pattern = h->work->kept_pattern;
    memcpy(h->pattern, pattern != NULL ? row_of(h, pattern) : h->raw, bytes);
}

static void mix_values(const head_state *h) {
    const int64_t width = h->back->model->config.head_dim;
    sum_rows(h, h->back->s.z + h->node * h->q_stride + h->head * width, h->pattern, h->back->s.v);
}

/* Derivatives of pattern and scores, which are handed out as whole rows of P positions. */
static void scores_backward(const head_state *h) {
    const km_config *config = &h->back->model->config;
    const int64_t all = h->back->n_positions;
    float *d = h->d + h->low;
    memset(h->d + h->low + h->n, 0, (size_t)(all - h->low - h->n) * sizeof *d);
    memset(h->d, 0, (size_t)h->low * sizeof *d);
    if (h->work->sees_pattern) {
        km__pass_row(h->back, KM_POINT_ATTN_PATTERN, h->work->layer, h->node, h->head, h->d, all);
    }
    km__softmax_backward(d, h->raw, h->n);
    if (h->work->sees_scores) {
        km__pass_row(h->back, KM_POINT_ATTN_SCORES, h->work->layer, h->node, h->head, h->d, all);
    }
    if (config->attn_softcap > 0.0f) {
        km__softcap_backward(d, h->scores, config->attn_softcap, h->n);
    }
}

static void node_backward(const head_state *h) {
    const km_kernels *kernels = h->back->kernels;
    const km__layer_state *s = &h->back->s;
    const km_config *config = &h->back->model->config;
    const int64_t width = config->head_dim;
    const int64_t at = h->node * h->q_stride + h->head * width;
    float *d = h->d + h->low;
    dot_rows(h, d, s->dz + at, s->v, 1.0f);
    scores_backward(h);
    for (int64_t j = 0; j < h->n; j++) {
        const int64_t head_row = h->path[h->low + j] * h->q_stride + h->head * width;
        d[j] *= config->attn_scale;
        kernels->axpy(s->dv_heads + head_row, h->pattern[j], s->dz + at, width);
        kernels->axpy(s->dk_heads + head_row, d[j], s->qr + at, width);
    }
    sum_rows(h, s->dq + at, d, s->kr);
}

static km_status head_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)err;
    const head_work *work = payload;
    const km__back *back = work->back;
    const km_config *config = &back->model->config;
    const int64_t width = config->head_dim, positions = back->n_positions;
    float *scratch = back->attention + worker * 4 * positions;
    head_state h = {.work = work, .back = back};
    h.q_stride = config->n_heads * width;
    h.kv_stride = config->n_kv_heads * width;
    h.window = km__is_windowed(config, work->layer) ? config->sliding_window : positions;
    h.path = back->paths + worker * positions;
    h.scores = scratch;
    h.raw = scratch + positions;
    h.pattern = scratch + 2 * positions;
    h.d = scratch + 3 * positions;
    for (h.head = (int32_t)begin; h.head < end; h.head++) {
        h.kv_offset = h.head / (config->n_heads / config->n_kv_heads) * width;
        for (int64_t node = 0; node < back->n; node++) {
            extend_path(&h, node);
            find_pattern(&h);
            if (work->backward) {
                node_backward(&h);
            } else {
                mix_values(&h);
            }
        }
    }
    return KM_OK;
}

static km_status over_heads(const km__back *back, int32_t layer, bool backward, km_error *err) {
    head_work work = {.back = back, .layer = layer, .backward = backward};
    work.kernels = km_ctx_attention_kernels(back->model->ctx);
    work.sees_scores = km__is_concerned(back, KM_POINT_ATTN_SCORES, layer);
    work.sees_pattern = km__is_concerned(back, KM_POINT_ATTN_PATTERN, layer);
    work.kept_scores = km__kept_values(back, KM_POINT_ATTN_SCORES, layer);
    work.kept_pattern = km__kept_values(back, KM_POINT_ATTN_PATTERN, layer);
    return km_parallel_for(back->model->ctx, back->model->config.n_heads, 1, head_range, &work,
                           err);
}

/* The query heads' shares of one row of keys or values, added up. */
static void add_heads(float *row, const float *shares, const km_config *config) {
    const int64_t width = config->head_dim, group = config->n_heads / config->n_kv_heads;
    memset(row, 0, (size_t)(config->n_kv_heads * width) * sizeof *row);
    for (int64_t head = 0; head < config->n_heads; head++) {
        for (int64_t i = 0; i < width; i++) {
            row[head / group * width + i] += shares[head * width + i];
        }
    }
}

static km_status add_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const km__back *back = payload;
    const km_config *config = &back->model->config;
    const int64_t q = (int64_t)config->n_heads * config->head_dim;
    const int64_t kv = (int64_t)config->n_kv_heads * config->head_dim;
    for (int64_t i = begin; i < end; i++) {
        add_heads(back->s.dk + i * kv, back->s.dk_heads + i * q, config);
        add_heads(back->s.dv + i * kv, back->s.dv_heads + i * q, config);
    }
    return KM_OK;
}

km_status km__attention_again(const km__back *back, int32_t layer, km_error *err) {
    return over_heads(back, layer, false, err);
}

km_status km__attention_backward(const km__back *back, int32_t layer, km_error *err) {
    const km_config *config = &back->model->config;
    const size_t bytes = (size_t)(back->n * config->n_heads * config->head_dim) * sizeof(float);
    memset(back->s.dk_heads, 0, bytes);
    memset(back->s.dv_heads, 0, bytes);
    KM_TRY(over_heads(back, layer, true, err));
    return km__over_rows(back, back->n, add_range, (void *)back, err);
}
