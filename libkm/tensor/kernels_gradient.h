/* kernels_gradient.h: the loops of a backward pass that take exponentials, compiled once per
 * instruction set. */
#ifndef KM_TENSOR_KERNELS_GRADIENT_H
#define KM_TENSOR_KERNELS_GRADIENT_H

#include "base/base.h"

/* Of y = f(pre) up, given d = dL/dy: pre becomes dL/dpre and up dL/dup; up NULL stands for ones. */
typedef void (*km_activation_back_fn)(float *pre, float *up, const float *d, int64_t n);

typedef struct km_gradient_kernels {
    km_activation_back_fn silu, gelu_tanh, gelu_erf;
    /* x = factor e^(x - shift) */
    void (*scaled_exp)(float *x, float factor, float shift, int64_t n);
} km_gradient_kernels;

const km_gradient_kernels *km_ctx_gradient_kernels(const km_ctx *ctx);

#endif
