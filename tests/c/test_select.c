/* test_select.c: knowledge selection as its users call it: properties that need no reference,
 * batches that are wrong, and what must not depend on threads, sharing or the rest of a batch. */
#include "km/select.h"

#include <math.h>

#include "km_test.h"
#include "select_batch.h"

typedef struct setup {
    km_ctx *ctx;
    km_diffks *model;
    km_diffks_config config;
} setup;

static void setup_init(setup *s, km_diffks_config config, int threads) {
    km_error err = KM_ERROR_INIT;
    s->ctx = km_test_ctx(threads);
    s->config = config;
    if (km_diffks_new(&s->model, s->ctx, &config, 3, &err) != KM_OK) {
        fail_msg("%s", err.message);
    }
}

static void setup_clear(setup *s) {
    km_diffks_free(s->model);
    km_ctx_free(s->ctx);
}

static void optimize(setup *s) {
    const km_optimizer_options options = KM_OPTIMIZER_OPTIONS_INIT;
    km_error err = KM_ERROR_INIT;
    assert_int_equal(km_diffks_optimize(s->model, &options, &err), KM_OK);
}

typedef struct result {
    int64_t chosen[SB_TURNS];
    float scores[SB_CANDIDATES], context[SB_CANDIDATES];
    float contributions[SB_CANDIDATES * KM_DIFFKS_MAX_HISTORY];
} result;

static void select_all(result *out, setup *s, const km_diffks_batch *batch,
                       km_diffks_history history) {
    km_error err = KM_ERROR_INIT;
    km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    const km_diffks_scores arrays = {out->chosen, out->scores, out->context, out->contributions};
    options.history = history;
    if (km_diffks_select(&arrays, s->model, batch, &options, &err) != KM_OK) {
        fail_msg("%s", err.message);
    }
}

static km_diffks_losses losses_of(setup *s, const km_diffks_batch *batch,
                                  const km_diffks_options *options, bool gradient) {
    km_error err = KM_ERROR_INIT;
    km_diffks_losses out;
    const km_status status = gradient ? km_diffks_gradient(&out, s->model, batch, options, &err)
                                      : km_diffks_loss(&out, s->model, batch, options, &err);
    if (status != KM_OK) {
        fail_msg("%s", err.message);
    }
    return out;
}

static km_diffks_parameter parameter(const km_diffks *model, const char *name) {
    km_diffks_parameter p;
    for (int64_t i = 0; i < km_diffks_n_parameters(model); i++) {
        assert_int_equal(km_diffks_parameter_at(&p, model, i, NULL), KM_OK);
        if (strcmp(p.name, name) == 0) {
            return p;
        }
    }
    fail_msg("no parameter %s", name);
    return p;
}

/* ---- shapes and beginnings ---- */

static void test_parameters(void **state) {
    (void)state;
    setup s;
    km_diffks_parameter p;
    km_error err = KM_ERROR_INIT;
    setup_init(&s, sb_config(KM_DIFFKS_FUSED), 1);
    assert_int_equal(km_diffks_n_parameters(s.model), 43);
    p = parameter(s.model, "tilde.weight");
    assert_true(p.n_dims == 2 && p.shape[0] == 6 && p.shape[1] == 12 && p.n == 72);
    for (int64_t i = 0; i < p.n; i++) {
        assert_true(fabsf(p.values[i]) <= 1.0f / sqrtf(12.0f));
    }
    p = parameter(s.model, "dec.weight_ih_l0");
    assert_true(p.shape[0] == 12 && p.shape[1] == 11);
    assert_null(p.first);
    assert_int_equal(km_diffks_parameter_at(&p, s.model, 43, &err), KM_ENOTFOUND);
    setup_clear(&s);
    km_diffks_config config = sb_config(KM_DIFFKS_CONTEXT);
    config.generate = false;
    setup_init(&s, config, 1);
    assert_int_equal(km_diffks_n_parameters(s.model), 19);
    setup_clear(&s);
}

