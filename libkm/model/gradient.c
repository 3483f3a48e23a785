/* gradient.c: derivatives of a loss with respect to activations: the forward pass with reads, then
 * the way back from the logits to the lowest layer that is asked for.
 *
 * The forward pass gives resid_pre of every layer, the rows' residual stream and logits, and, where
 * patches change something inside a layer, what they made of it. Loops are cut by index and sums
 * taken in a fixed order, so the bits do not depend on the threads.
 */
#include <string.h>

#include "model/gradient_private.h"

#define ALIGN_FLOATS 16

/* Points whose patched values the way back needs: those inside a layer that later steps start
 * from. The others are contained in resid_pre of the next layer. */
static const km_point INSIDE[] = {
    KM_POINT_Q,
    KM_POINT_K,
    KM_POINT_V,
    KM_POINT_ATTN_SCORES,
    KM_POINT_ATTN_PATTERN,
    KM_POINT_ATTN_HEAD_OUT,
    KM_POINT_ATTN_OUT,
    KM_POINT_RESID_MID,
    KM_POINT_MLP_PRE,
    KM_POINT_MLP_HIDDEN,
    KM_POINT_Q_INPUT,
    KM_POINT_K_INPUT,
    KM_POINT_V_INPUT,
    KM_POINT_MLP_INPUT,
};
#define N_INSIDE ((int)(sizeof INSIDE / sizeof INSIDE[0]))

/* ---- memory ---- */

typedef struct part {
    float **where;
    double floats; /* double: cannot overflow before it is compared with the memory there is */
} part;

#define MAX_PARTS 40

/* The buffers of one pass over n tokens of `positions` positions; returns how many. */
static int list_parts(part *parts, km__back *back, double n, double rows, double positions) {
    const km_config *c = &back->model->config;
    km__layer_state *s = &back->s;
    const double d = c->d_model, f = c->d_ffn;
    const double q = (double)c->n_heads * c->head_dim, kv = (double)c->n_kv_heads * c->head_dim;
    const double angles = positions * c->head_dim / 2; /* at least rotary_dim / 2 each */
    const double post = c->post_norms ? 1.0 : 0.0, gated = c->gated_mlp ? 1.0 : 0.0;
    const part all[] = {
        {&back->resid, n * d * c->n_layers},
        {&back->stream, rows * d},
        {&back->dlogits, rows * c->vocab_size},
        {&back->drows, rows * d},
        {&back->attention, 4.0 * positions * km_ctx_threads(back->model->ctx)},
        {&s->h, n * d},
        {&s->q, n * q},
        {&s->k, n * kv},
        {&s->v, n * kv},
        {&s->qr, n * q},
        {&s->kr, n * kv},
        {&s->z, n * q},
        {&s->attn_branch, n * d},
        {&s->mid, n * d},
        {&s->pre, n * f},
        {&s->up, n * f * gated},
        {&s->hidden, n * f * post},
        {&s->mlp_branch, n * d * post},
        {&s->dx, n * d},
        {&s->d, n * d},
        {&s->dz, n * q},
        {&s->dhidden, n * f},
        {&s->dq, n * q},
        {&s->dk, n * kv},
        {&s->dv, n * kv},
        {&s->dk_heads, n * q},
        {&s->dv_heads, n * q},
        {&back->rope[0].cosines, angles},
        {&back->rope[0].sines, angles},
        {&back->rope[1].cosines, angles},
        {&back->rope[1].sines, angles},
        {&back->rope_back[0].sines, angles},
        {&back->rope_back[1].sines, angles},
    };
    memcpy(parts, all, sizeof all);
    return (int)(sizeof all / sizeof all[0]);
}

static double rounded(double floats) {
    const double blocks = (floats + ALIGN_FLOATS - 1) / ALIGN_FLOATS;
    return blocks > 1e15 ? floats : (double)((int64_t)blocks * ALIGN_FLOATS);
}

static double total_floats(const part *parts, int n_parts) {
    double total = 0.0;
    for (int i = 0; i < n_parts; i++) {
        total += rounded(parts[i].floats);
    }
    return total;
}

