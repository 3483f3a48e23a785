/* doors.c: packed reads and patches to km_read and km_patch, every index checked against the array
 * it points into. */
#include "doors.h"

#include "types.h"

static bool refuse(const km_args *in, const char *name, int64_t row, const char *why) {
    km_py_raise_format(in->errors, KM_EINVAL, "%s(): '%s' row %lld %s", in->signature->name, name,
                       (long long)row, why);
    return false;
}

/* An (n, columns) int64 table. */
static bool read_table(km_args *in, const char *name, int64_t columns, km_view *out) {
    if (!km_arg_view(in, name, KM_I64, "(N, columns)", out)) {
        return false;
    }
    if (out->shape[1] != columns) {
        km_py_raise_format(in->errors, KM_ESHAPE, "%s(): '%s' has %lld columns, not %lld",
                           in->signature->name, name, (long long)out->shape[1], (long long)columns);
    }
    return out->shape[1] == columns;
}

/* Whether count items from `first` on lie within n. */
static bool within(int64_t first, int64_t count, int64_t n) {
    return first >= 0 && count >= 0 && first <= n && count <= n - first;
}

/* ---- the tree ---- */

static bool count_positions(km_args *in, km_py_pass *pass) {
    const km_tree *tree = &pass->request.tree;
    int64_t *depth = km_args_alloc(in, (size_t)tree->n + 1, sizeof *depth);
    if (depth == NULL) {
        return false;
    }
    for (int64_t i = 0; i < tree->n; i++) {
        const int64_t parent = tree->parent[i];
        if (parent < -1 || parent >= i) {
            return refuse(in, "parent", i, "is not before its token");
        }
        depth[i] = parent < 0 ? 0 : depth[parent] + 1;
        if (depth[i] >= pass->n_positions) {
            pass->n_positions = depth[i] + 1;
        }
    }
    return true;
}

static bool read_tree(km_args *in, km_py_pass *pass) {
    km_view ids, parent;
    if (!km_arg_view(in, "ids", KM_I32, "(T)", &ids) ||
        !km_arg_view(in, "parent", KM_I64, "(T)", &parent) ||
        !km_args_same_length(in, "ids", ids.n, "parent", parent.n)) {
        return false;
    }
    pass->request.tree = (km_tree){ids.data, parent.data, ids.n};
    return count_positions(in, pass);
}

/* Elements of one token at a point, of one head or of all; false where a number is out of the range
 * of its C type. */
static bool find_extent(const km_py_pass *pass, int64_t point, int64_t layer, int64_t head,
                        int64_t *heads, int64_t *width) {
    const km_config *config = km_model_config(pass->model);
    if (point < 0 || point >= KM_N_POINTS || layer < 0 || layer > INT32_MAX || head < -1 ||
        head > INT32_MAX) {
        return false;
    }
    *heads = head < 0 ? km_point_heads((km_point)point, config) : 1;
    *width = km_point_width((km_point)point, config, pass->n_positions);
    return *width > 0;
}

/* A slice of `nodes`; n -1: all of the tree. */
static bool find_nodes(const km_py_pass *pass, int64_t first, int64_t n, const int64_t **nodes,
                       int64_t *n_nodes) {
    if (n == -1) {
        *nodes = NULL;
        *n_nodes = pass->request.tree.n;
        return true;
    }
    if (!within(first, n, pass->nodes.n)) {
        return false;
    }
    *nodes = (const int64_t *)pass->nodes.data + first;
    *n_nodes = n;
    return true;
}

/* ---- patches ---- */

/* Floats from the first value of a patch to its last. */
static double value_span(const km_patch *patch, int64_t heads, int64_t width) {
    const int64_t elements = patch->end > patch->begin ? patch->end - patch->begin : width;
    const double row = (double)elements * (double)(patch->same_for_heads ? 1 : heads);
    return patch->n_nodes < 1 ? 0.0
                              : (double)(patch->n_nodes - 1) * (double)patch->value_stride + row;
}

