/* weights_names.c: which tensors a configuration has and what containers call them.
 *
 * One table over all architectures; a row that a configuration does not need makes no slot. The
 * order of the rows numbers the streams of a random model: new rows go to the end. */
#include <stdio.h>
#include <string.h>

#include "model/weights_private.h"

/* Shapes in the letters of km/model.h. */
typedef enum shape_kind {
    VECTOR_D,
    VECTOR_DH,
    VECTOR_Q,
    VECTOR_KV,
    VECTOR_F,
    MATRIX_Q,    /* (H*Dh, D) */
    MATRIX_KV,   /* (K*Dh, D) */
    MATRIX_O,    /* (D, H*Dh) */
    MATRIX_UP,   /* (F, D) */
    MATRIX_DOWN, /* (D, F) */
} shape_kind;

typedef enum needed_when {
    ALWAYS,
    WITH_QK_NORM,
    WITH_POST_NORMS,
    WITH_GATE,
    WITH_NORM_BIAS,
    WITH_QKV_BIAS,
    WITH_OUT_BIAS,
    WITH_MLP_BIAS,
    WITH_GATE_BIAS
} needed_when;

typedef enum fused_part { ALONE = -1, PART_Q, PART_K, PART_V } fused_part;

typedef struct layer_tensor {
    size_t place; /* offset in km_layer_weights */
    shape_kind shape;
    needed_when when;
    fused_part part;
    const char *names[KM_N_NAMES]; /* behind "blk.0." or "layers.0."; NULL where there is none */
} layer_tensor;

#define PLACE(member) offsetof(km_layer_weights, member)
#define LLAMA(name) name, name

