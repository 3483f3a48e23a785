/* attention.c: each token attends to itself and its ancestors in the tree.
 *
 * Work item: one run of queries (a piece of a chain) and one KV head, whose H/K query heads are
 * stacked into one matrix of R = count * H/K rows. Ancestors lie in a few contiguous ranges of the
 * key matrix, and the ancestor at depth d fills column d - low of the scores, low being the first
 * position any query of the run sees. So memory is R x (positions seen) a worker, however long the
 * sequence, and nothing is copied but the queries.
 *
 * A row's softmax runs over exactly the columns it sees, and its values are added up one key after
 * another from the root on, whichever ranges hold them: the bits of a token's attention depend on
 * its own query and on its ancestors alone.
 */
#include <string.h>

#include "model/forward_private.h"

/* Multiplications below which one run's attention is not worth sharing among threads. */
#define SMALL 30000

typedef struct attention_work {
    const km__pass *pass;
    const km__run *runs;
    int32_t layer;
    const float *keys, *values;
    int64_t window; /* positions a token sees, itself included */
    bool door_scores, door_pattern;
} attention_work;

/* One item: its stacked queries, scores and output. */
typedef struct item {
    const attention_work *work;
    const km__run *run;
    int64_t kv_head;
    int64_t group;     /* query heads a KV head */
    int64_t n_rows;    /* R */
    int64_t low;       /* position of column 0 */
    int64_t n_columns; /* positions low .. that of the run's last query */
    km__range *ranges; /* (n_ranges) from the last to the first */
    int64_t n_ranges;
    float *queries; /* (R, Dh) */
    float *output;  /* (R, Dh) */
    float *scores;  /* (R, n_columns) */
} item;

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Columns begin .. end-1 are what a row sees. */
static int64_t row_end(const item *it, int64_t row) {
    return it->work->pass->plan.depth[it->run->node + row / it->group] + 1 - it->low;
}

static int64_t row_begin(const item *it, int64_t row) {
    return larger(0, row_end(it, row) - it->work->window);
}

static const float *kv_row(const item *it, const float *matrix, int64_t node) {
    const km_config *config = &it->work->pass->model->config;
    return matrix + (node * config->n_kv_heads + it->kv_head) * config->head_dim;
}

/* Scores of KM_MIX_ROWS rows at a time, so that little is computed that no row sees. */
static void score(const item *it) {
    const km__pass *pass = it->work->pass;
    const km_config *config = &pass->model->config;
    const int64_t width = config->head_dim, ld = (int64_t)config->n_kv_heads * width;
    for (int64_t row = 0; row < it->n_rows; row += KM_MIX_ROWS) {
        const int64_t n_rows = smaller(KM_MIX_ROWS, it->n_rows - row);
        const int64_t begin = row_begin(it, row), end = row_end(it, row + n_rows - 1);
        for (int64_t i = 0; i < it->n_ranges; i++) {
            const km__range *r = &it->ranges[i];
            const int64_t column = r->position - it->low;
            const int64_t from = larger(begin, column), to = smaller(end, column + r->count);
            if (from < to) {
                pass->attention->scores(it->scores + row * it->n_columns + from, it->n_columns,
                                        it->queries + row * width, n_rows,
                                        kv_row(it, it->work->keys, r->first + from - column), ld,
                                        to - from, width, config->attn_scale);
            }
        }
    }
}

/* output (n_rows from row on) += values of columns begin .. end-1 */
static void mix_columns(const item *it, int64_t row, int64_t n_rows, int64_t begin, int64_t end) {
    const km__pass *pass = it->work->pass;
    const km_config *config = &pass->model->config;
    const int64_t width = config->head_dim, ld = (int64_t)config->n_kv_heads * width;
    for (int64_t i = it->n_ranges - 1; i >= 0 && begin < end; i--) {
        const km__range *r = &it->ranges[i];
        const int64_t column = r->position - it->low;
        const int64_t from = larger(begin, column), to = smaller(end, column + r->count);
        if (from < to) {
            pass->attention->mix(it->output + row * width, it->scores + row * it->n_columns + from,
                                 it->n_columns, n_rows,
                                 kv_row(it, it->work->values, r->first + from - column), ld,
                                 to - from, width);
        }
    }
}

/* What all rows of a block see together; before and after it each row for itself. */
static void mix(const item *it) {
    for (int64_t row = 0; row < it->n_rows; row += KM_MIX_ROWS) {
        const int64_t n_rows = smaller(KM_MIX_ROWS, it->n_rows - row);
        const int64_t begin = row_begin(it, row + n_rows - 1), end = row_end(it, row);
        if (begin >= end) { /* a window shorter than the block */
            for (int64_t r = row; r < row + n_rows; r++) {
                mix_columns(it, r, 1, row_begin(it, r), row_end(it, r));
            }
            continue;
        }
        for (int64_t r = row; r < row + n_rows; r++) {
            mix_columns(it, r, 1, row_begin(it, r), begin);
        }
        mix_columns(it, row, n_rows, begin, end);
        for (int64_t r = row; r < row + n_rows; r++) {
            mix_columns(it, r, 1, end, row_end(it, r));
        }
    }
}

