/* test_allocation.c: every function of the public headers that can allocate survives the failure of
 * its first, second, third ... allocation: KM_ENOMEM with a message, nothing leaked, and the model
 * works on. tools/check_allocation.py checks that no such function is missing here. */
#include <unistd.h>

#include "km/affine_lens.h"
#include "km/arrow.h"
#include "km/circuit.h"
#include "km/gradient.h"
#include "km/interpretability.h"
#include "km/memorization.h"
#include "km/neurons.h"
#include "km/priming_scores.h"
#include "km/save.h"
#include "km/score.h"
#include "km/select.h"
#include "km/stats.h"
#include "km/trainer.h"
#include "km/training.h"
#include "km_test.h"
#include "select_batch.h"

#define N 6

typedef struct fixture {
    km_test_memory memory;
    km_ctx *ctx;
    km_model *model;
} fixture;

typedef km_status (*body_fn)(fixture *f, km_error *err);

static const int32_t IDS[] = {5, 17, 3, 90, 41, 7, 9, 30};
static const double X[N] = {0.5, 0.25, 0.75, 0.1, 0.9, 0.3};
static const double Y[N] = {0.1, 0.2, 0.8, 0.3, 0.6, 0.4};
static const int64_t GROUP[N] = {0, 0, 1, 1, 2, 2};

/* ---- models ---- */

static km_status load(fixture *f, km_error *err) {
    km_model *model = NULL;
    KM_TRY(km_model_load(&model, f->ctx, KM_TEST_DATA "/golden_data/tiny_llama", NULL, err));
    km_model_free(model);
    return KM_OK;
}

static km_status random_like(fixture *f, km_error *err) {
    km_model *model = NULL;
    KM_TRY(km_model_random_like(&model, f->model, 1, err));
    km_model_free(model);
    return KM_OK;
}

static km_status fingerprint(fixture *f, km_error *err) {
    char hex[65];
    return km_model_fingerprint(hex, f->model, err);
}

static km_status ignore_logits(void *payload, int64_t index, int32_t layer, const float *logits,
                               int64_t vocab, km_error *err) {
    (void)payload;
    (void)index;
    (void)layer;
    (void)logits;
    (void)vocab;
    (void)err;
    return KM_OK;
}

static km_status forward(fixture *f, km_error *err) {
    static const int64_t parent[] = {-1, 0, 1, 1, 3}, rows[] = {2, 4};
    const km_forward_request request = {.tree = {IDS, parent, 5},
                                        .rows = rows,
                                        .n_rows = 2,
                                        .lens_rows = rows,
                                        .n_lens_rows = 1,
                                        .on_logits = ignore_logits};
    return km_model_forward(f->model, &request, err);
}

static km_status logprobs(fixture *f, km_error *err) {
    float out[8];
    return km_model_logprobs_into(out, f->model, IDS, 8, err);
}

static km_status next_logprobs(fixture *f, km_error *err) {
    float out[4096];
    assert_true(km_model_config(f->model)->vocab_size <= 4096);
    return km_model_next_logprobs_into(out, f->model, IDS, 8, err);
}

static km_status unembed(fixture *f, km_error *err) {
    float x[256] = {1}, out[4096];
    assert_true(km_model_config(f->model)->d_model <= 256);
    return km_model_unembed_into(out, f->model, x, 1, true, err);
}

/* A session that takes three tokens, forgets one and keeps one. */
static km_status sessions(fixture *f, km_error *err) {
    static const int64_t parent[] = {-1, 0, 1}, kept[] = {0};
    km_status status = KM_OK;
    km_session *session = NULL;
    KM_GO(km_session_new(&session, f->model, 8, err));
    const km_forward_request request = {.tree = {IDS, parent, 3}, .session = session};
    KM_GO(km_model_forward(f->model, &request, err));
    KM_GO(km_session_truncate(session, 2, err));
    KM_GO(km_session_keep(session, kept, 1, err));
done:
    km_session_free(session);
    return status;
}

static km_status loss_of_first(void *payload, int64_t index, float *row, int64_t vocab,
                               km_error *err) {
    (void)payload;
    (void)index;
    (void)err;
    memset(row, 0, (size_t)vocab * sizeof(float));
    row[0] = 1.0f;
    return KM_OK;
}

