/* test_architectures.c: the weights of every architecture: a Hugging Face folder and a GGUF file of
 * one model, which arrange them differently, end up with the same numbers in the same places. */
#include <math.h>

#include "model/weights_private.h"
#include "tiny_model.h"

static km_model *load(km_ctx *ctx, const char *name, const char *ending) {
    char path[512];
    km_model *model;
    km_error err = KM_ERROR_INIT;
    snprintf(path, sizeof(path), "%s/golden_data/arch/%s%s", KM_TEST_DATA, name, ending);
    km_test_ok(km_model_load(&model, ctx, path, NULL, &err), &err);
    return model;
}

/* Row r of a head's rotary halves in the row order of neighbours. */
static int64_t neighbours(int64_t row, int64_t width) {
    const int64_t head = row / width * width, i = row % width;
    return head + (i < width / 2 ? 2 * i : 2 * (i - width / 2) + 1);
}

/* `width` is that of a head whose rows differ in order, or 0. */
static void same_matrix(const km_ctx *ctx, const km_matrix *a, const km_matrix *b, int64_t width) {
    float x[256], y[256];
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->cols, b->cols);
    assert_true(a->cols <= 256);
    for (int64_t row = 0; row < a->rows; row++) {
        km_matrix_row(x, ctx, a, row);
        km_matrix_row(y, ctx, b, width > 0 ? neighbours(row, width) : row);
        assert_memory_equal(x, y, (size_t)a->cols * sizeof(float));
    }
}

static void same_vector(const float *a, const float *b, int64_t n, float offset) {
    assert_int_equal(a != NULL, b != NULL);
    for (int64_t i = 0; a != NULL && i < n; i++) {
        assert_true(a[i] + offset == b[i]);
    }
}

static void same_layer(const km_model *a, const km_model *b, int32_t layer) {
    const km_config *c = &a->config;
    const km_layer_weights *x = &a->weights.layers[layer], *y = &b->weights.layers[layer];
    const int64_t turned = b->config.rope_pairs == KM_ROPE_INTERLEAVED ? c->head_dim : 0;
    same_matrix(a->ctx, &x->wq, &y->wq, turned);
    same_matrix(a->ctx, &x->wk, &y->wk, turned);
    same_matrix(a->ctx, &x->wv, &y->wv, 0);
    same_matrix(a->ctx, &x->wo, &y->wo, 0);
    same_matrix(a->ctx, &x->w_up, &y->w_up, 0);
    same_matrix(a->ctx, &x->w_down, &y->w_down, 0);
    assert_int_equal(x->w_gate.data != NULL, c->gated_mlp);
    if (c->gated_mlp) {
        same_matrix(a->ctx, &x->w_gate, &y->w_gate, 0);
    }
    same_vector(x->attn_norm.gain, y->attn_norm.gain, c->d_model, c->norm_offset);
    same_vector(x->attn_norm.bias, y->attn_norm.bias, c->d_model, 0.0f);
    same_vector(x->ffn_norm.gain, y->ffn_norm.gain, c->d_model, c->norm_offset);
    same_vector(x->ffn_norm.bias, y->ffn_norm.bias, c->d_model, 0.0f);
    same_vector(x->attn_post_norm.gain, y->attn_post_norm.gain, c->d_model, c->norm_offset);
    same_vector(x->ffn_post_norm.gain, y->ffn_post_norm.gain, c->d_model, c->norm_offset);
    same_vector(x->q_norm, y->q_norm, c->head_dim, c->norm_offset);
    same_vector(x->k_norm, y->k_norm, c->head_dim, c->norm_offset);
    same_vector(x->bv, y->bv, (int64_t)c->n_kv_heads * c->head_dim, 0.0f);
    same_vector(x->bo, y->bo, c->d_model, 0.0f);
    same_vector(x->b_gate, y->b_gate, c->d_ffn, 0.0f);
    same_vector(x->b_up, y->b_up, c->d_ffn, 0.0f);
    same_vector(x->b_down, y->b_down, c->d_model, 0.0f);
    for (int64_t i = 0; x->bq != NULL && i < (int64_t)c->n_heads * c->head_dim; i++) {
        assert_true(x->bq[i] == y->bq[turned > 0 ? neighbours(i, turned) : i]);
    }
    for (int64_t i = 0; x->bk != NULL && i < (int64_t)c->n_kv_heads * c->head_dim; i++) {
        assert_true(x->bk[i] == y->bk[turned > 0 ? neighbours(i, turned) : i]);
    }
}

