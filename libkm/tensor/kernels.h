/* kernels.h: the loops compiled once per instruction set (v1 baseline, v3 AVX2, v4 AVX-512) and the
 * products built on them. One table of function pointers a variant; km_ctx holds the chosen one. */
#ifndef KM_TENSOR_KERNELS_H
#define KM_TENSOR_KERNELS_H

#include "base/base.h"

typedef struct km_kernels {
    const char *name; /* "v1", "v3", "v4" */
    float (*dot)(const float *a, const float *b, int64_t n);
    void (*axpy)(float *y, float alpha, const float *x, int64_t n); /* y += alpha x */
    /* y = x / rms(x) * (gain + offset); gain (n) */
    void (*rms_norm)(float *y, const float *x, const float *gain, float offset, double eps,
                     int64_t n);
    void (*silu_mul)(float *gate, const float *up, int64_t n);      /* gate = silu(gate) * up */
    void (*gelu_tanh_mul)(float *gate, const float *up, int64_t n);
    float (*max)(const float *x, int64_t n);
    double (*sum_exp)(const float *x, float shift, int64_t n); /* sum exp(x - shift) */
    void (*softmax)(float *x, int64_t n);                      /* in place */
    int64_t (*count_greater)(const float *x, int64_t n, float bound);
} km_kernels;

const km_kernels *km_ctx_kernels(const km_ctx *ctx);

/* C (m, n) = A (m, k) * B (n, k)^T, all row-major and contiguous with row strides lda, ldb, ldc.
 * Cut into fixed panels over n (and m) that the pool shares; each panel is one single-threaded BLAS
 * call. */
KM_NODISCARD km_status km_gemm_nt(km_ctx *ctx, float *c, int64_t ldc, const float *a, int64_t lda,
                                  const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k,
                                  km_error *err);

#endif
