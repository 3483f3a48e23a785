/* km_lens_run: what each layer would say if the model stopped there (logit lens: nostalgebraist
 * 2020), read at a prompt's last token through the model's own final norm and unembedding. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "km/interpretability.h"
#include "km/memorization.h"

enum {
    LAYER,
    TARGET_ID,
    TARGET,
    RANK,
    LOGPROB,
    PROBABILITY,
    ENTROPY,
    TOP_ID,
    TOP_TOKEN,
    TOP_PROBABILITY,
    TOP_IDS,
    TOP_TOKENS,
    TOP_PROBABILITIES,
    N_COLUMNS
};

static const km_column_spec COLUMNS[N_COLUMNS] = {
    {"layer", KM_COLUMN_INT64, "layer", "Block read after; the number of blocks is the output."},
    {"target_id", KM_COLUMN_INT64, "", "Token followed through the layers."},
    {"target", KM_COLUMN_TEXT, "", "Its text."},
    {"rank", KM_COLUMN_INT64, "rank", "Tokens strictly more likely than the target."},
    {"logprob", KM_COLUMN_DOUBLE, "nats", "Log-probability of the target."},
    {"probability", KM_COLUMN_DOUBLE, "probability", "Probability of the target."},
    {"entropy", KM_COLUMN_DOUBLE, "nats", "Entropy of the layer's distribution."},
    {"top_id", KM_COLUMN_INT64, "", "Most likely token."},
    {"top_token", KM_COLUMN_TEXT, "", "Its text."},
    {"top_probability", KM_COLUMN_DOUBLE, "probability", "Its probability."},
    {"top_ids", KM_COLUMN_TEXT, "", "The most likely tokens, best first, a JSON array."},
    {"top_tokens", KM_COLUMN_TEXT, "", "Their texts, a JSON array."},
    {"top_probabilities", KM_COLUMN_TEXT, "probability", "Their probabilities, a JSON array."},
};

typedef struct lens_run {
    const km_model *model;
    int32_t target;
    int32_t n_layers;
    int top_k;
    int64_t *rank;        /* (L + 1) */
    double *logprob;      /* (L + 1) */
    double *entropy;      /* (L + 1) */
    int32_t *top_ids;     /* (L + 1, top_k) */
    double *top_logprobs; /* (L + 1, top_k) */
} lens_run;

static km_status allocate(lens_run *run, km_arena *arena, km_error *err) {
    const size_t n = (size_t)run->n_layers + 1, k = (size_t)run->top_k;
    size_t top;
    if (!km_size_mul(&top, n * k, sizeof(double))) {
        return KM_SET(err, KM_ENOMEM, "%zu layers of %d tokens", n, run->top_k);
    }
    KM_TRY(km_arena_alloc((void **)&run->rank, arena, n * sizeof *run->rank, err));
    KM_TRY(km_arena_alloc((void **)&run->logprob, arena, n * sizeof *run->logprob, err));
    KM_TRY(km_arena_alloc((void **)&run->entropy, arena, n * sizeof *run->entropy, err));
    KM_TRY(km_arena_alloc((void **)&run->top_ids, arena, top, err));
    return km_arena_alloc((void **)&run->top_logprobs, arena, top, err);
}

static km_status run_model(const lens_run *run, const int32_t *ids, int64_t n, km_error *err) {
    const int64_t offsets[2] = {0, n};
    const km_lens_arrays out = {run->rank, run->logprob, run->entropy, run->top_ids,
                                run->top_logprobs};
    return km_lens_run_into(&out, run->model, ids, offsets, 1, &run->target, run->top_k, n, NULL,
                            NULL, err);
}

/* Length of the well-formed character at the start of text, 0 when there is none. */
static size_t character_length(const char *text, size_t n) {
    for (size_t length = 1; length <= 4 && length <= n; length++) {
        if (km_utf8_valid(text, length)) {
            return length;
        }
    }
    return 0;
}

/* A token's bytes as UTF-8 into out (room for 3 n + 1): bytes that form no character become
 * U+FFFD, since a token may hold part of one. */
static void token_text(char *out, const char *piece, size_t n) {
    while (n > 0) {
        size_t length = character_length(piece, n);
        if (length == 0) {
            memcpy(out, "\xef\xbf\xbd", 3);
            out += 3;
            length = 1;
        } else {
            memcpy(out, piece, length);
            out += length;
        }
        piece += length;
        n -= length;
    }
    *out = '\0';
}

/* Append JSON-quoted text (room for 6 bytes a byte); returns the new end. */
static char *append_json(char *end, const char *text) {
    *end++ = '"';
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            *end++ = '\\';
            *end++ = (char)c;
        } else if (c < 0x20) {
            end += snprintf(end, 7, "\\u%04x", c);
        } else {
            *end++ = (char)c;
        }
    }
    *end++ = '"';
    return end;
}

static km_status copy_token_text(char **out, km_arena *arena, const lens_run *run, int32_t id,
                                 km_error *err) {
    size_t n = 0;
    const char *piece = km_tokenizer_piece(km_model_tokenizer(run->model), id, &n);
    n = piece == NULL ? 0 : n;
    KM_TRY(km_arena_alloc((void **)out, arena, 3 * n + 1, err));
    token_text(*out, piece, n);
    return KM_OK;
}

