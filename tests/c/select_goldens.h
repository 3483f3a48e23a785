/* select_goldens.h: knowledge selection against what the authors' own PyTorch modules gave in
 * float64 without dropout: golden_data/diffks. test_select_goldens.c includes it with 64 bits,
 * test_select_goldens_f32.c with 32: both define KM_REAL_BITS, RELATIVE and ABSOLUTE. */
#include <jansson.h>
#include <math.h>

#include "km_test.h"
#include "select/core.h"

static double worst; /* largest difference over its allowance */

static json_t *load(const char *name) {
    char path[512];
    json_error_t error;
    (void)snprintf(path, sizeof path, "%s/golden_data/diffks/%s.json", KM_TEST_DATA, name);
    json_t *root = json_load_file(path, 0, &error);
    if (root == NULL) {
        fail_msg("%s: %s", path, error.text);
    }
    return root;
}

static const json_t *at(const json_t *value, const char *key) {
    const json_t *found = json_object_get(value, key);
    if (found == NULL) {
        fail_msg("no '%s' in the golden", key);
    }
    return found;
}

static int64_t whole(const json_t *value) {
    return (int64_t)json_integer_value(value);
}

static int64_t size_of(const json_t *value) {
    if (!json_is_array(value)) {
        return 1;
    }
    int64_t n = 0;
    for (size_t i = 0; i < json_array_size(value); i++) {
        n += size_of(json_array_get(value, i));
    }
    return n;
}

/* All numbers of nested arrays, one after the other. */
static real *numbers_into(real *out, const json_t *value) {
    if (!json_is_array(value)) {
        *out = (real)json_number_value(value);
        return out + 1;
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        out = numbers_into(out, json_array_get(value, i));
    }
    return out;
}

static void close_to(double got, double expected, const char *what, int64_t index) {
    const double allowed = ABSOLUTE + RELATIVE * fabs(expected);
    const double off = fabs(got - expected) / allowed;
    worst = off > worst ? off : worst;
    if (!(off <= 1.0)) {
        fail_msg("%s[%lld] is %.12g, not %.12g", what, (long long)index, got, expected);
    }
}

static void check(const real *got, const json_t *expected, const char *what) {
    const int64_t n = size_of(expected);
    real *values = malloc((size_t)n * sizeof(real));
    (void)numbers_into(values, expected);
    for (int64_t i = 0; i < n; i++) {
        close_to((double)got[i], (double)values[i], what, i);
    }
    free(values);
}

/* ---- models ---- */

typedef struct model {
    km_ctx *ctx;
    km_diffks_config config;
    km__shape shapes[P_COUNT];
    real *w[P_COUNT], *d[P_COUNT];
} model;

static int64_t param(const json_t *params, const char *key, int64_t otherwise) {
    const json_t *value = json_object_get(params, key);
    return value == NULL ? otherwise : whole(value);
}

static km_diffks_config read_config(const json_t *params, bool generate) {
    km_diffks_config config = KM_DIFFKS_CONFIG_INIT;
    const char *variant = json_string_value(json_object_get(params, "variant"));
    config.variant =
        variant != NULL && variant[0] == 'f' ? KM_DIFFKS_FUSED : KM_DIFFKS_DISENTANGLED;
    config.vocabulary = param(params, "V", 4);
    config.embedding = param(params, "E", 1);
    config.hidden = param(params, "eh", 1);
    config.decoder = param(params, "dh", 1);
    config.history = param(params, "hist_len", 1);
    config.dropout = 0.0;
    config.mask_padding = false;
    config.generate = generate;
    const json_t *weights = json_object_get(params, "hist_weights");
    for (size_t i = 0; i < json_array_size(weights); i++) {
        config.weights[i] = json_number_value(json_array_get(weights, i));
    }
    return config;
}

/* Weights that the golden does not have are 0. */
static void model_init(model *m, const json_t *params, bool generate) {
    m->ctx = km_test_ctx(2);
    m->config = read_config(params, generate);
    km__diffks_shapes(m->shapes, &m->config);
    for (int i = 0; i < P_COUNT; i++) {
        const size_t n = (size_t)m->shapes[i].n;
        const json_t *value =
            n > 0 ? json_object_get(at(params, "weights"), m->shapes[i].name) : NULL;
        m->w[i] = calloc(n + 1, sizeof(real));
        m->d[i] = calloc(n + 1, sizeof(real));
        if (value != NULL) {
            assert_int_equal(size_of(value), n);
            (void)numbers_into(m->w[i], value);
        }
    }
}

static void model_clear(model *m) {
    for (int i = 0; i < P_COUNT; i++) {
        free(m->w[i]);
        free(m->d[i]);
    }
    km_ctx_free(m->ctx);
}

