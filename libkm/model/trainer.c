/* trainer.c: gradients, optimiser and adapters of one trainable model. */
#include "km/trainer.h"

#include <math.h>
#include <string.h>

#include "model/model_private.h"
#include "model/optimizer_private.h"

#define LARGEST_NORM 1e18 /* of what enters a step: its squares are still float32 */

/* ---- which parameters ---- */

static bool is_trained(const km_parameter *p, const km_trainer_options *o, int64_t index) {
    return o->trained != NULL ? o->trained[index] : p->values != NULL;
}

static bool decays(const km_parameter *p, const km_trainer_options *o, int64_t index) {
    return o->decays != NULL ? o->decays[index]
                             : p->kind == KM_PARAMETER_MATRIX || p->kind == KM_PARAMETER_EMBEDDING;
}

static km_status check_options(const km_trainer_options *o, km_error *err) {
    if (o->rank < 0) {
        return KM_SET(err, KM_EINVAL, "rank is %d; it must be at least 1, or 0 for no adapters",
                      o->rank);
    }
    if (o->rank > 0 && !(o->alpha > 0.0 && isfinite(o->alpha))) {
        return KM_SET(err, KM_EINVAL, "alpha is %g; it must be positive and finite", o->alpha);
    }
    if (!(o->clip >= 0.0 && isfinite(o->clip))) {
        return KM_SET(err, KM_EINVAL, "clip is %g; it must be positive, or 0 for none", o->clip);
    }
    return KM_OK;
}

static km_status check_parameter(const km_parameter *p, const km_trainer_options *o,
                                 km_error *err) {
    if (p->values == NULL) {
        return KM_SET(err, KM_EINVAL,
                      "parameter '%s' cannot be changed: the trainable model was made without it",
                      p->name);
    }
    if (o->rank > 0 && p->kind != KM_PARAMETER_MATRIX) {
        return KM_SET(err, KM_EINVAL,
                      "parameter '%s' is no linear layer of a block: no adapter "
                      "fits it",
                      p->name);
    }
    if (o->rank > (p->rows < p->cols ? p->rows : p->cols) && o->rank > 0) {
        return KM_SET(err, KM_EINVAL, "rank %d is more than parameter '%s' (%lld x %lld) can have",
                      o->rank, p->name, (long long)p->rows, (long long)p->cols);
    }
    return KM_OK;
}

/* List what is trained; its gradients follow. */
static km_status list_parameters(km_trainer *trainer, const km_trainer_options *o, km_error *err) {
    const int64_t n = km_model_n_tensors(trainer->model);
    km_ctx *ctx = trainer->model->ctx;
    km_parameter p;
    KM_TRY(km_alloc_array((void **)&trainer->parameters, ctx, n, sizeof p, err));
    KM_TRY(km_alloc_array((void **)&trainer->gradients, ctx, n, sizeof *trainer->gradients, err));
    for (int64_t i = 0; i < n; i++) {
        KM_TRY(km_model_parameter_at(&p, trainer->model, i, err));
        if (is_trained(&p, o, i)) {
            KM_TRY(check_parameter(&p, o, err));
            trainer->gradients[trainer->n_trained].parameter = i;
            trainer->parameters[trainer->n_trained++] = p;
        }
    }
    return trainer->n_trained > 0
               ? KM_OK
               : KM_SET(err, KM_EINVAL, "there is nothing to train; the model must be trainable");
}

/* ---- memory ---- */

/* Numbers that are optimised in place of a parameter, and those its adapter has of its own. */
static void numbers_of(double *trained, double *adapters, const km_parameter *p, int32_t rank) {
    const double low = (double)rank * (double)(p->rows + p->cols);
    *trained = rank > 0 ? low : (double)p->n;
    *adapters = rank > 0 ? low : 0.0;
}

static km_status check_memory(const km_trainer *trainer, km_error *err) {
    const km_trainer_options *o = &trainer->options;
    const double limit = o->max_bytes > 0 ? (double)o->max_bytes : (double)km_memory_available();
    double gradients = 0.0, averages = 0.0;
    for (int64_t i = 0; i < trainer->n_trained; i++) {
        double trained, adapters;
        numbers_of(&trained, &adapters, &trainer->parameters[i], o->rank);
        gradients += (trained + adapters) * sizeof(float);
        averages += trained * km_optimizer_n_averages(&o->optimizer) * sizeof(float);
    }
    if (gradients + averages > limit) {
        return KM_SET(err, KM_ENOMEM,
                      "training needs %.0f MiB of gradients and %.0f MiB of the optimiser's "
                      "averages besides weights and passes; %.0f MiB are available; adapters "
                      "(LoRA), fewer parameters or SGD need less",
                      gradients / 1048576.0, averages / 1048576.0, limit / 1048576.0);
    }
    return KM_OK;
}

