/* Tests of km/circuit.h: scores against directional derivatives and against the effect of patching
 * an edge in a double-precision model, circuits run on their own, pruning, errors. */
#include "km_test.h"

#include "km/circuit.h"
#include "measure/circuit.h"
#include "reference_model.h"

enum { N_TOKENS = 4, GOOD = 6, BAD = 13, MAX_SOURCES = 24, MAX_TARGETS = 64 };

static const int32_t CLEAN[N_TOKENS] = {3, 11, 5, 7};
static const int32_t OTHER[N_TOKENS] = {3, 9, 5, 1};
static const int64_t PARENT[N_TOKENS] = {-1, 0, 1, 2};
static const km_circuit_task TASK = {CLEAN, OTHER, N_TOKENS, GOOD, BAD};

typedef km_config (*config_fn)(void);
static const config_fn CONFIGS[] = {reference_config, reference_gemma, reference_gpt2,
                                    reference_neox};
enum { N_CONFIGS = 4 };

/* ---- one run in double precision: what every source writes and every target reads ---- */

typedef struct writes {
    double source[MAX_SOURCES][N_TOKENS][16];
    double input[MAX_TARGETS][N_TOKENS][16]; /* as read by each target */
    double embed[N_TOKENS][16];
} writes;

typedef struct observer {
    const km__graph *graph;
    writes *out;      /* what is seen; NULL: nothing is kept */
    const bool *keep; /* (targets, sources) edges of a circuit; NULL: no circuit */
    const writes *corrupted;
    const double *embeddings; /* (n, D) replace the token embeddings; NULL: none */
    int64_t target;           /* moved along `direction`, (n, D), by `step`; -1: none */
    const double *direction;
    double step;
} observer;

/* What each head writes, from z (H, Dh). */
static void see_heads(const observer *o, int32_t layer, int64_t node, const double *z) {
    const km_config *c = o->graph->config;
    const km_matrix *wo = &o->graph->model->weights.layers[layer].wo;
    for (int64_t h = 0; h < c->n_heads; h++) {
        double *out = o->out->source[km__graph_attention(o->graph, layer) + h][node];
        for (int64_t i = 0; i < c->d_model; i++) {
            out[i] = 0.0;
            for (int64_t k = 0; k < c->head_dim; k++) {
                out[i] += (double)((const float *)wo->data)[i * wo->cols + h * c->head_dim + k] *
                          z[h * c->head_dim + k];
            }
        }
    }
}

static void see_input(const observer *o, int64_t target, int64_t node, double *row) {
    const int64_t d = o->graph->width;
    if (o->keep != NULL) {
        memcpy(row, o->corrupted->input[target][node], (size_t)d * sizeof *row);
        for (int64_t s = 0; s < o->graph->n_sources; s++) {
            for (int64_t i = 0; o->keep[target * o->graph->n_sources + s] && i < d; i++) {
                row[i] += o->out->source[s][node][i] - o->corrupted->source[s][node][i];
            }
        }
    }
    for (int64_t i = 0; o->target == target && i < d; i++) {
        row[i] += o->step * o->direction[node * d + i];
    }
    memcpy(o->out->input[target][node], row, (size_t)d * sizeof *row);
}

static void see_point(void *payload, km_point point, int32_t layer, int64_t node, int64_t heads,
                      int64_t width, double *row) {
    const observer *o = payload;
    const km__graph *g = o->graph;
    const size_t bytes = (size_t)width * sizeof *row;
    if (point == KM_POINT_EMBED) {
        if (o->embeddings != NULL) {
            memcpy(row, o->embeddings + node * width, bytes);
        }
        memcpy(o->out->embed[node], row, bytes);
    } else if (point == KM_POINT_RESID_PRE && layer == 0) {
        memcpy(o->out->source[0][node], row, bytes);
    } else if (point == KM_POINT_ATTN_HEAD_OUT && !g->blocks) {
        see_heads(o, layer, node, row);
    } else if (point == KM_POINT_ATTN_OUT && g->blocks) {
        memcpy(o->out->source[km__graph_attention(g, layer)][node], row, bytes);
    } else if (point == KM_POINT_MLP_OUT) {
        memcpy(o->out->source[km__graph_mlp(g, layer)][node], row, bytes);
    } else if (point == KM_POINT_Q_INPUT || point == KM_POINT_K_INPUT ||
               point == KM_POINT_V_INPUT || point == KM_POINT_MLP_INPUT) {
        for (int64_t h = 0; h < heads; h++) {
            see_input(o, km__graph_target(g, layer, point) + h, node, row + h * width);
        }
    } else if (point == KM_POINT_RESID_POST && layer == g->config->n_layers - 1) {
        see_input(o, g->n_targets - 1, node, row);
    }
}

