/* test_kb_lineage.c: which model came from which: recording, refusals, circles, the question. */
#include "kb_test.h"

static void put_model(km_kb *kb, const char *fingerprint) {
    km_error err = KM_ERROR_INIT;
    char json[200];
    int64_t id = 0;
    snprintf(json, sizeof json, "{\"fingerprint\":\"%s\",\"name\":\"model %s\"}", fingerprint,
             fingerprint);
    km_test_ok(km_kb_put_model(&id, kb, json, strlen(json), &err), &err);
}

/* A base with the models aaaaaaaa1 to aaaaaaaa6. */
static km_kb *open_with_models(fixture *f) {
    km_kb *kb = open_with_taxonomy(f);
    for (int i = 1; i <= 6; i++) {
        char fingerprint[32];
        snprintf(fingerprint, sizeof fingerprint, "aaaaaaaa%d", i);
        put_model(kb, fingerprint);
    }
    return kb;
}

static km_status put(int64_t *n_new, km_kb *kb, const char *child, const char *parent,
                     const char *kind, const char *more, km_error *err) {
    char json[300];
    snprintf(json, sizeof json,
             "[{\"child\":\"aaaaaaaa%s\",\"parent\":\"aaaaaaaa%s\",\"kind\":\"%s\"%s}]", child,
             parent, kind, more);
    return km_kb_put_lineage(n_new, kb, json, strlen(json), err);
}

static void test_record(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_models(f);
    int64_t n = 0;
    char more[80];
    snprintf(more, sizeof more, ",\"run\":%lld,\"step\":20,\"recipe\":{\"lr\":0.5,\"b\":[1]}",
             (long long)begin_run(kb));
    km_test_ok(put(&n, kb, "2", "1", "trained", more, &err), &err);
    assert_int_equal(n, 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM lineage WHERE step = 20 AND run = 1"
                               " AND recipe = '{\"b\":[1],\"lr\":0.5}'"),
                     1);
    /* The same again stays as it is; another kind between the same models is another row. */
    km_test_ok(put(&n, kb, "2", "1", "trained", ",\"step\":7", &err), &err);
    assert_int_equal(n, 0);
    km_test_ok(put(NULL, kb, "2", "1", "snapshot", "", &err), &err);
    assert_int_equal(count(kb, "SELECT count(*) FROM lineage"), 2);
    /* A merge has two parents, recorded together. */
    static const char merge[] =
        "[{\"child\":\"aaaaaaaa4\",\"parent\":\"aaaaaaaa2\",\"kind\":\"merged\"},"
        "{\"child\":\"aaaaaaaa4\",\"parent\":\"aaaaaaaa3\",\"kind\":\"merged\"}]";
    km_test_ok(km_kb_put_lineage(&n, kb, merge, strlen(merge), &err), &err);
    assert_int_equal(n, 2);
    km_kb_close(kb);
}

static void test_refuse(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_models(f);
    int64_t n = 9;
    km_test_fails(put(&n, kb, "1", "1", "trained", "", &err), KM_EINVAL, &err, "cannot come from");
    assert_int_equal(n, 0);
    km_test_fails(put(&n, kb, "9", "1", "trained", "", &err), KM_ENOTFOUND, &err,
                  "child aaaaaaaa9");
    km_test_fails(put(&n, kb, "1", "9", "trained", "", &err), KM_ENOTFOUND, &err,
                  "record the model first");
    km_test_fails(put(&n, kb, "2", "1", "born", "", &err), KM_EINVAL, &err, "kind");
    km_test_fails(put(&n, kb, "2", "1", "trained", ",\"run\":5", &err), KM_ENOTFOUND, &err,
                  "no run 5");
    km_test_fails(put(&n, kb, "2", "1", "trained", ",\"step\":-1", &err), KM_EINVAL, &err, "step");
    km_test_fails(put(&n, kb, "2", "1", "trained", ",\"step\":\"a\"", &err), KM_EINVAL, &err,
                  "an integer");
    km_test_fails(put(&n, kb, "2", "1", "trained", ",\"recipe\":3", &err), KM_EINVAL, &err,
                  "an object");
    km_test_fails(put(&n, kb, "2", "1", "trained", ",\"date\":3", &err), KM_EINVAL, &err, "date");
    static const char no_parent[] = "[{\"child\":\"aaaaaaaa1\",\"kind\":\"trained\"}]";
    km_test_fails(km_kb_put_lineage(&n, kb, no_parent, strlen(no_parent), &err), KM_EINVAL, &err,
                  "'parent' must be a fingerprint");
    km_test_fails(km_kb_put_lineage(&n, kb, "{}", 2, &err), KM_EINVAL, &err, "array");
    assert_int_equal(count(kb, "SELECT count(*) FROM lineage"), 0);
    /* All of a call or none of it. */
    static const char half[] =
        "[{\"child\":\"aaaaaaaa2\",\"parent\":\"aaaaaaaa1\",\"kind\":\"trained\"},"
        "{\"child\":\"aaaaaaaa1\",\"parent\":\"aaaaaaaa2\",\"kind\":\"trained\"}]";
    km_test_fails(km_kb_put_lineage(&n, kb, half, strlen(half), &err), KM_EINVAL, &err,
                  "lineage[1]");
    assert_int_equal(count(kb, "SELECT count(*) FROM lineage"), 0);
    km_kb_close(kb);
}

