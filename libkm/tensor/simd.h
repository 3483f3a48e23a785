/* simd.h: float32 vectors as wide as the instruction set a kernels file is being compiled for.
 *
 * Included by kernels*.c alone; everything is static, so that no code of a wide variant can be
 * linked into a narrow one. Arithmetic uses the compiler's vector types (gcc and clang share them),
 * and intrinsics only where the type has no operator: fused multiply-add, maximum, minimum. v1 has
 * no fused multiply-add: it multiplies, rounds, adds.
 *
 * A kernels file ends with its one table: `extern const T KM_TABLE(name); const T KM_TABLE(name) =
 * {...};`, which dispatch.h chooses from.
 */
#ifndef KM_TENSOR_SIMD_H
#define KM_TENSOR_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef KM_ISA
#error "kernels*.c are compiled with -DKM_ISA=v1, v3, v4 or neon"
#endif

#define KM_JOIN_TOKENS(name, isa) km__##name##_##isa
#define KM_JOIN(name, isa) KM_JOIN_TOKENS(name, isa)
#define KM_STRING_TOKENS(isa) #isa
#define KM_STRING(isa) KM_STRING_TOKENS(isa)
#define KM_TABLE(name) KM_JOIN(name, KM_ISA) /* km__kernels_v3 */
#define KM_ISA_NAME KM_STRING(KM_ISA)        /* "v3" */

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vfloat __attribute__((vector_size(LANES * 4)));
typedef int32_t vint __attribute__((vector_size(LANES * 4)));

static inline vfloat v_load(const float *p) {
    vfloat v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void v_store(float *p, vfloat v) {
    memcpy(p, &v, sizeof v);
}

static inline vfloat v_set(float x) {
    return (vfloat){0} + x;
}

/* The first n (< LANES) elements of p, the others `fill`. */
static inline vfloat v_load_part(const float *p, int64_t n, float fill) {
#if defined(__AVX512F__)
    return (vfloat)_mm512_mask_loadu_ps((__m512)v_set(fill), (__mmask16)((1U << n) - 1U), p);
#elif defined(__AVX2__)
    const vint lane = {0, 1, 2, 3, 4, 5, 6, 7};
    const vint there = lane < (int32_t)n;
    return (vfloat)_mm256_blendv_ps((__m256)v_set(fill), _mm256_maskload_ps(p, (__m256i)there),
                                    (__m256)there);
#else
    float lanes[LANES];
    for (int i = 0; i < LANES; i++) {
        lanes[i] = i < n ? p[i] : fill;
    }
    return v_load(lanes);
#endif
}

static inline void v_store_part(float *p, vfloat v, int64_t n) {
    float lanes[LANES];
    v_store(lanes, v);
    memcpy(p, lanes, (size_t)n * sizeof(float));
}

/* Lane by lane mask ? a : b, where the mask comes from a comparison. */
static inline vfloat v_select(vint mask, vfloat a, vfloat b) {
    return (vfloat)((mask & (vint)a) | (~mask & (vint)b));
}

/* a * b + c */
static inline vfloat v_fma(vfloat a, vfloat b, vfloat c) {
#if defined(__AVX512F__)
    return (vfloat)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vfloat)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vfloat)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* Both give b where either operand is NaN. */
static inline vfloat v_max(vfloat a, vfloat b) {
#if defined(__AVX512F__)
    return (vfloat)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vfloat)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return v_select(a > b, a, b);
#endif
}

static inline vfloat v_min(vfloat a, vfloat b) {
#if defined(__AVX512F__)
    return (vfloat)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vfloat)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return v_select(a < b, a, b);
#endif
}

/* Sum of the lanes by halving: 0+8, 1+9, ... then 0+4, ... */
static inline float v_sum(vfloat v) {
    float lanes[LANES];
    v_store(lanes, v);
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            lanes[i] += lanes[i + half];
        }
    }
    return lanes[0];
}

#endif
