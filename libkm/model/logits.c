/* logits.c: from the residual stream to logits, block of rows by block of rows, and what is read
 * off one row. No more than one block of (rows, V) exists at a time. */
#include <math.h>
#include <string.h>

#include "model/forward_private.h"

/* The block of logits takes at most this many bytes, and at least LEAST_ROWS rows. Larger ones gain
 * nothing, and the C library gives blocks from 32 MiB on back to the system after each pass, which
 * then clears their pages again. */
#define BLOCK_BYTES ((int64_t)24 << 20)
#define LEAST_ROWS 32
#define MOST_ROWS 256

/* With few rows left open, layers are computed together up to this many: fewer make the product
 * wait for memory, more compute what nobody asks for. */
#define LENS_ROWS 32

/* One row of a block: where it comes from and how its visitor knows it. */
typedef struct logits_row {
    const float *x; /* (D) residual stream, or for the output its final norm */
    int64_t token;
    int64_t index; /* in the request's rows or lens_rows; -1: not shown, only read */
    int32_t layer;
    bool first; /* of the output's rows of this token: the one that reads copy */
} logits_row;

typedef struct logits_block {
    const km__pass *pass;
    int64_t n;
    bool output; /* not the lens: rows are normed already, doors apply */
    logits_row rows[MOST_ROWS];
} logits_block;

static km_status norm_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const logits_block *block = payload;
    const km__pass *pass = block->pass;
    const int64_t width = pass->model->config.d_model;
    for (int64_t i = begin; i < end; i++) {
        float *row = pass->work->normed + i * width;
        if (block->output) {
            memcpy(row, block->rows[i].x, (size_t)width * sizeof *row);
        } else {
            km__norm(pass, row, block->rows[i].x, &pass->model->weights.final_norm);
        }
    }
    return KM_OK;
}

static km_status show_row(const logits_block *block, const logits_row *row, float *logits,
                          km_error *err) {
    const km__pass *pass = block->pass;
    const km_config *config = &pass->model->config;
    if (!pass->kernels->all_finite(logits, config->vocab_size)) {
        return KM_SET(err, KM_ENUMERIC,
                      "layer %d: logits of token %lld (position %d) are not finite", row->layer,
                      (long long)row->token, pass->plan.depth[pass->plan.base + row->token]);
    }
    if (config->final_softcap > 0.0f) {
        pass->kernels->softcap(logits, config->final_softcap, config->vocab_size);
    }
    if (block->output && km__is_open(pass, KM_POINT_LOGITS, 0)) {
        km__door_logits(pass, row->token, logits, row->first);
    }
    return row->index < 0 ? KM_OK
                          : pass->request->on_logits(pass->request->payload, row->index, row->layer,
                                                     logits, config->vocab_size, err);
}

static km_status show_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    const logits_block *block = payload;
    const int64_t vocab = block->pass->model->config.vocab_size;
    for (int64_t i = begin; i < end; i++) {
        KM_TRY(show_row(block, &block->rows[i], block->pass->work->logits + i * vocab, err));
    }
    return KM_OK;
}