km_status km_trainer_estimate(km_trainer_memory *out, const km_model *model,
                              const km_trainer_options *options, int64_t n_tokens, int64_t longest,
                              int64_t n_targets, bool recompute, km_error *err) {
    if (out == NULL || model == NULL || options == NULL) {
        return KM_SET(err, KM_EINVAL, "an estimate needs a model and options");
    }
    KM_TRY(check_options(options, err));
    *out = (km_trainer_memory){0};
    for (int64_t i = 0; i < km_model_n_tensors(model); i++) {
        km_parameter p;
        double trained, adapters;
        KM_TRY(km_model_parameter_at(&p, model, i, err));
        if (options->trained == NULL || options->trained[i]) {
            numbers_of(&trained, &adapters, &p, options->rank);
            out->weights += p.n * (int64_t)sizeof(float);
            out->gradients += (int64_t)(trained + adapters) * (int64_t)sizeof(float);
            out->averages += (int64_t)trained * km_optimizer_n_averages(&options->optimizer) *
                             (int64_t)sizeof(float);
        }
    }
    out->pass = km_model_train_pass_bytes(model, n_tokens, longest, n_targets, recompute);
    return KM_OK;
}

/* ---- making one ---- */

/* One tensor to optimise, with its gradient at `next`. */
static float *add_tensor(km_trainer *trainer, const km_parameter *p, float *values, int64_t n,
                         bool is_decaying, float *next) {
    trainer->tensors[trainer->n_tensors++] =
        (km_optimizer_tensor){p->name, values, next, n, is_decaying};
    return next + n;
}

static void add_whole(km_trainer *trainer, const bool *is_decaying) {
    float *next = trainer->block;
    for (int64_t i = 0; i < trainer->n_trained; i++) {
        const km_parameter *p = &trainer->parameters[i];
        trainer->gradients[i].gradient = next;
        next = add_tensor(trainer, p, p->values, p->n, is_decaying[i], next);
    }
}

/* A, B, then their gradients. */
static void add_adapters(km_trainer *trainer, const bool *is_decaying) {
    const int32_t rank = trainer->options.rank;
    float *next = trainer->block;
    for (int64_t i = 0; i < trainer->n_trained; i++) {
        const km_parameter *p = &trainer->parameters[i];
        km__adapter *adapter = &trainer->adapters.list[i];
        const int64_t n_a = rank * p->cols, n_b = rank * p->rows;
        float *a = next, *b = next + n_a, *da = b + n_b, *db = da + n_a;
        *adapter =
            (km__adapter){.parameter = trainer->gradients[i].parameter,
                          .rows = p->rows,
                          .cols = p->cols,
                          .values = p->values,
                          .low_rank = {rank, (float)(trainer->options.alpha / rank), a, b, da, db},
                          .a = a,
                          .b = b};
        trainer->gradients[i].low_rank = &adapter->low_rank;
        (void)add_tensor(trainer, p, a, n_a, is_decaying[i], da);
        next = add_tensor(trainer, p, b, n_b, is_decaying[i], db);
    }
}

