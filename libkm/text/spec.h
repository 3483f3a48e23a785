/* spec.h: everything that defines a tokenizer, however its file wrote it. Private. */
#ifndef KM_TEXT_SPEC_H
#define KM_TEXT_SPEC_H

#include "base/base.h"
#include "km/text.h"

typedef enum km_tokenizer_kind { KM_TOKENIZER_BPE = 0, KM_TOKENIZER_SPM } km_tokenizer_kind;

/* As GGUF's tokenizer.ggml.token_type writes them. */
typedef enum km_token_type {
    KM_TOKEN_NORMAL = 1,
    KM_TOKEN_UNKNOWN = 2,
    KM_TOKEN_CONTROL = 3,
    KM_TOKEN_USER_DEFINED = 4,
    KM_TOKEN_UNUSED = 5,
    KM_TOKEN_BYTE = 6
} km_token_type;

/* Where a SentencePiece-style tokenizer puts a leading blank. */
typedef enum km_prefix {
    KM_PREFIX_NONE = 0,
    KM_PREFIX_EVERY,  /* before every stretch between added tokens */
    KM_PREFIX_ABSENT, /* before every stretch that does not begin with a blank */
    KM_PREFIX_FIRST   /* the same, at the start of the text alone */
} km_prefix;

typedef struct km_slice {
    const char *data;
    size_t n;
} km_slice;

typedef struct km_tokenizer_spec {
    km_tokenizer_kind kind;
    const char *pre;        /* "gpt2", "llama-bpe", "smollm", "qwen2"; ignored for SPM */
    bool nfc;               /* BPE: well-formed text is brought into form C first */
    const km_slice *tokens; /* (n_tokens) as stored: byte alphabet (BPE) or U+2581 marks (SPM) */
    const float *scores;    /* (n_tokens) SPM, else NULL */
    const int32_t *types;   /* (n_tokens) km_token_type */
    const bool *late;       /* (n_tokens) added tokens found after normalising; NULL: none */
    int64_t n_tokens;
    const km_slice *merges; /* (n_merges) "left right" (BPE) */
    int64_t n_merges;
    int32_t bos, eos, unk; /* -1: none */
    km_prefix prefix;      /* SPM */
    bool add_bos, ignore_merges;
} km_tokenizer_spec;

#define KM__QUOTE 72
/* Text of a file as an error message may show it: at most 64 bytes, whole characters, anything else
 * than printable UTF-8 as '?'; "(none)" for NULL. Returns out. */
const char *km__text_quote(char out[KM__QUOTE], const char *text, size_t n);

/* Build from a specification (copied). Errors: KM_EFORMAT (duplicate token, merge of unknown
 * pieces, byte token out of range ...), KM_EUNSUPPORTED (unknown pre-tokenizer, by name). */
KM_NODISCARD km_status km_tokenizer_new(km_tokenizer **out, km_ctx *ctx,
                                        const km_tokenizer_spec *spec, km_error *err);
/* Build from a Hugging Face tokenizer.json held in memory; `config_text` is tokenizer_config.json
 * or NULL. Unknown component kinds are KM_EUNSUPPORTED, by name. */
KM_NODISCARD km_status km_tokenizer_from_json(km_tokenizer **out, km_ctx *ctx, const char *text,
                                              size_t n, const char *config_text, size_t config_n,
                                              km_error *err);

#endif
