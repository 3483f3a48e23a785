/* test_base.c: errors, memory, arena, context options, ticks, SHA-256, UTF-8, JSON. */
#include <cblas.h>
#include <errno.h>
#include <unistd.h>

#include "base/json.h"
#include "km_test.h"

/* ---- errors ---- */

static void test_first_error_wins(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    assert_int_equal(KM_SET(&err, KM_EINVAL, "first %d", 1), KM_EINVAL);
    assert_int_equal(KM_SET(&err, KM_EIO, "second"), KM_EIO);
    assert_int_equal(err.code, KM_EINVAL);
    assert_string_equal(err.message, "first 1");
    assert_string_equal(err.func, "test_first_error_wins");
    km_error_prefix(&err, "row %d", 7);
    assert_string_equal(err.message, "row 7: first 1");
    km_error_clear(&err);
    assert_int_equal(err.code, KM_OK);
    km_error_prefix(&err, "nothing is set");
    assert_string_equal(err.message, "");
    assert_int_equal(KM_SET(NULL, KM_ERANGE, "nobody listens"), KM_ERANGE);
}

static void test_errno_text(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    assert_int_equal(km_error_set_errno(&err, ENOENT, __FILE__, __func__, __LINE__, "a.gguf"),
                     KM_EIO);
    assert_int_equal(err.os_errno, ENOENT);
    assert_string_equal(err.message, "a.gguf: No such file or directory");
    assert_string_equal(km_status_name(KM_EINTERNAL), "KM_EINTERNAL");
    assert_string_equal(km_status_name((km_status)99), "KM_UNKNOWN");
}

static void test_truncation_keeps_utf8(void **state) {
    (void)state;
    char text[1024];
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'x', shift);
        for (size_t i = shift; i + 4 < sizeof text; i += 4) {
            memcpy(text + i, "\xF0\x9F\x98\x80", 5);
        }
        km_error err = KM_ERROR_INIT;
        assert_int_equal(KM_SET(&err, KM_EINVAL, "%s", text), KM_EINVAL);
        assert_true(km_utf8_valid(err.message, strlen(err.message)));
        assert_true(strlen(err.message) >= 508);
        km_error_prefix(&err, "p\xC3\xA9");
        assert_true(km_utf8_valid(err.message, strlen(err.message)));
    }
}

/* ---- memory ---- */

static void test_blocks(void **state) {
    km_ctx *ctx = *state;
    km_error err = KM_ERROR_INIT;
    void *ptr = NULL;
    km_test_ok(km_alloc(&ptr, ctx, 0, &err), &err);
    assert_non_null(ptr);
    assert_int_equal((uintptr_t)ptr % 64, 0);
    km_test_ok(km_realloc(&ptr, ctx, 1000, &err), &err);
    memset(ptr, 7, 1000);
    km_test_ok(km_realloc(&ptr, ctx, 100000, &err), &err);
    assert_int_equal(((unsigned char *)ptr)[999], 7);
    assert_int_equal((uintptr_t)ptr % 64, 0);
    km_test_fails(km_realloc(&ptr, ctx, SIZE_MAX - 8, &err), KM_ENOMEM, &err, "cannot allocate");
    assert_int_equal(((unsigned char *)ptr)[999], 7);
    km_free(ctx, ptr);
    km_free(ctx, NULL);
    void *array = NULL;
    km_test_ok(km_alloc_array(&array, ctx, 100, 8, &err), &err);
    for (int i = 0; i < 800; i++) {
        assert_int_equal(((unsigned char *)array)[i], 0);
    }
    km_free(ctx, array);
    km_test_fails(km_alloc_array(&array, ctx, INT64_MAX, 16, &err), KM_ENOMEM, &err, "overflow");
    km_test_fails(km_alloc_array(&array, ctx, -1, 16, &err), KM_EINVAL, &err, "negative");
}

static void test_sizes(void **state) {
    (void)state;
    size_t out = 5;
    assert_true(km_size_mul(&out, 6, 7));
    assert_int_equal(out, 42);
    assert_false(km_size_mul(&out, SIZE_MAX, 2));
    assert_false(km_size_add(&out, SIZE_MAX, 1));
    assert_int_equal(out, 42);
    assert_true(km_size_add(&out, SIZE_MAX - 1, 1));
}

