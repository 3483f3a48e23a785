/* circuit.c: edge attribution patching.
 *
 * One forward pass over both prompts gives what each source writes; a pass of km_model_gradients
 * over the path of embeddings, one sequence a step, gives the derivative at each target's input. An
 * edge's score is the product of the two, summed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "km/gradient.h"
#include "measure/circuit.h"
#include "tensor/kernels.h"

/* Tokens of a gradient pass, unless one sequence has more. */
#define PASS_TOKENS 96
#define MOST_STEPS 1000

enum {
    SOURCE,
    TARGET,
    KIND,
    SCORE,
    SOURCE_ID,
    TARGET_ID,
    SOURCE_LAYER,
    TARGET_LAYER,
    TARGET_HEAD,
    N_COLUMNS
};

static const km_column_spec COLUMNS[N_COLUMNS] = {
    {"source", KM_COLUMN_TEXT, "", "What writes: input, a<layer>.h<head>, a<layer>, m<layer>."},
    {"target", KM_COLUMN_TEXT, "",
     "What reads: a<layer>.h<head>, a<layer>.kv<head>, m<layer>, "
     "logits."},
    {"kind", KM_COLUMN_TEXT, "", "Input of the target: q, k, v, mlp or logits."},
    {"score", KM_COLUMN_DOUBLE, "logits",
     "Estimated fall of the metric when the edge is corrupted."},
    {"source_id", KM_COLUMN_INT64, "", "Number of the source."},
    {"target_id", KM_COLUMN_INT64, "", "Number of the target."},
    {"source_layer", KM_COLUMN_INT64, "layer", "Layer of the source; null for the input."},
    {"target_layer", KM_COLUMN_INT64, "layer", "Layer of the target; null for the logits."},
    {"target_head", KM_COLUMN_INT64, "head", "Head of the target, KV head for k and v."},
};

typedef struct edge {
    double score;
    int32_t source, target;
} edge;

typedef struct circuit_run {
    km__graph graph;
    const km_circuit_task *task;
    km_circuit_options options;
    int64_t batch; /* sequences of a gradient pass at most */
    int32_t *ids;  /* (max(2, batch), n) */
    int64_t *parent, *rows;
    km_read *reads;
    km_target *targets;
    double *losses;
    float *block;
    float *embed, *stream; /* (2, n, D) clean, corrupted: embed and resid_pre of layer 0 */
    float *z, *mlp;        /* (L, 2, n, H*Dh), or attn_out (L, 2, n, D); (L, 2, n, D) */
    float *spread;         /* (H, n, H*Dh) */
    float *path;           /* (batch, n, D) embeddings of a pass */
    float *delta;          /* (S, n, D) what each source writes, corrupted less clean */
    float *slopes;         /* (targets, batch, n, D) of a pass */
    float *total;          /* (targets, n, D) summed over the steps */
    edge *edges;           /* (n_edges) */
    int64_t n_edges;
} circuit_run;

/* ---- memory ---- */

static km_status allocate_floats(circuit_run *run, km_error *err) {
    const km__graph *g = &run->graph;
    const double n = (double)run->task->n, d = (double)g->width, layers = g->config->n_layers;
    const double batch = (double)run->batch, z = (double)g->z_width;
    const struct {
        float **where;
        double floats;
    } parts[] = {
        {&run->embed, 2 * n * d},
        {&run->stream, 2 * n * d},
        {&run->z, layers * 2 * n * z},
        {&run->mlp, layers * 2 * n * d},
        {&run->spread, g->blocks ? 0.0 : (double)g->writers * n * z},
        {&run->path, batch * n * d},
        {&run->delta, (double)g->n_sources * n * d},
        {&run->slopes, (double)g->n_targets * batch * n * d},
        {&run->total, (double)g->n_targets * n * d},
    };
    const int n_parts = (int)(sizeof parts / sizeof parts[0]);
    double total = 0.0;
    for (int i = 0; i < n_parts; i++) {
        total += parts[i].floats;
    }
    const double bytes = total * (double)sizeof(float), available = (double)km_memory_available();
    if (bytes > available) {
        return KM_SET(err, KM_ENOMEM,
                      "scoring the edges of a prompt of %lld tokens needs %.0f MiB; %.0f MiB are "
                      "available",
                      (long long)run->task->n, bytes / 1048576.0, available / 1048576.0);
    }
    KM_TRY(km_alloc((void **)&run->block, km_model_ctx(g->model), (size_t)bytes, err));
    float *next = run->block;
    for (int i = 0; i < n_parts; i++) {
        *parts[i].where = next;
        next += (int64_t)parts[i].floats;
    }
    return KM_OK;
}

