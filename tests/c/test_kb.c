/* test_kb.c: the knowledge base: opening, migrating, recording, asking, searching, and what it does
 * with full disks, read-only folders, foreign, newer, damaged and hostile files. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <math.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kb_private.h"
#include "km_test.h"

static const char tiny_taxonomy[] =
    "{\"version\":1,\"about\":\"test\",\"nodes\":["
    "{\"id\":\"root\",\"parent\":null,\"name\":\"Root\",\"kind\":\"aspect\",\"summary\":\"All of "
    "it\",\"evidence\":\"paper\",\"survey_section\":\"1\"},"
    "{\"id\":\"memorization\",\"parent\":\"root\",\"name\":\"Memorization\",\"kind\":\"mechanism\","
    "\"summary\":\"Recalling facts\",\"evidence\":\"paper\",\"survey_section\":null},"
    "{\"id\":\"hyp\",\"parent\":\"memorization\",\"name\":\"A hypothesis\",\"kind\":\"hypothesis\","
    "\"summary\":\"Modules\",\"evidence\":\"paper\",\"survey_section\":null},"
    "{\"id\":\"other\",\"parent\":\"root\",\"name\":\"Other\",\"kind\":\"phenomenon\","
    "\"summary\":\"Else\",\"evidence\":\"seed\",\"survey_section\":null}],"
    "\"works\":[{\"key\":\"w1\",\"title\":\"Editing facts\",\"authors\":\"A\",\"year\":2024,"
    "\"venue\":\"V\",\"arxiv\":null,\"verified_by\":\"known\"}],"
    "\"edges\":[{\"work\":\"w1\",\"node\":\"hyp\",\"relation\":\"contradicts\","
    "\"evidence\":\"guess\"}],"
    "\"seed_places\":{\"w1\":[\"hyp\"]},"
    "\"measurements\":[{\"id\":\"memorization.recall\",\"module\":\"memorization\","
    "\"nodes\":[\"memorization\"],\"status\":\"available\"}]}";
static const char tiny_run[] =
    "{\"measure\":\"memorization.recall\",\"version\":1,\"parameters\":{\"k\":1},\"seed\":3}";
static const char tiny_facts[] =
    "[{\"id\":\"f1\",\"relation\":\"country_capital\",\"subject\":\"France\",\"answers\":["
    "\"Paris\"],"
    "\"source\":\"test\",\"licence\":\"CC0\"},"
    "{\"id\":\"f2\",\"relation\":\"\xE9\xA6\x96\xE9\x83\xBD\",\"subject\":"
    "\"\xE4\xB8\xAD\xE5\x8D\x8E\xE4\xBA\xBA\xE6\xB0\x91\xE5\x85\xB1\xE5\x92\x8C\xE5\x9B\xBD\","
    "\"answers\":[\"\xE5\x8C\x97\xE4\xBA\xAC\"]}]";
static const char tiny_evidence[] =
    "[{\"node\":\"memorization\",\"measure\":\"memorization.recall\",\"statistic\":\"recall\","
    "\"value\":0.25,\"low\":0.1,\"high\":0.4,\"n\":40,\"unit\":\"probability\",\"baseline\":0.2}]";

/* ---- a folder of one's own ---- */

typedef struct fixture {
    km_ctx *ctx;
    char folder[64];
    char path[96];
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    f->ctx = km_test_ctx(1);
    snprintf(f->folder, sizeof f->folder, "/tmp/km_test_kb_XXXXXX");
    if (mkdtemp(f->folder) == NULL) {
        return -1;
    }
    snprintf(f->path, sizeof f->path, "%s/study.db", f->folder);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    static const char *const names[] = {"study.db",    "study.db-wal", "study.db-shm",   "copy.db",
                                        "copy.db-wal", "copy.db-shm",  "copy.db-journal"};
    char path[200];
    (void)chmod(f->folder, 0700);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", f->folder, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(f->folder);
    km_ctx_free(f->ctx);
    free(f);
    return 0;
}

