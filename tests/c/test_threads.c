/* test_threads.c: eight threads share one model: every call gives the bits a lone call gives. Built
 * with ThreadSanitizer too (preset tsan), which is what finds the races that happen to be harmless.
 */
#include <pthread.h>

#include "km/model.h"
#include "km_test.h"

#define N_THREADS 8
#define N_ROUNDS 12
#define N_IDS 9
#define MOST_VOCAB 512

static const int32_t IDS[N_IDS] = {5, 17, 3, 90, 41, 7, 7, 120, 2};

typedef struct shared {
    km_model *model;
    const float *expected; /* (V) after IDS */
    float expected_tokens[N_IDS - 1];
    char fingerprint[65];
} shared;

typedef struct caller {
    const shared *common;
    pthread_t thread;
    int64_t n_wrong;
    km_error err;
} caller;

static km_model *load_tiny(km_ctx *ctx) {
    km_model *model = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_load(&model, ctx, KM_TEST_DATA "/golden_data/tiny_llama", NULL, &err),
               &err);
    assert_true(km_model_config(model)->vocab_size <= MOST_VOCAB);
    return model;
}

static km_status call_once(caller *self) {
    const shared *common = self->common;
    const km_model *model = common->model;
    const int64_t vocab = km_model_config(model)->vocab_size;
    float next[MOST_VOCAB], tokens[N_IDS - 1];
    char fingerprint[65];
    KM_TRY(km_model_next_logprobs_into(next, model, IDS, N_IDS, &self->err));
    KM_TRY(km_model_logprobs_into(tokens, model, IDS, N_IDS, &self->err));
    KM_TRY(km_model_fingerprint(fingerprint, model, &self->err));
    self->n_wrong += memcmp(next, common->expected, (size_t)vocab * sizeof(float)) != 0;
    self->n_wrong += memcmp(tokens, common->expected_tokens, sizeof tokens) != 0;
    self->n_wrong += strcmp(fingerprint, common->fingerprint) != 0;
    return KM_OK;
}

static void *call_often(void *payload) {
    caller *self = payload;
    km_model *own = km_model_ref(self->common->model);
    for (int i = 0; i < N_ROUNDS && self->err.code == KM_OK; i++) {
        (void)call_once(self);
    }
    km_model_free(own);
    return NULL;
}

/* What a lone call gives. The model that the threads then share has computed nothing yet, so that
 * what it remembers of its first use is made under contention. */
static void expect(shared *common, float *next, int n_threads) {
    km_ctx *ctx = km_test_ctx(n_threads);
    km_model *lone = load_tiny(ctx);
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_next_logprobs_into(next, lone, IDS, N_IDS, &err), &err);
    km_test_ok(km_model_logprobs_into(common->expected_tokens, lone, IDS, N_IDS, &err), &err);
    km_test_ok(km_model_fingerprint(common->fingerprint, lone, &err), &err);
    common->expected = next;
    km_model_free(lone);
    km_ctx_free(ctx);
}

static void share(int n_pool_threads) {
    float next[MOST_VOCAB];
    shared common = {0};
    caller callers[N_THREADS];
    expect(&common, next, 1);
    km_ctx *ctx = km_test_ctx(n_pool_threads);
    common.model = load_tiny(ctx);
    for (int i = 0; i < N_THREADS; i++) {
        callers[i] = (caller){.common = &common, .err = KM_ERROR_INIT};
        assert_int_equal(pthread_create(&callers[i].thread, NULL, call_often, &callers[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        assert_int_equal(pthread_join(callers[i].thread, NULL), 0);
        km_test_ok(callers[i].err.code, &callers[i].err);
        assert_int_equal(callers[i].n_wrong, 0);
    }
    km_model_free(common.model);
    km_ctx_free(ctx);
}

static void test_eight_callers_of_one_thread(void **state) {
    (void)state;
    share(1);
}

static void test_eight_callers_of_a_pool(void **state) {
    (void)state;
    share(4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_eight_callers_of_one_thread),
        cmocka_unit_test(test_eight_callers_of_a_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
