/* config_json.c: configuration from a Hugging Face config.json.
 *
 * Missing fields take the defaults of transformers' configuration classes; sizes without which a
 * model cannot be meant have to be there. Fields that would change the numbers and are not
 * implemented are refused. */
#include <math.h>
#include <string.h>

#include "model/config_json.h"

#define MAX_CONFIG_BYTES ((size_t)1024 * 1024)
#define PER_HEAD 0 /* as a default: as many as heads; as wide as D / H */

/* ---- what is not implemented ---- */

static km_status refuse_fields(const json_t *root, km_error *err) {
    static const char *const FLAGS[] = {"use_bidirectional_attention", "add_cross_attention",
                                        "is_encoder_decoder", "scale_attn_by_inverse_layer_idx"};
    static const char *const VALUES[] = {"quantization_config", "num_local_experts", "num_experts"};
    for (size_t i = 0; i < sizeof(FLAGS) / sizeof(FLAGS[0]); i++) {
        bool set;
        KM_TRY(km__json_bool(&set, root, FLAGS[i], false, err));
        if (set) {
            return KM_SET(err, KM_EUNSUPPORTED, "field '%s' is true: this is not supported",
                          FLAGS[i]);
        }
    }
    for (size_t i = 0; i < sizeof(VALUES) / sizeof(VALUES[0]); i++) {
        if (km__json_field(root, VALUES[i]) != NULL) {
            return KM_SET(err, KM_EUNSUPPORTED, "field '%s' is set: this is not supported",
                          VALUES[i]);
        }
    }
    return KM_OK;
}

static km_status refuse_caps(const json_t *root, km_error *err) {
    static const char *const CAPS[] = {"attn_logit_softcapping", "final_logit_softcapping"};
    for (size_t i = 0; i < sizeof(CAPS) / sizeof(CAPS[0]); i++) {
        if (km__json_field(root, CAPS[i]) != NULL) {
            return KM_SET(err, KM_EUNSUPPORTED, "field '%s' is set: only Gemma has soft caps",
                          CAPS[i]);
        }
    }
    return KM_OK;
}

/* ---- parts ---- */

/* Names as in transformers' ACT2FN; absent, what the architecture has. */
static km_status read_activation(km_config *out, const json_t *root, const char *name,
                                 km_error *err) {
    static const struct {
        const char *name;
        km_activation activation;
    } KNOWN[] = {{"silu", KM_ACT_SILU},           {"swish", KM_ACT_SILU},
                 {"gelu", KM_ACT_GELU_ERF},       {"gelu_new", KM_ACT_GELU_TANH},
                 {"gelu_fast", KM_ACT_GELU_TANH}, {"gelu_pytorch_tanh", KM_ACT_GELU_TANH}};
    const char *given;
    KM_TRY(km__json_string(&given, root, name, err));
    if (given == NULL) {
        return KM_OK;
    }
    for (size_t i = 0; i < sizeof(KNOWN) / sizeof(KNOWN[0]); i++) {
        if (strcmp(given, KNOWN[i].name) == 0) {
            out->activation = KNOWN[i].activation;
            return KM_OK;
        }
    }
    return KM_SET(err, KM_EUNSUPPORTED, "field '%s': activation '%.*s' is not supported", name,
                  KM_SHOWN(given));
}

/* A model_type: its defaults, and what it has beside the common fields. */
typedef struct family {
    const char *model_type, *arch;
    int64_t n_layers, d_model, d_ffn, n_heads, n_kv_heads, head_dim, vocab_size, context_length;
    bool tied;
    km_status (*read)(km_config *out, const json_t *root, km_error *err);
} family;

/* D / H, or 0 (refused by the range check) where that is no integer. */
static int32_t plain_width(const km_config *c) {
    return c->n_heads > 0 && c->d_model % c->n_heads == 0 ? c->d_model / c->n_heads : 0;
}

