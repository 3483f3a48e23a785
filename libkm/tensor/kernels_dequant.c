/* kernels_dequant.c: stored blocks to float32, and products of one row that convert in registers,
 * compiled once per instruction set.
 *
 * A format is read in parts of 32 elements: `scales` unpacks what a block says about all of its
 * parts, `part` gives 32 / LANES vectors. Each product and sum is rounded on its own in the order
 * of dtype.c and dtype_k.c, so the results are equal bit for bit. Block layouts: GGUF
 * specification.
 */
#include "tensor/dtype_private.h"
#include "tensor/linear_private.h"
#include "tensor/simd.h"

#define STEPS (32 / LANES) /* vectors a part */
#define HALF (16 / LANES)  /* vectors 16 elements */

#define PREFETCH 4096 /* bytes: some 500 ns at the speed of memory */

#define INLINE static inline __attribute__((always_inline))

typedef uint8_t bytes __attribute__((vector_size(16)));
typedef uint32_t words __attribute__((vector_size(16)));
typedef uint64_t pair __attribute__((vector_size(16)));

/* What the parts of a block share: d and m, or one pair or number a part. */
typedef struct scales {
    float d[16];
} scales;

typedef void (*scales_fn)(scales *s, const unsigned char *p);
typedef void (*part_fn)(vfloat *out, const unsigned char *p, const float *d, int j);

/* ---- small numbers to floats ---- */

INLINE bytes load_bytes(const unsigned char *p) {
    bytes q;
    memcpy(&q, p, sizeof q);
    return q;
}

#if defined(__AVX512F__)
INLINE void unsigned_floats(vfloat *out, bytes q) {
    out[0] = (vfloat)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)q));
}

INLINE void signed_floats(vfloat *out, bytes q) {
    out[0] = (vfloat)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)q));
}
#elif defined(__AVX2__)
INLINE void unsigned_floats(vfloat *out, bytes q) {
    const __m128i high = _mm_unpackhi_epi64((__m128i)q, (__m128i)q);
    out[0] = (vfloat)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32((__m128i)q));
    out[1] = (vfloat)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(high));
}

INLINE void signed_floats(vfloat *out, bytes q) {
    const __m128i high = _mm_unpackhi_epi64((__m128i)q, (__m128i)q);
    out[0] = (vfloat)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32((__m128i)q));
    out[1] = (vfloat)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high));
}
#elif defined(__aarch64__)
INLINE void unsigned_floats(vfloat *out, bytes q) {
    const uint16x8_t low = vmovl_u8(vget_low_u8((uint8x16_t)q));
    const uint16x8_t high = vmovl_high_u8((uint8x16_t)q);
    out[0] = (vfloat)vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)));
    out[1] = (vfloat)vcvtq_f32_u32(vmovl_high_u16(low));
    out[2] = (vfloat)vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)));
    out[3] = (vfloat)vcvtq_f32_u32(vmovl_high_u16(high));
}

INLINE void signed_floats(vfloat *out, bytes q) {
    const int16x8_t low = vmovl_s8(vget_low_s8((int8x16_t)q));
    const int16x8_t high = vmovl_high_s8((int8x16_t)q);
    out[0] = (vfloat)vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)));
    out[1] = (vfloat)vcvtq_f32_s32(vmovl_high_s16(low));
    out[2] = (vfloat)vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)));
    out[3] = (vfloat)vcvtq_f32_s32(vmovl_high_s16(high));
}
#else
INLINE void unsigned_floats(vfloat *out, bytes q) {
    const __m128i zero = _mm_setzero_si128();
    const __m128i low = _mm_unpacklo_epi8((__m128i)q, zero);
    const __m128i high = _mm_unpackhi_epi8((__m128i)q, zero);
    out[0] = (vfloat)_mm_cvtepi32_ps(_mm_unpacklo_epi16(low, zero));
    out[1] = (vfloat)_mm_cvtepi32_ps(_mm_unpackhi_epi16(low, zero));
    out[2] = (vfloat)_mm_cvtepi32_ps(_mm_unpacklo_epi16(high, zero));
    out[3] = (vfloat)_mm_cvtepi32_ps(_mm_unpackhi_epi16(high, zero));
}

