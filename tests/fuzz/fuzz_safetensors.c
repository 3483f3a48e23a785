/* fuzz_safetensors.c: any bytes as a safetensors file: parse, find and convert every tensor. */
#include "fuzz.h"

#include "io/io.h"

static void read_tensor(const km_safetensors *st, const km_tensor_info *info) {
    if (km_safetensors_find(st, info->name) != info) {
        abort();
    }
    const km_dtype_traits *traits = km_dtype_get(info->dtype);
    int64_t n = (int64_t)(info->nbytes / (size_t)traits->block_bytes);
    float *out = malloc((size_t)n * sizeof(float) + 1);
    if (out == NULL) {
        abort();
    }
    traits->to_f32(out, info->data, n);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    km_ctx *ctx = fuzz_ctx();
    size_t base = fuzz_used.live;
    km_safetensors *st;
    km_error err = KM_ERROR_INIT;
    km_status status = km_safetensors_parse(&st, ctx, data, size, &err);
    fuzz_check_error(status, &err);
    if (status == KM_OK) {
        for (int64_t i = 0; i < km_safetensors_n_tensors(st); i++) {
            read_tensor(st, km_safetensors_tensor(st, i));
        }
        km_safetensors_free(st);
    }
    fuzz_check_peak(base, size, 8);
    return 0;
}
