/* spm.c: SentencePiece-style BPE of one segment: blanks become U+2581, characters are merged, what
 * the vocabulary lacks falls back to byte tokens, or to the unknown token without those.
 *
 * The whole segment is one word: these vocabularies have pieces that hold blanks. Characters are
 * cut by their first byte alone, as llama.cpp does: the same as decoding for well-formed text, and
 * the authority for the rest. */
#include <string.h>

#include "text/text_private.h"

#define MARK "\xE2\x96\x81" /* U+2581 */
#define MARK_BYTES 3

/* Steps through the input beside its marked copy. A unit is a byte, a blank (3 marked bytes) or the
 * prefix (3 marked bytes that stand for none). */
typedef struct walker {
    const char *text;
    size_t n;
    size_t at, length;            /* the unit in the input */
    size_t marked, marked_length; /* the unit in the copy */
} walker;

static void walk_unit(walker *w, size_t at, size_t marked) {
    bool blank = at < w->n && w->text[at] == ' ';
    w->at = at;
    w->marked = marked;
    w->length = 1;
    w->marked_length = blank ? MARK_BYTES : 1;
}

static walker walk_start(const char *text, size_t n, bool prefix) {
    walker w = {.text = text, .n = n};
    if (prefix) {
        w.marked_length = MARK_BYTES;
    } else {
        walk_unit(&w, 0, 0);
    }
    return w;
}

/* Offset in the input of a position of the copy, not before an earlier one. Inside a unit the start
 * of a token rounds down and its end rounds up. */
static int64_t walk_to(walker *w, size_t position, bool is_end) {
    while (w->marked + w->marked_length <= position && w->at < w->n) {
        walk_unit(w, w->at + w->length, w->marked + w->marked_length);
    }
    bool inside = position > w->marked;
    return (int64_t)(w->at + (inside && is_end ? w->length : 0));
}

static km_status mark_blanks(km__scratch *scratch, const char *text, size_t n, bool prefix,
                             km_error *err) {
    size_t room;
    if (!km_size_mul(&room, n, MARK_BYTES) || room > INT32_MAX - MARK_BYTES) {
        return KM_SET(err, KM_ERANGE, "text of %zu bytes is too long for this tokenizer", n);
    }
    KM_TRY(km__scratch_reserve_text(scratch, room + MARK_BYTES, err));
    char *at = scratch->text;
    if (prefix) {
        memcpy(at, MARK, MARK_BYTES);
        at += MARK_BYTES;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] == ' ') {
            memcpy(at, MARK, MARK_BYTES);
            at += MARK_BYTES;
        } else {
            *at++ = text[i];
        }
    }
    scratch->text_n = (size_t)(at - scratch->text);
    return KM_OK;
}

static size_t char_length(unsigned char lead, size_t left) {
    size_t length = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    return length < left ? length : left;
}

static bool has_byte_tokens(const km_tokenizer *tokenizer, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (tokenizer->byte_ids[(unsigned char)text[i]] < 0) {
            return false;
        }
    }
    return true;
}

/* A character outside the vocabulary: byte tokens when all are there, else the unknown token, one
 * for a run of such characters; without it the character is left out. */
static km_status push_fallback(km__scratch *scratch, const km_tokenizer *tokenizer, int32_t at,
                               size_t n, km_error *err) {
    const char *text = scratch->text + at;
    if (has_byte_tokens(tokenizer, text, n)) {
        for (int32_t i = 0; i < (int32_t)n; i++) {
            int32_t id = tokenizer->byte_ids[(unsigned char)text[i]];
            km__symbol symbol = {.id = id, .begin = at + i, .end = at + i + 1, .fixed = true};
            KM_TRY(km__scratch_push(scratch, &symbol, err));
        }
        return KM_OK;
    }
    if (tokenizer->unk < 0) {
        return KM_OK;
    }
    int64_t last = scratch->n_symbols - 1;
    if (last >= 0 && scratch->symbols[last].fixed && scratch->symbols[last].id == tokenizer->unk) {
        scratch->symbols[last].end = at + (int32_t)n;
        return KM_OK;
    }
    km__symbol symbol = {.id = tokenizer->unk, .begin = at, .end = at + (int32_t)n, .fixed = true};
    return km__scratch_push(scratch, &symbol, err);
}

