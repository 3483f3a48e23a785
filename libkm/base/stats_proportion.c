/* stats_proportion.c: Wilson's interval and the exact McNemar test. */
#include <math.h>

#include "base/stats_private.h"

km_status km_stats_wilson(km_interval *out, int64_t successes, int64_t n, double confidence,
                          km_error *err) {
    KM_TRY(km__stats_check_confidence(confidence, err));
    if (n < 1 || successes < 0 || successes > n) {
        return KM_SET(err, KM_EINVAL, "%lld successes of %lld", (long long)successes, (long long)n);
    }
    double count = (double)n;
    double p = (double)successes / count;
    double z = -km_stats_normal_quantile((1 - confidence) / 2);
    double z2 = z * z / count;
    double centre = (p + z2 / 2) / (1 + z2);
    double half = z / (1 + z2) * sqrt(p * (1 - p) / count + z2 / (4 * count));
    *out = (km_interval){.estimate = p,
                         .low = successes == 0 ? 0 : centre - half,
                         .high = successes == n ? 1 : centre + half,
                         .se = NAN,
                         .df = NAN,
                         .n = n,
                         .n_clusters = n,
                         .method = "wilson"};
    return KM_OK;
}

/* P(X <= k) for X binomial (n, 1/2) equals I_{1/2}(n - k, k + 1). */
km_status km_stats_mcnemar(km_test *out, int64_t b, int64_t c, km_error *err) {
    if (b < 0 || c < 0 || b > INT64_MAX - c) {
        return KM_SET(err, KM_EINVAL, "%lld and %lld discordant pairs", (long long)b, (long long)c);
    }
    int64_t k = b < c ? b : c;
    double p = 1;
    if (b != c) {
        p = 2 * km_stats_beta_cdf(0.5, (double)(b + c - k), (double)(k + 1));
    }
    *out = (km_test){.statistic = (double)k, .p = fmin(p, 1), .exact = true, .n = b + c};
    return KM_OK;
}
