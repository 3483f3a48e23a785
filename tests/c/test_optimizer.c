/* Tests of km/optimizer.h: AdamW and SGD against torch.optim (tests/oracle/make_optimizer.py), a
 * double-precision reference and closed forms; norms, threads, CPU variants, stopping, errors. */
#include <float.h>
#include <math.h>
#include <pthread.h>

#include "km/optimizer.h"
#include "km_test.h"

/* ---- torch.optim ---- */

enum { N_FIRST = 70, N_SECOND = 11, N = N_FIRST + N_SECOND, STEPS = 12, N_CASES = 6 };

typedef struct golden_case {
    km_optimizer_options options;
    double rate;
    bool falls;
    double clip;
} golden_case;

static const golden_case CASES[N_CASES] = {
    {{KM_ADAMW, 0.9, 0.999, 1e-8, 0.0, 0.1}, 1e-2, false, 0.0},
    {{KM_ADAMW, 0.8, 0.95, 1e-6, 0.0, 0.1}, 1e-2, true, 0.0},
    {{KM_ADAMW, 0.9, 0.999, 1e-8, 0.0, 0.1}, 3e-3, false, 0.5},
    {{KM_SGD, 0.0, 0.0, 0.0, 0.0, 0.1}, 1e-2, false, 0.0},
    {{KM_SGD, 0.0, 0.0, 0.0, 0.9, 0.1}, 1e-2, true, 0.0},
    {{KM_SGD, 0.0, 0.0, 0.0, 0.5, 0.1}, 5e-2, false, 0.5},
};

typedef struct goldens {
    float start[N], gradients[STEPS][N], after[N_CASES][STEPS][N];
} goldens;

static goldens *read_goldens(void) {
    goldens *out = malloc(sizeof *out);
    FILE *file = fopen(KM_TEST_DATA "/golden_data/optimizer.bin", "rb");
    assert_non_null(out);
    assert_non_null(file);
    assert_int_equal(fread(out, 1, sizeof *out, file), sizeof *out);
    assert_int_equal(fgetc(file), EOF);
    (void)fclose(file);
    return out;
}

/* Both tensors, of which the first decays. */
static km_optimizer *make(km_ctx *ctx, const km_optimizer_options *options, float *w, float *g) {
    const km_optimizer_tensor tensors[] = {{"first", w, g, N_FIRST, true},
                                           {"second", w + N_FIRST, g + N_FIRST, N_SECOND, false}};
    km_optimizer *optimizer = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_optimizer_new(&optimizer, ctx, options, tensors, 2, 0, &err), &err);
    return optimizer;
}

static double scale_for(const km_optimizer *optimizer, double clip) {
    km_error err = KM_ERROR_INIT;
    double norm = -1.0;
    km_test_ok(km_optimizer_norm(&norm, optimizer, &err), &err);
    return clip > 0.0 && norm > clip ? clip / (norm + 1e-6) : 1.0;
}

static void check_case(km_ctx *ctx, const goldens *golden, int index) {
    const golden_case *c = &CASES[index];
    km_error err = KM_ERROR_INIT;
    float w[N], g[N];
    memcpy(w, golden->start, sizeof w);
    km_optimizer *optimizer = make(ctx, &c->options, w, g);
    for (int step = 0; step < STEPS; step++) {
        const double rate = c->falls ? c->rate * (1.0 - (double)step / STEPS) : c->rate;
        memcpy(g, golden->gradients[step], sizeof g);
        const double scale = scale_for(optimizer, c->clip);
        km_test_ok(km_optimizer_step(optimizer, rate, scale, &err), &err);
        assert_int_equal(km_optimizer_steps(optimizer), step + 1);
        for (int i = 0; i < N; i++) {
            const double expected = (double)golden->after[index][step][i];
            /* A unit in the last place or two a step, of the weight or of the change. */
            const double bound = (step + 1) * 2.0 * (double)FLT_EPSILON * (fabs(expected) + rate);
            assert_true(fabs((double)w[i] - expected) <= bound);
            assert_true(g[i] == 0.0f);
        }
    }
    km_optimizer_free(optimizer);
}

static bool goldens_on(const char *cpu) {
    km_ctx *ctx = km_test_variant(2, cpu);
    if (ctx == NULL) {
        return false;
    }
    goldens *golden = read_goldens();
    for (int i = 0; i < N_CASES; i++) {
        check_case(ctx, golden, i);
    }
    free(golden);
    km_ctx_free(ctx);
    return true;
}

