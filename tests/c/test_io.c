/* test_io.c: maps, GGUF, safetensors and containers: what is right is read, what is wrong is named,
 * cut at every byte and with every allocation failing. */
#include <errno.h>
#include <time.h>

#include "model_files.h"

/* ---- maps ---- */

static void test_map_reads_a_file(void **state) {
    (void)state;
    folder f = folder_new();
    char path[512];
    km_map map;
    km_error err = KM_ERROR_INIT;
    folder_write_text(&f, "a", "hello");
    km_test_ok(km_map_open(&map, folder_path(path, &f, "a"), &err), &err);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    km_test_ok(km_map_check(&map, &err), &err);
    assert_int_equal(truncate(path, 3), 0);
    km_test_fails(km_map_check(&map, &err), KM_EFORMAT, &err, "shrank from 5 to 3 bytes");
    km_map_close(&map);
    km_map_close(&map); /* closing twice is harmless */
    folder_remove(&f);
}

static void test_map_empty_file(void **state) {
    (void)state;
    folder f = folder_new();
    char path[512];
    km_map map;
    km_error err = KM_ERROR_INIT;
    folder_write_text(&f, "empty", "");
    km_test_ok(km_map_open(&map, folder_path(path, &f, "empty"), &err), &err);
    assert_int_equal(map.size, 0);
    assert_non_null(map.data);
    km_map_close(&map);
    folder_remove(&f);
}

static void test_map_refuses_what_is_no_file(void **state) {
    (void)state;
    folder f = folder_new();
    char path[512];
    km_map map;
    km_error err = KM_ERROR_INIT;
    km_test_fails(km_map_open(&map, f.path, &err), KM_EINVAL, &err, "is a folder");
    assert_int_equal(mkfifo(folder_path(path, &f, "fifo"), 0600), 0);
    km_test_fails(km_map_open(&map, path, &err), KM_EINVAL, &err, "not a regular file");
    km_test_fails(km_map_open(&map, "/dev/null", &err), KM_EINVAL, &err, "not a regular file");
    km_status status = km_map_open(&map, folder_path(path, &f, "absent"), &err);
    assert_int_equal(status, KM_ENOTFOUND);
    assert_int_equal(err.os_errno, ENOENT);
    km_map_close(&map);
    folder_remove(&f);
}

/* ---- GGUF ---- */

/* Keys of every kind and two tensors. */
static bytes small_gguf(void) {
    bytes b = {NULL, 0, 0};
    gguf_head(&b, 2, 8);
    key_u32(&b, "answer", 42);
    key_float(&b, "half", 0.5f);
    key_bool(&b, "flag", 1);
    key_string(&b, "name", "Ångström");
    put_string(&b, "big");
    put_u32(&b, U64);
    put_u64(&b, UINT64_MAX);
    put_string(&b, "negative");
    put_u32(&b, I8);
    put(&b, "\xfe", 1);
    key_array(&b, "words", STRING, 3);
    put_string(&b, "a");
    put_string(&b, "");
    put_string(&b, "ccc");
    key_array(&b, "shorts", I16, 2);
    put(&b, "\xff\xff\x07\x00", 4);
    gguf_tensor(&b, "matrix", 2, 32, 8, 32);
    gguf_tensor(&b, "vector", 0, 4, 0, 0);
    put_padding(&b, 32);
    for (int i = 0; i < 4; i++) {
        put_float(&b, (float)i);
    }
    put_padding(&b, 32);
    for (int row = 0; row < 2; row++) {
        put(&b, "\x00\x3c", 2); /* 1.0 */
        for (int i = 0; i < 32; i++) {
            signed char q = (signed char)(i - 16);
            put(&b, &q, 1);
        }
    }
    return b;
}

