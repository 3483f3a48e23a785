/* patch.c: the doors of a forward pass: reads, patches and visits at named points.
 *
 * Reads and patches are sorted by layer and point once; a point nobody asked for costs the test of
 * one bit. Points of rows are passed on the calling thread; those that exist only inside a worker
 * (attention scores and patterns, logits) are found by token through sorted lists.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/forward_private.h"

/* Points that exist only inside a worker; these are not visited. */
#define IN_WORKERS                                                                                 \
    (UINT32_C(1) << KM_POINT_ATTN_SCORES | UINT32_C(1) << KM_POINT_ATTN_PATTERN |                  \
     UINT32_C(1) << KM_POINT_LOGITS)

/* Token of place `index` in a read's or patch's list of nodes. */
typedef struct km__node_entry {
    int64_t token, index;
} node_entry;

/* ---- checking ---- */

static bool is_attention(km_point point) {
    return point == KM_POINT_ATTN_SCORES || point == KM_POINT_ATTN_PATTERN;
}

static bool is_split(km_point point) {
    return point == KM_POINT_Q_INPUT || point == KM_POINT_K_INPUT || point == KM_POINT_V_INPUT ||
           point == KM_POINT_MLP_INPUT;
}

static km_status check_place(const char *what, int64_t i, km_point point, int32_t layer,
                             int32_t head, const km_config *config, km_error *err) {
    if (!km_point_exists(point, config)) {
        const char *name = km_point_name(point);
        return KM_SET(err, KM_EINVAL, "%s %lld: %s is no point of a %s model", what, (long long)i,
                      name == NULL ? "this" : name, config->arch);
    }
    if (km_point_has_layer(point) && (layer < 0 || layer >= config->n_layers)) {
        return KM_SET(err, KM_EINVAL, "%s %lld: %s of layer %d; layers are 0 to %d", what,
                      (long long)i, km_point_name(point), layer, config->n_layers - 1);
    }
    if (head < -1 || head >= km_point_heads(point, config)) {
        return KM_SET(err, KM_EINVAL, "%s %lld: %s of head %d; heads are 0 to %d, or -1 for all",
                      what, (long long)i, km_point_name(point), head,
                      (int)km_point_heads(point, config) - 1);
    }
    return KM_OK;
}

static km_status check_nodes(const char *what, int64_t i, const int64_t *nodes, int64_t n_nodes,
                             int64_t n, km_error *err) {
    if (nodes != NULL && n_nodes < 0) {
        return KM_SET(err, KM_EINVAL, "%s %lld: %lld nodes", what, (long long)i,
                      (long long)n_nodes);
    }
    for (int64_t k = 0; nodes != NULL && k < n_nodes; k++) {
        if (nodes[k] < 0 || nodes[k] >= n) {
            return KM_SET(err, KM_EINVAL, "%s %lld: nodes[%lld] is %lld; the tree has %lld tokens",
                          what, (long long)i, (long long)k, (long long)nodes[k], (long long)n);
        }
    }
    return KM_OK;
}

static bool is_patched(const km_forward_request *request, km_point point, int32_t layer) {
    for (int64_t i = 0; i < request->n_patches; i++) {
        if (request->patches[i].point == point && request->patches[i].layer == layer) {
            return true;
        }
    }
    return request->visit != NULL && (request->visit_points >> point & 1) != 0;
}

static km_status check_read(const km_forward_request *request, int64_t i, const km_config *config,
                            km_error *err) {
    const km_read *read = &request->reads[i];
    KM_TRY(check_place("read", i, read->point, read->layer, read->head, config, err));
    KM_TRY(check_nodes("read", i, read->nodes, read->n_nodes, request->tree.n, err));
    if (read->out == NULL) {
        return KM_SET(err, KM_EINVAL, "read %lld: no place for the values", (long long)i);
    }
    if (is_split(read->point) && !is_patched(request, read->point, read->layer)) {
        return KM_SET(err, KM_EINVAL,
                      "read %lld: %s of layer %d is the residual stream itself where nothing "
                      "changes it; read %s",
                      (long long)i, km_point_name(read->point), read->layer,
                      read->point == KM_POINT_MLP_INPUT && !config->parallel_residual
                          ? "resid_mid"
                          : "resid_pre");
    }
    return KM_OK;
}

