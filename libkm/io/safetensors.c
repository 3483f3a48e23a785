/* safetensors.c: parse the header of one safetensors file.
 *
 * Layout: u64 header length, a JSON object {name: {dtype, shape, data_offsets}}, then the data. The
 * data ranges must cover the rest of the file exactly, without holes or overlap. Duplicate names,
 * which the reference reader lets pass, are refused. Source: safetensors README ("Format"). */
#include "io/io_private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/json_scan.h"

#define MAX_HEADER_BYTES ((uint64_t)100000000)

struct km_safetensors {
    km_ctx *ctx;
    km_tensor_info *tensors; /* (n) in header order */
    const km_tensor_info **by_name;
    int64_t n, n_named; /* named ones include masks */
    char *names;        /* as large as the header */
};

typedef struct reader {
    km_scan scan;
    char *pool; /* where the next string goes */
    const unsigned char *data;
    size_t data_size;
} reader;

/* ---- one tensor's object ---- */

/* Old GPT-2 and GPT-NeoX files hold their causal masks as bytes, for no use: such a tensor has this
 * type and is left out once its place is checked. */
#define MASK KM_DTYPE_COUNT

static bool is_mask(const char *name, const char *dtype) {
    static const char *const ENDS[] = {"attn.bias", "attention.bias"};
    const size_t n = strlen(name);
    bool named = false;
    for (size_t i = 0; i < sizeof(ENDS) / sizeof(ENDS[0]); i++) {
        const size_t k = strlen(ENDS[i]);
        named = named || (n >= k && strcmp(name + n - k, ENDS[i]) == 0);
    }
    return named && (strcmp(dtype, "BOOL") == 0 || strcmp(dtype, "U8") == 0);
}

static km_status read_dtype(km_tensor_info *info, reader *r, km_error *err) {
    static const struct {
        const char *name;
        km_dtype dtype;
    } KNOWN[] = {{"F32", KM_F32}, {"F16", KM_F16}, {"BF16", KM_BF16}};
    size_t n;
    size_t start = r->scan.base + r->scan.at;
    KM_TRY(km__scan_string(r->pool, &n, &r->scan, err));
    for (size_t i = 0; i < sizeof(KNOWN) / sizeof(KNOWN[0]); i++) {
        if (strcmp(r->pool, KNOWN[i].name) == 0) {
            info->dtype = KNOWN[i].dtype;
            return KM_OK;
        }
    }
    if (is_mask(info->name, r->pool)) {
        info->dtype = MASK;
        return KM_OK;
    }
    return KM_SET(err, KM_EUNSUPPORTED,
                  "offset %zu: dtype '%.*s' is not supported; convert to F32, F16 or BF16", start,
                  KM_SHOWN(r->pool));
}

static km_status read_shape(km_tensor_info *info, reader *r, km_error *err) {
    bool more;
    KM_TRY(km__scan_open(&more, &r->scan, '[', ']', err));
    info->n_dims = 0;
    while (more) {
        if (info->n_dims == KM_MAX_DIMS) {
            return KM_SET(err, KM_EUNSUPPORTED, "offset %zu: more than %d dimensions",
                          r->scan.base + r->scan.at, KM_MAX_DIMS);
        }
        KM_TRY(km__scan_int(&info->dims[info->n_dims++], &r->scan, err));
        KM_TRY(km__scan_next(&more, &r->scan, ']', err));
    }
    return KM_OK;
}

static km_status read_offsets(int64_t range[2], reader *r, km_error *err) {
    KM_TRY(km__scan_expect(&r->scan, '[', err));
    KM_TRY(km__scan_int(&range[0], &r->scan, err));
    KM_TRY(km__scan_expect(&r->scan, ',', err));
    KM_TRY(km__scan_int(&range[1], &r->scan, err));
    return km__scan_expect(&r->scan, ']', err);
}

static bool bytes_of(km_tensor_info *info) {
    if (info->dtype != MASK) {
        return km__tensor_bytes(&info->nbytes, info->dtype, info->dims, info->n_dims);
    }
    bool fits = true;
    info->nbytes = 1;
    for (int i = 0; i < info->n_dims; i++) {
        fits = fits && info->dims[i] >= 0 &&
               km_size_mul(&info->nbytes, info->nbytes, (size_t)info->dims[i]);
    }
    return fits;
}