static void check_small_keys(const km_gguf *gguf, km_error *err) {
    int64_t integer, n;
    double real;
    bool flag, found;
    const char *text;
    size_t length;
    assert_int_equal(km_gguf_n_keys(gguf), 8);
    assert_string_equal(km_gguf_key(gguf, 0), "answer");
    assert_null(km_gguf_key(gguf, 8));
    assert_null(km_gguf_key(gguf, -1));
    km_test_ok(km_gguf_get_int(gguf, "answer", &integer, NULL, err), err);
    assert_int_equal(integer, 42);
    km_test_ok(km_gguf_get_int(gguf, "negative", &integer, &found, err), err);
    assert_true(found);
    assert_int_equal(integer, -2);
    km_test_ok(km_gguf_get_double(gguf, "half", &real, NULL, err), err);
    assert_true(real == 0.5);
    km_test_ok(km_gguf_get_double(gguf, "answer", &real, NULL, err), err);
    assert_true(real == 42.0);
    km_test_ok(km_gguf_get_bool(gguf, "flag", &flag, NULL, err), err);
    assert_true(flag);
    km_test_ok(km_gguf_get_string(gguf, "name", &text, &length, NULL, err), err);
    assert_int_equal(length, 10);
    assert_memory_equal(text, "Ångström", length);
    km_test_ok(km_gguf_get_int(gguf, "absent", &integer, &found, err), err);
    assert_false(found);
    km_test_ok(km_gguf_array_length(gguf, "words", &n, NULL, err), err);
    assert_int_equal(n, 3);
}

static void check_small_arrays(const km_gguf *gguf, km_error *err) {
    km_gguf_string words[3];
    int64_t shorts[2];
    float reals[2];
    km_test_ok(km_gguf_get_strings(gguf, "words", words, 3, err), err);
    assert_int_equal(words[1].n, 0);
    assert_memory_equal(words[2].data, "ccc", 3);
    km_test_ok(km_gguf_get_ints(gguf, "shorts", shorts, 2, err), err);
    assert_int_equal(shorts[0], -1);
    assert_int_equal(shorts[1], 7);
    km_test_fails(km_gguf_get_ints(gguf, "shorts", shorts, 1, err), KM_EFORMAT, err,
                  "key 'shorts' has 2 elements, expected 1");
    km_test_fails(km_gguf_get_floats(gguf, "shorts", reals, 2, err), KM_EFORMAT, err,
                  "array of int16");
    km_test_fails(km_gguf_get_ints(gguf, "words", shorts, 3, err), KM_EFORMAT, err,
                  "array of string");
    km_test_fails(km_gguf_get_strings(gguf, "absent", words, 3, err), KM_EFORMAT, err,
                  "key 'absent' is missing");
}

static void check_wrong_types(const km_gguf *gguf, km_error *err) {
    int64_t integer;
    double real;
    bool flag;
    const char *text;
    size_t n;
    km_test_fails(km_gguf_get_int(gguf, "name", &integer, NULL, err), KM_EFORMAT, err,
                  "has type string, expected an integer");
    km_test_fails(km_gguf_get_int(gguf, "big", &integer, NULL, err), KM_EFORMAT, err, "below 2^63");
    km_test_fails(km_gguf_get_int(gguf, "half", &integer, NULL, err), KM_EFORMAT, err, "float32");
    km_test_fails(km_gguf_get_double(gguf, "flag", &real, NULL, err), KM_EFORMAT, err, "bool");
    km_test_fails(km_gguf_get_bool(gguf, "answer", &flag, NULL, err), KM_EFORMAT, err, "uint32");
    km_test_fails(km_gguf_get_string(gguf, "words", &text, &n, NULL, err), KM_EFORMAT, err,
                  "array of string");
    km_test_fails(km_gguf_array_length(gguf, "answer", &integer, NULL, err), KM_EFORMAT, err,
                  "expected an array");
    km_test_fails(km_gguf_get_int(gguf, "absent", &integer, NULL, err), KM_EFORMAT, err,
                  "key 'absent' is missing");
}

