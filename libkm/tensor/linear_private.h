/* linear_private.h: the tables of kernels_linear.c, and the rule for long sums. */
#ifndef KM_TENSOR_LINEAR_PRIVATE_H
#define KM_TENSOR_LINEAR_PRIVATE_H

#include "tensor/matrix.h"

/* Rows of w that a tile takes; panels of weights are padded to a multiple of it. */
#define KM_TILE_ROWS 4
/* Panels of weights have rows padded with zeros to a multiple of the widest vector. */
#define KM_PANEL_ALIGN 16

typedef struct km_linear_kernels {
    const char *name;
    /* y (m, n) = x (m, k) w^T + bias, row strides ldy, ldx, ldw. w has zeros in columns k to the
     * next multiple of KM_PANEL_ALIGN and readable rows up to the next multiple of KM_TILE_ROWS;
     * bias (n) or NULL. */
    void (*block)(float *y, int64_t ldy, const float *x, int64_t ldx, const float *w, int64_t ldw,
                  const float *bias, int64_t m, int64_t n, int64_t k);
} km_linear_kernels;

const km_linear_kernels *km__linear_kernels(const km_ctx *ctx);

#endif
