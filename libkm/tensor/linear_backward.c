/* linear_backward.c: the product of the backward pass, dx = dy w.
 *
 * dx is cut into units of rows and columns that depend on the shape alone. With a float32 matrix a
 * unit is one single-threaded BLAS call. Otherwise it goes over the rows of w in rising order, a
 * panel at a time: the panel's columns are converted to float32 and one call adds their product.
 */
#include <cblas.h>
#include <string.h>

#include "tensor/linear_private.h"

#define CHUNK_COLUMNS 256 /* of a converted matrix; a multiple of every block */
#define PANEL_ROWS 256    /* of w */

typedef struct backward_work {
    km_ctx *ctx;
    float *dx;
    const float *dy;
    const km_matrix *w;
    int64_t lddx, lddy, m, unit_rows, unit_columns;
    bool add;
} backward_work;

/* Columns column .. column+n-1 of rows first .. first+count-1. */
static void convert_part(float *panel, const km_ctx *ctx, const km_matrix *w, int64_t first,
                         int64_t count, int64_t column, int64_t n) {
    const km_dtype_traits *traits = km_dtype_get(w->dtype);
    const int64_t offset = column / traits->block_elements * traits->block_bytes;
    for (int64_t r = 0; r < count; r++) {
        const km_matrix row = km_matrix_rows(w, first + r, 1);
        km__dequant_kernels(ctx)->to_f32[w->dtype](panel + r * n, (const char *)row.data + offset,
                                                   n);
    }
}

/* Rows row .. row+m-1 and columns column .. column+n-1 of dx. */
static void multiply_floats(const backward_work *work, int64_t row, int64_t m, int64_t column,
                            int64_t n) {
    const km_matrix *w = work->w;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)w->rows, 1.0f,
                work->dy + row * work->lddy, (int)work->lddy, (const float *)w->data + column,
                (int)w->cols, work->add ? 1.0f : 0.0f, work->dx + row * work->lddx + column,
                (int)work->lddx);
}

static void multiply_panels(const backward_work *work, float *panel, int64_t row, int64_t m,
                            int64_t column, int64_t n) {
    const km_matrix *w = work->w;
    float *dx = work->dx + row * work->lddx + column;
    for (int64_t i = 0; i < m && !work->add; i++) {
        memset(dx + i * work->lddx, 0, (size_t)n * sizeof(float));
    }
    for (int64_t first = 0; first < w->rows; first += PANEL_ROWS) {
        const int64_t count = km__least(PANEL_ROWS, w->rows - first);
        convert_part(panel, work->ctx, w, first, count, column, n);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)count, 1.0f,
                    work->dy + row * work->lddy + first, (int)work->lddy, panel, (int)n, 1.0f, dx,
                    (int)work->lddx);
    }
}

static km_status run_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const backward_work *work = payload;
    const km_matrix *w = work->w;
    const int64_t across = km__divide_up(w->cols, work->unit_columns);
    void *panel = NULL;
    if (w->dtype != KM_F32) {
        KM_TRY(km_worker_scratch(&panel, work->ctx, worker,
                                 (size_t)PANEL_ROWS * CHUNK_COLUMNS * sizeof(float), err));
    }
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t row = unit / across * work->unit_rows;
        const int64_t column = unit % across * work->unit_columns;
        const int64_t m = km__least(work->unit_rows, work->m - row);
        const int64_t n = km__least(work->unit_columns, w->cols - column);
        if (w->dtype == KM_F32) {
            multiply_floats(work, row, m, column, n);
        } else {
            multiply_panels(work, panel, row, m, column, n);
        }
    }
    return KM_OK;
}

km_status km_linear_backward(km_ctx *ctx, float *dx, int64_t lddx, const float *dy, int64_t lddy,
                             const km_matrix *w, int64_t m, bool add, km_error *err) {
    const bool floats = w->dtype == KM_F32;
    const int64_t columns = floats ? km__unit_columns(m, w->cols) : CHUNK_COLUMNS;
    backward_work work = {ctx, dx, dy, w, lddx, lddy, m, km__unit_rows(m), columns, add};
    const int64_t units = km__divide_up(m, work.unit_rows) * km__divide_up(w->cols, columns);
    return km_parallel_for(ctx, units, 1, run_range, &work, err);
}
