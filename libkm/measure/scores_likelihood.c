/* Likelihood scores: token log-probabilities and their moments, loss, min-k %, min-k %++, and how
 * well any score tells members from non-members.
 *
 * l_t = log softmax(logits[t-1])[x_t]; mu_t = sum_v p log p; sigma2_t = sum_v p (log p - mu)^2.
 * The variance is taken about the mean, not as a difference of squares, so it is never negative. */
#include "base/base.h"

#include <math.h>
#include <stdlib.h>

#include "km/memorization_scores.h"

/* log sum exp of a row (V); fails unless the row is free of NaN and +inf and has a finite entry. */
static km_status row_logsumexp(double *out, const double *row, int64_t n, int64_t index,
                               km_error *err) {
    double top = -HUGE_VAL;
    for (int64_t v = 0; v < n; v++) {
        if (isnan(row[v]) || row[v] == HUGE_VAL) {
            return KM_SET(err, KM_ENUMERIC, "logits[%lld, %lld] is not finite", (long long)index,
                          (long long)v);
        }
        top = row[v] > top ? row[v] : top;
    }
    if (top == -HUGE_VAL) {
        return KM_SET(err, KM_ENUMERIC, "logits[%lld] has no finite entry", (long long)index);
    }
    double sum = 0;
    for (int64_t v = 0; v < n; v++) {
        sum += exp(row[v] - top);
    }
    *out = top + log(sum);
    return KM_OK;
}

static void row_moments(double *mu, double *sigma2, const double *row, int64_t n, double lse) {
    double mean = 0;
    for (int64_t v = 0; v < n; v++) {
        double logp = row[v] - lse;
        mean += logp > -HUGE_VAL ? exp(logp) * logp : 0;
    }
    double square = 0;
    for (int64_t v = 0; v < n; v++) {
        double logp = row[v] - lse;
        square += logp > -HUGE_VAL ? exp(logp) * (logp - mean) * (logp - mean) : 0;
    }
    *mu = mean;
    *sigma2 = square;
}

/* Ascending, NaN last: what numpy.sort does. */
static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    if (isnan(x) || isnan(y)) {
        return (int)isnan(x) - (int)isnan(y);
    }
    return (x > y) - (x < y);
}

static km_status min_k_in_place(double *out, double *x, int64_t n, double ratio, bool at_least_one,
                                km_error *err) {
    if (!(ratio >= 0 && ratio <= 1)) {
        return KM_SET(err, KM_EINVAL, "ratio is %g, not in [0, 1]", ratio);
    }
    int64_t k = (int64_t)((double)n * ratio);
    if (k == 0 && at_least_one && n > 0) {
        k = 1;
    }
    qsort(x, (size_t)n, sizeof *x, compare_doubles);
    double sum = 0;
    for (int64_t i = 0; i < k; i++) {
        sum += x[i];
    }
    *out = k > 0 ? sum / (double)k : (double)NAN;
    return KM_OK;
}

typedef struct detection_item {
    double score;
    bool member;
} detection_item;

static int compare_descending(const void *a, const void *b) {
    double x = ((const detection_item *)a)->score;
    double y = ((const detection_item *)b)->score;
    return (x < y) - (x > y);
}

/* Walk the ROC curve from the strictest threshold down; items of one score move together. */
static void walk_roc(km_detection *out, const detection_item *items, int64_t n, double tpr,
                     double fpr) {
    double positives = (double)out->n_members;
    double negatives = (double)out->n_others;
    double hits = 0, alarms = 0, area = 0;
    out->fpr_at_tpr = tpr <= 0 ? 0 : 1;
    out->tpr_at_fpr = 0;
    bool reached = tpr <= 0;
    for (int64_t i = 0; i < n;) {
        double hits_before = hits, alarms_before = alarms;
        int64_t j = i;
        for (; j < n && items[j].score == items[i].score; j++) {
            hits += items[j].member;
            alarms += !items[j].member;
        }
        area += (alarms - alarms_before) * (hits + hits_before) / 2;
        if (!reached && hits / positives >= tpr) {
            out->fpr_at_tpr = alarms / negatives;
            reached = true;
        }
        if (alarms / negatives <= fpr) {
            out->tpr_at_fpr = hits / positives;
        }
        i = j;
    }
    out->auroc = area / (positives * negatives);
}

