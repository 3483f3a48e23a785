/* simd_math.h: exp, erf and tanh of float32 vectors, for kernels*.c. */
#ifndef KM_TENSOR_SIMD_MATH_H
#define KM_TENSOR_SIMD_MATH_H

#include "tensor/simd.h"

/* e^x within 2 ulp for all finite x, results below the smallest normal number included.
 * x = n ln 2 + r with |r| <= ln(2)/2, e^r by its Taylor series to r^7 (next term: 5e-9), then two
 * multiplications by powers of two, since 2^n itself may be outside the range of a float. */
static inline vfloat v_exp(vfloat x) {
    const vfloat round = v_set(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    /* In this order a NaN passes through both. */
    x = v_max(v_set(-104.0f), x);
    x = v_min(v_set(89.0f), x);
    vfloat shifted = v_fma(x, v_set(1.44269504f), round);
    vfloat n = shifted - round;
    vfloat r = v_fma(n, v_set(-0.693145752f), x); /* ln 2 in two parts, the first short */
    r = v_fma(n, v_set(-1.42860682e-6f), r);
    vfloat p = v_set(1.0f / 5040.0f);
    p = v_fma(p, r, v_set(1.0f / 720.0f));
    p = v_fma(p, r, v_set(1.0f / 120.0f));
    p = v_fma(p, r, v_set(1.0f / 24.0f));
    p = v_fma(p, r, v_set(1.0f / 6.0f));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(p * r, r, r) + 1.0f;
    vint exponent = (vint)shifted - (vint)round;
    vint low = exponent >> 1;
    vfloat scale_low = (vfloat)((low + 127) << 23);
    vfloat scale_high = (vfloat)((exponent - low + 127) << 23);
    return p * scale_low * scale_high;
}

/* erf within 1 ulp where it is below 1/2 and 2 ulp elsewhere: x + x P(x^2) up to 1, beyond it
 * 1 - exp(-Q(x)), Q fitted to -ln erfc on [1, 4]; erf(4) rounds to 1. Minimax fits of our own. */
static inline vfloat v_erf(vfloat x) {
    const vint sign = (vint)x & ~0x7fffffff;
    const vfloat a = v_min(v_set(4.0f), (vfloat)((vint)x ^ sign)); /* in this order NaN stays */
    const vfloat u = a * a;
    vfloat p = v_set(7.85385768e-05f);
    p = v_fma(p, u, v_set(-0.000801019251f));
    p = v_fma(p, u, v_set(0.00518832756f));
    p = v_fma(p, u, v_set(-0.0268538119f));
    p = v_fma(p, u, v_set(0.112835851f));
    p = v_fma(p, u, v_set(-0.376126258f));
    p = v_fma(p, u, v_set(0.128379167f));
    vfloat q = v_set(2.168685e-05f);
    q = v_fma(q, a, v_set(-0.000441336378f));
    q = v_fma(q, a, v_set(0.00420456188f));
    q = v_fma(q, a, v_set(-0.0252082567f));
    q = v_fma(q, a, v_set(0.108418577f));
    q = v_fma(q, a, v_set(0.633219893f));
    q = v_fma(q, a, v_set(1.12957842f));
    q = v_fma(q, a, v_set(-0.00018804023f));
    const vfloat erf = v_select(a < 1.0f, v_fma(p, a, a), 1.0f - v_exp(-q));
    return (vfloat)((vint)erf | sign);
}

/* tanh within a few ulp: x + x^3 P(x^2) below 5/8, beyond it from the exponential. */
static inline vfloat v_tanh(vfloat x) {
    const vfloat u = x * x;
    const vfloat e = v_exp(-2.0f * (vfloat)((vint)x & 0x7fffffff));
    vfloat p = v_set(-0.00570497837f);
    p = v_fma(p, u, v_set(0.0206390787f));
    p = v_fma(p, u, v_set(-0.0537397122f));
    p = v_fma(p, u, v_set(0.133314422f));
    p = v_fma(p, u, v_set(-0.333332819f));
    const vint sign = (vint)x & ~0x7fffffff;
    const vfloat large = (vfloat)((vint)((1.0f - e) / (1.0f + e)) | sign);
    return v_select(u < 0.390625f, v_fma(p * u, x, x), large);
}

#endif