/* Names: GGUF, Llama and its kin, Gemma, GPT-2, GPT-NeoX. */
static const layer_tensor LAYER[] = {
    {PLACE(attn_norm.gain),
     VECTOR_D,
     ALWAYS,
     ALONE,
     {"attn_norm.weight", LLAMA("input_layernorm.weight"), "ln_1.weight",
      "input_layernorm.weight"}},
    {PLACE(wq),
     MATRIX_Q,
     ALWAYS,
     PART_Q,
     {"attn_q.weight", LLAMA("self_attn.q_proj.weight"), "attn.c_attn.weight",
      "attention.query_key_value.weight"}},
    {PLACE(wk),
     MATRIX_KV,
     ALWAYS,
     PART_K,
     {"attn_k.weight", LLAMA("self_attn.k_proj.weight"), "attn.c_attn.weight",
      "attention.query_key_value.weight"}},
    {PLACE(wv),
     MATRIX_KV,
     ALWAYS,
     PART_V,
     {"attn_v.weight", LLAMA("self_attn.v_proj.weight"), "attn.c_attn.weight",
      "attention.query_key_value.weight"}},
    {PLACE(q_norm),
     VECTOR_DH,
     WITH_QK_NORM,
     ALONE,
     {"attn_q_norm.weight", LLAMA("self_attn.q_norm.weight"), NULL, NULL}},
    {PLACE(k_norm),
     VECTOR_DH,
     WITH_QK_NORM,
     ALONE,
     {"attn_k_norm.weight", LLAMA("self_attn.k_norm.weight"), NULL, NULL}},
    {PLACE(wo),
     MATRIX_O,
     ALWAYS,
     ALONE,
     {"attn_output.weight", LLAMA("self_attn.o_proj.weight"), "attn.c_proj.weight",
      "attention.dense.weight"}},
    {PLACE(attn_post_norm.gain),
     VECTOR_D,
     WITH_POST_NORMS,
     ALONE,
     {"post_attention_norm.weight", NULL, "post_attention_layernorm.weight", NULL, NULL}},
    {PLACE(ffn_norm.gain),
     VECTOR_D,
     ALWAYS,
     ALONE,
     {"ffn_norm.weight", "post_attention_layernorm.weight", "pre_feedforward_layernorm.weight",
      "ln_2.weight", "post_attention_layernorm.weight"}},
    {PLACE(w_gate),
     MATRIX_UP,
     WITH_GATE,
     ALONE,
     {"ffn_gate.weight", LLAMA("mlp.gate_proj.weight"), NULL, NULL}},
    {PLACE(w_up),
     MATRIX_UP,
     ALWAYS,
     ALONE,
     {"ffn_up.weight", LLAMA("mlp.up_proj.weight"), "mlp.c_fc.weight", "mlp.dense_h_to_4h.weight"}},
    {PLACE(w_down),
     MATRIX_DOWN,
     ALWAYS,
     ALONE,
     {"ffn_down.weight", LLAMA("mlp.down_proj.weight"), "mlp.c_proj.weight",
      "mlp.dense_4h_to_h.weight"}},
    {PLACE(ffn_post_norm.gain),
     VECTOR_D,
     WITH_POST_NORMS,
     ALONE,
     {"post_ffw_norm.weight", NULL, "post_feedforward_layernorm.weight", NULL, NULL}},
    {PLACE(attn_norm.bias),
     VECTOR_D,
     WITH_NORM_BIAS,
     ALONE,
     {"attn_norm.bias", LLAMA(NULL), "ln_1.bias", "input_layernorm.bias"}},
    {PLACE(ffn_norm.bias),
     VECTOR_D,
     WITH_NORM_BIAS,
     ALONE,
     {"ffn_norm.bias", LLAMA(NULL), "ln_2.bias", "post_attention_layernorm.bias"}},
    {PLACE(bq),
     VECTOR_Q,
     WITH_QKV_BIAS,
     PART_Q,
     {"attn_q.bias", LLAMA("self_attn.q_proj.bias"), "attn.c_attn.bias",
      "attention.query_key_value.bias"}},
    {PLACE(bk),
     VECTOR_KV,
     WITH_QKV_BIAS,
     PART_K,
     {"attn_k.bias", LLAMA("self_attn.k_proj.bias"), "attn.c_attn.bias",
      "attention.query_key_value.bias"}},
    {PLACE(bv),
     VECTOR_KV,
     WITH_QKV_BIAS,
     PART_V,
     {"attn_v.bias", LLAMA("self_attn.v_proj.bias"), "attn.c_attn.bias",
      "attention.query_key_value.bias"}},
    {PLACE(bo),
     VECTOR_D,
     WITH_OUT_BIAS,
     ALONE,
     {"attn_output.bias", LLAMA("self_attn.o_proj.bias"), "attn.c_proj.bias",
      "attention.dense.bias"}},
    {PLACE(b_gate),
     VECTOR_F,
     WITH_GATE_BIAS,
     ALONE,
     {"ffn_gate.bias", LLAMA("mlp.gate_proj.bias"), NULL, NULL}},
    {PLACE(b_up),
     VECTOR_F,
     WITH_MLP_BIAS,
     ALONE,
     {"ffn_up.bias", LLAMA("mlp.up_proj.bias"), "mlp.c_fc.bias", "mlp.dense_h_to_4h.bias"}},
    {PLACE(b_down),
     VECTOR_D,
     WITH_MLP_BIAS,
     ALONE,
     {"ffn_down.bias", LLAMA("mlp.down_proj.bias"), "mlp.c_proj.bias", "mlp.dense_4h_to_h.bias"}},
};
_Static_assert(sizeof(LAYER) / sizeof(LAYER[0]) == KM_LAYER_TENSORS, "room for every layer tensor");

static const char *const EMBED[KM_N_NAMES] = {"token_embd.weight", LLAMA("embed_tokens.weight"),
                                              "wte.weight", "embed_in.weight"};
static const char *const POSITIONS[KM_N_NAMES] = {"position_embd.weight", LLAMA(NULL), "wpe.weight",
                                                  NULL};
static const char *const FINAL_GAIN[KM_N_NAMES] = {"output_norm.weight", LLAMA("norm.weight"),
                                                   "ln_f.weight", "final_layer_norm.weight"};
