/* linear_private.h: the tables of kernels_linear.c, and the rule for long sums. */
#ifndef KM_TENSOR_LINEAR_PRIVATE_H
#define KM_TENSOR_LINEAR_PRIVATE_H

#include "tensor/matrix.h"

/* Rows of w that a tile takes; panels of weights are padded to a multiple of it. */
#define KM_TILE_ROWS 4
/* Panels of weights have rows padded with zeros to a multiple of the widest vector. */
#define KM_PANEL_ALIGN 16

/* Longest block of a sum. */
#define KM_SUM_BLOCK 768

static inline int64_t km__divide_up(int64_t n, int64_t size) {
    return n / size + (n % size != 0);
}

static inline int64_t km__least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Elements a block of a sum over k: all of k up to KM_SUM_BLOCK, else equal blocks, each a multiple
 * of 256 so that no stored block is cut. Part of what defines the bits of a product. */
static inline int64_t km__sum_block(int64_t k) {
    const int64_t blocks = (k + KM_SUM_BLOCK - 1) / KM_SUM_BLOCK;
    return blocks <= 1 ? k : ((k + blocks - 1) / blocks + 255) / 256 * 256;
}

/* The products of the backward pass are cut into units of at most this many rows and columns. */
#define KM_UNIT_ROWS 384
#define KM_UNIT_COLUMNS 640

/* Length of n_blocks equal blocks, a multiple of 32 but for the last. */
static inline int64_t km__cut_length(int64_t size, int64_t n_blocks) {
    return ((size + n_blocks - 1) / n_blocks + 31) / 32 * 32;
}

/* Rows of a unit: few rows in one, more in an even number of blocks, so that two threads have the
 * same to do. */
static inline int64_t km__unit_rows(int64_t rows) {
    const int64_t blocks = (rows + KM_UNIT_ROWS - 1) / KM_UNIT_ROWS;
    return rows < 64 ? 64 : km__cut_length(rows, (blocks + 1) / 2 * 2);
}

/* Columns of a unit of a result with so many rows: narrower ones where one unit has all rows. */
static inline int64_t km__unit_columns(int64_t rows, int64_t columns) {
    const int64_t most = rows <= 64 ? KM_UNIT_COLUMNS / 4 : KM_UNIT_COLUMNS;
    return km__cut_length(columns, (columns + most - 1) / most);
}

typedef struct km_linear_kernels {
    const char *name;
    /* y (m, n) = x (m, k) w^T + bias, row strides ldy, ldx, ldw. w has zeros in columns k to the
     * next multiple of KM_PANEL_ALIGN and readable rows up to the next multiple of KM_TILE_ROWS;
     * bias (n) or NULL. */
    void (*block)(float *y, int64_t ldy, const float *x, int64_t ldx, const float *w, int64_t ldw,
                  const float *bias, int64_t m, int64_t n, int64_t k);
} km_linear_kernels;

const km_linear_kernels *km__linear_kernels(const km_ctx *ctx);

/* The conversions of kernels_dequant.c, bit for bit those of km_dtype_traits.to_f32 (a signalling
 * NaN may come out quiet), and the products of one row that convert in registers. */
typedef struct km_dequant_kernels {
    const char *name;
    /* n elements (a multiple of the type's block) from src into dst */
    void (*to_f32[KM_DTYPE_COUNT])(float *dst, const void *src, int64_t n);
    /* y (n) = w x + bias for the n rows of w, row_bytes apart, of k columns; bias (n) or NULL. The
     * bits are those of km_linear_kernels.block. */
    void (*one_row[KM_DTYPE_COUNT])(float *y, const float *x, const void *w, int64_t row_bytes,
                                    const float *bias, int64_t n, int64_t k);
} km_dequant_kernels;

const km_dequant_kernels *km__dequant_kernels(const km_ctx *ctx);

#endif
