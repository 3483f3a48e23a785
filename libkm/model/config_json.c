/* config_json.c: configuration from a Hugging Face config.json.
 *
 * Two generations of names are read: rope_theta and rope_scaling (transformers 4) beside
 * rope_parameters, flat or one object a layer type (transformers 5). Missing fields take the
 * defaults of transformers' LlamaConfig and Gemma3TextConfig. Fields that would change the numbers
 * and are not implemented are refused. */
#include "model/config_private.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/json.h"

#define MAX_CONFIG_BYTES ((size_t)1024 * 1024)
#define REQUIRED INT64_MIN /* as a default: the field has to be there */

/* ---- fields ---- */

/* NULL when absent or null. */
static const json_t *field(const json_t *object, const char *name) {
    const json_t *value = json_object_get(object, name);
    return value == NULL || json_is_null(value) ? NULL : value;
}

static km_status read_int(int32_t *out, const json_t *object, const char *name, int64_t otherwise,
                          km_error *err) {
    const json_t *value = field(object, name);
    if (value == NULL) {
        if (otherwise == REQUIRED) {
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

static km_status read_double(double *out, const json_t *object, const char *name, double otherwise,
                             km_error *err) {
    const json_t *value = field(object, name);
    if (value != NULL && !json_is_number(value)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' is not a number", name);
    }
    *out = value != NULL ? json_number_value(value) : otherwise;
    return KM_OK;
}

static km_status read_bool(bool *out, const json_t *object, const char *name, bool otherwise,
                           km_error *err) {
    const json_t *value = field(object, name);
    if (value != NULL && !json_is_boolean(value)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' is neither true nor false", name);
    }
    *out = value != NULL ? json_is_true(value) : otherwise;
    return KM_OK;
}

/* NULL in *out when absent. */
static km_status read_string(const char **out, const json_t *object, const char *name,
                             km_error *err) {
    const json_t *value = field(object, name);
    if (value != NULL && !json_is_string(value)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' is not a string", name);
    }
    *out = value != NULL ? json_string_value(value) : NULL;
    if (*out != NULL && strlen(*out) != json_string_length(value)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' contains a NUL", name);
    }
    return KM_OK;
}

static km_status read_object(const json_t **out, const json_t *object, const char *name,
                             km_error *err) {
    *out = field(object, name);
    if (*out != NULL && !json_is_object(*out)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' is not an object", name);
    }
    return KM_OK;
}

/* ---- what is not implemented ---- */

static km_status refuse_flags(const json_t *root, km_error *err) {
    static const char *const FLAGS[] = {"attention_bias", "mlp_bias",
                                        "use_bidirectional_attention"};
    static const char *const VALUES[] = {"attn_logit_softcapping", "final_logit_softcapping",
                                         "quantization_config", "num_local_experts"};
    for (size_t i = 0; i < sizeof(FLAGS) / sizeof(FLAGS[0]); i++) {
        bool set;
        KM_TRY(read_bool(&set, root, FLAGS[i], false, err));
        if (set) {
            return KM_SET(err, KM_EUNSUPPORTED, "field '%s' is true: this is not supported",
                          FLAGS[i]);
        }
    }
    for (size_t i = 0; i < sizeof(VALUES) / sizeof(VALUES[0]); i++) {
        if (field(root, VALUES[i]) != NULL) {
            return KM_SET(err, KM_EUNSUPPORTED, "field '%s' is set: this is not supported",
                          VALUES[i]);
        }
    }
    return KM_OK;
}

static km_status refuse_activation(const json_t *root, const char *name, const char *wanted,
                                   km_error *err) {
    const char *given;
    KM_TRY(read_string(&given, root, name, err));
    if (given != NULL && strcmp(given, wanted) != 0) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "field '%s': activation '%.*s' is not supported here, "
                      "only '%s'",
                      name, KM_SHOWN(given), wanted);
    }
    return KM_OK;
}

static km_status refuse_partial_rotation(const json_t *object, km_error *err) {
    double part;
    KM_TRY(read_double(&part, object, "partial_rotary_factor", 1.0, err));
    if (part != 1.0) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "field 'partial_rotary_factor' is %g: this is not supported", part);
    }
    return KM_OK;
}

/* ---- rotary embedding ---- */

