/* tokenizer_json.c: a Hugging Face tokenizer.json as a tokenizer specification.
 *
 * Two kinds of file are read: byte-level BPE (model BPE between ByteLevel components) and
 * SentencePiece-style BPE (model BPE with byte_fallback, blanks replaced by U+2581). Ids of model
 * vocabulary and added tokens together must be 0 .. n-1. */
#include <string.h>

#include "text/json_private.h"
#include "text/text_private.h"

/* The specification under construction; slices borrow from the parsed documents. */
typedef struct reader {
    km_ctx *ctx;
    json_t *root, *config;
    const json_t *vocab, *added;
    bool marks; /* the normalizer replaces blanks */
    km_tokenizer_spec spec;
    km_slice *tokens, *merges;
    int32_t *types;
    bool *late;
    char *merge_text;
} reader;

static void reader_clear(reader *r) {
    json_decref(r->root);
    json_decref(r->config);
    km_free(r->ctx, r->tokens);
    km_free(r->ctx, r->merges);
    km_free(r->ctx, r->types);
    km_free(r->ctx, r->late);
    km_free(r->ctx, r->merge_text);
}

/* ---- model ---- */

static bool null_or_empty(const json_t *value) {
    return value == NULL || json_is_null(value) ||
           (json_is_string(value) && json_string_length(value) == 0);
}

static km_status read_model(reader *r, const json_t *model, km_error *err) {
    const char *type = km__json_text(model, "type");
    char quote[KM__QUOTE];
    if (!json_is_object(model) || (type != NULL && strcmp(type, "BPE") != 0)) {
        return KM_SET(err, KM_EUNSUPPORTED, "model of type '%s'; only BPE is read",
                      km__json_quote(quote, type));
    }
    if (!null_or_empty(json_object_get(model, "continuing_subword_prefix")) ||
        !null_or_empty(json_object_get(model, "end_of_word_suffix"))) {
        return KM_SET(err, KM_EUNSUPPORTED, "model with a subword prefix or word suffix");
    }
    if (json_number_value(json_object_get(model, "dropout")) != 0.0) {
        return KM_SET(err, KM_EUNSUPPORTED, "model with dropout");
    }
    r->spec.kind = km__json_true(model, "byte_fallback") ? KM_TOKENIZER_SPM : KM_TOKENIZER_BPE;
    r->spec.ignore_merges = km__json_true(model, "ignore_merges");
    bool unknown = km__json_text(model, "unk_token") != NULL;
    bool fuse = km__json_true(model, "fuse_unk");
    if (unknown && (r->spec.kind == KM_TOKENIZER_BPE || !fuse)) {
        return KM_SET(err, KM_EUNSUPPORTED, "model with unk_token but not fuse_unk");
    }
    if (r->spec.kind == KM_TOKENIZER_SPM && r->spec.ignore_merges) {
        return KM_SET(err, KM_EUNSUPPORTED, "model with byte_fallback and ignore_merges");
    }
    r->vocab = json_object_get(model, "vocab");
    if (!json_is_object(r->vocab)) {
        return KM_SET(err, KM_EFORMAT, "model.vocab is not an object");
    }
    return KM_OK;
}

/* ---- vocabulary ---- */

static km_status place_token(reader *r, const char *text, size_t n, const json_t *id, int32_t type,
                             km_error *err) {
    char quote[KM__QUOTE];
    char other[KM__QUOTE];
    json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
    if (value < 0 || value >= r->spec.n_tokens) {
        return KM_SET(err, KM_EFORMAT, "token '%s': its id is not in 0 .. %lld",
                      km__json_quote(quote, text), (long long)(r->spec.n_tokens - 1));
    }
    if (r->tokens[value].data != NULL) {
        return KM_SET(err, KM_EFORMAT, "tokens '%s' and '%s' share the id %lld",
                      km__json_quote(other, r->tokens[value].data), km__json_quote(quote, text),
                      (long long)value);
    }
    r->tokens[value] = (km_slice){text, n};
    r->types[value] = type;
    return KM_OK;
}

/* Whether text is "<0xHH>". */
static bool is_byte_token(const char *text) {
    static const char digits[] = "0123456789ABCDEF";
    return strlen(text) == 6 && memcmp(text, "<0x", 3) == 0 && strchr(digits, text[3]) != NULL &&
           strchr(digits, text[4]) != NULL && text[5] == '>';
}

static km_status place_vocab(reader *r, km_error *err) {
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)r->vocab, text, id) {
        bool byte = r->spec.kind == KM_TOKENIZER_SPM && is_byte_token(text);
        int32_t type = byte ? KM_TOKEN_BYTE : KM_TOKEN_NORMAL;
        KM_TRY(place_token(r, text, strlen(text), id, type, err));
    }
    return KM_OK;
}

