/* Whole continuations: the same bits alone and in company; filters, draws and the strongest tokens
 * against plain versions that sort the whole row. */
#include <math.h>
#include <string.h>

#include "km/score.h"
#include "km_test.h"
#include "synthetic_model.h"

enum { N_ITEMS = 60, MOST_TOKENS = 12, VOCAB = 61 };

/* ---- continuations ---- */

typedef struct item_set {
    int32_t ids[N_ITEMS * MOST_TOKENS];
    int64_t offsets[N_ITEMS + 1], lengths[N_ITEMS];
    double logprobs[N_ITEMS * MOST_TOKENS], sums[N_ITEMS];
    bool is_argmax[N_ITEMS * MOST_TOKENS], greedy[N_ITEMS];
} item_set;

static int64_t length_of(const item_set *set, int64_t i) {
    return set->offsets[i + 1] - set->offsets[i];
}

/* Items of six prompts that share their first tokens; few distinct tokens, so that answers share
 * theirs too, and some items are given twice. */
static void fill(item_set *set) {
    memset(set, 0, sizeof *set);
    for (int64_t i = 0; i < N_ITEMS; i++) {
        const uint64_t u = (uint64_t)(i == N_ITEMS - 1 ? 0 : i);
        const int64_t n_prompt = 2 + (int64_t)(u / 10), n = n_prompt + 1 + (int64_t)(u % 4);
        set->offsets[i + 1] = set->offsets[i] + n;
        set->lengths[i] = n_prompt;
        for (int64_t t = 0; t < n; t++) {
            const uint64_t stream = t < 2 ? 1 : t < n_prompt ? 1000 + u / 10 : u;
            set->ids[set->offsets[i] + t] =
                (int32_t)km_random_below(t < n_prompt ? VOCAB : 3, 5, stream, (uint64_t)t);
        }
    }
}

/* The items in another order. */
static void shuffle(item_set *to, const item_set *from, const int64_t *order) {
    memset(to, 0, sizeof *to);
    for (int64_t i = 0; i < N_ITEMS; i++) {
        const int64_t n = length_of(from, order[i]);
        memcpy(to->ids + to->offsets[i], from->ids + from->offsets[order[i]],
               (size_t)n * sizeof *to->ids);
        to->offsets[i + 1] = to->offsets[i] + n;
        to->lengths[i] = from->lengths[order[i]];
    }
}

static km_status run_some(item_set *set, int64_t first, int64_t n, int64_t batch,
                          const km_model *model, km_error *err) {
    int64_t offsets[N_ITEMS + 1], scored = 0;
    for (int64_t i = 0; i <= n; i++) {
        offsets[i] = set->offsets[first + i] - set->offsets[first];
    }
    for (int64_t i = 0; i < first; i++) {
        scored += length_of(set, i) - set->lengths[i];
    }
    const km_continuations work = {set->ids + set->offsets[first], offsets, set->lengths + first, n,
                                   batch};
    const km_continuation_scores out = {set->logprobs + scored, set->is_argmax + scored,
                                        set->sums + first, set->greedy + first};
    return km_continuations_run(&out, model, &work, NULL, NULL, err);
}

static void run_all(item_set *set, int64_t batch, const km_model *model) {
    km_error err = KM_ERROR_INIT;
    km_test_ok(run_some(set, 0, N_ITEMS, batch, model, &err), &err);
}

static void run_one_by_one(item_set *set, const km_model *model) {
    km_error err = KM_ERROR_INIT;
    for (int64_t i = 0; i < N_ITEMS; i++) {
        km_test_ok(run_some(set, i, 1, 1, model, &err), &err);
    }
}

static void check_same(const item_set *a, const item_set *b) {
    assert_memory_equal(a->logprobs, b->logprobs, sizeof a->logprobs);
    assert_memory_equal(a->is_argmax, b->is_argmax, sizeof a->is_argmax);
    assert_memory_equal(a->sums, b->sums, sizeof a->sums);
    assert_memory_equal(a->greedy, b->greedy, sizeof a->greedy);
}

