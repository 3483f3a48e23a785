/* test_kb.c: the knowledge base: opening, migrating, recording, asking, searching. */
#include "kb_test.h"

/* ---- opening ---- */

static void test_open_makes_the_schema(void **state) {
    fixture *f = *state;
    km_kb *kb = open_kb(f);
    km_error err = KM_ERROR_INIT;
    km_table *info = NULL;
    assert_int_equal(count(kb, "PRAGMA user_version"), KM_KB_SCHEMA_VERSION);
    assert_int_equal(count(kb, "PRAGMA application_id"), KM_KB_APPLICATION_ID);
    assert_int_equal(count(kb, "PRAGMA foreign_keys"), 1);
    assert_int_equal(count(kb, "PRAGMA synchronous"), 1);
    assert_int_equal(count(kb, "SELECT journal_mode = 'wal' FROM pragma_journal_mode"), 1);
    assert_int_equal(km__kb_migrations[km__kb_n_migrations - 1].version, KM_KB_SCHEMA_VERSION);
    /* Every table of our own is STRICT. */
    assert_int_equal(count(kb, "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND"
                               " type = 'table' AND strict = 0 AND name <> 'sqlite_schema'"),
                     0);
    km_test_ok(km_kb_info(&info, kb, &err), &err);
    assert_true(km_table_rows(info) > 10);
    assert_string_equal(km_table_text(info, 1, 0, NULL), f->path);
    km_table_free(info);
    km_kb_close(kb);
    kb = open_kb(f);
    assert_int_equal(count(kb, "SELECT count(*) FROM meta WHERE key = 'created'"), 1);
    km_kb_close(kb);
    km_kb_close(NULL);
}

static void test_open_refuses(void **state) {
    fixture *f = *state;
    km_kb *kb = NULL;
    km_error err = KM_ERROR_INIT;
    km_kb_options reading = KM_KB_OPTIONS_INIT;
    reading.read_only = true;
    km_test_fails(km_kb_open(&kb, f->ctx, "", NULL, &err), KM_EINVAL, &err, "empty");
    km_test_fails(km_kb_open(&kb, f->ctx, f->path, &reading, &err), KM_ENOTFOUND, &err, f->path);
    km_test_fails(km_kb_open(&kb, f->ctx, "/nowhere/at/all.db", NULL, &err), KM_ENOTFOUND, &err,
                  "folder");
    km_test_fails(km_kb_open(&kb, f->ctx, f->folder, NULL, &err), KM_EIO, &err, "open");
    write_file(f->path,
               "this is a text, much longer than the header of a database file is, "
               "so that SQLite looks at it and says what it is not ................",
               130);
    km_test_fails(km_kb_open(&kb, f->ctx, f->path, NULL, &err), KM_EFORMAT, &err, "not an SQLite");
    unlink(f->path);
    raw_sql(f->path, "CREATE TABLE t (x)");
    km_test_fails(km_kb_open(&kb, f->ctx, f->path, NULL, &err), KM_EFORMAT, &err,
                  "another program");
    raw_sql(f->path, "PRAGMA application_id = 1802333026; PRAGMA user_version = 99");
    km_test_fails(km_kb_open(&kb, f->ctx, f->path, NULL, &err), KM_EUNSUPPORTED, &err, "update km");
    raw_sql(f->path, "PRAGMA user_version = 0");
    km_test_fails(km_kb_open(&kb, f->ctx, f->path, NULL, &err), KM_EFORMAT, &err, "not a km");
    assert_null(kb);
}

static void test_file_systems(void **state) {
    (void)state;
    const char *name = NULL;
    assert_int_equal(km__kb_filesystem(&name, 0x6969), KM__KB_FS_NETWORK);
    assert_string_equal(name, "NFS");
    assert_int_equal(km__kb_filesystem(&name, 0x0bd00bd0), KM__KB_FS_NETWORK);
    assert_int_equal(km__kb_filesystem(&name, 0x65735546), KM__KB_FS_UNSURE);
    assert_int_equal(km__kb_filesystem(&name, 0xef53), KM__KB_FS_LOCAL);
}

