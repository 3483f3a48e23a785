/* parameters_plan.c: the tensors of a model in the order of its parameters. */
#include "model/parameters.h"

km_status km__parameter_plan(km_weight_plan *plan, const km_model *model, km_error *err) {
    /* Slots hold the places that weights are put into; nothing is put there here. */
    km_model *places = (km_model *)(uintptr_t)model;
    const km_weight_naming naming = {KM_NAMES_GGUF, "", "output.weight", false, false};
    const int64_t most = KM_TOP_TENSORS + model->config.n_layers * (int64_t)KM_LAYER_TENSORS;
    *plan = (km_weight_plan){model->ctx, NULL, 0, 0};
    KM_TRY(km_alloc_array((void **)&plan->slots, model->ctx, most, sizeof *plan->slots, err));
    km__weight_slots_top(plan, places, &naming);
    for (int32_t layer = 0; layer < model->config.n_layers; layer++) {
        km__weight_slots_layer(plan, places, &naming, layer);
    }
    return KM_OK;
}
