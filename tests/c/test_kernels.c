/* test_kernels.c: every CPU variant this machine can run against double precision, over sizes
 * around each vector width and one long enough to show a sum that loses digits. */
#include <float.h>
#include <math.h>

#include "km_test.h"
#include "tensor/kernels.h"

#define LONGEST 4000000

static const int64_t sizes[] = {0,  1,  2,  3,  4,  5,  7,   8,   9,    15,   16,  17,
                                31, 32, 33, 63, 64, 65, 100, 576, 1000, 4096, 4097};
#define N_SIZES (int64_t)(sizeof sizes / sizeof sizes[0])

/* The double-precision expf lies within half an ulp; ulp of the nearest float. */
static double ulps(float got, double expected) {
    int exponent;
    (void)frexp(expected, &exponent);
    double ulp = ldexp(1.0, exponent - 24);
    return fabs((double)got - expected) / (ulp < 0x1p-149 ? 0x1p-149 : ulp);
}

static float *random_floats(int64_t n, uint64_t stream, double deviation) {
    float *x = malloc(((size_t)n + 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)(deviation * km_random_normal(17, stream, (uint64_t)i));
    }
    x[n] = 12345.0f; /* a guard: no kernel may touch it */
    return x;
}

static void check_dot(const km_kernels *k, const float *a, const float *b, int64_t n) {
    double expected = 0.0, magnitude = 0.0;
    for (int64_t i = 0; i < n; i++) {
        expected += (double)a[i] * (double)b[i];
        magnitude += fabs((double)a[i] * (double)b[i]);
    }
    assert_true(fabs((double)k->dot(a, b, n) - expected) <= 4.0 * (double)FLT_EPSILON * magnitude);
}

static void check_axpy(const km_kernels *k, const float *a, const float *b, int64_t n) {
    float *y = random_floats(n, 3, 1.0), *before = random_floats(n, 3, 1.0);
    k->axpy(y, 0.37f, a, n);
    for (int64_t i = 0; i < n; i++) {
        double product = (double)0.37f * (double)a[i], expected = (double)before[i] + product;
        double magnitude = fabs((double)before[i]) + fabs(product);
        assert_true(fabs((double)y[i] - expected) <= (double)FLT_EPSILON * magnitude);
    }
    assert_true(y[n] == 12345.0f);
    (void)b;
    free(y);
    free(before);
}

static void check_rms_norm(const km_kernels *k, const float *x, const float *gain, int64_t n) {
    float *y = random_floats(n, 4, 1.0);
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    double factor = 1.0 / sqrt((n > 0 ? sum / (double)n : 0.0) + 1e-5);
    k->rms_norm(y, x, gain, 1.0f, 1e-5, n);
    for (int64_t i = 0; i < n; i++) {
        double expected = (double)x[i] * factor * ((double)gain[i] + 1.0);
        assert_true(fabs((double)y[i] - expected) <=
                    4.0 * (double)FLT_EPSILON * (fabs(expected) + fabs((double)x[i] * factor)));
    }
    assert_true(y[n] == 12345.0f);
    free(y);
}

/* Numbers far from zero, whose variance one pass in float32 would lose. */
static void check_layer_norm(const km_kernels *k, const float *x, const float *gain, int64_t n) {
    float *y = random_floats(n, 4, 1.0), *far = random_floats(n, 4, 1.0);
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < n; i++) {
        far[i] = x[i] + 4096.0f;
        sum += (double)far[i];
    }
    const double mean = n > 0 ? sum / (double)n : 0.0;
    for (int64_t i = 0; i < n; i++) {
        squares += ((double)far[i] - mean) * ((double)far[i] - mean);
    }
    const double factor = 1.0 / sqrt((n > 0 ? squares / (double)n : 0.0) + 1e-5);
    k->layer_norm(y, far, gain, x, 1e-5, n);
    for (int64_t i = 0; i < n; i++) {
        double expected = ((double)far[i] - mean) * factor * (double)gain[i] + (double)x[i];
        double slack = (4096.0 * factor + 4.0) * (double)FLT_EPSILON;
        assert_true(fabs((double)y[i] - expected) <= slack * (fabs((double)gain[i]) + 4.0));
    }
    assert_true(y[n] == 12345.0f);
    free(y);
    free(far);
}

static double gelu_erf(double x) {
    return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
}

static double silu(double x) {
    return x / (1.0 + exp(-x));
}

