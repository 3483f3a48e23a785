/* km_continuations_run: whole continuations after prompts, through the token forest. */
#include "km/score.h"

#include "tree_score.h"

static km_status check_item(const km_continuations *in, int64_t i, const km_config *config,
                            km_error *err) {
    const int64_t length = in->offsets[i + 1] - in->offsets[i];
    if (in->prompt_lengths[i] < 1 || in->prompt_lengths[i] >= length) {
        return KM_SET(err, KM_EINVAL,
                      "continuation %lld: %lld tokens, the first %lld of them given; at least one "
                      "must be given and one scored",
                      (long long)i, (long long)length, (long long)in->prompt_lengths[i]);
    }
    if (length - 1 > config->context_length) { /* the last token is never computed */
        return KM_SET(
            err, KM_ERANGE,
            "continuation %lld has %lld tokens with its prompt; the model's context is %d",
            (long long)i, (long long)length, config->context_length);
    }
    for (int64_t t = in->offsets[i]; t < in->offsets[i + 1]; t++) {
        if (in->ids[t] < 0 || in->ids[t] >= config->vocab_size) {
            return KM_SET(err, KM_ERANGE,
                          "continuation %lld: token %lld has id %d; the vocabulary is 0 to %d",
                          (long long)i, (long long)(t - in->offsets[i]), in->ids[t],
                          config->vocab_size - 1);
        }
    }
    return KM_OK;
}

/* Items that point into the packed arrays, in and out. */
static void lay_out(km__continuation *items, const km_continuation_scores *out,
                    const km_continuations *in) {
    int64_t scored = 0;
    for (int64_t i = 0; i < in->n; i++) {
        const int32_t *ids = in->ids + in->offsets[i];
        const int64_t n_prompt = in->prompt_lengths[i];
        const int64_t n_answer = in->offsets[i + 1] - in->offsets[i] - n_prompt;
        items[i] = (km__continuation){
            .prompt = ids,
            .n_prompt = n_prompt,
            .answer = ids + n_prompt,
            .n_answer = n_answer,
            .logprobs = out->logprobs == NULL ? NULL : out->logprobs + scored,
            .is_argmax = out->is_argmax == NULL ? NULL : out->is_argmax + scored,
        };
        scored += n_answer;
    }
}

static void write_items(const km_continuation_scores *out, const km__continuation *items,
                        int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (out->sums != NULL) {
            out->sums[i] = items[i].logp;
        }
        if (out->greedy != NULL) {
            out->greedy[i] = items[i].greedy;
        }
    }
}

km_status km_continuations_run(const km_continuation_scores *out, const km_model *model,
                               const km_continuations *in, km_tick_fn tick_fn, void *payload,
                               km_error *err) {
    km_status status = KM_OK;
    km_ctx *ctx = km_model_ctx(model);
    km__engine engine = km__engine_of_model(model);
    km__continuation *items = NULL;
    km_tick tick;
    int64_t batch_tokens = in->batch_tokens;
    if (in->n < 0 || batch_tokens < 0) {
        return KM_SET(err, KM_EINVAL, "%lld continuations, %lld tokens a batch", (long long)in->n,
                      (long long)batch_tokens);
    }
    for (int64_t i = 0; i < in->n; i++) {
        KM_TRY(check_item(in, i, km_model_config(model), err));
    }
    KM_GO(km_alloc_array((void **)&items, ctx, in->n, sizeof *items, err));
    lay_out(items, out, in);
    batch_tokens = batch_tokens == 0 ? km__default_batch_tokens(model) : batch_tokens;
    km_tick_init(&tick, ctx, tick_fn, payload, in->n);
    KM_GO(km__score_continuations(items, in->n, &engine, batch_tokens, &tick, 0, err));
    write_items(out, items, in->n);
done:
    km_free(ctx, items);
    return status;
}
