/* utf8.c: well-formed UTF-8 by table 3-7 of the Unicode Standard. */
#include "base/base.h"

/* The allowed range of the second byte depends on the lead; it is what excludes overlong forms,
 * surrogates and code points beyond U+10FFFF. Returns the sequence's length, 0 when ill-formed. */
static size_t sequence_length(const unsigned char *p, size_t n) {
    unsigned char lead = p[0];
    size_t length = lead < 0x80   ? 1
                    : lead < 0xC2 ? 0
                    : lead < 0xE0 ? 2
                    : lead < 0xF0 ? 3
                    : lead < 0xF5 ? 4
                                  : 0;
    if (length <= 1 || n < length) {
        return length == 1 ? 1 : 0;
    }
    unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < low || p[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < length; i++) {
        if ((p[i] & 0xC0u) != 0x80u) {
            return 0;
        }
    }
    return length;
}

bool km_utf8_valid(const char *text, size_t n) {
    const unsigned char *p = (const unsigned char *)text;
    for (size_t i = 0; i < n;) {
        size_t length = sequence_length(p + i, n - i);
        if (length == 0) {
            return false;
        }
        i += length;
    }
    return true;
}