/* Squared length of one direction of a patch that projects out. */
static double squared_length(const float *values, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)values[i] * (double)values[i];
    }
    return sum;
}

static km_status check_directions(const km_patch *patch, int64_t i, int64_t n, int64_t heads,
                                  int64_t width, km_error *err) {
    const int64_t n_nodes = patch->value_stride == 0 ? n > 0 : patch->nodes ? patch->n_nodes : n;
    const int64_t n_rows = patch->head >= 0 || patch->same_for_heads ? 1 : heads;
    for (int64_t k = 0; k < n_nodes * n_rows; k++) {
        const float *values = patch->values + k / n_rows * patch->value_stride + k % n_rows * width;
        if (!(squared_length(values, width) > 0.0)) {
            return KM_SET(err, KM_EINVAL,
                          "patch %lld: the direction to project out of %s has length 0",
                          (long long)i, km_point_name(patch->point));
        }
    }
    return KM_OK;
}

static km_status check_patch(const km_forward_request *request, int64_t i, int64_t n_positions,
                             const km_config *config, km_error *err) {
    const km_patch *patch = &request->patches[i];
    KM_TRY(check_place("patch", i, patch->point, patch->layer, patch->head, config, err));
    KM_TRY(check_nodes("patch", i, patch->nodes, patch->n_nodes, request->tree.n, err));
    const int64_t width = km_point_width(patch->point, config, n_positions);
    const bool whole = patch->begin == 0 && patch->end == 0;
    if (!whole && (patch->begin < 0 || patch->begin >= patch->end || patch->end > width)) {
        return KM_SET(err, KM_EINVAL, "patch %lld: elements %lld to %lld of %s, which has %lld",
                      (long long)i, (long long)patch->begin, (long long)patch->end - 1,
                      km_point_name(patch->point), (long long)width);
    }
    if ((int)patch->kind < KM_PATCH_SET || patch->kind > KM_PATCH_PROJECT_OUT ||
        (patch->kind == KM_PATCH_PROJECT_OUT && is_attention(patch->point))) {
        return KM_SET(err, KM_EINVAL, "patch %lld: %s takes set, add and scale%s", (long long)i,
                      km_point_name(patch->point),
                      is_attention(patch->point) ? "" : " and project out");
    }
    if (patch->kind != KM_PATCH_SCALE && patch->values == NULL) {
        return KM_SET(err, KM_EINVAL, "patch %lld: no values", (long long)i);
    }
    if (patch->kind == KM_PATCH_PROJECT_OUT) {
        return check_directions(patch, i, request->tree.n, km_point_heads(patch->point, config),
                                whole ? width : patch->end - patch->begin, err);
    }
    return KM_OK;
}

/* ---- tables ---- */

static int64_t bucket_of(const km_config *config, km_point point, int32_t layer) {
    const int64_t row = km_point_has_layer(point) ? layer : config->n_layers;
    return row * KM_N_POINTS + (int64_t)point;
}

/* Counting sort: first (n_buckets + 1), order (n) indices by bucket, then in the order given. */
static void sort_by_bucket(int64_t *first, int64_t *order, int64_t n_buckets, int64_t n,
                           int64_t (*bucket)(const km_forward_request *request, int64_t i,
                                             const km_config *config),
                           const km_forward_request *request, const km_config *config) {
    for (int64_t i = 0; i < n; i++) {
        first[bucket(request, i, config) + 1]++;
    }
    for (int64_t b = 0; b < n_buckets; b++) {
        first[b + 1] += first[b];
    }
    for (int64_t i = n - 1; i >= 0; i--) { /* from the back, so that `first` ends as it began */
        int64_t b = bucket(request, i, config);
        order[--first[b + 1]] = i;
    }
    memmove(first, first + 1, (size_t)n_buckets * sizeof *first);
    first[n_buckets] = n;
}

