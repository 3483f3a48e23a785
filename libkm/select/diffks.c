/* diffks.c: a selection model: its weights, optimiser and memory, and what it is asked for. Passes
 * are made in float32 by core_*.c. */
#define KM_REAL_BITS 32

#include <math.h>
#include <string.h>

#include "select/core.h"

struct km_diffks {
    km_ctx *ctx;
    km_diffks_config config;
    uint64_t seed;
    km__shape shapes[P_COUNT];
    float *block; /* values, then gradients, of all parameters */
    float *w[P_COUNT], *d[P_COUNT];
    int64_t n_weights;
    km_optimizer *optimizer;
    int64_t tensor[P_COUNT]; /* of the optimiser; -1: not trained */
    char *room;              /* of the last pass, kept for the next */
    size_t room_size;
};

/* ---- configuration ---- */

static km_status check_width(const char *name, int64_t width, int64_t least, km_error *err) {
    if (width < least || width > 1 << 24) {
        return KM_SET(err, KM_EINVAL, "%s is %lld; it must be from %lld to %d", name,
                      (long long)width, (long long)least, 1 << 24);
    }
    return KM_OK;
}

static km_status check_weights(const km_diffks_config *c, km_error *err) {
    double sum = 0.0;
    if (c->history < 1 || c->history > KM_DIFFKS_MAX_HISTORY) {
        return KM_SET(err, KM_EINVAL, "history is %lld; it must be from 1 to %d",
                      (long long)c->history, KM_DIFFKS_MAX_HISTORY);
    }
    for (int64_t m = 0; m < c->history; m++) {
        if (!(c->weights[m] >= 0.0 && isfinite(c->weights[m]))) {
            return KM_SET(err, KM_EINVAL, "weights[%lld] is %g; it must be at least 0 and finite",
                          (long long)m, c->weights[m]);
        }
        sum += c->weights[m];
    }
    return sum > 0.0 ? KM_OK : KM_SET(err, KM_EINVAL, "the weights of earlier turns are all 0");
}

/* What the posterior variant does without. */
static km_status check_posterior(const km_diffks_config *c, km_error *err) {
    if (!(c->temperature >= 0.0 && isfinite(c->temperature)) ||
        !(c->supervision >= 0.0 && isfinite(c->supervision))) {
        return KM_SET(err, KM_EINVAL,
                      "temperature is %g and supervision %g; they must be at least 0 and finite",
                      c->temperature, c->supervision);
    }
    if (c->variant == KM_DIFFKS_POSTERIOR && (c->generate || c->vectors > 0 || !c->mask_padding)) {
        return KM_SET(
            err, KM_EINVAL,
            "the posterior variant needs generate false, vectors 0 and mask_padding true");
    }
    return KM_OK;
}

static km_status check_config(const km_diffks_config *c, km_error *err) {
    if (c->variant != KM_DIFFKS_FUSED && c->variant != KM_DIFFKS_DISENTANGLED &&
        c->variant != KM_DIFFKS_CONTEXT && c->variant != KM_DIFFKS_POSTERIOR) {
        return KM_SET(err, KM_EINVAL, "there is no variant %d", (int)c->variant);
    }
    KM_TRY(check_width("vocabulary", c->vocabulary, 4, err));
    KM_TRY(check_width("embedding", c->embedding, 1, err));
    KM_TRY(check_width("hidden", c->hidden, 1, err));
    KM_TRY(check_width("decoder", c->decoder, c->generate ? 1 : 0, err));
    KM_TRY(check_width("vectors", c->vectors, 0, err));
    if (!(c->dropout >= 0.0 && c->dropout < 1.0)) {
        return KM_SET(err, KM_EINVAL, "dropout is %g; it must be at least 0 and below 1",
                      c->dropout);
    }
    KM_TRY(check_posterior(c, err));
    return check_weights(c, err);
}

/* ---- a model ---- */

