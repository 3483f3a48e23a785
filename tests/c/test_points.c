/* test_points.c: names and shapes of the points, what reads give, in every configuration: the
 * identities that tie the points of a pass together, and everything a read can have wrong. */
#include "forest.h"

enum { N = 45 };

/* All activations of one point: (n, heads, width). */
static float *read_all(const km_model *model, const forest *f, km_point point, int32_t layer) {
    const km_config *c = &model->config;
    const int64_t positions = count_positions(f);
    const int64_t each = km_point_heads(point, c) * km_point_width(point, c, positions);
    float *out = malloc((size_t)(f->n * each) * sizeof *out);
    assert_non_null(out);
    const km_read read = {point, layer, -1, NULL, 0, out};
    const km_forward_request request = {
        .tree = {f->ids, f->parent, f->n}, .reads = &read, .n_reads = 1};
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_forward(model, &request, &err), &err);
    return out;
}

static void test_names(void **state) {
    (void)state;
    km_point point;
    km_error err = KM_ERROR_INIT;
    for (int i = 0; i < KM_N_POINTS; i++) {
        assert_non_null(km_point_name((km_point)i));
        km_test_ok(km_point_parse(&point, km_point_name((km_point)i), &err), &err);
        assert_int_equal(point, i);
    }
    assert_null(km_point_name((km_point)-1));
    assert_null(km_point_name(KM_N_POINTS));
    km_test_fails(km_point_parse(&point, "resid", &err), KM_ENOTFOUND, &err,
                  "'resid'; the points are embed, resid_pre, q, k, v, attn_scores");
    assert_int_equal(km_point_parse(&point, "resid", &err), KM_ENOTFOUND);
    assert_non_null(strstr(err.message, "v_input, mlp_input"));
    km_error_clear(&err);
    km_test_fails(km_point_parse(&point, NULL, &err), KM_EINVAL, &err, "no name");
}

static void test_shapes(void **state) {
    (void)state;
    const km_config c = llama_config(), neox = neox_config();
    assert_int_equal(km_point_heads(KM_POINT_Q, &c), c.n_heads);
    assert_int_equal(km_point_heads(KM_POINT_V_INPUT, &c), c.n_kv_heads);
    assert_int_equal(km_point_heads(KM_POINT_MLP_INPUT, &c), 1);
    assert_int_equal(km_point_width(KM_POINT_ATTN_SCORES, &c, 17), 17);
    assert_int_equal(km_point_width(KM_POINT_ATTN_HEAD_OUT, &c, 17), c.head_dim);
    assert_int_equal(km_point_width(KM_POINT_MLP_HIDDEN, &c, 17), c.d_ffn);
    assert_int_equal(km_point_width(KM_POINT_LOGITS, &c, 17), c.vocab_size);
    assert_int_equal(km_point_width(KM_POINT_Q_INPUT, &c, 17), c.d_model);
    assert_true(km_point_exists(KM_POINT_RESID_MID, &c));
    assert_false(km_point_exists(KM_POINT_RESID_MID, &neox));
    assert_false(km_point_has_layer(KM_POINT_EMBED) || km_point_has_layer(KM_POINT_FINAL_NORM) ||
                 km_point_has_layer(KM_POINT_LOGITS));
    assert_true(km_point_has_layer(KM_POINT_RESID_POST));
}

/* ---- identities ---- */

static void expect_equal(const float *a, const float *b, int64_t n, double slack) {
    for (int64_t i = 0; i < n; i++) {
        assert_true(fabs((double)a[i] - (double)b[i]) <= slack);
    }
}

/* resid_pre + attn_out = resid_mid, + mlp_out = resid_post = resid_pre of the next layer. */
static void check_stream(const km_model *model, const forest *f, int32_t layer) {
    const km_config *c = &model->config;
    const int64_t n = f->n * c->d_model;
    float *pre = read_all(model, f, KM_POINT_RESID_PRE, layer);
    float *attn = read_all(model, f, KM_POINT_ATTN_OUT, layer);
    float *mlp = read_all(model, f, KM_POINT_MLP_OUT, layer);
    float *post = read_all(model, f, KM_POINT_RESID_POST, layer);
    for (int64_t i = 0; i < n; i++) {
        pre[i] += attn[i];
    }
    if (!c->parallel_residual) {
        float *mid = read_all(model, f, KM_POINT_RESID_MID, layer);
        assert_memory_equal(pre, mid, (size_t)n * sizeof *mid);
        free(mid);
    }
    for (int64_t i = 0; i < n; i++) {
        pre[i] += mlp[i];
    }
    assert_memory_equal(pre, post, (size_t)n * sizeof *post);
    if (layer + 1 < c->n_layers) {
        float *next = read_all(model, f, KM_POINT_RESID_PRE, layer + 1);
        assert_memory_equal(next, post, (size_t)n * sizeof *post);
        free(next);
    }
    free(pre);
    free(attn);
    free(mlp);
    free(post);
}