static km_status allocate(circuit_run *run, km_error *err) {
    km_ctx *ctx = km_model_ctx(run->graph.model);
    const int64_t sequences = run->batch > 2 ? run->batch : 2;
    const int64_t tokens = sequences * run->task->n;
    const int64_t forward_reads = 2 + 2 * (int64_t)run->graph.config->n_layers;
    const int64_t n_reads =
        forward_reads > run->graph.n_targets ? forward_reads : run->graph.n_targets;
    KM_TRY(allocate_floats(run, err));
    KM_TRY(km_alloc_array((void **)&run->ids, ctx, tokens, sizeof *run->ids, err));
    KM_TRY(km_alloc_array((void **)&run->parent, ctx, tokens, sizeof *run->parent, err));
    KM_TRY(km_alloc_array((void **)&run->rows, ctx, sequences, sizeof *run->rows, err));
    KM_TRY(km_alloc_array((void **)&run->reads, ctx, n_reads, sizeof *run->reads, err));
    KM_TRY(km_alloc_array((void **)&run->targets, ctx, 2 * sequences, sizeof *run->targets, err));
    KM_TRY(km_alloc_array((void **)&run->losses, ctx, sequences, sizeof *run->losses, err));
    return km_alloc_array((void **)&run->edges, ctx, km_circuit_edges(run->graph.model),
                          sizeof *run->edges, err);
}

static void clear(circuit_run *run) {
    km_ctx *ctx = km_model_ctx(run->graph.model);
    km_free(ctx, run->edges);
    km_free(ctx, run->losses);
    km_free(ctx, run->targets);
    km_free(ctx, run->reads);
    km_free(ctx, run->rows);
    km_free(ctx, run->parent);
    km_free(ctx, run->ids);
    km_free(ctx, run->block);
}

/* ---- what the sources write ---- */

/* `count` sequences side by side, the first of the given tokens, the others of `others`. */
static km_tree lay_out(circuit_run *run, const int32_t *first, const int32_t *others,
                       int64_t count) {
    const int64_t n = run->task->n;
    for (int64_t s = 0; s < count; s++) {
        memcpy(run->ids + s * n, s == 0 ? first : others, (size_t)n * sizeof *run->ids);
        for (int64_t i = 0; i < n; i++) {
            run->parent[s * n + i] = i == 0 ? -1 : s * n + i - 1;
        }
        run->rows[s] = s * n + n - 1;
    }
    return (km_tree){run->ids, run->parent, count * n};
}

static km_status read_sources(circuit_run *run, km_error *err) {
    const km__graph *g = &run->graph;
    const int64_t n = run->task->n;
    km_read *next = run->reads;
    *next++ = (km_read){KM_POINT_EMBED, 0, -1, NULL, 0, run->embed};
    *next++ = (km_read){KM_POINT_RESID_PRE, 0, -1, NULL, 0, run->stream};
    for (int32_t l = 0; l < g->config->n_layers; l++) {
        *next++ = (km_read){g->blocks ? KM_POINT_ATTN_OUT : KM_POINT_ATTN_HEAD_OUT,
                            l,
                            -1,
                            NULL,
                            0,
                            run->z + l * 2 * n * g->z_width};
        *next++ = (km_read){KM_POINT_MLP_OUT, l, -1, NULL, 0, run->mlp + l * 2 * n * g->width};
    }
    km_forward_request request = {.reads = run->reads, .n_reads = next - run->reads};
    request.tree = lay_out(run, run->task->clean, run->task->corrupted, 2);
    return km_model_forward(g->model, &request, err);
}

/* to = the second half of both less the first; to may be the first half. */
static void subtract(float *to, const float *both, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        to[i] = both[n + i] - both[i];
    }
}

