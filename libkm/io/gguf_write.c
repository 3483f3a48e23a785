/* gguf_write.c: write a GGUF v3 file: the layout gguf.c reads. */
#include "io/io_private.h"
#include "io/write.h"

#include <string.h>

#define DEFAULT_ALIGNMENT 32

/* Bytes of the n strings of an array, lengths included. */
static size_t strings_bytes(const unsigned char *data, int64_t n) {
    size_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        uint64_t length;
        memcpy(&length, data + at, sizeof length);
        at += sizeof length + (size_t)length; /* checked when the file was parsed */
    }
    return at;
}

km_gguf_pair km_gguf_pair_at(const km_gguf *gguf, int64_t index) {
    const km_gguf_entry *entry = &gguf->entries[index];
    km_gguf_pair pair = {entry->key, entry->type, entry->element, entry->n, entry->data, 0};
    if (entry->type == KM_GGUF_STRING) {
        pair.nbytes = (size_t)entry->n;
    } else if (entry->type != KM_GGUF_ARRAY) {
        pair.nbytes = km__gguf_type_size(entry->type);
    } else if (entry->element == KM_GGUF_STRING) {
        pair.nbytes = strings_bytes(entry->data, entry->n);
    } else {
        pair.nbytes = (size_t)entry->n * km__gguf_type_size(entry->element);
    }
    return pair;
}

static km_status put_u32(km_output *output, uint32_t value, km_error *err) {
    return km_output_write(output, &value, sizeof value, err);
}

static km_status put_u64(km_output *output, uint64_t value, km_error *err) {
    return km_output_write(output, &value, sizeof value, err);
}

static km_status put_string(km_output *output, const char *text, size_t n, km_error *err) {
    KM_TRY(put_u64(output, n, err));
    return km_output_write(output, text, n, err);
}

static km_status put_pair(km_output *output, const km_gguf_pair *pair, km_error *err) {
    KM_TRY(put_string(output, pair->key, strlen(pair->key), err));
    KM_TRY(put_u32(output, pair->type, err));
    if (pair->type == KM_GGUF_STRING) {
        return put_string(output, pair->data, pair->nbytes, err);
    }
    if (pair->type == KM_GGUF_ARRAY) {
        KM_TRY(put_u32(output, pair->element, err));
        KM_TRY(put_u64(output, (uint64_t)pair->n, err));
    }
    return km_output_write(output, pair->data, pair->nbytes, err);
}

static km_status put_description(km_output *output, const km_write_tensor *tensor, uint64_t offset,
                                 km_error *err) {
    int64_t dims[KM_MAX_DIMS];
    const int n_dims = tensor->source->n_dims;
    km_write_dims(dims, tensor);
    KM_TRY(put_string(output, tensor->name, strlen(tensor->name), err));
    KM_TRY(put_u32(output, (uint32_t)n_dims, err));
    for (int i = n_dims - 1; i >= 0; i--) {
        KM_TRY(put_u64(output, (uint64_t)dims[i], err));
    }
    KM_TRY(put_u32(output, (uint32_t)km_dtype_get(tensor->dtype)->ggml_type, err));
    return put_u64(output, offset, err);
}

/* What the entries say of the alignment, as gguf.c reads it. */
static size_t alignment_of(const km_gguf_pair *pairs, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (strcmp(pairs[i].key, "general.alignment") == 0) {
            uint64_t value = 0;
            memcpy(&value, pairs[i].data, pairs[i].nbytes < 8 ? pairs[i].nbytes : 8);
            return (size_t)value;
        }
    }
    return DEFAULT_ALIGNMENT;
}

km_status km_gguf_write_to(km_output *output, km_ctx *ctx, const km_gguf_pair *pairs,
                           int64_t n_pairs, const km_write_tensor *tensors, int64_t n_tensors,
                           km_error *err) {
    const size_t alignment = alignment_of(pairs, n_pairs);
    uint64_t offset = 0;
    km_tick tick;
    km_tick_init(&tick, ctx, NULL, NULL, 0);
    KM_TRY(km_output_write(output, "GGUF", 4, err));
    KM_TRY(put_u32(output, 3, err));
    KM_TRY(put_u64(output, (uint64_t)n_tensors, err));
    KM_TRY(put_u64(output, (uint64_t)n_pairs, err));
    for (int64_t i = 0; i < n_pairs; i++) {
        KM_TRY(put_pair(output, &pairs[i], err));
    }
    for (int64_t i = 0; i < n_tensors; i++) {
        KM_TRY(put_description(output, &tensors[i], offset, err));
        offset += (km_write_bytes(&tensors[i]) + alignment - 1) / alignment * alignment;
    }
    for (int64_t i = 0; i < n_tensors; i++) {
        KM_TRY(km_output_pad(output, alignment, err));
        KM_TRY(km_write_data(output, ctx, &tensors[i], &tick, err));
    }
    return km_output_pad(output, alignment, err);
}

km_status km_gguf_write(const char *path, km_ctx *ctx, const km_gguf_pair *pairs, int64_t n_pairs,
                        const km_write_tensor *tensors, int64_t n_tensors, km_error *err) {
    km_output *output = NULL;
    KM_TRY(km_output_open(&output, ctx, path, err));
    km_status status = km_gguf_write_to(output, ctx, pairs, n_pairs, tensors, n_tensors, err);
    if (status != KM_OK) {
        km_output_abort(output);
        return status;
    }
    return km_output_commit(output, err);
}