/* A pattern is the softmax of its scores over what is seen; heads mix values by it. */
static void check_attention(const km_model *model, const forest *f, int32_t layer) {
    const km_config *c = &model->config;
    const bool windowed = c->sliding_window > 0 && c->windowed[layer];
    const int64_t group = c->n_heads / c->n_kv_heads, dh = c->head_dim;
    float *scores = read_all(model, f, KM_POINT_ATTN_SCORES, layer);
    float *pattern = read_all(model, f, KM_POINT_ATTN_PATTERN, layer);
    float *mixed = read_all(model, f, KM_POINT_ATTN_HEAD_OUT, layer);
    float *v = read_all(model, f, KM_POINT_V, layer);
    int64_t path[MAX_NODES], positions = 0, depth[MAX_NODES];
    for (int64_t i = 0; i < f->n; i++) {
        depth[i] = f->parent[i] < 0 ? 0 : depth[f->parent[i]] + 1;
        positions = depth[i] >= positions ? depth[i] + 1 : positions;
    }
    for (int64_t cell = 0; cell < f->n * c->n_heads; cell++) {
        const int64_t node = cell / c->n_heads, head = cell % c->n_heads;
        const float *s = scores + cell * positions, *p = pattern + cell * positions;
        double total = 0.0, out[64] = {0.0};
        for (int64_t a = node; a >= 0; a = f->parent[a]) {
            path[depth[a]] = a;
        }
        for (int64_t i = 0; i < positions; i++) {
            const bool sees =
                i <= depth[node] && (!windowed || depth[node] - i < c->sliding_window);
            assert_true(sees ? isfinite(s[i]) : isinf(s[i]) && p[i] == 0.0f);
            total += sees ? exp((double)s[i]) : 0.0;
        }
        for (int64_t i = 0; i <= depth[node]; i++) {
            assert_true(fabs(exp((double)s[i]) / total - (double)p[i]) < 1e-6);
            for (int64_t d = 0; d < dh; d++) {
                out[d] +=
                    (double)p[i] * (double)v[(path[i] * c->n_kv_heads + head / group) * dh + d];
            }
        }
        for (int64_t d = 0; d < dh; d++) {
            assert_true(fabs(out[d] - (double)mixed[cell * dh + d]) < 1e-5);
        }
    }
    free(scores);
    free(pattern);
    free(mixed);
    free(v);
}

/* attn_out and mlp_out are their matrices times what goes into them (no norm behind them). */
static void check_products(const km_model *model, const forest *f, int32_t layer) {
    const km_layer_weights *w = &model->weights.layers[layer];
    const km_config *c = &model->config;
    static const km_point in[] = {KM_POINT_ATTN_HEAD_OUT, KM_POINT_MLP_HIDDEN};
    static const km_point out[] = {KM_POINT_ATTN_OUT, KM_POINT_MLP_OUT};
    for (int k = 0; k < 2 && !c->post_norms; k++) {
        const km_matrix *m = k == 0 ? &w->wo : &w->w_down;
        float *x = read_all(model, f, in[k], layer), *y = read_all(model, f, out[k], layer);
        for (int64_t i = 0; i < f->n; i++) {
            double wide[64], expected[64];
            for (int64_t j = 0; j < m->cols; j++) {
                wide[j] = (double)x[i * m->cols + j];
            }
            ref_product(expected, m, k == 0 ? w->bo : w->b_down, wide);
            for (int64_t j = 0; j < m->rows; j++) {
                assert_true(fabs(expected[j] - (double)y[i * m->rows + j]) < 1e-5);
            }
        }
        free(x);
        free(y);
    }
}