static km_status gradients(fixture *f, km_error *err) {
    static const int64_t parent[] = {-1, 0, 1, 1}, row = 3;
    float out[4096];
    const km_read read = {
        .point = KM_POINT_RESID_PRE, .head = -1, .nodes = &row, .n_nodes = 1, .out = out};
    const km_gradient_request request = {
        .forward = {.tree = {IDS, parent, 4}, .rows = &row, .n_rows = 1},
        .loss = loss_of_first,
        .gradients = &read,
        .n_gradients = 1};
    return km_model_gradients(f->model, &request, err);
}

static km_status train_pass(fixture *f, km_error *err) {
    static const int64_t parent[] = {-1, 0, 1, 1};
    static const km_training_target targets[] = {{1, 2, 1.0f}, {3, 1, 0.5f}};
    static float gain[4096];
    const km_parameter_gradient gradient = {1, gain, NULL};
    const km_training_pass pass = {.tree = {IDS, parent, 4},
                                   .targets = targets,
                                   .n_targets = 2,
                                   .gradients = &gradient,
                                   .n_gradients = 1};
    return km_model_train_pass(f->model, &pass, err);
}

/* ---- other architectures: fused, transposed and gathered matrices, learned positions ---- */

static km_status load_at(const fixture *f, const char *path, km_error *err) {
    km_model *model = NULL;
    KM_TRY(km_model_load(&model, f->ctx, path, NULL, err));
    km_model_free(model);
    return KM_OK;
}

static km_status load_gpt2(fixture *f, km_error *err) {
    return load_at(f, KM_TEST_DATA "/golden_data/arch/gpt2", err);
}

static km_status load_pythia(fixture *f, km_error *err) {
    return load_at(f, KM_TEST_DATA "/golden_data/arch/pythia", err);
}

static km_status load_gguf(fixture *f, km_error *err) {
    return load_at(f, KM_TEST_DATA "/golden_data/arch/gemma2.gguf", err);
}

/* ---- weights and files ---- */

#define NORM "model.norm.weight"

static km_status edit(fixture *f, km_error *err) {
    float values[1024] = {0};
    km_weight weight;
    km_model *edited = NULL;
    KM_TRY(km_model_weight_find(&weight, f->model, NORM, err));
    km_weight_edit change = {NORM, values, 1, {weight.n}};
    KM_TRY(km_model_with_weights(&edited, f->model, &change, 1, err));
    km_model_free(edited);
    return KM_OK;
}

/* A failure leaves nothing at the path; what a success leaves is removed. */
static km_status and_remove(km_status status, const char *path, bool folder) {
    char command[300];
    if (status != KM_OK) {
        assert_int_equal(access(path, F_OK), -1);
        return status;
    }
    (void)snprintf(command, sizeof command, folder ? "rm -r '%s'" : "rm '%s'", path);
    assert_int_equal(system(command), 0);
    return KM_OK;
}

/* ---- models whose weights can change ---- */

/* GPT-2's folder transposes and fuses: the most that is done to a parameter on its way back. */
static km_status load_fused(km_model **out, const fixture *f, km_error *err) {
    return km_model_load(out, f->ctx, KM_TEST_DATA "/golden_data/arch/gpt2", NULL, err);
}

static km_status change_and_freeze(km_model *copy, bool *differs, float *values, km_error *err) {
    char hex[65];
    int64_t index;
    km_parameter p;
    km_model *frozen = NULL;
    float *one[64] = {NULL};
    KM_TRY(km_model_parameter_find(&index, copy, "blk.1.attn_k.weight", err));
    KM_TRY(km_model_parameter_at(&p, copy, index, err));
    assert_true(index < 64 && p.n <= 4096);
    p.values[3] += 1.0f;
    km_model_changed(copy);
    KM_TRY(km_model_differs(differs, copy, err));
    assert_true(differs[index]);
    KM_TRY(km_model_fingerprint(hex, copy, err));
    one[index] = values;
    KM_TRY(km_model_parameters_into(one, copy, err));
    KM_TRY(km_model_frozen(&frozen, copy, err));
    km_model_free(frozen);
    frozen = NULL;
    KM_TRY(km_model_with_parameters(&frozen, copy, (const float *const *)one, err));
    km_model_free(frozen);
    return km_model_restore(copy, NULL, err);
}

