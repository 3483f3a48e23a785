/* model.c: the model object (load, random control, references) and log-probabilities of plain
 * sequences. A tree whose tokens each follow the one before is a sequence. */

#include "model/model_private.h"
#include "tensor/kernels.h"

km_status km__model_shell(km_model **out, km_ctx *ctx, const char *path, km_error *err) {
    km_model *model = NULL;
    KM_TRY(km_alloc_array((void **)&model, ctx, 1, sizeof *model, err));
    atomic_init(&model->refs, 1);
    model->ctx = ctx;
    km_status status = km_strdup(&model->path, ctx, path, err);
    if (status != KM_OK) {
        km_model_free(model);
        return status;
    }
    *out = model;
    return KM_OK;
}

km_status km_model_load(km_model **out, km_ctx *ctx, const char *path,
                        const km_model_options *options, km_error *err) {
    static const km_model_options defaults = KM_MODEL_OPTIONS_INIT;
    if (out == NULL || ctx == NULL || path == NULL) {
        return KM_SET(err, KM_EINVAL, "no context, path or place for the model");
    }
    km_status status = KM_OK;
    km_model *model = NULL;
    KM_GO(km__model_shell(&model, ctx, path, err));
    KM_GO(km_container_open(&model->container, ctx, path, err));
    KM_GO(km__config_read(&model->config, model->container, err));
    KM_GO(km__tokenizer_read(&model->tokenizer, ctx, model->container, err));
    KM_GO(km__weights_load(model, options != NULL ? options : &defaults, err));
    *out = model;
    model = NULL;
done:
    km_model_free(model);
    return status;
}

km_status km__model_derive(km_model **out, const km_model *model, km_error *err) {
    KM_TRY(km__model_shell(out, model->ctx, model->path, err));
    (*out)->config = model->config;
    (*out)->tokenizer = model->tokenizer;
    (*out)->origin = km_model_ref((km_model *)(uintptr_t)model);
    return KM_OK;
}

km_status km_model_random_like(km_model **out, const km_model *model, uint64_t seed,
                               km_error *err) {
    if (out == NULL || model == NULL) {
        return KM_SET(err, KM_EINVAL, "no model or place for the new one");
    }
    km_status status = KM_OK;
    km_model *control = NULL;
    KM_GO(km__model_derive(&control, model, err));
    control->random_seed = seed;
    KM_GO(km__weights_randomise(control, seed, err));
    *out = control;
    control = NULL;
done:
    km_model_free(control);
    return status;
}

km_model *km_model_ref(km_model *model) {
    atomic_fetch_add(&model->refs, 1);
    return model;
}

void km_model_free(km_model *model) {
    if (model == NULL || atomic_fetch_sub(&model->refs, 1) != 1) {
        return;
    }
    km__weights_clear(model);
    km_free(model->ctx, model->spare.block);
    if (model->origin == NULL) {
        km_tokenizer_free(model->tokenizer);
    }
    km_model_free(model->origin);
    km_container_close(model->container);
    km_free(model->ctx, model->path);
    km_free(model->ctx, model);
}

const km_config *km_model_config(const km_model *model) {
    return &model->config;
}

const km_tokenizer *km_model_tokenizer(const km_model *model) {
    return model->tokenizer;
}

km_ctx *km_model_ctx(const km_model *model) {
    return model->ctx;
}

const char *km_model_path(const km_model *model) {
    return model->path;
}

int64_t km_model_parameters(const km_model *model) {
    return model->n_parameters;
}

const char *km_model_precision(const km_model *model) {
    return model->precision;
}

/* ---- log-probabilities of a sequence ---- */

typedef struct sequence_work {
    const km_model *model;
    const int32_t *ids;
    float *out;
} sequence_work;

static km_status next_token(void *payload, int64_t index, int32_t layer, const float *logits,
                            int64_t vocab, km_error *err) {
    (void)layer;
    (void)err;
    const sequence_work *work = payload;
    double total = km_logits_logsumexp(work->model, logits, vocab);
    work->out[index] = (float)((double)logits[work->ids[index + 1]] - total);
    return KM_OK;
}

static km_status whole_vocabulary(void *payload, int64_t index, int32_t layer, const float *logits,
                                  int64_t vocab, km_error *err) {
    (void)index;
    (void)layer;
    (void)err;
    const sequence_work *work = payload;
    double total = km_logits_logsumexp(work->model, logits, vocab);
    for (int64_t i = 0; i < vocab; i++) {
        work->out[i] = (float)((double)logits[i] - total);
    }
    return KM_OK;
}

/* Run a sequence and show `visit` the logits after tokens first .. last. */
static km_status run_sequence(const sequence_work *work, int64_t n, int64_t first, int64_t last,
                              km_logits_fn visit, km_error *err) {
    km_status status = KM_OK;
    km_ctx *ctx = work->model->ctx;
    int64_t *parent = NULL, *rows = NULL;
    KM_GO(km_alloc_array((void **)&parent, ctx, n, sizeof *parent, err));
    KM_GO(km_alloc_array((void **)&rows, ctx, n, sizeof *rows, err));
    for (int64_t i = 0; i < n; i++) {
        parent[i] = i - 1;
        rows[i] = i;
    }
    const km_forward_request request = {.tree = {work->ids, parent, n},
                                        .rows = rows + first,
                                        .n_rows = last - first + 1,
                                        .on_logits = visit,
                                        .payload = (void *)work};
    KM_GO(km_model_forward(work->model, &request, err));
done:
    km_free(ctx, parent);
    km_free(ctx, rows);
    return status;
}

km_status km_model_logprobs_into(float *out, const km_model *model, const int32_t *ids, int64_t n,
                                 km_error *err) {
    if (model == NULL || n < 1 || ids == NULL || (n > 1 && out == NULL)) {
        return KM_SET(err, KM_EINVAL, "log-probabilities need a model and at least one token");
    }
    const sequence_work work = {model, ids, out};
    return run_sequence(&work, n, 0, n - 2, next_token, err);
}

km_status km_model_next_logprobs_into(float *out, const km_model *model, const int32_t *ids,
                                      int64_t n, km_error *err) {
    if (model == NULL || n < 1 || ids == NULL || out == NULL) {
        return KM_SET(err, KM_EINVAL, "log-probabilities need a model and at least one token");
    }
    const sequence_work work = {model, ids, out};
    return run_sequence(&work, n, n - 1, n - 1, whole_vocabulary, err);
}
