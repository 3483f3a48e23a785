/* km_verbatim_run: every token of texts judged given the true tokens before it, in as few passes as
 * the batch allows. */
#include <math.h>

#include "base/base.h"
#include "km/memorization.h"

enum { TEXT, POSITION, TOKEN, LOGP, RANK, IS_ARGMAX, MU, SIGMA2, N_COLUMNS };

static const km_column_spec COLUMNS[N_COLUMNS] = {
    {"text", KM_COLUMN_INT64, "", "Index of the text."},
    {"position", KM_COLUMN_INT64, "tokens", "Position of the token; the first one is not judged."},
    {"token", KM_COLUMN_INT64, "", "Token id."},
    {"logp", KM_COLUMN_DOUBLE, "nats", "Log-probability given the tokens before it."},
    {"rank", KM_COLUMN_INT64, "rank", "Tokens strictly more likely."},
    {"is_argmax", KM_COLUMN_BOOL, "", "It is the most likely token (ties: lowest id)."},
    {"mu", KM_COLUMN_DOUBLE, "nats", "Mean of log p under p at this position."},
    {"sigma2", KM_COLUMN_DOUBLE, "nats^2", "Variance of log p under p at this position."},
};

typedef struct verbatim_token {
    int64_t text, position;
    int32_t id;
    double logp, mu, sigma2;
    int64_t rank;
    bool is_argmax;
} verbatim_token;

/* Texts [begin, end) of one pass; row i judges tokens[i]. */
typedef struct verbatim_pass {
    const km_model *model;
    int64_t *parent;
    int64_t *rows;
    verbatim_token *tokens;
    int64_t n_rows;
} verbatim_pass;

static void row_moments(double *mu, double *sigma2, const float *logits, int64_t n, double lse) {
    double mean = 0, square = 0;
    for (int64_t v = 0; v < n; v++) {
        double logp = (double)logits[v] - lse;
        mean += exp(logp) * logp;
    }
    for (int64_t v = 0; v < n; v++) {
        double logp = (double)logits[v] - lse;
        square += exp(logp) * (logp - mean) * (logp - mean);
    }
    *mu = mean;
    *sigma2 = square;
}

static km_status see_row(void *payload, int64_t index, int32_t layer, const float *logits,
                         int64_t n, km_error *err) {
    verbatim_pass *pass = payload;
    verbatim_token *token = &pass->tokens[index];
    (void)layer;
    (void)err;
    double lse = km_logits_logsumexp(pass->model, logits, n);
    token->logp = (double)logits[token->id] - lse;
    token->rank = km_logits_rank(logits, n, token->id);
    token->is_argmax = km_logits_argmax(logits, n) == token->id;
    row_moments(&token->mu, &token->sigma2, logits, n, lse);
    return KM_OK;
}

static void lay_out(verbatim_pass *pass, const int32_t *ids, const int64_t *offsets, int64_t begin,
                    int64_t end) {
    int64_t base = offsets[begin];
    pass->n_rows = 0;
    for (int64_t text = begin; text < end; text++) {
        for (int64_t i = offsets[text]; i < offsets[text + 1]; i++) {
            pass->parent[i - base] = i == offsets[text] ? -1 : i - base - 1;
            if (i + 1 < offsets[text + 1]) {
                pass->rows[pass->n_rows] = i - base;
                pass->tokens[pass->n_rows++] = (verbatim_token){
                    .text = text, .position = i + 1 - offsets[text], .id = ids[i + 1]};
            }
        }
    }
}

static km_status write_token(km_table *table, const verbatim_token *token, km_error *err) {
    KM_TRY(km_table_add_row(table, err));
    KM_TRY(km_table_set_int64(table, TEXT, token->text, err));
    KM_TRY(km_table_set_int64(table, POSITION, token->position, err));
    KM_TRY(km_table_set_int64(table, TOKEN, token->id, err));
    KM_TRY(km_table_set_double(table, LOGP, token->logp, err));
    KM_TRY(km_table_set_int64(table, RANK, token->rank, err));
    KM_TRY(km_table_set_bool(table, IS_ARGMAX, token->is_argmax, err));
    KM_TRY(km_table_set_double(table, MU, token->mu, err));
    return km_table_set_double(table, SIGMA2, token->sigma2, err);
}

