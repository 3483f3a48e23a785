/* test_select_posterior.c: the posterior variant as its users call it: what it scores, what its
 * losses are where they are known, what it needs, and what must not depend on threads. */
#include "km/select.h"

#include <math.h>

#include "km_test.h"
#include "select_batch.h"

/* Turns of the batch whose responses have words that count, with 2, 2 and 1 of them. */
enum { ANSWERED = 3, WORDS = 5 };

static km_diffks_config posterior_config(void) {
    km_diffks_config config = sb_config(KM_DIFFKS_POSTERIOR);
    config.generate = false;
    return config;
}

static km_diffks *make(km_ctx *ctx, km_diffks_config config) {
    km_error err = KM_ERROR_INIT;
    km_diffks *model = NULL;
    if (km_diffks_new(&model, ctx, &config, 3, &err) != KM_OK) {
        fail_msg("%s", err.message);
    }
    return model;
}

static km_diffks_losses losses_of(km_diffks *model, bool gradient) {
    km_error err = KM_ERROR_INIT;
    km_diffks_losses out;
    const km_diffks_batch batch = sb_batch();
    const km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    const km_status status = gradient ? km_diffks_gradient(&out, model, &batch, &options, &err)
                                      : km_diffks_loss(&out, model, &batch, &options, &err);
    if (status != KM_OK) {
        fail_msg("%s", err.message);
    }
    return out;
}

/* Weights that both have begin alike, so scores are those of the context variant. */
static void test_prior_is_the_context_score(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(2);
    km_error err = KM_ERROR_INIT;
    const km_diffks_batch batch = sb_batch();
    const km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    km_diffks_config config = posterior_config();
    float scores[2][SB_CANDIDATES];
    int64_t chosen[2][SB_TURNS];
    for (int i = 0; i < 2; i++) {
        config.variant = i == 0 ? KM_DIFFKS_POSTERIOR : KM_DIFFKS_CONTEXT;
        km_diffks *model = make(ctx, config);
        const km_diffks_scores out = {chosen[i], scores[i], NULL, NULL};
        assert_int_equal(km_diffks_n_parameters(model), i == 0 ? 23 : 19);
        assert_int_equal(km_diffks_select(&out, model, &batch, &options, &err), KM_OK);
        km_diffks_free(model);
    }
    assert_memory_equal(scores[0], scores[1], sizeof scores[0]);
    assert_memory_equal(chosen[0], chosen[1], sizeof chosen[0]);
    km_ctx_free(ctx);
}

/* With all weights 0 candidates and words have the same chance: no divergence, log V a word, and
 * log K for a gold choice. */
static void test_losses_of_zeros(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    km_error err = KM_ERROR_INIT;
    km_diffks_config config = posterior_config();
    config.supervision = 0.5;
    km_diffks *model = make(ctx, config);
    for (int64_t i = 0; i < km_diffks_n_parameters(model); i++) {
        km_diffks_parameter p;
        assert_int_equal(km_diffks_parameter_at(&p, model, i, &err), KM_OK);
        memset(p.values, 0, (size_t)p.n * sizeof(float));
    }
    const km_diffks_losses found = losses_of(model, false);
    /* gold of turns 0, 2 and 3 is labelled, in lists of 4, 4 and 3 */
    const double gold = 0.5 * (2.0 * log(4.0) + log(3.0)) / ANSWERED;
    assert_true(fabs(found.selection_loss - gold) < 1e-6);
    assert_true(fabs(found.word_loss - log((double)SB_V)) < 1e-6);
    assert_true(fabs(found.loss - gold - log((double)SB_V)) < 1e-6);
    assert_true(fabs(found.perplexity - (double)SB_V) < 1e-5);
    assert_int_equal(found.n_words, WORDS);
    assert_int_equal(found.n_labelled, 5);
    km_diffks_free(model);
    km_ctx_free(ctx);
}

