/* core_math.c: the arithmetic that differs between float32, which runs on the engine's kernels, and
 * float64, which is plain. */
#include <cblas.h>
#include <math.h>

#include "select/real.h"
#include "tensor/kernels.h"
#include "tensor/kernels_gradient.h"
#include "tensor/kernels_recurrent.h"

#if KM_REAL_BITS == 32
#define GEMM cblas_sgemm
#else
#define GEMM cblas_dgemm
#endif

/* Rows and columns of a unit of a product. */
#define UNIT_LEAST 64
#define UNIT_MOST 512

/* ---- elementwise ---- */

#if KM_REAL_BITS == 32

void km__product(const km_ctx *ctx, real *y, int64_t ldy, const real *x, int64_t ldx, const real *b,
                 int64_t ldb, int64_t m, int64_t n, int64_t k, bool add) {
    km_ctx_recurrent_kernels(ctx)->product(y, ldy, x, ldx, b, ldb, m, n, k, add);
}

void km__gates(const km_ctx *ctx, real *gates, real *h, const real *c, const real *bias,
               int64_t n) {
    km_ctx_recurrent_kernels(ctx)->gru_forward(gates, h, c, bias, n);
}

void km__gates_back(const km_ctx *ctx, real *gates, real *dh, real *dc, const real *h, int64_t n) {
    km_ctx_recurrent_kernels(ctx)->gru_backward(gates, dh, dc, h, n);
}

void km__tanh(const km_ctx *ctx, real *x, int64_t n) {
    km_ctx_recurrent_kernels(ctx)->tanh(x, n);
}

void km__exp(const km_ctx *ctx, real *x, int64_t n) {
    km_ctx_gradient_kernels(ctx)->scaled_exp(x, 1.0f, 0.0f, n);
}

real km__dot(const km_ctx *ctx, const real *a, const real *b, int64_t n) {
    return km_ctx_kernels(ctx)->dot(a, b, n);
}

#else

void km__product(const km_ctx *ctx, real *y, int64_t ldy, const real *x, int64_t ldx, const real *b,
                 int64_t ldb, int64_t m, int64_t n, int64_t k, bool add) {
    (void)ctx;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)k, 1.0, x, (int)ldx,
                b, (int)ldb, add ? 1.0 : 0.0, y, (int)ldy);
}

static real logistic(real x) {
    return 1.0 / (1.0 + exp(-x));
}

void km__gates(const km_ctx *ctx, real *gates, real *h, const real *c, const real *bias,
               int64_t n) {
    (void)ctx;
    for (int64_t i = 0; i < n; i++) {
        real *g = gates + i;
        g[0] = logistic(g[0] + c[i] + bias[i]);
        g[n] = logistic(g[n] + c[n + i] + bias[n + i]);
        g[3 * n] = c[2 * n + i] + bias[3 * n + i];
        g[2 * n] = tanh(g[2 * n] + bias[2 * n + i] + g[0] * g[3 * n]);
        h[i] = g[2 * n] + g[n] * (h[i] - g[2 * n]);
    }
}

void km__gates_back(const km_ctx *ctx, real *gates, real *dh, real *dc, const real *h, int64_t n) {
    (void)ctx;
    for (int64_t i = 0; i < n; i++) {
        real *g = gates + i;
        const real r = g[0], z = g[n], new = g[2 * n];
        const real d = dh[i] * (1.0 - z) * (1.0 - new * new);
        g[0] = d * g[3 * n] * r * (1.0 - r);
        g[n] = dh[i] * (h[i] - new) * z * (1.0 - z);
        g[2 * n] = d;
        g[3 * n] = d * r;
        dc[i] = g[0];
        dc[n + i] = g[n];
        dc[2 * n + i] = g[3 * n];
        dh[i] *= z;
    }
}

void km__tanh(const km_ctx *ctx, real *x, int64_t n) {
    (void)ctx;
    for (int64_t i = 0; i < n; i++) {
        x[i] = tanh(x[i]);
    }
}

void km__exp(const km_ctx *ctx, real *x, int64_t n) {
    (void)ctx;
    for (int64_t i = 0; i < n; i++) {
        x[i] = exp(x[i]);
    }
}

real km__dot(const km_ctx *ctx, const real *a, const real *b, int64_t n) {
    (void)ctx;
    real sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

#endif

void km__transpose(real *out, const real *in, int64_t ld, int64_t rows, int64_t cols) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++) {
            out[c * rows + r] = in[r * ld + c];
        }
    }
}

/* ---- products ---- */

typedef struct gemm_work {
    const real_gemm *jobs;
} gemm_work;

/* An eighth of the length, within limits. */
static int64_t unit_of(int64_t length) {
    const int64_t eighth = ((length + 7) / 8 + 15) / 16 * 16;
    return eighth < UNIT_LEAST ? UNIT_LEAST : eighth > UNIT_MOST ? UNIT_MOST : eighth;
}

static int64_t units_of(int64_t length) {
    const int64_t unit = unit_of(length);
    return (length + unit - 1) / unit;
}

static int64_t job_units(const real_gemm *job) {
    const bool nothing = job->m == 0 || job->n == 0 || (job->k == 0 && job->add);
    return nothing ? 0 : units_of(job->m) * (job->m < job->n ? units_of(job->n) : 1);
}

static void run_unit(const real_gemm *job, int64_t unit) {
    const int64_t down = units_of(job->m), across = job->m < job->n ? units_of(job->n) : 1;
    const int64_t row = unit % down * unit_of(job->m);
    const int64_t column = across == 1 ? 0 : unit / down * unit_of(job->n);
    const int64_t rows = job->m - row < unit_of(job->m) ? job->m - row : unit_of(job->m);
    const int64_t rest = job->n - column;
    const int64_t columns = across == 1 || rest < unit_of(job->n) ? rest : unit_of(job->n);
    const real *a = job->a + (job->t_a ? row : row * job->lda);
    const real *b = job->b + (job->t_b ? column * job->ldb : column);
    GEMM(CblasRowMajor, job->t_a ? CblasTrans : CblasNoTrans, job->t_b ? CblasTrans : CblasNoTrans,
         (int)rows, (int)columns, (int)job->k, (real)1, a, (int)job->lda, b, (int)job->ldb,
         (real)(job->add ? 1 : 0), job->c + row * job->ldc + column, (int)job->ldc);
}

static km_status run_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const gemm_work *work = payload;
    (void)worker;
    (void)err;
    for (int64_t i = begin; i < end; i++) {
        const real_gemm *job = work->jobs;
        int64_t unit = i;
        while (unit >= job_units(job)) {
            unit -= job_units(job++);
        }
        run_unit(job, unit);
    }
    return KM_OK;
}

km_status km__gemm_many(km_ctx *ctx, const real_gemm *jobs, int n_jobs, km_error *err) {
    gemm_work work = {jobs};
    int64_t units = 0;
    for (int i = 0; i < n_jobs; i++) {
        units += job_units(&jobs[i]);
    }
    return km_parallel_for(ctx, units, 1, run_range, &work, err);
}
