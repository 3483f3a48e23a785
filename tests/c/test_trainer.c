/* Tests of km/trainer.h: steps as finite differences say, adapters, whole steps when stopped,
 * threads, arrays that a run goes on from, memory, errors. PyTorch's steps are in
 * tests/python/test_training.py. */
#include <math.h>

#include "km/trainer.h"
#include "km_test.h"

#define TINY KM_TEST_DATA "/golden_data/tiny_llama"

enum { N_IDS = 21, N_SEQUENCES = 3 };
static const int32_t IDS[N_IDS] = {5, 9, 12, 30, 7, 41, 3,  8,  99, 17, 22,
                                   6, 4, 55, 61, 2, 18, 70, 71, 72, 73};
static const int64_t OFFSETS[N_SEQUENCES + 1] = {0, 8, 13, N_IDS};
static const float WEIGHTS[N_IDS] = {0, 1, 1, 0.5f, 1, 1, 0, 0, 0, 2,    1,
                                     1, 1, 0, 0,    0, 1, 1, 1, 1, 0.25f};

static km_training_batch batch_of(int64_t pass_tokens) {
    return (km_training_batch){IDS, OFFSETS, N_SEQUENCES, WEIGHTS, pass_tokens, KM_RECOMPUTE_AUTO};
}

static km_model *load(km_ctx *ctx) {
    km_model *model = NULL, *copy = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_load(&model, ctx, TINY, NULL, &err), &err);
    km_test_ok(km_model_trainable(&copy, model, NULL, 0, &err), &err);
    km_model_free(model);
    return copy;
}

static km_trainer_options sgd_options(void) {
    km_trainer_options options = KM_TRAINER_OPTIONS_INIT;
    options.optimizer = (km_optimizer_options){.kind = KM_SGD};
    return options;
}

static km_trainer *make(km_model *model, const km_trainer_options *options) {
    km_trainer *trainer = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_trainer_new(&trainer, model, options, &err), &err);
    return trainer;
}

static km_training_step step(km_trainer *trainer, double rate, int64_t pass_tokens) {
    km_training_step out = {0};
    km_error err = KM_ERROR_INIT;
    const km_training_batch batch = batch_of(pass_tokens);
    km_test_ok(km_trainer_step(&out, trainer, &batch, rate, &err), &err);
    return out;
}

static km_parameter parameter(const km_model *model, const char *name) {
    km_parameter p;
    int64_t index;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_parameter_find(&index, model, name, &err), &err);
    km_test_ok(km_model_parameter_at(&p, model, index, &err), &err);
    return p;
}

/* ---- the step itself ---- */

/* What gradient descent takes off a weight is the slope of the loss that the trainer reports. */
static void slopes(void **state) {
    static const char *const names[] = {"token_embd.weight",     "output.weight",
                                        "blk.0.attn_q.weight",   "blk.1.attn_output.weight",
                                        "blk.2.ffn_gate.weight", "blk.1.ffn_norm.weight",
                                        "blk.2.ffn_down.weight", "output_norm.weight"};
    const km_trainer_options options = sgd_options();
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        km_model *model = load(*state);
        km_trainer *trainer = make(model, &options);
        const km_parameter p = parameter(model, names[k]);
        const int64_t at = k == 0 ? 9 * p.cols + 3 : p.n / 3;
        const float before = p.values[at];
        double at_side[2];
        for (int side = 0; side < 2; side++) {
            p.values[at] = before + (side == 0 ? -0.01f : 0.01f);
            km_model_changed(model);
            at_side[side] = step(trainer, 0.0, 0).loss;
        }
        const double slope = (at_side[1] - at_side[0]) / 0.02;
        p.values[at] = before;
        km_model_changed(model);
        (void)step(trainer, 1.0, 0);
        const double taken = (double)before - (double)p.values[at];
        assert_true(fabs(taken - slope) < 2e-3 * fabs(slope) + 2e-4);
        km_trainer_free(trainer);
        km_model_free(model);
    }
}

/* The mean over the weights, whatever the passes. */
static void passes(void **state) {
    const km_trainer_options options = sgd_options();
    km_training_step first = {0};
    for (int64_t pass_tokens = 0; pass_tokens < 30; pass_tokens += 9) {
        km_model *model = load(*state);
        km_trainer *trainer = make(model, &options);
        const km_training_step got = step(trainer, 0.1, pass_tokens);
        assert_int_equal(got.n_tokens, N_IDS);
        assert_int_equal(got.n_targets, 14);
        if (pass_tokens == 0) {
            first = got;
        }
        assert_true(fabs(got.loss - first.loss) < 1e-6 && fabs(got.norm - first.norm) < 1e-5);
        km_trainer_free(trainer);
        km_model_free(model);
    }
}

