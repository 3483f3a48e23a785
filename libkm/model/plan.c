/* plan.c: check a tree of tokens and cut it into runs.
 *
 * A segment is a maximal chain of neighbours in memory (parent[i] == i-1). The ancestors of a node
 * are then a few contiguous ranges, found by walking from segment to segment, and its position is
 * its depth. Runs are pieces of segments, short enough for one attention block. With a session,
 * depths and segments of earlier nodes are kept there, so that planning a step costs what the step
 * adds.
 */
#include <string.h>

#include "model/forward_private.h"

/* Points a layer has before its rows are picked: they exist for every token in each layer. */
#define OF_ALL_TOKENS                                                                              \
    (UINT32_C(1) << KM_POINT_RESID_PRE | UINT32_C(1) << KM_POINT_K | UINT32_C(1) << KM_POINT_V |   \
     UINT32_C(1) << KM_POINT_K_INPUT | UINT32_C(1) << KM_POINT_V_INPUT)

/* ---- checking ---- */

static km_status check_tree(const km_tree *tree, int64_t base, const km_config *config,
                            km_error *err) {
    if (tree->n < 0 || tree->n > INT32_MAX ||
        (tree->n > 0 && (tree->ids == NULL || tree->parent == NULL))) {
        return KM_SET(err, KM_EINVAL, "a tree of %lld tokens without ids or parents",
                      (long long)tree->n);
    }
    for (int64_t i = 0; i < tree->n; i++) {
        if (tree->ids[i] < 0 || tree->ids[i] >= config->vocab_size) {
            return KM_SET(err, KM_ERANGE, "token %lld has id %d; the vocabulary is 0 to %d",
                          (long long)i, tree->ids[i], config->vocab_size - 1);
        }
        if (tree->parent[i] < -1 || tree->parent[i] >= base + i) {
            return KM_SET(err, KM_EINVAL, "token %lld has parent %lld; it must come before it",
                          (long long)i, (long long)tree->parent[i]);
        }
    }
    return KM_OK;
}

static km_status check_rows(const int64_t *rows, int64_t n_rows, int64_t n, const char *what,
                            km_error *err) {
    if (n_rows < 0 || (n_rows > 0 && rows == NULL)) {
        return KM_SET(err, KM_EINVAL, "%lld %s", (long long)n_rows, what);
    }
    for (int64_t i = 0; i < n_rows; i++) {
        if (rows[i] < 0 || rows[i] >= n) {
            return KM_SET(err, KM_EINVAL, "%s[%lld] is %lld; the tree has %lld tokens", what,
                          (long long)i, (long long)rows[i], (long long)n);
        }
    }
    return KM_OK;
}

static km_status check_request(const km_forward_request *request, int64_t base,
                               const km_config *config, km_error *err) {
    KM_TRY(check_tree(&request->tree, base, config, err));
    KM_TRY(check_rows(request->rows, request->n_rows, request->tree.n, "rows", err));
    KM_TRY(check_rows(request->lens_rows, request->n_lens_rows, request->tree.n, "lens_rows", err));
    if (request->on_logits == NULL && (request->n_rows > 0 || request->n_lens_rows > 0)) {
        return KM_SET(err, KM_EINVAL, "rows are wanted but on_logits is NULL");
    }
    return KM_OK;
}

/* ---- depths and segments ---- */

static km_status find_depths(km__plan *plan, const km_tree *tree, int32_t context_length,
                             km_error *err) {
    plan->first_position = INT32_MAX;
    for (int64_t i = 0; i < tree->n; i++) {
        const int64_t node = plan->base + i, parent = tree->parent[i];
        const int32_t depth = parent < 0 ? 0 : plan->depth[parent] + 1;
        plan->depth[node] = depth;
        plan->segment_start[node] =
            parent >= 0 && parent == node - 1 ? plan->segment_start[parent] : node;
        if (depth >= context_length) {
            return KM_SET(err, KM_ERANGE,
                          "token %lld is at position %d; the model's context is %d tokens",
                          (long long)i, depth, context_length);
        }
        plan->n_positions = depth >= plan->n_positions ? depth + 1 : plan->n_positions;
        plan->first_position = depth < plan->first_position ? depth : plan->first_position;
    }
    return KM_OK;
}

static km_status use_session(km__plan *plan, km_session *session, const km_tree *tree,
                             km_error *err) {
    if (tree->n > session->capacity - session->length) {
        return KM_SET(err, KM_ERANGE,
                      "%lld tokens more than the %lld a session of %lld already holds do not fit",
                      (long long)tree->n, (long long)session->length, (long long)session->capacity);
    }
    if (tree->n > 0) {
        memcpy(session->parent + session->length, tree->parent,
               (size_t)tree->n * sizeof *session->parent);
    }
    plan->parent = session->parent;
    plan->depth = session->depth;
    plan->segment_start = session->segment_start;
    plan->borrowed = true;
    return KM_OK;
}

km_status km__plan_init(km__plan *plan, const km_model *model, const km_forward_request *request,
                        km_error *err) {
    const km_tree *tree = &request->tree;
    memset(plan, 0, sizeof *plan);
    plan->tree = tree;
    plan->base = request->session == NULL ? 0 : request->session->length;
    KM_TRY(check_request(request, plan->base, &model->config, err));
    if (request->session != NULL) {
        KM_TRY(use_session(plan, request->session, tree, err));
    } else {
        plan->parent = tree->parent;
        KM_TRY(
            km_alloc_array((void **)&plan->depth, model->ctx, tree->n, sizeof *plan->depth, err));
        KM_TRY(km_alloc_array((void **)&plan->segment_start, model->ctx, tree->n,
                              sizeof *plan->segment_start, err));
    }
    return find_depths(plan, tree, model->config.context_length, err);
}

