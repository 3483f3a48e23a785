/* test_kernels_recurrent.c: steps of recurrent layers on every CPU variant this machine can run,
 * against double precision, and the same bits whatever the number of rows. */
#include <float.h>
#include <math.h>

#include "km_test.h"
#include "tensor/kernels_recurrent.h"

enum { ROWS = 15, COLUMNS = 150, INNER = 70, MOST = 75 };

static float xs[ROWS * INNER], bs[INNER * COLUMNS];

static void fill(float *x, int64_t n, uint64_t stream) {
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)km_random_normal(29, stream, (uint64_t)i);
    }
}

static void check_product(const km_recurrent_kernels *k, int64_t m, int64_t n, int64_t inner,
                          bool add) {
    static float y[ROWS * COLUMNS + 1], one[COLUMNS];
    for (int64_t i = 0; i < m * n; i++) {
        y[i] = 0.5f;
    }
    y[m * n] = 12345.0f;
    k->product(y, n, xs, INNER, bs, COLUMNS, m, n, inner, add);
    assert_true(y[m * n] == 12345.0f);
    for (int64_t r = 0; r < m; r++) {
        for (int64_t c = 0; c < n; c++) {
            double expected = add ? 0.5 : 0.0, magnitude = 0.5;
            for (int64_t i = 0; i < inner; i++) {
                const double product = (double)xs[r * INNER + i] * (double)bs[i * COLUMNS + c];
                expected += product;
                magnitude += fabs(product);
            }
            assert_true(fabs((double)y[r * n + c] - expected) <=
                        8.0 * (double)FLT_EPSILON * magnitude);
        }
        for (int64_t c = 0; c < n; c++) {
            one[c] = 0.5f;
        }
        k->product(one, n, xs + r * INNER, INNER, bs, COLUMNS, 1, n, inner, add);
        assert_memory_equal(one, y + r * n, (size_t)n * sizeof(float));
    }
}

static void check_products(const km_recurrent_kernels *k) {
    static const int64_t rows[] = {0, 1, 2, 3, 5, 6, 7, 8, 15}, columns[] = {1, 7, 16, 33, 64, 150};
    static const int64_t inner[] = {0, 1, 3, 70};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t j = 0; j < sizeof columns / sizeof columns[0]; j++) {
            for (size_t l = 0; l < sizeof inner / sizeof inner[0]; l++) {
                check_product(k, rows[i], columns[j], inner[l], l % 2 == 0);
            }
        }
    }
}

static double logistic(double x) {
    return 1.0 / (1.0 + exp(-x));
}

typedef struct exact {
    double r, z, n, c, h;
} exact;

static exact step_of(const float *gates, const float *c, const float *bias, double h, int64_t n,
                     int64_t i) {
    exact e;
    e.r = logistic((double)gates[i] + (double)c[i] + (double)bias[i]);
    e.z = logistic((double)gates[n + i] + (double)c[n + i] + (double)bias[n + i]);
    e.c = (double)c[2 * n + i] + (double)bias[3 * n + i];
    e.n = tanh((double)gates[2 * n + i] + (double)bias[2 * n + i] + e.r * e.c);
    e.h = (1.0 - e.z) * e.n + e.z * h;
    return e;
}

static void near(float got, double expected) {
    assert_true(fabs((double)got - expected) <= 2e-6 * (1.0 + fabs(expected)));
}

static void check_gates(const km_recurrent_kernels *k, int64_t n) {
    float before[4 * MOST + 1], gates[4 * MOST + 1], c[3 * MOST], bias[4 * MOST], h[MOST + 1];
    float start[MOST], dh[MOST + 1], dc[3 * MOST + 1], slopes[MOST];
    fill(before, 4 * n, 3);
    fill(c, 3 * n, 4);
    fill(bias, 4 * n, 5);
    fill(start, n, 6);
    fill(slopes, n, 7);
    memcpy(gates, before, sizeof gates);
    memcpy(h, start, (size_t)n * sizeof(float));
    memcpy(dh, slopes, (size_t)n * sizeof(float));
    gates[4 * n] = h[n] = dh[n] = dc[3 * n] = 12345.0f;
    k->gru_forward(gates, h, c, bias, n);
    for (int64_t i = 0; i < n; i++) {
        const exact e = step_of(before, c, bias, (double)start[i], n, i);
        near(gates[i], e.r);
        near(gates[n + i], e.z);
        near(gates[2 * n + i], e.n);
        near(gates[3 * n + i], e.c);
        near(h[i], e.h);
    }
    k->gru_backward(gates, dh, dc, start, n);
    for (int64_t i = 0; i < n; i++) {
        const exact e = step_of(before, c, bias, (double)start[i], n, i);
        const double d = (double)slopes[i], dn = d * (1.0 - e.z) * (1.0 - e.n * e.n);
        near(gates[i], dn * e.c * e.r * (1.0 - e.r));
        near(gates[n + i], d * ((double)start[i] - e.n) * e.z * (1.0 - e.z));
        near(gates[2 * n + i], dn);
        near(gates[3 * n + i], dn * e.r);
        near(dh[i], d * e.z);
        assert_true(dc[i] == gates[i] && dc[n + i] == gates[n + i] &&
                    dc[2 * n + i] == gates[3 * n + i]);
    }
    assert_true(gates[4 * n] == 12345.0f && h[n] == 12345.0f && dh[n] == 12345.0f &&
                dc[3 * n] == 12345.0f);
}

static void check_tanh(const km_recurrent_kernels *k) {
    float x[MOST], y[MOST];
    fill(x, MOST, 8);
    memcpy(y, x, sizeof y);
    y[0] = x[0] = 200.0f;
    y[1] = x[1] = -200.0f;
    k->tanh(y, MOST);
    for (int64_t i = 0; i < MOST; i++) {
        near(y[i], tanh((double)x[i]));
    }
}

static bool check_variant(const char *cpu) {
    km_ctx *ctx = km_test_variant(1, cpu);
    if (ctx == NULL) {
        return false;
    }
    const km_recurrent_kernels *k = km_ctx_recurrent_kernels(ctx);
    fill(xs, ROWS * INNER, 1);
    fill(bs, INNER * COLUMNS, 2);
    check_products(k);
    for (int64_t n = 1; n <= MOST; n += 1 + n / 4) {
        check_gates(k, n);
    }
    check_tanh(k);
    km_ctx_free(ctx);
    return true;
}

static void test_variants(void **state) {
    (void)state;
    km_test_variants(check_variant);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_variants)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
