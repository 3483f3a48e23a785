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
    /* Tree, rows, patches and reads; on_logits and lens_rows are not used, session must be NULL.
     * visit sees the forward pass alone. */
    km_forward_request forward;
    km_loss_fn loss;
    void *payload;
    /* out receives dLoss/da instead of a. Where a point is patched, the derivative is with respect
     * to the patched value, and passes on through the patch: SET stops it, ADD lets it through,
     * SCALE multiplies, PROJECT_OUT projects. */
    const km_read *gradients;
    int64_t n_gradients;
} km_gradient_request;

/* One forward and one backward pass. Same bits for any thread count. Errors as km_model_forward,
 * and KM_EUNSUPPORTED for a gradient at a point that has none. */
KM_API KM_NODISCARD km_status km_model_gradients(const km_model *model,
                                                 const km_gradient_request *request, km_error *err);
/* Bytes km_model_gradients allocates for a tree of n_tokens with n_rows rows. */
KM_API int64_t km_model_gradients_bytes(const km_model *model, int64_t n_tokens, int64_t n_rows);

#ifdef __cplusplus
}
#endif

#endif