static const char *const FINAL_BIAS[KM_N_NAMES] = {"output_norm.bias", LLAMA(NULL), "ln_f.bias",
                                                   "final_layer_norm.bias"};
static const char *const LAYERS[KM_N_NAMES] = {"blk", LLAMA("layers"), "h", "layers"};

/* ---- a container's names ---- */

static bool has(const km_container *container, const char *prefix, const char *name) {
    char full[112];
    (void)snprintf(full, sizeof(full), "%s%s", prefix, name);
    return km_container_find(container, full) != NULL;
}

static km_weight_scheme scheme_of(const km_config *config) {
    return strcmp(config->arch, "gpt2") == 0      ? KM_NAMES_HF_GPT2
           : strcmp(config->arch, "gptneox") == 0 ? KM_NAMES_HF_NEOX
           : config->post_norms                   ? KM_NAMES_HF_GEMMA
                                                  : KM_NAMES_HF_LLAMA;
}

/* What stands before the embedding: text-only folders, the two generations of Gemma 3 with images,
 * GPT-2 with and without, GPT-NeoX. */
static const char *const PREFIXES[KM_N_NAMES][4] = {
    [KM_NAMES_HF_LLAMA] = {"model."},
    [KM_NAMES_HF_GEMMA] = {"model.", "language_model.model.", "model.language_model."},
    [KM_NAMES_HF_GPT2] = {"transformer.", ""},
    [KM_NAMES_HF_NEOX] = {"gpt_neox."},
};

/* The first that fits; the first of a scheme when none does. */
static const char *find_prefix(km_weight_scheme scheme, const km_container *container) {
    for (const char *const *prefix = PREFIXES[scheme]; *prefix != NULL; prefix++) {
        if (has(container, *prefix, EMBED[scheme])) {
            return *prefix;
        }
    }
    return PREFIXES[scheme][0];
}

km_weight_naming km__weight_naming(const km_config *config, const km_container *container) {
    km_weight_naming naming = {KM_NAMES_GGUF, "", "output.weight", false, false};
    if (km_container_gguf(container) != NULL) {
        naming.fused = has(container, "", "blk.0.attn_qkv.weight");
        naming.rope_factors =
            strcmp(config->arch, "llama") == 0 && has(container, "", "rope_freqs.weight");
        return naming;
    }
    naming.scheme = scheme_of(config);
    naming.prefix = find_prefix(naming.scheme, container);
    /* lm_head stands beside "model.", or inside "language_model."; GPT-NeoX calls it embed_out
     * before transformers 5. */
    const bool inside = strcmp(naming.prefix, "language_model.model.") == 0;
    naming.unembed = inside ? "language_model.lm_head.weight" : "lm_head.weight";
    if (naming.scheme == KM_NAMES_HF_NEOX && !has(container, "", naming.unembed)) {
        naming.unembed = "embed_out.weight";
    }
    return naming;
}

km_weight_naming km__weight_naming_written(const km_config *config) {
    const km_weight_scheme scheme = scheme_of(config);
    const bool fused = scheme == KM_NAMES_HF_GPT2 || scheme == KM_NAMES_HF_NEOX;
    return (km_weight_naming){KM_NAMES_GGUF, "", "output.weight", fused,
                              config->rope_factor != 0.0};
}

km_weight_naming km__weight_naming_folder(const km_config *config) {
    const km_weight_scheme scheme = scheme_of(config);
    return (km_weight_naming){scheme, PREFIXES[scheme][0], "lm_head.weight", false, false};
}

static bool ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

/* Tables of angles, causal masks that old GPT-2 and GPT-NeoX files hold as buffers, and the parts
 * of Gemma 3 that see images. */
