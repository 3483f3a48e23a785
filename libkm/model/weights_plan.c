/* weights_plan.c: which tensors a configuration has, what they are called and how large they are.
 */
#include "model/weights_private.h"

#include <stdio.h>
#include <string.h>

/* Shapes in the letters of km/model.h. */
typedef enum shape_kind {
    GAIN_D,
    GAIN_DH,
    MATRIX_Q,    /* (H*Dh, D) */
    MATRIX_KV,   /* (K*Dh, D) */
    MATRIX_O,    /* (D, H*Dh) */
    MATRIX_UP,   /* (F, D) */
    MATRIX_DOWN, /* (D, F) */
} shape_kind;

typedef enum needed_when { ALWAYS, WITH_QK_NORM, WITH_POST_NORMS } needed_when;

typedef struct layer_tensor {
    size_t place; /* offset in km_layer_weights */
    const char *gguf;
    const char *hf;
    const char *hf_post_norms; /* NULL: the same */
    shape_kind shape;
    needed_when when;
} layer_tensor;

/* With post norms "post_attention_layernorm" is the norm after attention; without, before the MLP.
 */
static const layer_tensor LAYER[] = {
    {offsetof(km_layer_weights, attn_norm.gain), "attn_norm", "input_layernorm", NULL, GAIN_D,
     ALWAYS},
    {offsetof(km_layer_weights, wq), "attn_q", "self_attn.q_proj", NULL, MATRIX_Q, ALWAYS},
    {offsetof(km_layer_weights, wk), "attn_k", "self_attn.k_proj", NULL, MATRIX_KV, ALWAYS},
    {offsetof(km_layer_weights, wv), "attn_v", "self_attn.v_proj", NULL, MATRIX_KV, ALWAYS},
    {offsetof(km_layer_weights, q_norm), "attn_q_norm", "self_attn.q_norm", NULL, GAIN_DH,
     WITH_QK_NORM},
    {offsetof(km_layer_weights, k_norm), "attn_k_norm", "self_attn.k_norm", NULL, GAIN_DH,
     WITH_QK_NORM},
    {offsetof(km_layer_weights, wo), "attn_output", "self_attn.o_proj", NULL, MATRIX_O, ALWAYS},
    {offsetof(km_layer_weights, attn_post_norm.gain), "post_attention_norm",
     "post_attention_layernorm", NULL, GAIN_D, WITH_POST_NORMS},
    {offsetof(km_layer_weights, ffn_norm.gain), "ffn_norm", "post_attention_layernorm",
     "pre_feedforward_layernorm", GAIN_D, ALWAYS},
    {offsetof(km_layer_weights, w_gate), "ffn_gate", "mlp.gate_proj", NULL, MATRIX_UP, ALWAYS},
    {offsetof(km_layer_weights, w_up), "ffn_up", "mlp.up_proj", NULL, MATRIX_UP, ALWAYS},
    {offsetof(km_layer_weights, w_down), "ffn_down", "mlp.down_proj", NULL, MATRIX_DOWN, ALWAYS},
    {offsetof(km_layer_weights, ffn_post_norm.gain), "post_ffw_norm", "post_feedforward_layernorm",
     NULL, GAIN_D, WITH_POST_NORMS},
};
#define LAYER_TENSORS ((int64_t)(sizeof(LAYER) / sizeof(LAYER[0])))
#define TOP_TENSORS 3 /* embedding, final norm, unembedding */

static km_weight_slot *add_matrix(km_weight_plan *plan, km_matrix *place, int64_t rows,
                                  int64_t cols) {
    km_weight_slot *slot = &plan->slots[plan->n++];
    slot->matrix = place;
    slot->rows = rows;
    slot->cols = cols;
    slot->n_dims = 2;
    return slot;
}

static km_weight_slot *add_vector(km_weight_plan *plan, const float **place, int64_t n) {
    km_weight_slot *slot = &plan->slots[plan->n++];
    slot->vector = place;
    slot->rows = 1;
    slot->cols = n;
    slot->n_dims = 1;
    return slot;
}

