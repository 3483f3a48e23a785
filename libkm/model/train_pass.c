/* train_pass.c: derivatives of a loss with respect to parameters: forward through the layers, the
 * targets' loss block of rows by block of rows, and back.
 *
 * A layer's inside is computed by the same function on the way there and, when it was not kept, on
 * the way back; so keeping it does not change the bits. Logits exist for one block of rows at a
 * time: loss, derivative and what it gives the unembedding and the stream are taken at once.
 */
#include <math.h>
#include <string.h>

#include "model/gradient_private.h"
#include "model/weights_private.h"
#include "tensor/kernels_gradient.h"

/* A block of logits takes at most this many bytes, and has at least LEAST_ROWS rows. */
#define BLOCK_BYTES ((int64_t)64 << 20)
#define LEAST_ROWS 32
#define MOST_ROWS 512
#define SLOPES 1024 /* of the soft cap, held at once */

typedef struct train {
    km__back back;
    km__collector collector;
    const km_training_pass *pass;
    km_gradient_request request; /* of nothing: what the way back asks points and patches of */
    km__layer_state *kept;       /* (L) without recompute */
    int64_t *first;              /* (n_rows + 1) where the targets of a row begin */
    int64_t n_rows;              /* nodes with targets */
    int64_t block_rows;          /* that share a block of logits */
    int32_t lowest;   /* layer with parameters that are asked for, or -1 for embeddings */
    float *normed;    /* (block_rows, D) */
    float *at_target; /* (n_targets) logits, before they are overwritten */
} train;

/* ---- the request ---- */

static km_status check_target(const km_training_pass *pass, int64_t i, int32_t vocab,
                              km_error *err) {
    const km_training_target *t = &pass->targets[i];
    if (t->node < 0 || t->node >= pass->tree.n) {
        return KM_SET(err, KM_EINVAL, "targets[%lld] is at token %lld; the tree has %lld tokens",
                      (long long)i, (long long)t->node, (long long)pass->tree.n);
    }
    if (i > 0 && t->node < pass->targets[i - 1].node) {
        return KM_SET(err, KM_EINVAL,
                      "targets[%lld] is at token %lld, the one before at %lld; nodes must not fall",
                      (long long)i, (long long)t->node, (long long)pass->targets[i - 1].node);
    }
    if (t->id < 0 || t->id >= vocab) {
        return KM_SET(err, KM_ERANGE, "targets[%lld] is token id %d; the vocabulary is 0 to %d",
                      (long long)i, t->id, vocab - 1);
    }
    if (!isfinite(t->weight)) {
        return KM_SET(err, KM_EINVAL, "the weight of targets[%lld] is not finite", (long long)i);
    }
    return KM_OK;
}

/* Check the targets and find the rows they share. */
static km_status find_rows(train *t, km_error *err) {
    const km_training_pass *pass = t->pass;
    if (pass->n_targets < 1 || pass->targets == NULL) {
        return KM_SET(err, KM_EINVAL, "a loss needs at least one target");
    }
    KM_TRY(km_alloc_array((void **)&t->first, t->back.model->ctx, pass->n_targets + 1,
                          sizeof *t->first, err));
    for (int64_t i = 0; i < pass->n_targets; i++) {
        KM_TRY(check_target(pass, i, t->back.model->config.vocab_size, err));
        if (i == 0 || pass->targets[i].node != pass->targets[i - 1].node) {
            t->first[t->n_rows++] = i;
        }
    }
    t->first[t->n_rows] = pass->n_targets;
    return KM_OK;
}

/* The lowest layer with a parameter that is asked for; the number of layers when only the end is.
 */
static int32_t find_lowest(const km__collector *collector, const km_model *model) {
    const km_weights *weights = &model->weights;
    const char *first = (const char *)weights->layers;
    const char *end = (const char *)(weights->layers + model->config.n_layers);
    int32_t lowest = model->config.n_layers;
    for (int64_t i = 0; i < collector->n; i++) {
        const char *place = collector->places[i];
        int32_t layer = model->config.n_layers;
        if (place == (const char *)&weights->embed || place == (const char *)&weights->positions) {
            layer = -1;
        } else if (place >= first && place < end) {
            layer = (int32_t)((place - first) / (int64_t)sizeof *weights->layers);
        }
        lowest = layer < lowest ? layer : lowest;
    }
    return lowest;
}

/* ---- memory ---- */

