/* test_forward.c: the tree forward pass against the double-precision one, over architectures,
 * shapes of trees, CPU variants and thread counts; and everything a request can have wrong. */
#include "forest.h"

static double log_sum_exp(const double *x, int64_t n) {
    double largest = x[0], sum = 0.0;
    for (int64_t i = 1; i < n; i++) {
        largest = x[i] > largest ? x[i] : largest;
    }
    for (int64_t i = 0; i < n; i++) {
        sum += exp(x[i] - largest);
    }
    return largest + log(sum);
}

/* Largest difference of log-probability between a row of ours and one of the reference. */
static double worst_of_row(const float *x, const double *expected, int64_t vocab) {
    double own[64] = {0.0}, worst = 0.0;
    for (int64_t i = 0; i < vocab; i++) {
        own[i] = (double)x[i];
    }
    double shift = log_sum_exp(own, vocab), expected_shift = log_sum_exp(expected, vocab);
    for (int64_t i = 0; i < vocab; i++) {
        double difference = fabs((own[i] - shift) - (expected[i] - expected_shift));
        worst = difference > worst || isnan(difference) ? difference : worst;
    }
    return worst;
}

static void compare_with_reference(const km_model *model, const forest *f) {
    const km_tree tree = {f->ids, f->parent, f->n};
    const int64_t vocab = model->config.vocab_size, n_layers = model->config.n_layers;
    reference *r = calloc(1, sizeof *r);
    seen s;
    reference_run(r, model, &tree);
    run_all(&s, model, f);
    for (int64_t layer = 0; layer <= n_layers; layer++) {
        for (int64_t i = 0; i < f->n; i++) {
            int64_t at = (layer < n_layers ? layer : n_layers - 1) * f->n + i;
            const float *row = s.logits + (layer * f->n + i) * vocab;
            assert_int_equal(s.count[layer * f->n + i], 1);
            assert_true(worst_of_row(row, r->lens + at * vocab, vocab) < 4e-5);
        }
    }
    seen_clear(&s);
    reference_clear(r);
    free(r);
}

static void compare_forests(km_ctx *ctx, km_config config) {
    static const int64_t lengths[] = {1, 2, 3, 64, 65, 130};
    synthetic s;
    forest f;
    synthetic_init(&s, ctx, config);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        make_chain(&f, lengths[i], config.vocab_size);
        compare_with_reference(&s.model, &f);
    }
    for (uint64_t stay = 0; stay <= 9; stay += 3) {
        make_random_forest(&f, 150, stay, config.vocab_size);
        compare_with_reference(&s.model, &f);
    }
    synthetic_clear(&s);
}

static void test_every_variant_agrees_with_double_precision(void **state) {
    (void)state;
    static const char *const cpus[] = KM_TEST_CPUS;
    for (int i = 0; i < KM_TEST_N_CPUS; i++) {
        km_ctx *ctx = km_test_variant(2, cpus[i]);
        if (ctx != NULL) {
            for (int c = 0; c < N_SYNTHETIC; c++) {
                compare_forests(ctx, synthetic_config(c));
            }
            km_ctx_free(ctx);
        }
    }
}

/* Heads without groups, tied llama, windows without full layers, full layers without windows. */
static void test_other_configurations(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    km_config c = llama_config();
    c.n_kv_heads = c.n_heads;
    c.tied_embeddings = true;
    c.rope_pairs = KM_ROPE_HALVES;
    compare_forests(ctx, c);
    c = gemma_config();
    memset(c.windowed, 1, (size_t)c.n_layers);
    c.sliding_window = 1;
    compare_forests(ctx, c);
    c.sliding_window = 0;
    c.qk_norm = false;
    compare_forests(ctx, c);
    c = neox_config();
    c.parallel_residual = false;
    c.rope_pairs = KM_ROPE_INTERLEAVED;
    compare_forests(ctx, c);
    km_ctx_free(ctx);
}

/* Factors from the file stand in the place of Llama 3's formula. */
static void test_rope_factors_of_the_file(void **state) {
    (void)state;
    static const float factors[] = {1.0f, 2.5f, 8.0f, 32.0f};
    km_ctx *ctx = km_test_ctx(2);
    synthetic s;
    forest f;
    synthetic_init(&s, ctx, llama3_config());
    s.model.weights.rope_factors = factors;
    make_chain(&f, 130, s.model.config.vocab_size);
    compare_with_reference(&s.model, &f);
    synthetic_clear(&s);
    km_ctx_free(ctx);
}