/* The metric of a run of `ids`. */
static double metric_of(observer *o, const int32_t *ids) {
    static ref_pass r;
    const km_tree tree = {ids, PARENT, N_TOKENS};
    r.model = o->graph->model;
    r.tree = &tree;
    r.door = see_point;
    r.payload = o;
    ref_run(&r);
    return r.logits[N_TOKENS - 1][GOOD] - r.logits[N_TOKENS - 1][BAD];
}

static double plain_run(const km__graph *g, writes *out, const int32_t *ids) {
    observer o = {g, out, NULL, NULL, NULL, -1, NULL, 0.0};
    return metric_of(&o, ids);
}

/* ---- scores ---- */

/* -d metric along what corrupting the source changes, as the target alone reads it. */
static double expected_score(const km__graph *g, const writes *clean, const writes *corrupted,
                             int64_t source, int64_t target, int32_t steps) {
    static writes scratch;
    double direction[N_TOKENS * 16], embeddings[N_TOKENS * 16], sum = 0.0;
    const int64_t d = g->width;
    for (int32_t k = 1; k <= steps; k++) {
        for (int64_t n = 0; n < N_TOKENS; n++) {
            for (int64_t i = 0; i < d; i++) {
                const double from = corrupted->embed[n][i];
                direction[n * d + i] =
                    corrupted->source[source][n][i] - clean->source[source][n][i];
                embeddings[n * d + i] = from + (double)k / steps * (clean->embed[n][i] - from);
            }
        }
        observer o = {g, &scratch, NULL, NULL, embeddings, target, direction, 1e-5};
        const double up = metric_of(&o, CLEAN);
        o.step = -1e-5;
        sum -= (up - metric_of(&o, CLEAN)) / 2e-5;
    }
    return sum / steps;
}

static int column(const km_table *table, const char *name) {
    const int found = km_table_find(table, name);
    assert_true(found >= 0);
    return found;
}

static km_table *run(const km_model *model, int32_t steps, int64_t top) {
    const km_circuit_options options = {steps, top};
    km_table *table = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_circuit_run(&table, model, &TASK, &options, NULL, NULL, &err), &err);
    return table;
}

static void check_scores(km_ctx *ctx, km_config config, int32_t steps, int64_t stride) {
    static writes clean, corrupted;
    random_model m;
    random_model_init(&m, ctx, config);
    const km__graph g = km__graph_of(&m.model);
    plain_run(&g, &clean, CLEAN);
    plain_run(&g, &corrupted, OTHER);
    km_table *table = run(&m.model, steps, 0);
    const int source = column(table, "source_id"), target = column(table, "target_id");
    const int score = column(table, "score");
    assert_int_equal(km_table_rows(table), km_circuit_edges(&m.model));
    double last = INFINITY;
    for (int64_t row = 0; row < km_table_rows(table); row++) {
        const double got = km_table_double(table, score, row);
        assert_true(fabs(got) <= last);
        last = fabs(got);
        if (row % stride == 0) {
            const double expected =
                expected_score(&g, &clean, &corrupted, km_table_int64(table, source, row),
                               km_table_int64(table, target, row), steps);
            if (fabs(got - expected) > 2e-5 + 2e-4 * fabs(expected)) {
                fail_msg("%s: edge %s to %s: %.9g, expected %.9g", config.arch,
                         km_table_text(table, 0, row, NULL), km_table_text(table, 1, row, NULL),
                         got, expected);
            }
        }
    }
    km_table_free(table);
    random_model_clear(&m);
}

static void test_scores(void **state) {
    for (int i = 0; i < N_CONFIGS; i++) {
        check_scores(*state, CONFIGS[i](), 1, 3);
        check_scores(*state, CONFIGS[i](), 3, 17);
    }
}

/* Where corruption is slight, a score is what the metric loses when that edge alone is corrupted.
 */
