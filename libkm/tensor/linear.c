/* linear.c: products of float32 rows with a weight matrix of any storage type: a few rows of the
 * matrix at a time are dequantised and each is multiplied with every row of the input. */
#include <string.h>

#include "tensor/kernels.h"
#include "tensor/matrix.h"

/* Matrix rows one worker takes at a time. */
#define GRAIN 16

typedef struct product_work {
    km_ctx *ctx;
    const km_linear_job *jobs;
    float *scratch; /* (workers, most columns) */
    int64_t most;
} product_work;

static void matrix_row(float *out, const km_matrix *w, int64_t row) {
    const char *data = w->data;
    km_dtype_get(w->dtype)->to_f32(out, data + row * km_matrix_row_bytes(w), w->cols);
}

static void one_row(const product_work *work, const km_linear_job *job, int64_t row,
                    float *scratch) {
    const km_kernels *kernels = km_ctx_kernels(work->ctx);
    matrix_row(scratch, job->w, row);
    for (int64_t i = 0; i < job->m; i++) {
        float sum = kernels->dot(job->x + i * job->ldx, scratch, job->w->cols);
        job->y[i * job->ldy + row] = job->bias == NULL ? sum : sum + job->bias[row];
    }
}

static km_status run_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)err;
    const product_work *work = payload;
    for (int64_t i = begin; i < end; i++) {
        const km_linear_job *job = work->jobs;
        int64_t row = i;
        while (row >= job->w->rows) {
            row -= job->w->rows;
            job++;
        }
        one_row(work, job, row, work->scratch + worker * work->most);
    }
    return KM_OK;
}

km_status km_linear_many(km_ctx *ctx, const km_linear_job *jobs, int n_jobs, km_error *err) {
    product_work work = {ctx, jobs, NULL, 0};
    int64_t n = 0;
    for (int i = 0; i < n_jobs; i++) {
        n += jobs[i].w->rows;
        work.most = jobs[i].w->cols > work.most ? jobs[i].w->cols : work.most;
    }
    KM_TRY(km_alloc_array((void **)&work.scratch, ctx, work.most * km_ctx_threads(ctx),
                          sizeof *work.scratch, err));
    km_status status = km_parallel_for(ctx, n, GRAIN, run_range, &work, err);
    km_free(ctx, work.scratch);
    return status;
}

km_status km_linear_backward(km_ctx *ctx, float *dx, int64_t lddx, const float *dy, int64_t lddy,
                             const km_matrix *w, int64_t m, bool add, km_error *err) {
    float *row = NULL;
    KM_TRY(km_alloc_array((void **)&row, ctx, w->cols, sizeof *row, err));
    for (int64_t i = 0; !add && i < m; i++) {
        memset(dx + i * lddx, 0, (size_t)w->cols * sizeof *dx);
    }
    for (int64_t r = 0; r < w->rows; r++) {
        matrix_row(row, w, r);
        for (int64_t i = 0; i < m; i++) {
            km_ctx_kernels(ctx)->axpy(dx + i * lddx, dy[i * lddy + r], row, w->cols);
        }
    }
    km_free(ctx, row);
    return KM_OK;
}

void km_matrix_row(float *out, const km_ctx *ctx, const km_matrix *w, int64_t row) {
    (void)ctx;
    matrix_row(out, w, row);
}

km_matrix km_matrix_rows(const km_matrix *w, int64_t first, int64_t count) {
    const char *data = w->data;
    return (km_matrix){data + first * km_matrix_row_bytes(w), w->dtype, count, w->cols};
}

int64_t km_matrix_row_bytes(const km_matrix *w) {
    const km_dtype_traits *traits = km_dtype_get(w->dtype);
    return w->cols / traits->block_elements * traits->block_bytes;
}
