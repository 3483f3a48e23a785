/* km/priming_scores.h: the formulas of priming and of pruned updates as pure functions on arrays.
 *
 * Priming (Sun et al. 2025): how far the keyword of one learned text leaks into unrelated contexts.
 * Log-probabilities are natural (nats) and double precision; -infinity stands for probability zero.
 * Nothing here knows a model. Definitions with examples: docs/measures/priming_scores.md.
 */
#ifndef KM_PRIMING_SCORES_H
#define KM_PRIMING_SCORES_H

#include <stdbool.h>

#include "km/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- scores of one learned text ---- */

typedef struct km_priming_score {
    double log_s_mem;          /* after - before of the keyword in its own context; NaN: 0 / 0 */
    double log_s_prime;        /* log of the mean ratio after / before; may be infinite */
    double log_s_prime_stable; /* the same without the unstable ratios; NaN when none is left */
    double mean_log_ratio;     /* NaN when the ratios hold both 0 and infinity */
    double median_log_ratio;   /* of an even number: the mean of the middle two */
    double mean_delta_p;       /* mean of P_after - P_before */
    int64_t n;                 /* prefixes that count */
    int64_t n_dropped;         /* left out: probability zero before and after */
    int64_t n_unstable;        /* of those that count: before below log_unstable */
} km_priming_score;

/* A prefix with probability zero before alone has an infinite ratio. With every prefix dropped all
 * figures but log_s_mem are NaN. before, after (n): log P of the keyword after each prefix.
 * log_unstable: such as log(1e-10). Errors: KM_EINVAL for n < 1 and for NaN or +infinity, naming
 * array and index; KM_ENOMEM. */
KM_API KM_NODISCARD km_status km_score_priming(km_priming_score *out, km_ctx *ctx,
                                               double context_before, double context_after,
                                               const double *before, const double *after, int64_t n,
                                               double log_unstable, km_error *err);

/* How the keyword's probability before learning goes with priming, over texts: description only,
 * because log S_prime holds log P_before of the probes in its denominator. */
typedef struct km_priming_prediction {
    double pearson, spearman;                  /* NaN where a variable is constant and for n < 3 */
    int64_t n, n_surprising;                   /* surprising: log p < log(threshold), strictly */
    double mean_surprising, mean_unsurprising; /* of log_s_prime; NaN for an empty group */
} km_priming_prediction;

/* log_keyword, log_s_prime (n), surprising (n, out; may be NULL). Errors: KM_EINVAL for n < 1 or a
 * threshold that is not positive, KM_ENUMERIC for values that are not finite, KM_ENOMEM. */
KM_API KM_NODISCARD km_status km_score_priming_predictor(km_priming_prediction *out,
                                                         bool *surprising, km_ctx *ctx,
                                                         const double *log_keyword,
                                                         const double *log_s_prime, int64_t n,
                                                         double threshold, km_error *err);

/* ---- pruned updates: which changes of training are taken back ---- */

typedef enum km_prune_key {
    KM_PRUNE_ABS = 0, /* |values - base| */
    KM_PRUNE_SIGNED   /* values - base */
} km_prune_key;

/* Changes are ranked by key from the largest down, equal ones by their flat index from the lowest
 * up (-0.0 equals 0.0), and the ranks round(low * n) .. round(high * n) - 1 are pruned, halves
 * rounded to even: ignore-topk is low = 0, high = k. `keep` prunes all other ranks instead. Shares
 * are cut to [0, 1]. */
typedef struct km_prune_options {
    double low, high;
    bool keep;
    km_prune_key key;
    bool global;  /* rank all tensors together, in their order, instead of each by itself */
    bool float64; /* of values and base; else float32. The difference is taken in that type */
} km_prune_options;
#define KM_PRUNE_OPTIONS_INIT {0, 0.08, false, KM_PRUNE_ABS, false, false}

typedef struct km_prune_tensor {
    const char *name; /* for messages; NULL: its index serves */
    void *values;     /* (n) after training */
    const void *base; /* (n) before; NULL: values are the changes themselves (masks only) */
    int64_t n;
} km_prune_tensor;

/* Put the base back into the pruned elements, bit for bit, and leave the others as they are; no
 * rescaling. n_pruned (n_tensors; may be NULL): pruned elements of each. Linear in the elements: an
 * exact radix selection, in parallel. Errors: KM_EINVAL for low > high or NaN there, for no base,
 * KM_ENUMERIC with tensor and index where a change is NaN: nothing has been changed then. A
 * cancelled call may have pruned some of the elements. */
KM_API KM_NODISCARD km_status km_prune_apply(int64_t *n_pruned, km_ctx *ctx,
                                             const km_prune_tensor *tensors, int64_t n_tensors,
                                             const km_prune_options *options, km_error *err);
/* The same as masks, false where pruned: mask holds one tensor after another. Changes no values. */
KM_API KM_NODISCARD km_status km_prune_mask_into(bool *mask, int64_t *n_pruned, km_ctx *ctx,
                                                 const km_prune_tensor *tensors, int64_t n_tensors,
                                                 const km_prune_options *options, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
