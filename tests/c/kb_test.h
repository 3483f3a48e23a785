/* kb_test.h: what the tests of the knowledge base share: a folder of one's own, a small taxonomy
 * and records, tables with every kind of cell. */
#ifndef KM_KB_TEST_H
#define KM_KB_TEST_H

#include <math.h>
#include <sys/stat.h>
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

static inline int setup(void **state) {
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

static inline int teardown(void **state) {
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

static inline km_kb *open_kb(fixture *f) {
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

static inline km_status fill(km_table *table, int64_t n, double shift, km_error *err) {
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

static inline km_table *make_table(km_ctx *ctx, int64_t n, double shift) {
    km_table *table = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_table_new(&table, ctx, specs, 4, &err), &err);
    km_test_ok(fill(table, n, shift, &err), &err);
    return table;
}

static inline void assert_same(const km_table *a, const km_table *b) {
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

static inline int64_t count(km_kb *kb, const char *sql) {
    km_error err = KM_ERROR_INIT;
    int64_t value = 0;
    bool found = false;
    km_test_ok(km__kb_scalar(&value, &found, kb, sql, NULL, NULL, &err), &err);
    return value;
}

static inline int64_t begin_run(km_kb *kb) {
    km_error err = KM_ERROR_INIT;
    int64_t run = 0;
    km_test_ok(km_kb_begin_run(&run, kb, tiny_run, strlen(tiny_run), &err), &err);
    return run;
}

static inline km_kb *open_with_taxonomy(fixture *f) {
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_kb(f);
    km_test_ok(km_kb_load_taxonomy(kb, tiny_taxonomy, strlen(tiny_taxonomy), &err), &err);
    return kb;
}

static inline void write_file(const char *path, const void *data, size_t n) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    fclose(file);
}

static inline void raw_sql(const char *path, const char *sql) {
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static inline int64_t hits(km_kb *kb, const char *text, const char *kind) {
    km_error err = KM_ERROR_INIT;
    km_table *found = NULL;
    km_test_ok(km_kb_search(&found, kb, text, kind, 0, &err), &err);
    int64_t n = km_table_rows(found);
    km_table_free(found);
    return n;
}

#define KB_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