/* A null gradient stands for a weight the loss does not depend on. */
static void check_gradients(const model *m, const json_t *expected) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)expected, name, value) {
        int index = 0;
        while (index < P_COUNT &&
               (m->shapes[index].n == 0 || strcmp(m->shapes[index].name, name) != 0)) {
            index++;
        }
        if (json_is_null(value)) {
            for (int64_t i = 0; index < P_COUNT && i < m->shapes[index].n; i++) {
                assert_true(m->d[index][i] == 0);
            }
        } else {
            assert_true(index < P_COUNT);
            check(m->d[index], value, name);
        }
    }
}

/* ---- passes ---- */

typedef struct job {
    km__plan plan;
    real_pass pass;
    real_pass_options options;
    char *block;
    km_diffks_losses losses;
} job;

static void ok(km_status status, const km_error *err) {
    if (status != KM_OK) {
        fail_msg("%s", err->message);
    }
}

static void job_init(job *j, model *m, const km_diffks_batch *batch, km__plan_wish wish) {
    km_error err = KM_ERROR_INIT;
    memset(j, 0, sizeof *j);
    ok(km__plan_new(&j->plan, m->ctx, &m->config, batch, wish, &err), &err);
    const size_t size = km__pass_lay_out(&j->pass, &j->plan, m->w, m->d, NULL);
    assert_int_equal(posix_memalign((void **)&j->block, 64, size), 0);
    memset(j->block, 0xA5, size);
    assert_int_equal(km__pass_lay_out(&j->pass, &j->plan, m->w, m->d, j->block), size);
    j->options.user = (km_diffks_options)KM_DIFFKS_OPTIONS_INIT;
    j->options.user.history = wish.history;
    for (int i = 0; i < P_COUNT; i++) {
        memset(m->d[i], 0, (size_t)m->shapes[i].n * sizeof(real));
    }
}

static void job_clear(job *j) {
    km__plan_free(&j->plan);
    free(j->block);
}

/* ---- layers ---- */

static real *reals(const json_t *value) {
    real *out = malloc((size_t)size_of(value) * sizeof(real));
    (void)numbers_into(out, value);
    return out;
}

static real *zeros(int64_t n) {
    return calloc((size_t)n + 1, sizeof(real));
}

static const char *const GRU_NAMES[9] = {"h_init",
                                         "weight_ih_l0",
                                         "weight_hh_l0",
                                         "bias_ih_l0",
                                         "bias_hh_l0",
                                         "weight_ih_l0_reverse",
                                         "weight_hh_l0_reverse",
                                         "bias_ih_l0_reverse",
                                         "bias_hh_l0_reverse"};

/* From x[time][batch][I] of a golden to the elements of one sequence after the other. */
static void to_rows(real *rows, const real *x, const int64_t *offsets, int64_t n, int64_t width) {
    for (int64_t s = 0; s < n; s++) {
        for (int64_t i = offsets[s]; i < offsets[s + 1]; i++) {
            memcpy(rows + i * width, x + ((i - offsets[s]) * n + s) * width,
                   (size_t)width * sizeof(real));
        }
    }
}

static void check_rows(const real *rows, const json_t *expected, const int64_t *offsets, int64_t n,
                       int64_t width, const char *what) {
    real *x = reals(expected), *sorted = zeros(offsets[n] * width);
    to_rows(sorted, x, offsets, n, width);
    for (int64_t i = 0; i < offsets[n] * width; i++) {
        close_to((double)rows[i], (double)sorted[i], what, i);
    }
    free(sorted);
    free(x);
}

typedef struct gru_case {
    int64_t in, hidden, n, dirs, offsets[8], order[8];
    real *w[9], *d[9];
    km__sequences seq;
    real_run run;
    real *x;
} gru_case;

static void gru_case_init(gru_case *g, const json_t *c) {
    const json_t *params = at(c, "params"), *lengths = at(at(c, "inputs"), "lengths");
    memset(g, 0, sizeof *g);
    g->in = whole(at(params, "I"));
    g->hidden = whole(at(params, "H"));
    g->n = size_of(lengths);
    g->dirs = json_is_true(at(params, "bidirectional")) ? 2 : 1;
    for (int64_t s = 0; s < g->n; s++) {
        g->offsets[s + 1] = g->offsets[s] + whole(json_array_get(lengths, (size_t)s));
        int64_t place = s; /* insertion sort, the longest first */
        for (; place > 0 && whole(json_array_get(lengths, (size_t)g->order[place - 1])) <
                                whole(json_array_get(lengths, (size_t)s));
             place--) {
            g->order[place] = g->order[place - 1];
        }
        g->order[place] = s;
    }
    for (int i = 0; i < 1 + 4 * g->dirs; i++) {
        g->w[i] = reals(at(at(params, "weights"), GRU_NAMES[i]));
        g->d[i] = zeros(size_of(at(at(params, "weights"), GRU_NAMES[i])));
    }
    real *x = reals(at(at(c, "inputs"), "x"));
    g->x = zeros(g->offsets[g->n] * g->in);
    to_rows(g->x, x, g->offsets, g->n, g->in);
    free(x);
}

