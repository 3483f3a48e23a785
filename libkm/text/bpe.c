/* bpe.c: byte-level BPE of one segment: cut into words, then merge the bytes of each.
 *
 * Text that is not well-formed UTF-8 is first cleaned as llama.cpp does it: a byte that starts no
 * character becomes U+FFFD, overlong forms become the character they spell. A byte the vocabulary
 * has no token for is left out, as in `tokenizers`: in well-formed text its neighbours may merge
 * across the gap, and the offsets show it. */
#include <string.h>

#include "text/text_private.h"

static km_status clean(km__segment *out, km__scratch *scratch, const char *text, size_t n,
                       int64_t base, km_error *err) {
    size_t room;
    if (!km_size_mul(&room, n, 3) || !km_size_add(&room, room, 1)) {
        return KM_SET(err, KM_ERANGE, "text of %zu bytes is too long", n);
    }
    KM_TRY(km__scratch_reserve_text(scratch, room, err));
    KM_TRY(km__scratch_reserve_map(scratch, room, err));
    size_t m = 0;
    for (size_t at = 0; at < n;) {
        uint32_t c = 0xFFFD;
        size_t length = km__utf8_decode(&c, text + at, n - at);
        size_t taken = length > 0 ? length : 1;
        size_t written = km__utf8_encode(scratch->text + m, c);
        for (size_t i = 0; i < written; i++) {
            scratch->map[m + i] = base + (int64_t)(at + (written == taken ? i : 0));
        }
        m += written;
        at += taken;
    }
    scratch->map[m] = base + (int64_t)n;
    *out = (km__segment){scratch->text, m, scratch->map, m, base};
    return KM_OK;
}

int64_t km__segment_start(const km__segment *segment, size_t at) {
    return segment->map != NULL ? segment->map[at] : segment->base + (int64_t)at;
}

int64_t km__segment_end(const km__segment *segment, size_t at) {
    const int64_t *map = segment->map;
    if (map == NULL) {
        return segment->base + (int64_t)at;
    }
    while (at > 0 && at < segment->n_map && map[at] == map[at - 1]) {
        at++;
    }
    return map[at];
}

/* Symbols of the bytes from `from`; *to is where they end: behind the word, or, in text that is not
 * well-formed, behind a byte without a token, because llama.cpp merges nothing across it. */
static km_status push_bytes(size_t *to, km__scratch *scratch, const km_tokenizer *tokenizer,
                            const char *word, size_t from, size_t n, km_error *err) {
    scratch->n_symbols = 0;
    for (size_t i = from; i < n; i++) {
        int32_t id = tokenizer->byte_ids[(unsigned char)word[i]];
        if (id >= 0) {
            km__symbol symbol = {.id = id, .begin = (int32_t)i, .end = (int32_t)i + 1};
            KM_TRY(km__scratch_push(scratch, &symbol, err));
        } else if (!scratch->well_formed) {
            *to = i + 1;
            return KM_OK;
        }
    }
    *to = n;
    return KM_OK;
}

static km_status merge_symbols(km_tokens *out, km__scratch *scratch, const km_tokenizer *tokenizer,
                               const km__segment *s, size_t at, km_error *err) {
    if (scratch->n_symbols == 0) {
        return KM_OK;
    }
    KM_TRY(km__merge_word(scratch, tokenizer, s->text + at, err));
    for (int32_t i = 0; i >= 0; i = scratch->symbols[i].next) {
        const km__symbol *symbol = &scratch->symbols[i];
        KM_TRY(km__tokens_push(out, symbol->id, km__segment_start(s, at + (size_t)symbol->begin),
                               km__segment_end(s, at + (size_t)symbol->end), err));
    }
    return KM_OK;
}

static km_status encode_word(km_tokens *out, km__scratch *scratch, const km_tokenizer *tokenizer,
                             const km__segment *s, size_t at, size_t n, km_error *err) {
    if (n > INT32_MAX) {
        return KM_SET(err, KM_ERANGE, "a word of %zu bytes is too long", n);
    }
    const char *word = s->text + at;
    if (tokenizer->ignore_merges) {
        int32_t id = km__text_table_find(&tokenizer->ids, &tokenizer->keys, word, n);
        if (id >= 0) {
            return km__tokens_push(out, id, km__segment_start(s, at), km__segment_end(s, at + n),
                                   err);
        }
    }
    for (size_t from = 0; from < n;) {
        size_t to;
        KM_TRY(push_bytes(&to, scratch, tokenizer, word, from, n, err));
        KM_TRY(merge_symbols(out, scratch, tokenizer, s, at, err));
        from = to;
    }
    return KM_OK;
}

km_status km__bpe_encode(km_tokens *out, km__scratch *scratch, const km_tokenizer *tokenizer,
                         const km__segment *segment, km_error *err) {
    km__segment s = *segment;
    if (!scratch->well_formed) { /* then nothing was normalised, and base holds */
        KM_TRY(clean(&s, scratch, segment->text, segment->n, segment->base, err));
    }
    for (size_t at = 0; at < s.n;) {
        size_t length = km__pre_next(tokenizer->pre, s.text + at, s.n - at);
        KM_TRY(encode_word(out, scratch, tokenizer, &s, at, length, err));
        at += length;
    }
    return KM_OK;
}
