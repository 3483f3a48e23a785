/* parameters.h: which parameter of km/training.h is which tensor of a model. */
#ifndef KM_MODEL_PARAMETERS_H
#define KM_MODEL_PARAMETERS_H

#include "km/training.h"
#include "model/weights_private.h"

/* The parameters of a model, slots[index] being parameter `index`: embedding, positions, final
 * norm, unembedding (unless tied), then by layer; factors of rotary frequencies are left out. A
 * slot's name is its parameter's ("blk.3.attn_q.weight"), `matrix` or `vector` is the place inside
 * model->weights that the forward and backward pass read it from. Cleared with
 * km__weight_plan_clear; lives no longer than the model. */
KM_NODISCARD km_status km__parameter_plan(km_weight_plan *plan, const km_model *model,
                                          km_error *err);

#endif
