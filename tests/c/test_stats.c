/* test_stats.c: statistics against closed forms and by simulation; values against SciPy and
 * statsmodels are compared in tests/python/test_stats.py. */
#include <math.h>

#include "km/stats.h"
#include "km_test.h"

#define assert_near(got, want, tolerance)                                                          \
    do {                                                                                           \
        double got_value = (got), want_value = (want);                                             \
        if (!(fabs(got_value - want_value) <= (tolerance))) {                                      \
            fail_msg("%s is %.17g, not %.17g", #got, got_value, want_value);                       \
        }                                                                                          \
    } while (0)

static const km_interval_options defaults = KM_INTERVAL_OPTIONS_INIT;

/* ---- distributions ---- */

static void test_normal(void **state) {
    (void)state;
    assert_near(km_stats_normal_cdf(0), 0.5, 0);
    assert_near(km_stats_normal_cdf(1.959963984540054), 0.975, 1e-15);
    assert_near(km_stats_normal_quantile(0.975), 1.959963984540054, 1e-14);
    assert_near(km_stats_normal_quantile(0.5), 0, 1e-16);
    for (double p = 1e-300; p < 0.5; p *= 7.3) {
        assert_near(km_stats_normal_cdf(km_stats_normal_quantile(p)) / p, 1, 2e-12);
    }
    for (double p = 0.5; p < 1; p += 0.01) {
        assert_near(km_stats_normal_quantile(p), -km_stats_normal_quantile(1 - p), 1e-13);
    }
    assert_true(isinf(km_stats_normal_quantile(0)) && isinf(km_stats_normal_quantile(1)));
    assert_true(isnan(km_stats_normal_quantile(-0.1)) && isnan(km_stats_normal_quantile(NAN)));
}

static void test_beta(void **state) {
    (void)state;
    for (double x = 0; x <= 1; x += 0.125) {
        assert_near(km_stats_beta_cdf(x, 1, 1), x, 1e-15);
        assert_near(km_stats_beta_cdf(x, 2, 1), x * x, 1e-15);
        assert_near(km_stats_beta_cdf(x, 3.5, 20) + km_stats_beta_cdf(1 - x, 20, 3.5), 1, 1e-14);
    }
    assert_true(isnan(km_stats_beta_cdf(1.5, 1, 1)));
}

/* One degree of freedom is Cauchy's distribution; two has a closed form as well. */
static void test_student(void **state) {
    (void)state;
    for (double t = -40; t <= 40; t += 0.37) {
        assert_near(km_stats_t_cdf(t, 1), 0.5 + atan(t) / 3.14159265358979323846, 1e-14);
        assert_near(km_stats_t_cdf(t, 2), 0.5 + t / (2 * sqrt(2 + t * t)), 1e-14);
        assert_near(km_stats_t_cdf(t, INFINITY), km_stats_normal_cdf(t), 1e-15);
    }
    assert_near(km_stats_t_two_sided(1e-9, 5), 1, 1e-8);
    assert_near(km_stats_t_quantile(0.975, 1), 12.706204736174694, 1e-11);
    for (double p = 0.001; p < 1; p += 0.0137) {
        assert_near(km_stats_t_cdf(km_stats_t_quantile(p, 3.7), 3.7), p, 1e-13);
    }
}

/* ---- description ---- */

static void test_description(void **state) {
    (void)state;
    const double x[] = {1, 2, 4, 9};
    assert_near(km_stats_mean(x, 4), 4, 0);
    assert_near(km_stats_variance(x, 4), 38.0 / 3, 1e-14);
    assert_near(km_stats_quantile_sorted(x, 4, 0.5), 3, 0);
    assert_near(km_stats_quantile_sorted(x, 4, 0.9), 7.5, 1e-14);
    assert_near(km_stats_quantile_sorted(x, 4, 1), 9, 0);
    assert_true(isnan(km_stats_mean(x, 0)) && isnan(km_stats_variance(x, 1)));
    assert_true(isnan(km_stats_quantile_sorted(x, 0, 0.5)));
    const double hard[] = {1e16, 1, -1e16, 1};
    assert_near(km_stats_mean(hard, 4), 0.5, 0);
}

static void test_wilson(void **state) {
    (void)state;
    km_interval ci;
    km_error err = KM_ERROR_INIT;
    double z2 = 1.959963984540054 * 1.959963984540054;
    km_test_ok(km_stats_wilson(&ci, 0, 10, 0.95, &err), &err);
    assert_near(ci.low, 0, 0);
    assert_near(ci.high, z2 / (10 + z2), 1e-14);
    km_test_ok(km_stats_wilson(&ci, 10, 10, 0.95, &err), &err);
    assert_near(ci.low, 10 / (10 + z2), 1e-14);
    assert_near(ci.high, 1, 0);
    km_test_ok(km_stats_wilson(&ci, 5, 10, 0.95, &err), &err);
    assert_near(ci.low + ci.high, 1, 1e-15);
    km_test_fails(km_stats_wilson(&ci, 3, 2, 0.95, &err), KM_EINVAL, &err, "3 successes");
    km_test_fails(km_stats_wilson(&ci, 0, 0, 0.95, &err), KM_EINVAL, &err, "of 0");
    km_test_fails(km_stats_wilson(&ci, 1, 2, 1, &err), KM_EINVAL, &err, "confidence");
}

/* ---- intervals ---- */

/* Clusters of equal size: exactly the t interval of the cluster means. */
static void test_cr2_equal_sizes(void **state) {
    enum { G = 6, M = 4 };
    double x[G * M], means[G] = {0};
    int64_t cluster[G * M];
    for (int i = 0; i < G * M; i++) {
        x[i] = km_random_normal(5, 0, (uint64_t)i) + 3 * (i % G);
        cluster[i] = 100 - 7 * (i % G);
        means[i % G] += x[i] / M;
    }
    km_interval ci, macro;
    km_error err = KM_ERROR_INIT;
    km_clusters by = {cluster, NULL, NULL};
    km_test_ok(km_stats_clustered_mean(&ci, *state, x, G * M, &by, NULL, &err), &err);
    double se = sqrt(km_stats_variance(means, G) / G);
    assert_string_equal(ci.method, "CR2 t");
    assert_near(ci.estimate, km_stats_mean(means, G), 1e-13);
    assert_near(ci.se, se, 1e-13);
    assert_near(ci.df, G - 1, 1e-10);
    assert_near(ci.high - ci.estimate, se * km_stats_t_quantile(0.975, G - 1), 1e-11);
    assert_int_equal(ci.n_clusters, G);
    km_interval_options options = defaults;
    options.macro = true;
    km_test_ok(km_stats_clustered_mean(&macro, *state, x, G * M, &by, &options, &err), &err);
    assert_near(macro.low, ci.low, 1e-11);
    assert_near(macro.df, G - 1, 0);
}

/* Every item its own cluster: the ordinary standard error of a mean. */
static void test_cr2_items(void **state) {
    double x[25];
    km_interval ci;
    km_error err = KM_ERROR_INIT;
    for (int i = 0; i < 25; i++) {
        x[i] = km_random_normal(6, 0, (uint64_t)i);
    }
    km_test_ok(km_stats_clustered_mean(&ci, *state, x, 25, NULL, NULL, &err), &err);
    assert_near(ci.se, sqrt(km_stats_variance(x, 25) / 25), 1e-14);
    assert_near(ci.df, 24, 1e-9);
}

static km_interval bootstrap_of(km_ctx *ctx, const double *x, int64_t n, const km_clusters *by,
                                uint64_t seed) {
    km_interval ci;
    km_error err = KM_ERROR_INIT;
    km_interval_options options = defaults;
    options.method = KM_CLUSTER_BOOTSTRAP;
    options.seed = seed;
    km_test_ok(km_stats_clustered_mean(&ci, ctx, x, n, by, &options, &err), &err);
    return ci;
}

/* The bootstrap variance of a mean is (n - 1) / n times the squared standard error. */
static void test_bootstrap_variance(void **state) {
    enum { N = 60 };
    double x[N];
    for (int i = 0; i < N; i++) {
        x[i] = km_random_normal(8, 0, (uint64_t)i);
    }
    km_interval ci = bootstrap_of(*state, x, N, NULL, 1);
    double want = sqrt(km_stats_variance(x, N) / N * (N - 1) / N);
    assert_near(ci.se / want, 1, 0.06);
    assert_near((ci.high - ci.low) / (2 * 1.96 * want), 1, 0.1);
    km_interval again = bootstrap_of(*state, x, N, NULL, 1);
    km_interval other = bootstrap_of(*state, x, N, NULL, 2);
    assert_true(ci.low == again.low && ci.high == again.high);
    assert_true(ci.low != other.low);
}

/* One cluster of subjects crossed with templates, values a_s + b_t: the pigeonhole variance is the
 * sum of the two factors' own bootstrap variances. */
static void test_pigeonhole(void **state) {
    enum { S = 40, T = 8 };
    double x[S * T], a[S], b[T];
    int64_t one[S * T], subject[S * T], template_id[S * T];
    for (int s = 0; s < S; s++) {
        a[s] = km_random_normal(9, 0, (uint64_t)s);
    }
    for (int t = 0; t < T; t++) {
        b[t] = km_random_normal(9, 1, (uint64_t)t);
    }
    for (int i = 0; i < S * T; i++) {
        one[i] = 4;
        subject[i] = i / T;
        template_id[i] = i % T;
        x[i] = a[i / T] + b[i % T];
    }
    km_clusters by = {one, subject, template_id};
    km_interval ci = bootstrap_of(*state, x, S * T, &by, 3);
    double va = km_stats_variance(a, S) / S * (S - 1) / S;
    double vb = km_stats_variance(b, T) / T * (T - 1) / T;
    assert_near(ci.se / sqrt(va + vb), 1, 0.06);
    assert_int_equal(ci.n_clusters, S);
}

static void test_same_bits(void **state) {
    (void)state;
    enum { N = 500 };
    double x[N];
    int64_t cluster[N], subject[N], template_id[N];
    for (int i = 0; i < N; i++) {
        x[i] = km_random_uniform(10, 0, (uint64_t)i);
        cluster[i] = i % 37;
        subject[i] = i / 37 % 5;
        template_id[i] = i % 3;
    }
    km_clusters by = {cluster, subject, template_id};
    const int threads[] = {1, 2, 7};
    km_interval first = {0};
    km_test flip_first = {0};
    for (int i = 0; i < 3; i++) {
        km_ctx *ctx = km_test_ctx(threads[i]);
        km_error err = KM_ERROR_INIT;
        km_test flip;
        km_interval ci = bootstrap_of(ctx, x, N, &by, 11);
        km_test_ok(km_stats_permutation_paired(&flip, ctx, x, N, cluster, 5000, 1, &err), &err);
        first = i == 0 ? ci : first;
        flip_first = i == 0 ? flip : flip_first;
        assert_true(ci.low == first.low && ci.high == first.high && ci.se == first.se);
        assert_true(flip.p == flip_first.p);
        km_ctx_free(ctx);
    }
}

/* How often the interval covers zero when clusters share a standard normal effect. */
static double coverage(km_ctx *ctx, int n_clusters, km_cluster_method method, int n_runs) {
    double x[400];
    int64_t cluster[400];
    int covered = 0;
    km_error err = KM_ERROR_INIT;
    km_clusters by = {cluster, NULL, NULL};
    km_interval_options options = defaults;
    options.method = method;
    options.replicates = 400;
    for (int run = 0; run < n_runs; run++) {
        int64_t n = 0;
        for (int g = 0; g < n_clusters; g++) {
            uint64_t stream = (uint64_t)(run * 1000 + g);
            double effect = km_random_normal(12, stream, 0);
            for (int i = 0; i < 3 + g % 5; i++) { /* sizes 3 to 7 */
                x[n] = effect + km_random_normal(12, stream, 1 + (uint64_t)i);
                cluster[n++] = g;
            }
        }
        km_interval ci;
        km_test_ok(km_stats_clustered_mean(&ci, ctx, x, n, &by, &options, &err), &err);
        covered += ci.low <= 0 && ci.high >= 0;
    }
    return (double)covered / n_runs;
}

/* Why few clusters get the t interval: it covers at 95 %, the percentile bootstrap does not. The
 * standard error of each figure is at most 0.7 points (t) and 1.6 points (bootstrap). */
static void test_coverage(void **state) {
    for (int g = 5; g <= 20; g += 5) {
        double t = coverage(*state, g, KM_CLUSTER_T, 2000);
        assert_true(t > 0.93 && t < 0.97);
    }
    assert_true(coverage(*state, 5, KM_CLUSTER_BOOTSTRAP, 400) < 0.90);
    assert_true(coverage(*state, 40, KM_CLUSTER_BOOTSTRAP, 400) > 0.90);
}

static void test_automatic_method(void **state) {
    double x[35];
    km_interval ci;
    km_error err = KM_ERROR_INIT;
    for (int i = 0; i < 35; i++) {
        x[i] = i % 3;
    }
    km_test_ok(km_stats_clustered_mean(&ci, *state, x, 29, NULL, NULL, &err), &err);
    assert_string_equal(ci.method, "CR2 t");
    km_test_ok(km_stats_clustered_mean(&ci, *state, x, 30, NULL, NULL, &err), &err);
    assert_string_equal(ci.method, "cluster bootstrap");
    km_test_ok(km_stats_bootstrap_mean(&ci, *state, x, 5, NULL, &err), &err);
    assert_string_equal(ci.method, "bootstrap");
}

/* A proportion of nothing or everything must not have an interval of no width. */
static void test_degenerate(void **state) {
    double zero[40] = {0}, one[40];
    km_interval ci, wilson;
    km_error err = KM_ERROR_INIT;
    km_interval_options options = defaults;
    options.proportion = true;
    for (int i = 0; i < 40; i++) {
        one[i] = 1;
    }
    for (int64_t n = 5; n <= 40; n += 35) {
        km_test_ok(km_stats_wilson(&wilson, 0, n, 0.95, &err), &err);
        km_test_ok(km_stats_clustered_mean(&ci, *state, zero, n, NULL, &options, &err), &err);
        assert_near(ci.low, 0, 0);
        assert_near(ci.high, wilson.high, 0);
        km_test_ok(km_stats_clustered_mean(&ci, *state, one, n, NULL, &options, &err), &err);
        assert_near(ci.low, 1 - wilson.high, 1e-15);
        assert_near(ci.high, 1, 0);
        km_test_ok(km_stats_paired_difference(&ci, *state, one, one, n, NULL, &options, &err),
                   &err);
        assert_near(ci.estimate, 0, 0);
        assert_near(ci.high, wilson.high, 0);
        assert_near(ci.low, -wilson.high, 0);
    }
    one[3] = 0;
    km_test_ok(km_stats_clustered_mean(&ci, *state, one, 5, NULL, &options, &err), &err);
    assert_near(ci.high, 1, 0);
    one[3] = 1.5;
    km_test_fails(km_stats_clustered_mean(&ci, *state, one, 5, NULL, &options, &err), KM_ERANGE,
                  &err, "x[3]");
}

static void test_interval_refusals(void **state) {
    const double x[] = {1, 2, NAN};
    const int64_t same[] = {1, 1, 1};
    km_interval ci;
    km_error err = KM_ERROR_INIT;
    km_clusters by = {same, NULL, NULL};
    km_interval_options few = defaults;
    few.replicates = 10;
    km_test_fails(km_stats_clustered_mean(&ci, *state, x, 3, NULL, NULL, &err), KM_ENUMERIC, &err,
                  "x[2]");
    km_test_fails(km_stats_clustered_mean(&ci, *state, x, 2, &by, NULL, &err), KM_EINVAL, &err,
                  "one cluster");
    km_test_fails(km_stats_clustered_mean(&ci, *state, x, 0, NULL, NULL, &err), KM_EINVAL, &err,
                  "0 values");
    km_test_fails(km_stats_clustered_mean(&ci, *state, x, 2, NULL, &few, &err), KM_EINVAL, &err,
                  "replicates");
}

static void test_paired_difference(void **state) {
    const double a[] = {5, 6, 9, 12}, b[] = {4, 6, 6, 10};
    const double difference[] = {1, 0, 3, 2};
    km_interval paired, single;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_stats_paired_difference(&paired, *state, a, b, 4, NULL, NULL, &err), &err);
    km_test_ok(km_stats_clustered_mean(&single, *state, difference, 4, NULL, NULL, &err), &err);
    assert_near(paired.estimate, 1.5, 0);
    assert_near(paired.low, single.low, 0);
    assert_near(paired.high, single.high, 0);
}

