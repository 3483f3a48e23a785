/* weights.c: find a model's tensors in its container. Matrices are used as they are stored;
 * what cannot be is copied (weights_copy.c). */
#include "model/parameters.h"
#include "model/weights_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- finding ---- */

/* "(3, 4)" */
static void write_shape(char *out, size_t size, const int64_t *dims, int n_dims) {
    int n = snprintf(out, size, "(");
    for (int i = 0; i < n_dims; i++) {
        n += snprintf(out + n, size - (size_t)n, "%s%" PRId64, i > 0 ? ", " : "", dims[i]);
    }
    (void)snprintf(out + n, size - (size_t)n, ")");
}

static km_status check_shape(const km_weight_slot *slot, km_error *err) {
    const km_tensor_info *info = slot->info;
    const km_weight_rows *rows = &slot->source;
    const int64_t wanted[2] = {rows->transposed ? slot->cols : rows->n_rows,
                               rows->transposed ? rows->n_rows : slot->cols};
    bool fits = info->n_dims == slot->n_dims && info->dims[0] == wanted[0] &&
                (slot->n_dims == 1 || info->dims[1] == wanted[1]);
    if (fits) {
        return KM_OK;
    }
    char given[96], needed[96];
    write_shape(given, sizeof(given), info->dims, info->n_dims);
    write_shape(needed, sizeof(needed), wanted, slot->n_dims);
    return KM_SET(err, KM_EFORMAT, "tensor '%s' has shape %s, the configuration needs %s",
                  slot->name, given, needed);
}

/* Matrices whose rows follow each other, at an address their numbers may have, and float32
 * vectors. */
static bool usable_in_place(const km_weight_slot *slot) {
    const km_dtype dtype = slot->info->dtype;
    const size_t alignment = dtype == KM_F32                       ? _Alignof(float)
                             : dtype == KM_F16 || dtype == KM_BF16 ? _Alignof(uint16_t)
                                                                   : 1;
    return (slot->matrix != NULL || dtype == KM_F32) && !slot->source.transposed &&
           slot->source.stride == 0 && (uintptr_t)slot->info->data % alignment == 0;
}

static km_status find_tensors(km_weight_plan *plan, const km_container *container, km_error *err) {
    for (int64_t i = 0; i < plan->n; i++) {
        km_weight_slot *slot = &plan->slots[i];
        if (slot->name[0] == '\0') {
            continue; /* factors, to be computed */
        }
        slot->info = km_container_find(container, slot->name);
        if (slot->info == NULL) {
            return KM_SET(err, KM_EFORMAT, "tensor '%s' is missing", slot->name);
        }
        KM_TRY(check_shape(slot, err));
        slot->dtype = slot->matrix != NULL ? slot->info->dtype : KM_F32;
        slot->offset = usable_in_place(slot) ? -1 : 0;
    }
    return KM_OK;
}

static int compare_infos(const void *a, const void *b) {
    uintptr_t x = (uintptr_t)*(const km_tensor_info *const *)a;
    uintptr_t y = (uintptr_t)*(const km_tensor_info *const *)b;
    return (x > y) - (x < y);
}

/* A folder may repeat a tied embedding as lm_head; only the same bytes mean the same model. */
static bool repeats_embedding(const km_weight_plan *plan, const km_tensor_info *info) {
    const km_tensor_info *embed = plan->slots[0].info;
    return strstr(info->name, "lm_head.weight") != NULL && info->dtype == embed->dtype &&
           info->nbytes == embed->nbytes && memcmp(info->data, embed->data, embed->nbytes) == 0;
}

