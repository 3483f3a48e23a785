/* Choosing the next token from rows of logits: the largest, the k largest, a draw after filters.
 *
 * Every function treats a row by itself, so a row's result does not depend on the rows beside it. A
 * draw is a pure function of the row and of (seed, stream, counter). */
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "km/score.h"
#include "tensor/kernels.h"

/* Below it logits over the temperature leave float32. */
#define LEAST_TEMPERATURE 1e-6

/* ---- the strongest tokens ---- */

/* Whether token a comes before token b: larger logit, then lower id. */
static bool is_stronger(const float *logits, int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
}

/* Restore the heap below `at`. `weakest_on_top` turns the order round. */
static void sift_down(int32_t *heap, int64_t n, int64_t at, const float *logits,
                      bool weakest_on_top) {
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= n) {
            return;
        }
        if (child + 1 < n && is_stronger(logits, heap[child + 1], heap[child]) != weakest_on_top) {
            child++;
        }
        if (is_stronger(logits, heap[child], heap[at]) == weakest_on_top) {
            return;
        }
        int32_t moved = heap[at];
        heap[at] = heap[child];
        heap[child] = moved;
        at = child;
    }
}

static void make_heap(int32_t *heap, int64_t n, const float *logits, bool weakest_on_top) {
    for (int64_t i = n / 2 - 1; i >= 0; i--) {
        sift_down(heap, n, i, logits, weakest_on_top);
    }
}

/* Take the top off the heap; *n shrinks by one. */
static int32_t pop(int32_t *heap, int64_t *n, const float *logits, bool weakest_on_top) {
    int32_t top = heap[0];
    heap[0] = heap[--*n];
    sift_down(heap, *n, 0, logits, weakest_on_top);
    return top;
}

/* The k strongest of n tokens into top (k), best first. */
static void find_top(int32_t *top, int64_t k, const float *logits, int64_t n) {
    for (int64_t i = 0; i < k; i++) {
        top[i] = (int32_t)i;
    }
    make_heap(top, k, logits, true);
    for (int64_t i = k; i < n; i++) {
        if (logits[i] > logits[top[0]]) { /* an equal one has a higher id */
            top[0] = (int32_t)i;
            sift_down(top, k, 0, logits, true);
        }
    }
    for (int64_t left = k; left > 1;) {
        int32_t weakest = pop(top, &left, logits, true);
        top[left] = weakest;
    }
}

/* ---- filters ---- */

static void keep_top_k(float *logits, int64_t n, int64_t k, int32_t *scratch) {
    find_top(scratch, k, logits, n);
    const float least = logits[scratch[k - 1]];
    for (int64_t i = 0; i < n; i++) {
        logits[i] = logits[i] < least ? -INFINITY : logits[i];
    }
}

/* Tokens within `range` of the largest, in rising id, and the sum of exp(x - largest) over them. */
static int64_t gather(int32_t *out, double *mass, const float *logits, int64_t n, float largest,
                      float range) {
    int64_t n_out = 0;
    *mass = 0;
    for (int64_t i = 0; i < n; i++) {
        if (logits[i] >= largest - range && logits[i] > -INFINITY) {
            out[n_out++] = (int32_t)i;
            *mass += exp((double)(logits[i] - largest));
        }
    }
    return n_out;
}

/* The set kept is made of the strongest tokens, of which there are few: look for it among those
 * near the largest first. */
static void keep_top_p(float *logits, int64_t n, double top_p, float largest, double total,
                       int32_t *scratch) {
    double mass = 0, stronger = 0;
    int64_t left = 0;
    for (float range = 4; left == 0 || (mass < top_p * total && range < 512); range *= 2) {
        left = gather(scratch, &mass, logits, n, largest, range);
    }
    if (mass < top_p * total) {
        left = gather(scratch, &mass, logits, n, largest, INFINITY);
    }
    int32_t weakest = scratch[0];
    make_heap(scratch, left, logits, false);
    while (left > 0 && stronger < top_p * total) {
        weakest = pop(scratch, &left, logits, false);
        stronger += exp((double)(logits[weakest] - largest));
    }
    const float least = logits[weakest];
    for (int32_t i = 0; i < n; i++) {
        if (logits[i] < least || (logits[i] == least && i > weakest)) {
            logits[i] = -INFINITY;
        }
    }
}

static void keep_min_p(float *logits, int64_t n, double min_p, float largest) {
    for (int64_t i = 0; i < n; i++) {
        logits[i] = exp((double)(logits[i] - largest)) < min_p ? -INFINITY : logits[i];
    }
}