static km_kb *open_kb(fixture *f) {
    km_kb *kb = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_kb_open(&kb, f->ctx, f->path, NULL, &err), &err);
    return kb;
}

static const km_column_spec specs[] = {
    {"rank", KM_COLUMN_INT64, "rank", "Rank of the answer."},
    {"logprob", KM_COLUMN_DOUBLE, "nats", "Sum of log-probabilities."},
    {"exact", KM_COLUMN_BOOL, "", "Greedy recall."},
    {"fact \"x\"", KM_COLUMN_TEXT, "", "Whose name needs escaping."},
};

static km_status fill(km_table *table, int64_t n, double shift, km_error *err) {
    static const double reals[] = {0.1, -1.5, 1e300, 5e-324, 1.0 / 3.0};
    for (int64_t i = 0; i < n; i++) {
        KM_TRY(km_table_add_row(table, err));
        if (i % 7 == 6) {
            continue;
        }
        KM_TRY(km_table_set_int64(table, 0, i % 5 == 4 ? INT64_MIN + i : i, err));
        double value = i % 11 == 10 ? (double)NAN : i % 13 == 12 ? -(double)INFINITY : reals[i % 5];
        KM_TRY(km_table_set_double(table, 1, value + shift, err));
        KM_TRY(km_table_set_bool(table, 2, i % 3 == 0, err));
        KM_TRY(km_table_set_text(table, 3, i % 2 == 0 ? "a\"\\\n\xE4\xB8\xAD" : "zero\0byte",
                                 i % 2 == 0 ? 7 : 9, err));
    }
    return KM_OK;
}

static km_table *make_table(km_ctx *ctx, int64_t n, double shift) {
    km_table *table = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_table_new(&table, ctx, specs, 4, &err), &err);
    km_test_ok(fill(table, n, shift, &err), &err);
    return table;
}

static void assert_same(const km_table *a, const km_table *b) {
    assert_int_equal(km_table_rows(a), km_table_rows(b));
    assert_int_equal(km_table_columns(a), km_table_columns(b));
    for (int i = 0; i < km_table_columns(a); i++) {
        const km_column_spec *sa = km_table_spec(a, i), *sb = km_table_spec(b, i);
        assert_string_equal(sa->name, sb->name);
        assert_string_equal(sa->unit, sb->unit);
        assert_string_equal(sa->description, sb->description);
        assert_int_equal(sa->type, sb->type);
        for (int64_t row = 0; row < km_table_rows(a); row++) {
            int64_t na = 0, nb = 0;
            assert_int_equal(km_table_is_null(a, i, row), km_table_is_null(b, i, row));
            assert_int_equal(km_table_int64(a, i, row), km_table_int64(b, i, row));
            assert_int_equal(km_table_bool(a, i, row), km_table_bool(b, i, row));
            double x = km_table_double(a, i, row), y = km_table_double(b, i, row);
            assert_true((isnan(x) && isnan(y)) || memcmp(&x, &y, sizeof x) == 0);
            const char *ta = km_table_text(a, i, row, &na), *tb = km_table_text(b, i, row, &nb);
            assert_int_equal(na, nb);
            assert_memory_equal(ta, tb, (size_t)na);
        }
    }
}

static int64_t count(km_kb *kb, const char *sql) {
    km_error err = KM_ERROR_INIT;
    int64_t value = 0;
    bool found = false;
    km_test_ok(km__kb_scalar(&value, &found, kb, sql, NULL, NULL, &err), &err);
    return value;
}

static int64_t begin_run(km_kb *kb) {
    km_error err = KM_ERROR_INIT;
    int64_t run = 0;
    km_test_ok(km_kb_begin_run(&run, kb, tiny_run, strlen(tiny_run), &err), &err);
    return run;
}

