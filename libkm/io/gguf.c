/* gguf.c: parse the header of a GGUF file (versions 2 and 3, little-endian).
 *
 * Layout: magic "GGUF", u32 version, u64 number of tensors, u64 number of keys, the keys (name,
 * u32 type, value), the tensor descriptions (name, u32 number of dimensions, u64 dimensions
 * innermost first, u32 type, u64 offset into the data section), padding to general.alignment, data.
 * Names and strings are a u64 length and bytes. Source: GGUF specification (ggml docs/gguf.md).
 *
 * Nothing is believed: every count is compared with the bytes left before anything is allocated, so
 * memory stays within a small multiple of the file's own header. */
#include "io/io_private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MIN_ENTRY_BYTES 14  /* key length, one byte of key, type, one byte of value */
#define MIN_TENSOR_BYTES 33 /* name length, one byte, n_dims, one dimension, type, offset */
#define DEFAULT_ALIGNMENT 32
#define MAX_ALIGNMENT 65536

typedef struct cursor {
    const unsigned char *data;
    size_t size, at;
} cursor;

/* ---- reading bytes ---- */

static km_status read_bytes(const unsigned char **out, cursor *c, uint64_t n, const char *what,
                            km_error *err) {
    if (n > c->size - c->at) {
        return KM_SET(err, KM_EFORMAT,
                      "offset %zu: %s needs %" PRIu64 " bytes, the file has %zu left", c->at, what,
                      n, c->size - c->at);
    }
    *out = c->data + c->at;
    c->at += (size_t)n;
    return KM_OK;
}

static km_status read_u32(uint32_t *out, cursor *c, const char *what, km_error *err) {
    const unsigned char *p;
    KM_TRY(read_bytes(&p, c, sizeof(*out), what, err));
    memcpy(out, p, sizeof(*out));
    return KM_OK;
}

static km_status read_u64(uint64_t *out, cursor *c, const char *what, km_error *err) {
    const unsigned char *p;
    KM_TRY(read_bytes(&p, c, sizeof(*out), what, err));
    memcpy(out, p, sizeof(*out));
    return KM_OK;
}

static km_status read_string(const char **out, size_t *n, cursor *c, const char *what,
                             km_error *err) {
    uint64_t length;
    const unsigned char *p;
    size_t start = c->at;
    KM_TRY(read_u64(&length, c, what, err));
    KM_TRY(read_bytes(&p, c, length, what, err));
    *out = (const char *)p;
    *n = (size_t)length;
    if (!km_utf8_valid(*out, *n)) {
        return KM_SET(err, KM_EFORMAT, "offset %zu: %s is not valid UTF-8", start, what);
    }
    return KM_OK;
}

/* A key or tensor name: 1..max bytes without NUL, because it becomes a C string. */
static km_status read_name(const char **out, size_t *n, cursor *c, size_t max, const char *what,
                           km_error *err) {
    size_t start = c->at;
    KM_TRY(read_string(out, n, c, what, err));
    if (*n == 0 || *n > max) {
        return KM_SET(err, KM_EFORMAT, "offset %zu: %s has %zu bytes, expected 1 to %zu", start,
                      what, *n, max);
    }
    if (memchr(*out, '\0', *n) != NULL) {
        return KM_SET(err, KM_EFORMAT, "offset %zu: %s contains a NUL byte", start, what);
    }
    return KM_OK;
}

/* ---- metadata ---- */