static void test_text_copies(void **state) {
    km_ctx *ctx = *state;
    km_error err = KM_ERROR_INIT;
    char *text = NULL;
    km_test_ok(km_strdup(&text, ctx, "Vienna", &err), &err);
    assert_string_equal(text, "Vienna");
    km_free(ctx, text);
    km_test_ok(km_strndup(&text, ctx, NULL, 0, &err), &err);
    assert_string_equal(text, "");
    km_free(ctx, text);
    km_test_ok(km_strndup(&text, ctx, "Vienna", 3, &err), &err);
    assert_string_equal(text, "Vie");
    km_free(ctx, text);
}

static km_status arena_body(km_ctx *ctx, km_error *err) {
    km_arena *arena = NULL;
    km_status status = KM_OK;
    char *text = NULL;
    void *ptr = NULL;
    KM_GO(km_arena_new(&arena, ctx, err));
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < 300; i++) {
            KM_GO(km_arena_alloc(&ptr, arena, i * 50, err));
            assert_int_equal((uintptr_t)ptr % 64, 0);
            memset(ptr, (int)i, i * 50);
            KM_GO(km_arena_strndup(&text, arena, "Danube", i % 7, err));
            assert_int_equal(strlen(text), i % 7);
        }
        KM_GO(km_arena_alloc(&ptr, arena, 10000000, err));
        memset(ptr, 1, 10000000);
        km_arena_reset(arena);
    }
done:
    km_arena_free(arena);
    return status;
}

static void test_arena(void **state) {
    (void)state;
    km_test_every_allocation(arena_body);
}

static void test_arena_settles(void **state) {
    (void)state;
    km_test_memory memory;
    km_allocator allocator = km_test_failing_allocator(&memory, -1);
    km_ctx_options options = {1, NULL, &allocator};
    km_ctx *ctx = NULL;
    km_arena *arena = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_ctx_new(&ctx, &options, &err), &err);
    km_test_ok(km_arena_new(&arena, ctx, &err), &err);
    long long settled = 0;
    for (int round = 0; round < 5; round++) {
        void *ptr = NULL;
        km_test_ok(km_arena_alloc(&ptr, arena, 1000000, &err), &err);
        settled = round == 0 ? atomic_load(&memory.calls) : settled;
        km_arena_reset(arena);
    }
    assert_int_equal(atomic_load(&memory.calls), settled);
    km_test_fails(km_arena_alloc(&(void *){NULL}, arena, SIZE_MAX, &err), KM_ENOMEM, &err,
                  "cannot allocate");
    km_arena_free(arena);
    km_arena_free(NULL);
    km_ctx_free(ctx);
    assert_int_equal(atomic_load(&memory.live_blocks), 0);
}

static void test_memory_available(void **state) {
    (void)state;
    size_t available = km_memory_available();
    size_t total = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGE_SIZE);
    assert_true(available > 1024 * 1024);
    assert_true(available <= total);
}

/* ---- context ---- */

static const char *const cpus[] = KM_TEST_CPUS;

static void test_ctx_options(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    km_ctx *ctx = NULL;
    km_test_fails(km_ctx_new(&ctx, &(km_ctx_options){-1, NULL, NULL}, &err), KM_EINVAL, &err,
                  "n_threads");
    km_test_fails(km_ctx_new(&ctx, &(km_ctx_options){1, "v2", NULL}, &err), KM_EINVAL, &err,
                  "it must be " KM_TEST_CPU_NAMES);
    km_test_fails(km_ctx_new(&ctx, &(km_ctx_options){1, "", NULL}, &err), KM_EINVAL, &err,
                  "it must be " KM_TEST_CPU_NAMES);
    km_test_ok(km_ctx_new(&ctx, &(km_ctx_options){3, cpus[0], NULL}, &err), &err);
    assert_string_equal(km_ctx_cpu(ctx), cpus[0]);
    assert_int_equal(km_ctx_threads(ctx), 3);
    assert_true(strlen(km_ctx_blas_core(ctx)) > 0);
    assert_int_equal(openblas_get_num_threads(), 1);
    km_ctx_free(ctx);
    km_ctx_free(NULL);
    assert_string_equal(km_version(), KM_VERSION);
}

static void test_ctx_environment(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    km_ctx *ctx = NULL;
    assert_int_equal(setenv("KM_CPU", cpus[0], 1), 0);
    assert_int_equal(setenv("KM_THREADS", "5", 1), 0);
    km_test_ok(km_ctx_new(&ctx, NULL, &err), &err);
    assert_string_equal(km_ctx_cpu(ctx), cpus[0]);
    assert_int_equal(km_ctx_threads(ctx), 5);
    km_ctx_free(ctx);
    assert_int_equal(setenv("KM_THREADS", "5x", 1), 0);
    km_test_fails(km_ctx_new(&ctx, NULL, &err), KM_EINVAL, &err, "KM_THREADS");
    assert_int_equal(setenv("KM_THREADS", "0", 1), 0);
    km_test_fails(km_ctx_new(&ctx, NULL, &err), KM_EINVAL, &err, "KM_THREADS");
    assert_int_equal(unsetenv("KM_THREADS"), 0);
    assert_int_equal(setenv("KM_CPU", "avx", 1), 0);
    km_test_fails(km_ctx_new(&ctx, NULL, &err), KM_EINVAL, &err, "KM_CPU");
    assert_int_equal(unsetenv("KM_CPU"), 0);
}