bool km__weight_is_ignored(const km_weight_naming *naming, const km_tensor_info *info) {
    const bool gpt = naming->scheme == KM_NAMES_HF_GPT2 || naming->scheme == KM_NAMES_HF_NEOX;
    const bool mask = ends_with(info->name, "attn.bias") || ends_with(info->name, "attention.bias");
    return ends_with(info->name, "rotary_emb.inv_freq") ||
           (gpt && ((mask && info->n_dims == 4) || ends_with(info->name, ".masked_bias"))) ||
           (naming->scheme == KM_NAMES_HF_GEMMA &&
            (strstr(info->name, "vision_tower.") != NULL ||
             strstr(info->name, "multi_modal_projector.") != NULL));
}

/* ---- slots ---- */

static km_weight_slot *add_slot(km_weight_plan *plan, int64_t rows, int64_t cols, int n_dims) {
    km_weight_slot *slot = &plan->slots[plan->n++];
    slot->rows = rows;
    slot->cols = cols;
    slot->n_dims = n_dims;
    slot->dtype = KM_F32;
    const int64_t n = n_dims == 2 ? rows : cols;
    slot->source = (km_weight_rows){0, n, 0, n, false};
    return slot;
}

static km_weight_slot *add_matrix(km_weight_plan *plan, km_matrix *place, int64_t rows,
                                  int64_t cols) {
    km_weight_slot *slot = add_slot(plan, rows, cols, 2);
    slot->matrix = place;
    return slot;
}

static km_weight_slot *add_vector(km_weight_plan *plan, const float **place, int64_t n) {
    km_weight_slot *slot = add_slot(plan, 1, n, 1);
    slot->vector = place;
    return slot;
}

static void name_top(km_weight_slot *slot, const km_weight_naming *naming,
                     const char *const names[KM_N_NAMES]) {
    if (naming->scheme != KM_NAMES_NONE) {
        (void)snprintf(slot->name, sizeof(slot->name), "%s%s", naming->prefix,
                       names[naming->scheme]);
    }
}

void km__weight_slots_top(km_weight_plan *plan, km_model *model, const km_weight_naming *naming) {
    const km_config *c = &model->config;
    km_weights *w = &model->weights;
    name_top(add_matrix(plan, &w->embed, c->vocab_size, c->d_model), naming, EMBED);
    if (c->position == KM_POSITION_LEARNED) {
        name_top(add_matrix(plan, &w->positions, c->context_length, c->d_model), naming, POSITIONS);
    }
    name_top(add_vector(plan, &w->final_norm.gain, c->d_model), naming, FINAL_GAIN);
    if (c->norm == KM_NORM_LAYER) {
        km_weight_slot *slot = add_vector(plan, &w->final_norm.bias, c->d_model);
        slot->is_bias = true;
        name_top(slot, naming, FINAL_BIAS);
    }
    if (!c->tied_embeddings) {
        km_weight_slot *slot = add_matrix(plan, &w->unembed, c->vocab_size, c->d_model);
        if (naming->scheme != KM_NAMES_NONE) {
            (void)snprintf(slot->name, sizeof(slot->name), "%s", naming->unembed);
        }
    }
}

void km__weight_slot_rope_factors(km_weight_plan *plan, km_model *model,
                                  const km_weight_naming *naming) {
    const km_config *c = &model->config;
    const km_model *origin = model->origin;
    const bool inherited = origin != NULL && origin->weights.rope_factors != NULL;
    if (c->rope_factor != 0.0 || naming->rope_factors || inherited) {
        km_weight_slot *slot = add_vector(plan, &model->weights.rope_factors, c->rotary_dim / 2);
        slot->is_rope_factors = true;
        if (naming->rope_factors) {
            (void)snprintf(slot->name, sizeof(slot->name), "rope_freqs.weight");
        }
    }
}

