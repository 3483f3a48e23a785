/* query.c: SQL from the user, limited to reading, and its rows as a table.
 *
 * Three fences, each enough by itself for what it covers: the statement must be one that SQLite
 * calls read-only; an authorizer refuses everything but reading, functions and harmless pragmas
 * (ATTACH and most pragmas count as read-only for SQLite); a progress handler stops it in time or
 * on km_ctx_cancel. */

#include <stdio.h>
#include <string.h>

#include "base/ctx_private.h"
#include "base/json.h"
#include "kb_private.h"

enum { DEFAULT_TIMEOUT_MS = 60000, DEFAULT_MAX_ROWS = 1000000, PROGRESS_STEPS = 2000 };

static bool harmless_pragma(const char *name, const char *value) {
    static const char *const about_schema[] = {"table_info",      "table_xinfo", "table_list",
                                               "index_list",      "index_info",  "index_xinfo",
                                               "foreign_key_list"};
    static const char *const plain[] = {"user_version",   "application_id", "page_count",
                                        "page_size",      "journal_mode",   "encoding",
                                        "schema_version", "data_version",   "compile_options"};
    for (size_t i = 0; i < sizeof about_schema / sizeof about_schema[0]; i++) {
        if (sqlite3_stricmp(name, about_schema[i]) == 0) {
            return true;
        }
    }
    for (size_t i = 0; value == NULL && i < sizeof plain / sizeof plain[0]; i++) {
        if (sqlite3_stricmp(name, plain[i]) == 0) {
            return true;
        }
    }
    return false;
}

static int authorize(void *payload, int action, const char *a, const char *b, const char *database,
                     const char *trigger) {
    const km_kb *kb = payload;
    (void)database;
    (void)trigger;
    switch (action) {
    case SQLITE_SELECT:
    case SQLITE_READ:
    case SQLITE_RECURSIVE:
        return SQLITE_OK;
    case SQLITE_FUNCTION:
        return b != NULL && (sqlite3_stricmp(b, "load_extension") == 0 ||
                             sqlite3_stricmp(b, "fts3_tokenizer") == 0)
                   ? SQLITE_DENY
                   : SQLITE_OK;
    case SQLITE_PRAGMA:
        return a != NULL && harmless_pragma(a, b) ? SQLITE_OK : SQLITE_DENY;
    case SQLITE_UPDATE:
        /* SQLite asks this when a table-valued function (json_each) is first used. A true UPDATE
         * of the schema is refused as not read-only. */
        return a != NULL && strcmp(a, "sqlite_master") == 0 ? SQLITE_OK : SQLITE_DENY;
    case SQLITE_TRANSACTION:
        return kb->snapshot ? SQLITE_OK : SQLITE_DENY;
    default:
        return SQLITE_DENY;
    }
}

static int past_deadline(void *payload) {
    const km_kb *kb = payload;
    return km__now_ns() > kb->stop_ns || atomic_load(&kb->ctx->cancelled);
}

static void raise_fences(km_kb *kb, int timeout_ms) {
    int64_t ms = timeout_ms > 0 ? timeout_ms : DEFAULT_TIMEOUT_MS;
    kb->stop_ns = km__now_ns() + ms * 1000000;
    kb->user_sql = true;
    atomic_store(&kb->ctx->cancelled, false); /* meant for earlier work */
    (void)sqlite3_set_authorizer(kb->db, authorize, kb);
    sqlite3_progress_handler(kb->db, PROGRESS_STEPS, past_deadline, kb);
}

static void lower_fences(km_kb *kb) {
    (void)sqlite3_set_authorizer(kb->db, NULL, NULL);
    sqlite3_progress_handler(kb->db, 0, NULL, NULL);
    kb->user_sql = false;
}

/* ---- rows to table ---- */

/* What a column must be to hold a value; a number among texts makes the column text. */
static km_column_type wider(km_column_type a, km_column_type b) {
    if (a == b) {
        return a;
    }
    return a == KM_COLUMN_TEXT || b == KM_COLUMN_TEXT ? KM_COLUMN_TEXT : KM_COLUMN_DOUBLE;
}