static int64_t read_bucket(const km_forward_request *request, int64_t i, const km_config *config) {
    return bucket_of(config, request->reads[i].point, request->reads[i].layer);
}

static int64_t patch_bucket(const km_forward_request *request, int64_t i, const km_config *config) {
    return bucket_of(config, request->patches[i].point, request->patches[i].layer);
}

static int compare_entries(const void *a, const void *b) {
    const node_entry *x = a, *y = b;
    if (x->token != y->token) {
        return x->token < y->token ? -1 : 1;
    }
    return (x->index > y->index) - (x->index < y->index);
}

/* The sorted nodes of one read or patch, from `at` on; returns where the next begin. */
static int64_t add_entries(node_entry *entries, int64_t at, km_point point, const int64_t *nodes,
                           int64_t n_nodes) {
    if (nodes == NULL || (IN_WORKERS >> point & 1) == 0) {
        return at;
    }
    for (int64_t i = 0; entries != NULL && i < n_nodes; i++) {
        entries[at + i] = (node_entry){nodes[i], i};
    }
    if (entries != NULL) {
        qsort(entries + at, (size_t)n_nodes, sizeof *entries, compare_entries);
    }
    return at + n_nodes;
}

/* With entries NULL only counts. */
static int64_t list_entries(km__doors *doors, const km_forward_request *request) {
    int64_t at = 0;
    for (int64_t i = 0; i < request->n_reads; i++) {
        const km_read *read = &request->reads[i];
        doors->read_entries[i] = at;
        at = add_entries(doors->entries, at, read->point, read->nodes, read->n_nodes);
    }
    for (int64_t i = 0; i < request->n_patches; i++) {
        const km_patch *patch = &request->patches[i];
        doors->patch_entries[i] = at;
        at = add_entries(doors->entries, at, patch->point, patch->nodes, patch->n_nodes);
    }
    return at;
}

static void set_open(km__doors *doors, const km_forward_request *request, int32_t n_layers) {
    for (int64_t bucket = 0; bucket < (n_layers + 1) * (int64_t)KM_N_POINTS; bucket++) {
        if (doors->first_read[bucket] < doors->first_read[bucket + 1] ||
            doors->first_patch[bucket] < doors->first_patch[bucket + 1]) {
            doors->open[bucket / KM_N_POINTS] |= UINT32_C(1) << bucket % KM_N_POINTS;
        }
    }
    for (int32_t layer = 0; request->visit != NULL && layer <= n_layers; layer++) {
        doors->open[layer] |= request->visit_points & ~IN_WORKERS;
    }
}

static km_status make_tables(km__doors *doors, km_ctx *ctx, const km_forward_request *request,
                             const km_config *config, km_error *err) {
    const int64_t n_buckets = (config->n_layers + 1) * (int64_t)KM_N_POINTS;
    int64_t **const arrays[] = {&doors->first_read, &doors->first_patch,  &doors->reads,
                                &doors->patches,    &doors->read_entries, &doors->patch_entries};
    const int64_t sizes[] = {n_buckets + 1,      n_buckets + 1,    request->n_reads,
                             request->n_patches, request->n_reads, request->n_patches};
    for (int i = 0; i < 6; i++) {
        KM_TRY(km_alloc_array((void **)arrays[i], ctx, sizes[i], sizeof(int64_t), err));
    }
    KM_TRY(
        km_alloc_array((void **)&doors->open, ctx, config->n_layers + 1, sizeof *doors->open, err));
    sort_by_bucket(doors->first_read, doors->reads, n_buckets, request->n_reads, read_bucket,
                   request, config);
    sort_by_bucket(doors->first_patch, doors->patches, n_buckets, request->n_patches, patch_bucket,
                   request, config);
    const int64_t n_entries = list_entries(doors, request);
    KM_TRY(km_alloc_array((void **)&doors->entries, ctx, n_entries, sizeof *doors->entries, err));
    (void)list_entries(doors, request);
    set_open(doors, request, config->n_layers);
    return KM_OK;
}

