/* plan.c: check a tree of tokens and cut it into runs.
 *
 * A segment is a maximal chain of neighbours in memory (parent[i] == i-1). The ancestors of a node
 * are then a few contiguous ranges, found by walking from segment to segment, and its position is
 * its depth. Runs are pieces of segments, short enough for one attention block.
 */
#include <string.h>

#include "model/forward_private.h"

static km_status check_tree(const km_tree *tree, const km_config *config, km_error *err) {
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
        if (tree->parent[i] < -1 || tree->parent[i] >= i) {
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

static km_status check_request(const km_forward_request *request, const km_config *config,
                               km_error *err) {
    KM_TRY(check_tree(&request->tree, config, err));
    KM_TRY(check_rows(request->rows, request->n_rows, request->tree.n, "rows", err));
    KM_TRY(check_rows(request->lens_rows, request->n_lens_rows, request->tree.n, "lens_rows", err));
    if (request->on_logits == NULL && (request->n_rows > 0 || request->n_lens_rows > 0)) {
        return KM_SET(err, KM_EINVAL, "rows are wanted but on_logits is NULL");
    }
    return KM_OK;
}

static km_status find_depths(km__plan *plan, int32_t context_length, km_error *err) {
    const int64_t *parent = plan->tree->parent;
    for (int64_t i = 0; i < plan->tree->n; i++) {
        plan->depth[i] = parent[i] < 0 ? 0 : plan->depth[parent[i]] + 1;
        plan->segment_start[i] = i > 0 && parent[i] == i - 1 ? plan->segment_start[i - 1] : i;
        if (plan->depth[i] >= context_length) {
            return KM_SET(err, KM_ERANGE,
                          "token %lld is at position %d; the model's context is %d tokens",
                          (long long)i, plan->depth[i], context_length);
        }
        if (plan->depth[i] >= plan->n_positions) {
            plan->n_positions = plan->depth[i] + 1;
        }
    }
    return KM_OK;
}

static void find_needed(km__plan *plan, const km_forward_request *request) {
    const int64_t n = plan->tree->n;
    memset(plan->row_of, 0xff, (size_t)n * sizeof *plan->row_of); /* all -1 */
    for (int64_t i = 0; i < request->n_rows; i++) {
        plan->row_of[request->rows[i]] = 0;
    }
    for (int64_t i = 0; i < request->n_lens_rows; i++) {
        plan->row_of[request->lens_rows[i]] = 0;
    }
    for (int64_t i = 0; i < n; i++) {
        if (plan->row_of[i] == 0) {
            plan->row_of[i] = plan->n_needed;
            plan->needed[plan->n_needed++] = i;
        }
    }
}

/* Cut `nodes` (NULL: 0..n-1), rising, into runs of neighbours of one segment. */
static int64_t cut_runs(km__run *runs, const km__plan *plan, const int64_t *nodes, int64_t n) {
    int64_t n_runs = 0;
    for (int64_t row = 0; row < n; row++) {
        int64_t node = nodes == NULL ? row : nodes[row];
        km__run *last = n_runs > 0 ? &runs[n_runs - 1] : NULL;
        if (last != NULL && node == last->node + last->count && last->count < KM_RUN_MAX &&
            plan->segment_start[node] == plan->segment_start[last->node]) {
            last->count++;
        } else {
            runs[n_runs++] = (km__run){node, 1, row};
        }
    }
    return n_runs;
}

static km_status allocate(km__plan *plan, km_ctx *ctx, int64_t n, km_error *err) {
    KM_TRY(km_alloc_array((void **)&plan->depth, ctx, n, sizeof *plan->depth, err));
    KM_TRY(km_alloc_array((void **)&plan->segment_start, ctx, n, sizeof *plan->segment_start, err));
    KM_TRY(km_alloc_array((void **)&plan->needed, ctx, n, sizeof *plan->needed, err));
    KM_TRY(km_alloc_array((void **)&plan->row_of, ctx, n, sizeof *plan->row_of, err));
    KM_TRY(km_alloc_array((void **)&plan->runs, ctx, n, sizeof *plan->runs, err));
    KM_TRY(km_alloc_array((void **)&plan->last_runs, ctx, n, sizeof *plan->last_runs, err));
    return KM_OK;
}

km_status km__plan_init(km__plan *plan, const km_model *model, const km_forward_request *request,
                        km_error *err) {
    memset(plan, 0, sizeof *plan);
    plan->tree = &request->tree;
    KM_TRY(check_request(request, &model->config, err));
    KM_TRY(allocate(plan, model->ctx, plan->tree->n, err));
    KM_TRY(find_depths(plan, model->config.context_length, err));
    find_needed(plan, request);
    plan->n_runs = cut_runs(plan->runs, plan, NULL, plan->tree->n);
    plan->n_last_runs = cut_runs(plan->last_runs, plan, plan->needed, plan->n_needed);
    return KM_OK;
}

void km__plan_clear(km__plan *plan, km_ctx *ctx) {
    km_free(ctx, plan->depth);
    km_free(ctx, plan->segment_start);
    km_free(ctx, plan->needed);
    km_free(ctx, plan->row_of);
    km_free(ctx, plan->runs);
    km_free(ctx, plan->last_runs);
    memset(plan, 0, sizeof *plan);
}
