/* kernels_recurrent.h: what a recurrent layer does at every step, compiled once per instruction
 * set: a product of few rows with a small matrix that is not packed, and the gates. */
#ifndef KM_TENSOR_KERNELS_RECURRENT_H
#define KM_TENSOR_KERNELS_RECURRENT_H

#include "base/base.h"

typedef struct km_recurrent_kernels {
    const char *name; /* "v1", "v3", "v4", "neon" */
    /* y (m, n) = x (m, k) b (k, n), added to y when `add`; row strides ldy, ldx, ldb. An element is
     * a sum over k in rising order, whatever m. */
    void (*product)(float *y, int64_t ldy, const float *x, int64_t ldx, const float *b, int64_t ldb,
                    int64_t m, int64_t n, int64_t k, bool add);
    /* One state of a GRU. gates (4, n): the input's share of r, z, n becomes r, z, n, c_n, where
     * r = s(g_r + c_r + b_r), z = s(g_z + c_z + b_z), n = tanh(g_n + b_n + r c_n) and c_n includes
     * b_c; h (n) becomes (1 - z) n + z h. c (3, n): the state's share; bias (4, n): b_r, b_z, b_n,
     * b_c. s is the logistic function. */
    void (*gru_forward)(float *gates, float *h, const float *c, const float *bias, int64_t n);
    /* Its derivative. dh (n), dL/dh', becomes the part of dL/dh that does not pass through c; gates
     * as gru_forward left them become the derivatives of g_r, g_z, g_n and c_n; dc (3, n): those of
     * c; h (n): the state before. */
    void (*gru_backward)(float *gates, float *dh, float *dc, const float *h, int64_t n);
    void (*tanh)(float *x, int64_t n); /* in place */
} km_recurrent_kernels;

const km_recurrent_kernels *km_ctx_recurrent_kernels(const km_ctx *ctx);

#endif
