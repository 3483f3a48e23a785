/* test_tokenizer_json.c: tokenizer.json files: recognised, refused by name, hostile. */
#include "km_test.h"
#include "text/spec.h"

#define MARK "\xE2\x96\x81"

#define LLAMA_SPLIT                                                                                \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}"           \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

#define BYTE_MODEL                                                                                 \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\xC4\xA0\":3},"             \
    "\"merges\":[\"a b\"]}"
#define BYTE_ADDED "\"added_tokens\":[{\"id\":4,\"content\":\"<s>\",\"special\":true}]"
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define BYTE_DECODER "\"decoder\":{\"type\":\"ByteLevel\"}"
#define BYTE_FILE(pre, post)                                                                       \
    "{" BYTE_ADDED ",\"normalizer\":null,\"pre_tokenizer\":" pre ",\"post_processor\":" post       \
    "," BYTE_DECODER "," BYTE_MODEL "}"

#define MARKED_MODEL                                                                               \
    "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"<unk>\"" \
    ",\"vocab\":{\"<unk>\":0,\"a\":1,\"" MARK "\":2,\"" MARK "a\":3,\"<0x41>\":4},"                \
    "\"merges\":[[\"" MARK "\",\"a\"]]}"
#define MARKED_ADDED "\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true}]"
#define REPLACE "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" MARK "\"}"
#define MARKED_DECODERS                                                                            \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" MARK "\"},\"content\":\" \"},"              \
    "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}"
#define MARKED_FILE(normalizer, decoders)                                                          \
    "{" MARKED_ADDED ",\"normalizer\":" normalizer ",\"pre_tokenizer\":null,"                      \
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" decoders "]}," MARKED_MODEL "}"

#define METASPACE_FILE(fields)                                                                     \
    "{" MARKED_ADDED ",\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Metaspace\","             \
    "\"replacement\":\"" MARK "\"," fields                                                         \
    "},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" MARKED_DECODERS                          \
    ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}," MARKED_MODEL "}"

static km_status parse(km_tokenizer **out, km_ctx *ctx, const char *text, const char *config,
                       km_error *err) {
    return km_tokenizer_from_json(out, ctx, text, strlen(text), config,
                                  config != NULL ? strlen(config) : 0, err);
}

static km_tokenizer *make(km_ctx *ctx, const char *text, const char *config) {
    km_tokenizer *tokenizer = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(parse(&tokenizer, ctx, text, config, &err), &err);
    return tokenizer;
}

static void refuse(km_ctx *ctx, const char *text, km_status want, const char *part) {
    km_tokenizer *tokenizer = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_fails(parse(&tokenizer, ctx, text, NULL, &err), want, &err, part);
    assert_null(tokenizer);
}

/* The ids of text with bos as the file says, special tokens parsed: "1 2 3". */
static void check_ids(const km_tokenizer *tokenizer, const char *text, const char *want) {
    km_tokens tokens = KM_TOKENS_INIT;
    km_error err = KM_ERROR_INIT;
    km_encode_options options = {KM_BOS_MODEL, true};
    char got[256] = "";
    size_t m = 0;
    km_test_ok(km_tokenizer_encode(&tokens, tokenizer, text, strlen(text), &options, &err), &err);
    for (int64_t i = 0; i < tokens.n; i++) {
        m += (size_t)snprintf(got + m, sizeof got - m, i > 0 ? " %d" : "%d", tokens.items[i].id);
    }
    km_tokens_clear(&tokens);
    assert_string_equal(got, want);
}

/* ---- files that are read ---- */

static void test_byte_level(void **state) {
    km_tokenizer *t = make(*state, BYTE_FILE(BYTE_LEVEL, "null"), NULL);
    check_ids(t, "ab b<s>a", "2 3 1 4 0");
    assert_int_equal(km_tokenizer_bos(t), -1);
    km_tokenizer_free(t);
}

static void test_pre_tokenizers(void **state) {
    static const char *const pres[] = {
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true}"
        "," BYTE_LEVEL "]}",
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
        "\"" LLAMA_SPLIT "\"},\"behavior\":\"Isolated\",\"invert\":false},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}",
    };
    const char *hashes[3];
    km_tokenizer *tokenizers[3];
    for (size_t i = 0; i < 3; i++) {
        char text[2048];
        (void)snprintf(text, sizeof text,
                       "{" BYTE_ADDED ",\"pre_tokenizer\":%s," BYTE_DECODER "," BYTE_MODEL "}",
                       i == 0 ? BYTE_LEVEL : pres[i - 1]);
        tokenizers[i] = make(*state, text, NULL);
        hashes[i] = km_tokenizer_hash(tokenizers[i]);
    }
    assert_string_not_equal(hashes[0], hashes[1]);
    assert_string_not_equal(hashes[1], hashes[2]);
    for (size_t i = 0; i < 3; i++) {
        km_tokenizer_free(tokenizers[i]);
    }
}

