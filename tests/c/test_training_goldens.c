/* Tests of km_model_train_pass against PyTorch (tests/oracle/make_training.py): every parameter of
 * the tiny model of every architecture, loaded from its Hugging Face folder. */
#include <jansson.h>
#include <math.h>

#include "km_test.h"

#include "model/parameters.h"

enum { MAX_PARAMETERS = 80, MAX_TOKENS = 64 };
#define TOLERANCE 1e-4

/* Derivatives that are 0 but for rounding, such as those of GPT-2's key biases, have no relative
 * error: below this part of the greatest norm of the model's derivatives nothing is compared. */
#define NOTHING 1e-6

static const char *const NAMES[] = {"gpt2",         "llama3", "llama_bias",     "mistral",
                                    "qwen2",        "qwen3",  "gemma2",         "gemma3",
                                    "qwen2_window", "pythia", "neox_sequential"};
enum { N_NAMES = 11 };

typedef struct golden {
    km_model *model;
    unsigned char *stored; /* the safetensors file: 8 bytes of length, the header, the data */
    json_t *header;
    const unsigned char *data;
    km_weight_plan plan;
    km_parameter_gradient list[MAX_PARAMETERS];
    int32_t ids[MAX_TOKENS];
    int64_t parent[MAX_TOKENS], n, n_targets;
    km_training_target targets[MAX_TOKENS];
    double losses[MAX_TOKENS], largest;
} golden;

/* ---- what is stored ---- */

typedef struct stored {
    const float *values; /* (n); NULL where there is none */
    int64_t n;
} stored;

static stored find(const golden *g, const char *name, const char *ending) {
    char full[160];
    snprintf(full, sizeof full, "%s%s", name, ending);
    const json_t *entry = json_object_get(g->header, full);
    if (entry == NULL) {
        return (stored){NULL, 0};
    }
    assert_string_equal(json_string_value(json_object_get(entry, "dtype")), "F32");
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_int_t begin = json_integer_value(json_array_get(offsets, 0));
    const json_int_t end = json_integer_value(json_array_get(offsets, 1));
    return (stored){(const float *)(const void *)(g->data + begin), (end - begin) / 4};
}

static void read_file(golden *g, const char *path) {
    uint64_t length;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fail_msg("%s cannot be read", path);
    }
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    const long size = ftell(file);
    rewind(file);
    g->stored = malloc((size_t)size);
    assert_int_equal(fread(g->stored, 1, (size_t)size, file), (size_t)size);
    fclose(file);
    memcpy(&length, g->stored, sizeof length);
    g->header = json_loadb((const char *)g->stored + 8, length, 0, NULL);
    assert_non_null(g->header);
    g->data = g->stored + 8 + length;
}

static void add_prompt(golden *g, const char *name) {
    const stored ids = find(g, name, "");
    assert_true(ids.n > 1);
    for (int64_t t = 0; t < ids.n; t++, g->n++) {
        assert_true(g->n < MAX_TOKENS);
        g->ids[g->n] = (int32_t)ids.values[t];
        g->parent[g->n] = t == 0 ? -1 : g->n - 1;
        if (t + 1 < ids.n) {
            g->targets[g->n_targets++] =
                (km_training_target){g->n, (int32_t)ids.values[t + 1], t % 2 == 0 ? 1.0f : 0.5f};
        }
    }
}

static void golden_init(golden *g, km_ctx *ctx, const char *name) {
    char path[512];
    km_error err = KM_ERROR_INIT;
    memset(g, 0, sizeof *g);
    snprintf(path, sizeof path, "%s/golden_data/arch/%s", KM_TEST_DATA, name);
    km_test_ok(km_model_load(&g->model, ctx, path, NULL, &err), &err);
    snprintf(path, sizeof path, "%s/golden_data/arch/%s.training.safetensors", KM_TEST_DATA, name);
    read_file(g, path);
    km_test_ok(km__parameter_plan(&g->plan, g->model, &err), &err);
    assert_true(g->plan.n <= MAX_PARAMETERS);
    for (int64_t i = 0; i < g->plan.n; i++) {
        const int64_t n = g->plan.slots[i].rows * g->plan.slots[i].cols;
        g->list[i] = (km_parameter_gradient){i, calloc((size_t)n, sizeof(float)), NULL};
    }
    add_prompt(g, "ids0");
    add_prompt(g, "ids1");
}