static void torch_goldens(void **state) {
    (void)state;
    km_test_variants(goldens_on);
}

/* ---- a reference in double precision, over sizes around vectors and pieces ---- */

enum { BIG = 3 * 65536 + 37 };

typedef struct reference {
    double w, m, v;
} reference;

static void reference_adamw(reference *r, const km_optimizer_options *o, double g, double rate,
                            double t) {
    r->m = o->beta1 * r->m + (1.0 - o->beta1) * g;
    r->v = o->beta2 * r->v + (1.0 - o->beta2) * g * g;
    const double m = r->m / (1.0 - pow(o->beta1, t)), v = r->v / (1.0 - pow(o->beta2, t));
    r->w = r->w - rate * o->weight_decay * r->w - rate * m / (sqrt(v) + o->eps);
}

static void reference_sgd(reference *r, const km_optimizer_options *o, double g, double rate) {
    r->m = o->momentum * r->m + g + o->weight_decay * r->w;
    r->w -= rate * r->m;
}

static float gradient_of(int64_t i, int step) {
    return (float)km_random_normal(9, (uint64_t)step, (uint64_t)i);
}

static void against_reference(km_ctx *ctx, const km_optimizer_options *options, int64_t n) {
    const double rate = 0.02;
    float *w = malloc((size_t)(n + 1) * sizeof *w), *g = malloc((size_t)(n + 1) * sizeof *g);
    reference *r = calloc((size_t)n, sizeof *r);
    km_optimizer *optimizer = NULL;
    km_error err = KM_ERROR_INIT;
    assert_true(w != NULL && g != NULL && r != NULL);
    for (int64_t i = 0; i < n; i++) {
        w[i] = (float)km_random_normal(8, 0, (uint64_t)i);
        r[i].w = (double)w[i];
    }
    w[n] = g[n] = 12345.0f; /* guards */
    const km_optimizer_tensor tensor = {"big", w, g, n, true};
    km_test_ok(km_optimizer_new(&optimizer, ctx, options, &tensor, 1, 0, &err), &err);
    for (int step = 1; step <= 4; step++) {
        for (int64_t i = 0; i < n; i++) {
            g[i] = gradient_of(i, step);
            if (options->kind == KM_ADAMW) {
                reference_adamw(&r[i], options, (double)g[i], rate, step);
            } else {
                reference_sgd(&r[i], options, (double)g[i], rate);
            }
        }
        km_test_ok(km_optimizer_step(optimizer, rate, 1.0, &err), &err);
    }
    for (int64_t i = 0; i < n; i++) {
        assert_true(fabs((double)w[i] - r[i].w) <= 4e-6 * (fabs(r[i].w) + 4 * rate));
    }
    assert_true(w[n] == 12345.0f && g[n] == 12345.0f);
    km_optimizer_free(optimizer);
    free(w);
    free(g);
    free(r);
}

static void double_reference(void **state) {
    static const int64_t sizes[] = {1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 1000, 65536, 65537, BIG};
    static const km_optimizer_options options[] = {
        {KM_ADAMW, 0.9, 0.99, 1e-5, 0.0, 0.05},
        {KM_SGD, 0.0, 0.0, 0.0, 0.9, 0.05},
        {KM_SGD, 0.0, 0.0, 0.0, 0.0, 0.05},
    };
    for (size_t k = 0; k < sizeof options / sizeof options[0]; k++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            against_reference(*state, &options[k], sizes[i]);
        }
    }
}

/* ---- closed forms ---- */

/* A constant gradient: bias correction makes every step of AdamW rate * sign(g), whatever its size,
 * and momentum's steps sum to a geometric series. */
