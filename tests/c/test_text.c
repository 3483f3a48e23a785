/* test_text.c: tokenizers over vocabularies small enough to follow by hand. */
#include <time.h>

#include "km_test.h"
#include "text/text_private.h"

#define LENGTH(array) ((int64_t)(sizeof(array) / sizeof(array)[0]))
#define MARK "\xE2\x96\x81" /* U+2581 */
#define G "\xC4\xA0"        /* the byte alphabet's blank, U+0120 */

/* ---- characters and words ---- */

static void test_classes(void **state) {
    (void)state;
    const struct {
        uint32_t c;
        unsigned want;
    } cases[] = {
        {0, 0},
        {' ', KM__BLANK},
        {'a', KM__LETTER},
        {'7', KM__NUMBER | KM__DIGIT},
        {0x85, KM__BLANK},
        {0x180E, 0}, /* a blank in Unicode 6.2, not since */
        {0x2167, KM__NUMBER | KM__DIGIT},
        {0x4E00, KM__LETTER},
        {0x88F, 0},           /* a letter in Unicode 17 only */
        {0x1C89, KM__LETTER}, /* new in Unicode 16 */
        {0x11DE0, KM__DIGIT}, /* new in Unicode 17, which only Digits knows */
        {0xD800, 0},
        {0x10FFFF, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(km__unicode_class(cases[i].c), cases[i].want);
    }
}

static void test_alphabet_is_a_bijection(void **state) {
    (void)state;
    bool seen[256] = {false};
    int count = 0;
    for (uint32_t c = 0; c < 0x200; c++) {
        int byte = km__alphabet_byte(c);
        if (byte >= 0) {
            assert_false(seen[byte]);
            seen[byte] = true;
            count++;
        }
    }
    assert_int_equal(count, 256);
    assert_int_equal(km__alphabet_byte(0x120), ' ');
    assert_int_equal(km__alphabet_byte(0x10A), '\n');
    assert_int_equal(km__alphabet_byte(0x143), 0xAD);
    assert_int_equal(km__alphabet_byte(' '), -1);
}

static void test_decoding(void **state) {
    (void)state;
    const struct {
        const char *text;
        size_t n, length;
        uint32_t c;
    } cases[] = {
        {"a", 1, 1, 'a'},
        {"\xC3\xA9", 2, 2, 0xE9},
        {"\xC3", 1, 0, 0},
        {"\xC0\x80", 2, 2, 0},          /* overlong */
        {"\xED\xA0\x80", 3, 3, 0xD800}, /* surrogate */
        {"\xF0\x9F\x98\x80", 4, 4, 0x1F600},
        {"\xF4\x90\x80\x80", 4, 0, 0}, /* beyond U+10FFFF */
        {"\xE4\xB8"
         "a",
         3, 0, 0},
        {"\xFF\xBF\xBF\xBF", 4, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t c = 0;
        size_t length = km__utf8_decode(&c, cases[i].text, cases[i].n);
        assert_int_equal(length, cases[i].length);
        assert_int_equal(c, cases[i].c);
        char back[4];
        if (length > 0 && cases[i].text[0] != '\xC0') {
            assert_int_equal(km__utf8_encode(back, c), length);
            assert_memory_equal(back, cases[i].text, length);
        }
    }
}

/* Pieces joined by '|'. */
static void check_pieces(km__pre pre, const char *text, const char *want) {
    char got[512];
    size_t m = 0;
    size_t n = strlen(text);
    for (size_t at = 0; at < n;) {
        size_t length = km__pre_next(pre, text + at, n - at);
        assert_true(length > 0 && length <= n - at);
        if (at > 0) {
            got[m++] = '|';
        }
        memcpy(got + m, text + at, length);
        m += length;
        at += length;
    }
    got[m] = '\0';
    assert_string_equal(got, want);
}

static void test_pieces(void **state) {
    (void)state;
    check_pieces(KM__PRE_GPT2, "I'll say  'x' 12 times!?", "I|'ll| say| | '|x|'| 12| times|!?");
    check_pieces(KM__PRE_GPT2, "a \n\n b\t", "a| \n\n| b|\t");
    check_pieces(KM__PRE_GPT2, "I'LL", "I|'|LL");
    check_pieces(KM__PRE_GPT2, "x   ", "x|   ");
    check_pieces(KM__PRE_SMOLLM, "a 12b", "a| |1|2|b");
    check_pieces(KM__PRE_SMOLLM, "a  1", "a|  |1");
    check_pieces(KM__PRE_SMOLLM, "\xE2\x85\xA7\xC2\xBD", "\xE2\x85\xA7|\xC2\xBD");
    check_pieces(KM__PRE_LLAMA_BPE, "I'LL 12345.\n\n x", "I|'LL| |123|45|.\n\n| x");
    check_pieces(KM__PRE_LLAMA_BPE, "(a)b \r\n  c", "(a|)b| \r\n| | c");
    check_pieces(KM__PRE_LLAMA_BPE, "it'\xC5\xBFx", "it|'\xC5\xBF|x");
    check_pieces(KM__PRE_QWEN2, "a12 'Re", "a|1|2| '|Re");
}

static void test_unknown_pre_tokenizer(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    km__pre pre;
    km_test_fails(km__pre_find(&pre, "tekken", &err), KM_EUNSUPPORTED, &err, "'tekken'");
    km_test_fails(km__pre_find(&pre, NULL, &err), KM_EUNSUPPORTED, &err, "(none)");
    km_test_ok(km__pre_find(&pre, "gpt-2", &err), &err);
    assert_string_equal(km__pre_name(pre), "gpt2");
}

/* ---- tiny vocabularies ---- */

#define SLICE(text) {text, sizeof(text) - 1}

static const km_slice bpe_tokens[] = {
    SLICE("<s>"),      SLICE("</s>"),     SLICE("l"),        SLICE("o"),  SLICE("w"),
    SLICE("e"),        SLICE("r"),        SLICE(G),          SLICE("lo"), SLICE("low"),
    SLICE("er"),       SLICE(G "low"),    SLICE("!"),        SLICE("!!"), SLICE("<u>"),
    SLICE("\xC3\xAF"), SLICE("\xC2\xBF"), SLICE("\xC2\xBD"),
};
static const int32_t bpe_types[] = {3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1, 1, 1};
static const km_slice bpe_merges[] = {SLICE("l o"), SLICE("lo w"), SLICE("e r"), SLICE(G " low"),
                                      SLICE("! !")};

static km_tokenizer_spec bpe_spec(void) {
    return (km_tokenizer_spec){.kind = KM_TOKENIZER_BPE,
                               .pre = "gpt2",
                               .tokens = bpe_tokens,
                               .types = bpe_types,
                               .n_tokens = LENGTH(bpe_tokens),
                               .merges = bpe_merges,
                               .n_merges = LENGTH(bpe_merges),
                               .bos = 0,
                               .eos = 1,
                               .unk = -1};
}

/* 4 + '<', so that the ids below read easily: 4 a, 5 b, 6 ab, 7 mark, 8 mark a, 9 mark mark ... */
static const km_slice spm_tokens[] = {
    SLICE("<unk>"),  SLICE("<s>"),    SLICE("</s>"), SLICE("<tag>"),  SLICE("a"),
    SLICE("b"),      SLICE("ab"),     SLICE(MARK),   SLICE(MARK "a"), SLICE("  "),
    SLICE("<0x63>"), SLICE("<0xFF>"), SLICE("ba"),   SLICE("   "),
};
static const int32_t spm_types[] = {2, 3, 3, 4, 1, 1, 1, 1, 1, 4, 6, 6, 1, 4};
static const float spm_scores[] = {0, 0, 0, 0, -9, -9, -1, -9, -3, -9, 0, 0, -2, -9};

static km_tokenizer_spec spm_spec(void) {
    return (km_tokenizer_spec){.kind = KM_TOKENIZER_SPM,
                               .tokens = spm_tokens,
                               .scores = spm_scores,
                               .types = spm_types,
                               .n_tokens = LENGTH(spm_tokens),
                               .bos = 1,
                               .eos = 2,
                               .unk = 0,
                               .add_bos = true};
}

static km_tokenizer *make(km_ctx *ctx, const km_tokenizer_spec *spec) {
    km_tokenizer *tokenizer = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_tokenizer_new(&tokenizer, ctx, spec, &err), &err);
    return tokenizer;
}

/* Compare "id:start-end id:start-end ..." */
static void check_bytes(const km_tokenizer *tokenizer, const char *text, size_t n, km_bos bos,
                        bool special, const char *want) {
    km_tokens tokens = KM_TOKENS_INIT;
    km_error err = KM_ERROR_INIT;
    km_encode_options options = {bos, special};
    char got[1024] = "";
    size_t m = 0;
    km_test_ok(km_tokenizer_encode(&tokens, tokenizer, text, n, &options, &err), &err);
    for (int64_t i = 0; i < tokens.n; i++) {
        const km_token *t = &tokens.items[i];
        m += (size_t)snprintf(got + m, sizeof got - m, "%s%d:%d-%d", i > 0 ? " " : "", t->id,
                              (int)t->start, (int)t->end);
    }
    km_tokens_clear(&tokens);
    assert_string_equal(got, want);
}

static void check_tokens(const km_tokenizer *tokenizer, const char *text, const char *want) {
    check_bytes(tokenizer, text, strlen(text), KM_BOS_NEVER, false, want);
}

static void check_decoded(const km_tokenizer *tokenizer, const int32_t *ids, int64_t n,
                          bool special, const char *want) {
    char *text = NULL;
    size_t length;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_tokenizer_decode(&text, &length, tokenizer, ids, n, special, &err), &err);
    assert_int_equal(length, strlen(want));
    assert_string_equal(text, want);
    km_text_free(tokenizer, text);
}

