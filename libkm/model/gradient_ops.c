/* gradient_ops.c: derivatives of norms, softmax and soft cap. */
#include "model/gradient_ops.h"

#include <math.h>

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
