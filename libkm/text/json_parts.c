/* json_parts.c: the components of a tokenizer.json beside its model: normalizer, pre-tokenizer,
 * post-processor, decoder.
 *
 * A component is accepted when its structure is one of those this library implements; anything else
 * would silently give other ids, and is refused by name. Truncation and padding concern batches and
 * are not read. */
#include <string.h>

#include "text/json_private.h"

#define MARK "\xE2\x96\x81" /* U+2581 */

#define SPLIT_HEAD "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
#define SPLIT_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *regex, *pre;
} splits[] = {
    {SPLIT_HEAD "{1,3}" SPLIT_TAIL, "llama-bpe"},
    {SPLIT_HEAD SPLIT_TAIL, "qwen2"},
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", "gpt2"},
};

const char *km__json_text(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

bool km__json_true(const json_t *object, const char *key) {
    return json_is_true(json_object_get(object, key));
}

const char *km__json_quote(char out[KM__QUOTE], const char *text) {
    return km__text_quote(out, text, text != NULL ? strlen(text) : 0);
}

static bool equal(const char *a, const char *b) {
    return a != NULL && strcmp(a, b) == 0;
}

static bool absent(const json_t *part) {
    return part == NULL || json_is_null(part);
}

static bool has_type(const json_t *part, const char *type) {
    return equal(km__json_text(part, "type"), type);
}

/* The array of a Sequence, whose key differs from component to component; NULL: no Sequence. */
static const json_t *sequence(const json_t *part, const char *key) {
    const json_t *list = has_type(part, "Sequence") ? json_object_get(part, key) : NULL;
    return json_is_array(list) ? list : NULL;
}

static km_status unsupported(const char *component, const json_t *part, km_error *err) {
    const char *type = km__json_text(part, "type");
    char quote[KM__QUOTE];
    return KM_SET(err, KM_EUNSUPPORTED, "%s of type '%s' in this form", component,
                  km__json_quote(quote, type));
}

static bool is_string_pattern(const json_t *part, const char *text) {
    return equal(km__json_text(json_object_get(part, "pattern"), "String"), text);
}

/* ---- normalizer ---- */

static bool is_mark_blanks(const json_t *part) {
    return has_type(part, "Replace") && is_string_pattern(part, " ") &&
           equal(km__json_text(part, "content"), MARK);
}

/* Byte-level: nothing, or form C. */
static km_status read_byte_normalizer(km__json_parts *out, const json_t *part, km_error *err) {
    const json_t *list = sequence(part, "normalizers");
    const json_t *only =
        list != NULL && json_array_size(list) == 1 ? json_array_get(list, 0) : part;
    bool empty = absent(part) || (list != NULL && json_array_size(list) == 0);
    out->nfc = has_type(only, "NFC");
    return empty || out->nfc ? KM_OK : unsupported("normalizer", part, err);
}

/* SentencePiece-style: blanks replaced, perhaps after one is prepended; nothing when Metaspace does
 * both. */
static km_status read_mark_normalizer(km__json_parts *out, const json_t *part, km_error *err) {
    const json_t *list = sequence(part, "normalizers");
    const json_t *prepend = json_array_get(list, 0);
    out->marks = !absent(part);
    if (absent(part) || is_mark_blanks(part)) {
        return KM_OK;
    }
    if (json_array_size(list) == 2 && has_type(prepend, "Prepend") &&
        equal(km__json_text(prepend, "prepend"), MARK) && is_mark_blanks(json_array_get(list, 1))) {
        out->prefix = KM_PREFIX_EVERY;
        return KM_OK;
    }
    return unsupported("normalizer", part, err);
}

/* ---- pre-tokenizer ---- */

static bool is_byte_level(const json_t *part, bool regex) {
    const json_t *use = json_object_get(part, "use_regex");
    bool uses = use == NULL || json_is_true(use); /* files older than the field used it */
    return has_type(part, "ByteLevel") && !km__json_true(part, "add_prefix_space") && uses == regex;
}

/* The pre-tokenizer a Split by expression is, NULL: none we know. */
static const char *split_name(const json_t *part) {
    const char *regex = km__json_text(json_object_get(part, "pattern"), "Regex");
    if (!has_type(part, "Split") || !equal(km__json_text(part, "behavior"), "Isolated") ||
        km__json_true(part, "invert")) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
        if (equal(regex, splits[i].regex)) {
            return splits[i].pre;
        }
    }
    return NULL;
}

static const char *byte_level_name(const json_t *part) {
    if (is_byte_level(part, true)) {
        return "gpt2";
    }
    const json_t *list = sequence(part, "pretokenizers");
    const json_t *first = json_array_get(list, 0);
    const json_t *second = json_array_get(list, 1);
    if (json_array_size(list) != 2) {
        return NULL;
    }
    if (has_type(first, "Digits") && km__json_true(first, "individual_digits") &&
        is_byte_level(second, true)) {
        return "smollm";
    }
    return is_byte_level(second, false) ? split_name(first) : NULL;
}

static km_status read_byte_pre_tokenizer(km__json_parts *out, const json_t *part, km_error *err) {
    out->pre = byte_level_name(part);
    return out->pre != NULL ? KM_OK : unsupported("pre_tokenizer", part, err);
}

/* Metaspace without splitting: replaces blanks and says where one is put first. Older files say
 * add_prefix_space for the scheme. */