static void test_scores_are_effects(void **state) {
    static writes clean, corrupted, scratch;
    for (int i = 0; i < N_CONFIGS; i++) {
        random_model m;
        random_model_init(&m, *state, CONFIGS[i]());
        float *embed = m.block;
        const int64_t d = m.model.config.d_model;
        assert_ptr_equal(embed, m.model.weights.embed.data);
        for (int64_t k = 0; k < d; k++) { /* the corrupted tokens nearly equal the clean ones */
            embed[9 * d + k] = embed[11 * d + k] + (k % 3 == 0 ? 2e-4f : -1e-4f);
            embed[1 * d + k] = embed[7 * d + k] + (k % 4 == 0 ? -3e-4f : 1e-4f);
        }
        const km__graph g = km__graph_of(&m.model);
        const double metric = plain_run(&g, &clean, CLEAN);
        plain_run(&g, &corrupted, OTHER);
        bool *keep = malloc((size_t)(g.n_sources * g.n_targets));
        km_table *table = run(&m.model, 1, 0);
        const double largest = fabs(km_table_double(table, column(table, "score"), 0));
        for (int64_t row = 0; row < km_table_rows(table); row += 7) {
            const int64_t s = km_table_int64(table, column(table, "source_id"), row);
            const int64_t t = km_table_int64(table, column(table, "target_id"), row);
            for (int64_t e = 0; e < g.n_sources * g.n_targets; e++) {
                keep[e] = e % g.n_sources < km__graph_reach(&g, e / g.n_sources);
            }
            keep[t * g.n_sources + s] = false;
            observer o = {&g, &scratch, keep, &corrupted, NULL, -1, NULL, 0.0};
            const double effect = metric - metric_of(&o, CLEAN);
            const double got = km_table_double(table, column(table, "score"), row);
            assert_true(fabs(got - effect) < 2e-3 * largest);
        }
        km_table_free(table);
        free(keep);
        random_model_clear(&m);
    }
}

/* All that reaches a target sums to the change of what it reads. */
static void test_inputs_are_sums(void **state) {
    static writes clean, corrupted;
    for (int i = 0; i < N_CONFIGS; i++) {
        random_model m;
        random_model_init(&m, *state, CONFIGS[i]());
        const km__graph g = km__graph_of(&m.model);
        plain_run(&g, &clean, CLEAN);
        plain_run(&g, &corrupted, OTHER);
        for (int64_t t = 0; t < g.n_targets; t++) {
            for (int64_t k = 0; k < N_TOKENS * g.width; k++) {
                const int64_t n = k / g.width, e = k % g.width;
                double sum = 0.0;
                for (int64_t s = 0; s < km__graph_reach(&g, t); s++) {
                    sum += corrupted.source[s][n][e] - clean.source[s][n][e];
                }
                assert_true(fabs(corrupted.input[t][n][e] - clean.input[t][n][e] - sum) < 1e-9);
            }
        }
        random_model_clear(&m);
    }
}

/* ---- circuits on their own ---- */

static km_table *evaluate(const km_model *model, const int32_t *sources, const int32_t *targets,
                          int64_t n) {
    km_table *table = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_circuit_evaluate(&table, model, &TASK, sources, targets, n, &err), &err);
    return table;
}

/* Every edge for which (hash of its number) % divisor == 0. */
static int64_t pick(const km__graph *g, int32_t *sources, int32_t *targets, bool *keep,
                    uint64_t divisor) {
    int64_t n = 0;
    memset(keep, 0, (size_t)(g->n_sources * g->n_targets));
    for (int64_t t = 0; t < g->n_targets; t++) {
        for (int64_t s = 0; s < km__graph_reach(g, t); s++) {
            if (divisor > 0 && km_random_u64(1, 2, (uint64_t)(t * 100 + s)) % divisor == 0) {
                keep[t * g->n_sources + s] = true;
                sources[n] = (int32_t)s;
                targets[n++] = (int32_t)t;
            }
        }
    }
    return n;
}

