/* config_fields.c: reading fields of a config.json, its rotary embedding and its sliding windows.
 *
 * Two generations of names are read: rope_theta and rope_scaling (transformers 4) beside
 * rope_parameters, flat or one object a layer type (transformers 5); a pattern of sliding windows
 * beside layer_types. */
#include <inttypes.h>
#include <string.h>

#include "model/config_json.h"

/* ---- fields ---- */

const json_t *km__json_field(const json_t *object, const char *name) {
    const json_t *value = json_object_get(object, name);
    return value == NULL || json_is_null(value) ? NULL : value;
}

km_status km__json_int(int32_t *out, const json_t *object, const char *name, int64_t otherwise,
                       km_error *err) {
    const json_t *value = km__json_field(object, name);
    if (value == NULL) {
        if (otherwise == KM_REQUIRED) {
            return KM_SET(err, KM_EFORMAT, "field '%s' is missing", name);
        }
        *out = (int32_t)otherwise;
        return KM_OK;
    }
    if (!json_is_integer(value)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' is not an integer", name);
    }
    json_int_t number = json_integer_value(value);
    if (number < INT32_MIN || number > INT32_MAX) {
        return KM_SET(err, KM_EFORMAT, "field '%s': %" JSON_INTEGER_FORMAT " is out of range", name,
                      number);
    }
    *out = (int32_t)number;
    return KM_OK;
}

km_status km__json_double(double *out, const json_t *object, const char *name, double otherwise,
                          km_error *err) {
    const json_t *value = km__json_field(object, name);
    if (value != NULL && !json_is_number(value)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' is not a number", name);
    }
    *out = value != NULL ? json_number_value(value) : otherwise;
    return KM_OK;
}

km_status km__json_bool(bool *out, const json_t *object, const char *name, bool otherwise,
                        km_error *err) {
    const json_t *value = km__json_field(object, name);
    if (value != NULL && !json_is_boolean(value)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' is neither true nor false", name);
    }
    *out = value != NULL ? json_is_true(value) : otherwise;
    return KM_OK;
}

km_status km__json_string(const char **out, const json_t *object, const char *name, km_error *err) {
    const json_t *value = km__json_field(object, name);
    if (value != NULL && !json_is_string(value)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' is not a string", name);
    }
    *out = value != NULL ? json_string_value(value) : NULL;
    if (*out != NULL && strlen(*out) != json_string_length(value)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' contains a NUL", name);
    }
    return KM_OK;
}

km_status km__json_object(const json_t **out, const json_t *object, const char *name,
                          km_error *err) {
    *out = km__json_field(object, name);
    if (*out != NULL && !json_is_object(*out)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' is not an object", name);
    }
    return KM_OK;
}

bool km__json_is_null(const json_t *object, const char *name) {
    return json_is_null(json_object_get(object, name));
}

/* ---- rotary embedding ---- */

/* The factor by wavelength of Llama 3. */
static km_status read_llama3(km_config *out, const json_t *object, const char *name,
                             km_error *err) {
    static const char *const FIELDS[] = {"factor", "low_freq_factor", "high_freq_factor",
                                         "original_max_position_embeddings"};
    for (size_t i = 0; i < sizeof(FIELDS) / sizeof(FIELDS[0]); i++) {
        if (km__json_field(object, FIELDS[i]) == NULL) {
            return KM_SET(err, KM_EFORMAT, "field '%s': rope type 'llama3' needs '%s'", name,
                          FIELDS[i]);
        }
    }
    KM_TRY(km__json_double(&out->rope_factor, object, "factor", 0.0, err));
    KM_TRY(km__json_double(&out->rope_low_freq_factor, object, "low_freq_factor", 0.0, err));
    KM_TRY(km__json_double(&out->rope_high_freq_factor, object, "high_freq_factor", 0.0, err));
    KM_TRY(km__json_int(&out->rope_original_context, object, "original_max_position_embeddings", 0,
                        err));
    if (!(out->rope_factor > 0.0)) {
        return KM_SET(err, KM_EFORMAT, "field '%s': 'factor' is %g, expected more than 0", name,
                      out->rope_factor);
    }
    return KM_OK;
}

/* Base, rotated part and scaling from one object of rope_parameters, or from an old rope_scaling
 * object. */
static km_status read_rope_object(km_config *out, km_rope_fields *rope, double *base,
                                  const json_t *object, const char *name, km_error *err) {
    const char *kind;
    double factor;
    KM_TRY(km__json_double(base, object, "rope_theta", *base, err));
    KM_TRY(km__json_double(&rope->rotated, object, "partial_rotary_factor", rope->rotated, err));
    KM_TRY(km__json_string(&kind, object, "rope_type", err));
    if (kind == NULL) {
        KM_TRY(km__json_string(&kind, object, "type", err));
    }
    KM_TRY(km__json_double(&factor, object, "factor", 1.0, err));
    if (kind == NULL) {
        if (factor != 1.0) {
            return KM_SET(err, KM_EFORMAT, "field '%s': 'factor' without 'rope_type'", name);
        }
        kind = "default";
    }
    if (strcmp(kind, "llama3") == 0) {
        return read_llama3(out, object, name, err);
    }
    return km__config_set_rope_scaling(out, kind, strlen(kind), factor, name, err);
}

