/* test_kb_files.c: the knowledge base on a full disk, in read-only folders, after fork(), without
 * memory, on damaged and hostile files, and on files of earlier versions. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/wait.h>

#include "kb_test.h"

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

static const char tiny_freezing[] =
    "{\"model\":\"A\",\"unit\":\"{\\\"facts\\\":\\\"\\\",\\\"fingerprint\\\":"
    "\\\"a\\\",\\\"precision\\\":\\\"F32\\\",\\\"prompts\\\":\\\"\\\","
    "\\\"recipe\\\":{}}\",\"predictions\":[\"{\\\"controls\\\":[],\\\"direction\\\":"
    "\\\"above\\\",\\\"falsified_by\\\":\\\"x\\\",\\\"family\\\":\\\"exploratory\\\","
    "\\\"id\\\":\\\"p\\\",\\\"kind\\\":\\\"observation\\\",\\\"measure\\\":"
    "\\\"memorization.recall\\\",\\\"minimum_n\\\":1,\\\"n_unit\\\":\\\"\\\","
    "\\\"nodes\\\":[\\\"memorization\\\"],\\\"not_testable\\\":\\\"\\\",\\\"null\\\":0,"
    "\\\"rivals\\\":[],\\\"smallest_effect\\\":1,\\\"statement\\\":\\\"s\\\","
    "\\\"statistic\\\":\\\"t\\\",\\\"unit\\\":\\\"\\\",\\\"version\\\":1}\"]}";
/* Digests of the two texts above. */
static const char tiny_verdict[] =
    "{\"prediction\":\"970e3cb7576310fa189051d0cca68e517c5b74cb5691276f2fe646524b85b447\","
    "\"unit\":\"9e41e9f90c46f40eb954a5ba2e97679095eaccea1b8950d7eacfa1eb25dd4257\","
    "\"word\":\"inconclusive\",\"n\":3,\"rows\":\"k\"}";
static const char tiny_lineage[] =
    "[{\"child\":\"b\",\"parent\":\"a\",\"kind\":\"trained\",\"recipe\":{\"lr\":0.1}}]";

static km_status put_two_models(km_kb *kb, km_error *err) {
    static const char *const models[] = {"{\"fingerprint\":\"a\",\"name\":\"A\"}",
                                         "{\"fingerprint\":\"b\",\"name\":\"B\"}"};
    int64_t id = 0;
    KM_TRY(km_kb_put_model(&id, kb, models[0], strlen(models[0]), err));
    return km_kb_put_model(&id, kb, models[1], strlen(models[1]), err);
}

static const char tiny_edit[] =
    "{\"nodes\":[{\"id\":\"mine\",\"parent\":\"hyp\",\"name\":\"Mine\",\"kind\":\"aspect\","
    "\"summary\":\"\",\"evidence\":\"guess\"}],\"works\":[{\"key\":\"w1\",\"title\":\"Else\","
    "\"authors\":\"A\",\"verified_by\":\"me\"}],\"edges\":[{\"work\":\"w1\",\"node\":\"mine\","
    "\"relation\":\"supports\",\"evidence\":\"guess\"}],\"moves\":[{\"id\":\"other\","
    "\"parent\":\"mine\"}]}";

static km_status everything(km_ctx *ctx, km_error *err) {
    km_status status = KM_OK;
    km_kb *kb = NULL;
    km_table *table = NULL, *back = NULL;
    int64_t run = 0, n = 0;
    KM_GO(km_kb_open(&kb, ctx, ":memory:", NULL, err));
    KM_GO(km_kb_load_taxonomy(kb, tiny_taxonomy, strlen(tiny_taxonomy), err));
    KM_GO(km_kb_edit_taxonomy(&back, kb, tiny_edit, strlen(tiny_edit), err));
    km_table_free(back);
    back = NULL;
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
    KM_GO(put_two_models(kb, err));
    KM_GO(km_kb_put_lineage(&n, kb, tiny_lineage, strlen(tiny_lineage), err));
    KM_GO(km_kb_freeze(&n, kb, tiny_freezing, strlen(tiny_freezing), err));
    KM_GO(km_kb_begin_run(&run, kb, tiny_run, strlen(tiny_run), err));
    KM_GO(km_kb_put_verdict(&n, kb, run, tiny_verdict, strlen(tiny_verdict), err));
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
    TRY_STEP(km_kb_edit_taxonomy(&t, kb, tiny_edit, strlen(tiny_edit), &err));
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
        /* As a file of each version; those of the first are migrated before they are used. */
        for (int version = 1; version <= KM_KB_SCHEMA_VERSION; version++) {
            char header[96];
            snprintf(header, sizeof header,
                     "PRAGMA application_id = 1802333026; PRAGMA user_version = %d", version);
            (void)unlink(f->path);
            raw_sql(f->path, schemas[i]);
            raw_sql(f->path, header);
            int n_failed = use_file(f->ctx, f->path); /* migrating it may fail already */
            assert_true(n_failed >= 5 || (n_failed == 1 && version < KM_KB_SCHEMA_VERSION));
        }
    }
    /* A file of the first version in whose place of a new table something else stands. */
    (void)unlink(f->path);
    raw_sql(f->path, "CREATE TABLE lineage (a); PRAGMA application_id = 1802333026;"
                     "PRAGMA user_version = 1");
    assert_int_equal(use_file(f->ctx, f->path), 1);
}

