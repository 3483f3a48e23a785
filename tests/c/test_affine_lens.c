/* test_affine_lens.c: the maps solve their equations, are the identity after the last block and
 * exact where a block is linear; figures against plain sums; threads, batches, errors. */
#include <math.h>

#include "km/affine_lens.h"
#include "km_test.h"
#include "reference_model.h"

enum { N_TEXTS = 12, TEXT = 20, MANY = N_TEXTS * TEXT, LAYERS = 3, MAX_D = 16, MAX_V = 64 };
enum { ROWS = MANY - N_TEXTS };

typedef struct texts {
    int32_t ids[MANY];
    int64_t offsets[N_TEXTS + 1];
} texts;

static void make_texts(texts *t, int32_t vocab) {
    for (int64_t i = 0; i < MANY; i++) {
        t->ids[i] = (int32_t)km_random_below((uint64_t)vocab, 5, 0, (uint64_t)i);
    }
    for (int64_t i = 0; i <= N_TEXTS; i++) {
        t->offsets[i] = i * TEXT;
    }
}

typedef struct fitted {
    float weights[LAYERS * MAX_D * MAX_D], biases[LAYERS * MAX_D];
    km_affine_lens lens;
} fitted;

static void fit(fitted *out, const km_model *model, const texts *t, double ridge,
                int64_t batch_tokens) {
    km_error err = KM_ERROR_INIT;
    memset(out, 0, sizeof *out);
    out->lens = (km_affine_lens){out->weights, out->biases};
    km_test_ok(km_affine_lens_fit_into(out->weights, out->biases, model, t->ids, t->offsets,
                                       N_TEXTS, ridge, batch_tokens, NULL, NULL, &err),
               &err);
}

/* resid_post of a layer, (MANY, D). */
static void read_streams(float *out, const km_model *model, const texts *t, int32_t layer) {
    int64_t parent[MANY];
    km_error err = KM_ERROR_INIT;
    for (int64_t i = 0; i < MANY; i++) {
        parent[i] = i % TEXT == 0 ? -1 : i - 1;
    }
    const km_read read = {KM_POINT_RESID_POST, layer, -1, NULL, MANY, out};
    const km_forward_request request = {
        .tree = {t->ids, parent, MANY}, .reads = &read, .n_reads = 1};
    km_test_ok(km_model_forward(model, &request, &err), &err);
}

/* ---- the equations ---- */

/* At the minimum of sum |d - R x - b|^2 + lambda |R|^2 the slopes are 0: the residuals sum to 0,
 * and their products with x to lambda R. */
static void check_slopes(const km_model *model, const texts *t, const fitted *f, int32_t layer,
                         double ridge) {
    static float x[MANY * MAX_D], y[MANY * MAX_D];
    const int64_t d = model->config.d_model;
    double mean[MAX_D] = {0.0}, lambda = 0.0;
    read_streams(x, model, t, layer);
    read_streams(y, model, t, LAYERS - 1);
    for (int64_t i = 0; i < d; i++) {
        for (int64_t row = 0; row < MANY; row++) {
            mean[i] += row % TEXT == 0 ? 0.0 : (double)x[row * d + i] / ROWS;
        }
        for (int64_t row = 0; row < MANY; row++) {
            const double c = (double)x[row * d + i] - mean[i];
            lambda += row % TEXT == 0 ? 0.0 : ridge * c * c / (double)d;
        }
    }
    for (int64_t o = 0; o < d; o++) {
        const float *map = f->weights + (layer * d + o) * d;
        double total = 0.0, products[MAX_D] = {0.0};
        for (int64_t row = 0; row < MANY; row++) {
            double rest = (double)y[row * d + o] - (double)f->biases[layer * d + o];
            for (int64_t i = 0; i < d; i++) {
                rest -= (double)map[i] * (double)x[row * d + i];
            }
            rest = row % TEXT == 0 ? 0.0 : rest;
            total += rest;
            for (int64_t i = 0; i < d; i++) {
                products[i] += rest * (double)x[row * d + i];
            }
        }
        assert_true(fabs(total) < 1e-3);
        for (int64_t i = 0; i < d; i++) {
            const double own = (double)map[i] - (i == o ? 1.0 : 0.0);
            if (fabs(products[i] - lambda * own) > 2e-3) {
                fail_msg("layer %d, %d from %d: %g, not %g", layer, (int)o, (int)i, products[i],
                         lambda * own);
            }
        }
    }
}