km_status km__doors_init(km__doors *doors, const km_model *model, const km_forward_request *request,
                         int64_t n_positions, km_error *err) {
    const bool visits = request->visit != NULL && request->visit_points != 0;
    memset(doors, 0, sizeof *doors);
    if (request->n_reads < 0 || request->n_patches < 0 ||
        (request->n_reads > 0 && request->reads == NULL) ||
        (request->n_patches > 0 && request->patches == NULL)) {
        return KM_SET(err, KM_EINVAL, "%lld reads and %lld patches", (long long)request->n_reads,
                      (long long)request->n_patches);
    }
    for (int64_t i = 0; i < request->n_reads; i++) {
        KM_TRY(check_read(request, i, &model->config, err));
    }
    for (int64_t i = 0; i < request->n_patches; i++) {
        KM_TRY(check_patch(request, i, n_positions, &model->config, err));
    }
    if (request->n_reads == 0 && request->n_patches == 0 && !visits) {
        return KM_OK;
    }
    return make_tables(doors, model->ctx, request, &model->config, err);
}

void km__doors_clear(km__doors *doors, km_ctx *ctx) {
    km_free(ctx, doors->open);
    km_free(ctx, doors->reads);
    km_free(ctx, doors->patches);
    km_free(ctx, doors->first_read);
    km_free(ctx, doors->first_patch);
    km_free(ctx, doors->entries);
    km_free(ctx, doors->read_entries);
    km_free(ctx, doors->patch_entries);
    memset(doors, 0, sizeof *doors);
}

bool km__is_open(const km__pass *pass, km_point point, int32_t layer) {
    if (pass->doors.open == NULL) {
        return false;
    }
    const int32_t row = km_point_has_layer(point) ? layer : pass->model->config.n_layers;
    return (pass->doors.open[row] >> point & 1) != 0;
}

/* ---- changing and copying rows ---- */

static void project_out(float *a, const float *values, int64_t n) {
    double product = 0.0;
    for (int64_t i = 0; i < n; i++) {
        product += (double)values[i] * (double)a[i];
    }
    const double factor = product / squared_length(values, n);
    for (int64_t i = 0; i < n; i++) {
        a[i] = (float)((double)a[i] - factor * (double)values[i]);
    }
}

/* Elements of one head. Adding nothing leaves even the sign of a zero. */
static void change(float *a, const km_patch *patch, const float *values, int64_t n) {
    switch (patch->kind) {
    case KM_PATCH_SET:
        memcpy(a, values, (size_t)n * sizeof *a);
        break;
    case KM_PATCH_ADD:
        for (int64_t i = 0; i < n; i++) {
            const float added = patch->factor * values[i];
            a[i] = added == 0.0f ? a[i] : a[i] + added;
        }
        break;
    case KM_PATCH_SCALE:
        for (int64_t i = 0; i < n; i++) {
            a[i] *= patch->factor;
        }
        break;
    case KM_PATCH_PROJECT_OUT:
        project_out(a, values, n);
        break;
    }
}

/* Where a patch's values for head `head` of its node number `index` begin; NULL for none. */
static const float *values_of(const km_patch *patch, int64_t index, int64_t head, int64_t n) {
    if (patch->values == NULL) {
        return NULL;
    }
    const int64_t row = patch->head >= 0 || patch->same_for_heads ? 0 : head;
    return patch->values + index * patch->value_stride + row * n;
}

/* Apply one patch to a token's activation (heads, width); `index` is the place among its nodes. */
static void patch_row(const km_patch *patch, int64_t index, float *row, int64_t heads,
                      int64_t width) {
    const int64_t end = patch->end == 0 ? width : patch->end, n = end - patch->begin;
    const int64_t first = patch->head >= 0 ? patch->head : 0;
    const int64_t last = patch->head >= 0 ? patch->head : heads - 1;
    for (int64_t head = first; head <= last; head++) {
        change(row + head * width + patch->begin, patch, values_of(patch, index, head, n), n);
    }
}

