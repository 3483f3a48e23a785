/* Measures of memorization: pure scores at their edges, continuations scored through a tree against
 * the same model one sequence at a time, and whole-answer recall on a small model. */
#include "km_test.h"

#include <math.h>

#include "km/memorization.h"
#include "measure/recall.h"
#include "measure/tree_score.h"
#include "synthetic_model.h"
#include "text/spec.h"

#define CLOSE(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

/* ---- scores ---- */

static void test_token_logprobs(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    double out[2], mu, sigma2;
    const double logits[6] = {0, 0, 0, -HUGE_VAL, 1, 1};
    const int32_t ids[2] = {2, 0}, wrong[2] = {0, 3};
    km_test_ok(km_score_token_logprobs_into(out, logits, ids, 2, 3, &err), &err);
    CLOSE(out[0], -log(3), 1e-15);
    km_test_fails(km_score_token_logprobs_into(out, logits, wrong, 2, 3, &err), KM_EINVAL, &err,
                  "ids[1] = 3");
    km_test_ok(km_score_token_moments_into(&mu, &sigma2, logits + 3, 1, 3, &err), &err);
    CLOSE(mu, -log(2), 1e-15); /* the impossible token adds nothing */
    CLOSE(sigma2, 0, 1e-15);
    const double bad[3] = {0, (double)NAN, 0}, none[2] = {-HUGE_VAL, -HUGE_VAL};
    km_test_fails(km_score_token_moments_into(&mu, &sigma2, bad, 1, 3, &err), KM_ENUMERIC, &err,
                  "logits[0, 1]");
    km_test_fails(km_score_token_moments_into(&mu, &sigma2, none, 1, 2, &err), KM_ENUMERIC, &err,
                  "no finite entry");
}

static void test_min_k(void **state) {
    km_error err = KM_ERROR_INIT;
    double out;
    const double x[4] = {-1, -4, -2, -3}, mu[4] = {0}, unit[4] = {1, 1, 1, 1};
    const double flat[4] = {0, 0, 0, 0}, uniform[2] = {-1, -2}, means[2] = {-1, 0};
    km_test_ok(km_score_min_k(&out, *state, x, 4, 0.5, false, &err), &err);
    CLOSE(out, -3.5, 0);
    km_test_ok(km_score_min_k(&out, *state, x, 4, 0.2, false, &err), &err);
    assert_true(isnan(out));
    km_test_ok(km_score_min_k(&out, *state, x, 4, 0.2, true, &err), &err);
    CLOSE(out, -4, 0);
    km_test_ok(km_score_min_k(&out, *state, x, 0, 1, true, &err), &err);
    assert_true(isnan(out));
    km_test_fails(km_score_min_k(&out, *state, x, 4, 1.5, false, &err), KM_EINVAL, &err, "ratio");
    km_test_fails(km_score_min_k(&out, *state, x, 4, (double)NAN, false, &err), KM_EINVAL, &err,
                  "ratio");
    km_test_ok(km_score_min_k_plus_plus(&out, *state, x, mu, unit, 4, 0.5, false, &err), &err);
    CLOSE(out, -3.5, 0);
    /* A uniform row is 0/0: sorted last, so it counts only when everything is taken. */
    km_test_ok(km_score_min_k_plus_plus(&out, *state, uniform, means, flat, 2, 0.5, false, &err),
               &err);
    assert_true(out == -HUGE_VAL);
    km_test_ok(km_score_min_k_plus_plus(&out, *state, uniform, means, flat, 2, 1, false, &err),
               &err);
    assert_true(isnan(out));
    assert_true(isnan(km_score_loss(x, 0)));
    CLOSE(km_score_loss(x, 4), 2.5, 0);
}

static void test_detection(void **state) {
    km_error err = KM_ERROR_INIT;
    km_detection out;
    const double scores[4] = {2, 1, 1, 0};
    const bool member[4] = {true, true, false, false}, one_class[4] = {true, true, true, true};
    km_test_ok(km_score_detection(&out, *state, scores, member, 4, 0.95, 0.05, &err), &err);
    CLOSE(out.auroc, 0.875, 1e-15);
    CLOSE(out.fpr_at_tpr, 0.5, 0);
    CLOSE(out.tpr_at_fpr, 0.5, 0);
    km_test_ok(km_score_detection(&out, *state, scores, one_class, 4, 0.95, 0.05, &err), &err);
    assert_true(isnan(out.auroc) && isnan(out.fpr_at_tpr) && isnan(out.tpr_at_fpr));
    const double bad[1] = {(double)NAN};
    km_test_fails(km_score_detection(&out, *state, bad, member, 1, 0.95, 0.05, &err), KM_EINVAL,
                  &err, "NaN");
}

