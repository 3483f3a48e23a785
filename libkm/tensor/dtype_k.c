/* dtype_k.c: conversions of the K-quants: super-blocks of 256 elements with packed sub-scales.
 *
 * Layouts: GGUF specification. Rounding order as the `gguf` package's, see dtype.c. */
#include "tensor/dtype_private.h"

/* The eight 6-bit scales and minima of Q4_K and Q5_K from their 12 bytes: the first four of each
 * are the low six bits of bytes 0..3 and 4..7, the others have four bits in bytes 8..11 and two on
 * top of bytes 0..7. */
static void unpack_scales(float *scale, float *min, const unsigned char *p) {
    for (int i = 0; i < 4; i++) {
        scale[i] = (float)(p[i] & 63);
        min[i] = (float)(p[4 + i] & 63);
        scale[4 + i] = (float)((p[8 + i] & 15) | ((p[i] >> 2) & 48));
        min[4 + i] = (float)((p[8 + i] >> 4) | ((p[4 + i] >> 2) & 48));
    }
}

/* d f16, dmin f16, 12 bytes of scales, 128 bytes of nibbles */
void km__q4_k_to_f32(float *dst, const void *src, int64_t n) {
    const unsigned char *p = src;
    for (int64_t b = 0; b < n / 256; b++, p += 144) {
        float d = km__half_at(p);
        float dmin = km__half_at(p + 2);
        float scale[8], min[8];
        unpack_scales(scale, min, p + 4);
        for (int j = 0; j < 8; j++, dst += 32) {
            const unsigned char *q = p + 16 + 32 * (j / 2);
            int shift = 4 * (j & 1);
            float dl = d * scale[j];
            float ml = dmin * min[j];
            for (int i = 0; i < 32; i++) {
                dst[i] = dl * (float)((q[i] >> shift) & 15) - ml;
            }
        }
    }
}

/* d f16, dmin f16, 12 bytes of scales, 32 bytes of fifth bits, 128 bytes of nibbles */
void km__q5_k_to_f32(float *dst, const void *src, int64_t n) {
    const unsigned char *p = src;
    for (int64_t b = 0; b < n / 256; b++, p += 176) {
        float d = km__half_at(p);
        float dmin = km__half_at(p + 2);
        float scale[8], min[8];
        unpack_scales(scale, min, p + 4);
        const unsigned char *high = p + 16;
        for (int j = 0; j < 8; j++, dst += 32) {
            const unsigned char *low = p + 48 + 32 * (j / 2);
            int shift = 4 * (j & 1);
            float dl = d * scale[j];
            float ml = dmin * min[j];
            for (int i = 0; i < 32; i++) {
                int q = ((low[i] >> shift) & 15) | ((high[i] >> j) & 1) << 4;
                dst[i] = dl * (float)q - ml;
            }
        }
    }
}

/* 128 bytes of low nibbles, 64 bytes of upper two bits, 16 int8 scales, d f16 */
void km__q6_k_to_f32(float *dst, const void *src, int64_t n) {
    const unsigned char *p = src;
    for (int64_t b = 0; b < n / 256; b++, p += 210) {
        float d = km__half_at(p + 208);
        for (int j = 0; j < 8; j++, dst += 32) {
            const unsigned char *low = p + 64 * (j / 4) + 32 * (j & 1);
            const unsigned char *high = p + 128 + 32 * (j / 4);
            int low_shift = 4 * ((j & 2) >> 1);
            int high_shift = 2 * (j & 3);
            float even = d * (float)(int8_t)p[192 + 2 * j];
            float odd = d * (float)(int8_t)p[193 + 2 * j];
            for (int i = 0; i < 32; i++) {
                int q = ((low[i] >> low_shift) & 15) | ((high[i] >> high_shift) & 3) << 4;
                dst[i] = (i < 16 ? even : odd) * (float)(q - 32);
            }
        }
    }
}