/* Half-width of the uniform distribution a parameter begins with: 1 / sqrt of the GRU's state, or
 * of the Linear's input, which its bias shares; terms of our own begin with 0. */
static double spread_of(const km_diffks *model, int index) {
    const int64_t d = 2 * model->config.hidden, h = model->config.decoder;
    if (index == P_MATCH) {
        return 0.0;
    }
    if (index >= P_POST) {
        return 1.0 / sqrt((double)(index < P_BOW ? 2 * d : d));
    }
    if (index < P_TILDE) {
        return 1.0 / sqrt((double)model->config.hidden);
    }
    if (index == P_ATTN_Q || index == P_ATTN_V || index == P_COPY || index == P_COPY_B) {
        return 1.0 / sqrt((double)d);
    }
    return 1.0 / sqrt((double)(index < P_DEC ? 2 * d : h));
}

static void fill_parameter(const km_diffks *model, int index) {
    const uint64_t stream = ((uint64_t)1 << 62) + (uint64_t)index;
    const double spread = spread_of(model, index);
    for (int64_t i = 0; i < model->shapes[index].n; i++) {
        const uint64_t counter = (uint64_t)i;
        model->w[index][i] =
            index == P_E
                ? (float)km_random_normal(model->seed, stream, counter)
                : (float)(spread * (2.0 * km_random_uniform(model->seed, stream, counter) - 1.0));
    }
}

static km_status allocate_weights(km_diffks *model, km_error *err) {
    for (int i = 0; i < P_COUNT; i++) {
        model->n_weights += model->shapes[i].n;
    }
    const double bytes = 2.0 * (double)model->n_weights * sizeof(float);
    const size_t available = km_memory_available();
    if (bytes > (double)available) {
        return KM_SET(err, KM_ENOMEM,
                      "%lld weights and their gradients need %.0f MiB; %.0f MiB are available",
                      (long long)model->n_weights, bytes / 1048576.0,
                      (double)available / 1048576.0);
    }
    KM_TRY(km_alloc_array((void **)&model->block, model->ctx, 2 * model->n_weights, sizeof(float),
                          err));
    float *next = model->block;
    for (int i = 0; i < P_COUNT; i++) {
        model->w[i] = next;
        model->d[i] = next + model->n_weights;
        next += model->shapes[i].n;
        fill_parameter(model, i);
    }
    return KM_OK;
}

km_status km_diffks_new(km_diffks **out, km_ctx *ctx, const km_diffks_config *config, uint64_t seed,
                        km_error *err) {
    km_status status = KM_OK;
    km_diffks *model = NULL;
    if (out == NULL || ctx == NULL || config == NULL) {
        return KM_SET(err, KM_EINVAL, "a selection model needs a context and a configuration");
    }
    KM_TRY(check_config(config, err));
    KM_TRY(km_alloc_array((void **)&model, ctx, 1, sizeof *model, err));
    model->ctx = ctx;
    model->config = *config;
    model->seed = seed;
    km__diffks_shapes(model->shapes, config);
    KM_GO(allocate_weights(model, err));
    *out = model;
    model = NULL;
done:
    km_diffks_free(model);
    return status;
}

void km_diffks_free(km_diffks *model) {
    if (model == NULL) {
        return;
    }
    km_ctx *ctx = model->ctx;
    km_optimizer_free(model->optimizer);
    km_free(ctx, model->room);
    km_free(ctx, model->block);
    km_free(ctx, model);
}

km_diffks_config km_diffks_get_config(const km_diffks *model) {
    return model->config;
}

/* ---- parameters ---- */

int64_t km_diffks_n_parameters(const km_diffks *model) {
    int64_t n = 0;
    for (int i = 0; i < P_COUNT; i++) {
        n += model->shapes[i].n > 0;
    }
    return n;
}

