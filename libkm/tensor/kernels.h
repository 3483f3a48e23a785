/* kernels.h: the loops compiled once per instruction set (v1 baseline x86-64, v3 AVX2, v4 AVX-512;
 * neon on aarch64) and the products built on them. One table of function pointers a variant; km_ctx
 * holds the chosen one. */
#ifndef KM_TENSOR_KERNELS_H
#define KM_TENSOR_KERNELS_H

#include "base/base.h"

typedef struct km_kernels {
    const char *name; /* "v1", "v3", "v4", "neon" */
    float (*dot)(const float *a, const float *b, int64_t n);
    void (*axpy)(float *y, float alpha, const float *x, int64_t n); /* y += alpha x */
    /* y = x / rms(x) * (gain + offset); gain (n) */
    void (*rms_norm)(float *y, const float *x, const float *gain, float offset, double eps,
                     int64_t n);
    /* y = (x - mean) / sqrt(variance + eps) * gain + bias; mean and variance in double precision */
    void (*layer_norm)(float *y, const float *x, const float *gain, const float *bias, double eps,
                       int64_t n);
    /* x = f(x), times up (n) unless that is NULL */
    void (*silu)(float *x, const float *up, int64_t n);
    void (*gelu_tanh)(float *x, const float *up, int64_t n);
    void (*gelu_erf)(float *x, const float *up, int64_t n);
    void (*softcap)(float *x, float cap, int64_t n); /* x = cap tanh(x / cap) */
    float (*max)(const float *x, int64_t n);
    double (*sum_exp)(const float *x, float shift, int64_t n); /* sum exp(x - shift) */
    void (*softmax)(float *x, int64_t n);                      /* in place */
    int64_t (*count_greater)(const float *x, int64_t n, float bound);
    bool (*all_finite)(const float *x, int64_t n);
} km_kernels;

const km_kernels *km_ctx_kernels(const km_ctx *ctx);

/* One product C (m, n) = A (m, k) * B (n, k)^T, all row-major with row strides lda, ldb, ldc. */
typedef struct km_gemm_job {
    float *c;       /* (m, n), overwritten */
    const float *a; /* (m, k) */
    const float *b; /* (n, k) */
    int64_t ldc, lda, ldb;
    int64_t m, n, k;
} km_gemm_job;

/* Run several products as one parallel loop. Each is cut into panels that depend on its shape
 * alone; a panel is one single-threaded BLAS call, so the result has the same bits for any number
 * of threads (and depends on the shape and on the BLAS core). KM_ERANGE for a size BLAS cannot
 * count. */
KM_NODISCARD km_status km_gemm_nt_many(km_ctx *ctx, const km_gemm_job *jobs, int n_jobs,
                                       km_error *err);
/* km_gemm_nt_many with one product. */
KM_NODISCARD km_status km_gemm_nt(km_ctx *ctx, float *c, int64_t ldc, const float *a, int64_t lda,
                                  const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k,
                                  km_error *err);

#endif