static void test_migrations(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_kb(f);
    enum { NOW = KM_KB_SCHEMA_VERSION };
    km__kb_migration more[NOW + 2];
    char newer[32];
    memcpy(more, km__kb_migrations, NOW * sizeof more[0]);
    more[NOW] = (km__kb_migration){NOW + 1, "ALTER TABLE works ADD COLUMN doi TEXT"};
    more[NOW + 1] = (km__kb_migration){NOW + 2, "CREATE TABLE broken (; "};
    km_test_ok(km__kb_migrate(kb, more, NOW + 1, &err), &err);
    assert_int_equal(count(kb, "PRAGMA user_version"), NOW + 1);
    assert_int_equal(count(kb, "SELECT count(doi) FROM works"), 0);
    assert_int_not_equal(km__kb_migrate(kb, more, NOW + 2, &err), KM_OK);
    assert_int_equal(count(kb, "PRAGMA user_version"), NOW + 1);
    km_kb_close(kb);
    km_error_clear(&err);
    kb = NULL;
    snprintf(newer, sizeof newer, "version %d", NOW + 1);
    km_test_fails(km_kb_open(&kb, f->ctx, f->path, NULL, &err), KM_EUNSUPPORTED, &err, newer);
}

/* ---- recording ---- */

static void test_taxonomy(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_taxonomy(f);
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes"), 4);
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes AS n JOIN nodes AS d ON d.tree_enter"
                               " BETWEEN n.tree_enter AND n.tree_leave WHERE n.id ="
                               " 'memorization'"),
                     2);
    int64_t run = begin_run(kb);
    km_test_ok(km_kb_put_evidence(kb, run, tiny_evidence, strlen(tiny_evidence), &err), &err);
    /* Renewed: the texts change, what evidence points to must stay. */
    char renewed[sizeof tiny_taxonomy];
    memcpy(renewed, tiny_taxonomy, sizeof renewed);
    memcpy(strstr(renewed, "Recalling"), "RECALLING", 9);
    km_test_ok(km_kb_load_taxonomy(kb, renewed, strlen(renewed), &err), &err);
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes WHERE summary LIKE 'RECALLING%'"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM search_documents WHERE kind = 'node'"), 4);
    assert_int_equal(count(kb, "SELECT count(*) FROM evidence"), 1);
    char *gone = strdup(tiny_taxonomy);
    char *at;
    while ((at = strstr(gone, "\"memorization\"")) != NULL) {
        memcpy(at, "\"memorisation\"", 14);
    }
    km_test_fails(km_kb_load_taxonomy(kb, gone, strlen(gone), &err), KM_EINVAL, &err, "evidence");
    free(gone);
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes WHERE id = 'memorization'"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM works"), 1);
    km_kb_close(kb);
}

static void test_taxonomy_refuses(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_kb(f);
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"parent\":\"memorization\"", "\"parent\":\"nowhere12345\"", "parents precede"},
        {"\"id\":\"other\"", "\"id\":\"root\" ", "there before"},
        {"\"kind\":\"mechanism\"", "\"kind\":\"mechanics\"", "'kind' must be one of"},
        {"\"relation\"", "\"relatio_\"", "unknown member 'relatio_'"},
        {"\"node\":\"hyp\"", "\"node\":\"hip\"", "edges[0]: there is no node 'hip'"},
        {"\"year\":2024", "\"year\":2.24", "'year' must be an integer"},
        {"\"works\":[", "\"werks\":[", "'works' must be an array"},
        {"{\"version\"", "[\"version\"", "JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text = strdup(tiny_taxonomy);
        size_t n_to = strlen(cases[i].to);
        memmove(strstr(text, cases[i].from), cases[i].to, n_to);
        km_status status = km_kb_load_taxonomy(kb, text, strlen(text), &err);
        assert_int_not_equal(status, KM_OK);
        if (strstr(err.message, cases[i].message) == NULL) {
            fail_msg("case %zu: '%s' is not in '%s'", i, cases[i].message, err.message);
        }
        km_error_clear(&err);
        free(text);
        assert_int_equal(count(kb, "SELECT count(*) FROM nodes"), 0);
    }
    km_kb_close(kb);
}