static km_status find_deltas(circuit_run *run, km_error *err) {
    const km__graph *g = &run->graph;
    const int64_t n = run->task->n, row = n * g->width, z_row = n * g->z_width;
    subtract(run->delta, run->stream, row);
    for (int64_t l = 0; l < g->config->n_layers; l++) {
        float *z = run->z + 2 * l * z_row;
        float *out = run->delta + km__graph_attention(g, l) * row;
        subtract(run->delta + km__graph_mlp(g, l) * row, run->mlp + 2 * l * row, row);
        if (g->blocks) {
            subtract(out, z, row);
        } else {
            subtract(z, z, z_row);
            KM_TRY(km__circuit_heads(out, run->spread, g, l, z, n, err));
        }
    }
    return KM_OK;
}

/* ---- derivatives along the path ---- */

/* Embeddings of steps first+1 .. first+count of the path. */
static void fill_path(const circuit_run *run, int64_t first, int64_t count) {
    const int64_t n = run->task->n * run->graph.width;
    const float *clean = run->embed, *corrupted = run->embed + n;
    for (int64_t s = 0; s < count; s++) {
        const double share = (double)(first + s + 1) / (double)run->options.steps;
        for (int64_t i = 0; i < n; i++) {
            const double from = (double)corrupted[i];
            run->path[s * n + i] = (float)(from + share * ((double)clean[i] - from));
        }
    }
}

static void list_gradients(circuit_run *run, int64_t count) {
    const km__graph *g = &run->graph;
    const int64_t floats = count * run->task->n * g->width;
    for (int64_t t = 0; t < g->n_targets; t++) {
        const km__graph_place place = km__graph_target_place(g, t);
        const bool logits = place.point == KM_POINT_LOGITS;
        run->reads[t] = (km_read){logits ? KM_POINT_RESID_POST : place.point,
                                  (int32_t)(logits ? place.layer - 1 : place.layer),
                                  (int32_t)place.head,
                                  NULL,
                                  0,
                                  run->slopes + t * floats};
    }
}

static void add_slopes(const circuit_run *run, int64_t count) {
    const int64_t n = run->task->n * run->graph.width;
    for (int64_t t = 0; t < run->graph.n_targets; t++) {
        for (int64_t s = 0; s < count; s++) {
            const float *slopes = run->slopes + (t * count + s) * n;
            for (int64_t i = 0; i < n; i++) {
                run->total[t * n + i] += slopes[i];
            }
        }
    }
}

static km_status run_steps(circuit_run *run, int64_t first, int64_t count, km_error *err) {
    const int64_t n = run->task->n, d = run->graph.width;
    km_target_loss loss = {run->graph.model, KM_TARGET_LOGIT, run->targets, 2 * count, run->losses};
    const km_patch patch = {.kind = KM_PATCH_SET,
                            .point = KM_POINT_EMBED,
                            .head = -1,
                            .values = run->path,
                            .value_stride = d,
                            .n_nodes = count * n};
    km_gradient_request request = {.loss = km_target_loss_row, .payload = &loss};
    for (int64_t s = 0; s < count; s++) {
        run->targets[2 * s] = (km_target){s, run->task->good, -1.0};
        run->targets[2 * s + 1] = (km_target){s, run->task->bad, 1.0};
    }
    fill_path(run, first, count);
    list_gradients(run, count);
    request.forward.tree = lay_out(run, run->task->clean, run->task->clean, count);
    request.forward.rows = run->rows;
    request.forward.n_rows = count;
    request.forward.patches = &patch;
    request.forward.n_patches = 1;
    request.gradients = run->reads;
    request.n_gradients = run->graph.n_targets;
    KM_TRY(km_model_gradients(run->graph.model, &request, err));
    add_slopes(run, count);
    return KM_OK;
}

static km_status run_path(circuit_run *run, km_tick_fn tick_fn, void *payload, km_error *err) {
    const int64_t n = run->graph.n_targets * run->task->n * run->graph.width;
    km_tick tick;
    km_tick_init(&tick, km_model_ctx(run->graph.model), tick_fn, payload, run->options.steps);
    memset(run->total, 0, (size_t)n * sizeof *run->total);
    for (int64_t first = 0; first < run->options.steps; first += run->batch) {
        const int64_t left = run->options.steps - first;
        const int64_t count = left < run->batch ? left : run->batch;
        KM_TRY(run_steps(run, first, count, err));
        KM_TRY(km_tick_update(&tick, first + count, err));
    }
    return KM_OK;
}

/* ---- scores ---- */

