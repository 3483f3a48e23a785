/* gradient_attention.c: attention of one layer again, and its derivative.
 *
 * Work item: one query head over one tree of the forest, run of queries after run of queries, so
 * that a head's share of the derivatives of keys and values is added up by one worker in rising
 * order of tokens; the shares of the heads of one KV head are then added in rising order. A run's
 * scores, patterns and derivatives are matrices (R, C) over its R queries and the C positions from
 * the first that any of them sees to its own last; they are zero where a query does not see.
 */
#include <math.h>
#include <string.h>

#include "model/gradient_private.h"

typedef struct head_work {
    const km__back *back;
    int32_t layer;
    bool backward;
    int64_t window;
    const km_attention_kernels *kernels;
    bool sees_scores, sees_pattern; /* a gradient or a patch concerns them */
    /* What patches made of scores and patterns, (T, H, P) each, or NULL. */
    const float *kept_scores, *kept_pattern;
} head_work;

/* One run of queries of one head. */
typedef struct queries {
    const head_work *work;
    const km__back *back;
    int32_t head;
    int64_t width, q_stride, kv_stride;
    int64_t kv_offset; /* of the KV head within a row of keys and values */
    int64_t node, n;   /* nodes node .. node+n-1; R = n */
    int64_t low, columns;
    km__range *ranges; /* (n_ranges) deepest first */
    int64_t n_ranges;
    float *q, *dz, *out;     /* (R, Dh) */
    float *row;              /* (P) one row over all positions */
    float *scores, *pattern; /* (R, C); scores: soft-capped, before patches */
    float *raw;              /* (R, C) the softmax before patches; may be `pattern` */
    float *d;                /* (R, C) */
    float *turned;           /* (C, R) */
} queries;

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* ---- products over what is seen ---- */

/* Columns begin .. end-1 are what query i sees. */
static int64_t row_end(const queries *u, int64_t i) {
    return u->back->plan.depth[u->node + i] + 1 - u->low;
}

static int64_t row_begin(const queries *u, int64_t i) {
    return larger(0, row_end(u, i) - u->work->window);
}

/* The key or value of `node`. */
static const float *kv_row(const queries *u, const float *matrix, int64_t node) {
    return matrix + node * u->kv_stride + u->kv_offset;
}

/* out (R, C) = scale * rows (R, Dh) . keys or values */
static void dot_rows(const queries *u, float *out, const float *rows, const float *matrix,
                     float scale) {
    for (int64_t i = 0; i < u->n; i += KM_MIX_ROWS) {
        const int64_t n = smaller(KM_MIX_ROWS, u->n - i);
        const int64_t begin = row_begin(u, i), end = row_end(u, i + n - 1);
        for (int64_t k = 0; k < u->n_ranges; k++) {
            const km__range *r = &u->ranges[k];
            const int64_t column = r->position - u->low;
            const int64_t from = larger(begin, column), to = smaller(end, column + r->count);
            if (from < to) {
                u->work->kernels->scores(out + i * u->columns + from, u->columns,
                                         rows + i * u->width, n,
                                         kv_row(u, matrix, r->first + from - column), u->kv_stride,
                                         to - from, u->width, scale);
            }
        }
    }
}

/* u->out (R, Dh) = weights (R, C) times keys or values */
static void mix_rows(const queries *u, const float *weights, const float *matrix) {
    memset(u->out, 0, (size_t)(u->n * u->width) * sizeof *u->out);
    for (int64_t i = 0; i < u->n; i += KM_MIX_ROWS) {
        const int64_t n = smaller(KM_MIX_ROWS, u->n - i);
        const int64_t begin = row_begin(u, i), end = row_end(u, i + n - 1);
        for (int64_t k = u->n_ranges - 1; k >= 0; k--) {
            const km__range *r = &u->ranges[k];
            const int64_t column = r->position - u->low;
            const int64_t from = larger(begin, column), to = smaller(end, column + r->count);
            if (from < to) {
                u->work->kernels->mix(u->out + i * u->width, weights + i * u->columns + from,
                                      u->columns, n, kv_row(u, matrix, r->first + from - column),
                                      u->kv_stride, to - from, u->width);
            }
        }
    }
}

