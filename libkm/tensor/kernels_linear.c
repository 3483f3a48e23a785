/* kernels_linear.c: products of rows with rows, compiled once per instruction set.
 *
 * Both operands run along the inner dimension, so a vector holds LANES neighbouring elements of it
 * and nothing has to be packed: MR rows of x times KM_TILE_ROWS rows of w keep MR * KM_TILE_ROWS
 * vector accumulators, each of which sees one fused multiply-add a step in rising order. At the end
 * the lanes of an accumulator are summed by halving. Sums longer than SUM_BLOCK are cut into equal
 * blocks that are added one after the other; the blocks' length depends on k alone. So an element
 * has the same bits in every tile, and the operands of a tile fit into the first-level cache.
 */
#include "tensor/linear_private.h"
#include "tensor/simd.h"

#define NR KM_TILE_ROWS
#if defined(__AVX512F__) || defined(__aarch64__)
#define MR 6 /* 24 accumulators, four rows of w and one of x in 32 registers */
#elif defined(__AVX2__)
#define MR 3 /* 12 accumulators in 16 registers */
#else
#define MR 2 /* a product needs a register of its own before it is added */
#endif

#define X_BLOCK_BYTES 131072 /* rows of x that stay in the second-level cache */
#define W_STRIP_BYTES 20480  /* rows of w that stay in the first-level cache */

/* ---- tiles ---- */

/* One step of a tile at column c; load_x is a vector of row i of x. */
#define TILE_STEP(load_x)                                                                          \
    do {                                                                                           \
        vfloat ws[NR];                                                                             \
        _Pragma("GCC unroll 8") for (int j = 0; j < NR; j++) {                                     \
            ws[j] = v_load(w + j * ldw + c);                                                       \
        }                                                                                          \
        _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++) {                                   \
            const vfloat xs = (load_x);                                                            \
            _Pragma("GCC unroll 8") for (int j = 0; j < NR; j++) {                                 \
                sums[i][j] = v_fma(xs, ws[j], sums[i][j]);                                         \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* `rows` (a constant) rows of x times NR rows of w, of which n count. */
static inline __attribute__((always_inline)) void tile(const int rows, float *y, int64_t ldy,
                                                       const float *x, int64_t ldx, const float *w,
                                                       int64_t ldw, int64_t n, int64_t k,
                                                       bool add) {
    vfloat sums[MR][NR];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < NR; j++) {
            sums[i][j] = v_set(0.0f);
        }
    }
    int64_t c = 0;
    for (; c + LANES <= k; c += LANES) {
        TILE_STEP(v_load(x + i * ldx + c));
    }
    if (c < k) {
        TILE_STEP(v_load_part(x + i * ldx + c, k - c, 0.0f));
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        vquad four = v_sum4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
        v_store_sums(y + i * ldy, four, n, add);
    }
}

/* As many tiles of `rows` rows as m has, times all n rows of w, row strip after row strip. The
 * tiles are inlined: a call a tile costs a tenth of the speed at 576 columns. */
static inline __attribute__((always_inline)) void sweep(const int rows, float *y, int64_t ldy,
                                                        const float *x, int64_t ldx, const float *w,
                                                        int64_t ldw, int64_t m, int64_t n,
                                                        int64_t k, bool add) {
    for (int64_t i = 0; i + rows <= m; i += rows) {
        for (int64_t j = 0; j < n; j += NR) {
            tile(rows, y + i * ldy + j, ldy, x + i * ldx, ldx, w + j * ldw, ldw, n - j, k, add);
        }
    }
}

typedef void (*sweep_fn)(float *y, int64_t ldy, const float *x, int64_t ldx, const float *w,
                         int64_t ldw, int64_t m, int64_t n, int64_t k, bool add);
#define SWEEP(rows)                                                                                \
    static __attribute__((noinline)) void sweep##rows(float *y, int64_t ldy, const float *x,       \
                                                      int64_t ldx, const float *w, int64_t ldw,    \
                                                      int64_t m, int64_t n, int64_t k, bool add) { \
        sweep(rows, y, ldy, x, ldx, w, ldw, m, n, k, add);                                         \
    }
SWEEP(1)
SWEEP(2)
#if MR > 2
SWEEP(3)
#endif
#if MR > 3
SWEEP(4)
SWEEP(5)
SWEEP(6)
#endif

static const sweep_fn SWEEPS[MR + 1] = {
    NULL,   sweep1, sweep2,
#if MR > 2
    sweep3,
#endif
#if MR > 3
    sweep4, sweep5, sweep6,
#endif
};

/* ---- blocks ---- */

/* m rows of x times n of w over one block of the sum. */
static void tiles(float *y, int64_t ldy, const float *x, int64_t ldx, const float *w, int64_t ldw,
                  int64_t m, int64_t n, int64_t k, bool add) {
    const int64_t fit = W_STRIP_BYTES / (NR * 4 * k);
    const int64_t strip = fit > 1 ? fit * NR : NR;
    const int64_t whole = m / MR * MR;
    for (int64_t j = 0; j < n; j += strip) {
        const int64_t count = km__least(strip, n - j);
        SWEEPS[MR](y + j, ldy, x, ldx, w + j * ldw, ldw, whole, count, k, add);
        if (whole < m) {
            SWEEPS[m - whole](y + whole * ldy + j, ldy, x + whole * ldx, ldx, w + j * ldw, ldw,
                              m - whole, count, k, add);
        }
    }
}

static void add_bias(float *y, int64_t ldy, const float *bias, int64_t m, int64_t n) {
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            y[i * ldy + j] += bias[j];
        }
    }
}

static void block(float *y, int64_t ldy, const float *x, int64_t ldx, const float *w, int64_t ldw,
                  const float *bias, int64_t m, int64_t n, int64_t k) {
    const int64_t length = km__sum_block(k);
    const int64_t fit = X_BLOCK_BYTES / (4 * length * MR);
    const int64_t rows = fit > 1 ? fit * MR : MR;
    for (int64_t i = 0; i < m; i += rows) {
        const int64_t count = km__least(rows, m - i);
        for (int64_t s = 0; s < k; s += length) {
            tiles(y + i * ldy, ldy, x + i * ldx + s, ldx, w + s, ldw, count, n,
                  km__least(length, k - s), s > 0);
        }
        if (bias != NULL) {
            add_bias(y + i * ldy, ldy, bias, count, n);
        }
    }
}

extern const km_linear_kernels KM_TABLE(linear);
const km_linear_kernels KM_TABLE(linear) = {
    .name = KM_ISA_NAME,
    .block = block,
};