static km_status trainable(fixture *f, km_error *err) {
    static float values[4096];
    bool differs[64];
    km_model *model = NULL, *copy = NULL;
    km_status status = load_fused(&model, f, err);
    assert_true(model == NULL || km_model_n_tensors(model) <= 64);
    if (status == KM_OK) {
        status = km_model_trainable(&copy, model, NULL, 0, err);
    }
    if (status == KM_OK) {
        status = change_and_freeze(copy, differs, values, err);
    }
    km_model_free(copy);
    km_model_free(model);
    return status;
}

static km_status new_model(fixture *f, km_error *err) {
    static const char config[] = "{\"model_type\":\"gpt2\",\"n_layer\":2,\"n_embd\":32,"
                                 "\"n_head\":4,\"vocab_size\":319}";
    km_model *made = NULL;
    km_config read;
    const km_new_model parts = {.config = config,
                                .n_config = sizeof config - 1,
                                .tokenizer = KM_TEST_DATA "/golden_data/arch/gpt2"};
    KM_TRY(km_config_from_json(&read, config, sizeof config - 1, err));
    KM_TRY(km_model_new(&made, f->ctx, &parts, err));
    km_model_free(made);
    return KM_OK;
}

static km_status optimizer(fixture *f, km_error *err) {
    float w[3] = {0.0f}, g[3] = {0.0f};
    const km_optimizer_options options = KM_OPTIMIZER_OPTIONS_INIT;
    const km_optimizer_tensor tensor = {"w", w, g, 3, true};
    km_optimizer *made = NULL;
    KM_TRY(km_optimizer_new(&made, f->ctx, &options, &tensor, 1, 0, err));
    km_optimizer_free(made);
    return KM_OK;
}

static km_status use_diffks(km_diffks *model, km_error *err) {
    const km_optimizer_options adam = KM_OPTIMIZER_OPTIONS_INIT;
    const km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    const km_diffks_batch batch = sb_batch();
    int64_t chosen[SB_TURNS], lengths[SB_TURNS], bytes;
    float scores[SB_CANDIDATES], context[SB_CANDIDATES], parts[SB_CANDIDATES * 2];
    const km_diffks_scores out = {chosen, scores, context, parts};
    int32_t tokens[SB_TURNS * 4];
    km_diffks_losses losses;
    km_diffks_parameter parameter;
    KM_TRY(km_diffks_parameter_at(&parameter, model, 0, err));
    KM_TRY(km_diffks_pass_bytes(&bytes, model, &batch, true, err));
    KM_TRY(km_diffks_loss(&losses, model, &batch, &options, err));
    KM_TRY(km_diffks_gradient(&losses, model, &batch, &options, err));
    KM_TRY(km_diffks_optimize(model, &adam, err));
    const float before = parameter.values[0];
    const km_status status = km_diffks_step(&losses, model, &batch, &options, err);
    assert_true(status == KM_OK || parameter.values[0] == before);
    KM_TRY(status);
    KM_TRY(km_diffks_set_steps(model, 7, err));
    KM_TRY(km_diffks_select(&out, model, &batch, &options, err));
    return km_diffks_respond(tokens, lengths, model, &batch, chosen, 4, err);
}

static km_status diffks(fixture *f, km_error *err) {
    const km_diffks_config config = sb_config(KM_DIFFKS_DISENTANGLED);
    km_diffks *model = NULL;
    KM_TRY(km_diffks_new(&model, f->ctx, &config, 1, err));
    const km_status status = use_diffks(model, err);
    km_diffks_free(model);
    return status;
}

/* Its losses read responses, and it does not answer. */
static km_status posterior(fixture *f, km_error *err) {
    const km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    const km_diffks_batch batch = sb_batch();
    km_diffks_config config = sb_config(KM_DIFFKS_POSTERIOR);
    km_diffks_losses losses;
    km_diffks *model = NULL;
    config.generate = false;
    KM_TRY(km_diffks_new(&model, f->ctx, &config, 1, err));
    const km_status status = km_diffks_gradient(&losses, model, &batch, &options, err);
    km_diffks_free(model);
    return status;
}

