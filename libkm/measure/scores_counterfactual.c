/* Counterfactual memorization and influence: what a score loses when an item is left out of the
 * training data, over many models trained on random subsets (Feldman and Zhang 2020; Zhang et al.
 * 2023). */
#include "base/base.h"

#include <math.h>

#include "km/memorization_scores.h"

typedef struct split_mean {
    double in, out; /* NaN when there is no model on that side */
} split_mean;

/* Means of column `column` of score (M, n_columns) over the models with and without `item`. */
static split_mean split(const bool *include, int64_t n_items, int64_t item, const double *score,
                        int64_t n_columns, int64_t column, int64_t n_models) {
    double sum_in = 0, sum_out = 0;
    int64_t n_in = 0;
    for (int64_t m = 0; m < n_models; m++) {
        double value = score[m * n_columns + column];
        if (include[m * n_items + item]) {
            sum_in += value;
            n_in++;
        } else {
            sum_out += value;
        }
    }
    int64_t n_out = n_models - n_in;
    return (split_mean){n_in > 0 ? sum_in / (double)n_in : (double)NAN,
                        n_out > 0 ? sum_out / (double)n_out : (double)NAN};
}

static km_status check_finite(const double *score, int64_t n, km_error *err) {
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(score[i])) {
            return KM_SET(err, KM_ENUMERIC, "score at flat index %lld is not finite", (long long)i);
        }
    }
    return KM_OK;
}

km_status km_score_counterfactual_into(double *memorized, double *in_mean, double *out_mean,
                                       const bool *include, const double *score, int64_t n_models,
                                       int64_t n_items, km_error *err) {
    KM_TRY(check_finite(score, n_models * n_items, err));
    for (int64_t i = 0; i < n_items; i++) {
        split_mean mean = split(include, n_items, i, score, n_items, i, n_models);
        in_mean[i] = mean.in;
        out_mean[i] = mean.out;
        memorized[i] = mean.in - mean.out;
    }
    return KM_OK;
}

km_status km_score_influence_into(double *influence, const bool *include, const double *score,
                                  int64_t n_models, int64_t n_items, int64_t n_evaluated,
                                  km_error *err) {
    KM_TRY(check_finite(score, n_models * n_evaluated, err));
    for (int64_t i = 0; i < n_items; i++) {
        for (int64_t e = 0; e < n_evaluated; e++) {
            split_mean mean = split(include, n_items, i, score, n_evaluated, e, n_models);
            influence[i * n_evaluated + e] = mean.in - mean.out;
        }
    }
    return KM_OK;
}