/* The figures of one item from a forward pass over nothing but it. */
static void check_item(const item_set *set, int64_t i, int64_t scored, const km_model *model) {
    km_error err = KM_ERROR_INIT;
    float row[VOCAB];
    const int32_t *ids = set->ids + set->offsets[i];
    bool greedy = true;
    double sum = 0;
    for (int64_t t = set->lengths[i]; t < length_of(set, i); t++, scored++) {
        km_test_ok(km_model_next_logprobs_into(row, model, ids, t, &err), &err);
        const bool is_argmax = km_logits_argmax(row, VOCAB) == ids[t];
        assert_true(fabs(set->logprobs[scored] - (double)row[ids[t]]) < 1e-5);
        assert_int_equal(set->is_argmax[scored], is_argmax);
        greedy = greedy && is_argmax;
        sum += set->logprobs[scored];
    }
    assert_true(set->sums[i] == sum);
    assert_int_equal(set->greedy[i], greedy);
}

static void check_model(km_config config, km_ctx *ctx) {
    static item_set alone, together;
    synthetic s;
    int64_t scored = 0;
    synthetic_init(&s, ctx, config);
    fill(&alone);
    run_one_by_one(&alone, &s.model);
    for (int64_t i = 0; i < N_ITEMS; i++) {
        check_item(&alone, i, scored, &s.model);
        scored += length_of(&alone, i) - alone.lengths[i];
    }
    for (int64_t batch = 0; batch < 1000; batch = batch * 3 + 1) {
        fill(&together);
        run_all(&together, batch, &s.model);
        check_same(&alone, &together);
    }
    synthetic_clear(&s);
}

static void test_against_sequences(void **state) {
    check_model(llama_config(), *state);
    check_model(gemma_config(), *state);
}

static void test_order(void **state) {
    static item_set plain, turned, again;
    synthetic s;
    int64_t order[N_ITEMS], back[N_ITEMS];
    synthetic_init(&s, *state, gemma_config());
    fill(&plain);
    run_all(&plain, 40, &s.model);
    for (uint64_t seed = 0; seed < 5; seed++) {
        km_random_permutation(order, N_ITEMS, seed, 1);
        shuffle(&turned, &plain, order);
        run_all(&turned, 10 + 30 * (int64_t)seed, &s.model);
        for (int64_t i = 0; i < N_ITEMS; i++) {
            back[order[i]] = i;
            assert_true(turned.sums[i] == plain.sums[order[i]]);
            assert_int_equal(turned.greedy[i], plain.greedy[order[i]]);
        }
        shuffle(&again, &turned, back);
        assert_memory_equal(again.ids, plain.ids, sizeof plain.ids);
    }
    synthetic_clear(&s);
}

static void test_threads(void **state) {
    static item_set sets[2];
    (void)state;
    for (int i = 0; i < 2; i++) {
        synthetic s;
        km_ctx *ctx = km_test_ctx(i == 0 ? 1 : 3);
        synthetic_init(&s, ctx, llama_config());
        fill(&sets[i]);
        run_all(&sets[i], 50, &s.model);
        synthetic_clear(&s);
        km_ctx_free(ctx);
    }
    check_same(&sets[0], &sets[1]);
}

static void expect_refusal(const km_model *model, const int32_t *ids, int64_t n, int64_t n_prompt,
                           km_status want, const char *part) {
    km_error err = KM_ERROR_INIT;
    const int64_t offsets[2] = {0, n};
    const km_continuations work = {ids, offsets, &n_prompt, 1, 0};
    const km_continuation_scores out = {0};
    km_test_fails(km_continuations_run(&out, model, &work, NULL, NULL, &err), want, &err, part);
}

static void test_refusals(void **state) {
    synthetic s;
    km_config config = llama_config();
    const int32_t ids[6] = {1, 2, 3, 4, 5, VOCAB};
    config.context_length = 4;
    synthetic_init(&s, *state, config);
    expect_refusal(&s.model, ids, 3, 3, KM_EINVAL, "continuation 0: 3 tokens, the first 3");
    expect_refusal(&s.model, ids, 3, 0, KM_EINVAL, "at least one must be given");
    expect_refusal(&s.model, ids + 1, 5, 2, KM_ERANGE, "token 4 has id 61");
    expect_refusal(&s.model, ids, 6, 2, KM_ERANGE, "has 6 tokens with its prompt; the model's");
    synthetic_clear(&s);
}

/* ---- the next token ---- */

/* A row with ties: multiples of 1/4 from a normal distribution. */
static void random_row(float *row, int64_t n, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        row[i] = (float)rint(8 * km_random_normal(seed, 3, (uint64_t)i)) / 4.0f;
    }
}

