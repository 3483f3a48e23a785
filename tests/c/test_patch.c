/* test_patch.c: patches and visits: that changing nothing changes no bit, that each kind does what
 * it says at every point, that what is changed is what is computed with, and what is refused. */
#include "forest.h"

enum { N = 30 };

static bool is_split(km_point point) {
    return point == KM_POINT_Q_INPUT || point == KM_POINT_K_INPUT || point == KM_POINT_V_INPUT ||
           point == KM_POINT_MLP_INPUT;
}

static bool is_attention(km_point point) {
    return point == KM_POINT_ATTN_SCORES || point == KM_POINT_ATTN_PATTERN;
}

/* Everything a pass shows of a forest under patches: logits and lens in `s` (unless NULL), and one
 * point's activations (n, heads, width) in `out` (unless NULL). */
static void run_patched(seen *s, float *out, const km_model *model, const forest *f,
                        const km_patch *patches, int64_t n_patches, km_point point, int32_t layer) {
    int64_t rows[MAX_NODES];
    const km_read read = {point, layer, -1, NULL, 0, out};
    km_error err = KM_ERROR_INIT;
    for (int64_t i = 0; i < f->n; i++) {
        rows[i] = i;
    }
    km_forward_request request = {.tree = {f->ids, f->parent, f->n},
                                  .reads = &read,
                                  .n_reads = out != NULL,
                                  .patches = patches,
                                  .n_patches = n_patches};
    if (s != NULL) {
        seen_init(s, &model->config, f->n);
        request.rows = request.lens_rows = rows;
        request.n_rows = request.n_lens_rows = f->n;
        request.on_logits = look;
        request.payload = s;
    }
    km_test_ok(km_model_forward(model, &request, &err), &err);
}

static int64_t floats_of(const km_model *model, const forest *f, km_point point) {
    return f->n * km_point_heads(point, &model->config) *
           km_point_width(point, &model->config, count_positions(f));
}

/* The clean values at a point; those of split inputs are the stream, a copy a head. */
static float *clean_values(const km_model *model, const forest *f, km_point point, int32_t layer) {
    const km_config *c = &model->config;
    const int64_t n = floats_of(model, f, point), heads = km_point_heads(point, c);
    float *out = malloc((size_t)n * sizeof *out);
    assert_non_null(out);
    if (!is_split(point)) {
        run_patched(NULL, out, model, f, NULL, 0, point, layer);
        return out;
    }
    const bool middle = point == KM_POINT_MLP_INPUT && !c->parallel_residual;
    float *stream = malloc((size_t)(f->n * c->d_model) * sizeof *stream);
    assert_non_null(stream);
    run_patched(NULL, stream, model, f, NULL, 0, middle ? KM_POINT_RESID_MID : KM_POINT_RESID_PRE,
                layer);
    for (int64_t i = 0; i < f->n * heads; i++) {
        memcpy(out + i * c->d_model, stream + i / heads * c->d_model,
               (size_t)c->d_model * sizeof *out);
    }
    free(stream);
    return out;
}

static void expect_same(const seen *a, const seen *b, const km_config *c, const char *what) {
    const size_t bytes = (size_t)((c->n_layers + 1) * a->n * a->vocab) * sizeof(float);
    if (memcmp(a->logits, b->logits, bytes) != 0) {
        fail_msg("%s: %s changes bits", c->arch, what);
    }
}

/* ---- what changes nothing ---- */

/* The values already there, set for all nodes and heads, or for one head of some nodes; nothing
 * added; scaled by one. */
