/* km/memorization_scores.h: the formulas of memorization as pure functions on arrays.
 *
 * Everything is double precision, logarithms are natural (nats) unless "bits" is said, and nothing
 * here knows a model: the figures may come from any framework. An undefined mean (of no elements)
 * is NaN, as in the authors' code; each function says when. Letters: T tokens, V vocabulary, N
 * items, M models, E evaluated items. Definitions with examples: docs/measures/memorization.md.
 */
#ifndef KM_MEMORIZATION_SCORES_H
#define KM_MEMORIZATION_SCORES_H

#include <stdbool.h>

#include "km/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- token likelihoods ---- */

/* out[t-1] = log softmax(logits[t-1])[ids[t]] for t = 1..T-1; logits is (T, V), ids (T), out (T-1).
 * Errors: KM_EINVAL for an id outside [0, V) or T < 1, KM_ENUMERIC for a row of logits with NaN or
 * +infinity or without any finite entry. */
KM_API KM_NODISCARD km_status km_score_token_logprobs_into(double *out, const double *logits,
                                                           const int32_t *ids, int64_t n_tokens,
                                                           int64_t n_vocab, km_error *err);
/* Mean and variance of log p under p, of each row of logits (N, V): mu = sum p log p (minus the
 * entropy) and sigma2 = sum p (log p - mu)^2, both (N); entries with p = 0 add nothing. Zhang et
 * al. 2024 (Min-K%++), eq. 3. Errors as above. */
KM_API KM_NODISCARD km_status km_score_token_moments_into(double *mu, double *sigma2,
                                                          const double *logits, int64_t n_rows,
                                                          int64_t n_vocab, km_error *err);
/* Mean of -logprobs, nats a token; NaN when n = 0. exp of it is the perplexity. */
KM_API double km_score_loss(const double *logprobs, int64_t n);
/* Mean of the k = floor(n * ratio) smallest of x (n), NaN sorted last; NaN when k = 0, unless
 * at_least_one makes k at least 1. Shi et al. 2024 (Min-K% Prob) with x = log-probabilities.
 * Errors: KM_EINVAL when ratio is outside [0, 1], KM_ENOMEM. */
KM_API KM_NODISCARD km_status km_score_min_k(double *out, km_ctx *ctx, const double *x, int64_t n,
                                             double ratio, bool at_least_one, km_error *err);
/* The same over z_t = (logprobs_t - mu_t) / sqrt(sigma2_t): Zhang et al. 2024 (Min-K%++), eq. 4.
 * z is NaN where sigma2 = 0 and logprobs = mu (a uniform row says nothing). */
KM_API KM_NODISCARD km_status km_score_min_k_plus_plus(double *out, km_ctx *ctx,
                                                       const double *logprobs, const double *mu,
                                                       const double *sigma2, int64_t n,
                                                       double ratio, bool at_least_one,
                                                       km_error *err);

/* How well a score tells members (label true) from non-members; larger scores mean member. */
typedef struct km_detection {
    double auroc;      /* P(member > non-member) + P(equal)/2; NaN without both classes */
    double fpr_at_tpr; /* smallest false-positive rate with true-positive rate >= tpr */
    double tpr_at_fpr; /* largest true-positive rate with false-positive rate <= fpr */
    int64_t n_members, n_others;
} km_detection;
/* Thresholds take all items of one score together. Errors: KM_EINVAL for a NaN score. */
KM_API KM_NODISCARD km_status km_score_detection(km_detection *out, km_ctx *ctx,
                                                 const double *scores, const bool *member,
                                                 int64_t n, double tpr, double fpr, km_error *err);

/* ---- verbatim extraction ---- */

typedef struct km_extraction {
    bool extractable;        /* generated equals suffix */
    double match_fraction;   /* equal positions / n_suffix (Biderman et al. 2023); NaN when 0 */
    int64_t matching_prefix; /* tokens */
    int64_t edit_distance;   /* Levenshtein, tokens */
    double edit_similarity;  /* 1 - distance / max(n_generated, n_suffix); 1 when both are 0 */
} km_extraction;
/* Compare a greedy continuation with the true one (Carlini et al. 2021, definition 1). */
KM_API KM_NODISCARD km_status km_score_extraction(km_extraction *out, km_ctx *ctx,
                                                  const int32_t *generated, int64_t n_generated,
                                                  const int32_t *suffix, int64_t n_suffix,
                                                  km_error *err);