/* ---- tests ---- */

static void test_permutation_exact(void **state) {
    const double x[] = {1, 2, 3};
    const int64_t pairs[] = {7, 7, 9};
    km_test test;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_stats_permutation_paired(&test, *state, x, 3, NULL, 0, 0, &err), &err);
    assert_near(test.p, 2.0 / 8, 0); /* only +++ and --- reach 6 */
    assert_near(test.statistic, 2, 0);
    assert_true(test.exact);
    km_test_ok(km_stats_permutation_paired(&test, *state, x, 3, pairs, 0, 0, &err), &err);
    assert_near(test.p, 2.0 / 4, 0);
    assert_int_equal(test.n, 2);
    const double a[] = {4, 5}, b[] = {1, 2, 3};
    km_test_ok(km_stats_permutation_two_sample(&test, *state, a, 2, b, 3, 0, 0, &err), &err);
    assert_near(test.p, 2.0 / 10, 0); /* {4,5} and {1,2} of the ten choices */
    assert_near(test.statistic, 2.5, 0);
    assert_int_equal(test.draws, 10);
    const double ties[] = {0.1, 0.1, 0.1, 0.1};
    km_test_ok(km_stats_permutation_two_sample(&test, *state, ties, 2, ties, 4, 0, 0, &err), &err);
    assert_near(test.p, 1, 0);
}