static void test_extraction(void **state) {
    km_error err = KM_ERROR_INIT;
    km_extraction out;
    const int32_t a[4] = {1, 2, 3, 4}, b[4] = {1, 2, 9, 4};
    km_test_ok(km_score_extraction(&out, *state, b, 4, a, 4, &err), &err);
    assert_false(out.extractable);
    CLOSE(out.match_fraction, 0.75, 0);
    assert_int_equal(out.matching_prefix, 2);
    assert_int_equal(out.edit_distance, 1);
    km_test_ok(km_score_extraction(&out, *state, a, 4, a + 1, 3, &err), &err);
    assert_int_equal(out.edit_distance, 1);
    CLOSE(out.edit_similarity, 0.75, 0);
    assert_int_equal(out.matching_prefix, 0);
    km_test_ok(km_score_extraction(&out, *state, a, 3, a, 4, &err), &err);
    assert_false(out.extractable);
    assert_int_equal(out.matching_prefix, 3);
    km_test_ok(km_score_extraction(&out, *state, a, 0, a, 0, &err), &err);
    assert_true(out.extractable && isnan(out.match_fraction));
    CLOSE(out.edit_similarity, 1, 0);
    int64_t first;
    const double logits[4] = {1, 1, 0, 2};
    const int32_t lowest[2] = {0, 1}, other[2] = {1, 1};
    km_test_ok(km_score_first_mismatch(&first, logits, lowest, 2, 2, &err), &err);
    assert_int_equal(first, 2);
    km_test_ok(km_score_first_mismatch(&first, logits, other, 2, 2, &err), &err);
    assert_int_equal(first, 0);
}

static void test_recall_curve(void **state) {
    km_error err = KM_ERROR_INIT;
    double curve[4], recall;
    int64_t n;
    const int64_t example[4] = {0, 1, 1, 2};
    const bool correct[4] = {true, false, true, true}, all_wrong[4] = {false, false, false, false};
    km_test_ok(km_score_recall_curve(curve, &n, &recall, *state, example, correct, 4, 4, 1, &err),
               &err);
    assert_int_equal(n, 3);
    CLOSE(recall, 0.25, 0); /* fewer than one error: only the first guess */
    CLOSE(curve[2], 0.75, 0);
    km_test_ok(km_score_recall_curve(curve, &n, &recall, *state, example, all_wrong, 4, 4, 1, &err),
               &err);
    assert_true(n == 0 && recall == 0);
    km_test_fails(
        km_score_recall_curve(curve, &n, &recall, *state, example, correct, 4, 2, 1, &err),
        KM_EINVAL, &err, "example[3] = 2");
    km_test_fails(
        km_score_recall_curve(curve, &n, &recall, *state, example, correct, 4, 0, 1, &err),
        KM_EINVAL, &err, "n_examples");
}

static void test_exposure(void **state) {
    km_error err = KM_ERROR_INIT;
    int64_t rank[3];
    double bits[3];
    const double canary[3] = {1, 3, 9}, others[4] = {2, 3, 3, 4};
    km_test_ok(km_score_exposure_into(rank, bits, *state, canary, 3, others, 4, (double)NAN, &err),
               &err);
    assert_true(rank[0] == 1 && rank[1] == 2 && rank[2] == 5); /* equal is not smaller */
    CLOSE(bits[0], 2, 0);
    CLOSE(bits[2], 2 - log2(5), 1e-15);
    km_test_ok(km_score_exposure_into(rank, bits, *state, canary, 1, others, 4, 20, &err), &err);
    CLOSE(bits[0], 20, 0);
    km_test_fails(km_score_exposure_into(rank, bits, *state, canary, 1, others, 0, 20, &err),
                  KM_EINVAL, &err, "reference");
}