/* Whether normalising leaves the text of an added token as it is, wherever it stands. */
static bool stays_whole(const reader *r, const char *text) {
    bool marked = r->spec.prefix == KM_PREFIX_EVERY || strchr(text, ' ') != NULL ||
                  strstr(text, "\xE2\x96\x81") != NULL;
    return !(r->marks && marked) && !(r->spec.nfc && km__nfc_needed(text, strlen(text)));
}

static km_status check_added(const reader *r, const json_t *entry, const char **text,
                             km_error *err) {
    *text = km__json_text(entry, "content");
    if (*text == NULL || **text == '\0' ||
        json_string_length(json_object_get(entry, "content")) != strlen(*text)) {
        return KM_SET(err, KM_EFORMAT, "an added token has no usable content");
    }
    bool normalized = km__json_true(entry, "normalized") && !stays_whole(r, *text);
    if (km__json_true(entry, "lstrip") || km__json_true(entry, "rstrip") ||
        km__json_true(entry, "single_word") || normalized) {
        char quote[KM__QUOTE];
        return KM_SET(err, KM_EUNSUPPORTED, "added token '%s' with %s",
                      km__json_quote(quote, *text),
                      normalized ? "normalized" : "lstrip, rstrip or single_word");
    }
    return KM_OK;
}

/* An added token is new, or marks one of the model's. */
static km_status place_added(reader *r, km_error *err) {
    for (size_t i = 0; i < json_array_size(r->added); i++) {
        const json_t *entry = json_array_get(r->added, i);
        const char *text;
        KM_TRY(check_added(r, entry, &text, err));
        const json_t *id = json_object_get(entry, "id");
        const json_t *known = json_object_get(r->vocab, text);
        bool special = km__json_true(entry, "special");
        int32_t type = special ? KM_TOKEN_CONTROL : KM_TOKEN_USER_DEFINED;
        if (known == NULL) {
            KM_TRY(place_token(r, text, strlen(text), id, type, err));
        } else if (json_is_integer(id) && json_equal(id, known)) {
            r->types[json_integer_value(id)] = type;
        } else {
            char quote[KM__QUOTE];
            return KM_SET(err, KM_EFORMAT, "added token '%s' has another id in model.vocab",
                          km__json_quote(quote, text));
        }
        r->late[json_integer_value(id)] = km__json_true(entry, "normalized");
    }
    return KM_OK;
}

/* Added tokens are found before or after normalising; when nothing is normalised and all are of one
 * kind, there is no difference. */
static void set_late(reader *r) {
    bool early = r->spec.nfc || r->marks;
    for (size_t i = 0; i < json_array_size(r->added) && !early; i++) {
        early = !km__json_true(json_array_get(r->added, i), "normalized");
    }
    r->spec.late = early ? r->late : NULL;
}

static km_status read_vocab(reader *r, km_error *err) {
    void *tokens = NULL;
    void *types = NULL;
    size_t n = json_object_size(r->vocab);
    for (size_t i = 0; i < json_array_size(r->added); i++) {
        const char *text = km__json_text(json_array_get(r->added, i), "content");
        n += text != NULL && json_object_get(r->vocab, text) == NULL;
    }
    r->spec.n_tokens = (int64_t)n;
    KM_TRY(km_alloc_array(&tokens, r->ctx, r->spec.n_tokens, sizeof(km_slice), err));
    r->tokens = tokens;
    KM_TRY(km_alloc_array(&types, r->ctx, r->spec.n_tokens, sizeof(int32_t), err));
    r->types = types;
    void *late = NULL;
    KM_TRY(km_alloc_array(&late, r->ctx, r->spec.n_tokens, sizeof(bool), err));
    r->late = late;
    KM_TRY(place_vocab(r, err));
    KM_TRY(place_added(r, err));
    set_late(r);
    r->spec.tokens = r->tokens; /* n distinct ids below n: no place is empty */
    r->spec.types = r->types;
    return KM_OK;
}

/* ---- merges: "left right", or ["left", "right"] ---- */

static size_t pair_bytes(const json_t *entry) {
    return json_is_array(entry) ? json_string_length(json_array_get(entry, 0)) +
                                      json_string_length(json_array_get(entry, 1)) + 1
                                : 0;
}

static km_status read_pair(km_slice *out, char *room, const json_t *entry, size_t rank,
                           km_error *err) {
    const json_t *left = json_array_get(entry, 0);
    const json_t *right = json_array_get(entry, 1);
    if (json_array_size(entry) != 2 || !json_is_string(left) || !json_is_string(right)) {
        return KM_SET(err, KM_EFORMAT, "merge %zu is not a pair of strings", rank);
    }
    size_t n_left = json_string_length(left);
    size_t n_right = json_string_length(right);
    memcpy(room, json_string_value(left), n_left);
    room[n_left] = ' ';
    memcpy(room + n_left + 1, json_string_value(right), n_right);
    *out = (km_slice){room, n_left + n_right + 1};
    return KM_OK;
}