static bool read_patch(km_args *in, const km_py_pass *pass, int64_t i, const int64_t *row,
                       const km_view *values, km_patch *out) {
    int64_t heads, width;
    const int64_t offset = row[KM_PATCH_COLUMN_OFFSET];
    if (row[KM_PATCH_COLUMN_KIND] < KM_PATCH_SET ||
        row[KM_PATCH_COLUMN_KIND] > KM_PATCH_PROJECT_OUT ||
        !find_extent(pass, row[KM_PATCH_COLUMN_POINT], row[KM_PATCH_COLUMN_LAYER],
                     row[KM_PATCH_COLUMN_HEAD], &heads, &width)) {
        return refuse(in, "patches", i, "names no kind, point, layer or head");
    }
    out->kind = (km_patch_kind)row[KM_PATCH_COLUMN_KIND];
    out->point = (km_point)row[KM_PATCH_COLUMN_POINT];
    out->layer = (int32_t)row[KM_PATCH_COLUMN_LAYER];
    out->head = (int32_t)row[KM_PATCH_COLUMN_HEAD];
    out->begin = row[KM_PATCH_COLUMN_BEGIN];
    out->end = row[KM_PATCH_COLUMN_END];
    out->value_stride = row[KM_PATCH_COLUMN_STRIDE];
    out->same_for_heads = row[KM_PATCH_COLUMN_SAME_FOR_HEADS] != 0;
    if (!find_nodes(pass, row[KM_PATCH_COLUMN_FIRST_NODE], row[KM_PATCH_COLUMN_N_NODES],
                    &out->nodes, &out->n_nodes)) {
        return refuse(in, "patches", i, "has nodes outside 'nodes'");
    }
    if (out->kind != KM_PATCH_SCALE &&
        (out->value_stride < 0 || offset < 0 || offset > values->n ||
         value_span(out, heads, width) > (double)(values->n - offset))) {
        return refuse(in, "patches", i, "has values outside 'values'");
    }
    out->values = out->kind == KM_PATCH_SCALE ? NULL : (const float *)values->data + offset;
    return true;
}

/* ---- entry points ---- */

bool km_py_pass_patches(km_args *in, km_py_pass *pass) {
    km_view table, factors, values;
    if (!read_table(in, "patches", KM_PATCH_COLUMNS, &table) ||
        !km_arg_view(in, "factors", KM_F32, "(P)", &factors) ||
        !km_arg_view(in, "values", KM_F32, "(M)", &values) ||
        !km_args_same_length(in, "patches", table.shape[0], "factors", factors.n)) {
        return false;
    }
    km_patch *patches = km_args_alloc(in, (size_t)factors.n + 1, sizeof *patches);
    for (int64_t i = 0; patches != NULL && i < factors.n; i++) {
        const int64_t *row = (const int64_t *)table.data + i * KM_PATCH_COLUMNS;
        if (!read_patch(in, pass, i, row, &values, &patches[i])) {
            return false;
        }
        patches[i].factor = ((const float *)factors.data)[i];
    }
    pass->request.patches = patches;
    pass->request.n_patches = factors.n;
    return patches != NULL;
}

bool km_py_pass_read(km_args *in, PyTypeObject *model_type, km_py_pass *out) {
    PyObject *model = NULL;
    *out = (km_py_pass){.model = NULL};
    if (!km_arg_instance(in, "model", model_type, &model)) {
        return false;
    }
    out->model = km_py_model_get(model);
    return read_tree(in, out) && km_arg_view(in, "nodes", KM_I64, "(N)", &out->nodes) &&
           km_py_pass_patches(in, out);
}

bool km_py_pass_reads(km_args *in, const char *name, const km_py_pass *pass, float *block,
                      int64_t n_block, const km_read **out, int64_t *n) {
    km_view table;
    if (!read_table(in, name, KM_READ_COLUMNS, &table)) {
        return false;
    }
    km_read *reads = km_args_alloc(in, (size_t)table.shape[0] + 1, sizeof *reads);
    for (int64_t i = 0; reads != NULL && i < table.shape[0]; i++) {
        const int64_t *row = (const int64_t *)table.data + i * KM_READ_COLUMNS;
        const int64_t offset = row[KM_READ_OFFSET];
        int64_t heads, width;
        if (!find_extent(pass, row[KM_READ_POINT], row[KM_READ_LAYER], row[KM_READ_HEAD], &heads,
                         &width)) {
            return refuse(in, name, i, "names no point, layer or head");
        }
        km_read *read = &reads[i];
        *read = (km_read){.point = (km_point)row[KM_READ_POINT],
                          .layer = (int32_t)row[KM_READ_LAYER],
                          .head = (int32_t)row[KM_READ_HEAD]};
        if (!find_nodes(pass, row[KM_READ_FIRST_NODE], row[KM_READ_N_NODES], &read->nodes,
                        &read->n_nodes)) {
            return refuse(in, name, i, "has nodes outside 'nodes'");
        }
        if (offset < 0 || offset > n_block ||
            (double)read->n_nodes * (double)heads * (double)width > (double)(n_block - offset)) {
            return refuse(in, name, i, "does not fit into the results");
        }
        read->out = block + offset;
    }
    *out = reads;
    *n = table.shape[0];
    return reads != NULL;
}