static void test_byte_level(void **state) {
    km_tokenizer_spec spec = bpe_spec();
    km_tokenizer *t = make(*state, &spec);
    check_tokens(t, "", "");
    check_tokens(t, "low lower", "9:0-3 11:3-7 10:7-9");
    check_tokens(t, " wol", "7:0-1 4:1-2 3:2-3 2:3-4");
    check_bytes(t, "low", 3, KM_BOS_MODEL, false, "9:0-3");
    check_bytes(t, "low", 3, KM_BOS_ALWAYS, false, "0:0-0 9:0-3");
    check_bytes(t, "lo</s>wer", 9, KM_BOS_NEVER, true, "8:0-2 1:2-6 4:6-7 10:7-9");
    check_tokens(t, "lo<u>low", "8:0-2 14:2-5 9:5-8");
    const int32_t ids[] = {0, 9, 11, 10, 1};
    check_decoded(t, ids, 5, false, "low lower");
    check_decoded(t, ids, 5, true, "<s>low lower</s>");
    km_tokenizer_free(t);
}

static void test_missing_bytes(void **state) {
    km_tokenizer_spec spec = bpe_spec();
    km_tokenizer *t = make(*state, &spec);
    /* tokenizers merges across a byte without a token, */
    check_tokens(t, "!?!", "13:0-3");
    check_tokens(t, "?", "");
    /* llama.cpp, the authority on ill-formed text, does not; U+FFFD is EF BF BD. */
    check_bytes(t, "!?!\xFF", 4, KM_BOS_NEVER, false, "12:0-1 12:2-3 15:3-4 16:3-4 17:3-4");
    check_bytes(t, "\xC1\xAC\xC1\xAF", 4, KM_BOS_NEVER, false, "8:0-4"); /* overlong "lo" */
    km_tokenizer_free(t);
}

