/* Tests of km_model_gradients: every point of every kind of model against central differences of
 * the same model in double precision; patches, trees, threads, errors, memory. */
#include "km_test.h"

#include "km/gradient.h"
#include "reference_model.h"

enum { N_TOKENS = 9, N_ROWS = 3, MAX_READS = 128, MAX_PATCHES = 8 };

/* Two sequences; the first one branches behind token 2, and its branch is four tokens long. */
static const int32_t IDS[N_TOKENS] = {3, 11, 5, 7, 2, 16, 0, 9, 4};
static const int64_t PARENT[N_TOKENS] = {-1, 0, 1, 2, 2, 4, 5, -1, 7};
static const int64_t ROWS[N_ROWS] = {3, 6, 8};
static const int32_t TARGETS[N_ROWS] = {1, 8, 12};
static const double WEIGHTS[N_ROWS] = {1.0, -0.7, 0.4};
static const km_tree TREE = {IDS, PARENT, N_TOKENS};

typedef km_config (*config_fn)(void);
static const config_fn CONFIGS[] = {reference_config, reference_gemma, reference_gpt2,
                                    reference_neox};
enum { N_CONFIGS = 4 };

/* ---- the loss: weighted negative log-probabilities ---- */

static km_status loss_row(void *payload, int64_t index, float *row, int64_t vocab, km_error *err) {
    (void)err;
    double *losses = payload, total = 0.0;
    for (int64_t v = 0; v < vocab; v++) {
        total += exp((double)row[v]);
    }
    losses[index] = WEIGHTS[index] * (log(total) - (double)row[TARGETS[index]]);
    for (int64_t v = 0; v < vocab; v++) {
        const double hit = v == TARGETS[index] ? 1.0 : 0.0;
        row[v] = (float)(WEIGHTS[index] * (exp((double)row[v]) / total - hit));
    }
    return KM_OK;
}

static double loss_of(const ref_pass *r) {
    double loss = 0.0;
    for (int i = 0; i < N_ROWS; i++) {
        const double *row = r->logits[ROWS[i]];
        double total = 0.0;
        for (int32_t v = 0; v < r->model->config.vocab_size; v++) {
            total += exp(row[v]);
        }
        loss += WEIGHTS[i] * (log(total) - row[TARGETS[i]]);
    }
    return loss;
}

/* ---- the reference with patches and one number moved ---- */

typedef struct nudge {
    const km_patch *patches;
    int64_t n_patches;
    km_point point;
    int32_t layer;
    int64_t node, index;
    double delta, value; /* value: what stood there before */
} nudge;

static void patch_part(const km_patch *p, double *a, const float *v, int64_t n) {
    double along = 0.0, square = 0.0;
    for (int64_t i = 0; i < n && p->kind == KM_PATCH_PROJECT_OUT; i++) {
        along += a[i] * (double)v[i];
        square += (double)v[i] * (double)v[i];
    }
    for (int64_t i = 0; i < n; i++) {
        switch (p->kind) {
        case KM_PATCH_SET:
            a[i] = (double)v[i];
            break;
        case KM_PATCH_ADD:
            a[i] += (double)p->factor * (double)v[i];
            break;
        case KM_PATCH_SCALE:
            a[i] *= (double)p->factor;
            break;
        case KM_PATCH_PROJECT_OUT:
            a[i] -= along / square * (double)v[i];
            break;
        }
    }
}

static void patch_node(const km_patch *p, int64_t i, int64_t heads, int64_t width, double *row) {
    const int64_t end = p->end == 0 ? width : p->end, n = end - p->begin;
    for (int64_t h = 0; h < heads; h++) {
        if (p->head < 0 || p->head == h) {
            const float *v = p->values == NULL ? NULL : p->values + i * p->value_stride;
            if (v != NULL && p->head < 0 && !p->same_for_heads) {
                v += h * n;
            }
            patch_part(p, row + h * width + p->begin, v, n);
        }
    }
}

static bool stands_at(km_point point, int32_t layer, km_point other, int32_t other_layer) {
    return point == other && (!km_point_has_layer(point) || layer == other_layer);
}