static void check_last_is_identity(const fitted *f, int64_t d) {
    for (int64_t o = 0; o < d; o++) {
        assert_true(f->biases[(LAYERS - 1) * d + o] == 0.0f);
        for (int64_t i = 0; i < d; i++) {
            const float weight = f->weights[((LAYERS - 1) * d + o) * d + i];
            assert_true(weight == (i == o ? 1.0f : 0.0f));
        }
    }
}

static void check_fit(km_ctx *ctx, km_config config) {
    random_model m;
    texts t;
    fitted f;
    random_model_init(&m, ctx, config);
    make_texts(&t, config.vocab_size);
    fit(&f, &m.model, &t, 0.01, 64);
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        check_slopes(&m.model, &t, &f, layer, 0.01);
    }
    check_last_is_identity(&f, config.d_model);
    random_model_clear(&m);
}

static void test_equations(void **state) {
    check_fit(*state, reference_config());
    check_fit(*state, reference_gpt2());
}

/* ---- a linear block ---- */

static double silu(double x) {
    return x / (1.0 + exp(-x));
}

/* The last block without attention, its gate held by its bias, and a norm whose epsilon outweighs
 * every activation: y = x + W_down (silu(b_gate) * (W_up (g * x) / sqrt(eps) + b_up)) + b_down. */
static void test_linear_block(void **state) {
    static float zeros[1024], gate[64], gain[64];
    random_model m;
    texts t;
    fitted f;
    km_config config = reference_config();
    config.mlp_bias = true;
    config.norm_eps = 1e8;
    random_model_init(&m, *state, config);
    make_texts(&t, config.vocab_size);
    const int64_t d = config.d_model;
    km_layer_weights *w = &m.layers[LAYERS - 1];
    for (int64_t i = 0; i < 64; i++) {
        gate[i] = 0.1f * (float)(i % 7) - 0.2f;
        gain[i] = 1e4f * (1.0f + 0.1f * (float)(i % 3));
    }
    w->wo.data = w->w_gate.data = zeros;
    w->b_gate = gate;
    w->ffn_norm.gain = gain;
    for (int32_t l = 0; l < LAYERS - 1; l++) {
        m.layers[l].attn_norm.gain = gain; /* so that streams of one token differ by context */
    }
    fit(&f, &m.model, &t, 1e-9, 64);
    const float *up = w->w_up.data, *down = w->w_down.data;
    for (int64_t o = 0; o < d; o++) {
        double bias = (double)w->b_down[o];
        for (int64_t j = 0; j < config.d_ffn; j++) {
            bias += (double)down[o * config.d_ffn + j] * silu((double)gate[j]) * (double)w->b_up[j];
        }
        assert_true(fabs((double)f.biases[(LAYERS - 2) * d + o] - bias) < 1e-4);
        for (int64_t i = 0; i < d; i++) {
            double sum = i == o ? 1.0 : 0.0;
            for (int64_t j = 0; j < config.d_ffn; j++) {
                sum += (double)down[o * config.d_ffn + j] * silu((double)gate[j]) *
                       (double)up[j * d + i] * (double)gain[i] / 1e4;
            }
            const double got = (double)f.weights[((LAYERS - 2) * d + o) * d + i];
            if (fabs(got - sum) > 1e-4) {
                fail_msg("%d from %d: %g, not %g", (int)o, (int)i, got, sum);
            }
        }
    }
    random_model_clear(&m);
}

/* ---- figures ---- */

typedef struct figures {
    double values[4][ROWS * LAYERS];
    km_affine_lens_arrays arrays;
} figures;

static void evaluate(figures *out, const km_model *model, const fitted *f, const texts *t,
                     int64_t batch_tokens) {
    km_error err = KM_ERROR_INIT;
    memset(out, 0, sizeof *out);
    out->arrays =
        (km_affine_lens_arrays){out->values[0], out->values[1], out->values[2], out->values[3]};
    km_test_ok(km_affine_lens_evaluate_into(&out->arrays, model, &f->lens, t->ids, t->offsets,
                                            N_TEXTS, batch_tokens, NULL, NULL, &err),
               &err);
}

