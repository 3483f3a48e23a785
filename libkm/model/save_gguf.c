/* save_gguf.c: a GGUF model as a GGUF file: every entry is copied, general.file_type follows what
 * is written. */
#include <string.h>

#include "model/save_private.h"

enum { GGUF_U32 = 4 };

/* llama.cpp's number of the mixture most tensors have; -1: stays as it is. */
static int64_t file_type(km_save_dtype dtype) {
    switch (dtype) {
    case KM_SAVE_F32:
        return 0;
    case KM_SAVE_F16:
        return 1;
    case KM_SAVE_Q8_0:
        return 7;
    case KM_SAVE_BF16:
        return 32;
    default:
        return -1;
    }
}

/* Put a number under `key`, over the entry that is there or behind the last. */
static void set_number(km_gguf_pair *pairs, int64_t *n, const char *key, const uint32_t *value) {
    int64_t at = 0;
    while (at < *n && strcmp(pairs[at].key, key) != 0) {
        at++;
    }
    pairs[at] = (km_gguf_pair){key, GGUF_U32, 0, 1, value, sizeof *value};
    *n += at == *n;
}

km_status km__save_gguf(const km_model *model, const char *path, const km__save_list *list,
                        const km_save_options *options, km_error *err) {
    static const uint32_t quantization_version = 2;
    const km_gguf *gguf = km_container_gguf(model->container);
    const int64_t type = file_type(options->dtype);
    const uint32_t type_value = (uint32_t)type;
    int64_t n = km_gguf_n_keys(gguf);
    km_gguf_pair *pairs = NULL;
    km_status status = KM_OK;
    KM_GO(km_alloc_array((void **)&pairs, model->ctx, n + 2, sizeof *pairs, err));
    for (int64_t i = 0; i < n; i++) {
        pairs[i] = km_gguf_pair_at(gguf, i);
    }
    if (type >= 0) {
        set_number(pairs, &n, "general.file_type", &type_value);
    }
    if (options->dtype == KM_SAVE_Q8_0) {
        set_number(pairs, &n, "general.quantization_version", &quantization_version);
    }
    KM_GO(km_gguf_write(path, model->ctx, pairs, n, list->items, list->n, err));
done:
    km_free(model->ctx, pairs);
    return status;
}