static void test_records(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_taxonomy(f);
    static const char model[] =
        "{\"fingerprint\":\"abc\",\"name\":\"m\",\"config\":{\"b\":1,\"a\":2}}";
    int64_t id = 0, again = 0, run = begin_run(kb);
    km_test_ok(km_kb_put_model(&id, kb, model, strlen(model), &err), &err);
    km_test_ok(km_kb_put_model(&again, kb, model, strlen(model), &err), &err);
    assert_int_equal(id, again);
    assert_int_equal(count(kb, "SELECT config = '{\"a\":2,\"b\":1}' FROM models"), 1);
    km_test_ok(km_kb_put_facts(&id, kb, tiny_facts, strlen(tiny_facts), &err), &err);
    assert_int_equal(id, 2);
    km_test_ok(km_kb_put_facts(&id, kb, tiny_facts, strlen(tiny_facts), &err), &err);
    assert_int_equal(id, 0);
    static const char no_name[] = "{\"fingerprint\":\"x\"}";
    km_test_fails(km_kb_put_model(&id, kb, no_name, strlen(no_name), &err), KM_EINVAL, &err,
                  "'name' is missing");
    static const char bad_fact[] = "[{\"id\":\"f3\",\"relation\":\"r\",\"subject\":\"s\","
                                   "\"answers\":\"Paris\"}]";
    km_test_fails(km_kb_put_facts(&id, kb, bad_fact, strlen(bad_fact), &err), KM_EINVAL, &err,
                  "facts[0]: 'answers' must be an array");
    static const char bad_run[] =
        "{\"measure\":\"m\",\"version\":1,\"parameters\":{},\"model\":77}";
    km_test_fails(km_kb_begin_run(&id, kb, bad_run, strlen(bad_run), &err), KM_EINVAL, &err,
                  "FOREIGN KEY");
    static const char elsewhere[] =
        "[{\"node\":\"hyp\",\"measure\":\"memorization.recall\",\"statistic\":\"s\"}]";
    km_test_fails(km_kb_put_evidence(kb, run, elsewhere, strlen(elsewhere), &err), KM_EINVAL, &err,
                  "not declared to bear");
    static const char own[] = "{\"id\":\"mine\",\"module\":\"user\",\"nodes\":[\"hyp\"]}";
    km_test_ok(km_kb_put_measure(kb, own, strlen(own), &err), &err);
    static const char unknown[] = "{\"id\":\"mine\",\"module\":\"user\",\"nodes\":[\"nope\"]}";
    km_test_fails(km_kb_put_measure(kb, unknown, strlen(unknown), &err), KM_EINVAL, &err,
                  "no node 'nope'");
    km_test_fails(km_kb_finish_run(kb, run, "finished", NULL, &err), KM_EINVAL, &err, "ends as");
    km_test_ok(km_kb_finish_run(kb, run, "done", "key1", &err), &err);
    km_test_fails(km_kb_finish_run(kb, run, "done", NULL, &err), KM_ESTATE, &err, "ended already");
    km_test_fails(km_kb_finish_run(kb, 99, "done", NULL, &err), KM_ENOTFOUND, &err, "no run 99");
    km_test_ok(km_kb_find_run(&id, kb, "key1", &err), &err);
    assert_int_equal(id, run);
    km_test_ok(km_kb_find_run(&id, kb, "key2", &err), &err);
    assert_int_equal(id, -1);
    km_kb_close(kb);
}

static void test_transactions(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_taxonomy(f);
    km_test_ok(km_kb_begin(kb, &err), &err);
    begin_run(kb);
    km_kb_rollback(kb);
    km_kb_rollback(kb);
    assert_int_equal(count(kb, "SELECT count(*) FROM runs"), 0);
    km_test_ok(km_kb_begin(kb, &err), &err);
    begin_run(kb);
    int64_t id = 0;
    assert_int_equal(km_kb_put_model(&id, kb, "{}", 2, NULL), KM_EINVAL); /* undoes only itself */
    km_test_ok(km_kb_commit(kb, &err), &err);
    assert_int_equal(count(kb, "SELECT count(*) FROM runs"), 1);
    km_test_fails(km_kb_commit(kb, &err), KM_ESTATE, &err, "without begin");
    km_test_ok(km_kb_begin(kb, &err), &err);
    begin_run(kb);
    km_kb_close(kb); /* undone */
    kb = open_kb(f);
    assert_int_equal(count(kb, "SELECT count(*) FROM runs"), 1);
    km_kb_close(kb);
}