static void test_bad_config(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    km_diffks *model = NULL;
    for (int i = 0; i < 7; i++) {
        km_diffks_config c = sb_config(KM_DIFFKS_FUSED);
        km_error err = KM_ERROR_INIT;
        c.variant = i == 0 ? (km_diffks_variant)9 : c.variant;
        c.vocabulary = i == 1 ? 3 : c.vocabulary;
        c.hidden = i == 2 ? 0 : c.hidden;
        c.history = i == 3 ? 17 : c.history;
        c.weights[1] = i == 4 ? -1.0 : c.weights[1];
        c.dropout = i == 5 ? 1.0 : c.dropout;
        c.weights[0] = i == 6 ? (double)NAN : c.weights[0];
        assert_int_equal(km_diffks_new(&model, ctx, &c, 1, &err), KM_EINVAL);
        assert_true(strlen(err.message) > 10);
    }
    km_ctx_free(ctx);
}

/* ---- what scores may not depend on ---- */

static void test_threads(void **state) {
    (void)state;
    km_diffks_config config = sb_config(KM_DIFFKS_DISENTANGLED);
    config.dropout = 0.4;
    km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    const km_diffks_batch batch = sb_batch();
    float *first = NULL;
    int64_t n = 0;
    options.history = KM_DIFFKS_SAMPLED;
    options.probability = 0.5;
    for (int threads = 1; threads <= 3; threads++) {
        setup s;
        km_diffks_parameter all;
        km_error err = KM_ERROR_INIT;
        km_diffks_losses out;
        setup_init(&s, config, threads);
        optimize(&s);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(km_diffks_step(&out, s.model, &batch, &options, &err), KM_OK);
        }
        assert_int_equal(km_diffks_steps(s.model), 3);
        assert_int_equal(km_diffks_parameter_at(&all, s.model, 0, &err), KM_OK);
        n = 0;
        for (int64_t i = 0; i < km_diffks_n_parameters(s.model); i++) {
            km_diffks_parameter p;
            assert_int_equal(km_diffks_parameter_at(&p, s.model, i, &err), KM_OK);
            n += p.n;
        }
        if (first == NULL) {
            first = malloc((size_t)n * sizeof(float));
            memcpy(first, all.values, (size_t)n * sizeof(float));
        }
        assert_memory_equal(first, all.values, (size_t)n * sizeof(float));
        setup_clear(&s);
    }
    free(first);
}

/* Sentences and lists written out for each turn give what shared ones give. */
static void test_sharing(void **state) {
    (void)state;
    setup s;
    result shared, apart;
    int32_t tokens[128];
    int64_t offsets[64] = {0}, items[64], list_offsets[16] = {0}, lists[SB_TURNS], n = 0, words = 0;
    km_diffks_batch batch = sb_batch();
    setup_init(&s, sb_config(KM_DIFFKS_DISENTANGLED), 2);
    select_all(&shared, &s, &batch, KM_DIFFKS_OWN);
    for (int64_t t = 0; t < SB_TURNS; t++) {
        const int64_t *list = SB_LIST_OFFSETS + SB_TURN_LISTS[t];
        for (int64_t i = list[0]; i < list[1]; i++) {
            const int64_t from = SB_SENTENCE_OFFSETS[SB_LIST_SENTENCES[i]];
            const int64_t to = SB_SENTENCE_OFFSETS[SB_LIST_SENTENCES[i] + 1];
            memcpy(tokens + words, SB_SENTENCE_TOKENS + from, (size_t)(to - from) * sizeof *tokens);
            words += to - from;
            items[n] = n;
            offsets[++n] = words;
        }
        lists[t] = t;
        list_offsets[t + 1] = n;
    }
    batch.n_sentences = n;
    batch.n_lists = SB_TURNS;
    batch.sentence_tokens = tokens;
    batch.sentence_offsets = offsets;
    batch.list_sentences = items;
    batch.list_offsets = list_offsets;
    batch.turn_lists = lists;
    select_all(&apart, &s, &batch, KM_DIFFKS_OWN);
    for (int i = 0; i < SB_CANDIDATES; i++) {
        assert_true(fabsf(shared.scores[i] - apart.scores[i]) < 2e-6f);
    }
    assert_memory_equal(shared.chosen, apart.chosen, sizeof shared.chosen);
    setup_clear(&s);
}

