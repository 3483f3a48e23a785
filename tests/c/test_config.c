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
        {{"llama.rope.scaling.type", STRING, 0, "longrope"}, KM_EUNSUPPORTED, "'longrope'"},
        {{"llama.rope.scaling.attn_factor", F32, 2, NULL}, KM_EUNSUPPORTED, "attn_factor' is 2"},
        {{"llama.attention.clamp_kqv", F32, 8, NULL}, KM_EUNSUPPORTED, "clamp_kqv"},
        {{"llama.attention.max_alibi_bias", F32, 8, NULL}, KM_EUNSUPPORTED, "max_alibi_bias"},
        {{"llama.use_parallel_residual", BOOL, 1, NULL}, KM_EUNSUPPORTED, "parallel_residual"},
        {{"llama.attention.sliding_window", U32, 4294967295.0, NULL}, KM_EFORMAT, "4294967295"},
        {{"llama.expert_count", U32, 8, NULL}, KM_EUNSUPPORTED, "'llama.expert_count' is 8"},
        {{"llama.final_logit_softcapping", F32, -30, NULL}, KM_EFORMAT, "final soft cap"},
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

/* What a file names is taken, also where llama.cpp has it of other architectures. */
static void test_gguf_named_features(void **state) {
    km_config c;
    km_error err = KM_ERROR_INIT;
    const meta changes[] = {{"llama.attention.sliding_window", U32, 5, NULL},
                            {"llama.attn_logit_softcapping", F32, 20, NULL},
                            {"llama.final_logit_softcapping", F32, 30, NULL},
                            {"llama.attention.scale", F32, 0.5, NULL},
                            END};
    km_test_ok(read_gguf(&c, *state, false, false, changes, &err), &err);
    assert_int_equal(c.sliding_window, 5);
    assert_true(c.windowed[0] && c.windowed[1]);
    assert_true(c.attn_softcap == 20.0f && c.final_softcap == 30.0f && c.attn_scale == 0.5f);
    const meta pattern[] = {{"llama.attention.sliding_window", U32, 5, NULL},
                            {"llama.attention.sliding_window_pattern", U32, 2, NULL},
                            END};
    km_test_ok(read_gguf(&c, *state, false, false, pattern, &err), &err);
    assert_true(c.windowed[0] && !c.windowed[1]);
    const meta scaled[] = {{"llama.attention.sliding_window", U32, 5, NULL},
                           {"llama.rope.scaling.factor", F32, 4, NULL},
                           END};
    km_test_fails(read_gguf(&c, *state, false, false, scaled, &err), KM_EUNSUPPORTED, &err,
                  "rope scaling together with a sliding window");
}

/* The tiny llama file under another architecture's name, its keys renamed. */
static km_status read_renamed(km_config *out, km_ctx *ctx, const char *arch, const meta *more,
                              km_error *err) {
    static const char *const SIZES[] = {"block_count",          "embedding_length",
                                        "feed_forward_length",  "context_length",
                                        "attention.head_count", "attention.head_count_kv"};
    static const int VALUES[] = {L, D, F, 128, H, K};
    static char keys[6][64];
    meta changes[16] = {{"general.architecture", STRING, 0, arch}};
    int n = 1;
    for (int i = 0; i < 6; i++) {
        snprintf(keys[i], sizeof(keys[i]), "%s.%s", arch, SIZES[i]);
        changes[n++] = (meta){keys[i], U32, VALUES[i], NULL};
    }
    while (more->key != NULL) {
        changes[n++] = *more++;
    }
    changes[n] = (meta)END;
    return read_gguf(out, ctx, false, false, changes, err);
}

