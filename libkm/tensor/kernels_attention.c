/* kernels_attention.c: products of attention, compiled once per instruction set (KM_ISA).
 *
 * Scores are computed in tiles of TILE_ROWS queries by 4 keys, LANES partial sums each; LANES
 * vectors of partial sums are then added up together: a step takes two vectors and gives one that
 * holds the half-sums of both. Rows and keys beyond the edge repeat the last one and are not
 * stored.
 */
#include "tensor/kernels_attention.h"

#include "tensor/simd.h"

#define TILE_KEYS 4
#define TILE_ROWS (LANES / TILE_KEYS)

/* ---- LANES sums at once ---- */

#if LANES == 16
#define LOW_8(a, b)                                                                                \
    __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#define HIGH_8(a, b)                                                                               \
    __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
#define LOW_4(a, b)                                                                                \
    __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define HIGH_4(a, b)                                                                               \
    __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
#define LOW_2(a, b)                                                                                \
    __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_2(a, b)                                                                               \
    __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define LOW_1(a, b)                                                                                \
    __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30)
#define HIGH_1(a, b)                                                                               \
    __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31)
#elif LANES == 8
#define LOW_4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define HIGH_4(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#define LOW_2(a, b) __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_2(a, b) __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define LOW_1(a, b) __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14)
#define HIGH_1(a, b) __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15)
#else
#define LOW_2(a, b) __builtin_shufflevector(a, b, 0, 1, 4, 5)
#define HIGH_2(a, b) __builtin_shufflevector(a, b, 2, 3, 6, 7)
#define LOW_1(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6)
#define HIGH_1(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7)
#endif

/* The lanes of each vector added by halving (v_sum's order); element 4 r + c of the result is the
 * sum of v[c * TILE_ROWS + r]. Overwrites v. */
static inline vfloat sum_each(vfloat v[LANES]) {
#if LANES == 16
    for (int i = 0; i < 8; i++) {
        v[i] = LOW_8(v[2 * i], v[2 * i + 1]) + HIGH_8(v[2 * i], v[2 * i + 1]);
    }
#endif
#if LANES >= 8
    for (int i = 0; i < 4; i++) {
        v[i] = LOW_4(v[2 * i], v[2 * i + 1]) + HIGH_4(v[2 * i], v[2 * i + 1]);
    }
#endif
    v[0] = LOW_2(v[0], v[1]) + HIGH_2(v[0], v[1]);
    v[1] = LOW_2(v[2], v[3]) + HIGH_2(v[2], v[3]);
    return LOW_1(v[0], v[1]) + HIGH_1(v[0], v[1]);
}

/* ---- scores ---- */

/* Element 4 r + c: row r times key c. */
static inline vfloat score_tile(const float *const rows[TILE_ROWS],
                                const float *const keys[TILE_KEYS], int64_t width) {
    vfloat sums[LANES];
    for (int i = 0; i < LANES; i++) {
        sums[i] = v_set(0.0f);
    }
    int64_t at = 0;
    for (; at + LANES <= width; at += LANES) {
        for (int c = 0; c < TILE_KEYS; c++) {
            const vfloat key = v_load(keys[c] + at);
            for (int r = 0; r < TILE_ROWS; r++) {
                sums[c * TILE_ROWS + r] = v_fma(v_load(rows[r] + at), key, sums[c * TILE_ROWS + r]);
            }
        }
    }
    if (at < width) {
        for (int c = 0; c < TILE_KEYS; c++) {
            const vfloat key = v_load_part(keys[c] + at, width - at, 0.0f);
            for (int r = 0; r < TILE_ROWS; r++) {
                const vfloat row = v_load_part(rows[r] + at, width - at, 0.0f);
                sums[c * TILE_ROWS + r] = v_fma(row, key, sums[c * TILE_ROWS + r]);
            }
        }
    }
    return sum_each(sums);
}

/* The scores of at most TILE_ROWS rows and every key. */
static inline void score_rows(float *scores, int64_t ld_scores, const float *queries,
                              int64_t n_rows, const float *keys, int64_t ld_keys, int64_t n_keys,
                              int64_t width, float scale) {
    const float *rows[TILE_ROWS], *columns[TILE_KEYS];
    for (int64_t r = 0; r < TILE_ROWS; r++) {
        rows[r] = queries + (r < n_rows ? r : n_rows - 1) * width;
    }
    for (int64_t first = 0; first < n_keys; first += TILE_KEYS) {
        const int64_t n = n_keys - first < TILE_KEYS ? n_keys - first : TILE_KEYS;
        float tile[LANES];
        for (int64_t c = 0; c < TILE_KEYS; c++) {
            columns[c] = keys + (first + (c < n ? c : n - 1)) * ld_keys;
        }
        v_store(tile, score_tile(rows, columns, width) * scale);
        for (int64_t r = 0; r < n_rows; r++) {
            if (n == TILE_KEYS) {
                memcpy(scores + r * ld_scores + first, tile + TILE_KEYS * r, sizeof(float[4]));
            } else {
                memcpy(scores + r * ld_scores + first, tile + TILE_KEYS * r,
                       (size_t)n * sizeof(float));
            }
        }
    }
}

