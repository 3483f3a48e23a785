/* test_kb_merge.c: merging bases and copying one that is in use. */
#include "kb_test.h"

/* A second base beside the first. */
static const char *other_path(const fixture *f) {
    static char path[120];
    snprintf(path, sizeof path, "%s/copy.db", f->folder);
    return path;
}

static km_kb *open_other(fixture *f) {
    km_error err = KM_ERROR_INIT;
    km_kb *kb = NULL;
    km_test_ok(km_kb_open(&kb, f->ctx, other_path(f), NULL, &err), &err);
    km_test_ok(km_kb_load_taxonomy(kb, tiny_taxonomy, strlen(tiny_taxonomy), &err), &err);
    return kb;
}

static int64_t put_model(km_kb *kb, const char *fingerprint, const char *name) {
    km_error err = KM_ERROR_INIT;
    char json[200];
    int64_t id = 0;
    snprintf(json, sizeof json, "{\"fingerprint\":\"%s\",\"name\":\"%s\"}", fingerprint, name);
    km_test_ok(km_kb_put_model(&id, kb, json, strlen(json), &err), &err);
    return id;
}

/* A run of a model with one chunk and, when `key` is given, evidence and an end. */
static int64_t put_run(km_kb *kb, int64_t model, int seed, const char *chunk, double shift,
                       const char *key) {
    km_error err = KM_ERROR_INIT;
    char json[200];
    int64_t run = 0;
    km_table *table = make_table(kb->ctx, 20, shift);
    snprintf(json, sizeof json,
             "{\"measure\":\"memorization.recall\",\"version\":1,\"parameters\":{\"k\":1},"
             "\"seed\":%d,\"model\":%lld}",
             seed, (long long)model);
    km_test_ok(km_kb_begin_run(&run, kb, json, strlen(json), &err), &err);
    km_test_ok(km_kb_store_chunk(NULL, kb, run, chunk, table, &err), &err);
    if (key != NULL) {
        km_test_ok(km_kb_put_evidence(kb, run, tiny_evidence, strlen(tiny_evidence), &err), &err);
        km_test_ok(km_kb_finish_run(kb, run, "done", key, &err), &err);
    }
    km_table_free(table);
    return run;
}

static km_table *merge(fixture *f, km_kb *kb) {
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    km_test_ok(km_kb_merge(&t, kb, other_path(f), NULL, NULL, &err), &err);
    return t;
}

/* How many rows the list has of a table and outcome, by their `n`. */
static int64_t listed(const km_table *t, const char *what, const char *outcome) {
    int64_t n = 0;
    for (int64_t i = 0; i < km_table_rows(t); i++) {
        if (strcmp(km_table_text(t, 0, i, NULL), what) == 0 &&
            strcmp(km_table_text(t, 1, i, NULL), outcome) == 0) {
            n += km_table_int64(t, 2, i);
        }
    }
    return n;
}

static void assert_sound(km_kb *kb) {
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    km_test_ok(km_kb_check(&t, kb, true, &err), &err);
    assert_int_equal(km_table_rows(t), 0);
    km_table_free(t);
}