static km_kb *open_with_family(fixture *f) {
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_models(f);
    static const char *const edges[][2] = {{"2", "1"}, {"3", "2"}, {"4", "3"}, {"5", "3"}};
    for (int i = 0; i < 4; i++) {
        km_test_ok(put(NULL, kb, edges[i][0], edges[i][1], "trained", "", &err), &err);
    }
    return kb;
}

static void test_circles(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    km_kb *kb = open_with_family(f);
    km_test_fails(put(NULL, kb, "1", "4", "merged", "", &err), KM_EINVAL, &err, "comes from it");
    km_test_fails(put(NULL, kb, "2", "3", "edited", "", &err), KM_EINVAL, &err, "comes from it");
    km_test_ok(put(NULL, kb, "4", "1", "merged", "", &err), &err); /* a second way is no circle */
    km_test_ok(km_kb_check(&t, kb, false, &err), &err);
    assert_int_equal(km_table_rows(t), 0);
    km_table_free(t);
    km_kb_close(kb);
    /* One that another program wrote is found, and questions end all the same. */
    raw_sql(f->path, "INSERT INTO lineage (child, parent, kind, recorded)"
                     " VALUES ('aaaaaaaa1', 'aaaaaaaa5', 'edited', '')");
    kb = open_kb(f);
    km_test_ok(km_kb_check(&t, kb, false, &err), &err);
    assert_int_equal(km_table_rows(t), 4); /* 1, 2, 3 and 5 */
    assert_string_equal(km_table_text(t, 0, 0, NULL), "lineage");
    assert_string_equal(km_table_text(t, 1, 0, NULL), "the model aaaaaaaa1 comes from itself");
    km_table_free(t);
    km_test_ok(km_kb_ask(&t, kb, "lineage", "{\"model\":\"aaaaaaaa3\"}", &err), &err);
    assert_int_equal(km_table_rows(t), 6);
    km_table_free(t);
    km_test_ok(put(NULL, kb, "6", "1", "edited", "", &err), &err);
    km_kb_close(kb);
}

/* The rows of the question as "generation:child<parent ...". */
static void ask(char out[200], km_kb *kb, const char *params) {
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    size_t n = 0;
    km_test_ok(km_kb_ask(&t, kb, "lineage", params, &err), &err);
    out[0] = '\0';
    for (int64_t i = 0; i < km_table_rows(t); i++) {
        int length = snprintf(out + n, 200 - n, "%lld:%s<%s ", (long long)km_table_int64(t, 0, i),
                              km_table_text(t, 10, i, NULL) + 8, km_table_text(t, 11, i, NULL) + 8);
        assert_true(length > 0);
        n += (size_t)length;
    }
    km_table_free(t);
}

static void test_question(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_family(f);
    char rows[200];
    ask(rows, kb, "{\"model\":\"aaaaaaaa3\"}");
    assert_string_equal(rows, "-2:2<1 -1:3<2 1:4<3 1:5<3 ");
    ask(rows, kb, "{\"model\":\"model aaaaaaaa1\"}");
    assert_string_equal(rows, "1:2<1 2:3<2 3:4<3 3:5<3 ");
    ask(rows, kb, "{\"model\":\"aaaaaaaa5\"}");
    assert_string_equal(rows, "-3:2<1 -2:3<2 -1:5<3 ");
    ask(rows, kb, "{\"model\":\"aaaaaaaa6\"}");
    assert_string_equal(rows, "");
    ask(rows, kb, "{\"model\":\"aaaaaaa\"}"); /* too short to name a model */
    assert_string_equal(rows, "");
    ask(rows, kb, NULL);
    assert_string_equal(rows, "0:2<1 0:3<2 0:4<3 0:5<3 "); /* null generations */
    km_kb_close(kb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        KB_TEST(test_record),
        KB_TEST(test_refuse),
        KB_TEST(test_circles),
        KB_TEST(test_question),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
