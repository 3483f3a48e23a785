/* json_scan.h: a strict JSON reader that walks a text once and allocates nothing, for headers whose
 * shape is known (safetensors and its index), where a general parser would let a hostile file of
 * n bytes take fifty times as much memory. */
#ifndef KM_IO_JSON_SCAN_H
#define KM_IO_JSON_SCAN_H

#include "base/base.h"

typedef struct km_scan {
    const char *text;
    size_t size, at;
    size_t base; /* offset of text in its file, added in messages */
} km_scan;

/* Next character after white space, not consumed; '\0' at the end. */
char km__scan_peek(km_scan *scan);
/* Consume `wanted`. */
KM_NODISCARD km_status km__scan_expect(km_scan *scan, char wanted, km_error *err);
/* Consume a string and write its unescaped UTF-8 with a NUL to out, which needs no more room than
 * the string takes in the text, quotes included. A string that contains NUL is refused. */
KM_NODISCARD km_status km__scan_string(char *out, size_t *n, km_scan *scan, km_error *err);
/* Consume an integer from 0 to 2^63-1. */
KM_NODISCARD km_status km__scan_int(int64_t *out, km_scan *scan, km_error *err);
/* Consume any value nested at most 32 deep. */
KM_NODISCARD km_status km__scan_skip(km_scan *scan, km_error *err);
/* After an element of an object or array ended by `end`: *more tells whether another follows. */
KM_NODISCARD km_status km__scan_next(bool *more, km_scan *scan, char end, km_error *err);
/* Consume the opening bracket; *more is false for an empty object or array, consumed whole. */
KM_NODISCARD km_status km__scan_open(bool *more, km_scan *scan, char begin, char end,
                                     km_error *err);
/* Only white space may follow. */
KM_NODISCARD km_status km__scan_finish(km_scan *scan, km_error *err);

#endif
