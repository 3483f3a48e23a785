/* test_linear.c: products with stored matrices, in every CPU variant this machine can run: right
 * against double precision for every storage type, in the one documented order of summation bit for
 * bit, and therefore the same bits for any number of rows and threads. */
#include <float.h>
#include <math.h>
#include <pthread.h>

#include "stored_rows.h"

static const char *const CPUS[] = KM_TEST_CPUS;
static const int LANES[] = {4, 8, 16};

typedef struct shape {
    int64_t m, n, k;
} shape;

/* Tails of tiles, panels, chunks and sums; 769 and 1536 take two blocks of a sum, 2304 three.
 * Floats with rows a multiple of 4 and columns of 16 are multiplied where they lie. */
static const shape SHAPES[] = {{1, 1, 1},     {1, 5, 33},    {2, 3, 7},    {3, 50, 65},
                               {4, 4, 16},    {5, 97, 31},   {6, 13, 576}, {7, 48, 100},
                               {1, 49, 769},  {13, 31, 769}, {2, 9, 1536}, {300, 7, 40},
                               {5, 11, 2304}, {9, 52, 576},  {3, 8, 784}};
#define N_SHAPES (int)(sizeof SHAPES / sizeof SHAPES[0])

/* A product with row strides wider than the rows; `y` starts as 777. */
typedef struct problem {
    shape s;
    km_matrix w;
    float *x, *y, *bias, *rows; /* rows: w as float32 */
    km_linear_job job;
} problem;

static float *random_floats(int64_t n, uint64_t stream) {
    float *x = malloc((size_t)(n > 0 ? n : 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)km_random_normal(23, stream, (uint64_t)i);
    }
    return x;
}

static void clear_result(problem *p) {
    for (int64_t i = 0; i < p->s.m * p->job.ldy; i++) {
        p->y[i] = 777.0f;
    }
}

static void problem_init(problem *p, shape s, km_dtype dtype, bool bias) {
    *p = (problem){.s = s, .w = stored_matrix(dtype, s.n, s.k, 7)};
    const int64_t ldx = s.k + 3, ldy = s.n + 5;
    p->x = random_floats(s.m * ldx, 1);
    p->y = random_floats(s.m * ldy, 2);
    p->bias = bias ? random_floats(s.n, 3) : NULL;
    p->rows = malloc((size_t)(s.n * s.k) * sizeof(float));
    assert_non_null(p->rows);
    km_dtype_get(dtype)->to_f32(p->rows, p->w.data, s.n * s.k);
    p->job = (km_linear_job){p->y, p->x, &p->w, p->bias, ldy, ldx, s.m};
    clear_result(p);
}

static void problem_clear(problem *p) {
    free((void *)p->w.data);
    free(p->x);
    free(p->y);
    free(p->bias);
    free(p->rows);
}

/* ---- the documented order ---- */

static float block_in_order(const float *a, const float *b, int64_t n, int lanes, bool fused) {
    float sums[16] = {0.0f};
    for (int64_t i = 0; i < n; i++) {
        float *sum = &sums[i % lanes];
        *sum = fused ? fmaf(a[i], b[i], *sum) : a[i] * b[i] + *sum;
    }
    for (int half = lanes / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            sums[i] += sums[i + half];
        }
    }
    return sums[0];
}

/* Blocks of at most 768 elements, equal and multiples of 256 where there is more than one. */
static float sum_in_order(const float *a, const float *b, int64_t n, int lanes, bool fused) {
    const int64_t blocks = (n + 767) / 768;
    const int64_t length = blocks <= 1 ? n : ((n + blocks - 1) / blocks + 255) / 256 * 256;
    float sum = 0.0f;
    for (int64_t i = 0; i < n; i += length) {
        float part = block_in_order(a + i, b + i, n - i < length ? n - i : length, lanes, fused);
        sum = i == 0 ? part : sum + part;
    }
    return sum;
}

static void check_order(const problem *p, int lanes, bool fused) {
    for (int64_t i = 0; i < p->s.m; i++) {
        for (int64_t j = 0; j < p->s.n; j++) {
            float sum =
                sum_in_order(p->x + i * p->job.ldx, p->rows + j * p->s.k, p->s.k, lanes, fused);
            sum = p->bias == NULL ? sum : sum + p->bias[j];
            assert_memory_equal(&p->y[i * p->job.ldy + j], &sum, sizeof sum);
        }
    }
}

