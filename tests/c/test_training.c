/* Tests of km_model_train_pass: every parameter of every kind of model against central differences
 * of the same model in double precision; sums over sequences, low rank, recomputation, threads,
 * trees, errors, memory. */
#include "km_test.h"

#include "model/parameters.h"
#include "reference_model.h"

enum { N_TOKENS = 9, N_TARGETS = 6, MAX_PARAMETERS = 80 };

/* Two sequences; the first one branches behind token 2. Token 3 has two targets. */
static const int32_t IDS[N_TOKENS] = {3, 11, 5, 7, 2, 11, 0, 9, 3};
static const int64_t PARENT[N_TOKENS] = {-1, 0, 1, 2, 2, 4, 5, -1, 7};
static const km_tree TREE = {IDS, PARENT, N_TOKENS};
static const km_training_target TARGETS[N_TARGETS] = {{0, 11, 0.5f}, {3, 1, 1.0f},  {3, 4, 0.3f},
                                                      {6, 8, 0.7f},  {7, 3, -0.4f}, {8, 12, 0.9f}};

typedef km_config (*config_fn)(void);

/* Head norms and every bias beside a gate. */
static km_config with_biases(void) {
    km_config c = reference_config();
    c.qkv_bias = c.attn_out_bias = c.mlp_bias = c.qk_norm = true;
    c.rope_pairs = KM_ROPE_HALVES;
    return c;
}

static km_config sequential_neox(void) {
    km_config c = reference_neox();
    c.parallel_residual = false;
    return c;
}

static km_config tied_gpt2(void) {
    km_config c = reference_gpt2();
    c.tied_embeddings = true;
    return c;
}

static const config_fn CONFIGS[] = {reference_config, reference_gemma, reference_gpt2,
                                    reference_neox,   with_biases,     sequential_neox,
                                    tied_gpt2};
enum { N_CONFIGS = 7 };

/* ---- all gradients of a model ---- */

typedef struct gradients {
    km_weight_plan plan;
    km_parameter_gradient list[MAX_PARAMETERS];
    float *block;
    int64_t n_floats;
    double losses[N_TARGETS];
} gradients;

static void gradients_init(gradients *g, const km_model *model) {
    km_error err = KM_ERROR_INIT;
    memset(g, 0, sizeof *g);
    km_test_ok(km__parameter_plan(&g->plan, model, &err), &err);
    assert_true(g->plan.n <= MAX_PARAMETERS);
    for (int64_t i = 0; i < g->plan.n; i++) {
        g->n_floats += g->plan.slots[i].rows * g->plan.slots[i].cols;
    }
    g->block = calloc((size_t)g->n_floats, sizeof(float));
    float *next = g->block;
    for (int64_t i = 0; i < g->plan.n; i++) {
        g->list[i] = (km_parameter_gradient){i, next, NULL};
        next += g->plan.slots[i].rows * g->plan.slots[i].cols;
    }
}

static void gradients_clear(gradients *g) {
    free(g->block);
    km__weight_plan_clear(&g->plan);
}

static km_training_pass pass_of(gradients *g) {
    return (km_training_pass){.tree = TREE,
                              .targets = TARGETS,
                              .n_targets = N_TARGETS,
                              .gradients = g->list,
                              .n_gradients = g->plan.n,
                              .losses = g->losses};
}

static void run(gradients *g, const km_model *model, bool recompute) {
    km_error err = KM_ERROR_INIT;
    km_training_pass pass = pass_of(g);
    pass.recompute = recompute;
    km_test_ok(km_model_train_pass(model, &pass, &err), &err);
}

/* ---- central differences ---- */

static double loss_at(const ref_pass *r, const km_training_target *target) {
    const double *row = r->logits[target->node];
    double total = 0.0;
    for (int32_t v = 0; v < r->model->config.vocab_size; v++) {
        total += exp(row[v]);
    }
    return log(total) - row[target->id];
}

static double loss_of(ref_pass *r) {
    double loss = 0.0;
    ref_run(r);
    for (int i = 0; i < N_TARGETS; i++) {
        loss += (double)TARGETS[i].weight * loss_at(r, &TARGETS[i]);
    }
    return loss;
}

/* Of one number of a parameter, moved to both sides as far as float32 can. */
static double slope(ref_pass *r, float *value) {
    const float before = *value, up = before + 0x1p-12f, down = before - 0x1p-12f;
    *value = up;
    const double above = loss_of(r);
    *value = down;
    const double below = loss_of(r);
    *value = before;
    return (above - below) / ((double)up - (double)down);
}