static void scores(float *out, int64_t ld_out, const float *queries, int64_t n_rows,
                   const float *keys, int64_t ld_keys, int64_t n_keys, int64_t width, float scale) {
    for (int64_t r = 0; r < n_rows; r += TILE_ROWS) {
        score_rows(out + r * ld_out, ld_out, queries + r * width,
                   n_rows - r < TILE_ROWS ? n_rows - r : TILE_ROWS, keys, ld_keys, n_keys, width,
                   scale);
    }
}

/* ---- mixing values ---- */

/* n vectors (n a constant where this is called) of KM_MIX_ROWS rows of the output. */
static inline void mix_tile(float *const out[KM_MIX_ROWS], const float *const weights[KM_MIX_ROWS],
                            int64_t n_rows, const float *values, int64_t ld_values, int64_t n_keys,
                            const int n) {
    vfloat sums[KM_MIX_ROWS][4];
    for (int r = 0; r < KM_MIX_ROWS; r++) {
        for (int i = 0; i < n; i++) {
            sums[r][i] = v_load(out[r] + i * LANES);
        }
    }
    for (int64_t key = 0; key < n_keys; key++) {
        vfloat value[4];
        for (int i = 0; i < n; i++) {
            value[i] = v_load(values + key * ld_values + i * LANES);
        }
        for (int r = 0; r < KM_MIX_ROWS; r++) {
            const vfloat weight = v_set(weights[r][key]);
            for (int i = 0; i < n; i++) {
                sums[r][i] = v_fma(weight, value[i], sums[r][i]);
            }
        }
    }
    for (int r = 0; r < KM_MIX_ROWS && r < n_rows; r++) {
        for (int i = 0; i < n; i++) {
            v_store(out[r] + i * LANES, sums[r][i]);
        }
    }
}

/* The last width (< LANES) elements of one row. */
static inline void mix_tail(float *out, const float *weights, const float *values,
                            int64_t ld_values, int64_t n_keys, int64_t width) {
    vfloat sum = v_load_part(out, width, 0.0f);
    for (int64_t key = 0; key < n_keys; key++) {
        sum = v_fma(v_set(weights[key]), v_load_part(values + key * ld_values, width, 0.0f), sum);
    }
    v_store_part(out, sum, width);
}

/* At most KM_MIX_ROWS rows. */
static void mix_rows(float *out, const float *weights, int64_t ld_weights, int64_t n_rows,
                     const float *values, int64_t ld_values, int64_t n_keys, int64_t width) {
    float *to[KM_MIX_ROWS];
    const float *from[KM_MIX_ROWS];
    int64_t at = 0;
    for (int64_t r = 0; r < KM_MIX_ROWS; r++) {
        const int64_t row = r < n_rows ? r : n_rows - 1;
        to[r] = out + row * width;
        from[r] = weights + row * ld_weights;
    }
    for (; at + 4 * LANES <= width && LANES == 16; at += 4 * LANES) {
        mix_tile(to, from, n_rows, values + at, ld_values, n_keys, 4);
        for (int r = 0; r < KM_MIX_ROWS; r++) {
            to[r] += 4 * LANES;
        }
    }
    for (; at + 2 * LANES <= width; at += 2 * LANES) {
        mix_tile(to, from, n_rows, values + at, ld_values, n_keys, 2);
        for (int r = 0; r < KM_MIX_ROWS; r++) {
            to[r] += 2 * LANES;
        }
    }
    for (; at + LANES <= width; at += LANES) {
        mix_tile(to, from, n_rows, values + at, ld_values, n_keys, 1);
        for (int r = 0; r < KM_MIX_ROWS; r++) {
            to[r] += LANES;
        }
    }
    for (int64_t r = 0; at < width && r < n_rows; r++) {
        mix_tail(to[r], from[r], values + at, ld_values, n_keys, width - at);
    }
}

static void mix(float *out, const float *weights, int64_t ld_weights, int64_t n_rows,
                const float *values, int64_t ld_values, int64_t n_keys, int64_t width) {
    for (int64_t r = 0; r < n_rows; r += KM_MIX_ROWS) {
        mix_rows(out + r * width, weights + r * ld_weights, ld_weights,
                 n_rows - r < KM_MIX_ROWS ? n_rows - r : KM_MIX_ROWS, values, ld_values, n_keys,
                 width);
    }
}

extern const km_attention_kernels KM_TABLE(attention);
const km_attention_kernels KM_TABLE(attention) = {.scores = scores, .mix = mix};