/* Sampled p-values agree with exact ones within five standard errors. */
static void test_permutation_sampled(void **state) {
    enum { DRAWS = 20000 };
    double x[21], y[30];
    km_test exact, sampled;
    km_error err = KM_ERROR_INIT;
    for (int i = 0; i < 21; i++) {
        x[i] = i < 20 ? km_random_normal(13, 0, (uint64_t)i) + 0.3 : 0;
    }
    for (int i = 0; i < 30; i++) {
        y[i] = km_random_normal(13, 1, (uint64_t)i);
    }
    km_test_ok(km_stats_permutation_paired(&exact, *state, x, 20, NULL, 0, 0, &err), &err);
    km_test_ok(km_stats_permutation_paired(&sampled, *state, x, 21, NULL, DRAWS, 4, &err), &err);
    assert_true(exact.exact && !sampled.exact);
    assert_near(sampled.p, exact.p, 5 * sqrt(exact.p * (1 - exact.p) / DRAWS) + 1e-4);
    km_test_ok(km_stats_permutation_two_sample(&sampled, *state, x, 20, y, 30, DRAWS, 4, &err),
               &err);
    assert_false(sampled.exact);
    assert_true(sampled.p > 0 && sampled.p < 1);
    km_test_fails(km_stats_permutation_paired(&sampled, *state, x, 21, NULL, 5, 4, &err), KM_EINVAL,
                  &err, "arrangements");
}

