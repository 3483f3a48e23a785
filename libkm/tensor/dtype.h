/* dtype.h: storage types of weights, one row a type, and their exact conversion to float32.
 *
 * Block layouts follow the GGUF specification; each dequantiser gives bit for bit what the `gguf`
 * package's own gives (tests/python/test_dequantise.py). */
#ifndef KM_TENSOR_DTYPE_H
#define KM_TENSOR_DTYPE_H

#include "base/base.h"

typedef enum km_dtype {
    KM_F32 = 0,
    KM_F16,
    KM_BF16,
    KM_Q8_0,
    KM_Q4_0,
    KM_Q4_1,
    KM_Q5_0,
    KM_Q5_1,
    KM_Q4_K,
    KM_Q5_K,
    KM_Q6_K,
    KM_DTYPE_COUNT
} km_dtype;

typedef struct km_dtype_traits {
    const char *name;   /* "Q4_1" */
    int ggml_type;      /* number in GGUF files */
    int block_elements; /* elements a block */
    int block_bytes;    /* bytes a block */
    /* n_elements (a multiple of block_elements) from src into dst */
    void (*to_f32)(float *dst, const void *src, int64_t n_elements);
} km_dtype_traits;

const km_dtype_traits *km_dtype_get(km_dtype dtype);
/* false when km does not read this ggml type number. */
bool km_dtype_from_ggml(km_dtype *out, uint32_t ggml_type);
/* The ggml type's name for error messages, "type 31" style when unknown. */
const char *km_ggml_type_name(uint32_t ggml_type);

#endif