static float *values_of(const km_weight_slot *slot) {
    const void *data = slot->matrix != NULL ? slot->matrix->data : (const void *)*slot->vector;
    return (float *)(uintptr_t)data;
}

/* A tied unembedding is a second matrix in the reference model, over the same values. */
static void compare(ref_pass *r, const km_weight_slot *slot, const float *gradient) {
    float *values = values_of(slot);
    const int64_t n = slot->rows * slot->cols;
    for (int64_t i = 0; i < n; i += n > 40 ? 7 : 1) {
        const double expected = slope(r, &values[i]), got = (double)gradient[i];
        if (!(fabs(got - expected) <= 2e-5 + 2e-4 * fabs(expected))) {
            fail_msg("%s: %s, element %d: %.9g, expected %.9g", r->model->config.arch, slot->name,
                     (int)i, got, expected);
        }
    }
}

static void test_central_differences(void **state) {
    static ref_pass r;
    for (int c = 0; c < N_CONFIGS; c++) {
        random_model m;
        gradients g;
        random_model_init(&m, *state, CONFIGS[c]());
        gradients_init(&g, &m.model);
        run(&g, &m.model, false);
        memset(&r, 0, sizeof r);
        r.model = &m.model;
        r.tree = &TREE;
        ref_run(&r);
        for (int i = 0; i < N_TARGETS; i++) {
            assert_true(fabs(g.losses[i] - loss_at(&r, &TARGETS[i])) < 2e-5);
        }
        for (int64_t i = 0; i < g.plan.n; i++) {
            compare(&r, &g.plan.slots[i], g.list[i].gradient);
        }
        gradients_clear(&g);
        random_model_clear(&m);
    }
}

/* ---- same bits ---- */

static void test_same_bits(void **state) {
    (void)state;
    for (int c = 0; c < N_CONFIGS; c++) {
        gradients first = {0};
        for (int t = 0; t < 6; t++) {
            km_ctx *ctx = km_test_ctx(t / 2 == 0 ? 1 : t / 2 == 1 ? 2 : 7);
            random_model m;
            gradients g;
            random_model_init(&m, ctx, CONFIGS[c]());
            gradients_init(&g, &m.model);
            run(&g, &m.model, t % 2 == 1);
            if (t == 0) {
                first = g;
                first.plan.slots = NULL;
                km__weight_plan_clear(&g.plan);
            } else {
                assert_memory_equal(g.block, first.block, (size_t)g.n_floats * sizeof(float));
                assert_memory_equal(g.losses, first.losses, sizeof g.losses);
                gradients_clear(&g);
            }
            random_model_clear(&m);
            km_ctx_free(ctx);
        }
        free(first.block);
    }
}

/* ---- sums ---- */

static void expect_close(const gradients *g, const float *expected, double tolerance) {
    double gap = 0.0, size = 0.0;
    for (int64_t i = 0; i < g->n_floats; i++) {
        gap += pow((double)g->block[i] - (double)expected[i], 2.0);
        size += pow((double)expected[i], 2.0);
    }
    if (!(sqrt(gap) <= tolerance * sqrt(size)) || size == 0.0) {
        fail_msg("off by %.3g of %.3g", sqrt(gap), sqrt(size));
    }
}

/* Two sequences at once give what they give one after the other, added to the same buffers. */
static void test_adds_up(void **state) {
    static const int64_t chains[5] = {-1, 0, 1, -1, 3};
    static const int32_t ids[5] = {4, 5, 6, 5, 2};
    static const km_training_target targets[3] = {{1, 6, 1.0f}, {3, 2, 0.5f}, {4, 9, 2.0f}};
    static const km_training_target second[2] = {{0, 2, 0.5f}, {1, 9, 2.0f}};
    for (int c = 0; c < N_CONFIGS; c++) {
        random_model m;
        gradients together, apart;
        km_error err = KM_ERROR_INIT;
        random_model_init(&m, *state, CONFIGS[c]());
        gradients_init(&together, &m.model);
        gradients_init(&apart, &m.model);
        km_training_pass pass = pass_of(&together);
        pass.tree = (km_tree){ids, chains, 5};
        pass.targets = targets;
        pass.n_targets = 3;
        km_test_ok(km_model_train_pass(&m.model, &pass, &err), &err);
        pass.gradients = apart.list;
        pass.tree.n = 3;
        pass.n_targets = 1;
        km_test_ok(km_model_train_pass(&m.model, &pass, &err), &err);
        pass.tree = (km_tree){ids + 3, chains, 2};
        pass.targets = second;
        pass.n_targets = 2;
        pass.losses = NULL;
        km_test_ok(km_model_train_pass(&m.model, &pass, &err), &err);
        expect_close(&together, apart.block, 1e-5);
        gradients_clear(&together);
        gradients_clear(&apart);
        random_model_clear(&m);
    }
}