static void test_same_bits_for_any_thread_count(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 7};
    seen s[3];
    for (int i = 0; i < 3; i++) {
        km_ctx *ctx = km_test_ctx(threads[i]);
        synthetic model;
        forest f;
        synthetic_init(&model, ctx, gemma_config());
        make_random_forest(&f, 600, 8, model.model.config.vocab_size);
        run_all(&s[i], &model.model, &f);
        synthetic_clear(&model);
        km_ctx_free(ctx);
    }
    const size_t bytes =
        (size_t)((gemma_config().n_layers + 1) * s[0].n * s[0].vocab) * sizeof(float);
    assert_memory_equal(s[0].logits, s[1].logits, bytes);
    assert_memory_equal(s[0].logits, s[2].logits, bytes);
    for (int i = 0; i < 3; i++) {
        seen_clear(&s[i]);
    }
}

static void test_a_tree_is_its_sequences(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(2);
    synthetic model;
    forest f, path;
    seen tree, alone;
    synthetic_init(&model, ctx, gemma_config());
    const km_config *c = &model.model.config;
    make_random_forest(&f, 200, 7, c->vocab_size);
    run_all(&tree, &model.model, &f);
    for (int64_t node = 0; node < f.n; node += 7) {
        path_of(&path, &f, node);
        run_all(&alone, &model.model, &path);
        double expected[64];
        for (int64_t i = 0; i < c->vocab_size; i++) {
            int64_t last = c->n_layers * path.n + path.n - 1;
            expected[i] = (double)alone.logits[last * c->vocab_size + i];
        }
        const float *row = tree.logits + (c->n_layers * f.n + node) * c->vocab_size;
        assert_true(worst_of_row(row, expected, c->vocab_size) < 1e-5);
        seen_clear(&alone);
    }
    seen_clear(&tree);
    synthetic_clear(&model);
    km_ctx_free(ctx);
}

/* Few rows, out of order and repeated, give what asking for all rows gives. */
static void test_rows_are_what_was_asked(void **state) {
    (void)state;
    static const int64_t rows[] = {140, 3, 3, 77}, lens_rows[] = {9, 140};
    km_ctx *ctx = km_test_ctx(2);
    synthetic model;
    forest f;
    seen all, some;
    synthetic_init(&model, ctx, llama_config());
    const km_config *c = &model.model.config;
    make_random_forest(&f, 150, 8, c->vocab_size);
    run_all(&all, &model.model, &f);
    seen_init(&some, c, 4);
    km_forward_request request = {.tree = {f.ids, f.parent, f.n},
                                  .rows = rows,
                                  .n_rows = 4,
                                  .lens_rows = lens_rows,
                                  .n_lens_rows = 2,
                                  .on_logits = look,
                                  .payload = &some};
    assert_int_equal(km_model_forward(&model.model, &request, NULL), KM_OK);
    for (int64_t layer = 0; layer <= c->n_layers; layer++) {
        for (int64_t i = 0; i < 4; i++) {
            bool output = layer == c->n_layers;
            assert_int_equal(some.count[layer * 4 + i], output || i < 2);
            if (output || i < 2) {
                int64_t node = output ? rows[i] : lens_rows[i];
                const float *expected = all.logits + (layer * f.n + node) * c->vocab_size;
                for (int64_t j = 0; j < c->vocab_size; j++) {
                    float x = some.logits[(layer * 4 + i) * c->vocab_size + j];
                    assert_true(fabsf(x - expected[j]) < 1e-4f);
                }
            }
        }
    }
    seen_clear(&all);
    seen_clear(&some);
    synthetic_clear(&model);
    km_ctx_free(ctx);
}

/* Row i wants layers i % 5 and above; whoever asks must have shown what is above. */
static bool open_until(void *payload, int64_t index, int32_t layer) {
    const seen *s = payload;
    for (int64_t above = layer + 1; above < 5 && above >= index % 5; above++) {
        assert_int_equal(s->count[above * s->n + index], 1);
    }
    return layer >= index % 5;
}

/* A row may be shown below the layer where it closes (layers are computed together), never below
 * the next question. What is shown is what the full lens shows. */
