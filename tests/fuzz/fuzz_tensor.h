/* fuzz_tensor.h: convert a tensor of a parsed file, whatever its bytes say. */
#ifndef KM_TESTS_FUZZ_TENSOR_H
#define KM_TESTS_FUZZ_TENSOR_H

#include "fuzz.h"
#include "io/io.h"

/* `found` is what looking the tensor up by its name gave. */
static inline void fuzz_tensor(const km_tensor_info *info, const km_tensor_info *found) {
    const km_dtype_traits *traits = km_dtype_get(info->dtype);
    int64_t n = (int64_t)(info->nbytes / (size_t)traits->block_bytes) * traits->block_elements;
    float *out = malloc((size_t)n * sizeof(float) + 1);
    if (found != info || out == NULL) {
        abort();
    }
    traits->to_f32(out, info->data, n);
    free(out);
}

#endif
