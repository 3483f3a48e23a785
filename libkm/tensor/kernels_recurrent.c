/* kernels_recurrent.c: steps of recurrent layers, compiled once per instruction set (KM_ISA).
 *
 * A product keeps a tile of MR rows and NV vectors of columns in registers and reads b row after
 * row, so that nothing has to be packed: at a step of a recurrent layer there are a few dozen rows,
 * and packing would cost as much as multiplying.
 */
#include "tensor/kernels_recurrent.h"

#include "tensor/simd_math.h"

#if defined(__AVX512F__) || defined(__aarch64__)
#define MR 6
#define NV 4 /* 24 accumulators, four vectors of b and one of x in 32 registers */
#elif defined(__AVX2__)
#define MR 6
#define NV 2 /* 12 accumulators in 16 registers */
#else
#define MR 4
#define NV 2 /* a product needs a register of its own before it is added */
#endif

typedef struct operands {
    float *y;
    const float *x, *b;
    int64_t ldy, ldx, ldb, k;
    bool add;
} operands;

/* ---- products ---- */

/* `rows` rows and `vectors` whole vectors (constants). */
static inline __attribute__((always_inline)) void tile(const int rows, const int vectors,
                                                       const operands *o, int64_t i, int64_t j) {
    vfloat sums[MR][NV];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            sums[r][v] = v_set(0.0f);
        }
    }
    const float *x = o->x + i * o->ldx, *b = o->b + j;
    for (int64_t c = 0; c < o->k; c++) {
        vfloat bs[NV];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            bs[v] = v_load(b + c * o->ldb + v * LANES);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const vfloat xs = v_set(x[r * o->ldx + c]);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) {
                sums[r][v] = v_fma(xs, bs[v], sums[r][v]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            float *y = o->y + (i + r) * o->ldy + j + v * LANES;
            v_store(y, o->add ? v_load(y) + sums[r][v] : sums[r][v]);
        }
    }
}

/* `rows` rows and the last n < LANES columns. */
static inline __attribute__((always_inline)) void narrow(const int rows, const operands *o,
                                                         int64_t i, int64_t j, int64_t n) {
    vfloat sums[MR];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        sums[r] = v_set(0.0f);
    }
    for (int64_t c = 0; c < o->k; c++) {
        const vfloat bs = v_load_part(o->b + c * o->ldb + j, n, 0.0f);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            sums[r] = v_fma(v_set(o->x[(i + r) * o->ldx + c]), bs, sums[r]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        float *y = o->y + (i + r) * o->ldy + j;
        const vfloat before = o->add ? v_load_part(y, n, 0.0f) : v_set(0.0f);
        v_store_part(y, o->add ? before + sums[r] : sums[r], n);
    }
}

/* All rows of `vectors` vectors of columns. */
static inline __attribute__((always_inline)) void column(const int vectors, const operands *o,
                                                         int64_t m, int64_t j) {
    int64_t i = 0;
    for (; i + MR <= m; i += MR) {
        tile(MR, vectors, o, i, j);
    }
    for (; i + 2 <= m; i += 2) {
        tile(2, vectors, o, i, j);
    }
    if (i < m) {
        tile(1, vectors, o, i, j);
    }
}

static void narrow_column(const operands *o, int64_t m, int64_t j, int64_t n) {
    int64_t i = 0;
    for (; i + MR <= m; i += MR) {
        narrow(MR, o, i, j, n);
    }
    for (; i < m; i++) {
        narrow(1, o, i, j, n);
    }
}

static void product(float *y, int64_t ldy, const float *x, int64_t ldx, const float *b, int64_t ldb,
                    int64_t m, int64_t n, int64_t k, bool add) {
    const operands o = {y, x, b, ldy, ldx, ldb, k, add};
    int64_t j = 0;
    for (; j + NV * LANES <= n; j += NV * LANES) {
        column(NV, &o, m, j);
    }
    for (; j + LANES <= n; j += LANES) {
        column(1, &o, m, j);
    }
    if (j < n) {
        narrow_column(&o, m, j, n - j);
    }
}

/* ---- gates ---- */

typedef struct gates_at {
    vfloat r, z, n, c;
} gates_at;

static inline vfloat logistic(vfloat x) {
    return 1.0f / (1.0f + v_exp(-x));
}

static inline gates_at forward_at(gates_at g, gates_at c, gates_at bias) {
    gates_at out;
    out.r = logistic(g.r + (c.r + bias.r));
    out.z = logistic(g.z + (c.z + bias.z));
    out.c = c.n + bias.c;
    out.n = v_tanh(v_fma(out.r, out.c, g.n + bias.n));
    return out;
}