static void constant_gradients(void **state) {
    const km_optimizer_options adamw = {KM_ADAMW, 0.9, 0.999, 1e-12, 0.0, 0.0};
    const km_optimizer_options sgd = {KM_SGD, 0.0, 0.0, 0.0, 0.5, 0.0};
    float w[N] = {0.0f}, g[N];
    km_error err = KM_ERROR_INIT;
    km_optimizer *optimizer = make(*state, &adamw, w, g);
    for (int step = 0; step < 20; step++) {
        for (int i = 0; i < N; i++) {
            g[i] = (i % 2 == 0 ? 1.0f : -1.0f) * powf(10.0f, (float)(i % 7 - 3));
        }
        km_test_ok(km_optimizer_step(optimizer, 0.01, 1.0, &err), &err);
    }
    for (int i = 0; i < N; i++) {
        assert_true(fabs((double)w[i] - (i % 2 == 0 ? -0.2 : 0.2)) < 1e-5);
        w[i] = 0.0f;
    }
    km_optimizer_free(optimizer);
    optimizer = make(*state, &sgd, w, g);
    for (int step = 0; step < 10; step++) {
        for (int i = 0; i < N; i++) {
            g[i] = 2.0f;
        }
        km_test_ok(km_optimizer_step(optimizer, 0.125, 0.5, &err), &err);
    }
    const double expected = -0.125 * (2.0 * 10 - 2.0 * (1.0 - pow(0.5, 10)));
    for (int i = 0; i < N; i++) {
        assert_true(fabs((double)w[i] - expected) < 1e-6);
    }
    km_optimizer_free(optimizer);
}

/* Without gradients only decay moves a weight: by the factor 1 - rate * decay. */
static void decay_alone(void **state) {
    const km_optimizer_options options = {KM_ADAMW, 0.9, 0.999, 1e-8, 0.0, 0.5};
    float w[N], g[N];
    km_error err = KM_ERROR_INIT;
    for (int i = 0; i < N; i++) {
        w[i] = 2.0f;
    }
    km_optimizer *optimizer = make(*state, &options, w, g);
    km_test_ok(km_optimizer_step(optimizer, 0.5, 1.0, &err), &err);
    km_test_ok(km_optimizer_step(optimizer, 0.5, 1.0, &err), &err);
    for (int i = 0; i < N; i++) {
        assert_true(w[i] == (i < N_FIRST ? 1.125f : 2.0f));
    }
    km_optimizer_free(optimizer);
}

/* ---- norm ---- */

static void norm(void **state) {
    const int64_t n = BIG;
    const km_optimizer_options options = {KM_SGD, 0.0, 0.0, 0.0, 0.0, 0.0};
    float *w = calloc((size_t)n, sizeof *w), *g = calloc((size_t)n, sizeof *g);
    km_error err = KM_ERROR_INIT;
    km_optimizer *optimizer = NULL;
    double expected = 0.0, got;
    assert_true(w != NULL && g != NULL);
    const km_optimizer_tensor tensors[] = {{"a", w, g, 1000, false},
                                           {"b", w + 1000, g + 1000, n - 1000, false}};
    km_test_ok(km_optimizer_new(&optimizer, *state, &options, tensors, 2, 0, &err), &err);
    for (int64_t i = 0; i < n; i++) {
        g[i] = gradient_of(i, 1) * (i % 1000 == 0 ? 1e18f : 1e-3f);
        expected += (double)g[i] * (double)g[i];
    }
    km_test_ok(km_optimizer_norm(&got, optimizer, &err), &err);
    assert_true(fabs(got - sqrt(expected)) <= 1e-12 * sqrt(expected));
    g[n - 1] = NAN;
    km_test_fails(km_optimizer_norm(&got, optimizer, &err), KM_ENUMERIC, &err, "'b'");
    g[0] = INFINITY;
    km_test_fails(km_optimizer_norm(&got, optimizer, &err), KM_ENUMERIC, &err, "'a'");
    km_test_ok(km_optimizer_drop_gradients(optimizer, &err), &err);
    km_test_ok(km_optimizer_norm(&got, optimizer, &err), &err);
    assert_true(got == 0.0);
    km_optimizer_free(optimizer);
    free(w);
    free(g);
}

/* ---- threads, variants, stopping ---- */

typedef struct outcome {
    float w[BIG];
    double norm;
} outcome;