static void test_lens_rows_close(void **state) {
    (void)state;
    enum { N_ROWS = 40 };
    km_ctx *ctx = km_test_ctx(2);
    synthetic model;
    forest f;
    seen all, some;
    int64_t rows[N_ROWS], n_shown = 0;
    synthetic_init(&model, ctx, gemma_config());
    const km_config *c = &model.model.config;
    make_random_forest(&f, N_ROWS, 8, c->vocab_size);
    for (int64_t i = 0; i < N_ROWS; i++) {
        rows[i] = N_ROWS - 1 - i;
    }
    run_all(&all, &model.model, &f);
    seen_init(&some, c, N_ROWS);
    km_forward_request request = {.tree = {f.ids, f.parent, f.n},
                                  .lens_rows = rows,
                                  .n_lens_rows = N_ROWS,
                                  .on_logits = look,
                                  .payload = &some,
                                  .lens_open = open_until};
    assert_int_equal(km_model_forward(&model.model, &request, NULL), KM_OK);
    for (int64_t cell = 0; cell < c->n_layers * N_ROWS; cell++) {
        const int64_t layer = cell / N_ROWS, i = cell % N_ROWS;
        const float *expected = all.logits + (layer * f.n + rows[i]) * c->vocab_size;
        assert_int_equal(some.count[cell], some.count[cell] != 0 || layer >= i % 5);
        n_shown += some.count[cell];
        for (int64_t j = 0; some.count[cell] == 1 && j < c->vocab_size; j++) {
            assert_true(fabsf(some.logits[cell * c->vocab_size + j] - expected[j]) < 1e-4f);
        }
    }
    assert_true(n_shown < c->n_layers * N_ROWS);
    seen_clear(&all);
    seen_clear(&some);
    synthetic_clear(&model);
    km_ctx_free(ctx);
}

/* The lens of a layer is its stream through the final norm and the unembedding; without the norm it
 * is the unembedding alone, which is linear. */
static void test_streams_are_unembedded(void **state) {
    (void)state;
    enum { N = 21 };
    km_ctx *ctx = km_test_ctx(2);
    synthetic s;
    forest f;
    seen all;
    km_error err = KM_ERROR_INIT;
    synthetic_init(&s, ctx, llama_config());
    const km_config *c = &s.model.config;
    const int64_t width = c->d_model, vocab = c->vocab_size;
    float *x = calloc((size_t)(N * width), sizeof *x),
          *out = calloc((size_t)(N * vocab), sizeof *out);
    assert_true(x != NULL && out != NULL);
    make_random_forest(&f, N, 8, c->vocab_size);
    run_all(&all, &s.model, &f);
    const km_read read = {KM_POINT_RESID_POST, 1, -1, NULL, N, x};
    const km_forward_request request = {
        .tree = {f.ids, f.parent, f.n}, .reads = &read, .n_reads = 1};
    km_test_ok(km_model_forward(&s.model, &request, &err), &err);
    km_test_ok(km_model_unembed_into(out, &s.model, x, N, true, &err), &err);
    assert_memory_equal(out, all.logits + N * vocab, (size_t)(N * vocab) * sizeof *out);
    const float *head = s.model.weights.unembed.data;
    km_test_ok(km_model_unembed_into(out, &s.model, x, N, false, &err), &err);
    for (int64_t cell = 0; cell < N * vocab; cell++) {
        double expected = 0, size = 0;
        for (int64_t j = 0; j < width; j++) {
            const double term =
                (double)x[cell / vocab * width + j] * (double)head[cell % vocab * width + j];
            expected += term;
            size += fabs(term);
        }
        assert_true(fabs((double)out[cell] - expected) <= 1e-6 * size);
    }
    x[3 * width] = NAN;
    km_test_fails(km_model_unembed_into(out, &s.model, x, N, false, &err), KM_ENUMERIC, &err,
                  "stream 3: logits are not finite");
    km_test_fails(km_model_unembed_into(NULL, &s.model, x, N, true, &err), KM_EINVAL, &err,
                  "21 streams");
    km_test_ok(km_model_unembed_into(out, &s.model, x, 0, true, &err), &err);
    free(x);
    free(out);
    seen_clear(&all);
    synthetic_clear(&s);
    km_ctx_free(ctx);
}

static void test_log_probabilities_of_a_sequence(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(2);
    synthetic model;
    forest f;
    synthetic_init(&model, ctx, llama_config());
    const int64_t vocab = model.model.config.vocab_size;
    make_chain(&f, 20, (int32_t)vocab);
    float one[19], next[64];
    assert_int_equal(km_model_logprobs_into(one, &model.model, f.ids, 20, NULL), KM_OK);
    for (int64_t n = 1; n < 20; n++) {
        double sum = 0.0;
        assert_int_equal(km_model_next_logprobs_into(next, &model.model, f.ids, n, NULL), KM_OK);
        for (int64_t i = 0; i < vocab; i++) {
            sum += exp((double)next[i]);
        }
        assert_true(fabs(sum - 1.0) < 1e-5);
        assert_true(fabsf(next[f.ids[n]] - one[n - 1]) < 1e-5f);
    }
    assert_int_equal(km_model_logprobs_into(NULL, &model.model, f.ids, 1, NULL), KM_OK);
    assert_int_equal(km_model_logprobs_into(one, &model.model, f.ids, 0, NULL), KM_EINVAL);
    assert_int_equal(km_model_next_logprobs_into(next, &model.model, f.ids, 0, NULL), KM_EINVAL);
    synthetic_clear(&model);
    km_ctx_free(ctx);
}