static void nudge_door(void *payload, km_point point, int32_t layer, int64_t node, int64_t heads,
                       int64_t width, double *row) {
    nudge *at = payload;
    for (int64_t p = 0; p < at->n_patches; p++) {
        const km_patch *patch = &at->patches[p];
        if (!stands_at(point, layer, patch->point, patch->layer)) {
            continue;
        }
        for (int64_t i = 0; i < (patch->nodes == NULL ? N_TOKENS : patch->n_nodes); i++) {
            if ((patch->nodes == NULL ? i : patch->nodes[i]) == node) {
                patch_node(patch, i, heads, width, row);
            }
        }
    }
    if (stands_at(point, layer, at->point, at->layer) && node == at->node) {
        at->value = row[at->index];
        row[at->index] += at->delta;
    }
}

/* dL/da by central differences, or NaN where the activation is minus infinity. */
static double slope(ref_pass *r, nudge *at) {
    const double step = 1e-5;
    double loss[2];
    for (int side = 0; side < 2; side++) {
        at->delta = side == 0 ? step : -step;
        r->door = nudge_door;
        r->payload = at;
        ref_run(r);
        loss[side] = loss_of(r);
    }
    return isfinite(at->value) ? (loss[0] - loss[1]) / (2.0 * step) : (double)NAN;
}

/* ---- all gradients of a model ---- */

typedef struct gradients {
    km_read reads[MAX_READS];
    int64_t n_reads, n_positions;
    float *block;
    int64_t n_floats;
    double losses[N_ROWS];
} gradients;

/* Room for every gradient there is. */
static void gradients_init(gradients *g, const km_config *c) {
    memset(g, 0, sizeof *g);
    g->n_positions = 6;
    g->block = calloc(1 << 18, sizeof(float));
    for (int point = 0; point < KM_N_POINTS; point++) {
        if (!km_point_exists((km_point)point, c)) {
            continue;
        }
        const int32_t layers = km_point_has_layer((km_point)point) ? c->n_layers : 1;
        for (int32_t l = 0; l < layers; l++) {
            g->reads[g->n_reads++] =
                (km_read){(km_point)point, l, -1, NULL, 0, g->block + g->n_floats};
            g->n_floats += N_TOKENS * km_point_heads((km_point)point, c) *
                           km_point_width((km_point)point, c, g->n_positions);
        }
    }
}

static km_status run(gradients *g, const km_model *model, const km_patch *patches,
                     int64_t n_patches, km_error *err) {
    km_gradient_request request = {.loss = loss_row, .payload = g->losses};
    request.forward = (km_forward_request){.tree = TREE, .rows = ROWS, .n_rows = N_ROWS};
    request.forward.patches = patches;
    request.forward.n_patches = n_patches;
    request.gradients = g->reads;
    request.n_gradients = g->n_reads;
    return km_model_gradients(model, &request, err);
}

/* Every `stride`th number of one gradient against central differences. */
static void compare(const km_model *model, const gradients *g, const km_read *read, int64_t stride,
                    const km_patch *patches, int64_t n_patches) {
    static ref_pass r;
    const int64_t row = km_point_heads(read->point, &model->config) *
                        km_point_width(read->point, &model->config, g->n_positions);
    r = (ref_pass){.model = model, .tree = &TREE};
    for (int64_t i = (read->point + read->layer) % stride; i < N_TOKENS * row; i += stride) {
        nudge at = {patches, n_patches, read->point, read->layer, i / row, i % row, 0.0, 0.0};
        const double expected = slope(&r, &at), got = (double)read->out[i];
        if (isnan(expected) ? got != 0.0 : fabs(got - expected) > 2e-5 + 2e-4 * fabs(expected)) {
            fail_msg("%s: %s of layer %d, token %d, element %d: %.9g, expected %.9g",
                     model->config.arch, km_point_name(read->point), read->layer, (int)(i / row),
                     (int)(i % row), got, expected);
        }
    }
}