/* F(z; a) + F(-z; -a) = 1 where both are far from 0, and values far out from mpmath. */
static void test_skewnormal(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    const double shapes[] = {0.3, 1, 2, 20, 1000};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (double z = -0.5; z <= 0.5; z += 0.125) {
            double left, right;
            km_test_ok(km_score_exposure_skewnormal(&left, z, shapes[i], 0, 1, &err), &err);
            km_test_ok(km_score_exposure_skewnormal(&right, -z, -shapes[i], 0, 1, &err), &err);
            CLOSE(exp2(-left) + exp2(-right), 1, 1e-12);
        }
    }
    double bits;
    km_test_ok(km_score_exposure_skewnormal(&bits, -8, 1000, 0, 1, &err), &err);
    CLOSE(bits / 46166325.023538634, 1, 1e-13);
    km_test_ok(km_score_exposure_skewnormal(&bits, 25, 0, 25, 7, &err), &err);
    CLOSE(bits, 1, 1e-15);
    km_test_fails(km_score_exposure_skewnormal(&bits, 0, 1, 0, 0, &err), KM_EINVAL, &err, "scale");
}

static void test_counterfactual(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    const bool include[4] = {true, true, false, true};
    const double score[4] = {0.9, 0.5, 0.2, 0.7};
    double memorized[2], in_mean[2], out_mean[2], influence[2];
    km_test_ok(
        km_score_counterfactual_into(memorized, in_mean, out_mean, include, score, 2, 2, &err),
        &err);
    CLOSE(memorized[0], 0.7, 1e-15);
    assert_true(isnan(memorized[1]) && isnan(out_mean[1]));
    CLOSE(in_mean[1], 0.6, 1e-15);
    km_test_ok(km_score_influence_into(influence, include, score, 2, 2, 1, &err), &err);
    CLOSE(influence[0], 0.4, 1e-15);
    assert_true(isnan(influence[1]));
    const double bad[1] = {(double)INFINITY};
    km_test_fails(km_score_influence_into(influence, include, bad, 1, 1, 1, &err), KM_ENUMERIC,
                  &err, "not finite");
}

static void test_rank(void **state) {
    km_error err = KM_ERROR_INIT;
    const double logits[4] = {3, 2, 2, 1}, hits[3] = {1, 1, 0};
    const int32_t gold[1] = {2}, outside[1] = {4};
    const bool allowed[4] = {false, true, true, true};
    const int64_t groups[3] = {7, 7, -1}, ranks[2] = {0, 3};
    int64_t rank;
    double macro;
    km_test_ok(km_score_rank_into(&rank, logits, gold, NULL, 1, 4, &err), &err);
    assert_int_equal(rank, 1); /* a tie does not count */
    km_test_ok(km_score_rank_into(&rank, logits, gold, allowed, 1, 4, &err), &err);
    assert_int_equal(rank, 0);
    km_test_fails(km_score_rank_into(&rank, logits, outside, NULL, 1, 4, &err), KM_EINVAL, &err,
                  "gold[0] = 4");
    km_test_ok(km_score_macro_mean(&macro, *state, hits, groups, 3, &err), &err);
    CLOSE(macro, 0.5, 0);
    CLOSE(km_score_precision_at(ranks, 2, 3), 0.5, 0);
    CLOSE(km_score_mean_reciprocal_rank(ranks, 2), 0.625, 0);
    assert_true(isnan(km_score_precision_at(ranks, 0, 1)));
}

/* ---- continuations through a tree ---- */

enum { N_ITEMS = 40, MOST_TOKENS = 12 };

typedef struct item_set {
    int32_t tokens[N_ITEMS][MOST_TOKENS];
    km__continuation items[N_ITEMS];
    int32_t rivals[3];
} item_set;

/* Continuations over few prompts, so that prefixes are shared; every fifth asks for everything. */
static void fill_items(item_set *set, int64_t vocab) {
    set->rivals[0] = 3;
    set->rivals[1] = 17;
    set->rivals[2] = 40;
    for (uint64_t i = 0; i < N_ITEMS; i++) {
        int64_t n_prompt = 2 + (int64_t)(i / 10);
        int64_t n_answer = 1 + (int64_t)(i % 4);
        for (int64_t t = 0; t < n_prompt + n_answer; t++) {
            uint64_t stream = t < n_prompt ? 1000 + i / 10 : i;
            set->tokens[i][t] = (int32_t)km_random_below((uint64_t)vocab, 5, stream, (uint64_t)t);
        }
        set->items[i] = (km__continuation){.prompt = set->tokens[i],
                                           .n_prompt = n_prompt,
                                           .answer = set->tokens[i] + n_prompt,
                                           .n_answer = n_answer,
                                           .want_end = i % 5 == 0,
                                           .want_first = i % 5 == 0,
                                           .want_lens = i % 5 == 0,
                                           .rivals = set->rivals,
                                           .n_rivals = 3};
    }
}

