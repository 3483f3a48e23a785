/* edit.c: weights by name, and copies of a model with other values in some of them.
 *
 * An edited model is an overlay over the original's container, loaded like any model: so whatever a
 * weight goes through at loading (transposed, cut in three) its new values go through too, and the
 * fingerprint covers them. The original stays referenced for its maps and its tokenizer. */
#include <math.h>
#include <string.h>

#include "km/save.h"
#include "model/model_private.h"

km_status km__need_file(const km_model *model, km_error *err) {
    if (model == NULL) {
        return KM_SET(err, KM_EINVAL, "no model");
    }
    if (model->is_trainable) {
        return KM_SET(err, KM_EINVAL,
                      "a trainable model has no file: an immutable copy (km_model_frozen) can be "
                      "edited and saved");
    }
    if (model->container == NULL) {
        return KM_SET(
            err, KM_EINVAL,
            "a random control has no file: its weights have no names and cannot be saved");
    }
    return KM_OK;
}

static void fill(km_weight *out, const km_tensor_info *info) {
    *out = (km_weight){.name = info->name,
                       .dtype = km_dtype_get(info->dtype)->name,
                       .n_dims = info->n_dims,
                       .n = 1};
    for (int i = 0; i < info->n_dims; i++) {
        out->dims[i] = info->dims[i];
        out->n *= info->dims[i];
    }
    bool aligned = (uintptr_t)info->data % _Alignof(float) == 0;
    out->data = info->dtype == KM_F32 && aligned ? info->data : NULL;
}

static km_status find(const km_tensor_info **out, const km_model *model, const char *name,
                      km_error *err) {
    KM_TRY(km__need_file(model, err));
    *out = name != NULL ? km_container_find(model->container, name) : NULL;
    if (*out == NULL) {
        return KM_SET(err, KM_ENOTFOUND, "%s: no weight '%.*s'; its first is '%.*s'", model->path,
                      KM_SHOWN(name != NULL ? name : "(none)"),
                      KM_SHOWN(km_container_tensor(model->container, 0)->name));
    }
    return KM_OK;
}

int64_t km_model_n_weights(const km_model *model) {
    return model->container != NULL ? km_container_n_tensors(model->container) : 0;
}

km_status km_model_weight_at(km_weight *out, const km_model *model, int64_t index, km_error *err) {
    KM_TRY(km__need_file(model, err));
    const km_tensor_info *info = km_container_tensor(model->container, index);
    if (info == NULL) {
        return KM_SET(err, KM_ERANGE, "weight %lld of %lld", (long long)index,
                      (long long)km_model_n_weights(model));
    }
    fill(out, info);
    return KM_OK;
}

km_status km_model_weight_find(km_weight *out, const km_model *model, const char *name,
                               km_error *err) {
    const km_tensor_info *info;
    KM_TRY(find(&info, model, name, err));
    fill(out, info);
    return KM_OK;
}

km_status km_model_weight_into(float *out, const km_model *model, const char *name, km_error *err) {
    const km_tensor_info *info;
    km_weight weight;
    KM_TRY(find(&info, model, name, err));
    KM_TRY(km_container_check(model->container, err));
    fill(&weight, info);
    km_dtype_get(info->dtype)->to_f32(out, info->data, weight.n);
    return KM_OK;
}

/* ---- edits ---- */

static km_status check_edit(km_tensor_info *out, const km_model *model, const km_weight_edit *edit,
                            km_error *err) {
    const km_tensor_info *info;
    km_weight weight;
    KM_TRY(find(&info, model, edit->name, err));
    fill(&weight, info);
    bool same = weight.n_dims == edit->n_dims;
    for (int i = 0; same && i < weight.n_dims; i++) {
        same = weight.dims[i] == edit->dims[i];
    }
    if (!same) {
        return KM_SET(err, KM_ESHAPE,
                      "weight '%.*s' has %d dimensions, the first of size %lld; "
                      "the new values have another shape",
                      KM_SHOWN(edit->name), weight.n_dims, (long long)weight.dims[0]);
    }
    for (int64_t i = 0; i < weight.n; i++) {
        if (!isfinite(edit->data[i])) {
            return KM_SET(err, KM_ENUMERIC, "weight '%.*s': element %lld is no finite number",
                          KM_SHOWN(edit->name), (long long)i);
        }
    }
    *out = *info;
    out->data = edit->data;
    return KM_OK;
}

static km_status overlay(km_model *edited, const km_model *model, const km_weight_edit *edits,
                         int64_t n, km_error *err) {
    km_tensor_info *infos = NULL;
    km_status status = KM_OK;
    KM_GO(km_alloc_array((void **)&infos, model->ctx, n, sizeof *infos, err));
    for (int64_t i = 0; i < n; i++) {
        KM_GO(check_edit(&infos[i], model, &edits[i], err));
    }
    KM_GO(km_container_overlay(&edited->container, model->container, infos, n, err));
done:
    km_free(model->ctx, infos);
    return status;
}

km_status km_model_with_weights(km_model **out, const km_model *model, const km_weight_edit *edits,
                                int64_t n, km_error *err) {
    static const km_model_options defaults = KM_MODEL_OPTIONS_INIT;
    km_model *edited = NULL;
    km_status status = KM_OK;
    if (out == NULL || n < 0 || (n > 0 && edits == NULL)) {
        return KM_SET(err, KM_EINVAL, "no edits or no place for the model");
    }
    KM_TRY(km__need_file(model, err));
    KM_GO(km__model_derive(&edited, model, err));
    KM_GO(overlay(edited, model, edits, n, err));
    KM_GO(km__weights_load(edited, &defaults, err));
    *out = edited;
    edited = NULL;
done:
    km_model_free(edited);
    return status;
}

km_status km_model_metadata(const char **out, size_t *n, const km_model *model, const char *key,
                            km_error *err) {
    bool found = false;
    const char *text = NULL;
    *out = NULL;
    *n = 0;
    KM_TRY(km__need_file(model, err));
    if (km_container_gguf(model->container) != NULL) {
        KM_TRY(km_gguf_get_string(km_container_gguf(model->container), key, &text, n, &found, err));
    }
    *out = found ? text : NULL;
    return KM_OK;
}