/* {"full_attention": {...}, "sliding_attention": {...}} */
static km_status read_nested_rope(km_config *out, km_rope_fields *fields, const json_t *rope,
                                  km_error *err) {
    const json_t *full;
    const json_t *local;
    if (!fields->by_layer_type) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "field 'rope_parameters': one object a layer type is not supported for '%s'",
                      out->arch);
    }
    KM_TRY(km__json_object(&full, rope, "full_attention", err));
    KM_TRY(km__json_object(&local, rope, "sliding_attention", err));
    if (local != NULL) {
        KM_TRY(read_rope_object(out, fields, &out->rope_base_local, local,
                                "rope_parameters.sliding_attention", err));
        if (out->rope_linear_scale != 1.0 || out->rope_factor != 0.0) {
            return KM_SET(
                err, KM_EUNSUPPORTED,
                "field 'rope_parameters.sliding_attention': scaling is not supported here");
        }
    }
    if (full != NULL) {
        KM_TRY(read_rope_object(out, fields, &out->rope_base, full,
                                "rope_parameters.full_attention", err));
    }
    return KM_OK;
}

static km_status read_rope_forms(km_config *out, km_rope_fields *fields, const json_t *root,
                                 km_error *err) {
    const json_t *rope;
    const json_t *old;
    KM_TRY(km__json_object(&rope, root, "rope_parameters", err));
    KM_TRY(km__json_object(&old, root, "rope_scaling", err));
    if (rope != NULL && old != NULL && !json_equal(rope, old)) {
        return KM_SET(err, KM_EFORMAT,
                      "fields 'rope_parameters' and 'rope_scaling' differ: give one of them");
    }
    if (rope != NULL && (km__json_field(rope, "full_attention") != NULL ||
                         km__json_field(rope, "sliding_attention") != NULL)) {
        return read_nested_rope(out, fields, rope, err);
    }
    if (rope != NULL) {
        return read_rope_object(out, fields, &out->rope_base, rope, "rope_parameters", err);
    }
    if (old != NULL) {
        return read_rope_object(out, fields, &out->rope_base, old, "rope_scaling", err);
    }
    return KM_OK;
}

km_status km__json_rope(km_config *out, km_rope_fields *fields, const json_t *root, km_error *err) {
    const bool partial = fields->rotated != 1.0;
    KM_TRY(km__json_double(&out->rope_base, root, fields->base_name, fields->base, err));
    KM_TRY(km__json_double(&fields->rotated, root, fields->rotated_name, fields->rotated, err));
    KM_TRY(read_rope_forms(out, fields, root, err));
    if (!partial && fields->rotated != 1.0) {
        return KM_SET(err, KM_EUNSUPPORTED, "field '%s' is %g: this is not supported",
                      fields->rotated_name, fields->rotated);
    }
    if (!(fields->rotated > 0.0 && fields->rotated <= 1.0)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' is %g, expected more than 0 and at most 1",
                      fields->rotated_name, fields->rotated);
    }
    out->rotary_dim = (int32_t)(out->head_dim * fields->rotated);
    if (!fields->by_layer_type) {
        out->rope_base_local = out->rope_base;
    }
    return KM_OK;
}

/* ---- sliding windows ---- */

km_status km__json_window(km_config *out, const json_t *root, int32_t otherwise, km_error *err) {
    if (km__json_is_null(root, "sliding_window")) {
        out->sliding_window = 0;
        return KM_OK;
    }
    KM_TRY(km__json_int(&out->sliding_window, root, "sliding_window", otherwise, err));
    if (out->sliding_window < 1) {
        return KM_SET(err, KM_EFORMAT, "field 'sliding_window' is %d, expected 1 or more",
                      out->sliding_window);
    }
    return KM_OK;
}

km_status km__json_layer_types(km_config *out, const json_t *root, km_error *err) {
    const json_t *types = km__json_field(root, "layer_types");
    if (types == NULL) {
        return KM_OK;
    }
    if (!json_is_array(types) || json_array_size(types) != (size_t)out->n_layers) {
        return KM_SET(err, KM_EFORMAT, "field 'layer_types' is not a list of %d layers",
                      out->n_layers);
    }
    for (int32_t i = 0; i < out->n_layers && i < KM_MAX_LAYERS; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        bool full = type != NULL && strcmp(type, "full_attention") == 0;
        if (!full && (type == NULL || strcmp(type, "sliding_attention") != 0)) {
            return KM_SET(err, KM_EUNSUPPORTED,
                          "field 'layer_types': '%.*s' of layer %d is not supported",
                          KM_SHOWN(type != NULL ? type : "(no string)"), i);
        }
        if (!full && out->sliding_window == 0) {
            return KM_SET(err, KM_EFORMAT,
                          "field 'layer_types': layer %d slides and there is no 'sliding_window'",
                          i);
        }
        out->windowed[i] = !full;
    }
    return KM_OK;
}
