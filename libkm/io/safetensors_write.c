/* safetensors_write.c: write one safetensors file: the layout safetensors.c reads. Names come from
 * a file that was read, or from km's own tables, and are escaped all the same. */
#include "io/write.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The header under construction. */
typedef struct text {
    km_ctx *ctx;
    char *data;
    size_t n, capacity;
} text;

static km_status append(text *t, const char *piece, size_t n, km_error *err) {
    if (n > t->capacity - t->n) {
        size_t wanted = 2 * (t->n + n) + 4096;
        KM_TRY(km_realloc((void **)&t->data, t->ctx, wanted, err));
        t->capacity = wanted;
    }
    memcpy(t->data + t->n, piece, n);
    t->n += n;
    return KM_OK;
}

static km_status append_quoted(text *t, const char *name, km_error *err) {
    KM_TRY(append(t, "\"", 1, err));
    for (; *name != '\0'; name++) {
        char escaped[8];
        unsigned char c = (unsigned char)*name;
        int n = c == '"' || c == '\\' ? snprintf(escaped, sizeof escaped, "\\%c", c)
                : c < 0x20            ? snprintf(escaped, sizeof escaped, "\\u%04x", c)
                                      : snprintf(escaped, sizeof escaped, "%c", c);
        KM_TRY(append(t, escaped, (size_t)n, err));
    }
    return append(t, "\"", 1, err);
}

static km_status append_tensor(text *t, const km_write_tensor *tensor, uint64_t *offset,
                               km_error *err) {
    char field[64];
    int64_t dims[KM_MAX_DIMS];
    km_write_dims(dims, tensor);
    KM_TRY(append(t, ",", 1, err));
    KM_TRY(append_quoted(t, tensor->name, err));
    int n = snprintf(field, sizeof field, ":{\"dtype\":\"%s\",\"shape\":[",
                     km_dtype_get(tensor->dtype)->name);
    KM_TRY(append(t, field, (size_t)n, err));
    for (int i = 0; i < tensor->source->n_dims; i++) {
        n = snprintf(field, sizeof field, "%s%" PRId64, i > 0 ? "," : "", dims[i]);
        KM_TRY(append(t, field, (size_t)n, err));
    }
    uint64_t end = *offset + km_write_bytes(tensor);
    n = snprintf(field, sizeof field, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", *offset,
                 end);
    *offset = end;
    return append(t, field, (size_t)n, err);
}

static km_status make_header(text *t, const km_write_tensor *tensors, int64_t n, km_error *err) {
    static const char begin[] = "{\"__metadata__\":{\"format\":\"pt\"}";
    uint64_t offset = 0;
    KM_TRY(append(t, begin, sizeof begin - 1, err));
    for (int64_t i = 0; i < n; i++) {
        if (tensors[i].dtype != KM_F32 && tensors[i].dtype != KM_F16 &&
            tensors[i].dtype != KM_BF16) {
            return KM_SET(err, KM_EUNSUPPORTED, "tensor '%.*s': safetensors cannot hold %s",
                          KM_SHOWN(tensors[i].name), km_dtype_get(tensors[i].dtype)->name);
        }
        KM_TRY(append_tensor(t, &tensors[i], &offset, err));
    }
    KM_TRY(append(t, "}", 1, err));
    while (t->n % 8 != 0) {
        KM_TRY(append(t, " ", 1, err));
    }
    return KM_OK;
}

km_status km_safetensors_write_to(km_output *output, km_ctx *ctx, const km_write_tensor *tensors,
                                  int64_t n_tensors, km_error *err) {
    km_status status = KM_OK;
    text header = {.ctx = ctx};
    km_tick tick;
    km_tick_init(&tick, ctx, NULL, NULL, 0);
    KM_GO(make_header(&header, tensors, n_tensors, err));
    const uint64_t length = header.n;
    KM_GO(km_output_write(output, &length, sizeof length, err));
    KM_GO(km_output_write(output, header.data, header.n, err));
    for (int64_t i = 0; i < n_tensors; i++) {
        KM_GO(km_write_data(output, ctx, &tensors[i], &tick, err));
    }
done:
    km_free(ctx, header.data);
    return status;
}

km_status km_safetensors_write(const char *path, km_ctx *ctx, const km_write_tensor *tensors,
                               int64_t n_tensors, km_error *err) {
    km_output *output = NULL;
    KM_TRY(km_output_open(&output, ctx, path, err));
    km_status status = km_safetensors_write_to(output, ctx, tensors, n_tensors, err);
    if (status != KM_OK) {
        km_output_abort(output);
        return status;
    }
    return km_output_commit(output, err);
}