static double gelu_tanh(double x) {
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

static void check_activation(void (*kernel)(float *, const float *, int64_t),
                             double (*exact)(double), double slack, const float *x, const float *up,
                             int64_t n) {
    float *gate = malloc(((size_t)n + 1) * sizeof *gate);
    assert_non_null(gate);
    memcpy(gate, x, ((size_t)n + 1) * sizeof *gate);
    kernel(gate, up, n);
    for (int64_t i = 0; i < n; i++) {
        double expected = exact((double)x[i]) * (up == NULL ? 1.0 : (double)up[i]);
        assert_true(fabs((double)gate[i] - expected) <= 2e-6 * fabs(expected) + slack);
    }
    assert_true(gate[n] == 12345.0f);
    free(gate);
}

static void check_reductions(const km_kernels *k, const float *x, int64_t n) {
    float largest = -INFINITY;
    double sum = 0.0;
    int64_t greater = 0;
    for (int64_t i = 0; i < n; i++) {
        largest = x[i] > largest ? x[i] : largest;
        greater += x[i] > 0.25f;
        sum += exp((double)x[i] - 0.5);
    }
    assert_true(k->max(x, n) == largest);
    assert_true(fabs(k->sum_exp(x, 0.5f, n) - sum) <= 1e-6 * sum);
    assert_int_equal(k->count_greater(x, n, 0.25f), greater);
    assert_true(k->all_finite(x, n));
}

static void check_softmax(const km_kernels *k, const float *x, int64_t n) {
    float *y = malloc(((size_t)n + 1) * sizeof *y);
    assert_non_null(y);
    memcpy(y, x, ((size_t)n + 1) * sizeof *y);
    k->softmax(y, n);
    double sum = 0.0, total = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += exp((double)x[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        double expected = exp((double)x[i]) / sum;
        assert_true(fabs((double)y[i] - expected) <= 2e-6 * expected);
        total += (double)y[i];
    }
    assert_true(n == 0 || fabs(total - 1.0) < 1e-5);
    assert_true(y[n] == 12345.0f);
    free(y);
}

static void check_size(const km_kernels *k, int64_t n) {
    float *a = random_floats(n, 1, 3.0), *b = random_floats(n, 2, 3.0);
    check_dot(k, a, b, n);
    check_axpy(k, a, b, n);
    check_rms_norm(k, a, b, n);
    check_layer_norm(k, a, b, n);
    for (int i = 0; i < 2; i++) { /* gated and plain */
        const float *up = i == 0 ? b : NULL;
        check_activation(k->silu, silu, 1e-9, a, up, n);
        check_activation(k->gelu_tanh, gelu_tanh, 1e-9, a, up, n);
        check_activation(k->gelu_erf, gelu_erf, 3e-6, a, up, n); /* 1 + erf cancels below zero */
    }
    check_reductions(k, a, n);
    check_softmax(k, a, n);
    free(a);
    free(b);
}

/* ulps of e^x through sum_exp of one element. */
static void check_exp(const km_kernels *k) {
    for (double x = -103.0; x < 88.7; x += 0.0137) {
        float rounded = (float)x;
        double got = k->sum_exp(&rounded, 0.0f, 1);
        assert_true(ulps((float)got, exp((double)rounded)) <= 2.0);
    }
    const float edges[] = {0.0f, -1000.0f, -INFINITY, 100.0f, NAN};
    assert_true(k->sum_exp(edges, 0.0f, 1) == 1.0);
    assert_true(k->sum_exp(edges + 1, 0.0f, 2) == 0.0);
    assert_true(isinf(k->sum_exp(edges + 3, 0.0f, 1)));
    assert_true(isnan(k->sum_exp(edges, 0.0f, 5)));
}

/* ulps of tanh, and of erf seen through 2 gelu(x) / x = 1 + erf. */
static void check_tanh_and_erf(const km_kernels *k) {
    for (double x = -12.0; x < 12.0; x += 0.00137) {
        float t = (float)x, g = (float)x;
        double exact = tanh((double)t), both = 1.0 + erf((double)t * sqrt(0.5));
        k->softcap(&t, 1.0f, 1);
        k->gelu_erf(&g, NULL, 1);
        assert_true(ulps(t, exact) <= 4.0);
        assert_true(fabs(2.0 * (double)g / (double)(float)x - both) <= 2.5 * (double)FLT_EPSILON);
    }
    float edges[] = {INFINITY, -INFINITY, NAN, 0.0f, 150.0f};
    k->softcap(edges, 50.0f, 5);
    assert_true(edges[0] == 50.0f && edges[1] == -50.0f && isnan(edges[2]) && edges[3] == 0.0f);
    assert_true(fabsf(edges[4] - 50.0f * tanhf(3.0f)) < 1e-5f);
    float far[] = {40.0f, -40.0f, NAN};
    k->gelu_erf(far, NULL, 3);
    assert_true(far[0] == 40.0f && far[1] == 0.0f && isnan(far[2]));
}

/* Extremes of the activations, and what is not finite, in a vector and in a tail. */
static void check_edges(const km_kernels *k) {
    for (int64_t n = 1; n < 40; n++) {
        float x[40] = {0.0f};
        const float bad[] = {INFINITY, -INFINITY, NAN};
        assert_true(k->all_finite(x, n));
        for (int i = 0; i < 3; i++) {
            x[n - 1] = bad[i];
            assert_false(k->all_finite(x, n));
        }
    }
    float gate[] = {-1e4f, 1e4f, -90.0f}, up[] = {1.0f, 1.0f, 1.0f};
    k->silu(gate, up, 3);
    assert_true(gate[0] == 0.0f && gate[1] == 1e4f && fabsf(gate[2]) < 1e-36f);
    float gelu[] = {-1e4f, 1e4f};
    k->gelu_tanh(gelu, up, 2);
    assert_true(gelu[0] == 0.0f && gelu[1] == 1e4f);
}

/* A single float accumulator would be off by far more than this bound. */
static void check_long_sum(const km_kernels *k) {
    float *a = malloc(LONGEST * sizeof *a), *b = malloc(LONGEST * sizeof *b);
    assert_true(a != NULL && b != NULL);
    double expected = 0.0;
    for (int64_t i = 0; i < LONGEST; i++) {
        a[i] = (float)km_random_uniform(5, 0, (uint64_t)i);
        b[i] = 1.0f;
        expected += (double)a[i];
    }
    assert_true(fabs((double)k->dot(a, b, LONGEST) - expected) <=
                2.0 * (double)FLT_EPSILON * expected);
    assert_int_equal(k->count_greater(a, LONGEST, -1.0f), LONGEST);
    free(a);
    free(b);
}

static bool check_variant(const char *cpu) {
    km_ctx *ctx = km_test_variant(1, cpu);
    if (ctx == NULL) {
        return false;
    }
    const km_kernels *k = km_ctx_kernels(ctx);
    assert_string_equal(k->name, cpu);
    for (int64_t i = 0; i < N_SIZES; i++) {
        check_size(k, sizes[i]);
    }
    check_exp(k);
    check_tanh_and_erf(k);
    check_edges(k);
    check_long_sum(k);
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