/* Log-probabilities of one stream, all in double precision. */
static void read_stream(double *logprobs, const km_model *model, const double *stream) {
    const km_config *c = &model->config;
    const float *unembed = model->weights.unembed.data;
    double squares = 0.0, total = 0.0;
    for (int64_t i = 0; i < c->d_model; i++) {
        squares += stream[i] * stream[i] / c->d_model;
    }
    for (int64_t v = 0; v < c->vocab_size; v++) {
        logprobs[v] = 0.0;
        for (int64_t i = 0; i < c->d_model; i++) {
            logprobs[v] += (double)unembed[v * c->d_model + i] * stream[i] /
                           sqrt(squares + c->norm_eps) * (double)model->weights.final_norm.gain[i];
        }
        total += exp(logprobs[v]);
    }
    for (int64_t v = 0; v < c->vocab_size; v++) {
        logprobs[v] -= log(total);
    }
}

static double plain_kl(const km_model *model, const float *last, const double *stream) {
    double p[MAX_V], q[MAX_V], final[MAX_D], kl = 0.0;
    for (int64_t i = 0; i < model->config.d_model; i++) {
        final[i] = (double)last[i];
    }
    read_stream(p, model, final);
    read_stream(q, model, stream);
    for (int64_t v = 0; v < model->config.vocab_size; v++) {
        kl += exp(p[v]) * (p[v] - q[v]);
    }
    return kl;
}

static void test_divergence(void **state) {
    static float x[MANY * MAX_D], y[MANY * MAX_D];
    static figures out;
    random_model m;
    texts t;
    fitted f;
    random_model_init(&m, *state, reference_config());
    make_texts(&t, m.model.config.vocab_size);
    const int64_t d = m.model.config.d_model;
    fit(&f, &m.model, &t, 0.01, 64);
    evaluate(&out, &m.model, &f, &t, 64);
    read_streams(y, &m.model, &t, LAYERS - 1);
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        read_streams(x, &m.model, &t, layer);
        int64_t slot = layer;
        for (int64_t row = 0; row < MANY; row++) {
            double own[MAX_D], mapped[MAX_D];
            for (int64_t o = 0; o < d; o++) {
                own[o] = (double)x[row * d + o];
                mapped[o] = (double)f.biases[layer * d + o];
                for (int64_t i = 0; i < d; i++) {
                    mapped[o] +=
                        (double)f.weights[(layer * d + o) * d + i] * (double)x[row * d + i];
                }
            }
            if (row % TEXT == 0) {
                continue;
            }
            assert_true(fabs(out.values[0][slot] - plain_kl(&m.model, y + row * d, mapped)) < 1e-5);
            assert_true(fabs(out.values[1][slot] - plain_kl(&m.model, y + row * d, own)) < 1e-5);
            if (layer == LAYERS - 1) {
                assert_true(out.values[0][slot] == 0.0 && out.values[1][slot] == 0.0);
                assert_true(out.values[2][slot] == 1.0 && out.values[3][slot] == 1.0);
            }
            slot += LAYERS;
        }
    }
    random_model_clear(&m);
}

/* With maps that change nothing the affine lens is the plain one, and reads prompts as it does. */
static void test_identity_is_the_logit_lens(void **state) {
    static figures out;
    enum { SLOTS = N_TEXTS * (LAYERS + 1) };
    int64_t rank[2][SLOTS];
    double logprob[2][SLOTS], entropy[2][SLOTS], top[2][SLOTS];
    int32_t top_ids[2][SLOTS], targets[N_TEXTS];
    random_model m;
    texts t;
    fitted f = {.lens = {f.weights, f.biases}};
    km_error err = KM_ERROR_INIT;
    random_model_init(&m, *state, reference_neox());
    make_texts(&t, m.model.config.vocab_size);
    const int64_t d = m.model.config.d_model;
    for (int64_t i = 0; i < LAYERS * d; i++) {
        f.weights[i * d + i % d] = 1.0f;
    }
    evaluate(&out, &m.model, &f, &t, 64);
    assert_memory_equal(out.values[0], out.values[1], sizeof out.values[0]);
    assert_memory_equal(out.values[2], out.values[3], sizeof out.values[2]);
    for (int32_t i = 0; i < N_TEXTS; i++) {
        targets[i] = i;
    }
    const km_lens_arrays a = {rank[0], logprob[0], entropy[0], top_ids[0], top[0]};
    const km_lens_arrays b = {rank[1], logprob[1], entropy[1], top_ids[1], top[1]};
    km_test_ok(km_affine_lens_run_into(&a, &m.model, &f.lens, t.ids, t.offsets, N_TEXTS, targets, 1,
                                       64, NULL, NULL, &err),
               &err);
    km_test_ok(
        km_lens_run_into(&b, &m.model, t.ids, t.offsets, N_TEXTS, targets, 1, 64, NULL, NULL, &err),
        &err);
    assert_memory_equal(rank[0], rank[1], sizeof rank[0]);
    assert_memory_equal(logprob[0], logprob[1], sizeof logprob[0]);
    assert_memory_equal(entropy[0], entropy[1], sizeof entropy[0]);
    assert_memory_equal(top_ids[0], top_ids[1], sizeof top_ids[0]);
    assert_memory_equal(top[0], top[1], sizeof top[0]);
    random_model_clear(&m);
}