/* Asking for the best level is fine; asking for one above it is an error, never a fallback. */
static void test_cpu_levels(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    km_ctx *best = km_test_ctx(1);
    for (int i = 0; i < KM_TEST_N_CPUS; i++) {
        km_ctx *ctx = NULL;
        km_status status = km_ctx_new(&ctx, &(km_ctx_options){1, cpus[i], NULL}, &err);
        if (strcmp(cpus[i], km_ctx_cpu(best)) <= 0) {
            km_test_ok(status, &err);
            assert_string_equal(km_ctx_cpu(ctx), cpus[i]);
            km_ctx_free(ctx);
        } else {
            km_test_fails(status, KM_EUNSUPPORTED, &err, cpus[i]);
        }
    }
    km_ctx_free(best);
}

static km_status count_ticks(void *payload, int64_t done, int64_t total) {
    int *n = payload;
    assert_true(done <= total);
    (*n)++;
    return KM_OK;
}

static km_status refuse(void *payload, int64_t done, int64_t total) {
    (void)done;
    (void)total;
    return *(km_status *)payload;
}

static void test_ticks(void **state) {
    km_ctx *ctx = *state;
    km_error err = KM_ERROR_INIT;
    km_tick tick;
    int n = 0;
    km_tick_init(&tick, ctx, count_ticks, &n, 1000);
    for (int64_t i = 1; i <= 1000; i++) {
        km_test_ok(km_tick_update(&tick, i, &err), &err);
    }
    assert_true(n >= 1 && n < 100);
    km_ctx_cancel(ctx);
    km_test_fails(km_tick_update(&tick, 1000, &err), KM_ECANCELLED, &err, "cancelled");
    km_test_ok(km_tick_update(&tick, 1000, &err), &err);
    km_ctx_cancel(ctx);
    km_tick_init(&tick, ctx, NULL, NULL, 0);
    km_test_ok(km_tick_update(&tick, 5, &err), &err);
    km_status answer = KM_ECALLBACK;
    km_tick_init(&tick, ctx, refuse, &answer, 1);
    km_test_fails(km_tick_update(&tick, 1, &err), KM_ECALLBACK, &err, "callback");
    answer = KM_ECANCELLED;
    km_test_fails(km_tick_update(&tick, 1, &err), KM_ECANCELLED, &err, "cancelled");
}

/* ---- SHA-256: the examples of FIPS 180-4 and of NIST's CAVP ---- */

static void check_sha(const char *text, size_t n, size_t times, const char *want) {
    km_sha256 sha;
    unsigned char digest[32];
    char hex[65];
    km_sha256_init(&sha);
    for (size_t i = 0; i < times; i++) {
        km_sha256_update(&sha, text, n);
    }
    km_sha256_final(&sha, digest);
    km_sha256_hex(hex, digest);
    assert_string_equal(hex, want);
}