/* A step of whole weights that fails leaves them as they are, and the next one works. */
static km_status train_with(fixture *f, km_model *model, int32_t rank, km_error *err) {
    static const int64_t offsets[] = {0, 5, 8};
    static const float weights[8] = {0.0f, 1.0f, 1.0f, 0.0f, 1.0f, 0.0f, 1.0f, 1.0f};
    km_trainer_options options = KM_TRAINER_OPTIONS_INIT;
    km_trainer *trainer = NULL;
    km_training_step step;
    bool trained[64] = {false};
    km_status status = KM_OK;
    (void)f;
    for (int64_t i = 0; rank > 0 && i < km_model_n_tensors(model) && i < 64; i++) {
        km_parameter p;
        KM_TRY(km_model_parameter_at(&p, model, i, err));
        trained[i] = p.kind == KM_PARAMETER_MATRIX;
    }
    options.rank = rank;
    options.alpha = 4.0;
    options.trained = rank > 0 ? trained : NULL;
    KM_GO(km_trainer_new(&trainer, model, &options, err));
    const km_training_batch batch = {IDS, offsets, 2, weights, 0, KM_RECOMPUTE_AUTO};
    status = km_trainer_step(&step, trainer, &batch, 1e-3, err);
    assert_int_equal(km_trainer_last(trainer).step, status == KM_OK ? 1 : 0);
    KM_GO(status);
    KM_GO(km_trainer_reset(trainer, err));
done:
    km_trainer_free(trainer);
    return status;
}

static km_status trainer(fixture *f, km_error *err) {
    km_model *model = NULL;
    km_status status = KM_OK;
    KM_GO(km_model_trainable(&model, f->model, NULL, 0, err));
    KM_GO(train_with(f, model, 0, err));
    KM_GO(train_with(f, model, 2, err));
done:
    km_model_free(model);
    return status;
}

static const char *fresh_path(const char *name) {
    static char path[200];
    const char *folder = getenv("TMPDIR");
    (void)snprintf(path, sizeof path, "%s/km-allocation-%d-%s", folder != NULL ? folder : "/tmp",
                   (int)getpid(), name);
    return path;
}

static km_status save(fixture *f, km_error *err) {
    const char *path = fresh_path("folder");
    return and_remove(km_model_save(f->model, path, NULL, err), path, true);
}

static km_status export_gguf(fixture *f, km_error *err) {
    static const km_export_pair pairs[] = {{"general.architecture", 8, 0, 1, "llama", 5}};
    const char *path = fresh_path("model.gguf");
    km_status status = km_model_export_gguf(f->model, path, KM_SAVE_F16, pairs, 1, err);
    return and_remove(status, path, false);
}

/* ---- text ---- */

static km_status encode(fixture *f, km_error *err) {
    static const char TEXT[] = "What a long text does to a tokenizer, over and over again.";
    km_tokens tokens = KM_TOKENS_INIT;
    km_status status = km_tokenizer_encode(&tokens, km_model_tokenizer(f->model), TEXT,
                                           sizeof TEXT - 1, NULL, err);
    km_tokens_clear(&tokens);
    return status;
}

static km_status decode(fixture *f, km_error *err) {
    char *text = NULL;
    size_t n = 0;
    const km_tokenizer *tokenizer = km_model_tokenizer(f->model);
    KM_TRY(km_tokenizer_decode(&text, &n, tokenizer, IDS, 8, true, err));
    km_text_free(tokenizer, text);
    return KM_OK;
}

/* ---- measures that drive a model ---- */

static km_status recall(fixture *f, km_error *err) {
    static const char *const answers[] = {"a", "b"}, *const wrong[] = {"c", "d"};
    static const char *const templates[] = {"{} is"};
    const km_recall_fact facts[] = {{"1", "x", answers, 2, wrong, 2, -1},
                                    {"2", "y", wrong, 1, answers, 2, -1}};
    const km_recall_relation relation = {"r", templates, 1, "it", facts, 2};
    const km_recall_options options = KM_RECALL_OPTIONS_INIT;
    km_table *table = NULL;
    KM_TRY(km_memorization_run(&table, f->model, &relation, &options, NULL, NULL, err));
    km_table_free(table);
    return KM_OK;
}

static km_status lens(fixture *f, km_error *err) {
    km_table *table = NULL;
    KM_TRY(km_lens_run(&table, f->model, IDS, 8, 3, 2, err));
    km_table_free(table);
    return KM_OK;
}

static km_status lens_of_many(fixture *f, km_error *err) {
    static const int64_t offsets[] = {0, 3, 8};
    static const int32_t targets[] = {3, 4};
    int64_t rank[16];
    double logprob[16], top_logprobs[32];
    int32_t top_ids[32];
    const km_lens_arrays out = {rank, logprob, NULL, top_ids, top_logprobs};
    return km_lens_run_into(&out, f->model, IDS, offsets, 2, targets, 2, 64, NULL, NULL, err);
}

