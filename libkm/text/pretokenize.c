/* pretokenize.c: the four ways of cutting text into words, as scanners.
 *
 *   gpt2       's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   smollm     every character the Digits splitter takes stands alone, gpt2 between them
 *   llama-bpe  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
 *              | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *   qwen2      llama-bpe with \p{N} for \p{N}{1,3}
 *
 * Alternatives are tried in the order written, as a backtracking engine does; each scanner reads a
 * character a bounded number of times, so cutting is linear in the text. A run of blanks before a
 * word loses its last blank (`\s+(?!\S)`), which then leads the word or stands alone. */
#include <string.h>

#include "text/text_private.h"

/* The class beyond the last character, and of a digit that smollm isolates. */
#define STOP 16u

typedef struct scanner {
    const char *text;
    size_t n;
    bool isolate_digits;
} scanner;

static const char *const names[] = {"gpt2", "llama-bpe", "smollm", "qwen2"};

/* Other names llama.cpp writes for the same expressions. */
static const struct {
    const char *alias;
    km__pre pre;
} aliases[] = {{"gpt-2", KM__PRE_GPT2},
               {"olmo", KM__PRE_GPT2},
               {"llama3", KM__PRE_LLAMA_BPE},
               {"llama-v3", KM__PRE_LLAMA_BPE},
               {"dbrx", KM__PRE_LLAMA_BPE}};

/* The class at `at`; the character and its length go to the outputs, 0 at the end. */
static unsigned look(const scanner *s, size_t at, uint32_t *c, size_t *length) {
    *c = 0;
    *length = 0;
    if (at >= s->n) {
        return STOP;
    }
    *length = km__utf8_decode(c, s->text + at, s->n - at);
    if (*length == 0) { /* cleaned text has no such bytes; take one so that scanning ends */
        *length = 1;
        *c = 0xFFFD;
    }
    unsigned class = km__unicode_class(*c);
    if (s->isolate_digits && (class & KM__DIGIT) != 0) {
        return STOP;
    }
    return class & (KM__LETTER | KM__NUMBER | KM__BLANK);
}

/* End of the run of class `wanted` from `at`, at most `limit` characters. */
static size_t run_end(const scanner *s, size_t at, unsigned wanted, int limit) {
    uint32_t c;
    size_t length;
    for (int i = 0; i != limit && look(s, at, &c, &length) == wanted; i++) {
        at += length;
    }
    return at;
}

static bool is_newline(uint32_t c) {
    return c == '\n' || c == '\r';
}

/* U+017F folds to s: the case-insensitive expressions accept it. */
static uint32_t fold(uint32_t c) {
    if (c == 0x17F) {
        return 's';
    }
    return c >= 'A' && c <= 'Z' ? c + 32 : c;
}

/* Length of a contraction ('s 't 're 've 'm 'll 'd) at the start, 0: none. */
static size_t contraction(const scanner *s, bool any_case) {
    uint32_t quote, a, b;
    size_t n_quote, n_a, n_b;
    (void)look(s, 0, &quote, &n_quote);
    if (quote != '\'') {
        return 0;
    }
    (void)look(s, n_quote, &a, &n_a);
    (void)look(s, n_quote + n_a, &b, &n_b);
    a = any_case ? fold(a) : a;
    b = any_case ? fold(b) : b;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') {
        return n_quote + n_a;
    }
    bool pair = (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l');
    return pair ? n_quote + n_a + n_b : 0;
}

/* \s+(?!\S)|\s+ from the start, which is blank. */
static size_t blanks(const scanner *s) {
    uint32_t c;
    size_t length;
    size_t at = 0;
    size_t last = 0;
    while (look(s, at, &c, &length) == KM__BLANK) {
        last = at;
        at += length;
    }
    bool at_end = at >= s->n || look(s, at, &c, &length) == STOP;
    return at_end || last == 0 ? at : last;
}

static size_t next_gpt2(const scanner *s) {
    size_t length = contraction(s, false);
    if (length > 0) {
        return length;
    }
    uint32_t c;
    unsigned class = look(s, 0, &c, &length);
    size_t start = 0;
    if (c == ' ') {
        uint32_t after;
        size_t n_after;
        unsigned next = look(s, length, &after, &n_after);
        if (next == KM__BLANK || next == STOP) {
            return blanks(s);
        }
        start = length;
        class = next;
    }
    return class == KM__BLANK ? blanks(s) : run_end(s, start, class, -1);
}

static size_t next_smollm(const scanner *s) {
    uint32_t c;
    size_t length;
    if (look(s, 0, &c, &length) == STOP) {
        return length;
    }
    return next_gpt2(s);
}

/* ` ?[^\s\p{L}\p{N}]+[\r\n]*` from the start; 0: no match. */
static size_t symbols(const scanner *s, size_t start) {
    size_t end = run_end(s, start, 0, -1);
    if (end == start) {
        return 0;
    }
    while (end < s->n && is_newline((unsigned char)s->text[end])) {
        end++;
    }
    return end;
}

/* \s*[\r\n]+: the run of blanks up to its last newline; 0: it has none. */
static size_t newlines(const scanner *s) {
    uint32_t c;
    size_t length;
    size_t end = 0;
    for (size_t at = 0; look(s, at, &c, &length) == KM__BLANK;) {
        at += length;
        end = is_newline(c) ? at : end;
    }
    return end;
}

static size_t next_llama(const scanner *s, int digits) {
    size_t length = contraction(s, true);
    if (length > 0) {
        return length;
    }
    uint32_t c, after;
    size_t n_after;
    unsigned class = look(s, 0, &c, &length);
    if (class == KM__LETTER) {
        return run_end(s, 0, KM__LETTER, -1);
    }
    if (class == KM__NUMBER) {
        return run_end(s, 0, KM__NUMBER, digits);
    }
    if (!is_newline(c) && look(s, length, &after, &n_after) == KM__LETTER) {
        return run_end(s, length, KM__LETTER, -1);
    }
    size_t end = class == KM__BLANK && c != ' ' ? 0 : symbols(s, c == ' ' ? length : 0);
    if (end == 0) {
        end = newlines(s);
    }
    return end > 0 ? end : blanks(s);
}

km_status km__pre_find(km__pre *out, const char *name, km_error *err) {
    for (size_t i = 0; name != NULL && i < sizeof aliases / sizeof aliases[0]; i++) {
        name = strcmp(name, aliases[i].alias) == 0 ? names[aliases[i].pre] : name;
    }
    for (size_t i = 0; name != NULL && i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (km__pre)i;
            return KM_OK;
        }
    }
    char quote[KM__QUOTE];
    return KM_SET(err, KM_EUNSUPPORTED,
                  "pre-tokenizer '%s' is not one of gpt2, llama-bpe, smollm, qwen2",
                  km__text_quote(quote, name, name != NULL ? strlen(name) : 0));
}

const char *km__pre_name(km__pre pre) {
    return names[pre];
}

size_t km__pre_next(km__pre pre, const char *text, size_t n) {
    scanner s = {text, n, pre == KM__PRE_SMOLLM};
    switch (pre) {
    case KM__PRE_GPT2:
        return next_gpt2(&s);
    case KM__PRE_SMOLLM:
        return next_smollm(&s);
    case KM__PRE_LLAMA_BPE:
        return next_llama(&s, 3);
    case KM__PRE_QWEN2:
        return next_llama(&s, 1);
    }
    return n;
}