/* A turn alone, its history given, scores as it does within its dialogue. */
static void test_given_history(void **state) {
    static const int64_t latest_first[] = {4, 1}, offsets[] = {0, 2}, dialogue[] = {0, 1};
    static const int64_t context_offsets[] = {0, 5};
    (void)state;
    setup s;
    result whole, alone;
    km_diffks_batch batch = sb_batch();
    setup_init(&s, sb_config(KM_DIFFKS_FUSED), 2);
    /* gold of turns 0 and 1: candidates 1 and 3 of list 0, sentences 1 and 4 */
    select_all(&whole, &s, &batch, KM_DIFFKS_GOLD);
    batch.n_turns = batch.n_dialogues = 1;
    batch.dialogue_offsets = dialogue;
    batch.context_tokens = SB_CONTEXT_TOKENS + 7;
    batch.context_offsets = context_offsets;
    batch.history_sentences = latest_first;
    batch.history_offsets = offsets;
    batch.gold = NULL;
    select_all(&alone, &s, &batch, KM_DIFFKS_GOLD);
    for (int i = 0; i < 4; i++) {
        assert_true(fabsf(alone.scores[i] - whole.scores[8 + i]) < 2e-6f);
    }
    setup_clear(&s);
}

/* The order of a list matters after the first turn alone. */
static void test_order_of_candidates(void **state) {
    static const int64_t turned[] = {0, 4, 3, 1, 0, 5, 2};
    (void)state;
    setup s;
    result before, after;
    km_diffks_batch batch = sb_batch();
    setup_init(&s, sb_config(KM_DIFFKS_DISENTANGLED), 1);
    select_all(&before, &s, &batch, KM_DIFFKS_GOLD);
    batch.list_sentences = turned;
    select_all(&after, &s, &batch, KM_DIFFKS_GOLD);
    assert_true(fabsf(before.scores[1] - after.scores[3]) < 1e-6f);
    assert_true(fabsf(before.scores[4 + 1] - after.scores[4 + 3]) > 1e-6f);
    setup_clear(&s);
}

/* ---- why ---- */

/* Contributions are differences to the same turn with one choice less: with M = 1 taking it out
 * leaves the context score in the fused variant. */
static void test_explanation(void **state) {
    (void)state;
    setup s;
    result r;
    km_diffks_config config = sb_config(KM_DIFFKS_FUSED);
    const km_diffks_batch batch = sb_batch();
    config.history = 1;
    setup_init(&s, config, 2);
    select_all(&r, &s, &batch, KM_DIFFKS_GOLD);
    for (int i = 0; i < SB_CANDIDATES; i++) {
        assert_true(fabsf(r.context[i] + r.contributions[i] - r.scores[i]) < 1e-6f);
    }
    for (int i = 0; i < 4; i++) {
        assert_true(r.contributions[i] == 0.0f && fabsf(r.contributions[4 + i]) > 0.0f);
    }
    setup_clear(&s);
    setup_init(&s, sb_config(KM_DIFFKS_CONTEXT), 2);
    select_all(&r, &s, &batch, KM_DIFFKS_GOLD);
    assert_memory_equal(r.scores, r.context, sizeof r.scores);
    setup_clear(&s);
}

static void test_ties_and_none(void **state) {
    (void)state;
    setup s;
    result r;
    km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    const km_diffks_batch batch = sb_batch();
    km_error err = KM_ERROR_INIT;
    const km_diffks_scores arrays = {r.chosen, NULL, NULL, NULL};
    setup_init(&s, sb_config(KM_DIFFKS_CONTEXT), 1);
    for (int64_t i = 0; i < km_diffks_n_parameters(s.model); i++) {
        km_diffks_parameter p;
        assert_int_equal(km_diffks_parameter_at(&p, s.model, i, &err), KM_OK);
        memset(p.values, 0, (size_t)p.n * sizeof(float)); /* all scores are 0 */
    }
    options.history = KM_DIFFKS_OWN;
    assert_int_equal(km_diffks_select(&arrays, s.model, &batch, &options, &err), KM_OK);
    for (int t = 0; t < SB_TURNS; t++) {
        assert_int_equal(r.chosen[t], 0);
    }
    options.allow_none = false;
    assert_int_equal(km_diffks_select(&arrays, s.model, &batch, &options, &err), KM_OK);
    for (int t = 0; t < SB_TURNS; t++) {
        assert_int_equal(r.chosen[t], 1);
    }
    setup_clear(&s);
}

