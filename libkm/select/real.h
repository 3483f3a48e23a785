/* real.h: the width of numbers that core_*.c are compiled with, once for each: float32 for work,
 * float64 for comparisons with references that need it. A file or test that includes this defines
 * KM_REAL_BITS; functions carry the width in their symbols, which the macros below hide.
 */
#ifndef KM_SELECT_REAL_H
#define KM_SELECT_REAL_H

#include "base/base.h"

#if KM_REAL_BITS == 32
typedef float real;
#define KM_REAL(name) km__diffks_##name##_f32
#elif KM_REAL_BITS == 64
typedef double real;
#define KM_REAL(name) km__diffks_##name##_f64
#else
#error "define KM_REAL_BITS as 32 or 64"
#endif

#define km__product KM_REAL(product)
#define km__gates KM_REAL(gates)
#define km__gates_back KM_REAL(gates_back)
#define km__tanh KM_REAL(tanh)
#define km__exp KM_REAL(exp)
#define km__dot KM_REAL(dot)
#define km__gemm_many KM_REAL(gemm_many)
#define km__transpose KM_REAL(transpose)

/* ---- core_math.c ---- */

/* y (m, n) = x (m, k) b (k, n), added when `add`: few rows, nothing packed, in this thread. */
void km__product(const km_ctx *ctx, real *y, int64_t ldy, const real *x, int64_t ldx, const real *b,
                 int64_t ldb, int64_t m, int64_t n, int64_t k, bool add);
/* As km_recurrent_kernels has them. */
void km__gates(const km_ctx *ctx, real *gates, real *h, const real *c, const real *bias, int64_t n);
void km__gates_back(const km_ctx *ctx, real *gates, real *dh, real *dc, const real *h, int64_t n);
void km__tanh(const km_ctx *ctx, real *x, int64_t n);
void km__exp(const km_ctx *ctx, real *x, int64_t n);
real km__dot(const km_ctx *ctx, const real *a, const real *b, int64_t n);
/* out (cols, rows) = in (rows, cols), ld elements from one row of `in` to the next. */
void km__transpose(real *out, const real *in, int64_t ld, int64_t rows, int64_t cols);

/* c (m, n) = op(a) op(b), added to c when `add`; op transposes where t_a, t_b. */
typedef struct real_gemm {
    real *c;
    const real *a, *b;
    int64_t ldc, lda, ldb, m, n, k;
    bool t_a, t_b, add;
} real_gemm;

/* y (m, n) = x (m, k) w^T, w (n, k): what a Linear does. */
static inline real_gemm km__linear(real *y, int64_t ldy, const real *x, int64_t ldx, const real *w,
                                   int64_t ldw, int64_t m, int64_t n, int64_t k) {
    return (real_gemm){y, x, w, ldy, ldx, ldw, m, n, k, false, true, false};
}

/* dx (m, k) += dy (m, n) w */
static inline real_gemm km__linear_back(real *dx, int64_t ldx, const real *dy, int64_t ldy,
                                        const real *w, int64_t ldw, int64_t m, int64_t n,
                                        int64_t k) {
    return (real_gemm){dx, dy, w, ldx, ldy, ldw, m, k, n, false, false, true};
}

/* dw (n, k) += dy^T x of m rows */
static inline real_gemm km__linear_weights(real *dw, int64_t ldw, const real *dy, int64_t ldy,
                                           const real *x, int64_t ldx, int64_t m, int64_t n,
                                           int64_t k) {
    return (real_gemm){dw, dy, x, ldw, ldy, ldx, n, k, m, true, false, true};
}

/* Run products as one parallel loop, cut by their shapes alone; they must not overlap. */
KM_NODISCARD km_status km__gemm_many(km_ctx *ctx, const real_gemm *jobs, int n_jobs, km_error *err);

#endif
