/* test_write.c: weights by name, edited copies and written models: rounding against a reference of
 * its own, row orders, what is refused, and every allocation failing. */
#include <math.h>
#include <unistd.h>

#include "io/write.h"
#include "km/save.h"
#include "model_files.h"

static const char *data_of(char *path, const char *name) {
    (void)snprintf(path, 512, "%s/golden_data/%s", KM_TEST_DATA, name);
    return path;
}

static km_model *load(km_ctx *ctx, const char *path) {
    km_model *model = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_load(&model, ctx, path, NULL, &err), &err);
    return model;
}

/* ---- rounding ---- */

/* The nearest half by search over all of them, ties to the even one. */
static uint16_t nearest_half(float x) {
    double best = INFINITY;
    uint16_t found = 0;
    for (uint32_t h = 0; h < 0x7C00; h++) {
        uint16_t half = (uint16_t)h;
        float value;
        km_dtype_get(KM_F16)->to_f32(&value, &half, 1);
        double distance = fabs((double)fabsf(x) - (double)value);
        if (distance < best || (distance == best && h % 2 == 0)) {
            best = distance;
            found = half;
        }
    }
    return (uint16_t)(found | (signbit(x) ? 0x8000 : 0));
}

static void test_halves(void **state) {
    (void)state;
    static const float values[] = {0.0f,           -0.0f,           1.0f,       -1.0f / 3.0f,
                                   65504.0f,       65519.0f,        -65504.0f,  0x1p-24f,
                                   0x1p-25f,       0x1.000002p-25f, 0x1.8p-24f, 0x1.ffcp-15f,
                                   0x1.ffep-15f,   0x1.fffp-15f,    0x1p-14f,   1.00048828125f,
                                   1.00146484375f, 1.0004884f,      3.1415927f, 1e-40f};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        uint16_t half;
        int64_t at;
        km_error err = KM_ERROR_INIT;
        km_test_ok(km_dtype_from_f32(&half, KM_F16, &values[i], 1, &at, &err), &err);
        assert_int_equal(half, nearest_half(values[i]));
    }
}

static void test_small_types_come_back(void **state) {
    (void)state;
    static const km_dtype types[] = {KM_F16, KM_BF16};
    for (size_t t = 0; t < 2; t++) {
        const uint32_t end = types[t] == KM_F16 ? 0x7C00 : 0x7F80; /* the first that is infinite */
        for (uint32_t bits = 0; bits < 0x10000; bits++) {
            uint16_t small = (uint16_t)bits, again = 0;
            float value;
            int64_t at;
            if ((bits & 0x7FFF) >= end) {
                continue;
            }
            km_dtype_get(types[t])->to_f32(&value, &small, 1);
            assert_int_equal(km_dtype_from_f32(&again, types[t], &value, 1, &at, NULL), KM_OK);
            assert_int_equal(again, small);
        }
    }
}

static void test_what_a_type_cannot_hold(void **state) {
    (void)state;
    unsigned char out[64];
    float x[32] = {0};
    int64_t at = -1;
    km_error err = KM_ERROR_INIT;
    x[5] = 65520.0f;
    km_test_fails(km_dtype_from_f32(out, KM_F16, x, 32, &at, &err), KM_ERANGE, &err, "beyond what");
    assert_int_equal(at, 5);
    km_error_clear(&err);
    x[5] = NAN;
    km_test_fails(km_dtype_from_f32(out, KM_F32, x, 32, &at, &err), KM_ENUMERIC, &err, "element 5");
    km_error_clear(&err);
    km_test_fails(km_dtype_from_f32(out, KM_Q8_0, x, 31, &at, &err), KM_EUNSUPPORTED, &err, "Q8_0");
    km_error_clear(&err);
    km_test_fails(km_dtype_from_f32(out, KM_Q4_1, x, 32, &at, &err), KM_EUNSUPPORTED, &err, "Q4_1");
}

static void test_q8_0(void **state) {
    (void)state;
    unsigned char out[34];
    float x[32], back[32];
    int64_t at;
    for (int i = 0; i < 32; i++) {
        x[i] = (float)(i - 16) / 16.0f * 0.7f;
    }
    assert_int_equal(km_dtype_from_f32(out, KM_Q8_0, x, 32, &at, NULL), KM_OK);
    km_dtype_get(KM_Q8_0)->to_f32(back, out, 32);
    assert_int_equal((signed char)out[2], -127); /* the largest takes the whole range */
    for (int i = 0; i < 32; i++) {
        assert_true(fabsf(back[i] - x[i]) <= 0.7f / 254.0f + 0.7f * 0x1p-11f);
    }
    memset(x, 0, sizeof x);
    assert_int_equal(km_dtype_from_f32(out, KM_Q8_0, x, 32, &at, NULL), KM_OK);
    for (int i = 0; i < 34; i++) {
        assert_int_equal(out[i], 0);
    }
}

