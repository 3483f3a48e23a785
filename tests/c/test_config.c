/* test_config.c: configurations from GGUF metadata and config.json, and every reason to refuse. */
#include <math.h>

#include "tiny_model.h"

#define END {NULL, 0, 0, NULL}

static km_status read_gguf(km_config *out, km_ctx *ctx, bool gemma, bool tied, const meta *changes,
                           km_error *err) {
    tiny_options o = {.gemma = gemma, .tied = tied, .changes = changes};
    bytes b = tiny_gguf(&o);
    km_gguf *gguf;
    memset(out, 0, sizeof(*out));
    km_status status = km_gguf_parse(&gguf, ctx, b.data, b.n, err);
    if (status == KM_OK) {
        status = km__config_from_gguf(out, gguf, err);
    }
    if (status == KM_OK) {
        status = km__config_check(out, err);
    }
    km_gguf_free(gguf);
    clear(&b);
    return status;
}

static km_status read_json(km_config *out, const char *text, km_error *err) {
    memset(out, 0, sizeof(*out));
    km_status status = km__config_from_json(out, text, strlen(text), err);
    return status == KM_OK ? km__config_check(out, err) : status;
}

static void check_sizes(const km_config *c) {
    assert_int_equal(c->n_layers, L);
    assert_int_equal(c->d_model, D);
    assert_int_equal(c->d_ffn, F);
    assert_int_equal(c->n_heads, H);
    assert_int_equal(c->n_kv_heads, K);
    assert_int_equal(c->head_dim, DH);
    assert_int_equal(c->vocab_size, V);
    assert_int_equal(c->context_length, 128);
}

static void test_gguf_llama(void **state) {
    km_config c;
    km_error err = KM_ERROR_INIT;
    km_test_ok(read_gguf(&c, *state, false, false, NULL, &err), &err);
    check_sizes(&c);
    assert_string_equal(c.arch, "llama");
    assert_string_equal(c.name, "Tiny");
    assert_true(c.norm_eps == 0.0009765625);
    assert_true(c.norm_offset == 0.0f && c.embed_scale == 1.0f && c.attn_scale == 0.25f);
    assert_int_equal(c.activation, KM_ACT_SILU);
    assert_int_equal(c.rope_pairs, KM_ROPE_INTERLEAVED);
    assert_false(c.qk_norm || c.post_norms || c.tied_embeddings);
    assert_true(c.rope_base == 50000.0 && c.rope_base_local == 50000.0);
    assert_true(c.rope_linear_scale == 1.0);
    assert_int_equal(c.sliding_window, 0);
    km_test_ok(read_gguf(&c, *state, false, true, NULL, &err), &err);
    assert_true(c.tied_embeddings);
}

static void test_gguf_gemma3(void **state) {
    km_config c;
    km_error err = KM_ERROR_INIT;
    km_test_ok(read_gguf(&c, *state, true, true, NULL, &err), &err);
    check_sizes(&c);
    assert_string_equal(c.arch, "gemma3");
    assert_int_equal(c.activation, KM_ACT_GELU_TANH);
    assert_int_equal(c.rope_pairs, KM_ROPE_HALVES);
    assert_true(c.qk_norm && c.post_norms && c.tied_embeddings);
    assert_true(c.norm_offset == 0.0f); /* the converter has added it */
    assert_true(c.embed_scale == sqrtf(32.0f) && c.attn_scale == 0.25f);
    assert_true(c.rope_base == 1e6 && c.rope_base_local == 1e4);
    assert_int_equal(c.sliding_window, 64);
    assert_true(c.windowed[0] && c.windowed[1]); /* the first layers of six */
}

static void test_gguf_rope_scaling(void **state) {
    km_config c;
    km_error err = KM_ERROR_INIT;
    const meta linear[] = {{"llama.rope.scaling.type", STRING, 0, "linear"},
                           {"llama.rope.scaling.factor", F32, 4, NULL},
                           END};
    km_test_ok(read_gguf(&c, *state, false, false, linear, &err), &err);
    assert_true(c.rope_linear_scale == 4.0);
    const meta none[] = {{"llama.rope.scaling.type", STRING, 0, "none"},
                         {"llama.rope.scaling.factor", F32, 4, NULL},
                         END};
    km_test_ok(read_gguf(&c, *state, false, false, none, &err), &err);
    assert_true(c.rope_linear_scale == 1.0);
}