static void test_both_forms_hold_the_same_weights(void **state) {
    static const char *const NAMES[] = {"gpt2",   "llama3",         "llama_bias", "mistral",
                                        "qwen2",  "qwen3",          "gemma2",     "gemma3",
                                        "pythia", "neox_sequential"};
    for (size_t i = 0; i < sizeof(NAMES) / sizeof(NAMES[0]); i++) {
        km_model *folder_form = load(*state, NAMES[i], "");
        km_model *gguf_form = load(*state, NAMES[i], ".gguf");
        const km_weights *x = &folder_form->weights, *y = &gguf_form->weights;
        const km_config *c = &folder_form->config;
        same_matrix(*state, &x->embed, &y->embed, 0);
        same_matrix(*state, &x->unembed, &y->unembed, 0);
        assert_int_equal(x->embed.data == x->unembed.data, c->tied_embeddings);
        assert_int_equal(x->positions.data != NULL, c->position == KM_POSITION_LEARNED);
        if (c->position == KM_POSITION_LEARNED) {
            same_matrix(*state, &x->positions, &y->positions, 0);
        }
        same_vector(x->final_norm.gain, y->final_norm.gain, c->d_model, c->norm_offset);
        same_vector(x->final_norm.bias, y->final_norm.bias, c->d_model, 0.0f);
        same_vector(x->rope_factors, y->rope_factors, c->rotary_dim / 2, 0.0f);
        for (int32_t layer = 0; layer < c->n_layers; layer++) {
            same_layer(folder_form, gguf_form, layer);
        }
        km_model_free(folder_form);
        km_model_free(gguf_form);
    }
}

/* Short waves are left alone, long ones divided by the whole factor. */
static void test_rope_factors(void **state) {
    km_config c = {.rotary_dim = 128,
                   .rope_base = 500000.0,
                   .rope_factor = 8.0,
                   .rope_low_freq_factor = 1.0,
                   .rope_high_freq_factor = 4.0,
                   .rope_original_context = 8192};
    float factors[64];
    (void)state;
    km__rope_factors(factors, &c);
    assert_true(factors[0] == 1.0f && factors[63] == 8.0f);
    for (int i = 0; i < 64; i++) {
        const double wave = 2.0 * acos(-1.0) * pow(c.rope_base, i / 64.0);
        const double smooth = (8192.0 / wave - 1.0) / 3.0;
        const double scale = smooth <= 0.0   ? 1.0 / 8.0
                             : smooth >= 1.0 ? 1.0
                                             : (1.0 - smooth) / 8.0 + smooth;
        assert_true(fabs((double)factors[i] * scale - 1.0) < 1e-6);
    }
}

/* The control of a GGUF file turns its heads as the file says. */
static void test_control_keeps_rope_factors(void **state) {
    static const char *const ENDINGS[] = {"", ".gguf"};
    for (int i = 0; i < 2; i++) {
        km_model *model = load(*state, "llama3", ENDINGS[i]), *control, *second;
        km_error err = KM_ERROR_INIT;
        km_test_ok(km_model_random_like(&control, model, 1, &err), &err);
        km_test_ok(km_model_random_like(&second, control, 2, &err), &err);
        for (int k = 0; k < model->config.rotary_dim / 2; k++) {
            assert_true(control->weights.rope_factors[k] == model->weights.rope_factors[k]);
            assert_true(second->weights.rope_factors[k] == model->weights.rope_factors[k]);
        }
        assert_int_equal(km_model_parameters(control), km_model_parameters(model));
        km_model_free(model);
        km_model_free(control);
        km_model_free(second);
    }
}

