/* test_model.c: tiny models on disk (Hugging Face folders with random weights) loaded and run:
 * the log-probabilities transformers gives, on every CPU variant and thread count, random controls,
 * references, failing allocations, and requests that stop half-way. The files and what is expected
 * of them come from tests/oracle/make_tiny.py. */
#include <math.h>

#include "km/model.h"
#include "km_test.h"
#include "model/model_private.h"

#define N_TOKENS 40
#define MOST_VOCAB 512

static const char *const names[] = {"tiny_llama", "tiny_gemma3"};

static const char *folder_of(const char *name) {
    static char path[2][1024];
    static int turn;
    turn = !turn;
    (void)snprintf(path[turn], sizeof path[turn], "%s/golden_data/%s", KM_TEST_DATA, name);
    return path[turn];
}

static void read_file(void *out, const char *name, const char *file, size_t n_bytes) {
    char path[1100];
    (void)snprintf(path, sizeof path, "%s/%s", folder_of(name), file);
    FILE *stream = fopen(path, "rb");
    assert_non_null(stream);
    assert_int_equal(fread(out, 1, n_bytes, stream), n_bytes);
    assert_int_equal(fgetc(stream), EOF);
    (void)fclose(stream);
}

/* What transformers says: ids (N_TOKENS) and log-probabilities (N_TOKENS, V). */
typedef struct golden {
    int32_t ids[N_TOKENS];
    float logprobs[N_TOKENS * MOST_VOCAB];
    int64_t vocab;
} golden;

static void golden_read(golden *g, const char *name, int64_t vocab) {
    assert_true(vocab <= MOST_VOCAB);
    g->vocab = vocab;
    read_file(g->ids, name, "ids.bin", sizeof g->ids);
    read_file(g->logprobs, name, "logprobs.bin", (size_t)(N_TOKENS * vocab) * sizeof(float));
}

static km_model *load(km_ctx *ctx, const char *name) {
    km_model *model = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_load(&model, ctx, folder_of(name), NULL, &err), &err);
    return model;
}

/* Log-probabilities after every token: (N_TOKENS, V). */
static void run(float *out, const km_model *model, const golden *g) {
    km_error err = KM_ERROR_INIT;
    for (int64_t n = 1; n <= N_TOKENS; n++) {
        km_test_ok(km_model_next_logprobs_into(out + (n - 1) * g->vocab, model, g->ids, n, &err),
                   &err);
    }
}

static void compare(const float *got, const golden *g) {
    for (int64_t i = 0; i < N_TOKENS * g->vocab; i++) {
        assert_true(fabsf(got[i] - g->logprobs[i]) < 5e-5f);
    }
}

static km_ctx *variant_ctx(const char *cpu) {
    km_ctx_options options = {2, cpu, NULL};
    km_ctx *ctx = NULL;
    km_status status = km_ctx_new(&ctx, &options, NULL);
    assert_true(status == KM_OK || status == KM_EUNSUPPORTED);
    return ctx;
}

static void test_log_probabilities_are_those_of_transformers(void **state) {
    (void)state;
    static const char *const cpus[] = KM_TEST_CPUS;
    golden *g = malloc(sizeof *g);
    float *got = malloc(sizeof g->logprobs);
    assert_true(g != NULL && got != NULL);
    for (int i = 0; i < 2 * KM_TEST_N_CPUS; i++) {
        km_ctx *ctx = variant_ctx(cpus[i / 2]);
        if (ctx == NULL) {
            continue; /* this machine has no such instructions */
        }
        km_model *model = load(ctx, names[i % 2]);
        golden_read(g, names[i % 2], km_model_config(model)->vocab_size);
        run(got, model, g);
        compare(got, g);
        km_model_free(model);
        km_ctx_free(ctx);
    }
    free(g);
    free(got);
}

static void test_logprobs_follow_the_sequence(void **state) {
    golden *g = malloc(sizeof *g);
    assert_non_null(g);
    for (int i = 0; i < 2; i++) {
        km_model *model = load(*state, names[i]);
        golden_read(g, names[i], km_model_config(model)->vocab_size);
        float got[N_TOKENS - 1];
        km_error err = KM_ERROR_INIT;
        km_test_ok(km_model_logprobs_into(got, model, g->ids, N_TOKENS, &err), &err);
        for (int64_t t = 1; t < N_TOKENS; t++) {
            float expected = g->logprobs[(t - 1) * g->vocab + g->ids[t]];
            assert_true(fabsf(got[t - 1] - expected) < 5e-5f);
        }
        km_model_free(model);
    }
    free(g);
}