static void test_gguf_reads_everything(void **state) {
    bytes b = small_gguf();
    km_gguf *gguf;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_gguf_parse(&gguf, *state, b.data, b.n, &err), &err);
    check_small_keys(gguf, &err);
    check_small_arrays(gguf, &err);
    check_wrong_types(gguf, &err);
    assert_int_equal(km_gguf_n_tensors(gguf), 2);
    const km_tensor_info *matrix = km_gguf_find_tensor(gguf, "matrix");
    assert_ptr_equal(matrix, km_gguf_tensor(gguf, 0));
    assert_null(km_gguf_tensor(gguf, 2));
    assert_null(km_gguf_find_tensor(gguf, "matri"));
    assert_int_equal(matrix->dtype, KM_Q8_0);
    assert_int_equal(matrix->dims[0], 2);
    assert_int_equal(matrix->dims[1], 32);
    assert_int_equal(matrix->nbytes, 68);
    const km_tensor_info *vector = km_gguf_find_tensor(gguf, "vector");
    float values[4];
    memcpy(values, vector->data, sizeof(values));
    assert_true(values[3] == 3.0f);
    km_gguf_free(gguf);
    clear(&b);
}

/* A copy of exactly n bytes, so that the address sanitizer sees any read beyond. */
static void test_gguf_cut_at_every_byte(void **state) {
    bytes b = small_gguf();
    for (size_t n = 0; n < b.n; n++) {
        unsigned char *copy = malloc(n > 0 ? n : 1);
        assert_non_null(copy);
        memcpy(copy, b.data, n);
        km_gguf *gguf;
        km_error err = KM_ERROR_INIT;
        assert_int_equal(km_gguf_parse(&gguf, *state, copy, n, &err), KM_EFORMAT);
        assert_null(gguf);
        assert_true(err.message[0] != '\0');
        free(copy);
    }
    clear(&b);
}

/* Every byte in turn set to every of a few values: any status, never a crash. */
static void test_gguf_every_byte_changed(void **state) {
    static const unsigned char VALUES[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    bytes b = small_gguf();
    int accepted = 0;
    for (size_t i = 0; i < b.n; i++) {
        unsigned char old = b.data[i];
        for (size_t k = 0; k < sizeof(VALUES); k++) {
            km_gguf *gguf;
            b.data[i] = VALUES[k];
            if (km_gguf_parse(&gguf, *state, b.data, b.n, NULL) == KM_OK) {
                km_gguf_free(gguf);
                accepted++;
            }
        }
        b.data[i] = old;
    }
    assert_in_range(accepted, 1, 5 * (int)b.n - 1);
    clear(&b);
}

static km_status parse_small(km_ctx *ctx, km_error *err) {
    bytes b = small_gguf();
    km_gguf *gguf;
    km_status status = km_gguf_parse(&gguf, ctx, b.data, b.n, err);
    km_gguf_free(gguf);
    clear(&b);
    return status;
}

static void test_gguf_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(parse_small);
}

static void expect_gguf(km_ctx *ctx, bytes *b, km_status status, const char *part) {
    km_gguf *gguf;
    km_error err = KM_ERROR_INIT;
    km_test_fails(km_gguf_parse(&gguf, ctx, b->data, b->n, &err), status, &err, part);
    clear(b);
}

static void test_gguf_names_what_is_wrong(void **state) {
    bytes b = {NULL, 0, 0};
    put_text(&b, "GGML1234");
    expect_gguf(*state, &b, KM_EFORMAT, "not a GGUF file");
    gguf_head(&b, 0, UINT64_MAX);
    expect_gguf(*state, &b, KM_EFORMAT, "number of keys is 18446744073709551615");
    gguf_head(&b, 1, 0);
    gguf_tensor(&b, "w", 0, 256, 17, 0);
    expect_gguf(*state, &b, KM_EUNSUPPORTED, "tensor 'w': offset 45: type IQ2_XS (number 17)");
    gguf_head(&b, 0, 2);
    key_u32(&b, "twice", 1);
    key_u32(&b, "twice", 2);
    expect_gguf(*state, &b, KM_EFORMAT, "key 'twice' occurs twice, at offsets 24 and 45");
    gguf_head(&b, 2, 0);
    gguf_tensor(&b, "a", 0, 8, 0, 0);
    gguf_tensor(&b, "b", 0, 8, 0, 0);
    put_padding(&b, 32);
    put_padding(&b, 32);
    put_text(&b, "0123456789012345678901234567890123456789");
    expect_gguf(*state, &b, KM_EFORMAT, "overlap");
    gguf_head(&b, 1, 0);
    gguf_tensor(&b, "w", 1LL << 40, 1LL << 40, 0, 0);
    expect_gguf(*state, &b, KM_EFORMAT, "product of the dimensions");
}

