/* parameters.c: a model's parameters by index and name. */
#include "model/parameters.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define RANGE_ELEMENTS ((int64_t)1 << 16)

static km_parameter_kind kind_of(const km_model *model, const km_weight_slot *slot) {
    const km_weights *w = &model->weights;
    if (slot->matrix == NULL) {
        return slot->is_bias ? KM_PARAMETER_BIAS : KM_PARAMETER_GAIN;
    }
    const bool top =
        slot->matrix == &w->embed || slot->matrix == &w->positions || slot->matrix == &w->unembed;
    return top ? KM_PARAMETER_EMBEDDING : KM_PARAMETER_MATRIX;
}

/* "blk.12.attn_q.weight": 12; -1 outside the blocks. */
static int32_t layer_of(const char *name) {
    int layer;
    return sscanf(name, "blk.%d.", &layer) == 1 ? layer : -1;
}

static void fill(km__parameter *out, const km_model *model, const km_weight_slot *slot) {
    *out = (km__parameter){.kind = kind_of(model, slot),
                           .layer = layer_of(slot->name),
                           .rows = slot->rows,
                           .cols = slot->cols,
                           .matrix = slot->matrix,
                           .vector = slot->vector};
    (void)snprintf(out->name, sizeof(out->name), "%s", slot->name);
}

km_status km__parameters_list(km_model *model, km_error *err) {
    km_status status = KM_OK;
    km_weight_plan plan;
    KM_GO(km__parameter_plan(&plan, model, err));
    KM_GO(km_alloc_array((void **)&model->parameters, model->ctx, plan.n,
                         sizeof(*model->parameters), err));
    for (int64_t i = 0; i < plan.n; i++) {
        fill(&model->parameters[i], model, &plan.slots[i]);
    }
    model->n_tensors = plan.n;
done:
    km__weight_plan_clear(&plan);
    return status;
}

void km__parameter_rows(float *out, const km_model *model, int64_t index, int64_t begin,
                        int64_t end) {
    const km__parameter *p = &model->parameters[index];
    const int64_t cols = p->cols;
    if (p->vector != NULL) {
        memcpy(out, *p->vector, (size_t)cols * sizeof(*out));
        return;
    }
    if (p->matrix->dtype == KM_F32) {
        const float *data = p->matrix->data;
        memcpy(out, data + begin * cols, (size_t)((end - begin) * cols) * sizeof(*out));
        return;
    }
    for (int64_t row = begin; row < end; row++) {
        km_matrix_row(out + (row - begin) * cols, model->ctx, p->matrix, row);
    }
}

/* With out NULL only counts. */
static int64_t cut(km__parameter_range *out, const km_model *model, const bool *wanted) {
    int64_t n = 0;
    for (int64_t i = 0; i < model->n_tensors; i++) {
        const km__parameter *p = &model->parameters[i];
        const int64_t each = RANGE_ELEMENTS > p->cols ? RANGE_ELEMENTS / p->cols : 1;
        const int64_t rows = wanted == NULL || wanted[i] ? p->rows : 0;
        for (int64_t begin = 0; begin < rows; begin += each) {
            if (out != NULL) {
                out[n] = (km__parameter_range){i, begin, rows - begin > each ? begin + each : rows};
            }
            n++;
        }
    }
    return n;
}

km_status km__parameters_cut(km__parameter_range **out, int64_t *n, const km_model *model,
                             const bool *wanted, km_error *err) {
    *n = cut(NULL, model, wanted);
    KM_TRY(km_alloc_array((void **)out, model->ctx, *n, sizeof(**out), err));
    (void)cut(*out, model, wanted);
    return KM_OK;
}

int64_t km_model_n_tensors(const km_model *model) {
    return model->n_tensors;
}

km_status km_model_parameter_at(km_parameter *out, const km_model *model, int64_t index,
                                km_error *err) {
    if (out == NULL || model == NULL) {
        return KM_SET(err, KM_EINVAL, "no model or no place for the parameter");
    }
    if (index < 0 || index >= model->n_tensors) {
        return KM_SET(err, KM_ERANGE, "parameter %" PRId64 " of %" PRId64, index, model->n_tensors);
    }
    const km__parameter *p = &model->parameters[index];
    *out = (km_parameter){.name = p->name,
                          .kind = p->kind,
                          .layer = p->layer,
                          .rows = p->rows,
                          .cols = p->cols,
                          .n = p->rows * p->cols,
                          .values = p->values};
    return KM_OK;
}

km_status km_model_parameter_find(int64_t *out, const km_model *model, const char *name,
                                  km_error *err) {
    if (out == NULL || model == NULL || name == NULL) {
        return KM_SET(err, KM_EINVAL, "no model, name or place for the index");
    }
    for (int64_t i = 0; i < model->n_tensors; i++) {
        if (strcmp(model->parameters[i].name, name) == 0) {
            *out = i;
            return KM_OK;
        }
    }
    return KM_SET(err, KM_ENOTFOUND, "no parameter '%.*s'; there is '%s'", KM_SHOWN(name),
                  model->parameters[model->n_tensors / 2].name);
}