static void test_same_bits_for_any_thread_count(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 7};
    golden *g = malloc(sizeof *g);
    float *got[3];
    assert_non_null(g);
    for (int i = 0; i < 3; i++) {
        km_ctx *ctx = km_test_ctx(threads[i]);
        km_model *model = load(ctx, "tiny_gemma3");
        got[i] = malloc(sizeof g->logprobs);
        assert_non_null(got[i]);
        golden_read(g, "tiny_gemma3", km_model_config(model)->vocab_size);
        run(got[i], model, g);
        km_model_free(model);
        km_ctx_free(ctx);
    }
    const size_t bytes = (size_t)(N_TOKENS * g->vocab) * sizeof(float);
    assert_memory_equal(got[0], got[1], bytes);
    assert_memory_equal(got[0], got[2], bytes);
    for (int i = 0; i < 3; i++) {
        free(got[i]);
    }
    free(g);
}

/* The control has the shape, tokenizer and origin of the model, other weights, and outlives the
 * caller's handle on the model. */
static void test_random_control(void **state) {
    km_model *model = load(*state, "tiny_llama"), *control = NULL, *again = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_random_like(&control, model, 5, &err), &err);
    km_test_ok(km_model_random_like(&again, model, 5, &err), &err);
    assert_ptr_equal(km_model_tokenizer(control), km_model_tokenizer(model));
    assert_memory_equal(km_model_config(control), km_model_config(model), sizeof(km_config));
    assert_int_equal(km_model_parameters(control), km_model_parameters(model));
    km_model_free(model);
    golden *g = malloc(sizeof *g);
    float *first = malloc(sizeof g->logprobs), *second = malloc(sizeof g->logprobs);
    assert_true(g != NULL && first != NULL && second != NULL);
    golden_read(g, "tiny_llama", km_model_config(control)->vocab_size);
    run(first, control, g);
    run(second, again, g);
    assert_memory_equal(first, second, (size_t)(N_TOKENS * g->vocab) * sizeof(float));
    assert_true(fabsf(first[0] - g->logprobs[0]) > 1e-3f);
    free(g);
    free(first);
    free(second);
    km_model_free(control);
    km_model_free(again);
}

static void test_references_and_getters(void **state) {
    km_model *model = load(*state, "tiny_gemma3");
    assert_ptr_equal(km_model_ref(model), model);
    km_model_free(model);
    assert_ptr_equal(km_model_ctx(model), *state);
    assert_string_equal(km_model_path(model), folder_of("tiny_gemma3"));
    assert_string_equal(km_model_precision(model), "F32");
    assert_string_equal(km_model_config(model)->arch, "gemma3");
    assert_int_equal(km_model_config(model)->sliding_window, 8);
    assert_true(km_model_config(model)->windowed[1] && !km_model_config(model)->windowed[2]);
    assert_non_null(km_model_tokenizer(model));
    km_model_free(model);
    km_model_free(NULL);
}

static void test_loading_what_is_not_there(void **state) {
    km_model *model = NULL;
    km_error err = KM_ERROR_INIT;
    assert_true(km_model_load(&model, *state, folder_of("no_such_model"), NULL, &err) != KM_OK);
    assert_non_null(strstr(err.message, "no_such_model"));
    assert_null(model);
    km_error_clear(&err);
    km_test_fails(km_model_load(&model, *state, NULL, NULL, &err), KM_EINVAL, &err, "path");
}

/* Load, run, make a control: each allocation in turn fails. */
static km_status load_and_run(km_ctx *ctx, km_error *err) {
    static const int32_t ids[] = {1, 2, 3, 4};
    float out[3];
    km_model *model = NULL, *control = NULL;
    km_status status = KM_OK;
    KM_GO(km_model_load(&model, ctx, folder_of("tiny_llama"), NULL, err));
    KM_GO(km_model_logprobs_into(out, model, ids, 4, err));
    KM_GO(km_model_random_like(&control, model, 1, err));
done:
    km_model_free(control);
    km_model_free(model);
    return status;
}

static void test_every_failing_allocation_is_reported(void **state) {
    (void)state;
    km_test_every_allocation(load_and_run);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_probabilities_are_those_of_transformers),
        cmocka_unit_test(test_logprobs_follow_the_sequence),
        cmocka_unit_test(test_same_bits_for_any_thread_count),
        cmocka_unit_test(test_random_control),
        cmocka_unit_test(test_references_and_getters),
        cmocka_unit_test(test_loading_what_is_not_there),
        cmocka_unit_test(test_every_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