km_status km_diffks_parameter_at(km_diffks_parameter *out, const km_diffks *model, int64_t index,
                                 km_error *err) {
    int64_t left = index;
    for (int i = 0; i < P_COUNT && index >= 0; i++) {
        const km__shape *shape = &model->shapes[i];
        if (shape->n > 0 && left-- == 0) {
            *out = (km_diffks_parameter){.name = shape->name,
                                         .n_dims = shape->n_dims,
                                         .shape = {shape->dims[0], shape->dims[1], shape->dims[2]},
                                         .n = shape->n,
                                         .values = model->w[i],
                                         .gradient = model->d[i]};
            if (model->optimizer != NULL && model->tensor[i] >= 0) {
                out->first = km_optimizer_average(model->optimizer, model->tensor[i], 0);
                out->second = km_optimizer_average(model->optimizer, model->tensor[i], 1);
            }
            return KM_OK;
        }
    }
    return KM_SET(err, KM_ENOTFOUND, "there is no parameter %lld of %lld", (long long)index,
                  (long long)km_diffks_n_parameters(model));
}

km_status km_diffks_optimize(km_diffks *model, const km_optimizer_options *options, km_error *err) {
    km_optimizer_tensor tensors[P_COUNT];
    km_optimizer *fresh = NULL;
    int64_t n = 0, places[P_COUNT];
    for (int i = 0; i < P_COUNT; i++) {
        const km__shape *shape = &model->shapes[i];
        const bool trained = shape->n > 0 && (i != P_E || model->config.train_embedding);
        places[i] = trained ? n : -1;
        if (trained) {
            tensors[n++] = (km_optimizer_tensor){shape->name, model->w[i], model->d[i], shape->n,
                                                 shape->n_dims == 2};
        }
    }
    KM_TRY(km_optimizer_new(&fresh, model->ctx, options, tensors, n, 0, err));
    km_optimizer_free(model->optimizer);
    model->optimizer = fresh;
    memcpy(model->tensor, places, sizeof places);
    return KM_OK;
}

int64_t km_diffks_steps(const km_diffks *model) {
    return model->optimizer == NULL ? 0 : km_optimizer_steps(model->optimizer);
}

static km_status need_optimizer(const km_diffks *model, km_error *err) {
    return model->optimizer != NULL
               ? KM_OK
               : KM_SET(err, KM_ESTATE, "the model has no optimiser: call optimize first");
}

km_status km_diffks_set_steps(km_diffks *model, int64_t steps, km_error *err) {
    KM_TRY(need_optimizer(model, err));
    return km_optimizer_set_steps(model->optimizer, steps, err);
}

/* ---- passes ---- */

typedef struct journey {
    km__plan plan;
    real_pass pass;
    real_pass_options options;
} journey;

static km_status check_options(const km_diffks_options *o, km_error *err) {
    if (o->history != KM_DIFFKS_GOLD && o->history != KM_DIFFKS_OWN &&
        o->history != KM_DIFFKS_SAMPLED) {
        return KM_SET(err, KM_EINVAL, "there is no history %d", (int)o->history);
    }
    if (!(o->probability >= 0.0 && o->probability <= 1.0)) {
        return KM_SET(err, KM_EINVAL, "probability is %g; it must be from 0 to 1", o->probability);
    }
    if (!(o->word_weight >= 0.0 && isfinite(o->word_weight))) {
        return KM_SET(err, KM_EINVAL, "word_weight is %g; it must be at least 0 and finite",
                      o->word_weight);
    }
    return o->clip >= 0.0 ? KM_OK
                          : KM_SET(err, KM_EINVAL, "clip is %g; it must be at least 0", o->clip);
}

/* A block of at least `size` bytes for a pass; what was in the one before is lost. */
static km_status make_room(km_diffks *model, size_t size, km_error *err) {
    if (size <= model->room_size) {
        return KM_OK;
    }
    km_free(model->ctx, model->room);
    model->room = NULL;
    model->room_size = 0;
    const size_t available = km_memory_available();
    if (size > available) {
        return KM_SET(err, KM_ENOMEM,
                      "a pass over this batch needs %.0f MiB; %.0f MiB are available: take fewer "
                      "dialogues at a time",
                      (double)size / 1048576.0, (double)available / 1048576.0);
    }
    KM_TRY(km_alloc((void **)&model->room, model->ctx, size, err));
    model->room_size = size;
    return KM_OK;
}