/* ---- who needs what ---- */

static bool has_visitor(const km_forward_request *request) {
    return request->visit != NULL && request->visit_points != 0;
}

static int32_t count_layers(const km_forward_request *request, int32_t all) {
    int32_t most = 0;
    if (request->session != NULL || request->n_rows > 0 || request->n_lens_rows > 0 ||
        has_visitor(request)) {
        return all;
    }
    for (int64_t i = 0; i < request->n_reads; i++) {
        const km_point point = request->reads[i].point;
        const int32_t layers = km_point_has_layer(point) ? request->reads[i].layer + 1
                               : point == KM_POINT_EMBED ? 0
                                                         : all;
        most = layers > most ? layers : most;
    }
    return most;
}

static void mark(km__plan *plan, const int64_t *nodes, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        plan->row_of[nodes == NULL ? i : nodes[i]] = 0;
    }
}

/* Whether a read wants rows of the last layer that is run, or of what follows it. */
static bool reads_last_rows(const km__plan *plan, const km_read *read) {
    if (!km_point_has_layer(read->point)) {
        return read->point != KM_POINT_EMBED;
    }
    return read->layer == plan->n_layers - 1 && (OF_ALL_TOKENS >> read->point & 1) == 0;
}

static void find_needed(km__plan *plan, const km_forward_request *request) {
    const int64_t n = plan->tree->n;
    memset(plan->row_of, 0xff, (size_t)n * sizeof *plan->row_of); /* all -1 */
    mark(plan, request->rows, request->n_rows);
    mark(plan, request->lens_rows, request->n_lens_rows);
    if (has_visitor(request)) {
        mark(plan, NULL, n);
    }
    for (int64_t i = 0; i < request->n_reads; i++) {
        const km_read *read = &request->reads[i];
        if (reads_last_rows(plan, read)) {
            mark(plan, read->nodes, read->nodes == NULL ? n : read->n_nodes);
        }
    }
    for (int64_t i = 0; i < n; i++) {
        if (plan->row_of[i] == 0) {
            plan->row_of[i] = plan->n_needed;
            plan->needed[plan->n_needed++] = i;
        }
    }
}

/* Queries a run may have. */
static int64_t choose_run_max(const km_config *config, int32_t n_positions) {
    const int64_t group = config->n_heads / config->n_kv_heads;
    const int64_t fit = KM_RUN_SCORES / (group * (n_positions > 0 ? n_positions : 1));
    return fit < KM_LEAST_RUN ? KM_LEAST_RUN : fit > KM_MOST_RUN ? KM_MOST_RUN : fit;
}

/* Cut `tokens` (NULL: 0..n-1), rising, into runs of neighbours of one segment. */
static int64_t cut_runs(km__run *runs, const km__plan *plan, const int64_t *tokens, int64_t n) {
    int64_t n_runs = 0;
    for (int64_t row = 0; row < n; row++) {
        const int64_t node = plan->base + (tokens == NULL ? row : tokens[row]);
        km__run *last = n_runs > 0 ? &runs[n_runs - 1] : NULL;
        if (last != NULL && node == last->node + last->count && last->count < plan->run_max &&
            plan->segment_start[node] == plan->segment_start[last->node]) {
            last->count++;
        } else {
            runs[n_runs++] = (km__run){node, 1, row};
        }
    }
    return n_runs;
}

km_status km__plan_need(km__plan *plan, const km_model *model, const km_forward_request *request,
                        km_error *err) {
    const int64_t n = plan->tree->n;
    km_ctx *ctx = model->ctx;
    KM_TRY(km_alloc_array((void **)&plan->needed, ctx, n, sizeof *plan->needed, err));
    KM_TRY(km_alloc_array((void **)&plan->row_of, ctx, n, sizeof *plan->row_of, err));
    KM_TRY(km_alloc_array((void **)&plan->runs, ctx, n, sizeof *plan->runs, err));
    KM_TRY(km_alloc_array((void **)&plan->last_runs, ctx, n, sizeof *plan->last_runs, err));
    plan->n_layers = count_layers(request, model->config.n_layers);
    plan->run_max = choose_run_max(&model->config, plan->n_positions);
    plan->run_max = n > 0 && n < plan->run_max ? n : plan->run_max;
    plan->wanted = n > 0 && (plan->n_layers > 0 || request->n_reads > 0);
    find_needed(plan, request);
    plan->n_runs = cut_runs(plan->runs, plan, NULL, n);
    plan->n_last_runs = cut_runs(plan->last_runs, plan, plan->needed, plan->n_needed);
    return KM_OK;
}

int64_t km__plan_ranges(km__range *out, const km__plan *plan, int64_t last, int64_t low) {
    int64_t n = 0;
    while (last >= 0 && plan->depth[last] >= low) {
        int64_t first = plan->segment_start[last];
        const int64_t parent = plan->parent[first];
        if (plan->depth[first] < low) {
            first += low - plan->depth[first];
        }
        out[n++] = (km__range){first, last - first + 1, plan->depth[first]};
        last = parent;
    }
    return n;
}

km__rows km__plan_rows(const km__plan *plan, int32_t layer) {
    if (layer < plan->n_layers - 1 || plan->n_needed == plan->tree->n) {
        return (km__rows){plan->tree->n, NULL, NULL};
    }
    return (km__rows){plan->n_needed, plan->needed, plan->row_of};
}

void km__plan_clear(km__plan *plan, km_ctx *ctx) {
    if (!plan->borrowed) {
        km_free(ctx, plan->depth);
        km_free(ctx, plan->segment_start);
    }
    km_free(ctx, plan->needed);
    km_free(ctx, plan->row_of);
    km_free(ctx, plan->runs);
    km_free(ctx, plan->last_runs);
    memset(plan, 0, sizeof *plan);
}
