/* km/neurons.h: knowledge neurons: which MLP neurons an answer's probability rests on, by
 * integrated gradients (Dai et al. 2022). Letters as in km/model.h. Definitions and sources:
 * docs/measures/neurons.md.
 */
#ifndef KM_NEURONS_H
#define KM_NEURONS_H

#include "km/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where the slopes of one layer are taken: at k/m of its activations, k = 0..m-1 (the sum of the
 * authors' code), or at (k + 1/2)/m, whose error falls with the square of m. */
typedef enum km_riemann { KM_RIEMANN_LEFT = 0, KM_RIEMANN_MIDPOINT } km_riemann;

typedef struct km_neurons_options {
    int32_t steps; /* m, 1 to 10000 */
    km_riemann rule;
} km_neurons_options;
#define KM_NEURONS_OPTIONS_INIT {20, KM_RIEMANN_LEFT}

/* What km_neurons_run_into fills. w is mlp_hidden of a layer at the prompt's last token, P(w') the
 * probability of the target after the prompt with that layer's w replaced by w' there. Where a norm
 * follows the MLP its output does not depend on the scale of w, and P jumps between 0 and the first
 * step; there the factor of that norm is held at that of the run, for w' and for the slopes. */
typedef struct km_neurons_arrays {
    double *attribution;  /* (L, F) w_i / m times the sum of dP/dw_i over the steps */
    float *activation;    /* (L, F) w */
    double *without;      /* (L) P(0) */
    double *completeness; /* (L) P(w) - P(0) less the layer's attributions: 0 for m without end */
    double probability;   /* P(w), the same for every layer */
} km_neurons_arrays;

/* Attribute token `target` after a prompt of n tokens. The steps of several layers are siblings of
 * the last token in one tree. NULL options: the defaults. Errors: KM_EINVAL for an empty prompt or
 * a bad option, KM_ERANGE for a target outside the vocabulary, and those of km_model_gradients. */
KM_API KM_NODISCARD km_status km_neurons_run_into(km_neurons_arrays *out, const km_model *model,
                                                  const int32_t *ids, int64_t n, int32_t target,
                                                  const km_neurons_options *options,
                                                  km_tick_fn tick, void *payload, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