static void score_items(item_set *set, const km_model *model, int64_t batch_tokens) {
    km_error err = KM_ERROR_INIT;
    km__engine engine = km__engine_of_model(model);
    km_tick tick;
    km_tick_init(&tick, km_model_ctx(model), NULL, NULL, N_ITEMS);
    km_test_ok(km__score_continuations(set->items, N_ITEMS, &engine, batch_tokens, &tick, 0, &err),
               &err);
}

/* The same figures from one forward pass a token. */
static void check_item(const km__continuation *item, const km_model *model) {
    km_error err = KM_ERROR_INIT;
    float row[64];
    int64_t vocab = km_model_config(model)->vocab_size;
    double logp = 0;
    bool greedy = true;
    for (int64_t i = 0; i < item->n_answer; i++) {
        km_test_ok(km_model_next_logprobs_into(row, model, item->prompt, item->n_prompt + i, &err),
                   &err);
        logp += (double)row[item->answer[i]];
        greedy = greedy && km_logits_argmax(row, vocab) == item->answer[i];
        if (i == 0 && item->want_first) {
            assert_int_equal(item->first_rank, km_logits_rank(row, vocab, item->answer[0]));
            CLOSE(item->first_logp, (double)row[item->answer[0]], 1e-5);
        }
    }
    CLOSE(item->logp, logp, 1e-5 * (double)item->n_answer);
    assert_int_equal(item->greedy, greedy);
    if (item->want_end) {
        km_test_ok(km_model_next_logprobs_into(row, model, item->prompt,
                                               item->n_prompt + item->n_answer, &err),
                   &err);
        assert_int_equal(item->end, km_logits_argmax(row, vocab));
    }
}

static void test_tree_against_sequences(void **state) {
    synthetic s;
    item_set set;
    synthetic_init(&s, *state, llama_config());
    for (int64_t batch = 1; batch < 2000; batch *= 12) {
        fill_items(&set, 61);
        score_items(&set, &s.model, batch);
        for (int i = 0; i < N_ITEMS; i++) {
            check_item(&set.items[i], &s.model);
        }
    }
    synthetic_clear(&s);
}

static void test_tree_threads(void **state) {
    (void)state;
    item_set sets[2];
    memset(sets, 0, sizeof sets);
    for (int i = 0; i < 2; i++) {
        synthetic s;
        km_ctx *ctx = km_test_ctx(i == 0 ? 1 : 3);
        synthetic_init(&s, ctx, gemma_config());
        fill_items(&sets[i], 61);
        score_items(&sets[i], &s.model, 30);
        synthetic_clear(&s);
        km_ctx_free(ctx);
    }
    for (int i = 0; i < N_ITEMS; i++) {
        const km__continuation *a = &sets[0].items[i], *b = &sets[1].items[i];
        assert_memory_equal(&a->logp, &b->logp, sizeof a->logp);
        assert_int_equal(a->lead_layer, b->lead_layer);
        assert_int_equal(a->argmax_layer, b->argmax_layer);
    }
}

/* An engine that gives layer l the logits script[l][row node's id]: token 1 leads rivals from layer
 * 2 on, is ahead at layer 0 too, and is the vocabulary's argmax at the output alone. */
static km_status scripted_forward(const void *self, const km_forward_request *request,
                                  km_error *err) {
    static const float SCRIPT[4][4] = {{0, 2, 1, 9}, {0, 1, 2, 9}, {0, 2, 1, 9}, {0, 9, 1, 8}};
    (void)self;
    for (int32_t layer = 0; layer < 4; layer++) {
        int64_t n = layer == 3 ? request->n_rows : request->n_lens_rows;
        for (int64_t i = 0; i < n; i++) {
            KM_TRY(request->on_logits(request->payload, i, layer, SCRIPT[layer], 4, err));
        }
    }
    return KM_OK;
}

static double scripted_logsumexp(const void *self, const float *x, int64_t n) {
    double sum = 0;
    (void)self;
    for (int64_t i = 0; i < n; i++) {
        sum += exp((double)x[i]);
    }
    return log(sum);
}