static km_status affine_lens(fixture *f, km_error *err) {
    static const int64_t offsets[] = {0, 3, 8};
    static const int32_t targets[] = {3, 4};
    const km_config *c = km_model_config(f->model);
    const size_t vector = (size_t)c->n_layers * (size_t)c->d_model;
    float *weights = calloc(vector * (size_t)c->d_model, sizeof(float));
    float *biases = calloc(vector, sizeof(float));
    int64_t rank[16];
    double logprob[16], figures[4][64];
    const km_affine_lens lens = {weights, biases};
    const km_lens_arrays out = {rank, logprob, NULL, NULL, NULL};
    const km_affine_lens_arrays compared = {figures[0], figures[1], figures[2], figures[3]};
    km_status status = KM_OK;
    assert_true(weights != NULL && biases != NULL && c->n_layers <= 7);
    KM_GO(km_affine_lens_fit_into(weights, biases, f->model, IDS, offsets, 2, 0.1, 64, NULL, NULL,
                                  err));
    KM_GO(km_affine_lens_evaluate_into(&compared, f->model, &lens, IDS, offsets, 2, 64, NULL, NULL,
                                       err));
    KM_GO(km_affine_lens_run_into(&out, f->model, &lens, IDS, offsets, 2, targets, 0, 64, NULL,
                                  NULL, err));
done:
    free(weights);
    free(biases);
    return status;
}

static km_status attribution(fixture *f, km_error *err) {
    static const int64_t offsets[] = {0, 3, 8};
    static const int32_t tokens[] = {3, 4}, contrasts[] = {5, -1};
    double parts[128], logits[2];
    assert_true(2 * km_attribution_parts(f->model) <= 128);
    return km_attribution_run_into(parts, logits, f->model, IDS, offsets, 2, tokens, contrasts, 64,
                                   NULL, NULL, err);
}

static km_status verbatim(fixture *f, km_error *err) {
    static const int64_t offsets[] = {0, 3, 8};
    km_table *table = NULL;
    KM_TRY(km_verbatim_run(&table, f->model, IDS, offsets, 2, 64, NULL, NULL, err));
    km_table_free(table);
    return KM_OK;
}

static km_status continuations(fixture *f, km_error *err) {
    static const int64_t offsets[] = {0, 4, 8}, prompts[] = {2, 3};
    double sums[2];
    const km_continuation_scores out = {.sums = sums};
    const km_continuations work = {IDS, offsets, prompts, 2, 64};
    return km_continuations_run(&out, f->model, &work, NULL, NULL, err);
}

/* Two rows of logits, as long as the vocabulary asks. */
static const float *some_rows(const fixture *f) {
    static float rows[2 * 4096];
    const int64_t n = 2 * (int64_t)km_model_config(f->model)->vocab_size;
    assert_true(n <= 2 * 4096);
    for (int64_t i = 0; i < n; i++) {
        rows[i] = (float)(i * 37 % 101) / 10.0f;
    }
    return rows;
}

static km_status rows_sample(fixture *f, km_error *err) {
    static const uint64_t counters[2] = {0, 1};
    const km_sampling sampling = {0.5, 9, 0.9, 0.01};
    int32_t ids[2];
    double values[2];
    return km_rows_sample(ids, values, some_rows(f), 2, &sampling, 1, counters, counters, f->model,
                          err);
}

static km_status sampling_filter(fixture *f, km_error *err) {
    float row[100];
    const km_sampling sampling = {0.5, 9, 0.9, 0.01};
    memcpy(row, some_rows(f), sizeof row);
    return km_sampling_filter(row, 100, &sampling, f->ctx, err);
}

static km_status neurons(fixture *f, km_error *err) {
    const km_config *c = km_model_config(f->model);
    const size_t n = (size_t)c->n_layers * (size_t)c->d_ffn;
    double *attribution = calloc(n, sizeof(double)), other[2][64];
    float *activation = calloc(n, sizeof(float));
    assert_true(attribution != NULL && activation != NULL && c->n_layers <= 64);
    const km_neurons_options options = {3, KM_RIEMANN_LEFT};
    km_neurons_arrays out = {attribution, activation, other[0], other[1], 0.0};
    km_status status = km_neurons_run_into(&out, f->model, IDS, 4, 7, &options, NULL, NULL, err);
    free(attribution);
    free(activation);
    return status;
}