static int64_t choose_block_rows(int64_t n_rows, int64_t vocab) {
    int64_t most = BLOCK_BYTES / (vocab * (int64_t)sizeof(float));
    most = most < LEAST_ROWS ? LEAST_ROWS : most > MOST_ROWS ? MOST_ROWS : most;
    const int64_t n_blocks = (n_rows + most - 1) / most;
    return n_blocks <= 1 ? n_rows : (n_rows + n_blocks - 1) / n_blocks;
}

static int list_parts(km__part parts[KM_MAX_PARTS], train *t, double n, double positions,
                      double targets, bool recompute) {
    const km_config *c = &t->back.model->config;
    const double d = c->d_model, layers = c->n_layers, rows = (double)t->block_rows;
    const int n_parts = km__back_parts(parts, &t->back, n, positions, recompute ? 1.0 : layers);
    const km__part more[] = {
        {&t->back.resid, n * d * (layers + 1.0)},
        {&t->back.stream, rows * d},
        {&t->normed, rows * d},
        {&t->back.dlogits, rows * c->vocab_size},
        {&t->back.drows, rows * d},
        {&t->at_target, targets},
        {&t->collector.low, n * d},
        {(float **)(void *)&t->collector.moments, 4.0 * n * c->n_heads},
    };
    memcpy(parts + n_parts, more, sizeof more);
    return n_parts + (int)(sizeof more / sizeof more[0]);
}

/* What a layer keeps, moved on by `layer` layers. */
static km__layer_state state_of(const km__back *back, int64_t layer) {
    const km_config *c = &back->model->config;
    const int64_t n = back->n * layer, q = (int64_t)c->n_heads * c->head_dim;
    const int64_t kv = (int64_t)c->n_kv_heads * c->head_dim;
    km__layer_state s = back->s;
    s.q += n * q;
    s.k += n * kv;
    s.v += n * kv;
    s.qr += n * q;
    s.kr += n * kv;
    s.z += n * q;
    s.attn_branch += c->post_norms ? n * c->d_model : 0;
    s.mid += n * c->d_model;
    s.pre += n * c->d_ffn;
    s.up += c->gated_mlp ? n * c->d_ffn : 0;
    s.mlp_branch += c->post_norms ? n * c->d_model : 0;
    return s;
}

static km_status allocate(train *t, km_error *err) {
    km__back *back = &t->back;
    const km_config *config = &back->model->config;
    km__part parts[KM_MAX_PARTS];
    back->attention_floats = km__attention_back_floats(config, back->n_positions);
    t->block_rows = choose_block_rows(t->n_rows, config->vocab_size);
    const int n_parts = list_parts(parts, t, (double)back->n, back->n_positions,
                                   (double)t->pass->n_targets, t->pass->recompute);
    back->block = km__spare_take(back->model, &back->block_floats);
    KM_TRY(km__parts_allocate(back, parts, n_parts, "a training pass's buffers", err));
    KM_TRY(km_alloc_array((void **)&t->kept, back->model->ctx, config->n_layers, sizeof *t->kept,
                          err));
    for (int32_t layer = 0; layer < config->n_layers; layer++) {
        t->kept[layer] = state_of(back, t->pass->recompute ? 0 : layer);
    }
    return KM_OK;
}

int64_t km_model_train_pass_bytes(const km_model *model, int64_t n_tokens, int64_t longest,
                                  int64_t n_targets, bool recompute) {
    train t = {.back = {.model = model}};
    km__part parts[KM_MAX_PARTS];
    const int64_t most_rows = n_tokens < n_targets ? n_tokens : n_targets;
    const double per_target = 2 * sizeof(int64_t), per_layer = sizeof(km__layer_state);
    t.back.attention_floats = km__attention_back_floats(&model->config, longest);
    t.block_rows = choose_block_rows(most_rows, model->config.vocab_size);
    if (most_rows > t.block_rows) { /* fewer rows may share larger blocks */
        const int64_t more = 2 * t.block_rows;
        t.block_rows = more < most_rows ? more : most_rows;
    }
    const int n_parts =
        list_parts(parts, &t, (double)n_tokens, (double)longest, (double)n_targets, recompute);
    return (int64_t)(km__parts_floats(parts, n_parts) * sizeof(float) +
                     (double)n_tokens * KM_BACK_NODE_BYTES + (double)n_targets * per_target +
                     (double)model->config.n_layers * (per_layer + 256.0 * KM_LAYER_TENSORS));
}

/* ---- the way there ---- */