static km_kb *open_with_taxonomy(fixture *f) {
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_kb(f);
    km_test_ok(km_kb_load_taxonomy(kb, tiny_taxonomy, strlen(tiny_taxonomy), &err), &err);
    return kb;
}

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

static void write_file(const char *path, const void *data, size_t n) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    fclose(file);
}

static void raw_sql(const char *path, const char *sql) {
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
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
    km__kb_migration more[] = {km__kb_migrations[0],
                               {2, "ALTER TABLE works ADD COLUMN doi TEXT"},
                               {3, "CREATE TABLE broken (; "}};
    km_test_ok(km__kb_migrate(kb, more, 2, &err), &err);
    assert_int_equal(count(kb, "PRAGMA user_version"), 2);
    assert_int_equal(count(kb, "SELECT count(doi) FROM works"), 0);
    assert_int_not_equal(km__kb_migrate(kb, more, 3, &err), KM_OK);
    assert_int_equal(count(kb, "PRAGMA user_version"), 2);
    km_kb_close(kb);
    km_error_clear(&err);
    kb = NULL;
    km_test_fails(km_kb_open(&kb, f->ctx, f->path, NULL, &err), KM_EUNSUPPORTED, &err, "version 2");
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
        {"\"kind\":\"mechanism\"", "\"kind\":\"mechanics\"", "schema"},
        {"\"relation\"", "\"relatio_\"", "unknown member 'relatio_'"},
        {"\"node\":\"hyp\"", "\"node\":\"hip\"", "schema"},
        {"\"year\":2024", "\"year\":2.24", "'year' must be an integer"},
        {"\"works\":[", "\"werks\":[", "must be arrays"},
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
#define REFUSED(call, json, part) km_test_fails(call, KM_EINVAL, &err, part)
    static const char no_name[] = "{\"fingerprint\":\"x\"}";
    REFUSED(km_kb_put_model(&id, kb, no_name, strlen(no_name), &err), no_name, "'name' is missing");
    static const char bad_fact[] = "[{\"id\":\"f3\",\"relation\":\"r\",\"subject\":\"s\","
                                   "\"answers\":\"Paris\"}]";
    REFUSED(km_kb_put_facts(&id, kb, bad_fact, strlen(bad_fact), &err), bad_fact,
            "facts[0]: 'answers' must be an array");
    static const char bad_run[] =
        "{\"measure\":\"m\",\"version\":1,\"parameters\":{},\"model\":77}";
    REFUSED(km_kb_begin_run(&id, kb, bad_run, strlen(bad_run), &err), bad_run, "FOREIGN KEY");
    static const char elsewhere[] =
        "[{\"node\":\"hyp\",\"measure\":\"memorization.recall\",\"statistic\":\"s\"}]";
    REFUSED(km_kb_put_evidence(kb, run, elsewhere, strlen(elsewhere), &err), elsewhere,
            "not declared to bear");
    static const char own[] = "{\"id\":\"mine\",\"module\":\"user\",\"nodes\":[\"hyp\"]}";
    km_test_ok(km_kb_put_measure(kb, own, strlen(own), &err), &err);
    static const char unknown[] = "{\"id\":\"mine\",\"module\":\"user\",\"nodes\":[\"nope\"]}";
    REFUSED(km_kb_put_measure(kb, unknown, strlen(unknown), &err), unknown, "no node 'nope'");
    REFUSED(km_kb_finish_run(kb, run, "finished", NULL, &err), "", "ends as");
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

static void test_full_disk(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_with_taxonomy(f);
    km_table *table = make_table(f->ctx, 5000, 0.0), *back = NULL;
    int64_t run = begin_run(kb);
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA max_page_count = %d",
             (int)count(kb, "PRAGMA page_count") + 5);
    km_test_ok(km__kb_exec(kb, sql, &err), &err);
    assert_int_equal(km_kb_store_chunk(NULL, kb, run, "big", table, &err), KM_EIO);
    assert_int_equal(err.os_errno, ENOSPC);
    assert_non_null(strstr(err.message, "disk is full"));
    km_error_clear(&err);
    assert_int_equal(count(kb, "SELECT count(*) FROM chunks"), 0);
    assert_int_equal(count(kb, "SELECT count(*) FROM measurements"), 0);
    /* The same inside an outer transaction that is then given up. */
    km_test_ok(km_kb_begin(kb, &err), &err);
    begin_run(kb);
    assert_int_equal(km_kb_store_chunk(NULL, kb, run, "big", table, &err), KM_EIO);
    km_error_clear(&err);
    km_kb_rollback(kb);
    assert_int_equal(count(kb, "SELECT count(*) FROM runs"), 1);
    km_test_ok(km__kb_exec(kb, "PRAGMA max_page_count = 1000000", &err), &err);
    km_test_ok(km_kb_store_chunk(NULL, kb, run, "big", table, &err), &err);
    km_test_ok(km_kb_load_chunk(&back, kb, "big", &err), &err);
    assert_same(table, back);
    km_table_free(back);
    km_table_free(table);
    km_kb_close(kb);
}

