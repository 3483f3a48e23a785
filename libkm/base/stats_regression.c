/* stats_regression.c: a straight line by least squares.
 *
 * slope = Sxy / Sxx, intercept = mean y - slope * mean x; with s^2 the residual sum of squares
 * over n - 2, se(slope) = s / sqrt(Sxx) and se(intercept) = s sqrt(1/n + (mean x)^2 / Sxx).
 * Residuals are taken about the means, where the intercept has no part in their rounding.
 */
#include <math.h>

#include "base/stats_private.h"

typedef struct moments {
    double mean_x, mean_y, xx, xy, yy;
} moments;

static moments moments_of(const double *x, const double *y, int64_t n) {
    moments m = {.mean_x = km_stats_mean(x, n), .mean_y = km_stats_mean(y, n)};
    km__sum xx = {0, 0}, xy = {0, 0}, yy = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        double dx = x[i] - m.mean_x;
        double dy = y[i] - m.mean_y;
        km__sum_add(&xx, dx * dx);
        km__sum_add(&xy, dx * dy);
        km__sum_add(&yy, dy * dy);
    }
    m.xx = km__sum_get(&xx);
    m.xy = km__sum_get(&xy);
    m.yy = km__sum_get(&yy);
    return m;
}

km_status km_stats_linear_regression(km_regression *out, const double *x, const double *y,
                                     int64_t n, km_error *err) {
    KM_TRY(km__stats_check(x, n, 3, "x", err));
    KM_TRY(km__stats_check(y, n, 3, "y", err));
    moments m = moments_of(x, y, n);
    if (!(m.xx > 0)) {
        return KM_SET(err, KM_EINVAL, "x is constant, so no line is determined");
    }
    double slope = m.xy / m.xx;
    double intercept = m.mean_y - slope * m.mean_x;
    km__sum residual = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        double e = (y[i] - m.mean_y) - slope * (x[i] - m.mean_x);
        km__sum_add(&residual, e * e);
    }
    double df = (double)(n - 2);
    double variance = km__sum_get(&residual) / df;
    *out = (km_regression){.slope = slope, .intercept = intercept, .n = n};
    out->slope_se = sqrt(variance / m.xx);
    out->intercept_se = sqrt(variance * (1 / (double)n + m.mean_x * m.mean_x / m.xx));
    out->t = slope / out->slope_se;
    out->p = km_stats_t_two_sided(out->t, df);
    out->r2 = m.yy > 0 ? 1 - km__sum_get(&residual) / m.yy : (double)NAN;
    return KM_OK;
}