static void test_chunks(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_taxonomy(f);
    km_kb_stored outcome = KM_KB_DIFFERS;
    km_table *table = make_table(f->ctx, 300, 0.0), *other = make_table(f->ctx, 300, 0.5);
    km_table *short_one = make_table(f->ctx, 2, 0.0), *empty = make_table(f->ctx, 0, 0.0);
    km_table *back = NULL;
    int64_t run = begin_run(kb), second = begin_run(kb);
    km_test_ok(km_kb_store_chunk(&outcome, kb, run, "k1", table, &err), &err);
    assert_int_equal(outcome, KM_KB_STORED);
    km_test_ok(km_kb_load_chunk(&back, kb, "k1", &err), &err);
    assert_same(table, back);
    km_table_free(back);
    km_test_ok(km_kb_store_chunk(&outcome, kb, second, "k1", table, &err), &err);
    assert_int_equal(outcome, KM_KB_SAME);
    km_test_ok(km_kb_store_chunk(&outcome, kb, second, "k1", other, &err), &err);
    assert_int_equal(outcome, KM_KB_DIFFERS);
    km_test_ok(km_kb_store_chunk(&outcome, kb, second, "k1", short_one, &err), &err);
    assert_int_equal(outcome, KM_KB_DIFFERS);
    assert_int_equal(count(kb, "SELECT count(*) FROM conflicts"), 2);
    assert_int_equal(count(kb, "SELECT max_difference = 0.5 FROM conflicts WHERE id = 1"), 1);
    assert_int_equal(count(kb, "SELECT max_difference IS NULL FROM conflicts WHERE id = 2"), 1);
    km_test_ok(km_kb_load_chunk(&back, kb, "k1", &err), &err);
    assert_same(table, back);
    km_table_free(back);
    km_test_ok(km_kb_store_chunk(&outcome, kb, run, "k0", empty, &err), &err);
    km_test_ok(km_kb_load_chunk(&back, kb, "k0", &err), &err);
    assert_same(empty, back);
    km_table_free(back);
    km_test_ok(km_kb_load_chunk(&back, kb, "none", &err), &err);
    assert_null(back);
    km_test_ok(km_kb_use_chunk(kb, second, "k0", &err), &err);
    assert_int_equal(count(kb, "SELECT count(*) FROM run_chunks"), 4);
    km_test_fails(km_kb_use_chunk(kb, second, "none", &err), KM_ENOTFOUND, &err, "no chunk");
    km_test_fails(km_kb_store_chunk(NULL, kb, 99, "k2", table, &err), KM_ENOTFOUND, &err, "no run");
    km_test_fails(km_kb_store_chunk(NULL, kb, run, "", table, &err), KM_EINVAL, &err, "key");
    /* Somebody edits a row with another tool. */
    km_test_ok(km__kb_exec(kb,
                           "UPDATE measurements SET data = replace(data, '0.1', '0.2')"
                           " WHERE row = 0",
                           &err),
               &err);
    km_test_fails(km_kb_load_chunk(&back, kb, "k1", &err), KM_EFORMAT, &err, "changed after");
    km_table *problems = NULL;
    km_test_ok(km_kb_check(&problems, kb, true, &err), &err);
    assert_int_equal(km_table_rows(problems), 1);
    km_table_free(problems);
    km_test_ok(km_kb_check(&problems, kb, false, &err), &err);
    assert_int_equal(km_table_rows(problems), 0);
    km_table_free(problems);
    km_table_free(table);
    km_table_free(other);
    km_table_free(short_one);
    km_table_free(empty);
    km_kb_close(kb);
}

/* ---- asking ---- */

/* ---- numbers as text ---- */

/* What printf makes of a number: the fewest of 15 or 17 digits that read back as the same. */
static void expect_number(char out[64], double value) {
    snprintf(out, 60, "%.15g", value);
    if (strtod(out, NULL) != value) {
        snprintf(out, 60, "%.17g", value);
    }
    if (strpbrk(out, ".e") == NULL) {
        strncat(out, ".0", 3);
    }
}

