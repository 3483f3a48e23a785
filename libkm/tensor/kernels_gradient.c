/* kernels_gradient.c: activations differentiated and softmax taken, compiled once per instruction
 * set (KM_ISA). A tail shorter than a vector goes through the same vector code, padded. */
#include "tensor/kernels_gradient.h"

#include "tensor/simd_math.h"

/* ---- activations: f(x) and f'(x) ---- */

typedef struct activated {
    vfloat value, slope;
} activated;

/* x s(x), s being the logistic function */
static inline activated silu_at(vfloat x) {
    const vfloat s = 1.0f / (1.0f + v_exp(-x));
    return (activated){x * s, s * v_fma(x, 1.0f - s, v_set(1.0f))};
}

/* x s(2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
static inline activated gelu_tanh_at(vfloat x) {
    const vfloat square = x * x;
    const vfloat u = v_fma(square * x, v_set(0.044715f), x) * 1.59576912f;
    const vfloat du = v_fma(square, v_set(0.134145f), v_set(1.0f)) * 1.59576912f;
    const vfloat s = 1.0f / (1.0f + v_exp(-u));
    return (activated){x * s, v_fma(x * s * (1.0f - s), du, s)};
}

/* x F(x), F being the normal distribution */
static inline activated gelu_erf_at(vfloat x) {
    const vfloat below = 0.5f * (1.0f + v_erf(x * 0.707106781f));
    const vfloat density = v_exp(x * x * -0.5f) * 0.398942280f;
    return (activated){x * below, v_fma(x, density, below)};
}

/* One vector, inlined with its function. */
static inline activated step(vfloat pre, vfloat up, vfloat d, activated (*f)(vfloat)) {
    const activated a = f(pre);
    return (activated){d * a.value, d * a.slope * up};
}

static inline void backward(float *pre, float *up, const float *d, int64_t n,
                            activated (*f)(vfloat)) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vfloat factor = up == NULL ? v_set(1.0f) : v_load(up + i);
        const activated a = step(v_load(pre + i), factor, v_load(d + i), f);
        v_store(pre + i, a.slope);
        if (up != NULL) {
            v_store(up + i, a.value);
        }
    }
    if (i < n) {
        const vfloat factor = up == NULL ? v_set(1.0f) : v_load_part(up + i, n - i, 0.0f);
        const activated a =
            step(v_load_part(pre + i, n - i, 0.0f), factor, v_load_part(d + i, n - i, 0.0f), f);
        v_store_part(pre + i, a.slope, n - i);
        if (up != NULL) {
            v_store_part(up + i, a.value, n - i);
        }
    }
}

static void silu(float *pre, float *up, const float *d, int64_t n) {
    backward(pre, up, d, n, silu_at);
}

static void gelu_tanh(float *pre, float *up, const float *d, int64_t n) {
    backward(pre, up, d, n, gelu_tanh_at);
}

static void gelu_erf(float *pre, float *up, const float *d, int64_t n) {
    backward(pre, up, d, n, gelu_erf_at);
}

/* ---- softmax ---- */

static void scaled_exp(float *x, float factor, float shift, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        v_store(x + i, factor * v_exp(v_load(x + i) - shift));
    }
    if (i < n) {
        v_store_part(x + i, factor * v_exp(v_load_part(x + i, n - i, shift) - shift), n - i);
    }
}

extern const km_gradient_kernels KM_TABLE(gradient);
const km_gradient_kernels KM_TABLE(gradient) = {
    .silu = silu,
    .gelu_tanh = gelu_tanh,
    .gelu_erf = gelu_erf,
    .scaled_exp = scaled_exp,
};
