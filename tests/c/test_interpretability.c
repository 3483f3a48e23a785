/* test_interpretability.c: the lens of many prompts is that of each; parts of a logit add up to it
 * in every architecture. */
#include <math.h>
#include <stdio.h>

#include "base/base.h"
#include "km/interpretability.h"
#include "km/memorization.h"
#include "km_test.h"

#define MAX_PARTS 512

static const char *const ARCHITECTURES[] = {"gpt2",   "llama3",     "mistral",
                                            "qwen2",  "gemma2",     "gemma3",
                                            "pythia", "llama_bias", "neox_sequential"};
enum { N_ARCHITECTURES = sizeof ARCHITECTURES / sizeof ARCHITECTURES[0] };

static const int32_t IDS[] = {5, 17, 3, 5, 17, 9, 11, 7, 5, 30};
static const int64_t OFFSETS[] = {0, 3, 7, 8, 10};
enum { N_PROMPTS = 4 };

static km_model *load(km_ctx *ctx, const char *folder) {
    km_error err = KM_ERROR_INIT;
    char path[512];
    km_model *model = NULL;
    snprintf(path, sizeof path, "%s/golden_data/%s", KM_TEST_DATA, folder);
    km_test_ok(km_model_load(&model, ctx, path, NULL, &err), &err);
    return model;
}

static km_ctx *new_ctx(int n_threads) {
    km_error err = KM_ERROR_INIT;
    km_ctx_options options = KM_CTX_OPTIONS_INIT;
    km_ctx *ctx = NULL;
    options.n_threads = n_threads;
    km_test_ok(km_ctx_new(&ctx, &options, &err), &err);
    return ctx;
}

/* ---- lens ---- */

enum { LAYERS = 4, TOP = 3 };

static void test_lens(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    km_ctx *ctx = new_ctx(2);
    km_model *model = load(ctx, "tiny_llama");
    const int32_t targets[N_PROMPTS] = {4, 9, 20, 4};
    int64_t rank[2][N_PROMPTS * LAYERS];
    double logprob[2][N_PROMPTS * LAYERS], top_logprobs[2][N_PROMPTS * LAYERS * TOP];
    int32_t top_ids[2][N_PROMPTS * LAYERS * TOP];
    assert_int_equal(km_model_config(model)->n_layers + 1, LAYERS);
    for (int i = 0; i < 2; i++) {
        const km_lens_arrays out = {rank[i], logprob[i], NULL, top_ids[i], top_logprobs[i]};
        km_test_ok(km_lens_run_into(&out, model, IDS, OFFSETS, N_PROMPTS, targets, TOP,
                                    i == 0 ? 1024 : 1, NULL, NULL, &err),
                   &err);
    }
    assert_memory_equal(rank[0], rank[1], sizeof rank[0]);
    assert_memory_equal(logprob[0], logprob[1], sizeof logprob[0]);
    assert_memory_equal(top_ids[0], top_ids[1], sizeof top_ids[0]);
    assert_memory_equal(top_logprobs[0], top_logprobs[1], sizeof top_logprobs[0]);
    for (int p = 0; p < N_PROMPTS; p++) {
        km_table *table = NULL;
        km_test_ok(km_lens_run(&table, model, IDS + OFFSETS[p], OFFSETS[p + 1] - OFFSETS[p],
                               targets[p], TOP, &err),
                   &err);
        for (int l = 0; l < LAYERS; l++) {
            const int at = p * LAYERS + l;
            assert_int_equal(km_table_int64(table, km_table_find(table, "rank"), l), rank[0][at]);
            assert_true(km_table_double(table, km_table_find(table, "logprob"), l) ==
                        logprob[0][at]);
            assert_int_equal(km_table_int64(table, km_table_find(table, "top_id"), l),
                             top_ids[0][at * TOP]);
        }
        km_table_free(table);
    }
    km_model_free(model);
    km_ctx_free(ctx);
}

static void test_lens_refuses(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    km_ctx *ctx = new_ctx(1);
    km_model *model = load(ctx, "tiny_llama");
    const int64_t empty[] = {0, 0};
    const int32_t good = 4, bad = 100000;
    int64_t rank[LAYERS];
    double logprob[LAYERS];
    const km_lens_arrays out = {rank, logprob, NULL, NULL, NULL};
    km_test_fails(km_lens_run_into(&out, model, IDS, empty, 1, &good, 0, 8, NULL, NULL, &err),
                  KM_EINVAL, &err, "prompt 0");
    km_test_fails(km_lens_run_into(&out, model, IDS, OFFSETS, 1, &bad, 0, 8, NULL, NULL, &err),
                  KM_ERANGE, &err, "target");
    km_test_fails(km_lens_run_into(&out, model, IDS, OFFSETS, 1, &good, -1, 8, NULL, NULL, &err),
                  KM_ERANGE, &err, "top_k");
    km_model_free(model);
    km_ctx_free(ctx);
}