static km_status run_pass(verbatim_pass *pass, km_table *table, const int32_t *ids,
                          const int64_t *offsets, int64_t begin, int64_t end, km_error *err) {
    lay_out(pass, ids, offsets, begin, end);
    km_forward_request request = {
        .tree = {ids + offsets[begin], pass->parent, offsets[end] - offsets[begin]},
        .rows = pass->rows,
        .n_rows = pass->n_rows,
        .on_logits = see_row,
        .payload = pass,
    };
    if (pass->n_rows > 0) {
        KM_TRY(km_model_forward(pass->model, &request, err));
    }
    for (int64_t i = 0; i < pass->n_rows; i++) {
        KM_TRY(write_token(table, &pass->tokens[i], err));
    }
    return KM_OK;
}

/* First text after `begin` that no longer fits into the pass; at least one is taken. */
static int64_t pass_end(const int64_t *offsets, int64_t begin, int64_t n_texts,
                        int64_t batch_tokens) {
    int64_t end = begin + 1;
    while (end < n_texts && offsets[end + 1] - offsets[begin] <= batch_tokens) {
        end++;
    }
    return end;
}

static km_status pass_alloc(verbatim_pass *pass, const int64_t *offsets, int64_t n_texts,
                            int64_t batch_tokens, km_error *err) {
    km_ctx *ctx = km_model_ctx(pass->model);
    int64_t most = 0;
    for (int64_t begin = 0; begin < n_texts;) {
        int64_t end = pass_end(offsets, begin, n_texts, batch_tokens);
        int64_t n = offsets[end] - offsets[begin];
        most = n > most ? n : most;
        begin = end;
    }
    KM_TRY(km_alloc_array((void **)&pass->parent, ctx, most, sizeof *pass->parent, err));
    KM_TRY(km_alloc_array((void **)&pass->rows, ctx, most, sizeof *pass->rows, err));
    return km_alloc_array((void **)&pass->tokens, ctx, most, sizeof *pass->tokens, err);
}

static km_status check_offsets(const int64_t *offsets, int64_t n, km_error *err) {
    for (int64_t i = 0; i < n; i++) {
        if (offsets[i] < 0 || offsets[i + 1] - offsets[i] < 1) {
            return KM_SET(err, KM_EINVAL, "text %lld must have at least 1 token", (long long)i);
        }
    }
    return KM_OK;
}

km_status km_verbatim_run(km_table **out, const km_model *model, const int32_t *ids,
                          const int64_t *offsets, int64_t n_texts, int64_t batch_tokens,
                          km_tick_fn tick_fn, void *payload, km_error *err) {
    km_status status = KM_OK;
    km_ctx *ctx = km_model_ctx(model);
    verbatim_pass pass = {model, NULL, NULL, NULL, 0};
    km_table *table = NULL;
    km_tick tick;
    *out = NULL;
    KM_TRY(check_offsets(offsets, n_texts, err));
    KM_GO(pass_alloc(&pass, offsets, n_texts, batch_tokens, err));
    KM_GO(km_table_new(&table, ctx, COLUMNS, N_COLUMNS, err));
    km_tick_init(&tick, ctx, tick_fn, payload, n_texts);
    for (int64_t begin = 0; begin < n_texts;) {
        int64_t end = pass_end(offsets, begin, n_texts, batch_tokens);
        KM_GO(run_pass(&pass, table, ids, offsets, begin, end, err));
        KM_GO(km_tick_update(&tick, end, err));
        begin = end;
    }
    *out = table;
    table = NULL;
done:
    km_table_free(table);
    km_free(ctx, pass.tokens);
    km_free(ctx, pass.rows);
    km_free(ctx, pass.parent);
    return status;
}
