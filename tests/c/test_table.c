/* test_table.c: typed columns, nulls, appending, and the Arrow C stream consumed by hand. */
#include <math.h>

#include "km/arrow.h"
#include "km/table.h"
#include "km_test.h"

static const km_column_spec specs[] = {
    {"rank", KM_COLUMN_INT64, "rank", "Place of the answer."},
    {"logprob", KM_COLUMN_DOUBLE, "nats", "Log-probability of the answer."},
    {"exact", KM_COLUMN_BOOL, "", "Whether the answer led."},
    {"subject", KM_COLUMN_TEXT, NULL, NULL},
};

/* Rows whose number is a multiple of 5 stay null; the others hold values made from the number. */
static km_status fill(km_table *table, int64_t begin, int64_t end, km_error *err) {
    for (int64_t i = begin; i < end; i++) {
        KM_TRY(km_table_add_row(table, err));
        if (i % 5 == 0) {
            continue;
        }
        char text[32];
        int n = snprintf(text, sizeof text, "fact %d \xC3\xA9", (int)i);
        KM_TRY(km_table_set_int64(table, 0, i * 3, err));
        KM_TRY(km_table_set_double(table, 1, -0.5 * (double)i, err));
        KM_TRY(km_table_set_bool(table, 2, i % 3 == 0, err));
        KM_TRY(km_table_set_text(table, 3, "a longer text that is replaced", -1, err));
        KM_TRY(km_table_set_text(table, 3, text, n, err));
    }
    return KM_OK;
}

static void check(const km_table *table, int64_t n) {
    assert_int_equal(km_table_rows(table), n);
    for (int64_t i = 0; i < n; i++) {
        char text[32] = "";
        bool null = i % 5 == 0;
        int64_t length = -1;
        for (int column = 0; column < 4; column++) {
            assert_int_equal(km_table_is_null(table, column, i), null);
        }
        if (!null) {
            (void)snprintf(text, sizeof text, "fact %d \xC3\xA9", (int)i);
        }
        assert_int_equal(km_table_int64(table, 0, i), null ? 0 : i * 3);
        double want = -0.5 * (double)i;
        double got = km_table_double(table, 1, i);
        assert_true(null ? isnan(got) : got == want);
        assert_int_equal(km_table_bool(table, 2, i), !null && i % 3 == 0);
        assert_string_equal(km_table_text(table, 3, i, &length), text);
        assert_int_equal(length, strlen(text));
    }
}

static void test_cells(void **state) {
    km_table *table = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_table_new(&table, *state, specs, 4, &err), &err);
    assert_int_equal(km_table_rows(table), 0);
    km_test_ok(fill(table, 0, 1000, &err), &err);
    check(table, 1000);
    assert_int_equal(km_table_columns(table), 4);
    assert_int_equal(km_table_find(table, "exact"), 2);
    assert_int_equal(km_table_find(table, "nothing"), -1);
    assert_string_equal(km_table_spec(table, 1)->unit, "nats");
    assert_string_equal(km_table_spec(table, 3)->unit, "");
    assert_null(km_table_spec(table, 4));
    assert_true(km_table_is_null(table, 0, 1000));
    assert_true(km_table_is_null(table, 9, 1));
    assert_int_equal(km_table_int64(table, 1, 1), 0);
    assert_true(isnan(km_table_double(table, 0, 1)));
    assert_string_equal(km_table_text(table, 0, 1, NULL), "");
    km_table_free(table);
    km_table_free(NULL);
}

static void test_refusals(void **state) {
    km_table *table = NULL;
    km_error err = KM_ERROR_INIT;
    const km_column_spec twice[] = {{"a", KM_COLUMN_BOOL, "", ""}, {"a", KM_COLUMN_TEXT, "", ""}};
    const km_column_spec unnamed = {"", KM_COLUMN_BOOL, "", ""};
    const km_column_spec odd = {"x", (km_column_type)9, "", ""};
    km_test_fails(km_table_new(&table, *state, twice, 2, &err), KM_EINVAL, &err, "'a'");
    km_test_fails(km_table_new(&table, *state, &unnamed, 1, &err), KM_EINVAL, &err, "no name");
    km_test_fails(km_table_new(&table, *state, &odd, 1, &err), KM_EINVAL, &err, "type");
    km_test_fails(km_table_new(&table, *state, specs, 0, &err), KM_EINVAL, &err, "0 columns");
    km_test_ok(km_table_new(&table, *state, specs, 4, &err), &err);
    km_test_fails(km_table_set_int64(table, 0, 1, &err), KM_EINVAL, &err, "no cell");
    km_test_ok(km_table_add_row(table, &err), &err);
    km_test_fails(km_table_set_int64(table, 4, 1, &err), KM_EINVAL, &err, "column 4");
    km_test_fails(km_table_set_int64(table, 1, 1, &err), KM_EINVAL, &err, "'logprob' holds double");
    km_test_fails(km_table_set_text(table, 3, "\xFF", 1, &err), KM_EINVAL, &err, "UTF-8");
    km_test_ok(km_table_set_text(table, 3, "a\0b", 3, &err), &err);
    int64_t n = 0;
    assert_memory_equal(km_table_text(table, 3, 0, &n), "a\0b", 4);
    assert_int_equal(n, 3);
    km_test_fails(km_table_append(table, table, &err), KM_EINVAL, &err, "itself");
    km_table_free(table);
}