static void gru_case_run(gru_case *g) {
    const int64_t rows = g->offsets[g->n], h = g->hidden;
    g->seq = (km__sequences){g->n, rows, g->offsets, g->order};
    g->run.seq = &g->seq;
    g->run.w = km__gru_of(g->w, 1, (int)g->dirs, g->in, g->in, h);
    g->run.d = km__gru_of(g->d, 1, (int)g->dirs, g->in, g->in, h);
    g->run.w.h_init = g->w[0];
    g->run.d.h_init = g->d[0];
    g->run.x = g->x;
    g->run.gates = zeros(rows * g->dirs * 4 * h);
    g->run.before = zeros(rows * g->dirs * h);
    g->run.states = zeros(rows * g->dirs * h);
    g->run.last = zeros(g->n * g->dirs * h);
    g->run.turned = zeros(g->dirs * 3 * h * h);
    g->run.bias = zeros(g->dirs * 4 * h);
    g->run.dx = zeros(rows * g->in);
    g->run.sums = zeros(km__gru_sizes(&g->seq, (int)g->dirs, h));
}

static void gru_case_clear(gru_case *g) {
    real *const all[] = {g->run.gates, g->run.before, g->run.states, g->run.last, g->run.turned,
                         g->run.bias,  g->run.dx,     g->run.sums,   g->x};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
    for (int i = 0; i < 9; i++) {
        free(g->w[i]);
        free(g->d[i]);
    }
}

/* States, last vectors, and gradients of sum(u * last). */
static void check_gru(km_ctx *ctx, const json_t *c) {
    const json_t *expected = at(c, "expected");
    km_error err = KM_ERROR_INIT;
    gru_case g;
    gru_case_init(&g, c);
    gru_case_run(&g);
    ok(km__gru_forward(ctx, &g.run, 1, &err), &err);
    check_rows(g.run.states, at(expected, "h"), g.offsets, g.n, g.dirs * g.hidden, "h");
    check(g.run.last, at(expected, "h_last"), "h_last");
    real *u = reals(at(expected, "u"));
    g.run.d_last = u;
    ok(km__gru_backward(ctx, &g.run, 1, &err), &err);
    check_rows(g.run.dx, at(expected, "grad_x"), g.offsets, g.n, g.in, "grad_x");
    for (int i = 0; i < 1 + 4 * g.dirs; i++) {
        check(g.d[i], at(at(expected, "grad"), GRU_NAMES[i]), GRU_NAMES[i]);
    }
    free(u);
    gru_case_clear(&g);
}

static void test_gru(void **state) {
    (void)state;
    json_t *root = load("gru");
    km_ctx *ctx = km_test_ctx(2);
    for (size_t i = 0; i < json_array_size(at(root, "cases")); i++) {
        check_gru(ctx, json_array_get(at(root, "cases"), i));
    }
    km_ctx_free(ctx);
    json_decref(root);
}

/* ---- a batch from a golden ---- */

#define MOST 1024

typedef struct data {
    int32_t sentence_tokens[MOST], context_tokens[MOST], response_tokens[MOST];
    int64_t sentence_offsets[MOST], list_sentences[MOST], list_offsets[MOST];
    int64_t dialogue_offsets[MOST], turn_lists[MOST], context_offsets[MOST], gold[MOST];
    int64_t response_offsets[MOST], history_sentences[MOST], history_offsets[MOST];
    int64_t dialogue[MOST], number[MOST]; /* of each turn, as the golden counts */
    km_diffks_batch batch;
} data;

static void data_init(data *x) {
    memset(x, 0, sizeof *x);
    x->batch = (km_diffks_batch){.sentence_tokens = x->sentence_tokens,
                                 .sentence_offsets = x->sentence_offsets,
                                 .list_sentences = x->list_sentences,
                                 .list_offsets = x->list_offsets,
                                 .dialogue_offsets = x->dialogue_offsets,
                                 .turn_lists = x->turn_lists,
                                 .context_tokens = x->context_tokens,
                                 .context_offsets = x->context_offsets,
                                 .gold = x->gold};
}

static void add_word(int32_t *ids, int64_t *offsets, int64_t n_done, int64_t id) {
    ids[offsets[n_done + 1]++] = (int32_t)id;
}

