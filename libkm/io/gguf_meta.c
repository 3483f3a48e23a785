/* gguf_meta.c: typed access to the metadata of a parsed GGUF file.
 *
 * Writers differ in the integer type they choose for one key, so any integer type is read where
 * its value fits, and as a real number where a double holds it exactly; nothing else is
 * converted. Every failure names the key, its offset in the file and the type found. Values lie
 * unaligned in the file map, little-endian, and are copied out byte by byte.
 */
#include "io/io_private.h"

#include <inttypes.h>
#include <string.h>

/* The entry, or NULL with the status to return: KM_OK when absence was asked for in *found. */
static km_status look_up(const km_gguf_entry **out, const km_gguf *gguf, const char *key,
                         bool *found, km_error *err) {
    *out = km__gguf_find_entry(gguf, key);
    if (found != NULL) {
        *found = *out != NULL;
    } else if (*out == NULL) {
        return KM_SET(err, KM_EFORMAT, "key '%s' is missing", key);
    }
    return KM_OK;
}

static km_status wrong_type(const km_gguf_entry *entry, const char *expected, km_error *err) {
    bool array = entry->type == KM_GGUF_ARRAY;
    return KM_SET(err, KM_EFORMAT, "key '%.*s' at offset %zu has type %s%s, expected %s",
                  KM_SHOWN(entry->key), entry->offset, array ? "array of " : "",
                  km__gguf_type_name(array ? entry->element : entry->type), expected);
}

/* false when the type is no integer or the value does not fit. */
static bool load_int(int64_t *out, km_gguf_type type, const unsigned char *p) {
    uint64_t bits = 0;
    size_t size = km__gguf_type_size(type);
    memcpy(&bits, p, size);
    switch (type) {
    case KM_GGUF_U8:
    case KM_GGUF_U16:
    case KM_GGUF_U32:
        *out = (int64_t)bits;
        return true;
    case KM_GGUF_I8:
        *out = (int8_t)bits;
        return true;
    case KM_GGUF_I16:
        *out = (int16_t)bits;
        return true;
    case KM_GGUF_I32:
        *out = (int32_t)bits;
        return true;
    case KM_GGUF_U64:
        *out = (int64_t)bits;
        return bits <= INT64_MAX;
    case KM_GGUF_I64:
        *out = (int64_t)bits;
        return true;
    default:
        return false;
    }
}

/* Floats as they are; integers when a double holds them exactly. */
static bool load_double(double *out, km_gguf_type type, const unsigned char *p) {
    if (type == KM_GGUF_F32) {
        float value;
        memcpy(&value, p, sizeof(value));
        *out = (double)value;
        return true;
    }
    if (type == KM_GGUF_F64) {
        memcpy(out, p, sizeof(*out));
        return true;
    }
    int64_t value;
    if (!load_int(&value, type, p)) {
        return false;
    }
    *out = (double)value;
    return value <= ((int64_t)1 << 53) && value >= -((int64_t)1 << 53);
}

int64_t km_gguf_n_keys(const km_gguf *gguf) {
    return gguf->n_entries;
}

const char *km_gguf_key(const km_gguf *gguf, int64_t index) {
    return index >= 0 && index < gguf->n_entries ? gguf->entries[index].key : NULL;
}

km_status km_gguf_get_int(const km_gguf *gguf, const char *key, int64_t *out, bool *found,
                          km_error *err) {
    const km_gguf_entry *entry;
    KM_TRY(look_up(&entry, gguf, key, found, err));
    if (entry != NULL && !load_int(out, entry->type, entry->data)) {
        return wrong_type(entry, "an integer below 2^63", err);
    }
    return KM_OK;
}

km_status km_gguf_get_double(const km_gguf *gguf, const char *key, double *out, bool *found,
                             km_error *err) {
    const km_gguf_entry *entry;
    KM_TRY(look_up(&entry, gguf, key, found, err));
    if (entry != NULL && !load_double(out, entry->type, entry->data)) {
        return wrong_type(entry, "a number", err);
    }
    return KM_OK;
}

