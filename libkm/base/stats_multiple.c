/* stats_multiple.c: p-values adjusted for the number n of tests in a family.
 *
 * With p in rising order, i from 1: Holm's are max over j <= i of (n - j + 1) p_j, Benjamini and
 * Hochberg's min over j >= i of n p_j / j, both cut at 1. Sources: Holm 1979; Benjamini and
 * Hochberg 1995.
 */
#include <math.h>
#include <stdlib.h>

#include "base/stats_private.h"

typedef struct ranked {
    double p;
    int64_t index;
} ranked;

static int compare_ranked(const void *a, const void *b) {
    const ranked *x = a;
    const ranked *y = b;
    if (x->p != y->p) {
        return x->p < y->p ? -1 : 1;
    }
    return (x->index > y->index) - (x->index < y->index);
}

static km_status sort_p(ranked **out, km_ctx *ctx, const double *p, int64_t n, km_error *err) {
    for (int64_t i = 0; i < n; i++) {
        if (!(p[i] >= 0 && p[i] <= 1)) {
            return KM_SET(err, KM_ERANGE, "p[%lld] is %g, which is no p-value", (long long)i, p[i]);
        }
    }
    void *block = NULL;
    KM_TRY(km_alloc_array(&block, ctx, n, sizeof(ranked), err));
    ranked *order = block;
    for (int64_t i = 0; i < n; i++) {
        order[i] = (ranked){p[i], i};
    }
    qsort(order, (size_t)n, sizeof order[0], compare_ranked);
    *out = order;
    return KM_OK;
}

km_status km_stats_holm(double *out, km_ctx *ctx, const double *p, int64_t n, km_error *err) {
    ranked *order = NULL;
    KM_TRY(sort_p(&order, ctx, p, n, err));
    double largest = 0;
    for (int64_t i = 0; i < n; i++) {
        largest = fmax(largest, fmin(1, order[i].p * (double)(n - i)));
        out[order[i].index] = largest;
    }
    km_free(ctx, order);
    return KM_OK;
}

km_status km_stats_benjamini_hochberg(double *out, km_ctx *ctx, const double *p, int64_t n,
                                      km_error *err) {
    ranked *order = NULL;
    KM_TRY(sort_p(&order, ctx, p, n, err));
    double smallest = 1;
    for (int64_t i = n - 1; i >= 0; i--) {
        smallest = fmin(smallest, order[i].p * (double)n / (double)(i + 1));
        out[order[i].index] = smallest;
    }
    km_free(ctx, order);
    return KM_OK;
}