static bool is_needed(const km_config *c, needed_when when) {
    const bool needed[] = {[ALWAYS] = true,
                           [WITH_QK_NORM] = c->qk_norm,
                           [WITH_POST_NORMS] = c->post_norms,
                           [WITH_GATE] = c->gated_mlp,
                           [WITH_NORM_BIAS] = c->norm == KM_NORM_LAYER,
                           [WITH_QKV_BIAS] = c->qkv_bias,
                           [WITH_OUT_BIAS] = c->attn_out_bias,
                           [WITH_MLP_BIAS] = c->mlp_bias,
                           [WITH_GATE_BIAS] = c->mlp_bias && c->gated_mlp};
    return needed[when];
}

/* The slot of one tensor of a layer; `base` is the layer's weights. */
static km_weight_slot *add_shaped(km_weight_plan *plan, const km_config *c, char *base,
                                  const layer_tensor *t) {
    const int64_t d = c->d_model, f = c->d_ffn;
    const int64_t q = (int64_t)c->n_heads * c->head_dim;
    const int64_t kv = (int64_t)c->n_kv_heads * c->head_dim;
    const int64_t sizes[][2] = {[VECTOR_D] = {1, d},   [VECTOR_DH] = {1, c->head_dim},
                                [VECTOR_Q] = {1, q},   [VECTOR_KV] = {1, kv},
                                [VECTOR_F] = {1, f},   [MATRIX_Q] = {q, d},
                                [MATRIX_KV] = {kv, d}, [MATRIX_O] = {d, q},
                                [MATRIX_UP] = {f, d},  [MATRIX_DOWN] = {d, f}};
    const int64_t rows = sizes[t->shape][0], cols = sizes[t->shape][1];
    if (t->shape < MATRIX_Q) {
        return add_vector(plan, (const float **)(void *)(base + t->place), cols);
    }
    return add_matrix(plan, (km_matrix *)(void *)(base + t->place), rows, cols);
}

/* Where q, k and v are in a fused tensor: three blocks, or (GPT-NeoX) three for each head. */
static void set_source(km_weight_slot *slot, const km_config *c, const layer_tensor *t,
                       const km_weight_naming *naming) {
    const int64_t q = (int64_t)c->n_heads * c->head_dim;
    const int64_t kv = (int64_t)c->n_kv_heads * c->head_dim;
    const bool blocks = naming->fused || naming->scheme == KM_NAMES_HF_GPT2;
    slot->source.transposed = naming->scheme == KM_NAMES_HF_GPT2 && slot->n_dims == 2;
    if (t->part == ALONE) {
        return;
    }
    if (blocks) {
        slot->source.first = t->part == PART_Q ? 0 : t->part == PART_K ? q : q + kv;
        slot->source.n_rows = q + 2 * kv;
    } else if (naming->scheme == KM_NAMES_HF_NEOX) {
        const int64_t width = c->head_dim;
        slot->source = (km_weight_rows){t->part * width, width, 3 * width, 3 * q, false};
    }
}

static void name_layer(km_weight_slot *slot, const layer_tensor *t, const km_weight_naming *naming,
                       int32_t layer) {
    const char *name = t->names[naming->scheme];
    if (naming->fused && t->part != ALONE) {
        name = slot->n_dims == 2 ? "attn_qkv.weight" : "attn_qkv.bias";
    }
    (void)snprintf(slot->name, sizeof(slot->name), "%s%s.%d.%s", naming->prefix,
                   LAYERS[naming->scheme], layer, name);
}

void km__weight_slots_layer(km_weight_plan *plan, km_model *model, const km_weight_naming *naming,
                            int32_t layer) {
    for (size_t i = 0; i < KM_LAYER_TENSORS; i++) {
        const layer_tensor *t = &LAYER[i];
        if (!is_needed(&model->config, t->when)) {
            continue;
        }
        char *base = (char *)&model->weights.layers[layer];
        km_weight_slot *slot = add_shaped(plan, &model->config, base, t);
        slot->is_bias = t->when >= WITH_NORM_BIAS;
        if (naming->scheme != KM_NAMES_NONE) {
            set_source(slot, &model->config, t, naming);
            name_layer(slot, t, naming, layer);
        }
    }
}