/* ---- losses ---- */

/* With all weights 0 every candidate has the same chance, and so has every word but for copies. */
static void test_losses_of_zeros(void **state) {
    (void)state;
    setup s;
    km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    const km_diffks_batch batch = sb_batch();
    setup_init(&s, sb_config(KM_DIFFKS_DISENTANGLED), 2);
    for (int64_t i = 0; i < km_diffks_n_parameters(s.model); i++) {
        km_diffks_parameter p;
        assert_int_equal(km_diffks_parameter_at(&p, s.model, i, NULL), KM_OK);
        memset(p.values, 0, (size_t)p.n * sizeof(float));
    }
    const km_diffks_losses l = losses_of(&s, &batch, &options, false);
    /* turn numbers: (4, 3, 4 candidates), (4; the other has gold 0), (4) */
    const double expected = (2.0 * log(4.0) + log(3.0)) / 3.0 + 2.0 * log(4.0);
    assert_true(fabs(l.selection_loss - expected) < 1e-6);
    assert_int_equal(l.n_labelled, 5);
    assert_int_equal(l.n_correct, 0); /* index 0 wins every tie */
    assert_int_equal(l.n_words, 3 + 1 + 3 + 2);
    /* response 0 copies from sentence 1 (words 5 6 7): 4, 5, end; normaliser 11 + 3 */
    const double one = (2.0 * log(14.0) + log(14.0) - log(2.0)) / 3.0;
    /* response 1: unknown, end; sentence 4 has 4 words */
    const double two = log(15.0);
    /* response 2: 8, 8, end; sentence 3 is empty */
    const double three = log(11.0);
    /* response 3: 9, end; list 1's candidate 2 is sentence 2 (word 7) */
    const double four = log(12.0);
    assert_true(fabs(l.word_loss - (one + two + three + four)) < 1e-5);
    assert_true(fabs(l.perplexity - (exp(one) + 15.0 + 11.0 + 12.0) / 4.0) < 1e-4);
    setup_clear(&s);
}

/* Padding of others does not reach a clean loss; it reaches the authors'. */
static void test_padding(void **state) {
    static const int64_t dialogues[] = {0, 3, 5};
    (void)state;
    for (int clean = 0; clean < 2; clean++) {
        setup s;
        km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
        km_diffks_config config = sb_config(KM_DIFFKS_FUSED);
        km_diffks_batch batch = sb_batch();
        config.mask_padding = clean == 1;
        setup_init(&s, config, 1);
        /* one dialogue of one turn with three candidates, beside one with four */
        batch.n_dialogues = 1;
        batch.dialogue_offsets = dialogues;
        batch.n_turns = 3;
        const double first = losses_of(&s, &batch, &options, false).selection_loss;
        batch.n_dialogues = 2;
        batch.n_turns = 5;
        const double both = losses_of(&s, &batch, &options, false).selection_loss;
        static const int64_t alone[] = {0, 2};
        batch.n_dialogues = 1;
        batch.dialogue_offsets = alone;
        batch.n_turns = 2;
        batch.turn_lists = SB_TURN_LISTS + 3;
        batch.gold = SB_GOLD + 3;
        static const int64_t contexts[] = {0, 0, 3}, responses[] = {0, 3, 3};
        batch.context_tokens = SB_CONTEXT_TOKENS + 12;
        batch.context_offsets = contexts;
        batch.response_tokens = SB_RESPONSE_TOKENS + 11;
        batch.response_offsets = responses;
        const double second = losses_of(&s, &batch, &options, false).selection_loss;
        /* turn number 0 takes the mean of two dialogues; the others have one labelled turn */
        km_diffks_batch lone = sb_batch();
        lone.n_dialogues = 1;
        lone.dialogue_offsets = (const int64_t[]){0, 1};
        lone.n_turns = 1;
        const double zero = losses_of(&s, &lone, &options, false).selection_loss;
        const double expected = first - zero + 0.5 * (zero + second);
        assert_true((fabs(both - expected) < 1e-5) == (clean == 1));
        setup_clear(&s);
    }
}

