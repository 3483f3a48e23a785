/* test_select_gradient.c: gradients of knowledge selection against finite differences in float64,
 * with dropout, every variant, both arithmetics of padding, and each kind of history and input. */
#define KM_REAL_BITS 64

#include <math.h>

#include "km_test.h"
#include "select/core.h"
#include "select_batch.h"

#define STEP 1e-6
#define SAMPLES 12 /* elements of each parameter */

typedef struct setup {
    km_ctx *ctx;
    km_diffks_config config;
    km_diffks_batch batch;
    km__shape shapes[P_COUNT];
    double *w[P_COUNT], *d[P_COUNT];
    real_pass_options options;
    float vectors[32 * SB_VECTORS]; /* also what matches */
} setup;

static void setup_init(setup *s, km_diffks_config config, km_diffks_history history) {
    memset(s, 0, sizeof *s);
    s->ctx = km_test_ctx(2);
    s->config = config;
    s->batch = sb_batch();
    s->options.user = (km_diffks_options)KM_DIFFKS_OPTIONS_INIT;
    s->options.user.history = history;
    s->options.user.probability = 0.5;
    s->options.user.word_weight = 0.7;
    s->options.seed = 5;
    s->options.step = 3;
    s->options.dropout = config.dropout > 0.0;
    s->options.noise = config.temperature > 0.0;
    for (int i = 0; i < 32 * SB_VECTORS; i++) {
        s->vectors[i] = (float)km_random_normal(8, 1, (uint64_t)i);
    }
    s->batch.sentence_vectors = s->batch.context_vectors = config.vectors > 0 ? s->vectors : NULL;
    s->batch.word_matches = s->batch.sentence_matches = config.match ? s->vectors : NULL;
    km__diffks_shapes(s->shapes, &s->config);
    for (int i = 0; i < P_COUNT; i++) {
        s->w[i] = calloc((size_t)s->shapes[i].n + 1, sizeof(double));
        s->d[i] = calloc((size_t)s->shapes[i].n + 1, sizeof(double));
        for (int64_t k = 0; k < s->shapes[i].n; k++) {
            s->w[i][k] = 0.5 * km_random_normal(7, (uint64_t)i, (uint64_t)k);
        }
    }
}

static void setup_clear(setup *s) {
    for (int i = 0; i < P_COUNT; i++) {
        free(s->w[i]);
        free(s->d[i]);
    }
    km_ctx_free(s->ctx);
}

/* The loss; its gradients into d when `back`. */
static double loss_of(setup *s, bool back) {
    km__plan plan;
    real_pass pass;
    km_diffks_losses losses;
    km_error err = KM_ERROR_INIT;
    const km__plan_wish wish = {true, true, s->options.user.history};
    char *block = NULL;
    assert_int_equal(km__plan_new(&plan, s->ctx, &s->config, &s->batch, wish, &err), KM_OK);
    const size_t size = km__pass_lay_out(&pass, &plan, s->w, s->d, NULL);
    assert_int_equal(posix_memalign((void **)&block, 64, size), 0);
    memset(block, 0xA5, size); /* nothing may rely on what was there */
    (void)km__pass_lay_out(&pass, &plan, s->w, s->d, block);
    assert_int_equal(km__encode(s->ctx, &pass, &s->options, &err), KM_OK);
    assert_int_equal(km__pass_judge(&losses, s->ctx, &pass, &s->options, &err), KM_OK);
    if (back) {
        assert_int_equal(km__pass_back(s->ctx, &pass, &s->options, &err), KM_OK);
    }
    free(block);
    km__plan_free(&plan);
    return losses.loss;
}

static void check_element(setup *s, int index, int64_t k) {
    double *w = &s->w[index][k];
    const double before = *w;
    *w = before + STEP;
    const double above = loss_of(s, false);
    *w = before - STEP;
    const double below = loss_of(s, false);
    *w = before;
    const double expected = (above - below) / (2.0 * STEP), got = s->d[index][k];
    if (!(fabs(got - expected) <= 2e-8 + 1e-6 * fabs(expected))) {
        fail_msg("%s[%lld]: %.10g, by differences %.10g", s->shapes[index].name, (long long)k, got,
                 expected);
    }
}

static void check_config(km_diffks_config config, km_diffks_history history) {
    setup s;
    setup_init(&s, config, history);
    (void)loss_of(&s, true);
    for (int i = 0; i < P_COUNT; i++) {
        for (int64_t k = 0; k < SAMPLES && k < s.shapes[i].n; k++) {
            const int64_t n = s.shapes[i].n;
            check_element(
                &s, i,
                n <= SAMPLES ? k
                             : (int64_t)km_random_below((uint64_t)n, 11, (uint64_t)i, (uint64_t)k));
        }
    }
    setup_clear(&s);
}

static void check_variant(km_diffks_variant variant) {
    km_diffks_config config = sb_config(variant);
    config.dropout = 0.3;
    check_config(config, KM_DIFFKS_GOLD);
    config.mask_padding = false;
    check_config(config, KM_DIFFKS_OWN);
    config.dropout = 0.0;
    config.history = 3;
    config.weights[2] = 0.4;
    config.generate = false;
    check_config(config, KM_DIFFKS_SAMPLED);
    config.mask_padding = config.generate = true;
    config.vectors = SB_VECTORS;
    config.match = true;
    check_config(config, KM_DIFFKS_GOLD);
}

static void test_fused(void **state) {
    (void)state;
    check_variant(KM_DIFFKS_FUSED);
}

static void test_disentangled(void **state) {
    (void)state;
    check_variant(KM_DIFFKS_DISENTANGLED);
}

static void test_context(void **state) {
    (void)state;
    check_variant(KM_DIFFKS_CONTEXT);
}

/* Turns without a response that counts, and ones without gold, are among those of the batch. */
static void test_posterior(void **state) {
    (void)state;
    km_diffks_config config = sb_config(KM_DIFFKS_POSTERIOR);
    config.generate = false;
    config.dropout = 0.3;
    check_config(config, KM_DIFFKS_GOLD);
    config.dropout = config.temperature = 0.0;
    config.supervision = 0.4;
    check_config(config, KM_DIFFKS_OWN);
    config.temperature = 1.5;
    config.match = true;
    check_config(config, KM_DIFFKS_GOLD);
}

/* History that comes with the batch, beside that of the dialogue's turns. */
static void test_given_history(void **state) {
    static const int64_t sentences[] = {5, 1, 4, 2, 0}, offsets[] = {0, 1, 1, 4, 4, 5, 5};
    (void)state;
    setup s;
    setup_init(&s, sb_config(KM_DIFFKS_DISENTANGLED), KM_DIFFKS_GOLD);
    s.batch.history_sentences = sentences;
    s.batch.history_offsets = offsets;
    (void)loss_of(&s, true);
    for (int64_t k = 0; k < SAMPLES; k++) {
        check_element(&s, P_TILDE, 3 * k);
        check_element(&s, P_SENT + 1, 2 * k);
        check_element(&s, P_CMP + 6, k);
    }
    setup_clear(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fused),         cmocka_unit_test(test_disentangled),
        cmocka_unit_test(test_context),       cmocka_unit_test(test_posterior),
        cmocka_unit_test(test_given_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
