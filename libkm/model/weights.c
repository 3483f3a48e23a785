/* weights.c: find a model's tensors in its container. Matrices are used as they are stored; gains
 * and biases, and float32 matrices at addresses no float may have, are converted. */
#include "model/weights_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- finding ---- */

/* What stands before "embed_tokens.weight": text-only folders, then the two generations of Gemma 3
 * with images. */
static const char *find_prefix(const km_container *container) {
    static const char *const PREFIXES[] = {"model.", "language_model.model.",
                                           "model.language_model."};
    for (size_t i = 0; i < sizeof(PREFIXES) / sizeof(PREFIXES[0]); i++) {
        char name[64];
        (void)snprintf(name, sizeof(name), "%sembed_tokens.weight", PREFIXES[i]);
        if (km_container_find(container, name) != NULL) {
            return PREFIXES[i];
        }
    }
    return PREFIXES[0];
}

static km_status check_shape(const km_weight_slot *slot, km_error *err) {
    const km_tensor_info *info = slot->info;
    bool matrix = slot->n_dims == 2;
    bool fits = info->n_dims == slot->n_dims && info->dims[info->n_dims - 1] == slot->cols &&
                (!matrix || info->dims[0] == slot->rows);
    if (fits) {
        return KM_OK;
    }
    char given[96];
    int n = 0;
    for (int i = 0; i < info->n_dims; i++) {
        n += snprintf(given + n, sizeof(given) - (size_t)n, "%s%" PRId64, i > 0 ? ", " : "",
                      info->dims[i]);
    }
    if (info->n_dims == 0) {
        given[0] = '\0';
    }
    if (matrix) {
        return KM_SET(err, KM_EFORMAT,
                      "tensor '%s' has shape (%s), the configuration needs (%" PRId64 ", %" PRId64
                      ")",
                      slot->name, given, slot->rows, slot->cols);
    }
    return KM_SET(err, KM_EFORMAT,
                  "tensor '%s' has shape (%s), the configuration needs (%" PRId64 ")", slot->name,
                  given, slot->cols);
}

static km_status find_tensors(km_weight_plan *plan, const km_container *container, km_error *err) {
    for (int64_t i = 0; i < plan->n; i++) {
        km_weight_slot *slot = &plan->slots[i];
        slot->info = km_container_find(container, slot->name);
        if (slot->info == NULL) {
            return KM_SET(err, KM_EFORMAT, "tensor '%s' is missing", slot->name);
        }
        KM_TRY(check_shape(slot, err));
        bool aligned = (uintptr_t)slot->info->data % _Alignof(float) == 0;
        bool in_place = slot->info->dtype == KM_F32 ? aligned : slot->matrix != NULL;
        slot->offset = in_place ? -1 : 0;
    }
    return KM_OK;
}

static int compare_infos(const void *a, const void *b) {
    uintptr_t x = (uintptr_t)*(const km_tensor_info *const *)a;
    uintptr_t y = (uintptr_t)*(const km_tensor_info *const *)b;
    return (x > y) - (x < y);
}

/* Tensors that a folder may hold and the language model does not use. */
static bool is_ignored(const char *name) {
    return strstr(name, "rotary_emb.inv_freq") != NULL || strstr(name, "vision_tower.") != NULL ||
           strstr(name, "multi_modal_projector.") != NULL;
}

/* A folder may repeat a tied embedding as lm_head; only the same bytes mean the same model. */
static bool repeats_embedding(const km_weight_plan *plan, const km_tensor_info *info) {
    const km_tensor_info *embed = plan->slots[0].info;
    return strstr(info->name, "lm_head.weight") != NULL && info->dtype == embed->dtype &&
           info->nbytes == embed->nbytes && memcmp(info->data, embed->data, embed->nbytes) == 0;
}

/* A tensor nobody asked for (a bias, an adapter, an expert) would change the numbers: refuse. */
static km_status check_unused(const km_weight_plan *plan, const km_config *config,
                              const km_container *container, km_error *err) {
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
            !is_ignored(info->name) &&
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

/* ---- converting ---- */

typedef struct conversion {
    float *storage;
    km_weight_range *ranges;
} conversion;

static km_status convert_range(const conversion *work, const km_weight_range *part, km_error *err) {
    const km_weight_slot *slot = part->slot;
    const km_dtype_traits *traits = km_dtype_get(slot->info->dtype);
    const int64_t n = part->end - part->begin;
    const unsigned char *source = slot->info->data;
    float *target = work->storage + slot->offset + part->begin;
    source += part->begin / traits->block_elements * traits->block_bytes;
    traits->to_f32(target, source, n);
    if (!km__all_finite(target, n)) {
        return KM_SET(err, KM_ENUMERIC,
                      "tensor '%s': a weight among elements %" PRId64 " to %" PRId64
                      " is not finite",
                      slot->name, part->begin, part->end - 1);
    }
    return KM_OK;
}

static km_status convert_ranges(void *payload, int64_t begin, int64_t end, int worker,
                                km_error *err) {
    (void)worker;
    const conversion *work = payload;
    for (int64_t i = begin; i < end; i++) {
        KM_TRY(convert_range(work, &work->ranges[i], err));
    }
    return KM_OK;
}

static km_status convert_all(const km_weight_plan *plan, float *storage, km_error *err) {
    int64_t n;
    conversion work = {storage, NULL};
    KM_TRY(km__weight_plan_cut(&work.ranges, &n, plan, err));
    km_status status = km_parallel_for(plan->ctx, n, 1, convert_ranges, &work, err);
    km_free(plan->ctx, work.ranges);
    return status;
}

/* Remember what is used in place: it is read, and checked, when the model first runs. */
static km_status list_maps(km_model *model, const km_weight_plan *plan, km_error *err) {
    km_weights *weights = &model->weights;
    KM_TRY(
        km_alloc_array((void **)&weights->maps, model->ctx, plan->n, sizeof(*weights->maps), err));
    for (int64_t i = 0; i < plan->n; i++) {
        if (plan->slots[i].offset < 0) {
            weights->maps[weights->n_maps++] = plan->slots[i].info;
        }
    }
    return KM_OK;
}

/* ---- loading ---- */

static void set_precision(km_model *model, const km_weight_plan *plan) {
    int64_t count[KM_DTYPE_COUNT] = {0};
    int best = 0;
    for (int64_t i = 0; i < plan->n; i++) {
        if (plan->slots[i].n_dims == 2) {
            count[plan->slots[i].info->dtype]++;
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
    bool gguf = km_container_gguf(container) != NULL;
    KM_TRY(km_container_check(container, err));
    KM_TRY(km__weight_plan_new(plan, model, gguf ? KM_NAMES_GGUF : KM_NAMES_HF,
                               gguf ? "" : find_prefix(container), err));
    KM_TRY(find_tensors(plan, container, err));
    KM_TRY(check_unused(plan, &model->config, container, err));
    KM_TRY(km__weight_plan_allocate(plan, model, options->max_bytes, err));
    KM_TRY(convert_all(plan, model->weights.storage, err));
    KM_TRY(list_maps(model, plan, err));
    km__weight_plan_connect(plan, model);
    set_precision(model, plan);
    return KM_OK;
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
    memset(&model->weights, 0, sizeof(model->weights));
}
