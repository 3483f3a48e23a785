/* frozen.c: immutable models with other values in some parameters, made as an edited model is: an
 * overlay over the container of the model they come from, loaded like any model. */
#include "model/image.h"

static km_status overlay(km_model *copy, const km_model *model, const float *const *values,
                         km_error *err) {
    km__image image = {0};
    km_status status = KM_OK;
    KM_GO(km__image_make(&image, model, values, err));
    KM_GO(
        km_container_overlay(&copy->container, copy->origin->container, image.infos, image.n, err));
done:
    km__image_clear(&image);
    return status;
}

km_status km_model_with_parameters(km_model **out, const km_model *model,
                                   const float *const *values, km_error *err) {
    static const km_model_options defaults = KM_MODEL_OPTIONS_INIT;
    km_model *copy = NULL;
    km_status status = KM_OK;
    if (out == NULL || model == NULL) {
        return KM_SET(err, KM_EINVAL, "no model or no place for the new one");
    }
    KM_TRY(km__weights_check(model, err));
    KM_GO(km__model_derive(&copy, km__model_with_container(model), err));
    KM_GO(overlay(copy, model, values, err));
    KM_GO(km__weights_load(copy, &defaults, err));
    KM_GO(km__weights_check(copy, err));
    *out = copy;
    copy = NULL;
done:
    km_model_free(copy);
    return status;
}

km_status km_model_frozen(km_model **out, const km_model *model, km_error *err) {
    return km_model_with_parameters(out, model, NULL, err);
}