/* A turn whose list is the n sentences added last, and which has no words yet. */
static int64_t add_turn(data *x, int64_t n, int64_t dialogue, int64_t number) {
    km_diffks_batch *b = &x->batch;
    const int64_t t = b->n_turns++, list = b->n_lists++;
    x->list_offsets[list + 1] = x->list_offsets[list] + n;
    for (int64_t j = 0; j < n; j++) {
        x->list_sentences[x->list_offsets[list] + j] = b->n_sentences - n + j;
    }
    x->turn_lists[t] = list;
    x->context_offsets[t + 1] = x->context_offsets[t];
    x->response_offsets[t + 1] = x->response_offsets[t];
    x->history_offsets[t + 1] = x->history_offsets[t];
    x->dialogue[t] = dialogue;
    x->number[t] = number;
    return t;
}

static int64_t add_sentence(data *x, const json_t *ids, int64_t n) {
    const int64_t s = x->batch.n_sentences++;
    x->sentence_offsets[s + 1] = x->sentence_offsets[s];
    for (int64_t i = 0; i < n; i++) {
        add_word(x->sentence_tokens, x->sentence_offsets, s,
                 ids == NULL ? 0 : whole(json_array_get(ids, (size_t)i)));
    }
    return s;
}

static const json_t *at2(const json_t *value, int64_t i, int64_t j) {
    return json_array_get(json_array_get(value, (size_t)i), (size_t)j);
}

/* ---- selection alone ---- */

/* Dialogues of turns with wiki_num candidates, each a sentence of one word: their vectors are put
 * in place of the encoders' afterwards. */
static void selection_data(data *x, const json_t *inputs) {
    const json_t *counts = at(inputs, "wiki_num");
    data_init(x);
    for (size_t b = 0; b < json_array_size(counts); b++) {
        for (size_t t = 0; t < json_array_size(json_array_get(counts, b)); t++) {
            const int64_t k = whole(at2(counts, (int64_t)b, (int64_t)t));
            for (int64_t j = 0; j < k; j++) {
                (void)add_sentence(x, NULL, 1);
            }
            const int64_t turn = add_turn(x, k, (int64_t)b, (int64_t)t);
            add_word(x->context_tokens, x->context_offsets, turn, 0);
            x->gold[turn] = whole(at2(at(inputs, "labels"), (int64_t)b, (int64_t)t));
        }
        x->dialogue_offsets[++x->batch.n_dialogues] = x->batch.n_turns;
    }
}

static void put_vectors(const data *x, job *j, const json_t *inputs, int64_t d) {
    for (int64_t t = 0; t < x->batch.n_turns; t++) {
        const int64_t first = x->list_offsets[t];
        (void)numbers_into(j->pass.runs[0].last + t * d,
                           at2(at(inputs, "ctx"), x->number[t], x->dialogue[t]));
        for (int64_t k = 0; k < x->list_offsets[t + 1] - first; k++) {
            const json_t *all = at2(at(inputs, "knowledge"), x->number[t], x->dialogue[t]);
            (void)numbers_into(j->pass.runs[1].last + x->list_sentences[first + k] * d,
                               json_array_get(all, (size_t)k));
        }
    }
}

/* The scores of one turn among those of all; padded candidates share the last pair's. */
static void check_scores(const data *x, const job *j, int64_t t, const json_t *expected) {
    const real *scores = j->pass.scores + j->plan.pairs[t];
    const int64_t k = x->list_offsets[x->turn_lists[t] + 1] - x->list_offsets[x->turn_lists[t]];
    for (size_t i = 0; i < json_array_size(expected); i++) {
        if ((int64_t)i < k || j->plan.pads[t] > 0) {
            close_to((double)scores[(int64_t)i < k ? (int64_t)i : k],
                     json_number_value(json_array_get(expected, i)), "scores", (int64_t)i);
        }
    }
}

static void check_turns(const data *x, const job *j, const json_t *turns) {
    for (int64_t t = 0; t < x->batch.n_turns; t++) {
        const json_t *turn = json_array_get(turns, (size_t)x->number[t]);
        check_scores(x, j, t, json_array_get(at(turn, "scores"), (size_t)x->dialogue[t]));
    }
}

static void check_vectors(const data *x, const job *j, const json_t *train, int64_t d) {
    for (int64_t t = 0; t < x->batch.n_turns; t++) {
        const json_t *all = at2(at(train, "grad_knowledge"), x->number[t], x->dialogue[t]);
        check(j->pass.d_q + t * d, at2(at(train, "grad_ctx"), x->number[t], x->dialogue[t]),
              "grad_ctx");
        for (int64_t k = 0; k < x->list_offsets[t + 1] - x->list_offsets[t]; k++) {
            check(j->pass.d_last + x->list_sentences[x->list_offsets[t] + k] * d,
                  json_array_get(all, (size_t)k), "grad_knowledge");
        }
    }
}