/* ---- training ---- */

static void test_learns(void **state) {
    (void)state;
    for (int variant = 0; variant < 3; variant++) {
        setup s;
        km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
        const km_diffks_batch batch = sb_batch();
        km_error err = KM_ERROR_INIT;
        km_diffks_losses l, first;
        setup_init(&s, sb_config((km_diffks_variant)variant), 2);
        assert_int_equal(km_diffks_step(&l, s.model, &batch, &options, &err), KM_ESTATE);
        km_error_clear(&err);
        optimize(&s);
        options.learning_rate = 0.02;
        first = losses_of(&s, &batch, &options, false);
        for (int i = 0; i < 150; i++) {
            assert_int_equal(km_diffks_step(&l, s.model, &batch, &options, &err), KM_OK);
        }
        assert_true(l.norm > 0.0);
        l = losses_of(&s, &batch, &options, false);
        /* s . q of the empty context is 0 whatever is learned; only attn_v can tell there */
        assert_int_equal(l.n_correct, variant == KM_DIFFKS_FUSED ? 5 : 4);
        assert_true(l.loss < 0.5 * first.loss);
        setup_clear(&s);
    }
}

/* Dropout is a function of seed and step: the same step twice, then another. */
static void test_dropout(void **state) {
    (void)state;
    setup s;
    km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    km_diffks_config config = sb_config(KM_DIFFKS_FUSED);
    const km_diffks_batch batch = sb_batch();
    config.dropout = 0.5;
    setup_init(&s, config, 2);
    optimize(&s);
    const double clean = losses_of(&s, &batch, &options, false).loss;
    const double a = losses_of(&s, &batch, &options, true).loss;
    const double b = losses_of(&s, &batch, &options, true).loss;
    assert_int_equal(km_diffks_set_steps(s.model, 1, NULL), KM_OK);
    const double c = losses_of(&s, &batch, &options, true).loss;
    assert_true(a == b && a != c && a != clean);
    assert_true(losses_of(&s, &batch, &options, false).loss == clean);
    setup_clear(&s);
}

static void test_frozen_embedding(void **state) {
    (void)state;
    setup s;
    km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    km_diffks_config config = sb_config(KM_DIFFKS_DISENTANGLED);
    const km_diffks_batch batch = sb_batch();
    km_error err = KM_ERROR_INIT;
    km_diffks_losses l;
    float before[SB_V * 5];
    config.train_embedding = false;
    setup_init(&s, config, 1);
    optimize(&s);
    const km_diffks_parameter p = parameter(s.model, "E");
    assert_null(p.first);
    memcpy(before, p.values, sizeof before);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(km_diffks_step(&l, s.model, &batch, &options, &err), KM_OK);
    }
    assert_memory_equal(before, p.values, sizeof before);
    setup_clear(&s);
}

/* A weight that is not finite stops the step and leaves everything as it was. */
static void test_not_finite(void **state) {
    (void)state;
    setup s;
    km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    const km_diffks_batch batch = sb_batch();
    km_error err = KM_ERROR_INIT;
    km_diffks_losses l;
    setup_init(&s, sb_config(KM_DIFFKS_DISENTANGLED), 1);
    optimize(&s);
    const km_diffks_parameter bad = parameter(s.model, "tilde.bias");
    const km_diffks_parameter other = parameter(s.model, "sent.bias_ih_l0");
    const float before = other.values[0];
    bad.values[0] = NAN;
    assert_int_equal(km_diffks_step(&l, s.model, &batch, &options, &err), KM_ENUMERIC);
    assert_true(other.values[0] == before);
    assert_int_equal(km_diffks_steps(s.model), 0);
    for (int64_t i = 0; i < other.n; i++) {
        assert_true(other.gradient[i] == 0.0f);
    }
    setup_clear(&s);
}