/* ---- asking ---- */

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
    assert_int_equal(km_table_rows(t), 10);
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

static int64_t hits(km_kb *kb, const char *text, const char *kind) {
    km_error err = KM_ERROR_INIT;
    km_table *found = NULL;
    km_test_ok(km_kb_search(&found, kb, text, kind, 0, &err), &err);
    int64_t n = km_table_rows(found);
    km_table_free(found);
    return n;
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

/* ---- files that cannot be written, processes that fork ---- */

/* Run `body` in a child without root's rights; its exit code must be 0. */
static void in_child(int (*body)(fixture *f), fixture *f, bool drop_rights) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (drop_rights && getuid() == 0) {
            if (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0) {
                _exit(90);
            }
        }
        _exit(body(f));
    }
    int code = 0;
    assert_int_equal(waitpid(pid, &code, 0), pid);
    assert_true(WIFEXITED(code));
    assert_int_equal(WEXITSTATUS(code), 0);
}

static int read_read_only(fixture *f) {
    km_kb *kb = NULL;
    km_error err = KM_ERROR_INIT;
    km_kb_options options = KM_KB_OPTIONS_INIT;
    options.read_only = true;
    km_table *found = NULL;
    int64_t run = 0;
    if (km_kb_open(&kb, f->ctx, f->path, &options, &err) != KM_OK) {
        return 1;
    }
    if (km_kb_search(&found, kb, "hypothesis", NULL, 0, &err) != KM_OK ||
        km_table_rows(found) != 1) {
        return 2;
    }
    km_table_free(found);
    if (km_kb_begin_run(&run, kb, tiny_run, strlen(tiny_run), &err) != KM_EIO ||
        err.os_errno != EROFS) {
        return 3;
    }
    km_kb_close(kb);
    return 0;
}

static int refuse_wal(fixture *f) {
    km_kb *kb = NULL;
    km_error err = KM_ERROR_INIT;
    km_kb_options options = KM_KB_OPTIONS_INIT;
    options.read_only = true;
    km_status status = km_kb_open(&kb, f->ctx, f->path, &options, &err);
    return status == KM_EUNSUPPORTED && strstr(err.message, "-wal") != NULL ? 0 : 1;
}

static void test_read_only_folder(void **state) {
    fixture *f = *state;
    char wal[128];
    km_kb_close(open_with_taxonomy(f));
    assert_int_equal(chmod(f->path, 0444), 0);
    assert_int_equal(read_read_only(f), 0); /* folder still writable: leaves -shm and -wal */
    assert_int_equal(chmod(f->folder, 0555), 0);
    in_child(read_read_only, f, true);
    assert_int_equal(chmod(f->folder, 0755), 0);
    snprintf(wal, sizeof wal, "%s-shm", f->path);
    assert_int_equal(unlink(wal), 0);
    snprintf(wal, sizeof wal, "%s-wal", f->path);
    assert_int_equal(unlink(wal), 0);
    assert_int_equal(chmod(f->folder, 0555), 0); /* neither: immutable */
    in_child(read_read_only, f, true);
    assert_int_equal(chmod(f->folder, 0755), 0);
    write_file(wal, "changes", 7);
    assert_int_equal(chmod(f->folder, 0555), 0);
    in_child(refuse_wal, f, true);
}

