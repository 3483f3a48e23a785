/* json_scan.c: see json_scan.h. Grammar: RFC 8259. */
#include "io/json_scan.h"

#include <string.h>

#define MAX_DEPTH 32

static km_status fail(const km_scan *scan, const char *what, km_error *err) {
    return KM_SET(err, KM_EFORMAT, "offset %zu: JSON: %s", scan->base + scan->at, what);
}

char km__scan_peek(km_scan *scan) {
    while (scan->at < scan->size) {
        char c = scan->text[scan->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') {
            return c;
        }
        scan->at++;
    }
    return '\0';
}

km_status km__scan_expect(km_scan *scan, char wanted, km_error *err) {
    if (km__scan_peek(scan) != wanted || scan->at >= scan->size) {
        const char what[] = {'e', 'x', 'p', 'e', 'c', 't', 'e', 'd', ' ', '\'', wanted, '\'', '\0'};
        return fail(scan, what, err);
    }
    scan->at++;
    return KM_OK;
}

/* ---- strings ---- */

static bool hex4(uint32_t *out, const km_scan *scan) {
    uint32_t value = 0;
    if (scan->size - scan->at < 4) {
        return false;
    }
    for (size_t i = 0; i < 4; i++) {
        char c = scan->text[scan->at + i];
        uint32_t digit;
        if (c >= '0' && c <= '9') {
            digit = (uint32_t)(c - '0');
        } else if ((c | 32) >= 'a' && (c | 32) <= 'f') {
            digit = (uint32_t)((c | 32) - 'a') + 10;
        } else {
            return false;
        }
        value = value * 16 + digit;
    }
    *out = value;
    return true;
}

static size_t put_utf8(char *out, uint32_t c) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* The code point after "\u", joining a surrogate pair. */
static km_status scan_unicode(uint32_t *out, km_scan *scan, km_error *err) {
    uint32_t low;
    if (!hex4(out, scan)) {
        return fail(scan, "\\u needs four hexadecimal digits", err);
    }
    scan->at += 4;
    if (*out < 0xd800 || *out > 0xdfff) {
        return KM_OK;
    }
    if (*out > 0xdbff || scan->size - scan->at < 6 || scan->text[scan->at] != '\\' ||
        scan->text[scan->at + 1] != 'u') {
        return fail(scan, "lone surrogate", err);
    }
    scan->at += 2;
    if (!hex4(&low, scan) || low < 0xdc00 || low > 0xdfff) {
        return fail(scan, "lone surrogate", err);
    }
    scan->at += 4;
    *out = 0x10000 + ((*out - 0xd800) << 10) + (low - 0xdc00);
    return KM_OK;
}

static km_status scan_escape(char *out, size_t *n, km_scan *scan, km_error *err) {
    static const char FROM[] = "\"\\/bfnrt";
    static const char TO[] = "\"\\/\b\f\n\r\t";
    char c = scan->at < scan->size ? scan->text[scan->at] : '\0';
    const char *at = c != '\0' ? strchr(FROM, c) : NULL;
    if (at != NULL) {
        scan->at++;
        out[(*n)++] = TO[at - FROM];
        return KM_OK;
    }
    if (c != 'u') {
        return fail(scan, "unknown escape", err);
    }
    scan->at++;
    uint32_t code;
    KM_TRY(scan_unicode(&code, scan, err));
    if (code == 0) {
        return fail(scan, "NUL in a string", err);
    }
    *n += put_utf8(out + *n, code);
    return KM_OK;
}

km_status km__scan_string(char *out, size_t *n, km_scan *scan, km_error *err) {
    *n = 0;
    KM_TRY(km__scan_expect(scan, '"', err));
    while (scan->at < scan->size) {
        char c = scan->text[scan->at++];
        if (c == '"') {
            out[*n] = '\0';
            return km_utf8_valid(out, *n) ? KM_OK : fail(scan, "string is not valid UTF-8", err);
        }
        if ((unsigned char)c < 0x20) {
            return fail(scan, "control character in a string", err);
        }
        if (c == '\\') {
            KM_TRY(scan_escape(out, n, scan, err));
        } else {
            out[(*n)++] = c;
        }
    }
    return fail(scan, "string without end", err);
}