static km_status check_memory(double bytes, const km__back *back, km_error *err) {
    const double available = (double)km_memory_available();
    if (bytes > available) {
        return KM_SET(err, KM_ENOMEM,
                      "gradients over %lld tokens need %.0f MiB besides the forward pass; %.0f MiB "
                      "are available",
                      (long long)back->n, bytes / 1048576.0, available / 1048576.0);
    }
    return KM_OK;
}

static km_status allocate(km__back *back, km_error *err) {
    km_ctx *ctx = back->model->ctx;
    const int64_t n_rows = back->request->forward.n_rows;
    part parts[MAX_PARTS];
    const int n_parts =
        list_parts(parts, back, (double)back->n, (double)n_rows, (double)back->n_positions);
    const double total = total_floats(parts, n_parts);
    KM_TRY(check_memory(total * sizeof(float), back, err));
    KM_TRY(km_alloc((void **)&back->block, ctx, (size_t)total * sizeof(float), err));
    float *next = back->block;
    for (int i = 0; i < n_parts; i++) {
        *parts[i].where = next;
        next += (int64_t)rounded(parts[i].floats);
    }
    const int64_t n_paths = (int64_t)back->n_positions * km_ctx_threads(ctx);
    KM_TRY(km_alloc_array((void **)&back->paths, ctx, n_paths, sizeof *back->paths, err));
    return km_alloc_array((void **)&back->row_of, ctx, back->n, sizeof *back->row_of, err);
}

int64_t km_model_gradients_bytes(const km_model *model, int64_t n_tokens, int64_t n_rows) {
    km__back back = {.model = model};
    part parts[MAX_PARTS];
    const double n = (double)n_tokens;
    const int n_parts = list_parts(parts, &back, n, (double)n_rows, n);
    const double index = (double)sizeof(int64_t);
    return (int64_t)(total_floats(parts, n_parts) * sizeof(float) +
                     n * (sizeof(int32_t) + index * (1 + km_ctx_threads(model->ctx))));
}

/* ---- what the forward pass keeps for us ---- */

/* Each (point, layer) with a patch that the way back needs the values of, once. */
static km_status list_kept(km__back *back, km_error *err) {
    const km_forward_request *forward = &back->request->forward;
    KM_TRY(km_alloc_array((void **)&back->kept, back->model->ctx, forward->n_patches,
                          sizeof *back->kept, err));
    for (int64_t i = 0; i < forward->n_patches; i++) {
        const km_patch *patch = &forward->patches[i];
        bool wanted = false;
        for (int k = 0; k < N_INSIDE; k++) {
            wanted = wanted || INSIDE[k] == patch->point;
        }
        if (patch->point == KM_POINT_MLP_HIDDEN && !back->model->config.post_norms) {
            wanted = false; /* only the norm behind it would need it */
        }
        for (int64_t k = 0; wanted && k < back->n_kept; k++) {
            wanted = back->kept[k].point != patch->point || back->kept[k].layer != patch->layer;
        }
        if (wanted) {
            back->kept[back->n_kept++] = (km__kept){patch->point, patch->layer, NULL};
        }
    }
    return KM_OK;
}

static int64_t kept_floats(const km__back *back, const km__kept *kept) {
    const km_config *config = &back->model->config;
    return back->n * km_point_heads(kept->point, config) *
           km_point_width(kept->point, config, back->n_positions);
}

static km_status allocate_kept(km__back *back, km_error *err) {
    double total = 0.0;
    for (int64_t i = 0; i < back->n_kept; i++) {
        total += (double)kept_floats(back, &back->kept[i]);
    }
    KM_TRY(check_memory(total * sizeof(float), back, err));
    KM_TRY(
        km_alloc((void **)&back->kept_block, back->model->ctx, (size_t)total * sizeof(float), err));
    float *next = back->kept_block;
    for (int64_t i = 0; i < back->n_kept; i++) {
        back->kept[i].values = next;
        next += kept_floats(back, &back->kept[i]);
    }
    return KM_OK;
}

