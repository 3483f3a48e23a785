/* circuit_evaluate.c: run a prompt with the edges outside a circuit carrying what they carry in the
 * corrupted run.
 *
 * The input of a target is then its input in the corrupted run plus, for each edge of the circuit,
 * what the source writes now less what it wrote there. Targets are visited after all their sources,
 * so one forward pass is enough. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "measure/circuit.h"

enum { RUN, METRIC, RANK, LOGPROB, PROBABILITY, RECOVERED, N_COLUMNS };
enum { CLEAN, CORRUPTED, CIRCUIT, N_RUNS };

static const char *const RUN_NAMES[N_RUNS] = {"clean", "corrupted", "circuit"};

static const km_column_spec COLUMNS[N_COLUMNS] = {
    {"run", KM_COLUMN_TEXT, "", "clean, corrupted, or circuit: clean, but for the edges outside."},
    {"metric", KM_COLUMN_DOUBLE, "logits", "Logit of the good token less that of the bad one."},
    {"rank", KM_COLUMN_INT64, "rank", "Tokens strictly more likely than the good one."},
    {"logprob", KM_COLUMN_DOUBLE, "nats", "Log-probability of the good token."},
    {"probability", KM_COLUMN_DOUBLE, "probability", "Its probability."},
    {"recovered", KM_COLUMN_DOUBLE, "share", "(metric - corrupted) / (clean - corrupted)."},
};

typedef struct outcome {
    double metric, logprob;
    int64_t rank;
} outcome;

typedef struct evaluation {
    km__graph graph;
    const km_circuit_task *task;
    outcome outcomes[N_RUNS];
    int64_t first_run;       /* of the pass under way: the run of its row 0 */
    int32_t *ids;            /* (2, n) clean, corrupted */
    int64_t *parent, *nodes; /* (2n); (2n): 0 .. 2n-1 */
    km_read *reads;
    int64_t *keys;  /* (n_edges) target * S + source, rising, each once */
    int64_t *first; /* (targets + 1) first key of a target */
    int64_t n_keys;
    float *block;
    float *stream, *middle; /* (L, n, D) resid_pre and what MLPs read, corrupted */
    float *last;            /* (D) resid_post of the last layer and token, corrupted */
    float *z, *mlp;         /* (L, n, H*Dh) or attn_out (L, n, D); (L, n, D), corrupted */
    float *delta;           /* (S, n, D) what a source writes less what it wrote corrupted */
    float *difference;      /* (n, H*Dh) */
    float *heads, *spread;  /* (H, n, D), (H, n, H*Dh) */
} evaluation;

/* ---- memory ---- */

static km_status allocate_floats(evaluation *e, km_error *err) {
    const km__graph *g = &e->graph;
    const double n = (double)e->task->n, d = (double)g->width, layers = g->config->n_layers;
    const double z = (double)g->z_width, heads = g->blocks ? 0.0 : (double)g->writers;
    const struct {
        float **where;
        double floats;
    } parts[] = {
        {&e->stream, layers * n * d},
        {&e->middle, layers * n * d},
        {&e->last, d},
        {&e->z, layers * n * z},
        {&e->mlp, layers * n * d},
        {&e->delta, (double)g->n_sources * n * d},
        {&e->difference, n * z},
        {&e->heads, heads * n * d},
        {&e->spread, heads * n * z},
    };
    const int n_parts = (int)(sizeof parts / sizeof parts[0]);
    double total = 0.0;
    for (int i = 0; i < n_parts; i++) {
        total += parts[i].floats;
    }
    const double bytes = total * (double)sizeof(float), available = (double)km_memory_available();
    if (bytes > available) {
        return KM_SET(err, KM_ENOMEM,
                      "running a circuit over %lld tokens needs %.0f MiB; %.0f MiB are available",
                      (long long)e->task->n, bytes / 1048576.0, available / 1048576.0);
    }
    KM_TRY(km_alloc((void **)&e->block, km_model_ctx(g->model), (size_t)bytes, err));
    memset(e->block, 0, (size_t)bytes);
    float *next = e->block;
    for (int i = 0; i < n_parts; i++) {
        *parts[i].where = next;
        next += (int64_t)parts[i].floats;
    }
    return KM_OK;
}