/* ---- right ---- */

static void check_result(const problem *p) {
    for (int64_t i = 0; i < p->s.m; i++) {
        const float *x = p->x + i * p->job.ldx, *y = p->y + i * p->job.ldy;
        for (int64_t j = 0; j < p->s.n; j++) {
            double sum = p->bias == NULL ? 0.0 : (double)p->bias[j], size = fabs(sum);
            for (int64_t s = 0; s < p->s.k; s++) {
                double product = (double)x[s] * (double)p->rows[j * p->s.k + s];
                sum += product;
                size += fabs(product);
            }
            assert_true(fabs((double)y[j] - sum) <= 8.0 * (double)FLT_EPSILON * size);
        }
        for (int64_t j = p->s.n; j < p->job.ldy; j++) {
            assert_true(y[j] == 777.0f); /* nothing outside the result is touched */
        }
    }
}

static bool shape_fits(shape s, km_dtype dtype) {
    return s.k % km_dtype_get(dtype)->block_elements == 0;
}

static void check_variant(km_ctx *ctx, int lanes, bool fused) {
    for (int d = 0; d < KM_DTYPE_COUNT; d++) {
        int n_run = 0;
        for (int t = 0; t < N_SHAPES; t++) {
            shape s = SHAPES[t];
            s.k = shape_fits(s, (km_dtype)d) ? s.k : (s.k + 255) / 256 * 256;
            problem p;
            problem_init(&p, s, (km_dtype)d, t % 2 == 0);
            km_error err = KM_ERROR_INIT;
            km_test_ok(km_linear_many(ctx, &p.job, 1, &err), &err);
            check_result(&p);
            check_order(&p, lanes, fused);
            problem_clear(&p);
            n_run++;
        }
        assert_int_equal(n_run, N_SHAPES);
    }
}

static void test_variants(void **state) {
    (void)state;
    int n_run = 0;
    for (int c = 0; c < KM_TEST_N_CPUS; c++) {
        km_ctx *ctx = km_test_variant(1, CPUS[c]);
        if (ctx != NULL) {
            check_variant(ctx, LANES[c], strcmp(CPUS[c], "v1") != 0);
            km_ctx_free(ctx);
            n_run++;
        }
    }
    assert_true(n_run >= 1);
}

/* ---- the same bits however the work is cut ---- */

/* Rows first .. first+count-1 alone have the bits they have among all. */
static void check_rows_alone(km_ctx *ctx, const problem *all, int64_t first, int64_t count) {
    problem part = *all;
    part.y = malloc((size_t)(count * all->job.ldy) * sizeof(float));
    assert_non_null(part.y);
    part.job.y = part.y;
    part.job.x = all->x + first * all->job.ldx;
    part.job.m = count;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_linear_many(ctx, &part.job, 1, &err), &err);
    for (int64_t i = 0; i < count; i++) {
        assert_memory_equal(part.y + i * all->job.ldy, all->y + (first + i) * all->job.ldy,
                            (size_t)all->s.n * sizeof(float));
    }
    free(part.y);
}

static void test_any_number_of_rows(void **state) {
    (void)state;
    for (int c = 0; c < KM_TEST_N_CPUS; c++) {
        km_ctx *ctx = km_test_variant(2, CPUS[c]);
        for (int d = 0; ctx != NULL && d < KM_DTYPE_COUNT; d++) {
            problem p;
            problem_init(&p, (shape){270, 53, 1280}, (km_dtype)d, true);
            km_error err = KM_ERROR_INIT;
            km_test_ok(km_linear_many(ctx, &p.job, 1, &err), &err);
            for (int64_t i = 0; i < 14; i++) {
                check_rows_alone(ctx, &p, 19 * i, 1 + i);
            }
            check_rows_alone(ctx, &p, 3, 267);
            problem_clear(&p);
        }
        km_ctx_free(ctx);
    }
}

