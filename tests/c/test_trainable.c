/* test_trainable.c: parameters by name, trainable copies and immutable copies of those. */
#include <math.h>
#include <pthread.h>

#include "km/save.h"
#include "km/training.h"
#include "tiny_model.h"

static const char *const ARCHITECTURES[] = {
    "gemma2",          "gemma3", "gpt2",  "llama3",       "llama_bias", "mistral",
    "neox_sequential", "pythia", "qwen2", "qwen2_window", "qwen3"};
#define N_ARCHITECTURES ((int)(sizeof ARCHITECTURES / sizeof ARCHITECTURES[0]))
static const int32_t IDS[] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
#define N_IDS ((int)(sizeof IDS / sizeof IDS[0]))

static km_model *load_path(km_ctx *ctx, const char *path) {
    km_model *model;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_load(&model, ctx, path, NULL, &err), &err);
    return model;
}

static km_model *load(km_ctx *ctx, const char *name, bool gguf) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/golden_data/arch/%s%s", KM_TEST_DATA, name,
                   gguf ? ".gguf" : "");
    return load_path(ctx, path);
}

static km_model *trainable(const km_model *model) {
    km_model *copy;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_trainable(&copy, model, NULL, 0, &err), &err);
    return copy;
}

/* log p(. | IDS) of the whole vocabulary, to be freed. */
static float *logprobs(const km_model *model) {
    const int64_t vocab = km_model_config(model)->vocab_size;
    float *out = malloc((size_t)vocab * sizeof *out);
    km_error err = KM_ERROR_INIT;
    assert_non_null(out);
    km_test_ok(km_model_next_logprobs_into(out, model, IDS, N_IDS, &err), &err);
    return out;
}

static void same_logprobs(const km_model *a, const km_model *b, bool same) {
    float *x = logprobs(a), *y = logprobs(b);
    const size_t size = (size_t)km_model_config(a)->vocab_size * sizeof *x;
    assert_int_equal(memcmp(x, y, size) == 0, same);
    free(x);
    free(y);
}

static void for_all(void (*test)(km_ctx *ctx, const km_model *model, bool gguf)) {
    km_ctx *ctx = km_test_ctx(2);
    for (int i = 0; i < 2 * N_ARCHITECTURES; i++) {
        km_model *model = load(ctx, ARCHITECTURES[i / 2], i % 2 == 1);
        test(ctx, model, i % 2 == 1);
        km_model_free(model);
    }
    km_ctx_free(ctx);
}

/* Make every trainable value another one: x -> x + 2^-6 (1 + i mod 5), in float32. */
static void change_all(km_model *model) {
    for (int64_t i = 0; i < km_model_n_tensors(model); i++) {
        km_parameter p;
        assert_int_equal(km_model_parameter_at(&p, model, i, NULL), KM_OK);
        for (int64_t k = 0; p.values != NULL && k < p.n; k++) {
            p.values[k] += 0x1p-6f * (float)(1 + (k + i) % 5);
        }
    }
    km_model_changed(model);
}

/* ---- parameters ---- */

static void check_parameters(km_ctx *ctx, const km_model *model, bool gguf) {
    (void)ctx;
    (void)gguf;
    int64_t total = 0;
    for (int64_t i = 0; i < km_model_n_tensors(model); i++) {
        km_parameter p;
        int64_t index = -1;
        assert_int_equal(km_model_parameter_at(&p, model, i, NULL), KM_OK);
        assert_int_equal(km_model_parameter_find(&index, model, p.name, NULL), KM_OK);
        assert_int_equal(index, i);
        assert_int_equal(p.rows * p.cols, p.n);
        assert_int_equal(p.layer >= 0, strncmp(p.name, "blk.", 4) == 0);
        assert_int_equal(p.kind == KM_PARAMETER_BIAS, strstr(p.name, ".bias") != NULL);
        assert_int_equal(p.kind == KM_PARAMETER_GAIN, strstr(p.name, "norm.weight") != NULL);
        assert_null(p.values);
        total += p.n;
    }
    assert_int_equal(total, km_model_parameters(model));
}

static void test_parameters(void **state) {
    (void)state;
    for_all(check_parameters);
}

static void test_parameter_errors(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    km_model *model = load(ctx, "llama3", true);
    km_parameter p;
    int64_t index;
    km_error err = KM_ERROR_INIT;
    assert_int_equal(km_model_parameter_at(&p, model, km_model_n_tensors(model), &err), KM_ERANGE);
    assert_int_equal(km_model_parameter_at(&p, model, -1, NULL), KM_ERANGE);
    err = (km_error)KM_ERROR_INIT;
    assert_int_equal(km_model_parameter_find(&index, model, "model.embed_tokens.weight", &err),
                     KM_ENOTFOUND);
    assert_non_null(strstr(err.message, "blk."));
    km_model_free(model);
    km_ctx_free(ctx);
}

