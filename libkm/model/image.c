/* image.c: the inverse of what loading does to a tensor: parameters are put back into the tensors
 * of a container, which fuses, transposes or interleaves some of them.
 *
 * Where a container's tensor is one parameter in the same order, the parameter's values serve as
 * they are. A model without a container of its own, such as a random control, takes the one of the
 * model it was made from. */
#include "model/image.h"

#include <string.h>

#define TILE 16 /* rows of a transposed matrix written together: one line of the cache */

typedef struct making {
    km__image *image;
    const km_model *base; /* values that are not given are its own */
    const char *repeated; /* name of a tied embedding's second copy in the container, or NULL */
    const km_weight_slot *slots; /* slots[i] says where parameter i is in the container */
    km_model places;             /* what the slots point into; not used */
    const float **values;        /* (n_tensors); NULL: what the base holds */
    bool *changed;               /* (n_tensors) */
    bool *scattered;             /* (n_tensors) lies otherwise in the container */
    float **tensors;             /* (n_tensors) the container's tensor of a scattered parameter */
    km__parameter_range *ranges;
} making;

const km_model *km__model_with_container(const km_model *model) {
    while (model->container == NULL) {
        model = model->origin;
    }
    return model;
}

/* ---- which tensors change ---- */

/* Values as they lie in memory; only the base's own may be of another type than float32. */
static const float *values_of(const km_model *model, int64_t index, const float *const *values) {
    const km__parameter *p = &model->parameters[index];
    if (values != NULL && values[index] != NULL) {
        return values[index];
    }
    if (p->vector != NULL) {
        return *p->vector;
    }
    return p->matrix->dtype == KM_F32 ? p->matrix->data : NULL;
}

static bool lies_alike(const km_weight_slot *slot) {
    return !slot->source.transposed && slot->source.stride == 0 &&
           slot->source.n_rows == (slot->n_dims == 2 ? slot->rows : slot->cols);
}

static km_status making_init(making *m, const km_weight_naming *naming, km_error *err) {
    km_ctx *ctx = m->base->ctx;
    const int64_t n = m->base->n_tensors;
    m->places.ctx = ctx;
    m->places.config = m->base->config;
    KM_TRY(km__weight_plan_new(&m->image->plan, &m->places, naming, err));
    m->slots = m->image->plan.slots;
    KM_TRY(km_alloc_array((void **)&m->values, ctx, n, sizeof *m->values, err));
    KM_TRY(km_alloc_array((void **)&m->changed, ctx, n, sizeof *m->changed, err));
    KM_TRY(km_alloc_array((void **)&m->scattered, ctx, n, sizeof *m->scattered, err));
    KM_TRY(km_alloc_array((void **)&m->tensors, ctx, n, sizeof *m->tensors, err));
    return km_alloc_array((void **)&m->image->infos, ctx, n + 1, sizeof *m->image->infos, err);
}

static void making_clear(making *m) {
    km_ctx *ctx = m->base->ctx;
    km_free(ctx, m->places.weights.layers);
    km_free(ctx, m->values);
    km_free(ctx, m->changed);
    km_free(ctx, m->scattered);
    km_free(ctx, m->tensors);
    km_free(ctx, m->ranges);
}

/* Parameters first .. end-1 are one tensor of the container. */
static int64_t end_of_tensor(const making *m, int64_t first) {
    int64_t end = first + 1;
    while (end < m->base->n_tensors && strcmp(m->slots[first].name, m->slots[end].name) == 0) {
        end++;
    }
    return end;
}

static km_tensor_info *add_info(km__image *image, const char *name, const km_weight_slot *slot) {
    const km_weight_rows *rows = &slot->source;
    km_tensor_info *info = &image->infos[image->n++];
    *info = (km_tensor_info){.name = name, .dtype = KM_F32, .n_dims = slot->n_dims};
    info->dims[0] = rows->transposed ? slot->cols : rows->n_rows;
    info->dims[1] = slot->n_dims == 1 ? 0 : rows->transposed ? rows->n_rows : slot->cols;
    info->nbytes = (size_t)(rows->n_rows * (slot->n_dims == 1 ? 1 : slot->cols)) * sizeof(float);
    return info;
}

/* List what changes. With image->room NULL counts the floats that have to be moved. */
static int64_t list_changed(making *m) {
    km__image *image = m->image;
    int64_t floats = 0;
    image->n = 0;
    for (int64_t i = 0, end; i < m->base->n_tensors; i = end) {
        bool changed = false;
        end = end_of_tensor(m, i);
        for (int64_t k = i; k < end; k++) {
            changed = changed || m->changed[k];
        }
        if (!changed) {
            continue;
        }
        km_tensor_info *info = add_info(image, m->slots[i].name, &m->slots[i]);
        info->data = m->values[i];
        for (int64_t k = i; k < end && !lies_alike(&m->slots[i]); k++) {
            m->scattered[k] = true;
            m->tensors[k] = image->room != NULL ? image->room + floats : NULL;
            info->data = m->tensors[k];
        }
        if (i == 0 && m->repeated != NULL) {
            add_info(image, m->repeated, &m->slots[0])->data = m->values[0];
        }
        floats += m->scattered[i] ? (int64_t)(info->nbytes / 64 + 1) * 16 : 0; /* whole lines */
    }
    return floats;
}