static void test_threads_and_batches(void **state) {
    static figures first, again;
    static const int threads[] = {1, 2, 5};
    (void)state;
    texts t;
    fitted f, other;
    for (int i = 0; i < 6; i++) {
        km_ctx *ctx = km_test_ctx(threads[i / 2]);
        const int64_t batch = i % 2 == 0 ? 1 : 100;
        random_model m;
        random_model_init(&m, ctx, reference_gpt2());
        make_texts(&t, m.model.config.vocab_size);
        fit(i == 0 ? &f : &other, &m.model, &t, 0.001, batch);
        evaluate(i == 0 ? &first : &again, &m.model, i == 0 ? &f : &other, &t, batch);
        if (i > 0) {
            assert_memory_equal(f.weights, other.weights, sizeof f.weights);
            assert_memory_equal(f.biases, other.biases, sizeof f.biases);
            assert_memory_equal(first.values, again.values, sizeof first.values);
        }
        random_model_clear(&m);
        km_ctx_free(ctx);
    }
}

/* ---- errors ---- */

static km_status stop(void *payload, int64_t done, int64_t total) {
    (void)payload;
    (void)done;
    (void)total;
    return KM_ECANCELLED;
}

static void test_errors(void **state) {
    static float weights[LAYERS * MAX_D * MAX_D], biases[LAYERS * MAX_D];
    static const int64_t one[] = {0, 1}, alike_offsets[] = {0, 2, 4, 6};
    static const int32_t alike[] = {3, 3, 3, 3, 3, 3};
    random_model m;
    texts t;
    km_error err = KM_ERROR_INIT;
    random_model_init(&m, *state, reference_config());
    make_texts(&t, m.model.config.vocab_size);
#define FIT(ids, offsets, n, ridge, tick)                                                          \
    km_affine_lens_fit_into(weights, biases, &m.model, ids, offsets, n, ridge, 64, tick, NULL, &err)
    km_test_fails(FIT(t.ids, t.offsets, 0, 0.1, NULL), KM_EINVAL, &err, "at least one text");
    km_test_fails(FIT(t.ids, one, 1, 0.1, NULL), KM_EINVAL, &err, "text 0 has 1 tokens");
    km_test_fails(FIT(t.ids, t.offsets, N_TEXTS, 0.0, NULL), KM_EINVAL, &err, "ridge is 0");
    km_test_fails(FIT(t.ids, t.offsets, N_TEXTS, (double)NAN, NULL), KM_EINVAL, &err, "ridge is");
    km_test_fails(FIT(alike, alike_offsets, 3, 0.1, NULL), KM_ENUMERIC, &err, "layer 0");
    assert_int_equal(FIT(t.ids, t.offsets, N_TEXTS, 0.1, stop), KM_ECANCELLED);
    km_error_clear(&err);
    t.ids[5] = 100;
    km_test_fails(FIT(t.ids, t.offsets, N_TEXTS, 0.1, NULL), KM_ERANGE, &err, "100");
#undef FIT
    random_model_clear(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equations),
        cmocka_unit_test(test_linear_block),
        cmocka_unit_test(test_divergence),
        cmocka_unit_test(test_identity_is_the_logit_lens),
        cmocka_unit_test(test_threads_and_batches),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