static void check_no_op(const km_model *model, const forest *f, const seen *clean, km_point point,
                        int32_t layer) {
    static const int64_t nodes[] = {20, 4, 11};
    static const float zeros[128] = {0.0f};
    const km_config *c = &model->config;
    const int64_t heads = km_point_heads(point, c);
    const int64_t width = km_point_width(point, c, count_positions(f));
    float *values = clean_values(model, f, point, layer), *some = malloc(3 * 128 * sizeof *some);
    assert_true(some != NULL && width <= 128);
    const int32_t head = (int32_t)heads - 1;
    for (int64_t i = 0; i < 3; i++) {
        memcpy(some + i * width, values + (nodes[i] * heads + head) * width,
               (size_t)width * sizeof *some);
    }
    const km_patch patches[] = {
        {.kind = KM_PATCH_SET, .head = -1, .values = values, .value_stride = heads * width},
        {.kind = KM_PATCH_SET,
         .head = head,
         .nodes = nodes,
         .n_nodes = 3,
         .values = some,
         .value_stride = width},
        {.kind = KM_PATCH_ADD, .head = -1, .values = zeros, .same_for_heads = true, .factor = 1.0f},
        {.kind = KM_PATCH_SCALE, .head = -1, .factor = 1.0f},
    };
    for (int i = 0; i < 4; i++) {
        km_patch patch = patches[i];
        patch.point = point;
        patch.layer = layer;
        seen s;
        run_patched(&s, NULL, model, f, &patch, 1, KM_POINT_EMBED, 0);
        expect_same(&s, clean, c, km_point_name(point));
        seen_clear(&s);
    }
    free(values);
    free(some);
}

static void test_the_value_already_there_changes_nothing(void **state) {
    forest *f = malloc(sizeof *f);
    assert_non_null(f);
    for (int number = 0; number < N_SYNTHETIC; number++) {
        synthetic s;
        seen clean;
        synthetic_init(&s, *state, synthetic_config(number));
        make_random_forest(f, N, 7, s.model.config.vocab_size);
        run_all(&clean, &s.model, f);
        for (int point = 0; point < KM_N_POINTS; point++) {
            if (km_point_exists((km_point)point, &s.model.config)) {
                check_no_op(&s.model, f, &clean, (km_point)point, 0);
                check_no_op(&s.model, f, &clean, (km_point)point, s.model.config.n_layers - 1);
            }
        }
        seen_clear(&clean);
        synthetic_clear(&s);
    }
    free(f);
}

/* ---- what each kind does ---- */

/* The patch on a row (heads, width) as its documentation says, in double precision. */
static void apply(double *row, const km_patch *p, int64_t index, int64_t heads, int64_t width) {
    const int64_t begin = p->begin, end = p->end == 0 ? width : p->end;
    for (int64_t h = 0; h < heads; h++) {
        if (p->head >= 0 && p->head != h) {
            continue;
        }
        const float *v = p->values + index * p->value_stride;
        v += p->head >= 0 || p->same_for_heads ? 0 : h * (end - begin);
        double product = 0.0, square = 0.0;
        for (int64_t i = begin; i < end; i++) {
            product += (double)v[i - begin] * row[h * width + i];
            square += (double)v[i - begin] * (double)v[i - begin];
        }
        for (int64_t i = begin; i < end; i++) {
            double *a = &row[h * width + i], x = (double)v[i - begin];
            *a = p->kind == KM_PATCH_SET     ? x
                 : p->kind == KM_PATCH_ADD   ? *a + (double)p->factor * x
                 : p->kind == KM_PATCH_SCALE ? (double)p->factor * *a
                                             : *a - x * product / square;
        }
    }
}

