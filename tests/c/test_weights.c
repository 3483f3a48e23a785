/* test_weights.c: weights found, checked, converted, drawn at random and fingerprinted. */
#include <math.h>

#include "model/weights_private.h"
#include "tiny_model.h"

/* A model without its tokenizer: what km_model_load does around it is tested elsewhere. */
typedef struct opened {
    km_model model;
    folder where;
} opened;

static void opened_close(opened *m) {
    km__weights_clear(&m->model);
    km_container_close(m->model.container);
    folder_remove(&m->where);
}

static void write_model(opened *m, const tiny_options *o, bool hf) {
    m->where = folder_new();
    if (hf) {
        tiny_write_folder(&m->where, o);
        return;
    }
    bytes b = tiny_gguf(o);
    folder_write(&m->where, "m.gguf", b.data, b.n);
    clear(&b);
}

static km_status load_written(opened *m, km_ctx *ctx, bool hf, int64_t max_bytes, km_error *err) {
    char path[512];
    km_model_options options = {max_bytes};
    memset(&m->model, 0, sizeof(m->model));
    m->model.ctx = ctx;
    KM_TRY(km_container_open(&m->model.container, ctx,
                             hf ? m->where.path : folder_path(path, &m->where, "m.gguf"), err));
    KM_TRY(km__config_read(&m->model.config, m->model.container, err));
    return km__weights_load(&m->model, &options, err);
}

static km_status open_model(opened *m, km_ctx *ctx, const tiny_options *o, bool hf, km_error *err) {
    write_model(m, o, hf);
    return load_written(m, ctx, hf, 0, err);
}

/* ---- values ---- */

static void check_value(int index, int layer, int64_t i, float value) {
    if (value != tiny_value(index, layer, i)) {
        fail_msg("%s of layer %d, element %d: %g", TINY[index].gguf, layer, (int)i, (double)value);
    }
}

static void check_vector(const float *values, int index, int layer) {
    assert_non_null(values);
    for (int64_t i = 0; i < TINY[index].cols; i++) {
        check_value(index, layer, i, values[i]);
    }
}

static void check_matrix(const km_model *model, const km_matrix *w, int index, int layer) {
    float row[256];
    assert_int_equal(w->rows, TINY[index].rows);
    assert_int_equal(w->cols, TINY[index].cols);
    for (int64_t r = 0; r < w->rows; r++) {
        km_matrix_row(row, model->ctx, w, r);
        for (int64_t i = 0; i < w->cols; i++) {
            check_value(index, layer, r * w->cols + i, row[i]);
        }
    }
}

static void check_layer(const km_model *model, int l, bool gemma) {
    const km_layer_weights *p = &model->weights.layers[l];
    const km_matrix *const matrices[13] = {NULL,     &p->wq,     &p->wk, &p->wv, NULL,
                                           NULL,     &p->wo,     NULL,   NULL,   &p->w_gate,
                                           &p->w_up, &p->w_down, NULL};
    const float *const vectors[13] = {p->attn_norm.gain,
                                      NULL,
                                      NULL,
                                      NULL,
                                      p->q_norm,
                                      p->k_norm,
                                      NULL,
                                      p->attn_post_norm.gain,
                                      p->ffn_norm.gain,
                                      NULL,
                                      NULL,
                                      NULL,
                                      p->ffn_post_norm.gain};
    for (int i = 0; i < 13; i++) {
        if (matrices[i] != NULL) {
            check_matrix(model, matrices[i], 3 + i, l);
        } else if (TINY[3 + i].gemma_only && !gemma) {
            assert_null(vectors[i]);
        } else {
            check_vector(vectors[i], 3 + i, l);
        }
    }
}

static void check_model(const km_model *model, bool gemma, bool tied) {
    const km_weights *w = &model->weights;
    check_matrix(model, &w->embed, 0, -1);
    check_vector(w->final_norm.gain, 1, -1);
    if (tied) {
        assert_ptr_equal(w->unembed.data, w->embed.data);
    }
    check_matrix(model, &w->unembed, tied ? 0 : OUTPUT_INDEX, -1);
    for (int l = 0; l < L; l++) {
        check_layer(model, l, gemma);
    }
}

static void expect_values(km_ctx *ctx, tiny_options o, bool hf, const char *precision) {
    opened m;
    km_error err = KM_ERROR_INIT;
    km_test_ok(open_model(&m, ctx, &o, hf, &err), &err);
    check_model(&m.model, o.gemma, o.tied);
    assert_string_equal(m.model.precision, precision);
    int64_t layer = 2 * D + (2 * H + 2 * K) * DH * D + 3 * F * D + (o.gemma ? 2 * DH + 2 * D : 0);
    assert_int_equal(m.model.n_parameters, (o.tied ? 1 : 2) * V * D + D + L * layer);
    opened_close(&m);
}