static float *resid_at(const train *t, int32_t layer) {
    return t->back.resid + layer * t->back.n * t->back.model->config.d_model;
}

static km_status embed_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const train *t = payload;
    const km__back *back = &t->back;
    const km_model *model = back->model;
    const int64_t width = model->config.d_model;
    for (int64_t i = begin; i < end; i++) {
        float *row = back->resid + i * width, *position = back->s.d + i * width;
        km_matrix_row(row, model->ctx, &model->weights.embed, back->plan.tree->ids[i]);
        for (int64_t j = 0; j < width; j++) {
            row[j] *= model->config.embed_scale;
        }
        if (model->config.position == KM_POSITION_LEARNED) {
            km_matrix_row(position, model->ctx, &model->weights.positions, back->plan.depth[i]);
            back->kernels->axpy(row, 1.0f, position, width);
        }
    }
    return KM_OK;
}

static km_status run_forward(train *t, km_error *err) {
    km__back *back = &t->back;
    const km_config *config = &back->model->config;
    KM_TRY(km__over_rows(back, back->n, embed_range, t, err));
    for (int32_t layer = 0; layer < config->n_layers; layer++) {
        float *out = resid_at(t, layer + 1);
        back->s = t->kept[layer];
        KM_TRY(km__layer_again(back, layer, err));
        KM_TRY(km__layer_finish(back, layer, out, err));
        if (!back->kernels->all_finite(out, back->n * config->d_model)) {
            return KM_SET(err, KM_ENUMERIC, "layer %d: resid_post is not finite", layer);
        }
    }
    return KM_OK;
}

/* ---- the loss ---- */

typedef struct loss_block {
    const train *t;
    int64_t row; /* the first of the block */
} loss_block;

/* 1 - tanh(x)^2 of a logit y = cap tanh(x) */
static float cap_slope(float y, float cap) {
    return 1.0f - y / cap * (y / cap);
}

/* Weight (p - [target]) summed over the row's targets, through the soft cap; `total` is the sum of
 * the weights. Without a cap the slopes are ones. */
static void find_slopes(const train *t, int64_t row, float *logits, double lse, double total) {
    const km_gradient_kernels *kernels = km_ctx_gradient_kernels(t->back.model->ctx);
    const int64_t vocab = t->back.model->config.vocab_size;
    const float cap = t->back.model->config.final_softcap, shift = (float)lse;
    const float factor = (float)(total * exp((double)shift - lse));
    float slopes[SLOPES];
    for (int64_t first = 0; first < vocab; first += SLOPES) {
        const int64_t n = vocab - first < SLOPES ? vocab - first : SLOPES;
        for (int64_t v = 0; v < n; v++) {
            slopes[v] = cap > 0.0f ? cap_slope(logits[first + v], cap) : 1.0f;
        }
        kernels->scaled_exp(logits + first, factor, shift, n);
        for (int64_t v = 0; v < n; v++) {
            logits[first + v] *= slopes[v];
        }
    }
    for (int64_t i = t->first[row]; i < t->first[row + 1]; i++) {
        const km_training_target *target = &t->pass->targets[i];
        const float slope = cap > 0.0f ? cap_slope(t->at_target[i], cap) : 1.0f;
        logits[target->id] -= target->weight * slope;
    }
}

/* From a row of logits to its losses and its derivative. */
static km_status loss_row(const train *t, int64_t row, float *logits, km_error *err) {
    const km_model *model = t->back.model;
    const km_kernels *kernels = t->back.kernels;
    const km_training_target *targets = t->pass->targets;
    const int64_t vocab = model->config.vocab_size, begin = t->first[row], end = t->first[row + 1];
    const float cap = model->config.final_softcap;
    double total = 0.0;
    if (!kernels->all_finite(logits, vocab)) {
        return KM_SET(err, KM_ENUMERIC, "logits of token %lld are not finite",
                      (long long)targets[begin].node);
    }
    if (cap > 0.0f) {
        kernels->softcap(logits, cap, vocab);
    }
    const double lse = km_logits_logsumexp(model, logits, vocab);
    for (int64_t i = begin; i < end; i++) {
        t->at_target[i] = logits[targets[i].id];
        total += (double)targets[i].weight;
        if (t->pass->losses != NULL) {
            t->pass->losses[i] = lse - (double)t->at_target[i];
        }
    }
    find_slopes(t, row, logits, lse, total);
    return KM_OK;
}

