/* gradient_ops.c: normalisation and activation functions, each beside its derivative. */
#include "model/gradient_ops.h"

#include <math.h>

#define SQRT_2_OVER_PI 0.7978845608f
#define SQRT_HALF 0.7071067812f
#define INV_SQRT_2_PI 0.3989422804f

/* ---- norms: y = (x - mean) * factor * gain + bias, mean being 0 for RMSNorm ---- */

typedef struct moments {
    double mean, factor;
} moments;

static moments moments_of(const float *x, const km_config *config, int64_t n) {
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; config->norm == KM_NORM_LAYER && i < n; i++) {
        sum += (double)x[i];
    }
    const double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)x[i] - mean;
        squares += d * d;
    }
    return (moments){mean, 1.0 / sqrt(squares / (double)n + config->norm_eps)};
}

static double gain_at(const km_norm_weights *norm, const km_config *config, int64_t i) {
    return (double)norm->gain[i] + (double)config->norm_offset;
}

void km__norm_moments(double *mean, double *factor, const float *x, const km_config *config,
                      int64_t n) {
    const moments m = moments_of(x, config, n);
    *mean = m.mean;
    *factor = m.factor;
}

void km__norm_forward(float *y, const float *x, const km_norm_weights *norm,
                      const km_config *config, int64_t n) {
    const moments m = moments_of(x, config, n);
    for (int64_t i = 0; i < n; i++) {
        const double bias = norm->bias == NULL ? 0.0 : (double)norm->bias[i];
        y[i] = (float)(((double)x[i] - m.mean) * m.factor * gain_at(norm, config, i) + bias);
    }
}

/* With u = (x - mean) factor and g = gain dy: dx = factor (g - [mean of g] - u (mean of g u)). */
void km__norm_backward(float *dx, const float *dy, const float *x, const km_norm_weights *norm,
                       const km_config *config, int64_t n, bool add) {
    const moments m = moments_of(x, config, n);
    double sum = 0.0, along = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double g = (double)dy[i] * gain_at(norm, config, i);
        sum += g;
        along += g * ((double)x[i] - m.mean) * m.factor;
    }
    const double mean = config->norm == KM_NORM_LAYER ? sum / (double)n : 0.0;
    along /= (double)n;
    for (int64_t i = 0; i < n; i++) {
        const double g = (double)dy[i] * gain_at(norm, config, i);
        const double u = ((double)x[i] - m.mean) * m.factor;
        const double d = m.factor * (g - mean - u * along);
        dx[i] = (float)(add ? (double)dx[i] + d : d);
    }
}

/* ---- activations ---- */

typedef struct activated {
    float value, slope;
} activated;

static activated silu(float x) {
    const float s = 1.0f / (1.0f + expf(-x));
    return (activated){x * s, s * (1.0f + x * (1.0f - s))};
}

/* x s(2u), s being the logistic function and u = sqrt(2/pi) (x + 0.044715 x^3) */
static activated gelu_tanh(float x) {
    const float u = SQRT_2_OVER_PI * (x + 0.044715f * x * x * x);
    const float s = 1.0f / (1.0f + expf(-2.0f * u));
    const float du = SQRT_2_OVER_PI * (1.0f + 3.0f * 0.044715f * x * x);
    return (activated){x * s, s + 2.0f * x * s * (1.0f - s) * du};
}

static activated gelu_erf(float x) {
    const float below = 0.5f * erfcf(-x * SQRT_HALF);
    return (activated){x * below, below + x * INV_SQRT_2_PI * expf(-0.5f * x * x)};
}

static activated activate(float x, km_activation activation) {
    switch (activation) {
    case KM_ACT_SILU:
        return silu(x);
    case KM_ACT_GELU_TANH:
        return gelu_tanh(x);
    case KM_ACT_GELU_ERF:
        break;
    }
    return gelu_erf(x);
}

void km__mlp_forward(float *hidden, const float *pre, const float *up, km_activation activation,
                     int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        hidden[i] = activate(pre[i], activation).value * (up == NULL ? 1.0f : up[i]);
    }
}

void km__mlp_backward(float *pre, float *up, const float *dhidden, km_activation activation,
                      int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const activated a = activate(pre[i], activation);
        pre[i] = dhidden[i] * a.slope * (up == NULL ? 1.0f : up[i]);
        if (up != NULL) {
            up[i] = dhidden[i] * a.value;
        }
    }
}

/* ---- softmax and soft cap ---- */

void km__softmax_backward(float *ds, const float *p, int64_t n) {
    double mean = 0.0;
    for (int64_t i = 0; i < n; i++) {
        mean += (double)p[i] * (double)ds[i];
    }
    for (int64_t i = 0; i < n; i++) {
        ds[i] = (float)((double)p[i] * ((double)ds[i] - mean));
    }
}

void km__softcap_backward(float *d, const float *y, float cap, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float t = y[i] / cap;
        d[i] *= 1.0f - t * t;
    }
}