static km_status read_sizes(km_config *out, const family *f, const json_t *root, km_error *err) {
    KM_TRY(km__json_int(&out->n_layers, root, "num_hidden_layers", f->n_layers, err));
    KM_TRY(km__json_int(&out->d_model, root, "hidden_size", f->d_model, err));
    KM_TRY(km__json_int(&out->d_ffn, root, "intermediate_size", f->d_ffn, err));
    KM_TRY(km__json_int(&out->n_heads, root, "num_attention_heads", f->n_heads, err));
    const bool all = f->n_kv_heads == PER_HEAD || km__json_is_null(root, "num_key_value_heads");
    KM_TRY(km__json_int(&out->n_kv_heads, root, "num_key_value_heads",
                        all ? out->n_heads : f->n_kv_heads, err));
    const bool plain = f->head_dim == PER_HEAD || km__json_is_null(root, "head_dim");
    KM_TRY(km__json_int(&out->head_dim, root, "head_dim", plain ? plain_width(out) : f->head_dim,
                        err));
    KM_TRY(km__json_int(&out->vocab_size, root, "vocab_size", f->vocab_size, err));
    return km__json_int(&out->context_length, root, "max_position_embeddings", f->context_length,
                        err);
}

static km_status read_rotary(km_config *out, const json_t *root, km_error *err) {
    km_rope_fields fields = {"rope_theta", 10000.0, "partial_rotary_factor", 1.0, false};
    return km__json_rope(out, &fields, root, err);
}

/* ---- architectures ---- */

static km_status read_llama(km_config *out, const json_t *root, km_error *err) {
    KM_TRY(refuse_caps(root, err));
    KM_TRY(read_activation(out, root, "hidden_act", err));
    KM_TRY(km__json_bool(&out->qkv_bias, root, "attention_bias", false, err));
    KM_TRY(km__json_bool(&out->mlp_bias, root, "mlp_bias", false, err));
    out->attn_out_bias = out->qkv_bias;
    return read_rotary(out, root, err);
}

/* The window is in every layer. */
static km_status read_mistral(km_config *out, const json_t *root, km_error *err) {
    KM_TRY(refuse_caps(root, err));
    KM_TRY(read_activation(out, root, "hidden_act", err));
    KM_TRY(read_rotary(out, root, err));
    KM_TRY(km__json_window(out, root, 4096, err));
    if (out->sliding_window > 0) {
        km__config_set_windows(out, 0);
    }
    if (km__json_field(root, "layer_types") != NULL) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "field 'layer_types' is set: a Mistral model is read with one kind of layer");
    }
    return KM_OK;
}

static km_status read_qwen(km_config *out, const json_t *root, km_error *err) {
    bool windows;
    int32_t first;
    KM_TRY(refuse_caps(root, err));
    KM_TRY(read_activation(out, root, "hidden_act", err));
    if (out->qk_norm) { /* Qwen 3; Qwen 2 always has biases on q, k, v and never on the output */
        KM_TRY(km__json_bool(&out->qkv_bias, root, "attention_bias", false, err));
        out->attn_out_bias = out->qkv_bias;
    }
    KM_TRY(read_rotary(out, root, err));
    KM_TRY(km__json_bool(&windows, root, "use_sliding_window", false, err));
    KM_TRY(km__json_int(&first, root, "max_window_layers", 28, err));
    if (windows) {
        KM_TRY(km__json_window(out, root, 4096, err));
    }
    for (int32_t i = 0; i < out->n_layers && i < KM_MAX_LAYERS; i++) {
        out->windowed[i] = out->sliding_window > 0 && i >= first;
    }
    return km__json_layer_types(out, root, err);
}

/* A soft cap; null is none. */
static km_status read_cap(float *out, const json_t *root, const char *name, double otherwise,
                          km_error *err) {
    double cap;
    KM_TRY(km__json_double(&cap, root, name, km__json_is_null(root, name) ? 0.0 : otherwise, err));
    if (cap < 0.0 || (cap == 0.0 && km__json_field(root, name) != NULL)) {
        return KM_SET(err, KM_EFORMAT, "field '%s' is %g, expected more than 0", name, cap);
    }
    *out = (float)cap;
    return KM_OK;
}