static void test_any_number_of_threads(void **state) {
    (void)state;
    problem p[2];
    problem_init(&p[0], (shape){290, 200, 96}, KM_Q4_1, false);
    problem_init(&p[1], (shape){1, 1000, 320}, KM_Q8_0, true);
    for (int c = 0; c < KM_TEST_N_CPUS; c++) {
        float *first[2] = {NULL, NULL};
        for (int n_threads = 1; n_threads <= 7; n_threads += 3) {
            km_ctx *ctx = km_test_variant(n_threads, CPUS[c]);
            const km_linear_job jobs[2] = {p[0].job, p[1].job};
            for (int t = 0; ctx != NULL && t < 2; t++) {
                clear_result(&p[t]);
            }
            assert_true(ctx == NULL || km_linear_many(ctx, jobs, 2, NULL) == KM_OK);
            for (int t = 0; ctx != NULL && t < 2; t++) {
                const size_t size = (size_t)(p[t].s.m * p[t].job.ldy) * sizeof(float);
                if (first[t] == NULL) {
                    first[t] = malloc(size);
                    assert_non_null(first[t]);
                    memcpy(first[t], p[t].y, size);
                }
                assert_memory_equal(first[t], p[t].y, size);
            }
            km_ctx_free(ctx);
        }
        free(first[0]);
        free(first[1]);
    }
    problem_clear(&p[0]);
    problem_clear(&p[1]);
}

/* Several threads multiply at once, in contexts of their own and in one they share. */
typedef struct caller {
    problem p;
    km_ctx *shared; /* NULL: one of its own */
    float *expected;
    bool same;
} caller;

static void *multiply_often(void *payload) {
    caller *c = payload;
    km_ctx *own = c->shared == NULL ? km_test_ctx(2) : NULL;
    const size_t size = (size_t)(c->p.s.m * c->p.job.ldy) * sizeof(float);
    c->same = true;
    for (int round = 0; round < 30; round++) {
        clear_result(&c->p);
        km_ctx *ctx = own != NULL ? own : c->shared;
        c->same = c->same && km_linear_many(ctx, &c->p.job, 1, NULL) == KM_OK &&
                  memcmp(c->p.y, c->expected, size) == 0;
    }
    km_ctx_free(own);
    return NULL;
}

static void test_concurrent_products(void **state) {
    caller callers[4];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        caller *c = &callers[i];
        problem_init(&c->p, (shape){1 + 20 * i, 150, 96}, KM_Q8_0, true);
        c->shared = i < 2 ? *state : NULL;
        const size_t size = (size_t)(c->p.s.m * c->p.job.ldy) * sizeof(float);
        assert_int_equal(km_linear_many(*state, &c->p.job, 1, NULL), KM_OK);
        c->expected = malloc(size);
        assert_non_null(c->expected);
        memcpy(c->expected, c->p.y, size);
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

/* What is not finite in one row of x stays in that row of y. */
static void test_not_finite_rows(void **state) {
    problem p;
    problem_init(&p, (shape){9, 21, 64}, KM_F16, false);
    p.x[3 * p.job.ldx + 63] = NAN;
    p.x[5 * p.job.ldx] = INFINITY;
    assert_int_equal(km_linear_many(*state, &p.job, 1, NULL), KM_OK);
    for (int64_t i = 0; i < p.s.m; i++) {
        for (int64_t j = 0; j < p.s.n; j++) {
            assert_int_equal(isfinite(p.y[i * p.job.ldy + j]) != 0, i != 3 && i != 5);
        }
    }
    problem_clear(&p);
}

static void test_nothing(void **state) {
    problem p;
    problem_init(&p, (shape){4, 6, 8}, KM_F32, false);
    p.job.m = 0;
    assert_int_equal(km_linear_many(*state, &p.job, 1, NULL), KM_OK);
    assert_int_equal(km_linear_many(*state, NULL, 0, NULL), KM_OK);
    assert_true(p.y[0] == 777.0f);
    problem_clear(&p);
}

/* ---- rows of a matrix ---- */

static void test_matrix_rows(void **state) {
    for (int d = 0; d < KM_DTYPE_COUNT; d++) {
        km_matrix w = stored_matrix((km_dtype)d, 5, 512, 9);
        const km_dtype_traits *traits = km_dtype_get((km_dtype)d);
        assert_int_equal(km_matrix_row_bytes(&w),
                         512 / traits->block_elements * traits->block_bytes);
        float all[5 * 512], one[512];
        traits->to_f32(all, w.data, 5 * 512);
        const km_matrix part = km_matrix_rows(&w, 3, 2);
        assert_true(part.rows == 2 && part.cols == 512 && part.dtype == w.dtype);
        for (int64_t r = 0; r < 5; r++) {
            km_matrix_row(one, *state, r < 3 ? &w : &part, r < 3 ? r : r - 3);
            assert_memory_equal(one, all + 512 * r, sizeof one);
        }
        free((void *)w.data);
    }
}

/* ---- backward ---- */

/* dy and dx have strides wider than their rows. */
static void check_backward(km_ctx *ctx, shape s, km_dtype dtype, bool add) {
    const int64_t lddx = s.k + 2, lddy = s.n + 4;
    km_matrix w = stored_matrix(dtype, s.n, s.k, 8);
    float *rows = malloc((size_t)(s.n * s.k) * sizeof *rows);
    assert_non_null(rows);
    km_dtype_get(dtype)->to_f32(rows, w.data, s.n * s.k);
    float *dy = random_floats(s.m * lddy, 5), *dx = random_floats(s.m * lddx, 6);
    float *before = random_floats(s.m * lddx, 6);
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_linear_backward(ctx, dx, lddx, dy, lddy, &w, s.m, add, &err), &err);
    for (int64_t i = 0; i < s.m; i++) {
        for (int64_t c = 0; c < lddx; c++) {
            double sum = add || c >= s.k ? (double)before[i * lddx + c] : 0.0, size = fabs(sum);
            for (int64_t r = 0; r < s.n && c < s.k; r++) {
                double product = (double)dy[i * lddy + r] * (double)rows[r * s.k + c];
                sum += product;
                size += fabs(product);
            }
            double bound = c < s.k ? 16.0 * (double)FLT_EPSILON * size : 0.0;
            assert_true(fabs((double)dx[i * lddx + c] - sum) <= bound);
        }
    }
    free(rows);
    free(dy);
    free(dx);
    free(before);
    free((void *)w.data);
}