static km_status loss_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    const loss_block *block = payload;
    const train *t = block->t;
    const int64_t vocab = t->back.model->config.vocab_size;
    for (int64_t i = begin; i < end; i++) {
        KM_TRY(loss_row(t, block->row + i, t->back.dlogits + i * vocab, err));
    }
    return KM_OK;
}

static int64_t node_at(const train *t, int64_t row) {
    return t->pass->targets[t->first[row]].node;
}

/* Logits, loss and the way back to the residual stream of n rows. */
static km_status run_block(train *t, int64_t row, int64_t n, km_error *err) {
    const km__back *back = &t->back;
    const km_model *model = back->model;
    const km_weights *weights = &model->weights;
    const int64_t d = model->config.d_model, vocab = model->config.vocab_size;
    const km_matrix *unembed = model->config.tied_embeddings ? &weights->embed : &weights->unembed;
    loss_block block = {t, row};
    for (int64_t i = 0; i < n; i++) {
        memcpy(back->stream + i * d, resid_at(t, model->config.n_layers) + node_at(t, row + i) * d,
               (size_t)d * sizeof(float));
    }
    KM_TRY(km__norm_rows(back, t->normed, back->stream, &weights->final_norm, n, err));
    const km_linear_job job = {back->dlogits, t->normed, unembed, NULL, vocab, d, n};
    KM_TRY(km_linear_many(model->ctx, &job, 1, err));
    KM_TRY(km_parallel_for(model->ctx, n, 1, loss_range, &block, err));
    KM_TRY(km__collect_matrix(back, unembed, back->dlogits, t->normed, n, err));
    KM_TRY(km_linear_backward(model->ctx, back->drows, d, back->dlogits, vocab, unembed, n, false,
                              err));
    KM_TRY(km__norm_rows_backward(back, back->drows, back->drows, back->stream,
                                  &weights->final_norm, n, false, err));
    for (int64_t i = 0; i < n; i++) {
        memcpy(back->s.dx + node_at(t, row + i) * d, back->drows + i * d,
               (size_t)d * sizeof(float));
    }
    return KM_OK;
}

/* ---- the way back ---- */

static km_status run_backward(train *t, km_error *err) {
    km__back *back = &t->back;
    const km_config *config = &back->model->config;
    memset(back->s.dx, 0, (size_t)(back->n * config->d_model) * sizeof(float));
    for (int64_t row = 0; row < t->n_rows; row += t->block_rows) {
        const int64_t left = t->n_rows - row;
        KM_TRY(run_block(t, row, left < t->block_rows ? left : t->block_rows, err));
    }
    for (int32_t layer = config->n_layers - 1; layer >= 0 && layer >= t->lowest; layer--) {
        back->s = t->kept[layer];
        if (t->pass->recompute) {
            KM_TRY(km__layer_again(back, layer, err));
        }
        KM_TRY(km__layer_backward(back, layer, true, err));
    }
    return km__collect_embeddings(back, back->s.dx, err);
}

static km_status prepare(train *t, km_error *err) {
    const km_training_pass *pass = t->pass;
    const km_model *model = t->back.model;
    t->request.forward.tree = pass->tree;
    t->back.request = &t->request;
    t->back.collector = &t->collector;
    t->back.kernels = km_ctx_kernels(model->ctx);
    KM_TRY(km__weights_check(model, err));
    KM_TRY(find_rows(t, err));
    KM_TRY(km__collector_init(&t->collector, model, pass->gradients, pass->n_gradients, err));
    t->lowest = find_lowest(&t->collector, model);
    KM_TRY(km__back_plan(&t->back, &t->request.forward, err));
    KM_TRY(allocate(t, err));
    return km__back_ropes(&t->back, err);
}

km_status km_model_train_pass(const km_model *model, const km_training_pass *pass, km_error *err) {
    if (model == NULL || pass == NULL) {
        return KM_SET(err, KM_EINVAL, "no model or no pass");
    }
    km_status status = KM_OK;
    km_ctx *ctx = model->ctx;
    train t = {.back = {.model = model}, .pass = pass};
    KM_GO(prepare(&t, err));
    KM_GO(run_forward(&t, err));
    KM_GO(run_backward(&t, err));
done:
    km_free(ctx, t.kept);
    km_free(ctx, t.first);
    km__collector_clear(&t.collector, ctx);
    km__spare_keep(model, t.back.block, t.back.block_floats);
    km__back_plan_clear(&t.back);
    return status;
}