/* ---- answers ---- */

static void test_respond(void **state) {
    (void)state;
    setup s;
    km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    const km_diffks_batch batch = sb_batch();
    km_error err = KM_ERROR_INIT;
    km_diffks_losses l;
    int32_t tokens[SB_TURNS * 6];
    int64_t lengths[SB_TURNS], wrong[SB_TURNS] = {0, 0, 0, 0, 3, 0};
    setup_init(&s, sb_config(KM_DIFFKS_FUSED), 2);
    optimize(&s);
    options.learning_rate = 0.02;
    for (int i = 0; i < 300; i++) {
        assert_int_equal(km_diffks_step(&l, s.model, &batch, &options, &err), KM_OK);
    }
    assert_int_equal(km_diffks_respond(tokens, lengths, s.model, &batch, SB_GOLD, 6, &err), KM_OK);
    assert_int_equal(lengths[0], 3); /* it has learned the response of the first turn */
    assert_memory_equal(tokens, SB_RESPONSE_TOKENS + 1, 3 * sizeof(int32_t));
    assert_int_equal(tokens[3], 0);
    assert_int_equal(km_diffks_respond(tokens, lengths, s.model, &batch, wrong, 6, &err),
                     KM_EINVAL);
    km_error_clear(&err);
    assert_int_equal(km_diffks_respond(tokens, lengths, s.model, &batch, SB_GOLD, 0, &err),
                     KM_EINVAL);
    setup_clear(&s);
    km_diffks_config config = sb_config(KM_DIFFKS_FUSED);
    config.generate = false;
    setup_init(&s, config, 1);
    km_error_clear(&err);
    assert_int_equal(km_diffks_respond(tokens, lengths, s.model, &batch, SB_GOLD, 6, &err),
                     KM_ESTATE);
    setup_clear(&s);
}

/* ---- batches that are wrong ---- */

static const int64_t FALLING[] = {0, 4, 3, 12, 12, 15, 17};
static const int64_t EMPTY_LIST[] = {0, 7, 7};
static const int64_t NO_SENTENCE[] = {0, 1, 3, 9, 0, 5, 2};
static const int64_t NO_LIST[] = {0, 0, 0, 2, 1, 0};
static const int64_t NO_CANDIDATE[] = {1, 3, 4, 2, 0, 1};
static const int64_t TOO_FEW[] = {0, 3, 5, 5};
static const int32_t NO_WORD[] = {4, 5, 6, 7, 5, 11, 9, 8, 8, 1, 4, 6, 7, 9};

static void test_bad_batches(void **state) {
    (void)state;
    setup s;
    setup_init(&s, sb_config(KM_DIFFKS_FUSED), 1);
    for (int i = 0; i < 9; i++) {
        km_diffks_batch b = sb_batch();
        km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
        km_diffks_losses out;
        km_error err = KM_ERROR_INIT;
        b.context_offsets = i == 0 ? FALLING : b.context_offsets;
        b.list_offsets = i == 1 ? EMPTY_LIST : b.list_offsets;
        b.list_sentences = i == 2 ? NO_SENTENCE : b.list_sentences;
        b.turn_lists = i == 3 ? NO_LIST : b.turn_lists;
        b.gold = i == 4 ? NO_CANDIDATE : i == 5 ? NULL : b.gold;
        b.dialogue_offsets = i == 6 ? TOO_FEW : b.dialogue_offsets;
        b.sentence_tokens = i == 7 ? NO_WORD : b.sentence_tokens;
        options.probability = i == 8 ? 1.5 : 0.0;
        assert_int_equal(km_diffks_loss(&out, s.model, &b, &options, &err), KM_EINVAL);
        assert_true(strlen(err.message) > 10);
    }
    setup_clear(&s);
}

