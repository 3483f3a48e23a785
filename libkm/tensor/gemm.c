/* gemm.c: products of matrices as panels of single-threaded BLAS calls that the pool shares.
 *
 * OpenBLAS's cores for AVX-512 have a path for small matrices that does not pack its operands. It
 * takes a transposed second operand up to 1,200 results and 10^6 multiplications, and where a
 * panel's operands fit into the second-level cache it beats the path that packs: measured on one
 * thread, 95 to 100 GFLOPS against 80 to 90. On those cores a panel is therefore cut into tiles.
 *
 * Panel sizes were chosen by measurement (OpenBLAS 0.3.21, SkylakeX kernels, widths 576 to 49152):
 * 256 x 512 reaches 93 % of one large call and still gives a few threads enough panels; below
 * SMALL_ROWS rows, 64 columns keep each call within OpenBLAS's path for small matrices, which does
 * not pack its operands.
 */
#include <cblas.h>
#include <limits.h>
#include <string.h>

#include "tensor/kernels.h"

#define PANEL_ROWS 256
#define PANEL_COLUMNS 512
#define SMALL_ROWS 96
#define SMALL_COLUMNS 64
#define TILE 32
#define SMALL_PRODUCT 1000000 /* multiplications */

typedef struct gemm_work {
    const km_gemm_job *jobs;
    int n_jobs;
    bool tiles; /* the BLAS core has the path for small matrices */
} gemm_work;

static bool core_has_small_path(void) {
    static const char *const CORES[] = {"SkylakeX", "Cooperlake", "SapphireRapids"};
    const char *core = openblas_get_corename();
    for (size_t i = 0; i < sizeof(CORES) / sizeof(CORES[0]); i++) {
        if (strcmp(core, CORES[i]) == 0) {
            return true;
        }
    }
    return false;
}

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

/* Rows row .. row+m-1 and columns column .. column+n-1 of the result, in one call. */
static void multiply(const km_gemm_job *job, int64_t row, int64_t column, int64_t m, int64_t n) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)job->k, 1.0f,
                job->a + row * job->lda, (int)job->lda, job->b + column * job->ldb, (int)job->ldb,
                0.0f, job->c + row * job->ldc + column, (int)job->ldc);
}

/* Rows of a tile of TILE columns that the path for small matrices takes; 0: none. */
static int64_t tile_rows(int64_t k) {
    return k * TILE * TILE <= SMALL_PRODUCT         ? TILE
           : k * TILE * (TILE / 2) <= SMALL_PRODUCT ? TILE / 2
                                                    : 0;
}

static void run_panel(const km_gemm_job *job, const panels *cuts, int64_t panel, bool tiles) {
    const int64_t row = panel / cuts->across * cuts->rows;
    const int64_t column = panel % cuts->across * cuts->columns;
    const int64_t m = least(cuts->rows, job->m - row), n = least(cuts->columns, job->n - column);
    const int64_t height = tiles ? tile_rows(job->k) : 0;
    if (height == 0) {
        multiply(job, row, column, m, n);
        return;
    }
    for (int64_t j = 0; j < n; j += TILE) {
        for (int64_t i = 0; i < m; i += height) {
            multiply(job, row + i, column + j, least(height, m - i), least(TILE, n - j));
        }
    }
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
        run_panel(job, &cuts, panel, work->tiles);
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
    gemm_work work = {jobs, n_jobs, core_has_small_path()};
    return km_parallel_for(ctx, n_panels, 1, run_range, &work, err);
}

km_status km_gemm_nt(km_ctx *ctx, float *c, int64_t ldc, const float *a, int64_t lda,
                     const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, km_error *err) {
    km_gemm_job job = {c, a, b, ldc, lda, ldb, m, n, k};
    return km_gemm_nt_many(ctx, &job, 1, err);
}