/* Teacher forcing: the first t whose ids[t] is not the argmax of logits[t] (ties: lowest id), n
 * when there is none, which is the same as being greedily extractable. logits (N, V), ids (N). */
KM_API KM_NODISCARD km_status km_score_first_mismatch(int64_t *out, const double *logits,
                                                      const int32_t *ids, int64_t n,
                                                      int64_t n_vocab, km_error *err);
/* Guesses in order of confidence: example[i] in [0, n_examples), correct[i]. Writes one point for
 * each correct guess, the share of distinct examples solved so far, into curve (room for n), the
 * number of points into *n_curve, and into *recall the last point reached with fewer than
 * max_errors wrong guesses before it (0 when none). Carlini et al.'s extraction benchmark. */
KM_API KM_NODISCARD km_status km_score_recall_curve(double *curve, int64_t *n_curve, double *recall,
                                                    km_ctx *ctx, const int64_t *example,
                                                    const bool *correct, int64_t n,
                                                    int64_t n_examples, int64_t max_errors,
                                                    km_error *err);

/* ---- exposure (Carlini et al. 2019, The Secret Sharer) ---- */

/* rank[i] = 1 + number of references strictly smaller than canary[i]; exposure[i] = log2_space -
 * log2 rank[i] in bits, where a NaN log2_space stands for log2 n_references (references sampled
 * from the space, definition 5); log2 of the size of the space when references enumerate it.
 * Scores are log-perplexities: small means likely. Errors: KM_EINVAL for NaN or no reference. */
KM_API KM_NODISCARD km_status km_score_exposure_into(int64_t *rank, double *exposure, km_ctx *ctx,
                                                     const double *canary, int64_t n_canary,
                                                     const double *reference, int64_t n_reference,
                                                     double log2_space, km_error *err);
/* -log2 CDF(x) of a skew-normal distribution with shape a (section 4.3, extrapolation): bits.
 * Relative accuracy 1e-10 of the CDF far into both tails. Errors: KM_EINVAL when scale <= 0 or an
 * argument is not finite. */
KM_API KM_NODISCARD km_status km_score_exposure_skewnormal(double *out, double x, double a,
                                                           double loc, double scale, km_error *err);

/* ---- counterfactual memorization (Zhang et al. 2023; Feldman and Zhang 2020) ---- */

/* include (M, N): model m was trained with item n; score (M, N): its score on that item. memorized
 * = in_mean - out_mean, each (N); NaN where an item is in every model or in none (and so is the
 * mean that does not exist). */
KM_API KM_NODISCARD km_status km_score_counterfactual_into(double *memorized, double *in_mean,
                                                           double *out_mean, const bool *include,
                                                           const double *score, int64_t n_models,
                                                           int64_t n_items, km_error *err);
/* influence (N, E): mean score (M, E) of evaluated item e over models with item n minus over models
 * without it. NaN as above. */
KM_API KM_NODISCARD km_status km_score_influence_into(double *influence, const bool *include,
                                                      const double *score, int64_t n_models,
                                                      int64_t n_items, int64_t n_evaluated,
                                                      km_error *err);

/* ---- ranks (LAMA: Petroni et al. 2019) ---- */

/* Number of entries v of a row strictly larger than logits[gold], counting only v with allowed[v]
 * (NULL: all). logits (N, V), gold (N), allowed (N, V) or NULL, rank (N), 0-based.
 * Errors: KM_EINVAL for gold outside [0, V), KM_ENUMERIC for NaN. */
KM_API KM_NODISCARD km_status km_score_rank_into(int64_t *rank, const double *logits,
                                                 const int32_t *gold, const bool *allowed,
                                                 int64_t n_rows, int64_t n_vocab, km_error *err);
/* Share of ranks below k. NaN when n = 0. */
KM_API double km_score_precision_at(const int64_t *rank, int64_t n, int64_t k);
/* Mean of 1 / (rank + 1). NaN when n = 0. */
KM_API double km_score_mean_reciprocal_rank(const int64_t *rank, int64_t n);
/* Mean over groups of the groups' means of x (n): every relation weighs the same. */
KM_API KM_NODISCARD km_status km_score_macro_mean(double *out, km_ctx *ctx, const double *x,
                                                  const int64_t *group, int64_t n, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
