/* parameter_values.c: values of whole sets of parameters, copied, compared and checked in parallel.
 */
#include <inttypes.h>
#include <string.h>

#include "model/parameters.h"
#include "tensor/kernels.h"

typedef struct job {
    const km_model *model;
    km__parameter_range *ranges;
    const float *const *in; /* (n_tensors); NULL entries: the origin's */
    float *const *out;      /* (n_tensors) */
    atomic_bool *differs;   /* (n_tensors) */
} job;

static km_status over_ranges(job *work, const bool *wanted, km_range_fn fn, km_error *err) {
    int64_t n = 0;
    km_status status = KM_OK;
    KM_GO(km__parameters_cut(&work->ranges, &n, work->model, wanted, err));
    KM_GO(km_parallel_for(work->model->ctx, n, 1, fn, work, err));
done:
    km_free(work->model->ctx, work->ranges);
    return status;
}

/* Flags of the parameters that can change, or that `out` wants. */
static km_status choose(bool **wanted, const km_model *model, float *const *out, km_error *err) {
    KM_TRY(km_alloc_array((void **)wanted, model->ctx, model->n_tensors, sizeof **wanted, err));
    for (int64_t i = 0; i < model->n_tensors; i++) {
        (*wanted)[i] = out != NULL ? out[i] != NULL : model->parameters[i].values != NULL;
    }
    return KM_OK;
}

static km_status need_trainable(const km_model *model, km_error *err) {
    if (model == NULL || !model->is_trainable) {
        return KM_SET(err, KM_EINVAL, "no trainable model (km_model_trainable)");
    }
    return KM_OK;
}

/* ---- out of a model ---- */

static km_status copy_out(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const job *work = payload;
    for (int64_t i = begin; i < end; i++) {
        const km__parameter_range *r = &work->ranges[i];
        const int64_t cols = work->model->parameters[r->index].cols;
        km__parameter_rows(work->out[r->index] + r->begin * cols, work->model, r->index, r->begin,
                           r->end);
    }
    return KM_OK;
}

km_status km_model_parameters_into(float *const *out, const km_model *model, km_error *err) {
    bool *wanted = NULL;
    job work = {.model = model, .out = out};
    km_status status = KM_OK;
    if (out == NULL || model == NULL) {
        return KM_SET(err, KM_EINVAL, "no model or no place for the values");
    }
    KM_GO(km__weights_check(model, err));
    KM_GO(choose(&wanted, model, out, err));
    KM_GO(over_ranges(&work, wanted, copy_out, err));
done:
    km_free(model->ctx, wanted);
    return status;
}

/* ---- into a trainable model ---- */

static km_status copy_in(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const job *work = payload;
    for (int64_t i = begin; i < end; i++) {
        const km__parameter_range *r = &work->ranges[i];
        const km__parameter *p = &work->model->parameters[r->index];
        const int64_t first = r->begin * p->cols, n = (r->end - r->begin) * p->cols;
        if (work->in != NULL && work->in[r->index] != NULL) {
            memcpy(p->values + first, work->in[r->index] + first, (size_t)n * sizeof(float));
        } else {
            km__parameter_rows(p->values + first, work->model->origin, r->index, r->begin, r->end);
        }
    }
    return KM_OK;
}

km_status km_model_restore(km_model *model, const float *const *values, km_error *err) {
    bool *wanted = NULL;
    job work = {.model = model, .in = values};
    km_status status = KM_OK;
    KM_TRY(need_trainable(model, err));
    km_model_changed(model);
    KM_GO(choose(&wanted, model, NULL, err));
    KM_GO(over_ranges(&work, wanted, copy_in, err));
done:
    km_free(model->ctx, wanted);
    return status;
}

/* ---- compared with the origin, and checked ---- */

static km_status compare(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const job *work = payload;
    for (int64_t i = begin; i < end; i++) {
        const km__parameter_range *r = &work->ranges[i];
        const int64_t cols = work->model->parameters[r->index].cols;
        const size_t bytes = (size_t)((r->end - r->begin) * cols) * sizeof(float);
        float *other = NULL;
        if (atomic_load_explicit(&work->differs[r->index], memory_order_relaxed)) {
            continue;
        }
        KM_TRY(km_worker_scratch((void **)&other, work->model->ctx, worker, bytes, err));
        km__parameter_rows(other, work->model, r->index, r->begin, r->end);
        if (memcmp(other, work->in[r->index] + r->begin * cols, bytes) != 0) {
            atomic_store_explicit(&work->differs[r->index], true, memory_order_relaxed);
        }
    }
    return KM_OK;
}

km_status km__parameters_differ(bool *out, const km_model *model, const float *const *values,
                                km_error *err) {
    job work = {.model = model, .in = values};
    km_status status = KM_OK;
    KM_GO(km_alloc_array((void **)&work.differs, model->ctx, model->n_tensors, sizeof *work.differs,
                         err));
    for (int64_t i = 0; i < model->n_tensors; i++) {
        const km__parameter *p = &model->parameters[i];
        const float *own = p->vector != NULL            ? *p->vector
                           : p->matrix->dtype == KM_F32 ? p->matrix->data
                                                        : NULL;
        out[i] = values[i] != NULL && values[i] != own;
    }
    KM_GO(over_ranges(&work, out, compare, err));
    for (int64_t i = 0; i < model->n_tensors; i++) {
        out[i] = atomic_load_explicit(&work.differs[i], memory_order_relaxed);
    }
done:
    km_free(model->ctx, work.differs);
    return status;
}

km_status km_model_differs(bool *out, const km_model *model, km_error *err) {
    const float **values = NULL;
    km_status status = KM_OK;
    KM_TRY(need_trainable(model, err));
    KM_GO(km_alloc_array((void **)&values, model->ctx, model->n_tensors, sizeof *values, err));
    for (int64_t i = 0; i < model->n_tensors; i++) {
        values[i] = model->parameters[i].values;
    }
    KM_GO(km__parameters_differ(out, model->origin, values, err));
done:
    km_free(model->ctx, values);
    return status;
}

static km_status check(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    const job *work = payload;
    const km_kernels *kernels = km_ctx_kernels(work->model->ctx);
    for (int64_t i = begin; i < end; i++) {
        const km__parameter_range *r = &work->ranges[i];
        const km__parameter *p = &work->model->parameters[r->index];
        const int64_t first = r->begin * p->cols, last = r->end * p->cols;
        if (!kernels->all_finite(p->values + first, last - first)) {
            return KM_SET(err, KM_ENUMERIC,
                          "parameter '%s': a value among elements %" PRId64 " to %" PRId64
                          " is not finite",
                          p->name, first, last - 1);
        }
    }
    return KM_OK;
}

km_status km__trainable_check(const km_model *model, km_error *err) {
    bool *wanted = NULL;
    job work = {.model = model};
    km_status status = KM_OK;
    KM_GO(choose(&wanted, model, NULL, err));
    KM_GO(over_ranges(&work, wanted, check, err));
done:
    km_free(model->ctx, wanted);
    return status;
}
