/* Verbatim extraction: how much of a true continuation a greedy one reproduces, the equivalent
 * check under teacher forcing, and the extraction benchmark's recall curve. */
#include "base/base.h"

#include <math.h>

#include "km/memorization_scores.h"

/* Levenshtein distance with one row of the matrix: O(n_a n_b) time, row has n_b + 1 entries. */
static int64_t edit_distance(int64_t *row, const int32_t *a, int64_t n_a, const int32_t *b,
                             int64_t n_b) {
    for (int64_t j = 0; j <= n_b; j++) {
        row[j] = j;
    }
    for (int64_t i = 1; i <= n_a; i++) {
        int64_t diagonal = row[0];
        row[0] = i;
        for (int64_t j = 1; j <= n_b; j++) {
            int64_t above = row[j];
            int64_t best = diagonal + (a[i - 1] != b[j - 1]);
            best = above + 1 < best ? above + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[n_b];
}

static int64_t argmax(const double *row, int64_t n) {
    int64_t best = 0;
    for (int64_t v = 1; v < n; v++) {
        best = row[v] > row[best] ? v : best;
    }
    return best;
}

static km_status check_no_nan(const double *row, int64_t n, int64_t index, km_error *err) {
    for (int64_t v = 0; v < n; v++) {
        if (isnan(row[v])) {
            return KM_SET(err, KM_ENUMERIC, "logits[%lld, %lld] is NaN", (long long)index,
                          (long long)v);
        }
    }
    return KM_OK;
}

km_status km_score_extraction(km_extraction *out, km_ctx *ctx, const int32_t *generated,
                              int64_t n_generated, const int32_t *suffix, int64_t n_suffix,
                              km_error *err) {
    int64_t *row = NULL;
    KM_TRY(km_alloc_array((void **)&row, ctx, n_suffix + 1, sizeof *row, err));
    int64_t shorter = n_generated < n_suffix ? n_generated : n_suffix;
    int64_t longer = n_generated < n_suffix ? n_suffix : n_generated;
    int64_t equal = 0;
    *out = (km_extraction){0};
    for (int64_t i = 0; i < shorter; i++) {
        if (generated[i] == suffix[i]) {
            out->matching_prefix += out->matching_prefix == i;
            equal++;
        }
    }
    out->extractable = equal == longer;
    out->match_fraction = n_suffix > 0 ? (double)equal / (double)n_suffix : (double)NAN;
    out->edit_distance = edit_distance(row, generated, n_generated, suffix, n_suffix);
    out->edit_similarity = longer > 0 ? 1 - (double)out->edit_distance / (double)longer : 1;
    km_free(ctx, row);
    return KM_OK;
}

km_status km_score_first_mismatch(int64_t *out, const double *logits, const int32_t *ids, int64_t n,
                                  int64_t n_vocab, km_error *err) {
    *out = n;
    for (int64_t t = 0; t < n; t++) {
        const double *row = logits + t * n_vocab;
        KM_TRY(check_no_nan(row, n_vocab, t, err));
        if (*out == n && argmax(row, n_vocab) != ids[t]) {
            *out = t;
        }
    }
    return KM_OK;
}

km_status km_score_recall_curve(double *curve, int64_t *n_curve, double *recall, km_ctx *ctx,
                                const int64_t *example, const bool *correct, int64_t n,
                                int64_t n_examples, int64_t max_errors, km_error *err) {
    km_status status = KM_OK;
    bool *solved = NULL;
    int64_t n_solved = 0, errors = 0, points = 0;
    *recall = 0;
    if (n_examples < 1) {
        return KM_SET(err, KM_EINVAL, "n_examples is %lld, not positive", (long long)n_examples);
    }
    KM_TRY(km_alloc_array((void **)&solved, ctx, n_examples, sizeof *solved, err));
    for (int64_t i = 0; i < n; i++) {
        if (example[i] < 0 || example[i] >= n_examples) {
            KM_FAIL(err, KM_EINVAL, "example[%lld] = %lld is outside [0, %lld)", (long long)i,
                    (long long)example[i], (long long)n_examples);
        }
        if (!correct[i]) {
            errors++;
            continue;
        }
        n_solved += !solved[example[i]];
        solved[example[i]] = true;
        curve[points] = (double)n_solved / (double)n_examples;
        if (errors < max_errors) {
            *recall = curve[points];
        }
        points++;
    }
    *n_curve = points;
done:
    km_free(ctx, solved);
    return status;
}