static void test_bos(void **state) {
    static const char post[] =
        "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},"
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
        "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[4]}}}]}";
    char text[2048];
    (void)snprintf(text, sizeof text,
                   "{" BYTE_ADDED ",\"pre_tokenizer\":" BYTE_LEVEL
                   ",\"post_processor\":%s," BYTE_DECODER "," BYTE_MODEL "}",
                   post);
    km_tokenizer *t = make(*state, text, NULL);
    assert_true(km_tokenizer_adds_bos(t));
    assert_int_equal(km_tokenizer_bos(t), 4);
    check_ids(t, "a", "4 0");
    km_tokenizer_free(t);
}

static void test_config(void **state) {
    static const char config[] = "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"b\","
                                 "\"add_bos_token\":true,"
                                 "\"model_max_length\":1000000000000000019884624838656}";
    km_tokenizer *t = make(*state, BYTE_FILE(BYTE_LEVEL, "null"), config);
    assert_int_equal(km_tokenizer_bos(t), 4);
    assert_int_equal(km_tokenizer_eos(t), 1);
    check_ids(t, "a", "4 0");
    km_tokenizer_free(t);
    km_error err = KM_ERROR_INIT;
    km_test_fails(parse(&t, *state, BYTE_FILE(BYTE_LEVEL, "null"), "{", &err), KM_EFORMAT, &err,
                  "tokenizer_config.json: JSON line 1");
}

static void test_marked(void **state) {
    km_tokenizer *t = make(*state, MARKED_FILE(REPLACE, MARKED_DECODERS), NULL);
    check_ids(t, "a a", "1 3");
    check_ids(t, "AB", "4 0");
    km_tokenizer_free(t);
    t = make(*state,
             MARKED_FILE("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\","
                         "\"prepend\":\"" MARK "\"}," REPLACE "]}",
                         MARKED_DECODERS ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,"
                                         "\"stop\":0}"),
             NULL);
    check_ids(t, "a a", "3 3");
    km_tokenizer_free(t);
}

/* Both ways of writing one tokenizer give one hash. */
/* "always" and "first" put a blank only where none is; "first" at the start of the text alone. */
static void test_metaspace(void **state) {
    static const struct {
        const char *text, *want;
    } cases[] = {
        {METASPACE_FILE("\"split\":false,\"prepend_scheme\":\"first\""), "3 0 1"},
        {METASPACE_FILE("\"split\":false,\"prepend_scheme\":\"always\""), "3 0 3"},
        {METASPACE_FILE("\"split\":false,\"add_prefix_space\":true"), "3 0 3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        km_tokenizer *t = make(*state, cases[i].text, NULL);
        check_ids(t, "a<unk>a", cases[i].want);
        check_ids(t, " a", "3");
        check_ids(t, MARK "a", "3");
        km_tokenizer_free(t);
    }
}

/* U+00E9 is C3 A9, of which the alphabet makes U+00C3 and U+00A9. */
#define NFC_FILE                                                                                   \
    "{\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true},"                          \
    "{\"id\":6,\"content\":\"bb\",\"normalized\":true}],\"normalizer\":{\"type\":\"NFC\"},"        \
    "\"pre_tokenizer\":" BYTE_LEVEL "," BYTE_DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":"     \
    "{\"e\":0,\"\xC3\x83\":1,\"\xC2\xA9\":2,\"\xC3\x83\xC2\xA9\":3,\"b\":4},"                      \
    "\"merges\":[\"\xC3\x83 \xC2\xA9\"]}}"

static void test_form_c(void **state) {
    static const char text[] = "ee\xCC\x81"
                               "bb"
                               "e\xCC\x81"
                               "<s>";
    static const int64_t spans[][2] = {{0, 1}, {1, 4}, {4, 6}, {6, 9}, {9, 12}};
    km_tokenizer *t = make(*state, NFC_FILE, NULL);
    km_tokens tokens = KM_TOKENS_INIT;
    km_error err = KM_ERROR_INIT;
    km_encode_options options = {KM_BOS_MODEL, true};
    check_ids(t, text, "0 3 6 3 5");
    km_test_ok(km_tokenizer_encode(&tokens, t, text, sizeof text - 1, &options, &err), &err);
    for (int64_t i = 0; i < tokens.n; i++) {
        assert_int_equal(tokens.items[i].start, spans[i][0]);
        assert_int_equal(tokens.items[i].end, spans[i][1]);
    }
    km_tokens_clear(&tokens);
    km_tokenizer_free(t);
}

/* Sorting a long run of marks must not take quadratic time. */
static void test_many_marks(void **state) {
    enum { PAIRS = 200000 };
    km_tokenizer *t = make(*state, NFC_FILE, NULL);
    km_tokens tokens = KM_TOKENS_INIT;
    km_error err = KM_ERROR_INIT;
    char *text = malloc(4 * PAIRS + 1);
    assert_non_null(text);
    for (size_t i = 0; i < PAIRS; i++) {
        memcpy(text + 4 * i, "\xCC\x81\xCC\xA3", 4);
    }
    km_test_ok(km_tokenizer_encode(&tokens, t, text, 4 * PAIRS, NULL, &err), &err);
    km_tokens_clear(&tokens);
    free(text);
    km_tokenizer_free(t);
}

static void test_same_as_specification(void **state) {
    const km_slice tokens[] = {{"a", 1}, {"b", 1}, {"ab", 2}, {"\xC4\xA0", 2}, {"<s>", 3}};
    const int32_t types[] = {1, 1, 1, 1, 3};
    const km_slice merges[] = {{"a b", 3}};
    const km_tokenizer_spec spec = {.kind = KM_TOKENIZER_BPE,
                                    .pre = "gpt2",
                                    .tokens = tokens,
                                    .types = types,
                                    .n_tokens = 5,
                                    .merges = merges,
                                    .n_merges = 1,
                                    .bos = -1,
                                    .eos = -1,
                                    .unk = -1};
    km_tokenizer *a = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_tokenizer_new(&a, *state, &spec, &err), &err);
    km_tokenizer *b = make(*state, BYTE_FILE(BYTE_LEVEL, "null"), NULL);
    assert_string_equal(km_tokenizer_hash(a), km_tokenizer_hash(b));
    km_tokenizer_free(a);
    km_tokenizer_free(b);
}