/* The 27B model of Gemma 3 divides by the root of its width a head, not of the head width. */
static void test_gguf_gemma3_27b_scale(void **state) {
    km_config c;
    km_error err = KM_ERROR_INIT;
    const meta changes[] = {
        {"gemma3.block_count", U32, 62, NULL}, {"gemma3.attention.head_count", U32, 4, NULL}, END};
    km_test_ok(read_gguf(&c, *state, true, true, changes, &err), &err);
    assert_true(fabsf(c.attn_scale - 1.0f / sqrtf(8.0f)) < 1e-7f);
}

typedef struct refusal {
    meta change;
    km_status status;
    const char *part;
} refusal;

static void test_gguf_refusals(void **state) {
    static const refusal CASES[] = {
        {{"general.architecture", STRING, 0, "mamba"}, KM_EUNSUPPORTED, "'mamba'"},
        {{"general.architecture", REMOVED, 0, NULL}, KM_EFORMAT, "general.architecture"},
        {{"general.architecture", U32, 3, NULL}, KM_EFORMAT, "has type uint32"},
        {{"llama.block_count", REMOVED, 0, NULL}, KM_EFORMAT, "'llama.block_count' is missing"},
        {{"llama.block_count", U32, 0, NULL}, KM_EFORMAT, "number of layers is 0"},
        {{"llama.block_count", U32, 1025, NULL}, KM_EFORMAT, "number of layers is 1025"},
        {{"llama.block_count", U32, 4294967295.0, NULL}, KM_EFORMAT, "4294967295"},
        {{"llama.block_count", STRING, 0, "two"}, KM_EFORMAT, "has type string"},
        {{"llama.embedding_length", U32, 1 << 18, NULL}, KM_EFORMAT, "model width"},
        {{"llama.feed_forward_length", U32, 0, NULL}, KM_EFORMAT, "feed-forward width"},
        {{"llama.context_length", U32, 0, NULL}, KM_EFORMAT, "context length"},
        {{"llama.attention.head_count", U32, 0, NULL}, KM_EFORMAT, "number of heads"},
        {{"llama.attention.head_count", U32, 3, NULL}, KM_EFORMAT, "head width"},
        {{"llama.attention.head_count_kv", U32, 3, NULL}, KM_EFORMAT, "number of KV heads"},
        {{"llama.attention.head_count_kv", U32, 0, NULL}, KM_EFORMAT, "number of KV heads"},
        {{"llama.attention.key_length", U32, 15, NULL}, KM_EFORMAT, "odd"},
        {{"llama.attention.value_length", U32, 8, NULL}, KM_EUNSUPPORTED, "value width 8"},
        {{"llama.rope.dimension_count", U32, 8, NULL}, KM_EUNSUPPORTED, "8 rotated dimensions"},
        {{"llama.attention.layer_norm_rms_epsilon", F32, -1, NULL}, KM_EFORMAT, "norm epsilon"},
        {{"llama.attention.layer_norm_rms_epsilon", REMOVED, 0, NULL}, KM_EFORMAT, "epsilon"},
        {{"llama.rope.freq_base", F32, 0, NULL}, KM_EFORMAT, "rope base"},
        {{"llama.rope.freq_base", STRING, 0, "x"}, KM_EFORMAT, "expected a number"},
        {{"llama.rope.scaling.type", STRING, 0, "yarn"}, KM_EUNSUPPORTED, "'yarn'"},
        {{"llama.rope.scaling.factor", F32, -2, NULL}, KM_EFORMAT, "rope scaling factor"},
        {{"llama.attention.sliding_window", U32, 64, NULL}, KM_EUNSUPPORTED, "sliding_window"},
        {{"llama.expert_count", U32, 8, NULL}, KM_EUNSUPPORTED, "'llama.expert_count' is 8"},
        {{"llama.final_logit_softcapping", F32, 30, NULL}, KM_EUNSUPPORTED, "softcapping"},
        {{"llama.attention.causal", BOOL, 0, NULL}, KM_EUNSUPPORTED, "causal"},
        {{"llama.vocab_size", U32, 7, NULL}, KM_EFORMAT, "6 rows"},
        {{"llama.vocab_size", U32, 3000000000.0, NULL}, KM_EFORMAT, "vocab_size"},
    };
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        km_config c;
        km_error err = KM_ERROR_INIT;
        const meta changes[] = {CASES[i].change, END};
        km_test_fails(read_gguf(&c, *state, false, false, changes, &err), CASES[i].status, &err,
                      CASES[i].part);
    }
}