/* Our reads, then the request's. */
static km_status list_reads(km__back *back, int64_t *n_reads, km_error *err) {
    const km_forward_request *forward = &back->request->forward;
    const km_config *config = &back->model->config;
    const int64_t most = config->n_layers + 1 + back->n_kept + forward->n_reads;
    km_read *next;
    KM_TRY(km_alloc_array((void **)&back->reads, back->model->ctx, most, sizeof *next, err));
    next = back->reads;
    for (int32_t l = 0; l < config->n_layers; l++) {
        *next++ = (km_read){
            KM_POINT_RESID_PRE, l, -1, NULL, 0, back->resid + l * back->n * config->d_model};
    }
    *next++ = (km_read){KM_POINT_RESID_POST, config->n_layers - 1, -1,
                        forward->rows,       forward->n_rows,      back->stream};
    for (int64_t i = 0; i < back->n_kept; i++) {
        *next++ =
            (km_read){back->kept[i].point, back->kept[i].layer, -1, NULL, 0, back->kept[i].values};
    }
    if (forward->n_reads > 0) {
        memcpy(next, forward->reads, (size_t)forward->n_reads * sizeof *next);
    }
    *n_reads = most;
    return KM_OK;
}

/* ---- logits ---- */

/* One row: the loss, its derivative handed out and taken back through patches and the soft cap. */
static km_status see_logits(void *payload, int64_t index, int32_t layer, const float *logits,
                            int64_t vocab, km_error *err) {
    (void)layer;
    const km__back *back = payload;
    const km_gradient_request *request = back->request;
    const float cap = back->model->config.final_softcap;
    float *row = back->dlogits + index * vocab;
    memcpy(row, logits, (size_t)vocab * sizeof *row);
    KM_TRY(request->loss(request->payload, index, row, vocab, err));
    if (!back->kernels->all_finite(row, vocab)) {
        return KM_SET(err, KM_ENUMERIC, "the loss of row %lld has a derivative that is not finite",
                      (long long)index);
    }
    km__pass_row(back, KM_POINT_LOGITS, 0, request->forward.rows[index], 0, row, vocab);
    if (cap > 0.0f) {
        km__softcap_backward(row, logits, cap, vocab);
    }
    return KM_OK;
}

/* Derivatives at logits go straight into the results, a row a node: no two rows may share one. */
static km_status prepare_logits(const km__back *back, km_error *err) {
    const km_gradient_request *request = back->request;
    const int64_t vocab = back->model->config.vocab_size;
    bool wanted = false;
    for (int64_t i = 0; i < request->n_gradients; i++) {
        const km_read *gradient = &request->gradients[i];
        if (gradient->point == KM_POINT_LOGITS) {
            const int64_t n = gradient->nodes == NULL ? back->n : gradient->n_nodes;
            memset(gradient->out, 0, (size_t)(n * vocab) * sizeof *gradient->out);
            wanted = true;
        }
    }
    memset(back->row_of, 0xff, (size_t)back->n * sizeof *back->row_of); /* all -1 */
    for (int64_t i = 0; i < request->forward.n_rows; i++) {
        const int64_t node = request->forward.rows[i];
        if (wanted && back->row_of[node] >= 0) {
            return KM_SET(err, KM_EINVAL,
                          "rows hold token %lld twice; gradients at logits need "
                          "each once",
                          (long long)node);
        }
        back->row_of[node] = i;
    }
    return KM_OK;
}

static km_status final_norm_range(void *payload, int64_t begin, int64_t end, int worker,
                                  km_error *err) {
    (void)worker;
    (void)err;
    const km__back *back = payload;
    const km_model *model = back->model;
    const int64_t d = model->config.d_model;
    for (int64_t node = begin; node < end; node++) {
        float *dx = back->s.dx + node * d;
        if (back->row_of[node] >= 0) {
            km__norm_backward(dx, dx, back->stream + back->row_of[node] * d,
                              &model->weights.final_norm, &model->config, d, false);
        }
    }
    return KM_OK;
}

/* s.dx: the derivative of the last layer's resid_post. */
static km_status logits_backward(const km__back *back, km_error *err) {
    const km_model *model = back->model;
    const km_forward_request *forward = &back->request->forward;
    const int64_t d = model->config.d_model, vocab = model->config.vocab_size;
    KM_TRY(km_linear_backward(model->ctx, back->drows, d, back->dlogits, vocab,
                              &model->weights.unembed, forward->n_rows, false, err));
    memset(back->s.dx, 0, (size_t)(back->n * d) * sizeof(float));
    for (int64_t i = 0; i < forward->n_rows; i++) {
        back->kernels->axpy(back->s.dx + forward->rows[i] * d, 1.0f, back->drows + i * d, d);
    }
    km__pass_point(back, KM_POINT_FINAL_NORM, 0, -1, back->s.dx);
    return km__over_rows(back, back->n, final_norm_range, (void *)back, err);
}