static void test_backward(void **state) {
    const shape shapes[] = {{1, 1, 256}, {3, 300, 512}, {260, 5, 768}, {7, 530, 256}};
    for (int d = 0; d < KM_DTYPE_COUNT; d++) {
        for (int t = 0; t < 4; t++) {
            check_backward(*state, shapes[t], (km_dtype)d, t % 2 == 1);
        }
    }
    check_backward(*state, (shape){5, 9, 33}, KM_F32, true);
    check_backward(*state, (shape){2, 9, 288}, KM_Q4_1, false);
}

static void test_backward_threads(void **state) {
    (void)state;
    km_matrix w = stored_matrix(KM_Q6_K, 40, 1024, 8);
    float *dy = random_floats(300 * 40, 5), *dx[2];
    for (int t = 0; t < 2; t++) {
        km_ctx *ctx = km_test_ctx(1 + 4 * t);
        dx[t] = random_floats(300 * 1024, 6);
        assert_int_equal(km_linear_backward(ctx, dx[t], 1024, dy, 40, &w, 300, false, NULL), KM_OK);
        km_ctx_free(ctx);
    }
    assert_memory_equal(dx[0], dx[1], 300 * 1024 * sizeof(float));
    free(dx[0]);
    free(dx[1]);
    free(dy);
    free((void *)w.data);
}

/* ---- memory ---- */

static km_status multiply_both_ways(km_ctx *ctx, km_error *err) {
    problem p;
    problem_init(&p, (shape){3, 100, 512}, KM_Q4_K, false);
    km_status status = km_linear_many(ctx, &p.job, 1, err);
    if (status == KM_OK) {
        status = km_linear_backward(ctx, p.x, p.job.ldx, p.y, p.job.ldy, &p.w, 3, false, err);
    }
    problem_clear(&p);
    return status;
}

static void test_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(multiply_both_ways);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_any_number_of_rows),
        cmocka_unit_test(test_any_number_of_threads),
        cmocka_unit_test_setup_teardown(test_concurrent_products, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_not_finite_rows, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_nothing, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_matrix_rows, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_backward, km_test_setup, km_test_teardown),
        cmocka_unit_test(test_backward_threads),
        cmocka_unit_test(test_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