static void check_numbers(km_ctx *ctx, const double *values, int64_t n) {
    static const km_column_spec one[] = {{"x", KM_COLUMN_DOUBLE, "", ""}};
    km_error err = KM_ERROR_INIT;
    km_table *table = NULL;
    km__kb_encoder encoder;
    km__kb_text text = {ctx, NULL, 0, 0};
    char number[64], want[80];
    km_test_ok(km_table_new(&table, ctx, one, 1, &err), &err);
    for (int64_t i = 0; i < n; i++) {
        km_test_ok(km_table_add_row(table, &err), &err);
        km_test_ok(km_table_set_double(table, 0, values[i], &err), &err);
    }
    km_test_ok(km__kb_encoder_init(&encoder, ctx, table, &err), &err);
    for (int64_t i = 0; i < n; i++) {
        km_test_ok(km__kb_encode_row(&text, &encoder, i, &err), &err);
        expect_number(number, values[i]);
        snprintf(want, sizeof want, "{\"x\":%s}", number);
        assert_string_equal(text.data, want);
    }
    km__kb_encoder_free(&encoder);
    km__kb_text_free(&text);
    km_table_free(table);
}

/* Every kind of number: short decimals, single precision, all 53 bits, halves between two
 * decimals, powers of two and of ten, and their neighbours. */
static void test_numbers_are_written_as_printf_does(void **state) {
    fixture *f = *state;
    enum { N = 60000 };
    double *values = calloc(N, sizeof *values);
    assert_non_null(values);
    for (int i = 0; i < N; i++) {
        double random = km_random_uniform(1, 7, (uint64_t)i);
        double scale = pow(10.0, i % 24 - 6);
        double near = i % 2 == 0 ? ldexp(1.0, i % 90 - 40) : pow(10.0, i % 22 - 6);
        switch (i % 7) {
        case 0:
            values[i] = round(random * 1e6) / 1e4 - 30.0;
            break;
        case 1:
            values[i] = (double)(float)(random * scale);
            break;
        case 2:
            values[i] = -random * scale;
            break;
        case 3:
            values[i] = floor(random * 1e6) + 0.5;
            break;
        case 4:
            values[i] = nextafter(near, i % 4 == 0 ? 0.0 : 1e300);
            break;
        case 5:
            values[i] = near;
            break;
        default:
            values[i] = (floor(random * 1e15) + 0.5) / 16.0;
            break;
        }
    }
    check_numbers(f->ctx, values, N);
    free(values);
    const double special[] = {0.0,
                              -0.0,
                              1e-4,
                              1e15,
                              99999999999999.98,
                              999999999999999.9,
                              0.1,
                              5e-324,
                              1.7976931348623157e308,
                              9007199254740993.0,
                              0.00010000000000000002};
    check_numbers(f->ctx, special, (int64_t)(sizeof special / sizeof special[0]));
}

static void test_questions(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_taxonomy(f);
    km_table *questions = NULL, *answer = NULL;
    int64_t run = begin_run(kb);
    km_test_ok(km_kb_put_evidence(kb, run, tiny_evidence, strlen(tiny_evidence), &err), &err);
    km_test_ok(km_kb_finish_run(kb, run, "done", NULL, &err), &err);
    km_test_ok(km_kb_questions(&questions, f->ctx, &err), &err);
    assert_int_equal(km_table_rows(questions), km__kb_n_questions);
    for (int64_t i = 0; i < km_table_rows(questions); i++) {
        const char *name = km_table_text(questions, 0, i, NULL);
        const char *parameters = km_table_text(questions, 3, i, NULL);
        bool required = parameters[0] != '\0' && strchr(parameters, '=') == NULL;
        km_test_ok(km_kb_ask(&answer, kb, name, required ? "{\"work\":\"w1\"}" : NULL, &err), &err);
        km_table_free(answer);
    }
    km_table_free(questions);
    km_test_ok(km_kb_ask(&answer, kb, "contradicted-hypotheses", NULL, &err), &err);
    assert_int_equal(km_table_rows(answer), 1);
    assert_string_equal(km_table_text(answer, 0, 0, NULL), "hyp");
    km_table_free(answer);
    km_test_ok(km_kb_ask(&answer, kb, "evidence-on-node", "{\"node\":\"root\"}", &err), &err);
    assert_int_equal(km_table_rows(answer), 1);
    assert_true(km_table_double(answer, km_table_find(answer, "value"), 0) == 0.25);
    km_table_free(answer);
    km_test_fails(km_kb_ask(&answer, kb, "contradicted", NULL, &err), KM_ENOTFOUND, &err,
                  "contradicted-hypotheses");
    km_test_fails(km_kb_ask(&answer, kb, "timeline", "{\"node\":\"x\"}", &err), KM_EINVAL, &err,
                  "no parameter 'node'");
    km_test_fails(km_kb_ask(&answer, kb, "nodes-not-surveyed", NULL, &err), KM_EINVAL, &err,
                  "'work' is missing");
    km_kb_close(kb);
}