/* shares (T, Dh) of the nodes seen += weights (R, C)^T rows (R, Dh) */
static void add_shares(const queries *u, float *shares, const float *weights, const float *rows) {
    const int64_t n = u->n, ahead = row_end(u, 0) - 1; /* column of the first query itself */
    for (int64_t i = 0; i < n; i++) {
        for (int64_t c = 0; c < u->columns; c++) {
            u->turned[c * n + i] = weights[i * u->columns + c];
        }
    }
    for (int64_t k = 0; k < u->n_ranges; k++) {
        const km__range *r = &u->ranges[k];
        const int64_t column = r->position - u->low;
        for (int64_t c = 0; c < r->count; c += KM_MIX_ROWS) {
            const int64_t first = larger(0, column + c - ahead); /* query that sees the column */
            u->work->kernels->mix(shares + (r->first + c) * u->width,
                                  u->turned + (column + c) * n + first, n,
                                  smaller(KM_MIX_ROWS, r->count - c), rows + first * u->width,
                                  u->width, n - first, u->width);
        }
    }
}

static void gather(const queries *u, float *out, const float *rows) {
    const float *first = rows + u->node * u->q_stride + u->head * u->width;
    for (int64_t i = 0; i < u->n; i++) {
        memcpy(out + i * u->width, first + i * u->q_stride, (size_t)u->width * sizeof *out);
    }
}

static void scatter(const queries *u, float *rows) {
    float *first = rows + u->node * u->q_stride + u->head * u->width;
    for (int64_t i = 0; i < u->n; i++) {
        memcpy(first + i * u->q_stride, u->out + i * u->width, (size_t)u->width * sizeof *rows);
    }
}

/* ---- the pattern ---- */

/* Columns from `begin` on of query i in a (T, H, P) array. */
static const float *kept_row(const queries *u, const float *values, int64_t i, int64_t begin) {
    const int64_t row = (u->node + i) * u->back->model->config.n_heads + u->head;
    return values + row * u->back->n_positions + u->low + begin;
}

static void blank(const queries *u, float *row, int64_t begin, int64_t end) {
    memset(row, 0, (size_t)begin * sizeof *row);
    memset(row + end, 0, (size_t)(u->columns - end) * sizeof *row);
}

static void find_row(const queries *u, int64_t i) {
    const float cap = u->back->model->config.attn_softcap;
    const int64_t at = i * u->columns, begin = row_begin(u, i), end = row_end(u, i);
    const size_t bytes = (size_t)(end - begin) * sizeof(float);
    float *raw = u->raw + at + begin;
    if (cap > 0.0f) {
        u->back->kernels->softcap(raw, cap, end - begin);
        memcpy(u->scores + at + begin, raw, bytes);
    }
    if (u->work->kept_scores != NULL) {
        memcpy(raw, kept_row(u, u->work->kept_scores, i, begin), bytes);
    }
    u->back->kernels->softmax(raw, end - begin);
    if (u->work->kept_pattern != NULL) {
        memcpy(u->pattern + at + begin, kept_row(u, u->work->kept_pattern, i, begin), bytes);
    }
    blank(u, u->pattern + at, begin, end);
}

static void find_pattern(const queries *u) {
    gather(u, u->q, u->back->s.qr);
    dot_rows(u, u->raw, u->q, u->back->s.kr, u->back->model->config.attn_scale);
    for (int64_t i = 0; i < u->n; i++) {
        find_row(u, i);
    }
}

/* ---- the derivative ---- */