static void test_every_container_and_type(void **state) {
    static const struct {
        uint32_t type;
        const char *name;
    } TYPES[] = {{0, "F32"}, {1, "F16"}, {30, "BF16"}, {8, "Q8_0"}};
    for (int gemma = 0; gemma < 2; gemma++) {
        for (int tied = 0; tied < 2; tied++) {
            for (int i = 0; i < 4; i++) {
                tiny_options o = {.gemma = gemma, .tied = tied, .type = TYPES[i].type};
                expect_values(*state, o, false, TYPES[i].name);
                if (TYPES[i].type != 8) {
                    expect_values(*state, o, true, TYPES[i].name);
                }
            }
        }
    }
}

/* A header of any length puts float32 data at odd addresses: then they are copied. */
static void test_unaligned_float32(void **state) {
    for (size_t padding = 0; padding < 4; padding++) {
        tiny_options o = {.header_padding = padding};
        opened m;
        km_error err = KM_ERROR_INIT;
        km_test_ok(open_model(&m, *state, &o, true, &err), &err);
        check_model(&m.model, false, false);
        const km_tensor_info *info =
            km_container_find(m.model.container, "model.embed_tokens.weight");
        assert_int_equal(m.model.weights.embed.data == info->data, padding == 0);
        opened_close(&m);
    }
}

/* ---- refusals ---- */

static void expect_refusal(km_ctx *ctx, tiny_options o, bool hf, km_status status,
                           const char *part) {
    opened m;
    km_error err = KM_ERROR_INIT;
    assert_int_equal(open_model(&m, ctx, &o, hf, &err), status);
    assert_non_null(strstr(err.message, m.where.path));
    if (strstr(err.message, part) == NULL) {
        fail_msg("'%s' is not in '%s'", part, err.message);
    }
    opened_close(&m);
}

static void test_missing_and_misshapen(void **state) {
    expect_refusal(*state, (tiny_options){.missing = "blk.1.ffn_up.weight"}, false, KM_EFORMAT,
                   "tensor 'blk.1.ffn_up.weight' is missing");
    expect_refusal(*state, (tiny_options){.missing = "output_norm.weight"}, false, KM_EFORMAT,
                   "tensor 'output_norm.weight' is missing");
    expect_refusal(*state, (tiny_options){.missing = "model.layers.0.mlp.down_proj.weight"}, true,
                   KM_EFORMAT, "tensor 'model.layers.0.mlp.down_proj.weight' is missing");
    expect_refusal(*state, (tiny_options){.missing = "lm_head.weight"}, true, KM_EFORMAT,
                   "tensor 'lm_head.weight' is missing");
    expect_refusal(*state, (tiny_options){.misshapen = "blk.0.attn_q.weight"}, false, KM_EFORMAT,
                   "tensor 'blk.0.attn_q.weight' has shape (32, 33), the configuration needs (32, "
                   "32)");
    expect_refusal(*state, (tiny_options){.misshapen = "blk.0.ffn_norm.weight"}, false, KM_EFORMAT,
                   "has shape (33), the configuration needs (32)");
}

static void test_unused_tensor(void **state) {
    expect_refusal(*state, (tiny_options){.extra = "blk.1.attn_q.bias"}, false, KM_EUNSUPPORTED,
                   "tensor 'blk.1.attn_q.bias' is no part of a llama model");
    /* Gemma's norms in a file that calls itself llama. */
    opened m;
    km_error err = KM_ERROR_INIT;
    tiny_options o = {.gemma = true, .tied = true};
    write_model(&m, &o, true);
    char text[1024];
    snprintf(text, sizeof(text), "%strue}", LLAMA_JSON);
    folder_write_text(&m.where, "config.json", text);
    assert_int_equal(load_written(&m, *state, true, 0, &err), KM_EUNSUPPORTED);
    assert_non_null(strstr(err.message, "is no part of a llama model"));
    opened_close(&m);
}

/* A tied folder may repeat the embedding, but not with other numbers. */
static void test_tied_with_another_head(void **state) {
    opened m;
    km_error err = KM_ERROR_INIT;
    tiny_options o = {.tied = false};
    char text[1024];
    write_model(&m, &o, true);
    snprintf(text, sizeof(text), "%strue}", LLAMA_JSON);
    folder_write_text(&m.where, "config.json", text);
    assert_int_equal(load_written(&m, *state, true, 0, &err), KM_EUNSUPPORTED);
    assert_non_null(strstr(err.message, "'lm_head.weight'"));
    opened_close(&m);
}