/* ---- attribution ---- */

typedef struct two_logits {
    int32_t token, contrast;
    double difference, cap;
} two_logits;

/* The difference before the soft cap. */
static km_status see_logits(void *payload, int64_t index, int32_t layer, const float *logits,
                            int64_t vocab, km_error *err) {
    (void)index;
    (void)layer;
    (void)vocab;
    (void)err;
    two_logits *seen = payload;
    double x[2] = {(double)logits[seen->token],
                   seen->contrast < 0 ? 0.0 : (double)logits[seen->contrast]};
    for (int i = 0; i < 2 && seen->cap > 0; i++) {
        x[i] = seen->cap * atanh(x[i] / seen->cap);
    }
    seen->difference = x[0] - x[1];
    return KM_OK;
}

static double difference(const km_model *model, int prompt, int32_t token, int32_t contrast) {
    km_error err = KM_ERROR_INIT;
    int64_t parent[10];
    const int64_t n = OFFSETS[prompt + 1] - OFFSETS[prompt], last = n - 1;
    two_logits seen = {token, contrast, 0.0, (double)km_model_config(model)->final_softcap};
    for (int64_t i = 0; i < n; i++) {
        parent[i] = i - 1;
    }
    const km_forward_request request = {.tree = {IDS + OFFSETS[prompt], parent, n},
                                        .rows = &last,
                                        .n_rows = 1,
                                        .on_logits = see_logits,
                                        .payload = &seen};
    km_test_ok(km_model_forward(model, &request, &err), &err);
    return seen.difference;
}

static void check_parts(const km_model *model, const char *name) {
    km_error err = KM_ERROR_INIT;
    const int32_t tokens[N_PROMPTS] = {4, 9, 20, 4}, contrasts[N_PROMPTS] = {7, -1, 3, -1};
    const int64_t n_parts = km_attribution_parts(model);
    double parts[N_PROMPTS * MAX_PARTS], logits[N_PROMPTS];
    assert_true(n_parts <= MAX_PARTS);
    km_test_ok(km_attribution_run_into(parts, logits, model, IDS, OFFSETS, N_PROMPTS, tokens,
                                       contrasts, 6, NULL, NULL, &err),
               &err);
    for (int p = 0; p < N_PROMPTS; p++) {
        double sum = 0;
        for (int64_t i = 0; i < n_parts; i++) {
            sum += parts[p * n_parts + i];
        }
        double expected = difference(model, p, tokens[p], contrasts[p]);
        if (fabs(sum - logits[p]) > 1e-4 || fabs(sum - expected) > 1e-4) {
            fail_msg("%s, prompt %d: parts sum to %.7f, logit %.7f, model %.7f", name, p, sum,
                     logits[p], expected);
        }
    }
}

static void test_parts_sum_to_the_logit(void **state) {
    (void)state;
    km_ctx *ctx = new_ctx(2);
    for (int i = 0; i < N_ARCHITECTURES; i++) {
        char folder[64];
        snprintf(folder, sizeof folder, "arch/%s", ARCHITECTURES[i]);
        km_model *model = load(ctx, folder);
        check_parts(model, ARCHITECTURES[i]);
        km_model_free(model);
    }
    km_ctx_free(ctx);
}

static void test_attribution_refuses(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    km_ctx *ctx = new_ctx(1);
    km_model *model = load(ctx, "tiny_llama");
    const int64_t empty[] = {0, 0};
    const int32_t good = 4, bad = -2;
    double parts[MAX_PARTS], logit;
    km_test_fails(km_attribution_run_into(parts, &logit, model, IDS, empty, 1, &good, NULL, 8, NULL,
                                          NULL, &err),
                  KM_EINVAL, &err, "prompt 0");
    km_test_fails(km_attribution_run_into(parts, &logit, model, IDS, OFFSETS, 1, &good, &bad, 8,
                                          NULL, NULL, &err),
                  KM_ERANGE, &err, "vocabulary");
    km_model_free(model);
    km_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lens),
        cmocka_unit_test(test_lens_refuses),
        cmocka_unit_test(test_parts_sum_to_the_logit),
        cmocka_unit_test(test_attribution_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