/* ---- what can go wrong ---- */

static km_status ignore(void *payload, int64_t index, int32_t layer, const float *logits,
                        int64_t vocab, km_error *err) {
    (void)payload;
    (void)index;
    (void)layer;
    (void)logits;
    (void)vocab;
    (void)err;
    return KM_OK;
}

static void expect_status(const km_model *model, km_forward_request request, km_status expected,
                          const char *message) {
    km_error err = KM_ERROR_INIT;
    assert_int_equal(km_model_forward(model, &request, &err), expected);
    assert_int_equal(err.code, expected);
    assert_non_null(strstr(err.message, message));
}

static void test_bad_requests_are_refused(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(2);
    synthetic model;
    synthetic_init(&model, ctx, llama_config());
    model.model.config.context_length = 3;
    int32_t ids[] = {1, 2, 3, 4}, bad_ids[] = {1, 61, 3, 4};
    int64_t parent[] = {-1, 0, 1, 1}, late[] = {-1, 0, 3, 1}, deep[] = {-1, 0, 1, 2};
    int64_t rows[] = {3}, far_rows[] = {4};
    km_forward_request good = {
        .tree = {ids, parent, 4}, .rows = rows, .n_rows = 1, .on_logits = ignore};
    assert_int_equal(km_model_forward(&model.model, &good, NULL), KM_OK);
    km_forward_request bad = good;
    bad.tree.ids = bad_ids;
    expect_status(&model.model, bad, KM_ERANGE, "token 1 has id 61");
    bad = good;
    bad.tree.parent = late;
    expect_status(&model.model, bad, KM_EINVAL, "token 2 has parent 3");
    bad = good;
    bad.tree.parent = deep;
    expect_status(&model.model, bad, KM_ERANGE, "position 3");
    bad = good;
    bad.rows = far_rows;
    expect_status(&model.model, bad, KM_EINVAL, "rows[0] is 4");
    bad = good;
    bad.on_logits = NULL;
    expect_status(&model.model, bad, KM_EINVAL, "on_logits");
    bad = good;
    bad.tree.n = -1;
    expect_status(&model.model, bad, KM_EINVAL, "-1 tokens");
    bad = good;
    bad.n_rows = 0;
    bad.tree.n = 0;
    assert_int_equal(km_model_forward(&model.model, &bad, NULL), KM_OK);
    synthetic_clear(&model);
    km_ctx_free(ctx);
}

static void test_nan_is_an_error_that_says_where(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(2);
    synthetic model;
    synthetic_init(&model, ctx, llama_config());
    int32_t ids[] = {1, 2, 3};
    int64_t parent[] = {-1, 0, 1}, rows[] = {2};
    km_forward_request request = {
        .tree = {ids, parent, 3}, .rows = rows, .n_rows = 1, .on_logits = ignore};
    float *w_down = (float *)(uintptr_t)model.layers[1].w_down.data, kept = *w_down;
    *w_down = NAN;
    expect_status(&model.model, request, KM_ENUMERIC, "layer 1: resid_post of token 0");
    *w_down = kept;
    ((float *)(uintptr_t)model.model.weights.unembed.data)[5] = INFINITY;
    expect_status(&model.model, request, KM_ENUMERIC, "layer 3: logits of token 2 (position 2)");
    synthetic_clear(&model);
    km_ctx_free(ctx);
}

static km_status refuse(void *payload, int64_t index, int32_t layer, const float *logits,
                        int64_t vocab, km_error *err) {
    (void)layer;
    (void)logits;
    (void)vocab;
    (void)err;
    atomic_int *calls = payload;
    atomic_fetch_add(calls, 1);
    return index == 1 ? KM_ECALLBACK : KM_OK;
}

static km_status cancel(void *payload, int64_t index, int32_t layer, const float *logits,
                        int64_t vocab, km_error *err) {
    (void)index;
    (void)layer;
    (void)logits;
    (void)vocab;
    (void)err;
    km_ctx_cancel(payload);
    return KM_OK;
}