/* A tensor nobody asked for (a bias, an adapter, an expert) would change the numbers: refuse. */
static km_status check_unused(const km_weight_plan *plan, const km_config *config,
                              const km_weight_naming *naming, const km_container *container,
                              km_error *err) {
    km_status status = KM_OK;
    const km_tensor_info **used = NULL;
    KM_GO(km_alloc_array((void **)&used, plan->ctx, plan->n, sizeof(*used), err));
    for (int64_t i = 0; i < plan->n; i++) {
        used[i] = plan->slots[i].info;
    }
    qsort(used, (size_t)plan->n, sizeof(*used), compare_infos);
    for (int64_t i = 0; i < km_container_n_tensors(container); i++) {
        const km_tensor_info *info = km_container_tensor(container, i);
        if (bsearch(&info, used, (size_t)plan->n, sizeof(*used), compare_infos) == NULL &&
            !km__weight_is_ignored(naming, info) &&
            !(config->tied_embeddings && repeats_embedding(plan, info))) {
            KM_FAIL(
                err, KM_EUNSUPPORTED,
                "tensor '%.*s' is no part of a %s model as km computes it; leaving it out would "
                "change the numbers",
                KM_SHOWN(info->name), config->arch);
        }
    }
done:
    km_free(plan->ctx, used);
    return status;
}

/* Remember what has not been looked at: it is read, and checked, when the model first runs. Of
 * parts of one tensor the first stands for all. */
static km_status list_maps(km_model *model, const km_weight_plan *plan, km_error *err) {
    km_weights *weights = &model->weights;
    KM_TRY(
        km_alloc_array((void **)&weights->maps, model->ctx, plan->n, sizeof(*weights->maps), err));
    for (int64_t i = 0; i < plan->n; i++) {
        const km_weight_slot *slot = &plan->slots[i];
        if ((slot->matrix != NULL || slot->offset < 0) && slot->source.first == 0) {
            weights->maps[weights->n_maps++] = slot->info;
        }
    }
    return KM_OK;
}

/* ---- loading ---- */

static void set_precision(km_model *model, const km_weight_plan *plan) {
    int64_t count[KM_DTYPE_COUNT] = {0};
    int best = 0;
    for (int64_t i = 0; i < plan->n; i++) {
        const km_weight_slot *slot = &plan->slots[i];
        if (slot->matrix != NULL && slot->source.first == 0) { /* q, k, v of one tensor: once */
            count[slot->info->dtype]++;
        }
    }
    for (int i = 1; i < KM_DTYPE_COUNT; i++) {
        best = count[i] > count[best] ? i : best;
    }
    (void)snprintf(model->precision, sizeof(model->precision), "%s",
                   km_dtype_get((km_dtype)best)->name);
}

static km_status load(km_model *model, km_weight_plan *plan, const km_model_options *options,
                      km_error *err) {
    const km_container *container = model->container;
    const km_weight_naming naming = km__weight_naming(&model->config, container);
    KM_TRY(km_container_check(container, err));
    KM_TRY(km__weight_plan_new(plan, model, &naming, err));
    KM_TRY(find_tensors(plan, container, err));
    KM_TRY(check_unused(plan, &model->config, &naming, container, err));
    KM_TRY(km__weight_plan_allocate(plan, model, options->max_bytes, err));
    KM_TRY(km__weight_plan_copy(plan, model, err));
    KM_TRY(list_maps(model, plan, err));
    km__weight_plan_connect(plan, model);
    set_precision(model, plan);
    return km__parameters_list(model, err);
}

km_status km__weights_load(km_model *model, const km_model_options *options, km_error *err) {
    km_weight_plan plan = {model->ctx, NULL, 0, 0};
    km_status status = load(model, &plan, options, err);
    if (status != KM_OK) {
        km_error_prefix(err, "%s", km_container_path(model->container));
    }
    km__weight_plan_clear(&plan);
    return status;
}

void km__weights_clear(km_model *model) {
    km_free(model->ctx, model->weights.storage);
    km_free(model->ctx, model->weights.layers);
    km_free(model->ctx, model->weights.maps);
    km_free(model->ctx, model->parameters);
    memset(&model->weights, 0, sizeof(model->weights));
    model->parameters = NULL;
    model->n_tensors = 0;
}