static void run_steps(outcome *out, km_ctx *ctx, void (*disturb)(km_ctx *)) {
    const km_optimizer_options options = {KM_ADAMW, 0.9, 0.999, 1e-8, 0.0, 0.1};
    float *g = malloc(BIG * sizeof *g);
    km_error err = KM_ERROR_INIT;
    km_optimizer *optimizer = NULL;
    assert_non_null(g);
    for (int64_t i = 0; i < BIG; i++) {
        out->w[i] = gradient_of(i, 77);
    }
    const km_optimizer_tensor tensors[] = {{"a", out->w, g, 70000, true},
                                           {"b", out->w + 70000, g + 70000, BIG - 70000, false}};
    km_test_ok(km_optimizer_new(&optimizer, ctx, &options, tensors, 2, 0, &err), &err);
    for (int step = 1; step <= 3; step++) {
        for (int64_t i = 0; i < BIG; i++) {
            g[i] = gradient_of(i, step);
        }
        km_test_ok(km_optimizer_norm(&out->norm, optimizer, &err), &err);
        if (disturb != NULL) {
            disturb(ctx);
        }
        const km_status status = km_optimizer_step(optimizer, 0.01, 0.5, &err);
        assert_int_equal(status, disturb != NULL ? KM_ECANCELLED : KM_OK);
        assert_int_equal(km_optimizer_steps(optimizer), step);
        km_error_clear(&err);
    }
    km_optimizer_free(optimizer);
    free(g);
}

static void assert_same(const outcome *a, const outcome *b) {
    assert_memory_equal(a->w, b->w, sizeof a->w);
    assert_true(a->norm == b->norm);
}

/* A wish to stop that is there from the beginning of the step: it comes back, and the step is
 * whole.
 */
static void threads_and_stops(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 7};
    outcome *first = malloc(sizeof *first), *other = malloc(sizeof *other);
    assert_true(first != NULL && other != NULL);
    for (int i = 0; i < 3; i++) {
        km_ctx *ctx = km_test_ctx(threads[i]);
        run_steps(i == 0 ? first : other, ctx, NULL);
        if (i > 0) {
            assert_same(first, other);
        }
        run_steps(other, ctx, km_ctx_cancel);
        assert_same(first, other);
        km_ctx_free(ctx);
    }
    free(first);
    free(other);
}

static float *first_variant;

static bool same_bits_on(const char *cpu) {
    km_ctx *ctx = km_test_variant(2, cpu);
    if (ctx == NULL) {
        return false;
    }
    outcome *out = malloc(sizeof *out);
    assert_non_null(out);
    run_steps(out, ctx, NULL);
    if (first_variant == NULL) {
        first_variant = malloc(sizeof out->w);
        assert_non_null(first_variant);
        memcpy(first_variant, out->w, sizeof out->w);
    }
    assert_memory_equal(first_variant, out->w, sizeof out->w);
    free(out);
    km_ctx_free(ctx);
    return true;
}

static void variants(void **state) {
    (void)state;
    km_test_variants(same_bits_on);
    free(first_variant);
}

/* ---- what is kept ---- */

/* Averages copied out and in again, with the count of steps, go on with the same bits. */
static void averages(void **state) {
    const km_optimizer_options options = {KM_ADAMW, 0.9, 0.999, 1e-8, 0.0, 0.1};
    float w[N], g[N], saved_w[N], saved[4][N];
    km_error err = KM_ERROR_INIT;
    goldens *golden = read_goldens();
    memcpy(w, golden->start, sizeof w);
    km_optimizer *optimizer = make(*state, &options, w, g);
    for (int step = 0; step < STEPS; step++) {
        if (step == 5) {
            memcpy(saved_w, w, sizeof w);
            for (int k = 0; k < 4; k++) {
                memcpy(saved[k], km_optimizer_average(optimizer, k / 2, k % 2),
                       (k < 2 ? N_FIRST : N_SECOND) * sizeof(float));
            }
        }
        memcpy(g, golden->gradients[step], sizeof g);
        km_test_ok(km_optimizer_step(optimizer, 0.01, 1.0, &err), &err);
    }
    km_test_ok(km_optimizer_reset(optimizer, &err), &err);
    assert_int_equal(km_optimizer_steps(optimizer), 0);
    assert_true(km_optimizer_average(optimizer, 0, 0)[5] == 0.0f);
    for (int k = 0; k < 4; k++) {
        memcpy(km_optimizer_average(optimizer, k / 2, k % 2), saved[k],
               (k < 2 ? N_FIRST : N_SECOND) * sizeof(float));
    }
    float final[N];
    memcpy(final, w, sizeof w);
    memcpy(w, saved_w, sizeof w);
    km_test_ok(km_optimizer_set_steps(optimizer, 5, &err), &err);
    for (int step = 5; step < STEPS; step++) {
        memcpy(g, golden->gradients[step], sizeof g);
        km_test_ok(km_optimizer_step(optimizer, 0.01, 1.0, &err), &err);
    }
    assert_memory_equal(w, final, sizeof w);
    assert_null(km_optimizer_average(optimizer, 2, 0));
    assert_null(km_optimizer_average(optimizer, 0, 2));
    km_test_fails(km_optimizer_set_steps(optimizer, -1, &err), KM_EINVAL, &err, "-1");
    km_optimizer_free(optimizer);
    free(golden);
}