static km_status circuit(fixture *f, km_error *err) {
    static const int32_t sources[] = {0, 1}, targets[] = {0, 1};
    const km_circuit_task task = {IDS, IDS + 4, 4, 7, 9};
    const km_circuit_options options = {2, 20};
    km_table *edges = NULL, *runs = NULL;
    km_status status = KM_OK;
    KM_GO(km_circuit_run(&edges, f->model, &task, &options, NULL, NULL, err));
    KM_GO(km_circuit_evaluate(&runs, f->model, &task, sources, targets, 1, err));
done:
    km_table_free(edges);
    km_table_free(runs);
    return status;
}

/* ---- pure scores ---- */

static km_status min_k(fixture *f, km_error *err) {
    double out;
    return km_score_min_k(&out, f->ctx, X, N, 0.5, false, err);
}

static km_status min_k_plus_plus(fixture *f, km_error *err) {
    double out;
    return km_score_min_k_plus_plus(&out, f->ctx, X, Y, Y, N, 0.5, false, err);
}

static km_status detection(fixture *f, km_error *err) {
    static const bool member[N] = {true, false, true, false, true, false};
    km_detection out;
    return km_score_detection(&out, f->ctx, X, member, N, 0.9, 0.1, err);
}

static km_status extraction(fixture *f, km_error *err) {
    km_extraction out;
    return km_score_extraction(&out, f->ctx, IDS, 6, IDS + 1, 6, err);
}

static km_status recall_curve(fixture *f, km_error *err) {
    static const bool correct[N] = {true, false, true, true, false, true};
    double curve[N], at;
    int64_t n_curve;
    return km_score_recall_curve(curve, &n_curve, &at, f->ctx, GROUP, correct, N, 3, 2, err);
}

static km_status exposure(fixture *f, km_error *err) {
    int64_t rank[N];
    double out[N];
    return km_score_exposure_into(rank, out, f->ctx, X, N, Y, N, 3.0, err);
}

static km_status priming(fixture *f, km_error *err) {
    km_priming_score out;
    static const double before[2] = {-3, -4}, after[2] = {-2, -5};
    return km_score_priming(&out, f->ctx, -1, -2, before, after, 2, -23, err);
}

static km_status priming_predictor(fixture *f, km_error *err) {
    km_priming_prediction out;
    return km_score_priming_predictor(&out, NULL, f->ctx, X, Y, N, 1e-3, err);
}

static km_status prune(fixture *f, km_error *err) {
    float values[N] = {1, 2, 3, 4, 5, 6}, base[N] = {0};
    bool mask[N];
    const km_prune_tensor tensor = {NULL, values, base, N};
    KM_TRY(km_prune_mask_into(mask, NULL, f->ctx, &tensor, 1, NULL, err));
    return km_prune_apply(NULL, f->ctx, &tensor, 1, NULL, err);
}

static km_status macro_mean(fixture *f, km_error *err) {
    double out;
    return km_score_macro_mean(&out, f->ctx, X, GROUP, N, err);
}

/* ---- statistics ---- */

static km_status bootstrap_mean(fixture *f, km_error *err) {
    km_interval out;
    return km_stats_bootstrap_mean(&out, f->ctx, X, N, NULL, err);
}

static km_status clustered_mean(fixture *f, km_error *err) {
    const km_clusters clusters = {GROUP, NULL, NULL};
    km_interval_options options = KM_INTERVAL_OPTIONS_INIT;
    km_interval out;
    KM_TRY(km_stats_clustered_mean(&out, f->ctx, X, N, &clusters, &options, err));
    options.method = KM_CLUSTER_BOOTSTRAP;
    return km_stats_clustered_mean(&out, f->ctx, X, N, &clusters, &options, err);
}

static km_status paired_difference(fixture *f, km_error *err) {
    const km_clusters clusters = {GROUP, NULL, NULL};
    km_interval out;
    return km_stats_paired_difference(&out, f->ctx, X, Y, N, &clusters, NULL, err);
}

static km_status permutation_paired(fixture *f, km_error *err) {
    km_test out;
    return km_stats_permutation_paired(&out, f->ctx, X, N, GROUP, 100, 1, err);
}