/* ---- trainable copies ---- */

static void check_trainable(km_ctx *ctx, const km_model *model, bool gguf) {
    (void)ctx;
    (void)gguf;
    km_model *copy = trainable(model);
    bool differs[256];
    km_error err = KM_ERROR_INIT;
    assert_true(km_model_n_tensors(copy) < 256);
    assert_int_equal(km_model_n_tensors(copy), km_model_n_tensors(model));
    same_logprobs(copy, model, true);
    km_test_ok(km_model_differs(differs, copy, &err), &err);
    for (int64_t i = 0; i < km_model_n_tensors(copy); i++) {
        assert_false(differs[i]);
    }
    change_all(copy);
    same_logprobs(copy, model, false);
    km_test_ok(km_model_differs(differs, copy, &err), &err);
    for (int64_t i = 0; i < km_model_n_tensors(copy); i++) {
        assert_true(differs[i]);
    }
    km_test_ok(km_model_restore(copy, NULL, &err), &err);
    same_logprobs(copy, model, true);
    km_model_free(copy);
}

static void test_trainable(void **state) {
    (void)state;
    for_all(check_trainable);
}

/* ---- immutable copies ---- */

static km_model *frozen(const km_model *model) {
    km_model *copy;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_frozen(&copy, model, &err), &err);
    return copy;
}

static void same_fingerprint(const km_model *a, const km_model *b, bool same) {
    char x[65], y[65];
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_fingerprint(x, a, &err), &err);
    km_test_ok(km_model_fingerprint(y, b, &err), &err);
    assert_int_equal(strcmp(x, y) == 0, same);
}

/* Saved as it came, and loaded again. */
static km_model *reloaded(km_ctx *ctx, const km_model *model, bool gguf) {
    char path[300], command[320];
    const char *place = getenv("TMPDIR");
    km_error err = KM_ERROR_INIT;
    (void)snprintf(path, sizeof path, "%s/km-trainable-%d%s", place != NULL ? place : "/tmp",
                   (int)getpid(), gguf ? ".gguf" : "");
    km_test_ok(km_model_save(model, path, NULL, &err), &err);
    km_model *again = load_path(ctx, path);
    (void)snprintf(command, sizeof command, "rm -r '%s'", path);
    assert_int_equal(system(command), 0);
    return again;
}

static void check_frozen(km_ctx *ctx, const km_model *model, bool gguf) {
    km_model *copy = trainable(model);
    km_model *unchanged = frozen(copy);
    same_logprobs(unchanged, model, true);
    same_fingerprint(unchanged, model, true);
    same_fingerprint(copy, model, true);
    km_model_free(unchanged);

    change_all(copy);
    km_model *changed = frozen(copy);
    same_logprobs(changed, copy, true);
    same_fingerprint(changed, copy, true);
    same_fingerprint(changed, model, false);
    km_model *again = reloaded(ctx, changed, gguf);
    same_logprobs(again, copy, true);
    same_fingerprint(again, copy, true);
    km_model_free(again);

    /* The copy is no view. */
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_restore(copy, NULL, &err), &err);
    same_logprobs(changed, copy, false);
    same_fingerprint(copy, model, true);
    km_model_free(copy);
    km_model_free(changed);
}

static void test_frozen(void **state) {
    (void)state;
    for_all(check_frozen);
}

/* One of three fused parameters: the others keep the file's values. */
static void check_one_changed(km_ctx *ctx, const km_model *model, bool gguf) {
    int64_t index;
    km_error err = KM_ERROR_INIT;
    bool which[256] = {false};
    km_parameter p;
    km_test_ok(km_model_parameter_find(&index, model, "blk.1.attn_k.weight", &err), &err);
    which[index] = true;
    km_model *copy;
    km_test_ok(km_model_trainable(&copy, model, which, 0, &err), &err);
    for (int64_t i = 0; i < km_model_n_tensors(copy); i++) {
        km_test_ok(km_model_parameter_at(&p, copy, i, &err), &err);
        assert_int_equal(p.values != NULL, i == index);
    }
    change_all(copy);
    km_model *changed = frozen(copy), *again = reloaded(ctx, changed, gguf);
    same_logprobs(changed, model, false);
    same_logprobs(changed, copy, true);
    same_logprobs(again, copy, true);
    same_fingerprint(again, copy, true);
    km_model_free(again);
    km_model_free(changed);
    km_model_free(copy);
}

static void test_one_changed(void **state) {
    (void)state;
    for_all(check_one_changed);
}