/* A quarter of a million strings, as in the vocabulary of Gemma 3. */
static void test_gguf_large_vocabulary_is_fast(void **state) {
    bytes b = {NULL, 0, 0};
    const int64_t n = 262144;
    gguf_head(&b, 0, 1);
    key_array(&b, "tokens", STRING, (uint64_t)n);
    for (int64_t i = 0; i < n; i++) {
        char word[32];
        snprintf(word, sizeof(word), "word%" PRId64, i);
        put_string(&b, word);
    }
    km_gguf *gguf;
    km_error err = KM_ERROR_INIT;
    clock_t start = clock();
    km_test_ok(km_gguf_parse(&gguf, *state, b.data, b.n, &err), &err);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 0.5);
    km_gguf_free(gguf);
    clear(&b);
}

/* Many keys and tensors: looking for duplicates must not take quadratic time. */
static void test_gguf_many_names_are_fast(void **state) {
    bytes b = {NULL, 0, 0};
    const int n = 50000;
    gguf_head(&b, (uint64_t)n, (uint64_t)n);
    for (int i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof(name), "a.name.to.compare.%d", i);
        key_u32(&b, name, 0);
    }
    for (int i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof(name), "a.name.to.compare.%d", i);
        gguf_tensor(&b, name, 0, 1, 0, 32 * (uint64_t)i);
    }
    put_padding(&b, 32);
    b.data = realloc(b.data, b.n + 32 * (size_t)n);
    assert_non_null(b.data);
    memset(b.data + b.n, 0, 32 * (size_t)n);
    b.n += 32 * (size_t)n;
    km_gguf *gguf;
    km_error err = KM_ERROR_INIT;
    clock_t start = clock();
    km_test_ok(km_gguf_parse(&gguf, *state, b.data, b.n, &err), &err);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 2.0); /* sanitizers included */
    km_gguf_free(gguf);
    clear(&b);
}

/* ---- safetensors ---- */

static bytes safetensors_of(const char *header, size_t n_data) {
    bytes b = {NULL, 0, 0};
    put_u64(&b, strlen(header));
    put_text(&b, header);
    for (size_t i = 0; i < n_data; i++) {
        unsigned char value = (unsigned char)i;
        put(&b, &value, 1);
    }
    return b;
}

static const char SMALL[] =
    "{\"__metadata__\":{\"format\":\"pt\",\"a\":[1,{\"b\":null}]},"
    "\"w\\u00e9\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[4,20]},"
    "\"h\":{\"data_offsets\":[0,4],\"dtype\":\"BF16\",\"shape\":[2]}}  ";

/* A causal mask held as bytes is found and not counted; bytes under another name are refused. */
static void test_safetensors_masks(void **state) {
    static const char TEXT[] =
        "{\"h.0.attn.bias\":{\"dtype\":\"BOOL\",\"shape\":[1,1,2,2],\"data_offsets\":[0,4]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]},"
        "\"z.attention.bias\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[8,11]}}";
    bytes b = safetensors_of(TEXT, 11);
    km_safetensors *st;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_safetensors_parse(&st, *state, b.data, b.n, &err), &err);
    assert_int_equal(km_safetensors_n_tensors(st), 1);
    assert_string_equal(km_safetensors_tensor(st, 0)->name, "a");
    assert_ptr_equal(km_safetensors_find(st, "a"), km_safetensors_tensor(st, 0));
    assert_non_null(km_safetensors_find(st, "h.0.attn.bias"));
    assert_non_null(km_safetensors_find(st, "z.attention.bias"));
    km_safetensors_free(st);
    clear(&b);
    b = safetensors_of("{\"a\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);
    km_test_fails(km_safetensors_parse(&st, *state, b.data, b.n, &err), KM_EUNSUPPORTED, &err,
                  "'BOOL' is not supported");
    clear(&b);
}

