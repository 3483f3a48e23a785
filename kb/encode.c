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

enum { MAX_COLUMNS = 2000 };

static const char *const type_names[] = {"int64", "double", "bool", "text"};

void km__kb_text_free(km__kb_text *text) {
    km_free(text->ctx, text->data);
    text->data = NULL;
    text->n = text->capacity = 0;
}

km_status km__kb_text_add(km__kb_text *text, const char *data, size_t n, km_error *err) {
    size_t need;
    if (!km_size_add(&need, text->n, n) || !km_size_add(&need, need, 1)) {
        return KM_SET(err, KM_ENOMEM, "a text is too long");
    }
    if (need > text->capacity) {
        size_t capacity = need + need / 2 + 64;
        void *block = text->data;
        KM_TRY(km_realloc(&block, text->ctx, capacity, err));
        text->data = block;
        text->capacity = capacity;
    }
    if (n > 0) {
        memcpy(text->data + text->n, data, n);
    }
    text->n += n;
    text->data[text->n] = '\0';
    return KM_OK;
}

static km_status add(km__kb_text *text, const char *literal, km_error *err) {
    return km__kb_text_add(text, literal, strlen(literal), err);
}

/* A JSON string literal of n bytes. */
static km_status add_quoted(km__kb_text *text, const char *data, size_t n, km_error *err) {
    if (!km_utf8_valid(data, n)) {
        return KM_SET(err, KM_EINVAL, "a text is not valid UTF-8");
    }
    KM_TRY(add(text, "\"", err));
    size_t start = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)data[i];
        if (c >= 0x20 && c != '"' && c != '\\') {
            continue;
        }
        char escape[8];
        int length = c >= 0x20 ? snprintf(escape, sizeof escape, "\\%c", c)
                               : snprintf(escape, sizeof escape, "\\u%04x", c);
        KM_TRY(km__kb_text_add(text, data + start, i - start, err));
        KM_TRY(km__kb_text_add(text, escape, (size_t)length, err));
        start = i + 1;
    }
    KM_TRY(km__kb_text_add(text, data + start, n - start, err));
    return add(text, "\"", err);
}

/* The fewest of 15 or 17 digits that read back as the same number, with '.' whatever the locale. */
static km_status add_double(km__kb_text *text, double value, km_error *err) {
    char number[64];
    if (isnan(value)) {
        return add(text, "\"NaN\"", err);
    }
    if (isinf(value)) {
        return add(text, value > 0 ? "\"Infinity\"" : "\"-Infinity\"", err);
    }
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
    KM_TRY(add(text, number, err));
    return strpbrk(number, ".e") == NULL ? add(text, ".0", err) : KM_OK;
}

static km_status add_cell(km__kb_text *text, const km_table *table, int column, int64_t row,
                          km_error *err) {
    char number[32];
    int64_t n = 0;
    const char *value;
    switch (km_table_spec(table, column)->type) {
    case KM_COLUMN_INT64:
        snprintf(number, sizeof number, "%" PRId64, km_table_int64(table, column, row));
        return add(text, number, err);
    case KM_COLUMN_DOUBLE:
        return add_double(text, km_table_double(table, column, row), err);
    case KM_COLUMN_BOOL:
        return add(text, km_table_bool(table, column, row) ? "true" : "false", err);
    case KM_COLUMN_TEXT:
        value = km_table_text(table, column, row, &n);
        return add_quoted(text, value, (size_t)n, err);
    }
    return KM_SET(err, KM_EINTERNAL, "unknown column type");
}

km_status km__kb_encode_row(km__kb_text *text, const km_table *table, int64_t row, km_error *err) {
    text->n = 0;
    bool first = true;
    KM_TRY(add(text, "{", err));
    for (int i = 0; i < km_table_columns(table); i++) {
        if (km_table_is_null(table, i, row)) {
            continue;
        }
        const char *name = km_table_spec(table, i)->name;
        KM_TRY(first ? KM_OK : add(text, ",", err));
        KM_TRY(add_quoted(text, name, strlen(name), err));
        KM_TRY(add(text, ":", err));
        KM_TRY(add_cell(text, table, i, row, err));
        first = false;
    }
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
