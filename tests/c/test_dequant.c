/* test_dequant.c: the conversions of every CPU variant this machine can run against the plain ones
 * of dtype.c, bit for bit, over random and extreme blocks; and the products of one row. The plain
 * ones are tested against the `gguf` package in test_dtype.c. */
#include <math.h>

#include "stored_rows.h"
#include "tensor/linear_private.h"

static const char *const CPUS[] = KM_TEST_CPUS;
#define N_BLOCKS 61

/* Equal bits, or both NaN: a conversion in hardware makes a signalling NaN quiet. */
static void check_same(const float *got, const float *expected, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (!isnan(expected[i])) {
            assert_memory_equal(&got[i], &expected[i], sizeof *got);
        } else {
            assert_true(isnan(got[i]));
        }
    }
}

/* n elements through both, with a guard after the last and at every alignment of the source. */
static void check_blocks(const km_dequant_kernels *kernels, km_dtype dtype,
                         const unsigned char *blocks, int64_t n) {
    const km_dtype_traits *traits = km_dtype_get(dtype);
    const size_t size = (size_t)(n / traits->block_elements * traits->block_bytes);
    float *expected = malloc(((size_t)n + 1) * sizeof(float));
    float *got = malloc(((size_t)n + 1) * sizeof(float));
    unsigned char *moved = malloc(size + 3);
    assert_true(expected != NULL && got != NULL && moved != NULL);
    for (size_t offset = 0; offset < 3; offset++) {
        memcpy(moved + offset, blocks, size);
        got[n] = 777.0f;
        traits->to_f32(expected, blocks, n);
        kernels->to_f32[dtype](got, moved + offset, n);
        check_same(got, expected, n);
        assert_true(got[n] == 777.0f);
    }
    free(expected);
    free(got);
    free(moved);
}

static void check_random(const km_dequant_kernels *kernels, km_dtype dtype) {
    const km_dtype_traits *traits = km_dtype_get(dtype);
    const int64_t n = (int64_t)N_BLOCKS * traits->block_elements;
    km_matrix ordinary = stored_matrix(dtype, N_BLOCKS, traits->block_elements, 41);
    check_blocks(kernels, dtype, ordinary.data, n);
    for (int64_t blocks = 0; blocks < 40; blocks++) { /* every tail of a row of floats */
        check_blocks(kernels, dtype, ordinary.data, blocks * traits->block_elements);
    }
    free((void *)ordinary.data);
    unsigned char *any = malloc((size_t)(N_BLOCKS * traits->block_bytes));
    assert_non_null(any);
    for (int i = 0; i < N_BLOCKS * traits->block_bytes; i++) {
        any[i] = (unsigned char)km_random_u64(42, (uint64_t)dtype, (uint64_t)i);
    }
    check_blocks(kernels, dtype, any, n); /* scales of any bits */
    free(any);
}

/* Blocks of all ones, all zeros and alternating bits under scales that are zero, subnormal, the
 * largest, infinite and NaN, of either sign. */
static void check_extremes(const km_dequant_kernels *kernels, km_dtype dtype) {
    static const uint16_t HALVES[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400,
                                      0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 0x7c01};
    static const unsigned char FILLS[] = {0x00, 0xff, 0x55, 0xaa, 0x80, 0x7f, 0xf0, 0x0f};
    const km_dtype_traits *traits = km_dtype_get(dtype);
    unsigned char block[256];
    for (size_t f = 0; f < sizeof FILLS; f++) {
        for (size_t h = 0; h < sizeof HALVES / sizeof HALVES[0]; h++) {
            memset(block, FILLS[f], sizeof block);
            const int *at = stored_halves(dtype);
            for (int i = 0; at[i] >= 0; i++) { /* the second number differs from the first */
                const uint16_t *half = &HALVES[(h + 5 * (size_t)i) % 12];
                memcpy(block + at[i], half, sizeof *half);
            }
            check_blocks(kernels, dtype, block, traits->block_elements);
        }
    }
}

/* Each half-precision number there is. */
static void check_all_halves(const km_dequant_kernels *kernels) {
    uint16_t *halves = malloc(65536 * sizeof *halves);
    assert_non_null(halves);
    for (int i = 0; i < 65536; i++) {
        halves[i] = (uint16_t)i;
    }
    check_blocks(kernels, KM_F16, (const unsigned char *)halves, 65536);
    check_blocks(kernels, KM_BF16, (const unsigned char *)halves, 65536);
    free(halves);
}

/* One row has the bits of a product of many; n and k with every kind of tail. */
static void check_one_row(km_ctx *ctx, km_dtype dtype) {
    const int64_t step = km_dtype_get(dtype)->block_elements;
    const int64_t ks[] = {step, 3 * step, 576, 769, 1000, 1536, 2305};
    for (size_t t = 0; t < sizeof ks / sizeof ks[0]; t++) {
        const int64_t k = (ks[t] + step - 1) / step * step, n = 1 + 7 * (int64_t)t;
        km_matrix w = stored_matrix(dtype, n, k, 43);
        float *x = malloc((size_t)(2 * k) * sizeof(float));
        float *bias = malloc((size_t)n * sizeof(float));
        float *y = malloc((size_t)(3 * n + 1) * sizeof(float));
        assert_true(x != NULL && y != NULL && bias != NULL);
        for (int64_t i = 0; i < 2 * k; i++) {
            x[i] = (float)km_random_normal(44, 0, (uint64_t)i);
        }
        for (int64_t i = 0; i < n; i++) {
            bias[i] = (float)km_random_normal(44, 1, (uint64_t)i);
        }
        y[3 * n] = 777.0f;
        const km_linear_job two = {y, x, &w, bias, n, k, 2};
        const km_linear_job one = {y + 2 * n, x + k, &w, bias, n, k, 1};
        assert_int_equal(km_linear_many(ctx, &two, 1, NULL), KM_OK);
        assert_int_equal(km_linear_many(ctx, &one, 1, NULL), KM_OK);
        assert_memory_equal(y + n, y + 2 * n, (size_t)n * sizeof(float));
        assert_true(y[3 * n] == 777.0f);
        free(x);
        free(y);
        free(bias);
        free((void *)w.data);
    }
}

static void test_variants(void **state) {
    (void)state;
    int n_run = 0;
    for (int c = 0; c < KM_TEST_N_CPUS; c++) {
        km_ctx *ctx = km_test_variant(1, CPUS[c]);
        if (ctx == NULL) {
            continue;
        }
        const km_dequant_kernels *kernels = km__dequant_kernels(ctx);
        assert_string_equal(kernels->name, CPUS[c]);
        for (int d = 0; d < KM_DTYPE_COUNT; d++) {
            check_random(kernels, (km_dtype)d);
            check_extremes(kernels, (km_dtype)d);
            check_one_row(ctx, (km_dtype)d);
        }
        check_all_halves(kernels);
        km_ctx_free(ctx);
        n_run++;
    }
    assert_true(n_run >= 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