static inline vfloat mix(gates_at g, vfloat h) {
    return v_fma(g.z, h - g.n, g.n);
}

/* LANES elements from i on, of arrays n apart. */
static inline gates_at load3(const float *p, int64_t n, int64_t i) {
    return (gates_at){v_load(p + i), v_load(p + n + i), v_load(p + 2 * n + i), v_set(0.0f)};
}

static inline gates_at load4(const float *p, int64_t n, int64_t i) {
    return (gates_at){v_load(p + i), v_load(p + n + i), v_load(p + 2 * n + i),
                      v_load(p + 3 * n + i)};
}

static inline void store4(float *p, gates_at g, int64_t n, int64_t i) {
    v_store(p + i, g.r);
    v_store(p + n + i, g.z);
    v_store(p + 2 * n + i, g.n);
    v_store(p + 3 * n + i, g.c);
}

/* Of the last `rest` elements, zeros after them. */
static inline gates_at part(const float *p, int64_t n, int64_t i, int64_t rest, bool fourth) {
    return (gates_at){v_load_part(p + i, rest, 0.0f), v_load_part(p + n + i, rest, 0.0f),
                      v_load_part(p + 2 * n + i, rest, 0.0f),
                      fourth ? v_load_part(p + 3 * n + i, rest, 0.0f) : v_set(0.0f)};
}

static inline void store_part(float *p, gates_at g, int64_t n, int64_t i, int64_t rest) {
    v_store_part(p + i, g.r, rest);
    v_store_part(p + n + i, g.z, rest);
    v_store_part(p + 2 * n + i, g.n, rest);
    v_store_part(p + 3 * n + i, g.c, rest);
}

static void gru_forward(float *gates, float *h, const float *c, const float *bias, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const gates_at g = forward_at(load3(gates, n, i), load3(c, n, i), load4(bias, n, i));
        v_store(h + i, mix(g, v_load(h + i)));
        store4(gates, g, n, i);
    }
    if (i < n) {
        const int64_t rest = n - i;
        const gates_at g = forward_at(part(gates, n, i, rest, false), part(c, n, i, rest, false),
                                      part(bias, n, i, rest, true));
        v_store_part(h + i, mix(g, v_load_part(h + i, rest, 0.0f)), rest);
        store_part(gates, g, n, i, rest);
    }
}

static inline gates_at backward_at(gates_at g, vfloat dh, vfloat h) {
    gates_at d;
    d.n = dh * (1.0f - g.z) * (1.0f - g.n * g.n);
    d.z = dh * (h - g.n) * g.z * (1.0f - g.z);
    d.r = d.n * g.c * g.r * (1.0f - g.r);
    d.c = d.n * g.r;
    return d;
}

static void gru_backward(float *gates, float *dh, float *dc, const float *h, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const gates_at g = load4(gates, n, i);
        const vfloat slope = v_load(dh + i);
        const gates_at d = backward_at(g, slope, v_load(h + i));
        store4(gates, d, n, i);
        v_store(dc + i, d.r);
        v_store(dc + n + i, d.z);
        v_store(dc + 2 * n + i, d.c);
        v_store(dh + i, slope * g.z);
    }
    if (i < n) {
        const int64_t rest = n - i;
        const gates_at g = part(gates, n, i, rest, true);
        const vfloat slope = v_load_part(dh + i, rest, 0.0f);
        const gates_at d = backward_at(g, slope, v_load_part(h + i, rest, 0.0f));
        store_part(gates, d, n, i, rest);
        v_store_part(dc + i, d.r, rest);
        v_store_part(dc + n + i, d.z, rest);
        v_store_part(dc + 2 * n + i, d.c, rest);
        v_store_part(dh + i, slope * g.z, rest);
    }
}

static void tanh_all(float *x, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        v_store(x + i, v_tanh(v_load(x + i)));
    }
    if (i < n) {
        v_store_part(x + i, v_tanh(v_load_part(x + i, n - i, 0.0f)), n - i);
    }
}

extern const km_recurrent_kernels KM_TABLE(recurrent);
const km_recurrent_kernels KM_TABLE(recurrent) = {
    .name = KM_ISA_NAME,
    .product = product,
    .gru_forward = gru_forward,
    .gru_backward = gru_backward,
    .tanh = tanh_all,
};