/* lm_head stands beside the prefix "model.", or inside "language_model." */
static void add_top(km_weight_plan *plan, km_model *model, km_weight_names names,
                    const char *prefix) {
    const km_config *c = &model->config;
    bool gguf = names == KM_NAMES_GGUF;
    bool named = names != KM_NAMES_NONE;
    km_weight_slot *slot = add_matrix(plan, &model->weights.embed, c->vocab_size, c->d_model);
    if (named) {
        (void)snprintf(slot->name, sizeof(slot->name), "%s%s.weight", gguf ? "" : prefix,
                       gguf ? "token_embd" : "embed_tokens");
    }
    slot = add_vector(plan, &model->weights.final_norm.gain, c->d_model);
    if (named) {
        (void)snprintf(slot->name, sizeof(slot->name), "%s%s.weight", gguf ? "" : prefix,
                       gguf ? "output_norm" : "norm");
    }
    if (c->tied_embeddings) {
        return;
    }
    slot = add_matrix(plan, &model->weights.unembed, c->vocab_size, c->d_model);
    if (named) {
        bool inside = strcmp(prefix, "language_model.model.") == 0;
        (void)snprintf(slot->name, sizeof(slot->name), "%s%s.weight",
                       !gguf && inside ? "language_model." : "", gguf ? "output" : "lm_head");
    }
}

static bool is_needed(const km_config *c, needed_when when) {
    return when == ALWAYS || (when == WITH_QK_NORM && c->qk_norm) ||
           (when == WITH_POST_NORMS && c->post_norms);
}

/* The slot of one tensor of a layer; `base` is the layer's weights. */
static km_weight_slot *add_shaped(km_weight_plan *plan, const km_config *c, char *base,
                                  const layer_tensor *t) {
    const int64_t d = c->d_model;
    const int64_t q = (int64_t)c->n_heads * c->head_dim;
    const int64_t kv = (int64_t)c->n_kv_heads * c->head_dim;
    const int64_t sizes[][2] = {{1, d}, {1, c->head_dim}, {q, d},       {kv, d},
                                {d, q}, {c->d_ffn, d},    {d, c->d_ffn}};
    const int64_t rows = sizes[t->shape][0], cols = sizes[t->shape][1];
    if (t->shape == GAIN_D || t->shape == GAIN_DH) {
        return add_vector(plan, (const float **)(void *)(base + t->place), cols);
    }
    return add_matrix(plan, (km_matrix *)(void *)(base + t->place), rows, cols);
}

static void add_layer(km_weight_plan *plan, km_model *model, int32_t layer, km_weight_names names,
                      const char *prefix) {
    const km_config *c = &model->config;
    for (int64_t i = 0; i < LAYER_TENSORS; i++) {
        const layer_tensor *t = &LAYER[i];
        if (!is_needed(c, t->when)) {
            continue;
        }
        km_weight_slot *slot = add_shaped(plan, c, (char *)&model->weights.layers[layer], t);
        if (names == KM_NAMES_GGUF) {
            (void)snprintf(slot->name, sizeof(slot->name), "blk.%d.%s.weight", layer, t->gguf);
        } else if (names == KM_NAMES_HF) {
            const char *name = c->post_norms && t->hf_post_norms != NULL ? t->hf_post_norms : t->hf;
            (void)snprintf(slot->name, sizeof(slot->name), "%slayers.%d.%s.weight", prefix, layer,
                           name);
        }
    }
}

km_status km__weight_plan_new(km_weight_plan *plan, km_model *model, km_weight_names names,
                              const char *prefix, km_error *err) {
    const int64_t n_layers = model->config.n_layers;
    *plan = (km_weight_plan){model->ctx, NULL, 0, 0};
    KM_TRY(km_alloc_array((void **)&model->weights.layers, model->ctx, n_layers,
                          sizeof(*model->weights.layers), err));
    KM_TRY(km_alloc_array((void **)&plan->slots, model->ctx, TOP_TENSORS + n_layers * LAYER_TENSORS,
                          sizeof(*plan->slots), err));
    add_top(plan, model, names, prefix);
    for (int32_t layer = 0; layer < n_layers; layer++) {
        add_layer(plan, model, layer, names, prefix);
    }
    return KM_OK;
}

