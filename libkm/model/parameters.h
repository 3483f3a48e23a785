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

/* One row of the list a model keeps from when it is made: names live as long as it does. */
typedef struct km__parameter {
    km_parameter_kind kind;
    int32_t layer;
    int64_t rows, cols;
    km_matrix *matrix;    /* where the model keeps it; NULL for a vector */
    const float **vector; /* NULL for a matrix */
    float *values;        /* what can be changed; NULL where it is not trainable */
    char name[112];
} km__parameter;

/* parameters.c: model->parameters and model->n_tensors, from km__parameter_plan. */
KM_NODISCARD km_status km__parameters_list(km_model *model, km_error *err);
/* Rows begin .. end-1 of a parameter as float32; a vector has one row. */
void km__parameter_rows(float *out, const km_model *model, int64_t index, int64_t begin,
                        int64_t end);

/* Rows of one parameter: what one worker does at a time. */
typedef struct km__parameter_range {
    int64_t index, begin, end;
} km__parameter_range;
/* Cut the parameters (`wanted`: n_tensors flags, NULL: all) into ranges that depend on their shapes
 * alone. The caller frees *out. */
KM_NODISCARD km_status km__parameters_cut(km__parameter_range **out, int64_t *n,
                                          const km_model *model, const bool *wanted, km_error *err);

/* parameter_values.c: which of `values` ((n_tensors), NULL: not compared) differ from the model's
 * own in any bit: out (n_tensors). */
KM_NODISCARD km_status km__parameters_differ(bool *out, const km_model *model,
                                             const float *const *values, km_error *err);
/* KM_ENUMERIC, naming the parameter, when a trainable value is not finite. */
KM_NODISCARD km_status km__trainable_check(const km_model *model, km_error *err);

#endif