/* Draws are for gradients alone, change from step to step, and end with temperature 0. */
static void test_draws(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    km_error err = KM_ERROR_INIT;
    const km_optimizer_options adam = KM_OPTIMIZER_OPTIONS_INIT;
    km_diffks_config config = posterior_config();
    km_diffks *model = make(ctx, config);
    const double expected = losses_of(model, false).word_loss;
    const double drawn = losses_of(model, true).word_loss;
    assert_true(fabs(drawn - expected) > 1e-6);
    assert_true(losses_of(model, true).word_loss == drawn);
    assert_int_equal(km_diffks_optimize(model, &adam, &err), KM_OK);
    assert_int_equal(km_diffks_set_steps(model, 1, &err), KM_OK);
    assert_true(fabs(losses_of(model, true).word_loss - drawn) > 1e-7);
    km_diffks_free(model);
    config.temperature = 0.0;
    model = make(ctx, config);
    assert_true(losses_of(model, true).word_loss == expected);
    km_diffks_free(model);
    km_ctx_free(ctx);
}

/* Steps lower the loss, with the same bits for any number of threads. */
static void test_learns(void **state) {
    (void)state;
    const km_optimizer_options adam = KM_OPTIMIZER_OPTIONS_INIT;
    const km_diffks_batch batch = sb_batch();
    km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    km_diffks_config config = posterior_config();
    double last[3];
    config.temperature = 0.3;
    config.supervision = 1.0;
    options.learning_rate = 0.02;
    for (int threads = 1; threads <= 3; threads++) {
        km_ctx *ctx = km_test_ctx(threads);
        km_error err = KM_ERROR_INIT;
        km_diffks_losses out;
        km_diffks *model = make(ctx, config);
        const double before = losses_of(model, false).loss;
        assert_int_equal(km_diffks_optimize(model, &adam, &err), KM_OK);
        for (int i = 0; i < 60; i++) {
            assert_int_equal(km_diffks_step(&out, model, &batch, &options, &err), KM_OK);
        }
        const km_diffks_losses after = losses_of(model, false);
        assert_true(after.loss < 0.5 * before);
        last[threads - 1] = after.loss;
        km_diffks_free(model);
        km_ctx_free(ctx);
    }
    assert_true(last[0] == last[1] && last[0] == last[2]);
}

static void test_what_it_needs(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    km_diffks *model = NULL;
    for (int i = 0; i < 6; i++) {
        km_error err = KM_ERROR_INIT;
        km_diffks_config c = posterior_config();
        c.generate = i == 0;
        c.mask_padding = i != 1;
        c.vectors = i == 2 ? 3 : 0;
        c.temperature = i == 3 ? -1.0 : i == 4 ? (double)INFINITY : c.temperature;
        c.supervision = i == 5 ? (double)NAN : 0.0;
        assert_int_equal(km_diffks_new(&model, ctx, &c, 1, &err), KM_EINVAL);
        assert_true(strlen(err.message) > 10);
    }
    km_error err = KM_ERROR_INIT;
    km_diffks_losses out;
    km_diffks_batch batch = sb_batch();
    const km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    model = make(ctx, posterior_config());
    batch.response_offsets = NULL;
    assert_int_equal(km_diffks_loss(&out, model, &batch, &options, &err), KM_EINVAL);
    assert_non_null(strstr(err.message, "response_offsets"));
    km_diffks_free(model);
    km_ctx_free(ctx);
}

/* A batch in which no response has a word that counts has no loss and no gradient. */
static void test_nothing_said(void **state) {
    (void)state;
    static const int32_t tokens[16] = {2, 1, 3, 0, 2, 1, 3, 2, 1, 1, 3, 2, 1, 3, 2, 1};
    km_ctx *ctx = km_test_ctx(1);
    km_error err = KM_ERROR_INIT;
    km_diffks_losses out;
    km_diffks_batch batch = sb_batch();
    const km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    km_diffks *model = make(ctx, posterior_config());
    batch.response_tokens = tokens;
    assert_int_equal(km_diffks_gradient(&out, model, &batch, &options, &err), KM_OK);
    assert_true(out.loss == 0.0 && out.n_words == 0);
    for (int64_t i = 0; i < km_diffks_n_parameters(model); i++) {
        km_diffks_parameter p;
        assert_int_equal(km_diffks_parameter_at(&p, model, i, &err), KM_OK);
        for (int64_t k = 0; k < p.n; k++) {
            assert_true(p.gradient[k] == 0.0f);
        }
    }
    km_diffks_free(model);
    km_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prior_is_the_context_score),
        cmocka_unit_test(test_losses_of_zeros),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_what_it_needs),
        cmocka_unit_test(test_nothing_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
