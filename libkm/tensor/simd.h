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
    return x - (vfloat){0}; /* a sum would lose the sign of -0 */
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

/* Four floats, whatever the width of a vfloat. */
typedef float vquad __attribute__((vector_size(16)));

/* The sums of four vectors' lanes, each by halving as v_sum does. */
#if defined(__AVX512F__)
static inline vquad v_sum4(vfloat a, vfloat b, vfloat c, vfloat d) {
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
    return (vquad)_mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_each, r));
}
#elif defined(__AVX2__)
static inline vquad v_sum4(vfloat a, vfloat b, vfloat c, vfloat d) {
    /* [a: 4 | c: 4], [b: 4 | d: 4]; then [a: 2, b: 2 | c: 2, d: 2] */
    __m256 ac = _mm256_add_ps(_mm256_blend_ps((__m256)a, (__m256)c, 0xf0),
                              _mm256_permute2f128_ps((__m256)a, (__m256)c, 0x21));
    __m256 bd = _mm256_add_ps(_mm256_blend_ps((__m256)b, (__m256)d, 0xf0),
                              _mm256_permute2f128_ps((__m256)b, (__m256)d, 0x21));
    __m256 r = _mm256_add_ps(_mm256_blend_ps(ac, bd, 0xcc), _mm256_shuffle_ps(ac, bd, 0x4e));
    r = _mm256_add_ps(r, _mm256_permute_ps(r, 0xb1));
    return (vquad)_mm_shuffle_ps(_mm256_castps256_ps128(r), _mm256_extractf128_ps(r, 1), 0x88);
}
#elif defined(__aarch64__)
static inline vquad v_sum4(vfloat a, vfloat b, vfloat c, vfloat d) {
    float64x2_t ab_low = vzip1q_f64((float64x2_t)a, (float64x2_t)b);
    float64x2_t ab_high = vzip2q_f64((float64x2_t)a, (float64x2_t)b);
    float64x2_t cd_low = vzip1q_f64((float64x2_t)c, (float64x2_t)d);
    float64x2_t cd_high = vzip2q_f64((float64x2_t)c, (float64x2_t)d);
    float32x4_t ab = vaddq_f32((float32x4_t)ab_low, (float32x4_t)ab_high);
    float32x4_t cd = vaddq_f32((float32x4_t)cd_low, (float32x4_t)cd_high);
    return (vquad)vpaddq_f32(ab, cd);
}
#else
static inline vquad v_sum4(vfloat a, vfloat b, vfloat c, vfloat d) {
    __m128 ab = _mm_add_ps(_mm_shuffle_ps((__m128)a, (__m128)b, 0x44),
                           _mm_shuffle_ps((__m128)a, (__m128)b, 0xee));
    __m128 cd = _mm_add_ps(_mm_shuffle_ps((__m128)c, (__m128)d, 0x44),
                           _mm_shuffle_ps((__m128)c, (__m128)d, 0xee));
    return (vquad)_mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd));
}
#endif

/* y[0 .. n-1] = sums, or += when `add`; n >= 4 stands for 4. */
static inline void v_store_sums(float *y, vquad sums, int64_t n, bool add) {
    float part[4] = {0.0f};
    if (n >= 4) {
        vquad before;
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

#endif