/* What Gemma 2 and 3 share; `pattern`: of so many layers the last sees everything. */
static km_status read_gemma(km_config *out, const json_t *root, int32_t pattern, double attn_cap,
                            double final_cap, km_error *err) {
    double query_scale;
    out->norm_offset = 1.0f;
    KM_TRY(read_activation(out, root, "hidden_activation", err));
    KM_TRY(km__json_bool(&out->qkv_bias, root, "attention_bias", false, err));
    out->attn_out_bias = out->qkv_bias;
    KM_TRY(read_cap(&out->attn_softcap, root, "attn_logit_softcapping", attn_cap, err));
    KM_TRY(read_cap(&out->final_softcap, root, "final_logit_softcapping", final_cap, err));
    KM_TRY(km__json_double(&query_scale, root, "query_pre_attn_scalar", 256.0, err));
    out->attn_scale = (float)(1.0 / sqrt(query_scale));
    KM_TRY(km__json_window(out, root, 4096, err));
    if (out->sliding_window > 0) {
        km__config_set_windows(out, pattern);
    }
    return km__json_layer_types(out, root, err);
}

static km_status read_gemma2(km_config *out, const json_t *root, km_error *err) {
    KM_TRY(read_rotary(out, root, err));
    return read_gemma(out, root, 2, 50.0, 30.0, err);
}

static km_status read_gemma3(km_config *out, const json_t *root, km_error *err) {
    km_rope_fields fields = {"rope_theta", 1000000.0, "partial_rotary_factor", 1.0, true};
    int32_t pattern;
    if (km__json_field(root, "attn_logit_softcapping") != NULL) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "field 'attn_logit_softcapping' is set: transformers does not apply it to "
                      "Gemma 3, so make it null");
    }
    KM_TRY(km__json_double(&out->rope_base_local, root, "rope_local_base_freq", 10000.0, err));
    KM_TRY(km__json_rope(out, &fields, root, err));
    KM_TRY(km__json_int(&pattern, root, "_sliding_window_pattern", 6, err));
    KM_TRY(km__json_int(&pattern, root, "sliding_window_pattern", pattern, err));
    if (pattern < 1) {
        return KM_SET(err, KM_EFORMAT, "field 'sliding_window_pattern' is %d, expected 1 or more",
                      pattern);
    }
    return read_gemma(out, root, pattern, 0.0, 0.0, err);
}

static km_status read_gpt_neox(km_config *out, const json_t *root, km_error *err) {
    km_rope_fields fields = {"rotary_emb_base", 10000.0, "rotary_pct", 0.25, false};
    KM_TRY(refuse_caps(root, err));
    KM_TRY(read_activation(out, root, "hidden_act", err));
    KM_TRY(km__json_double(&out->norm_eps, root, "layer_norm_eps", 1e-5, err));
    KM_TRY(km__json_bool(&out->parallel_residual, root, "use_parallel_residual", true, err));
    KM_TRY(km__json_bool(&out->qkv_bias, root, "attention_bias", true, err));
    out->attn_out_bias = out->qkv_bias;
    return km__json_rope(out, &fields, root, err);
}

static const family FAMILIES[] = {
    {"llama", "llama", KM_REQUIRED, KM_REQUIRED, KM_REQUIRED, KM_REQUIRED, PER_HEAD, PER_HEAD,
     KM_REQUIRED, 2048, false, read_llama},
    {"mistral", "llama", KM_REQUIRED, KM_REQUIRED, KM_REQUIRED, KM_REQUIRED, 8, PER_HEAD,
     KM_REQUIRED, 131072, false, read_mistral},
    {"qwen2", "qwen2", KM_REQUIRED, KM_REQUIRED, KM_REQUIRED, KM_REQUIRED, 32, PER_HEAD,
     KM_REQUIRED, 32768, false, read_qwen},
    {"qwen3", "qwen3", KM_REQUIRED, KM_REQUIRED, KM_REQUIRED, KM_REQUIRED, 32, 128, KM_REQUIRED,
     32768, false, read_qwen},
    {"gemma2", "gemma2", 26, 2304, 9216, 8, 4, 256, 256000, 8192, true, read_gemma2},
    {"gemma3_text", "gemma3", 26, 2304, 9216, 8, 4, 256, 262208, 131072, true, read_gemma3},
    {"gpt_neox", "gptneox", KM_REQUIRED, KM_REQUIRED, KM_REQUIRED, KM_REQUIRED, PER_HEAD, PER_HEAD,
     KM_REQUIRED, 2048, false, read_gpt_neox},
};