static void test_vectors(void **state) {
    (void)state;
    setup s;
    km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    km_diffks_config config = sb_config(KM_DIFFKS_DISENTANGLED);
    km_diffks_batch batch = sb_batch();
    km_error err = KM_ERROR_INIT;
    km_diffks_losses out;
    float vectors[17 * SB_VECTORS];
    for (int i = 0; i < 17 * SB_VECTORS; i++) {
        vectors[i] = (float)km_random_normal(1, 2, (uint64_t)i);
    }
    config.vectors = SB_VECTORS;
    setup_init(&s, config, 1);
    assert_int_equal(km_diffks_loss(&out, s.model, &batch, &options, &err), KM_EINVAL);
    batch.sentence_vectors = batch.context_vectors = vectors;
    const double before = losses_of(&s, &batch, &options, false).loss;
    vectors[0] += 1.0f;
    assert_true(losses_of(&s, &batch, &options, false).loss != before);
    setup_clear(&s);
}

static void test_pass_bytes(void **state) {
    (void)state;
    setup s;
    int64_t training = 0, scoring = 0;
    const km_diffks_batch batch = sb_batch();
    setup_init(&s, sb_config(KM_DIFFKS_DISENTANGLED), 1);
    assert_int_equal(km_diffks_pass_bytes(&training, s.model, &batch, true, NULL), KM_OK);
    assert_int_equal(km_diffks_pass_bytes(&scoring, s.model, &batch, false, NULL), KM_OK);
    assert_true(scoring > 0 && training > scoring);
    assert_int_equal(km_diffks_n_candidates(&batch), SB_CANDIDATES);
    setup_clear(&s);
}

/* Too many weights, and a pass of a million turns with a million candidates each, are refused at
 * once, whatever memory the machine has. */
static void test_refuses_memory(void **state) {
    enum { TURNS = 1 << 20, CANDIDATES = 1 << 20 };
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    km_diffks *model = NULL;
    km_error err = KM_ERROR_INIT;
    km_diffks_config config = sb_config(KM_DIFFKS_FUSED);
    config.hidden = 1 << 20;
    assert_int_equal(km_diffks_new(&model, ctx, &config, 1, &err), KM_ENOMEM);
    assert_non_null(strstr(err.message, "available"));
    km_ctx_free(ctx);
    setup s;
    int64_t *zeros = calloc(CANDIDATES + 1, sizeof(int64_t));
    int64_t *chosen = calloc(TURNS, sizeof(int64_t));
    const int64_t list[] = {0, CANDIDATES}, dialogue[] = {0, TURNS};
    km_diffks_batch batch = sb_batch();
    const km_diffks_options options = {.history = KM_DIFFKS_OWN};
    const km_diffks_scores out = {chosen, NULL, NULL, NULL};
    setup_init(&s, sb_config(KM_DIFFKS_FUSED), 1);
    batch.n_lists = batch.n_dialogues = 1;
    batch.n_turns = TURNS;
    batch.list_sentences = batch.turn_lists = batch.context_offsets = zeros;
    batch.list_offsets = list;
    batch.dialogue_offsets = dialogue;
    batch.gold = batch.response_offsets = NULL;
    km_error_clear(&err);
    assert_int_equal(km_diffks_select(&out, s.model, &batch, &options, &err), KM_ENOMEM);
    assert_non_null(strstr(err.message, "fewer dialogues"));
    free(chosen);
    free(zeros);
    setup_clear(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters),       cmocka_unit_test(test_bad_config),
        cmocka_unit_test(test_threads),          cmocka_unit_test(test_sharing),
        cmocka_unit_test(test_given_history),    cmocka_unit_test(test_order_of_candidates),
        cmocka_unit_test(test_explanation),      cmocka_unit_test(test_ties_and_none),
        cmocka_unit_test(test_losses_of_zeros),  cmocka_unit_test(test_padding),
        cmocka_unit_test(test_learns),           cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_frozen_embedding), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_respond),          cmocka_unit_test(test_bad_batches),
        cmocka_unit_test(test_vectors),          cmocka_unit_test(test_pass_bytes),
        cmocka_unit_test(test_refuses_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