/* From a row's scores to its pattern, through the doors. */
static km_status normalise_row(const item *it, int64_t row, km_error *err) {
    const attention_work *work = it->work;
    const km__pass *pass = work->pass;
    const km_config *config = &pass->model->config;
    const int64_t begin = row_begin(it, row), end = row_end(it, row);
    const int64_t token = it->run->node + row / it->group - pass->plan.base;
    const int64_t head = it->kv_head * it->group + row % it->group;
    float *scores = it->scores + row * it->n_columns;
    if (!pass->kernels->all_finite(scores + begin, end - begin)) {
        return KM_SET(err, KM_ENUMERIC,
                      "layer %d: attn_scores of token %lld (position %d), head %lld are not finite",
                      work->layer, (long long)token, pass->plan.depth[pass->plan.base + token],
                      (long long)head);
    }
    if (config->attn_softcap > 0.0f) {
        pass->kernels->softcap(scores + begin, config->attn_softcap, end - begin);
    }
    if (work->door_scores) {
        km__door_attention(pass, KM_POINT_ATTN_SCORES, work->layer, token, head, scores + begin,
                           begin + it->low, end + it->low);
    }
    pass->kernels->softmax(scores + begin, end - begin);
    if (work->door_pattern) {
        km__door_attention(pass, KM_POINT_ATTN_PATTERN, work->layer, token, head, scores + begin,
                           begin + it->low, end + it->low);
    }
    return KM_OK;
}

/* q is the run's first query of the KV head's group. */
static km_status run_item(const item *it, float *q, km_error *err) {
    const km_config *config = &it->work->pass->model->config;
    const int64_t stride = (int64_t)config->n_heads * config->head_dim;
    const int64_t width = it->group * config->head_dim;
    const size_t bytes = (size_t)width * sizeof(float);
    for (int64_t i = 0; i < it->run->count; i++) {
        memcpy(it->queries + i * width, q + i * stride, bytes);
    }
    score(it);
    for (int64_t row = 0; row < it->n_rows; row++) {
        KM_TRY(normalise_row(it, row, err));
    }
    memset(it->output, 0, (size_t)it->run->count * bytes);
    mix(it);
    for (int64_t i = 0; i < it->run->count; i++) {
        memcpy(q + i * stride, it->output + i * width, bytes);
    }
    return KM_OK;
}

static km_status attention_range(void *payload, int64_t begin, int64_t end, int worker,
                                 km_error *err) {
    const attention_work *work = payload;
    const km__pass *pass = work->pass;
    const km_config *config = &pass->model->config;
    const int64_t n_kv = config->n_kv_heads, width = config->head_dim;
    const int64_t most_rows = pass->plan.run_max * (config->n_heads / n_kv);
    float *scratch = pass->work->attention + worker * pass->work->attention_floats;
    for (int64_t i = begin; i < end; i++) {
        const km__run *run = &work->runs[i / n_kv];
        const int32_t *depth = pass->plan.depth + run->node;
        item it = {.work = work, .run = run, .kv_head = i % n_kv, .group = config->n_heads / n_kv};
        it.n_rows = run->count * it.group;
        it.low = larger(0, depth[0] + 1 - work->window);
        it.n_columns = depth[run->count - 1] + 1 - it.low;
        it.queries = scratch;
        it.output = it.queries + most_rows * width;
        it.ranges = (km__range *)(void *)(it.output + most_rows * width);
        it.scores = (float *)(void *)(it.ranges + pass->plan.n_positions);
        it.n_ranges = km__plan_ranges(it.ranges, &pass->plan, run->node + run->count - 1, it.low);
        KM_TRY(run_item(
            &it, pass->work->q + (run->row * config->n_heads + it.kv_head * it.group) * width,
            err));
    }
    return KM_OK;
}

km_status km__attention(const km__pass *pass, const km__run *runs, int64_t n_runs, int32_t layer,
                        km_error *err) {
    const km_config *config = &pass->model->config;
    const bool windowed = km__is_windowed(config, layer);
    attention_work work = {.pass = pass,
                           .runs = runs,
                           .layer = layer,
                           .keys = km__keys(pass, layer),
                           .values = km__values(pass, layer),
                           .window = windowed ? config->sliding_window : INT32_MAX,
                           .door_scores = km__is_open(pass, KM_POINT_ATTN_SCORES, layer),
                           .door_pattern = km__is_open(pass, KM_POINT_ATTN_PATTERN, layer)};
    const int64_t n_items = n_runs * config->n_kv_heads;
    const int64_t per_position = 2 * (int64_t)config->n_heads * config->head_dim;
    /* Many short runs go in small batches, so that handing them out costs little. */
    const int64_t grain = n_runs == 1 && runs->count * per_position * pass->plan.n_positions < SMALL
                              ? larger(1, n_items)
                              : 1 + n_items / 512;
    return km_parallel_for(pass->model->ctx, n_items, grain, attention_range, &work, err);
}

int64_t km__attention_floats(const km_config *config, const km__plan *plan) {
    const int64_t rows = plan->run_max * (config->n_heads / config->n_kv_heads);
    const int64_t ranges = (int64_t)(sizeof(km__range) / sizeof(float)) * plan->n_positions;
    return (rows * (2 * (int64_t)config->head_dim + plan->n_positions) + ranges + 15) / 16 * 16;
}
