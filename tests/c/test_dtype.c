/* test_dtype.c: stored blocks to float32, bit for bit as the `gguf` package does it
 * (golden_data/dequantised.bin, written by oracle/make_dequant.py). */
#include "km_test.h"

#include "tensor/dtype.h"

#define MAX_TYPES 16

typedef struct golden {
    char name[9];
    uint32_t n_elements, n_bytes;
    const unsigned char *stored, *values;
} golden;

typedef struct golden_file {
    unsigned char *bytes;
    golden types[MAX_TYPES];
    uint32_t n_types;
} golden_file;

static uint32_t u32_at(const unsigned char *p) {
    uint32_t value;
    memcpy(&value, p, sizeof(value));
    return value;
}

static int read_golden(void **state) {
    golden_file *file = calloc(1, sizeof(*file));
    FILE *stream = fopen(KM_TEST_DATA "/golden_data/dequantised.bin", "rb");
    assert_non_null(file);
    assert_non_null(stream);
    assert_int_equal(fseek(stream, 0, SEEK_END), 0);
    size_t size = (size_t)ftell(stream);
    rewind(stream);
    file->bytes = malloc(size);
    assert_non_null(file->bytes);
    assert_int_equal(fread(file->bytes, 1, size, stream), size);
    fclose(stream);
    assert_memory_equal(file->bytes, "KMDQ", 4);
    file->n_types = u32_at(file->bytes + 4);
    assert_true(file->n_types <= MAX_TYPES);
    const unsigned char *p = file->bytes + 8;
    for (uint32_t i = 0; i < file->n_types; i++) {
        golden *g = &file->types[i];
        memcpy(g->name, p, 8);
        g->n_elements = u32_at(p + 8);
        g->n_bytes = u32_at(p + 12);
        g->stored = p + 16;
        g->values = g->stored + g->n_bytes;
        p = g->values + g->n_elements * sizeof(float);
    }
    assert_ptr_equal(p, file->bytes + size);
    *state = file;
    return 0;
}

static int free_golden(void **state) {
    golden_file *file = *state;
    free(file->bytes);
    free(file);
    return 0;
}

static const golden *find(const golden_file *file, const char *name) {
    for (uint32_t i = 0; i < file->n_types; i++) {
        if (strcmp(file->types[i].name, name) == 0) {
            return &file->types[i];
        }
    }
    fail_msg("no golden blocks of type %s", name);
    return NULL;
}

static void test_every_type_bit_for_bit(void **state) {
    for (int d = 0; d < KM_DTYPE_COUNT; d++) {
        const km_dtype_traits *traits = km_dtype_get((km_dtype)d);
        const golden *g = find(*state, traits->name);
        assert_int_equal(g->n_elements % (uint32_t)traits->block_elements, 0);
        assert_int_equal(g->n_bytes, g->n_elements / (uint32_t)traits->block_elements *
                                         (uint32_t)traits->block_bytes);
        float *out = malloc(g->n_elements * sizeof(float));
        assert_non_null(out);
        traits->to_f32(out, g->stored, g->n_elements);
        if (memcmp(out, g->values, g->n_elements * sizeof(float)) != 0) {
            fail_msg("type %s differs", traits->name);
        }
        free(out);
    }
}

/* Blocks lie at any address inside a file. */
static void test_unaligned_source(void **state) {
    for (int d = 0; d < KM_DTYPE_COUNT; d++) {
        const km_dtype_traits *traits = km_dtype_get((km_dtype)d);
        const golden *g = find(*state, traits->name);
        unsigned char *shifted = malloc(g->n_bytes + 1);
        float *out = malloc(g->n_elements * sizeof(float));
        assert_non_null(shifted);
        assert_non_null(out);
        memcpy(shifted + 1, g->stored, g->n_bytes);
        traits->to_f32(out, shifted + 1, g->n_elements);
        assert_memory_equal(out, g->values, g->n_elements * sizeof(float));
        free(shifted);
        free(out);
    }
}

static void test_no_elements(void **state) {
    (void)state;
    float untouched = 7.0f;
    for (int d = 0; d < KM_DTYPE_COUNT; d++) {
        km_dtype_get((km_dtype)d)->to_f32(&untouched, "", 0);
    }
    assert_true(untouched == 7.0f);
}

static void test_numbers_and_names(void **state) {
    (void)state;
    km_dtype dtype;
    for (int d = 0; d < KM_DTYPE_COUNT; d++) {
        const km_dtype_traits *traits = km_dtype_get((km_dtype)d);
        assert_true(km_dtype_from_ggml(&dtype, (uint32_t)traits->ggml_type));
        assert_int_equal(dtype, d);
        assert_string_equal(km_ggml_type_name((uint32_t)traits->ggml_type), traits->name);
    }
    assert_false(km_dtype_from_ggml(&dtype, 17));
    assert_string_equal(km_ggml_type_name(17), "IQ2_XS");
    assert_string_equal(km_ggml_type_name(31), "type 31");
    assert_false(km_dtype_from_ggml(&dtype, UINT32_MAX));
    assert_string_equal(km_ggml_type_name(UINT32_MAX), "an unknown type");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type_bit_for_bit),
        cmocka_unit_test(test_unaligned_source),
        cmocka_unit_test(test_no_elements),
        cmocka_unit_test(test_numbers_and_names),
    };
    return cmocka_run_group_tests(tests, read_golden, free_golden);
}
