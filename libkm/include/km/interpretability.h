/* km/interpretability.h: what happens inside a model on the way to an answer: the logit lens, and
 * direct logit attribution. Fitted lenses: km/affine_lens.h. Letters as in km/model.h. Definitions,
 * sources, controls: docs/measures/interventions.md.
 */
#ifndef KM_INTERPRETABILITY_H
#define KM_INTERPRETABILITY_H

#include "km/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- logit lens ---- */

/* What the lens of n prompts fills. Layer l in [0, L) reads resid_post of block l through the final
 * norm and the unembedding (nostalgebraist 2020); layer L is the model's output. */
typedef struct km_lens_arrays {
    int64_t *rank;        /* (n, L+1) tokens strictly more likely than the target */
    double *logprob;      /* (n, L+1) nats, of the target */
    double *entropy;      /* (n, L+1) nats; NULL: not computed */
    int32_t *top_ids;     /* (n, L+1, top_k) most likely first, lower ids first among equals */
    double *top_logprobs; /* (n, L+1, top_k) nats */
} km_lens_arrays;

/* The lens at the last token of n prompts, all layers in one pass; prompt i is ids[offsets[i]] to
 * ids[offsets[i+1]-1]. Prompts with a common beginning share its computation; a pass holds at most
 * batch_tokens distinct tokens, or one prompt, and one block of logits. Same bits for any batch.
 * top_k 0: top_ids and top_logprobs are not used. Errors: KM_EINVAL for an empty prompt, KM_ERANGE
 * for a target outside the vocabulary or top_k. */
KM_API KM_NODISCARD km_status km_lens_run_into(const km_lens_arrays *out, const km_model *model,
                                               const int32_t *ids, const int64_t *offsets,
                                               int64_t n, const int32_t *targets, int top_k,
                                               int64_t batch_tokens, km_tick_fn tick, void *payload,
                                               km_error *err);

/* ---- direct logit attribution ---- */

/* Number of parts of a logit: embedding, position, for each layer each head, attention's bias and
 * the MLP, at last the final norm's bias: 3 + L (H + 2). */
KM_API int64_t km_attribution_parts(const km_model *model);
/* What each part adds to the logit of tokens[i], or to its lead over contrasts[i], after the last
 * token of prompt i (laid out as above): its own output read in the direction of the unembedding,
 * the scale of the final norm (and of a norm on attention's output) held at that of this run. parts
 * (n, km_attribution_parts) sum to logits (n), which is taken before a final soft cap. contrasts is
 * NULL, or -1 where there is none. An MLP's bias counts to the MLP. Errors as km_lens_run_into. */
KM_API KM_NODISCARD km_status km_attribution_run_into(
    double *parts, double *logits, const km_model *model, const int32_t *ids,
    const int64_t *offsets, int64_t n, const int32_t *tokens, const int32_t *contrasts,
    int64_t batch_tokens, km_tick_fn tick, void *payload, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
