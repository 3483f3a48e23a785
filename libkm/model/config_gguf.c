/* config_gguf.c: configuration from GGUF metadata.
 *
 * Keys are "<architecture>.<field>" as llama.cpp names them (src/llama-arch.cpp). The converter has
 * added Gemma's 1 to its norm gains and has reordered llama's q and k rows so that a rotary pair is
 * two neighbours. Fields that would change the numbers and are not implemented are refused. */
#include "model/config_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define REQUIRED INT64_MIN /* as a default: the key has to be there */

/* llama.cpp, gemma3: every sixth layer sees everything, the others rotate with base 10000, and the
 * 27B model (62 layers) scales attention by its width, the others by the head width. */
#define GEMMA3_PATTERN 6
#define GEMMA3_LOCAL_BASE 10000.0
#define GEMMA3_27B_LAYERS 62

typedef struct source {
    const km_gguf *gguf;
    const char *arch;
} source;

static const char *key_of(char *out, size_t size, const source *s, const char *field) {
    (void)snprintf(out, size, "%s.%s", s->arch, field);
    return out;
}

static km_status read_int(int32_t *out, const source *s, const char *field, int64_t otherwise,
                          km_error *err) {
    char key[96];
    bool found;
    int64_t value = otherwise;
    KM_TRY(km_gguf_get_int(s->gguf, key_of(key, sizeof(key), s, field), &value,
                           otherwise == REQUIRED ? NULL : &found, err));
    if (value < INT32_MIN || value > INT32_MAX) {
        return KM_SET(err, KM_EFORMAT, "key '%s': %" PRId64 " is out of range", key, value);
    }
    *out = (int32_t)value;
    return KM_OK;
}

static km_status read_double(double *out, const source *s, const char *field, double otherwise,
                             km_error *err) {
    char key[96];
    bool found;
    double value = otherwise;
    KM_TRY(km_gguf_get_double(s->gguf, key_of(key, sizeof(key), s, field), &value, &found, err));
    *out = found ? value : otherwise;
    return KM_OK;
}

/* ---- what is not implemented ---- */

static km_status refuse_numbers(const source *s, km_error *err) {
    static const char *const FIELDS[] = {"expert_count",
                                         "attn_logit_softcapping",
                                         "final_logit_softcapping",
                                         "attention.scale",
                                         "attention.clamp_kqv",
                                         "attention.max_alibi_bias",
                                         "attention.temperature_scale",
                                         "attention.temperature_length",
                                         "logit_scale",
                                         "residual_scale",
                                         "embedding_scale"};
    for (size_t i = 0; i < sizeof(FIELDS) / sizeof(FIELDS[0]); i++) {
        double value;
        KM_TRY(read_double(&value, s, FIELDS[i], 0.0, err));
        if (value != 0.0) {
            return KM_SET(err, KM_EUNSUPPORTED, "key '%s.%s' is %g: this is not supported", s->arch,
                          FIELDS[i], value);
        }
    }
    return KM_OK;
}

static km_status refuse_flag(const source *s, const char *field, bool plain, km_error *err) {
    char key[96];
    bool found;
    bool value = plain;
    KM_TRY(km_gguf_get_bool(s->gguf, key_of(key, sizeof(key), s, field), &value, &found, err));
    if (found && value != plain) {
        return KM_SET(err, KM_EUNSUPPORTED, "key '%s' is %s: this is not supported", key,
                      value ? "true" : "false");
    }
    return KM_OK;
}

static km_status refuse_unsupported(const source *s, km_error *err) {
    KM_TRY(refuse_numbers(s, err));
    KM_TRY(refuse_flag(s, "attention.causal", true, err));
    KM_TRY(refuse_flag(s, "use_parallel_residual", false, err));
    if (km_gguf_find_tensor(s->gguf, "rope_freqs.weight") != NULL) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "tensor 'rope_freqs.weight': frequency-dependent rope scaling is not "
                      "supported");
    }
    return KM_OK;
}

/* ---- parts ---- */

/* Rows of the embedding; the tokenizer may name fewer tokens, never more. */
static km_status read_vocabulary(km_config *out, const source *s, km_error *err) {
    const km_tensor_info *embed = km_gguf_find_tensor(s->gguf, "token_embd.weight");
    if (embed == NULL || embed->n_dims != 2) {
        return KM_SET(err, KM_EFORMAT, "tensor 'token_embd.weight' is %s",
                      embed == NULL ? "missing" : "not a matrix");
    }
    int64_t tokens;
    bool found;
    int32_t announced;
    KM_TRY(km_gguf_array_length(s->gguf, "tokenizer.ggml.tokens", &tokens, &found, err));
    KM_TRY(read_int(&announced, s, "vocab_size", 0, err));
    if (embed->dims[0] > KM_MAX_VOCAB || tokens > embed->dims[0] || announced > embed->dims[0]) {
        return KM_SET(err, KM_EFORMAT,
                      "tensor 'token_embd.weight' has %" PRId64 " rows for %" PRId64
                      " tokens (key '%s.vocab_size': %d)",
                      embed->dims[0], tokens, s->arch, announced);
    }
    out->vocab_size = (int32_t)embed->dims[0];
    out->tied_embeddings = km_gguf_find_tensor(s->gguf, "output.weight") == NULL;
    return KM_OK;
}

