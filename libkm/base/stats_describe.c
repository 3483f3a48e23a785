/* stats_describe.c: checks, sums, moments, quantiles, sorting.
 *
 * Sums carry their rounding error along (Neumaier), so that the mean of a million
 * log-probabilities does not depend on their order beyond the last digit.
 */
#include <math.h>
#include <stdlib.h>

#include "base/stats_private.h"

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

km_status km__stats_check(const double *x, int64_t n, int64_t least, const char *name,
                          km_error *err) {
    if (n < least) {
        return KM_SET(err, KM_EINVAL, "%s has %lld values; at least %lld are needed", name,
                      (long long)n, (long long)least);
    }
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            return KM_SET(err, KM_ENUMERIC, "%s[%lld] is not finite", name, (long long)i);
        }
    }
    return KM_OK;
}

km_status km__stats_check_confidence(double confidence, km_error *err) {
    if (!(confidence > 0 && confidence < 1)) {
        return KM_SET(err, KM_EINVAL, "the confidence is %g; it must lie between 0 and 1",
                      confidence);
    }
    return KM_OK;
}

void km__sum_add(km__sum *sum, double value) {
    double next = sum->sum + value;
    if (fabs(sum->sum) >= fabs(value)) {
        sum->compensation += (sum->sum - next) + value;
    } else {
        sum->compensation += (value - next) + sum->sum;
    }
    sum->sum = next;
}

double km__sum_get(const km__sum *sum) {
    return sum->sum + sum->compensation;
}

void km__sort_doubles(double *x, int64_t n) {
    qsort(x, (size_t)n, sizeof x[0], compare_doubles);
}

double km_stats_mean(const double *x, int64_t n) {
    km__sum sum = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        km__sum_add(&sum, x[i]);
    }
    return n > 0 ? km__sum_get(&sum) / (double)n : (double)NAN;
}

double km_stats_variance(const double *x, int64_t n) {
    if (n < 2) {
        return NAN;
    }
    double mean = km_stats_mean(x, n);
    km__sum squares = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        km__sum_add(&squares, (x[i] - mean) * (x[i] - mean));
    }
    return km__sum_get(&squares) / (double)(n - 1);
}

double km_stats_quantile_sorted(const double *x, int64_t n, double p) {
    if (n < 1 || !(p >= 0 && p <= 1)) {
        return NAN;
    }
    double place = p * (double)(n - 1);
    int64_t below = (int64_t)floor(place);
    if (below >= n - 1) {
        return x[n - 1];
    }
    return x[below] + (place - (double)below) * (x[below + 1] - x[below]);
}
