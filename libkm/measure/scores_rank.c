/* Ranks of gold tokens and their summaries, as LAMA reports them. Ties never count against gold:
 * the rank is the number of strictly larger entries. */
#include "base/base.h"

#include <math.h>
#include <stdlib.h>

#include "km/memorization_scores.h"

typedef struct grouped {
    int64_t group;
    int64_t index;
} grouped;

static int compare_groups(const void *a, const void *b) {
    const grouped *x = a;
    const grouped *y = b;
    if (x->group != y->group) {
        return x->group < y->group ? -1 : 1;
    }
    return x->index < y->index ? -1 : x->index > y->index;
}

km_status km_score_rank_into(int64_t *rank, const double *logits, const int32_t *gold,
                             const bool *allowed, int64_t n_rows, int64_t n_vocab, km_error *err) {
    for (int64_t i = 0; i < n_rows; i++) {
        if (gold[i] < 0 || gold[i] >= n_vocab) {
            return KM_SET(err, KM_EINVAL, "gold[%lld] = %ld is outside [0, %lld)", (long long)i,
                          (long)gold[i], (long long)n_vocab);
        }
        const double *row = logits + i * n_vocab;
        rank[i] = 0;
        for (int64_t v = 0; v < n_vocab; v++) {
            if (isnan(row[v])) {
                return KM_SET(err, KM_ENUMERIC, "logits[%lld, %lld] is NaN", (long long)i,
                              (long long)v);
            }
            rank[i] += (allowed == NULL || allowed[i * n_vocab + v]) && row[v] > row[gold[i]];
        }
    }
    return KM_OK;
}

double km_score_precision_at(const int64_t *rank, int64_t n, int64_t k) {
    int64_t hits = 0;
    for (int64_t i = 0; i < n; i++) {
        hits += rank[i] < k;
    }
    return n > 0 ? (double)hits / (double)n : (double)NAN;
}

double km_score_mean_reciprocal_rank(const int64_t *rank, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += 1 / (double)(rank[i] + 1);
    }
    return n > 0 ? sum / (double)n : (double)NAN;
}

km_status km_score_macro_mean(double *out, km_ctx *ctx, const double *x, const int64_t *group,
                              int64_t n, km_error *err) {
    grouped *order = NULL;
    KM_TRY(km_alloc_array((void **)&order, ctx, n, sizeof *order, err));
    for (int64_t i = 0; i < n; i++) {
        order[i] = (grouped){group[i], i};
    }
    qsort(order, (size_t)n, sizeof *order, compare_groups);
    double total = 0;
    int64_t n_groups = 0;
    for (int64_t i = 0; i < n;) {
        double sum = 0;
        int64_t j = i;
        for (; j < n && order[j].group == order[i].group; j++) {
            sum += x[order[j].index];
        }
        total += sum / (double)(j - i);
        n_groups++;
        i = j;
    }
    *out = n_groups > 0 ? total / (double)n_groups : (double)NAN;
    km_free(ctx, order);
    return KM_OK;
}
