/* Tests of km_neurons_run_into: attributions against central differences of a double-precision
 * model, completeness, both rules, errors. */
#include "km_test.h"

#include "km/neurons.h"
#include "reference_model.h"

enum { N_PROMPT = 5, TARGET = 6, MAX_NEURONS = 64 };

static const int32_t IDS[N_PROMPT] = {3, 11, 5, 7, 2};
static const int64_t PARENT[N_PROMPT] = {-1, 0, 1, 2, 3};

typedef struct results {
    km_neurons_arrays arrays;
    double attribution[MAX_NEURONS], without[REF_LAYERS], completeness[REF_LAYERS];
    float activation[MAX_NEURONS];
} results;

static void results_init(results *r) {
    memset(r, 0, sizeof *r);
    r->arrays =
        (km_neurons_arrays){r->attribution, r->activation, r->without, r->completeness, 0.0};
}

/* ---- the probability with one layer's neurons scaled and one of them moved ---- */

typedef struct change {
    const km_model *model;
    int32_t layer;
    int64_t neuron;
    double scale, step, value; /* value: the activation itself */
    double hidden[MAX_NEURONS];
} change;

/* With a norm behind the MLP: its output scaled, and moved by what the neuron writes at the factor
 * the norm has in this run. */
static void change_output(const change *c, double *row) {
    const km_config *config = &c->model->config;
    const km_layer_weights *w = &c->model->weights.layers[c->layer];
    double branch[64], squares = 0.0;
    dbl_product(branch, &w->w_down, c->hidden, NULL, 0, config->d_model);
    for (int32_t i = 0; i < config->d_model; i++) {
        squares += branch[i] * branch[i] / config->d_model;
    }
    for (int32_t i = 0; i < config->d_model; i++) {
        const double column =
            (double)((const float *)w->w_down.data)[i * config->d_ffn + c->neuron];
        const double gain = (double)w->ffn_post_norm.gain[i] + (double)config->norm_offset;
        row[i] = c->scale * row[i] + c->step * column * gain / sqrt(squares + config->norm_eps);
    }
}

static void change_door(void *payload, km_point point, int32_t layer, int64_t node, int64_t heads,
                        int64_t width, double *row) {
    change *c = payload;
    (void)heads;
    if (layer != c->layer || node != N_PROMPT - 1) {
        return;
    }
    if (point == KM_POINT_MLP_HIDDEN) {
        c->value = row[c->neuron];
        memcpy(c->hidden, row, (size_t)width * sizeof *row);
        for (int64_t i = 0; i < width && !c->model->config.post_norms; i++) {
            row[i] = row[i] * c->scale + (i == c->neuron ? c->step : 0.0);
        }
    } else if (point == KM_POINT_MLP_OUT && c->model->config.post_norms) {
        change_output(c, row);
    }
}

static double probability(const km_model *model, change *c) {
    static ref_pass r;
    const km_tree tree = {IDS, PARENT, N_PROMPT};
    double total = 0.0;
    r.model = model;
    r.tree = &tree;
    r.door = change_door;
    r.payload = c;
    ref_run(&r);
    for (int32_t v = 0; v < model->config.vocab_size; v++) {
        total += exp(r.logits[N_PROMPT - 1][v]);
    }
    return exp(r.logits[N_PROMPT - 1][TARGET]) / total;
}

static double expected_attribution(const km_model *model, int32_t layer, int64_t neuron,
                                   const km_neurons_options *options) {
    const double shift = options->rule == KM_RIEMANN_MIDPOINT ? 0.5 : 0.0, h = 1e-5;
    change c = {model, layer, neuron, 1.0, 0.0, 0.0, {0}};
    double sum = 0.0;
    for (int32_t k = 0; k < options->steps; k++) {
        c.scale = (k + shift) / options->steps;
        c.step = h;
        sum += probability(model, &c);
        c.step = -h;
        sum -= probability(model, &c);
    }
    return c.value * sum / (2.0 * h) / options->steps;
}

static void check_model(km_ctx *ctx, km_config config, const km_neurons_options *options) {
    random_model m;
    results r;
    km_error err = KM_ERROR_INIT;
    random_model_init(&m, ctx, config);
    results_init(&r);
    km_test_ok(
        km_neurons_run_into(&r.arrays, &m.model, IDS, N_PROMPT, TARGET, options, NULL, NULL, &err),
        &err);
    for (int32_t l = 0; l < config.n_layers; l++) {
        change none = {&m.model, l, 0, 1.0, 0.0, 0.0, {0}}, zero = none;
        double total = 0.0;
        zero.scale = 0.0;
        for (int32_t i = 0; i < config.d_ffn; i++) {
            const double expected = expected_attribution(&m.model, l, i, options);
            const double got = r.attribution[l * config.d_ffn + i];
            if (fabs(got - expected) > 1e-6 + 2e-4 * fabs(expected)) {
                fail_msg("%s: layer %d, neuron %d: %.9g, expected %.9g", config.arch, l, i, got,
                         expected);
            }
            total += got;
        }
        assert_true(fabs(r.arrays.probability - probability(&m.model, &none)) < 1e-6);
        assert_true(fabs((double)r.activation[l * config.d_ffn] - none.value) < 1e-5);
        assert_true(fabs(r.without[l] - probability(&m.model, &zero)) < 1e-6);
        assert_true(fabs(r.completeness[l] - (r.arrays.probability - r.without[l] - total)) <
                    1e-12);
    }
    random_model_clear(&m);
}

