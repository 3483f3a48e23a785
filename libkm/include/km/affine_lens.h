/* km/affine_lens.h: affine lenses: from the residual stream after a block to the one after the last
 * block, one affine map a layer, fitted by ridge regression in closed form (after Din et al. 2023,
 * arXiv 2303.09435). It is not the tuned lens of Belrose et al. 2023 (arXiv 2303.08112), whose maps
 * are trained on the divergence of the predictions. Letters as in km/model.h; texts are
 * laid out as the prompts of km_lens_run_into. Definition: docs/measures/interventions.md.
 */
#ifndef KM_AFFINE_LENS_H
#define KM_AFFINE_LENS_H

#include "km/interpretability.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The maps: y = weights[l] x + biases[l], x being resid_post of block l. Borrowed. */
typedef struct km_affine_lens {
    const float *weights; /* (L, D, D), rows are the elements of y */
    const float *biases;  /* (L, D) */
} km_affine_lens;

/* Fit weights (L, D, D) and biases (L, D) on n texts. A text's first token is left out, because
 * attention sinks there outweigh all others. With S the sum over the other tokens of the centred
 * x x^T and d = y - x, weights[l] - I solves (S + ridge trace(S) / D I) R^T = sum x d^T: the ridge
 * pulls towards the plain logit lens, the bias is free, and the last layer is the identity. Sums
 * and solution in double precision; texts are added in order, so the bits depend neither on threads
 * nor on batch_tokens. Holds 16 L D^2 bytes of sums beside a forward pass and 4 L D bytes a token
 * of it, and is refused with KM_ENOMEM when there is no room for that. Progress counts texts.
 * Errors: KM_EINVAL for a text of fewer than two tokens or a ridge that is not a positive number,
 * KM_ENUMERIC where a layer's streams are all the same or too large. */
KM_API KM_NODISCARD km_status km_affine_lens_fit_into(float *weights, float *biases,
                                                      const km_model *model, const int32_t *ids,
                                                      const int64_t *offsets, int64_t n,
                                                      double ridge, int64_t batch_tokens,
                                                      km_tick_fn tick, void *payload,
                                                      km_error *err);

/* What km_affine_lens_evaluate_into fills; P is the number of tokens less that of texts. */
typedef struct km_affine_lens_arrays {
    double *kl_affine, *kl_logit;       /* (P, L) KL(model || lens) in nats, of the affine and of
                                           the plain logit lens */
    double *agree_affine, *agree_logit; /* (P, L) 1 where the most likely token is the model's */
} km_affine_lens_arrays;

/* Compare the distributions that both lenses give with the model's at every token but the first of
 * each text, in order. No more than three blocks of rows of the
 * vocabulary exist at a time. Same bits for any batch
 * and number of threads. Errors: as km_affine_lens_fit_into. */
KM_API KM_NODISCARD km_status km_affine_lens_evaluate_into(
    const km_affine_lens_arrays *out, const km_model *model, const km_affine_lens *lens,
    const int32_t *ids, const int64_t *offsets, int64_t n, int64_t batch_tokens, km_tick_fn tick,
    void *payload, km_error *err);

/* km_lens_run_into with each layer read through its affine map; layer L is the model's output. */
KM_API KM_NODISCARD km_status km_affine_lens_run_into(
    const km_lens_arrays *out, const km_model *model, const km_affine_lens *lens,
    const int32_t *ids, const int64_t *offsets, int64_t n, const int32_t *targets, int top_k,
    int64_t batch_tokens, km_tick_fn tick, void *payload, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
