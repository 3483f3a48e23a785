/* linear.c: products with stored matrices, and the product of the backward pass.
 *
 * A product is cut into units: a panel of rows of w that is converted to float32 in the worker's
 * scratch memory, or used where it lies, times a chunk of rows of x. A single row of x is
 * multiplied while the weights are converted in registers. An element of the product does not
 * depend on the unit it falls into.
 */
#include <stdbool.h>
#include <string.h>

#include "tensor/linear_private.h"

#define PANEL_BYTES 294912 /* of a panel as float32: with rows of x, in a second-level cache */
#define MAX_PANEL_ROWS 48
/* For a single row of x: at least so many rows of w, and so many units a thread. Long units let
 * each thread read memory in one stream; elements do not depend on the cut. */
#define ONE_ROW_LEAST 24
#define ONE_ROW_UNITS 2
#define CHUNK_ROWS 256 /* of x: what one conversion of a panel is used for */

/* ---- panels of converted weights ---- */

/* Floats from one row of a panel to the next. Rows that lie a multiple of 1 KiB apart would compete
 * for the same few places of the first-level cache. */
static int64_t panel_stride(int64_t k) {
    int64_t stride = km__divide_up(k, KM_PANEL_ALIGN) * KM_PANEL_ALIGN;
    return stride % 256 == 0 ? stride + KM_PANEL_ALIGN : stride;
}

static int64_t panel_rows(int64_t k) {
    int64_t rows = PANEL_BYTES / (4 * panel_stride(k)) / 12 * 12;
    return rows < 12 ? 12 : km__least(rows, MAX_PANEL_ROWS);
}

/* Whether rows of w can be multiplied where they lie: floats with the strides of a panel. */
static bool is_panel(const km_matrix *w) {
    return w->dtype == KM_F32 && panel_stride(w->cols) == w->cols && w->rows % KM_TILE_ROWS == 0;
}

static void convert_panel(float *panel, const km_ctx *ctx, const km_matrix *w) {
    const int64_t stride = panel_stride(w->cols);
    for (int64_t r = 0; r < w->rows; r++) {
        float *row = panel + r * stride;
        km_matrix_row(row, ctx, w, r);
        memset(row + w->cols, 0, (size_t)(stride - w->cols) * sizeof(float));
    }
    const int64_t all = km__divide_up(w->rows, KM_TILE_ROWS) * KM_TILE_ROWS;
    memset(panel + w->rows * stride, 0, (size_t)((all - w->rows) * stride) * sizeof(float));
}

static km_status panel_scratch(float **out, km_ctx *ctx, int worker, int64_t k, km_error *err) {
    size_t size = 0;
    void *block = NULL;
    if (!km_size_mul(&size, (size_t)panel_stride(k), (size_t)panel_rows(k) * sizeof(float))) {
        return KM_SET(err, KM_ENOMEM, "a panel of weights with %lld columns", (long long)k);
    }
    KM_TRY(km_worker_scratch(&block, ctx, worker, size, err));
    *out = block;
    return KM_OK;
}

/* ---- units of work ---- */

typedef struct linear_work {
    km_ctx *ctx;
    const km_linear_job *jobs;
    const km_linear_kernels *kernels;
} linear_work;

typedef struct cuts {
    int64_t rows, panels, chunks;
} cuts;

static cuts cut_job(const km_ctx *ctx, const km_linear_job *job) {
    cuts c = {.rows = panel_rows(job->w->cols), .chunks = km__divide_up(job->m, CHUNK_ROWS)};
    if (job->m == 1) {
        c.rows = km__divide_up(job->w->rows, ONE_ROW_UNITS * (int64_t)km_ctx_threads(ctx));
        c.rows = c.rows < ONE_ROW_LEAST ? ONE_ROW_LEAST : km__divide_up(c.rows, 4) * 4;
    }
    c.panels = km__divide_up(job->w->rows, c.rows);
    return c;
}

static km_status run_unit(const linear_work *work, const km_linear_job *job, const cuts *c,
                          int64_t unit, int worker, km_error *err) {
    const int64_t first = unit % c->panels * c->rows;
    const int64_t row = unit / c->panels * CHUNK_ROWS;
    const float *bias = job->bias == NULL ? NULL : job->bias + first;
    const km_matrix w = km_matrix_rows(job->w, first, km__least(c->rows, job->w->rows - first));
    if (job->m == 1) {
        km__dequant_kernels(work->ctx)->one_row[w.dtype](
            job->y + first, job->x, w.data, km_matrix_row_bytes(&w), bias, w.rows, w.cols);
        return KM_OK;
    }
    const float *panel = w.data;
    if (!is_panel(&w)) {
        float *scratch = NULL;
        KM_TRY(panel_scratch(&scratch, work->ctx, worker, w.cols, err));
        convert_panel(scratch, work->ctx, &w);
        panel = scratch;
    }
    work->kernels->block(job->y + row * job->ldy + first, job->ldy, job->x + row * job->ldx,
                         job->ldx, panel, panel_stride(w.cols), bias,
                         km__least(CHUNK_ROWS, job->m - row), w.rows, w.cols);
    return KM_OK;
}

static km_status run_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const linear_work *work = payload;
    for (int64_t i = begin; i < end; i++) {
        int64_t unit = i;
        const km_linear_job *job = work->jobs;
        cuts c = cut_job(work->ctx, job);
        while (unit >= c.panels * c.chunks) {
            unit -= c.panels * c.chunks;
            c = cut_job(work->ctx, ++job);
        }
        KM_TRY(run_unit(work, job, &c, unit, worker, err));
    }
    return KM_OK;
}

km_status km_linear_many(km_ctx *ctx, const km_linear_job *jobs, int n_jobs, km_error *err) {
    linear_work work = {ctx, jobs, km__linear_kernels(ctx)};
    int64_t n_units = 0;
    for (int i = 0; i < n_jobs; i++) {
        cuts c = cut_job(ctx, &jobs[i]);
        n_units += c.panels * c.chunks;
    }
    return km_parallel_for(ctx, n_units, 1, run_range, &work, err);
}