static void test_safetensors_reads_everything(void **state) {
    bytes b = safetensors_of(SMALL, 20);
    km_safetensors *st;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_safetensors_parse(&st, *state, b.data, b.n, &err), &err);
    assert_int_equal(km_safetensors_n_tensors(st), 2);
    const km_tensor_info *w = km_safetensors_find(st, "wé");
    assert_non_null(w);
    assert_int_equal(w->dtype, KM_F32);
    assert_int_equal(w->n_dims, 2);
    assert_int_equal(w->dims[1], 2);
    assert_int_equal(((const unsigned char *)w->data)[0], 4);
    assert_int_equal(km_safetensors_find(st, "h")->dtype, KM_BF16);
    assert_null(km_safetensors_find(st, "x"));
    assert_null(km_safetensors_tensor(st, 2));
    km_safetensors_free(st);
    clear(&b);
}

static void test_safetensors_cut_at_every_byte(void **state) {
    bytes b = safetensors_of(SMALL, 20);
    for (size_t n = 0; n < b.n; n++) {
        unsigned char *copy = malloc(n > 0 ? n : 1);
        assert_non_null(copy);
        memcpy(copy, b.data, n);
        km_safetensors *st;
        km_error err = KM_ERROR_INIT;
        assert_int_equal(km_safetensors_parse(&st, *state, copy, n, &err), KM_EFORMAT);
        free(copy);
    }
    clear(&b);
}

static void expect_safetensors(km_ctx *ctx, const char *header, size_t n_data, km_status status,
                               const char *part) {
    bytes b = safetensors_of(header, n_data);
    km_safetensors *st;
    km_error err = KM_ERROR_INIT;
    km_test_fails(km_safetensors_parse(&st, ctx, b.data, b.n, &err), status, &err, part);
    clear(&b);
}

static void test_safetensors_names_what_is_wrong(void **state) {
    km_ctx *ctx = *state;
    static const char F4[] = "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]";
    char text[256];
    snprintf(text, sizeof(text), "{\"a\":{%s},\"a\":{%s}}", F4, F4);
    expect_safetensors(ctx, text, 4, KM_EFORMAT, "tensor 'a' occurs twice");
    snprintf(text, sizeof(text), "{\"a\":{%s},\"b\":{%s}}", F4, F4);
    expect_safetensors(ctx, text, 4, KM_EFORMAT, "overlap");
    snprintf(text, sizeof(text), "{\"a\":{%s}}", F4);
    expect_safetensors(ctx, text, 5, KM_EFORMAT, "1 bytes at the end belong to no tensor");
    expect_safetensors(ctx, text, 3, KM_EFORMAT, "may be truncated");
    expect_safetensors(ctx, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
                       KM_EFORMAT, "hole");
    expect_safetensors(ctx, "{\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8,
                       KM_EUNSUPPORTED, "tensor 'a': offset 22: dtype 'I64'");
    expect_safetensors(ctx,
                       "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,8],"
                       "\"data_offsets\":[0,8]}}",
                       8, KM_EFORMAT, "product of the dimensions");
    expect_safetensors(ctx, "{\"a\":{\"shape\":[1]}}", 0, KM_EFORMAT, "is missing");
}

static km_status parse_safetensors(km_ctx *ctx, km_error *err) {
    bytes b = safetensors_of(SMALL, 20);
    km_safetensors *st;
    km_status status = km_safetensors_parse(&st, ctx, b.data, b.n, err);
    km_safetensors_free(st);
    clear(&b);
    return status;
}