static void check_config(km_ctx *ctx, km_config config, const km_patch *patches, int64_t n_patches,
                         int64_t stride) {
    random_model m;
    gradients g;
    km_error err = KM_ERROR_INIT;
    static ref_pass r;
    random_model_init(&m, ctx, config);
    gradients_init(&g, &config);
    km_test_ok(run(&g, &m.model, patches, n_patches, &err), &err);
    nudge none = {patches, n_patches, KM_N_POINTS, 0, 0, 0, 0.0, 0.0};
    r = (ref_pass){&m.model, &TREE, nudge_door, &none, {0}, 0, {{{0}}}, {{{0}}}, {{0}}};
    ref_run(&r);
    assert_true(fabs(g.losses[0] + g.losses[1] + g.losses[2] - loss_of(&r)) < 1e-4);
    for (int64_t i = 0; i < g.n_reads; i++) {
        compare(&m.model, &g, &g.reads[i], stride, patches, n_patches);
    }
    free(g.block);
    random_model_clear(&m);
}

static void test_central_differences(void **state) {
    for (int i = 0; i < N_CONFIGS; i++) {
        check_config(*state, CONFIGS[i](), NULL, 0, 5);
    }
}

/* ---- patches ---- */

static const float VALUES[64] = {0.3f,  -0.2f, 0.5f,  0.7f, -0.4f, 0.1f, 0.2f,  -0.6f,
                                 0.35f, 0.9f,  -0.8f, 0.4f, 0.25f, 0.6f, -0.3f, 0.15f};
static const int64_t SOME_NODES[3] = {2, 5, 7};

/* One patch of each kind, on some tokens, elements and heads. */
static void each_kind(km_patch *patches, km_point point, int32_t layer, int32_t head) {
    const km_patch base = {.point = point,
                           .layer = layer,
                           .head = head,
                           .nodes = SOME_NODES,
                           .n_nodes = 3,
                           .values = VALUES,
                           .value_stride = 5,
                           .factor = 0.6f};
    for (int i = 0; i < 4; i++) {
        patches[i] = base;
        patches[i].kind = (km_patch_kind)i;
    }
    patches[KM_PATCH_SET].end = 2;
    patches[KM_PATCH_SET].n_nodes = 2;
    patches[KM_PATCH_SCALE].nodes = NULL;
    patches[KM_PATCH_ADD].value_stride = 0;
    patches[KM_PATCH_PROJECT_OUT].begin = 1;
    patches[KM_PATCH_PROJECT_OUT].end = 5;
    patches[KM_PATCH_PROJECT_OUT].same_for_heads = true;
}

static void test_patches(void **state) {
    static const km_point POINTS[] = {
        KM_POINT_EMBED,      KM_POINT_RESID_PRE,  KM_POINT_Q,         KM_POINT_K,
        KM_POINT_V,          KM_POINT_ATTN_OUT,   KM_POINT_RESID_MID, KM_POINT_ATTN_HEAD_OUT,
        KM_POINT_MLP_PRE,    KM_POINT_MLP_HIDDEN, KM_POINT_MLP_OUT,   KM_POINT_RESID_POST,
        KM_POINT_Q_INPUT,    KM_POINT_K_INPUT,    KM_POINT_V_INPUT,   KM_POINT_MLP_INPUT,
        KM_POINT_FINAL_NORM,
    };
    for (int i = 0; i < N_CONFIGS; i++) {
        const km_config config = CONFIGS[i]();
        for (size_t p = 0; p < sizeof POINTS / sizeof POINTS[0]; p++) {
            km_patch patches[4];
            if (km_point_exists(POINTS[p], &config)) {
                const bool heads = km_point_heads(POINTS[p], &config) > 1;
                each_kind(patches, POINTS[p], 1, heads && p % 2 == 0 ? 1 : -1);
                check_config(*state, config, patches, 4, 67);
            }
        }
    }
}