static km_status write_top_numbers(km_table *table, const lens_run *run, int32_t layer,
                                   km_arena *arena, km_error *err) {
    const int32_t *top = run->top_ids + (int64_t)layer * run->top_k;
    const double *logprobs = run->top_logprobs + (int64_t)layer * run->top_k;
    char *ids, *probabilities;
    size_t size = 32 * (size_t)run->top_k + 3;
    KM_TRY(km_arena_alloc((void **)&ids, arena, size, err));
    KM_TRY(km_arena_alloc((void **)&probabilities, arena, size, err));
    char *id_end = ids, *probability_end = probabilities;
    for (int k = 0; k < run->top_k; k++) {
        const char *comma = k == 0 ? "[" : ",";
        id_end += snprintf(id_end, 32, "%s%ld", comma, (long)top[k]);
        probability_end += snprintf(probability_end, 32, "%s%.9g", comma, exp(logprobs[k]));
    }
    memcpy(id_end, "]", 2);
    memcpy(probability_end, "]", 2);
    KM_TRY(km_table_set_text(table, TOP_IDS, ids, -1, err));
    return km_table_set_text(table, TOP_PROBABILITIES, probabilities, -1, err);
}

static km_status write_top_texts(km_table *table, const lens_run *run, int32_t layer,
                                 km_arena *arena, km_error *err) {
    const int32_t *top = run->top_ids + (int64_t)layer * run->top_k;
    char *all, *text;
    size_t size = 3;
    for (int k = 0; k < run->top_k; k++) {
        KM_TRY(copy_token_text(&text, arena, run, top[k], err));
        size += 6 * strlen(text) + 3;
    }
    KM_TRY(km_arena_alloc((void **)&all, arena, size, err));
    char *end = all;
    for (int k = 0; k < run->top_k; k++) {
        *end++ = k == 0 ? '[' : ',';
        KM_TRY(copy_token_text(&text, arena, run, top[k], err));
        if (k == 0) {
            KM_TRY(km_table_set_text(table, TOP_TOKEN, text, -1, err));
        }
        end = append_json(end, text);
    }
    memcpy(end, "]", 2);
    return km_table_set_text(table, TOP_TOKENS, all, -1, err);
}

static km_status write_layer(km_table *table, const lens_run *run, int32_t layer, km_arena *arena,
                             km_error *err) {
    const int64_t best = (int64_t)layer * run->top_k;
    char *target;
    KM_TRY(copy_token_text(&target, arena, run, run->target, err));
    KM_TRY(km_table_add_row(table, err));
    KM_TRY(km_table_set_int64(table, LAYER, layer, err));
    KM_TRY(km_table_set_int64(table, TARGET_ID, run->target, err));
    KM_TRY(km_table_set_text(table, TARGET, target, -1, err));
    KM_TRY(km_table_set_int64(table, RANK, run->rank[layer], err));
    KM_TRY(km_table_set_double(table, LOGPROB, run->logprob[layer], err));
    KM_TRY(km_table_set_double(table, PROBABILITY, exp(run->logprob[layer]), err));
    KM_TRY(km_table_set_double(table, ENTROPY, run->entropy[layer], err));
    KM_TRY(km_table_set_int64(table, TOP_ID, run->top_ids[best], err));
    KM_TRY(km_table_set_double(table, TOP_PROBABILITY, exp(run->top_logprobs[best]), err));
    KM_TRY(write_top_numbers(table, run, layer, arena, err));
    return write_top_texts(table, run, layer, arena, err);
}

static km_status check_arguments(const km_model *model, int64_t n, int32_t target, int top_k,
                                 km_error *err) {
    int32_t vocab = km_model_config(model)->vocab_size;
    if (n < 1) {
        return KM_SET(err, KM_EINVAL, "a prompt needs at least one token");
    }
    if (target < 0 || target >= vocab || top_k < 1 || top_k > vocab) {
        return KM_SET(err, KM_ERANGE, "target %ld must be in [0, %ld), top_k %d in [1, %ld]",
                      (long)target, (long)vocab, top_k, (long)vocab);
    }
    return KM_OK;
}

km_status km_lens_run(km_table **out, const km_model *model, const int32_t *ids, int64_t n,
                      int32_t target, int top_k, km_error *err) {
    km_status status = KM_OK;
    km_ctx *ctx = km_model_ctx(model);
    km_arena *arena = NULL;
    km_table *table = NULL;
    lens_run run = {.model = model,
                    .target = target,
                    .n_layers = km_model_config(model)->n_layers,
                    .top_k = top_k};
    *out = NULL;
    KM_TRY(check_arguments(model, n, target, top_k, err));
    KM_GO(km_arena_new(&arena, ctx, err));
    KM_GO(allocate(&run, arena, err));
    KM_GO(km_table_new(&table, ctx, COLUMNS, N_COLUMNS, err));
    KM_GO(run_model(&run, ids, n, err));
    for (int32_t layer = 0; layer <= run.n_layers; layer++) {
        KM_GO(write_layer(table, &run, layer, arena, err));
    }
    *out = table;
    table = NULL;
done:
    km_table_free(table);
    km_arena_free(arena);
    return status;
}
