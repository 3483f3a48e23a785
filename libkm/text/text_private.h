/* text_private.h: what the files of libkm/text share: character classes, form C, pre-tokenizers,
 * lookup tables, the tokenizer object and the merge engine. */
#ifndef KM_TEXT_TEXT_PRIVATE_H
#define KM_TEXT_TEXT_PRIVATE_H

#include <stdatomic.h>

#include "text/spec.h"

/* ---- unicode.c: classes as `tokenizers` sees them, and tolerant decoding ---- */

#define KM__LETTER 1u /* \p{L} */
#define KM__NUMBER 2u /* \p{N} */
#define KM__BLANK 4u  /* \s */
#define KM__DIGIT 8u  /* what the Digits splitter isolates: newer Unicode than the expressions */

unsigned km__unicode_class(uint32_t code_point);
/* Decode one character as llama.cpp does: overlong forms and surrogates pass. Returns its length, 0
 * when the bytes are no character or lie beyond U+10FFFF; n > 0. */
size_t km__utf8_decode(uint32_t *out, const char *text, size_t n);
/* Write the UTF-8 form (up to 4 bytes; a surrogate gives 3). Returns its length. */
size_t km__utf8_encode(char out[4], uint32_t code_point);
/* Number of bytes that start a character. */
int64_t km__utf8_count(const char *text, size_t n);
/* The GPT-2 byte alphabet: which byte a code point stands for, -1: none. */
int km__alphabet_byte(uint32_t code_point);

/* ---- nfc.c ---- */

typedef struct km__nfc_char {
    uint32_t code_point, class;
} km__nfc_char;

/* Text in form C and the way back to the input. */
typedef struct km__nfc {
    km_ctx *ctx;
    char *text;
    int64_t *map; /* (n + 1) offset in the input of each byte; equal for all bytes of a block */
    size_t n, capacity;
    int64_t base;
    km__nfc_char *chars; /* (2 * char_capacity) one run, and room to sort it */
    int64_t n_chars, char_capacity;
} km__nfc;

/* Whether well-formed text may differ from its form C. */
bool km__nfc_needed(const char *text, size_t n);
/* Bring well-formed text, which starts at `base` of the input, into form C. */
KM_NODISCARD km_status km__nfc_run(km__nfc *work, const char *text, size_t n, int64_t base,
                                   km_error *err);
void km__nfc_clear(km__nfc *work);

/* ---- pretokenize.c ---- */

typedef enum km__pre { KM__PRE_GPT2 = 0, KM__PRE_LLAMA_BPE, KM__PRE_SMOLLM, KM__PRE_QWEN2 } km__pre;

/* Errors: KM_EUNSUPPORTED, by name. */
KM_NODISCARD km_status km__pre_find(km__pre *out, const char *name, km_error *err);
const char *km__pre_name(km__pre pre);
/* Length in bytes of the first piece of text, n > 0. Every character must decode. */
size_t km__pre_next(km__pre pre, const char *text, size_t n);

/* ---- table.c: strings by id, and open-addressing tables over them ---- */

/* Byte strings one after the other; string i is data[offsets[i] .. offsets[i + 1]). */
typedef struct km__strings {
    char *data;
    size_t *offsets; /* (n + 1) */
    int64_t n;
} km__strings;

KM_NODISCARD km_status km__strings_init(km__strings *out, km_ctx *ctx, int64_t n, size_t bytes,
                                        km_error *err);
void km__strings_clear(km__strings *strings, km_ctx *ctx);
km_slice km__strings_at(const km__strings *strings, int64_t index);

/* From a byte string to its id. */
typedef struct km__text_table {
    int32_t *slots; /* (mask + 1) id, -1 where empty */
    uint64_t mask;
} km__text_table;

KM_NODISCARD km_status km__text_table_init(km__text_table *out, km_ctx *ctx, int64_t n,
                                           km_error *err);
void km__text_table_clear(km__text_table *table, km_ctx *ctx);
/* Errors: KM_EFORMAT when an equal string is there, or when a crafted vocabulary collides. */
KM_NODISCARD km_status km__text_table_add(km__text_table *table, const km__strings *strings,
                                          int32_t id, km_error *err);
int32_t km__text_table_find(const km__text_table *table, const km__strings *strings,
                            const char *text, size_t n); /* -1: none */

/* From two adjacent ids to the rank of their merge and what it makes. */
typedef struct km__merge {
    int32_t left, right; /* left -1: empty */
    int32_t rank, made;
} km__merge;

typedef struct km__merge_table {
    km__merge *slots; /* (mask + 1), NULL when there are no merges */
    uint64_t mask;
} km__merge_table;

KM_NODISCARD km_status km__merge_table_init(km__merge_table *out, km_ctx *ctx, int64_t n,
                                            km_error *err);
void km__merge_table_clear(km__merge_table *table, km_ctx *ctx);
/* Errors: KM_EFORMAT when the pair is there, or when crafted pairs collide. */
KM_NODISCARD km_status km__merge_table_add(km__merge_table *table, const km__merge *merge,
                                           km_error *err);
const km__merge *km__merge_table_find(const km__merge_table *table, int32_t left, int32_t right);

/* ---- added.c: tokens that are cut out of the text before anything else ---- */