/* Under the null a 5 % test rejects about one time in twenty. */
static void test_permutation_level(void **state) {
    enum { RUNS = 1000 };
    int rejected = 0;
    double x[48];
    int64_t cluster[48];
    for (int i = 0; i < 48; i++) {
        cluster[i] = i / 4;
    }
    for (uint64_t run = 0; run < RUNS; run++) {
        km_test test;
        km_error err = KM_ERROR_INIT;
        for (uint64_t i = 0; i < 48; i++) {
            x[i] = km_random_normal(14, run, i) + 2 * km_random_normal(15, run, i / 4);
        }
        km_test_ok(km_stats_permutation_paired(&test, *state, x, 48, cluster, 0, 0, &err), &err);
        rejected += test.p <= 0.05;
    }
    assert_true(rejected > 20 && rejected < 80);
}

static void test_mcnemar(void **state) {
    (void)state;
    km_test test;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_stats_mcnemar(&test, 0, 5, &err), &err);
    assert_near(test.p, 2.0 / 32, 1e-15);
    km_test_ok(km_stats_mcnemar(&test, 3, 1, &err), &err);
    assert_near(test.p, 2 * 5.0 / 16, 1e-15);
    km_test_ok(km_stats_mcnemar(&test, 4, 4, &err), &err);
    assert_near(test.p, 1, 0);
    km_test_ok(km_stats_mcnemar(&test, 0, 0, &err), &err);
    assert_near(test.p, 1, 0);
    km_test_fails(km_stats_mcnemar(&test, -1, 0, &err), KM_EINVAL, &err, "discordant");
}

