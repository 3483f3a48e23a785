/* json.h: reading JSON that may come from anywhere. */
#ifndef KM_BASE_JSON_H
#define KM_BASE_JSON_H

#include <jansson.h>

#include "base/base.h"

/* Larger texts are refused; tokenizer files, the largest km reads, are below 40 MB. */
#define KM_JSON_MAX_BYTES ((size_t)256 * 1024 * 1024)

/* Parse n bytes holding one JSON object or array; the caller owns *out (json_decref). Errors:
 * KM_EFORMAT with line, column and byte offset for malformed text, invalid UTF-8, a key that occurs
 * twice in an object, an integer beyond 64 bits and nesting deeper than jansson's limit (2048);
 * KM_ERANGE for a text beyond KM_JSON_MAX_BYTES; KM_ENOMEM. */
KM_NODISCARD km_status km_json_parse(json_t **out, const char *text, size_t n, km_error *err);
/* The same with every integer read as a double, for files that write integers of any size:
 * tokenizer_config.json has a model_max_length of 10^30. */
KM_NODISCARD km_status km_json_parse_doubles(json_t **out, const char *text, size_t n,
                                             km_error *err);

#endif
