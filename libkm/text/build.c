/* build.c: from a specification to the tokenizer: checks, vocabulary, merges, added tokens.
 *
 * Every token has two spellings. Its key is what the merges work on: raw bytes for byte-level BPE
 * (the stored text read through the GPT-2 byte alphabet), marked text for SPM. Its surface is what
 * it adds to decoded text. */
#include <math.h>
#include <string.h>

#include "text/text_private.h"

#define MARK "\xE2\x96\x81" /* U+2581 */
#define MARK_BYTES 3
/* Merges that make runs of blanks come before all others. */
#define AFTER_BLANKS ((uint64_t)1 << 32)

static bool is_added_type(int32_t type) {
    return type == KM_TOKEN_CONTROL || type == KM_TOKEN_UNKNOWN || type == KM_TOKEN_USER_DEFINED;
}

static bool only_blanks(km_slice text) {
    for (size_t i = 0; i < text.n; i++) {
        if (text.data[i] != ' ') {
            return false;
        }
    }
    return text.n > 0;
}

/* GGUF stores a run of blanks as a user-defined token of plain blanks; for the merges it is an
 * ordinary piece of marks. */
static bool is_blank_run(const km_tokenizer_spec *spec, int64_t id) {
    return spec->kind == KM_TOKENIZER_SPM && spec->types[id] == KM_TOKEN_USER_DEFINED &&
           only_blanks(spec->tokens[id]);
}

/* ---- checks ---- */

static km_status check_id(const char *name, int32_t id, int64_t n, km_error *err) {
    if (id < -1 || id >= n) {
        return KM_SET(err, KM_EFORMAT, "%s token id %d is outside the vocabulary of %lld", name, id,
                      (long long)n);
    }
    return KM_OK;
}

static km_status check_spec(const km_tokenizer_spec *spec, km_error *err) {
    if (spec->n_tokens < 1 || spec->n_tokens > INT32_MAX || spec->n_merges < 0 ||
        spec->n_merges > INT32_MAX) {
        return KM_SET(err, KM_EFORMAT, "a vocabulary of %lld tokens and %lld merges",
                      (long long)spec->n_tokens, (long long)spec->n_merges);
    }
    if (spec->kind == KM_TOKENIZER_SPM && spec->scores == NULL && spec->merges == NULL) {
        return KM_SET(err, KM_EFORMAT, "a SentencePiece vocabulary without scores or merges");
    }
    KM_TRY(check_id("bos", spec->bos, spec->n_tokens, err));
    KM_TRY(check_id("eos", spec->eos, spec->n_tokens, err));
    KM_TRY(check_id("unknown", spec->unk, spec->n_tokens, err));
    if (spec->add_bos && spec->bos < 0) {
        return KM_SET(err, KM_EFORMAT, "the tokenizer adds a bos token but names none");
    }
    for (int64_t i = 0; i < spec->n_tokens; i++) {
        int32_t type = spec->types[i];
        if (type < KM_TOKEN_NORMAL || type > KM_TOKEN_BYTE) {
            return KM_SET(err, KM_EFORMAT, "token %lld has the unknown type %d", (long long)i,
                          type);
        }
        if (spec->scores != NULL && isnan(spec->scores[i])) {
            return KM_SET(err, KM_EFORMAT, "token %lld has no number as its score", (long long)i);
        }
    }
    return KM_OK;
}

/* ---- spellings ---- */

/* Undo the byte alphabet; false when a character is not of it. */
static bool undo_alphabet(char *out, size_t *n_out, km_slice text) {
    size_t m = 0;
    for (size_t at = 0; at < text.n;) {
        uint32_t c;
        size_t length = km__utf8_decode(&c, text.data + at, text.n - at);
        int byte = length > 0 ? km__alphabet_byte(c) : -1;
        if (byte < 0) {
            return false;
        }
        out[m++] = (char)byte;
        at += length;
    }
    *n_out = m;
    return true;
}