static bool read_metaspace(km__json_parts *out, const json_t *part) {
    static const char *const schemes[] = {"never", "always", "first"};
    static const km_prefix prefixes[] = {KM_PREFIX_NONE, KM_PREFIX_ABSENT, KM_PREFIX_FIRST};
    const char *scheme = km__json_text(part, "prepend_scheme");
    if (!has_type(part, "Metaspace") || !equal(km__json_text(part, "replacement"), MARK) ||
        !json_is_false(json_object_get(part, "split"))) {
        return false;
    }
    if (scheme == NULL) {
        scheme = json_is_false(json_object_get(part, "add_prefix_space")) ? "never" : "always";
    }
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        if (strcmp(scheme, schemes[i]) == 0) {
            out->prefix = prefixes[i];
            return true;
        }
    }
    return false;
}

static km_status read_mark_pre_tokenizer(km__json_parts *out, const json_t *part, km_error *err) {
    if (!out->marks) {
        return read_metaspace(out, part) ? KM_OK : unsupported("pre_tokenizer", part, err);
    }
    /* After the normalizer no blank is left to split at, so Gemma's Split does nothing. */
    bool idle = has_type(part, "Split") && is_string_pattern(part, " ");
    return absent(part) || idle ? KM_OK : unsupported("pre_tokenizer", part, err);
}

/* ---- post-processor ---- */

/* The id of a template's special token: exactly one. */
static km_status template_id(int64_t *out, const json_t *part, const char *name, km_error *err) {
    const json_t *entry = json_object_get(json_object_get(part, "special_tokens"), name);
    const json_t *ids = json_object_get(entry, "ids");
    const json_t *id = json_array_get(ids, 0);
    if (json_array_size(ids) != 1 || !json_is_integer(id)) {
        char quote[KM__QUOTE];
        return KM_SET(err, KM_EFORMAT, "post_processor: special token '%s' needs one id",
                      km__json_quote(quote, name));
    }
    *out = json_integer_value(id);
    return KM_OK;
}

/* A template may put one token before the text and nothing after it. */
static km_status read_template(km__json_parts *out, const json_t *part, km_error *err) {
    const json_t *single = json_object_get(part, "single");
    size_t n = json_array_size(single);
    const json_t *first = json_object_get(json_array_get(single, 0), "SpecialToken");
    const json_t *last = json_object_get(json_array_get(single, n > 0 ? n - 1 : 0), "Sequence");
    if (last == NULL || n > 2 || (n == 2 && first == NULL)) {
        return unsupported("post_processor", part, err);
    }
    if (n == 2) {
        out->bos = km__json_text(first, "id");
        if (out->bos == NULL) {
            return unsupported("post_processor", part, err);
        }
        return template_id(&out->bos_id, part, out->bos, err);
    }
    return KM_OK;
}

static km_status read_post_processor(km__json_parts *out, const json_t *part, km_error *err) {
    if (absent(part) || has_type(part, "ByteLevel")) {
        return KM_OK; /* ByteLevel only trims offsets, which we leave whole */
    }
    return has_type(part, "TemplateProcessing") ? read_template(out, part, err)
                                                : unsupported("post_processor", part, err);
}

static km_status read_post_processors(km__json_parts *out, const json_t *part, km_error *err) {
    const json_t *list = sequence(part, "processors");
    if (list == NULL) {
        return read_post_processor(out, part, err);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        KM_TRY(read_post_processor(out, json_array_get(list, i), err));
    }
    return KM_OK;
}

/* ---- decoder ---- */

/* Strip of the one blank that Prepend put there. */
static bool is_strip(const json_t *part) {
    return has_type(part, "Strip") && equal(km__json_text(part, "content"), " ") &&
           json_integer_value(json_object_get(part, "start")) == 1 &&
           json_integer_value(json_object_get(part, "stop")) == 0;
}

static bool is_marked_decoder(const json_t *part, bool prefix) {
    const json_t *list = sequence(part, "decoders");
    const json_t *replace = json_array_get(list, 0);
    return json_array_size(list) == (prefix ? 4u : 3u) && has_type(replace, "Replace") &&
           is_string_pattern(replace, MARK) && equal(km__json_text(replace, "content"), " ") &&
           has_type(json_array_get(list, 1), "ByteFallback") &&
           has_type(json_array_get(list, 2), "Fuse") &&
           (!prefix || is_strip(json_array_get(list, 3)));
}

km_status km__json_parts_read(km__json_parts *out, const json_t *root, km_tokenizer_kind kind,
                              km_error *err) {
    *out = (km__json_parts){.bos_id = -1};
    const json_t *normalizer = json_object_get(root, "normalizer");
    const json_t *pre_tokenizer = json_object_get(root, "pre_tokenizer");
    if (kind == KM_TOKENIZER_BPE) {
        KM_TRY(read_byte_normalizer(out, normalizer, err));
        KM_TRY(read_byte_pre_tokenizer(out, pre_tokenizer, err));
    } else {
        KM_TRY(read_mark_normalizer(out, normalizer, err));
        KM_TRY(read_mark_pre_tokenizer(out, pre_tokenizer, err));
    }
    KM_TRY(read_post_processors(out, json_object_get(root, "post_processor"), err));
    const json_t *decoder = json_object_get(root, "decoder");
    bool known = kind == KM_TOKENIZER_BPE
                     ? has_type(decoder, "ByteLevel")
                     : is_marked_decoder(decoder, out->prefix != KM_PREFIX_NONE);
    return known ? KM_OK : unsupported("decoder", decoder, err);
}
