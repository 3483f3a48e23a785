/* encode.c: rows of a table as JSON objects and back, with nothing lost: integers in full, real
 * numbers with as many digits as they need (never in the host's locale), NaN and the infinities as
 * texts, null cells as absent members. */

#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "kb_private.h"

enum { MAX_COLUMNS = 2000, MAX_NUMBER = 64 };

__extension__ typedef unsigned __int128 uint128;

static const char *const type_names[] = {"int64", "double", "bool", "text"};

void km__kb_text_free(km__kb_text *text) {
    km_free(text->ctx, text->data);
    text->data = NULL;
    text->n = text->capacity = 0;
}

/* Make room for n more bytes and the NUL, growing by half so that appending stays linear. */
static km_status reserve(km__kb_text *text, size_t n, km_error *err) {
    size_t need, capacity;
    void *block = text->data;
    if (text->capacity > n && text->capacity - n > text->n) {
        return KM_OK;
    }
    if (!km_size_add(&need, text->n, n) || !km_size_add(&need, need, need / 2) ||
        !km_size_add(&capacity, need, 64)) {
        return KM_SET(err, KM_ENOMEM, "a text is too long");
    }
    KM_TRY(km_realloc(&block, text->ctx, capacity, err));
    text->data = block;
    text->capacity = capacity;
    return KM_OK;
}

km_status km__kb_text_add(km__kb_text *text, const char *data, size_t n, km_error *err) {
    KM_TRY(reserve(text, n, err));
    if (n > 0) {
        memcpy(text->data + text->n, data, n);
    }
    text->n += n;
    text->data[text->n] = '\0';
    return KM_OK;
}

/* Append where reserve() made room. */
static void put(km__kb_text *text, const char *data, size_t n) {
    memcpy(text->data + text->n, data, n);
    text->n += n;
}

static void put_literal(km__kb_text *text, const char *literal) {
    put(text, literal, strlen(literal));
}

static km_status add(km__kb_text *text, const char *literal, km_error *err) {
    return km__kb_text_add(text, literal, strlen(literal), err);
}

static bool needs_escape(unsigned char c) {
    return c < 0x20 || c == '"' || c == '\\';
}

/* A JSON string literal of n bytes of UTF-8, which a table has checked. */
static km_status add_quoted(km__kb_text *text, const char *data, size_t n, km_error *err) {
    KM_TRY(n < SIZE_MAX / 8 ? reserve(text, 6 * n + 2, err)
                            : KM_SET(err, KM_ENOMEM, "a text is too long"));
    put(text, "\"", 1);
    size_t start = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)data[i];
        if (!needs_escape(c)) {
            continue;
        }
        char escape[8];
        int length = c >= 0x20 ? snprintf(escape, sizeof escape, "\\%c", c)
                               : snprintf(escape, sizeof escape, "\\u%04x", c);
        put(text, data + start, i - start);
        put(text, escape, (size_t)length);
        start = i + 1;
    }
    put(text, data + start, n - start);
    put(text, "\"", 1);
    return KM_OK;
}

/* ---- numbers ---- */