static km_status permutation_two_sample(fixture *f, km_error *err) {
    km_test out;
    return km_stats_permutation_two_sample(&out, f->ctx, X, N, Y, N, 100, 1, err);
}

static km_status holm(fixture *f, km_error *err) {
    double out[N];
    return km_stats_holm(out, f->ctx, X, N, err);
}

static km_status benjamini_hochberg(fixture *f, km_error *err) {
    double out[N];
    return km_stats_benjamini_hochberg(out, f->ctx, X, N, err);
}

static km_status spearman(fixture *f, km_error *err) {
    km_test out;
    return km_stats_spearman(&out, f->ctx, X, Y, N, err);
}

static km_status kendall(fixture *f, km_error *err) {
    km_test out;
    return km_stats_kendall(&out, f->ctx, X, Y, N, err);
}

static km_status ranks(fixture *f, km_error *err) {
    double out[N];
    return km_stats_ranks(out, f->ctx, X, N, err);
}

static km_status auroc(fixture *f, km_error *err) {
    static const uint8_t positive[N] = {1, 0, 1, 0, 1, 0};
    double out;
    return km_stats_auroc(&out, f->ctx, X, positive, N, err);
}

/* ---- tables ---- */

static const km_column_spec SPECS[] = {{"i", KM_COLUMN_INT64, "", ""},
                                       {"d", KM_COLUMN_DOUBLE, "nats", ""},
                                       {"b", KM_COLUMN_BOOL, "", ""},
                                       {"t", KM_COLUMN_TEXT, "", ""}};

static km_status fill(km_table *table, km_error *err) {
    for (int64_t i = 0; i < 40; i++) {
        KM_TRY(km_table_add_row(table, err));
        KM_TRY(km_table_set_int64(table, 0, i, err));
        KM_TRY(km_table_set_double(table, 1, 0.5, err));
        KM_TRY(km_table_set_bool(table, 2, true, err));
        KM_TRY(km_table_set_text(table, 3, "a cell of text", -1, err));
    }
    return KM_OK;
}

static km_status tables(fixture *f, km_error *err) {
    km_status status = KM_OK;
    km_table *table = NULL, *more = NULL;
    struct ArrowArrayStream stream = {.release = NULL};
    KM_GO(km_table_new(&table, f->ctx, SPECS, 4, err));
    KM_GO(km_table_new(&more, f->ctx, SPECS, 4, err));
    KM_GO(fill(table, err));
    KM_GO(fill(more, err));
    KM_GO(km_table_append(table, more, err));
    KM_GO(km_table_export_stream(&stream, table, err));
done:
    if (stream.release != NULL) {
        stream.release(&stream);
    }
    km_table_free(table);
    km_table_free(more);
    return status;
}

/* ---- the loop ---- */

static const struct {
    const char *name;
    body_fn body;
} BODIES[] = {{"km_model_load", load},
              {"km_model_random_like", random_like},
              {"km_model_fingerprint", fingerprint},
              {"km_model_forward", forward},
              {"km_model_logprobs_into", logprobs},
              {"km_model_next_logprobs_into", next_logprobs},
              {"km_model_unembed_into", unembed},
              {"km_session_new, truncate, keep", sessions},
              {"km_model_gradients", gradients},
              {"km_model_train_pass", train_pass},
              {"km_model_load of GPT-2", load_gpt2},
              {"km_model_load of GPT-NeoX", load_pythia},
              {"km_model_load of GGUF", load_gguf},
              {"km_model_with_weights", edit},
              {"km_model_save", save},
              {"km_model_export_gguf", export_gguf},
              {"km_model_trainable, changed, differs, restore, frozen", trainable},
              {"km_model_new", new_model},
              {"km_optimizer_new", optimizer},
              {"km_trainer_new, step, reset", trainer},
              {"km_diffks_new, loss, gradient, step, select, respond", diffks},
              {"km_diffks_new, gradient of the posterior variant", posterior},
              {"km_neurons_run_into", neurons},
              {"km_circuit_run, evaluate", circuit},
              {"km_tokenizer_encode", encode},
              {"km_tokenizer_decode", decode},
              {"km_memorization_run", recall},
              {"km_lens_run", lens},
              {"km_lens_run_into", lens_of_many},
              {"km_affine_lens_fit_into, evaluate_into, run_into", affine_lens},
              {"km_attribution_run_into", attribution},
              {"km_verbatim_run", verbatim},
              {"km_continuations_run", continuations},
              {"km_rows_sample", rows_sample},
              {"km_sampling_filter", sampling_filter},
              {"km_score_min_k", min_k},
              {"km_score_min_k_plus_plus", min_k_plus_plus},
              {"km_score_detection", detection},
              {"km_score_extraction", extraction},
              {"km_score_recall_curve", recall_curve},
              {"km_score_exposure_into", exposure},
              {"km_score_macro_mean", macro_mean},
              {"km_score_priming", priming},
              {"km_score_priming_predictor", priming_predictor},
              {"km_prune_mask_into, apply", prune},
              {"km_stats_bootstrap_mean", bootstrap_mean},
              {"km_stats_clustered_mean", clustered_mean},
              {"km_stats_paired_difference", paired_difference},
              {"km_stats_permutation_paired", permutation_paired},
              {"km_stats_permutation_two_sample", permutation_two_sample},
              {"km_stats_holm", holm},
              {"km_stats_benjamini_hochberg", benjamini_hochberg},
              {"km_stats_spearman", spearman},
              {"km_stats_kendall", kendall},
              {"km_stats_ranks", ranks},
              {"km_stats_auroc", auroc},
              {"km_table_new, add_row, set_*, append, export_stream", tables}};