/* ---- edits ---- */

static void test_weights_by_name(void **state) {
    char path[512];
    km_model *model = load(*state, data_of(path, "tiny_llama"));
    km_weight weight;
    km_error err = KM_ERROR_INIT;
    assert_true(km_model_n_weights(model) > 10);
    km_test_fails(km_model_weight_at(&weight, model, -1, &err), KM_ERANGE, &err, "weight -1");
    km_error_clear(&err);
    km_test_fails(km_model_weight_find(&weight, model, "x", &err), KM_ENOTFOUND, &err, "'x'");
    km_error_clear(&err);
    for (int64_t i = 0; i < km_model_n_weights(model); i++) {
        km_test_ok(km_model_weight_at(&weight, model, i, &err), &err);
        float *values = malloc((size_t)weight.n * sizeof *values);
        assert_non_null(values);
        km_test_ok(km_model_weight_into(values, model, weight.name, &err), &err);
        if (weight.data != NULL) {
            assert_memory_equal(values, weight.data, (size_t)weight.n * sizeof *values);
        }
        free(values);
    }
    km_model_free(model);
}

static void test_edits_share_and_stack(void **state) {
    char path[512];
    km_model *model = load(*state, data_of(path, "tiny_llama"));
    km_model *once = NULL, *twice = NULL, *back = NULL;
    km_weight weight;
    km_error err = KM_ERROR_INIT;
    char a[65], b[65];
    km_test_ok(km_model_weight_find(&weight, model, "model.norm.weight", &err), &err);
    float *values = calloc((size_t)weight.n, sizeof *values);
    float *old = calloc((size_t)weight.n, sizeof *old);
    assert_non_null(values);
    assert_non_null(old);
    km_test_ok(km_model_weight_into(old, model, weight.name, &err), &err);
    for (int64_t i = 0; i < weight.n; i++) {
        values[i] = old[i] + 1.0f;
    }
    km_weight_edit edits[2] = {{weight.name, values, 1, {weight.n}},
                               {weight.name, old, 1, {weight.n}}};
    km_test_ok(km_model_with_weights(&once, model, edits, 1, &err), &err);
    km_test_fails(km_model_with_weights(&twice, model, edits, 2, &err), KM_EINVAL, &err,
                  "is given twice");
    km_error_clear(&err);
    km_test_ok(km_model_with_weights(&twice, once, edits, 1, &err), &err);
    km_test_ok(km_model_with_weights(&back, once, edits + 1, 1, &err), &err);
    km_model_free(model); /* the edits keep what they need of it */
    km_test_ok(km_model_fingerprint(a, once, &err), &err);
    km_test_ok(km_model_fingerprint(b, twice, &err), &err);
    assert_string_equal(a, b);
    km_test_ok(km_model_fingerprint(b, back, &err), &err);
    assert_string_not_equal(a, b);
    edits[0].dims[0]--;
    km_model *never = NULL;
    km_test_fails(km_model_with_weights(&never, once, edits, 1, &err), KM_ESHAPE, &err, "shape");
    assert_null(never);
    km_model_free(once);
    km_model_free(twice);
    km_model_free(back);
    free(values);
    free(old);
}

static void test_random_control_has_no_file(void **state) {
    char path[512];
    km_model *model = load(*state, data_of(path, "tiny_llama"));
    km_model *control = NULL, *edited = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_random_like(&control, model, 1, &err), &err);
    assert_int_equal(km_model_n_weights(control), 0);
    km_test_fails(km_model_with_weights(&edited, control, NULL, 0, &err), KM_EINVAL, &err,
                  "random control");
    km_error_clear(&err);
    km_test_fails(km_model_save(control, "never", NULL, &err), KM_EINVAL, &err, "random control");
    km_model_free(control);
    km_model_free(model);
}

/* ---- writing ---- */