static void test_central_differences(void **state) {
    static const km_neurons_options LEFT = {4, KM_RIEMANN_LEFT}, MIDDLE = {3, KM_RIEMANN_MIDPOINT};
    check_model(*state, reference_config(), &LEFT);
    check_model(*state, reference_gemma(), &LEFT);
    check_model(*state, reference_gpt2(), &MIDDLE);
    check_model(*state, reference_neox(), &MIDDLE);
}

static double worst_residual(const km_model *model, int32_t steps, km_riemann rule) {
    const km_neurons_options options = {steps, rule};
    results r;
    km_error err = KM_ERROR_INIT;
    double worst = 0.0;
    results_init(&r);
    km_test_ok(
        km_neurons_run_into(&r.arrays, model, IDS, N_PROMPT, TARGET, &options, NULL, NULL, &err),
        &err);
    for (int32_t l = 0; l < model->config.n_layers; l++) {
        worst = fabs(r.completeness[l]) > worst ? fabs(r.completeness[l]) : worst;
    }
    return worst;
}

/* The attributions of a layer sum to P(w) - P(0) as steps grow: linearly with the left sum,
 * quadratically with midpoints. 300 steps take several passes a layer's worth of copies. */
static void test_completeness(void **state) {
    static const double finer_by = 12.0, middle_by = 20.0;
    for (int i = 0; i < 2; i++) {
        random_model m;
        random_model_init(&m, *state, i == 0 ? reference_config() : reference_gemma());
        const double left = worst_residual(&m.model, 20, KM_RIEMANN_LEFT);
        const double finer = worst_residual(&m.model, 300, KM_RIEMANN_LEFT);
        const double middle = worst_residual(&m.model, 20, KM_RIEMANN_MIDPOINT);
        assert_true(left > 1e-5);
        assert_true(finer < left / finer_by);
        assert_true(middle < left / middle_by);
        random_model_clear(&m);
    }
}

/* A prompt of one token: its copies are roots of their own. */
static void test_one_token(void **state) {
    random_model m;
    results r;
    km_error err = KM_ERROR_INIT;
    random_model_init(&m, *state, reference_config());
    results_init(&r);
    km_test_ok(km_neurons_run_into(&r.arrays, &m.model, IDS, 1, TARGET, NULL, NULL, NULL, &err),
               &err);
    assert_true(r.arrays.probability > 0.0 && r.arrays.probability < 1.0);
    assert_true(fabs(r.completeness[0]) < 0.05);
    random_model_clear(&m);
}

typedef struct ticks {
    int64_t last, total, n;
} ticks;

static km_status count_tick(void *payload, int64_t done, int64_t total) {
    ticks *t = payload;
    t->last = done;
    t->total = total;
    t->n++;
    return KM_OK;
}

static km_status stop_tick(void *payload, int64_t done, int64_t total) {
    (void)payload;
    (void)done;
    (void)total;
    return KM_ECANCELLED;
}

static void test_ticks_and_errors(void **state) {
    random_model m;
    results r;
    ticks t = {0, 0, 0};
    km_error err = KM_ERROR_INIT;
    km_neurons_options options = {0, KM_RIEMANN_LEFT};
    random_model_init(&m, *state, reference_config());
    results_init(&r);
    const km_model *model = &m.model;
    km_test_ok(km_neurons_run_into(&r.arrays, model, IDS, 2, TARGET, NULL, count_tick, &t, &err),
               &err);
    assert_true(t.n > 0 && t.last == 3 && t.total == 3);
    assert_int_equal(
        km_neurons_run_into(&r.arrays, model, IDS, 2, TARGET, NULL, stop_tick, NULL, &err),
        KM_ECANCELLED);
    assert_int_equal(km_neurons_run_into(&r.arrays, model, IDS, 0, TARGET, NULL, NULL, NULL, NULL),
                     KM_EINVAL);
    assert_int_equal(km_neurons_run_into(&r.arrays, model, IDS, 2, 17, NULL, NULL, NULL, NULL),
                     KM_ERANGE);
    assert_int_equal(
        km_neurons_run_into(&r.arrays, model, IDS, 2, TARGET, &options, NULL, NULL, NULL),
        KM_EINVAL);
    random_model_clear(&m);
}

static km_status every_allocation(km_ctx *ctx, km_error *err) {
    random_model m;
    results r;
    const km_neurons_options options = {2, KM_RIEMANN_LEFT};
    random_model_init(&m, ctx, reference_config());
    results_init(&r);
    const km_status status =
        km_neurons_run_into(&r.arrays, &m.model, IDS, N_PROMPT, TARGET, &options, NULL, NULL, err);
    random_model_clear(&m);
    return status;
}

static void test_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(every_allocation);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_central_differences, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_completeness, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_one_token, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_ticks_and_errors, km_test_setup, km_test_teardown),
        cmocka_unit_test(test_every_allocation),
    };
    return cmocka_run_group_tests_name("neurons", tests, NULL, NULL);
}