static void test_append(void **state) {
    km_table *table = NULL, *more = NULL, *other = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_table_new(&table, *state, specs, 4, &err), &err);
    for (int64_t begin = 0; begin < 100; begin += 25) {
        km_test_ok(km_table_new(&more, *state, specs, 4, &err), &err);
        km_test_ok(fill(more, begin, begin + 25, &err), &err);
        km_test_ok(km_table_append(table, more, &err), &err);
        km_table_free(more);
    }
    check(table, 100);
    km_test_ok(km_table_new(&other, *state, specs, 3, &err), &err);
    km_test_fails(km_table_append(table, other, &err), KM_EINVAL, &err, "different columns");
    km_test_ok(fill(table, 100, 120, &err), &err);
    check(table, 120);
    km_table_free(other);
    km_table_free(table);
}

/* ---- Arrow ---- */

static bool bit(const void *bits, int64_t i) {
    return (((const unsigned char *)bits)[i / 8] >> (i % 8) & 1) != 0;
}

static void check_schema(const struct ArrowSchema *schema) {
    const char *const formats[] = {"l", "g", "b", "U"};
    assert_string_equal(schema->format, "+s");
    assert_int_equal(schema->n_children, 4);
    for (int i = 0; i < 4; i++) {
        assert_string_equal(schema->children[i]->format, formats[i]);
        assert_string_equal(schema->children[i]->name, specs[i].name);
        assert_int_equal(schema->children[i]->flags, ARROW_FLAG_NULLABLE);
    }
    const unsigned char want[] = "\2\0\0\0\4\0\0\0unit\4\0\0\0nats\13\0\0\0description"
                                 "\36\0\0\0Log-probability of the answer.";
    assert_memory_equal(schema->children[1]->metadata, want, sizeof want - 1);
}

static void check_array(const struct ArrowArray *array, int64_t n) {
    assert_int_equal(array->length, n);
    assert_int_equal(array->n_children, 4);
    const int64_t *ranks = array->children[0]->buffers[1];
    const double *logprobs = array->children[1]->buffers[1];
    const void *exact = array->children[2]->buffers[1];
    const int64_t *offsets = array->children[3]->buffers[1];
    const char *text = array->children[3]->buffers[2];
    assert_int_equal(array->children[3]->n_buffers, 3);
    for (int64_t i = 0; i < n; i++) {
        bool null = i % 5 == 0;
        char want[32] = "";
        if (!null) {
            (void)snprintf(want, sizeof want, "fact %d \xC3\xA9", (int)i);
        }
        for (int c = 0; c < 4; c++) {
            assert_int_equal(bit(array->children[c]->buffers[0], i), !null);
        }
        assert_int_equal(ranks[i], null ? 0 : i * 3);
        assert_true(null || logprobs[i] == -0.5 * (double)i);
        assert_int_equal(bit(exact, i), !null && i % 3 == 0);
        assert_int_equal(offsets[i + 1] - offsets[i], strlen(want));
        assert_memory_equal(text + offsets[i], want, strlen(want));
    }
    assert_int_equal(array->children[0]->null_count, (n + 4) / 5);
}