static void test_callback_and_cancellation_stop_the_pass(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(2);
    synthetic model;
    forest f;
    atomic_int calls = 0;
    synthetic_init(&model, ctx, llama_config());
    make_chain(&f, 30, model.model.config.vocab_size);
    int64_t rows[] = {0, 1, 2, 3};
    km_forward_request request = {.tree = {f.ids, f.parent, f.n},
                                  .rows = rows,
                                  .n_rows = 4,
                                  .on_logits = refuse,
                                  .payload = &calls};
    km_error err = KM_ERROR_INIT;
    assert_int_equal(km_model_forward(&model.model, &request, &err), KM_ECALLBACK);
    assert_true(calls >= 1);
    /* Cancelled while the output is shown: the lens is never reached. */
    request.lens_rows = rows;
    request.n_lens_rows = 4;
    request.on_logits = cancel;
    request.payload = ctx;
    km_error_clear(&err);
    assert_int_equal(km_model_forward(&model.model, &request, &err), KM_ECANCELLED);
    request.on_logits = ignore;
    assert_int_equal(km_model_forward(&model.model, &request, NULL), KM_OK);
    synthetic_clear(&model);
    km_ctx_free(ctx);
}

static km_status log_probabilities(km_ctx *ctx, km_error *err) {
    static const int32_t ids[] = {1, 2, 3};
    synthetic model;
    float out[2];
    synthetic_init(&model, ctx, llama_config());
    km_status status = km_model_logprobs_into(out, &model.model, ids, 3, err);
    synthetic_clear(&model);
    return status;
}

static void test_every_failing_allocation_is_reported(void **state) {
    (void)state;
    km_test_every_allocation(log_probabilities);
}

/* A pass that cannot fit is refused before anything is allocated. */
static void test_a_pass_too_large_is_refused(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    synthetic model;
    synthetic_init(&model, ctx, llama_config());
    model.model.config.vocab_size = INT32_MAX;
    model.model.config.d_ffn = INT32_MAX;
    int32_t ids[] = {0, 1, 2};
    km_error err = KM_ERROR_INIT;
    int64_t parent[] = {-1, 0, 1}, rows[200];
    for (int i = 0; i < 200; i++) {
        rows[i] = 2;
    }
    km_forward_request request = {
        .tree = {ids, parent, 3}, .rows = rows, .n_rows = 200, .on_logits = ignore};
    assert_int_equal(km_model_forward(&model.model, &request, &err), KM_ENOMEM);
    assert_non_null(strstr(err.message, "a forward pass over 3 tokens needs"));
    synthetic_clear(&model);
    km_ctx_free(ctx);
}

static void test_reductions_over_logits(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    synthetic model;
    synthetic_init(&model, ctx, llama_config());
    float x[] = {1.0f, 3.0f, 3.0f, -2.0f, 1.0f};
    double expected[] = {1.0, 3.0, 3.0, -2.0, 1.0};
    assert_true(fabs(km_logits_logsumexp(&model.model, x, 5) - log_sum_exp(expected, 5)) < 1e-6);
    assert_int_equal(km_logits_argmax(x, 5), 1);
    assert_int_equal(km_logits_rank(x, 5, 1), 0);
    assert_int_equal(km_logits_rank(x, 5, 2), 0);
    assert_int_equal(km_logits_rank(x, 5, 0), 2);
    assert_int_equal(km_logits_rank(x, 5, 3), 4);
    x[0] = -INFINITY;
    assert_true(km_logits_logsumexp(&model.model, x, 1) == -(double)INFINITY);
    synthetic_clear(&model);
    km_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_variant_agrees_with_double_precision),
        cmocka_unit_test(test_other_configurations),
        cmocka_unit_test(test_rope_factors_of_the_file),
        cmocka_unit_test(test_same_bits_for_any_thread_count),
        cmocka_unit_test(test_a_tree_is_its_sequences),
        cmocka_unit_test(test_rows_are_what_was_asked),
        cmocka_unit_test(test_lens_rows_close),
        cmocka_unit_test(test_streams_are_unembedded),
        cmocka_unit_test(test_log_probabilities_of_a_sequence),
        cmocka_unit_test(test_bad_requests_are_refused),
        cmocka_unit_test(test_nan_is_an_error_that_says_where),
        cmocka_unit_test(test_callback_and_cancellation_stop_the_pass),
        cmocka_unit_test(test_every_failing_allocation_is_reported),
        cmocka_unit_test(test_a_pass_too_large_is_refused),
        cmocka_unit_test(test_reductions_over_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