/* A prefix that two continuations share counts as often as they do. */
static void test_shared_prefix(void **state) {
    static const int64_t shared[5] = {-1, 0, 1, 1, 3}, apart[7] = {-1, 0, 1, -1, 3, 4, 5};
    static const int32_t shared_ids[5] = {3, 11, 5, 7, 2}, apart_ids[7] = {3, 11, 5, 3, 11, 7, 2};
    static const km_training_target of_shared[3] = {{1, 5, 2.0f}, {2, 6, 1.0f}, {4, 9, 0.5f}};
    static const km_training_target of_apart[4] = {
        {1, 5, 1.0f}, {2, 6, 1.0f}, {4, 5, 1.0f}, {6, 9, 0.5f}};
    for (int c = 0; c < N_CONFIGS; c++) {
        random_model m;
        gradients one, two;
        km_error err = KM_ERROR_INIT;
        random_model_init(&m, *state, CONFIGS[c]());
        gradients_init(&one, &m.model);
        gradients_init(&two, &m.model);
        km_training_pass pass = pass_of(&one);
        pass.tree = (km_tree){shared_ids, shared, 5};
        pass.targets = of_shared;
        pass.n_targets = 3;
        km_test_ok(km_model_train_pass(&m.model, &pass, &err), &err);
        pass.gradients = two.list;
        pass.tree = (km_tree){apart_ids, apart, 7};
        pass.targets = of_apart;
        pass.n_targets = 4;
        km_test_ok(km_model_train_pass(&m.model, &pass, &err), &err);
        expect_close(&one, two.block, 1e-5);
        gradients_clear(&one);
        gradients_clear(&two);
        random_model_clear(&m);
    }
}

/* Two sequences longer than a run of queries, one after the other or token by token in turn: then
 * every token is a run of its own. */
static void test_runs(void **state) {
    enum { LONG = 150 };
    static int32_t ids[2][2 * LONG];
    static int64_t parents[2][2 * LONG];
    static km_training_target targets[2][2 * LONG];
    for (int i = 0; i < 2 * LONG; i++) {
        const int in_turn = i % LONG * 2 + i / LONG;
        ids[0][i] = ids[1][in_turn] = (i * i + 3 * i) % 17;
        parents[0][i] = i % LONG == 0 ? -1 : i - 1;
        parents[1][in_turn] = i % LONG == 0 ? -1 : in_turn - 2;
        targets[0][i] = (km_training_target){i, (i * 5 + 2) % 17, 0.01f};
        targets[1][in_turn] = (km_training_target){in_turn, (i * 5 + 2) % 17, 0.01f};
    }
    for (int c = 0; c < N_CONFIGS; c++) {
        random_model m;
        gradients g[2];
        km_error err = KM_ERROR_INIT;
        km_config config = CONFIGS[c]();
        config.context_length = LONG;
        config.sliding_window = config.sliding_window > 0 ? 70 : 0;
        random_model_init(&m, *state, config);
        for (int order = 0; order < 2; order++) {
            gradients_init(&g[order], &m.model);
            km_training_pass pass = pass_of(&g[order]);
            pass.tree = (km_tree){ids[order], parents[order], 2 * LONG};
            pass.targets = targets[order];
            pass.n_targets = 2 * LONG;
            pass.losses = NULL;
            km_test_ok(km_model_train_pass(&m.model, &pass, &err), &err);
        }
        expect_close(&g[0], g[1].block, 2e-5);
        gradients_clear(&g[0]);
        gradients_clear(&g[1]);
        random_model_clear(&m);
    }
}