/* Ids in the order of strength, by insertion. */
static void sort_row(int32_t *order, const float *row, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        int64_t at = i;
        while (at > 0 && row[i] > row[order[at - 1]]) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = (int32_t)i;
    }
}

/* The filters by their definitions. */
static void plain_filter(float *row, int64_t n, const km_sampling *s) {
    static int32_t order[4096];
    static double p[4096];
    double total = 0, stronger = 0;
    for (int64_t i = 0; i < n; i++) {
        row[i] /= (float)s->temperature;
    }
    sort_row(order, row, n);
    const float last = row[order[s->top_k > 0 && s->top_k < n ? s->top_k - 1 : n - 1]];
    for (int64_t i = 0; i < n; i++) {
        p[i] = row[i] < last ? 0 : exp((double)row[i] - (double)row[order[0]]);
        total += p[i];
    }
    for (int64_t i = 0; i < n; i++) {
        const int32_t id = order[i];
        const bool kept = p[id] > 0 && (i == 0 || s->top_p >= 1 || stronger < s->top_p * total) &&
                          p[id] >= s->min_p;
        stronger += p[id];
        row[id] = kept ? row[id] : -INFINITY;
    }
}

static void test_filters(void **state) {
    static const km_sampling SAMPLINGS[] = {
        {1, 0, 1, 0},      {0.5, 0, 1, 0},       {1, 5, 1, 0},     {1, 1, 1, 0},
        {1, 0, 0.9, 0},    {1, 0, 0.001, 0},     {1, 0, 1, 0.05},  {1, 0, 1, 1},
        {0.7, 50, 0.9, 0}, {1.5, 40, 0.95, 0.1}, {3, 0, 0.999, 0}, {0.125, 0, 0.5, 0.01}};
    static float row[4096], plain[4096];
    km_error err = KM_ERROR_INIT;
    for (uint64_t seed = 0; seed < 60; seed++) {
        const km_sampling *sampling = &SAMPLINGS[seed % 12];
        const int64_t n = seed < 24 ? 5 + 7 * (int64_t)seed : 4096;
        random_row(row, n, seed);
        memcpy(plain, row, sizeof plain);
        plain_filter(plain, n, sampling);
        km_test_ok(km_sampling_filter(row, n, sampling, *state, &err), &err);
        assert_memory_equal(row, plain, (size_t)n * sizeof *row);
    }
}

static void test_filter_refusals(void **state) {
    static const struct {
        km_sampling sampling;
        const char *part;
    } BAD[] = {{{0, 0, 1, 0}, "temperature"},   {{NAN, 0, 1, 0}, "temperature"},
               {{INFINITY, 0, 1, 0}, "finite"}, {{1e-300, 0, 1, 0}, "at least"},
               {{1, -1, 1, 0}, "top_k"},        {{1, 0, 0, 0}, "top_p"},
               {{1, 0, 1.5, 0}, "top_p"},       {{1, 0, 1, -0.1}, "min_p"},
               {{1, 0, 1, NAN}, "min_p"}};
    km_error err = KM_ERROR_INIT;
    float row[3] = {0, 1, 2};
    for (size_t i = 0; i < sizeof BAD / sizeof BAD[0]; i++) {
        km_test_fails(km_sampling_filter(row, 3, &BAD[i].sampling, *state, &err), KM_EINVAL, &err,
                      BAD[i].part);
    }
    const km_sampling all = KM_SAMPLING_INIT;
    row[1] = NAN;
    km_test_fails(km_sampling_filter(row, 3, &all, *state, &err), KM_EINVAL, &err, "NaN");
    km_test_fails(km_sampling_filter(row, 0, &all, *state, &err), KM_EINVAL, &err, "empty");
}

static synthetic model_of(km_ctx *ctx, int32_t vocab) {
    synthetic s;
    km_config config = llama_config();
    config.vocab_size = vocab;
    synthetic_init(&s, ctx, config);
    return s;
}

