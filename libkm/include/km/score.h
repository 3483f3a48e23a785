/* km/score.h: log-probabilities of whole continuations, and choosing the next token.
 *
 * Continuations with a common beginning are computed together as a tree of tokens. Results have the
 * same bits for any number of threads, batch size, order and company of other items
 * (docs/scoring.md). Letters as in km/model.h; B rows.
 */
#ifndef KM_SCORE_H
#define KM_SCORE_H

#include "km/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- continuations ---- */

typedef struct km_continuations {
    const int32_t *ids;            /* the items' tokens one after another */
    const int64_t *offsets;        /* (n + 1) item i is ids[offsets[i]] to ids[offsets[i+1] - 1] */
    const int64_t *prompt_lengths; /* (n) its first tokens, at least one; the rest, at least one, is
                                      scored */
    int64_t n;
    int64_t batch_tokens; /* distinct tokens a forward pass; 0: up to 2048, as memory allows */
} km_continuations;

/* What is wanted of them: each may be NULL. A token array holds the scored tokens of all items one
 * after another. */
typedef struct km_continuation_scores {
    double *logprobs; /* of each token given all before it, nats */
    bool *is_argmax;  /* of each token: it is the most likely one (ties: lowest id) */
    double *sums;     /* (n) over an item's tokens, nats */
    bool *greedy;     /* (n) every token of the item is the argmax */
} km_continuation_scores;

/* Score n continuations. An item longer than batch_tokens gets a pass of its own. Errors: KM_EINVAL
 * for an empty prompt or rest, KM_ERANGE for an id outside the vocabulary and for an item that does
 * not fit into the model's context, each with the item's index; and those of km_model_forward. */
KM_API KM_NODISCARD km_status km_continuations_run(const km_continuation_scores *out,
                                                   const km_model *model,
                                                   const km_continuations *in, km_tick_fn tick,
                                                   void *payload, km_error *err);

/* ---- the next token ---- */

/* Which tokens may be drawn, and how likely. The filters are applied in this order to one row of
 * logits; what a filter removes becomes -infinity (docs/generation.md). */
typedef struct km_sampling {
    double temperature; /* logits are divided by it, in float32; >= 1e-6 */
    int64_t top_k;      /* keep the k largest, and what ties with the last of them; 0: all */
    double top_p; /* keep a token while those stronger than it (ties: lower id) hold less than this
                     share of the probability; 1: all */
    double min_p; /* keep a token with at least this share of the strongest one's probability */
} km_sampling;
#define KM_SAMPLING_INIT {1.0, 0, 1.0, 0.0}

/* Filter one row of n logits in place. Errors: KM_EINVAL for a parameter out of range, KM_ENOMEM.
 */
KM_API KM_NODISCARD km_status km_sampling_filter(float *logits, int64_t n,
                                                 const km_sampling *sampling, km_ctx *ctx,
                                                 km_error *err);

/* The largest of each row of logits (B, V) into ids (B), lowest id among equals, and its
 * log-probability into logprobs (B), nats. */
KM_API KM_NODISCARD km_status km_rows_argmax(int32_t *ids, double *logprobs, const float *logits,
                                             int64_t n_rows, const km_model *model, km_error *err);
/* The k most likely tokens of each row, best first, lower ids first among equals: ids (B, k) and
 * logprobs (B, k) in nats. Errors: KM_ERANGE for k outside 1..V. */
KM_API KM_NODISCARD km_status km_rows_top(int32_t *ids, double *logprobs, const float *logits,
                                          int64_t n_rows, int64_t k, const km_model *model,
                                          km_error *err);
/* The log-probability of one token of each row: ids (B), logprobs (B) in nats. Errors: KM_ERANGE
 * for an id outside the vocabulary. */
KM_API KM_NODISCARD km_status km_rows_at(double *logprobs, const int32_t *ids, const float *logits,
                                         int64_t n_rows, const km_model *model, km_error *err);
/* Draw a token from each filtered row: the first, in rising id, at which the cumulated probability
 * exceeds uniform(seed, streams[i], counters[i]) of Philox. logprobs (B) are those of the row as it
 * was given, before the filters, nats. `logits` itself is not changed. */
KM_API KM_NODISCARD km_status km_rows_sample(int32_t *ids, double *logprobs, const float *logits,
                                             int64_t n_rows, const km_sampling *sampling,
                                             uint64_t seed, const uint64_t *streams,
                                             const uint64_t *counters, const km_model *model,
                                             km_error *err);
/* log softmax of each row of logits (B, V) into out (B, V), nats. */
KM_API KM_NODISCARD km_status km_rows_logprobs_into(float *out, const float *logits, int64_t n_rows,
                                                    const km_model *model, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