km_status km_score_token_logprobs_into(double *out, const double *logits, const int32_t *ids,
                                       int64_t n_tokens, int64_t n_vocab, km_error *err) {
    if (n_tokens < 1 || n_vocab < 1) {
        return KM_SET(err, KM_EINVAL, "at least one token and one vocabulary entry are needed");
    }
    for (int64_t t = 1; t < n_tokens; t++) {
        if (ids[t] < 0 || ids[t] >= n_vocab) {
            return KM_SET(err, KM_EINVAL, "ids[%lld] = %ld is outside [0, %lld)", (long long)t,
                          (long)ids[t], (long long)n_vocab);
        }
        const double *row = logits + (t - 1) * n_vocab;
        double lse;
        KM_TRY(row_logsumexp(&lse, row, n_vocab, t - 1, err));
        out[t - 1] = row[ids[t]] - lse;
    }
    return KM_OK;
}

km_status km_score_token_moments_into(double *mu, double *sigma2, const double *logits,
                                      int64_t n_rows, int64_t n_vocab, km_error *err) {
    for (int64_t i = 0; i < n_rows; i++) {
        const double *row = logits + i * n_vocab;
        double lse;
        KM_TRY(row_logsumexp(&lse, row, n_vocab, i, err));
        row_moments(&mu[i], &sigma2[i], row, n_vocab, lse);
    }
    return KM_OK;
}

double km_score_loss(const double *logprobs, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum -= logprobs[i];
    }
    return n > 0 ? sum / (double)n : (double)NAN;
}

km_status km_score_min_k(double *out, km_ctx *ctx, const double *x, int64_t n, double ratio,
                         bool at_least_one, km_error *err) {
    double *copy = NULL;
    KM_TRY(km_alloc_array((void **)&copy, ctx, n, sizeof *copy, err));
    for (int64_t i = 0; i < n; i++) {
        copy[i] = x[i];
    }
    km_status status = min_k_in_place(out, copy, n, ratio, at_least_one, err);
    km_free(ctx, copy);
    return status;
}

km_status km_score_min_k_plus_plus(double *out, km_ctx *ctx, const double *logprobs,
                                   const double *mu, const double *sigma2, int64_t n, double ratio,
                                   bool at_least_one, km_error *err) {
    double *z = NULL;
    KM_TRY(km_alloc_array((void **)&z, ctx, n, sizeof *z, err));
    for (int64_t i = 0; i < n; i++) {
        z[i] = (logprobs[i] - mu[i]) / sqrt(sigma2[i]);
    }
    km_status status = min_k_in_place(out, z, n, ratio, at_least_one, err);
    km_free(ctx, z);
    return status;
}

km_status km_score_detection(km_detection *out, km_ctx *ctx, const double *scores,
                             const bool *member, int64_t n, double tpr, double fpr, km_error *err) {
    km_status status = KM_OK;
    detection_item *items = NULL;
    *out = (km_detection){(double)NAN, (double)NAN, (double)NAN, 0, 0};
    KM_GO(km_alloc_array((void **)&items, ctx, n, sizeof *items, err));
    for (int64_t i = 0; i < n; i++) {
        if (isnan(scores[i])) {
            KM_FAIL(err, KM_EINVAL, "scores[%lld] is NaN", (long long)i);
        }
        items[i] = (detection_item){scores[i], member[i]};
        out->n_members += member[i];
        out->n_others += !member[i];
    }
    if (out->n_members > 0 && out->n_others > 0) {
        qsort(items, (size_t)n, sizeof *items, compare_descending);
        walk_roc(out, items, n, tpr, fpr);
    }
done:
    km_free(ctx, items);
    return status;
}