static km_status read_head_width(km_config *out, const source *s, km_error *err) {
    int32_t value_width;
    int32_t rotated;
    int32_t plain = out->n_heads > 0 && out->d_model % out->n_heads == 0
                        ? out->d_model / out->n_heads
                        : 0; /* refused by the range check unless the key is there */
    KM_TRY(read_int(&out->head_dim, s, "attention.key_length", plain, err));
    KM_TRY(read_int(&value_width, s, "attention.value_length", out->head_dim, err));
    KM_TRY(read_int(&rotated, s, "rope.dimension_count", out->head_dim, err));
    if (value_width != out->head_dim || rotated != out->head_dim) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "key width %d, value width %d and %d rotated dimensions: km needs them equal",
                      out->head_dim, value_width, rotated);
    }
    return KM_OK;
}

static km_status read_sizes(km_config *out, const source *s, km_error *err) {
    KM_TRY(read_int(&out->n_layers, s, "block_count", REQUIRED, err));
    KM_TRY(read_int(&out->d_model, s, "embedding_length", REQUIRED, err));
    KM_TRY(read_int(&out->d_ffn, s, "feed_forward_length", REQUIRED, err));
    KM_TRY(read_int(&out->context_length, s, "context_length", REQUIRED, err));
    KM_TRY(read_int(&out->n_heads, s, "attention.head_count", REQUIRED, err));
    KM_TRY(read_int(&out->n_kv_heads, s, "attention.head_count_kv", out->n_heads, err));
    KM_TRY(read_head_width(out, s, err));
    KM_TRY(read_vocabulary(out, s, err));
    char key[96];
    return km_gguf_get_double(s->gguf,
                              key_of(key, sizeof(key), s, "attention.layer_norm_rms_epsilon"),
                              &out->norm_eps, NULL, err);
}

/* A factor without a kind means linear, as in llama.cpp. */
static km_status read_rope(km_config *out, const source *s, double base, km_error *err) {
    char key[96];
    const char *kind = "linear";
    size_t n = strlen(kind);
    bool found;
    double factor;
    double old;
    KM_TRY(read_double(&out->rope_base, s, "rope.freq_base", base, err));
    KM_TRY(read_double(&old, s, "rope.scale_linear", 1.0, err));
    KM_TRY(read_double(&factor, s, "rope.scaling.factor", old, err));
    KM_TRY(km_gguf_get_string(s->gguf, key_of(key, sizeof(key), s, "rope.scaling.type"), &kind, &n,
                              &found, err));
    out->rope_base_local = out->rope_base;
    return km__config_set_rope_scaling(out, kind, n, factor == 0.0 ? 1.0 : factor, key, err);
}

static km_status read_llama(km_config *out, const source *s, km_error *err) {
    int32_t window;
    km__config_set_llama(out);
    out->rope_pairs = KM_ROPE_INTERLEAVED;
    KM_TRY(read_rope(out, s, 10000.0, err));
    KM_TRY(read_int(&window, s, "attention.sliding_window", 0, err));
    if (window != 0) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "key 'llama.attention.sliding_window' is %d: this is not supported", window);
    }
    out->attn_scale = (float)(1.0 / sqrt((double)out->head_dim));
    return KM_OK;
}

static km_status read_gemma3(km_config *out, const source *s, km_error *err) {
    km__config_set_gemma3(out);
    KM_TRY(read_rope(out, s, 1000000.0, err));
    KM_TRY(read_double(&out->rope_base_local, s, "rope.freq_base_swa", GEMMA3_LOCAL_BASE, err));
    KM_TRY(read_int(&out->sliding_window, s, "attention.sliding_window", REQUIRED, err));
    int32_t pattern;
    KM_TRY(read_int(&pattern, s, "attention.sliding_window_pattern", GEMMA3_PATTERN, err));
    if (pattern < 1) {
        return KM_SET(err, KM_EFORMAT,
                      "key 'gemma3.attention.sliding_window_pattern' is %d, expected 1 or more",
                      pattern);
    }
    km__config_set_windows(out, pattern);
    double width = out->head_dim;
    if (out->n_layers == GEMMA3_27B_LAYERS && out->n_heads > 0) {
        width = (double)out->d_model / out->n_heads;
    }
    out->attn_scale = (float)(1.0 / sqrt(width));
    return KM_OK;
}

km_status km__config_from_gguf(km_config *out, const km_gguf *gguf, km_error *err) {
    static const struct {
        const char *arch;
        km_status (*read)(km_config *out, const source *s, km_error *err);
    } KNOWN[] = {{"llama", read_llama}, {"gemma3", read_gemma3}};
    const char *text;
    size_t n;
    bool named;
    KM_TRY(km_gguf_get_string(gguf, "general.architecture", &text, &n, NULL, err));
    for (size_t i = 0; i < sizeof(KNOWN) / sizeof(KNOWN[0]); i++) {
        if (strlen(KNOWN[i].arch) == n && memcmp(text, KNOWN[i].arch, n) == 0) {
            source s = {gguf, KNOWN[i].arch};
            KM_TRY(refuse_unsupported(&s, err));
            KM_TRY(read_sizes(out, &s, err));
            KM_TRY(KNOWN[i].read(out, &s, err));
            KM_TRY(km_gguf_get_string(gguf, "general.name", &text, &n, &named, err));
            if (named) {
                km__config_set_name(out, text, n);
            }
            return KM_OK;
        }
    }
    return KM_SET(
        err, KM_EUNSUPPORTED,
        "key 'general.architecture': '%.*s' is not supported; km reads " KM_KNOWN_ARCHITECTURES,
        km__shown(text, n), text);
}
