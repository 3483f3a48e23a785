/* image.h: parameters laid out as the tensors of a model's container. */
#ifndef KM_MODEL_IMAGE_H
#define KM_MODEL_IMAGE_H

#include "model/parameters.h"

/* Tensors of a container under its names and in its layout, float32, that differ from what it
 * holds. */
typedef struct km__image {
    km_ctx *ctx;
    km_weight_plan plan;   /* names are its slots' */
    km_tensor_info *infos; /* (n); data is in `room` or borrowed from the values it was made of */
    int64_t n;
    float *room;
} km__image;

/* The model with a container that `model` is or was made from, however many steps ago. */
const km_model *km__model_with_container(const km_model *model);
/* The tensors of that container which parameters `values` change: (n_tensors), NULL entries, or
 * values NULL, for `model`'s own. A tensor that fuses several parameters changes when one does. */
KM_NODISCARD km_status km__image_make(km__image *out, const km_model *model,
                                      const float *const *values, km_error *err);
/* Every parameter of a model under the names and in the layout of a container that is still to be
 * made. */
KM_NODISCARD km_status km__image_whole(km__image *out, const km_model *model,
                                       const km_weight_naming *naming, km_error *err);
void km__image_clear(km__image *image);
/* NULL where the container's tensor is as it was. */
const km_tensor_info *km__image_find(const km__image *image, const char *name);

#endif