/* Only what is asked for is touched, and it does not depend on what else is. */
static void test_some_parameters(void **state) {
    for (int c = 0; c < N_CONFIGS; c++) {
        random_model m;
        gradients all, one;
        km_error err = KM_ERROR_INIT;
        random_model_init(&m, *state, CONFIGS[c]());
        gradients_init(&all, &m.model);
        gradients_init(&one, &m.model);
        run(&all, &m.model, true);
        for (int64_t i = 0; i < all.plan.n; i++) {
            km_training_pass pass = pass_of(&one);
            pass.gradients = &one.list[i];
            pass.n_gradients = 1;
            km_test_ok(km_model_train_pass(&m.model, &pass, &err), &err);
        }
        assert_memory_equal(all.block, one.block, (size_t)all.n_floats * sizeof(float));
        gradients_clear(&all);
        gradients_clear(&one);
        random_model_clear(&m);
    }
}

/* ---- low rank ---- */

enum { RANK = 3, MOST = 64 };

typedef struct factors {
    float a[RANK * MOST], b[MOST * RANK], da[RANK * MOST], db[MOST * RANK];
    km_low_rank low;
} factors;

static void factors_init(factors *f, uint64_t stream) {
    memset(f, 0, sizeof *f);
    for (uint64_t i = 0; i < RANK * MOST; i++) {
        f->a[i] = (float)km_random_normal(7, stream, i);
        f->b[i] = (float)km_random_normal(8, stream, i);
        f->da[i] = f->db[i] = 0.25f;
    }
    f->low = (km_low_rank){RANK, 0.75f, f->a, f->b, f->da, f->db};
}

/* da = scale B' dW and db = scale dW A', added to what was there. */
static void check_factors(const factors *f, const km_weight_slot *slot, const float *dw) {
    for (int64_t k = 0; k < RANK; k++) {
        for (int64_t j = 0; j < slot->cols; j++) {
            double sum = 0.0;
            for (int64_t i = 0; i < slot->rows; i++) {
                sum += (double)f->b[i * RANK + k] * (double)dw[i * slot->cols + j];
            }
            assert_true(fabs((double)f->da[k * slot->cols + j] - 0.25 - 0.75 * sum) < 1e-4);
        }
        for (int64_t i = 0; i < slot->rows; i++) {
            double sum = 0.0;
            for (int64_t j = 0; j < slot->cols; j++) {
                sum += (double)f->a[k * slot->cols + j] * (double)dw[i * slot->cols + j];
            }
            assert_true(fabs((double)f->db[i * RANK + k] - 0.25 - 0.75 * sum) < 1e-4);
        }
    }
}

static bool is_linear(const km_weight_slot *slot) {
    return slot->matrix != NULL && strstr(slot->name, "_embd") == NULL;
}

static void test_low_rank(void **state) {
    static factors f[MAX_PARAMETERS];
    for (int c = 0; c < N_CONFIGS; c++) {
        random_model m;
        gradients full, low;
        random_model_init(&m, *state, CONFIGS[c]());
        gradients_init(&full, &m.model);
        gradients_init(&low, &m.model);
        run(&full, &m.model, false);
        for (int64_t i = 0; i < low.plan.n; i++) {
            if (is_linear(&low.plan.slots[i])) {
                factors_init(&f[i], (uint64_t)i);
                low.list[i].gradient = NULL;
                low.list[i].low_rank = &f[i].low;
            }
        }
        run(&low, &m.model, c % 2 == 0);
        int checked = 0;
        for (int64_t i = 0; i < low.plan.n; i++) {
            if (is_linear(&low.plan.slots[i])) {
                check_factors(&f[i], &full.plan.slots[i], full.list[i].gradient);
                checked++;
            }
        }
        assert_true(checked >= 6 * m.model.config.n_layers);
        gradients_clear(&full);
        gradients_clear(&low);
        random_model_clear(&m);
    }
}

/* ---- what is refused ---- */

static void refuse(const km_model *model, km_training_pass pass, km_status status,
                   const char *text) {
    km_error err = KM_ERROR_INIT;
    assert_int_equal(km_model_train_pass(model, &pass, &err), status);
    if (strstr(err.message, text) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, text);
    }
}

static void refuse_target(const km_model *model, gradients *g, km_training_target target,
                          km_status status, const char *text) {
    const km_training_target targets[2] = {{2, 1, 1.0f}, target};
    km_training_pass pass = pass_of(g);
    pass.targets = targets;
    pass.n_targets = 2;
    refuse(model, pass, status, text);
}