/* Bytes on top of zeros, shifted down with their sign. */
INLINE void signed_floats(vfloat *out, bytes q) {
    const __m128i zero = _mm_setzero_si128();
    const __m128i low = _mm_unpacklo_epi8(zero, (__m128i)q);
    const __m128i high = _mm_unpackhi_epi8(zero, (__m128i)q);
    out[0] = (vfloat)_mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(zero, low), 24));
    out[1] = (vfloat)_mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpackhi_epi16(zero, low), 24));
    out[2] = (vfloat)_mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(zero, high), 24));
    out[3] = (vfloat)_mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpackhi_epi16(zero, high), 24));
}
#endif

/* Byte i is `value` where bit i is set, else 0. */
INLINE bytes spread_bits(unsigned int bits, uint8_t value) {
#if defined(__AVX512F__)
    return (bytes)_mm_maskz_set1_epi8((__mmask16)bits, (char)value);
#else
    const uint64_t copies = 0x0101010101010101ULL;
    const bytes mask = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const pair q = {copies * (bits & 255U), copies * (bits >> 8 & 255U)};
    return (bytes)(((bytes)q & mask) != 0) & value;
#endif
}

/* Vector by vector: a copy of all at once would go through memory. */
INLINE void store(float *dst, const vfloat *v, int n) {
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        v_store(dst + LANES * i, v[i]);
    }
}

/* ---- half precision ---- */

#if defined(__AVX512F__)
INLINE vfloat halves_at(const unsigned char *p) {
    __m256i h;
    memcpy(&h, p, sizeof h);
    return (vfloat)_mm512_cvtph_ps(h);
}
#elif defined(__AVX2__)
INLINE vfloat halves_at(const unsigned char *p) {
    __m128i h;
    memcpy(&h, p, sizeof h);
    return (vfloat)_mm256_cvtph_ps(h);
}
#elif defined(__aarch64__)
INLINE vfloat halves_at(const unsigned char *p) {
    float16x4_t h;
    memcpy(&h, p, sizeof h);
    return (vfloat)vcvt_f32_f16(h);
}
#else
/* See km__half_at: the exponent and fraction in place, times 2^112; infinities and NaN apart. */
INLINE vfloat halves_at(const unsigned char *p) {
    const vint bits =
        (vint)_mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i *)p), _mm_setzero_si128());
    const vint magnitude = (bits & 0x7fff) << 13;
    const vint special = (bits & 0x7fff) >= 0x7c00;
    const vfloat value = (vfloat)magnitude * 0x1p112f;
    const vfloat kept = v_select(special, (vfloat)(magnitude | 0x7f800000), value);
    return (vfloat)((vint)kept | (bits & 0x8000) << 16);
}
#endif

INLINE float half_at(const unsigned char *p) {
#if defined(__F16C__)
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _cvtsh_ss(h);
#else
    return km__half_at(p);
#endif
}

/* ---- floats ---- */

INLINE void no_scales(scales *s, const unsigned char *p) {
    (void)s;
    (void)p;
}

INLINE void f32_part(vfloat *out, const unsigned char *p, const float *d, int j) {
    (void)d;
    (void)j;
#pragma GCC unroll 8
    for (int i = 0; i < STEPS; i++) {
        memcpy(&out[i], p + 4 * LANES * i, sizeof out[i]);
    }
}

INLINE void f16_part(vfloat *out, const unsigned char *p, const float *d, int j) {
    (void)d;
    (void)j;
#pragma GCC unroll 8
    for (int i = 0; i < STEPS; i++) {
        out[i] = halves_at(p + 2 * LANES * i);
    }
}

INLINE void bf16_part(vfloat *out, const unsigned char *p, const float *d, int j) {
    (void)d;
    (void)j;
#pragma GCC unroll 8
    for (int i = 0; i < STEPS; i++) {
        uint16_t h __attribute__((vector_size(2 * LANES)));
        memcpy(&h, p + 2 * LANES * i, sizeof h);
        out[i] = (vfloat)(__builtin_convertvector(h, vint) << 16);
    }
}