static void test_lead_layer(void **state) {
    km_error err = KM_ERROR_INIT;
    km__engine engine = {*state, 3, NULL, scripted_forward, scripted_logsumexp};
    const int32_t prompt[1] = {0}, answers[2] = {1, 2}, rivals[2] = {2, 1};
    km__continuation items[2];
    km_tick tick;
    km_tick_init(&tick, *state, NULL, NULL, 2);
    for (int i = 0; i < 2; i++) {
        items[i] = (km__continuation){.prompt = prompt,
                                      .n_prompt = 1,
                                      .answer = &answers[i],
                                      .n_answer = 1,
                                      .want_lens = true,
                                      .rivals = &rivals[i],
                                      .n_rivals = 1};
    }
    km_test_ok(km__score_continuations(items, 2, &engine, 100, &tick, 0, &err), &err);
    assert_int_equal(items[0].lead_layer, 2);
    assert_int_equal(items[0].argmax_layer, 3);
    assert_int_equal(items[1].lead_layer, -1); /* censored */
    assert_int_equal(items[1].argmax_layer, -1);
    items[0].n_prompt = 0;
    km_test_fails(km__score_continuations(items, 1, &engine, 100, &tick, 0, &err), KM_EINVAL, &err,
                  "at least one token");
}

/* ---- recall ---- */

/* A byte-level BPE of 61 tokens: letters, letters after a blank, a few marks, "pa" and "is". */
static km_tokenizer *small_tokenizer(km_ctx *ctx, km_error *err) {
    static char text[61][8], merge[28][8];
    km_slice tokens[61], merges[28];
    int32_t types[61];
    const char *marks[] = {"\xc4\xa0", ".", ",", "-", "?", "pa", "is"};
    int n = 0;
    for (; n < 26; n++) {
        snprintf(text[n], 8, "%c", 'a' + n);
        snprintf(text[26 + n], 8, "\xc4\xa0%c", 'a' + n);
        snprintf(merge[n], 8, "\xc4\xa0 %c", 'a' + n);
    }
    strcpy(merge[26], "p a");
    strcpy(merge[27], "i s");
    for (int i = 0; i < 7; i++) {
        strcpy(text[52 + i], marks[i]);
    }
    strcpy(text[59], "<s>");
    strcpy(text[60], "</s>");
    for (int i = 0; i < 61; i++) {
        tokens[i] = (km_slice){text[i], strlen(text[i])};
        types[i] = i < 59 ? KM_TOKEN_NORMAL : KM_TOKEN_CONTROL;
    }
    for (int i = 0; i < 28; i++) {
        merges[i] = (km_slice){merge[i], strlen(merge[i])};
    }
    km_tokenizer_spec spec = {.kind = KM_TOKENIZER_BPE,
                              .pre = "gpt2",
                              .tokens = tokens,
                              .types = types,
                              .n_tokens = 61,
                              .merges = merges,
                              .n_merges = 28,
                              .bos = 59,
                              .eos = 60,
                              .unk = -1,
                              .add_bos = true};
    km_tokenizer *tokenizer = NULL;
    km_status status = km_tokenizer_new(&tokenizer, ctx, &spec, err);
    return status == KM_OK ? tokenizer : NULL;
}

static const char *const PARIS[] = {"paris", "pa"};
static const char *const ROME[] = {"rome"};
static const char *const OSLO[] = {"oslo"};
static const char *const NOT_PARIS[] = {"rome", "oslo", "pa-is"};
static const char *const NOT_ROME[] = {"paris", "oslo", "roma"};
static const char *const NOT_OSLO[] = {"paris", "rome"};
static const char *const TEMPLATES[] = {"capital of {} is", "{} has the capital,"};
static const km_recall_fact FACTS[] = {
    {"france", "france", PARIS, 2, NOT_PARIS, 3, 1},
    {"italy", "italy", ROME, 1, NOT_ROME, 3, 2},
    {"norway", "norway", OSLO, 1, NOT_OSLO, 2, -1},
};
static const km_recall_relation CAPITALS = {"capital", TEMPLATES, 2, "it", FACTS, 3};

typedef struct small_model {
    synthetic synthetic;
    const km_model *model;
} small_model;

static void small_model_init(small_model *m, km_ctx *ctx, km_error *err) {
    synthetic_init(&m->synthetic, ctx, llama_config());
    m->synthetic.model.tokenizer = small_tokenizer(ctx, err);
    m->model = &m->synthetic.model;
}

static void small_model_clear(small_model *m) {
    km_tokenizer_free(m->synthetic.model.tokenizer);
    synthetic_clear(&m->synthetic);
}

static double text_cell(const km_table *table, const char *name, int64_t row) {
    return km_table_double(table, km_table_find(table, name), row);
}