/* Two patches of one point after each other, then the point as it is read. */
static void check_kind(const km_model *model, const forest *f, km_patch patch) {
    static const int64_t nodes[] = {20, 4, 4, 11};
    const km_config *c = &model->config;
    const int64_t heads = km_point_heads(patch.point, c);
    const int64_t width = km_point_width(patch.point, c, count_positions(f));
    float *clean = clean_values(model, f, patch.point, patch.layer);
    float *got = malloc((size_t)floats_of(model, f, patch.point) * sizeof *got);
    double *row = malloc((size_t)(heads * width) * sizeof *row);
    assert_true(got != NULL && row != NULL);
    km_patch both[] = {patch, patch};
    both[0].nodes = nodes;
    both[0].n_nodes = 4;
    both[1].kind = KM_PATCH_SCALE;
    both[1].factor = -0.5f;
    both[1].nodes = nodes + 2;
    both[1].n_nodes = 2;
    run_patched(NULL, got, model, f, both, 2, patch.point, patch.layer);
    for (int64_t node = 0; node < f->n; node++) {
        for (int64_t i = 0; i < heads * width; i++) {
            row[i] = (double)clean[node * heads * width + i];
        }
        for (int64_t k = 0; k < 6; k++) {
            if (nodes[k < 4 ? k : k - 2] == node) {
                apply(row, &both[k >= 4], k < 4 ? k : k - 4, heads, width);
            }
        }
        for (int64_t i = 0; i < heads * width; i++) {
            assert_true(fabs(row[i] - (double)got[node * heads * width + i]) <
                        1e-5 * (1.0 + fabs(row[i])));
        }
    }
    free(clean);
    free(got);
    free(row);
}

static void test_every_kind_at_every_point_of_rows(void **state) {
    enum { MOST = 4 * 6 * 61 };
    float *values = malloc(MOST * sizeof *values);
    forest *f = malloc(sizeof *f);
    assert_true(f != NULL && values != NULL);
    for (int64_t i = 0; i < MOST; i++) {
        values[i] = (float)km_random_normal(51, 0, (uint64_t)i);
    }
    for (int number = 0; number < 2; number++) {
        synthetic s;
        synthetic_init(&s, *state, synthetic_config(number));
        const km_config *c = &s.model.config;
        make_random_forest(f, N, 7, c->vocab_size);
        for (int at = 0; at < KM_N_POINTS * 4 * 4; at++) {
            const km_point point = (km_point)(at / 16);
            const int64_t heads = km_point_heads(point, c), width = km_point_width(point, c, 0);
            km_patch patch = {.kind = (km_patch_kind)(at / 4 % 4),
                              .point = point,
                              .layer = 1,
                              .head = -1,
                              .values = values,
                              .factor = 1.5f};
            patch.value_stride = heads * width;
            if (at % 4 == 1) {
                patch.head = (int32_t)heads - 1;
                patch.value_stride = 0;
            } else if (at % 4 == 2) {
                patch.same_for_heads = true;
                patch.begin = 1;
                patch.end = width - 2;
                patch.value_stride = width;
            } else if (at % 4 == 3) {
                patch.begin = 2;
                patch.end = 5;
                patch.value_stride = 3 * heads;
            }
            if (!is_attention(point)) {
                check_kind(&s.model, f, patch);
            }
        }
        synthetic_clear(&s);
    }
    free(values);
    free(f);
}

/* Scores are changed where they are seen, and the pattern follows from the changed scores. */
static void test_attention_is_patched_where_it_sees(void **state) {
    synthetic s;
    forest *f = malloc(sizeof *f);
    float scores[20 * 4 * 20], pattern[20 * 4 * 20], values[20];
    const int64_t node[] = {15};
    km_error err = KM_ERROR_INIT;
    assert_non_null(f);
    synthetic_init(&s, *state, gemma_config()); /* a window of five */
    make_chain(f, 20, s.model.config.vocab_size);
    for (int i = 0; i < 20; i++) {
        values[i] = i == 13 ? -INFINITY : 0.25f * (float)i;
    }
    const km_patch patch = {.kind = KM_PATCH_SET,
                            .point = KM_POINT_ATTN_SCORES,
                            .layer = 0,
                            .head = 2,
                            .nodes = node,
                            .n_nodes = 1,
                            .values = values};
    const km_read reads[] = {{KM_POINT_ATTN_SCORES, 0, -1, NULL, 0, scores},
                             {KM_POINT_ATTN_PATTERN, 0, -1, NULL, 0, pattern}};
    const km_forward_request request = {.tree = {f->ids, f->parent, 20},
                                        .patches = &patch,
                                        .n_patches = 1,
                                        .reads = reads,
                                        .n_reads = 2};
    km_test_ok(km_model_forward(&s.model, &request, &err), &err);
    const float *row = scores + (15 * 4 + 2) * 20, *seen_row = pattern + (15 * 4 + 2) * 20;
    double total = 0.0;
    for (int i = 11; i <= 15; i++) {
        total += exp((double)values[i]);
    }
    for (int i = 0; i < 20; i++) {
        const bool sees = i >= 11 && i <= 15;
        assert_true(sees ? row[i] == values[i] : isinf(row[i]));
        double expected = sees ? exp((double)values[i]) / total : 0.0;
        assert_true(fabs((double)seen_row[i] - expected) < 1e-6);
    }
    assert_true(scores[(15 * 4 + 1) * 20 + 12] != values[12]);
    synthetic_clear(&s);
    free(f);
}

