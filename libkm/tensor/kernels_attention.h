/* kernels_attention.h: the two products of attention, compiled once per instruction set.
 *
 * A score is a sum over the head's width in one order: LANES partial sums in rising order, then the
 * lanes by halving. A mixed value is a sum over keys, one fused multiply-add a key in the order
 * they are given. Neither depends on how many rows or keys one call is given, so a token attends
 * with the same bits whoever is computed beside it.
 */
#ifndef KM_TENSOR_KERNELS_ATTENTION_H
#define KM_TENSOR_KERNELS_ATTENTION_H

#include "base/base.h"

/* Rows that `mix` works on at once; fewer take as long. */
#define KM_MIX_ROWS 4

typedef struct km_attention_kernels {
    /* scores (n_rows, n_keys) = scale * queries (n_rows, width) keys (n_keys, width)^T; ld_*: row
     * strides. */
    void (*scores)(float *scores, int64_t ld_scores, const float *queries, int64_t n_rows,
                   const float *keys, int64_t ld_keys, int64_t n_keys, int64_t width, float scale);
    /* out (n_rows, width) += weights (n_rows, n_keys) values (n_keys, width); out is dense. */
    void (*mix)(float *out, const float *weights, int64_t ld_weights, int64_t n_rows,
                const float *values, int64_t ld_values, int64_t n_keys, int64_t width);
} km_attention_kernels;

const km_attention_kernels *km_ctx_attention_kernels(const km_ctx *ctx);

#endif
