/* trainer_batch.c: a batch of sequences, parted into passes, as gradients of its mean loss. */
#include <math.h>
#include <string.h>

#include "model/model_private.h"
#include "model/optimizer_private.h"

#define PASS_TOKENS 1024

/* Sequences first .. end-1 of a batch as one pass. */
typedef struct pass {
    int64_t first, end;
    int64_t n_tokens, n_targets, longest;
} pass;

/* Arrays of one pass. */
typedef struct arrays {
    int32_t *ids;    /* (n_tokens) */
    int64_t *parent; /* (n_tokens) */
    float *weights;  /* (n_targets) as the batch has them */
    double *losses;  /* (n_targets) */
    km_training_target *targets;
} arrays;

/* ---- what a batch holds ---- */

static km_status check_batch(const km_training_batch *batch, km_error *err) {
    if (batch == NULL || batch->ids == NULL || batch->offsets == NULL || batch->weights == NULL ||
        batch->n_sequences < 1 || batch->offsets[0] != 0 || batch->pass_tokens < 0) {
        return KM_SET(err, KM_EINVAL, "a batch needs at least one sequence, its ids and weights");
    }
    for (int64_t s = 0; s < batch->n_sequences; s++) {
        const int64_t begin = batch->offsets[s], end = batch->offsets[s + 1];
        if (end <= begin) {
            return KM_SET(err, KM_EINVAL, "sequence %lld of the batch is empty", (long long)s);
        }
        if (batch->weights[begin] != 0.0f) {
            return KM_SET(err, KM_EINVAL,
                          "the first token of sequence %lld has a weight, but nothing before it "
                          "to follow from",
                          (long long)s);
        }
        for (int64_t i = begin; i < end; i++) {
            if (!(batch->weights[i] >= 0.0f && isfinite(batch->weights[i]))) {
                return KM_SET(err, KM_EINVAL,
                              "the weight of token %lld of sequence %lld is %g; it must be at "
                              "least 0 and finite",
                              (long long)(i - begin), (long long)s, (double)batch->weights[i]);
            }
        }
    }
    return KM_OK;
}

/* Tokens of a sequence that targets follow from: the last target and what is behind it are not
 * shown to the model. */
static int64_t tokens_shown(const km_training_batch *batch, int64_t sequence, int64_t *n_targets) {
    int64_t shown = 0;
    *n_targets = 0;
    for (int64_t i = batch->offsets[sequence]; i < batch->offsets[sequence + 1]; i++) {
        if (batch->weights[i] > 0.0f) {
            shown = i - batch->offsets[sequence];
            ++*n_targets;
        }
    }
    return shown;
}

/* Sum of all weights; the counts go to *out. */
static double count(km_training_step *out, const km_training_batch *batch) {
    double total = 0.0;
    out->n_tokens = batch->offsets[batch->n_sequences];
    out->n_targets = 0;
    for (int64_t i = 0; i < out->n_tokens; i++) {
        total += (double)batch->weights[i];
        out->n_targets += batch->weights[i] > 0.0f;
    }
    return total;
}

/* The pass that begins with sequence `first`: as many as fit, and at least one. */
static pass next_pass(const km_training_batch *batch, int64_t first) {
    const int64_t most = batch->pass_tokens > 0 ? batch->pass_tokens : PASS_TOKENS;
    pass out = {.first = first, .end = first};
    while (out.end < batch->n_sequences) {
        int64_t n_targets;
        const int64_t shown = tokens_shown(batch, out.end, &n_targets);
        if (out.n_tokens > 0 && out.n_tokens + shown > most) {
            break;
        }
        out.n_tokens += shown;
        out.n_targets += n_targets;
        out.longest = shown > out.longest ? shown : out.longest;
        out.end++;
    }
    return out;
}

/* ---- one pass ---- */

static km_status allocate(arrays *a, km_ctx *ctx, const pass *p, km_error *err) {
    KM_TRY(km_alloc_array((void **)&a->ids, ctx, p->n_tokens, sizeof *a->ids, err));
    KM_TRY(km_alloc_array((void **)&a->parent, ctx, p->n_tokens, sizeof *a->parent, err));
    KM_TRY(km_alloc_array((void **)&a->weights, ctx, p->n_targets, sizeof *a->weights, err));
    KM_TRY(km_alloc_array((void **)&a->losses, ctx, p->n_targets, sizeof *a->losses, err));
    return km_alloc_array((void **)&a->targets, ctx, p->n_targets, sizeof *a->targets, err);
}