static void test_merge_by_natural_keys(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    int64_t n = 0;
    km_kb *kb = open_with_taxonomy(f), *other = open_other(f);
    put_run(kb, put_model(kb, "aaaa", "A"), 1, "k1", 0.0, "r1");
    /* There the models have other numbers, one run is the same and one is new. */
    int64_t b = put_model(other, "bbbb", "B"), a = put_model(other, "aaaa", "A");
    put_run(other, b, 2, "k2", 0.0, "r2");
    put_run(other, a, 1, "k1", 0.0, "r1");
    km_test_ok(km_kb_put_facts(&n, other, tiny_facts, strlen(tiny_facts), &err), &err);
    static const char step[] = "[{\"child\":\"bbbb\",\"parent\":\"aaaa\",\"kind\":\"trained\","
                               "\"run\":1}]";
    km_test_ok(km_kb_put_lineage(&n, other, step, strlen(step), &err), &err);
    km_kb_close(other);
    km_table *t = merge(f, kb);
    assert_int_equal(listed(t, "models", "added"), 1);
    assert_int_equal(listed(t, "runs", "added"), 1);
    assert_int_equal(listed(t, "chunks", "added"), 1);
    assert_int_equal(listed(t, "evidence", "added"), 1);
    assert_int_equal(listed(t, "facts", "added"), 2);
    assert_int_equal(listed(t, "lineage", "added"), 1);
    assert_int_equal(km_table_rows(t), 6);
    km_table_free(t);
    assert_int_equal(count(kb, "SELECT m.fingerprint = 'bbbb' FROM runs AS r JOIN models AS m ON"
                               " m.id = r.model WHERE r.key = 'r2'"),
                     1);
    assert_int_equal(count(kb, "SELECT r.key = 'r2' FROM lineage AS l JOIN runs AS r ON"
                               " r.id = l.run"),
                     1);
    assert_int_equal(hits(kb, "France", "fact"), 1);
    km_test_ok(km_kb_load_chunk(&t, kb, "k2", &err), &err);
    km_table *want = make_table(f->ctx, 20, 0.0);
    assert_same(want, t);
    km_table_free(want);
    km_table_free(t);
    assert_sound(kb);
    t = merge(f, kb); /* again: nothing */
    assert_int_equal(km_table_rows(t), 0);
    km_table_free(t);
    km_kb_close(kb);
}

