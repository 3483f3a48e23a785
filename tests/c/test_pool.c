/* test_pool.c: parallel loops: the same bits for any thread count, errors, nesting, fork,
 * cancellation, several callers, single-threaded BLAS inside. */
#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "km_test.h"

enum { N = 100000, GRAIN = 777 };

/* ---- same bits ---- */

typedef struct sums {
    const float *x;
    float partial[N / GRAIN + 1];
} sums;

static km_status sum_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    sums *s = payload;
    float sum = 0;
    for (int64_t i = begin; i < end; i++) {
        sum += s->x[i];
    }
    s->partial[begin / GRAIN] = sum;
    return KM_OK;
}

static float parallel_sum(km_ctx *ctx, const float *x) {
    static sums s;
    km_error err = KM_ERROR_INIT;
    memset(&s, 0, sizeof s);
    s.x = x;
    km_test_ok(km_parallel_for(ctx, N, GRAIN, sum_range, &s, &err), &err);
    float sum = 0;
    for (int i = 0; i < N / GRAIN + 1; i++) {
        sum += s.partial[i];
    }
    return sum;
}

static void test_same_bits(void **state) {
    (void)state;
    static float x[N];
    for (int i = 0; i < N; i++) {
        x[i] = (float)km_random_uniform(1, 2, (uint64_t)i);
    }
    const int threads[] = {1, 2, 7};
    float first = 0;
    for (int i = 0; i < 3; i++) {
        km_ctx *ctx = km_test_ctx(threads[i]);
        float sum = parallel_sum(ctx, x);
        first = i == 0 ? sum : first;
        assert_memory_equal(&sum, &first, sizeof sum);
        km_ctx_free(ctx);
    }
    assert_true(fabsf(first - N / 2) < 500);
}

/* ---- every index once, ranges fixed, worker in range ---- */

typedef struct cover {
    atomic_int seen[1000];
    int n_workers;
    int64_t grain;
} cover;

static km_status cover_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    cover *c = payload;
    if (begin % c->grain != 0 || end - begin > c->grain || worker < 0 || worker >= c->n_workers) {
        return KM_SET(err, KM_EINTERNAL, "range %d..%d on %d", (int)begin, (int)end, worker);
    }
    for (int64_t i = begin; i < end; i++) {
        atomic_fetch_add(&c->seen[i], 1);
    }
    return KM_OK;
}

static void test_cover(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(4);
    km_error err = KM_ERROR_INIT;
    for (int64_t n = 0; n <= 1000; n += 37) {
        for (int64_t grain = 1; grain < 2000; grain = grain * 3 + 1) {
            cover c = {.n_workers = 4, .grain = grain};
            km_test_ok(km_parallel_for(ctx, n, grain, cover_range, &c, &err), &err);
            for (int64_t i = 0; i < 1000; i++) {
                assert_int_equal(atomic_load(&c.seen[i]), i < n ? 1 : 0);
            }
        }
    }
    km_test_fails(km_parallel_for(ctx, -1, 1, cover_range, NULL, &err), KM_EINVAL, &err, "loop");
    km_test_fails(km_parallel_for(ctx, 1, 0, cover_range, NULL, &err), KM_EINVAL, &err, "loop");
    cover huge = {.n_workers = 4, .grain = INT64_MAX};
    km_test_ok(km_parallel_for(ctx, 5, INT64_MAX, cover_range, &huge, &err), &err);
    km_ctx_free(ctx);
}

/* ---- errors: the lowest failing range is reported ---- */

static km_status fail_some(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)end;
    (void)worker;
    const int *from = payload;
    if (begin == *from) {
        (void)usleep(2000); /* later ranges fail before this one does */
    }
    return begin >= *from ? KM_SET(err, KM_ERANGE, "range %d", (int)begin) : KM_OK;
}

static km_status fail_silently(void *payload, int64_t begin, int64_t end, int worker,
                               km_error *err) {
    (void)payload;
    (void)begin;
    (void)end;
    (void)worker;
    (void)err;
    return KM_ENUMERIC;
}

