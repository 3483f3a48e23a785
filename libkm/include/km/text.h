/* km/text.h: tokenizers: byte-level BPE and SentencePiece-style BPE, exact ids, byte offsets.
 *
 * Authority on ids: Hugging Face `tokenizers` for valid UTF-8, llama.cpp for invalid bytes; the
 * known disagreements are listed in docs/tokenizers.md. A km_tokenizer is immutable and may be
 * shared between threads.
 */
#ifndef KM_TEXT_H
#define KM_TEXT_H

#include "km/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct km_tokenizer km_tokenizer;

typedef struct km_token {
    int32_t id;
    int32_t reserved;
    int64_t start, end; /* bytes of the input text this token stands for; start == end: none */
} km_token;

/* Grows as needed; free with km_tokens_clear. KM_TOKENS_INIT is the empty state. */
typedef struct km_tokens {
    km_token *items;
    int64_t n, capacity;
    km_ctx *ctx;
} km_tokens;
#define KM_TOKENS_INIT {NULL, 0, 0, NULL}
/* Free the items and return to the empty state. */
KM_API void km_tokens_clear(km_tokens *tokens);

typedef enum km_bos { KM_BOS_MODEL = -1, KM_BOS_NEVER = 0, KM_BOS_ALWAYS = 1 } km_bos;

typedef struct km_encode_options {
    km_bos bos;         /* KM_BOS_MODEL: what the model file says */
    bool parse_special; /* treat special tokens written in the text as those tokens */
} km_encode_options;
#define KM_ENCODE_OPTIONS_INIT {KM_BOS_MODEL, false}

/* Free a tokenizer that no model owns. NULL is a no-op. */
KM_API void km_tokenizer_free(km_tokenizer *tokenizer);

/* Append the tokens of n bytes of text (any bytes) to *out. */
KM_API KM_NODISCARD km_status km_tokenizer_encode(km_tokens *out, const km_tokenizer *tokenizer,
                                                  const char *text, size_t n,
                                                  const km_encode_options *options, km_error *err);
/* The bytes ids stand for, malloc'ed through the tokenizer's context: free with km_text_free.
 * Special tokens are written only when `special`. Errors: KM_ERANGE for an id outside the
 * vocabulary. */
KM_API KM_NODISCARD km_status km_tokenizer_decode(char **out, size_t *n_out,
                                                  const km_tokenizer *tokenizer, const int32_t *ids,
                                                  int64_t n, bool special, km_error *err);
/* Free what km_tokenizer_decode gave; NULL is a no-op. */
KM_API void km_text_free(const km_tokenizer *tokenizer, char *text);

/* Ids go from 0 to this number - 1. */
KM_API int64_t km_tokenizer_vocab_size(const km_tokenizer *tokenizer);
/* The beginning-of-sequence token; -1: none. */
KM_API int32_t km_tokenizer_bos(const km_tokenizer *tokenizer);
/* The end-of-sequence token; -1: none. */
KM_API int32_t km_tokenizer_eos(const km_tokenizer *tokenizer);
/* Whether KM_BOS_MODEL begins with bos. */
KM_API bool km_tokenizer_adds_bos(const km_tokenizer *tokenizer);
/* The token's surface bytes (after undoing the byte alphabet or the blank mark); NULL for an id
 * outside the vocabulary. Borrowed. */
KM_API const char *km_tokenizer_piece(const km_tokenizer *tokenizer, int32_t id, size_t *n);
/* Whether a token is a control or unknown token: found in text only with parse_special, written by
 * decoding only with `special`. User-defined tokens are not special. */
KM_API bool km_tokenizer_is_special(const km_tokenizer *tokenizer, int32_t id);
/* SHA-256 (hex) over kind, pre-tokenizer, flags, vocabulary, merges or scores, types. Borrowed. */
KM_API const char *km_tokenizer_hash(const km_tokenizer *tokenizer);

#ifdef __cplusplus
}
#endif

#endif