static void test_gguf_frequency_scaling_tensor(void **state) {
    tiny_options o = {.extra = "rope_freqs.weight"};
    bytes b = tiny_gguf(&o);
    km_gguf *gguf;
    km_config c = {0};
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_gguf_parse(&gguf, *state, b.data, b.n, &err), &err);
    km_test_fails(km__config_from_gguf(&c, gguf, &err), KM_EUNSUPPORTED, &err, "rope_freqs.weight");
    km_gguf_free(gguf);
    clear(&b);
}

/* ---- config.json ---- */

#define LLAMA_SIZES                                                                                \
    "\"model_type\":\"llama\",\"hidden_size\":32,\"intermediate_size\":64,"                        \
    "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,"                 \
    "\"vocab_size\":6,\"max_position_embeddings\":128,\"rms_norm_eps\":1e-5"
#define GEMMA_SIZES                                                                                \
    "\"model_type\":\"gemma3_text\",\"hidden_size\":32,\"intermediate_size\":64,"                  \
    "\"num_hidden_layers\":3,\"num_attention_heads\":2,\"num_key_value_heads\":1,"                 \
    "\"head_dim\":16,\"vocab_size\":6,\"max_position_embeddings\":128,\"sliding_window\":7"

static void test_json_llama(void **state) {
    (void)state;
    km_config c;
    km_error err = KM_ERROR_INIT;
    km_test_ok(read_json(&c, "{" LLAMA_SIZES "}", &err), &err);
    check_sizes(&c);
    assert_string_equal(c.arch, "llama");
    assert_true(c.norm_eps == 1e-5 && c.norm_offset == 0.0f && c.attn_scale == 0.25f);
    assert_int_equal(c.rope_pairs, KM_ROPE_HALVES);
    assert_true(c.rope_base == 10000.0 && c.rope_base_local == 10000.0);
    assert_false(c.tied_embeddings);
    km_test_ok(read_json(&c, "{" LLAMA_SIZES ",\"head_dim\":8,\"tie_word_embeddings\":true}", &err),
               &err);
    assert_int_equal(c.head_dim, 8);
    assert_true(c.tied_embeddings);
}

/* Both generations of names give the same configuration. */
static void expect_same(const char *before, const char *after) {
    km_config a, b;
    km_error err = KM_ERROR_INIT;
    km_test_ok(read_json(&a, before, &err), &err);
    km_test_ok(read_json(&b, after, &err), &err);
    assert_memory_equal(&a, &b, sizeof(a));
}

static void test_json_two_generations(void **state) {
    (void)state;
    expect_same("{" LLAMA_SIZES ",\"rope_theta\":5e5,\"rope_scaling\":null,"
                "\"torch_dtype\":\"bfloat16\"}",
                "{" LLAMA_SIZES ",\"rope_parameters\":{\"rope_type\":\"default\","
                "\"rope_theta\":500000},\"dtype\":\"float32\"}");
    expect_same("{" LLAMA_SIZES ",\"rope_theta\":5e5,"
                "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}",
                "{" LLAMA_SIZES ",\"rope_parameters\":{\"rope_type\":\"linear\","
                "\"rope_theta\":500000,\"factor\":2.0}}");
    expect_same("{" GEMMA_SIZES ",\"rope_theta\":2e6,\"rope_local_base_freq\":3e4,"
                "\"sliding_window_pattern\":2,"
                "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}}",
                "{" GEMMA_SIZES ",\"layer_types\":[\"sliding_attention\",\"full_attention\","
                "\"sliding_attention\"],\"rope_parameters\":{"
                "\"full_attention\":{\"rope_type\":\"linear\",\"rope_theta\":2e6,\"factor\":8},"
                "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":3e4}}}");
    expect_same("{" GEMMA_SIZES "}",
                "{" GEMMA_SIZES ",\"_sliding_window_pattern\":6,\"query_pre_attn_scalar\":256}");
}

