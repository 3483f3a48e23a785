/* trainable.c: models with weights that can change: float32 copies of chosen parameters, everything
 * else shared with the model they were made of. */
#include <stdio.h>
#include <string.h>

#include "model/parameters.h"

#define LINE_FLOATS ((int64_t)16)

static int64_t rounded(int64_t floats) {
    return (floats + LINE_FLOATS - 1) / LINE_FLOATS * LINE_FLOATS;
}

/* ---- making one ---- */

static km_status allocate(km_model *copy, const bool *which, int64_t max_bytes, km_error *err) {
    const double mib = 1024.0 * 1024.0;
    const size_t limit = max_bytes > 0 ? (size_t)max_bytes : km_memory_available();
    int64_t floats = 0;
    for (int64_t i = 0; i < copy->n_tensors; i++) {
        const km__parameter *p = &copy->parameters[i];
        floats += which == NULL || which[i] ? rounded(p->rows * p->cols) : 0;
    }
    const size_t needed = (size_t)floats * sizeof(float);
    if (needed > limit) {
        return KM_SET(err, KM_ENOMEM,
                      "float32 copies of the trainable weights need %.1f MiB, %.1f MiB are %s",
                      (double)needed / mib, (double)limit / mib,
                      max_bytes > 0 ? "allowed" : "available");
    }
    KM_TRY(km_alloc(&copy->weights.storage, copy->ctx, needed, err));
    float *at = copy->weights.storage;
    for (int64_t i = 0; i < copy->n_tensors; i++) {
        km__parameter *p = &copy->parameters[i];
        if (which == NULL || which[i]) {
            p->values = at;
            at += rounded(p->rows * p->cols);
        }
    }
    return KM_OK;
}

/* The matrices and vectors of `model`, in an array of layers of the copy's own. */
static km_status share_weights(km_model *copy, const km_model *model, km_error *err) {
    const km_weights *from = &model->weights;
    km_weights *to = &copy->weights;
    KM_TRY(km_alloc_array((void **)&to->layers, copy->ctx, copy->config.n_layers,
                          sizeof *to->layers, err));
    memcpy(to->layers, from->layers, (size_t)copy->config.n_layers * sizeof *to->layers);
    to->embed = from->embed;
    to->positions = from->positions;
    to->unembed = from->unembed;
    to->final_norm = from->final_norm;
    to->rope_factors = from->rope_factors;
    copy->n_parameters = model->n_parameters;
    return km__parameters_list(copy, err);
}

/* Point the model at its own values, and say what most of its matrices are. */
static void connect(km_model *copy, const km_model *model) {
    int64_t own = 0, matrices = 0;
    for (int64_t i = 0; i < copy->n_tensors; i++) {
        km__parameter *p = &copy->parameters[i];
        matrices += p->matrix != NULL;
        own += p->matrix != NULL && p->values != NULL;
        if (p->values != NULL && p->matrix != NULL) {
            *p->matrix = (km_matrix){p->values, KM_F32, p->rows, p->cols};
        } else if (p->values != NULL) {
            *p->vector = p->values;
        }
    }
    if (copy->config.tied_embeddings) {
        copy->weights.unembed = copy->weights.embed;
    }
    (void)snprintf(copy->precision, sizeof copy->precision, "%s",
                   2 * own > matrices ? "F32" : model->precision);
}

km_status km_model_trainable(km_model **out, const km_model *model, const bool *which,
                             int64_t max_bytes, km_error *err) {
    km_model *copy = NULL;
    km_status status = KM_OK;
    if (out == NULL || model == NULL) {
        return KM_SET(err, KM_EINVAL, "no model or no place for the trainable one");
    }
    if (model->is_trainable) {
        return KM_SET(err, KM_EINVAL,
                      "the model is trainable already; make the copy of a frozen one "
                      "(km_model_frozen)");
    }
    KM_TRY(km__weights_check(model, err));
    KM_GO(km__model_derive(&copy, model, err));
    copy->is_trainable = true;
    KM_GO(share_weights(copy, model, err));
    KM_GO(allocate(copy, which, max_bytes, err));
    KM_GO(km_model_restore(copy, NULL, err));
    connect(copy, model);
    *out = copy;
    copy = NULL;
done:
    km_model_free(copy);
    return status;
}

void km_model_changed(km_model *model) {
    if (model != NULL && model->is_trainable) {
        atomic_store(&model->weights.checked, false);
        atomic_store(&model->fingerprint_state, 0);
    }
}
