/* forward.c: the forward pass over a tree of tokens, layer by layer over all tokens.
 *
 * Keys and values are those of the present layer only, unless a session keeps them, so memory grows
 * as T (2D + H Dh + 2 K Dh). Layers above those that somebody asks for are not run.
 */
#include <string.h>

#include "model/forward_private.h"

#define ROW_GRAIN 16

bool km__is_windowed(const km_config *config, int32_t layer) {
    return config->sliding_window > 0 && config->windowed[layer];
}

void km__norm(const km__pass *pass, float *y, const float *x, const km_norm_weights *weights) {
    const km_config *config = &pass->model->config;
    if (config->norm == KM_NORM_LAYER) {
        pass->kernels->layer_norm(y, x, weights->gain, weights->bias, config->norm_eps,
                                  config->d_model);
    } else {
        pass->kernels->rms_norm(y, x, weights->gain, config->norm_offset, config->norm_eps,
                                config->d_model);
    }
}

static float *kept(const km__pass *pass, float *of_session, float *own, int32_t layer) {
    const km_session *session = pass->request->session;
    const km_config *config = &pass->model->config;
    return session == NULL
               ? own
               : of_session + layer * session->capacity * config->n_kv_heads * config->head_dim;
}

float *km__keys(const km__pass *pass, int32_t layer) {
    km_session *session = pass->request->session;
    return kept(pass, session == NULL ? NULL : session->keys, pass->work->k, layer);
}

float *km__values(const km__pass *pass, int32_t layer) {
    km_session *session = pass->request->session;
    return kept(pass, session == NULL ? NULL : session->values, pass->work->v, layer);
}

/* ---- the start ---- */

static km_status embed_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const km__pass *pass = payload;
    const km_model *model = pass->model;
    const int64_t width = model->config.d_model;
    const float scale = model->config.embed_scale;
    for (int64_t i = begin; i < end; i++) {
        float *row = pass->work->x + i * width;
        km_matrix_row(row, model->ctx, &model->weights.embed, pass->plan.tree->ids[i]);
        for (int64_t j = 0; j < width; j++) {
            row[j] *= scale;
        }
    }
    return KM_OK;
}

static km_status position_range(void *payload, int64_t begin, int64_t end, int worker,
                                km_error *err) {
    (void)worker;
    (void)err;
    const km__pass *pass = payload;
    const km_model *model = pass->model;
    const int64_t width = model->config.d_model;
    for (int64_t i = begin; i < end; i++) {
        float *position = pass->work->h + i * width;
        km_matrix_row(position, model->ctx, &model->weights.positions,
                      pass->plan.depth[pass->plan.base + i]);
        pass->kernels->axpy(pass->work->x + i * width, 1.0f, position, width);
    }
    return KM_OK;
}

static km_status embed(const km__pass *pass, km_error *err) {
    km_ctx *ctx = pass->model->ctx;
    const km__rows all = {pass->plan.tree->n, NULL, NULL};
    KM_TRY(km_parallel_for(ctx, all.n, ROW_GRAIN, embed_range, (void *)(uintptr_t)pass, err));
    KM_TRY(km__door_all(pass, KM_POINT_EMBED, 0, pass->work->x, &all, err));
    if (pass->model->config.position == KM_POSITION_LEARNED) {
        return km_parallel_for(ctx, all.n, ROW_GRAIN, position_range, (void *)(uintptr_t)pass, err);
    }
    return KM_OK;
}

static km_status fill_ropes(const km__pass *pass, km_error *err) {
    const km_model *model = pass->model;
    const int32_t n_positions = pass->plan.n_positions;
    if (model->config.position != KM_POSITION_ROPE) {
        return KM_OK;
    }
    KM_TRY(km__rope_fill(&pass->work->rope_full, model, false, n_positions, err));
    if (model->config.sliding_window > 0) {
        KM_TRY(km__rope_fill(&pass->work->rope_window, model, true, n_positions, err));
    }
    return KM_OK;
}

/* ---- the pass ---- */

static km_status run_pass(km__pass *pass, km_error *err) {
    KM_TRY(fill_ropes(pass, err));
    KM_TRY(embed(pass, err));
    for (int32_t layer = 0; layer < pass->plan.n_layers; layer++) {
        KM_TRY(km__layer(pass, layer, err));
        km__lens_keep(pass, layer);
    }
    if (pass->plan.n_layers < pass->model->config.n_layers) {
        return KM_OK;
    }
    KM_TRY(km__logits_output(pass, err));
    return km__logits_lens(pass, err);
}

/* With the session, if any, taken. */
static km_status forward(const km_model *model, const km_forward_request *request, km_error *err) {
    km_status status = KM_OK;
    km_session *session = request->session;
    km__workspace own = {0};
    km__pass pass = {.model = model,
                     .request = request,
                     .kernels = km_ctx_kernels(model->ctx),
                     .attention = km_ctx_attention_kernels(model->ctx),
                     .work = session == NULL ? &own : &session->work};
    KM_GO(km__weights_check(model, err));
    KM_GO(km__plan_init(&pass.plan, model, request, err));
    KM_GO(km__doors_init(&pass.doors, model, request, pass.plan.n_positions, err));
    KM_GO(km__plan_need(&pass.plan, model, request, err));
    if (pass.plan.wanted) {
        KM_GO(km__workspace_fit(pass.work, &pass.plan, model, request, &pass.doors, err));
        KM_GO(run_pass(&pass, err));
    }
    if (session != NULL) {
        session->length += request->tree.n;
    }
done:
    km__workspace_clear(&own, model->ctx);
    km__doors_clear(&pass.doors, model->ctx);
    km__plan_clear(&pass.plan, model->ctx);
    return status;
}

km_status km_model_forward(const km_model *model, const km_forward_request *request,
                           km_error *err) {
    if (model == NULL || request == NULL) {
        return KM_SET(err, KM_EINVAL, "no model or no request");
    }
    if (request->session == NULL) {
        return forward(model, request, err);
    }
    if (request->session->model != model) {
        return KM_SET(err, KM_EINVAL, "the session belongs to another model");
    }
    KM_TRY(km__session_enter(request->session, err));
    km_status status = forward(model, request, err);
    km__session_leave(request->session);
    return status;
}