static km_status check_sampling(const km_sampling *s, km_error *err) {
    if (!(s->temperature >= LEAST_TEMPERATURE) || !isfinite(s->temperature)) {
        return KM_SET(err, KM_EINVAL, "temperature is %g; it must be at least %g and finite",
                      s->temperature, LEAST_TEMPERATURE);
    }
    if (s->top_k < 0) {
        return KM_SET(err, KM_EINVAL, "top_k is %lld; it must not be negative",
                      (long long)s->top_k);
    }
    if (!(s->top_p > 0 && s->top_p <= 1)) {
        return KM_SET(err, KM_EINVAL, "top_p is %g; it must be in (0, 1]", s->top_p);
    }
    if (!(s->min_p >= 0 && s->min_p <= 1)) {
        return KM_SET(err, KM_EINVAL, "min_p is %g; it must be in [0, 1]", s->min_p);
    }
    return KM_OK;
}

/* scratch (n) */
static void filter_row(float *logits, int64_t n, const km_sampling *s, const km_kernels *kernels,
                       int32_t *scratch) {
    const float temperature = (float)s->temperature;
    for (int64_t i = 0; temperature != 1.0f && i < n; i++) {
        logits[i] /= temperature;
    }
    const float largest = kernels->max(logits, n);
    if (s->top_k > 0 && s->top_k < n) {
        keep_top_k(logits, n, s->top_k, scratch);
    }
    if (s->top_p < 1) {
        keep_top_p(logits, n, s->top_p, largest, kernels->sum_exp(logits, largest, n), scratch);
    }
    if (s->min_p > 0) {
        keep_min_p(logits, n, s->min_p, largest);
    }
}

km_status km_sampling_filter(float *logits, int64_t n, const km_sampling *sampling, km_ctx *ctx,
                             km_error *err) {
    int32_t *scratch = NULL;
    KM_TRY(check_sampling(sampling, err));
    if (n < 1 || n > INT32_MAX || !km_ctx_kernels(ctx)->all_finite(logits, n)) {
        return KM_SET(err, KM_EINVAL, "a row of logits is empty or holds NaN or infinity");
    }
    KM_TRY(km_alloc_array((void **)&scratch, ctx, n, sizeof *scratch, err));
    filter_row(logits, n, sampling, km_ctx_kernels(ctx), scratch);
    km_free(ctx, scratch);
    return KM_OK;
}

/* ---- rows ---- */

typedef struct row_work {
    const km_model *model;
    const float *logits;   /* (B, V) */
    int32_t *ids;          /* (B, k) */
    const int32_t *wanted; /* (B) */
    double *logprobs;      /* (B, k) */
    float *out;            /* (B, V) */
    int64_t k;
    const km_sampling *sampling;
    uint64_t seed;
    const uint64_t *streams, *counters;
    float *filtered;  /* (workers, V) */
    int32_t *scratch; /* (workers, V) */
} row_work;

static int64_t vocab_of(const row_work *work) {
    return km_model_config(work->model)->vocab_size;
}

static km_status over_rows(const row_work *work, int64_t n, km_range_fn fn, km_error *err) {
    return km_parallel_for(km_model_ctx(work->model), n, 1, fn, (void *)work, err);
}

static km_status top_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const row_work *work = payload;
    const int64_t vocab = vocab_of(work);
    (void)worker;
    (void)err;
    for (int64_t i = begin; i < end; i++) {
        const float *row = work->logits + i * vocab;
        const double lse = km_logits_logsumexp(work->model, row, vocab);
        int32_t *ids = work->ids + i * work->k;
        find_top(ids, work->k, row, vocab);
        for (int64_t j = 0; j < work->k; j++) {
            work->logprobs[i * work->k + j] = (double)row[ids[j]] - lse;
        }
    }
    return KM_OK;
}

km_status km_rows_top(int32_t *ids, double *logprobs, const float *logits, int64_t n_rows,
                      int64_t k, const km_model *model, km_error *err) {
    const row_work work = {
        .model = model, .logits = logits, .ids = ids, .logprobs = logprobs, .k = k};
    if (k < 1 || k > vocab_of(&work)) {
        return KM_SET(err, KM_ERANGE, "%lld tokens are wanted of a vocabulary of %lld",
                      (long long)k, (long long)vocab_of(&work));
    }
    return over_rows(&work, n_rows, top_range, err);
}

km_status km_rows_argmax(int32_t *ids, double *logprobs, const float *logits, int64_t n_rows,
                         const km_model *model, km_error *err) {
    return km_rows_top(ids, logprobs, logits, n_rows, 1, model, err);
}

static km_status at_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const row_work *work = payload;
    const int64_t vocab = vocab_of(work);
    (void)worker;
    (void)err;
    for (int64_t i = begin; i < end; i++) {
        const float *row = work->logits + i * vocab;
        work->logprobs[i] =
            (double)row[work->wanted[i]] - km_logits_logsumexp(work->model, row, vocab);
    }
    return KM_OK;
}

