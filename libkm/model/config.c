/* config.c: read a model's configuration and check it as a whole. */
#include "model/config_private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void km__config_set_name(km_config *config, const char *name, size_t n) {
    const void *nul = memchr(name, '\0', n);
    if (nul != NULL) {
        n = (size_t)((const char *)nul - name);
    }
    if (n >= sizeof(config->name)) {
        n = sizeof(config->name) - 1;
        while (n > 0 && ((unsigned char)name[n] & 0xc0) == 0x80) {
            n--;
        }
    }
    memcpy(config->name, name, n);
    config->name[n] = '\0';
}

void km__config_set_arch(km_config *config, const char *arch) {
    const bool gemma3 = strcmp(arch, "gemma3") == 0;
    const bool gemma = gemma3 || strcmp(arch, "gemma2") == 0;
    const bool gpt2 = strcmp(arch, "gpt2") == 0;
    const bool layer_norm = gpt2 || strcmp(arch, "gptneox") == 0;
    (void)snprintf(config->arch, sizeof(config->arch), "%s", arch);
    config->norm = layer_norm ? KM_NORM_LAYER : KM_NORM_RMS;
    config->activation = gemma || gpt2 ? KM_ACT_GELU_TANH
                         : layer_norm  ? KM_ACT_GELU_ERF
                                       : KM_ACT_SILU;
    config->gated_mlp = !layer_norm;
    config->qk_norm = gemma3 || strcmp(arch, "qwen3") == 0;
    config->post_norms = gemma;
    config->qkv_bias = layer_norm || strcmp(arch, "qwen2") == 0;
    config->attn_out_bias = config->mlp_bias = layer_norm;
    config->embed_scale = gemma ? (float)sqrt((double)config->d_model) : 1.0f;
    config->attn_scale = (float)(1.0 / sqrt((double)config->head_dim));
    config->position = gpt2 ? KM_POSITION_LEARNED : KM_POSITION_ROPE;
    config->rope_pairs = KM_ROPE_HALVES;
    config->rotary_dim = config->head_dim;
    config->rope_base = config->rope_base_local = 10000.0;
    config->rope_linear_scale = 1.0;
}

km_status km__config_set_rope_scaling(km_config *config, const char *kind, size_t n, double factor,
                                      const char *field, km_error *err) {
    if ((n == 7 && memcmp(kind, "default", n) == 0) || (n == 4 && memcmp(kind, "none", n) == 0)) {
        config->rope_linear_scale = 1.0;
        return KM_OK;
    }
    if (n == 6 && memcmp(kind, "linear", n) == 0) {
        config->rope_linear_scale = factor;
        return KM_OK;
    }
    return KM_SET(err, KM_EUNSUPPORTED,
                  "field '%s': rope scaling '%.*s' is not supported, only 'default', 'linear' and "
                  "'llama3'",
                  field, km__shown(kind, n), kind);
}

/* ---- ranges ---- */

static km_status check_int(const char *name, int32_t value, int32_t low, int32_t high,
                           km_error *err) {
    if (value < low || value > high) {
        return KM_SET(err, KM_EFORMAT, "%s is %d, expected %d to %d", name, value, low, high);
    }
    return KM_OK;
}

static km_status check_double(const char *name, double value, double low, double high,
                              km_error *err) {
    if (!(value >= low && value <= high)) {
        return KM_SET(err, KM_EFORMAT, "%s is %g, expected %g to %g", name, value, low, high);
    }
    return KM_OK;
}

static km_status check_sizes(const km_config *c, km_error *err) {
    KM_TRY(check_int("number of layers", c->n_layers, 1, KM_MAX_LAYERS, err));
    KM_TRY(check_int("model width", c->d_model, 1, KM_MAX_WIDTH, err));
    KM_TRY(check_int("number of heads", c->n_heads, 1, KM_MAX_HEADS, err));
    KM_TRY(check_int("number of KV heads", c->n_kv_heads, 1, c->n_heads, err));
    KM_TRY(check_int("head width", c->head_dim, 2, KM_MAX_HEAD_DIM, err));
    KM_TRY(check_int("feed-forward width", c->d_ffn, 1, KM_MAX_FFN, err));
    KM_TRY(check_int("vocabulary size", c->vocab_size, 1, KM_MAX_VOCAB, err));
    KM_TRY(check_int("context length", c->context_length, 1, KM_MAX_CONTEXT, err));
    KM_TRY(check_int("sliding window", c->sliding_window, 0, KM_MAX_CONTEXT, err));
    if (c->n_heads % c->n_kv_heads != 0) {
        return KM_SET(err, KM_EFORMAT, "%d heads cannot share %d KV heads evenly", c->n_heads,
                      c->n_kv_heads);
    }
    if (c->position == KM_POSITION_ROPE && c->head_dim % 2 != 0) {
        return KM_SET(err, KM_EFORMAT, "head width %d is odd: rotary pairs need an even one",
                      c->head_dim);
    }
    KM_TRY(check_int("number of rotated dimensions", c->rotary_dim, 1, c->head_dim, err));
    if (c->position == KM_POSITION_ROPE && c->rotary_dim % 2 != 0) {
        return KM_SET(err, KM_EFORMAT, "number of rotated dimensions %d is odd", c->rotary_dim);
    }
    return KM_OK;
}