/* ---- what is changed is computed with ---- */

/* Points that together carry everything from one run into another. */
typedef struct carrier {
    km_point points[4];
    int n;
    bool carries_stream; /* so that all that follows is the other run's, bit for bit */
    km_point follows;    /* else: this point of the same layer is */
} carrier;

static void check_carrier(const km_model *model, const forest *f, const forest *other,
                          const carrier *set, int32_t layer) {
    km_patch patches[4];
    float *values[4], *expected = NULL, *got = NULL;
    seen a, b;
    for (int i = 0; i < set->n; i++) {
        const km_point point = set->points[i];
        values[i] = clean_values(model, other, point, layer);
        patches[i] = (km_patch){
            .kind = KM_PATCH_SET, .point = point, .layer = layer, .head = -1, .values = values[i]};
        patches[i].value_stride = floats_of(model, f, point) / f->n;
    }
    const km_point follows = set->carries_stream ? KM_POINT_LOGITS : set->follows;
    const size_t bytes = (size_t)floats_of(model, f, follows) * sizeof(float);
    expected = malloc(bytes);
    got = malloc(bytes);
    assert_true(expected != NULL && got != NULL);
    run_patched(&a, expected, model, other, NULL, 0, follows, layer);
    run_patched(&b, got, model, f, patches, set->n, follows, layer);
    if (memcmp(expected, got, bytes) != 0) {
        fail_msg("%s: %s of layer %d does not carry the run", model->config.arch,
                 km_point_name(set->points[0]), layer);
    }
    for (int i = 0; i < set->n; i++) {
        free(values[i]);
    }
    seen_clear(&a);
    seen_clear(&b);
    free(expected);
    free(got);
}