static double probability(const real *scores, int64_t k, int64_t index) {
    double total = 0.0;
    for (int64_t j = 0; j < k; j++) {
        total += exp((double)scores[j] - (double)scores[index]);
    }
    return 1.0 / total;
}

static void check_inference(model *m, const data *x, const json_t *c) {
    const json_t *infer = at(at(c, "expected"), "infer");
    km_error err = KM_ERROR_INIT;
    job j;
    job_init(&j, m, &x->batch, (km__plan_wish){false, false, KM_DIFFKS_OWN});
    put_vectors(x, &j, at(c, "inputs"), 2 * m->config.hidden);
    ok(km__pass_judge(&j.losses, m->ctx, &j.pass, &j.options, &err), &err);
    for (int64_t t = 0; t < x->batch.n_turns; t++) {
        const json_t *p = at2(at(infer, "prob"), x->number[t], x->dialogue[t]);
        const int64_t k = km__plan_candidates(&j.plan, t);
        assert_int_equal(j.plan.chosen[t],
                         whole(at2(at(infer, "pred"), x->number[t], x->dialogue[t])));
        for (int64_t i = 0; i < k; i++) {
            close_to(probability(j.pass.scores + j.plan.pairs[t], k, i),
                     json_number_value(json_array_get(p, (size_t)i)), "prob", i);
        }
    }
    check_turns(x, &j, at(infer, "turns"));
    job_clear(&j);
}

static void check_selection(const json_t *c) {
    const json_t *train = at(at(c, "expected"), "train");
    static data x;
    km_error err = KM_ERROR_INIT;
    model m;
    job j;
    model_init(&m, at(c, "params"), false);
    const int64_t d = 2 * m.config.hidden;
    selection_data(&x, at(c, "inputs"));
    job_init(&j, &m, &x.batch, (km__plan_wish){true, true, KM_DIFFKS_GOLD});
    put_vectors(&x, &j, at(c, "inputs"), d);
    ok(km__pass_judge(&j.losses, m.ctx, &j.pass, &j.options, &err), &err);
    close_to(j.losses.selection_loss, json_number_value(at(train, "ks_loss")), "ks_loss", 0);
    check_turns(&x, &j, at(train, "turns"));
    memset(j.pass.d_last, 0, (size_t)(x.batch.n_sentences * d) * sizeof(real));
    ok(km__choose_back(m.ctx, &j.pass, &err), &err);
    check_gradients(&m, at(train, "grad"));
    check_vectors(&x, &j, train, d);
    check_inference(&m, &x, c);
    job_clear(&j);
    model_clear(&m);
}

static void check_cases(const char *name, void (*one)(const json_t *)) {
    json_t *root = load(name);
    const json_t *cases = at(root, "cases");
    assert_true(json_array_size(cases) > 0);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        one(json_array_get(cases, i));
    }
    json_decref(root);
}

static void test_select_fused(void **state) {
    (void)state;
    check_cases("select_fused", check_selection);
}

static void test_select_disentangled(void **state) {
    (void)state;
    check_cases("select_disentangled", check_selection);
}

/* ---- the decoder alone ---- */

/* Each response a dialogue of one turn whose one candidate it copies from. */
static void decoder_data(data *x, const json_t *inputs) {
    const json_t *lengths = at(inputs, "know_length");
    data_init(x);
    for (size_t b = 0; b < json_array_size(lengths); b++) {
        (void)add_sentence(x, json_array_get(at(inputs, "know_ids"), b),
                           whole(json_array_get(lengths, b)));
        const int64_t t = add_turn(x, 1, (int64_t)b, 0);
        add_word(x->context_tokens, x->context_offsets, t, 0);
        for (int64_t i = 0; i < whole(json_array_get(at(inputs, "resp_length"), b)); i++) {
            add_word(x->response_tokens, x->response_offsets, t,
                     whole(at2(at(inputs, "resp"), (int64_t)b, i)));
        }
        x->dialogue_offsets[++x->batch.n_dialogues] = x->batch.n_turns;
    }
    x->batch.response_tokens = x->response_tokens;
    x->batch.response_offsets = x->response_offsets;
}

/* Vectors in place of the encoders'. The golden gives the first state itself: q is that, and init
 * hands it on. */