/* ---- the pass ---- */

/* Depths of a tree whose parents may still be wrong: the forward pass checks them. */
static km_status find_depths(km__back *back, km_error *err) {
    const km_tree *tree = &back->request->forward.tree;
    KM_TRY(
        km_alloc_array((void **)&back->depth, back->model->ctx, tree->n, sizeof *back->depth, err));
    for (int64_t i = 0; i < tree->n; i++) {
        const int64_t parent = tree->parent[i];
        if (parent >= i || parent < -1) {
            return KM_SET(err, KM_EINVAL, "token %lld has parent %lld; it must come before it",
                          (long long)i, (long long)parent);
        }
        back->depth[i] = parent < 0 ? 0 : back->depth[parent] + 1;
        back->n_positions =
            back->depth[i] >= back->n_positions ? back->depth[i] + 1 : back->n_positions;
    }
    return KM_OK;
}

static km_status fill_ropes(km__back *back, km_error *err) {
    const km_model *model = back->model;
    const km_config *config = &model->config;
    if (config->position != KM_POSITION_ROPE) {
        return KM_OK;
    }
    KM_TRY(km__rope_fill(&back->rope[0], model, false, back->n_positions, err));
    KM_TRY(km__rope_fill(&back->rope[1], model, true, back->n_positions, err));
    const int64_t n = (int64_t)back->n_positions * (config->rotary_dim / 2);
    for (int which = 0; which < 2; which++) {
        back->rope_back[which].cosines = back->rope[which].cosines;
        for (int64_t i = 0; i < n; i++) {
            back->rope_back[which].sines[i] = -back->rope[which].sines[i];
        }
    }
    return KM_OK;
}

static km_status run_forward(km__back *back, km_error *err) {
    km_forward_request forward = back->request->forward;
    KM_TRY(list_reads(back, &forward.n_reads, err));
    forward.reads = back->reads;
    forward.on_logits = see_logits;
    forward.payload = back;
    return km_model_forward(back->model, &forward, err);
}

static km_status run_backward(const km__back *back, km_error *err) {
    const int32_t n_layers = back->model->config.n_layers;
    const km_gradient_request *request = back->request;
    int64_t lowest = INT64_MAX;
    for (int64_t i = 0; i < request->n_gradients; i++) {
        const km_read *gradient = &request->gradients[i];
        const int64_t order = km__point_order(gradient->point, gradient->layer, n_layers);
        lowest = order < lowest ? order : lowest;
    }
    if (lowest > 2 * (int64_t)n_layers) {
        return KM_OK;
    }
    KM_TRY(logits_backward(back, err));
    for (int32_t layer = n_layers - 1; layer >= 0 && 2 * (int64_t)layer + 1 >= lowest; layer--) {
        KM_TRY(km__layer_again(back, layer, err));
        KM_TRY(km__layer_backward(back, layer, 2 * (int64_t)layer >= lowest, err));
    }
    km__pass_point(back, KM_POINT_EMBED, 0, -1, back->s.dx);
    return KM_OK;
}

km_status km_model_gradients(const km_model *model, const km_gradient_request *request,
                             km_error *err) {
    if (model == NULL || request == NULL) {
        return KM_SET(err, KM_EINVAL, "no model or no request");
    }
    km_status status = KM_OK;
    km_ctx *ctx = model->ctx;
    km__back back = {.model = model, .request = request, .kernels = km_ctx_kernels(ctx)};
    back.n = request->forward.tree.n;
    KM_TRY(km__check_gradients(model, request, err));
    KM_GO(find_depths(&back, err));
    KM_GO(allocate(&back, err));
    KM_GO(list_kept(&back, err));
    KM_GO(allocate_kept(&back, err));
    KM_GO(prepare_logits(&back, err));
    KM_GO(fill_ropes(&back, err));
    KM_GO(run_forward(&back, err));
    KM_GO(run_backward(&back, err));
done:
    km_free(ctx, back.reads);
    km_free(ctx, back.kept_block);
    km_free(ctx, back.kept);
    km_free(ctx, back.row_of);
    km_free(ctx, back.paths);
    km_free(ctx, back.block);
    km_free(ctx, back.depth);
    return status;
}
