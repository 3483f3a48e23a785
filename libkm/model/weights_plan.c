/* weights_plan.c: where each tensor of a configuration is kept: in the file's map, or in the
 * storage. */
#include "model/weights_private.h"

km_status km__weight_plan_new(km_weight_plan *plan, km_model *model, const km_weight_naming *naming,
                              km_error *err) {
    const int64_t n_layers = model->config.n_layers;
    *plan = (km_weight_plan){model->ctx, NULL, 0, 0};
    KM_TRY(km_alloc_array((void **)&model->weights.layers, model->ctx, n_layers,
                          sizeof(*model->weights.layers), err));
    KM_TRY(km_alloc_array((void **)&plan->slots, model->ctx,
                          KM_TOP_TENSORS + n_layers * KM_LAYER_TENSORS, sizeof(*plan->slots), err));
    km__weight_slots_top(plan, model, naming);
    for (int32_t layer = 0; layer < n_layers; layer++) {
        km__weight_slots_layer(plan, model, naming, layer);
    }
    km__weight_slot_rope_factors(plan, model, naming);
    return KM_OK;
}

void km__weight_plan_clear(km_weight_plan *plan) {
    km_free(plan->ctx, plan->slots);
    *plan = (km_weight_plan){plan->ctx, NULL, 0, 0};
}

static int64_t slot_bytes(const km_weight_slot *slot) {
    const km_dtype_traits *traits = km_dtype_get(slot->dtype);
    return slot->rows * (slot->cols / traits->block_elements) * traits->block_bytes;
}

static km_status lay_out(km_weight_plan *plan, km_error *err) {
    const int64_t line = 64;
    int64_t total = 0;
    for (int64_t i = 0; i < plan->n; i++) {
        km_weight_slot *slot = &plan->slots[i];
        if (slot->offset < 0) {
            continue;
        }
        int64_t n = (slot_bytes(slot) + line - 1) / line * line;
        if (n > INT64_MAX / 4 - total) {
            return KM_SET(err, KM_ENOMEM, "the configuration asks for more weights than can exist");
        }
        slot->offset = total;
        total += n;
    }
    plan->n_bytes = total;
    return KM_OK;
}

km_status km__weight_plan_allocate(km_weight_plan *plan, km_model *model, int64_t max_bytes,
                                   km_error *err) {
    const double mib = 1024.0 * 1024.0;
    KM_TRY(lay_out(plan, err));
    size_t needed = (size_t)plan->n_bytes;
    size_t limit = max_bytes > 0 ? (size_t)max_bytes : km_memory_available();
    if (needed > limit) {
        return KM_SET(err, KM_ENOMEM, "weights held in memory need %.1f MiB, %.1f MiB are %s",
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
        int64_t total = slot->offset < 0 || slot->is_rope_factors ? 0 : slot->rows * slot->cols;
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

void *km__weight_place(const km_weight_slot *slot, void *storage) {
    return (unsigned char *)storage + slot->offset;
}

/* Rows used in place follow each other. */
static const void *place_in_map(const km_weight_slot *slot) {
    const km_dtype_traits *traits = km_dtype_get(slot->info->dtype);
    const int64_t cols = slot->matrix != NULL ? slot->cols : 1;
    const int64_t elements = slot->source.first * cols;
    return (const unsigned char *)slot->info->data +
           elements / traits->block_elements * traits->block_bytes;
}

static void connect_slot(const km_weight_slot *slot, void *storage) {
    const bool copied = slot->offset >= 0;
    const void *data = copied ? km__weight_place(slot, storage) : place_in_map(slot);
    if (slot->matrix != NULL) {
        *slot->matrix = (km_matrix){data, slot->dtype, slot->rows, slot->cols};
    } else {
        *slot->vector = data;
    }
}

void km__weight_plan_connect(const km_weight_plan *plan, km_model *model) {
    model->n_parameters = 0;
    for (int64_t i = 0; i < plan->n; i++) {
        const km_weight_slot *slot = &plan->slots[i];
        connect_slot(slot, model->weights.storage);
        model->n_parameters += slot->is_rope_factors ? 0 : slot->rows * slot->cols;
    }
    if (model->config.tied_embeddings) {
        model->weights.unembed = model->weights.embed;
    }
}