/* Scores and patterns take SET, ADD and SCALE over the positions a token sees. */
static void test_patched_attention(void **state) {
    static const int64_t last[1] = {6};
    for (int i = 0; i < N_CONFIGS; i++) {
        const km_patch patches[] = {
            {KM_PATCH_SCALE, KM_POINT_ATTN_SCORES, 1, 2, NULL, 0, 0, 0, NULL, 0, false, 1.7f},
            {KM_PATCH_ADD, KM_POINT_ATTN_SCORES, 1, 0, last, 1, 0, 0, VALUES, 0, false, 0.5f},
            {KM_PATCH_SCALE, KM_POINT_ATTN_PATTERN, 1, 1, NULL, 0, 0, 0, NULL, 0, false, 0.8f},
            {KM_PATCH_SET, KM_POINT_ATTN_PATTERN, 1, 3, last, 1, 2, 5, VALUES, 0, false, 0.0f},
        };
        check_config(*state, CONFIGS[i](), patches, 4, 67);
    }
}

static void test_patched_logits(void **state) {
    km_patch patches[4];
    each_kind(patches, KM_POINT_LOGITS, 0, -1);
    patches[KM_PATCH_SET].nodes = patches[KM_PATCH_ADD].nodes = ROWS;
    check_config(*state, reference_config(), patches, 4, 67);
}

/* ---- invariants ---- */

static void test_same_bits(void **state) {
    (void)state;
    for (int i = 0; i < N_CONFIGS; i++) {
        gradients g[3];
        for (int t = 0; t < 3; t++) {
            km_ctx *ctx = km_test_ctx(t == 0 ? 1 : t == 1 ? 2 : 7);
            random_model m;
            km_error err = KM_ERROR_INIT;
            random_model_init(&m, ctx, CONFIGS[i]());
            gradients_init(&g[t], &m.model.config);
            km_test_ok(run(&g[t], &m.model, NULL, 0, &err), &err);
            assert_memory_equal(g[t].block, g[0].block, (size_t)g[0].n_floats * sizeof(float));
            random_model_clear(&m);
            km_ctx_free(ctx);
        }
        for (int t = 0; t < 3; t++) {
            free(g[t].block);
        }
    }
}

/* A shared prefix has the sum of the derivatives that its copies have apart. */
static void test_shared_prefix(void **state) {
    static const int32_t apart_ids[7] = {3, 11, 5, 3, 11, 7, 2};
    static const int64_t apart_parent[7] = {-1, 0, 1, -1, 3, 4, 5};
    static const int64_t apart_rows[2] = {2, 6}, shared_rows[2] = {2, 4};
    static const int32_t ids[5] = {3, 11, 5, 7, 2};
    static const int64_t parent[5] = {-1, 0, 1, 1, 3};
    random_model m;
    double losses[2];
    float apart[7][12], shared[5][12];
    km_error err = KM_ERROR_INIT;
    random_model_init(&m, *state, reference_config());
    const km_read gradient = {KM_POINT_EMBED, 0, -1, NULL, 0, &apart[0][0]};
    km_gradient_request request = {.loss = loss_row, .payload = losses};
    request.forward.tree = (km_tree){apart_ids, apart_parent, 7};
    request.forward.rows = apart_rows;
    request.forward.n_rows = 2;
    request.gradients = &gradient;
    request.n_gradients = 1;
    km_test_ok(km_model_gradients(&m.model, &request, &err), &err);
    const km_read together = {KM_POINT_EMBED, 0, -1, NULL, 0, &shared[0][0]};
    request.forward.tree = (km_tree){ids, parent, 5};
    request.forward.rows = shared_rows;
    request.gradients = &together;
    km_test_ok(km_model_gradients(&m.model, &request, &err), &err);
    for (int i = 0; i < 12; i++) {
        assert_float_equal(shared[0][i], apart[0][i] + apart[3][i], 2e-5);
        assert_float_equal(shared[1][i], apart[1][i] + apart[4][i], 2e-5);
        assert_float_equal(shared[4][i], apart[6][i], 2e-5);
    }
    random_model_clear(&m);
}

