/* json.c: a guarded door to jansson.
 *
 * Every JSON text of a file or caller comes through here, save the headers of safetensors files
 * (io/json_scan.c). Duplicate members are refused, because the last one would win silently, and
 * the error names line and column.
 */
#include "base/json.h"

static km_status parse(json_t **out, const char *text, size_t n, size_t flags, km_error *err) {
    if (n > KM_JSON_MAX_BYTES) {
        return KM_SET(err, KM_ERANGE, "JSON text of %zu bytes; at most %zu are read", n,
                      KM_JSON_MAX_BYTES);
    }
    json_error_t reason;
    flags |= JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
    json_t *root = json_loadb(n > 0 ? text : "", n, flags, &reason);
    if (root != NULL) {
        *out = root;
        return KM_OK;
    }
    if (json_error_code(&reason) == json_error_out_of_memory) {
        return KM_SET(err, KM_ENOMEM, "no memory while reading JSON of %zu bytes", n);
    }
    return KM_SET(err, KM_EFORMAT, "JSON line %d, column %d (byte %d): %s", reason.line,
                  reason.column, reason.position, reason.text);
}

km_status km_json_parse(json_t **out, const char *text, size_t n, km_error *err) {
    return parse(out, text, n, 0, err);
}

km_status km_json_parse_doubles(json_t **out, const char *text, size_t n, km_error *err) {
    return parse(out, text, n, JSON_DECODE_INT_AS_REAL, err);
}