/* Compute the rows of a block, show them and empty it. */
static km_status show(logits_block *block, km_error *err) {
    const km_model *model = block->pass->model;
    const km__workspace *work = block->pass->work;
    const int64_t width = model->config.d_model, vocab = model->config.vocab_size;
    KM_TRY(km_parallel_for(model->ctx, block->n, 16, norm_range, block, err));
    const km_linear_job job = {work->logits, work->normed, &model->weights.unembed, NULL, vocab,
                               width,        block->n};
    KM_TRY(km_linear_many(model->ctx, &job, 1, err));
    KM_TRY(km_parallel_for(model->ctx, block->n, 1, show_range, block, err));
    block->n = 0;
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

/* The residual stream of the needed rows after the last layer. */
static const float *final_stream(const km__pass *pass) {
    const bool picked = pass->plan.n_needed < pass->plan.tree->n;
    return picked ? pass->work->picked : pass->work->x;
}

static km_status final_norm_range(void *payload, int64_t begin, int64_t end, int worker,
                                  km_error *err) {
    (void)worker;
    (void)err;
    const km__pass *pass = payload;
    const int64_t width = pass->model->config.d_model;
    for (int64_t i = begin; i < end; i++) {
        km__norm(pass, pass->work->h + i * width, final_stream(pass) + i * width,
                 &pass->model->weights.final_norm);
    }
    return KM_OK;
}

/* One row of the output into the block, which is shown when full. seen (n_needed): tokens that have
 * come by. */
static km_status add_output(logits_block *block, bool *seen, int64_t token, int64_t index,
                            km_error *err) {
    const km__pass *pass = block->pass;
    const int64_t row = pass->plan.row_of[token];
    block->rows[block->n++] = (logits_row){pass->work->h + row * pass->model->config.d_model, token,
                                           index, pass->model->config.n_layers, !seen[row]};
    seen[row] = true;
    return block->n == pass->work->logits_rows ? show(block, err) : KM_OK;
}

/* The request's rows, then tokens whose logits are read and were not among them. */
static km_status show_output(logits_block *block, bool *seen, km_error *err) {
    const km__pass *pass = block->pass;
    const km_forward_request *request = pass->request;
    for (int64_t i = 0; i < request->n_rows; i++) {
        KM_TRY(add_output(block, seen, request->rows[i], i, err));
    }
    for (int64_t r = 0; r < request->n_reads; r++) {
        const km_read *read = &request->reads[r];
        const int64_t n = read->point != KM_POINT_LOGITS ? 0
                          : read->nodes == NULL          ? pass->plan.tree->n
                                                         : read->n_nodes;
        for (int64_t i = 0; i < n; i++) {
            const int64_t token = read->nodes == NULL ? i : read->nodes[i];
            if (!seen[pass->plan.row_of[token]]) {
                KM_TRY(add_output(block, seen, token, -1, err));
            }
        }
    }
    return block->n > 0 ? show(block, err) : KM_OK;
}

km_status km__logits_output(const km__pass *pass, km_error *err) {
    km_ctx *ctx = pass->model->ctx;
    const km__rows rows = km__plan_rows(&pass->plan, pass->plan.n_layers - 1);
    logits_block block = {.pass = pass, .output = true};
    bool *seen = NULL;
    if (pass->request->n_rows == 0 && !km__is_open(pass, KM_POINT_FINAL_NORM, 0) &&
        !km__is_open(pass, KM_POINT_LOGITS, 0)) {
        return KM_OK;
    }
    KM_TRY(km_parallel_for(ctx, rows.n, 16, final_norm_range, (void *)(uintptr_t)pass, err));
    KM_TRY(km__door_all(pass, KM_POINT_FINAL_NORM, 0, pass->work->h, &rows, err));
    KM_TRY(km_alloc_array((void **)&seen, ctx, rows.n, sizeof *seen, err));
    km_status status = show_output(&block, seen, err);
    km_free(ctx, seen);
    return status;
}

static float *lens_row(const km__pass *pass, int32_t layer, int64_t index) {
    return pass->work->lens +
           (layer * pass->request->n_lens_rows + index) * pass->model->config.d_model;
}

void km__lens_keep(const km__pass *pass, int32_t layer) {
    const int64_t width = pass->model->config.d_model;
    const km__rows rows = km__plan_rows(&pass->plan, layer);
    const float *x = rows.nodes == NULL ? pass->work->x : pass->work->picked;
    for (int64_t i = 0; i < pass->request->n_lens_rows; i++) {
        const int64_t token = pass->request->lens_rows[i];
        const int64_t row = rows.row_of == NULL ? token : rows.row_of[token];
        memcpy(lens_row(pass, layer, i), x + row * width, (size_t)width * sizeof(float));
    }
}

/* Leave in `open` (n) the rows that still want `layer`; returns how many. */
static int64_t keep_open(int64_t *open, int64_t n, const km_forward_request *request,
                         int32_t layer) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        if (request->lens_open == NULL || request->lens_open(request->payload, open[i], layer)) {
            open[kept++] = open[i];
        }
    }
    return kept;
}

/* Whole layers go into a block together, until it has LENS_ROWS rows or, when every layer is wanted
 * anyway, until it is full. Which rows are open is asked again after each block. */