static km_status push_characters(km__scratch *scratch, const km_tokenizer *tokenizer,
                                 km_error *err) {
    scratch->n_symbols = 0;
    for (size_t at = 0; at < scratch->text_n;) {
        const char *text = scratch->text + at;
        size_t n = char_length((unsigned char)text[0], scratch->text_n - at);
        int32_t id = km__text_table_find(&tokenizer->ids, &tokenizer->keys, text, n);
        if (id >= 0) {
            km__symbol symbol = {.id = id, .begin = (int32_t)at, .end = (int32_t)(at + n)};
            KM_TRY(km__scratch_push(scratch, &symbol, err));
        } else {
            KM_TRY(push_fallback(scratch, tokenizer, (int32_t)at, n, err));
        }
        at += n;
    }
    return KM_OK;
}

/* Whether a blank is put before a piece that starts at `base`. */
static bool wants_prefix(km_prefix prefix, const char *text, size_t n, int64_t base) {
    bool marked = n >= MARK_BYTES && memcmp(text, MARK, MARK_BYTES) == 0;
    bool absent = n == 0 || (text[0] != ' ' && !marked);
    return prefix == KM_PREFIX_EVERY || (prefix == KM_PREFIX_ABSENT && absent) ||
           (prefix == KM_PREFIX_FIRST && absent && base == 0);
}

/* A piece of the segment that is merged as one word. */
static km_status encode_piece(km_tokens *out, km__scratch *scratch, const km_tokenizer *tokenizer,
                              const char *text, size_t n, int64_t base, km_error *err) {
    bool prefix = wants_prefix(tokenizer->prefix, text, n, base);
    KM_TRY(mark_blanks(scratch, text, n, prefix, err));
    KM_TRY(push_characters(scratch, tokenizer, err));
    if (scratch->n_symbols == 0) {
        return KM_OK;
    }
    KM_TRY(km__merge_word(scratch, tokenizer, scratch->text, err));
    walker w = walk_start(text, n, prefix);
    for (int32_t i = 0; i >= 0; i = scratch->symbols[i].next) {
        const km__symbol *symbol = &scratch->symbols[i];
        int64_t start = walk_to(&w, (size_t)symbol->begin, false);
        int64_t end = walk_to(&w, (size_t)symbol->end, true);
        KM_TRY(km__tokens_push(out, symbol->id, base + start, base + end, err));
    }
    return KM_OK;
}

/* The longest token for blanks at the start of text; *length is how many it takes, 0: none. */
static int32_t blank_token(size_t *length, const km_tokenizer *tokenizer, const char *text,
                           size_t n) {
    char marks[MARK_BYTES * KM__LONGEST_BLANKS];
    size_t run = 0;
    while (run < n && run < tokenizer->longest_blanks && text[run] == ' ') {
        memcpy(marks + MARK_BYTES * run++, MARK, MARK_BYTES);
    }
    for (; run > 1; run--) {
        int32_t id =
            km__text_table_find(&tokenizer->ids, &tokenizer->keys, marks, MARK_BYTES * run);
        if (id >= 0) {
            *length = run;
            return id;
        }
    }
    *length = 0;
    return -1;
}

/* llama.cpp cuts tokens of blanks out before it merges, which shows where text is not well-formed:
 * elsewhere their merges come first and give the same. */
static km_status encode_tolerant(km_tokens *out, km__scratch *scratch,
                                 const km_tokenizer *tokenizer, const char *text, size_t n,
                                 int64_t base, km_error *err) {
    size_t from = 0;
    for (size_t at = 0; at <= n;) {
        size_t length = 0;
        int32_t id = at < n ? blank_token(&length, tokenizer, text + at, n - at) : -1;
        if (id < 0 && at < n) {
            at++;
            continue;
        }
        if (at > from) {
            KM_TRY(encode_piece(out, scratch, tokenizer, text + from, at - from,
                                base + (int64_t)from, err));
        }
        if (id < 0) {
            break;
        }
        KM_TRY(km__tokens_push(out, id, base + (int64_t)at, base + (int64_t)(at + length), err));
        at += length;
        from = at;
    }
    return KM_OK;
}

km_status km__spm_encode(km_tokens *out, km__scratch *scratch, const km_tokenizer *tokenizer,
                         const char *text, size_t n, int64_t base, km_error *err) {
    if (scratch->well_formed || tokenizer->longest_blanks == 0) {
        return encode_piece(out, scratch, tokenizer, text, n, base, err);
    }
    return encode_tolerant(out, scratch, tokenizer, text, n, base, err);
}