static km_column_type cell_type(sqlite3_stmt *stmt, int column) {
    int type = sqlite3_column_type(stmt, column);
    return type == SQLITE_INTEGER ? KM_COLUMN_INT64
           : type == SQLITE_FLOAT ? KM_COLUMN_DOUBLE
                                  : KM_COLUMN_TEXT;
}

typedef struct column_state {
    km_column_type type;
    bool seen; /* a value that is not null */
    bool big;  /* an integer that a double cannot hold */
    char name[160];
} column_state;

static void see_row(column_state *columns, sqlite3_stmt *stmt, int n_columns) {
    const int64_t exact = (int64_t)1 << 53;
    for (int i = 0; i < n_columns; i++) {
        if (sqlite3_column_type(stmt, i) == SQLITE_NULL) {
            continue;
        }
        km_column_type type = cell_type(stmt, i);
        columns[i].type = columns[i].seen ? wider(columns[i].type, type) : type;
        columns[i].seen = true;
        if (type == KM_COLUMN_INT64) {
            int64_t value = sqlite3_column_int64(stmt, i);
            columns[i].big = columns[i].big || value > exact || value < -exact;
        }
    }
}

/* Columns without any value take the type they were declared with. */
static void settle_type(column_state *column, sqlite3_stmt *stmt, int i) {
    const char *declared = sqlite3_column_decltype(stmt, i);
    if (!column->seen) {
        column->type = KM_COLUMN_TEXT;
        if (declared != NULL && sqlite3_stricmp(declared, "INTEGER") == 0) {
            column->type = KM_COLUMN_INT64;
        } else if (declared != NULL && sqlite3_stricmp(declared, "REAL") == 0) {
            column->type = KM_COLUMN_DOUBLE;
        }
    }
    if (column->type == KM_COLUMN_DOUBLE && column->big) {
        column->type = KM_COLUMN_TEXT;
    }
}

/* Names as SQLite gives them; a name that occurred before gets a number. */
static void name_column(column_state *columns, sqlite3_stmt *stmt, int i) {
    const char *given = sqlite3_column_name(stmt, i);
    given = given == NULL || given[0] == '\0' ? "column" : given;
    snprintf(columns[i].name, sizeof columns[i].name, "%.120s", given);
    for (int copy = 2, j = 0; j < i; j++) {
        if (strcmp(columns[j].name, columns[i].name) == 0) {
            snprintf(columns[i].name, sizeof columns[i].name, "%.120s_%d", given, copy++);
            j = -1;
        }
    }
}

static km_status survey_rows(column_state *columns, km_kb *kb, sqlite3_stmt *stmt, int n_columns,
                             int64_t max_rows, km_error *err) {
    bool row = false;
    for (int64_t n = 0;; n++) {
        KM_TRY(km__kb_step(&row, kb, stmt, err));
        if (!row) {
            break;
        }
        if (n >= max_rows) {
            return KM_SET(err, KM_ERANGE, "more than %lld rows: ask for fewer (LIMIT)",
                          (long long)max_rows);
        }
        see_row(columns, stmt, n_columns);
    }
    for (int i = 0; i < n_columns; i++) {
        settle_type(&columns[i], stmt, i);
        name_column(columns, stmt, i);
    }
    (void)sqlite3_reset(stmt);
    return KM_OK;
}

static km_status make_table(km_table **out, km_kb *kb, const column_state *columns, int n_columns,
                            km_error *err) {
    void *memory = NULL;
    KM_TRY(km_alloc_array(&memory, kb->ctx, n_columns, sizeof(km_column_spec), err));
    km_column_spec *specs = memory;
    for (int i = 0; i < n_columns; i++) {
        specs[i] = (km_column_spec){columns[i].name, columns[i].type, "", ""};
    }
    km_status status = km_table_new(out, kb->ctx, specs, n_columns, err);
    km_free(kb->ctx, memory);
    return status;
}