static void test_top(void **state) {
    enum { V = 3000, ROWS = 5, TOP = 20 };
    static float rows[ROWS * V];
    int32_t ids[ROWS * TOP], order[V], best[ROWS];
    double logprobs[ROWS * TOP], best_logprobs[ROWS];
    km_error err = KM_ERROR_INIT;
    synthetic s = model_of(*state, V);
    random_row(rows, ROWS * V, 1);
    km_test_ok(km_rows_top(ids, logprobs, rows, ROWS, TOP, &s.model, &err), &err);
    km_test_ok(km_rows_argmax(best, best_logprobs, rows, ROWS, &s.model, &err), &err);
    for (int64_t r = 0; r < ROWS; r++) {
        const float *row = rows + r * V;
        const double lse = km_logits_logsumexp(&s.model, row, V);
        sort_row(order, row, V);
        for (int64_t i = 0; i < TOP; i++) {
            assert_int_equal(ids[r * TOP + i], order[i]);
            assert_true(logprobs[r * TOP + i] == (double)row[order[i]] - lse);
        }
        assert_int_equal(best[r], order[0]);
        assert_true(best_logprobs[r] == logprobs[r * TOP]);
    }
    for (int64_t i = 0; i < TOP; i++) {
        for (int64_t r = 0; r < ROWS; r++) {
            best[r] = ids[r * TOP + i];
        }
        km_test_ok(km_rows_at(best_logprobs, best, rows, ROWS, &s.model, &err), &err);
        for (int64_t r = 0; r < ROWS; r++) {
            assert_true(best_logprobs[r] == logprobs[r * TOP + i]);
        }
    }
    best[1] = V;
    km_test_fails(km_rows_at(best_logprobs, best, rows, ROWS, &s.model, &err), KM_ERANGE, &err,
                  "ids[1] is 3000");
    km_test_fails(km_rows_top(ids, logprobs, rows, 1, V + 1, &s.model, &err), KM_ERANGE, &err,
                  "3001 tokens");
    synthetic_clear(&s);
}

/* The token at which the cumulated probability first exceeds u, by definition. */
static int32_t plain_draw(const float *row, int64_t n, double u, const km_sampling *sampling) {
    static float filtered[4096];
    double total = 0, sum = 0;
    memcpy(filtered, row, (size_t)n * sizeof *row);
    plain_filter(filtered, n, sampling);
    for (int64_t i = 0; i < n; i++) {
        total += exp((double)filtered[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        sum += exp((double)filtered[i]);
        if (sum > u * total) {
            return (int32_t)i;
        }
    }
    return -1;
}

static void test_draws(void **state) {
    enum { V = 3000, ROWS = 400 };
    static const km_sampling SAMPLINGS[] = {
        {1, 0, 1, 0}, {0.5, 0, 0.9, 0}, {2, 30, 1, 0}, {1, 0, 1, 0.2}};
    static float rows[ROWS * V];
    uint64_t streams[ROWS], counters[ROWS];
    int32_t ids[ROWS];
    double logprobs[ROWS];
    km_error err = KM_ERROR_INIT;
    synthetic s = model_of(*state, V);
    random_row(rows, ROWS * V, 2);
    for (uint64_t i = 0; i < ROWS; i++) {
        streams[i] = i / 3;
        counters[i] = i % 7;
    }
    for (int k = 0; k < 4; k++) {
        km_test_ok(km_rows_sample(ids, logprobs, rows, ROWS, &SAMPLINGS[k], 9, streams, counters,
                                  &s.model, &err),
                   &err);
        for (int64_t i = 0; i < ROWS; i++) {
            const float *row = rows + i * V;
            const double u = km_random_uniform(9, streams[i], counters[i]);
            assert_int_equal(ids[i], plain_draw(row, V, u, &SAMPLINGS[k]));
            assert_true(logprobs[i] == (double)row[ids[i]] - km_logits_logsumexp(&s.model, row, V));
        }
    }
    synthetic_clear(&s);
}

static void test_row_logprobs(void **state) {
    float rows[2 * VOCAB], out[2 * VOCAB];
    km_error err = KM_ERROR_INIT;
    synthetic s = model_of(*state, VOCAB);
    random_row(rows, 2 * VOCAB, 4);
    km_test_ok(km_rows_logprobs_into(out, rows, 2, &s.model, &err), &err);
    for (int r = 0; r < 2; r++) {
        double total = 0;
        for (int i = 0; i < VOCAB; i++) {
            total += exp((double)rows[r * VOCAB + i]);
        }
        for (int i = 0; i < VOCAB; i++) {
            const double expected = (double)rows[r * VOCAB + i] - log(total);
            assert_true(fabs((double)out[r * VOCAB + i] - expected) < 1e-6);
        }
    }
    synthetic_clear(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_sequences),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_filter_refusals),
        cmocka_unit_test(test_top),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_row_logprobs),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