/* ---- moving values ---- */

static int64_t source_row(const km_weight_rows *rows, int64_t row) {
    return rows->first + row / rows->group * rows->stride + row % rows->group;
}

/* Rows begin .. end-1 of a parameter, at most TILE; `scratch` holds as many. */
static const float *rows_of(const making *m, int64_t index, int64_t begin, int64_t end,
                            float *scratch) {
    if (m->values[index] != NULL) {
        return m->values[index] + begin * m->base->parameters[index].cols;
    }
    km__parameter_rows(scratch, m->base, index, begin, end);
    return scratch;
}

static void scatter_vector(float *out, const km_weight_slot *slot, const float *x) {
    for (int64_t i = 0; i < slot->cols; i++) {
        out[source_row(&slot->source, i)] = x[i];
    }
}

static void scatter_rows(float *out, const km_weight_slot *slot, const float *x, int64_t begin,
                         int64_t end) {
    const km_weight_rows *rows = &slot->source;
    for (int64_t row = begin; row < end && !rows->transposed; row++) {
        memcpy(out + source_row(rows, row) * slot->cols, x + (row - begin) * slot->cols,
               (size_t)slot->cols * sizeof *out);
    }
    for (int64_t col = 0; col < slot->cols && rows->transposed; col++) {
        for (int64_t row = begin; row < end; row++) {
            out[col * rows->n_rows + source_row(rows, row)] = x[(row - begin) * slot->cols + col];
        }
    }
}

static km_status scatter(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const making *m = payload;
    for (int64_t i = begin; i < end; i++) {
        const km__parameter_range *r = &m->ranges[i];
        const km_weight_slot *slot = &m->slots[r->index];
        float *out = m->tensors[r->index], *scratch = NULL;
        KM_TRY(km_worker_scratch((void **)&scratch, m->base->ctx, worker,
                                 (size_t)(TILE * slot->cols) * sizeof *scratch, err));
        for (int64_t row = r->begin; row < r->end; row += TILE) {
            const int64_t last = r->end - row > TILE ? row + TILE : r->end;
            const float *x = rows_of(m, r->index, row, last, scratch);
            if (slot->n_dims == 1) {
                scatter_vector(out, slot, x);
            } else {
                scatter_rows(out, slot, x, row, last);
            }
        }
    }
    return KM_OK;
}

static km_status provide_room(km__image *image, int64_t floats, km_error *err) {
    const double mib = 1024.0 * 1024.0;
    const size_t needed = (size_t)floats * sizeof(float), available = km_memory_available();
    if (needed > available) {
        return KM_SET(err, KM_ENOMEM,
                      "weights in the layout of the file need %.1f MiB, %.1f MiB are available",
                      (double)needed / mib, (double)available / mib);
    }
    return km_alloc((void **)&image->room, image->ctx, needed, err);
}

/* Lay out what m->values and m->changed say. */
static km_status lay_out(making *m, km_error *err) {
    int64_t n = 0;
    KM_TRY(provide_room(m->image, list_changed(m), err));
    (void)list_changed(m);
    KM_TRY(km__parameters_cut(&m->ranges, &n, m->base, m->scattered, err));
    return km_parallel_for(m->base->ctx, n, 1, scatter, m, err);
}

static km_status finish(making *m, km_status status) {
    making_clear(m);
    if (status != KM_OK) {
        km__image_clear(m->image);
    }
    return status;
}

km_status km__image_make(km__image *out, const km_model *model, const float *const *values,
                         km_error *err) {
    const km_model *base = km__model_with_container(model);
    const km_weight_naming naming = km__weight_naming(&base->config, base->container);
    making m = {.image = out, .base = base};
    km_status status = KM_OK;
    *out = (km__image){.ctx = base->ctx};
    if (base->config.tied_embeddings &&
        km_container_find(base->container, naming.unembed) != NULL) {
        m.repeated = naming.unembed;
    }
    KM_GO(making_init(&m, &naming, err));
    for (int64_t i = 0; i < base->n_tensors; i++) {
        m.values[i] = values_of(model, i, values);
    }
    KM_GO(km__parameters_differ(m.changed, base, m.values, err));
    KM_GO(lay_out(&m, err));
done:
    return finish(&m, status);
}

km_status km__image_whole(km__image *out, const km_model *model, const km_weight_naming *naming,
                          km_error *err) {
    making m = {.image = out, .base = model};
    km_status status = KM_OK;
    *out = (km__image){.ctx = model->ctx};
    KM_GO(making_init(&m, naming, err));
    for (int64_t i = 0; i < model->n_tensors; i++) {
        m.values[i] = values_of(model, i, NULL);
        m.changed[i] = true;
    }
    KM_GO(lay_out(&m, err));
done:
    return finish(&m, status);
}

void km__image_clear(km__image *image) {
    km_free(image->ctx, image->infos);
    km_free(image->ctx, image->room);
    km__weight_plan_clear(&image->plan);
    *image = (km__image){.ctx = image->ctx};
}

const km_tensor_info *km__image_find(const km__image *image, const char *name) {
    for (int64_t i = 0; i < image->n; i++) {
        if (strcmp(image->infos[i].name, name) == 0) {
            return &image->infos[i];
        }
    }
    return NULL;
}