static void test_refuses_targets(void **state) {
    random_model m;
    gradients g;
    random_model_init(&m, *state, reference_config());
    gradients_init(&g, &m.model);
    km_training_pass pass = pass_of(&g);
    pass.n_targets = 0;
    refuse(&m.model, pass, KM_EINVAL, "at least one target");
    pass = pass_of(&g);
    pass.tree.n = 0;
    refuse(&m.model, pass, KM_EINVAL, "the tree has 0 tokens");
    refuse_target(&m.model, &g, (km_training_target){1, 0, 1.0f}, KM_EINVAL, "must not fall");
    refuse_target(&m.model, &g, (km_training_target){9, 0, 1.0f}, KM_EINVAL, "has 9 tokens");
    refuse_target(&m.model, &g, (km_training_target){3, 17, 1.0f}, KM_ERANGE, "0 to 16");
    refuse_target(&m.model, &g, (km_training_target){3, 0, INFINITY}, KM_EINVAL, "not finite");
    static const int64_t parent[2] = {-1, 1};
    pass = pass_of(&g);
    pass.tree = (km_tree){IDS, parent, 2};
    pass.n_targets = 1;
    refuse(&m.model, pass, KM_EINVAL, "token 1 has parent 1");
    gradients_clear(&g);
    random_model_clear(&m);
}

static void test_refuses_gradients(void **state) {
    random_model m;
    gradients g;
    factors f;
    random_model_init(&m, *state, reference_config());
    gradients_init(&g, &m.model);
    factors_init(&f, 0);
    km_training_pass pass = pass_of(&g);
    pass.n_gradients = 1;
    g.list[0].low_rank = &f.low;
    refuse(&m.model, pass, KM_EINVAL, "either room");
    g.list[0].gradient = NULL;
    refuse(&m.model, pass, KM_EUNSUPPORTED, "'token_embd.weight' takes no low-rank");
    g.list[0].parameter = 4; /* the first layer's queries */
    f.low.rank = 13;
    refuse(&m.model, pass, KM_EINVAL, "rank 13");
    f.low.rank = 1;
    f.low.da = NULL;
    refuse(&m.model, pass, KM_EINVAL, "without factors");
    g.list[0] = (km_parameter_gradient){g.plan.n, g.block, NULL};
    refuse(&m.model, pass, KM_ERANGE, "the model has");
    g.list[0] = (km_parameter_gradient){1, g.block, NULL};
    pass.n_gradients = 2;
    refuse(&m.model, pass, KM_EINVAL, "must rise");
    gradients_clear(&g);
    random_model_clear(&m);
}

static void test_refuses_infinities(void **state) {
    random_model m;
    gradients g;
    random_model_init(&m, *state, reference_config());
    gradients_init(&g, &m.model);
    float *values = values_of(&g.plan.slots[g.plan.n - 1]);
    values[0] = 3e38f;
    refuse(&m.model, pass_of(&g), KM_ENUMERIC, "not finite");
    gradients_clear(&g);
    random_model_clear(&m);
}

/* ---- memory ---- */

static void test_refuses_memory(void **state) {
    random_model m;
    gradients g;
    random_model_init(&m, *state, reference_config());
    gradients_init(&g, &m.model);
    m.model.config.d_ffn = INT32_MAX;
    km_training_pass pass = pass_of(&g);
    pass.n_gradients = 0;
    refuse(&m.model, pass, KM_ENOMEM, "MiB are available");
    gradients_clear(&g);
    random_model_clear(&m);
}