static void test_marked(void **state) {
    km_tokenizer_spec spec = spm_spec();
    km_tokenizer *t = make(*state, &spec);
    check_tokens(t, "", "");
    check_tokens(t, "ab ab", "6:0-2 7:2-3 6:3-5"); /* "ab" before the mark takes its "a" */
    check_tokens(t, "aba a", "6:0-2 4:2-3 8:3-5");
    check_tokens(t, "a  b", "4:0-1 9:1-3 5:3-4");  /* a run of blanks comes first */
    check_tokens(t, "    a", "9:0-2 9:2-4 4:4-5"); /* by id: pairs before threes */
    check_tokens(t, "a" MARK MARK "b", "4:0-1 9:1-7 5:7-8");
    check_tokens(t, "acb", "4:0-1 10:1-2 5:2-3"); /* byte fallback */
    check_tokens(t, "axyb", "4:0-1 0:1-3 5:3-4"); /* one unknown token for a run */
    check_tokens(t, "a<tag>b", "4:0-1 3:1-6 5:6-7");
    check_bytes(t, "a</s>b", 6, KM_BOS_MODEL, true, "1:0-0 4:0-1 2:1-5 5:5-6");
    check_bytes(t, "a\xFF", 2, KM_BOS_NEVER, false, "4:0-1 11:1-2");
    const int32_t ids[] = {1, 8, 9, 10, 11, 2};
    check_decoded(t, ids, 6, false, " a  c\xFF");
    km_tokenizer_free(t);
}