/* What is converted is checked on loading, what is used in place when the model first runs. */
static void expect_not_finite(km_ctx *ctx, tiny_options o, bool hf, const char *name) {
    opened m;
    km_error err = KM_ERROR_INIT;
    km_test_ok(open_model(&m, ctx, &o, hf, &err), &err);
    for (int i = 0; i < 2; i++) {
        km_test_fails(km__weights_check(&m.model, &err), KM_ENUMERIC, &err, name);
    }
    opened_close(&m);
}

static void test_weight_not_finite(void **state) {
    static const uint32_t types[] = {0, 30};
    for (int i = 0; i < 2; i++) {
        tiny_options o = {.type = types[i], .infinite = "blk.1.ffn_down.weight"};
        expect_not_finite(*state, o, false, "tensor 'blk.1.ffn_down.weight'");
    }
    tiny_options o = {.infinite = "model.norm.weight"};
    expect_not_finite(*state, o, true, "tensor 'model.norm.weight'");
    o.header_padding = 1;
    expect_refusal(*state, o, true, KM_ENUMERIC, "tensor 'model.norm.weight'");
}

/* Every block of every quantised type, each of its scales in turn made infinite. */
static void test_quantised_scales_are_checked(void **state) {
    static const struct {
        km_dtype dtype;
        int offset, count;
    } CASES[] = {{KM_Q8_0, 0, 1}, {KM_Q4_0, 0, 1},   {KM_Q4_1, 0, 2},
                 {KM_Q5_0, 0, 1}, {KM_Q5_1, 0, 2},   {KM_Q4_K, 0, 2},
                 {KM_Q5_K, 0, 2}, {KM_Q6_K, 208, 1}, {KM_F16, 0, 1}};
    for (size_t c = 0; c < sizeof(CASES) / sizeof(CASES[0]); c++) {
        unsigned char data[3 * 256] = {0};
        const int size = km_dtype_get(CASES[c].dtype)->block_bytes;
        km_tensor_info info = {.name = "t", .dtype = CASES[c].dtype, .data = data};
        const km_tensor_info *list[] = {&info};
        info.nbytes = 3 * (size_t)size;
        memset(data, 0x7b, sizeof(data)); /* the largest exponent a finite number has */
        for (int at = 0; at < 3 * CASES[c].count; at++) {
            unsigned char *half =
                data + at / CASES[c].count * size + CASES[c].offset + at % CASES[c].count * 2;
            km_model model = {.ctx = *state, .weights = {.maps = list, .n_maps = 1}};
            km_error err = KM_ERROR_INIT;
            half[1] = 0x7c;
            assert_int_equal(km__weights_check(&model, &err), KM_ENUMERIC);
            half[1] = 0x7b;
            km_error_clear(&err);
            km_test_ok(km__weights_check(&model, &err), &err);
        }
    }
}

static void test_memory_limit(void **state) {
    opened m;
    km_error err = KM_ERROR_INIT;
    tiny_options o = {.header_padding = 1}; /* all float32 data at odd addresses */
    write_model(&m, &o, true);
    assert_int_equal(load_written(&m, *state, true, 1000, &err), KM_ENOMEM);
    assert_non_null(strstr(err.message, "need 0.1 MiB, 0.0 MiB are allowed"));
    opened_close(&m);
    km_error_clear(&err);
    o.header_padding = 0; /* used in place, they need nothing */
    write_model(&m, &o, true);
    km_test_ok(load_written(&m, *state, true, 1000, &err), &err);
    opened_close(&m);
}

static void test_file_cut_after_opening(void **state) {
    opened m;
    char path[512];
    km_error err = KM_ERROR_INIT;
    km_model_options options = KM_MODEL_OPTIONS_INIT;
    tiny_options o = {.type = 8};
    write_model(&m, &o, false);
    memset(&m.model, 0, sizeof(m.model));
    m.model.ctx = *state;
    km_test_ok(
        km_container_open(&m.model.container, *state, folder_path(path, &m.where, "m.gguf"), &err),
        &err);
    km_test_ok(km__config_read(&m.model.config, m.model.container, &err), &err);
    assert_int_equal(truncate(path, 4096), 0);
    km_test_fails(km__weights_load(&m.model, &options, &err), KM_EFORMAT, &err, "shrank");
    opened_close(&m);
}

static km_status load_once(km_ctx *ctx, km_error *err) {
    opened m;
    char out[65];
    tiny_options o = {.gemma = true, .tied = true, .type = 8};
    km_status status = open_model(&m, ctx, &o, false, err);
    if (status == KM_OK) {
        status = km_model_fingerprint(out, &m.model, err);
    }
    opened_close(&m);
    return status;
}