static void test_json_gemma3(void **state) {
    (void)state;
    km_config c;
    km_error err = KM_ERROR_INIT;
    km_test_ok(read_json(&c, "{" GEMMA_SIZES ",\"query_pre_attn_scalar\":16}", &err), &err);
    assert_string_equal(c.arch, "gemma3");
    assert_true(c.norm_offset == 1.0f && c.attn_scale == 0.25f && c.embed_scale == sqrtf(32.0f));
    assert_true(c.qk_norm && c.post_norms && c.tied_embeddings);
    assert_true(c.rope_base == 1e6 && c.rope_base_local == 1e4 && c.norm_eps == 1e-6);
    assert_int_equal(c.sliding_window, 7);
    assert_true(c.windowed[0] && c.windowed[1] && c.windowed[2]); /* three layers of six */
    km_test_ok(read_json(&c, "{\"model_type\":\"gemma3\",\"text_config\":{" GEMMA_SIZES "}}", &err),
               &err);
    assert_int_equal(c.head_dim, 16);
    km_test_ok(read_json(&c,
                         "{" GEMMA_SIZES ",\"layer_types\":[\"sliding_attention\","
                         "\"sliding_attention\",\"sliding_attention\"]}",
                         &err),
               &err);
    assert_true(c.windowed[0] && c.windowed[1] && c.windowed[2]);
}

static void test_json_refusals(void **state) {
    (void)state;
    static const struct {
        const char *text;
        km_status status;
        const char *part;
    } CASES[] = {
        {"", KM_EFORMAT, "line"},
        {"[]", KM_EFORMAT, "not a JSON object"},
        {"{\"a\":1,\"a\":2}", KM_EFORMAT, "duplicate"},
        {"{}", KM_EFORMAT, "'model_type' is missing"},
        {"{\"model_type\":3}", KM_EFORMAT, "'model_type' is not a string"},
        {"{\"model_type\":\"bert\"}", KM_EUNSUPPORTED, "'bert'"},
        {"{\"model_type\":\"llama\"}", KM_EFORMAT, "'num_hidden_layers' is missing"},
        {"{" LLAMA_SIZES ",\"head_dim\":7}", KM_EFORMAT, "odd"},
        {"{" LLAMA_SIZES ",\"head_dim\":1.5}", KM_EFORMAT, "'head_dim' is not an integer"},
        {"{" LLAMA_SIZES ",\"head_dim\":4294967296}", KM_EFORMAT, "'head_dim'"},
        {"{" LLAMA_SIZES ",\"attention_bias\":true}", KM_EUNSUPPORTED, "'attention_bias'"},
        {"{" LLAMA_SIZES ",\"attention_bias\":1}", KM_EFORMAT, "neither true nor false"},
        {"{" LLAMA_SIZES ",\"mlp_bias\":true}", KM_EUNSUPPORTED, "'mlp_bias'"},
        {"{" LLAMA_SIZES ",\"hidden_act\":\"relu\"}", KM_EUNSUPPORTED, "'relu'"},
        {"{" LLAMA_SIZES ",\"quantization_config\":{}}", KM_EUNSUPPORTED, "quantization_config"},
        {"{" LLAMA_SIZES ",\"rope_theta\":0.5}", KM_EFORMAT, "rope base"},
        {"{" LLAMA_SIZES ",\"rope_theta\":\"x\"}", KM_EFORMAT, "'rope_theta' is not a number"},
        {"{" LLAMA_SIZES ",\"rope_scaling\":{\"rope_type\":\"llama3\"}}", KM_EUNSUPPORTED,
         "field 'rope_scaling': rope scaling 'llama3'"},
        {"{" LLAMA_SIZES ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", KM_EUNSUPPORTED,
         "partial_rotary_factor"},
        {"{" LLAMA_SIZES ",\"rope_parameters\":[]}", KM_EFORMAT, "not an object"},
        {"{" LLAMA_SIZES ",\"rope_parameters\":{\"factor\":2}}", KM_EFORMAT, "without 'rope_type'"},
        {"{" LLAMA_SIZES ",\"rope_parameters\":{\"rope_type\":\"default\"},"
         "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}",
         KM_EFORMAT, "'rope_parameters' and 'rope_scaling' differ"},
        {"{" GEMMA_SIZES ",\"final_logit_softcapping\":30}", KM_EUNSUPPORTED, "softcapping"},
        {"{" GEMMA_SIZES ",\"hidden_activation\":\"gelu\"}", KM_EUNSUPPORTED, "'gelu'"},
        {"{" GEMMA_SIZES ",\"use_bidirectional_attention\":true}", KM_EUNSUPPORTED,
         "use_bidirectional_attention"},
        {"{" GEMMA_SIZES ",\"query_pre_attn_scalar\":0}", KM_EFORMAT, "attention scale"},
        {"{" GEMMA_SIZES ",\"query_pre_attn_scalar\":-4}", KM_EFORMAT, "attention scale"},
        {"{" GEMMA_SIZES ",\"sliding_window_pattern\":0}", KM_EFORMAT, "pattern"},
        {"{" GEMMA_SIZES ",\"layer_types\":[]}", KM_EFORMAT, "not a list of 3 layers"},
        {"{" GEMMA_SIZES ",\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"linear\","
         "\"factor\":2}}}",
         KM_EUNSUPPORTED, "sliding_attention"},
        {"{\"model_type\":\"gemma3\"}", KM_EFORMAT, "'text_config' is missing"},
    };
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        km_config c;
        km_error err = KM_ERROR_INIT;
        km_test_fails(read_json(&c, CASES[i].text, &err), CASES[i].status, &err, CASES[i].part);
    }
}