/* Two runs of one tree with other tokens; the activations of the second put into the first. */
static void test_another_run_can_be_put_in(void **state) {
    static const carrier carriers[] = {
        {{KM_POINT_EMBED}, 1, true, KM_POINT_LOGITS},
        {{KM_POINT_RESID_PRE}, 1, true, KM_POINT_LOGITS},
        {{KM_POINT_RESID_POST}, 1, true, KM_POINT_LOGITS},
        {{KM_POINT_FINAL_NORM}, 1, true, KM_POINT_LOGITS},
        {{KM_POINT_LOGITS}, 1, true, KM_POINT_LOGITS},
        {{KM_POINT_Q, KM_POINT_K, KM_POINT_V}, 3, false, KM_POINT_ATTN_OUT},
        {{KM_POINT_ATTN_PATTERN, KM_POINT_V}, 2, false, KM_POINT_ATTN_OUT},
        {{KM_POINT_ATTN_SCORES, KM_POINT_V}, 2, false, KM_POINT_ATTN_OUT},
        {{KM_POINT_ATTN_HEAD_OUT}, 1, false, KM_POINT_ATTN_OUT},
        {{KM_POINT_Q_INPUT, KM_POINT_K_INPUT, KM_POINT_V_INPUT}, 3, false, KM_POINT_ATTN_OUT},
        {{KM_POINT_MLP_INPUT}, 1, false, KM_POINT_MLP_OUT},
        {{KM_POINT_MLP_HIDDEN}, 1, false, KM_POINT_MLP_OUT},
        {{KM_POINT_ATTN_OUT, KM_POINT_MLP_OUT, KM_POINT_RESID_PRE}, 3, true, KM_POINT_LOGITS},
    };
    forest *f = malloc(sizeof *f), *other = malloc(sizeof *other);
    assert_true(f != NULL && other != NULL);
    for (int number = 0; number < N_SYNTHETIC; number++) {
        synthetic s;
        synthetic_init(&s, *state, synthetic_config(number));
        make_random_forest(f, N, 7, s.model.config.vocab_size);
        *other = *f;
        for (int64_t i = 0; i < f->n; i++) {
            other->ids[i] = (f->ids[i] + 7) % s.model.config.vocab_size;
        }
        for (size_t i = 0; i < sizeof carriers / sizeof carriers[0]; i++) {
            check_carrier(&s.model, f, other, &carriers[i], 0);
            check_carrier(&s.model, f, other, &carriers[i], s.model.config.n_layers - 1);
        }
        synthetic_clear(&s);
    }
    free(f);
    free(other);
}

/* A change reaches the token's descendants and nobody else. */
static void test_only_descendants_feel_a_patch(void **state) {
    static const float values[] = {3.0f, -2.0f};
    static const int64_t nodes[] = {4};
    synthetic s;
    forest *f = malloc(sizeof *f);
    seen clean, changed;
    bool below[MAX_NODES] = {false};
    assert_non_null(f);
    synthetic_init(&s, *state, llama_config());
    make_random_forest(f, 60, 7, s.model.config.vocab_size);
    run_all(&clean, &s.model, f);
    const km_patch patch = {.kind = KM_PATCH_ADD,
                            .point = KM_POINT_RESID_MID,
                            .layer = 1,
                            .head = -1,
                            .nodes = nodes,
                            .n_nodes = 1,
                            .begin = 3,
                            .end = 5,
                            .values = values,
                            .factor = 1.0f};
    run_patched(&changed, NULL, &s.model, f, &patch, 1, KM_POINT_EMBED, 0);
    int64_t n_below = 0;
    for (int64_t i = 0; i < f->n; i++) {
        below[i] = i == 4 || (f->parent[i] >= 0 && below[f->parent[i]]);
        n_below += below[i];
        const int64_t at = (3 * f->n + i) * clean.vocab;
        const bool same = memcmp(clean.logits + at, changed.logits + at,
                                 (size_t)clean.vocab * sizeof(float)) == 0;
        assert_int_equal(same, !below[i]);
    }
    assert_true(n_below > 2 && n_below < f->n);
    seen_clear(&clean);
    seen_clear(&changed);
    synthetic_clear(&s);
    free(f);
}