/* The decimal digits of a number; returns how many. */
static size_t digits_of(char out[20], uint64_t value) {
    char back[20];
    size_t n = 0;
    do {
        back[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    for (size_t i = 0; i < n; i++) {
        out[i] = back[n - 1 - i];
    }
    return n;
}

static void put_int64(km__kb_text *text, int64_t value) {
    char digits[20];
    uint64_t size = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    size_t n = digits_of(digits, size);
    if (value < 0) {
        put(text, "-", 1);
    }
    put(text, digits, n);
}

/* The fewest of 15 or 17 digits that read back as the same number, with '.' whatever the locale. */
static void put_any_double(km__kb_text *text, double value) {
    char number[64];
    snprintf(number, sizeof number, "%.15g", value);
    if (strtod(number, NULL) != value) {
        snprintf(number, sizeof number, "%.17g", value);
    }
    const char *point = localeconv()->decimal_point;
    char *found = strcmp(point, ".") == 0 ? NULL : strstr(number, point);
    if (found != NULL) {
        size_t width = strlen(point);
        *found = '.';
        memmove(found + 1, found + width, strlen(found + width) + 1);
    }
    put_literal(text, number);
    if (strpbrk(number, ".e") == NULL) {
        put(text, ".0", 2);
    }
}

/* Digits of a number between 1e-4 and 1e15 without the zeros at their end, as %g writes them: the
 * first stands for 10^exponent. */
static void put_digits(km__kb_text *text, uint64_t digits, int exponent) {
    char all[20];
    while (digits % 10 == 0) {
        digits /= 10;
    }
    size_t n = digits_of(all, digits);
    size_t whole = exponent < 0 ? 0 : (size_t)exponent + 1;
    if (whole == 0) {
        put(text, "0.000", (size_t)(1 - exponent));
        put(text, all, n);
        return;
    }
    put(text, all, n < whole ? n : whole);
    for (size_t i = n; i < whole; i++) {
        put(text, "0", 1);
    }
    put(text, ".", 1);
    put(text, n > whole ? all + whole : "0", n > whole ? n - whole : 1);
}

/* Write a number the same way without printf, which takes longer than all the rest of a row. With
 * `power` chosen so that value x 10^power has 17 digits, that product is an integer of 116 bits
 * over a power of two and is computed exactly, with what is left below its last digit. False where
 * a rounding is too close to call in those terms. */
static bool put_plain_double(km__kb_text *text, double value) {
    int binary;
    double size = fabs(value);
    if (!(size >= 1e-4 && size < 1e15)) {
        return false;
    }
    uint64_t mantissa = (uint64_t)ldexp(frexp(size, &binary), 53);
    int exponent = (int)floor(log10(size));
    int power = 16 - exponent;
    uint128 product = mantissa;
    for (int i = 0; i < power; i++) {
        product *= 5;
    }
    int shift = 53 - binary - power;
    if (shift < 1 || shift > 110) {
        return false;
    }
    uint64_t digits = (uint64_t)(product >> shift);
    double below = ldexp((double)(product & (((uint128)1 << shift) - 1)), -shift);
    if (digits < 10000000000000000 || digits >= 99999999999999900) {
        return false; /* log10 was off by one, or rounding would carry */
    }
    uint64_t shorter = digits / 100;
    double rest = (double)(digits % 100) + below;
    double distance = fmin(rest, 100.0 - rest);
    double reach = (double)digits / (2.0 * (double)mantissa); /* half the distance of neighbours */
    bool uneven = (mantissa & (mantissa - 1)) == 0 && distance > 0.0; /* a power of two */
    if (fabs(rest - 50.0) < 1e-6 || fabs(distance - reach) < 1e-6 || fabs(below - 0.5) < 1e-6 ||
        uneven) {
        return false;
    }
    if (value < 0.0) {
        put(text, "-", 1);
    }
    if (distance < reach) {
        put_digits(text, shorter + (rest > 50.0), exponent);
    } else {
        put_digits(text, digits + (below > 0.5), exponent);
    }
    return true;
}

static void put_double(km__kb_text *text, double value) {
    if (isnan(value)) {
        put_literal(text, "\"NaN\"");
    } else if (isinf(value)) {
        put_literal(text, value > 0 ? "\"Infinity\"" : "\"-Infinity\"");
    } else if (value == 0.0) {
        put_literal(text, signbit(value) ? "-0.0" : "0.0");
    } else if (!put_plain_double(text, value)) {
        put_any_double(text, value);
    }
}

/* ---- rows and columns ---- */

static km_status add_cell(km__kb_text *text, const km_table *table, int column, int64_t row,
                          km_error *err) {
    int64_t n = 0;
    km_column_type type = km_table_spec(table, column)->type;
    if (type == KM_COLUMN_TEXT) {
        const char *value = km_table_text(table, column, row, &n);
        return add_quoted(text, value, (size_t)n, err);
    }
    KM_TRY(reserve(text, MAX_NUMBER, err));
    if (type == KM_COLUMN_INT64) {
        put_int64(text, km_table_int64(table, column, row));
    } else if (type == KM_COLUMN_DOUBLE) {
        put_double(text, km_table_double(table, column, row));
    } else {
        put_literal(text, km_table_bool(table, column, row) ? "true" : "false");
    }
    return KM_OK;
}

void km__kb_encoder_free(km__kb_encoder *encoder) {
    km_free(encoder->names.ctx, encoder->ends);
    encoder->ends = NULL;
    km__kb_text_free(&encoder->names);
}

/* Every name as it precedes a value: ',"name":'. */
km_status km__kb_encoder_init(km__kb_encoder *encoder, km_ctx *ctx, const km_table *table,
                              km_error *err) {
    void *ends = NULL;
    *encoder = (km__kb_encoder){table, {ctx, NULL, 0, 0}, NULL};
    KM_TRY(km_alloc_array(&ends, ctx, km_table_columns(table) + 1, sizeof(size_t), err));
    encoder->ends = ends;
    encoder->ends[0] = 0;
    for (int i = 0; i < km_table_columns(table); i++) {
        const char *name = km_table_spec(table, i)->name;
        KM_TRY(add(&encoder->names, ",", err));
        KM_TRY(add_quoted(&encoder->names, name, strlen(name), err));
        KM_TRY(add(&encoder->names, ":", err));
        encoder->ends[i + 1] = encoder->names.n;
    }
    return KM_OK;
}

km_status km__kb_encode_row(km__kb_text *text, const km__kb_encoder *encoder, int64_t row,
                            km_error *err) {
    const km_table *table = encoder->table;
    text->n = 0;
    for (int i = 0; i < km_table_columns(table); i++) {
        if (km_table_is_null(table, i, row)) {
            continue;
        }
        size_t start = encoder->ends[i], n = encoder->ends[i + 1] - start;
        KM_TRY(km__kb_text_add(text, encoder->names.data + start, n, err));
        KM_TRY(add_cell(text, table, i, row, err));
    }
    if (text->n == 0) {
        return add(text, "{}", err);
    }
    text->data[0] = '{'; /* in place of the first comma */
    return add(text, "}", err);
}

static km_status add_member(km__kb_text *text, const char *before, const char *value,
                            km_error *err) {
    KM_TRY(add(text, before, err));
    return add_quoted(text, value, strlen(value), err);
}

km_status km__kb_encode_columns(km__kb_text *text, const km_table *table, km_error *err) {
    text->n = 0;
    KM_TRY(add(text, "[", err));
    for (int i = 0; i < km_table_columns(table); i++) {
        const km_column_spec *spec = km_table_spec(table, i);
        KM_TRY(add_member(text, i > 0 ? ",{\"name\":" : "{\"name\":", spec->name, err));
        KM_TRY(add_member(text, ",\"type\":", type_names[spec->type], err));
        KM_TRY(add_member(text, ",\"unit\":", spec->unit, err));
        KM_TRY(add_member(text, ",\"description\":", spec->description, err));
        KM_TRY(add(text, "}", err));
    }
    return add(text, "]", err);
}

static km_status read_spec(km_column_spec *spec, const json_t *object, km_error *err) {
    const char *type = json_string_value(json_object_get(object, "type"));
    spec->name = json_string_value(json_object_get(object, "name"));
    spec->unit = json_string_value(json_object_get(object, "unit"));
    spec->description = json_string_value(json_object_get(object, "description"));
    for (int i = 0; type != NULL && i < 4; i++) {
        if (strcmp(type, type_names[i]) == 0) {
            spec->type = (km_column_type)i;
            return KM_OK;
        }
    }
    return KM_SET(err, KM_EFORMAT, "a stored column has no type that km knows");
}

km_status km__kb_decode_columns(km_table **out, km_ctx *ctx, const char *json, size_t n,
                                km_error *err) {
    km_status status = KM_OK;
    json_t *array = NULL;
    void *specs = NULL;
    *out = NULL;
    KM_GO(km__kb_parse(&array, "columns", json, n, true, err));
    size_t n_columns = json_array_size(array);
    if (n_columns < 1 || n_columns > MAX_COLUMNS) {
        KM_FAIL(err, KM_EFORMAT, "a stored table of %zu columns", n_columns);
    }
    KM_GO(km_alloc_array(&specs, ctx, (int64_t)n_columns, sizeof(km_column_spec), err));
    for (size_t i = 0; i < n_columns; i++) {
        KM_GO(read_spec((km_column_spec *)specs + i, json_array_get(array, i), err));
    }
    KM_GO(km_table_new(out, ctx, specs, (int)n_columns, err));
done:
    km_free(ctx, specs);
    json_decref(array);
    return status;
}

static bool read_double(double *out, const json_t *value) {
    if (json_is_number(value)) {
        *out = json_number_value(value);
        return true;
    }
    const char *text = json_string_value(value);
    if (text == NULL) {
        return false;
    }
    if (strcmp(text, "NaN") == 0) {
        *out = (double)NAN;
    } else if (strcmp(text, "Infinity") == 0) {
        *out = (double)INFINITY;
    } else if (strcmp(text, "-Infinity") == 0) {
        *out = -(double)INFINITY;
    } else {
        return false;
    }
    return true;
}

static km_status set_cell(km_table *table, int column, const json_t *value, km_error *err) {
    const km_column_spec *spec = km_table_spec(table, column);
    double real = 0.0;
    if (spec->type == KM_COLUMN_INT64 && json_is_integer(value)) {
        return km_table_set_int64(table, column, json_integer_value(value), err);
    }
    if (spec->type == KM_COLUMN_DOUBLE && read_double(&real, value)) {
        return km_table_set_double(table, column, real, err);
    }
    if (spec->type == KM_COLUMN_BOOL && json_is_boolean(value)) {
        return km_table_set_bool(table, column, json_is_true(value), err);
    }
    if (spec->type == KM_COLUMN_TEXT && json_is_string(value)) {
        return km_table_set_text(table, column, json_string_value(value),
                                 (int64_t)json_string_length(value), err);
    }
    return KM_SET(err, KM_EFORMAT, "column '%s' holds a value of another type", spec->name);
}

km_status km__kb_decode_row(km_table *table, const char *json, size_t n, km_error *err) {
    km_status status = KM_OK;
    json_t *object = NULL;
    size_t n_set = 0;
    KM_GO(km__kb_parse(&object, "row", json, n, false, err));
    KM_GO(km_table_add_row(table, err));
    for (int i = 0; i < km_table_columns(table); i++) {
        const json_t *value = json_object_get(object, km_table_spec(table, i)->name);
        if (value != NULL) {
            KM_GO(set_cell(table, i, value, err));
            n_set++;
        }
    }
    if (n_set != json_object_size(object)) {
        KM_FAIL(err, KM_EFORMAT, "a stored row has members that are not among its columns");
    }
done:
    json_decref(object);
    return status;
}