static void read_row(const km_read *read, int64_t index, const float *row, int64_t heads,
                     int64_t width) {
    const int64_t n = read->head >= 0 ? width : heads * width;
    memcpy(read->out + index * n, row + (read->head >= 0 ? read->head * width : 0),
           (size_t)n * sizeof *row);
}

/* ---- points of rows ---- */

/* What a read or patch needs to find its rows. */
typedef struct row_range {
    const km__rows *set;
    int64_t first, n, heads, width;
    float *rows;
} row_range;

/* The row of token number i of a list (NULL: all tokens), or NULL when it is not in the range. */
static float *row_at(const row_range *range, const int64_t *nodes, int64_t i) {
    const int64_t token = nodes == NULL ? i : nodes[i];
    const int64_t row =
        (range->set->row_of == NULL ? token : range->set->row_of[token]) - range->first;
    return row >= 0 && row < range->n ? range->rows + row * range->heads * range->width : NULL;
}

static void apply_patches(const km__pass *pass, int64_t bucket, const row_range *range) {
    const km__doors *doors = &pass->doors;
    for (int64_t k = doors->first_patch[bucket]; k < doors->first_patch[bucket + 1]; k++) {
        const km_patch *patch = &pass->request->patches[doors->patches[k]];
        const int64_t n = patch->nodes == NULL ? pass->plan.tree->n : patch->n_nodes;
        for (int64_t i = 0; i < n; i++) {
            float *row = row_at(range, patch->nodes, i);
            if (row != NULL) {
                patch_row(patch, i, row, range->heads, range->width);
            }
        }
    }
}

static void copy_reads(const km__pass *pass, int64_t bucket, const row_range *range) {
    const km__doors *doors = &pass->doors;
    for (int64_t k = doors->first_read[bucket]; k < doors->first_read[bucket + 1]; k++) {
        const km_read *read = &pass->request->reads[doors->reads[k]];
        const int64_t n = read->nodes == NULL ? pass->plan.tree->n : read->n_nodes;
        for (int64_t i = 0; i < n; i++) {
            const float *row = row_at(range, read->nodes, i);
            if (row != NULL) {
                read_row(read, i, row, range->heads, range->width);
            }
        }
    }
}

km_status km__door(const km__pass *pass, km_point point, int32_t layer, float *rows,
                   const km__rows *set, int64_t first, int64_t n, km_error *err) {
    if (!km__is_open(pass, point, layer)) {
        return KM_OK;
    }
    const km_config *config = &pass->model->config;
    const km_forward_request *request = pass->request;
    const row_range range = {set,
                             first,
                             n,
                             km_point_heads(point, config),
                             km_point_width(point, config, pass->plan.n_positions),
                             rows};
    const int64_t bucket = bucket_of(config, point, layer);
    apply_patches(pass, bucket, &range);
    if (request->visit != NULL && (request->visit_points >> point & 1) != 0) {
        KM_TRY(request->visit(request->visit_payload, point, layer, rows,
                              set->nodes == NULL ? NULL : set->nodes + first, n, err));
    }
    copy_reads(pass, bucket, &range);
    return KM_OK;
}

km_status km__door_all(const km__pass *pass, km_point point, int32_t layer, float *rows,
                       const km__rows *set, km_error *err) {
    return km__door(pass, point, layer, rows, set, 0, set->n, err);
}

/* ---- points inside workers ---- */

/* The entries of `token` in a sorted list: *n of them. */
static const node_entry *find_entries(const node_entry *entries, int64_t n_entries, int64_t token,
                                      int64_t *n) {
    int64_t low = 0, high = n_entries;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (entries[middle].token < token) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    for (*n = 0; low + *n < n_entries && entries[low + *n].token == token;) {
        ++*n;
    }
    return entries + low;
}

/* The places of `token` in a list of nodes (NULL: all tokens): *n of them. */
static const node_entry *places_of(const node_entry *entries, const int64_t *nodes, int64_t n_nodes,
                                   int64_t token, node_entry *self, int64_t *n) {
    if (nodes != NULL) {
        return find_entries(entries, n_nodes, token, n);
    }
    *self = (node_entry){token, token};
    *n = 1;
    return self;
}