size_t km__gguf_type_size(km_gguf_type type) {
    static const size_t SIZES[KM_GGUF_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return SIZES[type];
}

const char *km__gguf_type_name(km_gguf_type type) {
    static const char *const NAMES[KM_GGUF_TYPE_COUNT] = {
        "uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
        "bool",  "string", "array",  "uint64", "int64",  "float64"};
    return NAMES[type];
}

static km_status read_type(km_gguf_type *out, cursor *c, const char *what, km_error *err) {
    uint32_t type;
    size_t start = c->at;
    KM_TRY(read_u32(&type, c, what, err));
    if (type >= KM_GGUF_TYPE_COUNT) {
        return KM_SET(err, KM_EFORMAT, "offset %zu: %s is %" PRIu32 ", the largest known is %d",
                      start, what, type, KM_GGUF_TYPE_COUNT - 1);
    }
    *out = (km_gguf_type)type;
    return KM_OK;
}

static km_status check_bools(const unsigned char *p, int64_t n, size_t start, km_error *err) {
    for (int64_t i = 0; i < n; i++) {
        if (p[i] > 1) {
            return KM_SET(err, KM_EFORMAT, "offset %zu: a bool is 0 or 1, not %d",
                          start + (size_t)i, p[i]);
        }
    }
    return KM_OK;
}

static km_status read_array(km_gguf_entry *entry, cursor *c, km_error *err) {
    uint64_t n;
    KM_TRY(read_type(&entry->element, c, "array element type", err));
    size_t start = c->at;
    KM_TRY(read_u64(&n, c, "array length", err));
    if (entry->element == KM_GGUF_ARRAY) {
        return KM_SET(err, KM_EFORMAT, "offset %zu: arrays of arrays are not allowed", start);
    }
    size_t size = km__gguf_type_size(entry->element);
    size_t least = size > 0 ? size : sizeof(uint64_t);
    if (n > (c->size - c->at) / least) {
        return KM_SET(err, KM_EFORMAT,
                      "offset %zu: array of %" PRIu64 " elements does not fit into the %zu bytes "
                      "left",
                      start, n, c->size - c->at);
    }
    entry->n = (int64_t)n;
    if (entry->element != KM_GGUF_STRING) {
        start = c->at;
        KM_TRY(read_bytes(&entry->data, c, n * size, "array", err));
        return entry->element == KM_GGUF_BOOL ? check_bools(entry->data, entry->n, start, err)
                                              : KM_OK;
    }
    entry->data = c->data + c->at;
    for (uint64_t i = 0; i < n; i++) {
        const char *text;
        size_t length;
        KM_TRY(read_string(&text, &length, c, "array string", err));
    }
    return KM_OK;
}

static km_status read_value(km_gguf_entry *entry, cursor *c, km_error *err) {
    KM_TRY(read_type(&entry->type, c, "value type", err));
    entry->n = 1;
    if (entry->type == KM_GGUF_ARRAY) {
        return read_array(entry, c, err);
    }
    if (entry->type == KM_GGUF_STRING) {
        const char *text;
        size_t length;
        KM_TRY(read_string(&text, &length, c, "string", err));
        entry->data = (const unsigned char *)text;
        entry->n = (int64_t)length;
        return KM_OK;
    }
    size_t start = c->at;
    KM_TRY(read_bytes(&entry->data, c, km__gguf_type_size(entry->type), "value", err));
    return entry->type == KM_GGUF_BOOL ? check_bools(entry->data, 1, start, err) : KM_OK;
}

static km_status read_entry(km_gguf_entry *entry, cursor *c, km_error *err) {
    entry->offset = c->at;
    KM_TRY(read_name(&entry->key, &entry->key_length, c, KM_MAX_KEY_BYTES, "key", err));
    km_status status = read_value(entry, c, err);
    if (status != KM_OK) {
        km_error_prefix(err, "key '%.*s'", km__shown(entry->key, entry->key_length), entry->key);
    }
    return status;
}

static int compare_entries(const void *a, const void *b) {
    const km_gguf_entry *x = *(const km_gguf_entry *const *)a;
    const km_gguf_entry *y = *(const km_gguf_entry *const *)b;
    return strcmp(x->key, y->key);
}

const km_gguf_entry *km__gguf_find_entry(const km_gguf *gguf, const char *key) {
    int64_t low = 0;
    int64_t high = gguf->n_entries;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int order = strcmp(gguf->by_key[middle]->key, key);
        if (order == 0) {
            return gguf->by_key[middle];
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

static km_status index_keys(km_gguf *gguf, km_error *err) {
    for (int64_t i = 0; i < gguf->n_entries; i++) {
        gguf->by_key[i] = &gguf->entries[i];
    }
    if (gguf->n_entries > 1) {
        qsort(gguf->by_key, (size_t)gguf->n_entries, sizeof(*gguf->by_key), compare_entries);
    }
    for (int64_t i = 1; i < gguf->n_entries; i++) {
        if (strcmp(gguf->by_key[i - 1]->key, gguf->by_key[i]->key) == 0) {
            return KM_SET(err, KM_EFORMAT, "key '%.*s' occurs twice, at offsets %zu and %zu",
                          KM_SHOWN(gguf->by_key[i]->key), gguf->by_key[i - 1]->offset,
                          gguf->by_key[i]->offset);
        }
    }
    return KM_OK;
}

/* ---- tensors ---- */

static km_status read_dims(km_tensor_info *info, cursor *c, km_error *err) {
    uint32_t n_dims;
    size_t start = c->at;
    KM_TRY(read_u32(&n_dims, c, "number of dimensions", err));
    if (n_dims < 1 || n_dims > KM_MAX_DIMS) {
        return KM_SET(err, KM_EFORMAT, "offset %zu: %" PRIu32 " dimensions, expected 1 to %d",
                      start, n_dims, KM_MAX_DIMS);
    }
    info->n_dims = (int)n_dims;
    for (int i = info->n_dims - 1; i >= 0; i--) {
        uint64_t dim;
        start = c->at;
        KM_TRY(read_u64(&dim, c, "dimension", err));
        if (dim == 0 || dim > INT64_MAX) {
            return KM_SET(err, KM_EFORMAT, "offset %zu: dimension %" PRIu64 " is out of range",
                          start, dim);
        }
        info->dims[i] = (int64_t)dim;
    }
    return KM_OK;
}

static km_status read_dtype(km_tensor_info *info, cursor *c, km_error *err) {
    uint32_t type;
    size_t start = c->at;
    KM_TRY(read_u32(&type, c, "tensor type", err));
    if (!km_dtype_from_ggml(&info->dtype, type)) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "offset %zu: type %s (number %" PRIu32 ") is not supported; convert the "
                      "model to one of " KM_SUPPORTED_TYPES,
                      start, km_ggml_type_name(type), type);
    }
    if (!km__tensor_bytes(&info->nbytes, info->dtype, info->dims, info->n_dims)) {
        const km_dtype_traits *traits = km_dtype_get(info->dtype);
        int64_t row = info->dims[info->n_dims - 1];
        if (row % traits->block_elements != 0) {
            return KM_SET(err, KM_EFORMAT,
                          "offset %zu: rows of %" PRId64 " elements are not whole %s blocks of %d",
                          start, row, traits->name, traits->block_elements);
        }
        return KM_SET(err, KM_EFORMAT, "offset %zu: the product of the dimensions is too large",
                      start);
    }
    return KM_OK;
}

/* name_length is returned aside: the name is not NUL-terminated yet. */
static km_status read_tensor(km_tensor_info *info, size_t *name_length, uint64_t *offset, cursor *c,
                             km_error *err) {
    KM_TRY(read_name(&info->name, name_length, c, KM_MAX_NAME_BYTES, "tensor name", err));
    km_status status = KM_OK;
    KM_GO(read_dims(info, c, err));
    KM_GO(read_dtype(info, c, err));
    KM_GO(read_u64(offset, c, "tensor offset", err));
done:
    if (status != KM_OK) {
        km_error_prefix(err, "tensor '%.*s'", km__shown(info->name, *name_length), info->name);
    }
    return status;
}

/* Turn an offset into the data section into a pointer, after checking alignment and range. */
static km_status place_tensor(km_tensor_info *info, uint64_t offset, uint64_t alignment,
                              const unsigned char *section, size_t section_size, km_error *err) {
    if (offset % alignment != 0) {
        return KM_SET(err, KM_EFORMAT,
                      "tensor '%.*s': data offset %" PRIu64 " is not a multiple of the alignment "
                      "%" PRIu64,
                      KM_SHOWN(info->name), offset, alignment);
    }
    if (offset > section_size || info->nbytes > section_size - offset) {
        return KM_SET(err, KM_EFORMAT,
                      "tensor '%.*s': %zu bytes at data offset %" PRIu64 " run past the end of the "
                      "data section (%zu bytes); the file may be truncated",
                      KM_SHOWN(info->name), info->nbytes, offset, section_size);
    }
    info->data = section + offset;
    return KM_OK;
}

static int compare_data(const void *a, const void *b) {
    const km_tensor_info *x = *(const km_tensor_info *const *)a;
    const km_tensor_info *y = *(const km_tensor_info *const *)b;
    return ((uintptr_t)x->data > (uintptr_t)y->data) - ((uintptr_t)x->data < (uintptr_t)y->data);
}

/* Uses by_name as scratch space: called before it is sorted by name. */
static km_status check_overlap(km_gguf *gguf, km_error *err) {
    const km_tensor_info **order = gguf->by_name;
    if (gguf->n_tensors > 1) {
        qsort(order, (size_t)gguf->n_tensors, sizeof(*order), compare_data);
    }
    for (int64_t i = 1; i < gguf->n_tensors; i++) {
        const km_tensor_info *before = order[i - 1];
        if ((uintptr_t)before->data + before->nbytes > (uintptr_t)order[i]->data) {
            return KM_SET(err, KM_EFORMAT, "the data of tensors '%.*s' and '%.*s' overlap",
                          KM_SHOWN(before->name), KM_SHOWN(order[i]->name));
        }
    }
    return KM_OK;
}

/* ---- the whole header ---- */

static km_status check_magic(cursor *c, km_error *err) {
    const unsigned char *magic;
    uint32_t version;
    KM_TRY(read_bytes(&magic, c, 4, "the GGUF magic", err));
    if (memcmp(magic, "GGUF", 4) != 0) {
        return KM_SET(err, KM_EFORMAT,
                      "offset 0: not a GGUF file: it begins with %02x %02x %02x %02x, not 'GGUF'",
                      magic[0], magic[1], magic[2], magic[3]);
    }
    KM_TRY(read_u32(&version, c, "the GGUF version", err));
    if (version != 0 && (version & 0xffff) == 0) {
        return KM_SET(err, KM_EUNSUPPORTED, "offset 4: a big-endian GGUF file is not supported");
    }
    if (version < 2 || version > 3) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "offset 4: GGUF version %" PRIu32 " is not supported, only 2 and 3; convert "
                      "the model again with a current converter",
                      version);
    }
    return KM_OK;
}