static km_kb *inherited;

static int refuse_after_fork(fixture *f) {
    km_error err = KM_ERROR_INIT;
    int64_t run = 0;
    km_table *table = NULL;
    if (km_kb_begin_run(&run, inherited, tiny_run, strlen(tiny_run), &err) != KM_ESTATE) {
        return 1;
    }
    km_error_clear(&err);
    if (km_kb_info(&table, inherited, &err) != KM_ESTATE) {
        return 2;
    }
    km_kb_close(inherited);
    km_kb *own = NULL;
    km_error_clear(&err);
    if (km_kb_open(&own, f->ctx, f->path, NULL, &err) != KM_OK) {
        return 3;
    }
    km_kb_close(own);
    return 0;
}

static void test_fork(void **state) {
    fixture *f = *state;
    inherited = open_with_taxonomy(f);
    in_child(refuse_after_fork, f, false);
    begin_run(inherited);
    km_kb_close(inherited);
}

/* ---- allocation failures, damaged files ---- */

static km_status everything(km_ctx *ctx, km_error *err) {
    km_status status = KM_OK;
    km_kb *kb = NULL;
    km_table *table = NULL, *back = NULL;
    int64_t run = 0, n = 0;
    KM_GO(km_kb_open(&kb, ctx, ":memory:", NULL, err));
    KM_GO(km_kb_load_taxonomy(kb, tiny_taxonomy, strlen(tiny_taxonomy), err));
    KM_GO(km_kb_begin_run(&run, kb, tiny_run, strlen(tiny_run), err));
    KM_GO(km_kb_put_facts(&n, kb, tiny_facts, strlen(tiny_facts), err));
    KM_GO(km_table_new(&table, ctx, specs, 4, err));
    KM_GO(fill(table, 20, 0.0, err));
    KM_GO(km_kb_store_chunk(NULL, kb, run, "k", table, err));
    KM_GO(km_kb_load_chunk(&back, kb, "k", err));
    km_table_free(back);
    back = NULL;
    KM_GO(km_kb_put_evidence(kb, run, tiny_evidence, strlen(tiny_evidence), err));
    KM_GO(km_kb_search(&back, kb, "paris", NULL, 0, err));
    km_table_free(back);
    back = NULL;
    KM_GO(km_kb_ask(&back, kb, "evidence-on-node", NULL, err));
done:
    km_table_free(back);
    km_table_free(table);
    km_kb_close(kb);
    return status;
}

static void test_allocation_failures(void **state) {
    (void)state;
    km_test_every_allocation(everything);
}

static char *read_file(const char *path, size_t *n) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *n = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*n);
    assert_int_equal(fread(data, 1, *n, file), *n);
    fclose(file);
    return data;
}

/* Use a file for everything; each step may fail, none may crash or hang. Returns the failures. */
static int use_file(km_ctx *ctx, const char *path) {
    km_error err = KM_ERROR_INIT;
    km_kb *kb = NULL;
    km_table *t = NULL;
    int64_t run = 0;
    int failures = 0;
    if (km_kb_open(&kb, ctx, path, NULL, &err) != KM_OK) {
        assert_true(err.message[0] != '\0');
        assert_int_not_equal(err.code, KM_EINTERNAL);
        return 1;
    }
#define TRY_STEP(call)                                                                             \
    do {                                                                                           \
        km_error_clear(&err);                                                                      \
        t = NULL;                                                                                  \
        failures += (call) != KM_OK;                                                               \
        assert_true(err.code == KM_OK || err.message[0] != '\0');                                  \
        km_table_free(t);                                                                          \
    } while (0)
    TRY_STEP(km_kb_check(&t, kb, true, &err));
    TRY_STEP(km_kb_load_chunk(&t, kb, "k1", &err));
    TRY_STEP(km_kb_search(&t, kb, "memorization", NULL, 0, &err));
    TRY_STEP(km_kb_ask(&t, kb, "evidence-on-node", NULL, &err));
    TRY_STEP(km_kb_info(&t, kb, &err));
    TRY_STEP(km_kb_begin_run(&run, kb, tiny_run, strlen(tiny_run), &err));
    TRY_STEP(km_kb_load_taxonomy(kb, tiny_taxonomy, strlen(tiny_taxonomy), &err));
    km_kb_close(kb);
    return failures;
}