static void put_decoder_inputs(model *m, const data *x, job *j, const json_t *inputs) {
    const int64_t d = 2 * m->config.hidden, h = m->config.decoder;
    memset(j->pass.runs[0].last, 0, (size_t)(x->batch.n_turns * d) * sizeof(real));
    for (int64_t i = 0; i < h; i++) {
        m->w[P_INIT][i * 2 * d + i] = 1;
    }
    for (int64_t t = 0; t < x->batch.n_turns; t++) {
        (void)numbers_into(j->pass.runs[0].last + t * d,
                           json_array_get(at(inputs, "h0"), (size_t)t));
        (void)numbers_into(j->pass.runs[1].last + t * d,
                           json_array_get(at(inputs, "selected_vector"), (size_t)t));
        for (int64_t i = x->sentence_offsets[t]; i < x->sentence_offsets[t + 1]; i++) {
            (void)numbers_into(j->pass.runs[1].states + i * d,
                               at2(at(inputs, "know_states"), t, i - x->sentence_offsets[t]));
        }
    }
}

static void check_teacher(model *m, const data *x, job *j, const json_t *teacher) {
    const int64_t d = 2 * m->config.hidden;
    for (int64_t t = 0; t < x->batch.n_turns; t++) {
        close_to(j->pass.decoder.nll[t],
                 json_number_value(json_array_get(at(teacher, "nll_per_response"), (size_t)t)),
                 "nll", t);
        for (int64_t row = j->plan.response_rows[t]; row < j->plan.response_rows[t + 1]; row++) {
            check(j->pass.decoder.run.states + row * m->config.decoder,
                  at2(at(teacher, "h"), row - j->plan.response_rows[t], t), "h");
        }
        check(j->pass.d_q + t * d, json_array_get(at(teacher, "grad_h0"), (size_t)t), "grad_h0");
        check(j->pass.d_last + t * d,
              json_array_get(at(teacher, "grad_selected_vector"), (size_t)t),
              "grad_selected_vector");
        for (int64_t i = x->sentence_offsets[t]; i < x->sentence_offsets[t + 1]; i++) {
            check(j->pass.d_words + i * d,
                  at2(at(teacher, "grad_know_states"), t, i - x->sentence_offsets[t]),
                  "grad_know_states");
        }
    }
    close_to(j->losses.word_loss, json_number_value(at(teacher, "nll_sum")), "nll_sum", 0);
}

static void check_greedy(model *m, const data *x, job *j, const json_t *c) {
    const json_t *greedy = at(at(c, "expected"), "greedy");
    const int64_t n = x->batch.n_turns, v = m->config.vocabulary;
    const int64_t words = whole(at(at(c, "params"), "max_sent_length"));
    int32_t tokens[64];
    int64_t lengths[8], chosen[8] = {0};
    km_error err = KM_ERROR_INIT;
    real *p = zeros(words * n * v);
    char *block = NULL;
    assert_int_equal(posix_memalign((void **)&block, 64, km__respond_size(&j->plan)), 0);
    ok(km__respond(tokens, lengths, p, m->ctx, &j->pass, chosen, words, block, &err), &err);
    for (int64_t t = 0; t < n; t++) {
        for (int64_t i = 0; i < words; i++) {
            assert_int_equal(tokens[t * words + i], whole(at2(at(greedy, "tokens"), t, i)));
        }
        for (int64_t i = 0; i < lengths[t]; i++) {
            check(p + (i * n + t) * v, at2(at(greedy, "p"), i, t), "greedy p");
        }
    }
    free(block);
    free(p);
}

static void check_decoder(const json_t *c) {
    static data x;
    km_error err = KM_ERROR_INIT;
    model m;
    job j;
    model_init(&m, at(c, "params"), true);
    const int64_t d = 2 * m.config.hidden;
    decoder_data(&x, at(c, "inputs"));
    job_init(&j, &m, &x.batch, (km__plan_wish){true, true, KM_DIFFKS_GOLD});
    put_decoder_inputs(&m, &x, &j, at(c, "inputs"));
    ok(km__pass_judge(&j.losses, m.ctx, &j.pass, &j.options, &err), &err);
    memset(j.pass.d_last, 0, (size_t)(x.batch.n_turns * d) * sizeof(real));
    memset(j.pass.d_q, 0, (size_t)(x.batch.n_turns * d) * sizeof(real));
    memset(j.pass.d_words, 0, (size_t)(j.plan.sentences.rows * d) * sizeof(real));
    ok(km__decode_back(m.ctx, &j.pass, &j.options, &err), &err);
    check_teacher(&m, &x, &j, at(at(c, "expected"), "teacher"));
    check_gradients(&m, at(at(at(c, "expected"), "teacher"), "grad"));
    check_greedy(&m, &x, &j, c);
    job_clear(&j);
    model_clear(&m);
}

static void test_decoder(void **state) {
    (void)state;
    check_cases("decoder", check_decoder);
}

/* ---- whole models ---- */

static void add_ids(data *x, int64_t t, const json_t *ids, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        add_word(x->context_tokens, x->context_offsets, t, whole(json_array_get(ids, (size_t)i)));
    }
}

