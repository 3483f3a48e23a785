/* test_kernels_attention.c: the products of attention on every CPU variant this machine can run,
 * against double precision, and with the same bits however the work is cut. */
#include <float.h>
#include <math.h>

#include "km_test.h"
#include "tensor/kernels_attention.h"

enum { MOST_ROWS = 19, MOST_KEYS = 37, MOST_WIDTH = 136, STRIDE = 150 };

static float queries[MOST_ROWS * MOST_WIDTH], keys[MOST_KEYS * STRIDE];
static float weights[MOST_ROWS * MOST_KEYS];

static void fill(float *x, int64_t n, uint64_t stream) {
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)km_random_normal(23, stream, (uint64_t)i);
    }
}

static void check_scores(const km_attention_kernels *k, int64_t rows, int64_t n, int64_t width) {
    float all[MOST_ROWS * MOST_KEYS], one;
    k->scores(all, MOST_KEYS, queries, rows, keys, STRIDE, n, width, 0.3f);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < n; c++) {
            double expected = 0.0, magnitude = 0.0;
            for (int64_t i = 0; i < width; i++) {
                double product = (double)queries[r * width + i] * (double)keys[c * STRIDE + i];
                expected += product;
                magnitude += fabs(product);
            }
            expected *= (double)0.3f;
            assert_true(fabs((double)all[r * MOST_KEYS + c] - expected) <=
                        4.0 * (double)FLT_EPSILON * magnitude);
            k->scores(&one, 1, queries + r * width, 1, keys + c * STRIDE, STRIDE, 1, width, 0.3f);
            assert_memory_equal(&one, &all[r * MOST_KEYS + c], sizeof one);
        }
    }
}

/* Key by key, in one call, and row by row in two calls: the same bits. */
static void check_mix(const km_attention_kernels *k, int64_t rows, int64_t n, int64_t width) {
    float all[MOST_ROWS * MOST_WIDTH + 1] = {0.0f}, parts[MOST_ROWS * MOST_WIDTH] = {0.0f};
    all[rows * width] = 12345.0f;
    k->mix(all, weights, MOST_KEYS, rows, keys, STRIDE, n, width);
    assert_true(all[rows * width] == 12345.0f);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t cut = n / 3;
        k->mix(parts + r * width, weights + r * MOST_KEYS, MOST_KEYS, 1, keys, STRIDE, cut, width);
        k->mix(parts + r * width, weights + r * MOST_KEYS + cut, MOST_KEYS, 1, keys + cut * STRIDE,
               STRIDE, n - cut, width);
        for (int64_t i = 0; i < width; i++) {
            double expected = 0.0, magnitude = 0.0;
            for (int64_t c = 0; c < n; c++) {
                double product = (double)weights[r * MOST_KEYS + c] * (double)keys[c * STRIDE + i];
                expected += product;
                magnitude += fabs(product);
            }
            assert_true(fabs((double)all[r * width + i] - expected) <=
                        8.0 * (double)FLT_EPSILON * magnitude);
        }
    }
    assert_memory_equal(all, parts, (size_t)(rows * width) * sizeof(float));
}

static bool check_variant(const char *cpu) {
    static const int64_t widths[] = {1, 4, 8, 12, 16, 20, 31, 64, 96, 128, 136};
    km_ctx *ctx = km_test_variant(1, cpu);
    if (ctx == NULL) {
        return false;
    }
    fill(queries, MOST_ROWS * MOST_WIDTH, 1);
    fill(keys, MOST_KEYS * STRIDE, 2);
    fill(weights, MOST_ROWS * MOST_KEYS, 3);
    for (int64_t rows = 1; rows <= MOST_ROWS; rows += 2) {
        for (int64_t n = 1; n <= MOST_KEYS; n += 3) {
            for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++) {
                check_scores(km_ctx_attention_kernels(ctx), rows, n, widths[w]);
                check_mix(km_ctx_attention_kernels(ctx), rows, n, widths[w]);
            }
        }
    }
    km_ctx_free(ctx);
    return true;
}

static void test_variants(void **state) {
    (void)state;
    km_test_variants(check_variant);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
