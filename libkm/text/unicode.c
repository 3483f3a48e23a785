/* unicode.c: character classes by table, tolerant UTF-8, the GPT-2 byte alphabet.
 *
 * The classes are those `tokenizers` works with, code point by code point (unicode_tables.h). The
 * decoder accepts what llama.cpp's does, because llama.cpp is the authority on text that is not
 * well-formed: overlong forms and surrogates are characters there. */
#include <string.h>

#include "text/text_private.h"
#include "text/unicode_tables.h"

unsigned km__unicode_class(uint32_t code_point) {
    uint32_t wanted = (code_point << 4) | 15u;
    size_t low = 0;
    size_t high = KM_UNICODE_RUNS;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (km_unicode_runs[middle] <= wanted) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return km_unicode_runs[low] & 15u;
}

static bool continues(const unsigned char *p, size_t n, size_t length) {
    if (n < length) {
        return false;
    }
    for (size_t i = 1; i < length; i++) {
        if ((p[i] & 0xC0u) != 0x80u) {
            return false;
        }
    }
    return true;
}

size_t km__utf8_decode(uint32_t *out, const char *text, size_t n) {
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80) {
        *out = p[0];
        return 1;
    }
    size_t length = p[0] < 0xC0 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : p[0] < 0xF8 ? 4 : 0;
    if (length == 0 || !continues(p, n, length)) {
        return 0;
    }
    uint32_t code_point = p[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        code_point = (code_point << 6) | (p[i] & 0x3Fu);
    }
    if (code_point > 0x10FFFF) {
        return 0;
    }
    *out = code_point;
    return length;
}

size_t km__utf8_encode(char out[4], uint32_t code_point) {
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    size_t length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80u | (code_point & 0x3Fu));
        code_point >>= 6;
    }
    out[0] = (char)((0xF00u >> length & 0xF0u) | code_point);
    return length;
}

int64_t km__utf8_count(const char *text, size_t n) {
    int64_t count = 0;
    for (size_t i = 0; i < n; i++) {
        count += ((unsigned char)text[i] & 0xC0u) != 0x80u;
    }
    return count;
}

/* Printable Latin-1 stands for itself; the other 68 bytes follow in order from U+0100. */
int km__alphabet_byte(uint32_t code_point) {
    if ((code_point >= 0x21 && code_point <= 0x7E) || (code_point >= 0xA1 && code_point <= 0xAC) ||
        (code_point >= 0xAE && code_point <= 0xFF)) {
        return (int)code_point;
    }
    if (code_point < 0x100 || code_point > 0x143) {
        return -1;
    }
    int index = (int)code_point - 0x100;
    if (index <= 0x20) {
        return index;
    }
    return index < 0x43 ? index - 0x21 + 0x7F : 0xAD;
}

const char *km__text_quote(char out[KM__QUOTE], const char *text, size_t n) {
    if (text == NULL) {
        return strcpy(out, "(none)");
    }
    size_t m = 0;
    for (size_t at = 0; at < n && m < KM__QUOTE - 8;) {
        uint32_t c;
        size_t length = km__utf8_decode(&c, text + at, n - at);
        if (length > 0 && c >= ' ' && c != 0x7F && km_utf8_valid(text + at, length)) {
            memcpy(out + m, text + at, length);
            m += length;
            at += length;
        } else {
            out[m++] = '?';
            at++;
        }
    }
    out[m] = '\0';
    return out;
}