static void test_leading_blank(void **state) {
    km_tokenizer_spec spec = spm_spec();
    spec.prefix = KM_PREFIX_EVERY;
    km_tokenizer *t = make(*state, &spec);
    check_tokens(t, "a", "8:0-1");
    check_tokens(t, "", "");
    check_tokens(t, " a", "9:0-1 4:1-2");
    check_bytes(t, "a</s>a", 6, KM_BOS_NEVER, true, "8:0-1 2:1-5 8:5-6");
    const int32_t ids[] = {1, 8};
    check_decoded(t, ids, 2, false, "a");
    km_tokenizer_free(t);
}

static void test_ignore_merges(void **state) {
    km_tokenizer_spec spec = bpe_spec();
    spec.n_merges = 1; /* only "lo" is built by merging */
    spec.pre = "llama-bpe";
    km_tokenizer *t = make(*state, &spec);
    check_tokens(t, "low", "8:0-2 4:2-3");
    km_tokenizer_free(t);
    spec.ignore_merges = true;
    t = make(*state, &spec);
    check_tokens(t, "low low", "9:0-3 11:3-7");
    km_tokenizer_free(t);
}

static void test_what_tokens_are(void **state) {
    km_tokenizer_spec spec = spm_spec();
    km_tokenizer *t = make(*state, &spec);
    size_t n;
    assert_int_equal(km_tokenizer_vocab_size(t), LENGTH(spm_tokens));
    assert_int_equal(km_tokenizer_bos(t), 1);
    assert_int_equal(km_tokenizer_eos(t), 2);
    assert_true(km_tokenizer_adds_bos(t));
    assert_true(km_tokenizer_is_special(t, 0) && km_tokenizer_is_special(t, 1));
    assert_false(km_tokenizer_is_special(t, 3) || km_tokenizer_is_special(t, -1));
    assert_memory_equal(km_tokenizer_piece(t, 8, &n), " a", 2);
    assert_int_equal(n, 2);
    assert_memory_equal(km_tokenizer_piece(t, 11, &n), "\xFF", 1);
    assert_null(km_tokenizer_piece(t, 14, &n));
    assert_null(km_tokenizer_piece(t, -1, &n));
    km_tokenizer_free(t);
}

static void test_hash(void **state) {
    km_tokenizer_spec spec = bpe_spec();
    km_tokenizer *a = make(*state, &spec);
    km_tokenizer *b = make(*state, &spec);
    spec.n_merges--;
    km_tokenizer *c = make(*state, &spec);
    assert_int_equal(strlen(km_tokenizer_hash(a)), 64);
    assert_string_equal(km_tokenizer_hash(a), km_tokenizer_hash(b));
    assert_string_not_equal(km_tokenizer_hash(a), km_tokenizer_hash(c));
    km_tokenizer_free(a);
    km_tokenizer_free(b);
    km_tokenizer_free(c);
    km_tokenizer_free(NULL);
}

/* ---- wrong arguments and specifications ---- */

static void test_wrong_arguments(void **state) {
    km_tokenizer_spec spec = bpe_spec();
    spec.bos = -1;
    km_tokenizer *t = make(*state, &spec);
    km_error err = KM_ERROR_INIT;
    km_tokens tokens = KM_TOKENS_INIT;
    km_encode_options options = {KM_BOS_ALWAYS, false};
    km_test_fails(km_tokenizer_encode(&tokens, t, "l", 1, &options, &err), KM_EINVAL, &err, "bos");
    char *text = NULL;
    size_t n;
    const int32_t ids[] = {2, 18};
    km_test_fails(km_tokenizer_decode(&text, &n, t, ids, 2, true, &err), KM_ERANGE, &err, "18");
    const int32_t negative[] = {-1};
    km_test_fails(km_tokenizer_decode(&text, &n, t, negative, 1, true, &err), KM_ERANGE, &err,
                  "-1");
    km_tokens_clear(&tokens);
    km_tokenizer_free(t);
}

