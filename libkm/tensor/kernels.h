/* kernels.h: the loops compiled once per instruction set (v1 baseline x86-64, v3 AVX2, v4 AVX-512;
 * neon on aarch64). One table of function pointers a variant; km_ctx holds the chosen one. */
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

#endif
