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
    float expected_logits[MOST_VOCAB];
    km_session *session; /* that all callers try to use at once; NULL: none */
} shared;

/* Logits (V) after the last token of a pass. */
static km_status keep_logits(void *payload, int64_t index, int32_t layer, const float *logits,
                             int64_t vocab, km_error *err) {
    (void)index;
    (void)layer;
    (void)err;
    memcpy(payload, logits, (size_t)vocab * sizeof(float));
    return KM_OK;
}

/* Tokens first .. first+n-1 of IDS as a chain; the logits after the last into out. */
static km_status run_chain(float *out, const km_model *model, km_session *session, int64_t first,
                           int64_t n, km_error *err) {
    int64_t parent[N_IDS];
    const int64_t last = n - 1;
    for (int64_t i = 0; i < n; i++) {
        parent[i] = first + i - 1;
    }
    const km_forward_request request = {.tree = {IDS + first, parent, n},
                                        .rows = &last,
                                        .n_rows = 1,
                                        .on_logits = keep_logits,
                                        .payload = out,
                                        .session = session};
    return km_model_forward(model, &request, err);
}

typedef struct caller {
    const shared *common;
    pthread_t thread;
    int64_t n_wrong, n_busy;
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

/* A session of one's own, filled in two steps. */
static km_status use_own_session(caller *self) {
    const km_model *model = self->common->model;
    float logits[MOST_VOCAB];
    km_session *session = NULL;
    km_status status = KM_OK;
    KM_GO(km_session_new(&session, model, N_IDS, &self->err));
    KM_GO(run_chain(logits, model, session, 0, 4, &self->err));
    KM_GO(run_chain(logits, model, session, 4, N_IDS - 4, &self->err));
    self->n_wrong += memcmp(logits, self->common->expected_logits,
                            (size_t)km_model_config(model)->vocab_size * sizeof(float)) != 0;
done:
    km_session_free(session);
    return status;
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
    return use_own_session(self);
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

/* One session for all: whoever comes second is told so, and nothing is computed twice. */
static void *use_common_session(void *payload) {
    caller *self = payload;
    const shared *common = self->common;
    const int64_t root = -1;
    const km_forward_request request = {.tree = {IDS, &root, 1}, .session = common->session};
    for (int i = 0; i < N_ROUNDS && self->err.code == KM_OK; i++) {
        if (km_model_forward(common->model, &request, &self->err) == KM_ESTATE) {
            self->n_busy++;
            km_error_clear(&self->err);
        }
    }
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
    km_test_ok(run_chain(common->expected_logits, lone, NULL, 0, N_IDS, &err), &err);
    common->expected = next;
    km_model_free(lone);
    km_ctx_free(ctx);
}

/* Run fn on every caller at once. */
static void run_callers(caller *callers, const shared *common, void *(*fn)(void *)) {
    for (int i = 0; i < N_THREADS; i++) {
        callers[i] = (caller){.common = common, .err = KM_ERROR_INIT};
        assert_int_equal(pthread_create(&callers[i].thread, NULL, fn, &callers[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        assert_int_equal(pthread_join(callers[i].thread, NULL), 0);
        km_test_ok(callers[i].err.code, &callers[i].err);
        assert_int_equal(callers[i].n_wrong, 0);
    }
}

static void share(int n_pool_threads) {
    float next[MOST_VOCAB];
    shared common = {0};
    caller callers[N_THREADS];
    expect(&common, next, 1);
    km_ctx *ctx = km_test_ctx(n_pool_threads);
    common.model = load_tiny(ctx);
    run_callers(callers, &common, call_often);
    km_model_free(common.model);
    km_ctx_free(ctx);
}

static void test_one_session_is_used_by_one_thread(void **state) {
    (void)state;
    shared common = {0};
    caller callers[N_THREADS];
    int64_t n_busy = 0;
    km_error err = KM_ERROR_INIT;
    km_ctx *ctx = km_test_ctx(2);
    common.model = load_tiny(ctx);
    km_test_ok(km_session_new(&common.session, common.model, N_THREADS * N_ROUNDS, &err), &err);
    run_callers(callers, &common, use_common_session);
    for (int i = 0; i < N_THREADS; i++) {
        n_busy += callers[i].n_busy;
    }
    assert_int_equal(km_session_length(common.session), N_THREADS * N_ROUNDS - n_busy);
    km_session_free(common.session);
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
        cmocka_unit_test(test_one_session_is_used_by_one_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