static void refuse(km_ctx *ctx, const km_tokenizer_spec *spec, km_status want, const char *part) {
    km_tokenizer *tokenizer = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_fails(km_tokenizer_new(&tokenizer, ctx, spec, &err), want, &err, part);
    assert_null(tokenizer);
}

static void test_wrong_specifications(void **state) {
    km_tokenizer_spec spec = bpe_spec();
    km_slice tokens[LENGTH(bpe_tokens)];
    int32_t types[LENGTH(bpe_types)];
    memcpy(tokens, bpe_tokens, sizeof tokens);
    memcpy(types, bpe_types, sizeof types);
    spec.n_tokens = 0;
    refuse(*state, &spec, KM_EFORMAT, "0 tokens");
    spec = bpe_spec();
    spec.eos = 18;
    refuse(*state, &spec, KM_EFORMAT, "eos");
    spec = bpe_spec();
    spec.add_bos = true;
    spec.bos = -1;
    refuse(*state, &spec, KM_EFORMAT, "bos");
    spec = bpe_spec();
    spec.pre = "default";
    refuse(*state, &spec, KM_EUNSUPPORTED, "'default'");
    spec = bpe_spec();
    spec.types = types;
    types[3] = 7;
    refuse(*state, &spec, KM_EFORMAT, "token 3 has the unknown type 7");
    spec = bpe_spec();
    spec.tokens = tokens;
    tokens[5] = tokens[3];
    refuse(*state, &spec, KM_EFORMAT, "token 5 repeats token 3");
    spec = bpe_spec();
    spec.tokens = tokens;
    spec.merges = NULL;
    spec.n_merges = 0;
    tokens[5] = (km_slice){"plain blank", 11}; /* outside the alphabet: never made by merging */
    km_tokenizer *t = make(*state, &spec);
    km_tokenizer_free(t);
}

static void test_wrong_merges(void **state) {
    const struct {
        km_slice merge;
        const char *part;
    } cases[] = {
        {SLICE("lo"), "two pieces"},
        {SLICE("l o w"), "two pieces"},
        {SLICE(" lo"), "two pieces"},
        {SLICE("lo "), "two pieces"},
        {SLICE(""), "two pieces"},
        {SLICE("l z"), "not in the vocabulary"},
        {SLICE("w o"), "not in the vocabulary"},
        {SLICE("l o"), "merge 1 repeats merge 0"},
    };
    for (int64_t i = 0; i < LENGTH(cases); i++) {
        km_slice merges[2] = {SLICE("l o"), cases[i].merge};
        km_tokenizer_spec spec = bpe_spec();
        spec.merges = merges;
        spec.n_merges = 2;
        refuse(*state, &spec, KM_EFORMAT, cases[i].part);
    }
}

static void test_wrong_spm(void **state) {
    km_slice tokens[LENGTH(spm_tokens)];
    float scores[LENGTH(spm_scores)];
    memcpy(tokens, spm_tokens, sizeof tokens);
    memcpy(scores, spm_scores, sizeof scores);
    km_tokenizer_spec spec = spm_spec();
    spec.scores = NULL;
    refuse(*state, &spec, KM_EFORMAT, "without scores");
    spec = spm_spec();
    spec.scores = scores;
    scores[6] = __builtin_nanf("");
    refuse(*state, &spec, KM_EFORMAT, "token 6");
    spec = spm_spec();
    spec.tokens = tokens;
    tokens[10] = (km_slice)SLICE("<0xG3>");
    refuse(*state, &spec, KM_EFORMAT, "token 10");
    tokens[10] = (km_slice)SLICE("<0xff>");
    refuse(*state, &spec, KM_EFORMAT, "token 11"); /* the byte FF a second time */
}

static void test_long_added_token(void **state) {
    char text[2000];
    km_slice tokens[LENGTH(bpe_tokens)];
    memset(text, 'x', sizeof text);
    memcpy(tokens, bpe_tokens, sizeof tokens);
    tokens[0] = (km_slice){text, sizeof text};
    km_tokenizer_spec spec = bpe_spec();
    spec.tokens = tokens;
    refuse(*state, &spec, KM_EUNSUPPORTED, "2000 bytes");
}

/* ---- memory and time ---- */