/* One head, some tokens in any order and twice: the same numbers as all of them. */
static void test_slices(void **state) {
    static const int64_t nodes[4] = {5, 1, 5, 8};
    random_model m;
    gradients all;
    float slice[4][6], whole[N_TOKENS][4][6];
    km_error err = KM_ERROR_INIT;
    random_model_init(&m, *state, reference_config());
    gradients_init(&all, &m.model.config);
    all.n_reads = 2;
    all.reads[0] = (km_read){KM_POINT_Q, 1, 2, nodes, 4, &slice[0][0]};
    all.reads[1] = (km_read){KM_POINT_Q, 1, -1, NULL, 0, &whole[0][0][0]};
    km_test_ok(run(&all, &m.model, NULL, 0, &err), &err);
    for (int i = 0; i < 4; i++) {
        assert_memory_equal(slice[i], whole[nodes[i]][2], sizeof slice[i]);
    }
    free(all.block);
    random_model_clear(&m);
}

/* A gradient asked for alone, where the way back stops early. Not the same bits: inputs looked at
 * head by head are added up in another order. */
static void test_stops_early(void **state) {
    for (int i = 0; i < N_CONFIGS; i++) {
        random_model m;
        gradients all, one;
        km_error err = KM_ERROR_INIT;
        random_model_init(&m, *state, CONFIGS[i]());
        gradients_init(&all, &m.model.config);
        km_test_ok(run(&all, &m.model, NULL, 0, &err), &err);
        gradients_init(&one, &m.model.config);
        const int64_t n = one.n_reads;
        for (int64_t k = 0; k < n; k++) {
            const int64_t floats =
                (k + 1 < n ? all.reads[k + 1].out : all.block + all.n_floats) - all.reads[k].out;
            one.reads[0] = all.reads[k];
            one.reads[0].out = one.block;
            one.n_reads = 1;
            km_test_ok(run(&one, &m.model, NULL, 0, &err), &err);
            for (int64_t e = 0; e < floats; e++) {
                const double expected = (double)all.reads[k].out[e];
                if (fabs((double)one.block[e] - expected) > 2e-5 + 1e-5 * fabs(expected)) {
                    fail_msg("%s: %s of layer %d alone: element %d is %.9g, not %.9g",
                             m.model.config.arch, km_point_name(all.reads[k].point),
                             all.reads[k].layer, (int)e, (double)one.block[e], expected);
                }
            }
        }
        free(all.block);
        free(one.block);
        random_model_clear(&m);
    }
}

/* ---- what is refused ---- */

static km_status fail_row(void *payload, int64_t index, float *row, int64_t vocab, km_error *err) {
    (void)payload;
    (void)index;
    (void)row;
    (void)vocab;
    return KM_SET(err, KM_EINVAL, "the loss says no");
}

static km_status infinite_row(void *payload, int64_t index, float *row, int64_t vocab,
                              km_error *err) {
    (void)payload;
    (void)index;
    (void)err;
    row[vocab - 1] = INFINITY;
    return KM_OK;
}

static void refuse(const km_model *model, km_gradient_request request, km_status status,
                   const char *text) {
    km_error err = KM_ERROR_INIT;
    assert_int_equal(km_model_gradients(model, &request, &err), status);
    if (strstr(err.message, text) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, text);
    }
}