/* Clipped gradients have the length asked for. */
static void clipping(void **state) {
    km_trainer_options options = sgd_options();
    options.clip = 0.25;
    km_model *model = load(*state), *other = load(*state);
    km_trainer *trainer = make(model, &options);
    const km_training_step got = step(trainer, 1.0, 0);
    double squares = 0.0;
    assert_true(got.norm > 0.25);
    for (int64_t i = 0; i < km_model_n_tensors(model); i++) {
        km_parameter after, before;
        km_error err = KM_ERROR_INIT;
        km_test_ok(km_model_parameter_at(&after, model, i, &err), &err);
        km_test_ok(km_model_parameter_at(&before, other, i, &err), &err);
        for (int64_t k = 0; k < after.n; k++) {
            const double moved = (double)after.values[k] - (double)before.values[k];
            squares += moved * moved;
        }
    }
    assert_true(fabs(sqrt(squares) - 0.25) < 1e-4);
    km_trainer_free(trainer);
    km_model_free(model);
    km_model_free(other);
}

/* ---- threads, and users who stop ---- */

static void run(char print[65], int threads, int32_t rank, bool stop) {
    km_ctx *ctx = km_test_ctx(threads);
    km_model *model = load(ctx);
    km_trainer_options options = KM_TRAINER_OPTIONS_INIT;
    bool trained[128] = {false};
    km_error err = KM_ERROR_INIT;
    for (int64_t i = 0; i < km_model_n_tensors(model); i++) {
        km_parameter p;
        km_test_ok(km_model_parameter_at(&p, model, i, &err), &err);
        trained[i] = p.kind == KM_PARAMETER_MATRIX;
    }
    options.rank = rank;
    options.alpha = 8.0;
    options.trained = rank > 0 ? trained : NULL;
    km_trainer *trainer = make(model, &options);
    const km_training_batch batch = batch_of(0);
    for (int i = 0; i < 3; i++) {
        km_training_step out;
        if (stop) { /* before anything is changed: the step is not done */
            km_ctx_cancel(ctx);
            assert_int_equal(km_trainer_step(&out, trainer, &batch, 1e-2, &err), KM_ECANCELLED);
            assert_int_equal(km_trainer_last(trainer).step, i);
            km_error_clear(&err);
        }
        assert_int_equal(step(trainer, 1e-2, 0).step, i + 1);
    }
    km_test_ok(km_model_fingerprint(print, model, &err), &err);
    km_trainer_free(trainer);
    km_model_free(model);
    km_ctx_free(ctx);
}

static void threads_and_stops(void **state) {
    (void)state;
    for (int32_t rank = 0; rank < 4; rank += 3) {
        char first[65], other[65];
        run(first, 1, rank, false);
        for (int threads = 1; threads <= 3; threads++) {
            for (int stop = 0; stop < 2; stop++) {
                run(other, threads, rank, stop == 1);
                assert_string_equal(first, other);
            }
        }
    }
}

/* ---- arrays ---- */

/* Everything a step changes is among them: put into a fresh trainer, they go on with the same bits.
 */
static void check_arrays(km_ctx *ctx, const km_trainer_options *options, int64_t each) {
    km_model *model = load(ctx), *other = load(ctx);
    km_trainer *from = make(model, options), *to = make(other, options);
    km_error err = KM_ERROR_INIT;
    char a[65], b[65];
    (void)step(from, 1e-2, 0);
    (void)step(from, 1e-2, 0);
    const int64_t n = km_trainer_n_arrays(from);
    assert_int_equal(n % each, 0);
    for (int64_t i = 0; i < n; i++) {
        km_trainer_array source, target;
        km_test_ok(km_trainer_array_at(&source, from, i, &err), &err);
        km_test_ok(km_trainer_array_at(&target, to, i, &err), &err);
        assert_int_equal(source.rows * source.cols, target.rows * target.cols);
        assert_int_equal(source.kind == source.of, i % each == 0);
        memcpy(target.data, source.data, (size_t)(source.rows * source.cols) * sizeof(float));
    }
    km_test_ok(km_trainer_restored(to, 2, &err), &err);
    (void)step(from, 1e-2, 0);
    assert_int_equal(step(to, 1e-2, 0).step, 3);
    km_test_ok(km_model_fingerprint(a, model, &err), &err);
    km_test_ok(km_model_fingerprint(b, other, &err), &err);
    assert_string_equal(a, b);
    km_trainer_array array;
    km_test_fails(km_trainer_array_at(&array, from, n, &err), KM_ERANGE, &err, "array");
    km_test_fails(km_trainer_restored(to, -1, &err), KM_EINVAL, &err, "-1");
    km_trainer_free(from);
    km_trainer_free(to);
    km_model_free(model);
    km_model_free(other);
}

static void arrays(void **state) {
    km_trainer_options options = KM_TRAINER_OPTIONS_INIT;
    check_arrays(*state, &options, 3);
    options.optimizer = (km_optimizer_options){.kind = KM_SGD, .momentum = 0.9};
    check_arrays(*state, &options, 2);
    options = sgd_options();
    check_arrays(*state, &options, 1);
}

/* ---- memory ---- */

