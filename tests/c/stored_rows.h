/* stored_rows.h: random rows of every storage type, for the tests of products and conversions. */
#ifndef KM_STORED_ROWS_H
#define KM_STORED_ROWS_H

#include "km_test.h"
#include "tensor/matrix.h"

/* Where a block holds half-precision numbers; -1 ends the list. */
static inline const int *stored_halves(km_dtype dtype) {
    static const int NONE[] = {-1}, FIRST[] = {0, -1}, TWO[] = {0, 2, -1}, LAST[] = {208, -1};
    switch (dtype) {
    case KM_F16:
    case KM_Q8_0:
    case KM_Q4_0:
    case KM_Q5_0:
        return FIRST;
    case KM_Q4_1:
    case KM_Q5_1:
    case KM_Q4_K:
    case KM_Q5_K:
        return TWO;
    case KM_Q6_K:
        return LAST;
    default:
        return NONE;
    }
}

/* One block of random bits whose half-precision numbers are of magnitude 2^-10 to 2^-2, so that
 * every number of it is an ordinary one. F32: normal deviates. */
static inline void stored_block(unsigned char *block, km_dtype dtype, uint64_t stream,
                                uint64_t index) {
    const int bytes = km_dtype_get(dtype)->block_bytes;
    for (int i = 0; i < bytes; i++) {
        block[i] = (unsigned char)km_random_u64(31, stream, index * 256 + (uint64_t)i);
    }
    if (dtype == KM_F32 || dtype == KM_BF16) {
        float x = (float)km_random_normal(32, stream, index);
        memcpy(block, (char *)&x + (dtype == KM_BF16 ? 2 : 0), (size_t)bytes);
    }
    for (const int *at = stored_halves(dtype); *at >= 0; at++) {
        uint16_t half;
        memcpy(&half, block + *at, sizeof half);
        half = (uint16_t)((half & 0x83ff) | (5 + (half >> 10 & 7)) << 10);
        memcpy(block + *at, &half, sizeof half);
    }
}

/* A matrix of random blocks; free(data) at the end. cols is a multiple of the block's elements. */
static inline km_matrix stored_matrix(km_dtype dtype, int64_t rows, int64_t cols, uint64_t stream) {
    km_matrix w = {NULL, dtype, rows, cols};
    const km_dtype_traits *traits = km_dtype_get(dtype);
    const int64_t n_blocks = rows * (cols / traits->block_elements);
    unsigned char *data = malloc((size_t)(n_blocks * traits->block_bytes) + 1);
    assert_non_null(data);
    for (int64_t b = 0; b < n_blocks; b++) {
        stored_block(data + b * traits->block_bytes, dtype, stream, (uint64_t)b);
    }
    w.data = data;
    return w;
}

#endif