/* Keep the last `most` words of the turn that was added last. */
static void keep_last(data *x, int64_t t, int64_t most) {
    const int64_t first = x->context_offsets[t], n = x->context_offsets[t + 1] - first;
    if (n > most) {
        memmove(x->context_tokens + first, x->context_tokens + first + n - most,
                (size_t)most * sizeof(int32_t));
        x->context_offsets[t + 1] = first + most;
    }
}

static int64_t add_candidates(data *x, const json_t *inputs, int64_t b, int64_t t) {
    const int64_t k = whole(at2(at(inputs, "wiki_num"), b, t));
    for (int64_t j = 0; j < k; j++) {
        (void)add_sentence(x, json_array_get(at2(at(inputs, "wiki"), b, t), (size_t)j),
                           whole(json_array_get(at2(at(inputs, "wiki_length"), b, t), (size_t)j)));
    }
    return k > 0 ? add_turn(x, k, b, t) : -1;
}

/* The context of a turn is its post: joining earlier ones is the work of who reads the data. */
static void full_data(data *x, const json_t *c) {
    const json_t *inputs = at(c, "inputs"), *counts = at(inputs, "wiki_num");
    data_init(x);
    for (int64_t b = 0; b < (int64_t)json_array_size(counts); b++) {
        for (int64_t t = 0; t < size_of(json_array_get(counts, (size_t)b)); t++) {
            const int64_t turn = add_candidates(x, inputs, b, t);
            if (turn >= 0) {
                add_ids(x, turn, at2(at(inputs, "post"), b, t),
                        whole(at2(at(inputs, "post_length"), b, t)));
                x->gold[turn] = whole(at2(at(inputs, "atten"), b, t));
                for (int64_t i = 0; i < whole(at2(at(inputs, "resp_length"), b, t)); i++) {
                    add_word(x->response_tokens, x->response_offsets, turn,
                             whole(json_array_get(at2(at(inputs, "resp"), b, t), (size_t)i)));
                }
            }
        }
        x->dialogue_offsets[++x->batch.n_dialogues] = x->batch.n_turns;
    }
}

static void check_full_loss(model *m, data *x, const json_t *expected, bool words) {
    km_error err = KM_ERROR_INIT;
    job j;
    x->batch.response_offsets = words ? x->response_offsets : NULL;
    x->batch.response_tokens = words ? x->response_tokens : NULL;
    job_init(&j, m, &x->batch, (km__plan_wish){true, true, KM_DIFFKS_GOLD});
    ok(km__encode(m->ctx, &j.pass, &j.options, &err), &err);
    ok(km__pass_judge(&j.losses, m->ctx, &j.pass, &j.options, &err), &err);
    for (int64_t t = 0; t < x->batch.n_turns; t++) {
        check_scores(x, &j, t, at2(at(expected, "scores_per_turn"), x->number[t], x->dialogue[t]));
    }
    ok(km__pass_back(m->ctx, &j.pass, &j.options, &err), &err);
    close_to(j.losses.selection_loss, json_number_value(at(expected, "ks_loss")), "ks_loss", 0);
    if (words) {
        close_to(j.losses.word_loss, json_number_value(at(expected, "word_loss")), "word_loss", 0);
        close_to(j.losses.loss, json_number_value(at(expected, "loss")), "loss", 0);
        close_to(j.losses.perplexity, json_number_value(at(expected, "perplexity")), "perplexity",
                 0);
    }
    check_gradients(m, at(expected, words ? "grad_total_loss" : "grad_ks_loss"));
    job_clear(&j);
}

/* What a dialogue has chosen and said so far. */
typedef struct memory {
    int64_t past[8], n_past; /* candidates of earlier turns, by turn */
    int64_t said[64], n_said;
} memory;

/* All live dialogues' turn number t: the previous post, the generated answer and the present post;
 * earlier choices come as sentences of their own. */
static void inference_data(data *x, const json_t *c, const memory *memories, int64_t t) {
    const json_t *inputs = at(c, "inputs"), *counts = at(inputs, "wiki_num");
    data_init(x);
    for (int64_t b = 0; b < (int64_t)json_array_size(counts); b++) {
        const memory *past = &memories[b];
        const int64_t turn = add_candidates(x, inputs, b, t);
        for (int64_t i = past->n_past - 1; turn >= 0 && i >= 0; i--) {
            const size_t k = (size_t)past->past[i];
            x->history_sentences[x->history_offsets[turn + 1]++] =
                add_sentence(x, json_array_get(at2(at(inputs, "wiki"), b, i), k),
                             whole(json_array_get(at2(at(inputs, "wiki_length"), b, i), k)));
        }
        if (turn >= 0 && t > 0) {
            add_ids(x, turn, at2(at(inputs, "post"), b, t - 1),
                    whole(at2(at(inputs, "post_length"), b, t - 1)));
            for (int64_t i = 0; i < past->n_said; i++) {
                add_word(x->context_tokens, x->context_offsets, turn, past->said[i]);
            }
        }
        if (turn >= 0) {
            add_ids(x, turn, at2(at(inputs, "post"), b, t),
                    whole(at2(at(inputs, "post_length"), b, t)));
            keep_last(x, turn, whole(at(at(c, "params"), "max_context_length")));
            x->dialogue_offsets[++x->batch.n_dialogues] = x->batch.n_turns;
        }
    }
    x->batch.history_sentences = x->history_sentences;
    x->batch.history_offsets = x->history_offsets;
}