static void test_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(load_once);
}

/* ---- random weights ---- */

static km_config wide_config(void) {
    km_config c = {.n_layers = 1,
                   .d_model = 768,
                   .n_heads = 12,
                   .n_kv_heads = 4,
                   .head_dim = 64,
                   .d_ffn = 1001, /* no multiple of a block */
                   .vocab_size = 700};
    c.norm_offset = 1.0f;
    c.gated_mlp = c.tied_embeddings = true;
    return c;
}

static void randomise(km_model *model, km_ctx *ctx, uint64_t seed) {
    km_error err = KM_ERROR_INIT;
    memset(model, 0, sizeof(*model));
    model->ctx = ctx;
    model->config = wide_config();
    km_test_ok(km__weights_randomise(model, seed, &err), &err);
}

static void test_random_any_thread_count(void **state) {
    km_ctx *one = km_test_ctx(1);
    km_ctx *three = km_test_ctx(3);
    km_model a, b, c;
    randomise(&a, one, 5);
    randomise(&b, three, 5);
    randomise(&c, *state, 6);
    const size_t n = 700 * 768 * sizeof(float);
    assert_memory_equal(a.weights.embed.data, b.weights.embed.data, n);
    assert_memory_equal(a.weights.layers[0].w_down.data, b.weights.layers[0].w_down.data,
                        1001 * 768 * sizeof(float));
    assert_true(memcmp(a.weights.embed.data, c.weights.embed.data, n) != 0);
    assert_true(memcmp(a.weights.layers[0].w_gate.data, a.weights.layers[0].w_up.data,
                       1001 * 768 * sizeof(float)) != 0);
    assert_true(a.weights.final_norm.gain[3] == 0.0f); /* with the offset: a gain of 1 */
    assert_string_equal(a.precision, "F32");
    assert_int_equal(a.n_parameters,
                     700 * 768 + 768 + 2 * 768 + 2 * 768 * 768 + 2 * 256 * 768 + 3 * 1001 * 768);
    km__weights_clear(&a);
    km__weights_clear(&b);
    km__weights_clear(&c);
    km_ctx_free(one);
    km_ctx_free(three);
}

/* Moments of 4 million numbers within five standard errors, and the tails' share. */
static void test_random_is_normal(void **state) {
    (void)state;
    const int64_t n = (int64_t)1 << 22;
    float *x = malloc((size_t)n * sizeof(float));
    assert_non_null(x);
    km__random_normals(x, 77, 0, n);
    double sum = 0, square = 0, cube = 0, fourth = 0, lag = 0;
    int64_t beyond = 0;
    for (int64_t i = 0; i < n; i++) {
        double z = (double)x[i] / 0.02;
        sum += z;
        square += z * z;
        cube += z * z * z;
        fourth += z * z * z * z;
        lag += i > 0 ? z * (double)x[i - 1] / 0.02 : 0.0;
        beyond += fabs(z) > 3.0;
    }
    const double root = sqrt((double)n);
    assert_true(fabs(sum / root) < 5.0);
    assert_true(fabs((square - (double)n) / root) < 5.0 * sqrt(2.0));
    assert_true(fabs(cube / root) < 5.0 * sqrt(15.0));
    assert_true(fabs((fourth - 3.0 * (double)n) / root) < 5.0 * sqrt(96.0));
    assert_true(fabs(lag / root) < 5.0);
    const double share = 0.0026997961;
    assert_true(fabs((double)beyond - share * (double)n) < 5.0 * sqrt(share * (double)n));
    free(x);
}

/* The float32 arithmetic against the same transform in double precision. */
static void test_random_error_bound(void **state) {
    (void)state;
    float x[512];
    double largest = 0.0;
    for (int64_t block = 0; block < 64; block++) {
        km__random_normals(x, 123, 512 * block, 512 * (block + 1));
        for (int i = 0; i < 256; i++) {
            uint64_t bits = 123 + (uint64_t)(256 * block + i + 1) * 0x9e3779b97f4a7c15ULL;
            bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ULL;
            bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebULL;
            bits ^= bits >> 31;
            double radius = sqrt(-2.0 * log(((double)(bits >> 33) + 0.5) / 2147483648.0));
            double length = hypot((double)x[i], (double)x[256 + i]) / 0.02;
            largest = fmax(largest, fabs(length - radius));
            double angle = (double)(bits & 0xffffff) / 16777216.0 * M_PI_2 - M_PI_4;
            double given = fmin(fabs((double)x[i]), fabs((double)x[256 + i])) / 0.02;
            largest = fmax(largest, fabs(given - radius * fabs(sin(angle))));
        }
    }
    assert_true(largest < 2e-6);
}