static void test_safetensors_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(parse_safetensors);
}

/* ---- containers ---- */

static void expect_container(km_ctx *ctx, const char *path, km_status status, const char *part) {
    km_container *container;
    km_error err = KM_ERROR_INIT;
    km_status given = km_container_open(&container, ctx, path, &err);
    assert_null(container);
    if (strstr(err.message, path) == NULL) {
        fail_msg("the file is not named in '%s'", err.message);
    }
    km_test_fails(given, status, &err, part);
}

static void test_container_of_gguf(void **state) {
    folder f = folder_new();
    char path[512];
    bytes b = small_gguf();
    km_container *container;
    km_error err = KM_ERROR_INIT;
    size_t n;
    folder_write(&f, "m.gguf", b.data, b.n);
    km_test_ok(km_container_open(&container, *state, folder_path(path, &f, "m.gguf"), &err), &err);
    assert_non_null(km_container_gguf(container));
    assert_string_equal(km_container_path(container), path);
    assert_int_equal(km_container_n_tensors(container), 2);
    assert_ptr_equal(km_container_tensor(container, 1), km_container_find(container, "vector"));
    (void)km_container_config_json(container, &n);
    assert_int_equal(n, 0);
    km_test_ok(km_container_check(container, &err), &err);
    assert_int_equal(truncate(path, 100), 0);
    km_test_fails(km_container_check(container, &err), KM_EFORMAT, &err, path);
    km_container_close(container);
    clear(&b);
    folder_remove(&f);
}

static void test_container_says_what_to_do(void **state) {
    folder f = folder_new();
    char path[512];
    folder_write_text(&f, "m.bin", "PK\3\4rest");
    expect_container(*state, folder_path(path, &f, "m.bin"), KM_EUNSUPPORTED,
                     "convert to safetensors or GGUF");
    folder_write_text(&f, "x.safetensors", "????????");
    expect_container(*state, folder_path(path, &f, "x.safetensors"), KM_EINVAL, "give the folder");
    folder_write_text(&f, "empty.gguf", "");
    expect_container(*state, folder_path(path, &f, "empty.gguf"), KM_EFORMAT, "the GGUF magic");
    expect_container(*state, folder_path(path, &f, "absent.gguf"), KM_ENOTFOUND, "no such file");
    expect_container(*state, f.path, KM_ENOTFOUND, "has no config.json");
    folder_write_text(&f, "config.json", "{}");
    expect_container(*state, f.path, KM_ENOTFOUND, "neither model.safetensors nor");
    folder_write_text(&f, "pytorch_model.bin", "PK");
    expect_container(*state, f.path, KM_EUNSUPPORTED, "convert to safetensors");
    bytes b = {NULL, 0, 0};
    gguf_head(&b, 0, 1);
    key_u32(&b, "split.count", 3);
    folder_write(&f, "part.gguf", b.data, b.n);
    expect_container(*state, folder_path(path, &f, "part.gguf"), KM_EUNSUPPORTED, "merge");
    clear(&b);
    folder_remove(&f);
}