static void test_gguf_architectures(void **state) {
    km_config c;
    km_error err = KM_ERROR_INIT;
    const meta gemma2[] = {{"gemma2.attention.layer_norm_rms_epsilon", F32, 1e-6, NULL}, END};
    km_test_ok(read_renamed(&c, *state, "gemma2", gemma2, &err), &err);
    assert_true(c.attn_softcap == 50.0f && c.final_softcap == 30.0f);
    assert_int_equal(c.sliding_window, 4096);
    assert_true(c.windowed[0] && !c.windowed[1] && c.post_norms && !c.qk_norm);
    assert_true(c.activation == KM_ACT_GELU_TANH && c.embed_scale == sqrtf(32.0f));
    const meta qwen3[] = {{"qwen3.attention.layer_norm_rms_epsilon", F32, 1e-6, NULL}, END};
    km_test_ok(read_renamed(&c, *state, "qwen3", qwen3, &err), &err);
    assert_true(c.qk_norm && !c.qkv_bias && c.rope_pairs == KM_ROPE_HALVES);
    const meta window[] = {{"qwen2.attention.layer_norm_rms_epsilon", F32, 1e-6, NULL},
                           {"qwen2.attention.sliding_window", U32, 5, NULL},
                           END};
    km_test_fails(read_renamed(&c, *state, "qwen2", window, &err), KM_EUNSUPPORTED, &err,
                  "which layers have the window is not known");
    err = (km_error)KM_ERROR_INIT;
    const meta gpt2[] = {{"gpt2.attention.layer_norm_epsilon", F32, 1e-5, NULL}, END};
    km_test_ok(read_renamed(&c, *state, "gpt2", gpt2, &err), &err);
    assert_true(c.norm == KM_NORM_LAYER && c.position == KM_POSITION_LEARNED && !c.gated_mlp);
    const meta neox[] = {{"gptneox.attention.layer_norm_epsilon", F32, 1e-5, NULL},
                         {"gptneox.use_parallel_residual", BOOL, 1, NULL},
                         {"gptneox.rope.dimension_count", U32, 4, NULL},
                         END};
    km_test_ok(read_renamed(&c, *state, "gptneox", neox, &err), &err);
    assert_true(c.parallel_residual && c.rotary_dim == 4 && c.activation == KM_ACT_GELU_ERF);
    km_test_fails(read_renamed(&c, *state, "gptneox", neox + 3, &err), KM_EFORMAT, &err,
                  "gptneox.attention.layer_norm_epsilon");
    err = (km_error)KM_ERROR_INIT;
    const meta odd[] = {neox[0], neox[1], {"gptneox.rope.dimension_count", U32, 3, NULL}, END};
    km_test_fails(read_renamed(&c, *state, "gptneox", odd, &err), KM_EFORMAT, &err, "3 is odd");
    err = (km_error)KM_ERROR_INIT;
    const meta sequential[] = {neox[0], END};
    km_test_fails(read_renamed(&c, *state, "gptneox", sequential, &err), KM_EFORMAT, &err,
                  "use_parallel_residual");
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

#define SIZES_OF(type)                                                                             \
    "\"model_type\":\"" type "\",\"hidden_size\":32,\"intermediate_size\":64,"                     \
    "\"num_hidden_layers\":3,\"num_attention_heads\":2,\"num_key_value_heads\":1,"                 \
    "\"vocab_size\":6,\"max_position_embeddings\":128"
#define GPT2_SIZES                                                                                 \
    "\"model_type\":\"gpt2\",\"n_embd\":32,\"n_layer\":2,\"n_head\":2,\"vocab_size\":6"

static km_config parsed(const char *text) {
    km_config c;
    km_error err = KM_ERROR_INIT;
    km_test_ok(read_json(&c, text, &err), &err);
    return c;
}

static void test_json_llama_features(void **state) {
    (void)state;
    km_config c = parsed("{" LLAMA_SIZES ",\"attention_bias\":true,\"mlp_bias\":true}");
    assert_true(c.qkv_bias && c.attn_out_bias && c.mlp_bias);
    c = parsed("{" LLAMA_SIZES ",\"hidden_act\":\"gelu\"}");
    assert_int_equal(c.activation, KM_ACT_GELU_ERF);
    c = parsed("{" LLAMA_SIZES ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
               "\"low_freq_factor\":1,\"high_freq_factor\":4,"
               "\"original_max_position_embeddings\":8192}}");
    assert_true(c.rope_factor == 8.0 && c.rope_low_freq_factor == 1.0);
    assert_true(c.rope_high_freq_factor == 4.0 && c.rope_original_context == 8192);
    assert_true(c.rope_linear_scale == 1.0);
}

static void test_json_mistral(void **state) {
    (void)state;
    km_config c = parsed("{" SIZES_OF("mistral") ",\"head_dim\":8}");
    assert_string_equal(c.arch, "llama");
    assert_int_equal(c.sliding_window, 4096); /* the default of transformers */
    assert_true(c.windowed[0] && c.windowed[1] && c.windowed[2] && c.head_dim == 8);
    c = parsed("{" SIZES_OF("mistral") ",\"sliding_window\":null,\"head_dim\":null}");
    assert_int_equal(c.sliding_window, 0);
    assert_false(c.windowed[0]);
    assert_int_equal(c.head_dim, 16);
}

static void test_json_qwen(void **state) {
    (void)state;
    km_config c = parsed("{" SIZES_OF("qwen2") ",\"sliding_window\":5}");
    assert_int_equal(c.sliding_window, 0); /* use_sliding_window is false */
    assert_true(c.qkv_bias && !c.attn_out_bias && !c.mlp_bias && !c.qk_norm);
    c = parsed("{" SIZES_OF("qwen2") ",\"sliding_window\":5,\"use_sliding_window\":true,"
                                     "\"max_window_layers\":1}");
    assert_int_equal(c.sliding_window, 5);
    assert_true(!c.windowed[0] && c.windowed[1] && c.windowed[2]);
    c = parsed("{" SIZES_OF(
        "qwen3") ",\"use_sliding_window\":true,\"sliding_window\":5,"
                 "\"layer_types\":[\"sliding_attention\",\"full_attention\",\"full_attention\"]}");
    assert_true(c.qk_norm && !c.qkv_bias && c.head_dim == 128); /* its default */
    assert_true(c.windowed[0] && !c.windowed[1] && !c.windowed[2]);
}

static void test_json_gemma2(void **state) {
    (void)state;
    km_config c = parsed("{" SIZES_OF("gemma2") ",\"head_dim\":8,\"query_pre_attn_scalar\":16}");
    assert_true(c.attn_softcap == 50.0f && c.final_softcap == 30.0f && c.attn_scale == 0.25f);
    assert_true(c.windowed[0] && !c.windowed[1] && c.windowed[2]);
    assert_true(c.post_norms && !c.qk_norm && c.norm_offset == 1.0f);
    c = parsed("{" SIZES_OF("gemma2") ",\"attn_logit_softcapping\":null,"
                                      "\"final_logit_softcapping\":7,\"attention_bias\":true}");
    assert_true(c.attn_softcap == 0.0f && c.final_softcap == 7.0f);
    assert_true(c.qkv_bias && c.attn_out_bias);
}

static void test_json_gpt2(void **state) {
    (void)state;
    km_config c = parsed("{" GPT2_SIZES "}");
    assert_string_equal(c.arch, "gpt2");
    assert_true(c.norm == KM_NORM_LAYER && c.position == KM_POSITION_LEARNED && !c.gated_mlp);
    assert_true(c.activation == KM_ACT_GELU_TANH && c.d_ffn == 128 && c.context_length == 1024);
    assert_true(c.tied_embeddings && c.qkv_bias && c.mlp_bias && c.attn_scale == 0.25f);
    c = parsed("{" GPT2_SIZES ",\"n_inner\":96,\"scale_attn_weights\":false}");
    assert_true(c.d_ffn == 96 && c.attn_scale == 1.0f);
}

static void test_json_gpt_neox(void **state) {
    (void)state;
    km_config c =
        parsed("{" SIZES_OF("gpt_neox") ",\"rotary_pct\":0.5,\"rotary_emb_base\":500,"
                                        "\"use_parallel_residual\":false,\"layer_norm_eps\":1e-3}");
    assert_string_equal(c.arch, "gptneox");
    assert_true(!c.parallel_residual && c.rotary_dim == 8 && c.rope_base == 500.0);
    assert_true(c.norm_eps == 1e-3 && c.activation == KM_ACT_GELU_ERF && !c.tied_embeddings);
    c = parsed("{" SIZES_OF("gpt_neox") ",\"attention_bias\":false}");
    assert_true(c.parallel_residual && c.rotary_dim == 4 && c.rope_base == 10000.0);
    assert_true(!c.qkv_bias && !c.attn_out_bias && c.mlp_bias);
    expect_same("{" SIZES_OF("gpt_neox") ",\"rotary_pct\":0.5,\"rotary_emb_base\":500}",
                "{" SIZES_OF("gpt_neox") ",\"rope_parameters\":{\"rope_type\":\"default\","
                                         "\"rope_theta\":500,\"partial_rotary_factor\":0.5}}");
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
        {"{" LLAMA_SIZES ",\"attention_bias\":1}", KM_EFORMAT, "neither true nor false"},
        {"{" LLAMA_SIZES ",\"num_experts\":4}", KM_EUNSUPPORTED, "'num_experts'"},
        {"{" LLAMA_SIZES ",\"final_logit_softcapping\":3}", KM_EUNSUPPORTED, "only Gemma"},
        {"{" LLAMA_SIZES ",\"hidden_act\":\"relu\"}", KM_EUNSUPPORTED, "'relu'"},
        {"{" LLAMA_SIZES ",\"quantization_config\":{}}", KM_EUNSUPPORTED, "quantization_config"},
        {"{" LLAMA_SIZES ",\"rope_theta\":0.5}", KM_EFORMAT, "rope base"},
        {"{" LLAMA_SIZES ",\"rope_theta\":\"x\"}", KM_EFORMAT, "'rope_theta' is not a number"},
        {"{" LLAMA_SIZES ",\"rope_scaling\":{\"rope_type\":\"yarn\"}}", KM_EUNSUPPORTED,
         "field 'rope_scaling': rope scaling 'yarn'"},
        {"{" LLAMA_SIZES ",\"rope_scaling\":{\"type\":\"longrope\"}}", KM_EUNSUPPORTED, "longrope"},
        {"{" LLAMA_SIZES ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", KM_EFORMAT,
         "field 'rope_scaling': rope type 'llama3' needs 'low_freq_factor'"},
        {"{" LLAMA_SIZES ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
         "\"low_freq_factor\":4,\"high_freq_factor\":4,\"original_max_position_embeddings\":9}}",
         KM_EFORMAT, "rope low frequency factor"},
        {"{" LLAMA_SIZES ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":0,"
         "\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":9}}",
         KM_EFORMAT, "'factor' is 0"},
        {"{" LLAMA_SIZES ",\"rope_parameters\":{\"full_attention\":{}}}", KM_EUNSUPPORTED,
         "one object a layer type"},
        {"{" SIZES_OF("mistral") ",\"layer_types\":[]}", KM_EUNSUPPORTED, "'layer_types'"},
        {"{" SIZES_OF("mistral") ",\"sliding_window\":0}", KM_EFORMAT, "'sliding_window' is 0"},
        {"{" SIZES_OF("mistral") ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}",
         KM_EUNSUPPORTED, "together with a sliding window"},
        {"{" SIZES_OF("qwen2") ",\"layer_types\":[\"full_attention\",\"full_attention\","
                               "\"sliding_attention\"]}",
         KM_EFORMAT, "layer 2 slides and there is no 'sliding_window'"},
        {"{" SIZES_OF("qwen2") ",\"layer_types\":[\"chunked_attention\",\"full_attention\","
                               "\"full_attention\"]}",
         KM_EUNSUPPORTED, "'chunked_attention' of layer 0"},
        {"{" SIZES_OF("qwen2_moe") "}", KM_EUNSUPPORTED, "'qwen2_moe'"},
        {"{" SIZES_OF("gemma2") ",\"attn_logit_softcapping\":0}", KM_EFORMAT, "softcapping' is 0"},
        {"{" SIZES_OF("gemma2") ",\"final_logit_softcapping\":-1}", KM_EFORMAT, "is -1"},
        {"{" SIZES_OF("gemma3_text") ",\"attn_logit_softcapping\":50}", KM_EUNSUPPORTED,
         "does not apply it to Gemma 3"},
        {"{" SIZES_OF("gpt_neox") ",\"rotary_pct\":1.5}", KM_EFORMAT, "'rotary_pct' is 1.5"},
        {"{" SIZES_OF("gpt_neox") ",\"rotary_pct\":0.2}", KM_EFORMAT, "dimensions 3 is odd"},
        {"{" GPT2_SIZES ",\"scale_attn_by_inverse_layer_idx\":true}", KM_EUNSUPPORTED,
         "scale_attn_by_inverse_layer_idx"},
        {"{" GPT2_SIZES ",\"add_cross_attention\":true}", KM_EUNSUPPORTED, "add_cross_attention"},
        {"{" GPT2_SIZES ",\"activation_function\":\"relu\"}", KM_EUNSUPPORTED, "'relu'"},
        {"{" LLAMA_SIZES ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", KM_EUNSUPPORTED,
         "partial_rotary_factor"},
        {"{" LLAMA_SIZES ",\"rope_parameters\":[]}", KM_EFORMAT, "not an object"},
        {"{" LLAMA_SIZES ",\"rope_parameters\":{\"factor\":2}}", KM_EFORMAT, "without 'rope_type'"},
        {"{" LLAMA_SIZES ",\"rope_parameters\":{\"rope_type\":\"default\"},"
         "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}",
         KM_EFORMAT, "'rope_parameters' and 'rope_scaling' differ"},
        {"{" GEMMA_SIZES ",\"hidden_activation\":\"quick_gelu\"}", KM_EUNSUPPORTED, "'quick_gelu'"},
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
        cmocka_unit_test(test_gguf_named_features),
        cmocka_unit_test(test_gguf_architectures),
        cmocka_unit_test(test_json_llama),
        cmocka_unit_test(test_json_two_generations),
        cmocka_unit_test(test_json_gemma3),
        cmocka_unit_test(test_json_llama_features),
        cmocka_unit_test(test_json_mistral),
        cmocka_unit_test(test_json_qwen),
        cmocka_unit_test(test_json_gemma2),
        cmocka_unit_test(test_json_gpt2),
        cmocka_unit_test(test_json_gpt_neox),
        cmocka_unit_test(test_json_refusals),
        cmocka_unit_test(test_json_size_limit),
        cmocka_unit_test(test_config_read_names_the_file),
        cmocka_unit_test(test_long_names_are_cut),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
