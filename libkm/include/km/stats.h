/* km/stats.h: intervals, tests and power for measurements whose items come in clusters.
 *
 * Pure functions in double precision. Randomness comes from the seed alone (Philox), so a result
 * has the same bits on any number of threads. Functions that need working memory take a context.
 * Every value must be finite: KM_ENUMERIC names the first that is not. Arrays without a stated
 * length have the same length as x. What each figure means: docs/measures/statistics.md.
 */
#ifndef KM_STATS_H
#define KM_STATS_H

#include "km/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- distributions ---- */

/* P(Z <= x) of the standard normal distribution. */
KM_API double km_stats_normal_cdf(double x);
/* Inverse of the normal distribution function; -inf and inf at 0 and 1, NaN outside [0, 1]. */
KM_API double km_stats_normal_quantile(double p);
/* Regularised incomplete beta function I_x(a, b) for a, b > 0; NaN outside 0 <= x <= 1. */
KM_API double km_stats_beta_cdf(double x, double a, double b);
/* Student's t with df > 0 (not necessarily whole) degrees of freedom. */
KM_API double km_stats_t_cdf(double t, double df);
/* Inverse of km_stats_t_cdf; -inf and inf at 0 and 1, NaN outside [0, 1]. */
KM_API double km_stats_t_quantile(double p, double df);
/* P(|T| >= |t|). */
KM_API double km_stats_t_two_sided(double t, double df);

/* ---- description ---- */

/* Compensated sum over n; NaN for n = 0. */
KM_API double km_stats_mean(const double *x, int64_t n);
/* Sample variance (denominator n - 1); NaN for n < 2. */
KM_API double km_stats_variance(const double *x, int64_t n);
/* Quantile of x sorted in rising order, interpolated linearly (Hyndman and Fan's type 7); NaN for
 * n = 0 or p outside [0, 1]. */
KM_API double km_stats_quantile_sorted(const double *x, int64_t n, double p);

/* ---- intervals ---- */

typedef struct km_interval {
    double estimate, low, high;
    double se; /* standard error; NaN where the method has none */
    double df; /* degrees of freedom; NaN where the method has none */
    int64_t n, n_clusters;
    const char *method; /* static: "wilson", "bootstrap", "cluster bootstrap", "CR2 t", ... */
} km_interval;

/* Wilson's score interval of a proportion. Errors: KM_EINVAL for n < 1, successes outside 0..n or
 * confidence outside (0, 1). */
KM_API KM_NODISCARD km_status km_stats_wilson(km_interval *out, int64_t successes, int64_t n,
                                              double confidence, km_error *err);

typedef enum km_cluster_method {
    KM_CLUSTER_AUTO = 0,  /* the bootstrap from 30 clusters on, else the t interval */
    KM_CLUSTER_BOOTSTRAP, /* percentile bootstrap */
    KM_CLUSTER_T          /* cluster-robust standard error CR2, t with Bell-McCaffrey df */
} km_cluster_method;

typedef struct km_interval_options {
    int64_t replicates; /* of the bootstrap, at least 100 */
    double confidence;  /* in (0, 1) */
    uint64_t seed;
    km_cluster_method method;
    bool macro;      /* the mean of the clusters' means instead of the mean of all items */
    bool proportion; /* values lie in [0, 1]: cut the interval there and let none have zero width */
} km_interval_options;
#define KM_INTERVAL_OPTIONS_INIT {2000, 0.95, 0, KM_CLUSTER_AUTO, false, false}

/* Percentile bootstrap of the mean of n independent values; macro and method are not used. */
KM_API KM_NODISCARD km_status km_stats_bootstrap_mean(km_interval *out, km_ctx *ctx,
                                                      const double *x, int64_t n,
                                                      const km_interval_options *options,
                                                      km_error *err);

/* How items belong together; each array is (n) of any ids. */
typedef struct km_clusters {
    const int64_t *cluster;     /* such as the relation; NULL: every item is its own cluster */
    const int64_t *subject;     /* within its cluster; NULL: subjects are not resampled */
    const int64_t *template_id; /* within its cluster, crossed with subjects; NULL: not resampled */
} km_clusters;

/* Mean of clustered values with an interval (options NULL: the defaults).
 *
 * Bootstrap: clusters are drawn with replacement; in each drawn cluster subjects and templates are
 * drawn with replacement independently of each other and a cell counts by the product of the two
 * (Owen 2007, the pigeonhole bootstrap). Drawing at both levels errs on the wide side.
 * With a single cluster, that cluster is kept and only subjects and templates are drawn.
 *
 * CR2 t (Bell and McCaffrey 2002): for a mean, residual sums of the clusters divided by
 * sqrt(1 - n_g / n), Student's t with Satterthwaite degrees of freedom; exactly the t interval of
 * cluster means where clusters are equal in size or macro is set. It covers at its nominal level
 * from a handful of clusters on, where the percentile bootstrap is too narrow (tests simulate
 * both). With a single cluster it is two-way by subject and template (V_subject + V_template -
 * V_cell, not below the larger of the first two; df: the smaller number of groups, minus 1).
 *
 * With options.proportion, values that are all 0 or all 1 get Wilson's interval with the number of
 * clusters as n. Errors: KM_EINVAL (n < 1, options, fewer than two clusters and no two subjects),
 * KM_ERANGE (proportion with a value outside [0, 1]), KM_ENUMERIC, KM_ENOMEM. */
KM_API KM_NODISCARD km_status km_stats_clustered_mean(km_interval *out, km_ctx *ctx,
                                                      const double *x, int64_t n,
                                                      const km_clusters *clusters,
                                                      const km_interval_options *options,
                                                      km_error *err);