/* go, the answer, end: cut to `most`, as the authors cut every utterance. */
static void remember(memory *m, int64_t chosen, const int32_t *tokens, int64_t n, int64_t most) {
    m->past[m->n_past++] = chosen;
    m->said[0] = KM_DIFFKS_GO;
    for (int64_t i = 0; i < n; i++) {
        m->said[i + 1] = tokens[i];
    }
    m->said[n + 1] = KM_DIFFKS_EOS;
    m->n_said = n + 1 + (tokens[n - 1] != KM_DIFFKS_EOS);
    m->n_said = m->n_said < most ? m->n_said : most;
}

static void check_turn_inference(model *m, const json_t *c, memory *memories, int64_t t) {
    static data x;
    const json_t *infer = at(at(c, "expected"), "inference");
    const int64_t words = whole(at(at(c, "params"), "max_sent_length"));
    int32_t tokens[64];
    int64_t lengths[8], chosen[8];
    km_error err = KM_ERROR_INIT;
    char *block = NULL;
    job j;
    inference_data(&x, c, memories, t);
    job_init(&j, m, &x.batch, (km__plan_wish){false, false, KM_DIFFKS_OWN});
    ok(km__encode(m->ctx, &j.pass, &j.options, &err), &err);
    ok(km__pass_judge(&j.losses, m->ctx, &j.pass, &j.options, &err), &err);
    for (int64_t i = 0; i < x.batch.n_turns; i++) {
        const int64_t k = km__plan_candidates(&j.plan, i);
        const real *scores = j.pass.scores + j.plan.pairs[i];
        chosen[i] = 0;
        for (int64_t q = 0; q < k; q++) {
            chosen[i] = scores[q] > scores[chosen[i]] ? q : chosen[i];
            close_to(probability(scores, k, q),
                     json_number_value(json_array_get(
                         at2(at(infer, "prob_per_turn"), t, x.dialogue[i]), (size_t)q)),
                     "inference prob", q);
        }
        assert_int_equal(chosen[i], whole(at2(at(infer, "pred_per_turn"), t, x.dialogue[i])));
    }
    assert_int_equal(posix_memalign((void **)&block, 64, km__respond_size(&j.plan)), 0);
    ok(km__respond(tokens, lengths, NULL, m->ctx, &j.pass, chosen, words, block, &err), &err);
    for (int64_t i = 0; i < x.batch.n_turns; i++) {
        const json_t *expected = at2(at(infer, "generated_per_turn"), t, x.dialogue[i]);
        for (int64_t q = 0; q < words; q++) {
            assert_int_equal(tokens[i * words + q], whole(json_array_get(expected, (size_t)q)));
        }
        remember(&memories[x.dialogue[i]], chosen[i], tokens + i * words, lengths[i], words);
    }
    free(block);
    job_clear(&j);
}

static void check_full(const json_t *c) {
    static data x;
    model m;
    memory memories[8] = {{{0}, 0, {0}, 0}};
    model_init(&m, at(c, "params"), true);
    full_data(&x, c);
    check_full_loss(&m, &x, at(c, "expected"), false);
    check_full_loss(&m, &x, at(c, "expected"), true);
    for (int64_t t = 0; t < size_of(json_array_get(at(at(c, "inputs"), "wiki_num"), 0)); t++) {
        check_turn_inference(&m, c, memories, t);
    }
    model_clear(&m);
}

static void test_full_fused(void **state) {
    (void)state;
    check_cases("full_fused", check_full);
}

static void test_full_disentangled(void **state) {
    (void)state;
    check_cases("full_disentangled", check_full);
}

/* What the tolerance is worth: the largest difference is a part of it. */
static int report(void **state) {
    (void)state;
    print_message("largest difference: %.3g of what is allowed\n", worst);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gru),
        cmocka_unit_test(test_select_fused),
        cmocka_unit_test(test_select_disentangled),
        cmocka_unit_test(test_decoder),
        cmocka_unit_test(test_full_fused),
        cmocka_unit_test(test_full_disentangled),
    };
    return cmocka_run_group_tests(tests, NULL, report);
}