static void test_query_reads_only(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_taxonomy(f);
    km_table *answer = NULL;
    static const char *const refused[] = {
        "DELETE FROM nodes",
        "INSERT INTO meta VALUES ('a', 'b')",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "ATTACH ':memory:' AS a",
        "DETACH main",
        "BEGIN",
        "COMMIT",
        "PRAGMA user_version = 7",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA query_only = 0",
        "PRAGMA wal_checkpoint",
        "PRAGMA foreign_keys = OFF",
        "VACUUM",
        "VACUUM INTO 'x.db'",
        "REINDEX",
        "ANALYZE",
        "DROP TABLE nodes",
        "SAVEPOINT a",
        "SELECT load_extension('x')",
        "SELECT 1; SELECT 2",
        "SELECT 1; DELETE FROM nodes",
        "",
        "-- nothing",
        "SELECT nope FROM no",
        "INSERT INTO search_index (search_index) VALUES ('delete-all')",
        "SELECT ?",
        "EXPLAIN",
        "WITH x AS (SELECT 1) DELETE FROM nodes",
        "UPDATE nodes SET name = 'x' RETURNING id",
        "UPDATE sqlite_schema SET sql = ''",
        "UPDATE sqlite_master SET sql = ''",
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        if (km_kb_query(&answer, kb, refused[i], NULL, 0, 0, &err) != KM_EINVAL) {
            fail_msg("'%s' gave %s %s", refused[i], km_status_name(err.code), err.message);
        }
        km_error_clear(&err);
    }
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes"), 4);
    assert_int_equal(count(kb, "PRAGMA user_version"), KM_KB_SCHEMA_VERSION);
    km_test_fails(km_kb_query(&answer, kb,
                              "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
                              " SELECT max(x) FROM c",
                              NULL, 100, 0, &err),
                  KM_ECANCELLED, &err, "too long");
    km_test_fails(km_kb_query(&answer, kb, "SELECT id FROM nodes", NULL, 0, 3, &err), KM_ERANGE,
                  &err, "more than 3");
    /* The base works on after each refusal. */
    begin_run(kb);
    km_kb_close(kb);
}

