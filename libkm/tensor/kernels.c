/* kernels.c: the inner loops, compiled once per instruction set (KM_ISA = v1, v3, v4 or neon).
 *
 * Everything here is static except the one table at the end. Reductions run in LANES x 4
 * accumulators over blocks of SUM_BLOCK elements and add the blocks in double precision, so that
 * the rounding error does not grow with the length. A tail shorter than a vector goes through the
 * same vector code, padded. Results depend on the instruction set (order of sums, fused
 * multiply-add) and on nothing else.
 */
#include <math.h>

#include "tensor/kernels.h"
#include "tensor/simd_math.h"

#define SUM_BLOCK 4096

/* ---- products and sums ---- */

static float dot_block(const float *a, const float *b, int64_t n) {
    vfloat s0 = v_set(0.0f), s1 = s0, s2 = s0, s3 = s0;
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        s0 = v_fma(v_load(a + i), v_load(b + i), s0);
        s1 = v_fma(v_load(a + i + LANES), v_load(b + i + LANES), s1);
        s2 = v_fma(v_load(a + i + 2 * LANES), v_load(b + i + 2 * LANES), s2);
        s3 = v_fma(v_load(a + i + 3 * LANES), v_load(b + i + 3 * LANES), s3);
    }
    for (; i + LANES <= n; i += LANES) {
        s0 = v_fma(v_load(a + i), v_load(b + i), s0);
    }
    if (i < n) {
        s1 = v_fma(v_load_part(a + i, n - i, 0.0f), v_load_part(b + i, n - i, 0.0f), s1);
    }
    return v_sum((s0 + s1) + (s2 + s3));
}

static double dot_double(const float *a, const float *b, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i += SUM_BLOCK) {
        sum += (double)dot_block(a + i, b + i, n - i < SUM_BLOCK ? n - i : SUM_BLOCK);
    }
    return sum;
}

static float dot(const float *a, const float *b, int64_t n) {
    return n <= SUM_BLOCK ? dot_block(a, b, n) : (float)dot_double(a, b, n);
}

static void axpy(float *y, float alpha, const float *x, int64_t n) {
    const vfloat factor = v_set(alpha);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        v_store(y + i, v_fma(factor, v_load(x + i), v_load(y + i)));
    }
    if (i < n) {
        vfloat sum =
            v_fma(factor, v_load_part(x + i, n - i, 0.0f), v_load_part(y + i, n - i, 0.0f));
        v_store_part(y + i, sum, n - i);
    }
}

/* x * factor * (gain + offset), rounded in that order as PyTorch's RMSNorm modules do */
static void scale_by_gain(float *y, const float *x, float factor, const float *gain, float offset,
                          int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        v_store(y + i, v_load(x + i) * factor * (v_load(gain + i) + offset));
    }
    for (; i < n; i++) {
        y[i] = x[i] * factor * (gain[i] + offset);
    }
}

static void rms_norm(float *y, const float *x, const float *gain, float offset, double eps,
                     int64_t n) {
    double mean = n > 0 ? dot_double(x, x, n) / (double)n : 0.0;
    scale_by_gain(y, x, (float)(1.0 / sqrt(mean + eps)), gain, offset, n);
}

/* Sums of x - shift and of its square, in double precision, four of each at a time. */
static void moments(double *sum, double *squares, const float *x, double shift, int64_t n) {
    double s[4] = {0.0}, q[4] = {0.0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        for (int k = 0; k < 4; k++) {
            const double d = (double)x[i + k] - shift;
            s[k] += d;
            q[k] += d * d;
        }
    }
    for (; i < n; i++) {
        const double d = (double)x[i] - shift;
        s[0] += d;
        q[0] += d * d;
    }
    *sum = (s[0] + s[1]) + (s[2] + s[3]);
    *squares = (q[0] + q[1]) + (q[2] + q[3]);
}

static void layer_norm(float *y, const float *x, const float *gain, const float *bias, double eps,
                       int64_t n) {
    double sum, squares;
    moments(&sum, &squares, x, 0.0, n);
    const double mean = n > 0 ? sum / (double)n : 0.0;
    moments(&sum, &squares, x, mean, n);
    const float factor = (float)(1.0 / sqrt((n > 0 ? squares / (double)n : 0.0) + eps));
    const float shift = (float)mean;
    for (int64_t i = 0; i < n; i++) {
        y[i] = (x[i] - shift) * factor * gain[i] + bias[i];
    }
}

/* ---- activations ---- */

static inline vfloat v_silu(vfloat x) {
    return x / (1.0f + v_exp(-x));
}

/* 0.5 x (1 + tanh u) = x / (1 + e^(-2u)) with u = sqrt(2/pi) (x + 0.044715 x^3) */
static inline vfloat v_gelu_tanh(vfloat x) {
    vfloat cubic = v_fma(x * x * x, v_set(0.044715f), x);
    return x / (1.0f + v_exp(cubic * -1.59576912f));
}

static inline vfloat v_gelu_erf(vfloat x) {
    return x * 0.5f * (1.0f + v_erf(x * 0.707106781f));
}

