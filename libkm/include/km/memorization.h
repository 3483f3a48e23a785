/* km/memorization.h: what a model has memorised: whole-answer recall and verbatim scores.
 *
 * Scores (`km_score_*`, km/memorization_scores.h) are pure: arrays in, numbers out, usable with
 * log-probabilities from anywhere. What is here drives a model; `km_memorization_run` fills a
 * table, one row a (fact, template). Definitions and sources: docs/measures/memorization.md.
 */
#ifndef KM_MEMORIZATION_H
#define KM_MEMORIZATION_H

#include "km/memorization_scores.h"
#include "km/model.h"
#include "km/table.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KM_MEMORIZATION_ID "memorization.recall"
#define KM_MEMORIZATION_VERSION 1

/* One relation's worth of work: every fact is asked with every template. Strings are UTF-8. */
typedef struct km_recall_fact {
    const char *id; /* unique within the relation */
    const char *subject;
    const char *const
        *answers; /* (n_answers) the answer and its accepted aliases, first = printed */
    int n_answers;
    const char *const
        *candidates; /* (n_candidates) wrong answers of the same type, without aliases */
    int n_candidates;
    int64_t shuffled; /* index of the fact whose answer is judged under this subject's prompt (the
                         subjects-shuffled baseline); its first answer is among the candidates.
                         -1: none */
} km_recall_fact;

typedef struct km_recall_relation {
    const char *name;
    const char *const *templates; /* (n_templates) with exactly one "{}" */
    int n_templates;
    const char *subjectless; /* what stands for the subject in the subject-removed prompt */
    const km_recall_fact *facts;
    int64_t n_facts;
} km_recall_relation;

typedef struct km_recall_options {
    km_bos bos;           /* default KM_BOS_MODEL */
    int64_t batch_tokens; /* distinct tokens a forward pass; default 1024 */
    bool lens;            /* also the layer from which the answer leads; default true */
} km_recall_options;
#define KM_RECALL_OPTIONS_INIT {KM_BOS_MODEL, 1024, true}

/* Measure one relation. Adds rows to a new table; columns in docs/measures/memorization.md.
 * Cancellation keeps nothing of this relation and returns KM_ECANCELLED. */
KM_API KM_NODISCARD km_status km_memorization_run(km_table **out, const km_model *model,
                                                  const km_recall_relation *relation,
                                                  const km_recall_options *options, km_tick_fn tick,
                                                  void *payload, km_error *err);

/* Logit lens of one prompt (n tokens) at its last token: one row a layer, 0..L-1 after each block
 * and L for the output: rank, logprob (nats) and probability of `target`, entropy (nats), the top_k
 * most likely tokens. Errors: KM_EINVAL for an empty prompt, KM_ERANGE for target or top_k. */
KM_API KM_NODISCARD km_status km_lens_run(km_table **out, const km_model *model, const int32_t *ids,
                                          int64_t n, int32_t target, int top_k, km_error *err);

/* Every token of n_texts texts given the true tokens before it. Text i is ids[offsets[i]] to
 * ids[offsets[i+1]-1]; its first token is not judged. One row a judged token: text, position,
 * token, logp, rank, is_argmax, and mu and sigma2 (km_score_token_moments_into) at its position. A
 * text longer than batch_tokens gets a pass of its own. Errors: KM_EINVAL for an empty text. */
KM_API KM_NODISCARD km_status km_verbatim_run(km_table **out, const km_model *model,
                                              const int32_t *ids, const int64_t *offsets,
                                              int64_t n_texts, int64_t batch_tokens,
                                              km_tick_fn tick, void *payload, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
