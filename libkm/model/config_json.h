/* config_json.h: fields of a Hugging Face config.json. */
#ifndef KM_MODEL_CONFIG_JSON_H
#define KM_MODEL_CONFIG_JSON_H

#include "base/json.h"
#include "model/config_private.h"

#define KM_REQUIRED INT64_MIN /* as a default: the field has to be there */

/* The field, NULL when absent or null. */
const json_t *km__json_field(const json_t *object, const char *name);
/* Whether the field is there and null. */
bool km__json_is_null(const json_t *object, const char *name);
/* One field, `otherwise` when it is absent or null. KM_EFORMAT by name when of another type. */
KM_NODISCARD km_status km__json_int(int32_t *out, const json_t *object, const char *name,
                                    int64_t otherwise, km_error *err);
KM_NODISCARD km_status km__json_double(double *out, const json_t *object, const char *name,
                                       double otherwise, km_error *err);
KM_NODISCARD km_status km__json_bool(bool *out, const json_t *object, const char *name,
                                     bool otherwise, km_error *err);
/* NULL in *out when absent. */
KM_NODISCARD km_status km__json_string(const char **out, const json_t *object, const char *name,
                                       km_error *err);
KM_NODISCARD km_status km__json_object(const json_t **out, const json_t *object, const char *name,
                                       km_error *err);

/* What an architecture calls its rotary fields, and their defaults. */
typedef struct km_rope_fields {
    const char *base_name; /* "rope_theta" */
    double base;
    const char *rotated_name; /* "partial_rotary_factor" */
    double rotated;           /* part of a head that turns; 1: the architecture turns all of it */
    bool by_layer_type;       /* may have one object a layer type, with a local base */
} km_rope_fields;

/* Everything rotary: bases, rotary_dim, scaling. Needs head_dim and, by_layer_type, the default
 * rope_base_local. */
KM_NODISCARD km_status km__json_rope(km_config *out, km_rope_fields *fields, const json_t *root,
                                     km_error *err);
/* sliding_window, `otherwise` when absent, none when null. */
KM_NODISCARD km_status km__json_window(km_config *out, const json_t *root, int32_t otherwise,
                                       km_error *err);
/* layer_types, if given, over what out->windowed holds. */
KM_NODISCARD km_status km__json_layer_types(km_config *out, const json_t *root, km_error *err);

#endif
