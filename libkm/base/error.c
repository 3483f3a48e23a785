/* error.c: the caller-owned error object: first failure wins, context is put in front on the way
 * up.
 */
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Add text behind the message, as much as fits. */
static void append(km_error *err, const char *text) {
    size_t used = strnlen(err->message, sizeof err->message - 1);
    size_t n = strlen(text);
    size_t room = sizeof err->message - 1 - used;
    n = n < room ? n : room;
    memcpy(err->message + used, text, n);
    err->message[used + n] = '\0';
}

/* Cut a truncated message at the last whole UTF-8 character. */
static void trim_partial_character(char *text, size_t size) {
    size_t n = strnlen(text, size);
    size_t start = n;
    while (start > 0 && n - start < 4 && ((unsigned char)text[start - 1] & 0xC0u) == 0x80u) {
        start--;
    }
    if (start == 0) {
        return;
    }
    unsigned char lead = (unsigned char)text[start - 1];
    size_t need = lead >= 0xF0u ? 4 : lead >= 0xE0u ? 3 : lead >= 0xC0u ? 2 : 1;
    if (n - (start - 1) < need) {
        text[start - 1] = '\0';
    }
}

/* Messages are one line of UTF-8 whatever a file, a path or a library put into them: control
 * characters, which could drive a terminal, and bytes of no character become '?'. */
static void make_printable(char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) {
            text[i] = '?';
        }
    }
    if (km_utf8_valid(text, n)) {
        return;
    }
    for (size_t i = 0; i < n;) {
        size_t length = 1;
        while (length <= 4 && i + length <= n && !km_utf8_valid(text + i, length)) {
            length++;
        }
        if (length > 4 || i + length > n) {
            text[i] = '?';
            length = 1;
        }
        i += length;
    }
}

KM_PRINTF(6, 0)
static void fill(km_error *err, km_status code, const char *file, const char *func, int line,
                 const char *fmt, va_list args) {
    err->code = code;
    err->os_errno = 0;
    err->file = file;
    err->func = func;
    err->line = line;
    (void)vsnprintf(err->message, sizeof err->message, fmt, args);
    trim_partial_character(err->message, sizeof err->message);
    make_printable(err->message);
}

const char *km_status_name(km_status code) {
    static const char *const names[] = {
        "KM_OK",      "KM_ENOMEM",       "KM_EINVAL",    "KM_ESHAPE",    "KM_EIO",
        "KM_EFORMAT", "KM_EUNSUPPORTED", "KM_ENOTFOUND", "KM_ERANGE",    "KM_ENUMERIC",
        "KM_ESTATE",  "KM_ECANCELLED",   "KM_ECALLBACK", "KM_EINTERNAL",
    };
    size_t index = (size_t)code;
    return index < sizeof names / sizeof names[0] ? names[index] : "KM_UNKNOWN";
}

void km_error_clear(km_error *err) {
    if (err != NULL) {
        *err = (km_error)KM_ERROR_INIT;
    }
}

void km_error_prefix(km_error *err, const char *fmt, ...) {
    if (err == NULL || err->code == KM_OK) {
        return;
    }
    char old[sizeof err->message];
    memcpy(old, err->message, sizeof old);
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    append(err, ": ");
    append(err, old);
    trim_partial_character(err->message, sizeof err->message);
    make_printable(err->message);
}

km_status km_error_set(km_error *err, km_status code, const char *file, const char *func, int line,
                       const char *fmt, ...) {
    if (err != NULL && err->code == KM_OK) {
        va_list args;
        va_start(args, fmt);
        fill(err, code, file, func, line, fmt, args);
        va_end(args);
    }
    return code;
}

km_status km_error_set_errno(km_error *err, int os_errno, const char *file, const char *func,
                             int line, const char *fmt, ...) {
    if (err != NULL && err->code == KM_OK) {
        va_list args;
        va_start(args, fmt);
        fill(err, KM_EIO, file, func, line, fmt, args);
        va_end(args);
        char buffer[128];
        append(err, ": ");
        append(err, strerror_r(os_errno, buffer, sizeof buffer));
        trim_partial_character(err->message, sizeof err->message);
        make_printable(err->message);
        err->os_errno = os_errno;
    }
    return KM_EIO;
}
