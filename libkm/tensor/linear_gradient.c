/* linear_gradient.c: the product that gives the derivative of weights, dw += dy^T x.
 *
 * dw is cut into units of rows and columns that depend on its shape alone; one single-threaded BLAS
 * call adds a unit's product over all rows of dy and x.
 */
#include <cblas.h>

#include "tensor/linear_private.h"

typedef struct gradient_work {
    float *dw;
    const float *dy, *x;
    int64_t lddy, ldx, rows, cols, m;
    int64_t unit_rows, unit_columns;
    float scale;
} gradient_work;

static km_status run_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const gradient_work *w = payload;
    const int64_t across = km__divide_up(w->cols, w->unit_columns);
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t row = unit / across * w->unit_rows, column = unit % across * w->unit_columns;
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans,
                    (int)km__least(w->unit_rows, w->rows - row),
                    (int)km__least(w->unit_columns, w->cols - column), (int)w->m, w->scale,
                    w->dy + row, (int)w->lddy, w->x + column, (int)w->ldx, 1.0f,
                    w->dw + row * w->cols + column, (int)w->cols);
    }
    return KM_OK;
}

km_status km_linear_gradient(km_ctx *ctx, float *dw, const float *dy, int64_t lddy, const float *x,
                             int64_t ldx, int64_t rows, int64_t cols, int64_t m, float scale,
                             km_error *err) {
    gradient_work work = {
        dw,   dy, x, lddy, ldx, rows, cols, m, km__unit_rows(rows), km__unit_columns(rows, cols),
        scale};
    const int64_t units =
        km__divide_up(rows, work.unit_rows) * km__divide_up(cols, work.unit_columns);
    return km_parallel_for(ctx, units, 1, run_range, &work, err);
}
