/* test_priming_scores.c: scores by their closed forms; pruning against a sort, and with the same
 * bits for any number of threads. The golden values are tested from Python. */
#include <math.h>

#include "km/priming_scores.h"
#include "km_test.h"

#define N 200000

static void assert_close(double got, double expected) {
    assert_true(fabs(got - expected) < 1e-14);
}

static km_ctx *context(int threads) {
    km_ctx_options options = KM_CTX_OPTIONS_INIT;
    km_ctx *ctx = NULL;
    options.n_threads = threads;
    assert_int_equal(km_ctx_new(&ctx, &options, NULL), KM_OK);
    return ctx;
}

static void scores_by_closed_form(void **state) {
    (void)state;
    km_ctx *ctx = context(1);
    km_priming_score out;
    const double half = log(0.5), quarter = log(0.25), eighth = log(0.125);
    const double before[] = {quarter, eighth, -(double)INFINITY}, after[] = {half, half, eighth};
    assert_int_equal(
        km_score_priming(&out, ctx, eighth, half, before, after, 2, quarter - 0.1, NULL), KM_OK);
    assert_close(out.log_s_mem, log(4));
    assert_close(out.log_s_prime, log(3)); /* ratios 2 and 4 */
    assert_close(out.mean_log_ratio, 1.5 * log(2));
    assert_close(out.median_log_ratio, 1.5 * log(2));
    assert_close(out.mean_delta_p, (0.25 + 0.375) / 2);
    assert_close(out.log_s_prime_stable, log(2));
    assert_int_equal(out.n_unstable, 1);
    assert_int_equal(km_score_priming(&out, ctx, 0, 0, before, after, 3, -30, NULL), KM_OK);
    assert_true(isinf(out.log_s_prime) && out.n == 3 && out.n_unstable == 1);
    assert_int_equal(km_score_priming(&out, ctx, 0, 0, before, after, 0, -30, NULL), KM_EINVAL);
    km_ctx_free(ctx);
}

static int by_size(const void *a, const void *b) {
    const float *const *x = a;
    const float *const *y = b;
    float p = fabsf(**x), q = fabsf(**y);
    return p != q ? (p < q) - (p > q) : (*x > *y) - (*x < *y);
}

/* Changes with many ties, as the first steps of Adam make them, and some of every size. */
static void fill(float *changes) {
    for (int64_t i = 0; i < N; i++) {
        double u = km_random_uniform(7, 0, (uint64_t)i);
        double step = u < 0.4 ? 1e-3 : u < 0.8 ? -1e-3 : u < 0.9 ? 0 : u - 0.95;
        changes[i] = (float)step;
    }
}

static void pruning_is_a_sort(void **state) {
    (void)state;
    static float base[N], changes[N], values[2][N];
    static const float *order[N];
    static bool mask[N];
    const double highs[] = {0.08, 0.3, 0.95};
    km_ctx *contexts[2] = {context(1), context(3)};
    fill(changes);
    for (int64_t i = 0; i < N; i++) {
        order[i] = &changes[i];
    }
    qsort(order, N, sizeof order[0], by_size);
    for (int share = 0; share < 3; share++) {
        km_prune_options options = KM_PRUNE_OPTIONS_INIT;
        options.high = highs[share];
        int64_t counts[2], n = (int64_t)rint(highs[share] * N);
        for (int i = 0; i < 2; i++) {
            memcpy(values[i], changes, sizeof changes);
            const km_prune_tensor tensor = {"x", values[i], base, N};
            assert_int_equal(km_prune_apply(&counts[i], contexts[i], &tensor, 1, &options, NULL),
                             KM_OK);
            assert_int_equal(counts[i], n);
        }
        assert_memory_equal(values[0], values[1], sizeof changes);
        const km_prune_tensor tensor = {"x", changes, NULL, N};
        assert_int_equal(km_prune_mask_into(mask, NULL, contexts[0], &tensor, 1, &options, NULL),
                         KM_OK);
        for (int64_t rank = 0; rank < N; rank++) {
            int64_t i = order[rank] - changes;
            assert_int_equal(mask[i], rank >= n);
            assert_true(rank < n ? values[0][i] == base[i] : values[0][i] == changes[i]);
        }
    }
    km_ctx_free(contexts[0]);
    km_ctx_free(contexts[1]);
}

static void pruning_refuses(void **state) {
    (void)state;
    km_ctx *ctx = context(1);
    km_error err = KM_ERROR_INIT;
    km_prune_options options = KM_PRUNE_OPTIONS_INIT;
    float values[2] = {1, 2};
    const km_prune_tensor no_base = {NULL, values, NULL, 2};
    assert_int_equal(km_prune_apply(NULL, ctx, &no_base, 1, NULL, &err), KM_EINVAL);
    const km_prune_tensor tensor = {NULL, values, values, 2};
    options.low = 0.5;
    assert_int_equal(km_prune_apply(NULL, ctx, &tensor, 1, &options, NULL), KM_EINVAL);
    const km_prune_tensor huge = {NULL, values, values, (int64_t)1 << 33};
    assert_int_equal(km_prune_apply(NULL, ctx, &huge, 1, NULL, NULL), KM_EUNSUPPORTED);
    assert_int_equal(km_prune_apply(NULL, ctx, NULL, 0, NULL, NULL), KM_OK);
    km_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_by_closed_form),
        cmocka_unit_test(pruning_is_a_sort),
        cmocka_unit_test(pruning_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