/* ---- numbers ---- */

km_status km__scan_int(int64_t *out, km_scan *scan, km_error *err) {
    char c = km__scan_peek(scan);
    size_t start = scan->at;
    int64_t value = 0;
    if (c < '0' || c > '9') {
        return fail(scan, "expected an integer that is not negative", err);
    }
    while (scan->at < scan->size && scan->text[scan->at] >= '0' && scan->text[scan->at] <= '9') {
        int digit = scan->text[scan->at] - '0';
        if (value > (INT64_MAX - digit) / 10) {
            return fail(scan, "integer beyond 2^63-1", err);
        }
        value = value * 10 + digit;
        scan->at++;
    }
    if (c == '0' && scan->at > start + 1) {
        return fail(scan, "integer with a leading zero", err);
    }
    *out = value;
    return KM_OK;
}

/* ---- values nobody looks at ---- */

static km_status skip_string(km_scan *scan, km_error *err) {
    KM_TRY(km__scan_expect(scan, '"', err));
    while (scan->at < scan->size) {
        char c = scan->text[scan->at++];
        if (c == '"') {
            return KM_OK;
        }
        if (c == '\\' && scan->at < scan->size) {
            scan->at++;
        }
    }
    return fail(scan, "string without end", err);
}

/* Numbers and true, false, null: the characters they are made of. */
static km_status skip_word(km_scan *scan, km_error *err) {
    size_t start = scan->at;
    while (scan->at < scan->size) {
        char c = scan->text[scan->at];
        bool part = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == '-' || c == '+' ||
                    c == '.' || c == 'E';
        if (!part) {
            break;
        }
        scan->at++;
    }
    return scan->at > start ? KM_OK : fail(scan, "expected a value", err);
}

static km_status skip_value(km_scan *scan, int depth, km_error *err) {
    char c = km__scan_peek(scan);
    if (c == '"') {
        return skip_string(scan, err);
    }
    if (c != '{' && c != '[') {
        return skip_word(scan, err);
    }
    if (depth >= MAX_DEPTH) {
        return fail(scan, "nested too deeply", err);
    }
    char end = c == '{' ? '}' : ']';
    bool more;
    KM_TRY(km__scan_open(&more, scan, c, end, err));
    while (more) {
        if (c == '{') {
            KM_TRY(skip_string(scan, err));
            KM_TRY(km__scan_expect(scan, ':', err));
        }
        KM_TRY(skip_value(scan, depth + 1, err));
        KM_TRY(km__scan_next(&more, scan, end, err));
    }
    return KM_OK;
}

km_status km__scan_skip(km_scan *scan, km_error *err) {
    return skip_value(scan, 0, err);
}

/* ---- objects and arrays ---- */

km_status km__scan_open(bool *more, km_scan *scan, char begin, char end, km_error *err) {
    KM_TRY(km__scan_expect(scan, begin, err));
    *more = km__scan_peek(scan) != end;
    if (!*more) {
        scan->at++;
    }
    return KM_OK;
}

km_status km__scan_next(bool *more, km_scan *scan, char end, km_error *err) {
    char c = km__scan_peek(scan);
    if (c != ',' && c != end) {
        return fail(scan, end == '}' ? "expected ',' or '}'" : "expected ',' or ']'", err);
    }
    scan->at++;
    *more = c == ',';
    return KM_OK;
}

km_status km__scan_finish(km_scan *scan, km_error *err) {
    (void)km__scan_peek(scan);
    return scan->at == scan->size ? KM_OK : fail(scan, "text after the end", err);
}