typedef struct km__added {
    const char *text; /* borrowed from the tokenizer */
    size_t n;
    int32_t id;
} km__added;

typedef struct km__added_set {
    km__added *items; /* sorted by text */
    int64_t n;
    int64_t first[257]; /* items that start with byte b are first[b] .. first[b + 1] - 1 */
} km__added_set;

/* Sort and index items; errors: KM_EFORMAT for a repeated text, KM_EUNSUPPORTED for one that is
 * too long. */
KM_NODISCARD km_status km__added_set_index(km__added_set *set, km_error *err);
/* The leftmost, there the longest, added token at or after `from`. Returns NULL for none. */
const km__added *km__added_set_find(const km__added_set *set, const char *text, size_t n,
                                    size_t from, size_t *start);

/* ---- tokenizer.c ---- */

#define KM__LONGEST_BLANKS 64

struct km_tokenizer {
    km_ctx *ctx;
    km_tokenizer_kind kind;
    km__pre pre;
    int32_t bos, eos, unk;
    bool add_bos, ignore_merges, nfc;
    km_prefix prefix;
    int64_t n;
    unsigned char *types;   /* (n) km_token_type */
    km__strings surface;    /* what a token adds to decoded text */
    km__strings keys;       /* what it is in the alphabet the merges work on */
    km__text_table ids;     /* over keys */
    km__merge_table merges; /* by rank; without slots SPM merges by `priority` */
    uint64_t *priority;     /* (n) SPM without merges: 33 bits, lower first; else NULL */
    int32_t byte_ids[256];  /* -1 where the vocabulary has no token for the byte */
    size_t longest;         /* bytes of the longest key */
    size_t longest_blanks;  /* SPM: blanks in the longest token of blanks alone, 0: none */
    km__added_set added;    /* found in the text as it is */
    km__added_set late;     /* found after normalising, between those */
    uint64_t *pairs;        /* (n_pairs) left << 32 | right of each merge, by rank; for the hash */
    int64_t n_pairs;
    atomic_int hash_state; /* hash.c: absent, being written, ready */
    char hash[65];
};

/* ---- merge.c: repeated merging of the best adjacent pair in O(n log n) ---- */

typedef struct km__symbol {
    int32_t id;         /* -1 once merged into its left neighbour */
    int32_t prev, next; /* -1: none */
    int32_t begin, end; /* bytes of the word */
    bool fixed;         /* takes no part in merges by text */
} km__symbol;

typedef struct km__candidate {
    uint64_t key; /* lower is merged earlier; then by made, then by left */
    int32_t made, left, end;
} km__candidate;

/* Working memory of one encode call. */
typedef struct km__scratch {
    km_ctx *ctx;
    km__symbol *symbols;
    int64_t n_symbols, symbol_capacity;
    km__candidate *heap;
    int64_t n_heap, heap_capacity;
    char *text; /* cleaned or marked copy of the segment */
    size_t text_n, text_capacity;
    int64_t *map; /* (text_n + 1) offset in the input of each byte of the cleaned copy */
    size_t map_capacity;
    km__nfc nfc;
    bool well_formed;   /* the whole input is UTF-8: `tokenizers` decides, else llama.cpp */
    bool parse_special; /* as the caller asked */
} km__scratch;

void km__scratch_clear(km__scratch *scratch);
/* Make room for `n` bytes in text, or `n` offsets in map. */
KM_NODISCARD km_status km__scratch_reserve_text(km__scratch *scratch, size_t n, km_error *err);
KM_NODISCARD km_status km__scratch_reserve_map(km__scratch *scratch, size_t n, km_error *err);
/* Append a symbol linked to the last one. */
KM_NODISCARD km_status km__scratch_push(km__scratch *scratch, const km__symbol *symbol,
                                        km_error *err);
/* Merge the symbols of one word; what remains is the list from symbol 0 by `next`. */
KM_NODISCARD km_status km__merge_word(km__scratch *scratch, const km_tokenizer *tokenizer,
                                      const char *word, km_error *err);

/* A stretch of text, perhaps normalised, and the way back to the input. */
typedef struct km__segment {
    const char *text;
    size_t n;
    const int64_t *map; /* (n_map + 1), NULL: offsets are base + position */
    size_t n_map;       /* at least n: what follows in the normalised text */
    int64_t base;
} km__segment;

/* Offsets in the input of a token of the segment. The end inside a block is the block's end. */
int64_t km__segment_start(const km__segment *segment, size_t at);
int64_t km__segment_end(const km__segment *segment, size_t at);

/* ---- bpe.c, spm.c: tokens of a segment without added tokens; `base` is its offset ---- */

KM_NODISCARD km_status km__tokens_push(km_tokens *out, int32_t id, int64_t start, int64_t end,
                                       km_error *err);
KM_NODISCARD km_status km__bpe_encode(km_tokens *out, km__scratch *scratch,
                                      const km_tokenizer *tokenizer, const km__segment *segment,
                                      km_error *err);
KM_NODISCARD km_status km__spm_encode(km_tokens *out, km__scratch *scratch,
                                      const km_tokenizer *tokenizer, const char *text, size_t n,
                                      int64_t base, km_error *err);

#endif