static void memory(void **state) {
    km_trainer_options options = KM_TRAINER_OPTIONS_INIT;
    km_trainer_memory whole, adapters;
    km_error err = KM_ERROR_INIT;
    km_model *model = load(*state);
    const int64_t n = km_model_parameters(model);
    km_test_ok(km_trainer_estimate(&whole, model, &options, 40, 20, 30, false, &err), &err);
    assert_int_equal(whole.weights, 4 * n);
    assert_int_equal(whole.gradients, 4 * n);
    assert_int_equal(whole.averages, 8 * n);
    assert_int_equal(whole.pass, km_model_train_pass_bytes(model, 40, 20, 30, false));
    bool trained[128] = {false};
    int64_t index;
    km_test_ok(km_model_parameter_find(&index, model, "blk.1.ffn_up.weight", &err), &err);
    trained[index] = true;
    options.trained = trained;
    options.rank = 2;
    options.alpha = 1.0;
    const km_parameter p = parameter(model, "blk.1.ffn_up.weight");
    km_test_ok(km_trainer_estimate(&adapters, model, &options, 40, 20, 30, true, &err), &err);
    assert_int_equal(adapters.weights, 4 * p.n);
    assert_int_equal(adapters.gradients, 4 * 2 * 2 * (p.rows + p.cols));
    assert_int_equal(adapters.averages, 4 * 2 * 2 * (p.rows + p.cols));
    km_trainer *trainer = NULL;
    options = (km_trainer_options)KM_TRAINER_OPTIONS_INIT;
    options.max_bytes = 1000;
    km_test_fails(km_trainer_new(&trainer, model, &options, &err), KM_ENOMEM, &err, "averages");
    km_model_free(model);
}

/* ---- errors ---- */

static void refused(km_trainer *trainer, km_training_batch batch, const char *part) {
    km_training_step out;
    km_error err = KM_ERROR_INIT;
    km_test_fails(km_trainer_step(&out, trainer, &batch, 1e-3, &err), KM_EINVAL, &err, part);
}

static void bad_batches(void **state) {
    const km_trainer_options options = sgd_options();
    km_model *model = load(*state);
    km_trainer *trainer = make(model, &options);
    km_training_batch batch = batch_of(0);
    float weights[N_IDS];
    int64_t offsets[] = {0, 8, 8, N_IDS};
    batch.offsets = offsets;
    refused(trainer, batch, "sequence 1 of the batch is empty");
    batch.offsets = OFFSETS;
    batch.weights = weights;
    memcpy(weights, WEIGHTS, sizeof weights);
    weights[8] = 1.0f;
    refused(trainer, batch, "first token of sequence 1");
    weights[8] = 0.0f;
    weights[9] = -1.0f;
    refused(trainer, batch, "token 1 of sequence 1 is -1");
    weights[9] = NAN;
    refused(trainer, batch, "token 1 of sequence 1");
    memset(weights, 0, sizeof weights);
    refused(trainer, batch, "no token of the batch");
    batch = batch_of(0);
    batch.n_sequences = 0;
    refused(trainer, batch, "at least one sequence");
    km_training_step out;
    km_error err = KM_ERROR_INIT;
    batch = batch_of(0);
    km_test_fails(km_trainer_step(&out, trainer, &batch, (double)NAN, &err), KM_EINVAL, &err,
                  "learning rate");
    assert_int_equal(km_trainer_last(trainer).step, 0);
    (void)step(trainer, 1e-3, 0);
    km_trainer_free(trainer);
    km_model_free(model);
}

static void bad_options(void **state) {
    km_model *model = load(*state), *origin = NULL;
    km_trainer *trainer = NULL;
    km_error err = KM_ERROR_INIT;
    km_trainer_options options = KM_TRAINER_OPTIONS_INIT;
    options.clip = -1.0;
    km_test_fails(km_trainer_new(&trainer, model, &options, &err), KM_EINVAL, &err, "clip");
    options.clip = 0.0;
    options.rank = -2;
    km_test_fails(km_trainer_new(&trainer, model, &options, &err), KM_EINVAL, &err, "rank is -2");
    options.rank = 2;
    km_test_fails(km_trainer_new(&trainer, model, &options, &err), KM_EINVAL, &err, "alpha");
    options.alpha = 4.0;
    km_test_fails(km_trainer_new(&trainer, model, &options, &err), KM_EINVAL, &err,
                  "'token_embd.weight' is no linear layer");
    options.rank = 0;
    km_test_ok(km_model_load(&origin, *state, TINY, NULL, &err), &err);
    km_test_fails(km_trainer_new(&trainer, origin, &options, &err), KM_EINVAL, &err,
                  "nothing to train");
    km_trainer_free(NULL);
    km_model_free(origin);
    km_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slopes),      cmocka_unit_test(passes),
        cmocka_unit_test(clipping),    cmocka_unit_test(threads_and_stops),
        cmocka_unit_test(arrays),      cmocka_unit_test(memory),
        cmocka_unit_test(bad_batches), cmocka_unit_test(bad_options),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
