/* tokenizer.c: the public face of a tokenizer: encode, decode, what its tokens are.
 *
 * Encoding cuts out the added tokens and gives each stretch between them to bpe.c or spm.c with
 * its offset in the whole text. A call that fails takes back what it appended, so that the
 * caller's list is as it was.
 */
#include <string.h>

#include "text/text_private.h"

void km_tokens_clear(km_tokens *tokens) {
    if (tokens->ctx != NULL) {
        km_free(tokens->ctx, tokens->items);
    }
    *tokens = (km_tokens)KM_TOKENS_INIT;
}

km_status km__tokens_push(km_tokens *out, int32_t id, int64_t start, int64_t end, km_error *err) {
    if (out->n == out->capacity) {
        int64_t capacity = out->capacity < 32 ? 32 : out->capacity + out->capacity / 2;
        void *block = out->items;
        size_t bytes;
        if (!km_size_mul(&bytes, (size_t)capacity, sizeof(km_token))) {
            return KM_SET(err, KM_ENOMEM, "%lld tokens do not fit into memory",
                          (long long)capacity);
        }
        KM_TRY(km_realloc(&block, out->ctx, bytes, err));
        out->items = block;
        out->capacity = capacity;
    }
    out->items[out->n++] = (km_token){.id = id, .start = start, .end = end};
    return KM_OK;
}

void km_tokenizer_free(km_tokenizer *tokenizer) {
    if (tokenizer == NULL) {
        return;
    }
    km_ctx *ctx = tokenizer->ctx;
    km__strings_clear(&tokenizer->surface, ctx);
    km__strings_clear(&tokenizer->keys, ctx);
    km__text_table_clear(&tokenizer->ids, ctx);
    km__merge_table_clear(&tokenizer->merges, ctx);
    km_free(ctx, tokenizer->types);
    km_free(ctx, tokenizer->priority);
    km_free(ctx, tokenizer->pairs);
    km_free(ctx, tokenizer->added.items);
    km_free(ctx, tokenizer->late.items);
    km_free(ctx, tokenizer);
}

/* The bytes from..to of a segment. */
static km__segment part_of(const km__segment *s, size_t from, size_t to) {
    const int64_t *map = s->map != NULL ? s->map + from : NULL;
    size_t n_map = s->map != NULL ? s->n_map - from : 0;
    return (km__segment){s->text + from, to - from, map, n_map, s->base + (int64_t)from};
}

static km_status encode_piece(km_tokens *out, km__scratch *scratch, const km_tokenizer *tokenizer,
                              const km__segment *segment, km_error *err) {
    if (segment->n == 0) {
        return KM_OK;
    }
    if (tokenizer->kind == KM_TOKENIZER_BPE) {
        return km__bpe_encode(out, scratch, tokenizer, segment, err);
    }
    return km__spm_encode(out, scratch, tokenizer, segment->text, segment->n, segment->base, err);
}

typedef km_status (*encode_fn)(km_tokens *out, km__scratch *scratch, const km_tokenizer *tokenizer,
                               const km__segment *segment, km_error *err);

/* Cut out the tokens of a set, give what lies between to `encode`. A special token that is not to
 * be parsed is still found first, as in `tokenizers`, so that no user-defined token matches inside
 * it. */
static km_status cut_out(km_tokens *out, km__scratch *scratch, const km_tokenizer *tokenizer,
                         const km__added_set *set, const km__segment *s, encode_fn encode,
                         km_error *err) {
    size_t from = 0;
    size_t look = 0;
    size_t start;
    km__segment part;
    const km__added *found;
    while ((found = km__added_set_find(set, s->text, s->n, look, &start)) != NULL) {
        look = start + found->n;
        if (!scratch->parse_special && km_tokenizer_is_special(tokenizer, found->id)) {
            continue;
        }
        part = part_of(s, from, start);
        KM_TRY(encode(out, scratch, tokenizer, &part, err));
        KM_TRY(km__tokens_push(out, found->id, km__segment_start(s, start),
                               km__segment_end(s, look), err));
        from = look;
    }
    part = part_of(s, from, s->n);
    return encode(out, scratch, tokenizer, &part, err);
}

/* A stretch between added tokens: normalise, then cut out those that are looked for afterwards. */
static km_status encode_stretch(km_tokens *out, km__scratch *scratch, const km_tokenizer *tokenizer,
                                const km__segment *segment, km_error *err) {
    km__segment s = *segment;
    if (tokenizer->nfc && scratch->well_formed && km__nfc_needed(s.text, s.n)) {
        KM_TRY(km__nfc_run(&scratch->nfc, s.text, s.n, s.base, err));
        s = (km__segment){scratch->nfc.text, scratch->nfc.n, scratch->nfc.map, scratch->nfc.n,
                          s.base};
    }
    return cut_out(out, scratch, tokenizer, &tokenizer->late, &s, encode_piece, err);
}