static void test_circuits(void **state) {
    static writes clean, corrupted, scratch;
    for (int i = 0; i < N_CONFIGS; i++) {
        random_model m;
        random_model_init(&m, *state, CONFIGS[i]());
        const km__graph g = km__graph_of(&m.model);
        const double right = plain_run(&g, &clean, CLEAN), wrong = plain_run(&g, &corrupted, OTHER);
        const size_t cells = (size_t)(g.n_sources * g.n_targets);
        bool *keep = malloc(cells);
        int32_t *sources = calloc(cells, sizeof *sources),
                *targets = calloc(cells, sizeof *targets);
        for (uint64_t divisor = 0; divisor < 4; divisor++) { /* none, all, half, a third */
            const int64_t n = pick(&g, sources, targets, keep, divisor);
            km_table *table = evaluate(&m.model, sources, targets, n);
            const int metric = column(table, "metric"), recovered = column(table, "recovered");
            observer o = {&g, &scratch, keep, &corrupted, NULL, -1, NULL, 0.0};
            const double expected = metric_of(&o, CLEAN);
            assert_true(fabs(km_table_double(table, metric, 0) - right) < 1e-5);
            assert_true(fabs(km_table_double(table, metric, 1) - wrong) < 1e-5);
            assert_true(fabs(km_table_double(table, metric, 2) - expected) < 2e-5);
            const double start = km_table_double(table, metric, 1);
            assert_true(fabs(km_table_double(table, recovered, 2) *
                                 (km_table_double(table, metric, 0) - start) -
                             (km_table_double(table, metric, 2) - start)) < 1e-9);
            if (divisor < 2) {
                assert_true(fabs(expected - (divisor == 0 ? wrong : right)) < 1e-9);
            }
            const double logprob = km_table_double(table, column(table, "logprob"), 2);
            assert_true(fabs(exp(logprob) -
                             km_table_double(table, column(table, "probability"), 2)) < 1e-12);
            km_table_free(table);
        }
        free(targets);
        free(sources);
        free(keep);
        random_model_clear(&m);
    }
}

/* ---- the cut ---- */

/* Cutting keeps the largest; whatever is left lies on a path from the input to the logits. */
static void test_pruning(void **state) {
    for (int i = 0; i < N_CONFIGS; i++) {
        random_model m;
        random_model_init(&m, *state, CONFIGS[i]());
        km_table *all = run(&m.model, 1, 0), *some = run(&m.model, 1, 40);
        const int source = column(all, "source_id"), target = column(all, "target_id");
        const int score = column(all, "score"), from = column(all, "source");
        const int to = column(all, "target");
        int64_t at = 0;
        assert_true(km_table_rows(some) > 0 && km_table_rows(some) <= 40);
        for (int64_t row = 0; row < km_table_rows(some); row++, at++) {
            while (km_table_int64(all, source, at) != km_table_int64(some, source, row) ||
                   km_table_int64(all, target, at) != km_table_int64(some, target, row)) {
                at++;
                assert_true(at < 40);
            }
            assert_true(km_table_double(all, score, at) == km_table_double(some, score, row));
        }
        for (int64_t row = 0; row < km_table_rows(some); row++) {
            bool reached = strcmp(km_table_text(some, from, row, NULL), "input") == 0;
            bool useful = strcmp(km_table_text(some, to, row, NULL), "logits") == 0;
            const int64_t from_layer = km_table_int64(some, column(some, "source_layer"), row);
            const int64_t to_layer = km_table_int64(some, column(some, "target_layer"), row);
            const char *source_name = km_table_text(some, from, row, NULL);
            const char *target_name = km_table_text(some, to, row, NULL);
            for (int64_t other = 0; other < km_table_rows(some); other++) {
                const char *out = km_table_text(some, from, other, NULL);
                const char *in = km_table_text(some, to, other, NULL);
                reached |= in[0] == source_name[0] &&
                           km_table_int64(some, column(some, "target_layer"), other) == from_layer;
                useful |= out[0] == target_name[0] &&
                          km_table_int64(some, column(some, "source_layer"), other) == to_layer;
            }
            assert_true(reached && useful);
        }
        km_table_free(some);
        km_table_free(all);
        random_model_clear(&m);
    }
}

static void test_names(void **state) {
    random_model m;
    random_model_init(&m, *state, reference_config()); /* 3 layers, 4 heads, 2 KV heads */
    const km__graph g = km__graph_of(&m.model);
    assert_int_equal(km_circuit_sources(&m.model), 16);
    assert_int_equal(km_circuit_targets(&m.model), 28);
    assert_int_equal(km_circuit_edges(&m.model), 8 * (1 + 6 + 11) + (5 + 10 + 15) + 16);
    for (int64_t s = 1; s < g.n_sources; s++) {
        const km__graph_place p = km__graph_source_place(&g, s);
        assert_int_equal(s, p.head < 0 ? km__graph_mlp(&g, p.layer)
                                       : km__graph_attention(&g, p.layer) + p.head);
    }
    km_table *table = run(&m.model, 1, 0);
    int64_t shared = 0;
    for (int64_t row = 0; row < km_table_rows(table); row++) {
        const char *kind = km_table_text(table, column(table, "kind"), row, NULL);
        const char *name = km_table_text(table, column(table, "target"), row, NULL);
        shared += strstr(name, ".kv") != NULL;
        assert_true((strstr(name, ".kv") != NULL) == (kind[0] == 'k' || kind[0] == 'v'));
        assert_true((strstr(name, ".h") != NULL) == (kind[0] == 'q'));
        assert_true((name[0] == 'm') == (strcmp(kind, "mlp") == 0));
        assert_true((strcmp(name, "logits") == 0) == (strcmp(kind, "logits") == 0));
    }
    assert_int_equal(shared, 4 * (1 + 6 + 11));
    km_table_free(table);
    random_model_clear(&m);
}