/* Derivatives are handed out, and taken back through patches, as whole rows of P positions. */
static void pass_row(const queries *u, km_point point, int64_t i, int64_t begin, int64_t n) {
    float *d = u->d + i * u->columns + begin;
    memset(u->row, 0, (size_t)u->back->n_positions * sizeof *u->row);
    memcpy(u->row + u->low + begin, d, (size_t)n * sizeof *d);
    km__pass_row(u->back, point, u->work->layer, u->node + i, u->head, u->row,
                 u->back->n_positions);
    memcpy(d, u->row + u->low + begin, (size_t)n * sizeof *d);
}

/* From the derivative of a row of the pattern to that of the product of query and keys. */
static void row_backward(const queries *u, int64_t i) {
    const km_config *config = &u->back->model->config;
    const int64_t at = i * u->columns, begin = row_begin(u, i), n = row_end(u, i) - begin;
    float *d = u->d + at + begin;
    if (u->work->sees_pattern) {
        pass_row(u, KM_POINT_ATTN_PATTERN, i, begin, n);
    }
    km__softmax_backward(d, u->raw + at + begin, n);
    if (u->work->sees_scores) {
        pass_row(u, KM_POINT_ATTN_SCORES, i, begin, n);
    }
    if (config->attn_softcap > 0.0f) {
        km__softcap_backward(d, u->scores + at + begin, config->attn_softcap, n);
    }
    for (int64_t c = 0; c < n; c++) {
        d[c] *= config->attn_scale;
    }
    blank(u, u->d + at, begin, begin + n);
}

static void queries_backward(const queries *u) {
    const km__layer_state *s = &u->back->s;
    const int64_t share = u->head * u->back->n * u->width;
    gather(u, u->dz, s->dz);
    dot_rows(u, u->d, u->dz, s->v, 1.0f);
    for (int64_t i = 0; i < u->n; i++) {
        row_backward(u, i);
    }
    add_shares(u, s->dv_heads + share, u->pattern, u->dz);
    add_shares(u, s->dk_heads + share, u->d, u->q);
    mix_rows(u, u->d, s->kr);
    scatter(u, s->dq);
}

/* ---- heads and trees ---- */

/* Most elements that the scores of a run of one head can have. */
static int64_t scores_floats(const km_config *config, int64_t positions) {
    const int64_t group = config->n_heads / config->n_kv_heads;
    return smaller(KM_MOST_RUN * positions,
                   larger(KM_RUN_SCORES / group, KM_LEAST_RUN * positions));
}

/* Set up the buffers of a worker. */
static queries place_queries(const head_work *work, int worker) {
    const km__back *back = work->back;
    const km_config *config = &back->model->config;
    const int64_t rows = KM_MOST_RUN, all = scores_floats(config, back->n_positions);
    queries u = {.work = work, .back = back, .width = config->head_dim};
    u.q_stride = config->n_heads * u.width;
    u.kv_stride = config->n_kv_heads * u.width;
    u.ranges = (km__range *)(void *)(back->attention + worker * back->attention_floats);
    u.q = (float *)(void *)(u.ranges + back->n_positions);
    u.dz = u.q + rows * u.width;
    u.out = u.dz + rows * u.width;
    u.scores = u.out + rows * u.width;
    u.raw = u.scores + all;
    u.d = u.raw + all;
    u.turned = u.d + all;
    u.pattern = work->kept_pattern != NULL ? u.turned + all : u.raw;
    u.row = u.turned + 2 * all;
    return u;
}

int64_t km__attention_back_floats(const km_config *config, int64_t positions) {
    const int64_t ranges = (int64_t)(sizeof(km__range) / sizeof(float));
    const int64_t floats = 3 * KM_MOST_RUN * (int64_t)config->head_dim +
                           5 * scores_floats(config, positions) + (1 + ranges) * positions;
    return (floats + 15) / 16 * 16;
}