/* A planned pass with its memory. end_journey takes it also after a failure. */
static km_status begin(journey *j, km_diffks *model, const km_diffks_batch *batch,
                       const km_diffks_options *options, km__plan_wish wish, km_error *err) {
    memset(j, 0, sizeof *j);
    KM_TRY(check_options(options, err));
    KM_TRY(km__plan_new(&j->plan, model->ctx, &model->config, batch, wish, err));
    KM_TRY(make_room(model, km__pass_lay_out(&j->pass, &j->plan, model->w, model->d, NULL), err));
    (void)km__pass_lay_out(&j->pass, &j->plan, model->w, model->d, model->room);
    j->options = (real_pass_options){.user = *options,
                                     .seed = model->seed,
                                     .step = (uint64_t)km_diffks_steps(model),
                                     .dropout = wish.training && model->config.dropout > 0.0,
                                     .noise = wish.training && model->config.temperature > 0.0};
    return km__encode(model->ctx, &j->pass, &j->options, err);
}

static void end(journey *j) {
    km__plan_free(&j->plan);
}

km_status km_diffks_pass_bytes(int64_t *out, km_diffks *model, const km_diffks_batch *batch,
                               bool training, km_error *err) {
    km__plan plan;
    real_pass pass;
    const km__plan_wish wish = {training, training, KM_DIFFKS_OWN};
    KM_TRY(km__plan_new(&plan, model->ctx, &model->config, batch, wish, err));
    const size_t size = km__pass_lay_out(&pass, &plan, model->w, model->d, NULL);
    *out = size > INT64_MAX ? INT64_MAX : (int64_t)size;
    km__plan_free(&plan);
    return KM_OK;
}

km_status km_diffks_loss(km_diffks_losses *out, km_diffks *model, const km_diffks_batch *batch,
                         const km_diffks_options *options, km_error *err) {
    km_status status = KM_OK;
    journey j;
    const km__plan_wish wish = {true, false, options->history};
    KM_GO(begin(&j, model, batch, options, wish, err));
    KM_GO(km__pass_judge(out, model->ctx, &j.pass, &j.options, err));
done:
    end(&j);
    return status;
}

static void drop_gradients(km_diffks *model) {
    memset(model->block + model->n_weights, 0, (size_t)model->n_weights * sizeof(float));
}

km_status km_diffks_gradient(km_diffks_losses *out, km_diffks *model, const km_diffks_batch *batch,
                             const km_diffks_options *options, km_error *err) {
    km_status status = KM_OK;
    journey j;
    const km__plan_wish wish = {true, true, options->history};
    drop_gradients(model);
    KM_GO(begin(&j, model, batch, options, wish, err));
    KM_GO(km__pass_judge(out, model->ctx, &j.pass, &j.options, err));
    KM_GO(km__pass_back(model->ctx, &j.pass, &j.options, err));
done:
    end(&j);
    return status;
}

/* With gradients in place. */
static km_status take_step(km_diffks_losses *out, km_diffks *model,
                           const km_diffks_options *options, km_error *err) {
    if (!isfinite(out->loss)) {
        return KM_SET(err, KM_ENUMERIC, "the loss is %g", out->loss);
    }
    KM_TRY(km_optimizer_norm(&out->norm, model->optimizer, err));
    const double scale =
        options->clip > 0.0 && out->norm > options->clip ? options->clip / out->norm : 1.0;
    return km_optimizer_step(model->optimizer, options->learning_rate, scale, err);
}

km_status km_diffks_step(km_diffks_losses *out, km_diffks *model, const km_diffks_batch *batch,
                         const km_diffks_options *options, km_error *err) {
    km_status status = KM_OK;
    KM_TRY(need_optimizer(model, err));
    KM_GO(km_diffks_gradient(out, model, batch, options, err));
    KM_GO(take_step(out, model, options, err));
done:
    if (status != KM_OK) {
        drop_gradients(model);
    }
    return status;
}