static km_status score_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const circuit_run *run = payload;
    const km__graph *g = &run->graph;
    const km_kernels *kernels = km_ctx_kernels(km_model_ctx(g->model));
    const int64_t n = run->task->n * g->width;
    int64_t next = 0;
    for (int64_t t = 0; t < end; t++) {
        for (int64_t s = 0; s < km__graph_reach(g, t); s++, next++) {
            if (t >= begin) {
                const float dot = kernels->dot(run->delta + s * n, run->total + t * n, n);
                const double score = (double)dot / run->options.steps;
                run->edges[next] = (edge){score, (int32_t)s, (int32_t)t};
            }
        }
    }
    return KM_OK;
}

static int compare_edges(const void *a, const void *b) {
    const edge *x = a, *y = b;
    const double p = fabs(x->score), q = fabs(y->score);
    if (p != q) {
        return p > q ? -1 : 1;
    }
    return x->target != y->target ? (x->target > y->target) - (x->target < y->target)
                                  : (x->source > y->source) - (x->source < y->source);
}

/* ---- dead nodes ---- */

/* Whether attention source `head` of a layer (a block: every one) is fed by the target. */
static bool feeds(const km__graph *g, const km__graph_place *target, int64_t head) {
    const int64_t group = g->config->n_heads / g->config->n_kv_heads;
    if (g->blocks) {
        return true;
    }
    return target->point == KM_POINT_Q_INPUT ? target->head == head : target->head == head / group;
}

/* For each source whether some edge reaches it, for each target whether it reaches some edge. */
static void mark(const circuit_run *run, bool *reached, bool *useful) {
    const km__graph *g = &run->graph;
    bool *read = useful + g->n_targets, *written = reached + g->n_sources;
    memset(read, 0, (size_t)g->n_targets);
    memset(written, 0, (size_t)g->n_sources);
    for (int64_t i = 0; i < run->n_edges; i++) {
        read[run->edges[i].target] = true;
        written[run->edges[i].source] = true;
    }
    memset(reached, 0, (size_t)g->n_sources);
    memset(useful, 0, (size_t)g->n_targets);
    reached[0] = useful[g->n_targets - 1] = true;
    for (int64_t t = 0; t < g->n_targets - 1; t++) {
        const km__graph_place place = km__graph_target_place(g, t);
        const bool mlp = place.point == KM_POINT_MLP_INPUT;
        const int64_t first =
            mlp ? km__graph_mlp(g, place.layer) : km__graph_attention(g, place.layer);
        for (int64_t h = 0; h < (mlp ? 1 : g->writers); h++) {
            if (mlp || feeds(g, &place, h)) {
                reached[first + h] = reached[first + h] || read[t];
                useful[t] = useful[t] || written[first + h];
            }
        }
    }
}

static km_status prune(circuit_run *run, km_error *err) {
    km_ctx *ctx = km_model_ctx(run->graph.model);
    const int64_t sources = run->graph.n_sources, targets = run->graph.n_targets;
    bool *flags = NULL;
    KM_TRY(km_alloc_array((void **)&flags, ctx, 2 * (sources + targets), sizeof *flags, err));
    bool *reached = flags, *useful = flags + 2 * sources;
    for (int64_t before = -1; before != run->n_edges;) {
        before = run->n_edges;
        mark(run, reached, useful);
        run->n_edges = 0;
        for (int64_t i = 0; i < before; i++) {
            if (reached[run->edges[i].source] && useful[run->edges[i].target]) {
                run->edges[run->n_edges++] = run->edges[i];
            }
        }
    }
    km_free(ctx, flags);
    return KM_OK;
}

/* ---- the table ---- */

static const char *kind_of(km_point point) {
    switch (point) {
    case KM_POINT_Q_INPUT:
        return "q";
    case KM_POINT_K_INPUT:
        return "k";
    case KM_POINT_V_INPUT:
        return "v";
    case KM_POINT_MLP_INPUT:
        return "mlp";
    default:
        return "logits";
    }
}

static void name_source(char out[48], const km__graph_place *place) {
    const char letter = place->point == KM_POINT_MLP_OUT ? 'm' : 'a';
    if (place->layer < 0) {
        (void)snprintf(out, 48, "input");
    } else if (place->head < 0) {
        (void)snprintf(out, 48, "%c%lld", letter, (long long)place->layer);
    } else {
        (void)snprintf(out, 48, "a%lld.h%lld", (long long)place->layer, (long long)place->head);
    }
}