static void find_run(queries *u, const km__run *run) {
    const km__plan *plan = &u->back->plan;
    u->node = run->node;
    u->n = run->count;
    u->low = larger(0, plan->depth[run->node] + 1 - u->work->window);
    u->columns = plan->depth[run->node + run->count - 1] + 1 - u->low;
    u->n_ranges = km__plan_ranges(u->ranges, plan, run->node + run->count - 1, u->low);
}

/* One head over one tree. */
static void run_item(queries *u, int64_t tree) {
    const km__back *back = u->back;
    const int64_t share = u->head * back->n * u->width;
    const int64_t begin = back->tree_runs[tree], end = back->tree_runs[tree + 1];
    for (int64_t r = begin; u->work->backward && r < end; r++) {
        const int64_t at = share + back->runs[r].node * u->width;
        const size_t bytes = (size_t)(back->runs[r].count * u->width) * sizeof(float);
        memset(back->s.dk_heads + at, 0, bytes);
        memset(back->s.dv_heads + at, 0, bytes);
    }
    for (int64_t r = begin; r < end; r++) {
        find_run(u, &back->runs[r]);
        find_pattern(u);
        if (u->work->backward) {
            queries_backward(u);
        } else {
            mix_rows(u, u->pattern, back->s.v);
            scatter(u, back->s.z);
        }
    }
}

static km_status item_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)err;
    const head_work *work = payload;
    const km_config *config = &work->back->model->config;
    queries u = place_queries(work, worker);
    for (int64_t item = begin; item < end; item++) {
        u.head = (int32_t)(item % config->n_heads);
        u.kv_offset = u.head / (config->n_heads / config->n_kv_heads) * u.width;
        run_item(&u, item / config->n_heads);
    }
    return KM_OK;
}

static km_status over_heads(const km__back *back, int32_t layer, bool backward, km_error *err) {
    const km_config *config = &back->model->config;
    head_work work = {.back = back, .layer = layer, .backward = backward};
    work.window = km__is_windowed(config, layer) ? config->sliding_window : back->n_positions;
    work.kernels = km_ctx_attention_kernels(back->model->ctx);
    work.sees_scores = km__is_concerned(back, KM_POINT_ATTN_SCORES, layer);
    work.sees_pattern = km__is_concerned(back, KM_POINT_ATTN_PATTERN, layer);
    work.kept_scores = km__kept_values(back, KM_POINT_ATTN_SCORES, layer);
    work.kept_pattern = km__kept_values(back, KM_POINT_ATTN_PATTERN, layer);
    return km_parallel_for(back->model->ctx, back->n_trees * config->n_heads, 1, item_range, &work,
                           err);
}

/* Row i of keys or values: the shares of the query heads, added up. */
static void add_heads(const km__back *back, float *row, const float *shares, int64_t i) {
    const km_config *config = &back->model->config;
    const int64_t width = config->head_dim, group = config->n_heads / config->n_kv_heads;
    memset(row, 0, (size_t)(config->n_kv_heads * width) * sizeof *row);
    for (int64_t head = 0; head < config->n_heads; head++) {
        back->kernels->axpy(row + head / group * width, 1.0f, shares + (head * back->n + i) * width,
                            width);
    }
}

static km_status add_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const km__back *back = payload;
    const km_config *config = &back->model->config;
    const int64_t kv = (int64_t)config->n_kv_heads * config->head_dim;
    for (int64_t i = begin; i < end; i++) {
        add_heads(back, back->s.dk + i * kv, back->s.dk_heads, i);
        add_heads(back, back->s.dv + i * kv, back->s.dv_heads, i);
    }
    return KM_OK;
}

km_status km__attention_again(const km__back *back, int32_t layer, km_error *err) {
    return over_heads(back, layer, false, err);
}

km_status km__attention_backward(const km__back *back, int32_t layer, km_error *err) {
    KM_TRY(over_heads(back, layer, true, err));
    return km__over_rows(back, back->n, add_range, (void *)back, err);
}