/* Mean of a - b over items measured twice, clustered as above. With options.proportion (a and b in
 * [0, 1]) differences that are all zero get plus and minus Wilson's upper bound of 0 in the number
 * of clusters. */
KM_API KM_NODISCARD km_status km_stats_paired_difference(km_interval *out, km_ctx *ctx,
                                                         const double *a, const double *b,
                                                         int64_t n, const km_clusters *clusters,
                                                         const km_interval_options *options,
                                                         km_error *err);

/* ---- tests; every p-value is two-sided ---- */

typedef struct km_test {
    double statistic, p;
    bool exact;    /* every arrangement was counted */
    int64_t n;     /* units that were rearranged, or items */
    int64_t draws; /* arrangements looked at; 0 where the test has none */
} km_test;

/* Sign-flip test that the mean of x is zero: the signs of whole clusters (NULL: of items) change
 * together; the statistic is the mean. Exact up to 20 clusters, else `draws` random sign vectors
 * and p = (1 + hits) / (1 + draws). */
KM_API KM_NODISCARD km_status km_stats_permutation_paired(km_test *out, km_ctx *ctx,
                                                          const double *x, int64_t n,
                                                          const int64_t *cluster, int64_t draws,
                                                          uint64_t seed, km_error *err);
/* Difference of the means of two independent samples under exchange of their labels. Exact while
 * there are at most 2^20 arrangements. */
KM_API KM_NODISCARD km_status km_stats_permutation_two_sample(km_test *out, km_ctx *ctx,
                                                              const double *x, int64_t n_x,
                                                              const double *y, int64_t n_y,
                                                              int64_t draws, uint64_t seed,
                                                              km_error *err);
/* Exact McNemar test: b pairs where only the first succeeded, c where only the second did.
 * statistic: min(b, c). No discordant pair: p = 1. */
KM_API KM_NODISCARD km_status km_stats_mcnemar(km_test *out, int64_t b, int64_t c, km_error *err);

/* Adjusted p-values into out (n), in the order of p: Holm (1979), for confirmatory families.
 * Errors: KM_ERANGE for p outside [0, 1]. */
KM_API KM_NODISCARD km_status km_stats_holm(double *out, km_ctx *ctx, const double *p, int64_t n,
                                            km_error *err);
/* The same by Benjamini and Hochberg (1995), for exploratory families. */
KM_API KM_NODISCARD km_status km_stats_benjamini_hochberg(double *out, km_ctx *ctx, const double *p,
                                                          int64_t n, km_error *err);

/* ---- association; statistic and p are NaN where a variable is constant ---- */

/* Pearson's r with Student's t on n - 2; n >= 3. */
KM_API KM_NODISCARD km_status km_stats_pearson(km_test *out, const double *x, const double *y,
                                               int64_t n, km_error *err);
/* Pearson's r of average ranks; n >= 3. */
KM_API KM_NODISCARD km_status km_stats_spearman(km_test *out, km_ctx *ctx, const double *x,
                                                const double *y, int64_t n, km_error *err);
/* Kendall's tau-b; the exact distribution up to 33 items without ties, else the normal one with
 * the variance corrected for ties; n >= 2. */
KM_API KM_NODISCARD km_status km_stats_kendall(km_test *out, km_ctx *ctx, const double *x,
                                               const double *y, int64_t n, km_error *err);
/* Average ranks from 1 into out (n). */
KM_API KM_NODISCARD km_status km_stats_ranks(double *out, km_ctx *ctx, const double *x, int64_t n,
                                             km_error *err);
/* Area under the ROC curve: the chance that a positive scores above a negative, ties half.
 * positive (n): 0 or not. Errors: KM_EINVAL when one of the two groups is empty. */
KM_API KM_NODISCARD km_status km_stats_auroc(double *out, km_ctx *ctx, const double *scores,
                                             const uint8_t *positive, int64_t n, km_error *err);

typedef struct km_regression {
    double slope, intercept, slope_se, intercept_se;
    double t, p; /* of the slope against zero, n - 2 degrees of freedom */
    double r2;
    int64_t n;
} km_regression;

/* Ordinary least squares of y on x; n >= 3 and x not constant, else KM_EINVAL. */
KM_API KM_NODISCARD km_status km_stats_linear_regression(km_regression *out, const double *x,
                                                         const double *y, int64_t n, km_error *err);

/* ---- power, by normal approximation; alpha two-sided; design_effect divides n (1: none) ---- */

/* Smallest difference p10 - p01 of paired proportions that n pairs show, where `discordance` is
 * p10 + p01 (Connor 1987). NaN in *out when not even d = discordance would be shown. */
KM_API KM_NODISCARD km_status km_stats_power_paired(double *out, double n, double discordance,
                                                    double alpha, double power,
                                                    double design_effect, km_error *err);
/* Pairs needed to show `difference` (not 0, at most discordance in size). */
KM_API KM_NODISCARD km_status km_stats_pairs_needed(double *out, double difference,
                                                    double discordance, double alpha, double power,
                                                    double design_effect, km_error *err);
/* Smallest rise of a proportion above `baseline` that two groups of n each show (Fleiss); NaN when
 * not even 1 - baseline would be shown. */
KM_API KM_NODISCARD km_status km_stats_power_two_proportions(double *out, double n, double baseline,
                                                             double alpha, double power,
                                                             double design_effect, km_error *err);
/* Items needed in each group to tell p1 from p2. */
KM_API KM_NODISCARD km_status km_stats_items_needed(double *out, double p1, double p2, double alpha,
                                                    double power, double design_effect,
                                                    km_error *err);

#ifdef __cplusplus
}
#endif

#endif