static void test_merge_shows_differences(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    int64_t n = 0;
    km_kb *kb = open_with_taxonomy(f), *other = open_other(f);
    put_run(kb, put_model(kb, "aaaa", "A"), 1, "k1", 0.0, "r1");
    put_run(other, put_model(other, "aaaa", "another name"), 1, "k1", 0.5, "r9");
    static const char fact[] = "[{\"id\":\"f1\",\"relation\":\"r\",\"subject\":\"s\",\"answers\":"
                               "[\"x\"]}]";
    km_test_ok(km_kb_put_facts(&n, kb, tiny_facts, strlen(tiny_facts), &err), &err);
    km_test_ok(km_kb_put_facts(&n, other, fact, strlen(fact), &err), &err);
    km_kb_close(other);
    for (int round = 0; round < 2; round++) {
        t = merge(f, kb);
        assert_int_equal(listed(t, "models", "differs"), 1);
        assert_int_equal(listed(t, "facts", "differs"), 1);
        assert_int_equal(listed(t, "chunks", "differs"), 1);
        assert_int_equal(listed(t, "runs", "added"), round == 0 ? 1 : 0);
        km_table_free(t);
    }
    assert_int_equal(count(kb, "SELECT name = 'A' FROM models"), 1);
    assert_int_equal(count(kb, "SELECT subject = 'France' FROM facts WHERE id = 'f1'"), 1);
    assert_int_equal(count(kb, "SELECT max_difference = 0.5 FROM conflicts"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM conflicts"), 1);
    km_test_ok(km_kb_load_chunk(&t, kb, "k1", &err), &err);
    km_table *want = make_table(f->ctx, 20, 0.0);
    assert_same(want, t);
    km_table_free(want);
    km_table_free(t);
    assert_sound(kb);
    km_kb_close(kb);
}

/* A copy whose runs went on, and two runs that began alike. */
static void test_merge_follows_runs(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_taxonomy(f);
    put_run(kb, put_model(kb, "aaaa", "A"), 1, "k1", 0.0, NULL);
    km_test_ok(km_kb_snapshot(kb, other_path(f), false, NULL, NULL, &err), &err);
    km_kb *other = open_other(f);
    km_test_ok(km_kb_finish_run(other, 1, "done", "r1", &err), &err);
    put_run(other, 1, 1, "k2", 0.0, NULL);
    put_run(other, 1, 1, "k3", 0.0, NULL);
    km_kb_close(other);
    raw_sql(other_path(f), "UPDATE runs SET started = '2026-01-01' WHERE id > 1");
    for (int round = 0; round < 2; round++) {
        km_table *t = merge(f, kb);
        assert_int_equal(listed(t, "runs", "went on"), round == 0 ? 1 : 0);
        assert_int_equal(listed(t, "runs", "added"), round == 0 ? 2 : 0);
        assert_int_equal(km_table_rows(t), round == 0 ? 3 : 0);
        km_table_free(t);
    }
    assert_int_equal(count(kb, "SELECT count(*) FROM runs WHERE status = 'done' AND key = 'r1'"),
                     1);
    assert_int_equal(count(kb, "SELECT count(*) FROM runs"), 3);
    assert_sound(kb);
    km_kb_close(kb);
}

/* What was finished last is the newest, whatever its number here. */
static void test_newest_evidence(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_taxonomy(f), *other = open_other(f);
    put_run(kb, put_model(kb, "aaaa", "A"), 1, "k1", 0.0, "r1");
    put_run(other, put_model(other, "aaaa", "A"), 2, "k2", 0.0, "r2");
    km_kb_close(other);
    raw_sql(other_path(f), "UPDATE runs SET started = '2020-01-01', finished = '2020-01-02';"
                           "UPDATE evidence SET value = 0.75");
    km_table_free(merge(f, kb));
    assert_int_equal(count(kb, "SELECT count(*) FROM evidence"), 2);
    assert_int_equal(count(kb, "SELECT count(*) FROM latest_evidence"), 1);
    assert_int_equal(count(kb, "SELECT value = 0.25 FROM latest_evidence"), 1);
    km_kb_close(kb);
}

static void test_merge_nodes(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_taxonomy(f);
    km_kb_close(open_other(f));
    raw_sql(other_path(f),
            "UPDATE nodes SET tree_enter = tree_enter + 10, tree_leave = tree_leave + 10;"
            "INSERT INTO nodes VALUES ('mine', 'hyp', 'Mine', 'mechanism', 's', 'guess', NULL, 3,"
            " 20, 21, 'user', NULL), ('below', 'mine', 'Below', 'mechanism', 's', 'guess', NULL, 4,"
            " 21, 21, 'user', NULL);"
            "UPDATE nodes SET name = 'Otherwise' WHERE id = 'other';"
            "INSERT INTO works VALUES ('w2', 'Title', 'B', 2025, NULL, NULL, 'me', NULL,"
            " 'user');"
            "INSERT INTO edges VALUES ('w2', 'below', 'proposes', 'guess', NULL, 'user')");
    km_table *t = merge(f, kb);
    assert_int_equal(listed(t, "nodes", "added"), 2);
    assert_int_equal(listed(t, "nodes", "differs"), 1);
    assert_int_equal(listed(t, "works", "added"), 1);
    assert_int_equal(listed(t, "edges", "added"), 1);
    km_table_free(t);
    /* root > (memorization > hyp > mine > below), other */
    assert_int_equal(count(kb, "SELECT group_concat(id || tree_enter || tree_leave || depth, ' ')"
                               " = 'root050 memorization141 hyp242 mine343 below444 other551'"
                               " FROM (SELECT * FROM nodes ORDER BY tree_enter)"),
                     1);
    assert_int_equal(hits(kb, "Below", "node"), 1);
    assert_sound(kb);
    t = merge(f, kb);
    assert_int_equal(km_table_rows(t), 1); /* the name still differs */
    km_table_free(t);
    km_kb_close(kb);
}

static const char prediction[] =
    "{\\\"controls\\\":[],\\\"direction\\\":\\\"above\\\",\\\"falsified_by\\\":\\\"f\\\","
    "\\\"family\\\":\\\"confirmatory\\\",\\\"id\\\":\\\"p1\\\",\\\"kind\\\":\\\"observation\\\","
    "\\\"measure\\\":\\\"memorization.recall\\\",\\\"minimum_n\\\":10,\\\"n_unit\\\":\\\"facts\\\","
    "\\\"nodes\\\":[\\\"memorization\\\"],\\\"not_testable\\\":\\\"\\\",\\\"null\\\":%s,"
    "\\\"rivals\\\":[\\\"luck\\\"],\\\"smallest_effect\\\":0.1,\\\"statement\\\":\\\"s\\\","
    "\\\"statistic\\\":\\\"recall\\\",\\\"unit\\\":\\\"share\\\",\\\"version\\\":1}";

static void freeze(km_kb *kb, const char *null_value) {
    km_error err = KM_ERROR_INIT;
    char text[1200], json[2000];
    int64_t n = 0;
    snprintf(text, sizeof text, prediction, null_value);
    snprintf(json, sizeof json,
             "{\"model\":\"A\",\"unit\":\"{\\\"facts\\\":\\\"\\\",\\\"fingerprint\\\":\\\"aaaa\\\","
             "\\\"precision\\\":\\\"F32\\\",\\\"prompts\\\":\\\"\\\",\\\"recipe\\\":{}}\","
             "\"predictions\":[\"%s\"]}",
             text);
    km_test_ok(km_kb_freeze(&n, kb, json, strlen(json), &err), &err);
}

static void judge(km_kb *kb, int64_t run) {
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    char json[400];
    int64_t id = 0;
    km_test_ok(km_kb_query(&t, kb, "SELECT prediction, unit FROM freezings", NULL, 0, 0, &err),
               &err);
    snprintf(json, sizeof json,
             "{\"prediction\":\"%s\",\"unit\":\"%s\",\"word\":\"inconclusive\",\"estimate\":0.5,"
             "\"n\":20,\"rows\":\"k\"}",
             km_table_text(t, 0, 0, NULL), km_table_text(t, 1, 0, NULL));
    km_table_free(t);
    km_test_ok(km_kb_put_verdict(&id, kb, run, json, strlen(json), &err), &err);
}

static void test_merge_ledger(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_taxonomy(f), *other = open_other(f);
    freeze(other, "0.0");
    judge(other, put_run(other, put_model(other, "aaaa", "A"), 1, "k1", 0.0, "r1"));
    km_kb_close(other);
    km_table *t = merge(f, kb);
    assert_int_equal(listed(t, "predictions", "added"), 1);
    assert_int_equal(listed(t, "units", "added"), 1);
    assert_int_equal(listed(t, "freezings", "added"), 1);
    assert_int_equal(listed(t, "verdicts", "added"), 1);
    km_table_free(t);
    assert_int_equal(count(kb, "SELECT estimate = 0.5 AND model = 'A' FROM ledger"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM rivals"), 1);
    assert_int_equal(count(kb, "SELECT node = 'memorization' FROM prediction_nodes"), 1);
    t = merge(f, kb);
    assert_int_equal(km_table_rows(t), 0);
    km_table_free(t);
    /* The other file knew it earlier; and a verdict of a run from before the freezing is refused.
     */
    raw_sql(other_path(f), "UPDATE freezings SET frozen = '2020-01-01'");
    t = merge(f, kb);
    assert_int_equal(listed(t, "freezings", "earlier"), 1);
    km_table_free(t);
    raw_sql(other_path(f), "INSERT INTO runs SELECT 7, 'old', measure, version, parameters, model,"
                           " 9, 'done', '2019-01-01', '2019-01-01', km_version, cpu, blas_core,"
                           " command, note FROM runs WHERE id = 1;"
                           "INSERT INTO verdicts SELECT 7, 1, 7, word, estimate, low, high, n,"
                           " p_value, rows, command, judged FROM verdicts");
    t = merge(f, kb);
    assert_int_equal(listed(t, "verdicts", "refused"), 1);
    km_table_free(t);
    assert_int_equal(count(kb, "SELECT count(*) FROM verdicts"), 1);
    km_kb_close(kb);
}

/* The same id and version with another text: ours stays, and is listed. */
static void test_merge_changed_prediction(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_taxonomy(f), *other = open_other(f);
    freeze(kb, "0.0");
    freeze(other, "0.1");
    judge(other, put_run(other, put_model(other, "aaaa", "A"), 1, "k1", 0.0, "r1"));
    km_kb_close(other);
    km_table *t = merge(f, kb);
    assert_int_equal(listed(t, "predictions", "differs"), 1);
    assert_int_equal(listed(t, "verdicts", "added"), 0);
    km_table_free(t);
    assert_int_equal(count(kb, "SELECT no_effect = 0.0 FROM predictions"), 1);
    km_kb_close(kb);
}

static void expect_unchanged(km_kb *kb) {
    assert_int_equal(count(kb, "SELECT count(*) FROM runs"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM chunks"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM facts"), 0);
    assert_int_equal(count(kb, "SELECT count(*) FROM sqlite_temp_schema"), 0);
}

/* Each of these files is refused, and nothing of it stays. */
static void test_merge_refuses_hostile_files(void **state) {
    static const char *const harms[] = {
        "UPDATE measurements SET data = replace(data, '0.1', '0.2')",
        "UPDATE measurements SET data = 'x' WHERE row = 3",
        "UPDATE chunks SET digest = replace(digest, substr(digest, 1, 1), 'x')",
        "PRAGMA ignore_check_constraints = ON; UPDATE runs SET parameters = '{]'",
        "UPDATE runs SET parameters = '{]}'",
        "PRAGMA foreign_keys = OFF; UPDATE runs SET model = 77",
        "DROP TABLE facts; CREATE VIEW facts AS SELECT 'f' AS id, 'r' AS relation, 's' AS subject,"
        " '[]' AS answers, NULL AS source, NULL AS licence",
        "ALTER TABLE works ADD COLUMN doi TEXT",
        "DROP TABLE verdicts",
        "PRAGMA ignore_check_constraints = ON; UPDATE predictions SET content = '{}'",
        "UPDATE predictions SET content = replace(content, '0.0', '0.5')",
        "UPDATE units SET content = replace(content, 'F32', 'F16')",
    };
    fixture *f = *state;
    for (size_t i = 0; i < sizeof harms / sizeof harms[0]; i++) {
        km_error err = KM_ERROR_INIT;
        km_table *t = NULL;
        int64_t n = 0;
        km_kb *kb = open_with_taxonomy(f), *other = open_other(f);
        put_run(kb, put_model(kb, "aaaa", "A"), 1, "k1", 0.0, "r1");
        put_run(other, put_model(other, "aaaa", "A"), 2, "k2", 0.0, "r2");
        km_test_ok(km_kb_put_facts(&n, other, tiny_facts, strlen(tiny_facts), &err), &err);
        freeze(other, "0.0");
        km_kb_close(other);
        raw_sql(other_path(f), harms[i]);
        km_status status = km_kb_merge(&t, kb, other_path(f), NULL, NULL, &err);
        if (status != KM_EFORMAT) {
            fail_msg("%s: %s: %s", harms[i], km_status_name(status), err.message);
        }
        assert_null(t);
        expect_unchanged(kb);
        km_kb_close(kb);
        (void)unlink(f->path);
        (void)unlink(other_path(f));
    }
}

static void test_merge_refuses(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    km_kb *kb = open_with_taxonomy(f);
    km_test_fails(km_kb_merge(&t, kb, other_path(f), NULL, NULL, &err), KM_ENOTFOUND, &err,
                  "no such file");
    km_kb_close(open_other(f));
    raw_sql(other_path(f), "PRAGMA user_version = 3");
    km_test_fails(km_kb_merge(&t, kb, other_path(f), NULL, NULL, &err), KM_EUNSUPPORTED, &err,
                  "km kb upgrade");
    raw_sql(other_path(f), "PRAGMA user_version = 99");
    km_test_fails(km_kb_merge(&t, kb, other_path(f), NULL, NULL, &err), KM_EUNSUPPORTED, &err,
                  "update km");
    assert_null(t);
    km_kb_close(kb);
}

/* Damaged pages anywhere: an error or a sound base, never half of it and never a crash. */
static void test_merge_damaged_files(void **state) {
    fixture *f = *state;
    km_kb *other = open_other(f);
    put_run(other, put_model(other, "aaaa", "A"), 2, "k2", 0.0, "r2");
    freeze(other, "0.0");
    km_kb_close(other);
    FILE *file = fopen(other_path(f), "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    size_t n = (size_t)ftell(file);
    char *data = malloc(n), *bad = malloc(n);
    rewind(file);
    assert_int_equal(fread(data, 1, n, file), n);
    fclose(file);
    km_kb *kb = open_with_taxonomy(f);
    int refused = 0;
    for (uint64_t i = 0; i < 120; i++) {
        km_error err = KM_ERROR_INIT;
        km_table *t = NULL;
        memcpy(bad, data, n);
        for (uint64_t k = 0; k < 1 + i % 30; k++) {
            bad[km_random_below(n - 100, 3, i, k) + 100] = (char)km_random_below(256, 4, i, k);
        }
        write_file(other_path(f), bad, n);
        int64_t before = count(kb, "SELECT count(*) FROM runs");
        if (km_kb_merge(&t, kb, other_path(f), NULL, NULL, &err) != KM_OK) {
            assert_true(err.message[0] != '\0');
            assert_int_not_equal(err.code, KM_EINTERNAL);
            assert_int_equal(count(kb, "SELECT count(*) FROM runs"), before);
            refused++;
        }
        km_table_free(t);
        char companion[140];
        snprintf(companion, sizeof companion, "%s-wal", other_path(f));
        (void)unlink(companion);
        snprintf(companion, sizeof companion, "%s-shm", other_path(f));
        (void)unlink(companion);
    }
    assert_true(refused > 40);
    assert_sound(kb);
    km_kb_close(kb);
    free(data);
    free(bad);
}

static km_status cancel(void *payload, int64_t done, int64_t total) {
    (void)payload;
    (void)done;
    (void)total;
    return KM_ECANCELLED;
}

static void test_snapshot(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_taxonomy(f);
    put_run(kb, put_model(kb, "aaaa", "A"), 1, "k1", 0.0, "r1");
    km_test_fails(km_kb_snapshot(kb, f->path, true, NULL, NULL, &err), KM_EINVAL, &err,
                  "a file of its own");
    km_test_fails(km_kb_snapshot(kb, f->folder, true, NULL, NULL, &err), KM_EINVAL, &err,
                  "a file of its own");
    km_test_fails(km_kb_snapshot(kb, "/nowhere/at/all.db", false, NULL, NULL, &err), KM_EIO, &err,
                  "nowhere");
    km_test_ok(km_kb_begin(kb, &err), &err);
    km_test_fails(km_kb_snapshot(kb, other_path(f), false, NULL, NULL, &err), KM_ESTATE, &err,
                  "commit first");
    km_kb_rollback(kb);
    km_test_fails(km_kb_snapshot(kb, other_path(f), false, cancel, NULL, &err), KM_ECANCELLED, &err,
                  "cancelled");
    assert_int_not_equal(access(other_path(f), F_OK), 0);
    km_error_clear(&err);
    km_test_ok(km_kb_snapshot(kb, other_path(f), false, NULL, NULL, &err), &err);
    km_test_fails(km_kb_snapshot(kb, other_path(f), false, NULL, NULL, &err), KM_EINVAL, &err,
                  "is there already");
    put_run(kb, 1, 2, "k2", 0.0, "r2");
    km_error_clear(&err);
    km_kb *other = open_other(f);
    assert_int_equal(count(other, "SELECT count(*) FROM runs"), 1);
    assert_sound(other);
    put_run(other, 1, 7, "k7", 0.0, "r7");
    km_test_fails(km_kb_snapshot(kb, other_path(f), true, NULL, NULL, &err), KM_ESTATE, &err,
                  "in use");
    km_kb_close(other);
    km_error_clear(&err);
    km_test_ok(km_kb_snapshot(kb, other_path(f), true, NULL, NULL, &err), &err);
    other = open_other(f);
    assert_int_equal(count(other, "SELECT count(*) FROM runs"), 2);
    km_kb_close(other);
    km_kb_close(kb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        KB_TEST(test_merge_by_natural_keys),
        KB_TEST(test_merge_shows_differences),
        KB_TEST(test_merge_follows_runs),
        KB_TEST(test_newest_evidence),
        KB_TEST(test_merge_nodes),
        KB_TEST(test_merge_ledger),
        KB_TEST(test_merge_changed_prediction),
        KB_TEST(test_merge_refuses_hostile_files),
        KB_TEST(test_merge_refuses),
        KB_TEST(test_merge_damaged_files),
        KB_TEST(test_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
