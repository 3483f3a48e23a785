/* Exposure of canaries (Carlini et al. 2019): rank among references in bits, and extrapolation by
 * the distribution function of a skew-normal.
 *
 * F(z; a) = 2 int_-inf^z phi(t) Phi(a t) dt. For a > 0 and z < 0 the usual form Phi(z) - 2 T(z, a)
 * cancels to nothing, exactly where exposures are large, so the integral is taken directly: with
 * t = z - u / r, r the integrand's decay rate at z, the integrand falls from 1 without a bump and a
 * double-exponential rule (u = exp(pi/2 sinh x)) meets it to full precision, in logarithms so that
 * it cannot underflow. For z >= 0 Owen's T serves in forms that do not cancel; a < 0 follows from
 * F(z; -a) = 2 Phi(z) - F(z; a). */
#include "base/base.h"

#include <math.h>
#include <stdlib.h>

#include "km/memorization_scores.h"

#define PI 3.14159265358979323846
#define SQRT1_2 0.70710678118654752440
#define LOG_SQRT_2PI 0.91893853320467274178

static double log_normal_cdf(double x) {
    if (x > -30) {
        return log(0.5 * erfc(-x * SQRT1_2));
    }
    double s = 1 / (x * x); /* Mills' ratio; the next term is below 1e-9 of the sum */
    return -x * x / 2 - log(-x) - LOG_SQRT_2PI + log1p(-s * (1 - 3 * s * (1 - 5 * s)));
}

/* log F(z; a) for a > 0, z < 0. */
static double log_cdf_left(double z, double a) {
    double edge = log_normal_cdf(a * z);
    double hazard = exp(-a * a * z * z / 2 - LOG_SQRT_2PI - edge);
    double rate = -z + a * hazard;
    double sum = 0;
    const double h = 1.0 / 64;
    for (int k = -320; k <= 192; k++) {
        double x = k * h;
        double u = exp(PI / 2 * sinh(x));
        double weight = u * PI / 2 * cosh(x);
        double t = z - u / rate;
        double drop = (z * z - t * t) / 2 + log_normal_cdf(a * t) - edge;
        sum += drop > -745 ? exp(drop) * weight : 0;
    }
    return log(2 * sum * h / rate) - z * z / 2 - LOG_SQRT_2PI + edge;
}

/* Owen's T(z, a) = 1/(2 pi) int_0^atan(a) exp(-z^2 / (2 cos^2 w)) dw for 0 <= a <= 1, where the
 * integrand has no sharp edge and Simpson's rule with 2,000 steps is exact to rounding. */
static double owen_t(double z, double a) {
    const int n = 2000;
    double step = atan(a) / n;
    double sum = 0;
    for (int i = 0; i <= n; i++) {
        double c = cos(i * step);
        double value = exp(-z * z / (2 * c * c));
        sum += value * (i == 0 || i == n ? 1 : i % 2 == 1 ? 4 : 2);
    }
    return sum * step / (3 * 2 * PI);
}

/* F(z; a) for a > 0, z >= 0. Above a = 1, T(z, a) is turned into T(a z, 1/a), and the products of
 * normal distribution functions that the turn brings join into one positive term. */
static double cdf_right(double z, double a) {
    if (a <= 1) {
        return 0.5 * erfc(-z * SQRT1_2) - 2 * owen_t(z, a);
    }
    return 0.5 * erfc(-a * z * SQRT1_2) * erf(z * SQRT1_2) + 2 * owen_t(a * z, 1 / a);
}

static double log_cdf(double z, double a) {
    if (a == 0) {
        return log_normal_cdf(z);
    }
    if (a > 0 && z < 0) {
        return log_cdf_left(z, a);
    }
    if (a > 0) {
        return log(cdf_right(z, a));
    }
    double twice = log(2.0) + log_normal_cdf(z);
    return twice + log1p(-exp(log_cdf(z, -a) - twice));
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Number of sorted entries strictly smaller than x. */
static int64_t count_below(const double *sorted, int64_t n, double x) {
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (sorted[middle] < x) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static km_status check_no_nan(const double *x, int64_t n, const char *name, km_error *err) {
    for (int64_t i = 0; i < n; i++) {
        if (isnan(x[i])) {
            return KM_SET(err, KM_EINVAL, "%s[%lld] is NaN", name, (long long)i);
        }
    }
    return KM_OK;
}

km_status km_score_exposure_into(int64_t *rank, double *exposure, km_ctx *ctx, const double *canary,
                                 int64_t n_canary, const double *reference, int64_t n_reference,
                                 double log2_space, km_error *err) {
    double *sorted = NULL;
    if (n_reference < 1) {
        return KM_SET(err, KM_EINVAL, "at least one reference is needed");
    }
    KM_TRY(check_no_nan(canary, n_canary, "canary", err));
    KM_TRY(check_no_nan(reference, n_reference, "reference", err));
    KM_TRY(km_alloc_array((void **)&sorted, ctx, n_reference, sizeof *sorted, err));
    for (int64_t i = 0; i < n_reference; i++) {
        sorted[i] = reference[i];
    }
    qsort(sorted, (size_t)n_reference, sizeof *sorted, compare_doubles);
    double space = isnan(log2_space) ? log2((double)n_reference) : log2_space;
    for (int64_t i = 0; i < n_canary; i++) {
        rank[i] = 1 + count_below(sorted, n_reference, canary[i]);
        exposure[i] = space - log2((double)rank[i]);
    }
    km_free(ctx, sorted);
    return KM_OK;
}

km_status km_score_exposure_skewnormal(double *out, double x, double a, double loc, double scale,
                                       km_error *err) {
    if (!isfinite(x) || !isfinite(a) || !isfinite(loc) || !isfinite(scale) || scale <= 0) {
        return KM_SET(err, KM_EINVAL, "x, a, loc and scale must be finite, scale positive");
    }
    *out = -log_cdf((x - loc) / scale, a) / log(2.0);
    return KM_OK;
}
