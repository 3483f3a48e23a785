/* neurons.c: knowledge neurons by integrated gradients.
 *
 * For each layer of a pass the tree holds copies of the prompt's last token, siblings that share
 * the prefix, each with that layer's activations scaled: one a step, and one scaled by 0. The last
 * token itself gives activations and probability. Activations are mlp_hidden, or mlp_out where a
 * norm lies between, whose slopes are then taken back through that norm with its factor held. */
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "km/gradient.h"
#include "km/neurons.h"
#include "model/model_private.h"

/* Copies of a pass at most, and bytes of their logits, unless one layer alone has more. */
#define MOST_COPIES 256
#define MOST_LOGITS_BYTES ((int64_t)128 << 20)
#define MOST_STEPS 10000

typedef struct neurons_run {
    km_neurons_arrays *out;
    const km_model *model;
    km_neurons_options options;
    int32_t target;
    int64_t n_prompt, n_copies; /* copies a layer: the steps, then the one at 0 */
    int32_t layers;             /* of a pass at most */
    km_point point;             /* what is scaled */
    int64_t width;              /* its width */
    /* One pass: copy c of its layer j is node n_prompt + j * n_copies + c and row 1 + the same. */
    int32_t *ids;
    int64_t *parent, *rows;
    km_patch *patches;
    km_read *activations, *gradients;
    km_target *targets;
    double *probabilities;
    float *slopes; /* (layers, steps, width) */
    float *mean;   /* (width) slopes of a layer, averaged over the steps */
    float *pulled; /* (F) their product with each neuron's output */
    float *branch; /* (D) output of the down projection */
} neurons_run;

static km_status allocate(neurons_run *run, km_error *err) {
    km_ctx *ctx = km_model_ctx(run->model);
    const int64_t copies = run->layers * run->n_copies, n = run->n_prompt + copies;
    const km_config *config = km_model_config(run->model);
    const int64_t slopes = run->layers * run->options.steps * run->width;
    KM_TRY(km_alloc_array((void **)&run->ids, ctx, n, sizeof *run->ids, err));
    KM_TRY(km_alloc_array((void **)&run->parent, ctx, n, sizeof *run->parent, err));
    KM_TRY(km_alloc_array((void **)&run->rows, ctx, copies + 1, sizeof *run->rows, err));
    KM_TRY(km_alloc_array((void **)&run->patches, ctx, copies, sizeof *run->patches, err));
    KM_TRY(km_alloc_array((void **)&run->activations, ctx, run->layers, sizeof *run->activations,
                          err));
    KM_TRY(km_alloc_array((void **)&run->gradients, ctx, run->layers, sizeof *run->gradients, err));
    KM_TRY(km_alloc_array((void **)&run->targets, ctx, copies + 1, sizeof *run->targets, err));
    KM_TRY(km_alloc_array((void **)&run->probabilities, ctx, copies + 1, sizeof *run->probabilities,
                          err));
    KM_TRY(km_alloc_array((void **)&run->slopes, ctx, slopes, sizeof *run->slopes, err));
    KM_TRY(km_alloc_array((void **)&run->mean, ctx, run->width, sizeof *run->mean, err));
    KM_TRY(km_alloc_array((void **)&run->pulled, ctx, config->d_ffn, sizeof *run->pulled, err));
    return km_alloc_array((void **)&run->branch, ctx, config->d_model, sizeof *run->branch, err);
}

static void clear(neurons_run *run) {
    km_ctx *ctx = km_model_ctx(run->model);
    km_free(ctx, run->branch);
    km_free(ctx, run->pulled);
    km_free(ctx, run->mean);
    km_free(ctx, run->slopes);
    km_free(ctx, run->probabilities);
    km_free(ctx, run->targets);
    km_free(ctx, run->gradients);
    km_free(ctx, run->activations);
    km_free(ctx, run->patches);
    km_free(ctx, run->rows);
    km_free(ctx, run->parent);
    km_free(ctx, run->ids);
}

/* What never changes between passes. */
static void lay_out(neurons_run *run, const int32_t *ids) {
    const int64_t last = run->n_prompt - 1;
    for (int64_t i = 0; i < run->n_prompt + run->layers * run->n_copies; i++) {
        const bool copy = i > last;
        run->ids[i] = ids[copy ? last : i];
        run->parent[i] = copy ? last - 1 : i - 1;
    }
    for (int64_t row = 0; row <= run->layers * run->n_copies; row++) {
        run->rows[row] = last + row;
        run->targets[row] = (km_target){row, run->target, 1.0};
    }
}