km_status km_rows_at(double *logprobs, const int32_t *ids, const float *logits, int64_t n_rows,
                     const km_model *model, km_error *err) {
    const row_work work = {.model = model, .logits = logits, .wanted = ids, .logprobs = logprobs};
    for (int64_t i = 0; i < n_rows; i++) {
        if (ids[i] < 0 || ids[i] >= vocab_of(&work)) {
            return KM_SET(err, KM_ERANGE, "ids[%lld] is %d; the vocabulary has %lld tokens",
                          (long long)i, ids[i], (long long)vocab_of(&work));
        }
    }
    return over_rows(&work, n_rows, at_range, err);
}

#define DRAW_BLOCK 1024

static int64_t block_length(int64_t n, int64_t begin) {
    return n - begin < DRAW_BLOCK ? n - begin : DRAW_BLOCK;
}

/* The first token of [begin, end) at which the sum, beginning with `sum`, exceeds `bound`; the last
 * possible one where rounding leaves the sum below it. */
static int32_t draw_in_block(const float *logits, int64_t begin, int64_t end, float largest,
                             double sum, double bound) {
    int64_t last = begin;
    for (int64_t i = begin; i < end && sum <= bound; i++) {
        if (logits[i] > -INFINITY) {
            sum += exp((double)(logits[i] - largest));
            last = i;
        }
    }
    return (int32_t)last;
}

/* The first token at which the cumulated probability exceeds u: by blocks, then inside one. */
static int32_t draw(const float *logits, int64_t n, double u, const km_kernels *kernels) {
    const float largest = kernels->max(logits, n);
    double total = 0, sum = 0, before = 0;
    int64_t start = 0; /* the last block that holds a possible token, and the sum before it */
    for (int64_t i = 0; i < n; i += DRAW_BLOCK) {
        total += kernels->sum_exp(logits + i, largest, block_length(n, i));
    }
    for (int64_t i = 0; i < n && sum <= u * total; i += DRAW_BLOCK) {
        const double next = sum + kernels->sum_exp(logits + i, largest, block_length(n, i));
        if (next > sum) {
            start = i;
            before = sum;
        }
        sum = next;
    }
    const int64_t end = start + block_length(n, start);
    return draw_in_block(logits, start, end, largest, before, u * total);
}

static km_status sample_range(void *payload, int64_t begin, int64_t end, int worker,
                              km_error *err) {
    const row_work *work = payload;
    const int64_t vocab = vocab_of(work);
    const km_kernels *kernels = km_ctx_kernels(km_model_ctx(work->model));
    float *filtered = work->filtered + worker * vocab;
    (void)err;
    for (int64_t i = begin; i < end; i++) {
        const float *row = work->logits + i * vocab;
        memcpy(filtered, row, (size_t)vocab * sizeof *row);
        filter_row(filtered, vocab, work->sampling, kernels, work->scratch + worker * vocab);
        const double u = km_random_uniform(work->seed, work->streams[i], work->counters[i]);
        work->ids[i] = draw(filtered, vocab, u, kernels);
        work->logprobs[i] =
            (double)row[work->ids[i]] - km_logits_logsumexp(work->model, row, vocab);
    }
    return KM_OK;
}

km_status km_rows_sample(int32_t *ids, double *logprobs, const float *logits, int64_t n_rows,
                         const km_sampling *sampling, uint64_t seed, const uint64_t *streams,
                         const uint64_t *counters, const km_model *model, km_error *err) {
    km_status status = KM_OK;
    km_ctx *ctx = km_model_ctx(model);
    row_work work = {.model = model,
                     .logits = logits,
                     .ids = ids,
                     .logprobs = logprobs,
                     .sampling = sampling,
                     .seed = seed,
                     .streams = streams,
                     .counters = counters};
    const int64_t n = vocab_of(&work) * km_ctx_threads(ctx);
    KM_TRY(check_sampling(sampling, err));
    KM_GO(km_alloc_array((void **)&work.filtered, ctx, n, sizeof *work.filtered, err));
    KM_GO(km_alloc_array((void **)&work.scratch, ctx, n, sizeof *work.scratch, err));
    KM_GO(over_rows(&work, n_rows, sample_range, err));
done:
    km_free(ctx, work.filtered);
    km_free(ctx, work.scratch);
    return status;
}

static km_status logprob_range(void *payload, int64_t begin, int64_t end, int worker,
                               km_error *err) {
    const row_work *work = payload;
    const int64_t vocab = vocab_of(work);
    (void)worker;
    (void)err;
    for (int64_t i = begin; i < end; i++) {
        const float *row = work->logits + i * vocab;
        const double lse = km_logits_logsumexp(work->model, row, vocab);
        for (int64_t v = 0; v < vocab; v++) {
            work->out[i * vocab + v] = (float)((double)row[v] - lse);
        }
    }
    return KM_OK;
}

km_status km_rows_logprobs_into(float *out, const float *logits, int64_t n_rows,
                                const km_model *model, km_error *err) {
    const row_work work = {.model = model, .logits = logits, .out = out};
    return over_rows(&work, n_rows, logprob_range, err);
}
