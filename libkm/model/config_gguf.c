/* config_gguf.c: configuration from GGUF metadata.
 *
 * Keys are "<architecture>.<field>" as llama.cpp names them (src/llama-arch.cpp). The converter has
 * added Gemma's 1 to its norm gains and has reordered llama's q and k rows so that a rotary pair is
 * two neighbours. A file that names soft caps, a window or a scale of attention means them, also
 * where llama.cpp knows them of other architectures only. Fields that would change the numbers and
 * are not implemented are refused. */
#include "model/config_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define REQUIRED INT64_MIN /* as a default: the key has to be there */

/* What llama.cpp takes where a Gemma file says nothing: of two (Gemma 2) or six (Gemma 3) layers
 * the last sees everything, the others rotate with base 10000; a 27B model, known by its layers,
 * scales attention by width a head instead of head width. */
#define GEMMA2_PATTERN 2
#define GEMMA2_WINDOW 4096
#define GEMMA2_ATTN_SOFTCAP 50.0
#define GEMMA2_FINAL_SOFTCAP 30.0
#define GEMMA2_27B_LAYERS 46
#define GEMMA3_PATTERN 6
#define GEMMA3_LOCAL_BASE 10000.0
#define GEMMA3_27B_LAYERS 62
#define NO_PATTERN (-1) /* as a default: a window has to say which layers have it */

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
                                         "attention.clamp_kqv",
                                         "attention.max_alibi_bias",
                                         "attention.temperature_scale",
                                         "attention.temperature_length",
                                         "attention.shared_kv_layers",
                                         "attention.key_length_swa",
                                         "attention.value_length_swa",
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
    if (strcmp(s->arch, "gptneox") != 0) {
        KM_TRY(refuse_flag(s, "use_parallel_residual", false, err));
    }
    double factor;
    KM_TRY(read_double(&factor, s, "rope.scaling.attn_factor", 1.0, err));
    if (factor != 1.0) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "key '%s.rope.scaling.attn_factor' is %g: this is not supported", s->arch,
                      factor);
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
    int32_t plain = out->n_heads > 0 && out->d_model % out->n_heads == 0
                        ? out->d_model / out->n_heads
                        : 0; /* refused by the range check unless the key is there */
    KM_TRY(read_int(&out->head_dim, s, "attention.key_length", plain, err));
    KM_TRY(read_int(&value_width, s, "attention.value_length", out->head_dim, err));
    if (value_width != out->head_dim) {
        return KM_SET(err, KM_EUNSUPPORTED, "key width %d, value width %d: km needs them equal",
                      out->head_dim, value_width);
    }
    return KM_OK;
}

static bool has_tensor(const source *s, const char *name) {
    return km_gguf_find_tensor(s->gguf, name) != NULL;
}

/* A file has biases when its first layer has them. */
static void find_biases(km_config *out, const source *s) {
    out->qkv_bias = has_tensor(s, "blk.0.attn_q.bias") || has_tensor(s, "blk.0.attn_qkv.bias");
    out->attn_out_bias = has_tensor(s, "blk.0.attn_output.bias");
    out->mlp_bias = has_tensor(s, "blk.0.ffn_up.bias");
}

static km_status read_sizes(km_config *out, const source *s, km_error *err) {
    char key[96];
    KM_TRY(read_int(&out->n_layers, s, "block_count", REQUIRED, err));
    KM_TRY(read_int(&out->d_model, s, "embedding_length", REQUIRED, err));
    KM_TRY(read_int(&out->d_ffn, s, "feed_forward_length", REQUIRED, err));
    KM_TRY(read_int(&out->context_length, s, "context_length", REQUIRED, err));
    KM_TRY(read_int(&out->n_heads, s, "attention.head_count", REQUIRED, err));
    KM_TRY(read_int(&out->n_kv_heads, s, "attention.head_count_kv", out->n_heads, err));
    KM_TRY(read_head_width(out, s, err));
    KM_TRY(read_vocabulary(out, s, err));
    km__config_set_arch(out, s->arch);
    find_biases(out, s);
    const char *epsilon = out->norm == KM_NORM_LAYER ? "attention.layer_norm_epsilon"
                                                     : "attention.layer_norm_rms_epsilon";
    return km_gguf_get_double(s->gguf, key_of(key, sizeof(key), s, epsilon), &out->norm_eps, NULL,
                              err);
}

/* Soft caps and a scale of attention, where the file has them. */
static km_status read_caps(km_config *out, const source *s, double attn, double final,
                           km_error *err) {
    double scale;
    KM_TRY(read_double(&attn, s, "attn_logit_softcapping", attn, err));
    KM_TRY(read_double(&final, s, "final_logit_softcapping", final, err));
    KM_TRY(read_double(&scale, s, "attention.scale", 0.0, err));
    out->attn_softcap = (float)attn;
    out->final_softcap = (float) final;
    if (scale != 0.0) {
        out->attn_scale = (float)scale;
    }
    return KM_OK;
}

/* ---- sliding windows ---- */