/* ---- selecting and answering ---- */

int64_t km_diffks_n_candidates(const km_diffks_batch *batch) {
    int64_t n = 0;
    for (int64_t t = 0; t < batch->n_turns; t++) {
        n += batch->list_offsets[batch->turn_lists[t] + 1] -
             batch->list_offsets[batch->turn_lists[t]];
    }
    return n;
}

/* The highest score of each turn, the lowest index of equal ones. */
static void choose_best(int64_t *chosen, const journey *j) {
    const km__plan *plan = &j->plan;
    for (int64_t t = 0; t < plan->batch->n_turns; t++) {
        const float *scores = j->pass.scores + plan->pairs[t];
        const int64_t k = km__plan_candidates(plan, t);
        chosen[t] = j->options.user.allow_none || k == 1 ? 0 : 1;
        for (int64_t i = chosen[t] + 1; i < k; i++) {
            chosen[t] = scores[i] > scores[chosen[t]] ? i : chosen[t];
        }
    }
}

km_status km_diffks_select(const km_diffks_scores *out, km_diffks *model,
                           const km_diffks_batch *batch, const km_diffks_options *options,
                           km_error *err) {
    km_status status = KM_OK;
    journey j;
    const km__plan_wish wish = {false, false, options->history};
    if ((out->context == NULL) != (out->contributions == NULL)) {
        return KM_SET(err, KM_EINVAL, "context scores and contributions come together");
    }
    KM_GO(begin(&j, model, batch, options, wish, err));
    KM_GO(km__choose(model->ctx, &j.pass, &j.options, err));
    choose_best(out->chosen, &j);
    if (out->scores != NULL) {
        memcpy(out->scores, j.pass.scores, (size_t)j.plan.n_pairs * sizeof(float));
    }
    if (out->context != NULL) {
        KM_GO(km__pass_explain(out->context, out->contributions, model->ctx, &j.pass, err));
    }
done:
    end(&j);
    return status;
}

static km_status check_answers(const km_diffks *model, const journey *j, const int64_t *chosen,
                               int64_t max_words, km_error *err) {
    if (!model->config.generate) {
        return KM_SET(err, KM_ESTATE, "the model has no decoder");
    }
    if (max_words < 1 || max_words > INT32_MAX) {
        return KM_SET(err, KM_EINVAL, "max_words is %lld; it must be at least 1",
                      (long long)max_words);
    }
    for (int64_t t = 0; t < j->plan.batch->n_turns; t++) {
        if (chosen[t] < 0 || chosen[t] >= km__plan_candidates(&j->plan, t)) {
            return KM_SET(err, KM_EINVAL, "chosen[%lld] is %lld; its list has %lld candidates",
                          (long long)t, (long long)chosen[t],
                          (long long)km__plan_candidates(&j->plan, t));
        }
    }
    return KM_OK;
}

km_status km_diffks_respond(int32_t *tokens, int64_t *lengths, km_diffks *model,
                            const km_diffks_batch *batch, const int64_t *chosen, int64_t max_words,
                            km_error *err) {
    km_status status = KM_OK;
    journey j;
    void *block = NULL;
    const km_diffks_options options = KM_DIFFKS_OPTIONS_INIT;
    const km__plan_wish wish = {false, false, KM_DIFFKS_OWN};
    KM_GO(begin(&j, model, batch, &options, wish, err));
    KM_GO(check_answers(model, &j, chosen, max_words, err));
    KM_GO(km_alloc(&block, model->ctx, km__respond_size(&j.plan), err));
    KM_GO(km__respond(tokens, lengths, NULL, model->ctx, &j.pass, chosen, max_words, block, err));
done:
    km_free(model->ctx, block);
    end(&j);
    return status;
}