/* ---- blocks of 32 ---- */

INLINE void d_scales(scales *s, const unsigned char *p) {
    s->d[0] = half_at(p);
}

INLINE void d_m_scales(scales *s, const unsigned char *p) {
#if defined(__F16C__)
    int32_t two;
    memcpy(&two, p, sizeof two);
    const __m128 both = _mm_cvtph_ps(_mm_cvtsi32_si128(two));
    s->d[0] = _mm_cvtss_f32(both);
    s->d[1] = _mm_cvtss_f32(_mm_movehdup_ps(both));
#else
    s->d[0] = half_at(p);
    s->d[1] = half_at(p + 2);
#endif
}

/* out = d * out */
INLINE void scale(vfloat *out, float d, int n) {
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        out[i] = v_set(d) * out[i];
    }
}

/* out = d * out + m. The product of a scale and a number of at most five bits is exact, so a fused
 * multiply-add rounds as the two operations do. */
INLINE void scale_and_add(vfloat *out, float d, float m, int n) {
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        out[i] = v_fma(v_set(d), out[i], v_set(m));
    }
}

/* The numbers 0 to 15 become d * (number - offset) + m, which is looked up where the instruction
 * set has a table of 16 floats. */
#if defined(__AVX512F__)
INLINE vfloat table_of(float offset) {
    const vfloat numbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return numbers - offset;
}

/* Only the low four bits of each byte count. */
INLINE vfloat look_up(vfloat table, bytes q, unsigned int shift) {
    const __m512i index = _mm512_srli_epi32(_mm512_cvtepu8_epi32((__m128i)q), shift);
    return (vfloat)_mm512_permutexvar_ps(index, (__m512)table);
}
#endif

INLINE void q8_0_part(vfloat *out, const unsigned char *p, const float *d, int j) {
    (void)j;
    signed_floats(out, load_bytes(p + 2));
    signed_floats(out + HALF, load_bytes(p + 18));
    scale(out, d[0], STEPS);
}

INLINE void q4_0_part(vfloat *out, const unsigned char *p, const float *d, int j) {
    (void)j;
    const bytes q = load_bytes(p + 2);
#if defined(__AVX512F__)
    const vfloat table = v_set(d[0]) * table_of(8.0f);
    out[0] = look_up(table, q, 0);
    out[1] = look_up(table, q, 4);
#else
    signed_floats(out, (q & 15) - 8);
    signed_floats(out + HALF, (q >> 4) - 8);
    scale(out, d[0], STEPS);
#endif
}

INLINE void q4_1_part(vfloat *out, const unsigned char *p, const float *d, int j) {
    (void)j;
    const bytes q = load_bytes(p + 4);
#if defined(__AVX512F__)
    const vfloat table = v_fma(v_set(d[0]), table_of(0.0f), v_set(d[1]));
    out[0] = look_up(table, q, 0);
    out[1] = look_up(table, q, 4);
#else
    unsigned_floats(out, q & 15);
    unsigned_floats(out + HALF, q >> 4);
    scale_and_add(out, d[0], d[1], STEPS);
#endif
}

/* Nibbles at `low`, fifth bits at `high`, as bytes of two halves. */
INLINE void five_bits(bytes *q, const unsigned char *low, const unsigned char *high) {
    uint32_t bits;
    memcpy(&bits, high, sizeof bits);
    const bytes nibbles = load_bytes(low);
    q[0] = (nibbles & 15) | spread_bits(bits & 0xffffU, 16);
    q[1] = (nibbles >> 4) | spread_bits(bits >> 16, 16);
}

INLINE void q5_0_part(vfloat *out, const unsigned char *p, const float *d, int j) {
    (void)j;
    bytes q[2];
    five_bits(q, p + 6, p + 2);
    signed_floats(out, q[0] - 16);
    signed_floats(out + HALF, q[1] - 16);
    scale(out, d[0], STEPS);
}

INLINE void q5_1_part(vfloat *out, const unsigned char *p, const float *d, int j) {
    (void)j;
    bytes q[2];
    five_bits(q, p + 8, p + 4);
    unsigned_floats(out, q[0]);
    unsigned_floats(out + HALF, q[1]);
    scale_and_add(out, d[0], d[1], STEPS);
}