/* Reads and patches in a session count the new tokens. */
static void test_doors_in_a_session(void **state) {
    static const float values[] = {1.5f};
    static const int64_t node[] = {9}, later[] = {4};
    synthetic s;
    forest *f = malloc(sizeof *f);
    km_session *session = NULL;
    km_error err = KM_ERROR_INIT;
    float whole[12 * 24], part[7 * 24];
    assert_non_null(f);
    synthetic_init(&s, *state, llama_config());
    make_chain(f, 12, s.model.config.vocab_size);
    km_patch patch = {.kind = KM_PATCH_ADD,
                      .point = KM_POINT_K,
                      .layer = 1,
                      .head = 1,
                      .nodes = node,
                      .n_nodes = 1,
                      .begin = 2,
                      .end = 3,
                      .values = values,
                      .factor = 1.0f};
    run_patched(NULL, whole, &s.model, f, &patch, 1, KM_POINT_RESID_POST, 2);
    km_test_ok(km_session_new(&session, &s.model, 12, &err), &err);
    patch.nodes = later;
    const km_read read = {KM_POINT_RESID_POST, 2, -1, NULL, 0, part};
    km_forward_request request = {.tree = {f->ids, f->parent, 5}, .session = session};
    km_test_ok(km_model_forward(&s.model, &request, &err), &err);
    request = (km_forward_request){.tree = {f->ids + 5, f->parent + 5, 7},
                                   .session = session,
                                   .patches = &patch,
                                   .n_patches = 1,
                                   .reads = &read,
                                   .n_reads = 1};
    km_test_ok(km_model_forward(&s.model, &request, &err), &err);
    assert_memory_equal(part, whole + 5 * 24, sizeof part);
    km_session_free(session);
    synthetic_clear(&s);
    free(f);
}

/* ---- visits ---- */

typedef struct visits {
    const km_model *model;
    km_point points[256];
    int32_t layers[256];
    int n;
    float delta; /* added to element 1 of each head of node 4 at `at`, layer 1 */
    km_point at;
    km_status answer;
} visits;

static km_status visit(void *payload, km_point point, int32_t layer, float *rows,
                       const int64_t *nodes, int64_t n_rows, km_error *err) {
    (void)err;
    visits *v = payload;
    const km_config *c = &v->model->config;
    const int64_t heads = km_point_heads(point, c), width = km_point_width(point, c, 0);
    assert_int_equal(n_rows, N);
    v->points[v->n] = point;
    v->layers[v->n++] = layer;
    for (int64_t i = 0; i < n_rows && point == v->at && layer == 1; i++) {
        for (int64_t h = 0; h < heads && (nodes == NULL ? i : nodes[i]) == 4; h++) {
            rows[(i * heads + h) * width + 1] += v->delta;
        }
    }
    return v->answer;
}

static void test_visitors_see_and_change(void **state) {
    static const float one[] = {1.0f};
    static const int64_t node[] = {4};
    static const km_point order[] = {
        KM_POINT_RESID_PRE,  KM_POINT_K_INPUT,   KM_POINT_V_INPUT,   KM_POINT_Q_INPUT,
        KM_POINT_Q,          KM_POINT_K,         KM_POINT_V,         KM_POINT_ATTN_HEAD_OUT,
        KM_POINT_ATTN_OUT,   KM_POINT_RESID_MID, KM_POINT_MLP_INPUT, KM_POINT_MLP_PRE,
        KM_POINT_MLP_HIDDEN, KM_POINT_MLP_OUT,   KM_POINT_RESID_POST};
    synthetic s;
    forest *f = malloc(sizeof *f);
    assert_non_null(f);
    synthetic_init(&s, *state, llama_config());
    make_random_forest(f, N, 7, s.model.config.vocab_size);
    for (int k = 0; k < 15; k++) {
        visits v = {.model = &s.model, .delta = 0.75f, .at = order[k]};
        float *got = malloc((size_t)(N * 61) * sizeof *got),
              *expected = malloc(N * 61 * sizeof *got);
        assert_true(got != NULL && expected != NULL);
        const km_patch patch = {.kind = KM_PATCH_ADD,
                                .point = order[k],
                                .layer = 1,
                                .head = -1,
                                .nodes = node,
                                .n_nodes = 1,
                                .begin = 1,
                                .end = 2,
                                .values = one,
                                .same_for_heads = true,
                                .factor = 0.75f};
        run_patched(NULL, expected, &s.model, f, &patch, 1, KM_POINT_LOGITS, 0);
        const km_read read = {KM_POINT_LOGITS, 0, -1, NULL, 0, got};
        km_forward_request request = {.tree = {f->ids, f->parent, N},
                                      .reads = &read,
                                      .n_reads = 1,
                                      .visit = visit,
                                      .visit_payload = &v,
                                      .visit_points = (UINT32_C(1) << KM_N_POINTS) - 1};
        km_error err = KM_ERROR_INIT;
        km_test_ok(km_model_forward(&s.model, &request, &err), &err);
        assert_memory_equal(got, expected, (size_t)(N * 61) * sizeof *got);
        assert_int_equal(v.n, 1 + 3 * 15 + 1);
        assert_int_equal(v.points[0], KM_POINT_EMBED);
        for (int i = 0; i < 45; i++) {
            assert_int_equal(v.points[1 + i], order[i % 15]);
            assert_int_equal(v.layers[1 + i], i / 15);
        }
        assert_int_equal(v.points[46], KM_POINT_FINAL_NORM);
        v.answer = KM_ECALLBACK;
        assert_int_equal(km_model_forward(&s.model, &request, NULL), KM_ECALLBACK);
        free(got);
        free(expected);
    }
    synthetic_clear(&s);
    free(f);
}