/* ---- files that are refused ---- */

static void test_unknown_components(void **state) {
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"{\"model\":{\"type\":\"Unigram\"}}", "'Unigram'"},
        {"{\"model\":{\"type\":\"WordPiece\"}}", "'WordPiece'"},
        {"{}", "'(none)'"},
        {"{\"model\":{\"type\":\"BPE\",\"dropout\":0.1}}", "dropout"},
        {"{\"model\":{\"type\":\"BPE\",\"continuing_subword_prefix\":\"##\"}}", "prefix"},
        {"{\"model\":{\"type\":\"BPE\",\"unk_token\":\"a\"}}", "unk_token"},
        {"{\"normalizer\":{\"type\":\"NFKC\"}," BYTE_MODEL "}", "normalizer of type 'NFKC'"},
        {BYTE_FILE("{\"type\":\"Whitespace\"}", "null"), "pre_tokenizer of type 'Whitespace'"},
        {BYTE_FILE("null", "null"), "pre_tokenizer of type '(none)'"},
        {BYTE_FILE("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "null"), "'ByteLevel'"},
        {BYTE_FILE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
                   "{\"Regex\":\"x+\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\","
                   "\"use_regex\":false}]}",
                   "null"),
         "pre_tokenizer of type 'Sequence'"},
        {BYTE_FILE(BYTE_LEVEL, "{\"type\":\"BertProcessing\"}"), "'BertProcessing'"},
        {BYTE_FILE(BYTE_LEVEL, "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{}},"
                               "{\"SpecialToken\":{\"id\":\"<s>\"}}]}"),
         "post_processor of type 'TemplateProcessing'"},
        {MARKED_FILE("null", MARKED_DECODERS), "pre_tokenizer of type '(none)'"},
        {MARKED_FILE("{\"type\":\"NFC\"}", MARKED_DECODERS), "normalizer of type 'NFC'"},
        {METASPACE_FILE("\"split\":true"), "pre_tokenizer of type 'Metaspace'"},
        {METASPACE_FILE("\"split\":false,\"prepend_scheme\":\"last\""),
         "pre_tokenizer of type 'Metaspace'"},
        {MARKED_FILE(REPLACE, "{\"type\":\"Fuse\"}"), "decoder of type 'Sequence'"},
        {"{\"added_tokens\":[{\"id\":5,\"content\":\"< >\",\"normalized\":true}],"
         "\"normalizer\":" REPLACE
         ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" MARKED_DECODERS "]}," MARKED_MODEL
         "}",
         "'< >' with normalized"},
        {"{\"added_tokens\":[{\"id\":4,\"content\":\"<s>\",\"lstrip\":true}],"
         "\"pre_tokenizer\":" BYTE_LEVEL "," BYTE_DECODER "," BYTE_MODEL "}",
         "lstrip"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        refuse(*state, cases[i].text, KM_EUNSUPPORTED, cases[i].part);
        refuse(*state, cases[i].text, KM_EUNSUPPORTED, "tokenizer.json: ");
    }
}

