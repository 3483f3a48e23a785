/* dtype.c: the table of storage types and the conversions of plain floats and of 32-element blocks.
 *
 * Block layouts: GGUF specification. Each product and sum is rounded on its own, in the order the
 * `gguf` package uses, so the results are equal bit for bit. The loops are written for the
 * compiler's vectoriser: fixed trip counts, no branches. */
#include "tensor/dtype.h"

#include <string.h>

#include "tensor/dtype_private.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "km reads little-endian model files by memory map and needs a little-endian processor"
#endif

static void f32_to_f32(float *dst, const void *src, int64_t n) {
    memcpy(dst, src, (size_t)n * sizeof(float));
}

static void f16_to_f32(float *dst, const void *src, int64_t n) {
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i++) {
        dst[i] = km__half_at(p + 2 * i);
    }
}

static void bf16_to_f32(float *dst, const void *src, int64_t n) {
    const unsigned char *p = src;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof(h));
        uint32_t bits = (uint32_t)h << 16;
        memcpy(dst + i, &bits, sizeof(bits));
    }
}

/* d f16, then 32 int8 */
static void q8_0_to_f32(float *dst, const void *src, int64_t n) {
    const unsigned char *p = src;
    for (int64_t b = 0; b < n / 32; b++, p += 34, dst += 32) {
        float d = km__half_at(p);
        int8_t q[32];
        memcpy(q, p + 2, sizeof(q));
        for (int i = 0; i < 32; i++) {
            dst[i] = (float)q[i] * d;
        }
    }
}

/* d f16, then 16 bytes: low nibbles are elements 0..15, high nibbles 16..31 */
static void q4_0_to_f32(float *dst, const void *src, int64_t n) {
    const unsigned char *p = src;
    for (int64_t b = 0; b < n / 32; b++, p += 18, dst += 32) {
        float d = km__half_at(p);
        unsigned char q[16];
        memcpy(q, p + 2, sizeof(q));
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((q[i] & 15) - 8);
        }
        for (int i = 0; i < 16; i++) {
            dst[16 + i] = d * (float)((q[i] >> 4) - 8);
        }
    }
}

/* d f16, m f16, then nibbles as Q4_0 */
static void q4_1_to_f32(float *dst, const void *src, int64_t n) {
    const unsigned char *p = src;
    for (int64_t b = 0; b < n / 32; b++, p += 20, dst += 32) {
        float d = km__half_at(p);
        float m = km__half_at(p + 2);
        unsigned char q[16];
        memcpy(q, p + 4, sizeof(q));
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)(q[i] & 15) + m;
        }
        for (int i = 0; i < 16; i++) {
            dst[16 + i] = d * (float)(q[i] >> 4) + m;
        }
    }
}

/* The 32 five-bit numbers of a Q5_0 or Q5_1 block: nibbles at `low`, fifth bits in `high`. */
static void unpack_q5(int32_t *q, const unsigned char *low, const unsigned char *high) {
    uint32_t bits;
    memcpy(&bits, high, sizeof(bits));
    for (int i = 0; i < 16; i++) {
        q[i] = (int32_t)((uint32_t)(low[i] & 15) | ((bits >> i) & 1U) << 4);
    }
    for (int i = 0; i < 16; i++) {
        q[16 + i] = (int32_t)((uint32_t)(low[i] >> 4) | ((bits >> (16 + i)) & 1U) << 4);
    }
}

/* d f16, 4 bytes of fifth bits, nibbles */
static void q5_0_to_f32(float *dst, const void *src, int64_t n) {
    const unsigned char *p = src;
    for (int64_t b = 0; b < n / 32; b++, p += 22, dst += 32) {
        float d = km__half_at(p);
        int32_t q[32];
        unpack_q5(q, p + 6, p + 2);
        for (int i = 0; i < 32; i++) {
            dst[i] = d * (float)(q[i] - 16);
        }
    }
}

/* d f16, m f16, 4 bytes of fifth bits, nibbles */
static void q5_1_to_f32(float *dst, const void *src, int64_t n) {
    const unsigned char *p = src;
    for (int64_t b = 0; b < n / 32; b++, p += 24, dst += 32) {
        float d = km__half_at(p);
        float m = km__half_at(p + 2);
        int32_t q[32];
        unpack_q5(q, p + 8, p + 4);
        for (int i = 0; i < 32; i++) {
            dst[i] = d * (float)q[i] + m;
        }
    }
}

static const km_dtype_traits TRAITS[KM_DTYPE_COUNT] = {
    [KM_F32] = {"F32", 0, 1, 4, f32_to_f32},
    [KM_F16] = {"F16", 1, 1, 2, f16_to_f32},
    [KM_BF16] = {"BF16", 30, 1, 2, bf16_to_f32},
    [KM_Q8_0] = {"Q8_0", 8, 32, 34, q8_0_to_f32},
    [KM_Q4_0] = {"Q4_0", 2, 32, 18, q4_0_to_f32},
    [KM_Q4_1] = {"Q4_1", 3, 32, 20, q4_1_to_f32},
    [KM_Q5_0] = {"Q5_0", 6, 32, 22, q5_0_to_f32},
    [KM_Q5_1] = {"Q5_1", 7, 32, 24, q5_1_to_f32},
    [KM_Q4_K] = {"Q4_K", 12, 256, 144, km__q4_k_to_f32},
    [KM_Q5_K] = {"Q5_K", 13, 256, 176, km__q5_k_to_f32},
    [KM_Q6_K] = {"Q6_K", 14, 256, 210, km__q6_k_to_f32},
};

/* Every number the GGUF specification gives; retired ones keep theirs as the name. */
static const char *const GGML_NAMES[] = {
    "F32",     "F16",     "Q4_0",    "Q4_1",  "type 4",  "type 5",  "Q5_0",    "Q5_1",    "Q8_0",
    "Q8_1",    "Q2_K",    "Q3_K",    "Q4_K",  "Q5_K",    "Q6_K",    "Q8_K",    "IQ2_XXS", "IQ2_XS",
    "IQ3_XXS", "IQ1_S",   "IQ4_NL",  "IQ3_S", "IQ2_S",   "IQ4_XS",  "I8",      "I16",     "I32",
    "I64",     "F64",     "IQ1_M",   "BF16",  "type 31", "type 32", "type 33", "TQ1_0",   "TQ2_0",
    "type 36", "type 37", "type 38", "MXFP4", "NVFP4",
};

const km_dtype_traits *km_dtype_get(km_dtype dtype) {
    return &TRAITS[dtype];
}

bool km_dtype_from_ggml(km_dtype *out, uint32_t ggml_type) {
    for (int i = 0; i < KM_DTYPE_COUNT; i++) {
        if ((uint32_t)TRAITS[i].ggml_type == ggml_type) {
            *out = (km_dtype)i;
            return true;
        }
    }
    return false;
}

const char *km_ggml_type_name(uint32_t ggml_type) {
    if (ggml_type < sizeof(GGML_NAMES) / sizeof(GGML_NAMES[0])) {
        return GGML_NAMES[ggml_type];
    }
    return "an unknown type";
}