/* A trained random control can be frozen: it takes the layout of the model it is a control of. */
static void check_control(km_ctx *ctx, const km_model *model, bool gguf) {
    km_model *control;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_random_like(&control, model, 5, &err), &err);
    km_model *copy = trainable(control);
    same_logprobs(copy, control, true);
    change_all(copy);
    km_model *changed = frozen(copy), *again = reloaded(ctx, changed, gguf);
    km_model_free(control);
    same_logprobs(again, copy, true);
    same_fingerprint(again, copy, true);
    km_model_free(again);
    km_model_free(copy);
    same_logprobs(changed, changed, true);
    km_model_free(changed);
}

static void test_control(void **state) {
    (void)state;
    for_all(check_control);
}

/* ---- new models ---- */

/* The configuration of a folder, with other weights; whatever such a model can do. */
static void check_new(km_ctx *ctx, const km_model *model, bool gguf) {
    km_model *made, *twin, *other, *control;
    km_error err = KM_ERROR_INIT;
    km_new_model parts = {.tokenizer_of = model, .seed = 7};
    if (gguf) {
        return; /* needs metadata: tests/python/test_trainable.py */
    }
    parts.config = km_container_config_json(model->container, &parts.n_config);
    km_test_ok(km_model_new(&made, ctx, &parts, &err), &err);
    km_test_ok(km_model_new(&twin, ctx, &parts, &err), &err);
    parts.seed = 8;
    km_test_ok(km_model_new(&other, ctx, &parts, &err), &err);
    same_fingerprint(made, twin, true);
    same_fingerprint(made, other, false);
    same_logprobs(made, twin, true);
    same_logprobs(made, other, false);
    assert_int_equal(km_model_parameters(made), km_model_parameters(model));
    km_test_ok(km_model_random_like(&control, model, 7, &err), &err);
    same_logprobs(made, control, true);

    km_model *again = reloaded(ctx, made, false);
    same_fingerprint(again, made, true);
    km_model *copy = trainable(made);
    change_all(copy);
    km_model *changed = frozen(copy), *saved = reloaded(ctx, changed, false);
    same_logprobs(saved, copy, true);
    same_fingerprint(saved, copy, true);
    km_model *all[] = {made, twin, other, control, again, copy, changed, saved};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        km_model_free(all[i]);
    }
}

static void test_new(void **state) {
    (void)state;
    for_all(check_new);
}

static void refuse_new(km_ctx *ctx, const km_model *model, const char *config, km_status expected,
                       const char *message) {
    km_model *made = NULL;
    km_error err = KM_ERROR_INIT;
    const km_new_model parts = {
        .config = config, .n_config = strlen(config), .tokenizer_of = model};
    const km_status status = km_model_new(&made, ctx, &parts, &err);
    if (status != expected || strstr(err.message, message) == NULL) {
        fail_msg("%d: %s", (int)status, err.message);
    }
    assert_null(made);
}

#define CONFIG(model_type, rest)                                                                   \
    "{\"model_type\":\"" model_type "\",\"num_hidden_layers\":2,\"hidden_size\":32,"               \
    "\"intermediate_size\":64,\"num_attention_heads\":" rest "}"

static void test_new_errors(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    km_model *model = load(ctx, "llama3", false), *made = NULL;
    km_error err = KM_ERROR_INIT;
    refuse_new(ctx, model, CONFIG("llama", "4"), KM_EFORMAT, "vocab_size");
    refuse_new(ctx, model, CONFIG("llama", "4,\"vocab_size\":300"), KM_EINVAL,
               "vocab_size is 300, the tokenizer has 319");
    refuse_new(ctx, model, CONFIG("llama", "5,\"vocab_size\":319"), KM_EFORMAT, "head width");
    refuse_new(ctx, model, CONFIG("llama", "4,\"num_key_value_heads\":3,\"vocab_size\":319"),
               KM_EFORMAT, "4 heads cannot share 3 KV heads");
    refuse_new(ctx, model, CONFIG("llama", "-4,\"vocab_size\":319"), KM_EFORMAT, "number of heads");
    refuse_new(ctx, model, CONFIG("bloom", "4"), KM_EUNSUPPORTED, "'bloom' is not supported");
    refuse_new(ctx, model, CONFIG("llama", "4,\"vocab_size\":99999999"), KM_EFORMAT,
               "vocabulary size");
    refuse_new(ctx, model, "[]", KM_EFORMAT, "not a JSON object");
    const km_new_model nothing = {.tokenizer_of = model};
    assert_int_equal(km_model_new(&made, ctx, &nothing, &err), KM_EINVAL);
    km_model_free(model);
    km_ctx_free(ctx);
}

/* ---- what is refused ---- */