void km__weight_plan_clear(km_weight_plan *plan) {
    km_free(plan->ctx, plan->slots);
    *plan = (km_weight_plan){plan->ctx, NULL, 0, 0};
}

static km_status lay_out(km_weight_plan *plan, km_error *err) {
    const int64_t line = 64 / (int64_t)sizeof(float);
    int64_t total = 0;
    for (int64_t i = 0; i < plan->n; i++) {
        km_weight_slot *slot = &plan->slots[i];
        if (slot->offset < 0) {
            continue;
        }
        int64_t n = (slot->rows * slot->cols + line - 1) / line * line;
        if (n > INT64_MAX / 16 - total) {
            return KM_SET(err, KM_ENOMEM, "the configuration asks for more weights than can exist");
        }
        slot->offset = total;
        total += n;
    }
    plan->n_floats = total;
    return KM_OK;
}

km_status km__weight_plan_allocate(km_weight_plan *plan, km_model *model, int64_t max_bytes,
                                   km_error *err) {
    const double mib = 1024.0 * 1024.0;
    KM_TRY(lay_out(plan, err));
    size_t needed = (size_t)plan->n_floats * sizeof(float);
    size_t limit = max_bytes > 0 ? (size_t)max_bytes : km_memory_available();
    if (needed > limit) {
        return KM_SET(err, KM_ENOMEM, "weights held as float32 need %.1f MiB, %.1f MiB are %s",
                      (double)needed / mib, (double)limit / mib,
                      max_bytes > 0 ? "allowed" : "available");
    }
    return km_alloc((void **)&model->weights.storage, model->ctx, needed, err);
}

/* With out NULL only counts. */
static int64_t cut(km_weight_range *out, const km_weight_plan *plan) {
    int64_t n = 0;
    for (int64_t i = 0; i < plan->n; i++) {
        const km_weight_slot *slot = &plan->slots[i];
        int64_t total = slot->offset < 0 ? 0 : slot->rows * slot->cols;
        for (int64_t begin = 0; begin < total; begin += KM_WEIGHT_RANGE) {
            int64_t end = total - begin > KM_WEIGHT_RANGE ? begin + KM_WEIGHT_RANGE : total;
            if (out != NULL) {
                out[n] = (km_weight_range){slot, begin, end};
            }
            n++;
        }
    }
    return n;
}

km_status km__weight_plan_cut(km_weight_range **out, int64_t *n, const km_weight_plan *plan,
                              km_error *err) {
    *n = cut(NULL, plan);
    KM_TRY(km_alloc_array((void **)out, plan->ctx, *n, sizeof(**out), err));
    (void)cut(*out, plan);
    return KM_OK;
}

static void connect_slot(const km_weight_slot *slot, const float *storage) {
    const bool converted = slot->offset >= 0;
    const void *data = converted ? storage + slot->offset : slot->info->data;
    if (slot->matrix != NULL) {
        const km_dtype dtype = converted ? KM_F32 : slot->info->dtype;
        *slot->matrix = (km_matrix){data, dtype, slot->rows, slot->cols};
    } else {
        *slot->vector = data;
    }
}

void km__weight_plan_connect(const km_weight_plan *plan, km_model *model) {
    model->n_parameters = 0;
    for (int64_t i = 0; i < plan->n; i++) {
        const km_weight_slot *slot = &plan->slots[i];
        connect_slot(slot, model->weights.storage);
        model->n_parameters += slot->rows * slot->cols;
    }
    if (model->config.tied_embeddings) {
        model->weights.unembed = model->weights.embed;
    }
}
