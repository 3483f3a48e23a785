/* stats_correlation.c: ranks, Pearson, Spearman, Kendall, AUROC.
 *
 * Spearman's is Pearson's r of average ranks. Kendall's tau-b is S / sqrt((P - Tx)(P - Ty)),
 * with S concordant minus discordant pairs, P all pairs and T the tied ones; discordant pairs
 * are the inversions of y in the order of x, counted by a merge sort (Knight 1966). AUROC is the
 * Mann-Whitney statistic: (rank sum of the positives - n+ (n+ + 1) / 2) / (n+ n-).
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "base/stats_private.h"

#define EXACT_KENDALL 33
#define EXACT_INVERSIONS (EXACT_KENDALL * (EXACT_KENDALL - 1) / 2)

typedef struct point {
    double x, y;
    int64_t index;
} point;

/* Pairs of points by how they tie. */
typedef struct tie_sums {
    double pairs, triples, weighted; /* sums of t(t-1)/2, t(t-1)(t-2), t(t-1)(2t+5) */
} tie_sums;

static int compare_points(const void *a, const void *b) {
    const point *p = a;
    const point *q = b;
    if (p->x != q->x) {
        return p->x < q->x ? -1 : 1;
    }
    if (p->y != q->y) {
        return p->y < q->y ? -1 : 1;
    }
    return (p->index > q->index) - (p->index < q->index);
}

static km_status sort_points(point **out, km_ctx *ctx, const double *x, const double *y, int64_t n,
                             km_error *err) {
    void *block = NULL;
    KM_TRY(km_alloc_array(&block, ctx, n, sizeof(point), err));
    point *points = block;
    for (int64_t i = 0; i < n; i++) {
        points[i] = (point){x[i], y != NULL ? y[i] : 0, i};
    }
    qsort(points, (size_t)n, sizeof points[0], compare_points);
    *out = points;
    return KM_OK;
}

km_status km_stats_ranks(double *out, km_ctx *ctx, const double *x, int64_t n, km_error *err) {
    point *points = NULL;
    KM_TRY(km__stats_check(x, n, 0, "x", err));
    KM_TRY(sort_points(&points, ctx, x, NULL, n, err));
    for (int64_t i = 0; i < n;) {
        int64_t end = i + 1;
        while (end < n && points[end].x == points[i].x) {
            end++;
        }
        double rank = (double)(i + 1 + end) / 2;
        for (; i < end; i++) {
            out[points[i].index] = rank;
        }
    }
    km_free(ctx, points);
    return KM_OK;
}

km_status km_stats_pearson(km_test *out, const double *x, const double *y, int64_t n,
                           km_error *err) {
    KM_TRY(km__stats_check(x, n, 3, "x", err));
    KM_TRY(km__stats_check(y, n, 3, "y", err));
    double mean_x = km_stats_mean(x, n);
    double mean_y = km_stats_mean(y, n);
    km__sum xx = {0, 0}, yy = {0, 0}, xy = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        km__sum_add(&xx, (x[i] - mean_x) * (x[i] - mean_x));
        km__sum_add(&yy, (y[i] - mean_y) * (y[i] - mean_y));
        km__sum_add(&xy, (x[i] - mean_x) * (y[i] - mean_y));
    }
    double product = km__sum_get(&xx) * km__sum_get(&yy);
    /* One root of the product is exact where r is 1; two roots never overflow. */
    double scale = product > DBL_MIN && product < DBL_MAX
                       ? sqrt(product)
                       : sqrt(km__sum_get(&xx)) * sqrt(km__sum_get(&yy));
    *out = (km_test){.statistic = NAN, .p = NAN, .n = n};
    if (scale > 0) {
        double r = fmax(-1, fmin(1, km__sum_get(&xy) / scale));
        out->statistic = r;
        out->p =
            km_stats_t_two_sided(r * sqrt((double)(n - 2) / ((1 - r) * (1 + r))), (double)(n - 2));
    }
    return KM_OK;
}

km_status km_stats_spearman(km_test *out, km_ctx *ctx, const double *x, const double *y, int64_t n,
                            km_error *err) {
    void *ranks_x = NULL, *ranks_y = NULL;
    km_status status = KM_OK;
    KM_TRY(km__stats_check(x, n, 3, "x", err));
    KM_TRY(km__stats_check(y, n, 3, "y", err));
    KM_GO(km_alloc_array(&ranks_x, ctx, n, sizeof(double), err));
    KM_GO(km_alloc_array(&ranks_y, ctx, n, sizeof(double), err));
    KM_GO(km_stats_ranks(ranks_x, ctx, x, n, err));
    KM_GO(km_stats_ranks(ranks_y, ctx, y, n, err));
    KM_GO(km_stats_pearson(out, ranks_x, ranks_y, n, err));
done:
    km_free(ctx, ranks_x);
    km_free(ctx, ranks_y);
    return status;
}

/* ---- Kendall ---- */

static void add_tie(tie_sums *ties, int64_t size) {
    double t = (double)size;
    ties->pairs += t * (t - 1) / 2;
    ties->triples += t * (t - 1) * (t - 2);
    ties->weighted += t * (t - 1) * (2 * t + 5);
}

/* Ties of sorted points in x, or in both coordinates. */
static tie_sums tied(const point *points, int64_t n, bool both) {
    tie_sums ties = {0, 0, 0};
    int64_t begin = 0;
    for (int64_t i = 1; i <= n; i++) {
        if (i == n || points[i].x != points[begin].x || (both && points[i].y != points[begin].y)) {
            add_tie(&ties, i - begin);
            begin = i;
        }
    }
    return ties;
}