/* ---- super-blocks of 256 ---- */

/* d[j] and d[8 + j]: scale and minus the minimum of part j, from d, dmin and the 12 bytes of
 * six-bit numbers (see dtype_k.c). */
INLINE void k_scales(scales *s, const unsigned char *p) {
    uint32_t in[3];
    memcpy(in, p + 4, sizeof in);
    const words six = {in[0] & 0x3f3f3f3fU, (in[2] & 0x0f0f0f0fU) | (in[0] >> 2 & 0x30303030U),
                       in[1] & 0x3f3f3f3fU,
                       (in[2] >> 4 & 0x0f0f0f0fU) | (in[1] >> 2 & 0x30303030U)};
    vfloat v[HALF];
    unsigned_floats(v, (bytes)six);
#if LANES == 16
    const float d = half_at(p), m = -half_at(p + 2);
    v[0] = v[0] * (vfloat){d, d, d, d, d, d, d, d, m, m, m, m, m, m, m, m};
#else
    scale(v, half_at(p), HALF / 2);
    scale(v + HALF / 2, -half_at(p + 2), HALF / 2);
#endif
    store(s->d, v, HALF);
}

/* The 16 four-bit numbers of part j at p. */
INLINE bytes nibbles_of(const unsigned char *p, int j) {
    return (load_bytes(p) >> (uint8_t)(4 * (j & 1))) & 15;
}

INLINE void q4_k_part(vfloat *out, const unsigned char *p, const float *d, int j) {
    const unsigned char *low = p + 16 + 32 * (j / 2);
#if defined(__AVX512F__)
    const vfloat table = v_fma(v_set(d[j]), table_of(0.0f), v_set(d[8 + j]));
    out[0] = look_up(table, load_bytes(low), 4 * (unsigned int)(j & 1));
    out[1] = look_up(table, load_bytes(low + 16), 4 * (unsigned int)(j & 1));
#else
    unsigned_floats(out, nibbles_of(low, j));
    unsigned_floats(out + HALF, nibbles_of(low + 16, j));
    scale_and_add(out, d[j], d[8 + j], STEPS);
#endif
}

INLINE void q5_k_part(vfloat *out, const unsigned char *p, const float *d, int j) {
    const unsigned char *low = p + 48 + 32 * (j / 2);
    const bytes first = (load_bytes(p + 16) >> (uint8_t)j) & 1;
    const bytes second = (load_bytes(p + 32) >> (uint8_t)j) & 1;
    unsigned_floats(out, nibbles_of(low, j) | first << 4);
    unsigned_floats(out + HALF, nibbles_of(low + 16, j) | second << 4);
    scale_and_add(out, d[j], d[8 + j], STEPS);
}

/* d[i]: scale of the i-th 16 elements */
INLINE void q6_k_scales(scales *s, const unsigned char *p) {
    vfloat v[HALF];
    signed_floats(v, load_bytes(p + 192));
    scale(v, half_at(p + 208), HALF);
    store(s->d, v, HALF);
}

INLINE void q6_k_part(vfloat *out, const unsigned char *p, const float *d, int j) {
    const uint8_t low_shift = (uint8_t)(4 * ((j & 2) >> 1)), high_shift = (uint8_t)(2 * (j & 3));
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const bytes low = load_bytes(p + 64 * (j / 4) + 32 * (j & 1) + 16 * i);
        const bytes high = load_bytes(p + 128 + 32 * (j / 4) + 16 * i);
        const bytes q = ((low >> low_shift) & 15) | ((high >> high_shift) & 3) << 4;
        signed_floats(out + HALF * i, q - 32);
        scale(out + HALF * i, d[2 * j + i], HALF);
    }
}

/* ---- rows ---- */

/* A block shorter than 32 elements: `size` bytes an element, zeros after the last of n. */
INLINE void short_part(vfloat *out, const unsigned char *p, int64_t n, int size, part_fn part) {
    unsigned char padded[128] = {0};
    memcpy(padded, p, (size_t)(n * size));
    part(out, padded, NULL, 0);
}