static km_status read_family(km_config *out, const family *f, const json_t *root, km_error *err) {
    KM_TRY(refuse_fields(root, err));
    KM_TRY(read_sizes(out, f, root, err));
    km__config_set_arch(out, f->arch);
    KM_TRY(km__json_double(&out->norm_eps, root, "rms_norm_eps", 1e-6, err));
    KM_TRY(km__json_bool(&out->tied_embeddings, root, "tie_word_embeddings", f->tied, err));
    return f->read(out, root, err);
}

/* GPT-2 has names of its own. */
static km_status read_gpt2(km_config *out, const json_t *root, km_error *err) {
    bool scaled;
    KM_TRY(refuse_fields(root, err));
    KM_TRY(refuse_caps(root, err));
    KM_TRY(km__json_int(&out->n_layers, root, "n_layer", KM_REQUIRED, err));
    KM_TRY(km__json_int(&out->d_model, root, "n_embd", KM_REQUIRED, err));
    KM_TRY(km__json_int(&out->n_heads, root, "n_head", KM_REQUIRED, err));
    KM_TRY(km__json_int(&out->d_ffn, root, "n_inner", 4 * (int64_t)out->d_model, err));
    KM_TRY(km__json_int(&out->vocab_size, root, "vocab_size", KM_REQUIRED, err));
    KM_TRY(km__json_int(&out->context_length, root, "n_positions", 1024, err));
    out->n_kv_heads = out->n_heads;
    out->head_dim = plain_width(out);
    km__config_set_arch(out, "gpt2");
    KM_TRY(read_activation(out, root, "activation_function", err));
    KM_TRY(km__json_double(&out->norm_eps, root, "layer_norm_epsilon", 1e-5, err));
    KM_TRY(km__json_bool(&scaled, root, "scale_attn_weights", true, err));
    out->attn_scale = scaled ? out->attn_scale : 1.0f;
    return km__json_bool(&out->tied_embeddings, root, "tie_word_embeddings", true, err);
}

static km_status read_type(km_config *out, const char *type, const json_t *root, km_error *err) {
    for (size_t i = 0; i < sizeof(FAMILIES) / sizeof(FAMILIES[0]); i++) {
        if (strcmp(type, FAMILIES[i].model_type) == 0) {
            return read_family(out, &FAMILIES[i], root, err);
        }
    }
    if (strcmp(type, "gpt2") == 0) {
        return read_gpt2(out, root, err);
    }
    return KM_SET(err, KM_EUNSUPPORTED,
                  "field 'model_type': '%.*s' is not supported; km reads " KM_KNOWN_ARCHITECTURES,
                  KM_SHOWN(type));
}

static km_status read_root(km_config *out, const json_t *root, km_error *err) {
    const char *type;
    const json_t *text = root;
    if (!json_is_object(root)) {
        return KM_SET(err, KM_EFORMAT, "offset 0: not a JSON object");
    }
    KM_TRY(km__json_string(&type, root, "model_type", err));
    if (type == NULL) {
        return KM_SET(err, KM_EFORMAT, "field 'model_type' is missing");
    }
    if (strcmp(type, "gemma3") != 0) {
        return read_type(out, type, root, err);
    }
    /* A text-and-image Gemma 3 keeps the language model's fields in text_config. */
    KM_TRY(refuse_fields(root, err));
    KM_TRY(km__json_object(&text, root, "text_config", err));
    if (text == NULL) {
        return KM_SET(err, KM_EFORMAT, "field 'text_config' is missing");
    }
    return read_type(out, "gemma3_text", text, err);
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