static void test_adjusted(void **state) {
    const double p[] = {0.01, 0.04, 0.03, 0.005};
    const double holm[] = {0.03, 0.06, 0.06, 0.02}, bh[] = {0.02, 0.04, 0.04, 0.02};
    double out[4];
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_stats_holm(out, *state, p, 4, &err), &err);
    for (int i = 0; i < 4; i++) {
        assert_near(out[i], holm[i], 1e-15);
    }
    km_test_ok(km_stats_benjamini_hochberg(out, *state, p, 4, &err), &err);
    for (int i = 0; i < 4; i++) {
        assert_near(out[i], bh[i], 1e-15);
    }
    const double bad[] = {0.5, 1.5};
    km_test_fails(km_stats_holm(out, *state, bad, 2, &err), KM_ERANGE, &err, "p[1]");
    km_test_ok(km_stats_holm(out, *state, p, 0, &err), &err);
}

/* ---- association ---- */

static void test_association(void **state) {
    const double x[] = {1, 2, 3, 4, 5}, up[] = {1, 8, 27, 64, 125}, flat[] = {2, 2, 2, 2, 2};
    const double tied[] = {1, 1, 2, 2, 3};
    double ranks[5];
    km_test test;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_stats_spearman(&test, *state, x, up, 5, &err), &err);
    assert_near(test.statistic, 1, 1e-15);
    assert_near(test.p, 0, 1e-15);
    km_test_ok(km_stats_kendall(&test, *state, x, up, 5, &err), &err);
    assert_near(test.statistic, 1, 1e-15);
    assert_near(test.p, 2.0 / 120, 1e-15);
    assert_true(test.exact);
    km_test_ok(km_stats_kendall(&test, *state, x, tied, 5, &err), &err);
    assert_near(test.statistic, 8 / sqrt(10.0 * 8), 1e-14);
    assert_false(test.exact);
    km_test_ok(km_stats_pearson(&test, x, flat, 5, &err), &err);
    assert_true(isnan(test.statistic) && isnan(test.p));
    km_test_ok(km_stats_kendall(&test, *state, x, flat, 5, &err), &err);
    assert_true(isnan(test.statistic));
    km_test_ok(km_stats_ranks(ranks, *state, tied, 5, &err), &err);
    const double want[] = {1.5, 1.5, 3.5, 3.5, 5};
    assert_memory_equal(ranks, want, sizeof want);
    km_test_fails(km_stats_pearson(&test, x, up, 2, &err), KM_EINVAL, &err, "at least 3");
}