static km_status allocate(evaluation *e, int64_t n_edges, km_error *err) {
    km_ctx *ctx = km_model_ctx(e->graph.model);
    const int64_t n = 2 * e->task->n;
    const int64_t n_reads = 2 + 4 * (int64_t)e->graph.config->n_layers;
    KM_TRY(allocate_floats(e, err));
    KM_TRY(km_alloc_array((void **)&e->ids, ctx, n, sizeof *e->ids, err));
    KM_TRY(km_alloc_array((void **)&e->parent, ctx, n, sizeof *e->parent, err));
    KM_TRY(km_alloc_array((void **)&e->nodes, ctx, n, sizeof *e->nodes, err));
    KM_TRY(km_alloc_array((void **)&e->reads, ctx, n_reads, sizeof *e->reads, err));
    KM_TRY(km_alloc_array((void **)&e->keys, ctx, n_edges, sizeof *e->keys, err));
    return km_alloc_array((void **)&e->first, ctx, e->graph.n_targets + 1, sizeof *e->first, err);
}

static void clear(evaluation *e) {
    km_ctx *ctx = km_model_ctx(e->graph.model);
    km_free(ctx, e->first);
    km_free(ctx, e->keys);
    km_free(ctx, e->reads);
    km_free(ctx, e->nodes);
    km_free(ctx, e->parent);
    km_free(ctx, e->ids);
    km_free(ctx, e->block);
}

/* ---- the circuit ---- */

