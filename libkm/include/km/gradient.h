/* km/gradient.h: derivatives of a loss over output logits with respect to activations.
 *
 * One backward pass for every architecture: the forward pass keeps resid_pre of each layer (L * T *
 * D floats), and the way back computes a layer's inside again before differentiating it.
 */
#ifndef KM_GRADIENT_H
#define KM_GRADIENT_H

#include "km/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Receives one row of logits (V) of request.rows[index] and replaces it by the derivative of the
 * loss with respect to that row. Called on worker threads, once a row, in no promised order; keep
 * the loss itself in the payload, a slot an index. */
typedef km_status (*km_loss_fn)(void *payload, int64_t index, float *row, int64_t vocab,
                                km_error *err);

typedef struct km_gradient_request {
    /* Tree, rows (at least one), patches and reads; on_logits is not used. No lens_rows, session or
     * visit: a visitor may change what the way back would not know of. */
    km_forward_request forward;
    km_loss_fn loss;
    void *payload;
    /* out receives dLoss/da instead of a. Where a point is patched, the derivative is with respect
     * to the patched value, and passes on through the patch: SET stops it, ADD lets it through,
     * SCALE multiplies, PROJECT_OUT projects. At q_input, k_input, v_input and mlp_input it is what
     * reaches resid_pre (resid_mid) through that one reader. At attn_scores and attn_pattern it is
     * 0 where nothing is seen, at final_norm and logits 0 for tokens that are not in rows. */
    const km_read *gradients;
    int64_t n_gradients;
} km_gradient_request;

/* One forward and one backward pass, the latter down to the lowest layer a gradient is asked of.
 * Same bits for any thread count. Errors as km_model_forward; KM_EUNSUPPORTED for a gradient at a
 * point the architecture does not have and through patched logits that are soft-capped; KM_EINVAL
 * for gradients at logits when rows hold a token twice; KM_ENUMERIC, with the layer, for
 * derivatives that are not finite. */
KM_API KM_NODISCARD km_status km_model_gradients(const km_model *model,
                                                 const km_gradient_request *request, km_error *err);
/* Bytes km_model_gradients allocates for a tree of n_tokens with n_rows rows besides those of the
 * forward pass and of what patches change inside layers; an upper bound, reached by one sequence.
 */
KM_API int64_t km_model_gradients_bytes(const km_model *model, int64_t n_tokens, int64_t n_rows);

/* ---- losses over chosen tokens ---- */

typedef enum km_target_kind {
    KM_TARGET_LOGIT = 0,
    KM_TARGET_LOGPROB, /* nats */
    KM_TARGET_PROB
} km_target_kind;

/* Token `id` after the row `row` of the request enters the loss with a weight. */
typedef struct km_target {
    int64_t row;
    int32_t id;
    double weight;
} km_target;

/* The payload of km_target_loss_row: the loss of a row is the sum of weight times logit,
 * log-probability or probability of its targets. */
typedef struct km_target_loss {
    const km_model *model;
    km_target_kind kind;
    const km_target *targets; /* (n_targets), rows rising; a row without any has loss 0 */
    int64_t n_targets;
    double *losses; /* (n_rows) out */
} km_target_loss;

/* A km_loss_fn over a km_target_loss. KM_ERANGE for an id outside the vocabulary. */
KM_API KM_NODISCARD km_status km_target_loss_row(void *payload, int64_t index, float *row,
                                                 int64_t vocab, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