/* KV heads that several query heads share are no heads of their own. */
static void name_target(char out[48], const km__graph *g, const km__graph_place *place) {
    const bool shared =
        place->point != KM_POINT_Q_INPUT && g->config->n_kv_heads != g->config->n_heads;
    if (place->point == KM_POINT_LOGITS) {
        (void)snprintf(out, 48, "logits");
    } else if (place->point == KM_POINT_MLP_INPUT) {
        (void)snprintf(out, 48, "m%lld", (long long)place->layer);
    } else {
        (void)snprintf(out, 48, "a%lld.%s%lld", (long long)place->layer, shared ? "kv" : "h",
                       (long long)place->head);
    }
}

static km_status write_edge(km_table *table, const km__graph *g, const edge *e, km_error *err) {
    const km__graph_place source = km__graph_source_place(g, e->source);
    const km__graph_place target = km__graph_target_place(g, e->target);
    char from[48], to[48];
    name_source(from, &source);
    name_target(to, g, &target);
    KM_TRY(km_table_add_row(table, err));
    KM_TRY(km_table_set_text(table, SOURCE, from, -1, err));
    KM_TRY(km_table_set_text(table, TARGET, to, -1, err));
    KM_TRY(km_table_set_text(table, KIND, kind_of(target.point), -1, err));
    KM_TRY(km_table_set_double(table, SCORE, e->score, err));
    KM_TRY(km_table_set_int64(table, SOURCE_ID, e->source, err));
    KM_TRY(km_table_set_int64(table, TARGET_ID, e->target, err));
    if (source.layer >= 0) {
        KM_TRY(km_table_set_int64(table, SOURCE_LAYER, source.layer, err));
    }
    if (target.point != KM_POINT_LOGITS) {
        KM_TRY(km_table_set_int64(table, TARGET_LAYER, target.layer, err));
    }
    return target.head < 0 ? KM_OK : km_table_set_int64(table, TARGET_HEAD, target.head, err);
}

static km_status write_table(km_table **out, const circuit_run *run, km_error *err) {
    km_status status = KM_OK;
    km_table *table = NULL;
    KM_GO(km_table_new(&table, km_model_ctx(run->graph.model), COLUMNS, N_COLUMNS, err));
    for (int64_t i = 0; i < run->n_edges; i++) {
        KM_GO(write_edge(table, &run->graph, &run->edges[i], err));
    }
    *out = table;
    table = NULL;
done:
    km_table_free(table);
    return status;
}

static km_status check_options(const km_circuit_options *options, km_error *err) {
    if (options->steps < 1 || options->steps > MOST_STEPS || options->top < 0) {
        return KM_SET(err, KM_EINVAL, "steps %d must be in [1, %d], top %lld not negative",
                      options->steps, MOST_STEPS, (long long)options->top);
    }
    return KM_OK;
}

km_status km_circuit_run(km_table **out, const km_model *model, const km_circuit_task *task,
                         const km_circuit_options *options, km_tick_fn tick, void *payload,
                         km_error *err) {
    const km_circuit_options defaults = KM_CIRCUIT_OPTIONS_INIT;
    km_status status = KM_OK;
    circuit_run run = {.graph = km__graph_of(model), .task = task};
    run.options = options == NULL ? defaults : *options;
    *out = NULL;
    KM_TRY(km__circuit_check(&run.graph, task, err));
    KM_TRY(check_options(&run.options, err));
    run.batch = task->n > PASS_TOKENS ? 1 : PASS_TOKENS / task->n;
    run.batch = run.batch < run.options.steps ? run.batch : run.options.steps;
    KM_GO(allocate(&run, err));
    KM_GO(read_sources(&run, err));
    KM_GO(find_deltas(&run, err));
    KM_GO(run_path(&run, tick, payload, err));
    run.n_edges = km_circuit_edges(model);
    KM_GO(km_parallel_for(km_model_ctx(model), run.graph.n_targets, 8, score_range, &run, err));
    qsort(run.edges, (size_t)run.n_edges, sizeof *run.edges, compare_edges);
    if (run.options.top > 0 && run.options.top < run.n_edges) {
        run.n_edges = run.options.top;
        KM_GO(prune(&run, err));
    }
    KM_GO(write_table(out, &run, err));
done:
    clear(&run);
    return status;
}