/* ---- invariants and errors ---- */

static void test_same_bits(void **state) {
    (void)state;
    km_table *tables[2];
    for (int t = 0; t < 2; t++) {
        km_ctx *ctx = km_test_ctx(t == 0 ? 1 : 5);
        random_model m;
        random_model_init(&m, ctx, reference_config());
        tables[t] = run(&m.model, 2, 100);
        random_model_clear(&m);
        km_ctx_free(ctx);
    }
    assert_int_equal(km_table_rows(tables[0]), km_table_rows(tables[1]));
    for (int64_t row = 0; row < km_table_rows(tables[0]); row++) {
        const int score = column(tables[0], "score");
        const double a = km_table_double(tables[0], score, row);
        const double b = km_table_double(tables[1], score, row);
        assert_memory_equal(&a, &b, sizeof a);
    }
    km_table_free(tables[0]);
    km_table_free(tables[1]);
}

static void test_errors(void **state) {
    random_model m;
    km_table *table = NULL;
    km_circuit_task task = TASK;
    km_circuit_options options = {0, 10};
    random_model_init(&m, *state, reference_config());
    const km_model *model = &m.model;
    assert_int_equal(km_circuit_run(&table, model, &task, &options, NULL, NULL, NULL), KM_EINVAL);
    options = (km_circuit_options){1, -1};
    assert_int_equal(km_circuit_run(&table, model, &task, &options, NULL, NULL, NULL), KM_EINVAL);
    task.n = 0;
    assert_int_equal(km_circuit_run(&table, model, &task, NULL, NULL, NULL, NULL), KM_EINVAL);
    task = TASK;
    task.bad = GOOD;
    assert_int_equal(km_circuit_run(&table, model, &task, NULL, NULL, NULL, NULL), KM_EINVAL);
    task.bad = 17;
    assert_int_equal(km_circuit_run(&table, model, &task, NULL, NULL, NULL, NULL), KM_ERANGE);
    const int32_t zero = 0, one = 1, outside = 28;
    assert_int_equal(km_circuit_evaluate(&table, model, &TASK, &one, &zero, 1, NULL), KM_ERANGE);
    assert_int_equal(km_circuit_evaluate(&table, model, &TASK, &zero, &outside, 1, NULL),
                     KM_ERANGE);
    assert_int_equal(km_circuit_evaluate(&table, model, &TASK, NULL, NULL, 1, NULL), KM_EINVAL);
    assert_null(table);
    random_model_clear(&m);
}

static km_status every_run(km_ctx *ctx, km_error *err) {
    random_model m;
    km_table *table = NULL;
    const km_circuit_options options = {2, 30};
    random_model_init(&m, ctx, reference_config());
    const km_status status = km_circuit_run(&table, &m.model, &TASK, &options, NULL, NULL, err);
    km_table_free(table);
    random_model_clear(&m);
    return status;
}

static km_status every_evaluation(km_ctx *ctx, km_error *err) {
    random_model m;
    km_table *table = NULL;
    const int32_t sources[2] = {0, 0}, targets[2] = {27, 27};
    random_model_init(&m, ctx, reference_config());
    const km_status status = km_circuit_evaluate(&table, &m.model, &TASK, sources, targets, 2, err);
    km_table_free(table);
    random_model_clear(&m);
    return status;
}

static void test_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(every_run);
    km_test_every_allocation(every_evaluation);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_scores, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_scores_are_effects, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_inputs_are_sums, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_circuits, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_pruning, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_names, km_test_setup, km_test_teardown),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test_setup_teardown(test_errors, km_test_setup, km_test_teardown),
        cmocka_unit_test(test_every_allocation),
    };
    return cmocka_run_group_tests_name("circuit", tests, NULL, NULL);
}
