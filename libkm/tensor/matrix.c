/* matrix.c: rows of a stored matrix. */
#include "tensor/linear_private.h"

int64_t km_matrix_row_bytes(const km_matrix *w) {
    const km_dtype_traits *traits = km_dtype_get(w->dtype);
    return w->cols / traits->block_elements * traits->block_bytes;
}

km_matrix km_matrix_rows(const km_matrix *w, int64_t first, int64_t count) {
    km_matrix part = *w;
    part.data = (const char *)w->data + first * km_matrix_row_bytes(w);
    part.rows = count;
    return part;
}

void km_matrix_row(float *out, const km_ctx *ctx, const km_matrix *w, int64_t row) {
    const km_matrix one = km_matrix_rows(w, row, 1);
    km__dequant_kernels(ctx)->to_f32[w->dtype](out, one.data, w->cols);
}