static void check_last(const km_model *model, const forest *f) {
    const km_config *c = &model->config;
    float *post = read_all(model, f, KM_POINT_RESID_POST, c->n_layers - 1);
    float *normed = read_all(model, f, KM_POINT_FINAL_NORM, 0);
    float *logits = read_all(model, f, KM_POINT_LOGITS, 0);
    seen s;
    run_all(&s, model, f);
    assert_memory_equal(logits, s.logits + (int64_t)c->n_layers * f->n * s.vocab,
                        (size_t)(f->n * s.vocab) * sizeof *logits);
    for (int64_t i = 0; i < f->n; i++) {
        double x[64], h[64];
        for (int64_t j = 0; j < c->d_model; j++) {
            x[j] = (double)post[i * c->d_model + j];
        }
        ref_norm(c, h, x, &model->weights.final_norm);
        for (int64_t j = 0; j < c->d_model; j++) {
            assert_true(fabs(h[j] - (double)normed[i * c->d_model + j]) < 1e-5);
        }
    }
    seen_clear(&s);
    free(post);
    free(normed);
    free(logits);
}

static void check_start(const km_model *model, const forest *f) {
    const km_config *c = &model->config;
    float *embedded = read_all(model, f, KM_POINT_EMBED, 0);
    const float *table = model->weights.embed.data;
    for (int64_t i = 0; i < f->n; i++) {
        for (int64_t j = 0; j < c->d_model; j++) {
            assert_true(embedded[i * c->d_model + j] ==
                        table[f->ids[i] * c->d_model + j] * c->embed_scale);
        }
    }
    float *pre = read_all(model, f, KM_POINT_RESID_PRE, 0);
    if (c->position != KM_POSITION_LEARNED) {
        expect_equal(embedded, pre, f->n * c->d_model, 0.0);
    }
    free(embedded);
    free(pre);
}

static void test_points_agree_with_each_other(void **state) {
    forest *f = malloc(sizeof *f);
    assert_non_null(f);
    for (int number = 0; number < N_SYNTHETIC; number++) {
        synthetic s;
        synthetic_init(&s, *state, synthetic_config(number));
        make_random_forest(f, N, 7, s.model.config.vocab_size);
        check_start(&s.model, f);
        for (int32_t layer = 0; layer < s.model.config.n_layers; layer++) {
            check_stream(&s.model, f, layer);
            check_attention(&s.model, f, layer);
            check_products(&s.model, f, layer);
        }
        check_last(&s.model, f);
        synthetic_clear(&s);
    }
    free(f);
}

/* ---- which rows ---- */

/* One head, some nodes out of order and repeated, among other reads and wanted rows: what reading
 * everything alone gives. */
static void check_choice(const km_model *model, const forest *f, km_point point, int32_t layer) {
    static const int64_t nodes[] = {40, 3, 3, 17};
    const km_config *c = &model->config;
    const int64_t heads = km_point_heads(point, c);
    float *all = read_all(model, f, point, layer);
    const int64_t positions = count_positions(f);
    const int64_t width = km_point_width(point, c, positions);
    float *some = malloc((size_t)(4 * width) * sizeof *some);
    float *x = malloc((size_t)(f->n * c->d_model) * sizeof *x);
    assert_true(some != NULL && x != NULL);
    const int32_t head = (int32_t)heads - 1;
    const km_read reads[] = {{KM_POINT_RESID_MID, 0, -1, NULL, 0, x},
                             {point, layer, head, nodes, 4, some}};
    const int first = c->parallel_residual ? 1 : 0;
    seen s;
    int64_t rows[] = {17, 44};
    seen_init(&s, c, 2);
    const km_forward_request request = {.tree = {f->ids, f->parent, f->n},
                                        .rows = rows,
                                        .n_rows = 2,
                                        .on_logits = look,
                                        .payload = &s,
                                        .reads = reads + first,
                                        .n_reads = 2 - first};
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_forward(model, &request, &err), &err);
    for (int64_t i = 0; i < 4; i++) {
        assert_memory_equal(some + i * width, all + (nodes[i] * heads + head) * width,
                            (size_t)width * sizeof *some);
    }
    seen_clear(&s);
    free(all);
    free(some);
    free(x);
}

