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

#define SUM_BLOCK 768        /* elements */
#define X_BLOCK_BYTES 131072 /* rows of x that stay in the second-level cache */
#define W_STRIP_BYTES 20480  /* rows of w that stay in the first-level cache */

/* ---- sums of lanes ---- */

typedef float quad __attribute__((vector_size(16)));

/* The sums of four vectors' lanes, each by halving as v_sum does. */
#if defined(__AVX512F__)
static inline quad v_sum4(vfloat a, vfloat b, vfloat c, vfloat d) {
    /* [a: 8 | c: 8], [b: 8 | d: 8]; then [a: 4 | b: 4 | c: 4 | d: 4] */
    __m512 ac = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, (__m512)a, (__m512)c),
                              _mm512_shuffle_f32x4((__m512)a, (__m512)c, 0x4e));
    __m512 bd = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, (__m512)b, (__m512)d),
                              _mm512_shuffle_f32x4((__m512)b, (__m512)d, 0x4e));
    __m512 crossed = _mm512_mask_blend_ps(0x0f0f, ac, bd);
    __m512 r = _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, ac, bd),
                             _mm512_shuffle_f32x4(crossed, crossed, 0xb1));
    r = _mm512_add_ps(r, _mm512_permute_ps(r, 0x4e));
    r = _mm512_add_ps(r, _mm512_permute_ps(r, 0xb1));
    const __m512i first_of_each = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    return (quad)_mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_each, r));
}
#elif defined(__AVX2__)
static inline quad v_sum4(vfloat a, vfloat b, vfloat c, vfloat d) {
    /* [a: 4 | c: 4], [b: 4 | d: 4]; then [a: 2, b: 2 | c: 2, d: 2] */
    __m256 ac = _mm256_add_ps(_mm256_blend_ps((__m256)a, (__m256)c, 0xf0),
                              _mm256_permute2f128_ps((__m256)a, (__m256)c, 0x21));
    __m256 bd = _mm256_add_ps(_mm256_blend_ps((__m256)b, (__m256)d, 0xf0),
                              _mm256_permute2f128_ps((__m256)b, (__m256)d, 0x21));
    __m256 r = _mm256_add_ps(_mm256_blend_ps(ac, bd, 0xcc), _mm256_shuffle_ps(ac, bd, 0x4e));
    r = _mm256_add_ps(r, _mm256_permute_ps(r, 0xb1));
    return (quad)_mm_shuffle_ps(_mm256_castps256_ps128(r), _mm256_extractf128_ps(r, 1), 0x88);
}
#elif defined(__aarch64__)
static inline quad v_sum4(vfloat a, vfloat b, vfloat c, vfloat d) {
    float64x2_t ab_low = vzip1q_f64((float64x2_t)a, (float64x2_t)b);
    float64x2_t ab_high = vzip2q_f64((float64x2_t)a, (float64x2_t)b);
    float64x2_t cd_low = vzip1q_f64((float64x2_t)c, (float64x2_t)d);
    float64x2_t cd_high = vzip2q_f64((float64x2_t)c, (float64x2_t)d);
    float32x4_t ab = vaddq_f32((float32x4_t)ab_low, (float32x4_t)ab_high);
    float32x4_t cd = vaddq_f32((float32x4_t)cd_low, (float32x4_t)cd_high);
    return (quad)vpaddq_f32(ab, cd);
}
#else
static inline quad v_sum4(vfloat a, vfloat b, vfloat c, vfloat d) {
    __m128 ab = _mm_add_ps(_mm_shuffle_ps((__m128)a, (__m128)b, 0x44),
                           _mm_shuffle_ps((__m128)a, (__m128)b, 0xee));
    __m128 cd = _mm_add_ps(_mm_shuffle_ps((__m128)c, (__m128)d, 0x44),
                           _mm_shuffle_ps((__m128)c, (__m128)d, 0xee));
    return (quad)_mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd));
}
#endif

/* y[0 .. n-1] = sums, or += when `add` */
static inline void store_sums(float *y, quad sums, int64_t n, bool add) {
    float part[NR] = {0.0f};
    if (n >= NR) {
        quad before;
        memcpy(&before, y, sizeof before);
        sums = add ? before + sums : sums;
        memcpy(y, &sums, sizeof sums);
        return;
    }
    memcpy(part, &sums, sizeof part);
    for (int64_t j = 0; j < n; j++) {
        y[j] = add ? y[j] + part[j] : part[j];
    }
}

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
        quad four = v_sum4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
        store_sums(y + i * ldy, four, n, add);
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

static inline int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Elements a block of a sum over k, a multiple of 256 unless it is all of k. */
static int64_t sum_block(int64_t k) {
    const int64_t blocks = (k + SUM_BLOCK - 1) / SUM_BLOCK;
    return blocks <= 1 ? k : ((k + blocks - 1) / blocks + 255) / 256 * 256;
}

/* m rows of x times n of w over one block of the sum. */
static void tiles(float *y, int64_t ldy, const float *x, int64_t ldx, const float *w, int64_t ldw,
                  int64_t m, int64_t n, int64_t k, bool add) {
    const int64_t fit = W_STRIP_BYTES / (NR * 4 * k);
    const int64_t strip = fit > 1 ? fit * NR : NR;
    const int64_t whole = m / MR * MR;
    for (int64_t j = 0; j < n; j += strip) {
        const int64_t count = least(strip, n - j);
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
    const int64_t length = sum_block(k);
    const int64_t fit = X_BLOCK_BYTES / (4 * length * MR);
    const int64_t rows = fit > 1 ? fit * MR : MR;
    for (int64_t i = 0; i < m; i += rows) {
        const int64_t count = least(rows, m - i);
        for (int64_t s = 0; s < k; s += length) {
            tiles(y + i * ldy, ldy, x + i * ldx + s, ldx, w + s, ldw, count, n,
                  least(length, k - s), s > 0);
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
