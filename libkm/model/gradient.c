/* gradient.c: derivatives of a loss with respect to activations: the forward pass with reads, then
 * the way back from the logits to the lowest layer that is asked for.
 *
 * The forward pass gives resid_pre of every layer, the rows' residual stream and logits, and, where
 * patches change something inside a layer, what they made of it. Loops are cut by index and sums
 * taken in a fixed order, so the bits do not depend on the threads.
 */
#include <string.h>

#include "model/gradient_private.h"

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

/* The buffers of one pass over n tokens of `positions` positions; returns how many. */
static int list_parts(km__part parts[KM_MAX_PARTS], km__back *back, double n, double rows,
                      double positions) {
    const km_config *c = &back->model->config;
    const int n_parts = km__back_parts(parts, back, n, positions, 1.0);
    parts[n_parts] = (km__part){&back->resid, n * c->d_model * c->n_layers};
    parts[n_parts + 1] = (km__part){&back->stream, rows * c->d_model};
    parts[n_parts + 2] = (km__part){&back->dlogits, rows * c->vocab_size};
    parts[n_parts + 3] = (km__part){&back->drows, rows * c->d_model};
    return n_parts + 4;
}

static km_status allocate(km__back *back, km_error *err) {
    const km_model *model = back->model;
    const double n_rows = (double)back->request->forward.n_rows, n = (double)back->n;
    km__part parts[KM_MAX_PARTS];
    back->attention_floats = km__attention_back_floats(&model->config, back->n_positions);
    const int n_parts = list_parts(parts, back, n, n_rows, back->n_positions);
    KM_TRY(km__parts_allocate(back, parts, n_parts, "besides the forward pass gradients", err));
    return km_alloc_array((void **)&back->row_of, model->ctx, back->n, sizeof *back->row_of, err);
}

int64_t km_model_gradients_bytes(const km_model *model, int64_t n_tokens, int64_t n_rows) {
    km__back back = {.model = model};
    km__part parts[KM_MAX_PARTS];
    const double n = (double)n_tokens;
    back.attention_floats = km__attention_back_floats(&model->config, n_tokens);
    const int n_parts = list_parts(parts, &back, n, (double)n_rows, n);
    return (int64_t)(km__parts_floats(parts, n_parts) * sizeof(float) +
                     n * (double)KM_BACK_NODE_BYTES);
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
    KM_TRY(km__back_check_memory(total * sizeof(float), back, "besides the forward pass gradients",
                                 err));
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

static km_status plan_tree(km__back *back, km_error *err) {
    km_forward_request forward = back->request->forward;
    forward.on_logits = see_logits;
    return km__back_plan(back, &forward, err);
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
    KM_TRY(km__check_gradients(model, request, err));
    KM_GO(plan_tree(&back, err));
    KM_GO(allocate(&back, err));
    KM_GO(list_kept(&back, err));
    KM_GO(allocate_kept(&back, err));
    KM_GO(prepare_logits(&back, err));
    KM_GO(km__back_ropes(&back, err));
    KM_GO(run_forward(&back, err));
    KM_GO(run_backward(&back, err));
done:
    km_free(ctx, back.reads);
    km_free(ctx, back.kept_block);
    km_free(ctx, back.kept);
    km_free(ctx, back.row_of);
    km_free(ctx, back.block);
    km__back_plan_clear(&back);
    return status;
}
