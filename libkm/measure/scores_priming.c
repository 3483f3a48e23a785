/* scores_priming.c: how far a learned text's keyword leaks (Sun et al. 2025), in log space.
 *
 * S_prime is a mean of ratios whose denominators may be 1e-12 and smaller, so it is computed as a
 * log-sum-exp of log ratios and given as a logarithm; the ratio itself may not fit a double. The
 * mean and the median of the log ratios stand beside it, because one tiny denominator can make the
 * mean of ratios anything.
 */
#include "base/base.h"

#include <math.h>
#include <stdlib.h>

#include "km/priming_scores.h"
#include "km/stats.h"

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static km_status check_logs(const double *x, int64_t n, const char *name, km_error *err) {
    for (int64_t i = 0; i < n; i++) {
        if (isnan(x[i]) || x[i] == (double)INFINITY) {
            return KM_SET(err, KM_EINVAL, "%s[%lld] is %g, not the logarithm of a probability",
                          name, (long long)i, x[i]);
        }
    }
    return KM_OK;
}

/* log of the mean of exp(sorted), rising; NaN for n = 0. */
static double log_mean_exp(const double *sorted, int64_t n) {
    if (n == 0) {
        return (double)NAN;
    }
    double top = sorted[n - 1];
    if (isinf(top)) {
        return top;
    }
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += exp(sorted[i] - top);
    }
    return top + log(sum / (double)n);
}

/* Infinite values make the mean infinite, or NaN where both signs are among them. */
static double mean(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
    }
    return sum / (double)n;
}

static double median(const double *sorted, int64_t n) {
    if (n == 0) {
        return (double)NAN;
    }
    double low = sorted[(n - 1) / 2];
    double high = sorted[n / 2];
    return low == high ? low : (low + high) / 2;
}

/* The log ratios of prefixes that count into `ratios`, those with a stable denominator into
 * `stable`; returns how many are stable. */
static int64_t take_ratios(km_priming_score *out, double *ratios, double *stable,
                           const double *before, const double *after, int64_t n,
                           double log_unstable) {
    int64_t n_stable = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isinf(before[i]) && isinf(after[i])) {
            out->n_dropped++;
            continue;
        }
        double ratio = after[i] - before[i];
        ratios[out->n++] = ratio;
        out->mean_delta_p += exp(after[i]) - exp(before[i]);
        if (before[i] < log_unstable) {
            out->n_unstable++;
        } else {
            stable[n_stable++] = ratio;
        }
    }
    return n_stable;
}

km_status km_score_priming(km_priming_score *out, km_ctx *ctx, double context_before,
                           double context_after, const double *before, const double *after,
                           int64_t n, double log_unstable, km_error *err) {
    double *ratios = NULL;
    if (n < 1) {
        return KM_SET(err, KM_EINVAL, "priming needs at least one prefix");
    }
    KM_TRY(check_logs(&context_before, 1, "context_before", err));
    KM_TRY(check_logs(&context_after, 1, "context_after", err));
    KM_TRY(check_logs(before, n, "before", err));
    KM_TRY(check_logs(after, n, "after", err));
    KM_TRY(km_alloc_array((void **)&ratios, ctx, n, 2 * sizeof *ratios, err));
    double *stable = ratios + n;
    *out = (km_priming_score){.log_s_mem = context_after - context_before};
    int64_t n_stable = take_ratios(out, ratios, stable, before, after, n, log_unstable);
    out->mean_log_ratio = mean(ratios, out->n);
    out->mean_delta_p /= (double)out->n;
    qsort(ratios, (size_t)out->n, sizeof *ratios, compare_doubles);
    qsort(stable, (size_t)n_stable, sizeof *stable, compare_doubles);
    out->log_s_prime = log_mean_exp(ratios, out->n);
    out->log_s_prime_stable = log_mean_exp(stable, n_stable);
    out->median_log_ratio = median(ratios, out->n);
    km_free(ctx, ratios);
    return KM_OK;
}

km_status km_score_priming_predictor(km_priming_prediction *out, bool *surprising, km_ctx *ctx,
                                     const double *log_keyword, const double *log_s_prime,
                                     int64_t n, double threshold, km_error *err) {
    km_test pearson = {.statistic = (double)NAN}, spearman = pearson;
    if (n < 1) {
        return KM_SET(err, KM_EINVAL, "the predictor needs at least one text");
    }
    if (!(threshold > 0)) {
        return KM_SET(err, KM_EINVAL, "threshold %g is not positive", threshold);
    }
    if (n >= 3) {
        KM_TRY(km_stats_pearson(&pearson, log_keyword, log_s_prime, n, err));
        KM_TRY(km_stats_spearman(&spearman, ctx, log_keyword, log_s_prime, n, err));
    }
    double sums[2] = {0, 0};
    int64_t counts[2] = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(log_keyword[i]) || !isfinite(log_s_prime[i])) {
            return KM_SET(err, KM_ENUMERIC, "text %lld: log_keyword %g, log_s_prime %g",
                          (long long)i, log_keyword[i], log_s_prime[i]);
        }
        bool is_surprising = log_keyword[i] < log(threshold);
        sums[is_surprising] += log_s_prime[i];
        counts[is_surprising]++;
        if (surprising != NULL) {
            surprising[i] = is_surprising;
        }
    }
    *out = (km_priming_prediction){.pearson = pearson.statistic,
                                   .spearman = spearman.statistic,
                                   .n = n,
                                   .n_surprising = counts[1],
                                   .mean_surprising = sums[1] / (double)counts[1],
                                   .mean_unsurprising = sums[0] / (double)counts[0]};
    return KM_OK;
}
