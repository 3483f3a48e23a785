/* stats_permutation.c: tests by rearrangement: sign flips of clusters, exchange of labels. */
#include <math.h>
#include <string.h>

#include "base/stats_private.h"

#define EXACT_CLUSTERS 20
#define EXACT_ARRANGEMENTS ((double)(1 << EXACT_CLUSTERS))
#define DRAWS_A_RANGE 64

typedef struct shuffle_job {
    const double *x;  /* (n) cluster sums, or the pooled sample */
    int64_t n, n_x;   /* n_x: size of the first sample */
    double threshold; /* an arrangement counts when it reaches this */
    double half;      /* two samples: the first sample's share of the pooled sum */
    uint64_t seed;
    int64_t *hits;    /* one a range */
    int64_t *scratch; /* (threads, n) */
} shuffle_job;

/* Rounding must not push arrangements that tie with the observed one below it. */
static double threshold_of(double observed, const double *x, int64_t n) {
    double scale = 0;
    for (int64_t i = 0; i < n; i++) {
        scale += fabs(x[i]);
    }
    return fabs(observed) - 1e-12 * scale;
}

static km_status check_draws(int64_t draws, km_error *err) {
    if (draws < 100) {
        return KM_SET(err, KM_EINVAL, "%lld random arrangements; at least 100 are needed",
                      (long long)draws);
    }
    return KM_OK;
}

/* Run `fn` over `draws` random arrangements and add up its hits. */
static km_status sample(int64_t *hits, km_ctx *ctx, shuffle_job *job, km_range_fn fn, int64_t draws,
                        km_error *err) {
    void *counts = NULL, *scratch = NULL;
    km_status status = KM_OK;
    int64_t n_ranges = draws / DRAWS_A_RANGE + 1;
    KM_GO(km_alloc_array(&counts, ctx, n_ranges, sizeof(int64_t), err));
    KM_GO(
        km_alloc_array(&scratch, ctx, job->n, sizeof(int64_t) * (size_t)km_ctx_threads(ctx), err));
    job->hits = counts;
    job->scratch = scratch;
    KM_GO(km_parallel_for(ctx, draws, DRAWS_A_RANGE, fn, job, err));
    *hits = 0;
    for (int64_t i = 0; i < n_ranges; i++) {
        *hits += job->hits[i];
    }
done:
    km_free(ctx, counts);
    km_free(ctx, scratch);
    return status;
}

/* ---- sign flips ---- */

static int64_t count_sign_flips(const double *x, int64_t n, double threshold) {
    int64_t hits = 0;
    for (uint64_t signs = 0; signs < (uint64_t)1 << n; signs++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++) {
            sum += (signs >> i & 1) != 0 ? -x[i] : x[i];
        }
        hits += fabs(sum) >= threshold;
    }
    return hits;
}

static km_status sign_flip_range(void *payload, int64_t begin, int64_t end, int worker,
                                 km_error *err) {
    (void)worker;
    (void)err;
    const shuffle_job *job = payload;
    int64_t hits = 0;
    for (int64_t draw = begin; draw < end; draw++) {
        double sum = 0;
        uint64_t bits = 0;
        for (int64_t i = 0; i < job->n; i++) {
            bits = i % 64 == 0 ? km_random_u64(job->seed, (uint64_t)draw, (uint64_t)i / 64)
                               : bits >> 1;
            sum += (bits & 1) != 0 ? -job->x[i] : job->x[i];
        }
        hits += fabs(sum) >= job->threshold;
    }
    job->hits[begin / DRAWS_A_RANGE] = hits;
    return KM_OK;
}

static km_status flip_clusters(km_test *out, km_ctx *ctx, const double *sums, int64_t n_clusters,
                               int64_t n, int64_t draws, uint64_t seed, km_error *err) {
    km__sum total = {0, 0};
    for (int64_t g = 0; g < n_clusters; g++) {
        km__sum_add(&total, sums[g]);
    }
    double observed = km__sum_get(&total);
    double threshold = threshold_of(observed, sums, n_clusters);
    *out = (km_test){.statistic = observed / (double)n, .n = n_clusters};
    int64_t hits = 0;
    out->exact = n_clusters <= EXACT_CLUSTERS;
    if (out->exact) {
        hits = count_sign_flips(sums, n_clusters, threshold);
        out->draws = (int64_t)1 << n_clusters;
        out->p = (double)hits / (double)out->draws;
        return KM_OK;
    }
    KM_TRY(check_draws(draws, err));
    shuffle_job job = {.x = sums, .n = n_clusters, .threshold = threshold, .seed = seed};
    KM_TRY(sample(&hits, ctx, &job, sign_flip_range, draws, err));
    out->draws = draws;
    out->p = (double)(1 + hits) / (double)(1 + draws);
    return KM_OK;
}