/* log p(" " + answer | prompt) from a single sequence. */
static double single_logp(const km_model *model, const char *prompt, const char *answer) {
    km_error err = KM_ERROR_INIT;
    km_tokens tokens = KM_TOKENS_INIT;
    km_encode_options with_bos = {KM_BOS_MODEL, false}, without = {KM_BOS_NEVER, false};
    char text[64];
    int32_t ids[64];
    float logprobs[64];
    snprintf(text, sizeof text, " %s", answer);
    km_test_ok(km_tokenizer_encode(&tokens, km_model_tokenizer(model), prompt, strlen(prompt),
                                   &with_bos, &err),
               &err);
    int64_t n_prompt = tokens.n;
    km_test_ok(
        km_tokenizer_encode(&tokens, km_model_tokenizer(model), text, strlen(text), &without, &err),
        &err);
    for (int64_t i = 0; i < tokens.n; i++) {
        ids[i] = tokens.items[i].id;
    }
    km_test_ok(km_model_logprobs_into(logprobs, model, ids, tokens.n, &err), &err);
    double sum = 0;
    for (int64_t i = n_prompt; i < tokens.n; i++) {
        sum += (double)logprobs[i - 1];
    }
    km_tokens_clear(&tokens);
    return sum;
}

static void check_row(const km_table *table, const km_model *model, int64_t row) {
    const km_recall_fact *fact = &FACTS[row % 3];
    const char *prompt = km_table_text(table, km_table_find(table, "prompt"), row, NULL);
    const char *bare = row < 3 ? "capital of it is" : "it has the capital,";
    double best = -HUGE_VAL, best_pmi = -HUGE_VAL, wrong = -HUGE_VAL;
    int64_t rank = 0, rank_pmi = 0;
    for (int i = 0; i < fact->n_answers; i++) {
        double logp = single_logp(model, prompt, fact->answers[i]);
        best = fmax(best, logp);
        best_pmi = fmax(best_pmi, logp - single_logp(model, bare, fact->answers[i]));
    }
    for (int i = 0; i < fact->n_candidates; i++) {
        double logp = single_logp(model, prompt, fact->candidates[i]);
        rank += logp >= best;
        rank_pmi += logp - single_logp(model, bare, fact->candidates[i]) >= best_pmi;
        wrong = fmax(wrong, logp);
    }
    CLOSE(text_cell(table, "logp", row), best, 1e-4);
    CLOSE(text_cell(table, "pmi", row), best_pmi, 1e-4);
    CLOSE(text_cell(table, "margin", row), best - wrong, 1e-4);
    assert_int_equal(km_table_int64(table, km_table_find(table, "rank"), row), rank);
    assert_int_equal(km_table_int64(table, km_table_find(table, "rank_pmi"), row), rank_pmi);
    assert_int_equal(km_table_bool(table, km_table_find(table, "correct"), row), rank == 0);
}

static km_status run_capitals(km_table **out, const km_model *model, int64_t batch_tokens,
                              km_tick_fn tick, km_error *err) {
    km_recall_options options = KM_RECALL_OPTIONS_INIT;
    options.batch_tokens = batch_tokens;
    return km_memorization_run(out, model, &CAPITALS, &options, tick, NULL, err);
}

static void test_recall(void **state) {
    km_error err = KM_ERROR_INIT;
    small_model m;
    small_model_init(&m, *state, &err);
    for (int64_t batch = 4; batch < 2000; batch *= 16) {
        km_table *table = NULL;
        km_test_ok(run_capitals(&table, m.model, batch, NULL, &err), &err);
        assert_int_equal(km_table_rows(table), 6);
        for (int64_t row = 0; row < 6; row++) {
            check_row(table, m.model, row);
        }
        assert_true(km_table_bool(table, km_table_find(table, "bos"), 0));
        assert_true(km_table_bool(table, km_table_find(table, "boundary_ok"), 0));
        assert_string_equal(km_table_text(table, km_table_find(table, "shuffled_answer"), 0, NULL),
                            "rome");
        assert_true(km_table_is_null(table, km_table_find(table, "shuffled_rank"), 2));
        /* "paris" and the wrong "pa-is" both start with " p": no first layer can be told. */
        assert_true(km_table_bool(table, km_table_find(table, "first_token_collision"), 0));
        assert_true(km_table_is_null(table, km_table_find(table, "lead_censored"), 0));
        assert_false(km_table_is_null(table, km_table_find(table, "lead_censored"), 2));
        /* Every answer is given once: the earliest counts as the commonest. */
        assert_true(km_table_bool(table, km_table_find(table, "commonest_correct"), 0));
        assert_false(km_table_bool(table, km_table_find(table, "commonest_correct"), 1));
        km_table_free(table);
    }
    small_model_clear(&m);
}