static void test_query_types(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_taxonomy(f);
    km_table *t = NULL;
    km_test_ok(
        km_kb_query(&t, kb,
                    "SELECT 1 AS a, 2.5 AS b, 'x' AS c, NULL AS d, x'00ff' AS e, :v AS f,"
                    " 1 AS a UNION ALL SELECT NULL, 3, 4, NULL, NULL, NULL, 9007199254740993",
                    "{\"v\":\"\xC3\xA9\"}", 0, 0, &err),
        &err);
    static const km_column_type types[] = {KM_COLUMN_INT64, KM_COLUMN_DOUBLE, KM_COLUMN_TEXT,
                                           KM_COLUMN_TEXT,  KM_COLUMN_TEXT,   KM_COLUMN_TEXT,
                                           KM_COLUMN_INT64};
    for (int i = 0; i < 7; i++) {
        assert_int_equal(km_table_spec(t, i)->type, types[i]);
    }
    assert_string_equal(km_table_spec(t, 6)->name, "a_2");
    assert_string_equal(km_table_text(t, 2, 1, NULL), "4");
    assert_string_equal(km_table_text(t, 4, 0, NULL), "00ff");
    assert_true(km_table_double(t, 1, 1) == 3.0 && km_table_is_null(t, 0, 1));
    km_table_free(t);
    km_test_ok(km_kb_query(&t, kb, "SELECT CAST(x'ff41' AS TEXT) AS x", NULL, 0, 0, &err), &err);
    assert_string_equal(km_table_text(t, 0, 0, NULL), "ff41");
    km_table_free(t);
    km_test_ok(km_kb_query(&t, kb, "SELECT * FROM works WHERE year > ? AND key <> ?", "[3000,\"\"]",
                           0, 0, &err),
               &err);
    assert_int_equal(km_table_spec(t, 3)->type, KM_COLUMN_INT64);
    km_table_free(t);
    km_test_fails(km_kb_query(&t, kb, "SELECT ?", "[1,2]", 0, 0, &err), KM_EINVAL, &err, "2 param");
    km_test_fails(km_kb_query(&t, kb, "SELECT ?", "[[]]", 0, 0, &err), KM_EINVAL, &err, "must be");
    km_test_ok(km_kb_query(&t, kb, "SELECT name FROM pragma_table_info('nodes')", NULL, 0, 0, &err),
               &err);
    assert_int_equal(km_table_rows(t), 12);
    km_table_free(t);
    km_kb_close(kb);
    kb = open_kb(f);
    km_test_ok(km_kb_query(&t, kb,
                           "SELECT search_index.rowid, value FROM search_index, json_each('[7]')"
                           " WHERE search_index MATCH 'hypothesis'",
                           NULL, 0, 0, &err),
               &err);
    assert_int_equal(km_table_rows(t), 1);
    km_table_free(t);
    km_kb_close(kb);
}

static void test_search(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_taxonomy(f);
    km_table *found = NULL;
    int64_t n = 0;
    km_test_ok(km_kb_put_facts(&n, kb, tiny_facts, strlen(tiny_facts), &err), &err);
    assert_int_equal(hits(kb, "recall", NULL), 1); /* by stem: Recalling */
    assert_int_equal(hits(kb, "EDIT fact", "work"), 1);
    assert_int_equal(hits(kb, "edit", "node"), 0);
    assert_int_equal(hits(kb, "paris", NULL), 1);
    assert_int_equal(hits(kb, "country capital", "fact"), 1);
    assert_int_equal(hits(kb, "\xE5\x8C\x97\xE4\xBA\xAC", NULL), 1); /* Beijing */
    assert_int_equal(hits(kb, "\xE4\xBA\xBA\xE6\xB0\x91\xE5\x85\xB1\xE5\x92\x8C", NULL), 1);
    assert_int_equal(hits(kb, "\xE5\x9B\xBD", NULL), 1);             /* last character */
    assert_int_equal(hits(kb, "\xE4\xBA\xAC\xE5\x8C\x97", NULL), 0); /* turned round */
    assert_int_equal(hits(kb, "paris AND OR NOT", NULL), 0);
    assert_int_equal(hits(kb, "\"paris\" *", NULL), 1);
    assert_int_equal(hits(kb, "title:paris", NULL), 0);
    assert_int_equal(hits(kb, "a-hypothesis --", NULL), 1);
    km_test_fails(km_kb_search(&found, kb, " \" * ", NULL, 0, &err), KM_EINVAL, &err, "no word");
    km_test_fails(km_kb_search(&found, kb, "\xff", NULL, 0, &err), KM_EINVAL, &err, "UTF-8");
    km_kb_close(kb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        KB_TEST(test_numbers_are_written_as_printf_does),
        KB_TEST(test_open_makes_the_schema),
        KB_TEST(test_open_refuses),
        KB_TEST(test_file_systems),
        KB_TEST(test_migrations),
        KB_TEST(test_taxonomy),
        KB_TEST(test_taxonomy_refuses),
        KB_TEST(test_records),
        KB_TEST(test_transactions),
        KB_TEST(test_chunks),
        KB_TEST(test_questions),
        KB_TEST(test_query_reads_only),
        KB_TEST(test_query_types),
        KB_TEST(test_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