/* The most bytes that are allocated at once do not pass the bound, and come near it. */
static void test_bytes(void **state) {
    enum { LONG = 60, TIMES = 4 };
    static int32_t ids[LONG * TIMES];
    static int64_t parent[LONG * TIMES];
    static km_training_target targets[LONG * TIMES];
    (void)state;
    for (int i = 0; i < LONG * TIMES; i++) {
        ids[i] = i % 13;
        parent[i] = i % LONG == 0 ? -1 : i - 1;
        targets[i] = (km_training_target){i, (i + 1) % 13, 1.0f};
    }
    for (int c = 0; c < 2 * N_CONFIGS; c++) {
        km_test_memory memory;
        km_allocator allocator = km_test_failing_allocator(&memory, -1);
        km_ctx_options options = KM_CTX_OPTIONS_INIT;
        km_ctx *ctx = NULL;
        km_error err = KM_ERROR_INIT;
        random_model m;
        gradients g;
        options.n_threads = 1; /* so that the first pass grows all scratch memory */
        options.allocator = &allocator;
        km_test_ok(km_ctx_new(&ctx, &options, &err), &err);
        random_model_init(&m, ctx, CONFIGS[c / 2]());
        gradients_init(&g, &m.model);
        km_training_pass pass = pass_of(&g);
        pass.tree = (km_tree){ids, parent, LONG * TIMES};
        pass.targets = targets;
        pass.n_targets = LONG * TIMES;
        pass.losses = NULL;
        pass.recompute = c % 2 == 1;
        km_test_ok(km_model_train_pass(&m.model, &pass, &err), &err);
        const long long before = atomic_load(&memory.live_bytes);
        atomic_store(&memory.peak_bytes, before);
        km_test_ok(km_model_train_pass(&m.model, &pass, &err), &err);
        const long long used = atomic_load(&memory.peak_bytes) - before;
        const long long bound =
            km_model_train_pass_bytes(&m.model, LONG * TIMES, LONG, LONG * TIMES, pass.recompute);
        if (used > bound || bound > used * 3 / 2) {
            fail_msg("%s allocates %lld bytes, the bound is %lld", m.model.config.arch, used,
                     bound);
        }
        assert_int_equal(atomic_load(&memory.live_bytes), before);
        gradients_clear(&g);
        random_model_clear(&m);
        km_ctx_free(ctx);
    }
}

/* A trainable model keeps the buffers of a pass for the next, whose numbers they do not change. */
static void test_keeps_buffers(void **state) {
    km_test_memory memory;
    km_allocator allocator = km_test_failing_allocator(&memory, -1);
    const km_ctx_options options = {1, NULL, &allocator};
    km_ctx *ctx = NULL;
    km_model *file, *model;
    float sums[3][64] = {{0.0f}};
    km_error err = KM_ERROR_INIT;
    (void)state;
    km_test_ok(km_ctx_new(&ctx, &options, &err), &err);
    km_test_ok(km_model_load(&file, ctx, KM_TEST_DATA "/golden_data/arch/llama3", NULL, &err),
               &err);
    km_test_ok(km_model_trainable(&model, file, NULL, 0, &err), &err);
    for (int i = 0; i < 3; i++) {
        const km_parameter_gradient gradient = {1, sums[i], NULL};
        const km_training_pass pass = {.tree = {IDS, PARENT, i == 1 ? 4 : N_TOKENS},
                                       .targets = TARGETS,
                                       .n_targets = i == 1 ? 3 : N_TARGETS,
                                       .gradients = &gradient,
                                       .n_gradients = 1};
        const long long before = atomic_load(&memory.live_bytes);
        atomic_store(&memory.peak_bytes, before);
        km_test_ok(km_model_train_pass(model, &pass, &err), &err);
        const long long used = atomic_load(&memory.peak_bytes) - before;
        const long long bound = km_model_train_pass_bytes(model, N_TOKENS, 6, N_TARGETS, false);
        assert_true(i == 0 ? used > bound / 2 : used < bound / 4);
    }
    assert_memory_equal(sums[2], sums[0], sizeof sums[0]);
    km_model_free(model);
    km_model_free(file);
    km_ctx_free(ctx);
    assert_int_equal(atomic_load(&memory.live_bytes), 0);
}

static km_status every_allocation(km_ctx *ctx, km_error *err) {
    random_model m;
    gradients g;
    random_model_init(&m, ctx, reference_gemma());
    float *block = calloc(1 << 16, sizeof(float));
    const km_parameter_gradient gradient = {5, block, NULL};
    memset(&g, 0, sizeof g);
    km_training_pass pass = pass_of(&g);
    pass.gradients = &gradient;
    pass.n_gradients = 1;
    km_status status = km_model_train_pass(&m.model, &pass, err);
    free(block);
    random_model_clear(&m);
    return status;
}

static void test_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(every_allocation);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_central_differences, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_adds_up, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_shared_prefix, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_runs, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_some_parameters, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_low_rank, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_refuses_targets, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_refuses_gradients, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_refuses_infinities, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_refuses_memory, km_test_setup, km_test_teardown),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_keeps_buffers),
        cmocka_unit_test(test_every_allocation),
    };
    return cmocka_run_group_tests_name("training", tests, NULL, NULL);
}