static km_status check_reals(const km_config *c, km_error *err) {
    KM_TRY(check_double("norm epsilon", c->norm_eps, 0.0, 0.1, err));
    KM_TRY(check_double("rope base", c->rope_base, 1.0, 1e12, err));
    KM_TRY(check_double("local rope base", c->rope_base_local, 1.0, 1e12, err));
    KM_TRY(check_double("rope scaling factor", c->rope_linear_scale, 1e-6, 1e6, err));
    if (c->rope_factor != 0.0) {
        KM_TRY(check_double("rope scaling factor", c->rope_factor, 1e-6, 1e6, err));
        KM_TRY(
            check_double("rope high frequency factor", c->rope_high_freq_factor, 1e-6, 1e6, err));
        KM_TRY(check_double("rope low frequency factor", c->rope_low_freq_factor, 1e-6,
                            c->rope_high_freq_factor * (1.0 - 1e-9), err));
        KM_TRY(
            check_int("original context length", c->rope_original_context, 1, KM_MAX_CONTEXT, err));
    }
    KM_TRY(check_double("attention soft cap", (double)c->attn_softcap, 0.0, 1e6, err));
    KM_TRY(check_double("final soft cap", (double)c->final_softcap, 0.0, 1e6, err));
    KM_TRY(check_double("attention scale", (double)c->attn_scale, 1e-6, 1e6, err));
    return check_double("embedding scale", (double)c->embed_scale, 1e-6, 1e6, err);
}

void km__config_set_windows(km_config *config, int32_t pattern) {
    for (int32_t i = 0; i < config->n_layers && i < KM_MAX_LAYERS; i++) {
        config->windowed[i] = pattern == 0 || (i + 1) % pattern != 0;
    }
}

/* Windowed layers turn by their own base, never scaled; only Gemma 3 means it so. */
static km_status check_window_scaling(const km_config *c, km_error *err) {
    const bool scaled = c->rope_linear_scale != 1.0 || c->rope_factor != 0.0;
    if (scaled && c->sliding_window > 0 && strcmp(c->arch, "gemma3") != 0) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "rope scaling together with a sliding window is not supported for '%s'",
                      c->arch);
    }
    return KM_OK;
}

km_status km__config_check(const km_config *config, km_error *err) {
    km_status status = check_sizes(config, err);
    if (status == KM_OK) {
        status = check_reals(config, err);
    }
    if (status == KM_OK) {
        status = check_window_scaling(config, err);
    }
    if (status != KM_OK) {
        km_error_prefix(err, "configuration");
    }
    return status;
}

/* The last part of a path, without trailing slashes: what a nameless model is called. */
static void name_from_path(km_config *config, const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') {
        end--;
    }
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') {
        start--;
    }
    km__config_set_name(config, path + start, end - start);
}

static km_status read_source(km_config *out, const km_container *container, km_error *err) {
    const km_gguf *gguf = km_container_gguf(container);
    if (gguf != NULL) {
        return km__config_from_gguf(out, gguf, err);
    }
    size_t n;
    const char *text = km_container_config_json(container, &n);
    km_status status = km__config_from_json(out, text, n, err);
    if (status != KM_OK) {
        km_error_prefix(err, "config.json");
    }
    return status;
}

km_status km__config_read(km_config *out, const km_container *container, km_error *err) {
    km_status status = KM_OK;
    memset(out, 0, sizeof(*out));
    name_from_path(out, km_container_path(container));
    KM_GO(read_source(out, container, err));
    KM_GO(km__config_check(out, err));
done:
    if (status != KM_OK) {
        km_error_prefix(err, "%s", km_container_path(container));
    }
    return status;
}
