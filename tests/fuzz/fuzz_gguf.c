/* fuzz_gguf.c: any bytes as a GGUF file: parse, read every key as every type, find and convert
 * every tensor, read the configuration. */
#include "fuzz_tensor.h"

#include "model/config_private.h"

static void read_key(const km_gguf *gguf, const char *key) {
    int64_t integer, n;
    double real;
    bool flag;
    const char *text;
    size_t length;
    (void)!km_gguf_get_int(gguf, key, &integer, NULL, NULL);
    (void)!km_gguf_get_double(gguf, key, &real, NULL, NULL);
    (void)!km_gguf_get_bool(gguf, key, &flag, NULL, NULL);
    (void)!km_gguf_get_string(gguf, key, &text, &length, NULL, NULL);
    if (km_gguf_array_length(gguf, key, &n, NULL, NULL) != KM_OK || n > 65536) {
        return;
    }
    void *block = malloc((size_t)n * sizeof(km_gguf_string) + 1);
    if (block == NULL) {
        abort();
    }
    size_t total = 0;
    if (km_gguf_get_strings(gguf, key, block, n, NULL) == KM_OK) {
        const km_gguf_string *strings = block;
        for (int64_t i = 0; i < n; i++) {
            total += km_utf8_valid(strings[i].data, strings[i].n);
        }
        if (total != (size_t)n) {
            abort();
        }
    }
    (void)!km_gguf_get_floats(gguf, key, block, n, NULL);
    (void)!km_gguf_get_ints(gguf, key, block, n, NULL);
    free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    km_ctx *ctx = fuzz_ctx();
    size_t base = fuzz_used.live;
    km_gguf *gguf;
    km_error err = KM_ERROR_INIT;
    km_status status = km_gguf_parse(&gguf, ctx, data, size, &err);
    fuzz_check_error(status, &err);
    if (status == KM_OK) {
        for (int64_t i = 0; i < km_gguf_n_keys(gguf); i++) {
            read_key(gguf, km_gguf_key(gguf, i));
        }
        for (int64_t i = 0; i < km_gguf_n_tensors(gguf); i++) {
            const km_tensor_info *info = km_gguf_tensor(gguf, i);
            fuzz_tensor(info, km_gguf_find_tensor(gguf, info->name));
        }
        km_config config = {0};
        status = km__config_from_gguf(&config, gguf, &err);
        if (status == KM_OK) {
            status = km__config_check(&config, &err);
        }
        fuzz_check_error(status, &err);
        km_gguf_free(gguf);
    }
    fuzz_check_peak(base, size, 8);
    return 0;
}