#define AROUND(added, vocab, merges)                                                               \
    "{\"added_tokens\":" added ",\"pre_tokenizer\":" BYTE_LEVEL "," BYTE_DECODER                   \
    ",\"model\":{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges "}}"

static void test_broken_files(void **state) {
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"", "JSON line"},
        {"[1, 2", "JSON line"},
        {AROUND("[]", "[]", "[]"), "vocab is not an object"},
        {AROUND("[]", "{}", "[]"), "0 tokens"},
        {AROUND("[]", "{\"a\":1}", "[]"), "'a': its id"},
        {AROUND("[]", "{\"a\":-1}", "[]"), "'a': its id"},
        {AROUND("[]", "{\"a\":9223372036854775807}", "[]"), "'a': its id"},
        {AROUND("[]", "{\"a\":18446744073709551616}", "[]"), "JSON line"},
        {AROUND("[]", "{\"a\":\"0\"}", "[]"), "'a': its id"},
        {AROUND("[]", "{\"a\":0,\"b\":0}", "[]"), "share the id 0"},
        {AROUND("[]", "{\"a\":0,\"a\":0}", "[]"), "JSON line"},
        {AROUND("[]", "{\"a\":0}", "{}"), "merges is not an array"},
        {AROUND("[]", "{\"a\":0}", "[1]"), "merge 0"},
        {AROUND("[]", "{\"a\":0}", "[[\"a\"]]"), "merge 0"},
        {AROUND("[]", "{\"a\":0}", "[[\"a\",1]]"), "merge 0"},
        {AROUND("[]", "{\"a\":0}", "[[\"a\",\"a\",\"a\"]]"), "merge 0"},
        {AROUND("[]", "{\"a\":0}", "[\"a a\"]"), "not in the vocabulary"},
        {AROUND("[{}]", "{\"a\":0}", "[]"), "no usable content"},
        {AROUND("[1]", "{\"a\":0}", "[]"), "no usable content"},
        {AROUND("[{\"content\":\"\",\"id\":1}]", "{\"a\":0}", "[]"), "no usable content"},
        {AROUND("[{\"content\":\"x\\u0000\",\"id\":1}]", "{\"a\":0}", "[]"), "no usable content"},
        {AROUND("[{\"content\":\"x\",\"id\":5}]", "{\"a\":0}", "[]"), "'x': its id"},
        {AROUND("[{\"content\":\"a\",\"id\":1}]", "{\"a\":0}", "[]"), "another id"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        refuse(*state, cases[i].text, KM_EFORMAT, cases[i].part);
    }
}

static void test_deep_nesting(void **state) {
    size_t n = 100000;
    char *text = malloc(2 * n + 1);
    assert_non_null(text);
    memset(text, '[', n);
    memset(text + n, ']', n);
    text[2 * n] = '\0';
    refuse(*state, text, KM_EFORMAT, "depth");
    free(text);
}

/* Every proper prefix of a good file is refused, and none crashes. */
static void test_truncation(void **state) {
    static const char text[] = MARKED_FILE(REPLACE, MARKED_DECODERS);
    for (size_t n = 0; n + 1 < sizeof text; n++) {
        km_tokenizer *tokenizer = NULL;
        km_error err = KM_ERROR_INIT;
        assert_int_equal(km_tokenizer_from_json(&tokenizer, *state, text, n, NULL, 0, &err),
                         KM_EFORMAT);
    }
}

static km_status read_and_free(km_ctx *ctx, km_error *err) {
    km_tokenizer *tokenizer = NULL;
    km_status status = parse(&tokenizer, ctx, MARKED_FILE(REPLACE, MARKED_DECODERS), "{}", err);
    km_tokenizer_free(tokenizer);
    return status;
}

static void test_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(read_and_free);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_byte_level),
        cmocka_unit_test(test_pre_tokenizers),
        cmocka_unit_test(test_bos),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_marked),
        cmocka_unit_test(test_metaspace),
        cmocka_unit_test(test_form_c),
        cmocka_unit_test(test_many_marks),
        cmocka_unit_test(test_same_as_specification),
        cmocka_unit_test(test_unknown_components),
        cmocka_unit_test(test_broken_files),
        cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_every_allocation),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