static void test_damaged_files(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    char copy[128];
    size_t n = 0;
    snprintf(copy, sizeof copy, "%s/copy.db", f->folder);
    km_kb *kb = open_with_taxonomy(f);
    km_table *table = make_table(f->ctx, 100, 0.0);
    km_test_ok(km_kb_store_chunk(NULL, kb, begin_run(kb), "k1", table, &err), &err);
    km_table_free(table);
    km_kb_close(kb);
    char *data = read_file(f->path, &n);
    char *bad = malloc(n);
    write_file(copy, data, n);
    assert_int_equal(use_file(f->ctx, copy), 0);
    int failed = 0;
    for (uint64_t i = 0; i < 300; i++) {
        memcpy(bad, data, n);
        size_t size = i % 3 == 0 ? km_random_below(n, 5, 1, i) : n;
        uint64_t flips = i % 3 == 0 ? 0 : 1 + km_random_below(60, 5, 2, i);
        for (uint64_t k = 0; k < flips; k++) {
            uint64_t page = km_random_below(n / 4096, 5, 3, i * 100 + k) * 4096;
            uint64_t at = page + km_random_below(i % 3 == 1 ? 64 : 4096, 5, 4, i * 100 + k);
            bad[at] = (char)km_random_below(256, 5, 5, i * 100 + k);
        }
        static const char *const suffixes[] = {"-wal", "-shm", "-journal"};
        for (int k = 0; k < 3; k++) {
            char companion[140];
            snprintf(companion, sizeof companion, "%s%s", copy, suffixes[k]);
            (void)unlink(companion);
        }
        write_file(copy, bad, size);
        failed += use_file(f->ctx, copy) > 0;
    }
    assert_true(failed > 100);
    free(bad);
    free(data);
}

/* A file made to look like ours, whose schema is something else or worse. */
static void test_hostile_schema(void **state) {
    fixture *f = *state;
    static const char *const schemas[] = {
        "CREATE TABLE nodes (id)",
        "CREATE VIEW measurements AS SELECT 1 AS chunk, 0 AS row, '{}' AS data;"
        "CREATE TABLE chunks (id, key, run, columns, n_rows, digest);"
        "INSERT INTO chunks VALUES (1, 'k1', 1, '[{}]', 1, 'x')",
        "CREATE TABLE chunks (id, key, run, columns, n_rows, digest);"
        "CREATE TABLE measurements (chunk, row, data);"
        "INSERT INTO chunks VALUES (1, 'k1', 1, '[{\"name\":\"a\",\"type\":\"int64\",\"unit\":\"\","
        "\"description\":\"\"}]', 1, "
        "'0000000000000000000000000000000000000000000000000000000000000000');"
        "INSERT INTO measurements VALUES (1, 0, '{\"a\":1e5,\"b\":2}')",
        "CREATE TABLE chunks (id, key, run, columns, n_rows, digest);"
        "INSERT INTO chunks VALUES (1, 'k1', 1, printf('%.200000c', '['), 1, "
        "'0000000000000000000000000000000000000000000000000000000000000000')",
        "CREATE TABLE meta (key, value); INSERT INTO meta VALUES (x'ff', x'00')",
        "CREATE VIEW searchable AS WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c"
        " LIMIT 100000) SELECT 'node' AS kind, x AS ref, x AS title, x AS body FROM c",
        "CREATE TABLE runs (id, measure); CREATE TRIGGER r AFTER INSERT ON runs BEGIN"
        " DELETE FROM runs; END",
    };
    for (size_t i = 0; i < sizeof schemas / sizeof schemas[0]; i++) {
        (void)unlink(f->path);
        raw_sql(f->path, schemas[i]);
        raw_sql(f->path, "PRAGMA application_id = 1802333026; PRAGMA user_version = 1");
        assert_true(use_file(f->ctx, f->path) >= 5);
    }
}