static void test_json_size_limit(void **state) {
    (void)state;
    const size_t n = ((size_t)1 << 20) + 1;
    char *text = malloc(n);
    km_config c;
    km_error err = KM_ERROR_INIT;
    assert_non_null(text);
    memset(text, ' ', n);
    km_test_fails(km__config_from_json(&c, text, n, &err), KM_EUNSUPPORTED, &err,
                  "at most 1048576");
    free(text);
}

/* ---- through a container ---- */

static void test_config_read_names_the_file(void **state) {
    folder f = folder_new();
    tiny_options o = {.tied = true};
    km_container *container;
    km_config c;
    km_error err = KM_ERROR_INIT;
    tiny_write_folder(&f, &o);
    km_test_ok(km_container_open(&container, *state, f.path, &err), &err);
    km_test_ok(km__config_read(&c, container, &err), &err);
    assert_string_equal(c.name, strrchr(f.path, '/') + 1);
    km_container_close(container);
    folder_write_text(&f, "config.json", "{\"model_type\":\"bert\"}");
    km_test_ok(km_container_open(&container, *state, f.path, &err), &err);
    assert_int_equal(km__config_read(&c, container, &err), KM_EUNSUPPORTED);
    assert_non_null(strstr(err.message, f.path));
    assert_non_null(strstr(err.message, "config.json: field 'model_type': 'bert'"));
    km_container_close(container);
    folder_remove(&f);
}

static void test_long_names_are_cut(void **state) {
    (void)state;
    km_config c = {0};
    char name[201];
    for (int i = 0; i < 100; i++) {
        memcpy(name + 2 * i, "é", 2);
    }
    km__config_set_name(&c, name, 200);
    assert_int_equal(strlen(c.name), 126);
    assert_true(km_utf8_valid(c.name, 126));
    km__config_set_name(&c, "a\0b", 3);
    assert_string_equal(c.name, "a");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf_llama),
        cmocka_unit_test(test_gguf_gemma3),
        cmocka_unit_test(test_gguf_rope_scaling),
        cmocka_unit_test(test_gguf_gemma3_27b_scale),
        cmocka_unit_test(test_gguf_refusals),
        cmocka_unit_test(test_gguf_frequency_scaling_tensor),
        cmocka_unit_test(test_json_llama),
        cmocka_unit_test(test_json_two_generations),
        cmocka_unit_test(test_json_gemma3),
        cmocka_unit_test(test_json_refusals),
        cmocka_unit_test(test_json_size_limit),
        cmocka_unit_test(test_config_read_names_the_file),
        cmocka_unit_test(test_long_names_are_cut),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
