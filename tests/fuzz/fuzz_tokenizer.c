/* fuzz_tokenizer.c: any bytes as a tokenizer, then as text. Input that starts with "GGUF" is a GGUF
 * file whose metadata describe the tokenizer; anything else is a tokenizer.json, and what follows
 * its first zero byte, where there is one, is text for it. */
#include "fuzz.h"

#include "model/tokenizer_source.h"
#include "text/spec.h"

/* Tokens are in the vocabulary, in order and inside the text; decoding them works. */
static void check_encoding(const km_tokenizer *tokenizer, const char *text, size_t n,
                           bool special) {
    km_tokens tokens = KM_TOKENS_INIT;
    km_error err = KM_ERROR_INIT;
    const km_encode_options options = {KM_BOS_MODEL, special};
    km_status status = km_tokenizer_encode(&tokens, tokenizer, text, n, &options, &err);
    fuzz_check_error(status, &err);
    int64_t last = 0;
    for (int64_t i = 0; i < tokens.n; i++) {
        const km_token *token = &tokens.items[i];
        char *decoded = NULL;
        size_t length;
        if (token->start < last || token->end < token->start || token->end > (int64_t)n ||
            km_tokenizer_decode(&decoded, &length, tokenizer, &token->id, 1, true, &err) != KM_OK) {
            abort();
        }
        km_text_free(tokenizer, decoded);
        last = token->start;
    }
    km_tokens_clear(&tokens);
}

static void use(const km_tokenizer *tokenizer, const char *text, size_t n) {
    static const char sample[] = "A b  c\n\n12 caf\xC3\xA9 \xFF <s>ab\xE2\x96\x81 '\xC5\xBF it's";
    check_encoding(tokenizer, text, n, true);
    check_encoding(tokenizer, text, n, false);
    check_encoding(tokenizer, sample, sizeof sample - 1, true);
}

static km_status from_gguf(km_tokenizer **out, const uint8_t *data, size_t size, km_error *err) {
    km_gguf *gguf = NULL;
    km_status status = km_gguf_parse(&gguf, fuzz_ctx(), data, size, err);
    if (status == KM_OK) {
        status = km__tokenizer_from_gguf(out, fuzz_ctx(), gguf, err);
    }
    km_gguf_free(gguf);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    km_tokenizer *tokenizer = NULL;
    km_error err = KM_ERROR_INIT;
    km_status status;
    size_t n = size;
    (void)fuzz_ctx();
    size_t base = fuzz_used.live;
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
        status = from_gguf(&tokenizer, data, size, &err);
    } else {
        const char *zero = size > 0 ? memchr(text, '\0', size) : NULL;
        n = zero != NULL ? (size_t)(zero - text) : size;
        status = km_tokenizer_from_json(&tokenizer, fuzz_ctx(), text, n, NULL, 0, &err);
    }
    fuzz_check_error(status, &err);
    fuzz_check_peak(base, size, 64);
    if (status == KM_OK) {
        use(tokenizer, text + n, size - n);
    }
    km_tokenizer_free(tokenizer);
    return 0;
}