static void test_lowest_error(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    for (int threads = 1; threads <= 7; threads += 2) {
        km_ctx *ctx = km_test_ctx(threads);
        for (int from = 0; from < 64; from += 9) {
            char want[32];
            (void)snprintf(want, sizeof want, "range %d", from);
            km_status status = km_parallel_for(ctx, 64, 1, fail_some, &from, &err);
            assert_int_equal(status, KM_ERANGE);
            assert_string_equal(err.message, want);
            km_error_clear(&err);
        }
        km_test_fails(km_parallel_for(ctx, 9, 1, fail_silently, NULL, &err), KM_ENUMERIC, &err,
                      "KM_ENUMERIC");
        assert_int_equal(km_parallel_for(ctx, 9, 1, fail_silently, NULL, NULL), KM_ENUMERIC);
        km_ctx_free(ctx);
    }
}

/* ---- nesting ---- */

typedef struct nest {
    km_ctx *ctx;
    atomic_int inner;
} nest;

typedef struct inner_call {
    nest *outer;
    int worker;
} inner_call;

static km_status inner_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    inner_call *call = payload;
    if (worker != call->worker) {
        return KM_SET(err, KM_EINTERNAL, "a nested loop left its worker");
    }
    atomic_fetch_add(&call->outer->inner, (int)(end - begin));
    return KM_OK;
}

static km_status outer_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    nest *n = payload;
    inner_call call = {n, worker};
    for (int64_t i = begin; i < end; i++) {
        KM_TRY(km_parallel_for(n->ctx, 10, 3, inner_range, &call, err));
    }
    return KM_OK;
}

static void test_nested(void **state) {
    (void)state;
    nest n = {.ctx = km_test_ctx(3)};
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_parallel_for(n.ctx, 100, 1, outer_range, &n, &err), &err);
    assert_int_equal(atomic_load(&n.inner), 1000);
    km_ctx_free(n.ctx);
}

/* ---- several callers take turns ---- */

static void *call_often(void *payload) {
    km_ctx *ctx = payload;
    for (int round = 0; round < 200; round++) {
        cover c = {.n_workers = 3, .grain = 10};
        if (km_parallel_for(ctx, 500, 10, cover_range, &c, NULL) != KM_OK) {
            return ctx;
        }
        for (int i = 0; i < 500; i++) {
            if (atomic_load(&c.seen[i]) != 1) {
                return ctx;
            }
        }
    }
    return NULL;
}

static void test_callers(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(3);
    pthread_t callers[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&callers[i], NULL, call_often, ctx), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *result = ctx;
        assert_int_equal(pthread_join(callers[i], &result), 0);
        assert_null(result);
    }
    km_ctx_free(ctx);
}

/* ---- fork ---- */

static int child_work(km_ctx *ctx) {
    cover c = {.n_workers = 3, .grain = 1};
    if (km_parallel_for(ctx, 1000, 1, cover_range, &c, NULL) != KM_OK) {
        return 1;
    }
    for (int i = 0; i < 1000; i++) {
        if (atomic_load(&c.seen[i]) != 1) {
            return 2;
        }
    }
    km_ctx_free(ctx);
    return 0;
}

static void test_fork(void **state) {
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); /* ThreadSanitizer cannot follow threads started after fork() */
#endif
    km_ctx *ctx = km_test_ctx(3);
    km_error err = KM_ERROR_INIT;
    cover c = {.n_workers = 3, .grain = 1};
    km_test_ok(km_parallel_for(ctx, 1000, 1, cover_range, &c, &err), &err);
    for (int round = 0; round < 5; round++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            (void)alarm(20); /* a child that hangs must fail the test */
            _exit(child_work(ctx));
        }
        int status = -1;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        cover again = {.n_workers = 3, .grain = 1};
        km_test_ok(km_parallel_for(ctx, 1000, 1, cover_range, &again, &err), &err);
    }
    km_ctx_free(ctx);
}

/* ---- cancellation ---- */

typedef struct stopper {
    km_ctx *ctx;
    atomic_int ran;
} stopper;

static km_status stop_early(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)end;
    (void)worker;
    (void)err;
    stopper *s = payload;
    atomic_fetch_add(&s->ran, 1);
    if (begin == 5) {
        km_ctx_cancel(s->ctx);
    }
    return KM_OK;
}

