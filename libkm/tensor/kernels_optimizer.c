/* kernels_optimizer.c: steps of AdamW and SGD, compiled once per instruction set (KM_ISA). The
 * loops are plain: without contraction to fused multiply-adds the compiler's vectors give what one
 * weight at a time would. Order of operations as in torch.optim. */
#include <math.h>

#include "tensor/kernels_optimizer.h"
#include "tensor/simd.h"

typedef double vdouble __attribute__((vector_size(LANES * 8)));

static void adamw(float *restrict w, float *restrict g, float *restrict m, float *restrict v,
                  const km_adamw_numbers *numbers, int64_t n) {
    const km_adamw_numbers k = *numbers;
    for (int64_t i = 0; i < n; i++) {
        const float slope = k.scale * g[i];
        const float first = m[i] + k.blend_m * (slope - m[i]);
        const float second = v[i] * k.beta_v + k.blend_v * slope * slope;
        w[i] = k.keep * w[i] - k.step * first / (sqrtf(second) / k.root + k.eps);
        m[i] = first;
        v[i] = second;
        g[i] = 0.0f;
    }
}

static void sgd(float *restrict w, float *restrict g, float *restrict m,
                const km_sgd_numbers *numbers, int64_t n) {
    const km_sgd_numbers k = *numbers;
    for (int64_t i = 0; i < n; i++) {
        const float slope = k.scale * g[i] + k.decay * w[i];
        const float buffer = k.momentum * m[i] + slope;
        w[i] = w[i] - k.rate * buffer;
        m[i] = buffer;
        g[i] = 0.0f;
    }
}

static void plain_sgd(float *restrict w, float *restrict g, const km_sgd_numbers *numbers,
                      int64_t n) {
    const km_sgd_numbers k = *numbers;
    for (int64_t i = 0; i < n; i++) {
        w[i] = w[i] - k.rate * (k.scale * g[i] + k.decay * w[i]);
        g[i] = 0.0f;
    }
}

/* Squares of floats are exact in double precision. */
static double sum_squares(const float *x, int64_t n) {
    vdouble even = {0.0}, odd = {0.0};
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        const vdouble a = __builtin_convertvector(v_load(x + i), vdouble);
        const vdouble b = __builtin_convertvector(v_load(x + i + LANES), vdouble);
        even += a * a;
        odd += b * b;
    }
    double total = 0.0;
    even += odd;
    for (int lane = 0; lane < LANES; lane++) {
        total += even[lane];
    }
    for (; i < n; i++) {
        total += (double)x[i] * (double)x[i];
    }
    return total;
}

extern const km_optimizer_kernels KM_TABLE(optimizer);
const km_optimizer_kernels KM_TABLE(optimizer) = {
    .adamw = adamw, .sgd = sgd, .plain_sgd = plain_sgd, .sum_squares = sum_squares};