/* Blobs and texts that are not UTF-8 (SQLite does not check) become hexadecimal text. */
static km_status set_bytes(km_table *table, km_kb *kb, int column, sqlite3_stmt *stmt,
                           km_error *err) {
    static const char hex[] = "0123456789abcdef";
    bool blob = sqlite3_column_type(stmt, column) == SQLITE_BLOB;
    const unsigned char *data =
        blob ? sqlite3_column_blob(stmt, column) : sqlite3_column_text(stmt, column);
    size_t n = (size_t)sqlite3_column_bytes(stmt, column);
    n = data == NULL ? 0 : n;
    if (!blob && km_utf8_valid((const char *)data, n)) {
        return km_table_set_text(table, column, data == NULL ? "" : (const char *)data, (int64_t)n,
                                 err);
    }
    void *memory = NULL;
    KM_TRY(km_alloc(&memory, kb->ctx, 2 * n + 1, err));
    char *text = memory;
    for (size_t i = 0; i < n; i++) {
        text[2 * i] = hex[data[i] >> 4];
        text[2 * i + 1] = hex[data[i] & 15];
    }
    km_status status = km_table_set_text(table, column, text, (int64_t)(2 * n), err);
    km_free(kb->ctx, memory);
    return status;
}

static km_status set_cell(km_table *table, km_kb *kb, int column, sqlite3_stmt *stmt,
                          km_error *err) {
    if (sqlite3_column_type(stmt, column) == SQLITE_NULL) {
        return KM_OK;
    }
    km_column_type type = km_table_spec(table, column)->type;
    km_column_type have = cell_type(stmt, column);
    if (wider(type, have) != type) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "the statement gives other values each time it runs; store them first");
    }
    switch (type) {
    case KM_COLUMN_INT64:
        return km_table_set_int64(table, column, sqlite3_column_int64(stmt, column), err);
    case KM_COLUMN_DOUBLE:
        return km_table_set_double(table, column, sqlite3_column_double(stmt, column), err);
    default:
        return set_bytes(table, kb, column, stmt, err);
    }
}

static km_status fill_rows(km_table *table, km_kb *kb, sqlite3_stmt *stmt, int64_t max_rows,
                           km_error *err) {
    bool row = false;
    for (;;) {
        KM_TRY(km__kb_step(&row, kb, stmt, err));
        if (!row) {
            return KM_OK;
        }
        if (km_table_rows(table) >= max_rows) {
            return KM_SET(err, KM_ERANGE, "more than %lld rows", (long long)max_rows);
        }
        KM_TRY(km_table_add_row(table, err));
        for (int i = 0; i < km_table_columns(table); i++) {
            KM_TRY(set_cell(table, kb, i, stmt, err));
        }
    }
}

/* Both passes must see the same state of the file: a read transaction, unless one is open. */
static km_status begin_snapshot(km_kb *kb, km_error *err) {
    if (!sqlite3_get_autocommit(kb->db)) {
        return KM_OK;
    }
    kb->snapshot = true;
    km_status status = km__kb_exec(kb, "BEGIN", err);
    kb->snapshot = status == KM_OK;
    return status;
}

static void end_snapshot(km_kb *kb) {
    if (kb->snapshot) {
        (void)sqlite3_exec(kb->db, "ROLLBACK", NULL, NULL, NULL);
    }
    if (!sqlite3_get_autocommit(kb->db) && kb->snapshot) {
        /* The deadline can stop a ROLLBACK too. */
        sqlite3_progress_handler(kb->db, 0, NULL, NULL);
        (void)sqlite3_exec(kb->db, "ROLLBACK", NULL, NULL, NULL);
    }
    kb->snapshot = false;
}

km_status km__kb_collect(km_table **out, km_kb *kb, sqlite3_stmt *stmt, int64_t max_rows,
                         km_error *err) {
    km_status status = KM_OK;
    void *columns = NULL;
    km_table *table = NULL;
    int n_columns = sqlite3_column_count(stmt);
    if (n_columns < 1) {
        return KM_SET(err, KM_EINVAL, "the statement gives no columns");
    }
    KM_TRY(begin_snapshot(kb, err));
    KM_GO(km_alloc_array(&columns, kb->ctx, n_columns, sizeof(column_state), err));
    KM_GO(survey_rows(columns, kb, stmt, n_columns, max_rows, err));
    KM_GO(make_table(&table, kb, columns, n_columns, err));
    KM_GO(fill_rows(table, kb, stmt, max_rows, err));
    *out = table;
    table = NULL;
done:
    (void)sqlite3_reset(stmt);
    end_snapshot(kb);
    km_table_free(table);
    km_free(kb->ctx, columns);
    return status;
}

/* ---- parameters ---- */