static void golden_clear(golden *g) {
    for (int64_t i = 0; i < g->plan.n; i++) {
        free(g->list[i].gradient);
    }
    km__weight_plan_clear(&g->plan);
    json_decref(g->header);
    free(g->stored);
    km_model_free(g->model);
}

/* ---- comparison ---- */

static double norm_of(const float *x, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return sqrt(sum);
}

static void compare(const golden *g, const char *name, const char *what, const double *got,
                    stored expected, int64_t n) {
    double gap = 0.0;
    if (expected.n != n) {
        fail_msg("%s: %d numbers are stored of %s%s", km_model_config(g->model)->arch,
                 (int)expected.n, name, what);
    }
    for (int64_t i = 0; i < n; i++) {
        gap += pow(got[i] - (double)expected.values[i], 2.0);
    }
    const double size = norm_of(expected.values, n);
    if (!(sqrt(gap) <= TOLERANCE * size + NOTHING * g->largest)) {
        fail_msg("%s: %s%s is off by %.3g of %.3g", km_model_config(g->model)->arch, name, what,
                 sqrt(gap), size);
    }
}

static void compare_whole(const golden *g, const km_weight_slot *slot, const float *gradient,
                          stored expected) {
    const int64_t n = slot->rows * slot->cols;
    double *wide = calloc((size_t)n, sizeof *wide);
    for (int64_t i = 0; i < n; i++) {
        wide[i] = (double)gradient[i];
    }
    compare(g, slot->name, "", wide, expected, n);
    free(wide);
}

/* Products with cosines from both sides, and the norm. */
static void compare_shown(const golden *g, const km_weight_slot *slot, const float *gradient) {
    const int64_t rows = slot->rows, cols = slot->cols;
    double *left = calloc((size_t)cols, sizeof *left), *right = calloc((size_t)rows, sizeof *right);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            const double value = (double)gradient[i * cols + j];
            left[j] += cos((double)(i + 1)) * value;
            right[i] += cos((double)(j + 1)) * value;
        }
    }
    const double norm = norm_of(gradient, rows * cols);
    compare(g, slot->name, ".left", left, find(g, slot->name, ".left"), cols);
    compare(g, slot->name, ".right", right, find(g, slot->name, ".right"), rows);
    compare(g, slot->name, ".norm", &norm, find(g, slot->name, ".norm"), 1);
    free(left);
    free(right);
}

static void test_agrees_with_pytorch(void **state) {
    for (int m = 0; m < N_NAMES; m++) {
        golden g;
        km_error err = KM_ERROR_INIT;
        golden_init(&g, *state, NAMES[m]);
        const km_training_pass pass = {.tree = {g.ids, g.parent, g.n},
                                       .targets = g.targets,
                                       .n_targets = g.n_targets,
                                       .gradients = g.list,
                                       .n_gradients = g.plan.n,
                                       .recompute = m % 2 == 1,
                                       .losses = g.losses};
        km_test_ok(km_model_train_pass(g.model, &pass, &err), &err);
        compare(&g, "losses", "", g.losses, find(&g, "losses", ""), g.n_targets);
        for (int64_t i = 0; i < g.plan.n; i++) {
            const km_weight_slot *slot = &g.plan.slots[i];
            g.largest = fmax(g.largest, norm_of(g.list[i].gradient, slot->rows * slot->cols));
        }
        for (int64_t i = 0; i < g.plan.n; i++) {
            const km_weight_slot *slot = &g.plan.slots[i];
            const stored whole = find(&g, slot->name, "");
            if (whole.n > 0) {
                compare_whole(&g, slot, g.list[i].gradient, whole);
            } else {
                compare_shown(&g, slot, g.list[i].gradient);
            }
        }
        golden_clear(&g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_agrees_with_pytorch, km_test_setup, km_test_teardown),
    };
    return cmocka_run_group_tests_name("training goldens", tests, NULL, NULL);
}