/* Base and scaling from one object of rope_parameters, or from an old rope_scaling object. */
static km_status read_rope_object(km_config *out, double *base, const json_t *object,
                                  const char *name, km_error *err) {
    const char *kind;
    double factor;
    KM_TRY(read_double(base, object, "rope_theta", *base, err));
    KM_TRY(refuse_partial_rotation(object, err));
    KM_TRY(read_string(&kind, object, "rope_type", err));
    if (kind == NULL) {
        KM_TRY(read_string(&kind, object, "type", err));
    }
    KM_TRY(read_double(&factor, object, "factor", 1.0, err));
    if (kind == NULL) {
        if (factor != 1.0) {
            return KM_SET(err, KM_EFORMAT, "field '%s': 'factor' without 'rope_type'", name);
        }
        kind = "default";
    }
    return km__config_set_rope_scaling(out, kind, strlen(kind), factor, name, err);
}

/* {"full_attention": {...}, "sliding_attention": {...}} */
static km_status read_nested_rope(km_config *out, const json_t *rope, km_error *err) {
    const json_t *full;
    const json_t *local;
    KM_TRY(read_object(&full, rope, "full_attention", err));
    KM_TRY(read_object(&local, rope, "sliding_attention", err));
    if (local != NULL) {
        KM_TRY(read_rope_object(out, &out->rope_base_local, local,
                                "rope_parameters.sliding_attention", err));
        if (out->rope_linear_scale != 1.0) {
            return KM_SET(
                err, KM_EUNSUPPORTED,
                "field 'rope_parameters.sliding_attention': scaling is not supported here");
        }
    }
    if (full != NULL) {
        KM_TRY(read_rope_object(out, &out->rope_base, full, "rope_parameters.full_attention", err));
    }
    return KM_OK;
}

static km_status read_rope(km_config *out, const json_t *root, double base, km_error *err) {
    const json_t *rope;
    const json_t *old;
    out->rope_base = base;
    KM_TRY(read_double(&out->rope_base, root, "rope_theta", base, err));
    KM_TRY(refuse_partial_rotation(root, err));
    KM_TRY(read_object(&rope, root, "rope_parameters", err));
    KM_TRY(read_object(&old, root, "rope_scaling", err));
    if (rope != NULL && old != NULL && !json_equal(rope, old)) {
        return KM_SET(err, KM_EFORMAT,
                      "fields 'rope_parameters' and 'rope_scaling' differ: give one of them");
    }
    if (rope != NULL &&
        (field(rope, "full_attention") != NULL || field(rope, "sliding_attention") != NULL)) {
        return read_nested_rope(out, rope, err);
    }
    if (rope != NULL) {
        return read_rope_object(out, &out->rope_base, rope, "rope_parameters", err);
    }
    if (old != NULL) {
        return read_rope_object(out, &out->rope_base, old, "rope_scaling", err);
    }
    return KM_OK;
}

/* ---- sliding windows ---- */

static km_status windows_from_types(km_config *out, const json_t *types, km_error *err) {
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
        out->windowed[i] = !full;
    }
    return KM_OK;
}

static km_status read_windows(km_config *out, const json_t *root, km_error *err) {
    int32_t pattern;
    const json_t *types = field(root, "layer_types");
    KM_TRY(read_int(&out->sliding_window, root, "sliding_window", 4096, err));
    KM_TRY(read_int(&pattern, root, "_sliding_window_pattern", 6, err));
    KM_TRY(read_int(&pattern, root, "sliding_window_pattern", pattern, err));
    if (types != NULL) {
        return windows_from_types(out, types, err);
    }
    if (pattern < 1) {
        return KM_SET(err, KM_EFORMAT, "field 'sliding_window_pattern' is %d, expected 1 or more",
                      pattern);
    }
    km__config_set_windows(out, pattern);
    return KM_OK;
}

/* ---- architectures ---- */