/* Merge sort of y in place of the points' order; returns the pairs that were out of order. */
static int64_t count_inversions(double *y, double *buffer, int64_t n) {
    if (n < 2) {
        return 0;
    }
    int64_t half = n / 2;
    int64_t count =
        count_inversions(y, buffer, half) + count_inversions(y + half, buffer, n - half);
    int64_t a = 0, b = half;
    for (int64_t i = 0; i < n; i++) {
        if (b >= n || (a < half && y[a] <= y[b])) {
            buffer[i] = y[a++];
        } else {
            count += half - a;
            buffer[i] = y[b++];
        }
    }
    for (int64_t i = 0; i < n; i++) {
        y[i] = buffer[i];
    }
    return count;
}

/* P(as far from the middle as `discordant`) over all orders of n items: the number of permutations
 * with k inversions, built up an item at a time as shares, so that nothing overflows. */
static double exact_kendall(int64_t n, int64_t discordant) {
    double share[EXACT_INVERSIONS + 1] = {1};
    double next[EXACT_INVERSIONS + 1];
    int64_t top = 0;
    for (int64_t size = 2; size <= n; size++) {
        top += size - 1;
        double window = 0;
        for (int64_t k = 0; k <= top; k++) {
            window += k <= top - (size - 1) ? share[k] : 0;
            window -= k >= size ? share[k - size] : 0;
            next[k] = window / (double)size;
        }
        for (int64_t k = 0; k <= top; k++) {
            share[k] = next[k];
        }
    }
    int64_t tail = discordant < top - discordant ? discordant : top - discordant;
    double p = 0;
    for (int64_t k = 0; k <= tail; k++) {
        p += share[k];
    }
    return 2 * tail >= top ? 1 : fmin(1, 2 * p);
}

/* Kendall (1970): the variance of concordant minus discordant pairs under independence. */
static double kendall_variance(int64_t n, const tie_sums *x, const tie_sums *y) {
    double size = (double)n;
    double pairs = size * (size - 1);
    double variance = (pairs * (2 * size + 5) - x->weighted - y->weighted) / 18;
    variance += 2 * x->pairs * y->pairs / pairs;
    if (n > 2) {
        variance += x->triples * y->triples / (9 * pairs * (size - 2));
    }
    return variance;
}

static void kendall_result(km_test *out, int64_t n, const tie_sums *x, const tie_sums *y,
                           double both, int64_t discordant) {
    double total = (double)n * (double)(n - 1) / 2;
    double score = total - x->pairs - y->pairs + both - 2 * (double)discordant;
    *out = (km_test){.statistic = NAN, .p = NAN, .n = n};
    if (x->pairs >= total || y->pairs >= total) {
        return;
    }
    double tau = score / sqrt(total - x->pairs) / sqrt(total - y->pairs);
    out->statistic = fmax(-1, fmin(1, tau));
    out->exact = x->pairs + y->pairs <= 0 && n <= EXACT_KENDALL;
    if (out->exact) {
        out->p = exact_kendall(n, discordant);
    } else {
        out->p = erfc(fabs(score) / sqrt(2 * kendall_variance(n, x, y)));
    }
}

km_status km_stats_kendall(km_test *out, km_ctx *ctx, const double *x, const double *y, int64_t n,
                           km_error *err) {
    point *points = NULL, *by_y = NULL;
    void *ys = NULL, *buffer = NULL;
    km_status status = KM_OK;
    KM_TRY(km__stats_check(x, n, 2, "x", err));
    KM_TRY(km__stats_check(y, n, 2, "y", err));
    KM_GO(sort_points(&points, ctx, x, y, n, err));
    KM_GO(sort_points(&by_y, ctx, y, NULL, n, err));
    KM_GO(km_alloc_array(&ys, ctx, n, sizeof(double), err));
    KM_GO(km_alloc_array(&buffer, ctx, n, sizeof(double), err));
    for (int64_t i = 0; i < n; i++) {
        ((double *)ys)[i] = points[i].y;
    }
    tie_sums ties_x = tied(points, n, false);
    tie_sums ties_y = tied(by_y, n, false);
    double both = tied(points, n, true).pairs;
    kendall_result(out, n, &ties_x, &ties_y, both, count_inversions(ys, buffer, n));
done:
    km_free(ctx, points);
    km_free(ctx, by_y);
    km_free(ctx, ys);
    km_free(ctx, buffer);
    return status;
}

/* ---- AUROC ---- */

km_status km_stats_auroc(double *out, km_ctx *ctx, const double *scores, const uint8_t *positive,
                         int64_t n, km_error *err) {
    void *ranks = NULL;
    km_status status = KM_OK;
    KM_TRY(km__stats_check(scores, n, 2, "scores", err));
    KM_GO(km_alloc_array(&ranks, ctx, n, sizeof(double), err));
    KM_GO(km_stats_ranks(ranks, ctx, scores, n, err));
    double n_positive = 0, rank_sum = 0;
    for (int64_t i = 0; i < n; i++) {
        n_positive += positive[i] != 0;
        rank_sum += positive[i] != 0 ? ((double *)ranks)[i] : 0;
    }
    double n_negative = (double)n - n_positive;
    if (n_positive < 1 || n_negative < 1) {
        KM_FAIL(err, KM_EINVAL, "AUROC needs positives and negatives; there are %g and %g",
                n_positive, n_negative);
    }
    *out = (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative);
done:
    km_free(ctx, ranks);
    return status;
}