static void test_answer_end(void **state) {
    km_error err = KM_ERROR_INIT;
    small_model m;
    small_model_init(&m, *state, &err);
    km__recall_plan plan = {0};
    km_recall_options options = KM_RECALL_OPTIONS_INIT;
    static const char *const wrong[] = {"pa z", "rome"};
    const km_recall_fact fact = {"f", "s", PARIS, 2, wrong, 2, -1};
    const km_recall_relation relation = {"r", TEMPLATES, 1, "it", &fact, 1};
    km_test_ok(km__recall_plan_init(&plan, m.model, &relation, &options, &err), &err);
    const km__recall_case judged = {0};
    assert_false(km__recall_ends(&plan, &judged, 0, 0));  /* paris|a: the word goes on */
    assert_false(km__recall_ends(&plan, &judged, 0, 55)); /* paris|- */
    assert_true(km__recall_ends(&plan, &judged, 0, 53));  /* paris|. */
    assert_true(km__recall_ends(&plan, &judged, 0, 60));  /* paris|</s> */
    assert_true(km__recall_ends(&plan, &judged, 0, 51));  /* paris| z */
    assert_false(km__recall_ends(&plan, &judged, 1, 51)); /* pa| z is another candidate */
    assert_false(km__recall_ends(&plan, &judged, 1, 52)); /* pa|blank leads to it */
    assert_true(km__recall_ends(&plan, &judged, 1, 50));  /* pa| y */
    km__recall_plan_clear(&plan);
    small_model_clear(&m);
}

static void expect_refusal(const km_model *model, const km_recall_fact *fact,
                           const char *template_text, const char *part) {
    km_error err = KM_ERROR_INIT;
    km_table *table = NULL;
    const km_recall_relation relation = {"r", &template_text, 1, "it", fact, 1};
    km_test_fails(km_memorization_run(&table, model, &relation, NULL, NULL, NULL, &err), KM_EINVAL,
                  &err, part);
    assert_null(table);
}

static void test_recall_refuses(void **state) {
    km_error err = KM_ERROR_INIT;
    small_model m;
    small_model_init(&m, *state, &err);
    const char *const empty[] = {""};
    const km_recall_fact good = {"f", "s", ROME, 1, NOT_OSLO, 1, -1};
    const km_recall_fact twice = {"f", "s", ROME, 1, NOT_PARIS, 2, -1};
    const km_recall_fact blank = {"f", "s", empty, 1, NOT_PARIS, 0, -1};
    const km_recall_fact partner = {"f", "s", ROME, 1, NOT_OSLO, 1, 0};
    const km_recall_fact far = {"f", "s", ROME, 1, NOT_OSLO, 1, 1};
    expect_refusal(m.model, &good, "no hole", "\"{}\" once");
    expect_refusal(m.model, &good, "{} and {}", "\"{}\" once");
    expect_refusal(m.model, &twice, "{} is", "fact 'f': \"rome\" is given twice");
    expect_refusal(m.model, &blank, "{} is", "no text");
    expect_refusal(m.model, &partner, "{} is", "partner's answer");
    expect_refusal(m.model, &far, "{} is", "partner in [0, 1)");
    small_model_clear(&m);
}

/* Without wrong candidates nothing is ranked. */
static void test_recall_alone(void **state) {
    km_error err = KM_ERROR_INIT;
    small_model m;
    small_model_init(&m, *state, &err);
    const km_recall_fact fact = {"f", "s", ROME, 1, NULL, 0, -1};
    const km_recall_relation relation = {"r", TEMPLATES, 1, "it", &fact, 1};
    km_table *table = NULL;
    km_test_ok(km_memorization_run(&table, m.model, &relation, NULL, NULL, NULL, &err), &err);
    assert_false(km_table_is_null(table, km_table_find(table, "logp"), 0));
    assert_true(km_table_is_null(table, km_table_find(table, "rank"), 0));
    assert_true(km_table_is_null(table, km_table_find(table, "correct"), 0));
    assert_true(km_table_is_null(table, km_table_find(table, "margin"), 0));
    assert_true(km_table_is_null(table, km_table_find(table, "lead_layer"), 0));
    km_table_free(table);
    small_model_clear(&m);
}

static km_status stop_at_once(void *payload, int64_t done, int64_t total) {
    (void)payload;
    assert_true(done <= total);
    return KM_ECANCELLED;
}