static void release(arrays *a, km_ctx *ctx) {
    km_free(ctx, a->ids);
    km_free(ctx, a->parent);
    km_free(ctx, a->weights);
    km_free(ctx, a->losses);
    km_free(ctx, a->targets);
}

/* Every weight divided by `total`: the terms then sum to the batch's mean. */
static void fill(arrays *a, const pass *p, const km_training_batch *batch, double total) {
    int64_t node = 0, target = 0;
    for (int64_t s = p->first; s < p->end; s++) {
        int64_t n_targets;
        const int64_t shown = tokens_shown(batch, s, &n_targets), begin = batch->offsets[s];
        for (int64_t i = 0; i < shown; i++, node++) {
            const float weight = batch->weights[begin + i + 1];
            a->ids[node] = batch->ids[begin + i];
            a->parent[node] = i == 0 ? -1 : node - 1;
            if (weight > 0.0f) {
                a->weights[target] = weight;
                a->targets[target++] = (km_training_target){node, batch->ids[begin + i + 1],
                                                            (float)((double)weight / total)};
            }
        }
    }
}

static double mib(int64_t bytes) {
    return (double)bytes / 1048576.0;
}

/* Whether to keep less and compute more. */
static km_status choose_recompute(bool *out, const km_model *model, const pass *p,
                                  km_recompute wanted, km_error *err) {
    const int64_t available = (int64_t)km_memory_available();
    int64_t bytes = 0;
    *out = wanted == KM_RECOMPUTE_ALWAYS;
    for (;;) {
        bytes = km_model_train_pass_bytes(model, p->n_tokens, p->longest, p->n_targets, *out);
        if (bytes <= available || *out || wanted == KM_RECOMPUTE_NEVER) {
            break;
        }
        *out = true;
    }
    return bytes <= available
               ? KM_OK
               : KM_SET(err, KM_ENOMEM,
                        "a training pass over %lld tokens needs %.0f MiB; %.0f MiB are available; "
                        "shorter sequences or fewer tokens a pass need less",
                        (long long)p->n_tokens, mib(bytes), mib(available));
}

/* One pass; its share of the loss, undivided, is added. */
static km_status run_pass(double *loss, const km_trainer *trainer, const km_training_batch *batch,
                          const pass *p, double total, km_error *err) {
    km_ctx *ctx = trainer->model->ctx;
    km_status status = KM_OK;
    arrays a = {NULL};
    bool recompute;
    KM_TRY(choose_recompute(&recompute, trainer->model, p, batch->recompute, err));
    KM_GO(allocate(&a, ctx, p, err));
    fill(&a, p, batch, total);
    const km_training_pass request = {.tree = {a.ids, a.parent, p->n_tokens},
                                      .targets = a.targets,
                                      .n_targets = p->n_targets,
                                      .gradients = trainer->gradients,
                                      .n_gradients = trainer->n_trained,
                                      .recompute = recompute,
                                      .losses = a.losses};
    KM_GO(km_model_train_pass(trainer->model, &request, err));
    for (int64_t i = 0; i < p->n_targets; i++) {
        *loss += (double)a.weights[i] * a.losses[i];
    }
done:
    release(&a, ctx);
    return status;
}

km_status km__trainer_passes(km_training_step *out, const km_trainer *trainer,
                             const km_training_batch *batch, km_error *err) {
    KM_TRY(check_batch(batch, err));
    const double total = count(out, batch);
    double loss = 0.0;
    if (out->n_targets == 0) {
        return KM_SET(err, KM_EINVAL, "no token of the batch has a weight");
    }
    for (int64_t at = 0; at < batch->n_sequences;) {
        const pass p = next_pass(batch, at);
        if (p.n_targets > 0) {
            KM_TRY(run_pass(&loss, trainer, batch, &p, total, err));
        }
        at = p.end;
    }
    out->loss = loss / total;
    return KM_OK;
}
