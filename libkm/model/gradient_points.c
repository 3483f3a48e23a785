/* gradient_points.c: derivatives at the named points: handed out, and taken back through patches.
 */
#include <string.h>

#include "model/gradient_private.h"

static bool is_at(km_point point, int32_t layer, km_point wanted, int32_t wanted_layer) {
    return point == wanted && (!km_point_has_layer(point) || layer == wanted_layer);
}

const float *km__kept_values(const km__back *back, km_point point, int32_t layer) {
    for (int64_t i = 0; i < back->n_kept; i++) {
        if (is_at(back->kept[i].point, back->kept[i].layer, point, layer)) {
            return back->kept[i].values;
        }
    }
    return NULL;
}

void km__substitute(const km__back *back, float *rows, km_point point, int32_t layer,
                    int64_t row_width) {
    const float *values = km__kept_values(back, point, layer);
    if (values != NULL) {
        memcpy(rows, values, (size_t)(back->n * row_width) * sizeof *rows);
    }
}

bool km__is_concerned(const km__back *back, km_point point, int32_t layer) {
    const km_gradient_request *request = back->request;
    for (int64_t i = 0; i < request->n_gradients; i++) {
        if (is_at(request->gradients[i].point, request->gradients[i].layer, point, layer)) {
            return true;
        }
    }
    for (int64_t i = 0; i < request->forward.n_patches; i++) {
        const km_patch *patch = &request->forward.patches[i];
        if (is_at(patch->point, patch->layer, point, layer)) {
            return true;
        }
    }
    return false;
}

/* ---- one row ---- */