/* `elements` and `size` of a block are constants; only floats have rows that end within 32. */
INLINE void convert(float *dst, const unsigned char *p, int64_t n, int elements, int size,
                    scales_fn unpack, part_fn part) {
    vfloat v[STEPS];
    for (; n >= elements; n -= elements, p += size) {
        scales s;
        unpack(&s, p);
#pragma GCC unroll 8
        for (int j = 0; j < elements / 32; j++, dst += 32) {
            part(v, p, s.d, j);
            store(dst, v, STEPS);
        }
    }
    if (size >= 64 && elements == 32 && n > 0) {
        short_part(v, p, n, size / 32, part);
        memcpy(dst, v, (size_t)n * sizeof(float));
    }
}

/* The rest of four sums, n < 32 elements. */
INLINE void short_products(vfloat sums[4], const unsigned char *const rows[4], const float *x,
                           int64_t n, int size, part_fn part) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        vfloat v[STEPS];
        short_part(v, rows[i], n, size, part);
        for (int64_t c = 0; c < n; c += LANES) {
            const int64_t left = n - c;
            const vfloat xs = left < LANES ? v_load_part(x + c, left, 0.0f) : v_load(x + c);
            sums[i] = v_fma(xs, v[c / LANES], sums[i]);
        }
    }
}

/* Ask for what is PREFETCH bytes on from the next n_bytes: rows of a few hundred bytes end before
 * the processor's own prefetching follows them. */
INLINE void prefetch(const unsigned char *p, int n_bytes) {
#pragma GCC unroll 16
    for (int at = 0; at < n_bytes; at += 64) {
        __builtin_prefetch((const void *)((uintptr_t)p + PREFETCH + (uintptr_t)at));
    }
}

/* The first four bytes of each block of four rows as two halves: those of row i and block b become
 * out[8 b + 2 i] and the float after it. Filling a vector from memory saves shuffles, of which the
 * conversion of the numbers has enough. */
#if defined(__F16C__)
#define UNPACK_AHEAD 1
INLINE void unpack_halves(float *out, const unsigned char *const rows[4], int64_t n_blocks,
                          int size) {
    for (int64_t b = 0; b < n_blocks; b++) {
        uint32_t w[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            memcpy(&w[i], rows[i] + b * size, sizeof w[i]);
        }
        const words halves = {w[0], w[1], w[2], w[3]};
        _mm256_storeu_ps(out + 8 * b, _mm256_cvtph_ps((__m128i)halves));
    }
}
#else
#define UNPACK_AHEAD 0
INLINE void unpack_halves(float *out, const unsigned char *const rows[4], int64_t n_blocks,
                          int size) {
    (void)out;
    (void)rows;
    (void)n_blocks;
    (void)size;
}
#endif

/* Part j of four rows with its sums. */
INLINE void add_part(vfloat sums[4], const unsigned char *const rows[4], const float *x,
                     const float *const d[4], int j, part_fn part) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        vfloat v[STEPS];
        part(v, rows[i], d[i], j);
#pragma GCC unroll 8
        for (int t = 0; t < STEPS; t++) {
            sums[i] = v_fma(v_load(x + LANES * t), v[t], sums[i]);
        }
    }
}

/* One block of four sums over n elements; rows move to the next. */
INLINE vquad four_products(const unsigned char *rows[4], const unsigned char *ahead, const float *x,
                           int64_t n, int elements, int size, scales_fn unpack, part_fn part) {
    vfloat sums[4] = {v_set(0.0f), v_set(0.0f), v_set(0.0f), v_set(0.0f)};
    float halves[8 * KM_SUM_BLOCK / 32];
    const bool unpacked = UNPACK_AHEAD && unpack == d_m_scales;
    if (unpacked) {
        unpack_halves(halves, rows, n / elements, size);
    }
    for (int64_t b = 0; n >= elements; n -= elements, b++) {
        prefetch(ahead + b * 4 * size, 4 * size);
        scales s[4];
        const float *d[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            if (!unpacked) {
                unpack(&s[i], rows[i]);
            }
            d[i] = unpacked ? halves + 8 * b + 2 * i : s[i].d;
        }
#pragma GCC unroll 8
        for (int j = 0; j < elements / 32; j++, x += 32) {
            add_part(sums, rows, x, d, j, part);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            rows[i] += size;
        }
    }
    if (size >= 64 && elements == 32 && n > 0) {
        short_products(sums, rows, x, n, size / 32, part);
    }
    return v_sum4(sums[0], sums[1], sums[2], sums[3]);
}

