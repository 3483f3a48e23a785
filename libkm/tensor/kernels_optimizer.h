/* kernels_optimizer.h: one step of an optimiser over consecutive weights, compiled once per
 * instruction set.
 *
 * Every weight is computed by itself with IEEE additions, products, quotients and square roots in
 * one order, so all variants give the same bits; only sum_squares depends on the vector's width.
 */
#ifndef KM_TENSOR_KERNELS_OPTIMIZER_H
#define KM_TENSOR_KERNELS_OPTIMIZER_H

#include "base/base.h"

/* m = m + (g - m) blend_m; v = v beta_v + blend_v g g;
 * w = keep w - step m / (sqrt(v) / root + eps), where g is scale times the gradient. */
typedef struct km_adamw_numbers {
    float scale;   /* of the gradient: what clipping leaves of it */
    float keep;    /* 1 - learning rate * weight decay */
    float blend_m; /* 1 - beta1 */
    float beta_v, blend_v;
    float step; /* learning rate / (1 - beta1^t) */
    float root; /* sqrt(1 - beta2^t) */
    float eps;
} km_adamw_numbers;

/* g = scale g + decay w; m = momentum m + g; w = w - rate m. */
typedef struct km_sgd_numbers {
    float scale, decay, momentum, rate;
} km_sgd_numbers;

/* Both leave zeros in g (n), ready for the next gradients to be added to. */
typedef struct km_optimizer_kernels {
    void (*adamw)(float *w, float *g, float *m, float *v, const km_adamw_numbers *numbers,
                  int64_t n);
    void (*sgd)(float *w, float *g, float *m, const km_sgd_numbers *numbers, int64_t n);
    void (*plain_sgd)(float *w, float *g, const km_sgd_numbers *numbers, int64_t n); /* no m */
    double (*sum_squares)(const float *x, int64_t n);
} km_optimizer_kernels;

const km_optimizer_kernels *km_ctx_optimizer_kernels(const km_ctx *ctx);

#endif