/* A file written by the first release of the schema still opens, whole. */
static void test_version_1_file(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    size_t n = 0;
    char *data = read_file(KM_TEST_DATA "/golden_data/kb_v1.db", &n);
    write_file(f->path, data, n);
    free(data);
    km_kb *kb = open_kb(f);
    assert_int_equal(count(kb, "PRAGMA user_version"), KM_KB_SCHEMA_VERSION);
    km_test_ok(km_kb_check(&t, kb, true, &err), &err);
    assert_int_equal(km_table_rows(t), 0);
    km_table_free(t);
    km_test_ok(km_kb_load_chunk(&t, kb, "k1", &err), &err);
    km_table *want = make_table(f->ctx, 50, 0.0);
    assert_same(want, t);
    km_table_free(want);
    km_table_free(t);
    assert_int_equal(hits(kb, "\xE5\x8C\x97\xE4\xBA\xAC", NULL), 1);
    km_test_ok(km_kb_ask(&t, kb, "evidence-on-node", NULL, &err), &err);
    assert_int_equal(km_table_rows(t), 1);
    km_table_free(t);
    begin_run(kb);
    km_kb_close(kb);
}

/* How tests/golden_data/kb_v1.db was made: KM_MAKE_KB_V1=path test_kb. */
static void make_version_1_file(const char *path) {
    km_error err = KM_ERROR_INIT;
    int64_t n = 0;
    fixture f = {km_test_ctx(1), "", ""};
    snprintf(f.path, sizeof f.path, "%s", path);
    km_kb *kb = open_with_taxonomy(&f);
    km_table *table = make_table(f.ctx, 50, 0.0);
    int64_t run = begin_run(kb);
    km_test_ok(km_kb_put_facts(&n, kb, tiny_facts, strlen(tiny_facts), &err), &err);
    km_test_ok(km_kb_store_chunk(NULL, kb, run, "k1", table, &err), &err);
    km_test_ok(km_kb_put_evidence(kb, run, tiny_evidence, strlen(tiny_evidence), &err), &err);
    km_test_ok(km_kb_finish_run(kb, run, "done", "key", &err), &err);
    km_table_free(table);
    km_kb_close(kb);
    km_ctx_free(f.ctx);
}

#define KB_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const char *make = getenv("KM_MAKE_KB_V1");
    if (make != NULL) {
        make_version_1_file(make);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        KB_TEST(test_open_makes_the_schema),
        KB_TEST(test_open_refuses),
        KB_TEST(test_file_systems),
        KB_TEST(test_migrations),
        KB_TEST(test_taxonomy),
        KB_TEST(test_taxonomy_refuses),
        KB_TEST(test_records),
        KB_TEST(test_transactions),
        KB_TEST(test_chunks),
        KB_TEST(test_full_disk),
        KB_TEST(test_questions),
        KB_TEST(test_query_reads_only),
        KB_TEST(test_query_types),
        KB_TEST(test_search),
        KB_TEST(test_read_only_folder),
        KB_TEST(test_fork),
        KB_TEST(test_allocation_failures),
        KB_TEST(test_damaged_files),
        KB_TEST(test_hostile_schema),
        KB_TEST(test_version_1_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