km_status km_gguf_get_bool(const km_gguf *gguf, const char *key, bool *out, bool *found,
                           km_error *err) {
    const km_gguf_entry *entry;
    KM_TRY(look_up(&entry, gguf, key, found, err));
    if (entry == NULL) {
        return KM_OK;
    }
    if (entry->type != KM_GGUF_BOOL) {
        return wrong_type(entry, "a bool", err);
    }
    *out = entry->data[0] != 0;
    return KM_OK;
}

km_status km_gguf_get_string(const km_gguf *gguf, const char *key, const char **out, size_t *n,
                             bool *found, km_error *err) {
    const km_gguf_entry *entry;
    KM_TRY(look_up(&entry, gguf, key, found, err));
    if (entry == NULL) {
        return KM_OK;
    }
    if (entry->type != KM_GGUF_STRING) {
        return wrong_type(entry, "a string", err);
    }
    *out = (const char *)entry->data;
    *n = (size_t)entry->n;
    return KM_OK;
}

km_status km_gguf_array_length(const km_gguf *gguf, const char *key, int64_t *out, bool *found,
                               km_error *err) {
    const km_gguf_entry *entry;
    *out = 0;
    KM_TRY(look_up(&entry, gguf, key, found, err));
    if (entry == NULL) {
        return KM_OK;
    }
    if (entry->type != KM_GGUF_ARRAY) {
        return wrong_type(entry, "an array", err);
    }
    *out = entry->n;
    return KM_OK;
}

/* The array under `key` with exactly n elements. */
static km_status find_array(const km_gguf_entry **out, const km_gguf *gguf, const char *key,
                            int64_t n, km_error *err) {
    KM_TRY(look_up(out, gguf, key, NULL, err));
    if ((*out)->type != KM_GGUF_ARRAY) {
        return wrong_type(*out, "an array", err);
    }
    if ((*out)->n != n) {
        return KM_SET(err, KM_EFORMAT, "key '%s' has %" PRId64 " elements, expected %" PRId64, key,
                      (*out)->n, n);
    }
    return KM_OK;
}

km_status km_gguf_get_strings(const km_gguf *gguf, const char *key, km_gguf_string *out, int64_t n,
                              km_error *err) {
    const km_gguf_entry *entry;
    KM_TRY(find_array(&entry, gguf, key, n, err));
    if (entry->element != KM_GGUF_STRING) {
        return wrong_type(entry, "an array of strings", err);
    }
    const unsigned char *p = entry->data; /* lengths were checked when the file was parsed */
    for (int64_t i = 0; i < n; i++) {
        uint64_t length;
        memcpy(&length, p, sizeof(length));
        out[i] = (km_gguf_string){(const char *)p + sizeof(length), (size_t)length};
        p += sizeof(length) + length;
    }
    return KM_OK;
}

km_status km_gguf_get_floats(const km_gguf *gguf, const char *key, float *out, int64_t n,
                             km_error *err) {
    const km_gguf_entry *entry;
    KM_TRY(find_array(&entry, gguf, key, n, err));
    if (entry->element != KM_GGUF_F32) {
        return wrong_type(entry, "an array of float32", err);
    }
    memcpy(out, entry->data, (size_t)n * sizeof(*out));
    return KM_OK;
}

km_status km_gguf_get_ints(const km_gguf *gguf, const char *key, int64_t *out, int64_t n,
                           km_error *err) {
    const km_gguf_entry *entry;
    KM_TRY(find_array(&entry, gguf, key, n, err));
    size_t size = km__gguf_type_size(entry->element);
    for (int64_t i = 0; i < n; i++) {
        const unsigned char *p = entry->data + (size_t)i * size;
        if (entry->element == KM_GGUF_BOOL) {
            out[i] = *p;
        } else if (!load_int(&out[i], entry->element, p)) {
            return wrong_type(entry, "an array of integers below 2^63", err);
        }
    }
    return KM_OK;
}