static void test_sha256(void **state) {
    (void)state;
    check_sha("", 0, 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check_sha("abc", 3, 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check_sha("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, 1,
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    check_sha("aaaaaaaaaa", 10, 100000,
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    check_sha("a", 1, 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* Cutting the input anywhere gives the same digest. */
static void test_sha256_pieces(void **state) {
    (void)state;
    unsigned char data[200], whole[32], pieces[32];
    for (int i = 0; i < 200; i++) {
        data[i] = (unsigned char)(i * 7);
    }
    for (size_t n = 0; n <= 200; n++) {
        km_sha256 a, b;
        km_sha256_init(&a);
        km_sha256_update(&a, data, n);
        km_sha256_final(&a, whole);
        km_sha256_init(&b);
        km_sha256_update(&b, data, n / 3);
        km_sha256_update(&b, data + n / 3, n - n / 3);
        km_sha256_final(&b, pieces);
        assert_memory_equal(whole, pieces, 32);
        km_sha256_init(&b);
        b.plain = true; /* without the processor's instructions, where it has them */
        km_sha256_update(&b, data, n);
        km_sha256_final(&b, pieces);
        assert_memory_equal(whole, pieces, 32);
    }
}

/* ---- UTF-8 ---- */

static void test_utf8(void **state) {
    (void)state;
    const char *const good[] = {"",
                                "a",
                                "\xC2\x80",
                                "\xE0\xA0\x80",
                                "\xED\x9F\xBF",
                                "\xEE\x80\x80",
                                "\xF0\x90\x80\x80",
                                "\xF4\x8F\xBF\xBF",
                                "h\xC3\xA9\xE4\xB8\xAD"};
    const char *const bad[] = {"\x80",
                               "\xC0\x80",
                               "\xC1\xBF",
                               "\xC3",
                               "\xE0\x9F\xBF",
                               "\xED\xA0\x80",
                               "\xE4\xB8",
                               "\xF0\x8F\xBF\xBF",
                               "\xF5\x80\x80\x80",
                               "\xF4\x90\x80\x80",
                               "\xFF",
                               "a\xC3(",
                               "\xE4\xB8\x41",
                               "\xF0\x9F\x98"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(km_utf8_valid(good[i], strlen(good[i])));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(km_utf8_valid(bad[i], strlen(bad[i])));
    }
    assert_true(km_utf8_valid("a\0b", 3));
}

/* ---- JSON ---- */

static km_status parse(const char *text, size_t n, km_error *err) {
    json_t *root = NULL;
    km_status status = km_json_parse(&root, text, n, err);
    json_decref(root);
    return status;
}

static void test_json(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    json_t *root = NULL;
    const char *text = "{\"a\": [1, 2.5, \"x\\u0000y\"], \"b\": null}";
    km_test_ok(km_json_parse(&root, text, strlen(text), &err), &err);
    assert_int_equal(json_string_length(json_array_get(json_object_get(root, "a"), 2)), 3);
    json_decref(root);
    const char *const bad[] = {"",      "{",          "{\"a\":1,\"a\":2}",      "[1,]",
                               "[1] x", "[\"\xFF\"]", "[99999999999999999999]", "{\"a\\u0000b\":1}",
                               "3"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        km_test_fails(parse(bad[i], strlen(bad[i]), &err), KM_EFORMAT, &err, "line 1, column");
    }
    km_test_fails(parse("[\n\n  oops]", 10, &err), KM_EFORMAT, &err, "line 3, column");
    km_test_fails(parse("{}", KM_JSON_MAX_BYTES + 1, &err), KM_ERANGE, &err, "at most");
}

static void test_json_nesting(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    km_error err = KM_ERROR_INIT;
    char *text = test_malloc(2 * DEPTH);
    memset(text, '[', DEPTH);
    memset(text + DEPTH, ']', DEPTH);
    km_test_fails(parse(text, 2 * DEPTH, &err), KM_EFORMAT, &err, "depth");
    km_test_ok(parse(text + DEPTH - 1000, 2000, &err), &err);
    test_free(text);
}

/* What a file or a library puts into a message need not be UTF-8; the message is. */
static void test_messages_are_utf8(void **state) {
    (void)state;
    km_error err = KM_ERROR_INIT;
    (void)KM_SET(&err, KM_EFORMAT, "near '\xe3' and \xff, \xc3\xa9 stays");
    assert_string_equal(err.message, "near '?' and ?, \xc3\xa9 stays");
    km_error_prefix(&err, "\x1b[1m\n");
    assert_string_equal(err.message, "?[1m?: near '?' and ?, \xc3\xa9 stays");
    km_error_clear(&err);
    (void)KM_SET(&err, KM_EFORMAT, "near '\xe3' and \xff, \xc3\xa9 stays");
    km_error_prefix(&err, "a\x80"
                          "b");
    assert_string_equal(err.message, "a?b: near '?' and ?, \xc3\xa9 stays");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_are_utf8),
        cmocka_unit_test(test_first_error_wins),
        cmocka_unit_test(test_errno_text),
        cmocka_unit_test(test_truncation_keeps_utf8),
        cmocka_unit_test_setup_teardown(test_blocks, km_test_setup, km_test_teardown),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test_setup_teardown(test_text_copies, km_test_setup, km_test_teardown),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_arena_settles),
        cmocka_unit_test(test_memory_available),
        cmocka_unit_test(test_ctx_options),
        cmocka_unit_test(test_ctx_environment),
        cmocka_unit_test(test_cpu_levels),
        cmocka_unit_test_setup_teardown(test_ticks, km_test_setup, km_test_teardown),
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_sha256_pieces),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_json_nesting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
