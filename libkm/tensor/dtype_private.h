/* dtype_private.h: what dtype.c and dtype_k.c share. */
#ifndef KM_TENSOR_DTYPE_PRIVATE_H
#define KM_TENSOR_DTYPE_PRIVATE_H

#include <stdint.h>
#include <string.h>

/* The half-precision number at p (any alignment), exactly, as float32. Shifting the exponent and
 * fraction into place and multiplying by 2^112 is exact for normal and subnormal halves alike;
 * infinities and NaN get the full exponent instead. */
static inline float km__half_at(const unsigned char *p) {
    uint16_t h;
    memcpy(&h, p, sizeof(h));
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
    uint32_t special = (h & 0x7fff) >= 0x7c00 ? 0x7f800000U : 0U;
    float value;
    memcpy(&value, &magnitude, sizeof(value));
    value *= 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    bits = special != 0 ? special | magnitude : bits;
    bits |= (uint32_t)(h & 0x8000) << 16;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Super-blocks of 256 elements; n is a multiple of 256. */
void km__q4_k_to_f32(float *dst, const void *src, int64_t n);
void km__q5_k_to_f32(float *dst, const void *src, int64_t n);
void km__q6_k_to_f32(float *dst, const void *src, int64_t n);

#endif