/* By how much copy `copy` of a layer scales its activations. */
static float scale_of(const neurons_run *run, int64_t copy) {
    const double steps = run->options.steps;
    if (copy == run->options.steps) {
        return 0.0f;
    }
    const double shift = run->options.rule == KM_RIEMANN_MIDPOINT ? 0.5 : 0.0;
    return (float)(((double)copy + shift) / steps);
}

static void fill_doors(neurons_run *run, int32_t first, int32_t n_layers) {
    const int64_t f = km_model_config(run->model)->d_ffn, steps = run->options.steps;
    for (int32_t j = 0; j < n_layers; j++) {
        const int64_t *copies = run->rows + 1 + j * run->n_copies;
        for (int64_t c = 0; c < run->n_copies; c++) {
            run->patches[j * run->n_copies + c] = (km_patch){.kind = KM_PATCH_SCALE,
                                                             .point = run->point,
                                                             .layer = first + j,
                                                             .head = -1,
                                                             .nodes = copies + c,
                                                             .n_nodes = 1,
                                                             .factor = scale_of(run, c)};
        }
        run->activations[j] =
            (km_read){KM_POINT_MLP_HIDDEN, first + j, -1,
                      run->rows,           1,         run->out->activation + (first + j) * f};
        run->gradients[j] = (km_read){run->point, first + j, -1,
                                      copies,     steps,     run->slopes + j * steps * run->width};
    }
}

/* The derivative is with respect to the scaled activation, which is what the sum asks for. */
static void average(const neurons_run *run, const float *slopes) {
    const int64_t steps = run->options.steps;
    for (int64_t i = 0; i < run->width; i++) {
        double sum = 0.0;
        for (int64_t k = 0; k < steps; k++) {
            sum += (double)slopes[k * run->width + i];
        }
        run->mean[i] = (float)(sum / (double)steps);
    }
}

/* From slopes at mlp_out to slopes at mlp_hidden, through the down projection and the norm behind
 * it, whose factor stays that of this run. */
static km_status pull_back(const neurons_run *run, int32_t layer, km_error *err) {
    const km_model *model = run->model;
    const km_config *config = km_model_config(model);
    const km_layer_weights *w = &model->weights.layers[layer];
    const int64_t d = config->d_model, f = config->d_ffn;
    const km_linear_job job = {
        run->branch, run->out->activation + layer * f, &w->w_down, w->b_down, d, f, 1};
    double squares = 0.0;
    KM_TRY(km_linear_many(km_model_ctx(model), &job, 1, err));
    for (int64_t i = 0; i < d; i++) {
        squares += (double)run->branch[i] * (double)run->branch[i];
    }
    const double factor = 1.0 / sqrt(squares / (double)d + config->norm_eps);
    for (int64_t i = 0; i < d; i++) {
        const double gain = (double)w->ffn_post_norm.gain[i] + (double)config->norm_offset;
        run->mean[i] = (float)((double)run->mean[i] * gain * factor);
    }
    return km_linear_backward(km_model_ctx(model), run->pulled, f, run->mean, d, &w->w_down, 1,
                              false, err);
}

static km_status attribute(const neurons_run *run, int32_t layer, const float *slopes,
                           const double *probabilities, km_error *err) {
    const int64_t f = km_model_config(run->model)->d_ffn;
    const bool held = run->point == KM_POINT_MLP_OUT;
    double *attribution = run->out->attribution + layer * f, total = 0.0;
    average(run, slopes);
    if (held) {
        KM_TRY(pull_back(run, layer, err));
    }
    for (int64_t i = 0; i < f; i++) {
        const double slope = (double)(held ? run->pulled[i] : run->mean[i]);
        attribution[i] = (double)run->out->activation[layer * f + i] * slope;
        total += attribution[i];
    }
    run->out->without[layer] = probabilities[run->options.steps];
    run->out->completeness[layer] = run->out->probability - run->out->without[layer] - total;
    return KM_OK;
}