static int compare_keys(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static km_status list_edges(evaluation *e, const int32_t *sources, const int32_t *targets,
                            int64_t n_edges, km_error *err) {
    const km__graph *g = &e->graph;
    for (int64_t i = 0; i < n_edges; i++) {
        if (targets[i] < 0 || targets[i] >= g->n_targets || sources[i] < 0 ||
            sources[i] >= km__graph_reach(g, targets[i])) {
            return KM_SET(err, KM_ERANGE, "edge %lld: no edge leads from source %d to target %d",
                          (long long)i, sources[i], targets[i]);
        }
        e->keys[i] = targets[i] * g->n_sources + sources[i];
    }
    if (n_edges > 0) {
        qsort(e->keys, (size_t)n_edges, sizeof *e->keys, compare_keys);
    }
    for (int64_t i = 0; i < n_edges; i++) {
        if (i == 0 || e->keys[i] != e->keys[i - 1]) {
            e->keys[e->n_keys++] = e->keys[i];
        }
    }
    int64_t at = 0;
    for (int64_t t = 0; t <= g->n_targets; t++) {
        while (at < e->n_keys && e->keys[at] < t * g->n_sources) {
            at++;
        }
        e->first[t] = at;
    }
    return KM_OK;
}

/* ---- the forward passes ---- */

static km_status see_logits(void *payload, int64_t index, int32_t layer, const float *logits,
                            int64_t vocab, km_error *err) {
    (void)layer;
    (void)err;
    evaluation *e = payload;
    const double lse = km_logits_logsumexp(e->graph.model, logits, vocab);
    const double good = (double)logits[e->task->good];
    e->outcomes[e->first_run + index] = (outcome){good - (double)logits[e->task->bad], good - lse,
                                                  km_logits_rank(logits, vocab, e->task->good)};
    return KM_OK;
}

static void lay_out(evaluation *e) {
    const int64_t n = e->task->n;
    memcpy(e->ids, e->task->clean, (size_t)n * sizeof *e->ids);
    memcpy(e->ids + n, e->task->corrupted, (size_t)n * sizeof *e->ids);
    for (int64_t i = 0; i < 2 * n; i++) {
        e->parent[i] = i % n == 0 ? -1 : i - 1;
        e->nodes[i] = i;
    }
}

/* Both runs; what every target reads and every source writes in the corrupted one. The input's
 * delta holds the clean run's stream until it is subtracted. */
static km_status run_plain(evaluation *e, km_error *err) {
    const km__graph *g = &e->graph;
    const int64_t n = e->task->n, row = n * g->width, rows[2] = {n - 1, 2 * n - 1};
    const int64_t *corrupted = e->nodes + n;
    const bool parallel = g->config->parallel_residual;
    km_read *next = e->reads;
    for (int32_t l = 0; l < g->config->n_layers; l++) {
        const km_point attention = g->blocks ? KM_POINT_ATTN_OUT : KM_POINT_ATTN_HEAD_OUT;
        const km_point middle = parallel ? KM_POINT_RESID_PRE : KM_POINT_RESID_MID;
        *next++ = (km_read){KM_POINT_RESID_PRE, l, -1, corrupted, n, e->stream + l * row};
        *next++ = (km_read){middle, l, -1, corrupted, n, e->middle + l * row};
        *next++ = (km_read){attention, l, -1, corrupted, n, e->z + l * n * g->z_width};
        *next++ = (km_read){KM_POINT_MLP_OUT, l, -1, corrupted, n, e->mlp + l * row};
    }
    *next++ = (km_read){KM_POINT_RESID_PRE, 0, -1, e->nodes, n, e->delta};
    *next++ = (km_read){KM_POINT_RESID_POST, g->config->n_layers - 1, -1, rows + 1, 1, e->last};
    km_forward_request request = {.tree = {e->ids, e->parent, 2 * n},
                                  .rows = rows,
                                  .n_rows = 2,
                                  .on_logits = see_logits,
                                  .payload = e,
                                  .reads = e->reads,
                                  .n_reads = next - e->reads};
    KM_TRY(km_model_forward(g->model, &request, err));
    for (int64_t i = 0; i < row; i++) {
        e->delta[i] -= e->stream[i];
    }
    return KM_OK;
}

/* Replace what a target reads at a node, `base` being its input in the corrupted run. */
static void set_input(const evaluation *e, int64_t target, int64_t node, float *row,
                      const float *base) {
    const int64_t d = e->graph.width, n = e->task->n;
    memcpy(row, base, (size_t)d * sizeof *row);
    for (int64_t k = e->first[target]; k < e->first[target + 1]; k++) {
        const int64_t source = e->keys[k] % e->graph.n_sources;
        const float *delta = e->delta + (source * n + node) * d;
        for (int64_t i = 0; i < d; i++) {
            row[i] += delta[i];
        }
    }
}

static void set_inputs(const evaluation *e, km_point point, int32_t layer, float *rows,
                       const int64_t *nodes, int64_t n_rows) {
    const km__graph *g = &e->graph;
    const int64_t heads = km_point_heads(point, g->config);
    const int64_t first = km__graph_target(g, layer, point);
    const float *bases = point == KM_POINT_MLP_INPUT ? e->middle : e->stream;
    for (int64_t i = 0; i < n_rows; i++) {
        const int64_t node = nodes == NULL ? i : nodes[i];
        const float *base = bases + (layer * e->task->n + node) * g->width;
        for (int64_t h = 0; h < heads; h++) {
            set_input(e, first + h, node, rows + (i * heads + h) * g->width, base);
        }
    }
}

/* What a source of one row a node writes now, less what it wrote in the corrupted run. */
static void keep_delta(const evaluation *e, int64_t source, const float *corrupted,
                       const float *rows, const int64_t *nodes, int64_t n_rows) {
    const int64_t d = e->graph.width, n = e->task->n;
    for (int64_t i = 0; i < n_rows; i++) {
        const int64_t node = nodes == NULL ? i : nodes[i];
        for (int64_t k = 0; k < d; k++) {
            e->delta[(source * n + node) * d + k] = rows[i * d + k] - corrupted[node * d + k];
        }
    }
}

static km_status keep_heads(const evaluation *e, int32_t layer, const float *rows,
                            const int64_t *nodes, int64_t n_rows, km_error *err) {
    const km__graph *g = &e->graph;
    const int64_t n = e->task->n, d = g->width, width = g->z_width;
    const float *corrupted = e->z + layer * n * width;
    for (int64_t i = 0; i < n_rows; i++) {
        const int64_t node = nodes == NULL ? i : nodes[i];
        for (int64_t k = 0; k < width; k++) {
            e->difference[i * width + k] = rows[i * width + k] - corrupted[node * width + k];
        }
    }
    KM_TRY(km__circuit_heads(e->heads, e->spread, g, layer, e->difference, n_rows, err));
    for (int64_t h = 0; h < g->writers; h++) {
        for (int64_t i = 0; i < n_rows; i++) {
            const int64_t node = nodes == NULL ? i : nodes[i];
            memcpy(e->delta + ((km__graph_attention(g, layer) + h) * n + node) * d,
                   e->heads + (h * n_rows + i) * d, (size_t)d * sizeof(float));
        }
    }
    return KM_OK;
}

static km_status visit(void *payload, km_point point, int32_t layer, float *rows,
                       const int64_t *nodes, int64_t n_rows, km_error *err) {
    const evaluation *e = payload;
    const km__graph *g = &e->graph;
    const int64_t n = e->task->n, row = n * g->width;
    switch (point) {
    case KM_POINT_ATTN_HEAD_OUT:
        return keep_heads(e, layer, rows, nodes, n_rows, err);
    case KM_POINT_ATTN_OUT:
        keep_delta(e, km__graph_attention(g, layer), e->z + layer * row, rows, nodes, n_rows);
        return KM_OK;
    case KM_POINT_MLP_OUT:
        keep_delta(e, km__graph_mlp(g, layer), e->mlp + layer * row, rows, nodes, n_rows);
        return KM_OK;
    case KM_POINT_RESID_POST:
        for (int64_t i = 0; layer == g->config->n_layers - 1 && i < n_rows; i++) {
            const int64_t node = nodes == NULL ? i : nodes[i];
            if (node == n - 1) {
                set_input(e, g->n_targets - 1, node, rows + i * g->width, e->last);
            }
        }
        return KM_OK;
    default:
        set_inputs(e, point, layer, rows, nodes, n_rows);
        return KM_OK;
    }
}

static km_status run_circuit(evaluation *e, km_error *err) {
    const int64_t n = e->task->n, last = n - 1;
    const km_point attention = e->graph.blocks ? KM_POINT_ATTN_OUT : KM_POINT_ATTN_HEAD_OUT;
    km_forward_request request = {.tree = {e->ids, e->parent, n},
                                  .rows = &last,
                                  .n_rows = 1,
                                  .on_logits = see_logits,
                                  .payload = e,
                                  .visit = visit,
                                  .visit_payload = e};
    request.visit_points = 1u << attention | 1u << KM_POINT_MLP_OUT | 1u << KM_POINT_RESID_POST |
                           1u << KM_POINT_Q_INPUT | 1u << KM_POINT_K_INPUT |
                           1u << KM_POINT_V_INPUT | 1u << KM_POINT_MLP_INPUT;
    e->first_run = CIRCUIT;
    return km_model_forward(e->graph.model, &request, err);
}

/* ---- the table ---- */

static km_status write_run(km_table *table, const evaluation *e, int run, km_error *err) {
    const outcome *o = &e->outcomes[run];
    const double corrupted = e->outcomes[CORRUPTED].metric;
    const double way = e->outcomes[CLEAN].metric - corrupted;
    KM_TRY(km_table_add_row(table, err));
    KM_TRY(km_table_set_text(table, RUN, RUN_NAMES[run], -1, err));
    KM_TRY(km_table_set_double(table, METRIC, o->metric, err));
    KM_TRY(km_table_set_int64(table, RANK, o->rank, err));
    KM_TRY(km_table_set_double(table, LOGPROB, o->logprob, err));
    KM_TRY(km_table_set_double(table, PROBABILITY, exp(o->logprob), err));
    if (way == 0.0) {
        return KM_OK;
    }
    return km_table_set_double(table, RECOVERED, (o->metric - corrupted) / way, err);
}

km_status km_circuit_evaluate(km_table **out, const km_model *model, const km_circuit_task *task,
                              const int32_t *sources, const int32_t *targets, int64_t n_edges,
                              km_error *err) {
    km_status status = KM_OK;
    km_table *table = NULL;
    evaluation e = {.graph = km__graph_of(model), .task = task};
    *out = NULL;
    KM_TRY(km__circuit_check(&e.graph, task, err));
    if (n_edges < 0 || (n_edges > 0 && (sources == NULL || targets == NULL))) {
        return KM_SET(err, KM_EINVAL, "%lld edges", (long long)n_edges);
    }
    KM_GO(allocate(&e, n_edges, err));
    KM_GO(list_edges(&e, sources, targets, n_edges, err));
    lay_out(&e);
    KM_GO(run_plain(&e, err));
    KM_GO(run_circuit(&e, err));
    KM_GO(km_table_new(&table, km_model_ctx(model), COLUMNS, N_COLUMNS, err));
    for (int run = 0; run < N_RUNS; run++) {
        KM_GO(write_run(table, &e, run, err));
    }
    *out = table;
    table = NULL;
done:
    km_table_free(table);
    clear(&e);
    return status;
}