/* x = f(x), times `up` unless that is NULL; inlined with its function. */
static inline void activate(float *x, const float *up, int64_t n, vfloat (*f)(vfloat)) {
    int64_t i = 0;
    for (; up == NULL && i + LANES <= n; i += LANES) {
        v_store(x + i, f(v_load(x + i)));
    }
    for (; i + LANES <= n; i += LANES) {
        v_store(x + i, f(v_load(x + i)) * v_load(up + i));
    }
    if (i < n) {
        vfloat y = f(v_load_part(x + i, n - i, 0.0f));
        y = up == NULL ? y : y * v_load_part(up + i, n - i, 0.0f);
        v_store_part(x + i, y, n - i);
    }
}

static void silu(float *x, const float *up, int64_t n) {
    activate(x, up, n, v_silu);
}

static void gelu_tanh(float *x, const float *up, int64_t n) {
    activate(x, up, n, v_gelu_tanh);
}

static void gelu_erf(float *x, const float *up, int64_t n) {
    activate(x, up, n, v_gelu_erf);
}

static void softcap(float *x, float cap, int64_t n) {
    const float inverse = 1.0f / cap;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        v_store(x + i, cap * v_tanh(v_load(x + i) * inverse));
    }
    if (i < n) {
        v_store_part(x + i, cap * v_tanh(v_load_part(x + i, n - i, 0.0f) * inverse), n - i);
    }
}

/* ---- reductions over logits ---- */

static float maximum(const float *x, int64_t n) {
    const float lowest = -INFINITY;
    vfloat m0 = v_set(lowest), m1 = m0;
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        m0 = v_max(v_load(x + i), m0);
        m1 = v_max(v_load(x + i + LANES), m1);
    }
    for (; i < n; i += LANES) {
        m0 = v_max(n - i < LANES ? v_load_part(x + i, n - i, lowest) : v_load(x + i), m0);
    }
    float lanes[LANES], best = lowest;
    v_store(lanes, v_max(m1, m0));
    for (int k = 0; k < LANES; k++) {
        best = lanes[k] > best ? lanes[k] : best;
    }
    return best;
}

static float sum_exp_block(const float *x, float shift, int64_t n) {
    vfloat s0 = v_set(0.0f), s1 = s0;
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        s0 += v_exp(v_load(x + i) - shift);
        s1 += v_exp(v_load(x + i + LANES) - shift);
    }
    for (; i + LANES <= n; i += LANES) {
        s0 += v_exp(v_load(x + i) - shift);
    }
    if (i < n) {
        float tail[LANES] = {0.0f};
        v_store_part(tail, v_exp(v_load_part(x + i, n - i, shift) - shift), n - i);
        s1 += v_load(tail);
    }
    return v_sum(s0 + s1);
}

static double sum_exp(const float *x, float shift, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i += SUM_BLOCK) {
        sum += (double)sum_exp_block(x + i, shift, n - i < SUM_BLOCK ? n - i : SUM_BLOCK);
    }
    return sum;
}

static float sum_block(const float *x, int64_t n) {
    vfloat s = v_set(0.0f);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        s += v_load(x + i);
    }
    if (i < n) {
        s += v_load_part(x + i, n - i, 0.0f);
    }
    return v_sum(s);
}

static void exp_in_place(float *x, float shift, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        v_store(x + i, v_exp(v_load(x + i) - shift));
    }
    if (i < n) {
        v_store_part(x + i, v_exp(v_load_part(x + i, n - i, shift) - shift), n - i);
    }
}

static void softmax(float *x, int64_t n) {
    double sum = 0.0;
    exp_in_place(x, maximum(x, n), n);
    for (int64_t i = 0; i < n; i += SUM_BLOCK) {
        sum += (double)sum_block(x + i, n - i < SUM_BLOCK ? n - i : SUM_BLOCK);
    }
    const float factor = (float)(1.0 / sum);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        v_store(x + i, v_load(x + i) * factor);
    }
    for (; i < n; i++) {
        x[i] *= factor;
    }
}

static int64_t count_greater(const float *x, int64_t n, float bound) {
    int64_t total = 0, i = 0;
    const int64_t whole = n - n % LANES;
    while (i < whole) {
        vint count = {0}; /* a true comparison is -1 */
        int64_t end = whole - i > (1 << 20) ? i + (1 << 20) : whole;
        for (; i < end; i += LANES) {
            count -= v_load(x + i) > bound;
        }
        for (int k = 0; k < LANES; k++) {
            total += count[k];
        }
    }
    for (; i < n; i++) {
        total += x[i] > bound;
    }
    return total;
}

static bool all_finite(const float *x, int64_t n) {
    /* An exponent of all ones, and nothing else, is infinite or NaN. */
    const vint mask = (vint){0} + 0x7f800000;
    vint bad = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        bad |= ((vint)v_load(x + i) & mask) == mask;
    }
    if (i < n) {
        bad |= ((vint)v_load_part(x + i, n - i, 0.0f) & mask) == mask;
    }
    int32_t any = 0;
    for (int k = 0; k < LANES; k++) {
        any |= bad[k];
    }
    return any == 0;
}

extern const km_kernels KM_TABLE(kernels);
const km_kernels KM_TABLE(kernels) = {
    .name = KM_ISA_NAME,
    .dot = dot,
    .axpy = axpy,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .silu = silu,
    .gelu_tanh = gelu_tanh,
    .gelu_erf = gelu_erf,
    .softcap = softcap,
    .max = maximum,
    .sum_exp = sum_exp,
    .softmax = softmax,
    .count_greater = count_greater,
    .all_finite = all_finite,
};
