/* matrix.h: a weight matrix as it is stored, and the products a model needs of it.
 *
 * Every element of a product is a sum over the inner dimension in one order that depends on the CPU
 * variant and on the length alone: LANES partial sums, fused multiply-adds in rising order, then
 * the lanes by halving. So a row of a result has the same bits whatever the number of rows, their
 * order, the number of threads and the tile it falls into.
 */
#ifndef KM_TENSOR_MATRIX_H
#define KM_TENSOR_MATRIX_H

#include "tensor/dtype.h"

/* (rows, cols) row-major, rows being out_features; a row takes cols / block_elements blocks. */
typedef struct km_matrix {
    const void *data;
    km_dtype dtype;
    int64_t rows, cols;
} km_matrix;

/* y (m, w->rows) = x (m, w->cols) w^T + bias; row strides ldy, ldx. */
typedef struct km_linear_job {
    float *y;
    const float *x;
    const km_matrix *w;
    const float *bias; /* (w->rows), or NULL */
    int64_t ldy, ldx, m;
} km_linear_job;

/* Run several products as one parallel loop. KM_ENOMEM for scratch, KM_ECANCELLED. */
KM_NODISCARD km_status km_linear_many(km_ctx *ctx, const km_linear_job *jobs, int n_jobs,
                                      km_error *err);
/* dx (m, w->cols) = dy (m, w->rows) w, added to dx when `add`. Bits may depend on m. */
KM_NODISCARD km_status km_linear_backward(km_ctx *ctx, float *dx, int64_t lddx, const float *dy,
                                          int64_t lddy, const km_matrix *w, int64_t m, bool add,
                                          km_error *err);
/* dw (rows, cols) += scale dy^T x, of the m rows of dy (m, rows) and x (m, cols) with strides lddy
 * and ldx: what the weights of y = x w^T get. KM_ENOMEM for scratch, KM_ECANCELLED. */
KM_NODISCARD km_status km_linear_gradient(km_ctx *ctx, float *dw, const float *dy, int64_t lddy,
                                          const float *x, int64_t ldx, int64_t rows, int64_t cols,
                                          int64_t m, float scale, km_error *err);
/* Row `row` as float32 into out (cols). */
void km_matrix_row(float *out, const km_ctx *ctx, const km_matrix *w, int64_t row);
/* The matrix of rows first .. first+count-1; no copy. */
km_matrix km_matrix_rows(const km_matrix *w, int64_t first, int64_t count);
/* Bytes of one row. */
int64_t km_matrix_row_bytes(const km_matrix *w);

#endif