static void test_cancel(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    for (int threads = 1; threads <= 4; threads += 3) {
        stopper s = {.ctx = km_test_ctx(threads)};
        km_test_fails(km_parallel_for(s.ctx, 100000, 1, stop_early, &s, &err), KM_ECANCELLED, &err,
                      "cancelled");
        assert_true(atomic_load(&s.ran) < 100000);
        cover c = {.n_workers = threads, .grain = 1};
        km_test_ok(km_parallel_for(s.ctx, 500, 1, cover_range, &c, &err), &err);
        km_ctx_cancel(s.ctx); /* too late for the loop above; must not stop the next */
        km_ctx_resume(s.ctx);
        km_test_ok(km_parallel_for(s.ctx, 500, 1, cover_range, &c, &err), &err);
        km_ctx_free(s.ctx);
    }
}

/* ---- BLAS from several workers at once ---- */

enum { M = 48, K = 200, BATCH = 64 };

static float product[BATCH][M * M], left[BATCH][M * K], right[K * M];

static km_status multiply(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)payload;
    (void)worker;
    (void)err;
    for (int64_t b = begin; b < end; b++) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, M, M, K, 1.0f, left[b], K, right, M,
                    0.0f, product[b], M);
    }
    return KM_OK;
}

static void check_product(int b) {
    for (int i = 0; i < M; i++) {
        for (int j = 0; j < M; j++) {
            double want = 0;
            for (int k = 0; k < K; k++) {
                want += (double)left[b][i * K + k] * (double)right[k * M + j];
            }
            assert_true(fabs((double)product[b][i * M + j] - want) < 1e-3);
        }
    }
}

static void test_blas(void **state) {
    (void)state;
    for (int i = 0; i < K * M; i++) {
        right[i] = (float)km_random_normal(3, 0, (uint64_t)i);
    }
    for (int b = 0; b < BATCH; b++) {
        for (int i = 0; i < M * K; i++) {
            left[b][i] = (float)km_random_normal(3, 1 + (uint64_t)b, (uint64_t)i);
        }
    }
    km_ctx *ctx = km_test_ctx(7);
    km_error err = KM_ERROR_INIT;
    for (int round = 0; round < 5; round++) {
        memset(product, 0, sizeof product);
        km_test_ok(km_parallel_for(ctx, BATCH, 1, multiply, NULL, &err), &err);
        for (int b = 0; b < BATCH; b += 7) {
            check_product(b);
        }
    }
    km_ctx_free(ctx);
}

/* ---- polling on the caller's thread ---- */

typedef struct polled {
    int calls, stop_at;
} polled;

static km_status count_poll(void *payload) {
    polled *p = payload;
    return ++p->calls == p->stop_at ? KM_ECALLBACK : KM_OK;
}

static km_status sleep_nested(void *payload, int64_t begin, int64_t end, int worker,
                              km_error *err) {
    const struct timespec a_while = {0, 20000000};
    (void)worker;
    (void)end;
    (void)nanosleep(&a_while, NULL);
    km_ctx *ctx = payload; /* NULL in the inner loop */
    return ctx == NULL || begin > 0 ? KM_OK : km_parallel_for(ctx, 2, 1, sleep_nested, NULL, err);
}

/* Polled between loops, not more often than every 50 ms, not inside; stopped when told so. */
static void test_poll(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(2);
    km_error err = KM_ERROR_INIT;
    polled p = {0, 3};
    int loops = 0;
    km_poll_set(count_poll, &p);
    while (km_parallel_for(ctx, 2, 1, sleep_nested, ctx, &err) == KM_OK) {
        loops++;
        assert_true(loops < 100);
    }
    assert_int_equal(err.code, KM_ECALLBACK);
    assert_int_equal(p.calls, 3);
    assert_in_range(loops, 3, 9);
    km_error_clear(&err);
    km_poll_set(NULL, NULL);
    km_test_ok(km_parallel_for(ctx, 2, 1, sleep_nested, ctx, &err), &err);
    assert_int_equal(p.calls, 3);
    km_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),    cmocka_unit_test(test_cover),
        cmocka_unit_test(test_lowest_error), cmocka_unit_test(test_nested),
        cmocka_unit_test(test_callers),      cmocka_unit_test(test_fork),
        cmocka_unit_test(test_cancel),       cmocka_unit_test(test_blas),
        cmocka_unit_test(test_poll),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