/* One flag a layer. */
static km_status read_window_flags(km_config *out, const source *s, const char *key,
                                   km_error *err) {
    int64_t flags[KM_MAX_LAYERS];
    if (out->n_layers < 1 || out->n_layers > KM_MAX_LAYERS) {
        return KM_OK; /* refused by the range check */
    }
    KM_TRY(km_gguf_get_ints(s->gguf, key, flags, out->n_layers, err));
    for (int32_t i = 0; i < out->n_layers; i++) {
        out->windowed[i] = flags[i] != 0;
    }
    return KM_OK;
}

/* The pattern is one flag a layer, or p: of every p layers the last sees everything. */
static km_status read_windows(km_config *out, const source *s, int64_t window, int32_t pattern,
                              km_error *err) {
    char key[96];
    int64_t n;
    bool found;
    KM_TRY(read_int(&out->sliding_window, s, "attention.sliding_window", window, err));
    if (out->sliding_window == 0) {
        return KM_OK;
    }
    (void)key_of(key, sizeof(key), s, "attention.sliding_window_pattern");
    if (km_gguf_array_length(s->gguf, key, &n, &found, NULL) == KM_OK && found) {
        return read_window_flags(out, s, key, err);
    }
    KM_TRY(read_int(&pattern, s, "attention.sliding_window_pattern", pattern, err));
    if (pattern == NO_PATTERN) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "key '%s.attention.sliding_window' is %d and key '%s' is missing: which "
                      "layers have the window is not known",
                      s->arch, out->sliding_window, key);
    }
    if (pattern < 0) {
        return KM_SET(err, KM_EFORMAT, "key '%s' is %d, expected 1 or more", key, pattern);
    }
    km__config_set_windows(out, pattern);
    return KM_OK;
}

/* ---- rotary embedding ---- */

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
    KM_TRY(read_double(&out->rope_base_local, s, "rope.freq_base_swa", out->rope_base, err));
    KM_TRY(read_int(&out->rotary_dim, s, "rope.dimension_count", out->head_dim, err));
    if (out->rotary_dim != out->head_dim && strcmp(s->arch, "gptneox") != 0) {
        return KM_SET(
            err, KM_EUNSUPPORTED,
            "key '%s.rope.dimension_count': %d rotated dimensions of %d are not supported", s->arch,
            out->rotary_dim, out->head_dim);
    }
    return km__config_set_rope_scaling(out, kind, n, factor == 0.0 ? 1.0 : factor, key, err);
}

/* ---- architectures ---- */

/* A window of Mistral's is in every layer; llama.cpp itself reads none for this architecture. */
static km_status read_llama(km_config *out, const source *s, km_error *err) {
    out->rope_pairs = KM_ROPE_INTERLEAVED;
    KM_TRY(read_rope(out, s, 10000.0, err));
    KM_TRY(read_windows(out, s, 0, 0, err));
    return read_caps(out, s, 0.0, 0.0, err);
}

static km_status read_qwen(km_config *out, const source *s, km_error *err) {
    KM_TRY(read_rope(out, s, 10000.0, err));
    KM_TRY(read_windows(out, s, 0, NO_PATTERN, err));
    return read_caps(out, s, 0.0, 0.0, err);
}

static void scale_by_width(km_config *out) {
    if (out->n_heads > 0) {
        out->attn_scale = (float)(1.0 / sqrt((double)out->d_model / out->n_heads));
    }
}

static km_status read_gemma2(km_config *out, const source *s, km_error *err) {
    if (out->n_layers == GEMMA2_27B_LAYERS) {
        scale_by_width(out);
    }
    KM_TRY(read_rope(out, s, 10000.0, err));
    KM_TRY(read_windows(out, s, GEMMA2_WINDOW, GEMMA2_PATTERN, err));
    return read_caps(out, s, GEMMA2_ATTN_SOFTCAP, GEMMA2_FINAL_SOFTCAP, err);
}

static km_status read_gemma3(km_config *out, const source *s, km_error *err) {
    if (out->n_layers == GEMMA3_27B_LAYERS) {
        scale_by_width(out);
    }
    KM_TRY(read_rope(out, s, 1000000.0, err));
    KM_TRY(read_double(&out->rope_base_local, s, "rope.freq_base_swa", GEMMA3_LOCAL_BASE, err));
    KM_TRY(read_windows(out, s, REQUIRED, GEMMA3_PATTERN, err));
    return read_caps(out, s, 0.0, 0.0, err);
}

static km_status read_gpt2(km_config *out, const source *s, km_error *err) {
    return read_caps(out, s, 0.0, 0.0, err);
}

/* The file does not name the activation; Pythia's is the exact GELU. */
static km_status read_gptneox(km_config *out, const source *s, km_error *err) {
    char key[96];
    KM_TRY(km_gguf_get_bool(s->gguf, key_of(key, sizeof(key), s, "use_parallel_residual"),
                            &out->parallel_residual, NULL, err));
    KM_TRY(read_rope(out, s, 10000.0, err));
    return read_caps(out, s, 0.0, 0.0, err);
}

km_status km__config_from_gguf(km_config *out, const km_gguf *gguf, km_error *err) {
    static const struct {
        const char *arch;
        km_status (*read)(km_config *out, const source *s, km_error *err);
    } KNOWN[] = {{"llama", read_llama},    {"qwen2", read_qwen},    {"qwen3", read_qwen},
                 {"gemma2", read_gemma2},  {"gemma3", read_gemma3}, {"gpt2", read_gpt2},
                 {"gptneox", read_gptneox}};
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