static km_status allocate(km_trainer *trainer, const km_trainer_options *o, km_error *err) {
    km_ctx *ctx = trainer->model->ctx;
    km_status status = KM_OK;
    bool *is_decaying = NULL;
    double n = 0.0;
    for (int64_t i = 0; i < trainer->n_trained; i++) {
        double trained, adapters;
        numbers_of(&trained, &adapters, &trainer->parameters[i], o->rank);
        n += trained + adapters;
    }
    KM_TRY(check_memory(trainer, err));
    KM_TRY(km_alloc((void **)&trainer->block, ctx, (size_t)n * sizeof(float), err));
    KM_TRY(km_alloc_array((void **)&trainer->tensors, ctx, 2 * trainer->n_trained,
                          sizeof *trainer->tensors, err));
    KM_TRY(km_alloc_array((void **)&is_decaying, ctx, trainer->n_trained, sizeof(bool), err));
    for (int64_t i = 0; i < trainer->n_trained; i++) {
        is_decaying[i] = decays(&trainer->parameters[i], o, trainer->gradients[i].parameter);
    }
    if (o->rank == 0) {
        add_whole(trainer, is_decaying);
        goto done;
    }
    trainer->adapters.model = trainer->model;
    trainer->adapters.rank = o->rank;
    trainer->adapters.seed = o->seed;
    KM_GO(km_alloc_array((void **)&trainer->adapters.list, ctx, trainer->n_trained,
                         sizeof *trainer->adapters.list, err));
    trainer->adapters.n = trainer->n_trained;
    add_adapters(trainer, is_decaying);
    KM_GO(km__adapters_cut(&trainer->adapters, err));
    KM_GO(km__adapters_begin(&trainer->adapters, err));
done:
    km_free(ctx, is_decaying);
    return status;
}

km_status km_trainer_new(km_trainer **out, km_model *model, const km_trainer_options *options,
                         km_error *err) {
    if (out == NULL || model == NULL || options == NULL) {
        return KM_SET(err, KM_EINVAL, "a trainer needs a model and options");
    }
    KM_TRY(check_options(options, err));
    km_status status = KM_OK;
    km_trainer *trainer = NULL;
    KM_TRY(km_alloc_array((void **)&trainer, model->ctx, 1, sizeof *trainer, err));
    trainer->model = km_model_ref(model);
    trainer->options = *options;
    trainer->options.trained = trainer->options.decays = NULL;
    atomic_init(&trainer->busy, false);
    KM_GO(list_parameters(trainer, options, err));
    KM_GO(allocate(trainer, options, err));
    KM_GO(km_optimizer_new(&trainer->optimizer, model->ctx, &options->optimizer, trainer->tensors,
                           trainer->n_tensors, 0, err));
    *out = trainer;
    trainer = NULL;
done:
    km_trainer_free(trainer);
    return status;
}

void km_trainer_free(km_trainer *trainer) {
    if (trainer == NULL) {
        return;
    }
    km_model *model = trainer->model;
    km_ctx *ctx = model->ctx;
    km_optimizer_free(trainer->optimizer);
    km__adapters_clear(&trainer->adapters);
    km_free(ctx, trainer->tensors);
    km_free(ctx, trainer->block);
    km_free(ctx, trainer->gradients);
    km_free(ctx, trainer->parameters);
    km_free(ctx, trainer);
    km_model_free(model);
}

/* ---- one thread at a time ---- */

static km_status enter(km_trainer *trainer, km_error *err) {
    bool busy = false;
    return atomic_compare_exchange_strong(&trainer->busy, &busy, true)
               ? KM_OK
               : KM_SET(err, KM_ESTATE, "another thread is using the trainer");
}

static km_status leave(km_trainer *trainer, km_status status) {
    atomic_store(&trainer->busy, false);
    return status;
}

km_status km_trainer_reset(km_trainer *trainer, km_error *err) {
    KM_TRY(enter(trainer, err));
    km_status status = km_optimizer_reset(trainer->optimizer, err);
    trainer->last = (km_training_step){0};
    trainer->dirty = false;
    if (status == KM_OK && trainer->adapters.n > 0) {
        status = km__adapters_begin(&trainer->adapters, err);
    }
    return leave(trainer, status);
}

/* ---- a step ---- */

/* What is left of the gradients; refuses those whose squares float32 cannot hold. */
static km_status find_scale(double *scale, const km_trainer *trainer, double norm, km_error *err) {
    const double clip = trainer->options.clip;
    *scale =
        clip > 0.0 && norm > clip ? clip / (norm + 1e-6) : 1.0; /* as torch's clip_grad_norm_ */
    if (norm * *scale > LARGEST_NORM) {
        return KM_SET(err, KM_ENUMERIC, "the gradients' norm of %g is too large for float32", norm);
    }
    return KM_OK;
}