static km_status show_lens(int64_t *open, logits_block *block, km_error *err) {
    const km__pass *pass = block->pass;
    const km_forward_request *request = pass->request;
    const int64_t size = pass->work->logits_rows;
    const int64_t enough = request->lens_open == NULL || size < LENS_ROWS ? size : LENS_ROWS;
    int64_t n_open = request->n_lens_rows;
    for (int32_t layer = pass->model->config.n_layers - 1; layer >= 0; layer--) {
        n_open = block->n == 0 ? keep_open(open, n_open, request, layer) : n_open;
        for (int64_t i = 0; i < n_open; i++) {
            block->rows[block->n++] = (logits_row){
                lens_row(pass, layer, open[i]), request->lens_rows[open[i]], open[i], layer, false};
            if (block->n == size) {
                KM_TRY(show(block, err));
            }
        }
        if (block->n >= enough) {
            KM_TRY(show(block, err));
        }
    }
    return block->n > 0 ? show(block, err) : KM_OK;
}

km_status km__logits_lens(const km__pass *pass, km_error *err) {
    const int64_t n = pass->request->n_lens_rows;
    logits_block block = {.pass = pass};
    int64_t *open = NULL;
    KM_TRY(km_alloc_array((void **)&open, pass->model->ctx, n, sizeof *open, err));
    for (int64_t i = 0; i < n; i++) {
        open[i] = i;
    }
    km_status status = show_lens(open, &block, err);
    km_free(pass->model->ctx, open);
    return status;
}

/* ---- streams from elsewhere ---- */

typedef struct unembed_work {
    const km__pass pass; /* no more than km__norm needs */
    float *logits, *normed;
    const float *x;
    int32_t layer; /* -1: of no particular one */
} unembed_work;

static km_status norm_stream_range(void *payload, int64_t begin, int64_t end, int worker,
                                   km_error *err) {
    (void)worker;
    (void)err;
    const unembed_work *work = payload;
    const km_model *model = work->pass.model;
    const int64_t width = model->config.d_model;
    for (int64_t i = begin; i < end; i++) {
        km__norm(&work->pass, work->normed + i * width, work->x + i * width,
                 &model->weights.final_norm);
    }
    return KM_OK;
}

static km_status cap_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    const unembed_work *work = payload;
    const km_config *config = &work->pass.model->config;
    for (int64_t i = begin; i < end; i++) {
        float *row = work->logits + i * config->vocab_size;
        if (!work->pass.kernels->all_finite(row, config->vocab_size)) {
            return work->layer < 0
                       ? KM_SET(err, KM_ENUMERIC, "stream %lld: logits are not finite",
                                (long long)i)
                       : KM_SET(err, KM_ENUMERIC, "layer %d: logits are not finite", work->layer);
        }
        if (config->final_softcap > 0.0f) {
            work->pass.kernels->softcap(row, config->final_softcap, config->vocab_size);
        }
    }
    return KM_OK;
}

/* What the head makes of rows that need no norm any more: work->normed, or x itself. */
static km_status unembed(unembed_work *work, const float *rows, int64_t n, km_error *err) {
    const km_model *model = work->pass.model;
    const km_linear_job job = {
        work->logits,          rows, &model->weights.unembed, NULL, model->config.vocab_size,
        model->config.d_model, n};
    KM_TRY(km_linear_many(model->ctx, &job, 1, err));
    return km_parallel_for(model->ctx, n, 1, cap_range, work, err);
}

km_status km__unembed(const km_model *model, float *logits, float *normed, const float *x,
                      int64_t n, int32_t layer, km_error *err) {
    unembed_work work = {
        {.model = model, .kernels = km_ctx_kernels(model->ctx)}, logits, normed, x, layer};
    KM_TRY(km_parallel_for(model->ctx, n, 16, norm_stream_range, &work, err));
    return unembed(&work, normed, n, err);
}

km_status km_model_unembed_into(float *out, const km_model *model, const float *x, int64_t n,
                                bool norm, km_error *err) {
    if (out == NULL || model == NULL || x == NULL || n < 0) {
        return KM_SET(err, KM_EINVAL, "%lld streams cannot be unembedded", (long long)n);
    }
    unembed_work work = {{.model = model, .kernels = km_ctx_kernels(model->ctx)}, out, NULL, x, -1};
    if (!norm) {
        return unembed(&work, x, n, err);
    }
    KM_TRY(km_alloc_array((void **)&work.normed, model->ctx, n,
                          (size_t)model->config.d_model * sizeof(float), err));
    km_status status = km__unembed(model, out, work.normed, x, n, -1, err);
    km_free(model->ctx, work.normed);
    return status;
}

/* ---- what is read off one row ---- */

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