km_status km_stats_permutation_paired(km_test *out, km_ctx *ctx, const double *x, int64_t n,
                                      const int64_t *cluster, int64_t draws, uint64_t seed,
                                      km_error *err) {
    KM_TRY(km__stats_check(x, n, 1, "x", err));
    void *ids = NULL, *block = NULL;
    int64_t n_clusters = 0;
    km_status status = KM_OK;
    KM_GO(km_alloc_array(&ids, ctx, n, sizeof(int64_t), err));
    KM_GO(km__dense_ids(ids, &n_clusters, ctx, cluster, n, err));
    KM_GO(km_alloc_array(&block, ctx, n_clusters, sizeof(double), err));
    double *sums = block;
    for (int64_t i = 0; i < n; i++) {
        sums[((int64_t *)ids)[i]] += x[i];
    }
    KM_GO(flip_clusters(out, ctx, sums, n_clusters, n, draws, seed, err));
done:
    km_free(ctx, ids);
    km_free(ctx, block);
    return status;
}

/* ---- two samples ---- */

/* A count hits when the first sample's sum lies as far from its expectation as the observed one,
 * which is the same as the difference of means being as large. */
static bool reaches(const shuffle_job *job, double sum) {
    return fabs(sum - job->half) >= job->threshold;
}

/* Every choice of n_x items of the pooled sample, in lexicographic order. */
static int64_t count_choices(const shuffle_job *job, int64_t *chosen, int64_t *n_choices) {
    int64_t hits = 0;
    for (int64_t i = 0; i < job->n_x; i++) {
        chosen[i] = i;
    }
    *n_choices = 0;
    for (;;) {
        double sum = 0;
        for (int64_t i = 0; i < job->n_x; i++) {
            sum += job->x[chosen[i]];
        }
        hits += reaches(job, sum);
        (*n_choices)++;
        int64_t i = job->n_x - 1;
        while (i >= 0 && chosen[i] == job->n - job->n_x + i) {
            i--;
        }
        if (i < 0) {
            return hits;
        }
        chosen[i]++;
        for (int64_t k = i + 1; k < job->n_x; k++) {
            chosen[k] = chosen[k - 1] + 1;
        }
    }
}

static km_status exchange_range(void *payload, int64_t begin, int64_t end, int worker,
                                km_error *err) {
    (void)err;
    const shuffle_job *job = payload;
    int64_t *order = job->scratch + worker * job->n;
    int64_t hits = 0;
    for (int64_t draw = begin; draw < end; draw++) {
        double sum = 0;
        km_random_permutation(order, job->n, job->seed, (uint64_t)draw);
        for (int64_t i = 0; i < job->n_x; i++) {
            sum += job->x[order[i]];
        }
        hits += reaches(job, sum);
    }
    job->hits[begin / DRAWS_A_RANGE] = hits;
    return KM_OK;
}

static double n_arrangements(int64_t n, int64_t k) {
    int sign;
    return exp(lgamma_r((double)n + 1, &sign) - lgamma_r((double)k + 1, &sign) -
               lgamma_r((double)(n - k) + 1, &sign));
}

static km_status exchange(km_test *out, km_ctx *ctx, shuffle_job *job, int64_t draws,
                          km_error *err) {
    int64_t hits = 0;
    out->exact = n_arrangements(job->n, job->n_x) <= EXACT_ARRANGEMENTS * 1.0001;
    if (out->exact) {
        void *chosen = NULL;
        KM_TRY(km_alloc_array(&chosen, ctx, job->n_x, sizeof(int64_t), err));
        hits = count_choices(job, chosen, &out->draws);
        km_free(ctx, chosen);
        out->p = (double)hits / (double)out->draws;
        return KM_OK;
    }
    KM_TRY(check_draws(draws, err));
    KM_TRY(sample(&hits, ctx, job, exchange_range, draws, err));
    out->draws = draws;
    out->p = (double)(1 + hits) / (double)(1 + draws);
    return KM_OK;
}

km_status km_stats_permutation_two_sample(km_test *out, km_ctx *ctx, const double *x, int64_t n_x,
                                          const double *y, int64_t n_y, int64_t draws,
                                          uint64_t seed, km_error *err) {
    KM_TRY(km__stats_check(x, n_x, 1, "x", err));
    KM_TRY(km__stats_check(y, n_y, 1, "y", err));
    void *block = NULL;
    int64_t n = n_x + n_y;
    KM_TRY(km_alloc_array(&block, ctx, n, sizeof(double), err));
    double *pooled = block;
    memcpy(pooled, x, (size_t)n_x * sizeof(double));
    memcpy(pooled + n_x, y, (size_t)n_y * sizeof(double));
    double sum_x = km_stats_mean(x, n_x) * (double)n_x;
    double half = km_stats_mean(pooled, n) * (double)n_x;
    shuffle_job job = {.x = pooled, .n = n, .n_x = n_x, .half = half, .seed = seed};
    job.threshold = threshold_of(sum_x - half, pooled, n);
    *out = (km_test){.statistic = km_stats_mean(x, n_x) - km_stats_mean(y, n_y), .n = n};
    km_status status = exchange(out, ctx, &job, draws, err);
    km_free(ctx, block);
    return status;
}