static void write_shards(const folder *f) {
    bytes one =
        safetensors_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
    bytes two =
        safetensors_of("{\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4);
    folder_write_text(f, "config.json", "{}");
    folder_write(f, "one.safetensors", one.data, one.n);
    folder_write(f, "two.safetensors", two.data, two.n);
    clear(&one);
    clear(&two);
}

static const char INDEX[] = "model.safetensors.index.json";

static km_status open_shards(km_ctx *ctx, km_error *err) {
    folder f = folder_new();
    km_container *container;
    write_shards(&f);
    folder_write_text(&f, INDEX,
                      "{\"metadata\":{\"total_size\":8},\"weight_map\":"
                      "{\"b\":\"two.safetensors\",\"a\":\"one.safetensors\"}}");
    km_status status = km_container_open(&container, ctx, f.path, err);
    if (status == KM_OK) {
        assert_int_equal(km_container_n_tensors(container), 2);
        assert_int_equal(km_container_find(container, "a")->dtype, KM_F32);
        assert_int_equal(km_container_find(container, "b")->dtype, KM_F16);
        assert_null(km_container_find(container, "c"));
        assert_null(km_container_tensor(container, 2));
        assert_null(km_container_gguf(container));
    }
    km_container_close(container);
    folder_remove(&f);
    return status;
}

static void test_container_of_shards(void **state) {
    km_error err = KM_ERROR_INIT;
    km_test_ok(open_shards(*state, &err), &err);
    km_test_every_allocation(open_shards);
}

static void test_index_names_what_is_wrong(void **state) {
    static const struct {
        const char *map;
        km_status status;
        const char *part;
    } CASES[] = {
        {"{\"a\":\"../one.safetensors\"}", KM_EFORMAT, "not a plain file name"},
        {"{\"a\":\"/etc/passwd\"}", KM_EFORMAT, "not a plain file name"},
        {"{\"a\":\"one..safetensors\"}", KM_EFORMAT, "not a plain file name"},
        {"{\"a\":\"\"}", KM_EFORMAT, "not a plain file name"},
        {"{\"a\":\"one\\u0000\"}", KM_EFORMAT, "NUL in a string"},
        {"{\"a\":\"three.safetensors\"}", KM_ENOTFOUND, "no such file"},
        {"{\"b\":\"one.safetensors\"}", KM_EFORMAT, "tensor 'b' is not in one.safetensors"},
        {"{\"a\":3}", KM_EFORMAT, "expected '\"'"},
        {"[]", KM_EFORMAT, "expected '{'"},
        {"{}, \"weight_map\": {}", KM_EFORMAT, "'weight_map' occurs twice"},
    };
    folder f = folder_new();
    write_shards(&f);
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        char text[160];
        snprintf(text, sizeof(text), "{\"weight_map\": %s}", CASES[i].map);
        folder_write_text(&f, INDEX, text);
        expect_container(*state, f.path, CASES[i].status, CASES[i].part);
    }
    folder_write_text(&f, INDEX, "{\"metadata\": {}}");
    expect_container(*state, f.path, KM_EFORMAT, "'weight_map' is missing");
    folder_remove(&f);
}

static void test_tensor_in_two_shards(void **state) {
    folder f = folder_new();
    bytes b = safetensors_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                             "\"c\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
                             8);
    write_shards(&f);
    folder_write(&f, "two.safetensors", b.data, b.n);
    folder_write_text(&f, INDEX,
                      "{\"weight_map\":{\"c\":\"two.safetensors\",\"a\":\"one.safetensors\"}}");
    expect_container(*state, f.path, KM_EFORMAT, "tensor 'a' is in two files");
    clear(&b);
    folder_remove(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map_reads_a_file),
        cmocka_unit_test(test_map_empty_file),
        cmocka_unit_test(test_map_refuses_what_is_no_file),
        cmocka_unit_test(test_gguf_reads_everything),
        cmocka_unit_test(test_gguf_cut_at_every_byte),
        cmocka_unit_test(test_gguf_every_byte_changed),
        cmocka_unit_test(test_gguf_every_allocation),
        cmocka_unit_test(test_gguf_names_what_is_wrong),
        cmocka_unit_test(test_gguf_large_vocabulary_is_fast),
        cmocka_unit_test(test_gguf_many_names_are_fast),
        cmocka_unit_test(test_safetensors_reads_everything),
        cmocka_unit_test(test_safetensors_masks),
        cmocka_unit_test(test_safetensors_cut_at_every_byte),
        cmocka_unit_test(test_safetensors_names_what_is_wrong),
        cmocka_unit_test(test_safetensors_every_allocation),
        cmocka_unit_test(test_container_of_gguf),
        cmocka_unit_test(test_container_says_what_to_do),
        cmocka_unit_test(test_container_of_shards),
        cmocka_unit_test(test_index_names_what_is_wrong),
        cmocka_unit_test(test_tensor_in_two_shards),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
