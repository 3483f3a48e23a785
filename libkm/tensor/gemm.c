/* gemm.c: products of matrices as panels of single-threaded BLAS calls that the pool shares.
 *
 * Panel sizes were chosen by measurement (OpenBLAS 0.3.21, SkylakeX kernels, widths 576 to 49152):
 * 256 x 512 reaches 93 % of one large call and still gives a few threads enough panels; below
 * SMALL_ROWS rows, 64 columns keep each call within OpenBLAS's path for small matrices, which does
 * not pack its operands.
 */
#include <cblas.h>
#include <limits.h>

#include "tensor/kernels.h"

#define PANEL_ROWS 256
#define PANEL_COLUMNS 512
#define SMALL_ROWS 96
#define SMALL_COLUMNS 64

typedef struct gemm_work {
    const km_gemm_job *jobs;
    int n_jobs;
} gemm_work;

static int64_t divide_up(int64_t n, int64_t size) {
    return n / size + (n % size != 0);
}

/* The number of panels of at most `size` that n takes; *each gets their common size, a multiple of
 * 16, so that no thin panel is left at the end. */
static int64_t cut(int64_t *each, int64_t n, int64_t size) {
    *each = size;
    if (n > 0) {
        *each = divide_up(divide_up(n, divide_up(n, size)), 16) * 16;
    }
    return divide_up(n, *each);
}

typedef struct panels {
    int64_t down, across;  /* how many */
    int64_t rows, columns; /* of each but the last */
} panels;

static panels cut_job(const km_gemm_job *job) {
    panels cuts;
    cuts.down = cut(&cuts.rows, job->m, PANEL_ROWS);
    cuts.across = cut(&cuts.columns, job->n, job->m < SMALL_ROWS ? SMALL_COLUMNS : PANEL_COLUMNS);
    return cuts;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static void run_panel(const km_gemm_job *job, const panels *cuts, int64_t panel) {
    int64_t row = panel / cuts->across * cuts->rows;
    int64_t column = panel % cuts->across * cuts->columns;
    int64_t m = least(cuts->rows, job->m - row), n = least(cuts->columns, job->n - column);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)job->k, 1.0f,
                job->a + row * job->lda, (int)job->lda, job->b + column * job->ldb, (int)job->ldb,
                0.0f, job->c + row * job->ldc + column, (int)job->ldc);
}

static km_status run_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const gemm_work *work = payload;
    for (int64_t i = begin; i < end; i++) {
        int64_t panel = i;
        const km_gemm_job *job = work->jobs;
        panels cuts = cut_job(job);
        while (panel >= cuts.down * cuts.across) {
            panel -= cuts.down * cuts.across;
            cuts = cut_job(++job);
        }
        run_panel(job, &cuts, panel);
    }
    return KM_OK;
}

static bool in_range(const km_gemm_job *job) {
    return job->m >= 0 && job->n >= 0 && job->k >= 1 && job->m <= INT_MAX && job->n <= INT_MAX &&
           job->k <= INT_MAX && job->lda >= job->k && job->ldb >= job->k && job->ldc >= job->n &&
           job->lda <= INT_MAX && job->ldb <= INT_MAX && job->ldc <= INT_MAX;
}

km_status km_gemm_nt_many(km_ctx *ctx, const km_gemm_job *jobs, int n_jobs, km_error *err) {
    int64_t n_panels = 0;
    for (int i = 0; i < n_jobs; i++) {
        if (!in_range(&jobs[i])) {
            return KM_SET(err, KM_ERANGE, "matrix product (%lld, %lld) x (%lld, %lld)^T",
                          (long long)jobs[i].m, (long long)jobs[i].k, (long long)jobs[i].n,
                          (long long)jobs[i].k);
        }
        panels cuts = cut_job(&jobs[i]);
        n_panels += cuts.down * cuts.across;
    }
    gemm_work work = {jobs, n_jobs};
    return km_parallel_for(ctx, n_panels, 1, run_range, &work, err);
}

km_status km_gemm_nt(km_ctx *ctx, float *c, int64_t ldc, const float *a, int64_t lda,
                     const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, km_error *err) {
    km_gemm_job job = {c, a, b, ldc, lda, ldb, m, n, k};
    return km_gemm_nt_many(ctx, &job, 1, err);
}
