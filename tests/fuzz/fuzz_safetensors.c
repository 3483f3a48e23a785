/* fuzz_safetensors.c: any bytes as a safetensors file: parse, find and convert every tensor. */
#include "fuzz_tensor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    km_ctx *ctx = fuzz_ctx();
    size_t base = fuzz_used.live;
    km_safetensors *st;
    km_error err = KM_ERROR_INIT;
    km_status status = km_safetensors_parse(&st, ctx, data, size, &err);
    fuzz_check_error(status, &err);
    if (status == KM_OK) {
        for (int64_t i = 0; i < km_safetensors_n_tensors(st); i++) {
            const km_tensor_info *info = km_safetensors_tensor(st, i);
            fuzz_tensor(info, km_safetensors_find(st, info->name));
        }
        km_safetensors_free(st);
    }
    fuzz_check_peak(base, size, 8);
    return 0;
}