static void check_control(const km_model *control) {
    const km_config *c = &control->config;
    const km_layer_weights *w = &control->weights.layers[c->n_layers - 1];
    float row[256];
    double square = 0.0;
    km_matrix_row(row, control->ctx, &control->weights.positions, 3);
    for (int32_t i = 0; i < c->d_model; i++) {
        square += (double)row[i] * (double)row[i];
        assert_true(w->attn_norm.gain[i] == 1.0f && w->attn_norm.bias[i] == 0.0f);
        assert_true(w->bq[i] == 0.0f && w->bo[i] == 0.0f && w->b_down[i] == 0.0f);
        assert_true(control->weights.final_norm.bias[i] == 0.0f);
    }
    const double deviation = sqrt(square / c->d_model);
    assert_true(deviation > 0.01 && deviation < 0.03);
}

static void test_control_of_gpt2(void **state) {
    km_model *model = load(*state, "gpt2", ".gguf"), *control;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_model_random_like(&control, model, 1, &err), &err);
    check_control(control);
    km_model_free(model);
    km_model_free(control);
}

/* ---- a number that is none, in a tensor that is put into order ---- */

static bytes read_all(const char *path) {
    bytes b = {NULL, 0, 0};
    unsigned char block[4096];
    FILE *stream = fopen(path, "rb");
    assert_non_null(stream);
    for (size_t n = fread(block, 1, sizeof(block), stream); n > 0;) {
        put(&b, block, n);
        n = fread(block, 1, sizeof(block), stream);
    }
    fclose(stream);
    return b;
}

static void copy_file(const folder *to, const char *name, const char *file) {
    char path[512];
    snprintf(path, sizeof(path), "%s/golden_data/arch/%s/%s", KM_TEST_DATA, name, file);
    bytes b = read_all(path);
    folder_write(to, file, b.data, b.n);
    clear(&b);
}

static km_status run(const km_model *model, km_error *err) {
    const int32_t ids[3] = {1, 2, 3};
    float out[2];
    return km_model_logprobs_into(out, model, ids, 3, err);
}

static void expect_infinite(km_ctx *ctx, const char *name, const char *tensor) {
    folder f = folder_new();
    char path[512];
    km_model *model;
    km_error err = KM_ERROR_INIT;
    copy_file(&f, name, "config.json");
    copy_file(&f, name, "tokenizer.json");
    copy_file(&f, name, "tokenizer_config.json");
    model = load(ctx, name, "");
    const km_tensor_info *info = km_container_find(model->container, tensor);
    assert_non_null(info);
    assert_int_equal(info->dtype, KM_BF16);
    snprintf(path, sizeof(path), "%s/golden_data/arch/%s/model.safetensors", KM_TEST_DATA, name);
    bytes b = read_all(path);
    const unsigned char *place = info->data;
    for (size_t i = 0; i + info->nbytes <= b.n; i++) {
        if (memcmp(b.data + i, place, info->nbytes) == 0) {
            memcpy(b.data + i + info->nbytes - 2, "\x80\x7f", 2);
            break;
        }
    }
    km_model_free(model);
    folder_write(&f, "model.safetensors", b.data, b.n);
    clear(&b);
    km_test_ok(km_model_load(&model, ctx, f.path, NULL, &err), &err);
    km_test_fails(run(model, &err), KM_ENUMERIC, &err, tensor);
    km_model_free(model);
    folder_remove(&f);
}

static void test_infinities_are_named(void **state) {
    expect_infinite(*state, "gpt2", "transformer.h.1.attn.c_attn.weight");
    expect_infinite(*state, "gpt2", "transformer.wpe.weight");
    expect_infinite(*state, "pythia", "gpt_neox.layers.1.attention.query_key_value.weight");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_forms_hold_the_same_weights),
        cmocka_unit_test(test_rope_factors),
        cmocka_unit_test(test_control_keeps_rope_factors),
        cmocka_unit_test(test_control_of_gpt2),
        cmocka_unit_test(test_infinities_are_named),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
