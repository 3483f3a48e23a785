/* tokenizer_source.c: where a model's tokenizer is written: GGUF metadata or tokenizer.json.
 *
 * GGUF keeps a tokenizer as parallel arrays under tokenizer.ggml: tokens and token_type, then
 * merges (model "gpt2") or scores (model "llama"). What the file leaves out is as in llama.cpp:
 * "llama" adds a bos token and a leading blank, "gpt2" neither, save that "llama-bpe" adds bos. The
 * normalizer is not written at all: it follows from the pre-tokenizer's name, as every
 * tokenizer.json that gets the name has the same one. */
#include <string.h>

#include "model/model_private.h"
#include "model/tokenizer_source.h"
#include "text/spec.h"

#define KEY(name) "tokenizer.ggml." name

/* Arrays copied out of the file, alive while the tokenizer is built. */
typedef struct source {
    km_ctx *ctx;
    const km_gguf *gguf;
    km_tokenizer_spec spec;
    km_slice *tokens, *merges;
    int32_t *types;
    float *scores;
    char *pre;
    bool adds_bos; /* where the file does not say */
} source;

static void source_clear(source *s) {
    km_free(s->ctx, s->tokens);
    km_free(s->ctx, s->merges);
    km_free(s->ctx, s->types);
    km_free(s->ctx, s->scores);
    km_free(s->ctx, s->pre);
}

/* Length of an array that must hold one element a token; *found tells whether it is there. */
static km_status check_length(bool *found, const source *s, const char *key, km_error *err) {
    int64_t n;
    KM_TRY(km_gguf_array_length(s->gguf, key, &n, found, err));
    if (*found && n != s->spec.n_tokens) {
        return KM_SET(err, KM_EFORMAT, "%s has %lld elements for %lld tokens", key, (long long)n,
                      (long long)s->spec.n_tokens);
    }
    return KM_OK;
}

static km_status read_strings(km_slice **out, int64_t *n_out, const source *s, const char *key,
                              km_error *err) {
    int64_t n;
    void *block = NULL;
    void *raw = NULL;
    KM_TRY(km_gguf_array_length(s->gguf, key, &n, NULL, err));
    km_status status = km_alloc_array(&raw, s->ctx, n, sizeof(km_gguf_string), err);
    if (status != KM_OK) {
        return status;
    }
    km_gguf_string *strings = raw;
    KM_GO(km_gguf_get_strings(s->gguf, key, strings, n, err));
    KM_GO(km_alloc_array(&block, s->ctx, n, sizeof(km_slice), err));
    *out = block;
    *n_out = n;
    for (int64_t i = 0; i < n; i++) {
        (*out)[i] = (km_slice){strings[i].data, strings[i].n};
    }
done:
    km_free(s->ctx, raw);
    return status;
}

/* token_type; a file without it has ordinary tokens only. */
static km_status read_types(source *s, km_error *err) {
    void *block = NULL;
    void *raw = NULL;
    bool found;
    KM_TRY(check_length(&found, s, KEY("token_type"), err));
    KM_TRY(km_alloc_array(&block, s->ctx, s->spec.n_tokens, sizeof(int32_t), err));
    s->types = block;
    km_status status = km_alloc_array(&raw, s->ctx, s->spec.n_tokens, sizeof(int64_t), err);
    if (status != KM_OK) {
        return status;
    }
    int64_t *types = raw;
    if (found) {
        KM_GO(km_gguf_get_ints(s->gguf, KEY("token_type"), types, s->spec.n_tokens, err));
    }
    for (int64_t i = 0; i < s->spec.n_tokens; i++) {
        int64_t type = found ? types[i] : KM_TOKEN_NORMAL;
        if (type < KM_TOKEN_NORMAL || type > KM_TOKEN_BYTE) {
            KM_FAIL(err, KM_EFORMAT, "%s: token %lld has the unknown type %lld", KEY("token_type"),
                    (long long)i, (long long)type);
        }
        s->types[i] = (int32_t)type;
    }
done:
    km_free(s->ctx, raw);
    return status;
}

static km_status read_scores(source *s, km_error *err) {
    void *block = NULL;
    bool found;
    KM_TRY(check_length(&found, s, KEY("scores"), err));
    if (!found) {
        return KM_SET(err, KM_EFORMAT, "%s is missing", KEY("scores"));
    }
    KM_TRY(km_alloc_array(&block, s->ctx, s->spec.n_tokens, sizeof(float), err));
    s->scores = block;
    return km_gguf_get_floats(s->gguf, KEY("scores"), s->scores, s->spec.n_tokens, err);
}

/* An id, -1 where the file names none. */
static km_status read_id(int32_t *out, const source *s, const char *key, km_error *err) {
    int64_t value;
    bool found;
    KM_TRY(km_gguf_get_int(s->gguf, key, &value, &found, err));
    if (found && (value < 0 || value >= s->spec.n_tokens)) {
        return KM_SET(err, KM_EFORMAT, "%s is %lld, outside the vocabulary of %lld", key,
                      (long long)value, (long long)s->spec.n_tokens);
    }
    *out = found ? (int32_t)value : -1;
    return KM_OK;
}

static km_status read_flag(bool *out, const source *s, const char *key, bool otherwise,
                           km_error *err) {
    bool found;
    bool value;
    KM_TRY(km_gguf_get_bool(s->gguf, key, &value, &found, err));
    *out = found ? value : otherwise;
    return KM_OK;
}