/* Kendall's tau by counting every pair. */
static void test_kendall_by_pairs(void **state) {
    enum { N = 200 };
    double x[N], y[N];
    for (int i = 0; i < N; i++) {
        x[i] = (double)km_random_below(30, 16, 0, (uint64_t)i);
        y[i] = floor(x[i] / 3) + (double)km_random_below(8, 16, 1, (uint64_t)i);
    }
    double score = 0, pairs_x = 0, pairs_y = 0;
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < i; j++) {
            double dx = x[i] - x[j], dy = y[i] - y[j];
            score += (dx * dy > 0) - (dx * dy < 0);
            pairs_x += fabs(dx) > 0;
            pairs_y += fabs(dy) > 0;
        }
    }
    km_test test;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_stats_kendall(&test, *state, x, y, N, &err), &err);
    assert_near(test.statistic, score / sqrt(pairs_x * pairs_y), 1e-14);
}

static void test_auroc(void **state) {
    const double scores[] = {0.1, 0.4, 0.35, 0.8}, equal[] = {1, 1, 1, 1};
    const uint8_t positive[] = {0, 0, 1, 1}, none[] = {0, 0, 0, 0};
    double area;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_stats_auroc(&area, *state, scores, positive, 4, &err), &err);
    assert_near(area, 0.75, 1e-15);
    km_test_ok(km_stats_auroc(&area, *state, equal, positive, 4, &err), &err);
    assert_near(area, 0.5, 0);
    km_test_fails(km_stats_auroc(&area, *state, scores, none, 4, &err), KM_EINVAL, &err,
                  "positives");
}

