/* export.c: a model that came as a folder, written as GGUF.
 *
 * Both formats' names of every tensor come from the list that loading uses; what else differs is
 * which rows llama's q and k and GPT-NeoX's fused matrix begin with, GPT-2's transposed matrices
 * and the 1 in Gemma's gains. */
#include <stdio.h>
#include <string.h>

#include "model/save_private.h"
#include "model/weights_private.h"

/* A model's tensors under both formats' names. */
typedef struct names {
    km_model from, to; /* their configuration; weights only as places for the lists */
    km_weight_plan a, b;
} names;

static km_status names_init(names *out, const km_model *model, km_error *err) {
    const km_weight_naming from = km__weight_naming(&model->config, model->container);
    const km_weight_naming to = km__weight_naming_written(&model->config);
    out->from.ctx = out->to.ctx = out->a.ctx = out->b.ctx = model->ctx;
    out->from.config = model->config;
    out->to.config = model->config;
    KM_TRY(km__weight_plan_new(&out->a, &out->from, &from, err));
    return km__weight_plan_new(&out->b, &out->to, &to, err);
}

static void names_clear(names *n) {
    km__weight_plan_clear(&n->a);
    km__weight_plan_clear(&n->b);
    km_free(n->from.ctx, n->from.weights.layers);
    km_free(n->to.ctx, n->to.weights.layers);
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text);
    size_t m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* What has to be done to the rows and gains. */
static void set_order(km_write_tensor *t, const km_config *c) {
    const char *name = t->name;
    if (strstr(name, ".attn_qkv.") != NULL && strcmp(c->arch, "gptneox") == 0) {
        t->order = KM_ROWS_TO_PARTS;
        t->heads = c->n_heads;
    }
    const bool q = strstr(name, ".attn_q.") != NULL;
    if (strcmp(c->arch, "llama") == 0 && (q || strstr(name, ".attn_k.") != NULL)) {
        t->order = KM_ROWS_TO_NEIGHBOURS;
        t->heads = q ? c->n_heads : c->n_kv_heads;
    }
    const bool gain = strncmp(c->arch, "gemma", 5) == 0 && ends_with(name, "_norm.weight");
    t->add = gain ? c->norm_offset : 0.0f;
}

/* The type written: vectors are float32 whatever is kept. */
static km_dtype type_of(const km_write_tensor *t, km_save_dtype dtype) {
    int64_t dims[KM_MAX_DIMS] = {1};
    km_write_dims(dims, t);
    const int64_t cols = dims[t->source->n_dims > 0 ? t->source->n_dims - 1 : 0];
    if (dtype == KM_SAVE_KEEP && t->source->n_dims < 2) {
        return KM_F32;
    }
    return km__save_type(t->name, t->source, cols, dtype, true);
}

static km_status add_tensor(km__save_list *list, const km_model *model, const names *n, int64_t i,
                            km_save_dtype dtype, km_error *err) {
    const km_weight_slot *from = &n->a.slots[i];
    const km_weight_slot *to = &n->b.slots[i];
    km_write_tensor *t = &list->items[list->n];
    if (to->is_rope_factors) {
        return KM_OK;
    }
    if (i > 0 && strcmp(n->b.slots[i - 1].name, to->name) == 0) {
        return KM_OK; /* one fused tensor */
    }
    *t = (km_write_tensor){.name = to->name,
                           .source = km_container_find(model->container, from->name),
                           .transpose = from->source.transposed || to->source.transposed};
    const bool fused = to->source.n_rows != (to->n_dims == 2 ? to->rows : to->cols);
    const bool was = from->source.n_rows != (from->n_dims == 2 ? from->rows : from->cols);
    if (t->source == NULL || fused != was) {
        return KM_SET(err, KM_EUNSUPPORTED, "tensor '%.*s' cannot be made of '%.*s'",
                      KM_SHOWN(to->name), KM_SHOWN(from->name));
    }
    set_order(t, &model->config);
    t->dtype = type_of(t, dtype);
    list->n++;
    return KM_OK;
}

/* Llama 3's factors are computed when a folder is loaded, and are a tensor in GGUF. */
static void add_factors(km__save_list *list, km_tensor_info *info, const km_model *model) {
    const float *factors = model->weights.rope_factors;
    if (factors != NULL) {
        const int64_t n = model->config.rotary_dim / 2;
        *info = (km_tensor_info){.name = "rope_freqs.weight",
                                 .dtype = KM_F32,
                                 .n_dims = 1,
                                 .dims = {n},
                                 .data = factors,
                                 .nbytes = (size_t)n * sizeof(float)};
        list->items[list->n++] =
            (km_write_tensor){.name = info->name, .source = info, .dtype = KM_F32};
    }
}

static km_status list_tensors(km__save_list *list, names *n, km_tensor_info *factors,
                              const km_model *model, km_save_dtype dtype, km_error *err) {
    KM_TRY(km__need_file(model, err));
    if (km_container_gguf(model->container) != NULL) {
        return KM_SET(err, KM_EINVAL, "the model is GGUF already");
    }
    KM_TRY(km_container_check(model->container, err));
    KM_TRY(names_init(n, model, err));
    KM_TRY(km_alloc_array((void **)&list->items, model->ctx, n->b.n + 1, sizeof *list->items, err));
    for (int64_t i = 0; i < n->b.n; i++) {
        KM_TRY(add_tensor(list, model, n, i, dtype, err));
    }
    add_factors(list, factors, model);
    return KM_OK;
}

km_status km_model_export_gguf(const km_model *model, const char *path, km_save_dtype dtype,
                               const km_export_pair *pairs, int64_t n_pairs, km_error *err) {
    names n = {0};
    km__save_list list = {NULL, 0};
    km_tensor_info factors;
    km_gguf_pair *copy = NULL;
    km_status status = KM_OK;
    KM_TRY(km__save_check_target(path, true, false, err));
    KM_GO(list_tensors(&list, &n, &factors, model, dtype, err));
    KM_GO(km_alloc_array((void **)&copy, model->ctx, n_pairs, sizeof *copy, err));
    for (int64_t i = 0; i < n_pairs; i++) {
        const km_export_pair *p = &pairs[i];
        copy[i] = (km_gguf_pair){p->key, p->type, p->element, p->n, p->data, p->nbytes};
    }
    KM_GO(km_gguf_write(path, model->ctx, copy, n_pairs, list.items, list.n, err));
done:
    km_free(model->ctx, copy);
    km_free(model->ctx, list.items);
    names_clear(&n);
    return status;
}