static km_status read_pre(source *s, km_error *err) {
    const char *name = NULL;
    size_t n = 0;
    bool found;
    KM_TRY(km_gguf_get_string(s->gguf, KEY("pre"), &name, &n, &found, err));
    if (!found) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "%s is missing: the file does not say how its tokenizer cuts text",
                      KEY("pre"));
    }
    if (n > 0 && memchr(name, '\0', n) != NULL) {
        return KM_SET(err, KM_EFORMAT, "%s holds a zero byte", KEY("pre"));
    }
    KM_TRY(km_strndup(&s->pre, s->ctx, name, n, err));
    s->spec.pre = s->pre;
    return KM_OK;
}

/* llama.cpp's names of pre-tokenizers, and what the model's own tokenizer.json does beyond cutting.
 */
static void read_habits(source *s) {
    static const struct {
        const char *pre;
        bool nfc, ignore_merges, bos;
    } habits[] = {{"llama-bpe", false, true, true},
                  {"llama3", false, true, true},
                  {"llama-v3", false, true, true},
                  {"qwen2", true, false, false},
                  {"olmo", true, false, false}};
    for (size_t i = 0; i < sizeof habits / sizeof habits[0]; i++) {
        if (strcmp(s->pre, habits[i].pre) == 0) {
            s->spec.nfc = habits[i].nfc;
            s->spec.ignore_merges = habits[i].ignore_merges;
            s->adds_bos = habits[i].bos;
        }
    }
}

/* Which kind, and what belongs to it. */
static km_status read_kind(source *s, km_error *err) {
    const char *model;
    size_t n;
    KM_TRY(km_gguf_get_string(s->gguf, KEY("model"), &model, &n, NULL, err));
    if (n == 4 && memcmp(model, "gpt2", 4) == 0) {
        s->spec.kind = KM_TOKENIZER_BPE;
        KM_TRY(read_pre(s, err));
        KM_TRY(read_strings(&s->merges, &s->spec.n_merges, s, KEY("merges"), err));
        s->spec.merges = s->merges;
        read_habits(s);
        return KM_OK;
    }
    if (n == 5 && memcmp(model, "llama", 5) == 0) {
        s->spec.kind = KM_TOKENIZER_SPM;
        KM_TRY(read_scores(s, err));
        s->spec.scores = s->scores;
        s->adds_bos = true;
        return KM_OK;
    }
    char quote[KM__QUOTE];
    return KM_SET(err, KM_EUNSUPPORTED, "%s '%s' is not one of gpt2, llama", KEY("model"),
                  km__text_quote(quote, model, n));
}

/* add_bos_token and its like; a tail added to every text is more than this version does. */
static km_status read_flags(source *s, km_error *err) {
    bool spm = s->spec.kind == KM_TOKENIZER_SPM;
    bool eos, prefix;
    KM_TRY(read_id(&s->spec.bos, s, KEY("bos_token_id"), err));
    KM_TRY(read_id(&s->spec.eos, s, KEY("eos_token_id"), err));
    KM_TRY(read_id(&s->spec.unk, s, KEY("unknown_token_id"), err));
    KM_TRY(
        read_flag(&s->spec.add_bos, s, KEY("add_bos_token"), s->adds_bos && s->spec.bos >= 0, err));
    KM_TRY(read_flag(&prefix, s, KEY("add_space_prefix"), spm, err));
    KM_TRY(read_flag(&eos, s, KEY("add_eos_token"), false, err));
    if (eos) {
        return KM_SET(err, KM_EUNSUPPORTED, "%s: an eos token after every text",
                      KEY("add_eos_token"));
    }
    s->spec.prefix = prefix ? KM_PREFIX_EVERY : KM_PREFIX_NONE;
    if (!spm && prefix) {
        return KM_SET(err, KM_EUNSUPPORTED, "%s for a byte-level tokenizer",
                      KEY("add_space_prefix"));
    }
    return KM_OK;
}

km_status km__tokenizer_from_gguf(km_tokenizer **out, km_ctx *ctx, const km_gguf *gguf,
                                  km_error *err) {
    source s = {.ctx = ctx, .gguf = gguf};
    km_status status = KM_OK;
    KM_GO(read_strings(&s.tokens, &s.spec.n_tokens, &s, KEY("tokens"), err));
    s.spec.tokens = s.tokens;
    KM_GO(read_types(&s, err));
    s.spec.types = s.types;
    KM_GO(read_kind(&s, err));
    KM_GO(read_flags(&s, err));
    KM_GO(km_tokenizer_new(out, ctx, &s.spec, err));
done:
    source_clear(&s);
    return status;
}

km_status km__tokenizer_read(km_tokenizer **out, km_ctx *ctx, const km_container *container,
                             km_error *err) {
    km_status status;
    if (km_container_gguf(container) != NULL) {
        status = km__tokenizer_from_gguf(out, ctx, km_container_gguf(container), err);
    } else {
        size_t n, config_n;
        const char *text = km_container_tokenizer_json(container, &n);
        const char *config = km_container_tokenizer_config_json(container, &config_n);
        if (text == NULL || n == 0) {
            return KM_SET(err, KM_ENOTFOUND, "%s: no tokenizer.json beside the weights",
                          km_container_path(container));
        }
        status =
            km_tokenizer_from_json(out, ctx, text, n, config_n > 0 ? config : NULL, config_n, err);
    }
    if (status != KM_OK) {
        km_error_prefix(err, "%s: tokenizer", km_container_path(container));
    }
    return status;
}
