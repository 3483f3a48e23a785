/* The logit lens of many prompts: one forest of their tokens a pass, every layer's logits seen
 * block by block, a row reduced to its figures where it is seen. */
#include <math.h>
#include <string.h>

#include "km/interpretability.h"
#include "measure/forest.h"
#include "measure/lens_private.h"

typedef struct lens_batch {
    const km_lens_arrays *out;
    const km_model *model;
    const int32_t *targets; /* those of the whole call */
    int64_t first;          /* prompt of row 0 */
    int32_t n_layers;
    int top_k;
} lens_batch;

/* The k largest logits, best first, lower ids first among equals. */
static void find_top(int32_t *ids, double *logits, int k, const float *x, int64_t n) {
    int held = 0;
    float least = 0.0f;
    for (int64_t v = 0; v < n; v++) {
        if (held == k && x[v] <= least) {
            continue;
        }
        int at = held < k ? held++ : k - 1;
        for (; at > 0 && (float)logits[at - 1] < x[v]; at--) {
            ids[at] = ids[at - 1];
            logits[at] = logits[at - 1];
        }
        ids[at] = (int32_t)v;
        logits[at] = (double)x[v];
        least = (float)logits[held - 1];
    }
}

static double entropy_of(const float *logits, int64_t n, double lse) {
    double entropy = 0;
    for (int64_t v = 0; v < n; v++) {
        double logprob = (double)logits[v] - lse;
        entropy -= exp(logprob) * logprob;
    }
    return entropy;
}

void km__lens_row(const km_lens_arrays *out, const km_model *model, int64_t slot, int32_t target,
                  int top_k, const float *logits, int64_t vocab) {
    const double lse = km_logits_logsumexp(model, logits, vocab);
    out->rank[slot] = km_logits_rank(logits, vocab, target);
    out->logprob[slot] = (double)logits[target] - lse;
    if (out->entropy != NULL) {
        out->entropy[slot] = entropy_of(logits, vocab, lse);
    }
    if (top_k > 0) {
        double *top = out->top_logprobs + slot * top_k;
        find_top(out->top_ids + slot * top_k, top, top_k, logits, vocab);
        for (int k = 0; k < top_k; k++) {
            top[k] -= lse;
        }
    }
}

/* Workers come here: one call a row and layer, which fills that row's slots and nothing else. */
static km_status see_row(void *payload, int64_t index, int32_t layer, const float *logits,
                         int64_t vocab, km_error *err) {
    (void)err;
    const lens_batch *batch = payload;
    const int64_t prompt = batch->first + index;
    km__lens_row(batch->out, batch->model, prompt * (batch->n_layers + 1) + layer,
                 batch->targets[prompt], batch->top_k, logits, vocab);
    return KM_OK;
}

km_status km__lens_check(const km_model *model, const int64_t *offsets, int64_t n,
                         const int32_t *targets, int top_k, km_error *err) {
    const int32_t vocab = km_model_config(model)->vocab_size;
    if (top_k < 0 || top_k > vocab) {
        return KM_SET(err, KM_ERANGE, "top_k %d must be in [0, %ld]", top_k, (long)vocab);
    }
    for (int64_t i = 0; i < n; i++) {
        if (offsets[i + 1] <= offsets[i]) {
            return KM_SET(err, KM_EINVAL, "prompt %lld: a prompt needs at least one token",
                          (long long)i);
        }
        if (targets[i] < 0 || targets[i] >= vocab) {
            return KM_SET(err, KM_ERANGE, "prompt %lld: target %ld must be in [0, %ld)",
                          (long long)i, (long)targets[i], (long)vocab);
        }
    }
    return KM_OK;
}

static km_status run_pass(lens_batch *batch, const km__forest *forest, const int64_t *rows,
                          int64_t n_rows, km_error *err) {
    const km_forward_request request = {.tree = km__forest_tree(forest),
                                        .rows = rows,
                                        .n_rows = n_rows,
                                        .lens_rows = rows,
                                        .n_lens_rows = n_rows,
                                        .on_logits = see_row,
                                        .payload = batch};
    return km_model_forward(batch->model, &request, err);
}

km_status km_lens_run_into(const km_lens_arrays *out, const km_model *model, const int32_t *ids,
                           const int64_t *offsets, int64_t n, const int32_t *targets, int top_k,
                           int64_t batch_tokens, km_tick_fn tick_fn, void *payload, km_error *err) {
    km_status status = KM_OK;
    km_ctx *ctx = km_model_ctx(model);
    km__forest forest;
    km_tick tick;
    int64_t *rows = NULL;
    lens_batch batch = {.out = out,
                        .model = model,
                        .targets = targets,
                        .n_layers = km_model_config(model)->n_layers,
                        .top_k = top_k};
    KM_TRY(km__lens_check(model, offsets, n, targets, top_k, err));
    km__forest_init(&forest, ctx);
    km_tick_init(&tick, ctx, tick_fn, payload, n);
    KM_GO(km_alloc_array((void **)&rows, ctx, n, sizeof *rows, err));
    for (int64_t end = 0; batch.first < n; batch.first = end) {
        KM_GO(
            km__forest_fill(&end, &forest, rows, ids, offsets, batch.first, n, batch_tokens, err));
        KM_GO(run_pass(&batch, &forest, rows, end - batch.first, err));
        KM_GO(km_tick_update(&tick, end, err));
    }
done:
    km_free(ctx, rows);
    km__forest_clear(&forest);
    return status;
}