/* A row of one head as far as it is seen: seen[0] is position begin, and end - begin follow. */
static void patch_seen(const km_patch *patch, int64_t index, int64_t head, float *seen,
                       int64_t begin, int64_t end, int64_t n_positions) {
    const int64_t patch_end = patch->end == 0 ? n_positions : patch->end;
    const int64_t from = begin > patch->begin ? begin : patch->begin;
    const int64_t to = end < patch_end ? end : patch_end;
    const float *values = values_of(patch, index, head, patch_end - patch->begin);
    if (from < to) {
        change(seen + (from - begin), patch, values == NULL ? NULL : values + (from - patch->begin),
               to - from);
    }
}

static void read_seen(const km_read *read, int64_t index, int64_t head, int64_t heads,
                      const float *seen, int64_t begin, int64_t end, int64_t n_positions) {
    const float unseen = read->point == KM_POINT_ATTN_SCORES ? -INFINITY : 0.0f;
    float *out = read->out + (read->head >= 0 ? index : index * heads + head) * n_positions;
    for (int64_t i = 0; i < n_positions; i++) {
        out[i] = i >= begin && i < end ? seen[i - begin] : unseen;
    }
}

void km__door_attention(const km__pass *pass, km_point point, int32_t layer, int64_t token,
                        int64_t head, float *seen, int64_t begin, int64_t end) {
    const km__doors *doors = &pass->doors;
    const int64_t bucket = bucket_of(&pass->model->config, point, layer);
    const int64_t positions = pass->plan.n_positions, heads = pass->model->config.n_heads;
    node_entry self;
    int64_t n;
    for (int64_t k = doors->first_patch[bucket]; k < doors->first_patch[bucket + 1]; k++) {
        const km_patch *patch = &pass->request->patches[doors->patches[k]];
        const node_entry *at = places_of(doors->entries + doors->patch_entries[doors->patches[k]],
                                         patch->nodes, patch->n_nodes, token, &self, &n);
        for (int64_t i = 0; i < n && (patch->head < 0 || patch->head == head); i++) {
            patch_seen(patch, at[i].index, head, seen, begin, end, positions);
        }
    }
    for (int64_t k = doors->first_read[bucket]; k < doors->first_read[bucket + 1]; k++) {
        const km_read *read = &pass->request->reads[doors->reads[k]];
        const node_entry *at = places_of(doors->entries + doors->read_entries[doors->reads[k]],
                                         read->nodes, read->n_nodes, token, &self, &n);
        for (int64_t i = 0; i < n && (read->head < 0 || read->head == head); i++) {
            read_seen(read, at[i].index, head, heads, seen, begin, end, positions);
        }
    }
}

void km__door_logits(const km__pass *pass, int64_t token, float *row, bool read_too) {
    const km__doors *doors = &pass->doors;
    const int64_t bucket = bucket_of(&pass->model->config, KM_POINT_LOGITS, 0);
    const int64_t vocab = pass->model->config.vocab_size;
    node_entry self;
    int64_t n;
    for (int64_t k = doors->first_patch[bucket]; k < doors->first_patch[bucket + 1]; k++) {
        const km_patch *patch = &pass->request->patches[doors->patches[k]];
        const node_entry *at = places_of(doors->entries + doors->patch_entries[doors->patches[k]],
                                         patch->nodes, patch->n_nodes, token, &self, &n);
        for (int64_t i = 0; i < n; i++) {
            patch_row(patch, at[i].index, row, 1, vocab);
        }
    }
    for (int64_t k = doors->first_read[bucket]; read_too && k < doors->first_read[bucket + 1];
         k++) {
        const km_read *read = &pass->request->reads[doors->reads[k]];
        const node_entry *at = places_of(doors->entries + doors->read_entries[doors->reads[k]],
                                         read->nodes, read->n_nodes, token, &self, &n);
        for (int64_t i = 0; i < n; i++) {
            read_row(read, at[i].index, row, 1, vocab);
        }
    }
}