static km_status read_llama(km_config *out, const json_t *root, km_error *err) {
    km__config_set_llama(out);
    out->rope_pairs = KM_ROPE_HALVES;
    KM_TRY(refuse_activation(root, "hidden_act", "silu", err));
    KM_TRY(read_int(&out->n_layers, root, "num_hidden_layers", REQUIRED, err));
    KM_TRY(read_int(&out->d_model, root, "hidden_size", REQUIRED, err));
    KM_TRY(read_int(&out->d_ffn, root, "intermediate_size", REQUIRED, err));
    KM_TRY(read_int(&out->n_heads, root, "num_attention_heads", REQUIRED, err));
    KM_TRY(read_int(&out->n_kv_heads, root, "num_key_value_heads", out->n_heads, err));
    KM_TRY(read_int(&out->vocab_size, root, "vocab_size", REQUIRED, err));
    KM_TRY(read_int(&out->context_length, root, "max_position_embeddings", 2048, err));
    bool even = out->n_heads > 0 && out->d_model % out->n_heads == 0;
    KM_TRY(read_int(&out->head_dim, root, "head_dim", even ? out->d_model / out->n_heads : REQUIRED,
                    err));
    KM_TRY(read_double(&out->norm_eps, root, "rms_norm_eps", 1e-6, err));
    KM_TRY(read_bool(&out->tied_embeddings, root, "tie_word_embeddings", false, err));
    KM_TRY(read_rope(out, root, 10000.0, err));
    out->rope_base_local = out->rope_base;
    out->attn_scale = (float)(1.0 / sqrt((double)out->head_dim));
    return KM_OK;
}

static km_status read_gemma3(km_config *out, const json_t *root, km_error *err) {
    double query_scale;
    KM_TRY(refuse_activation(root, "hidden_activation", "gelu_pytorch_tanh", err));
    KM_TRY(read_int(&out->n_layers, root, "num_hidden_layers", 26, err));
    KM_TRY(read_int(&out->d_model, root, "hidden_size", 2304, err));
    KM_TRY(read_int(&out->d_ffn, root, "intermediate_size", 9216, err));
    KM_TRY(read_int(&out->n_heads, root, "num_attention_heads", 8, err));
    KM_TRY(read_int(&out->n_kv_heads, root, "num_key_value_heads", 4, err));
    KM_TRY(read_int(&out->head_dim, root, "head_dim", 256, err));
    KM_TRY(read_int(&out->vocab_size, root, "vocab_size", 262208, err));
    KM_TRY(read_int(&out->context_length, root, "max_position_embeddings", 131072, err));
    KM_TRY(read_double(&out->norm_eps, root, "rms_norm_eps", 1e-6, err));
    KM_TRY(read_bool(&out->tied_embeddings, root, "tie_word_embeddings", true, err));
    km__config_set_gemma3(out);
    out->norm_offset = 1.0f;
    KM_TRY(read_double(&out->rope_base_local, root, "rope_local_base_freq", 10000.0, err));
    KM_TRY(read_rope(out, root, 1000000.0, err));
    KM_TRY(read_windows(out, root, err));
    KM_TRY(read_double(&query_scale, root, "query_pre_attn_scalar", 256.0, err));
    out->attn_scale = (float)(1.0 / sqrt(query_scale));
    return KM_OK;
}

/* A text-and-image Gemma 3 keeps the language model's fields in text_config. */
static km_status read_gemma3_text(km_config *out, const json_t *root, km_error *err) {
    const json_t *text;
    KM_TRY(read_object(&text, root, "text_config", err));
    if (text == NULL) {
        return KM_SET(err, KM_EFORMAT, "field 'text_config' is missing");
    }
    KM_TRY(refuse_flags(text, err));
    return read_gemma3(out, text, err);
}

static km_status read_root(km_config *out, const json_t *root, km_error *err) {
    const char *type;
    if (!json_is_object(root)) {
        return KM_SET(err, KM_EFORMAT, "offset 0: not a JSON object");
    }
    KM_TRY(read_string(&type, root, "model_type", err));
    if (type == NULL) {
        return KM_SET(err, KM_EFORMAT, "field 'model_type' is missing");
    }
    KM_TRY(refuse_flags(root, err));
    if (strcmp(type, "llama") == 0) {
        return read_llama(out, root, err);
    }
    if (strcmp(type, "gemma3_text") == 0) {
        return read_gemma3(out, root, err);
    }
    if (strcmp(type, "gemma3") == 0) {
        return read_gemma3_text(out, root, err);
    }
    return KM_SET(err, KM_EUNSUPPORTED,
                  "field 'model_type': '%.*s' is not supported; km reads " KM_KNOWN_ARCHITECTURES,
                  KM_SHOWN(type));
}

km_status km__config_from_json(km_config *out, const char *text, size_t n, km_error *err) {
    if (n > MAX_CONFIG_BYTES) {
        return KM_SET(err, KM_EUNSUPPORTED, "%zu bytes; at most %zu are read", n, MAX_CONFIG_BYTES);
    }
    json_t *root = NULL;
    KM_TRY(km_json_parse(&root, text, n, err));
    km_status status = read_root(out, root, err);
    json_decref(root);
    return status;
}