static km_status randomise_once(km_ctx *ctx, km_error *err) {
    km_model model = {0};
    model.ctx = ctx;
    model.config = wide_config();
    km_status status = km__weights_randomise(&model, 1, err);
    km__weights_clear(&model);
    return status;
}

static void test_random_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(randomise_once);
}

/* ---- fingerprints ---- */

static void fingerprint_of(char out[65], km_ctx *ctx, tiny_options o, bool hf) {
    opened m;
    char again[65];
    km_error err = KM_ERROR_INIT;
    km_test_ok(open_model(&m, ctx, &o, hf, &err), &err);
    km_test_ok(km_model_fingerprint(out, &m.model, &err), &err);
    km_test_ok(km_model_fingerprint(again, &m.model, &err), &err);
    assert_string_equal(out, again);
    assert_int_equal(strlen(out), 64);
    opened_close(&m);
}

static void test_fingerprint_follows_content(void **state) {
    static const meta OTHER_EPS[] = {{"llama.attention.layer_norm_rms_epsilon", F32, 0.001, NULL},
                                     {NULL, 0, 0, NULL}};
    static const meta OTHER_NAME[] = {{"general.name", STRING, 0, "Renamed"}, {NULL, 0, 0, NULL}};
    km_ctx *one = km_test_ctx(1);
    char plain[65], other[65];
    fingerprint_of(plain, *state, (tiny_options){.type = 8}, false);
    fingerprint_of(other, one, (tiny_options){.type = 8}, false);
    assert_string_equal(plain, other); /* another folder, another number of threads */
    fingerprint_of(other, one, (tiny_options){.type = 8, .changes = OTHER_NAME}, false);
    assert_string_equal(plain, other);
    fingerprint_of(other, one, (tiny_options){.type = 8, .changes = OTHER_EPS}, false);
    assert_string_not_equal(plain, other);
    fingerprint_of(other, one, (tiny_options){.type = 1}, false);
    assert_string_not_equal(plain, other);
    fingerprint_of(other, one, (tiny_options){.type = 8, .tied = true}, false);
    assert_string_not_equal(plain, other);
    km_ctx_free(one);
}

static void test_fingerprint_sees_one_bit(void **state) {
    opened m;
    char before[65], after[65];
    km_error err = KM_ERROR_INIT;
    tiny_options o = {.type = 0};
    bytes b = tiny_gguf(&o);
    fingerprint_of(before, *state, o, false);
    b.data[b.n - 1] ^= 1;
    m.where = folder_new();
    folder_write(&m.where, "m.gguf", b.data, b.n);
    clear(&b);
    km_test_ok(load_written(&m, *state, false, 0, &err), &err);
    km_test_ok(km_model_fingerprint(after, &m.model, &err), &err);
    assert_string_not_equal(before, after);
    opened_close(&m);
}

static void test_fingerprint_of_random_models(void **state) {
    km_model a, b;
    char first[65], second[65];
    km_error err = KM_ERROR_INIT;
    randomise(&a, *state, 1);
    randomise(&b, *state, 2);
    a.random_seed = 1;
    b.random_seed = 2;
    km_test_ok(km_model_fingerprint(first, &a, &err), &err);
    km_test_ok(km_model_fingerprint(second, &b, &err), &err);
    assert_string_not_equal(first, second);
    km_test_fails(km_model_fingerprint(first, NULL, &err), KM_EINVAL, &err, "no model");
    km__weights_clear(&a);
    km__weights_clear(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_container_and_type),
        cmocka_unit_test(test_unaligned_float32),
        cmocka_unit_test(test_missing_and_misshapen),
        cmocka_unit_test(test_unused_tensor),
        cmocka_unit_test(test_tied_with_another_head),
        cmocka_unit_test(test_weight_not_finite),
        cmocka_unit_test(test_quantised_scales_are_checked),
        cmocka_unit_test(test_memory_limit),
        cmocka_unit_test(test_file_cut_after_opening),
        cmocka_unit_test(test_every_allocation),
        cmocka_unit_test(test_random_any_thread_count),
        cmocka_unit_test(test_random_is_normal),
        cmocka_unit_test(test_random_error_bound),
        cmocka_unit_test(test_random_every_allocation),
        cmocka_unit_test(test_fingerprint_follows_content),
        cmocka_unit_test(test_fingerprint_sees_one_bit),
        cmocka_unit_test(test_fingerprint_of_random_models),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