static void test_reads_of_some_heads_and_nodes(void **state) {
    forest *f = malloc(sizeof *f);
    assert_non_null(f);
    for (int number = 0; number < N_SYNTHETIC; number++) {
        synthetic s;
        synthetic_init(&s, *state, synthetic_config(number));
        make_random_forest(f, N, 7, s.model.config.vocab_size);
        for (int point = 0; point <= KM_POINT_LOGITS; point++) {
            if (km_point_exists((km_point)point, &s.model.config)) {
                check_choice(&s.model, f, (km_point)point, 0);
                check_choice(&s.model, f, (km_point)point, s.model.config.n_layers - 1);
            }
        }
        synthetic_clear(&s);
    }
    free(f);
}

static void test_bad_reads_are_refused(void **state) {
    synthetic s;
    forest *f = malloc(sizeof *f);
    float out[8];
    static const int64_t far[] = {3};
    assert_non_null(f);
    synthetic_init(&s, *state, neox_config());
    make_chain(f, 3, s.model.config.vocab_size);
    const struct {
        km_read read;
        const char *message;
    } cases[] = {
        {{KM_N_POINTS, 0, -1, NULL, 0, out}, "read 0: this is no point of a gptneox model"},
        {{KM_POINT_RESID_MID, 0, -1, NULL, 0, out}, "resid_mid is no point of a gptneox model"},
        {{KM_POINT_Q, 3, -1, NULL, 0, out}, "q of layer 3; layers are 0 to 2"},
        {{KM_POINT_Q, 0, 3, NULL, 0, out}, "q of head 3; heads are 0 to 2"},
        {{KM_POINT_RESID_PRE, 0, 1, NULL, 0, out}, "heads are 0 to 0"},
        {{KM_POINT_Q, 0, -1, far, 1, out}, "nodes[0] is 3; the tree has 3 tokens"},
        {{KM_POINT_Q, 0, -1, NULL, 0, NULL}, "no place"},
        {{KM_POINT_Q_INPUT, 0, -1, NULL, 0, out}, "read resid_pre"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const km_forward_request request = {
            .tree = {f->ids, f->parent, 3}, .reads = &cases[i].read, .n_reads = 1};
        km_error err = KM_ERROR_INIT;
        km_test_fails(km_model_forward(&s.model, &request, &err), KM_EINVAL, &err,
                      cases[i].message);
    }
    synthetic_clear(&s);
    free(f);
}

/* Where the numbers stop being finite is named: a score, the stream after a branch. */
static void test_what_is_not_finite_is_named(void **state) {
    synthetic s;
    forest *f = malloc(sizeof *f);
    km_error err = KM_ERROR_INIT;
    float next[64];
    assert_non_null(f);
    synthetic_init(&s, *state, llama_config());
    make_chain(f, 4, s.model.config.vocab_size);
    static const char *const messages[] = {"layer 1: attn_scores of token",
                                           "layer 1: resid_mid of token",
                                           "layer 1: resid_post of token"};
    km_layer_weights *w = &s.layers[1];
    const km_matrix *const matrices[] = {&w->wk, &w->wo, &w->w_up};
    for (int i = 0; i < 3; i++) {
        float *element = (float *)(uintptr_t)matrices[i]->data, kept = *element;
        *element = i == 0 ? 3e38f : NAN;
        km_test_fails(km_model_next_logprobs_into(next, &s.model, f->ids, 4, &err), KM_ENUMERIC,
                      &err, messages[i]);
        *element = kept;
    }
    synthetic_clear(&s);
    free(f);
}

static km_status read_everything(km_ctx *ctx, km_error *err) {
    static const int32_t ids[] = {1, 2, 3};
    static const int64_t parent[] = {-1, 0, 0}, nodes[] = {2, 1};
    synthetic s;
    float scores[6 * 3 * 2], stream[24 * 3];
    synthetic_init(&s, ctx, llama_config());
    const km_read reads[] = {{KM_POINT_ATTN_SCORES, 1, -1, nodes, 2, scores},
                             {KM_POINT_RESID_POST, 2, -1, NULL, 0, stream}};
    const km_forward_request request = {.tree = {ids, parent, 3}, .reads = reads, .n_reads = 2};
    km_status status = km_model_forward(&s.model, &request, err);
    synthetic_clear(&s);
    return status;
}

static void test_every_failing_allocation_is_reported(void **state) {
    (void)state;
    km_test_every_allocation(read_everything);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_points_agree_with_each_other),
        cmocka_unit_test(test_reads_of_some_heads_and_nodes),
        cmocka_unit_test(test_bad_reads_are_refused),
        cmocka_unit_test(test_what_is_not_finite_is_named),
        cmocka_unit_test(test_every_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