static km_status read_merges(reader *r, const json_t *list, km_error *err) {
    void *block = NULL;
    void *text = NULL;
    if (!json_is_array(list)) {
        return KM_SET(err, KM_EFORMAT, "model.merges is not an array");
    }
    size_t n = json_array_size(list);
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        bytes += pair_bytes(json_array_get(list, i));
    }
    KM_TRY(km_alloc_array(&block, r->ctx, (int64_t)n, sizeof(km_slice), err));
    r->merges = block;
    KM_TRY(km_alloc(&text, r->ctx, bytes, err));
    r->merge_text = text;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *entry = json_array_get(list, i);
        if (json_is_string(entry)) {
            r->merges[i] = (km_slice){json_string_value(entry), json_string_length(entry)};
            continue;
        }
        KM_TRY(read_pair(&r->merges[i], r->merge_text + at, entry, i, err));
        at += pair_bytes(entry);
    }
    r->spec.merges = r->merges;
    r->spec.n_merges = (int64_t)n;
    return KM_OK;
}

/* ---- bos, eos, unknown ---- */

/* The id of a token by its text, -1: not in the vocabulary. */
static int32_t id_of(const reader *r, const char *text) {
    const json_t *id = text != NULL ? json_object_get(r->vocab, text) : NULL;
    for (size_t i = 0; text != NULL && id == NULL && i < json_array_size(r->added); i++) {
        const json_t *entry = json_array_get(r->added, i);
        const char *content = km__json_text(entry, "content");
        id = content != NULL && strcmp(content, text) == 0 ? json_object_get(entry, "id") : NULL;
    }
    return id != NULL ? (int32_t)json_integer_value(id) : -1;
}

/* tokenizer_config.json writes a token as its text or as an object that holds it. */
static int32_t config_id(const reader *r, const char *key) {
    const json_t *value = json_object_get(r->config, key);
    const char *text =
        json_is_object(value) ? km__json_text(value, "content") : json_string_value(value);
    return id_of(r, text);
}

static km_status read_marks(reader *r, const km__json_parts *parts, km_error *err) {
    const json_t *model = json_object_get(r->root, "model");
    bool from_config = json_is_null(json_object_get(r->root, "post_processor")) ||
                       json_object_get(r->root, "post_processor") == NULL;
    r->spec.bos = config_id(r, "bos_token");
    r->spec.eos = config_id(r, "eos_token");
    r->spec.unk = r->spec.kind == KM_TOKENIZER_SPM ? id_of(r, km__json_text(model, "unk_token"))
                                                   : config_id(r, "unk_token");
    if (parts->bos != NULL) {
        r->spec.bos = id_of(r, parts->bos);
        if (r->spec.bos < 0 || r->spec.bos != parts->bos_id) {
            char quote[KM__QUOTE];
            return KM_SET(err, KM_EFORMAT, "post_processor: '%s' is not token %lld",
                          km__json_quote(quote, parts->bos), (long long)parts->bos_id);
        }
    }
    r->spec.add_bos = parts->bos != NULL || (from_config && r->spec.bos >= 0 &&
                                             km__json_true(r->config, "add_bos_token"));
    if (from_config && km__json_true(r->config, "add_eos_token")) {
        return KM_SET(err, KM_EUNSUPPORTED, "add_eos_token: an eos token after every text");
    }
    return KM_OK;
}

static km_status read_all(km_tokenizer **out, reader *r, km_error *err) {
    const json_t *model = json_object_get(r->root, "model");
    km__json_parts parts;
    r->added = json_object_get(r->root, "added_tokens");
    KM_TRY(read_model(r, model, err));
    KM_TRY(km__json_parts_read(&parts, r->root, r->spec.kind, err));
    r->spec.pre = parts.pre;
    r->spec.nfc = parts.nfc;
    r->spec.prefix = parts.prefix;
    r->marks = parts.marks;
    KM_TRY(read_vocab(r, err));
    KM_TRY(read_merges(r, json_object_get(model, "merges"), err));
    KM_TRY(read_marks(r, &parts, err));
    return km_tokenizer_new(out, r->ctx, &r->spec, err);
}

km_status km_tokenizer_from_json(km_tokenizer **out, km_ctx *ctx, const char *text, size_t n,
                                 const char *config_text, size_t config_n, km_error *err) {
    reader r = {.ctx = ctx};
    km_status status = KM_OK;
    if (config_text != NULL) {
        status = km_json_parse_doubles(&r.config, config_text, config_n, err);
        if (status != KM_OK) {
            km_error_prefix(err, "tokenizer_config.json");
            goto done;
        }
    }
    status = km_json_parse(&r.root, text, n, err);
    if (status == KM_OK) {
        status = read_all(out, &r, err);
    }
    if (status != KM_OK) {
        km_error_prefix(err, "tokenizer.json");
    }
done:
    reader_clear(&r);
    return status;
}