static km_status run_pass(neurons_run *run, int32_t first, int32_t n_layers, km_error *err) {
    const int64_t copies = n_layers * run->n_copies;
    const int64_t slopes = run->options.steps * run->width;
    km_target_loss loss = {run->model, KM_TARGET_PROB, run->targets, copies + 1,
                           run->probabilities};
    km_gradient_request request = {.loss = km_target_loss_row, .payload = &loss};
    fill_doors(run, first, n_layers);
    request.forward.tree = (km_tree){run->ids, run->parent, run->n_prompt + copies};
    request.forward.rows = run->rows;
    request.forward.n_rows = copies + 1;
    request.forward.patches = run->patches;
    request.forward.n_patches = copies;
    request.forward.reads = run->activations;
    request.forward.n_reads = n_layers;
    request.gradients = run->gradients;
    request.n_gradients = n_layers;
    KM_TRY(km_model_gradients(run->model, &request, err));
    run->out->probability = run->probabilities[0];
    for (int32_t j = 0; j < n_layers; j++) {
        KM_TRY(attribute(run, first + j, run->slopes + j * slopes,
                         run->probabilities + 1 + j * run->n_copies, err));
    }
    return KM_OK;
}

static km_status check(const neurons_run *run, const int32_t *ids, km_error *err) {
    const int32_t vocab = km_model_config(run->model)->vocab_size;
    if (run->n_prompt < 1 || ids == NULL) {
        return KM_SET(err, KM_EINVAL, "a prompt needs at least one token");
    }
    if (run->options.steps < 1 || run->options.steps > MOST_STEPS) {
        return KM_SET(err, KM_EINVAL, "steps %d must be in [1, %d]", run->options.steps,
                      MOST_STEPS);
    }
    if (run->options.rule != KM_RIEMANN_LEFT && run->options.rule != KM_RIEMANN_MIDPOINT) {
        return KM_SET(err, KM_EINVAL, "rule %d is neither left nor midpoint",
                      (int)run->options.rule);
    }
    if (run->target < 0 || run->target >= vocab) {
        return KM_SET(err, KM_ERANGE, "target %d must be in [0, %d)", run->target, vocab);
    }
    return KM_OK;
}

/* Layers of a pass, depending on the model and the options alone. */
static int32_t choose_layers(const neurons_run *run) {
    const km_config *config = km_model_config(run->model);
    const int64_t bytes = (int64_t)config->vocab_size * (int64_t)sizeof(float);
    const int64_t by_bytes = MOST_LOGITS_BYTES / bytes;
    const int64_t copies = by_bytes < MOST_COPIES ? by_bytes : MOST_COPIES;
    const int64_t layers = copies / run->n_copies;
    return layers < 1 ? 1 : layers > config->n_layers ? config->n_layers : (int32_t)layers;
}

km_status km_neurons_run_into(km_neurons_arrays *out, const km_model *model, const int32_t *ids,
                              int64_t n, int32_t target, const km_neurons_options *options,
                              km_tick_fn tick_fn, void *payload, km_error *err) {
    const km_neurons_options defaults = KM_NEURONS_OPTIONS_INIT;
    const km_config *config = km_model_config(model);
    const int32_t n_layers = config->n_layers;
    km_status status = KM_OK;
    km_tick tick;
    neurons_run run = {.out = out, .model = model, .target = target, .n_prompt = n};
    run.options = options == NULL ? defaults : *options;
    run.n_copies = (int64_t)run.options.steps + 1;
    KM_TRY(check(&run, ids, err));
    run.layers = choose_layers(&run);
    run.point = config->post_norms ? KM_POINT_MLP_OUT : KM_POINT_MLP_HIDDEN;
    run.width = config->post_norms ? config->d_model : config->d_ffn;
    KM_GO(allocate(&run, err));
    lay_out(&run, ids);
    km_tick_init(&tick, km_model_ctx(model), tick_fn, payload, n_layers);
    /* From the top, where the way back is short, so that a wrong request fails early. */
    for (int32_t end = n_layers; end > 0; end -= run.layers) {
        const int32_t first = end > run.layers ? end - run.layers : 0;
        KM_GO(run_pass(&run, first, end - first, err));
        KM_GO(km_tick_update(&tick, n_layers - first, err));
    }
done:
    clear(&run);
    return status;
}
