/* logits.c: from the residual stream to logits, block of rows by block of rows, and what is read
 * off one row. No more than one block of (rows, V) exists at a time. */
#include <math.h>

#include "model/forward_private.h"

/* The block of logits takes at most this many bytes, and at least LEAST_ROWS rows. */
#define BLOCK_BYTES ((int64_t)128 << 20)
#define LEAST_ROWS 32
#define MOST_ROWS 256

typedef struct logits_work {
    const km__pass *pass;
    const float *x;        /* (., D) */
    const int64_t *row_of; /* node -> row of x, or NULL */
    const int64_t *rows;   /* nodes of this block */
    int64_t first;         /* index of rows[0] in the request */
    int32_t layer;
} logits_work;

static km_status norm_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const logits_work *work = payload;
    const km_model *model = work->pass->model;
    const int64_t width = model->config.d_model;
    for (int64_t i = begin; i < end; i++) {
        int64_t row = work->row_of == NULL ? work->rows[i] : work->row_of[work->rows[i]];
        work->pass->kernels->rms_norm(work->pass->work.normed + i * width, work->x + row * width,
                                      model->weights.final_norm, model->config.norm_offset,
                                      model->config.norm_eps, width);
    }
    return KM_OK;
}

static km_status visit_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    const logits_work *work = payload;
    const km_forward_request *request = work->pass->request;
    const int64_t vocab = work->pass->model->config.vocab_size;
    for (int64_t i = begin; i < end; i++) {
        const float *logits = work->pass->work.logits + i * vocab;
        if (!work->pass->kernels->all_finite(logits, vocab)) {
            return KM_SET(
                err, KM_ENUMERIC, "layer %d: logits of token %lld (position %d) are not finite",
                work->layer, (long long)work->rows[i], work->pass->plan.depth[work->rows[i]]);
        }
        KM_TRY(
            request->on_logits(request->payload, work->first + i, work->layer, logits, vocab, err));
    }
    return KM_OK;
}

int64_t km__logits_rows(int64_t n_rows, int64_t vocab) {
    int64_t most = BLOCK_BYTES / (vocab * (int64_t)sizeof(float));
    most = most < LEAST_ROWS ? LEAST_ROWS : most > MOST_ROWS ? MOST_ROWS : most;
    if (n_rows <= most) {
        return n_rows;
    }
    int64_t n_blocks = (n_rows + most - 1) / most;
    return (n_rows + n_blocks - 1) / n_blocks;
}

km_status km__logits(const km__pass *pass, const float *x, const int64_t *row_of,
                     const int64_t *rows, int64_t n_rows, int32_t layer, km_error *err) {
    const km_model *model = pass->model;
    const int64_t width = model->config.d_model, vocab = model->config.vocab_size;
    const int64_t block = km__logits_rows(n_rows, vocab);
    for (int64_t first = 0; first < n_rows; first += block) {
        int64_t n = n_rows - first < block ? n_rows - first : block;
        logits_work work = {pass, x, row_of, rows + first, first, layer};
        KM_TRY(km_parallel_for(model->ctx, n, 16, norm_range, &work, err));
        KM_TRY(km_gemm_nt(model->ctx, pass->work.logits, vocab, pass->work.normed, width,
                          model->weights.unembed, width, n, vocab, width, err));
        KM_TRY(km_parallel_for(model->ctx, n, 1, visit_range, &work, err));
    }
    return KM_OK;
}

double km_logits_logsumexp(const km_model *model, const float *x, int64_t n) {
    const km_kernels *kernels = km_ctx_kernels(model->ctx);
    float largest = kernels->max(x, n);
    if (!isfinite(largest)) {
        return (double)largest; /* empty or all -inf; or some +inf */
    }
    return (double)largest + log(kernels->sum_exp(x, largest, n));
}

int64_t km_logits_rank(const float *x, int64_t n, int64_t index) {
    const float bound = x[index];
    int64_t rank = 0;
    for (int64_t i = 0; i < n; i++) {
        rank += x[i] > bound;
    }
    return rank;
}

int64_t km_logits_argmax(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++) {
        best = x[i] > x[best] ? i : best;
    }
    return best;
}