static void test_not_finite(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(2);
    km_model *model = load(ctx, "qwen2", true), *copy = trainable(model), *made = NULL;
    float out[1024];
    int64_t index;
    km_parameter p;
    km_error err = KM_ERROR_INIT;
    assert_true(km_model_config(model)->vocab_size <= 1024);
    km_test_ok(km_model_parameter_find(&index, copy, "blk.1.ffn_up.weight", &err), &err);
    km_test_ok(km_model_parameter_at(&p, copy, index, &err), &err);
    km_test_ok(km_model_next_logprobs_into(out, copy, IDS, N_IDS, &err), &err);
    p.values[17] = NAN;
    km_model_changed(copy);
    assert_int_equal(km_model_next_logprobs_into(out, copy, IDS, N_IDS, &err), KM_ENUMERIC);
    assert_non_null(strstr(err.message, "'blk.1.ffn_up.weight'"));
    assert_int_equal(km_model_frozen(&made, copy, NULL), KM_ENUMERIC);
    km_test_ok(km_model_restore(copy, NULL, NULL), &err);
    assert_int_equal(km_model_next_logprobs_into(out, copy, IDS, N_IDS, NULL), KM_OK);
    km_model_free(copy);
    km_model_free(model);
    km_ctx_free(ctx);
}

static void test_refusals(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    km_model *model = load(ctx, "qwen2", true), *copy = trainable(model), *made = NULL;
    bool differs[256];
    km_error err = KM_ERROR_INIT;
    assert_int_equal(km_model_trainable(&made, model, NULL, 1000, &err), KM_ENOMEM);
    assert_non_null(strstr(err.message, "0.0 MiB are allowed"));
    err = (km_error)KM_ERROR_INIT;
    assert_int_equal(km_model_trainable(&made, copy, NULL, 0, &err), KM_EINVAL);
    assert_non_null(strstr(err.message, "trainable already"));
    err = (km_error)KM_ERROR_INIT;
    assert_int_equal(km_model_save(copy, "no-such-path.gguf", NULL, &err), KM_EINVAL);
    assert_non_null(strstr(err.message, "km_model_frozen"));
    assert_int_equal(km_model_with_weights(&made, copy, NULL, 0, NULL), KM_EINVAL);
    assert_int_equal(km_model_differs(differs, model, NULL), KM_EINVAL);
    assert_int_equal(km_model_restore(model, NULL, NULL), KM_EINVAL);
    assert_null(made);
    km_model_changed(model); /* no trainable model: nothing happens */
    km_model_free(copy);
    km_model_free(model);
    km_ctx_free(ctx);
}

/* Controls and sessions of a trainable model outlive the caller's reference to it. */
static void test_derived(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    km_model *model = load(ctx, "llama3", true), *copy = trainable(model), *control, *control_too;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_random_like(&control, copy, 3, &err), &err);
    km_test_ok(km_model_random_like(&control_too, model, 3, &err), &err);
    same_logprobs(control, control_too, true);
    same_fingerprint(control, control_too, true);
    km_session *session;
    km_test_ok(km_session_new(&session, copy, 16, &err), &err);
    km_model_free(copy);
    km_model_free(model);
    same_logprobs(control, control_too, true);
    km_session_free(session);
    km_model_free(control);
    km_model_free(control_too);
    km_ctx_free(ctx);
}

/* ---- threads ---- */

typedef struct reader {
    const km_model *model;
    const float *expected;
    const char *fingerprint;
    bool same;
} reader;

static void *read_model(void *payload) {
    reader *r = payload;
    float *out = logprobs(r->model);
    char hex[65];
    const size_t size = (size_t)km_model_config(r->model)->vocab_size * sizeof *out;
    r->same = memcmp(out, r->expected, size) == 0 &&
              km_model_fingerprint(hex, r->model, NULL) == KM_OK &&
              strcmp(hex, r->fingerprint) == 0;
    free(out);
    return NULL;
}

/* Eight threads read a changed model whose values are unchecked and whose fingerprint is absent. */
static void test_threads(void **state) {
    enum { N = 8 };
    (void)state;
    km_ctx *ctx = km_test_ctx(2);
    km_model *model = load(ctx, "gemma3", false), *copy = trainable(model);
    pthread_t threads[N];
    reader readers[N];
    char hex[65];
    change_all(copy);
    float *expected = logprobs(copy);
    assert_int_equal(km_model_fingerprint(hex, copy, NULL), KM_OK);
    km_model_changed(copy);
    for (int i = 0; i < N; i++) {
        readers[i] = (reader){copy, expected, hex, false};
        assert_int_equal(pthread_create(&threads[i], NULL, read_model, &readers[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        (void)pthread_join(threads[i], NULL);
        assert_true(readers[i].same);
    }
    free(expected);
    km_model_free(copy);
    km_model_free(model);
    km_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters),  cmocka_unit_test(test_parameter_errors),
        cmocka_unit_test(test_trainable),   cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_one_changed), cmocka_unit_test(test_control),
        cmocka_unit_test(test_new),         cmocka_unit_test(test_new_errors),
        cmocka_unit_test(test_not_finite),  cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_derived),     cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