static void test_regression(void **state) {
    (void)state;
    const double x[] = {0, 1, 2, 3}, y[] = {1, 3, 4, 8}, flat[] = {1, 1, 1, 1};
    km_regression fit;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_stats_linear_regression(&fit, x, y, 4, &err), &err);
    assert_near(fit.slope, 2.2, 1e-15);
    assert_near(fit.intercept, 0.7, 1e-15);
    assert_near(fit.slope_se, sqrt(1.8 / 2 / 5), 1e-14);
    assert_near(fit.r2, 1 - 1.8 / 26, 1e-14);
    km_test_fails(km_stats_linear_regression(&fit, flat, y, 4, &err), KM_EINVAL, &err, "constant");
}

/* ---- power ---- */

static void test_power(void **state) {
    (void)state;
    double d, n, rise;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_stats_power_paired(&d, 300, 0.1, 0.05, 0.8, 1, &err), &err);
    assert_near(d, 0.05, 0.002); /* about 300 pairs show five points */
    km_test_ok(km_stats_pairs_needed(&n, d, 0.1, 0.05, 0.8, 1, &err), &err);
    assert_near(n, 300, 1e-6);
    km_test_ok(km_stats_pairs_needed(&n, -d, 0.1, 0.05, 0.8, 2, &err), &err);
    assert_near(n, 600, 1e-6);
    km_test_ok(km_stats_power_paired(&d, 80, 0.1, 0.05, 0.8, 1, &err), &err);
    assert_true(d > 0.09);
    km_test_ok(km_stats_power_paired(&d, 60, 0.1, 0.05, 0.8, 1, &err), &err);
    assert_true(isnan(d)); /* 60 pairs show nothing, not even if all discordance goes one way */
    km_test_ok(km_stats_power_two_proportions(&rise, 388, 0.3, 0.05, 0.8, 1, &err), &err);
    km_test_ok(km_stats_items_needed(&n, 0.3, 0.3 + rise, 0.05, 0.8, 1, &err), &err);
    assert_near(n, 388, 1e-6);
    km_test_fails(km_stats_pairs_needed(&n, 0.2, 0.1, 0.05, 0.8, 1, &err), KM_EINVAL, &err,
                  "discordance");
    km_test_fails(km_stats_power_paired(&d, 60, 0.1, 0, 0.8, 1, &err), KM_EINVAL, &err, "alpha");
    km_test_fails(km_stats_items_needed(&n, 0.2, 0.2, 0.05, 0.8, 1, &err), KM_EINVAL, &err,
                  "equal");
}

