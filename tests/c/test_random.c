/* test_random.c: Philox against the known answers published with Random123 (kat_vectors), and the
 * distributions built on it. */
#include <math.h>

#include "km_test.h"

static void test_known_answers(void **state) {
    (void)state;
    assert_true(km_random_u64(0, 0, 0) == 0xe169c58d6627e8d5u);
    assert_true(km_random_u64(UINT64_MAX, UINT64_MAX, UINT64_MAX) == 0x41c83b0e408f276du);
    assert_true(km_random_u64(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u) ==
                0x94fdccebd16cfe09u);
}

/* Each argument matters, and calling again gives the same. */
static void test_pure(void **state) {
    (void)state;
    uint64_t x = km_random_u64(1, 2, 3);
    assert_true(x == km_random_u64(1, 2, 3));
    assert_true(x != km_random_u64(2, 2, 3));
    assert_true(x != km_random_u64(1, 3, 3));
    assert_true(x != km_random_u64(1, 2, 4));
}

/* Mean and variance of 100000 draws, within five standard errors. */
static void test_moments(void **state) {
    (void)state;
    enum { N = 100000 };
    double sum = 0, squares = 0, normal = 0, normal_squares = 0, fourth = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = km_random_uniform(7, 1, i);
        double z = km_random_normal(7, 2, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
        normal += z;
        normal_squares += z * z;
        fourth += z * z * z * z;
    }
    double root = sqrt((double)N);
    assert_true(fabs(sum / N - 0.5) < 5 * sqrt(1.0 / 12) / root);
    assert_true(fabs(squares / N - 1.0 / 3) < 5 * sqrt(4.0 / 45) / root);
    assert_true(fabs(normal / N) < 5 / root);
    assert_true(fabs(normal_squares / N - 1) < 5 * sqrt(2.0) / root);
    assert_true(fabs(fourth / N - 3) < 5 * sqrt(96.0) / root);
}

static void test_below(void **state) {
    (void)state;
    int counts[6] = {0};
    for (uint64_t i = 0; i < 60000; i++) {
        uint64_t face = km_random_below(6, 3, 0, i);
        assert_true(face < 6);
        counts[face]++;
    }
    double chi2 = 0;
    for (int i = 0; i < 6; i++) {
        chi2 += (counts[i] - 10000.0) * (counts[i] - 10000.0) / 10000.0;
    }
    assert_true(chi2 < 20.5); /* the 0.999 quantile with five degrees of freedom */
    assert_true(km_random_below(1, 3, 0, 0) == 0);
    uint64_t big = (UINT64_MAX / 3) * 2; /* a third of the draws is turned away */
    int upper = 0;
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t x = km_random_below(big, 4, 0, i);
        assert_true(x < big);
        upper += x >= big / 2;
    }
    assert_true(abs(upper - 10000) < 354);
}

static void test_permutation(void **state) {
    (void)state;
    enum { N = 100 };
    int64_t p[N], q[N];
    int first[N] = {0};
    for (uint64_t stream = 0; stream < 5000; stream++) {
        bool seen[N] = {false};
        km_random_permutation(p, N, 9, stream);
        for (int i = 0; i < N; i++) {
            assert_true(p[i] >= 0 && p[i] < N && !seen[p[i]]);
            seen[p[i]] = true;
        }
        first[p[0]]++;
    }
    for (int i = 0; i < N; i++) {
        assert_true(abs(first[i] - 50) < 36); /* five standard deviations */
    }
    km_random_permutation(p, N, 9, 5);
    km_random_permutation(q, N, 9, 5);
    assert_memory_equal(p, q, sizeof p);
    km_random_permutation(NULL, 0, 9, 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers), cmocka_unit_test(test_pure),
        cmocka_unit_test(test_moments),       cmocka_unit_test(test_below),
        cmocka_unit_test(test_permutation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