static km_status bind_parameter(km_kb *kb, sqlite3_stmt *stmt, int index, const json_t *value,
                                km_error *err) {
    switch (json_typeof(value)) {
    case JSON_NULL:
        return km__kb_bind_text(kb, stmt, index, NULL, 0, err);
    case JSON_STRING:
        return km__kb_bind_text(kb, stmt, index, json_string_value(value),
                                (int64_t)json_string_length(value), err);
    case JSON_INTEGER:
        return km__kb_bind_int(kb, stmt, index, json_integer_value(value), err);
    case JSON_TRUE:
    case JSON_FALSE:
        return km__kb_bind_int(kb, stmt, index, json_is_true(value), err);
    case JSON_REAL: {
        int rc = sqlite3_bind_double(stmt, index, json_real_value(value));
        return rc == SQLITE_OK ? KM_OK : km__kb_error(kb, rc, "binding a number", err);
    }
    default:
        return KM_SET(err, KM_EINVAL, "parameter %d must be a number, a text or null", index);
    }
}

/* A named parameter's value: SQL writes ":node", "@node" or "$node", the user "node". */
static km_status bind_parameters(km_kb *kb, sqlite3_stmt *stmt, const json_t *values,
                                 km_error *err) {
    int n = sqlite3_bind_parameter_count(stmt);
    size_t n_given = json_is_array(values) ? json_array_size(values) : json_object_size(values);
    size_t n_used = 0;
    for (int i = 1; i <= n; i++) {
        const char *name = sqlite3_bind_parameter_name(stmt, i);
        const json_t *value = json_is_array(values) ? json_array_get(values, (size_t)i - 1)
                              : name != NULL        ? json_object_get(values, name + 1)
                                                    : NULL;
        if (value == NULL) {
            return KM_SET(err, KM_EINVAL, "parameter %d (%s) has no value", i,
                          name == NULL ? "?" : name);
        }
        KM_TRY(bind_parameter(kb, stmt, i, value, err));
        n_used++;
    }
    if (n_used != n_given) {
        return KM_SET(err, KM_EINVAL, "%zu parameters given where the statement takes %d", n_given,
                      n);
    }
    return KM_OK;
}

static km_status parse_parameters(json_t **out, const char *json, km_error *err) {
    const char *text = json == NULL ? "[]" : json;
    km_status status = km_json_parse(out, text, strlen(text), err);
    if (status != KM_OK) {
        km_error_prefix(err, "parameters");
    }
    return status;
}

/* One statement that reads; anything after it must be blanks or comments. */
static km_status prepare_reading(sqlite3_stmt **out, km_kb *kb, const char *sql, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL, *more = NULL;
    const char *tail = NULL;
    int rc = sqlite3_prepare_v2(kb->db, sql, -1, &stmt, &tail);
    if (rc != SQLITE_OK) {
        return km__kb_error(kb, rc, "SQL", err);
    }
    if (stmt == NULL) {
        KM_FAIL(err, KM_EINVAL, "SQL: there is no statement");
    }
    if (sqlite3_prepare_v2(kb->db, tail, -1, &more, NULL) != SQLITE_OK || more != NULL) {
        KM_FAIL(err, KM_EINVAL, "SQL: one statement at a time");
    }
    if (!sqlite3_stmt_readonly(stmt)) {
        KM_FAIL(err, KM_EINVAL, "SQL: only reading is allowed here");
    }
    *out = stmt;
    stmt = NULL;
done:
    sqlite3_finalize(more);
    sqlite3_finalize(stmt);
    return status;
}

km_status km_kb_query(km_table **out, km_kb *kb, const char *sql, const char *params_json,
                      int timeout_ms, int64_t max_rows, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    json_t *params = NULL;
    *out = NULL;
    KM_TRY(km__kb_ready(kb, err));
    KM_TRY(parse_parameters(&params, params_json, err));
    raise_fences(kb, timeout_ms);
    KM_GO(prepare_reading(&stmt, kb, sql, err));
    KM_GO(bind_parameters(kb, stmt, params, err));
    KM_GO(km__kb_collect(out, kb, stmt, max_rows > 0 ? max_rows : DEFAULT_MAX_ROWS, err));
done:
    sqlite3_finalize(stmt);
    lower_fences(kb);
    json_decref(params);
    return status;
}