static km_status use(km_ctx *ctx, const km_tokenizer_spec *spec, km_error *err) {
    static const char text[] = "low lower<u></s> ab  ab \xFF!!";
    km_tokenizer *tokenizer = NULL;
    km_tokens tokens = KM_TOKENS_INIT;
    int32_t ids[64];
    char *decoded = NULL;
    size_t n;
    km_encode_options options = {KM_BOS_MODEL, true};
    km_status status = KM_OK;
    KM_GO(km_tokenizer_new(&tokenizer, ctx, spec, err));
    status = km_tokenizer_encode(&tokens, tokenizer, text, sizeof text - 1, &options, err);
    if (status != KM_OK) {
        assert_int_equal(tokens.n, 0); /* a failed encode appends nothing */
        goto done;
    }
    assert_true(tokens.n > 5 && tokens.n < 64);
    for (int64_t i = 0; i < tokens.n; i++) {
        ids[i] = tokens.items[i].id;
    }
    KM_GO(km_tokenizer_decode(&decoded, &n, tokenizer, ids, tokens.n, true, err));
    km_text_free(tokenizer, decoded);
done:
    km_tokens_clear(&tokens);
    km_tokenizer_free(tokenizer);
    return status;
}

static km_status use_bpe(km_ctx *ctx, km_error *err) {
    km_tokenizer_spec spec = bpe_spec();
    return use(ctx, &spec, err);
}

static km_status use_spm(km_ctx *ctx, km_error *err) {
    km_tokenizer_spec spec = spm_spec();
    return use(ctx, &spec, err);
}

static void test_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(use_bpe);
    km_test_every_allocation(use_spm);
}

/* Encode a megabyte of one repeated unit; a quadratic step would take minutes. */
static void check_megabyte(const km_tokenizer *tokenizer, const char *unit) {
    size_t n = 1 << 20;
    size_t n_unit = strlen(unit);
    char *text = malloc(n);
    km_tokens tokens = KM_TOKENS_INIT;
    km_error err = KM_ERROR_INIT;
    km_encode_options options = {KM_BOS_NEVER, true};
    assert_non_null(text);
    for (size_t i = 0; i < n; i++) {
        text[i] = unit[i % n_unit];
    }
    clock_t before = clock();
    km_test_ok(km_tokenizer_encode(&tokens, tokenizer, text, n, &options, &err), &err);
    assert_true((double)(clock() - before) / CLOCKS_PER_SEC < 30.0);
    assert_true(tokens.n > 0);
    for (int64_t i = 1; i < tokens.n; i++) {
        assert_true(tokens.items[i].start >= tokens.items[i - 1].start);
    }
    assert_true(tokens.items[tokens.n - 1].end <= (int64_t)n);
    km_tokens_clear(&tokens);
    free(text);
}

static void test_long_texts(void **state) {
    static const char *const units[] = {"l",   "low", "!",  " ",    "lo\n", "<",
                                        "</s", "ab",  MARK, "\xFF", "<u>",  "a\xE4"};
    km_tokenizer_spec specs[] = {bpe_spec(), spm_spec()};
    for (size_t k = 0; k < 2; k++) {
        km_tokenizer *t = make(*state, &specs[k]);
        for (int64_t i = 0; i < LENGTH(units); i++) {
            bool silent = k == 0 && (units[i][0] == '<' || units[i][0] == 'a' ||
                                     units[i][0] == '\xE2'); /* no token for these bytes */
            if (!silent || strcmp(units[i], "<u>") == 0) {
                check_megabyte(t, units[i]);
            }
        }
        km_tokenizer_free(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_alphabet_is_a_bijection),
        cmocka_unit_test(test_decoding),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_unknown_pre_tokenizer),
        cmocka_unit_test(test_byte_level),
        cmocka_unit_test(test_missing_bytes),
        cmocka_unit_test(test_marked),
        cmocka_unit_test(test_leading_blank),
        cmocka_unit_test(test_ignore_merges),
        cmocka_unit_test(test_what_tokens_are),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_wrong_arguments),
        cmocka_unit_test(test_wrong_specifications),
        cmocka_unit_test(test_wrong_merges),
        cmocka_unit_test(test_wrong_spm),
        cmocka_unit_test(test_long_added_token),
        cmocka_unit_test(test_every_allocation),
        cmocka_unit_test(test_long_texts),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