static double dot_double(const float *a, const float *b, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

/* d (end - begin) at one head of one node: its derivative before the patch. */
static void through_patch(const km_patch *patch, float *d, const float *values, int64_t n) {
    if (patch->kind == KM_PATCH_SET) {
        memset(d, 0, (size_t)n * sizeof *d);
    } else if (patch->kind == KM_PATCH_SCALE) {
        for (int64_t i = 0; i < n; i++) {
            d[i] *= patch->factor;
        }
    } else if (patch->kind == KM_PATCH_PROJECT_OUT) {
        const double along = dot_double(values, d, n) / dot_double(values, values, n);
        for (int64_t i = 0; i < n; i++) {
            d[i] = (float)((double)d[i] - along * (double)values[i]);
        }
    }
}

/* Values of the patch's entry `index` for one head of n elements; NULL for a patch without any. */
static const float *patch_values(const km_patch *patch, int64_t index, int32_t head, int64_t n) {
    const bool one = patch->head >= 0 || patch->same_for_heads;
    return patch->values == NULL
               ? NULL
               : patch->values + index * patch->value_stride + (one ? 0 : (int64_t)head * n);
}

static void row_through_patch(const km_patch *patch, int64_t index, int32_t head, float *row,
                              int64_t width) {
    const bool whole = patch->begin == 0 && patch->end == 0;
    const int64_t begin = whole ? 0 : patch->begin, n = (whole ? width : patch->end) - begin;
    if (patch->head < 0 || patch->head == head) {
        through_patch(patch, row + begin, patch_values(patch, index, head, n), n);
    }
}

static void hand_out(const km_read *gradient, int64_t index, int32_t head, const float *row,
                     int64_t width, int64_t heads) {
    if (gradient->head < 0) {
        memcpy(gradient->out + (index * heads + head) * width, row, (size_t)width * sizeof *row);
    } else if (gradient->head == head) {
        memcpy(gradient->out + index * width, row, (size_t)width * sizeof *row);
    }
}

void km__pass_row(const km__back *back, km_point point, int32_t layer, int64_t node, int32_t head,
                  float *row, int64_t width) {
    const km_gradient_request *request = back->request;
    const int64_t heads = km_point_heads(point, &back->model->config);
    for (int64_t g = 0; g < request->n_gradients; g++) {
        const km_read *gradient = &request->gradients[g];
        if (!is_at(gradient->point, gradient->layer, point, layer)) {
            continue;
        }
        const int64_t n = gradient->nodes == NULL ? back->n : gradient->n_nodes;
        for (int64_t i = gradient->nodes == NULL ? node : 0; i < n; i++) {
            if (gradient->nodes == NULL || gradient->nodes[i] == node) {
                hand_out(gradient, i, head, row, width, heads);
            }
            if (gradient->nodes == NULL) {
                break;
            }
        }
    }
    for (int64_t p = request->forward.n_patches - 1; p >= 0; p--) {
        const km_patch *patch = &request->forward.patches[p];
        if (!is_at(patch->point, patch->layer, point, layer)) {
            continue;
        }
        if (patch->nodes == NULL) {
            row_through_patch(patch, node, head, row, width);
        }
        for (int64_t i = 0; patch->nodes != NULL && i < patch->n_nodes; i++) {
            if (patch->nodes[i] == node) {
                row_through_patch(patch, i, head, row, width);
            }
        }
    }
}

void km__pass_point(const km__back *back, km_point point, int32_t layer, int32_t head,
                    float *rows) {
    if (!km__is_concerned(back, point, layer)) {
        return;
    }
    const km_config *config = &back->model->config;
    const int64_t width = km_point_width(point, config, back->n_positions);
    const int32_t heads = head < 0 ? (int32_t)km_point_heads(point, config) : 1;
    for (int64_t node = 0; node < back->n; node++) {
        for (int32_t h = 0; h < heads; h++) {
            km__pass_row(back, point, layer, node, head < 0 ? h : head,
                         rows + (node * heads + h) * width, width);
        }
    }
}

/* ---- the request ---- */

int64_t km__point_order(km_point point, int32_t layer, int32_t n_layers) {
    switch (point) {
    case KM_POINT_EMBED:
        return -1;
    case KM_POINT_FINAL_NORM:
    case KM_POINT_LOGITS:
        return 2 * (int64_t)n_layers;
    case KM_POINT_ATTN_OUT:
    case KM_POINT_RESID_MID:
    case KM_POINT_MLP_PRE:
    case KM_POINT_MLP_HIDDEN:
    case KM_POINT_MLP_OUT:
    case KM_POINT_MLP_INPUT:
    case KM_POINT_RESID_POST:
        return 2 * (int64_t)layer + 1;
    default:
        return 2 * (int64_t)layer;
    }
}

static km_status check_nodes(const km_read *gradient, int64_t n, km_error *err) {
    for (int64_t i = 0; gradient->nodes != NULL && i < gradient->n_nodes; i++) {
        if (gradient->nodes[i] < 0 || gradient->nodes[i] >= n) {
            return KM_SET(
                err, KM_EINVAL, "a gradient at %s of token %lld; the tree has %lld tokens",
                km_point_name(gradient->point), (long long)gradient->nodes[i], (long long)n);
        }
    }
    return KM_OK;
}

static km_status check_gradient(const km_model *model, const km_read *gradient, int64_t n,
                                km_error *err) {
    const km_config *config = &model->config;
    const char *name = km_point_name(gradient->point);
    if (name == NULL || gradient->out == NULL || gradient->n_nodes < 0) {
        return KM_SET(err, KM_EINVAL, "a gradient without point or room for its result");
    }
    if (!km_point_exists(gradient->point, config)) {
        return KM_SET(err, KM_EUNSUPPORTED, "models of architecture %s have no point %s",
                      config->arch, name);
    }
    if (km_point_has_layer(gradient->point) &&
        (gradient->layer < 0 || gradient->layer >= config->n_layers)) {
        return KM_SET(err, KM_ERANGE, "a gradient at %s of layer %d; the model has %d layers", name,
                      gradient->layer, config->n_layers);
    }
    const int64_t heads = km_point_heads(gradient->point, config);
    if (gradient->head < -1 || gradient->head >= heads) {
        return KM_SET(err, KM_ERANGE, "a gradient at %s of head %d; there are %lld", name,
                      gradient->head, (long long)heads);
    }
    return check_nodes(gradient, n, err);
}

static km_status check_logits_patches(const km_model *model, const km_forward_request *forward,
                                      km_error *err) {
    for (int64_t i = 0; model->config.final_softcap > 0.0f && i < forward->n_patches; i++) {
        if (forward->patches[i].point == KM_POINT_LOGITS) {
            return KM_SET(err, KM_EUNSUPPORTED,
                          "no derivative passes through a patch of soft-capped logits");
        }
    }
    return KM_OK;
}

km_status km__check_gradients(const km_model *model, const km_gradient_request *request,
                              km_error *err) {
    const km_forward_request *forward = &request->forward;
    if (request->loss == NULL) {
        return KM_SET(err, KM_EINVAL, "gradients of no loss");
    }
    if (forward->n_rows < 1 || forward->rows == NULL) {
        return KM_SET(err, KM_EINVAL, "a loss needs at least one row of logits");
    }
    if (forward->tree.n < 1 || forward->tree.parent == NULL) {
        return KM_SET(err, KM_EINVAL, "gradients of %lld tokens", (long long)forward->tree.n);
    }
    for (int64_t i = 0; i < forward->n_rows; i++) {
        if (forward->rows[i] < 0 || forward->rows[i] >= forward->tree.n) {
            return KM_SET(err, KM_EINVAL, "rows[%lld] is %lld; the tree has %lld tokens",
                          (long long)i, (long long)forward->rows[i], (long long)forward->tree.n);
        }
    }
    if (forward->n_lens_rows != 0 || forward->session != NULL || forward->visit != NULL) {
        return KM_SET(err, KM_EINVAL, "gradients take no lens rows, session or visitor");
    }
    if (request->n_gradients < 0 || (request->n_gradients > 0 && request->gradients == NULL)) {
        return KM_SET(err, KM_EINVAL, "%lld gradients", (long long)request->n_gradients);
    }
    for (int64_t i = 0; i < request->n_gradients; i++) {
        KM_TRY(check_gradient(model, &request->gradients[i], forward->tree.n, err));
    }
    return check_logits_patches(model, forward, err);
}