static void start(fixture *f) {
    km_error err = KM_ERROR_INIT;
    km_ctx_options options = KM_CTX_OPTIONS_INIT;
    km_allocator allocator = km_test_failing_allocator(&f->memory, -1);
    options.n_threads = 2;
    options.allocator = &allocator;
    km_test_ok(km_ctx_new(&f->ctx, &options, &err), &err);
    km_test_ok(km_model_load(&f->model, f->ctx, KM_TEST_DATA "/golden_data/tiny_llama", NULL, &err),
               &err);
}

/* Fail each allocation in turn until none is left; returns how many there were. */
static long long fail_each(fixture *f, const char *name, body_fn body) {
    for (long long n = 0;; n++) {
        km_error err = KM_ERROR_INIT;
        atomic_store(&f->memory.calls, 0);
        f->memory.fail_at = n;
        km_status status = body(f, &err);
        f->memory.fail_at = -1;
        if (status == KM_OK && atomic_load(&f->memory.calls) <= n) {
            return n;
        }
        if (status != KM_ENOMEM || err.code != KM_ENOMEM || err.message[0] == '\0' || n > 100000) {
            fail_msg("%s with allocation %lld failing: %s, '%s'", name, n, km_status_name(status),
                     err.message);
        }
    }
}

static void test_every_function(void **state) {
    (void)state;
    float before[4096], after[4096];
    for (size_t i = 0; i < sizeof(BODIES) / sizeof(BODIES[0]); i++) {
        fixture f;
        km_error err = KM_ERROR_INIT;
        start(&f);
        const size_t bytes = (size_t)km_model_config(f.model)->vocab_size * sizeof(float);
        if (fail_each(&f, BODIES[i].name, BODIES[i].body) == 0) {
            fail_msg("%s allocates nothing: it does not belong here", BODIES[i].name);
        }
        km_test_ok(km_model_next_logprobs_into(after, f.model, IDS, 8, &err), &err);
        if (i == 0) {
            memcpy(before, after, bytes);
        }
        assert_memory_equal(before, after, bytes);
        km_model_free(f.model);
        km_ctx_free(f.ctx);
        assert_int_equal(atomic_load(&f.memory.live_blocks), 0);
        assert_int_equal(atomic_load(&f.memory.live_bytes), 0);
    }
}

static void test_the_context_itself(void **state) {
    (void)state;
    for (long long n = 0;; n++) {
        km_test_memory memory;
        km_allocator allocator = km_test_failing_allocator(&memory, n);
        km_ctx_options options = {.n_threads = 3, .allocator = &allocator};
        km_ctx *ctx = NULL;
        km_error err = KM_ERROR_INIT;
        km_status status = km_ctx_new(&ctx, &options, &err);
        km_ctx_free(ctx);
        assert_int_equal(atomic_load(&memory.live_blocks), 0);
        if (status == KM_OK) {
            assert_true(n > 0);
            return;
        }
        assert_int_equal(status, KM_ENOMEM);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_function),
        cmocka_unit_test(test_the_context_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