/* Everything up to the first change of a weight. */
static km_status prepare(km_training_step *out, double *scale, km_trainer *trainer,
                         const km_training_batch *batch, double learning_rate, km_error *err) {
    if (!(learning_rate >= 0.0 && isfinite(learning_rate))) {
        return KM_SET(err, KM_EINVAL, "the learning rate is %g; it must be at least 0 and finite",
                      learning_rate);
    }
    if (trainer->dirty) {
        KM_TRY(km_optimizer_drop_gradients(trainer->optimizer, err));
    }
    trainer->dirty = true;
    KM_TRY(km__trainer_passes(out, trainer, batch, err));
    if (!isfinite(out->loss)) {
        return KM_SET(err, KM_ENUMERIC, "the loss is not finite");
    }
    KM_TRY(km_optimizer_norm(&out->norm, trainer->optimizer, err));
    return find_scale(scale, trainer, out->norm, err);
}

/* The change itself, which goes to its end; a wish to stop is reported behind it. */
static km_status apply(km_trainer *trainer, double learning_rate, double scale, km_error *err) {
    km_status status = km_optimizer_step(trainer->optimizer, learning_rate, scale, err);
    if (trainer->adapters.n > 0) {
        const km_status merged = km__adapters_merge(&trainer->adapters, err);
        status = status == KM_OK ? merged : status;
    }
    km_model_changed(trainer->model);
    trainer->dirty = false;
    return status;
}

km_status km_trainer_step(km_training_step *out, km_trainer *trainer,
                          const km_training_batch *batch, double learning_rate, km_error *err) {
    if (out == NULL || trainer == NULL) {
        return KM_SET(err, KM_EINVAL, "a step needs a trainer and a place for its figures");
    }
    KM_TRY(enter(trainer, err));
    km_training_step step = {.step = km_optimizer_steps(trainer->optimizer) + 1,
                             .learning_rate = learning_rate};
    double scale = 1.0;
    km_status status = prepare(&step, &scale, trainer, batch, learning_rate, err);
    if (status != KM_OK) {
        km_error_prefix(err, "step %lld", (long long)step.step);
        return leave(trainer, status);
    }
    status = apply(trainer, learning_rate, scale, err);
    trainer->last = *out = step;
    return leave(trainer, status);
}

km_training_step km_trainer_last(const km_trainer *trainer) {
    return trainer->last;
}

/* ---- arrays ---- */

int64_t km_trainer_n_arrays(const km_trainer *trainer) {
    return trainer->n_tensors * (1 + km_optimizer_n_averages(&trainer->options.optimizer));
}

km_status km_trainer_array_at(km_trainer_array *out, const km_trainer *trainer, int64_t index,
                              km_error *err) {
    const int64_t each = 1 + km_optimizer_n_averages(&trainer->options.optimizer);
    if (index < 0 || index >= each * trainer->n_tensors) {
        return KM_SET(err, KM_ERANGE, "array %lld of %lld", (long long)index,
                      (long long)(each * trainer->n_tensors));
    }
    const int64_t tensor = index / each, which = index % each;
    const bool adapted = trainer->adapters.n > 0, is_b = adapted && tensor % 2 == 1;
    const km_parameter *p = &trainer->parameters[adapted ? tensor / 2 : tensor];
    const km_trainer_array_kind of = is_b      ? KM_TRAINER_LORA_B
                                     : adapted ? KM_TRAINER_LORA_A
                                               : KM_TRAINER_VALUES;
    const int64_t rank = trainer->options.rank;
    *out = (km_trainer_array){
        .parameter = trainer->gradients[adapted ? tensor / 2 : tensor].parameter,
        .kind = which == 0   ? of
                : which == 1 ? KM_TRAINER_FIRST
                             : KM_TRAINER_SECOND,
        .of = of,
        .rows = adapted && !is_b ? rank : p->rows,
        .cols = is_b ? rank : p->cols,
        .data = which == 0 ? trainer->tensors[tensor].values
                           : km_optimizer_average(trainer->optimizer, tensor, (int)which - 1)};
    return KM_OK;
}

km_status km_trainer_restored(km_trainer *trainer, int64_t steps, km_error *err) {
    km_status status;
    KM_TRY(enter(trainer, err));
    status = km_optimizer_set_steps(trainer->optimizer, steps, err);
    if (status == KM_OK && trainer->adapters.n > 0) {
        status = km__adapters_merge(&trainer->adapters, err);
    }
    km_model_changed(trainer->model);
    trainer->last = (km_training_step){.step = steps};
    return leave(trainer, status);
}