static void test_stream(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    km_table *table = NULL;
    km_error err = KM_ERROR_INIT;
    struct ArrowArrayStream stream;
    struct ArrowSchema schema;
    struct ArrowArray array, end;
    km_test_ok(km_table_new(&table, ctx, specs, 4, &err), &err);
    km_test_ok(fill(table, 0, 203, &err), &err);
    km_test_ok(km_table_export_stream(&stream, table, &err), &err);
    km_test_fails(km_table_add_row(table, &err), KM_ESTATE, &err, "exported");
    km_test_fails(km_table_set_int64(table, 0, 1, &err), KM_ESTATE, &err, "exported");
    km_table_free(table); /* the stream keeps the data and the context alive */
    km_ctx_free(ctx);
    assert_int_equal(stream.get_schema(&stream, &schema), 0);
    assert_int_equal(stream.get_next(&stream, &array), 0);
    assert_int_equal(stream.get_next(&stream, &end), 0);
    assert_null(end.release);
    assert_null(stream.get_last_error(&stream));
    stream.release(&stream);
    assert_null(stream.release);
    check_schema(&schema);
    check_array(&array, 203);
    struct ArrowArray moved = *array.children[3]; /* a consumer may take a child away */
    array.children[3]->release = NULL;
    array.release(&array);
    assert_null(array.release);
    assert_memory_equal(moved.buffers[2], "fact 1", 6);
    moved.release(&moved);
    schema.release(&schema);
}

static void test_stream_empty(void **state) {
    km_table *table = NULL;
    km_error err = KM_ERROR_INIT;
    struct ArrowArrayStream stream;
    struct ArrowArray array;
    km_test_ok(km_table_new(&table, *state, specs, 4, &err), &err);
    km_test_ok(km_table_export_stream(&stream, table, &err), &err);
    assert_int_equal(stream.get_next(&stream, &array), 0);
    assert_int_equal(array.length, 0);
    assert_int_equal(((const int64_t *)array.children[3]->buffers[1])[0], 0);
    array.release(&array);
    stream.release(&stream);
    km_test_ok(fill(table, 0, 3, &err), &err); /* nothing holds an export any more */
    km_table_free(table);
}

static km_status table_body(km_ctx *ctx, km_error *err) {
    km_table *table = NULL, *more = NULL;
    struct ArrowArrayStream stream = {.release = NULL};
    km_status status = KM_OK;
    KM_GO(km_table_new(&table, ctx, specs, 4, err));
    KM_GO(fill(table, 0, 100, err));
    KM_GO(km_table_new(&more, ctx, specs, 4, err));
    KM_GO(fill(more, 0, 10, err));
    KM_GO(km_table_append(table, more, err));
    KM_GO(km_table_export_stream(&stream, table, err));
    struct ArrowSchema schema;
    if (stream.get_schema(&stream, &schema) != 0) {
        KM_FAIL(err, KM_ENOMEM, "%s", stream.get_last_error(&stream));
    }
    schema.release(&schema);
    struct ArrowArray array;
    if (stream.get_next(&stream, &array) != 0) {
        KM_FAIL(err, KM_ENOMEM, "%s", stream.get_last_error(&stream));
    }
    array.release(&array);
done:
    if (stream.release != NULL) {
        stream.release(&stream);
    }
    km_table_free(more);
    km_table_free(table);
    return status;
}

static void test_every_allocation(void **state) {
    (void)state;
    km_test_every_allocation(table_body);
}

/* A failed growth leaves the rows that are there, and the table usable. */
static void test_survives_no_memory(void **state) {
    (void)state;
    km_test_memory memory;
    km_allocator allocator = km_test_failing_allocator(&memory, -1);
    km_ctx *ctx = NULL;
    km_table *table = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_ctx_new(&ctx, &(km_ctx_options){1, NULL, &allocator}, &err), &err);
    km_test_ok(km_table_new(&table, ctx, specs, 4, &err), &err);
    km_test_ok(fill(table, 0, 10, &err), &err);
    for (int64_t n = 10; n < 300;) {
        memory.fail_at = atomic_load(&memory.calls);
        km_status status = km_table_add_row(table, &err);
        memory.fail_at = -1;
        if (status != KM_OK) {
            assert_int_equal(status, KM_ENOMEM);
            km_error_clear(&err);
            check(table, n);
            km_test_ok(fill(table, n, n + 1, &err), &err);
            n++;
            continue;
        }
        km_table_free(table); /* start again one row further */
        km_test_ok(km_table_new(&table, ctx, specs, 4, &err), &err);
        n++;
        km_test_ok(fill(table, 0, n, &err), &err);
    }
    km_table_free(table);
    km_ctx_free(ctx);
    assert_int_equal(atomic_load(&memory.live_blocks), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_cells, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_refusals, km_test_setup, km_test_teardown),
        cmocka_unit_test_setup_teardown(test_append, km_test_setup, km_test_teardown),
        cmocka_unit_test(test_stream),
        cmocka_unit_test_setup_teardown(test_stream_empty, km_test_setup, km_test_teardown),
        cmocka_unit_test(test_every_allocation),
        cmocka_unit_test(test_survives_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