/* The power formula against simulated pairs judged by the normal test it describes. */
static void test_power_simulated(void **state) {
    (void)state;
    enum { RUNS = 2000, N = 300 };
    double d;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_stats_power_paired(&d, N, 0.2, 0.05, 0.8, 1, &err), &err);
    int shown = 0;
    for (uint64_t run = 0; run < RUNS; run++) {
        int b = 0, c = 0;
        for (uint64_t i = 0; i < N; i++) {
            double u = km_random_uniform(17, run, i);
            b += u < (0.2 + d) / 2;
            c += u >= (0.2 + d) / 2 && u < 0.2;
        }
        shown += abs(b - c) > 1.959963984540054 * sqrt((double)(b + c));
    }
    assert_near((double)shown / RUNS, 0.8, 0.035);
}

/* ---- memory ---- */

static km_status every_function(km_ctx *ctx, km_error *err) {
    enum { N = 24 };
    double x[N], y[N], out[N], area;
    int64_t cluster[N], subject[N], template_id[N];
    uint8_t positive[N];
    for (int i = 0; i < N; i++) {
        x[i] = km_random_uniform(1, 0, (uint64_t)i);
        y[i] = km_random_uniform(1, 1, (uint64_t)i);
        cluster[i] = i % 8;
        subject[i] = i % 4;
        template_id[i] = i % 3;
        positive[i] = (uint8_t)(i & 1);
    }
    km_interval ci;
    km_test test;
    km_clusters by = {cluster, subject, template_id}, one = {NULL, subject, template_id};
    int64_t same[N] = {0};
    one.cluster = same;
    km_interval_options options = defaults;
    options.replicates = 100;
    KM_TRY(km_stats_paired_difference(&ci, ctx, x, y, N, &by, &options, err));
    KM_TRY(km_stats_paired_difference(&ci, ctx, x, y, N, &one, &options, err));
    options.method = KM_CLUSTER_BOOTSTRAP;
    KM_TRY(km_stats_clustered_mean(&ci, ctx, x, N, &by, &options, err));
    options.method = KM_CLUSTER_T;
    options.macro = true;
    KM_TRY(km_stats_clustered_mean(&ci, ctx, x, N, &by, &options, err));
    KM_TRY(km_stats_permutation_paired(&test, ctx, x, N, NULL, 100, 0, err));
    KM_TRY(km_stats_permutation_two_sample(&test, ctx, x, 3, y, 3, 100, 0, err));
    KM_TRY(km_stats_permutation_two_sample(&test, ctx, x, N, y, N, 100, 0, err));
    KM_TRY(km_stats_holm(out, ctx, x, N, err));
    KM_TRY(km_stats_benjamini_hochberg(out, ctx, x, N, err));
    KM_TRY(km_stats_spearman(&test, ctx, x, y, N, err));
    KM_TRY(km_stats_kendall(&test, ctx, x, y, N, err));
    return km_stats_auroc(&area, ctx, x, positive, N, err);
}

static void test_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(every_function);
}

#define WITH_CONTEXT(f) cmocka_unit_test_setup_teardown(f, km_test_setup, km_test_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normal),
        cmocka_unit_test(test_beta),
        cmocka_unit_test(test_student),
        cmocka_unit_test(test_description),
        cmocka_unit_test(test_wilson),
        WITH_CONTEXT(test_cr2_equal_sizes),
        WITH_CONTEXT(test_cr2_items),
        WITH_CONTEXT(test_bootstrap_variance),
        WITH_CONTEXT(test_pigeonhole),
        cmocka_unit_test(test_same_bits),
        WITH_CONTEXT(test_coverage),
        WITH_CONTEXT(test_automatic_method),
        WITH_CONTEXT(test_degenerate),
        WITH_CONTEXT(test_interval_refusals),
        WITH_CONTEXT(test_paired_difference),
        WITH_CONTEXT(test_permutation_exact),
        WITH_CONTEXT(test_permutation_sampled),
        WITH_CONTEXT(test_permutation_level),
        cmocka_unit_test(test_mcnemar),
        WITH_CONTEXT(test_adjusted),
        WITH_CONTEXT(test_association),
        WITH_CONTEXT(test_kendall_by_pairs),
        WITH_CONTEXT(test_auroc),
        cmocka_unit_test(test_regression),
        cmocka_unit_test(test_power),
        cmocka_unit_test(test_power_simulated),
        cmocka_unit_test(test_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