static void test_refusals(void **state) {
    random_model m;
    double losses[N_ROWS];
    float out[N_TOKENS * 17];
    static const int64_t outside[2] = {N_TOKENS, 0}, twice[2] = {3, 3}, late[2] = {-1, 1};
    random_model_init(&m, *state, reference_neox());
    km_read gradient = {KM_POINT_MLP_OUT, 0, -1, NULL, 0, out};
    km_gradient_request good = {.loss = loss_row, .payload = losses};
    good.forward = (km_forward_request){.tree = TREE, .rows = ROWS, .n_rows = N_ROWS};
    good.gradients = &gradient;
    good.n_gradients = 1;
    km_gradient_request bad = good;
    bad.loss = NULL;
    refuse(&m.model, bad, KM_EINVAL, "no loss");
    bad = good;
    bad.forward.n_rows = 0;
    refuse(&m.model, bad, KM_EINVAL, "at least one row");
    bad = good;
    bad.forward.rows = outside;
    bad.forward.n_rows = 1;
    refuse(&m.model, bad, KM_EINVAL, "rows");
    bad = good;
    bad.forward.tree.parent = late;
    bad.forward.tree.n = 2;
    bad.forward.rows = outside + 1;
    bad.forward.n_rows = 1;
    refuse(&m.model, bad, KM_EINVAL, "parent 1");
    bad = good;
    bad.forward.lens_rows = ROWS;
    bad.forward.n_lens_rows = 1;
    refuse(&m.model, bad, KM_EINVAL, "lens rows");
    bad = good;
    bad.loss = fail_row;
    refuse(&m.model, bad, KM_EINVAL, "the loss says no");
    bad.loss = infinite_row;
    refuse(&m.model, bad, KM_ENUMERIC, "not finite");
    gradient.point = KM_POINT_RESID_MID;
    refuse(&m.model, good, KM_EUNSUPPORTED, "resid_mid");
    gradient = (km_read){KM_POINT_MLP_OUT, 3, -1, NULL, 0, out};
    refuse(&m.model, good, KM_ERANGE, "layer 3");
    gradient = (km_read){KM_POINT_Q, 0, 4, NULL, 0, out};
    refuse(&m.model, good, KM_ERANGE, "head 4");
    gradient = (km_read){KM_POINT_Q, 0, 0, outside, 1, out};
    refuse(&m.model, good, KM_EINVAL, "token 9");
    gradient = (km_read){KM_POINT_Q, 0, 0, NULL, 0, NULL};
    refuse(&m.model, good, KM_EINVAL, "room");
    gradient = (km_read){KM_POINT_LOGITS, 0, -1, NULL, 0, out};
    bad = good;
    bad.forward.rows = twice;
    bad.forward.n_rows = 2;
    refuse(&m.model, bad, KM_EINVAL, "twice");
    random_model_clear(&m);
}

/* Memory is refused before anything is computed. */
static void test_refuses_memory(void **state) {
    enum { MANY = 4000 };
    static int64_t rows[MANY]; /* token 0, again and again */
    double losses[N_ROWS];
    random_model m;
    random_model_init(&m, *state, reference_config());
    m.model.config.vocab_size = INT32_MAX;
    km_gradient_request request = {.loss = loss_row, .payload = losses};
    request.forward = (km_forward_request){.tree = TREE, .rows = rows, .n_rows = MANY};
    assert_true(km_model_gradients_bytes(&m.model, N_TOKENS, MANY) >
                MANY * (int64_t)INT32_MAX * (int64_t)sizeof(float));
    refuse(&m.model, request, KM_ENOMEM, "MiB");
    random_model_clear(&m);
}

static km_status every_allocation(km_ctx *ctx, km_error *err) {
    random_model m;
    gradients g;
    random_model_init(&m, ctx, reference_gemma());
    gradients_init(&g, &m.model.config);
    const km_patch patch = {
        .kind = KM_PATCH_SCALE, .point = KM_POINT_Q_INPUT, .layer = 1, .head = -1, .factor = 0.5f};
    km_status status = run(&g, &m.model, &patch, 1, err);
    free(g.block);
    random_model_clear(&m);
    return status;
}

static void test_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(every_allocation);
}

static void test_bytes(void **state) {
    random_model m;
    random_model_init(&m, *state, reference_config());
    const int64_t one = km_model_gradients_bytes(&m.model, 100, 1);
    const int64_t least = 100 * m.model.config.n_layers * m.model.config.d_model * 4;
    assert_true(one > least);
    assert_true(km_model_gradients_bytes(&m.model, 100, 2) - one >= m.model.config.vocab_size * 4);
    assert_true(km_model_gradients_bytes(&m.model, 200, 1) > 2 * one - 10000);
    random_model_clear(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_central_differences, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_patches, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_patched_attention, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_patched_logits, km_test_setup, km_test_teardown),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test_setup_teardown(test_shared_prefix, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_slices, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_stops_early, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_refusals, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_refuses_memory, km_test_setup, km_test_teardown),
        cmocka_unit_test(test_every_allocation),
        cmocka_unit_test_setup_teardown(test_bytes, km_test_setup, km_test_teardown),
    };
    return cmocka_run_group_tests_name("gradient", tests, NULL, NULL);
}