static void copy_version(fixture *f, int version) {
    size_t n = 0;
    char path[300];
    snprintf(path, sizeof path, "%s/golden_data/kb_v%d.db", KM_TEST_DATA, version);
    char *data = read_file(path, &n);
    write_file(f->path, data, n);
    free(data);
}

/* Reading alone does not bring an old file up to date: it is refused and stays as it was. */
static void test_old_files_read_only(void **state) {
    fixture *f = *state;
    const km_kb_options options = {.read_only = true};
    for (int version = 1; version < KM_KB_SCHEMA_VERSION; version++) {
        km_error err = KM_ERROR_INIT;
        km_kb *kb = NULL;
        size_t n = 0, n_after = 0;
        copy_version(f, version);
        char *before = read_file(f->path, &n);
        km_test_fails(km_kb_open(&kb, f->ctx, f->path, &options, &err), KM_EUNSUPPORTED, &err,
                      "older than this km's");
        char *after = read_file(f->path, &n_after);
        assert_int_equal(n, n_after);
        assert_memory_equal(before, after, n);
        free(before);
        free(after);
        km_kb_close(open_kb(f));
        km_error_clear(&err);
        km_test_ok(km_kb_open(&kb, f->ctx, f->path, &options, &err), &err);
        assert_int_equal(count(kb, "SELECT count(*) FROM lineage"), version == 1 ? 0 : 1);
        assert_int_equal(count(kb, "SELECT count(*) FROM ledger"), 0);
        km_kb_close(kb);
    }
}

/* What the second version added; one row, in a file of that version there already. */
static void put_lineage_into(km_kb *kb) {
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    int64_t n = 0;
    km_test_ok(put_two_models(kb, &err), &err);
    km_test_ok(km_kb_put_lineage(&n, kb, tiny_lineage, strlen(tiny_lineage), &err), &err);
    km_test_ok(km_kb_ask(&t, kb, "lineage", NULL, &err), &err);
    assert_int_equal(km_table_rows(t), 1);
    km_table_free(t);
}

/* What the third version added. */
static void put_verdict_into(km_kb *kb) {
    km_error err = KM_ERROR_INIT;
    int64_t n = 0, id = 0;
    km_test_ok(km_kb_freeze(&n, kb, tiny_freezing, strlen(tiny_freezing), &err), &err);
    assert_int_equal(n, 1);
    km_test_ok(km_kb_put_verdict(&id, kb, begin_run(kb), tiny_verdict, strlen(tiny_verdict), &err),
               &err);
    assert_int_equal(count(kb, "SELECT count(*) FROM ledger WHERE word = 'inconclusive'"), 1);
}

/* Files written by each version of the schema still open, whole, and take what is new. */
static void test_old_files(void **state) {
    fixture *f = *state;
    for (int version = 1; version < KM_KB_SCHEMA_VERSION; version++) {
        km_error err = KM_ERROR_INIT;
        km_table *t = NULL;
        copy_version(f, version);
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
        put_lineage_into(kb);
        put_verdict_into(kb);
        km_kb_close(kb);
        kb = open_kb(f); /* nothing is left to migrate */
        assert_int_equal(count(kb, "SELECT count(*) FROM lineage"), 1);
        assert_int_equal(count(kb, "SELECT count(*) FROM verdicts"), 1);
        km_kb_close(kb);
    }
}

/* What a base says of itself; texts are stored once and can be found. */
static void test_accessors_and_texts(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    static const char texts[] = "[{\"id\": \"t1\", \"body\": \"call me Ishmael\"}]";
    km_kb *kb = open_kb(f);
    int64_t n = -1;
    km_test_ok(km_kb_put_texts(&n, kb, texts, strlen(texts), &err), &err);
    assert_int_equal(n, 1);
    km_test_ok(km_kb_put_texts(&n, kb, texts, strlen(texts), &err), &err);
    assert_int_equal(n, 0);
    assert_int_equal(hits(kb, "Ishmael", "text"), 1);
    assert_false(km_kb_read_only(kb));
    km_kb_close(kb);

    const km_kb_options options = {.read_only = true};
    km_test_ok(km_kb_open(&kb, f->ctx, f->path, &options, &err), &err);
    assert_string_equal(km_kb_path(kb), f->path);
    assert_non_null(km_kb_warning(kb)); /* says something on some file systems */
    assert_true(km_kb_read_only(kb));
    assert_int_equal(km_kb_put_texts(&n, kb, texts, strlen(texts), &err), KM_EIO);
    assert_int_equal(err.os_errno, EROFS);
    km_kb_close(kb);
}

/* How tests/golden_data/kb_v1.db was made when the schema was at version 1, kb_v2.db at version 2,
 * and so on to kb_v4.db (the first without lineage): KM_MAKE_KB=path test_kb_files. */
static void make_file(const char *path) {
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
    put_lineage_into(kb);
    km_table_free(table);
    km_kb_close(kb);
    km_ctx_free(f.ctx);
}

int main(void) {
    const char *make = getenv("KM_MAKE_KB");
    if (make != NULL) {
        make_file(make);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        KB_TEST(test_full_disk),
        KB_TEST(test_read_only_folder),
        KB_TEST(test_fork),
        KB_TEST(test_allocation_failures),
        KB_TEST(test_damaged_files),
        KB_TEST(test_hostile_schema),
        KB_TEST(test_old_files),
        KB_TEST(test_old_files_read_only),
        KB_TEST(test_accessors_and_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