/* Four rows at a time, so that four chains of additions run side by side. */
INLINE void multiply(float *y, const float *x, const unsigned char *w, int64_t row_bytes,
                     const float *bias, int64_t n, int64_t k, int elements, int size,
                     scales_fn unpack, part_fn part) {
    const int64_t length = km__sum_block(k);
    for (int64_t r = 0; r < n; r += 4) {
        const unsigned char *rows[4];
        for (int64_t i = 0; i < 4; i++) {
            rows[i] = w + (r + i < n ? r + i : n - 1) * row_bytes;
        }
        for (int64_t c = 0; c < k; c += length) {
            const int64_t count = k - c < length ? k - c : length;
            vquad sums = four_products(rows, w + r * row_bytes + c / elements * 4 * size, x + c,
                                       count, elements, size, unpack, part);
            v_store_sums(y + r, sums, n - r, c > 0);
        }
        for (int64_t i = r; bias != NULL && i < n && i < r + 4; i++) {
            y[i] += bias[i];
        }
    }
}

#define FORMAT(type, elements, size, unpack)                                                       \
    static void type##_to_f32(float *dst, const void *src, int64_t n) {                            \
        convert(dst, src, n, elements, size, unpack, type##_part);                                 \
    }                                                                                              \
    static void type##_one_row(float *y, const float *x, const void *w, int64_t row_bytes,         \
                               const float *bias, int64_t n, int64_t k) {                          \
        multiply(y, x, w, row_bytes, bias, n, k, elements, size, unpack, type##_part);             \
    }

FORMAT(f32, 32, 128, no_scales)
FORMAT(f16, 32, 64, no_scales)
FORMAT(bf16, 32, 64, no_scales)
FORMAT(q8_0, 32, 34, d_scales)
FORMAT(q4_0, 32, 18, d_scales)
FORMAT(q4_1, 32, 20, d_m_scales)
FORMAT(q5_0, 32, 22, d_scales)
FORMAT(q5_1, 32, 24, d_m_scales)
FORMAT(q4_k, 256, 144, k_scales)
FORMAT(q5_k, 256, 176, k_scales)
FORMAT(q6_k, 256, 210, q6_k_scales)

extern const km_dequant_kernels KM_TABLE(dequant);
const km_dequant_kernels KM_TABLE(dequant) = {
    .name = KM_ISA_NAME,
    .to_f32 = {[KM_F32] = f32_to_f32,
               [KM_F16] = f16_to_f32,
               [KM_BF16] = bf16_to_f32,
               [KM_Q8_0] = q8_0_to_f32,
               [KM_Q4_0] = q4_0_to_f32,
               [KM_Q4_1] = q4_1_to_f32,
               [KM_Q5_0] = q5_0_to_f32,
               [KM_Q5_1] = q5_1_to_f32,
               [KM_Q4_K] = q4_k_to_f32,
               [KM_Q5_K] = q5_k_to_f32,
               [KM_Q6_K] = q6_k_to_f32},
    .one_row = {[KM_F32] = f32_one_row,
                [KM_F16] = f16_one_row,
                [KM_BF16] = bf16_one_row,
                [KM_Q8_0] = q8_0_one_row,
                [KM_Q4_0] = q4_0_one_row,
                [KM_Q4_1] = q4_1_one_row,
                [KM_Q5_0] = q5_0_one_row,
                [KM_Q5_1] = q5_1_one_row,
                [KM_Q4_K] = q4_k_one_row,
                [KM_Q5_K] = q5_k_one_row,
                [KM_Q6_K] = q6_k_one_row},
};