static void test_permissions_and_places(void **state) {
    char path[512], there[512];
    folder f = folder_new();
    km_model *model = load(*state, data_of(path, "arch/llama3.gguf"));
    km_error err = KM_ERROR_INIT;
    km_save_options options = {KM_SAVE_HF, KM_SAVE_KEEP, false};
    km_test_fails(km_model_save(model, folder_path(there, &f, "x"), &options, &err),
                  KM_EUNSUPPORTED, &err, "saved as GGUF only");
    km_error_clear(&err);
    folder_write_text(&f, "x", "mine");
    km_test_fails(km_model_save(model, there, NULL, &err), KM_EINVAL, &err, "there already");
    km_error_clear(&err);
    km_test_fails(km_model_save(model, "/dev/full", &(km_save_options){.overwrite = true}, &err),
                  KM_EINVAL, &err, "no regular file");
    km_model_free(model);
    folder_remove(&f);
}

static char place[512];

static km_status edit_and_save(km_ctx *ctx, km_error *err) {
    static const char *const sources[] = {"arch/llama3.gguf", "tiny_llama"};
    static const char *const names[] = {"output_norm.weight", "model.norm.weight"};
    static const km_save_options options = {KM_SAVE_SAME, KM_SAVE_F16, true};
    km_status status = KM_OK;
    for (int i = 0; i < 2 && status == KM_OK; i++) {
        char path[600];
        float values[256] = {0.5f};
        km_model *model = NULL, *edited = NULL;
        km_weight weight;
        KM_GO(km_model_load(&model, ctx, data_of(path, sources[i]), NULL, err));
        KM_GO(km_model_weight_find(&weight, model, names[i], err));
        const km_weight_edit edit = {names[i], values, 1, {weight.n}};
        KM_GO(km_model_with_weights(&edited, model, &edit, 1, err));
        (void)snprintf(path, sizeof path, "%s/saved%d", place, i);
        KM_GO(km_model_save(edited, path, &options, err));
    done:
        km_model_free(edited);
        km_model_free(model);
    }
    return status;
}

static km_status export(km_ctx *ctx, km_error *err) {
    static const char *const sources[] = {"arch/gpt2", "arch/pythia", "arch/llama3"};
    static const uint32_t one = 1;
    static const km_export_pair pair = {"general.file_type", 4, 0, 1, &one, sizeof one};
    km_status status = KM_OK;
    for (int i = 0; i < 3 && status == KM_OK; i++) {
        char path[600];
        km_model *model = NULL;
        KM_GO(km_model_load(&model, ctx, data_of(path, sources[i]), NULL, err));
        (void)snprintf(path, sizeof path, "%s/export%d", place, i);
        (void)unlink(path);
        KM_GO(km_model_export_gguf(model, path, KM_SAVE_KEEP, &pair, 1, err));
    done:
        km_model_free(model);
    }
    return status;
}

static int entries_of(const char *path) {
    int n = 0;
    DIR *dir = opendir(path);
    assert_non_null(dir);
    while (readdir(dir) != NULL) {
        n++;
    }
    (void)closedir(dir);
    return n - 2;
}

static void test_every_allocation(void **state) {
    (void)state;
    folder f = folder_new();
    (void)snprintf(place, sizeof place, "%s", f.path);
    km_test_every_allocation(edit_and_save);
    assert_int_equal(entries_of(place), 2); /* what was whole, and nothing of the failures */
    char path[600];
    static const char *const parts[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                        "model.safetensors"};
    for (size_t i = 0; i < 4; i++) {
        (void)snprintf(path, sizeof path, "%s/saved1/%s", f.path, parts[i]);
        (void)unlink(path);
    }
    assert_int_equal(rmdir(folder_path(path, &f, "saved1")), 0);
    folder_remove(&f);
}

static void test_every_allocation_of_an_export(void **state) {
    (void)state;
    folder f = folder_new();
    (void)snprintf(place, sizeof place, "%s", f.path);
    km_test_every_allocation(export);
    assert_int_equal(entries_of(place), 3);
    folder_remove(&f);
}

static void test_export_of_a_gguf_model(void **state) {
    char path[600];
    km_model *model = load(*state, data_of(path, "arch/llama3.gguf"));
    km_error err = KM_ERROR_INIT;
    km_test_fails(km_model_export_gguf(model, "never", KM_SAVE_KEEP, NULL, 0, &err), KM_EINVAL,
                  &err, "is GGUF already");
    km_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_small_types_come_back),
        cmocka_unit_test(test_what_a_type_cannot_hold),
        cmocka_unit_test(test_q8_0),
        cmocka_unit_test(test_weights_by_name),
        cmocka_unit_test(test_edits_share_and_stack),
        cmocka_unit_test(test_random_control_has_no_file),
        cmocka_unit_test(test_permissions_and_places),
        cmocka_unit_test(test_every_allocation),
        cmocka_unit_test(test_every_allocation_of_an_export),
        cmocka_unit_test(test_export_of_a_gguf_model),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