static km_status read_count(int64_t *out, cursor *c, int64_t max, size_t least, const char *what,
                            km_error *err) {
    uint64_t n;
    size_t start = c->at;
    KM_TRY(read_u64(&n, c, what, err));
    if (n > (uint64_t)max || n > (c->size - c->at) / least) {
        return KM_SET(err, KM_EFORMAT,
                      "offset %zu: %s is %" PRIu64 ", more than %zu bytes can hold (or the limit "
                      "%" PRId64 ")",
                      start, what, n, c->size - c->at, max);
    }
    *out = (int64_t)n;
    return KM_OK;
}

/* Copy a name into the pool so that it can be NUL-terminated. */
static char *keep_name(char *pool, const char **name, size_t n) {
    memcpy(pool, *name, n);
    pool[n] = '\0';
    *name = pool;
    return pool + n + 1;
}

/* Both walks record pointers into the file; names move into one block afterwards. lengths and
 * offsets are scratch space, one a tensor. */
static km_status read_header(km_gguf *gguf, cursor *c, uint64_t *lengths, uint64_t *offsets,
                             km_error *err) {
    size_t total = 0;
    for (int64_t i = 0; i < gguf->n_entries; i++) {
        KM_TRY(read_entry(&gguf->entries[i], c, err));
        total += gguf->entries[i].key_length + 1;
    }
    for (int64_t i = 0; i < gguf->n_tensors; i++) {
        size_t length;
        KM_TRY(read_tensor(&gguf->tensors[i], &length, &offsets[i], c, err));
        lengths[i] = length;
        total += length + 1;
    }
    KM_TRY(km_alloc((void **)&gguf->names, gguf->ctx, total, err));
    char *pool = gguf->names;
    for (int64_t i = 0; i < gguf->n_entries; i++) {
        pool = keep_name(pool, &gguf->entries[i].key, gguf->entries[i].key_length);
    }
    for (int64_t i = 0; i < gguf->n_tensors; i++) {
        pool = keep_name(pool, &gguf->tensors[i].name, (size_t)lengths[i]);
    }
    return index_keys(gguf, err);
}