km_status km_tokenizer_encode(km_tokens *out, const km_tokenizer *tokenizer, const char *text,
                              size_t n, const km_encode_options *options, km_error *err) {
    const km_encode_options defaults = KM_ENCODE_OPTIONS_INIT;
    options = options != NULL ? options : &defaults;
    if (options->bos == KM_BOS_ALWAYS && tokenizer->bos < 0) {
        return KM_SET(err, KM_EINVAL, "bos asked for, but this tokenizer has no bos token");
    }
    if (out->ctx == NULL) {
        out->ctx = tokenizer->ctx;
    }
    km__scratch scratch = {.ctx = tokenizer->ctx,
                           .nfc = {.ctx = tokenizer->ctx},
                           .well_formed = km_utf8_valid(text, n),
                           .parse_special = options->parse_special};
    const km__segment whole = {text, n, NULL, 0, 0};
    int64_t before = out->n;
    km_status status = KM_OK;
    bool bos = options->bos == KM_BOS_MODEL ? tokenizer->add_bos : options->bos == KM_BOS_ALWAYS;
    if (bos) {
        KM_GO(km__tokens_push(out, tokenizer->bos, 0, 0, err));
    }
    KM_GO(cut_out(out, &scratch, tokenizer, &tokenizer->added, &whole, encode_stretch, err));
done:
    km__scratch_clear(&scratch);
    if (status != KM_OK) {
        out->n = before;
    }
    return status;
}

/* Bytes of the decoded ids; errors: KM_ERANGE. */
static km_status decoded_size(size_t *out, const km_tokenizer *tokenizer, const int32_t *ids,
                              int64_t n, km_error *err) {
    size_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= tokenizer->n) {
            return KM_SET(err, KM_ERANGE,
                          "id %d at position %lld is outside the vocabulary of %lld", ids[i],
                          (long long)i, (long long)tokenizer->n);
        }
        if (!km_size_add(&total, total, km__strings_at(&tokenizer->surface, ids[i]).n)) {
            return KM_SET(err, KM_ENOMEM, "the text of %lld ids is too long", (long long)n);
        }
    }
    *out = total;
    return KM_OK;
}

km_status km_tokenizer_decode(char **out, size_t *n_out, const km_tokenizer *tokenizer,
                              const int32_t *ids, int64_t n, bool special, km_error *err) {
    size_t room;
    void *block = NULL;
    KM_TRY(decoded_size(&room, tokenizer, ids, n, err));
    if (!km_size_add(&room, room, 1)) {
        return KM_SET(err, KM_ENOMEM, "the text of %lld ids is too long", (long long)n);
    }
    KM_TRY(km_alloc(&block, tokenizer->ctx, room, err));
    char *text = block;
    size_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        km_slice piece = km__strings_at(&tokenizer->surface, ids[i]);
        if ((special || !km_tokenizer_is_special(tokenizer, ids[i])) && piece.n > 0) {
            memcpy(text + at, piece.data, piece.n);
            at += piece.n;
        }
    }
    if (tokenizer->prefix != KM_PREFIX_NONE && at > 0 && text[0] == ' ') {
        memmove(text, text + 1, --at); /* the blank that encoding puts before the text */
    }
    text[at] = '\0';
    *out = text;
    *n_out = at;
    return KM_OK;
}

void km_text_free(const km_tokenizer *tokenizer, char *text) {
    km_free(tokenizer->ctx, text);
}

int64_t km_tokenizer_vocab_size(const km_tokenizer *tokenizer) {
    return tokenizer->n;
}

int32_t km_tokenizer_bos(const km_tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t km_tokenizer_eos(const km_tokenizer *tokenizer) {
    return tokenizer->eos;
}

bool km_tokenizer_adds_bos(const km_tokenizer *tokenizer) {
    return tokenizer->add_bos;
}

const char *km_tokenizer_piece(const km_tokenizer *tokenizer, int32_t id, size_t *n) {
    if (id < 0 || id >= tokenizer->n) {
        return NULL;
    }
    km_slice piece = km__strings_at(&tokenizer->surface, id);
    *n = piece.n;
    return piece.data;
}

bool km_tokenizer_is_special(const km_tokenizer *tokenizer, int32_t id) {
    if (id < 0 || id >= tokenizer->n) {
        return false;
    }
    return tokenizer->types[id] == KM_TOKEN_CONTROL || tokenizer->types[id] == KM_TOKEN_UNKNOWN;
}