/* ---- refusals ---- */

static void test_bad_patches_are_refused(void **state) {
    static const float zeros[64] = {0.0f};
    static const int64_t far[] = {3};
    synthetic s;
    forest *f = malloc(sizeof *f);
    assert_non_null(f);
    synthetic_init(&s, *state, llama_config());
    make_chain(f, 3, s.model.config.vocab_size);
    const km_patch base = {
        .point = KM_POINT_RESID_PRE, .head = -1, .values = zeros, .factor = 1.0f};
    struct {
        km_patch patch;
        const char *message;
    } cases[10];
    for (int i = 0; i < 10; i++) {
        cases[i].patch = base;
    }
    cases[0].patch.point = (km_point)99, cases[0].message = "patch 0: this is no point";
    cases[1].patch.layer = 3, cases[1].message = "layers are 0 to 2";
    cases[2].patch.head = 1, cases[2].message = "heads are 0 to 0";
    cases[3].patch.nodes = far, cases[3].patch.n_nodes = 1, cases[3].message = "nodes[0] is 3";
    cases[4].patch.end = 25, cases[4].message = "elements 0 to 24 of resid_pre, which has 24";
    cases[5].patch.begin = 3, cases[5].patch.end = 3, cases[5].message = "elements 3 to 2";
    cases[6].patch.kind = (km_patch_kind)7, cases[6].message = "takes set, add and scale and";
    cases[7].patch.kind = KM_PATCH_PROJECT_OUT, cases[7].patch.point = KM_POINT_ATTN_SCORES,
    cases[7].message = "attn_scores takes set, add and scale";
    cases[8].patch.values = NULL, cases[8].message = "patch 0: no values";
    cases[9].patch.kind = KM_PATCH_PROJECT_OUT, cases[9].message = "has length 0";
    float out[8];
    km_test_ok(km_model_logprobs_into(out, &s.model, f->ids, 3, NULL), &(km_error)KM_ERROR_INIT);
    for (int i = 0; i < 10; i++) {
        const km_forward_request request = {
            .tree = {f->ids, f->parent, 3}, .patches = &cases[i].patch, .n_patches = 1};
        km_error err = KM_ERROR_INIT;
        km_test_fails(km_model_forward(&s.model, &request, &err), KM_EINVAL, &err,
                      cases[i].message);
    }
    synthetic_clear(&s);
    free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_value_already_there_changes_nothing),
        cmocka_unit_test(test_every_kind_at_every_point_of_rows),
        cmocka_unit_test(test_attention_is_patched_where_it_sees),
        cmocka_unit_test(test_another_run_can_be_put_in),
        cmocka_unit_test(test_only_descendants_feel_a_patch),
        cmocka_unit_test(test_doors_in_a_session),
        cmocka_unit_test(test_visitors_see_and_change),
        cmocka_unit_test(test_bad_patches_are_refused),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