static km_status read_alignment(uint64_t *out, const km_gguf *gguf, km_error *err) {
    int64_t alignment = DEFAULT_ALIGNMENT;
    bool found;
    KM_TRY(km_gguf_get_int(gguf, "general.alignment", &alignment, &found, err));
    if (!found) {
        alignment = DEFAULT_ALIGNMENT;
    }
    if (alignment < 8 || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) != 0) {
        return KM_SET(err, KM_EFORMAT,
                      "key 'general.alignment': %" PRId64 " is not a power of two from 8 to %d",
                      alignment, MAX_ALIGNMENT);
    }
    *out = (uint64_t)alignment;
    return KM_OK;
}

static km_status place_tensors(km_gguf *gguf, const cursor *c, const uint64_t *offsets,
                               km_error *err) {
    uint64_t alignment;
    KM_TRY(read_alignment(&alignment, gguf, err));
    size_t padding = (size_t)((alignment - c->at % alignment) % alignment);
    /* A file without tensors may end without padding. */
    size_t start = padding > c->size - c->at ? c->size : c->at + padding;
    for (int64_t i = 0; i < gguf->n_tensors; i++) {
        KM_TRY(place_tensor(&gguf->tensors[i], offsets[i], alignment, c->data + start,
                            c->size - start, err));
        gguf->by_name[i] = &gguf->tensors[i];
    }
    KM_TRY(check_overlap(gguf, err));
    const char *twice = km__tensors_sort(gguf->by_name, gguf->n_tensors);
    if (twice != NULL) {
        return KM_SET(err, KM_EFORMAT, "tensor '%.*s' occurs twice", KM_SHOWN(twice));
    }
    return KM_OK;
}