/* The size the shape and type ask for must be the size the offsets give, inside the file. */
static km_status place_tensor(km_tensor_info *info, const int64_t range[2], const reader *r,
                              km_error *err) {
    if (range[0] > range[1] || (uint64_t)range[1] > r->data_size) {
        return KM_SET(err, KM_EFORMAT,
                      "data_offsets [%" PRId64 ", %" PRId64
                      "] do not lie in the %zu bytes of data; "
                      "the file may be truncated",
                      range[0], range[1], r->data_size);
    }
    if (!bytes_of(info)) {
        return KM_SET(err, KM_EFORMAT, "the product of the dimensions is too large");
    }
    if (info->nbytes != (size_t)(range[1] - range[0])) {
        return KM_SET(err, KM_EFORMAT, "data_offsets give %" PRId64 " bytes, the shape needs %zu",
                      range[1] - range[0], info->nbytes);
    }
    info->data = r->data + range[0];
    return KM_OK;
}

/* Which of the three fields a key names: 0, 1, 2, or -1. */
static int field_index(const char *key) {
    static const char *const FIELDS[] = {"dtype", "shape", "data_offsets"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(key, FIELDS[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static km_status read_fields(km_tensor_info *info, reader *r, km_error *err) {
    bool more;
    bool seen[3] = {false, false, false};
    int64_t range[2] = {0, 0};
    KM_TRY(km__scan_open(&more, &r->scan, '{', '}', err));
    while (more) {
        size_t n;
        KM_TRY(km__scan_string(r->pool, &n, &r->scan, err));
        int field = field_index(r->pool);
        if (field < 0 || seen[field]) {
            return KM_SET(err, KM_EFORMAT, "offset %zu: field '%.*s' is %s",
                          r->scan.base + r->scan.at, KM_SHOWN(r->pool),
                          field < 0 ? "unknown" : "repeated");
        }
        seen[field] = true;
        KM_TRY(km__scan_expect(&r->scan, ':', err));
        if (field == 0) {
            KM_TRY(read_dtype(info, r, err));
        } else if (field == 1) {
            KM_TRY(read_shape(info, r, err));
        } else {
            KM_TRY(read_offsets(range, r, err));
        }
        KM_TRY(km__scan_next(&more, &r->scan, '}', err));
    }
    if (!seen[0] || !seen[1] || !seen[2]) {
        return KM_SET(err, KM_EFORMAT, "offset %zu: dtype, shape or data_offsets is missing",
                      r->scan.base + r->scan.at);
    }
    return place_tensor(info, range, r, err);
}

/* ---- the header ---- */

static km_status read_tensor(km_safetensors *st, const char *name, reader *r, km_error *err) {
    km_tensor_info *info = &st->tensors[st->n++];
    info->name = name;
    km_status status = read_fields(info, r, err);
    if (status != KM_OK) {
        km_error_prefix(err, "tensor '%.*s'", KM_SHOWN(name));
    }
    return status;
}

static km_status grow(km_safetensors *st, int64_t *capacity, km_error *err) {
    if (st->n < *capacity) {
        return KM_OK;
    }
    int64_t wanted = *capacity > 0 ? 2 * *capacity : 64;
    if (st->n >= KM_MAX_TENSORS) {
        return KM_SET(err, KM_EFORMAT, "more than %" PRId64 " tensors", KM_MAX_TENSORS);
    }
    KM_TRY(km_realloc((void **)&st->tensors, st->ctx, (size_t)wanted * sizeof(*st->tensors), err));
    *capacity = wanted;
    return KM_OK;
}

static km_status read_entries(km_safetensors *st, reader *r, km_error *err) {
    bool more;
    bool metadata = false;
    int64_t capacity = 0;
    KM_TRY(km__scan_open(&more, &r->scan, '{', '}', err));
    while (more) {
        size_t n;
        char *name = r->pool;
        KM_TRY(km__scan_string(name, &n, &r->scan, err));
        KM_TRY(km__scan_expect(&r->scan, ':', err));
        if (strcmp(name, "__metadata__") == 0) {
            if (metadata) {
                return KM_SET(err, KM_EFORMAT, "'__metadata__' occurs twice");
            }
            metadata = true;
            KM_TRY(km__scan_skip(&r->scan, err));
        } else {
            r->pool += n + 1;
            KM_TRY(grow(st, &capacity, err));
            KM_TRY(read_tensor(st, name, r, err));
        }
        KM_TRY(km__scan_next(&more, &r->scan, '}', err));
    }
    return km__scan_finish(&r->scan, err);
}

static int compare_data(const void *a, const void *b) {
    const km_tensor_info *x = *(const km_tensor_info *const *)a;
    const km_tensor_info *y = *(const km_tensor_info *const *)b;
    uintptr_t p = (uintptr_t)x->data;
    uintptr_t q = (uintptr_t)y->data;
    if (p != q) {
        return p > q ? 1 : -1;
    }
    return (x->nbytes > y->nbytes) - (x->nbytes < y->nbytes); /* empty tensors first */
}

/* Sorted by place, each tensor begins where the one before ends, and the last ends the file. */
static km_status check_cover(km_safetensors *st, const reader *r, km_error *err) {
    const km_tensor_info **order = st->by_name;
    if (st->n > 1) {
        qsort(order, (size_t)st->n, sizeof(*order), compare_data);
    }
    uintptr_t end = (uintptr_t)r->data;
    for (int64_t i = 0; i < st->n; i++) {
        if ((uintptr_t)order[i]->data != end) {
            return KM_SET(err, KM_EFORMAT, "the data of tensor '%.*s' %s", KM_SHOWN(order[i]->name),
                          (uintptr_t)order[i]->data < end ? "overlap another tensor's"
                                                          : "leave a hole before them");
        }
        end += order[i]->nbytes;
    }
    if (end != (uintptr_t)r->data + r->data_size) {
        return KM_SET(err, KM_EFORMAT, "%zu bytes at the end belong to no tensor",
                      (size_t)((uintptr_t)r->data + r->data_size - end));
    }
    return KM_OK;
}

/* Masks go behind the tensors: found by name (an index of shards may name them), not counted. */
static void leave_out_masks(km_safetensors *st) {
    int64_t n = 0;
    for (int64_t i = 0; i < st->n_named; i++) {
        if (st->tensors[i].dtype != MASK) {
            km_tensor_info kept = st->tensors[i];
            st->tensors[i] = st->tensors[n];
            st->tensors[n++] = kept;
        }
        st->by_name[i] = &st->tensors[i];
    }
    st->n = n;
}

static km_status index_tensors(km_safetensors *st, const reader *r, km_error *err) {
    KM_TRY(km_alloc_array((void **)&st->by_name, st->ctx, st->n, sizeof(*st->by_name), err));
    for (int64_t i = 0; i < st->n; i++) {
        st->by_name[i] = &st->tensors[i];
    }
    const char *twice = km__tensors_sort(st->by_name, st->n);
    if (twice != NULL) {
        return KM_SET(err, KM_EFORMAT, "tensor '%.*s' occurs twice", KM_SHOWN(twice));
    }
    KM_TRY(check_cover(st, r, err));
    st->n_named = st->n;
    leave_out_masks(st);
    (void)km__tensors_sort(st->by_name, st->n_named); /* check_cover sorted them by place */
    return KM_OK;
}

static km_status read_length(uint64_t *out, const unsigned char *data, size_t size, km_error *err) {
    if (size < sizeof(*out)) {
        return KM_SET(err, KM_EFORMAT, "offset 0: %zu bytes are too few for a safetensors file",
                      size);
    }
    memcpy(out, data, sizeof(*out));
    if (*out > size - sizeof(*out) || *out > MAX_HEADER_BYTES) {
        return KM_SET(err, KM_EFORMAT,
                      "offset 0: header of %" PRIu64 " bytes; the file has %zu left and the limit "
                      "is %" PRIu64,
                      *out, size - sizeof(*out), MAX_HEADER_BYTES);
    }
    return KM_OK;
}

km_status km_safetensors_parse(km_safetensors **out, km_ctx *ctx, const unsigned char *data,
                               size_t size, km_error *err) {
    *out = NULL;
    km_status status = KM_OK;
    km_safetensors *st = NULL;
    uint64_t length;
    KM_TRY(read_length(&length, data, size, err));
    KM_GO(km_alloc_array((void **)&st, ctx, 1, sizeof(*st), err));
    st->ctx = ctx;
    /* Every unescaped name with its NUL is shorter than the quoted text it comes from. */
    KM_GO(km_alloc((void **)&st->names, ctx, (size_t)length + 1, err));
    size_t start = sizeof(length) + (size_t)length;
    reader r = {{(const char *)data + sizeof(length), (size_t)length, 0, sizeof(length)},
                st->names,
                data + start,
                size - start};
    KM_GO(read_entries(st, &r, err));
    KM_GO(index_tensors(st, &r, err));
    *out = st;
    st = NULL;
done:
    km_safetensors_free(st);
    return status;
}

void km_safetensors_free(km_safetensors *st) {
    if (st == NULL) {
        return;
    }
    km_free(st->ctx, st->tensors);
    km_free(st->ctx, st->by_name);
    km_free(st->ctx, st->names);
    km_free(st->ctx, st);
}

int64_t km_safetensors_n_tensors(const km_safetensors *st) {
    return st->n;
}

const km_tensor_info *km_safetensors_tensor(const km_safetensors *st, int64_t index) {
    return index >= 0 && index < st->n ? &st->tensors[index] : NULL;
}

const km_tensor_info *km_safetensors_find(const km_safetensors *st, const char *name) {
    return km__tensors_find(st->by_name, st->n_named, name);
}