static void test_recall_cancel(void **state) {
    km_error err = KM_ERROR_INIT;
    small_model m;
    km_table *table = NULL;
    small_model_init(&m, *state, &err);
    assert_int_equal(run_capitals(&table, m.model, 16, stop_at_once, &err), KM_ECANCELLED);
    assert_null(table);
    small_model_clear(&m);
}

static km_status recall_body(km_ctx *ctx, km_error *err) {
    small_model m;
    km_table *table = NULL;
    km_status status = KM_ENOMEM;
    small_model_init(&m, ctx, err);
    if (m.synthetic.model.tokenizer != NULL) {
        status = run_capitals(&table, m.model, 64, NULL, err);
    }
    km_table_free(table);
    small_model_clear(&m);
    return status;
}

static void test_recall_allocations(void **state) {
    (void)state;
    km_test_every_allocation(recall_body);
}

/* ---- lens and verbatim ---- */

static void test_lens(void **state) {
    km_error err = KM_ERROR_INIT;
    small_model m;
    km_table *table = NULL;
    const int32_t ids[3] = {59, 7, 20};
    float row[64];
    small_model_init(&m, *state, &err);
    km_test_ok(km_lens_run(&table, m.model, ids, 3, 4, 3, &err), &err);
    assert_int_equal(km_table_rows(table), 4);
    km_test_ok(km_model_next_logprobs_into(row, m.model, ids, 3, &err), &err);
    CLOSE(text_cell(table, "logprob", 3), (double)row[4], 1e-5);
    CLOSE(text_cell(table, "logprob", 2), (double)row[4], 1e-5); /* after the last block */
    assert_int_equal(km_table_int64(table, km_table_find(table, "top_id"), 3),
                     km_logits_argmax(row, 61));
    assert_int_equal(km_table_int64(table, km_table_find(table, "rank"), 3),
                     km_logits_rank(row, 61, 4));
    double entropy = 0;
    for (int i = 0; i < 61; i++) {
        entropy -= exp((double)row[i]) * (double)row[i];
    }
    CLOSE(text_cell(table, "entropy", 3), entropy, 1e-4);
    km_table_free(table);
    km_test_fails(km_lens_run(&table, m.model, ids, 3, 61, 3, &err), KM_ERANGE, &err, "target");
    km_test_fails(km_lens_run(&table, m.model, ids, 0, 4, 3, &err), KM_EINVAL, &err, "prompt");
    small_model_clear(&m);
}

static void test_verbatim(void **state) {
    km_error err = KM_ERROR_INIT;
    small_model m;
    small_model_init(&m, *state, &err);
    const int32_t ids[9] = {59, 7, 20, 3, 59, 11, 12, 13, 30};
    const int64_t offsets[4] = {0, 4, 5, 9}, empty[2] = {0, 0};
    float logprobs[8];
    km_table *table = NULL;
    for (int64_t batch = 1; batch < 20; batch += 6) {
        km_test_ok(km_verbatim_run(&table, m.model, ids, offsets, 3, batch, NULL, NULL, &err),
                   &err);
        assert_int_equal(km_table_rows(table), 6); /* 3 + 0 + 3 */
        km_test_ok(km_model_logprobs_into(logprobs, m.model, ids, 4, &err), &err);
        CLOSE(text_cell(table, "logp", 2), (double)logprobs[2], 1e-5);
        assert_int_equal(km_table_int64(table, km_table_find(table, "text"), 3), 2);
        assert_int_equal(km_table_int64(table, km_table_find(table, "position"), 3), 1);
        km_table_free(table);
    }
    km_test_fails(km_verbatim_run(&table, m.model, ids, empty, 1, 8, NULL, NULL, &err), KM_EINVAL,
                  &err, "at least 1");
    small_model_clear(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_logprobs), cmocka_unit_test(test_min_k),
        cmocka_unit_test(test_detection),      cmocka_unit_test(test_extraction),
        cmocka_unit_test(test_recall_curve),   cmocka_unit_test(test_exposure),
        cmocka_unit_test(test_skewnormal),     cmocka_unit_test(test_counterfactual),
        cmocka_unit_test(test_rank),           cmocka_unit_test(test_tree_against_sequences),
        cmocka_unit_test(test_tree_threads),   cmocka_unit_test(test_lead_layer),
        cmocka_unit_test(test_recall),         cmocka_unit_test(test_answer_end),
        cmocka_unit_test(test_recall_refuses), cmocka_unit_test(test_recall_alone),
        cmocka_unit_test(test_recall_cancel),  cmocka_unit_test(test_recall_allocations),
        cmocka_unit_test(test_lens),           cmocka_unit_test(test_verbatim),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
