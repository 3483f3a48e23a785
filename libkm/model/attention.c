/* attention.c: each token attends to itself and its ancestors in the tree.
 *
 * Work item: one run of queries (a piece of a chain) and one KV head, whose H/K query heads are
 * stacked into one matrix of R = count * H/K rows. Ancestors lie in a few contiguous ranges of the
 * key matrix, and the ancestor at depth d fills column d - low of the scores, low being the first
 * position any query of the run sees. So memory is R x (positions seen) a worker, however long the
 * sequence, and nothing is copied but the queries. Long products go to BLAS, short ones to the
 * kernels; the shape alone decides.
 */
#include <cblas.h>
#include <string.h>

#include "model/forward_private.h"

/* Below this many scores a BLAS call costs more than it saves. */
#define BLAS_SCORES 96

typedef struct attention_work {
    const km__pass *pass;
    const km__run *runs;
    bool windowed;
} attention_work;

/* One item: its stacked queries, scores and output. */
typedef struct item {
    const km__pass *pass;
    const km__run *run;
    int64_t group;      /* query heads a KV head */
    int64_t n_rows;     /* R */
    int64_t low;        /* position of column 0 */
    int64_t n_columns;  /* positions low .. that of the run's last query */
    int64_t key_offset; /* of the KV head within a row of k and v */
    int64_t key_stride; /* K*Dh */
    int64_t window;     /* positions a query sees, itself included */
    float *queries;     /* (R, Dh) */
    float *scores;      /* (R, n_columns) */
    float *output;      /* (R, Dh) */
} item;

/* Ancestor nodes first .. first+count-1, in columns column .. column+count-1. */
typedef struct range {
    int64_t first, count, column;
} range;

static void score_range(const item *it, const range *r) {
    const km_config *config = &it->pass->model->config;
    const int64_t width = config->head_dim;
    const float *keys = it->pass->work.k + r->first * it->key_stride + it->key_offset;
    float *scores = it->scores + r->column;
    if (it->n_rows * r->count >= BLAS_SCORES) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)it->n_rows, (int)r->count,
                    (int)width, config->attn_scale, it->queries, (int)width, keys,
                    (int)it->key_stride, 0.0f, scores, (int)it->n_columns);
        return;
    }
    for (int64_t row = 0; row < it->n_rows; row++) {
        for (int64_t i = 0; i < r->count; i++) {
            scores[row * it->n_columns + i] =
                config->attn_scale *
                it->pass->kernels->dot(it->queries + row * width, keys + i * it->key_stride, width);
        }
    }
}

static void mix_range(const item *it, const range *r) {
    const int64_t width = it->pass->model->config.head_dim;
    const float *values = it->pass->work.v + r->first * it->key_stride + it->key_offset;
    const float *weights = it->scores + r->column;
    if (it->n_rows * r->count >= BLAS_SCORES) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)it->n_rows, (int)width,
                    (int)r->count, 1.0f, weights, (int)it->n_columns, values, (int)it->key_stride,
                    1.0f, it->output, (int)width);
        return;
    }
    for (int64_t row = 0; row < it->n_rows; row++) {
        for (int64_t i = 0; i < r->count; i++) {
            it->pass->kernels->axpy(it->output + row * width, weights[row * it->n_columns + i],
                                    values + i * it->key_stride, width);
        }
    }
}

/* Visit the ranges of the run and its ancestors from the deepest up to position `low`. */
static void for_ranges(const item *it, void (*visit)(const item *it, const range *r)) {
    const km__plan *plan = &it->pass->plan;
    int64_t last = it->run->node + it->run->count - 1;
    while (last >= 0 && plan->depth[last] >= it->low) {
        int64_t first = plan->segment_start[last];
        if (plan->depth[first] < it->low) {
            first += it->low - plan->depth[first];
        }
        range r = {first, last - first + 1, plan->depth[first] - it->low};
        visit(it, &r);
        last = plan->tree->parent[plan->segment_start[last]];
    }
}

/* Softmax over the columns a row sees; the others become zero. */
static void normalise_rows(const item *it) {
    for (int64_t row = 0; row < it->n_rows; row++) {
        int64_t position = it->pass->plan.depth[it->run->node + row / it->group];
        int64_t begin = position + 1 - it->window - it->low, end = position + 1 - it->low;
        float *scores = it->scores + row * it->n_columns;
        begin = begin > 0 ? begin : 0;
        it->pass->kernels->softmax(scores + begin, end - begin);
        memset(scores, 0, (size_t)begin * sizeof(float));
        memset(scores + end, 0, (size_t)(it->n_columns - end) * sizeof(float));
    }
}

static void run_item(const item *it, float *q) {
    const km_config *config = &it->pass->model->config;
    const int64_t stride = (int64_t)config->n_heads * config->head_dim;
    const int64_t width = it->group * config->head_dim;
    const size_t bytes = (size_t)width * sizeof(float);
    for (int64_t i = 0; i < it->run->count; i++) {
        memcpy(it->queries + i * width, q + i * stride, bytes);
    }
    for_ranges(it, score_range);
    normalise_rows(it);
    memset(it->output, 0, (size_t)it->run->count * bytes);
    for_ranges(it, mix_range);
    for (int64_t i = 0; i < it->run->count; i++) {
        memcpy(q + i * stride, it->output + i * width, bytes);
    }
}

static km_status attention_range(void *payload, int64_t begin, int64_t end, int worker,
                                 km_error *err) {
    (void)err;
    const attention_work *work = payload;
    const km__pass *pass = work->pass;
    const km_config *config = &pass->model->config;
    const int64_t n_kv = config->n_kv_heads, width = config->head_dim;
    float *scratch = pass->work.attention + worker * pass->work.attention_floats;
    for (int64_t i = begin; i < end; i++) {
        const km__run *run = &work->runs[i / n_kv];
        const int32_t *depth = pass->plan.depth + run->node;
        item it = {.pass = pass, .run = run, .group = config->n_heads / n_kv};
        it.n_rows = run->count * it.group;
        it.window = work->windowed ? config->sliding_window : (int64_t)pass->plan.n_positions;
        it.low = depth[0] + 1 > it.window ? depth[0] + 1 - it.window : 0;
        it.n_columns = depth[run->count - 1] + 1 - it.low;
        it.key_offset = i % n_kv * width;
        it.key_stride = n_kv * width;
        it.queries = scratch;
        it.output = it.queries + KM_RUN_MAX * it.group * width;
        it.scores = it.output + KM_RUN_MAX * it.group * width;
        run_item(&it, pass->work.q + (run->row * config->n_heads + i % n_kv * it.group) * width);
    }
    return KM_OK;
}

km_status km__attention(const km__pass *pass, const km__run *runs, int64_t n_runs, bool windowed,
                        km_error *err) {
    attention_work work = {pass, runs, windowed};
    const int64_t n_items = n_runs * pass->model->config.n_kv_heads;
    /* Many short runs go in small batches, so that handing them out costs little. */
    return km_parallel_for(pass->model->ctx, n_items, 1 + n_items / 512, attention_range, &work,
                           err);
}

int64_t km__attention_floats(const km_config *config, int32_t n_positions) {
    const int64_t group = config->n_heads / config->n_kv_heads;
    return KM_RUN_MAX * group * (2 * (int64_t)config->head_dim + n_positions);
}
