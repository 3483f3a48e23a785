/* test_gemm.c: products cut into panels: right against double precision, the same bits for any
 * number of threads, and right when several threads multiply at once. */
#include <float.h>
#include <math.h>
#include <pthread.h>

#include "km_test.h"
#include "tensor/kernels.h"

typedef struct shape {
    int64_t m, n, k;
} shape;

/* On both sides of every panel border, and widths of real models. */
static const shape shapes[] = {
    {1, 1, 1},     {1, 64, 8},    {1, 65, 33},    {2, 17, 576},   {95, 130, 40}, {96, 130, 40},
    {97, 513, 31}, {255, 16, 64}, {257, 577, 65}, {300, 576, 96}, {513, 33, 7},  {600, 1100, 24},
};
#define N_SHAPES (int)(sizeof shapes / sizeof shapes[0])

static float *random_floats(int64_t n, uint64_t stream) {
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)km_random_normal(23, stream, (uint64_t)i);
    }
    return x;
}

/* A product with row strides wider than the rows. */
typedef struct problem {
    shape s;
    km_gemm_job job;
    float *a, *b, *c;
} problem;

static void problem_init(problem *p, shape s) {
    const int64_t lda = s.k + 3, ldb = s.k + 1, ldc = s.n + 5;
    p->s = s;
    p->a = random_floats(s.m * lda, 1);
    p->b = random_floats(s.n * ldb, 2);
    p->c = malloc((size_t)(s.m * ldc) * sizeof *p->c);
    assert_non_null(p->c);
    for (int64_t i = 0; i < s.m * ldc; i++) {
        p->c[i] = 7.0f;
    }
    p->job = (km_gemm_job){p->c, p->a, p->b, ldc, lda, ldb, s.m, s.n, s.k};
}

static void problem_clear(problem *p) {
    free(p->a);
    free(p->b);
    free(p->c);
}

static void check(const problem *p) {
    for (int64_t i = 0; i < p->s.m; i++) {
        for (int64_t j = 0; j < p->s.n; j++) {
            double expected = 0.0, magnitude = 0.0;
            for (int64_t l = 0; l < p->s.k; l++) {
                double term = (double)p->a[i * p->job.lda + l] * (double)p->b[j * p->job.ldb + l];
                expected += term;
                magnitude += fabs(term);
            }
            double got = (double)p->c[i * p->job.ldc + j];
            assert_true(fabs(got - expected) <= 16.0 * (double)FLT_EPSILON * magnitude);
        }
        for (int64_t j = p->s.n; j < p->job.ldc; j++) {
            assert_true(p->c[i * p->job.ldc + j] == 7.0f);
        }
    }
}

static void test_products_are_right(void **state) {
    for (int i = 0; i < N_SHAPES; i++) {
        problem p;
        problem_init(&p, shapes[i]);
        assert_int_equal(km_gemm_nt_many(*state, &p.job, 1, NULL), KM_OK);
        check(&p);
        problem_clear(&p);
    }
}

static void test_many_products_in_one_loop(void **state) {
    problem p[N_SHAPES];
    km_gemm_job jobs[N_SHAPES];
    for (int i = 0; i < N_SHAPES; i++) {
        problem_init(&p[i], shapes[i]);
        jobs[i] = p[i].job;
    }
    jobs[3].m = 0; /* an empty product among others */
    assert_int_equal(km_gemm_nt_many(*state, jobs, N_SHAPES, NULL), KM_OK);
    for (int i = 0; i < N_SHAPES; i++) {
        if (i == 3) {
            assert_true(p[i].c[0] == 7.0f);
        } else {
            check(&p[i]);
        }
        problem_clear(&p[i]);
    }
}

static void test_same_bits_for_any_thread_count(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 7};
    for (int i = 0; i < N_SHAPES; i++) {
        problem p[3];
        for (int t = 0; t < 3; t++) {
            km_ctx *ctx = km_test_ctx(threads[t]);
            problem_init(&p[t], shapes[i]);
            assert_int_equal(km_gemm_nt_many(ctx, &p[t].job, 1, NULL), KM_OK);
            km_ctx_free(ctx);
        }
        const size_t bytes = (size_t)(p[0].s.m * p[0].job.ldc) * sizeof(float);
        assert_memory_equal(p[0].c, p[1].c, bytes);
        assert_memory_equal(p[0].c, p[2].c, bytes);
        for (int t = 0; t < 3; t++) {
            problem_clear(&p[t]);
        }
    }
}

/* BLAS must bear calls from several threads at once, each with a context of its own. */
typedef struct caller {
    problem p;
    float *expected;
    bool same;
} caller;

static void *multiply_often(void *payload) {
    caller *c = payload;
    km_ctx *ctx = km_test_ctx(2);
    const size_t bytes = (size_t)(c->p.s.m * c->p.job.ldc) * sizeof(float);
    c->same = true;
    for (int round = 0; round < 50; round++) {
        memset(c->p.c, 0, bytes);
        c->same = c->same && km_gemm_nt_many(ctx, &c->p.job, 1, NULL) == KM_OK;
        for (int64_t i = 0; i < c->p.s.m; i++) {
            const int64_t at = i * c->p.job.ldc;
            c->same = c->same &&
                      memcmp(c->p.c + at, c->expected + at, (size_t)c->p.s.n * sizeof(float)) == 0;
        }
    }
    km_ctx_free(ctx);
    return NULL;
}

static void test_concurrent_products(void **state) {
    caller callers[4];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        caller *c = &callers[i];
        problem_init(&c->p, (shape){100 + 50 * i, 300, 96});
        const size_t bytes = (size_t)(c->p.s.m * c->p.job.ldc) * sizeof(float);
        assert_int_equal(km_gemm_nt_many(*state, &c->p.job, 1, NULL), KM_OK);
        c->expected = malloc(bytes);
        assert_non_null(c->expected);
        memcpy(c->expected, c->p.c, bytes);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, multiply_often, &callers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_true(callers[i].same);
        free(callers[i].expected);
        problem_clear(&callers[i].p);
    }
}

static void test_sizes_blas_cannot_count(void **state) {
    float x = 0.0f;
    km_error err = KM_ERROR_INIT;
    const int64_t huge = (int64_t)1 << 31;
    km_test_fails(km_gemm_nt(*state, &x, 1, &x, 1, &x, 1, huge, 1, 1, &err), KM_ERANGE, &err,
                  "2147483648");
    km_test_fails(km_gemm_nt(*state, &x, 1, &x, 1, &x, 1, 1, 1, 0, &err), KM_ERANGE, &err,
                  "(1, 0)");
    km_test_fails(km_gemm_nt(*state, &x, 1, &x, 1, &x, 1, 1, 2, 1, &err), KM_ERANGE, &err,
                  "(2, 1)");
    km_test_fails(km_gemm_nt(*state, &x, 1, &x, 1, &x, 1, -1, 1, 1, &err), KM_ERANGE, &err, "(-1,");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products_are_right),
        cmocka_unit_test(test_many_products_in_one_loop),
        cmocka_unit_test(test_same_bits_for_any_thread_count),
        cmocka_unit_test(test_concurrent_products),
        cmocka_unit_test(test_sizes_blas_cannot_count),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