static void counts_of_averages(void **state) {
    const km_optimizer_options adamw = KM_OPTIMIZER_OPTIONS_INIT;
    const km_optimizer_options momentum = {KM_SGD, 0.0, 0.0, 0.0, 0.9, 0.0};
    const km_optimizer_options plain = {KM_SGD, 0.0, 0.0, 0.0, 0.0, 0.0};
    float w[N] = {0.0f}, g[N];
    assert_int_equal(km_optimizer_n_averages(&adamw), 2);
    assert_int_equal(km_optimizer_n_averages(&momentum), 1);
    assert_int_equal(km_optimizer_n_averages(&plain), 0);
    km_optimizer *optimizer = make(*state, &momentum, w, g);
    assert_non_null(km_optimizer_average(optimizer, 1, 0));
    assert_null(km_optimizer_average(optimizer, 1, 1));
    km_optimizer_free(optimizer);
}

/* ---- errors ---- */

static void errors(void **state) {
    float w[4] = {0.0f}, g[4] = {0.0f};
    const km_optimizer_tensor tensor = {"w", w, g, 4, true};
    km_optimizer *optimizer = NULL;
    km_error err = KM_ERROR_INIT;
    static const struct {
        km_optimizer_options options;
        const char *part;
    } bad[] = {
        {{KM_ADAMW, 1.0, 0.9, 1e-8, 0.0, 0.0}, "betas"},
        {{KM_ADAMW, 0.9, -0.1, 1e-8, 0.0, 0.0}, "betas"},
        {{KM_ADAMW, 0.9, (double)NAN, 1e-8, 0.0, 0.0}, "betas"},
        {{KM_ADAMW, 0.9, 0.9, 0.0, 0.0, 0.0}, "eps"},
        {{KM_ADAMW, 0.9, 0.9, (double)INFINITY, 0.0, 0.0}, "eps"},
        {{KM_SGD, 0.0, 0.0, 0.0, 1.0, 0.0}, "momentum"},
        {{KM_SGD, 0.0, 0.0, 0.0, 0.0, -1.0}, "weight_decay"},
        {{(km_optimizer_kind)7, 0.0, 0.0, 0.0, 0.0, 0.0}, "7"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        km_test_fails(km_optimizer_new(&optimizer, *state, &bad[i].options, &tensor, 1, 0, &err),
                      KM_EINVAL, &err, bad[i].part);
    }
    const km_optimizer_options options = KM_OPTIMIZER_OPTIONS_INIT;
    km_test_fails(km_optimizer_new(&optimizer, *state, &options, &tensor, 0, 0, &err), KM_EINVAL,
                  &err, "tensors");
    const km_optimizer_tensor large = {"large", w, g, (int64_t)1 << 20, true};
    km_test_fails(km_optimizer_new(&optimizer, *state, &options, &large, 1, 4 << 20, &err),
                  KM_ENOMEM, &err, "8 MiB; 4 MiB");
    km_test_ok(km_optimizer_new(&optimizer, *state, &options, &tensor, 1, 0, &err), &err);
    km_test_fails(km_optimizer_step(optimizer, -0.1, 1.0, &err), KM_EINVAL, &err, "learning rate");
    km_test_fails(km_optimizer_step(optimizer, (double)NAN, 1.0, &err), KM_EINVAL, &err, "rate");
    km_test_fails(km_optimizer_step(optimizer, 0.1, (double)INFINITY, &err), KM_EINVAL, &err,
                  "scale");
    assert_int_equal(km_optimizer_steps(optimizer), 0);
    km_optimizer_free(optimizer);
    km_optimizer_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(torch_goldens),
        cmocka_unit_test(double_reference),
        cmocka_unit_test(constant_gradients),
        cmocka_unit_test(decay_alone),
        cmocka_unit_test(norm),
        cmocka_unit_test(threads_and_stops),
        cmocka_unit_test(variants),
        cmocka_unit_test(averages),
        cmocka_unit_test(counts_of_averages),
        cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