/* U+2581 becomes a blank. */
static size_t unmark(char *out, km_slice text) {
    size_t m = 0;
    for (size_t at = 0; at < text.n;) {
        if (text.n - at >= MARK_BYTES && memcmp(text.data + at, MARK, MARK_BYTES) == 0) {
            out[m++] = ' ';
            at += MARK_BYTES;
        } else {
            out[m++] = text.data[at++];
        }
    }
    return m;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte "<0xHH>" stands for, -1: it is not of that form. */
static int byte_of(km_slice text) {
    if (text.n != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>') {
        return -1;
    }
    int high = hex_digit(text.data[3]);
    int low = hex_digit(text.data[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Write key and surface of one byte-level token; without a key it is only ever cut out whole. */
static bool spell_bpe(char *key, size_t *n_key, char *surface, size_t *n_surface,
                      const km_tokenizer_spec *spec, int64_t id) {
    km_slice text = spec->tokens[id];
    bool spelled = undo_alphabet(key, n_key, text);
    if (!spelled) {
        *n_key = 0;
    }
    bool raw = !spelled || is_added_type(spec->types[id]);
    *n_surface = raw ? text.n : *n_key;
    if (*n_surface > 0) {
        memcpy(surface, raw ? text.data : key, *n_surface);
    }
    return spelled;
}

static km_status spell_spm(km_tokenizer *t, char *key, size_t *n_key, char *surface,
                           size_t *n_surface, const km_tokenizer_spec *spec, int64_t id,
                           km_error *err) {
    km_slice text = spec->tokens[id];
    if (is_blank_run(spec, id)) {
        for (size_t i = 0; i < text.n; i++) {
            memcpy(key + MARK_BYTES * i, MARK, MARK_BYTES);
        }
        *n_key = MARK_BYTES * text.n;
    } else {
        if (text.n > 0) {
            memcpy(key, text.data, text.n);
        }
        *n_key = text.n;
    }
    *n_surface = unmark(surface, (km_slice){key, *n_key});
    if (spec->types[id] == KM_TOKEN_BYTE) {
        int byte = byte_of(text);
        if (byte < 0 || t->byte_ids[byte] >= 0) {
            return KM_SET(err, KM_EFORMAT, "token %lld is not a new byte token <0xHH>",
                          (long long)id);
        }
        t->byte_ids[byte] = (int32_t)id;
        surface[0] = (char)byte;
        *n_surface = 1;
    }
    return KM_OK;
}

/* Bytes of all stored tokens; keys take up to `factor` times as many. */
static km_status total_bytes(size_t *out, const km_tokenizer_spec *spec, size_t factor,
                             km_error *err) {
    size_t total = 0;
    bool fits = true;
    for (int64_t i = 0; i < spec->n_tokens; i++) {
        fits = fits && km_size_add(&total, total, spec->tokens[i].n);
    }
    if (!fits || !km_size_mul(out, total, factor)) {
        return KM_SET(err, KM_EFORMAT, "the vocabulary does not fit into memory");
    }
    return KM_OK;
}

static km_status build_spellings(km_tokenizer *t, const km_tokenizer_spec *spec, km_error *err) {
    size_t room, key_room;
    KM_TRY(total_bytes(&room, spec, 1, err));
    KM_TRY(total_bytes(&key_room, spec, MARK_BYTES, err));
    KM_TRY(km__strings_init(&t->surface, t->ctx, t->n, room, err));
    KM_TRY(km__strings_init(&t->keys, t->ctx, t->n, key_room, err));
    KM_TRY(km__text_table_init(&t->ids, t->ctx, t->n, err));
    for (int64_t i = 0; i < t->n; i++) {
        size_t key_at = t->keys.offsets[i];
        size_t at = t->surface.offsets[i];
        size_t n_key, n_surface;
        bool keyed = true;
        if (t->kind == KM_TOKENIZER_BPE) {
            keyed =
                spell_bpe(t->keys.data + key_at, &n_key, t->surface.data + at, &n_surface, spec, i);
        } else {
            KM_TRY(spell_spm(t, t->keys.data + key_at, &n_key, t->surface.data + at, &n_surface,
                             spec, i, err));
        }
        t->keys.offsets[i + 1] = key_at + n_key;
        t->surface.offsets[i + 1] = at + n_surface;
        t->longest = n_key > t->longest ? n_key : t->longest;
        t->types[i] = (unsigned char)(is_blank_run(spec, i) ? KM_TOKEN_NORMAL : spec->types[i]);
        if (keyed) {
            KM_TRY(km__text_table_add(&t->ids, &t->keys, (int32_t)i, err));
        }
    }
    return KM_OK;
}

/* ---- merges ---- */

/* Find the id of a part of a merge as the file spells it. */
static int32_t find_part(const km_tokenizer *t, char *room, km_slice text) {
    size_t n = text.n;
    if (t->kind == KM_TOKENIZER_SPM) {
        return km__text_table_find(&t->ids, &t->keys, text.data, n);
    }
    return undo_alphabet(room, &n, text) ? km__text_table_find(&t->ids, &t->keys, room, n) : -1;
}

static km_status read_merge(km__merge *out, const km_tokenizer *t, char *room, km_slice text,
                            int64_t rank, km_error *err) {
    const char *blank = text.n > 0 ? memchr(text.data, ' ', text.n) : NULL;
    size_t n_left = blank != NULL ? (size_t)(blank - text.data) : 0;
    km_slice left = {text.data, n_left};
    km_slice right = {blank != NULL ? blank + 1 : NULL, blank != NULL ? text.n - n_left - 1 : 0};
    if (left.n == 0 || right.n == 0 || memchr(right.data, ' ', right.n) != NULL) {
        return KM_SET(err, KM_EFORMAT, "merge %lld is not two pieces with a blank between them",
                      (long long)rank);
    }
    *out = (km__merge){find_part(t, room, left), find_part(t, room, right), (int32_t)rank, -1};
    if (out->left >= 0 && out->right >= 0) {
        km_slice a = km__strings_at(&t->keys, out->left);
        km_slice b = km__strings_at(&t->keys, out->right);
        memcpy(room, a.data, a.n);
        memcpy(room + a.n, b.data, b.n);
        out->made = km__text_table_find(&t->ids, &t->keys, room, a.n + b.n);
    }
    if (out->made < 0) {
        return KM_SET(err, KM_EFORMAT, "merge %lld: a part or the result is not in the vocabulary",
                      (long long)rank);
    }
    return KM_OK;
}

static km_status build_merges(km_tokenizer *t, const km_tokenizer_spec *spec, km_error *err) {
    if (spec->merges == NULL) {
        return KM_OK;
    }
    size_t longest = 0;
    for (int64_t i = 0; i < spec->n_merges; i++) {
        longest = spec->merges[i].n > longest ? spec->merges[i].n : longest;
    }
    void *room = NULL;
    void *pairs = NULL;
    km_status status = KM_OK;
    KM_TRY(km_alloc_array(&pairs, t->ctx, spec->n_merges, sizeof(uint64_t), err));
    t->pairs = pairs;
    t->n_pairs = spec->n_merges;
    KM_TRY(km__merge_table_init(&t->merges, t->ctx, spec->n_merges, err));
    KM_TRY(km_alloc(&room, t->ctx, longest, err));
    for (int64_t i = 0; i < spec->n_merges; i++) {
        km__merge merge;
        KM_GO(read_merge(&merge, t, room, spec->merges[i], i, err));
        KM_GO(km__merge_table_add(&t->merges, &merge, err));
        t->pairs[i] = (uint64_t)merge.left << 32 | (uint32_t)merge.right;
    }
done:
    km_free(t->ctx, room);
    return status;
}

/* A number that grows as the score falls. */
static uint64_t falling(float score) {
    uint32_t bits;
    score += 0.0f; /* -0 and 0 are one score */
    memcpy(&bits, &score, sizeof bits);
    return (bits & 0x80000000u) != 0 ? bits : 0x7FFFFFFFu - bits;
}

static km_status build_priorities(km_tokenizer *t, const km_tokenizer_spec *spec, km_error *err) {
    if (t->kind != KM_TOKENIZER_SPM || spec->merges != NULL) {
        return KM_OK;
    }
    void *block = NULL;
    KM_TRY(km_alloc_array(&block, t->ctx, t->n, sizeof(uint64_t), err));
    t->priority = block;
    for (int64_t i = 0; i < t->n; i++) {
        bool blanks = is_blank_run(spec, i);
        t->priority[i] = blanks ? (uint64_t)i : AFTER_BLANKS + falling(spec->scores[i]);
    }
    return KM_OK;
}

/* ---- the rest ---- */

static void build_byte_ids(km_tokenizer *t) {
    for (int byte = 0; t->kind == KM_TOKENIZER_BPE && byte < 256; byte++) {
        char c = (char)byte;
        t->byte_ids[byte] = km__text_table_find(&t->ids, &t->keys, &c, 1);
    }
}

/* Byte-level added tokens are matched by their surface, SPM ones as stored. */
static km_slice added_text(const km_tokenizer *t, int64_t id) {
    return km__strings_at(t->kind == KM_TOKENIZER_BPE ? &t->surface : &t->keys, id);
}

/* Tokens of blanks that llama.cpp cuts out whole: user-defined in GGUF. A tokenizer.json does not
 * mark them, but a vocabulary with a leading blank has none. */
static void build_blanks(km_tokenizer *t, const km_tokenizer_spec *spec) {
    bool marked = false;
    for (int64_t i = 0; i < t->n; i++) {
        marked = marked || is_blank_run(spec, i);
    }
    if (t->kind != KM_TOKENIZER_SPM || t->prefix != KM_PREFIX_NONE ||
        (spec->merges == NULL && !marked)) {
        return;
    }
    char marks[MARK_BYTES * KM__LONGEST_BLANKS];
    for (size_t i = 0; i < KM__LONGEST_BLANKS; i++) {
        memcpy(marks + MARK_BYTES * i, MARK, MARK_BYTES);
        bool known = km__text_table_find(&t->ids, &t->keys, marks, MARK_BYTES * (i + 1)) >= 0;
        t->longest_blanks = known && i > 0 ? i + 1 : t->longest_blanks;
    }
}

/* The added tokens that are late, or those that are not. */
static km_status build_set(km__added_set *set, const km_tokenizer *t, const km_tokenizer_spec *spec,
                           bool late, km_error *err) {
    int64_t count = 0;
    for (int64_t i = 0; i < t->n; i++) {
        count += is_added_type(t->types[i]);
    }
    void *block = NULL;
    KM_TRY(km_alloc_array(&block, t->ctx, count, sizeof(km__added), err));
    set->items = block;
    for (int64_t i = 0; i < t->n; i++) {
        km_slice text = added_text(t, i);
        bool is_late = spec->late != NULL && spec->late[i];
        if (is_added_type(t->types[i]) && is_late == late && text.n > 0) {
            set->items[set->n++] = (km__added){text.data, text.n, (int32_t)i};
        }
    }
    return km__added_set_index(set, err);
}

static km_status build(km_tokenizer *t, const km_tokenizer_spec *spec, km_error *err) {
    void *types = NULL;
    KM_TRY(km_alloc_array(&types, t->ctx, t->n, 1, err));
    t->types = types;
    KM_TRY(build_spellings(t, spec, err));
    build_byte_ids(t);
    KM_TRY(build_merges(t, spec, err));
    KM_TRY(build_priorities(t, spec, err));
    build_blanks(t, spec);
    KM_TRY(build_set(&t->added, t, spec, false, err));
    return spec->late != NULL ? build_set(&t->late, t, spec, true, err) : KM_OK;
}

km_status km_tokenizer_new(km_tokenizer **out, km_ctx *ctx, const km_tokenizer_spec *spec,
                           km_error *err) {
    km__pre pre = KM__PRE_GPT2;
    KM_TRY(check_spec(spec, err));
    if (spec->kind == KM_TOKENIZER_BPE) {
        KM_TRY(km__pre_find(&pre, spec->pre, err));
    }
    void *block = NULL;
    KM_TRY(km_alloc_array(&block, ctx, 1, sizeof(km_tokenizer), err));
    km_tokenizer *t = block;
    *t = (km_tokenizer){.ctx = ctx,
                        .kind = spec->kind,
                        .pre = pre,
                        .bos = spec->bos,
                        .eos = spec->eos,
                        .unk = spec->unk,
                        .add_bos = spec->add_bos,
                        .prefix = spec->prefix,
                        .ignore_merges = spec->ignore_merges,
                        .nfc = spec->nfc,
                        .n = spec->n_tokens};
    memset(t->byte_ids, 0xFF, sizeof t->byte_ids);
    km_status status = build(t, spec, err);
    if (status != KM_OK) {
        km_tokenizer_free(t);
        return status;
    }
    *out = t;
    return KM_OK;
}