static km_status parse(km_gguf *gguf, cursor *c, uint64_t **scratch, km_error *err) {
    KM_TRY(check_magic(c, err));
    KM_TRY(read_count(&gguf->n_tensors, c, KM_MAX_TENSORS, MIN_TENSOR_BYTES, "number of tensors",
                      err));
    KM_TRY(read_count(&gguf->n_entries, c, KM_MAX_KEYS, MIN_ENTRY_BYTES, "number of keys", err));
    km_ctx *ctx = gguf->ctx;
    KM_TRY(
        km_alloc_array((void **)&gguf->entries, ctx, gguf->n_entries, sizeof(*gguf->entries), err));
    KM_TRY(
        km_alloc_array((void **)&gguf->by_key, ctx, gguf->n_entries, sizeof(*gguf->by_key), err));
    KM_TRY(
        km_alloc_array((void **)&gguf->tensors, ctx, gguf->n_tensors, sizeof(*gguf->tensors), err));
    KM_TRY(
        km_alloc_array((void **)&gguf->by_name, ctx, gguf->n_tensors, sizeof(*gguf->by_name), err));
    KM_TRY(km_alloc_array((void **)scratch, ctx, 2 * gguf->n_tensors, sizeof(**scratch), err));
    KM_TRY(read_header(gguf, c, *scratch, *scratch + gguf->n_tensors, err));
    return place_tensors(gguf, c, *scratch + gguf->n_tensors, err);
}

km_status km_gguf_parse(km_gguf **out, km_ctx *ctx, const unsigned char *data, size_t size,
                        km_error *err) {
    *out = NULL;
    km_status status = KM_OK;
    km_gguf *gguf = NULL;
    uint64_t *scratch = NULL;
    cursor c = {data, size, 0};
    KM_GO(km_alloc_array((void **)&gguf, ctx, 1, sizeof(*gguf), err));
    gguf->ctx = ctx;
    KM_GO(parse(gguf, &c, &scratch, err));
    *out = gguf;
    gguf = NULL;
done:
    km_free(ctx, scratch);
    km_gguf_free(gguf);
    return status;
}

void km_gguf_free(km_gguf *gguf) {
    if (gguf == NULL) {
        return;
    }
    km_free(gguf->ctx, gguf->entries);
    km_free(gguf->ctx, gguf->by_key);
    km_free(gguf->ctx, gguf->tensors);
    km_free(gguf->ctx, gguf->by_name);
    km_free(gguf->ctx, gguf->names);
    km_free(gguf->ctx, gguf);
}

int64_t km_gguf_n_tensors(const km_gguf *gguf) {
    return gguf->n_tensors;
}

const km_tensor_info *km_gguf_tensor(const km_gguf *gguf, int64_t index) {
    return index >= 0 && index < gguf->n_tensors ? &gguf->tensors[index] : NULL;
}

const km_tensor_info *km_gguf_find_tensor(const km_gguf *gguf, const char *name) {
    return km__tensors_find(gguf->by_name, gguf->n_tensors, name);
}
